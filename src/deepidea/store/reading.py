"""What is asked of a store: alerts by filter, page by page, and what sinks are owed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl
import sqlalchemy as sa

from deepidea.errors import DataError
from deepidea.store.alert_columns import ALERT_COLUMNS
from deepidea.store.tables import (
    ALERTS,
    DELIVERIES,
    EVIDENCE,
    INCIDENT_ALIASES,
    INCIDENTS,
    TIMES,
)
from deepidea.store.writing import alerts_from, slices

_STORED = [TIMES.get(name, name) for name in ALERT_COLUMNS if name != "features"] + ["source"]
_WITH_EVIDENCE = [*_STORED, "evidence", "evidence_row"]
Condition = sa.ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of a list, and where the next ones begin.

    Parameters
    ----------
    rows
        The table.
    next
        What to ask for ``after`` these; None where they are the last ones.
    """

    rows: pl.DataFrame
    next: str | None


def us(when: datetime) -> int:
    """Return a time in microseconds since 1970."""
    return round(when.timestamp() * 1e6)


def time_of(stored_us: int) -> datetime:
    """Return the time of microseconds since 1970."""
    return datetime.fromtimestamp(stored_us / 1e6, UTC)


def alert_conditions(
    *,
    suppressed: bool | None,
    since: datetime | None = None,
    until: datetime | None = None,
    host: str | None = None,
    class_name: str | None = None,
    severity: int | None = None,
    source: str | None = None,
) -> list[Condition]:
    """Return what filters of alerts come to."""
    columns = ALERTS.c
    given: list[tuple[Any, Any]] = [
        (since, lambda: columns.time_us >= us(since)),  # type: ignore[arg-type]
        (until, lambda: columns.time_us < us(until)),  # type: ignore[arg-type]
        (host, lambda: _has_end(str(host))),
        (class_name, lambda: columns["class"] == class_name),
        (severity, lambda: columns.severity <= severity),
        (source, lambda: columns.source == source),
        (suppressed, lambda: columns.suppressed_by.is_not(None) if suppressed else columns.suppressed_by.is_(None)),
    ]
    return [made() for value, made in given if value is not None]


def _has_end(host: str) -> Condition:
    """Return whether a host is at either end: by the index of each, which SQLite does not take for an OR of them."""
    ends = (sa.select(ALERTS.c.seq).where(column == host) for column in (ALERTS.c.src_ip, ALERTS.c.dst_ip))
    return ALERTS.c.seq.in_(sa.union_all(*ends))


def read_alerts(
    connection: sa.Connection, wanted: Sequence[Condition], *, incident: str | None, limit: int, after: str | None
) -> Page:
    """Return a page of alerts, the latest first: ids begin with the time."""
    check_limit(limit)
    wanted = [*wanted, *of_incident(connection, incident)]
    if after is not None:
        wanted.append(ALERTS.c.alert_id < after)
    query = sa.select(*(ALERTS.c[name] for name in _WITH_EVIDENCE)).where(*wanted).order_by(ALERTS.c.alert_id.desc())
    table = alerts_from(connection.execute(query.limit(limit + 1)).all(), _WITH_EVIDENCE)
    rows = _with_features(connection, table.head(limit))
    return Page(rows, rows["alert_id"][-1] if table.height > limit else None)


def first_alert(connection: sa.Connection, wanted: Sequence[Condition], *order: Any) -> dict[str, Any] | None:
    """Return the first alert of an order as a row of an alert table, None where there is none."""
    query = sa.select(*(ALERTS.c[name] for name in _WITH_EVIDENCE)).where(*wanted).order_by(*order).limit(1)
    table = _with_features(connection, alerts_from(connection.execute(query).all(), _WITH_EVIDENCE))
    return table.row(0, named=True) if table.height else None


def _with_features(connection: sa.Connection, alerts: pl.DataFrame) -> pl.DataFrame:
    """Return alerts with their features unpacked, in the order of columns of an alert table."""
    features: dict[int, list[str]] = {}
    for some in slices(alerts["evidence"].unique().drop_nulls().to_list()):
        query = sa.select(EVIDENCE.c.evidence, EVIDENCE.c.data).where(EVIDENCE.c.evidence.in_(some))
        for number, data in connection.execute(query):
            features[number] = zlib.decompress(data).decode().split("\n")
    places = alerts.select("evidence", "evidence_row").iter_rows()
    texts = [features[number][row] if number in features else None for number, row in places]
    unpacked = alerts.with_columns(features=pl.Series(texts, dtype=pl.String))
    return unpacked.select(*ALERT_COLUMNS, "source")


def check_limit(limit: int) -> None:
    """Refuse a page of no rows."""
    if limit < 1:
        raise DataError(f"a page must have a row at least, however: limit={limit}")


def of_incident(connection: sa.Connection, incident: str | None) -> list[Condition]:
    """Return which alerts an incident has, also under an earlier id of it."""
    if incident is None:
        return []
    columns = INCIDENTS.c
    query = sa.select(columns.incident_key, columns.first_us, columns.last_us)
    found = connection.execute(query.where(columns.incident_id == lead(connection, incident))).first()
    if found is None:
        return [sa.false()]
    return [ALERTS.c.incident_key == found[0], ALERTS.c.time_us.between(found[1], found[2])]


def lead(connection: sa.Connection, incident_id: str) -> str:
    """Return the id that an incident has now."""
    query = sa.select(INCIDENT_ALIASES.c.new_id).where(INCIDENT_ALIASES.c.old_id == incident_id)
    return connection.execute(query).scalar() or incident_id


def read_undelivered(connection: sa.Connection, sink: str, limit: int) -> pl.DataFrame:
    """Return the first alerts that a sink has not got, without their features, which no format holds."""
    last = connection.execute(sa.select(DELIVERIES.c.last_seq).where(DELIVERIES.c.sink == sink)).scalar()
    if last is None:
        raise DataError(f"a sink must be registered before it is served, however: {sink!r} is not")
    names = [*_STORED, "seq"]
    query = sa.select(*(ALERTS.c[name] for name in names)).where(*_owed(last)).order_by(ALERTS.c.seq).limit(limit)
    return alerts_from(connection.execute(query).all(), names)


def _owed(last_seq: int) -> tuple[Condition, ...]:
    return ALERTS.c.seq > last_seq, ALERTS.c.suppressed_by.is_(None)


def count_after(connection: sa.Connection, last_seq: int, *wanted: Condition) -> int:
    """Return how many alerts are to be told behind a number."""
    query = sa.select(sa.func.count()).select_from(ALERTS).where(*_owed(last_seq), *wanted)
    return connection.execute(query).scalar_one()


def read_in_time(
    connection: sa.Connection, wanted: Condition, *, limit: int, after: tuple[int, str] | None
) -> tuple[pl.DataFrame, tuple[int, str] | None]:
    """Return alerts, the earliest first, and what to ask for after these.

    Of one incident an index has them in this order, so that each of its pages costs the same; by id, each page would
    sort all of it.
    """
    place = sa.tuple_(ALERTS.c.time_us, ALERTS.c.alert_id)
    later = sa.true() if after is None else (ALERTS.c.time_us >= after[0]) & (place > after)
    query = sa.select(*(ALERTS.c[name] for name in _WITH_EVIDENCE)).where(wanted, later)
    query = query.order_by(ALERTS.c.time_us, ALERTS.c.alert_id).limit(limit)
    table = alerts_from(connection.execute(query).all(), _WITH_EVIDENCE)
    last = table.select(pl.col("time").dt.timestamp("us"), "alert_id").row(-1) if table.height == limit else None
    return _with_features(connection, table), last
