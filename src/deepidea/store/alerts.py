"""Alerts of a store: filter and page them, as records for display and as tables for sinks and exports."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict, Unpack

import polars as pl
import sqlalchemy as sa

from deepidea.errors import DataError
from deepidea.store.alert_columns import ALERT_COLUMNS, SEVERITIES
from deepidea.store.feedback import Feedback, newest_id, verdict_of, verdicts_on_alerts
from deepidea.store.findings import Finding, finding_of
from deepidea.store.statements import (
    Condition,
    Page,
    Row,
    check_limit,
    current_id,
    page_of,
    slices,
    time_of,
    us,
)
from deepidea.store.tables import ALERT_COUNTS, ALERTS, EVIDENCE, FEEDBACK, INCIDENTS, TIMES

STORED = [TIMES.get(name, name) for name in ALERT_COLUMNS if name != "features"] + ["source"]
_WITH_EVIDENCE = [*STORED, "evidence", "evidence_row"]
_READ_TYPES = {TIMES.get(name, name): pl.Int64() if name in TIMES else dtype for name, dtype in ALERT_COLUMNS.items()}
_READ_TYPES |= dict.fromkeys(("seq", "evidence", "evidence_row"), pl.Int64())

SeverityName = Literal["critical", "high", "medium", "low"]


class AlertFilters(TypedDict, total=False):
    """Filters of alerts.

    Parameters
    ----------
    since, until : datetime, optional
        Bounds of time, the latter exclusive.
    host : str, optional
        Address of either end.
    class_name, source : str, optional
        Class, and name of the source of the flow.
    severity : int, optional
        At least this urgent: 2 matches 1 and 2.
    """

    since: datetime | None
    until: datetime | None
    host: str | None
    class_name: str | None
    severity: int | None
    source: str | None


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert: its flow, the verdict of the detector, and the verdict of an analyst.

    ``behaviour``, ``role``, ``sentence`` and ``finding`` are None where the flow alone raised it.
    """

    alert_id: str
    time: datetime
    start: datetime | None
    end: datetime | None
    src_ip: str | None
    src_port: int | None
    dst_ip: str | None
    dst_port: int | None
    protocol: str | None
    community_id: str | None
    class_name: str
    label: str | None
    score: float
    anomaly: float | None
    unknown: bool | None
    severity: int
    severity_name: SeverityName
    fwd_packets: int | None
    bwd_packets: int | None
    fwd_bytes: int | None
    bwd_bytes: int | None
    model: str
    source: str
    suppressed_by: str | None
    behaviour: str | None
    role: Literal["source", "target"] | None
    sentence: str | None
    finding: Finding | None
    verdict: Feedback | None


_PLAIN = [name for name in Alert.__slots__ if name in ALERTS.c and name not in ("score", "anomaly", "model", "finding")]


def alert_of(row: Row, verdict: Feedback | None) -> Alert:
    """Return a row of the table, or of an alert table, as a record."""
    times: dict[str, Any] = {name: row[name] if name in row else _time(row[column]) for name, column in TIMES.items()}
    return Alert(
        **{name: row[name] for name in _PLAIN},
        **times,
        class_name=row["class"],
        severity_name=severity_name(row["severity"]),
        score=finite(row["score"]) or 0.0,
        anomaly=finite(row["anomaly"]),
        model=row["model"] or "",
        finding=finding_of(row["finding"], row["behaviour"]),
        verdict=verdict,
    )


def _time(stored_us: int | None) -> datetime | None:
    return None if stored_us is None else time_of(stored_us)


def severity_name(severity: int) -> SeverityName:
    """Return the name of a severity."""
    name: Any = SEVERITIES.get(severity, "low")
    return name  # type: ignore[no-any-return]


def finite(value: float | None) -> float | None:
    """Return a number, None where it is infinite or NaN, which JSON lacks."""
    return value if value is not None and math.isfinite(value) else None


def find(
    connection: sa.Connection,
    *,
    incident: str | None = None,
    suppressed: bool | None = False,
    limit: int = 100,
    after: str | None = None,
    **filters: Unpack[AlertFilters],
) -> Page[Alert]:
    """Return a page of alerts, the latest first: ids begin with the time.

    Parameters
    ----------
    connection
    incident
        Present or earlier id of an incident.
    suppressed
        False: without suppressed ones. True: suppressed ones only. None: all.
    limit, after
        Most items, and ``next`` of the page before.
    filters
        :class:`AlertFilters`.
    """
    rows = _rows(connection, [*conditions(suppressed=suppressed, **filters), *of_incident(connection, incident)],
                 STORED, limit, after)  # fmt: skip
    verdicts = verdicts_on_alerts(connection, [row["alert_id"] for row in rows[:limit]])
    alerts = [alert_of(row, verdicts.get(row["alert_id"])) for row in rows]
    return page_of(alerts, limit, lambda alert: alert.alert_id)


def of_known_incident(
    connection: sa.Connection, key: str, first: datetime, last: datetime, verdict: Feedback | None,
    *, limit: int, after: str | None = None,
) -> Page[Alert]:  # fmt: skip
    """Return a page of the alerts of an incident whose extent and verdict are known, in one query."""
    check_limit(limit)
    wanted = [*within(key, us(first), us(last)), ALERTS.c.suppressed_by.is_(None)]
    wanted += [ALERTS.c.alert_id < after] if after is not None else []
    columns = [ALERTS.c[name] for name in STORED]
    own = FEEDBACK.c.feedback_id == newest_id("alert", ALERTS.c.alert_id)
    query = sa.select(*columns, *_labelled(FEEDBACK)).select_from(ALERTS.outerjoin(FEEDBACK, own)).where(*wanted)
    rows = connection.execute(query.order_by(ALERTS.c.alert_id.desc()).limit(limit + 1)).mappings()
    return page_of([alert_of(row, verdict_of(row) or verdict) for row in rows], limit, lambda alert: alert.alert_id)


def _labelled(table: sa.Table) -> list[sa.ColumnElement[Any]]:
    return [column.label(f"verdict_{column.name}") for column in table.columns]


def strongest(
    connection: sa.Connection, key: str, first: datetime, last: datetime
) -> tuple[dict[str, Any], Feedback | None] | None:
    """Return the alert of an incident with the highest score, the latest of several, as :func:`get_row` does."""
    wanted = [*within(key, us(first), us(last)), ALERTS.c.suppressed_by.is_(None)]
    return _first(connection, wanted, ALERTS.c.score.desc(), ALERTS.c.alert_id.desc())


_STAGES = 50  # findings that a window may have raised while its evidence grew


def strongest_findings(
    connection: sa.Connection, key: str, first: datetime, last: datetime, *, limit: int
) -> tuple[list[Alert], int]:
    """Return findings of an incident, and how many it has: the strongest of each behaviour, then the other ones.

    One that goes on is raised again and again; the strongest of its window stands for all of these.
    """
    wanted = [*within(key, us(first), us(last)), ALERTS.c.suppressed_by.is_(None), ALERTS.c.behaviour.is_not(None)]
    best = (ALERTS.c.score.desc(), ALERTS.c.alert_id.desc())
    place = sa.func.row_number().over(partition_by=ALERTS.c.behaviour, order_by=best)
    columns = (*(ALERTS.c[name] for name in STORED), place.label("place"), sa.func.count().over().label("n_findings"))
    query = sa.select(*columns).where(*wanted).order_by("place", *best).limit(limit * _STAGES)
    rows = connection.execute(query).mappings().all()
    strongest: dict[tuple[Any, ...], Alert] = {}
    for alert in (alert_of(row, None) for row in rows):
        ends = alert.finding.ends if alert.finding else ()
        strongest.setdefault((alert.behaviour, *(getattr(alert, name) for name in ends)), alert)
    return list(strongest.values())[:limit], rows[0]["n_findings"] if rows else 0


def get_row(connection: sa.Connection, alert_id: str) -> tuple[dict[str, Any], Feedback | None] | None:
    """Return an alert as a row of an alert table, its features included, and its own verdict.

    None where the store has none of this id.
    """
    return _first(connection, [ALERTS.c.alert_id == alert_id])


def _first(
    connection: sa.Connection, wanted: Sequence[Condition], *order: Any
) -> tuple[dict[str, Any], Feedback | None] | None:
    columns = [*(ALERTS.c[name] for name in STORED), ALERTS.c.evidence_row, EVIDENCE.c.data, *_labelled(FEEDBACK)]
    joined = ALERTS.outerjoin(EVIDENCE, EVIDENCE.c.evidence == ALERTS.c.evidence)
    joined = joined.outerjoin(FEEDBACK, FEEDBACK.c.feedback_id == newest_id("alert", ALERTS.c.alert_id))
    query = sa.select(*columns).select_from(joined).where(*wanted).order_by(*order).limit(1)
    row = connection.execute(query).mappings().first()
    if row is None:
        return None
    data, place = row["data"], row["evidence_row"]
    features = None if data is None else zlib.decompress(data).decode().split("\n")[place]
    frame = table_of([[row[name] for name in STORED]], STORED).with_columns(features=pl.lit(features, pl.String))
    return frame.select(*ALERT_COLUMNS, "source").row(0, named=True), verdict_of(row)


def find_row(connection: sa.Connection, beginning: str) -> dict[str, Any]:
    """Return the alert whose id starts with a text, suppressed or not, as a row of an alert table.

    Raises
    ------
    DataError
        None does, or more than one.
    """
    found = table(connection, wanted=[ALERTS.c.alert_id.startswith(beginning, autoescape=True)], limit=5)
    if found.height != 1:
        ids = ", ".join(found["alert_id"])
        what = f"{found.height} or more do: {ids}" if ids else "none does; see deepidea alerts"
        raise DataError(f"no single alert has an id that begins {beginning!r}: {what}")
    return found.row(0, named=True)


def table(
    connection: sa.Connection, *, wanted: Sequence[Condition], limit: int, after: str | None = None
) -> pl.DataFrame:
    """Return alerts with their features as an alert table and their source, the latest first."""
    rows = _rows(connection, wanted, _WITH_EVIDENCE, limit, after)[:limit]
    return with_features(connection, table_of([tuple(row.values()) for row in rows], _WITH_EVIDENCE))


def find_table(
    connection: sa.Connection,
    *,
    incident: str | None = None,
    suppressed: bool | None = False,
    limit: int = 100,
    after: str | None = None,
    **filters: Unpack[AlertFilters],
) -> pl.DataFrame:
    """Return alerts as an alert table, for formats and exports; parameters as of :func:`find`."""
    wanted = [*conditions(suppressed=suppressed, **filters), *of_incident(connection, incident)]
    return table(connection, wanted=wanted, limit=limit, after=after)


def _rows(
    connection: sa.Connection, wanted: Sequence[Condition], names: Sequence[str], limit: int, after: str | None
) -> list[sa.RowMapping]:
    check_limit(limit)
    wanted = [*wanted, *([ALERTS.c.alert_id < after] if after is not None else [])]
    query = sa.select(*(ALERTS.c[name] for name in names)).where(*wanted).order_by(ALERTS.c.alert_id.desc())
    return list(connection.execute(query.limit(limit + 1)).mappings())


def conditions(*, suppressed: bool | None, **filters: Unpack[AlertFilters]) -> list[Condition]:
    """Return filters of alerts as conditions."""
    columns = ALERTS.c
    meanings: dict[str, Any] = {
        "since": lambda value: columns.time_us >= us(value),
        "until": lambda value: columns.time_us < us(value),
        "host": _has_end,
        "class_name": lambda value: columns["class"] == value,
        "severity": lambda value: columns.severity <= value,
        "source": lambda value: columns.source == value,
    }
    wanted = [meanings[name](value) for name, value in filters.items() if value is not None]
    if suppressed is not None:
        wanted.append(columns.suppressed_by.is_not(None) if suppressed else columns.suppressed_by.is_(None))
    return wanted


def _has_end(host: str) -> Condition:
    """Return whether a host is at either end."""
    # SQLite uses the indexes of both ends for a UNION, and of neither for an OR
    ends = (sa.select(ALERTS.c.seq).where(column == host) for column in (ALERTS.c.src_ip, ALERTS.c.dst_ip))
    return ALERTS.c.seq.in_(sa.union_all(*ends))


def within(key: str, first_us: int, last_us: int) -> list[Condition]:
    """Return conditions for the alerts of an incident: those of its key from its first time to its last."""
    return [ALERTS.c.incident_key == key, ALERTS.c.time_us.between(first_us, last_us)]


def of_incident(connection: sa.Connection, incident: str | None) -> list[Condition]:
    """Return conditions for the alerts of an incident, given its present or an earlier id."""
    if incident is None:
        return []
    columns = INCIDENTS.c
    query = sa.select(columns.incident_key, columns.first_us, columns.last_us)
    found = connection.execute(query.where(columns.incident_id == current_id(incident))).first()
    return [sa.false()] if found is None else within(*found)


def count_like(connection: sa.Connection, criteria: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the number of alerts that match each of several criteria: values by column of an alert table.

    One pass, over the alerts with the values that all criteria share.
    """
    if not criteria:
        return []
    each = [sa.and_(*(ALERTS.c[name] == value for name, value in of.items())) for of in criteria]
    first, *others = criteria
    same = [(name, value) for name, value in first.items() if all(of.get(name) == value for of in others)]
    shared = [ALERTS.c[name] == value for name, value in same]
    counts = [sa.func.count(sa.case((condition, 1))) for condition in each]
    query = sa.select(*counts).select_from(ALERTS).where(ALERTS.c.suppressed_by.is_(None), *shared)
    return list(connection.execute(query).one())


def classes(connection: sa.Connection) -> list[str]:
    """Return the classes of alerts, in order."""
    query = sa.select(ALERT_COUNTS.c["class"]).distinct().order_by(ALERT_COUNTS.c["class"])
    return list(connection.execute(query).scalars())


def probabilities_of(text: str | None) -> dict[str, float]:
    """Return probabilities by class, the highest first."""
    found = json.loads(text) if text else {}
    return dict(sorted(((k, v) for k, v in found.items() if v is not None), key=lambda pair: -pair[1]))


# --- tables ----------------------------------------------------------------------------------------------------------


def table_of(rows: Sequence[Sequence[Any]], names: Sequence[str]) -> pl.DataFrame:
    """Return rows of the alerts table, or of some of its columns, as an alert table."""
    types = {name: _READ_TYPES.get(name, pl.String()) for name in names}
    frame = pl.DataFrame([tuple(row) for row in rows], schema=pl.Schema(types), orient="row")
    back = {column: name for name, column in TIMES.items() if column in names}
    as_times = [pl.from_epoch(column, time_unit="us").dt.replace_time_zone("UTC") for column in back]
    return frame.with_columns(as_times).rename(back)


def with_features(connection: sa.Connection, alerts: pl.DataFrame) -> pl.DataFrame:
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


def in_order_of_time(
    connection: sa.Connection, wanted: Condition, *, limit: int, after: tuple[int, str] | None
) -> tuple[pl.DataFrame, tuple[int, str] | None]:
    """Return alerts as a table, the earliest first, and ``after`` of the following page.

    An index has an incident's alerts in this order, so each page costs the same; by id, each page would sort them all.
    """
    place = sa.tuple_(ALERTS.c.time_us, ALERTS.c.alert_id)
    later = sa.true() if after is None else (ALERTS.c.time_us >= after[0]) & (place > after)
    query = sa.select(*(ALERTS.c[name] for name in _WITH_EVIDENCE)).where(wanted, later)
    query = query.order_by(ALERTS.c.time_us, ALERTS.c.alert_id).limit(limit)
    frame = table_of(connection.execute(query).all(), _WITH_EVIDENCE)
    last = frame.select(pl.col("time").dt.timestamp("us"), "alert_id").row(-1) if frame.height == limit else None
    return with_features(connection, frame), last
