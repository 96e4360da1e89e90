"""What somebody who looks into a case asks of a store: one incident or host in depth, and what has changed of late."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
import sqlalchemy as sa

from deepidea.errors import DataError
from deepidea.store.access import AuditEntry, entry_of
from deepidea.store.allow_rules import AllowRule, suppress
from deepidea.store.engines import EngineState
from deepidea.store.incidents import incident_rows
from deepidea.store.judgement import Feedback, Subject
from deepidea.store.labelled_alerts import feedback_of, incidents_of
from deepidea.store.reading import Condition, check_limit, first_alert, lead, of_incident, time_of, us
from deepidea.store.rules import PAGE_ROWS
from deepidea.store.tables import (
    ACTIVATIONS,
    ALERT_COUNTS,
    ALERTS,
    AUDIT,
    ENGINES,
    FEEDBACK,
    FLOW_COUNTS,
    INCIDENT_ALIASES,
    INCIDENT_STATES,
    INCIDENTS,
    META,
    SOURCES,
)
from deepidea.store.writing import alerts_from, slices

MOST_PEERS = 50
MOST_CHANGED = 200  # incidents that are told of one by one; beyond, whoever listens reads anew
_DAY_US = 86_400_000_000
_A = ALERTS.c
_HOST_ENDS = (_A.src_ip, _A.dst_ip)


@dataclass(frozen=True, slots=True)
class HostSummary:
    """What told alerts say of a host: times, alerts by end, and the most frequent peers, ports and classes."""

    n_as_source: int
    n_as_target: int
    first: datetime | None
    last: datetime | None
    peers: dict[str, int]
    ports: dict[str, int]
    classes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Marks:
    """Numbers of a store that go up whenever something changes in it."""

    seq: int = 0
    feedback_id: int = 0
    audit_id: int = 0
    activation_id: int = 0
    rules_version: int = 0
    states_us: int = 0
    counters_us: int = 0
    engines: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Changes:
    """What has happened in a store since some marks.

    Parameters
    ----------
    marks
        To ask for what comes after these.
    n_alerts
        New ones that no rule keeps quiet, by class.
    incidents
        Those that new alerts, a status, a note or a verdict have changed, as rows of ``Store.incidents``.
    new
        Ids of those that all of whose alerts are new.
    replaced
        Earlier ids of changed incidents, by the id that they have now.
    too_many
        Whether more incidents have changed than are told of.
    engines
        States that were told anew.
    audit
        What was done.
    """

    marks: Marks
    n_alerts: dict[str, int]
    incidents: pl.DataFrame
    new: frozenset[str]
    replaced: dict[str, list[str]]
    too_many: bool
    engines: tuple[EngineState, ...]
    audit: tuple[AuditEntry, ...]
    rules_changed: bool
    models_changed: bool
    counters_changed: bool


class StoredCases:
    """The part of a :class:`~deepidea.store.store.Store` that looks into single cases and follows changes."""

    def _transaction(self, *, writes: bool = False) -> contextlib.AbstractContextManager[sa.Connection]:
        raise NotImplementedError

    # --- one alert, incident, host -----------------------------------------------------------------------------------

    def alert(self, alert_id: str) -> dict[str, Any] | None:
        """Return one alert as a row of ``alerts``; None where the store has none of this id."""
        with self._transaction() as connection:
            return first_alert(connection, [_A.alert_id == alert_id])

    def incident_of(self, alert_id: str) -> str | None:
        """Return the incident that an alert is in; None of one that is kept quiet, or gone."""
        with self._transaction() as connection:
            return incidents_of(connection, [alert_id]).get(alert_id)

    def strongest_alert(self, incident_id: str) -> dict[str, Any] | None:
        """Return the told alert of an incident with the highest score, the latest of several."""
        with self._transaction() as connection:
            wanted = [*of_incident(connection, incident_id), _A.suppressed_by.is_(None)]
            return first_alert(connection, wanted, _A.score.desc(), _A.alert_id.desc())

    def incident_series(self, incident_id: str, *, step_s: int) -> dict[datetime, int]:
        """Return an incident's told alerts over time: by the beginning of each step that has any."""
        begin = _step(step_s)
        with self._transaction() as connection:
            wanted = [*of_incident(connection, incident_id), _A.suppressed_by.is_(None)]
            rows = connection.execute(sa.select(begin, sa.func.count()).where(*wanted).group_by(begin)).all()
        return {time_of(at): n for at, n in sorted(tuple(row) for row in rows)}

    def incident_sources(self, incident_id: str) -> dict[str, int]:
        """Return how many alerts of an incident each source gave, the most first."""
        with self._transaction() as connection:
            return _counted(connection, _A.source, [*of_incident(connection, incident_id)], MOST_PEERS)

    def count_alerts_like(self, criteria: Mapping[str, Any]) -> int:
        """Return how many told alerts have some values, by column of an alert table."""
        wanted = [_A[name] == value for name, value in criteria.items()]
        with self._transaction() as connection:
            query = sa.select(sa.func.count()).select_from(ALERTS).where(_A.suppressed_by.is_(None), *wanted)
            return connection.execute(query).scalar_one()

    def count_ruled(self, rule: AllowRule, *, incident: str | None = None) -> tuple[int, int]:
        """Return how many told alerts a rule would keep quiet, and how many of these are of an incident."""
        wanted, after, counts = _may_apply(rule), "", [0, 0]
        names = ("alert_id", "src_ip", "dst_ip", "dst_port", "class")
        while True:
            with self._transaction() as connection:
                query = sa.select(*(_A[name] for name in names)).where(*wanted, _A.alert_id > after)
                rows = connection.execute(query.order_by(_A.alert_id).limit(PAGE_ROWS)).all()
                own = of_incident(connection, incident)
                page = alerts_from(rows, names)
                if page.is_empty():
                    return counts[0], counts[1] if incident is not None else 0
                after = page["alert_id"][-1]
                ruled = suppress(page, [replace(rule, expires=None)], now=datetime.now(UTC))
                ids = ruled.filter(pl.col("suppressed_by").is_not_null())["alert_id"]
                counts[0] += len(ids)
                for some in slices(ids.to_list() if incident is not None else []):
                    query = sa.select(sa.func.count()).select_from(ALERTS).where(_A.alert_id.in_(some), *own)
                    counts[1] += connection.execute(query).scalar_one()

    def quiet_counts(self) -> dict[str, int]:
        """Return how many stored alerts each allow rule keeps quiet."""
        query = sa.select(_A.suppressed_by, sa.func.count()).where(_A.suppressed_by.is_not(None))
        with self._transaction() as connection:
            return {rule: n for rule, n in connection.execute(query.group_by(_A.suppressed_by))}  # noqa: C416  # rows

    def host(self, host: str) -> HostSummary:
        """Return what told alerts say of a host.

        Cost: it reads every alert of the host, about a second for a million.
        """
        with self._transaction() as connection:
            ends = [_end_of(connection, own, other, host) for own, other in (_HOST_ENDS, _HOST_ENDS[::-1])]
        times = [at for end in ends for at in (end.first, end.last) if at is not None]
        return HostSummary(
            n_as_source=ends[0].n,
            n_as_target=ends[1].n,
            first=min(times, default=None),
            last=max(times, default=None),
            peers=_added(ends[0].peers, ends[1].peers),
            ports=_added(ends[0].ports, ends[1].ports),
            classes=_added(ends[0].classes, ends[1].classes),
        )

    def host_series(self, host: str, since: datetime, until: datetime, *, step_s: int) -> dict[datetime, int]:
        """Return a host's told alerts over time, whichever end it is: by the beginning of each step that has any."""
        begin = _step(step_s)
        found: dict[datetime, int] = {}
        with self._transaction() as connection:
            for own in _HOST_ENDS:
                wanted = (own == host, _A.suppressed_by.is_(None), _A.time_us >= us(since), _A.time_us < us(until))
                for at, n in connection.execute(sa.select(begin, sa.func.count()).where(*wanted).group_by(begin)):
                    found[time_of(at)] = found.get(time_of(at), 0) + n
        return found

    def hosts(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        search: str = "",
        limit: int = 100,
        after: str | None = None,
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return hosts of incidents, the most urgent first, then those with the most alerts; and what comes after.

        Rows have ``host``, ``role``, ``severity`` (the worst), ``n_incidents``, ``n_alerts``, ``last``.
        """
        check_limit(limit)
        columns = INCIDENTS.c
        worst, n_alerts = sa.func.min(columns.severity), sa.func.sum(columns.n_alerts)
        given = [columns.last_us >= us(since)] if since is not None else []
        given += [columns.last_us < us(until)] if until is not None else []
        given += [columns.host.icontains(search, autoescape=True)] if search else []
        query = sa.select(columns.host, columns.role, worst, sa.func.count(), n_alerts, sa.func.max(columns.last_us))
        query = query.where(*given).group_by(columns.host, columns.role)
        if after is not None:
            query = query.having(_behind(after, worst, n_alerts, columns.host, columns.role))
        query = query.order_by(worst, n_alerts.desc(), columns.host, columns.role).limit(limit + 1)
        with self._transaction() as connection:
            rows = connection.execute(query).all()
        names = ("host", "role", "severity", "n_incidents", "n_alerts", "last")
        told = [dict(zip(names, (*row[:4], int(row[4]), time_of(row[5])), strict=True)) for row in rows[:limit]]
        last = told[-1] if len(rows) > limit else None
        key = None if last is None else [last[name] for name in ("severity", "n_alerts", "host", "role")]
        return told, None if key is None else _cursor(key)

    def alert_classes(self) -> list[str]:
        """Return the classes of told alerts, in order."""
        query = sa.select(ALERT_COUNTS.c["class"]).distinct().order_by(ALERT_COUNTS.c["class"])
        with self._transaction() as connection:
            return list(connection.execute(query).scalars())

    def oldest_time(self) -> datetime | None:
        """Return when the first alert or counted flow was, to the minute; None in an empty store."""
        earliest = (sa.select(sa.func.min(_A.time_us)), sa.select(sa.func.min(FLOW_COUNTS.c.minute_us)))
        with self._transaction() as connection:
            known = [told for query in earliest if (told := connection.execute(query).scalar()) is not None]
        return time_of(min(known)) if known else None

    # --- what people did ---------------------------------------------------------------------------------------------

    def feedback_page(
        self, *, subject: Subject | None = None, analyst: str | None = None, limit: int = 100, after: int | None = None
    ) -> tuple[list[Feedback], int | None]:
        """Return verdicts, the newest first, and what to ask for ``after`` these; None at the end."""
        check_limit(limit)
        columns = FEEDBACK.c
        wanted = [columns.subject == subject] if subject is not None else []
        wanted += [columns.analyst == analyst] if analyst is not None else []
        wanted += [columns.feedback_id < after] if after is not None else []
        query = sa.select(FEEDBACK).where(*wanted).order_by(columns.feedback_id.desc()).limit(limit + 1)
        with self._transaction() as connection:
            found = [feedback_of(dict(row)) for row in connection.execute(query).mappings()]
        return found[:limit], found[limit - 1].feedback_id if len(found) > limit else None

    def audit_of(self, subject: str, *, limit: int = 50) -> list[AuditEntry]:
        """Return what was done to a subject, the newest first."""
        query = sa.select(AUDIT).where(AUDIT.c.subject == subject).order_by(AUDIT.c.audit_id.desc()).limit(limit)
        with self._transaction() as connection:
            return [entry_of(row) for row in connection.execute(query).mappings()]

    # --- what has changed --------------------------------------------------------------------------------------------

    def marks(self) -> Marks:
        """Return where changes are to be followed from."""
        with self._transaction() as connection:
            return _marks(connection)

    def changes(self, since: Marks) -> Changes:
        """Return what has happened since some marks.

        Cost: well under a millisecond where nothing has; else it grows with what has.
        """
        with self._transaction() as connection:
            now = _marks(connection)
            runs, by_class = _new_alerts(connection, since.seq) if now.seq > since.seq else ({}, {})
            touched = _touched(connection, since, now, runs)
            ids = sorted(touched)[:MOST_CHANGED]
            rows = incident_rows(connection, INCIDENTS.c.incident_id.in_(ids), limit=MOST_CHANGED)
            fresh = [name for name, at in now.engines.items() if since.engines.get(name) != at]
            return Changes(
                marks=now,
                n_alerts=by_class,
                incidents=rows,
                new=frozenset(_all_new(rows, runs)),
                replaced=_replaced(connection, ids),
                too_many=len(touched) > MOST_CHANGED,
                engines=_engines(connection, fresh),
                audit=_audit(connection, since.audit_id) if now.audit_id > since.audit_id else (),
                rules_changed=now.rules_version != since.rules_version,
                models_changed=now.activation_id != since.activation_id,
                counters_changed=now.counters_us != since.counters_us,
            )


# --- parts of the above ----------------------------------------------------------------------------------------------


def _may_apply(rule: AllowRule) -> list[Condition]:
    """Return what all alerts have that a rule applies to, as far as the database can tell."""
    wanted: list[Condition] = [_A.suppressed_by.is_(None)]
    wanted += [_A["class"] == rule.class_name] if rule.class_name is not None else []
    for block, column in ((rule.src, _A.src_ip), (rule.dst, _A.dst_ip)):
        if block is not None and block.endswith("/32"):
            wanted.append((column == block[:-3]) | column.contains(":"))  # the same, as IPv6 writes it in many ways
    return wanted


def _step(step_s: int) -> sa.ColumnElement[int]:
    """Return the beginning of the step that an alert falls into."""
    step: sa.ColumnElement[int] = sa.literal_column(str(step_s * 1_000_000))
    return _A.time_us - _A.time_us % step


@dataclass(frozen=True, slots=True)
class _End:
    n: int
    first: datetime | None
    last: datetime | None
    peers: dict[str, int]
    ports: dict[str, int]
    classes: dict[str, int]


def _end_of(connection: sa.Connection, own: Any, other: Any, host: str) -> _End:
    """Return what alerts say of a host at one of their ends."""
    wanted = [own == host, _A.suppressed_by.is_(None)]
    told = (sa.func.count(), sa.func.min(_A.time_us), sa.func.max(_A.time_us))
    n, first, last = connection.execute(sa.select(*told).where(*wanted)).one()
    counted = [_counted(connection, column, wanted, MOST_PEERS) for column in (other, _A.dst_port, _A["class"])]
    times = [None if at is None else time_of(at) for at in (first, last)]
    return _End(n, times[0], times[1], *counted)


def _counted(connection: sa.Connection, column: Any, wanted: Sequence[Condition], most: int) -> dict[str, int]:
    n = sa.func.count()
    query = sa.select(column, n).where(*wanted, column.is_not(None)).group_by(column).order_by(n.desc(), column)
    return {str(value): count for value, count in connection.execute(query.limit(most))}


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    summed = {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}
    return dict(sorted(summed.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_PEERS])


def _behind(after: str, worst: Any, n_alerts: Any, host: Any, role: Any) -> Condition:
    severity, n, name, end = _read_cursor(after)
    same = (worst == severity) & (n_alerts == n)
    later: Condition = (
        (worst > severity)
        | ((worst == severity) & (n_alerts < n))
        | (same & (host > name))
        | (same & (host == name) & (role > end))
    )
    return later


def _cursor(key: Sequence[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def _read_cursor(after: str) -> list[Any]:
    try:
        told = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
    except (binascii.Error, ValueError):
        told = None
    is_ours = isinstance(told, list) and [type(value) for value in told] == [int, int, str, str]
    if not is_ours or any(abs(value) >= 1 << 62 for value in told[:2]):
        raise DataError(f"after must be what a page names as its next, however: it is {after[:200]!r}")
    return list(told)


def _marks(connection: sa.Connection) -> Marks:
    highest = (_A.seq, FEEDBACK.c.feedback_id, AUDIT.c.audit_id, ACTIVATIONS.c.activation_id)
    late = (INCIDENT_STATES.c.changed_us, SOURCES.c.updated_us)
    told = [sa.select(sa.func.max(column)).scalar_subquery() for column in (*highest, *late)]
    version = sa.select(META.c.value).where(META.c.key == "rules_version").scalar_subquery()
    row = [int(value or 0) for value in connection.execute(sa.select(*told, version)).one()]
    engines = {name: at for name, at in connection.execute(sa.select(ENGINES.c.source, ENGINES.c.updated_us))}  # noqa: C416
    seq, feedback_id, audit_id, activation_id, states_us, counters_us, rules_version = row
    return Marks(seq, feedback_id, audit_id, activation_id, rules_version, states_us, counters_us, engines)


_Runs = dict[str, tuple[int, int, int]]


def _new_alerts(connection: sa.Connection, seq: int) -> tuple[_Runs, dict[str, int]]:
    """Return how many told alerts are new and from when to when, by key of incident, and how many by class."""
    times = (sa.func.count(), sa.func.min(_A.time_us), sa.func.max(_A.time_us))
    query = sa.select(_A.incident_key, _A["class"], *times).where(_A.seq > seq, _A.suppressed_by.is_(None))
    runs, by_class = {}, dict[str, int]()
    for key, name, n, first, last in connection.execute(query.group_by(_A.incident_key, _A["class"])):
        runs[key] = (n, first, last)
        by_class[name] = by_class.get(name, 0) + n
    return runs, by_class


def _touched(connection: sa.Connection, since: Marks, now: Marks, runs: _Runs) -> set[str]:
    """Return ids of incidents that have changed."""
    found: set[str] = set()
    columns = INCIDENTS.c
    for keys in slices(sorted(runs)):
        query = sa.select(columns.incident_id, columns.incident_key, columns.first_us, columns.last_us)
        for incident_id, key, first, last in connection.execute(query.where(columns.incident_key.in_(keys))):
            _, begin, end = runs[key]
            if first <= end and last >= begin:
                found.add(incident_id)
    if now.states_us > since.states_us:
        states = INCIDENT_STATES.c
        found |= set(
            connection.execute(sa.select(states.incident_id).where(states.changed_us > since.states_us)).scalars()
        )
    if now.feedback_id > since.feedback_id:
        said = FEEDBACK.c
        query = sa.select(said.subject_id).where(said.feedback_id > since.feedback_id, said.subject == "incident")
        found |= {lead(connection, one) for one in connection.execute(query.limit(MOST_CHANGED)).scalars()}
    return found


def _all_new(rows: pl.DataFrame, runs: _Runs) -> list[str]:
    told = rows.select("incident_id", "incident_key", "n_alerts").iter_rows()
    return [one for one, key, n in told if key in runs and runs[key][0] >= n]


def _replaced(connection: sa.Connection, ids: Sequence[str]) -> dict[str, list[str]]:
    columns = INCIDENT_ALIASES.c
    found: dict[str, list[str]] = {}
    for old, new in connection.execute(sa.select(columns.old_id, columns.new_id).where(columns.new_id.in_(ids))):
        found.setdefault(new, []).append(old)
    return found


def _engines(connection: sa.Connection, names: Sequence[str]) -> tuple[EngineState, ...]:
    query = sa.select(ENGINES).where(ENGINES.c.source.in_(names)).order_by(ENGINES.c.source)
    return tuple(EngineState.from_json(name, time_of(at), text) for name, at, text in connection.execute(query))


def _audit(connection: sa.Connection, after: int) -> tuple[AuditEntry, ...]:
    query = sa.select(AUDIT).where(AUDIT.c.audit_id > after).order_by(AUDIT.c.audit_id).limit(MOST_CHANGED)
    return tuple(entry_of(row) for row in connection.execute(query).mappings())
