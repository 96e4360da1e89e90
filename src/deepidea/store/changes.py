"""Changes of a store since some marks, for live pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from deepidea.store import engines
from deepidea.store.audit import AuditEntry, entry_of
from deepidea.store.engines import EngineState
from deepidea.store.incidents import Incident, by_id
from deepidea.store.statements import slices
from deepidea.store.tables import (
    ACTIVATIONS,
    ALERTS,
    AUDIT,
    ENGINES,
    FEEDBACK,
    INCIDENT_ALIASES,
    INCIDENT_STATES,
    INCIDENTS,
    META,
    SOURCES,
)

MOST_CHANGED = 200  # incidents that are sent one by one; of more, pages reload
_A = ALERTS.c


@dataclass(frozen=True, slots=True)
class Marks:
    """Numbers of a store that increase whenever something changes in it."""

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
    """Changes of a store since some marks.

    Parameters
    ----------
    marks
        Marks after these changes.
    n_alerts
        New alerts that no rule suppresses, by class.
    incidents
        Incidents with new alerts, status, note or verdict, the latest first.
    new
        Ids of incidents whose alerts are all new.
    replaced
        Earlier ids of changed incidents, by present id.
    too_many
        Whether more incidents have changed than are listed.
    engines
        New states of engines.
    audit
        New entries of the audit log.
    """

    marks: Marks
    n_alerts: dict[str, int]
    incidents: tuple[Incident, ...]
    new: frozenset[str]
    replaced: dict[str, list[str]]
    too_many: bool
    engines: tuple[EngineState, ...]
    audit: tuple[AuditEntry, ...]
    rules_changed: bool
    models_changed: bool
    counters_changed: bool


def marks(connection: sa.Connection) -> Marks:
    """Return the present marks."""
    highest = (_A.seq, FEEDBACK.c.feedback_id, AUDIT.c.audit_id, ACTIVATIONS.c.activation_id)
    late = (INCIDENT_STATES.c.changed_us, SOURCES.c.updated_us)
    maxima = [sa.select(sa.func.max(column)).scalar_subquery() for column in (*highest, *late)]
    version = sa.select(META.c.value).where(META.c.key == "rules_version").scalar_subquery()
    row = [int(value or 0) for value in connection.execute(sa.select(*maxima, version)).one()]
    heard = {name: at for name, at in connection.execute(sa.select(ENGINES.c.source, ENGINES.c.updated_us))}  # noqa: C416
    seq, feedback_id, audit_id, activation_id, states_us, counters_us, rules_version = row
    return Marks(seq, feedback_id, audit_id, activation_id, rules_version, states_us, counters_us, heard)


def since(connection: sa.Connection, before: Marks) -> Changes:
    """Return the changes since some marks.

    Cost: well under a millisecond without changes; else it grows with their number.
    """
    now = marks(connection)
    runs, by_class = _new_alerts(connection, before.seq) if now.seq > before.seq else ({}, {})
    touched = _touched(connection, before, now, runs)
    ids = sorted(touched)[:MOST_CHANGED]
    incidents = by_id(connection, ids)
    fresh = [name for name, at in now.engines.items() if before.engines.get(name) != at]
    return Changes(
        marks=now,
        n_alerts=by_class,
        incidents=tuple(incidents),
        new=frozenset(one.incident_id for one in incidents if touched[one.incident_id] >= one.n_alerts),
        replaced=_replaced(connection, ids),
        too_many=len(touched) > MOST_CHANGED,
        engines=tuple(engines.latest(connection, ENGINES.c.source.in_(fresh))) if fresh else (),
        audit=_audit(connection, before.audit_id) if now.audit_id > before.audit_id else (),
        rules_changed=now.rules_version != before.rules_version,
        models_changed=now.activation_id != before.activation_id,
        counters_changed=now.counters_us != before.counters_us,
    )


_Runs = dict[str, tuple[int, int, int]]


def _new_alerts(connection: sa.Connection, seq: int) -> tuple[_Runs, dict[str, int]]:
    """Return number, first and last time of new alerts by incident key, and their number by class."""
    times = (sa.func.count(), sa.func.min(_A.time_us), sa.func.max(_A.time_us))
    query = sa.select(_A.incident_key, _A["class"], *times).where(_A.seq > seq, _A.suppressed_by.is_(None))
    runs, by_class = {}, dict[str, int]()
    for key, name, n, first, last in connection.execute(query.group_by(_A.incident_key, _A["class"])):
        runs[key] = (n, first, last)
        by_class[name] = by_class.get(name, 0) + n
    return runs, by_class


def _touched(connection: sa.Connection, before: Marks, now: Marks, runs: _Runs) -> dict[str, int]:
    """Return ids of changed incidents, with the number of new alerts of their keys."""
    found: dict[str, int] = {}
    columns = INCIDENTS.c
    for keys in slices(sorted(runs)):
        query = sa.select(columns.incident_id, columns.incident_key, columns.first_us, columns.last_us)
        for incident_id, key, first, last in connection.execute(query.where(columns.incident_key.in_(keys))):
            n, begin, end = runs[key]
            if first <= end and last >= begin:
                found[incident_id] = n
    if now.states_us > before.states_us:
        states = INCIDENT_STATES.c
        stated = sa.select(states.incident_id).where(states.changed_us > before.states_us)
        found = dict.fromkeys(connection.execute(stated).scalars(), 0) | found
    if now.feedback_id > before.feedback_id:
        labelled = FEEDBACK.c
        current = sa.func.coalesce(INCIDENT_ALIASES.c.new_id, labelled.subject_id)
        joined = FEEDBACK.outerjoin(INCIDENT_ALIASES, INCIDENT_ALIASES.c.old_id == labelled.subject_id)
        labels = sa.select(current).select_from(joined)
        labels = labels.where(labelled.feedback_id > before.feedback_id, labelled.subject == "incident")
        found = dict.fromkeys(connection.execute(labels.limit(MOST_CHANGED)).scalars(), 0) | found
    return found


def _replaced(connection: sa.Connection, ids: Sequence[str]) -> dict[str, list[str]]:
    columns = INCIDENT_ALIASES.c
    found: dict[str, list[str]] = {}
    for old, new in connection.execute(sa.select(columns.old_id, columns.new_id).where(columns.new_id.in_(ids))):
        found.setdefault(new, []).append(old)
    return found


def _audit(connection: sa.Connection, after: int) -> tuple[AuditEntry, ...]:
    query = sa.select(AUDIT).where(AUDIT.c.audit_id > after).order_by(AUDIT.c.audit_id).limit(MOST_CHANGED)
    return tuple(entry_of(row) for row in connection.execute(query).mappings())
