"""Delivery of alerts to sinks: the last alert that each sink has received, and those it waits for."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import sqlalchemy as sa

from deepidea.errors import DataError
from deepidea.store.alerts import STORED, table_of
from deepidea.store.statements import Condition
from deepidea.store.tables import ALERTS, DELIVERIES


@dataclass(frozen=True, slots=True)
class SinkCounters:
    """Alerts of a sink: delivered, waiting, in dead letters, and deleted by retention before delivery."""

    sink: str
    n_delivered: int
    n_waiting: int
    n_dead: int
    n_lost: int


def register(connection: sa.Connection, sink: str, *, from_start: bool = False) -> None:
    """Register a sink for all alerts from now on, or from the first stored one; a known sink is unchanged."""
    if connection.execute(sa.select(DELIVERIES.c.sink).where(DELIVERIES.c.sink == sink)).first() is None:
        newest = connection.execute(sa.select(sa.func.max(ALERTS.c.seq))).scalar() or 0
        last = 0 if from_start else max(newest, 0)
        connection.execute(DELIVERIES.insert().values(sink=sink, last_seq=last))


def undelivered(connection: sa.Connection, sink: str, *, limit: int = 1000) -> pl.DataFrame:
    """Return the first alerts that a sink has not received, in the order of delivery.

    Columns are those of an alert table without ``features``, and the number ``seq``.
    """
    last = connection.execute(sa.select(DELIVERIES.c.last_seq).where(DELIVERIES.c.sink == sink)).scalar()
    if last is None:
        raise DataError(f"sink {sink!r} is not registered; register it first")
    names = [*STORED, "seq"]
    query = sa.select(*(ALERTS.c[name] for name in names)).where(*_owed(last)).order_by(ALERTS.c.seq).limit(limit)
    return table_of(connection.execute(query).all(), names)


def mark_delivered(
    connection: sa.Connection, sink: str, last_seq: int, *, n_delivered: int = 0, n_dead: int = 0
) -> None:
    """Record that a sink, or its dead letters, has received all alerts up to a number."""
    done = DELIVERIES.c
    values = {"n_delivered": done.n_delivered + n_delivered, "n_dead": done.n_dead + n_dead}
    here = DELIVERIES.update().where(done.sink == sink)  # a number never decreases: confirmations may come twice
    connection.execute(here.values(**values))
    connection.execute(here.where(done.last_seq < last_seq).values(last_seq=last_seq))


def counters(connection: sa.Connection) -> list[SinkCounters]:
    """Return the counters of each sink, by name."""
    waiting = _count_owed(DELIVERIES.c.last_seq)
    done = DELIVERIES.c
    query = sa.select(done.sink, done.n_delivered, waiting, done.n_dead, done.n_lost).order_by(done.sink)
    return [SinkCounters(*row) for row in connection.execute(query)]


def count_lost(connection: sa.Connection, deleted: Condition) -> None:
    """Count alerts that are about to be deleted as lost to the sinks that have not received them."""
    lost = _count_owed(DELIVERIES.c.last_seq, deleted)
    connection.execute(DELIVERIES.update().values(n_lost=DELIVERIES.c.n_lost + lost))


def _owed(last_seq: int | sa.ColumnElement[int]) -> tuple[Condition, ...]:
    return ALERTS.c.seq > last_seq, ALERTS.c.suppressed_by.is_(None)


def _count_owed(last_seq: sa.ColumnElement[int], *wanted: Condition) -> sa.ScalarSelect[int]:
    query = sa.select(sa.func.count()).select_from(ALERTS).where(*_owed(last_seq), *wanted)
    return query.correlate(DELIVERIES).scalar_subquery()
