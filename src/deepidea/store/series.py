"""Counts over time, by minute, from tables that stay small however many alerts there are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from deepidea.errors import DataError
from deepidea.store.statements import between, step_of, time_of
from deepidea.store.tables import ALERT_COUNTS, ALERTS, FLOW_COUNTS

Counts = Mapping[datetime, int]
"""Numbers by the beginning of a step; steps without any have no entry."""


def alerts(
    connection: sa.Connection, since: datetime | None = None, until: datetime | None = None, *, step_s: int = 60
) -> dict[str, Counts]:
    """Return alerts over time that no rule suppresses, by class. Steps are whole minutes."""
    columns, step = ALERT_COUNTS.c, _step(ALERT_COUNTS.c.minute_us, step_s)
    query = sa.select(step, columns["class"], sa.func.sum(columns.n)).where(*between(columns.minute_us, since, until))
    found: dict[str, dict[datetime, int]] = {}
    for at, name, n in connection.execute(query.group_by(step, columns["class"]).order_by(step)):
        if n > 0:
            found.setdefault(name, {})[time_of(at)] = int(n)
    return dict(found)


def flows(
    connection: sa.Connection,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    step_s: int = 60,
    source: str | None = None,
) -> dict[str, Counts]:
    """Return ``flows`` over time, and the ``alerts`` among them, suppressed ones included, of one source or of all.

    Steps are whole minutes.
    """
    columns, step = FLOW_COUNTS.c, _step(FLOW_COUNTS.c.minute_us, step_s)
    sums = (sa.func.sum(columns.n_flows), sa.func.sum(columns.n_alerts))
    wanted = [*between(columns.minute_us, since, until), *([columns.source == source] if source is not None else [])]
    rows = connection.execute(sa.select(step, *sums).where(*wanted).group_by(step).order_by(step)).all()
    return {
        "flows": {time_of(at): int(n_flows) for at, n_flows, _ in rows},
        "alerts": {time_of(at): int(n_alerts) for at, _, n_alerts in rows},
    }


def extent(connection: sa.Connection) -> tuple[datetime | None, datetime | None]:
    """Return the times of the oldest and the newest alert or flow, of flows to the minute; None in an empty store.

    A replayed capture may be years old: windows count back from the newest time.
    """
    ends = [
        sa.select(of(column)).scalar_subquery()
        for of in (sa.func.min, sa.func.max)
        for column in (ALERTS.c.time_us, FLOW_COUNTS.c.minute_us)
    ]
    row = connection.execute(sa.select(*ends)).one()
    oldest, newest = ([at for at in pair if at is not None] for pair in (row[:2], row[2:]))
    return (time_of(min(oldest)) if oldest else None), (time_of(max(newest)) if newest else None)


def _step(column: sa.Column[Any], step_s: int) -> sa.ColumnElement[int]:
    if step_s < 60 or step_s % 60:
        raise DataError(f"step_s must be whole minutes, as counts are stored, got {step_s}")
    return step_of(column, step_s)
