"""Incidents of a store: filter, search, sort, page, and set their status."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict, Unpack, get_args

import sqlalchemy as sa

from deepidea.errors import DataError
from deepidea.store.alerts import SeverityName, finite, severity_name, within
from deepidea.store.feedback import Feedback, newest_id, verdict_of
from deepidea.store.findings import Finding, finding_of
from deepidea.store.grouping import listing_of
from deepidea.store.headline import finding_headline, headline
from deepidea.store.statements import (
    Condition,
    Page,
    Row,
    check_limit,
    current_id,
    decode_cursor,
    encode_cursor,
    plain_text,
    step_of,
    time_of,
    upsert,
    us,
)
from deepidea.store.tables import ALERTS, FEEDBACK, INCIDENT_ALIASES, INCIDENT_STATES, INCIDENTS

IncidentOrder = Literal["latest", "severity", "alerts", "score", "host"]
"""Orders of incidents: the latest alert first; the most urgent; the most alerts; the highest score; by host's text.
Equal ones have the latest first."""
IncidentStatus = Literal["open", "acknowledged", "closed", "false_alarm"]
VerdictFilter = Literal["none", "true_positive", "false_positive", "unsure"]

_STATUS = sa.func.coalesce(INCIDENT_STATES.c.status, "open")
_NOTE = sa.func.coalesce(INCIDENT_STATES.c.note, "")
_WITH_STATE = INCIDENTS.outerjoin(INCIDENT_STATES, INCIDENT_STATES.c.incident_id == INCIDENTS.c.incident_id)
_WITH_VERDICT = _WITH_STATE.outerjoin(
    FEEDBACK, FEEDBACK.c.feedback_id == newest_id("incident", INCIDENTS.c.incident_id)
)
_COLUMNS = [
    *INCIDENTS.columns,
    _STATUS.label("status"),
    _NOTE.label("note"),
    INCIDENT_STATES.c.changed_us,
    *(column.label(f"verdict_{column.name}") for column in FEEDBACK.columns),
]
_LATEST = ((INCIDENTS.c.last_us, -1), (INCIDENTS.c.incident_id, -1))
_ORDERS: dict[str, tuple[tuple[sa.ColumnElement[Any], int], ...]] = {
    "latest": _LATEST,
    "severity": ((INCIDENTS.c.severity, 1), *_LATEST),
    "alerts": ((INCIDENTS.c.n_alerts, -1), *_LATEST),
    "score": ((sa.func.coalesce(INCIDENTS.c.score, -1.0), -1), *_LATEST),
    "host": ((INCIDENTS.c.host, 1), *_LATEST),
}
_ALIAS = INCIDENT_ALIASES.c
_KEY_KINDS: dict[str, Any] = {"host": str, "score": (int, float)}
_HIGHEST_PORT = 65_535


class IncidentFilters(TypedDict, total=False):
    """Filters of incidents.

    Parameters
    ----------
    since, until : datetime, optional
        Bounds of the last alert's time, the latter exclusive.
    host : str, optional
        Host that the incident is grouped by.
    class_name : str, optional
    severity : int, optional
        At least this urgent: 2 matches 1 and 2.
    only : int, optional
        Exactly this severity.
    status : IncidentStatus, optional
    verdict : VerdictFilter, optional
        Latest verdict of an analyst; ``none``: has no verdict.
    search : str, optional
        Words that must all match: each a part of host, class, behaviour, evidence, id or note, ignoring case, or a
        whole address or destination port of one of its alerts.
    """

    since: datetime | None
    until: datetime | None
    host: str | None
    class_name: str | None
    severity: int | None
    only: int | None
    status: IncidentStatus | None
    verdict: VerdictFilter | None
    search: str | None


@dataclass(frozen=True, slots=True)
class Incident:
    """An incident.

    Parameters
    ----------
    headline : str
        One sentence in plain English.
    severity, severity_name
        1 (critical) to 4 (low), and its name.
    host, role
        The host that alerts are grouped by, and whether it is their ``source`` or ``target``.
    behaviours
        Behaviours of its findings, in order; empty where single flows alone made it.
    behaviour, sentence, finding
        Its finding with the highest score, the latest of several; None without findings.
    version : int
        Changes with status and note. Sent with a change, it detects a concurrent one.
    """

    incident_id: str
    headline: str
    class_name: str
    severity: int
    severity_name: SeverityName
    status: IncidentStatus
    note: str
    changed: datetime | None
    version: int
    host: str
    role: Literal["source", "target"]
    first: datetime
    last: datetime
    duration_s: float
    n_alerts: int
    n_hosts: int
    n_ports: int
    score: float | None
    behaviours: tuple[str, ...]
    behaviour: str | None
    sentence: str | None
    finding: Finding | None
    verdict: Feedback | None


@dataclass(frozen=True, slots=True)
class FullIncident:
    """An incident with its key, and its lists of hosts and ports as they are stored (JSON)."""

    incident: Incident
    incident_key: str
    hosts: str
    ports: str

    @property
    def extent(self) -> tuple[str, datetime, datetime]:
        """Key, first and last time, which select its alerts."""
        return self.incident_key, self.incident.first, self.incident.last


_PLAIN = ("incident_id", "severity", "status", "note", "host", "role", "n_alerts", "n_hosts", "n_ports", "behaviour",
          "sentence")  # fmt: skip


def incident_of(row: Row) -> Incident:
    """Return a joined row as a record."""
    first, last, changed_us = time_of(row["first_us"]), time_of(row["last_us"]), row["changed_us"]
    finding = finding_of(row["finding"], row["behaviour"])
    return Incident(
        **{name: row[name] for name in _PLAIN},
        headline=_headline_of(row, finding, first, last),
        class_name=row["class"],
        severity_name=severity_name(row["severity"]),
        changed=None if changed_us is None else time_of(changed_us),
        version=changed_us or 0,
        first=first,
        last=last,
        duration_s=(last - first).total_seconds(),
        score=finite(row["score"]),
        behaviours=tuple(json.loads(row["behaviours"] or "[]")),
        finding=finding,
        verdict=verdict_of(row),
    )


def _headline_of(row: Row, finding: Finding | None, first: datetime, last: datetime) -> str:
    listings: dict[str, Any] = {name: listing_of(row[name], row[f"n_{name}"], most=1) for name in ("hosts", "ports")}
    about = {**listings, "n_hosts": row["n_hosts"], "n_ports": row["n_ports"]}
    whose = row["class"], row["role"], row["host"]
    if finding is not None and row["sentence"]:
        return finding_headline(*whose, sentence=row["sentence"], finding=finding, **about)
    return headline(*whose, n_alerts=row["n_alerts"], first=first, last=last, **about)


def _select(*wanted: Condition) -> sa.Select[Any]:
    return sa.select(*_COLUMNS).select_from(_WITH_VERDICT).where(*wanted)


def find(
    connection: sa.Connection,
    *,
    order: IncidentOrder = "latest",
    limit: int = 100,
    after: str | None = None,
    **filters: Unpack[IncidentFilters],
) -> Page[Incident]:
    """Return a page of incidents; parameters as of :func:`find_full`."""
    page = find_full(connection, order=order, limit=limit, after=after, **filters)
    return Page(tuple(full.incident for full in page.items), page.next)


def find_full(
    connection: sa.Connection,
    *,
    order: IncidentOrder = "latest",
    limit: int = 100,
    after: str | None = None,
    **filters: Unpack[IncidentFilters],
) -> Page[FullIncident]:
    """Return a page of incidents with their lists of hosts and ports.

    Parameters
    ----------
    connection
    order
        The latest alert first, or by severity, number of alerts, score or host; equal ones the latest first.
    limit, after
        Most items, and ``next`` of the page before, which had the same order.
    filters
        :class:`IncidentFilters`; times are those of the last alert.
    """
    check_limit(limit)
    if order not in _ORDERS:
        raise DataError(f"order must be one of {', '.join(_ORDERS)}, got {order!r}")
    keys, wanted = _ORDERS[order], conditions(**filters)
    if after is not None:
        wanted.append(_behind(keys, _read_cursor(after, order)))
    columns = [column for column, _ in keys]
    sorted_by = [column.asc() if sign > 0 else column.desc() for column, sign in keys]
    query = sa.select(*columns).select_from(_WITH_STATE).where(*wanted).order_by(*sorted_by).limit(limit + 1)
    found = [tuple(row) for row in connection.execute(query)]  # keys alone: whole rows would sort slower
    items = _by_id(connection, [row[-1] for row in found[:limit]])
    following = encode_cursor([order, *found[limit - 1]]) if len(found) > limit else None
    return Page(tuple(items[row[-1]] for row in found[:limit]), following)


def latest_of_host(connection: sa.Connection, host: str, limit: int) -> list[Incident]:
    """Return the latest incidents of a host, in one query."""
    order = (INCIDENTS.c.last_us.desc(), INCIDENTS.c.incident_id.desc())
    rows = connection.execute(_select(INCIDENTS.c.host == host).order_by(*order).limit(limit)).mappings()
    return [incident_of(row) for row in rows]


def by_id(connection: sa.Connection, ids: Sequence[str]) -> list[Incident]:
    """Return incidents by present ids, the latest first."""
    found = [full.incident for full in _by_id(connection, ids).values()]
    return sorted(found, key=lambda one: (one.last, one.incident_id), reverse=True)


def _by_id(connection: sa.Connection, ids: Sequence[str]) -> dict[str, FullIncident]:
    if not ids:
        return {}
    rows = connection.execute(_select(INCIDENTS.c.incident_id.in_(ids))).mappings()
    return {row["incident_id"]: _full_of(row) for row in rows}


def _full_of(row: Row) -> FullIncident:
    return FullIncident(incident_of(row), row["incident_key"], row["hosts"], row["ports"])


def get(connection: sa.Connection, incident_id: str) -> Incident | None:
    """Return an incident, also under an earlier id of it; None where the store has none."""
    found = get_full(connection, incident_id)
    return None if found is None else found.incident


def get_full(connection: sa.Connection, incident_id: str) -> FullIncident | None:
    """Return an incident with its lists, also under an earlier id of it; None where the store has none."""
    row = connection.execute(_select(INCIDENTS.c.incident_id == current_id(incident_id))).mappings().first()
    return None if row is None else _full_of(row)


def count(connection: sa.Connection, **filters: Unpack[IncidentFilters]) -> int:
    """Return the number of incidents on all pages of :func:`find`."""
    query = sa.select(sa.func.count()).select_from(_WITH_STATE).where(*conditions(**filters))
    return connection.execute(query).scalar_one()


def find_id(connection: sa.Connection, beginning: str) -> str:
    """Return the id of the incident whose present or earlier id starts with a text.

    Raises
    ------
    DataError
        None does, or more than one.
    """
    begins = [column.startswith(beginning, autoescape=True) for column in (INCIDENTS.c.incident_id, _ALIAS.old_id)]
    present = sa.select(INCIDENTS.c.incident_id).where(begins[0]).limit(5)
    earlier = sa.select(_ALIAS.new_id).where(begins[1]).limit(5)
    found = sorted({name for query in (present, earlier) for name in connection.execute(query).scalars()})
    if len(found) != 1:
        what = f"{len(found)} or more do: {', '.join(found)}" if found else "none does"
        raise DataError(f"no single incident has an id that begins {beginning!r}: {what}")
    return str(found[0])


def set_state(connection: sa.Connection, incident_id: str, status: IncidentStatus, *, note: str = "") -> None:
    """Set status and note of an incident.

    Raises
    ------
    DataError
        The status is not one, or there is no such incident.
    """
    if status not in get_args(IncidentStatus):
        raise DataError(f"status must be one of {', '.join(get_args(IncidentStatus))}, got {status!r}")
    wanted = sa.select(INCIDENTS.c.incident_id).where(INCIDENTS.c.incident_id == current_id(incident_id))
    current = connection.execute(wanted).scalar()
    if current is None:
        raise DataError(f"no incident {incident_id!r} is in the store")
    state = {"status": status, "note": plain_text(note), "changed_us": time.time_ns() // 1000}
    upsert(connection, INCIDENT_STATES, [{"incident_id": current, **state}])


def activity(connection: sa.Connection, key: str, first: datetime, last: datetime, *, step_s: int) -> Activity:
    """Return an incident's alerts over time, and by source, in one query."""
    begin = step_of(ALERTS.c.time_us, step_s)
    suppressed = ALERTS.c.suppressed_by.is_not(None)
    query = sa.select(begin, ALERTS.c.source, suppressed, sa.func.count()).where(*within(key, us(first), us(last)))
    by_time: dict[datetime, int] = {}
    by_source: dict[str, int] = {}
    for at, source, is_suppressed, n in connection.execute(query.group_by(begin, ALERTS.c.source, suppressed)):
        by_source[source] = by_source.get(source, 0) + n
        if not is_suppressed:
            by_time[time_of(at)] = by_time.get(time_of(at), 0) + n
    ranked = sorted(by_source.items(), key=lambda pair: (-pair[1], pair[0]))
    return Activity(dict(sorted(by_time.items())), dict(ranked))


@dataclass(frozen=True, slots=True)
class Activity:
    """Alerts of an incident: by the beginning of each step that has any, and by source, suppressed ones included."""

    by_time: dict[datetime, int]
    by_source: dict[str, int]


def open_by_severity(connection: sa.Connection) -> dict[int, int]:
    """Return how many incidents are open, by severity."""
    query = sa.select(INCIDENTS.c.severity, sa.func.count()).select_from(_WITH_STATE).where(_STATUS == "open")
    rows = connection.execute(query.group_by(INCIDENTS.c.severity))
    return {int(severity): int(n) for severity, n in rows}


def severity_counts(
    connection: sa.Connection, **filters: Unpack[IncidentFilters]
) -> list[tuple[int, IncidentStatus, int, int]]:
    """Return severity, status, number of incidents and of their alerts, the most urgent first."""
    severity = INCIDENTS.c.severity
    query = sa.select(severity, _STATUS, sa.func.count(), sa.func.sum(INCIDENTS.c.n_alerts)).select_from(_WITH_STATE)
    rows = connection.execute(
        query.where(*conditions(**filters)).group_by(severity, _STATUS).order_by(severity, _STATUS)
    )
    return [(level, status, n_incidents, int(n_alerts)) for level, status, n_incidents, n_alerts in rows]


# --- filters and cursors ---------------------------------------------------------------------------------------------


def conditions(**filters: Unpack[IncidentFilters]) -> list[Condition]:
    """Return filters of incidents as conditions."""
    columns = INCIDENTS.c
    meanings: dict[str, Any] = {
        "since": lambda value: columns.last_us >= us(value),
        "until": lambda value: columns.last_us < us(value),
        "host": lambda value: columns.host == value,
        "class_name": lambda value: columns["class"] == value,
        "severity": lambda value: columns.severity <= value,
        "only": lambda value: columns.severity == value,
        "status": lambda value: value == _STATUS,
        "verdict": lambda value: sa.func.coalesce(_newest_verdict(), "none") == value,
        "search": lambda value: sa.and_(True, *map(_holds, plain_text(value).split())),
    }
    return [meanings[name](value) for name, value in filters.items() if value is not None]


def _newest_verdict() -> sa.ScalarSelect[Any]:
    """Return the latest verdict on an incident as an expression, null without one."""
    columns = FEEDBACK.c
    mine = (columns.subject == "incident") & (columns.subject_id == INCIDENTS.c.incident_id)
    newest = sa.select(columns.verdict).where(mine).order_by(columns.feedback_id.desc()).limit(1)
    return newest.correlate(INCIDENTS).scalar_subquery()


def _holds(term: str) -> Condition:
    """Return whether an incident matches a search term: in its text, or as an address or port of its alerts."""
    texts = [INCIDENTS.c[name] for name in ("host", "class", "incident_id", "behaviours", "sentence")]
    columns = (*(sa.func.coalesce(text, "") for text in texts), _NOTE)
    return sa.or_(*(column.icontains(term, autoescape=True) for column in columns), *_ends(term))


def _ends(term: str) -> list[Condition]:
    """Return conditions for a term that may be an address or port.

    The indexes of alerts are searched, as the lists in an incident are long and incomplete.
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


def _behind(keys: Sequence[tuple[sa.ColumnElement[Any], int]], values: Sequence[Any]) -> Condition:
    """Return whether a row sorts after the one with these keys.

    SQL's row comparison needs one direction for all keys, and these have two: it is spelt out key by key.
    """
    (column, sign), value = keys[0], values[0]
    further: Condition = column > value if sign > 0 else column < value
    return further if len(keys) == 1 else sa.or_(further, sa.and_(column == value, _behind(keys[1:], values[1:])))


def _read_cursor(after: str, order: str) -> list[Any]:
    kinds = [str, *([_KEY_KINDS.get(order, int)] if order != "latest" else []), int, str]
    values = decode_cursor(after, kinds)
    if values[0] != order:
        raise DataError(f"after must be the next of a page in the same order, got one of {values[0][:20]} for {order}")
    return values[1:]
