"""What is asked of a store's incidents: by filter and search, in several orders, page by page."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import polars as pl
import sqlalchemy as sa

from deepidea.errors import DataError
from deepidea.store.grouping import INCIDENT_COLUMNS
from deepidea.store.reading import Condition, Page, check_limit, us
from deepidea.store.tables import ALERTS, FEEDBACK, INCIDENT_STATES, INCIDENTS

IncidentOrder = Literal["latest", "severity", "alerts", "score", "host"]
"""Orders of incidents: the latest alert first; the most urgent; the most alerts; the highest score; by host's text.
Those alike in it come the latest first."""

_STATES = {"status": pl.String(), "note": pl.String(), "changed_us": pl.Int64()}
_STATUS = sa.func.coalesce(INCIDENT_STATES.c.status, "open")
_NOTE = sa.func.coalesce(INCIDENT_STATES.c.note, "")
_JOINED = INCIDENTS.outerjoin(INCIDENT_STATES, INCIDENT_STATES.c.incident_id == INCIDENTS.c.incident_id)
_LATEST = ((INCIDENTS.c.last_us, -1), (INCIDENTS.c.incident_id, -1))
_ORDERS: dict[str, tuple[tuple[sa.ColumnElement[Any], int], ...]] = {
    "latest": _LATEST,
    "severity": ((INCIDENTS.c.severity, 1), *_LATEST),
    "alerts": ((INCIDENTS.c.n_alerts, -1), *_LATEST),
    "score": ((sa.func.coalesce(INCIDENTS.c.score, -1.0), -1), *_LATEST),
    "host": ((INCIDENTS.c.host, 1), *_LATEST),
}
_HIGHEST_PORT = 65_535


def incident_conditions(
    since: datetime | None = None,
    until: datetime | None = None,
    host: str | None = None,
    class_name: str | None = None,
    severity: int | None = None,
    status: str | None = None,
    search: str | None = None,
    only: int | None = None,
    verdict: str | None = None,
) -> list[Condition]:
    """Return what filters of incidents come to."""
    columns = INCIDENTS.c
    given: list[tuple[Any, Any]] = [
        (since, lambda: columns.last_us >= us(since)),  # type: ignore[arg-type]
        (until, lambda: columns.last_us < us(until)),  # type: ignore[arg-type]
        (host, lambda: columns.host == host),
        (class_name, lambda: columns["class"] == class_name),
        (severity, lambda: columns.severity <= severity),
        (status, lambda: status == _STATUS),
        (only, lambda: columns.severity == only),
        (verdict, lambda: sa.func.coalesce(_newest_verdict(), "none") == verdict),
    ]
    return [
        *(made() for value, made in given if value is not None),
        *map(_holds, (search or "").replace("\0", "\ufffd").split()),
    ]


def _newest_verdict() -> sa.ScalarSelect[Any]:
    """Return the verdict that holds for an incident, null where there is none."""
    said = FEEDBACK.c
    mine = (said.subject == "incident") & (said.subject_id == INCIDENTS.c.incident_id)
    newest = sa.select(said.verdict).where(mine).order_by(said.feedback_id.desc()).limit(1)
    return newest.correlate(INCIDENTS).scalar_subquery()


def _holds(term: str) -> Condition:
    """Return whether an incident tells of a term: in its own words, or as a whole address or port of its alerts."""
    columns = (INCIDENTS.c.host, INCIDENTS.c["class"], INCIDENTS.c.incident_id, _NOTE)
    told = [column.icontains(term, autoescape=True) for column in columns]
    return sa.or_(*told, *_ends(term))


def _ends(term: str) -> list[Condition]:
    """Return whether a term that may be one is the address or port of an end.

    Alerts are asked, which have an index of each end: the lists of an incident hold a thousand texts, and not all.
    """
    if term.isdecimal() and term.isascii() and len(term) <= 5 and int(term) <= _HIGHEST_PORT:
        return [_of_alerts(ALERTS.c.dst_port == int(term))]
    if "." in term or ":" in term:
        return [_of_alerts(column == term.lower()) for column in (ALERTS.c.src_ip, ALERTS.c.dst_ip)]
    return []


def _of_alerts(wanted: Condition) -> Condition:
    alerts, columns = ALERTS.c, INCIDENTS.c
    mine = alerts.time_us.between(columns.first_us, columns.last_us) & (alerts.incident_key == columns.incident_key)
    return sa.exists(sa.select(1).where(wanted, mine, alerts.suppressed_by.is_(None)).correlate(INCIDENTS))


def read_incidents(
    connection: sa.Connection,
    wanted: Sequence[Condition],
    *,
    order: IncidentOrder = "latest",
    limit: int,
    after: str | None,
) -> Page:
    """Return a page of incidents."""
    check_limit(limit)
    if order not in _ORDERS:
        raise DataError(f"order must be one of {', '.join(_ORDERS)}, however: it is {order!r}")
    keys = _ORDERS[order]
    if after is not None:
        wanted = [*wanted, _behind(keys, _read_cursor(after, order))]
    columns = [column for column, _ in keys]
    sorted_by = [column.asc() if sign > 0 else column.desc() for column, sign in keys]
    query = sa.select(*columns).select_from(_JOINED).where(*wanted).order_by(*sorted_by).limit(limit + 1)
    found = [tuple(row) for row in connection.execute(query)]  # keys alone: a sort would carry the long lists along
    rows = _in_order(connection, [row[-1] for row in found[:limit]])
    return Page(rows, _cursor(order, found[limit - 1]) if len(found) > limit else None)


def _in_order(connection: sa.Connection, ids: list[str]) -> pl.DataFrame:
    rows = incident_rows(connection, INCIDENTS.c.incident_id.in_(ids), limit=len(ids))
    return (
        pl.DataFrame({"incident_id": pl.Series(ids, dtype=pl.String)})
        .join(rows, on="incident_id", maintain_order="left")
        .select(rows.columns)
    )


def _behind(keys: Sequence[tuple[sa.ColumnElement[Any], int]], values: Sequence[Any]) -> Condition:
    """Return whether a row comes behind the one with these keys."""
    (column, sign), value = keys[0], values[0]
    further: Condition = column > value if sign > 0 else column < value
    return further if len(keys) == 1 else sa.or_(further, sa.and_(column == value, _behind(keys[1:], values[1:])))


def _cursor(order: str, keys: Sequence[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps([order, *keys], separators=(",", ":")).encode()).decode().rstrip("=")


def _read_cursor(after: str, order: str) -> list[Any]:
    try:
        told = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
    except (binascii.Error, ValueError):
        told = None
    kinds = {"host": str, "score": (int, float)}.get(order, int)
    expected = [str, *([kinds] if order != "latest" else []), int, str]
    if (
        not isinstance(told, list)
        or len(told) != len(expected)
        or told[0] != order
        or not all(isinstance(value, kind) for value, kind in zip(told, expected, strict=True))  # type: ignore[arg-type]
    ):
        raise DataError(
            f"after must be what a page names as its next in the same order, however: it is {after!r} for {order}"
        )
    return told[1:]


def count_incidents(connection: sa.Connection, wanted: Sequence[Condition]) -> int:
    """Return how many incidents there are."""
    return connection.execute(sa.select(sa.func.count()).select_from(_JOINED).where(*wanted)).scalar_one()


def incident_rows(connection: sa.Connection, *wanted: Condition, limit: int = 1) -> pl.DataFrame:
    """Return incidents with what people said of them, the latest first."""
    said = (_STATUS, _NOTE, INCIDENT_STATES.c.changed_us)
    query = sa.select(*(INCIDENTS.c[name] for name in INCIDENT_COLUMNS), *said).select_from(_JOINED).where(*wanted)
    query = query.order_by(INCIDENTS.c.last_us.desc(), INCIDENTS.c.incident_id.desc()).limit(limit)
    rows = [tuple(row) for row in connection.execute(query)]
    table = pl.DataFrame(rows, schema=pl.Schema({**INCIDENT_COLUMNS, **_STATES}), orient="row")
    times = ("first_us", "last_us", "changed_us")
    as_times = [pl.from_epoch(name, time_unit="us").dt.replace_time_zone("UTC") for name in times]
    return table.with_columns(as_times).rename({name: name.removesuffix("_us") for name in times})
