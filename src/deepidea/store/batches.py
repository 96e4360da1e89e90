"""Commit the results of a batch of flows: alerts, incidents, counts and position, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl
import sqlalchemy as sa

from deepidea.store import rules, sources
from deepidea.store.allow_rules import suppress
from deepidea.store.drift import BinnedFlows, count_drift
from deepidea.store.ingest import add_to_incidents, count_alerts, count_flows, insert_alerts
from deepidea.store.memory import MemoryChange, write_memory
from deepidea.store.sources import PartitionStart, Position
from deepidea.store.statements import us


@dataclass(frozen=True, slots=True)
class Committed:
    """Alerts of a batch: stored, already stored before, and stored but suppressed by an allow rule."""

    n_alerts: int
    n_duplicates: int
    n_suppressed: int


def commit(
    connection: sa.Connection,
    source: str,
    position: Position | None,
    alerts: pl.DataFrame,
    *,
    n_flows: int,
    skipped: Mapping[str, int] | None = None,
    dropped: Mapping[str, int] | None = None,
    flow_minutes: Mapping[int, int] | None = None,
    binned: Sequence[BinnedFlows] = (),
    now: datetime | None = None,
    partition: PartitionStart | None = None,
    memory: Sequence[MemoryChange] = (),
) -> Committed:
    """Store the results of a batch of flows.

    Parameters
    ----------
    connection
        In a write transaction: the batch is stored whole or not at all.
    source
        Name of the source.
    position
        Position to resume at; None leaves the stored one.
    alerts
        Alerts of the batch (:data:`deepidea.store.alert_columns.ALERT_COLUMNS`); those in the store already are only
        counted, as duplicates. ``suppressed_by`` is set by the store's allow rules.
    n_flows
        Flows in the batch.
    skipped, dropped
        Records left out, and flows or packets lost, by reason.
    flow_minutes
        Flows by minute, in microseconds: ``deepidea.detection.rates.flows_by_minute``.
    binned
        Histograms of sampled flows: ``deepidea.detection.drift.DriftMonitor``.
    now
        Time for the expiry of allow rules; default: the clock's.
    partition
        Partition of a source that several processes read: its name replaces ``source`` in position and counters.
    memory
        Changes of the state that is saved with ``position``.

    Raises
    ------
    StalePositionError
        The store does not hold the position at which the partition's batch begins; nothing was stored.
    """
    now = now or datetime.now(UTC)
    if partition is not None:
        sources.refuse_stale(connection, partition)
    new = insert_alerts(connection, suppress(alerts, rules.current(connection, now), now=now), source)
    add_to_incidents(connection, new)
    count_alerts(connection, new)
    count_flows(connection, source, flow_minutes or {}, new)  # of all partitions together
    count_drift(connection, source, binned)
    n_suppressed = new.height - new["suppressed_by"].null_count()
    done = Committed(new.height, alerts.height - new.height, n_suppressed)
    name = partition.name if partition else source
    row = {
        "name": name,
        "position": None if position is None else json.dumps(dict(position)),
        "n_flows": n_flows,
        "n_alerts": done.n_alerts,
        "n_duplicates": done.n_duplicates,
        "n_suppressed": n_suppressed,
        "updated_us": us(now),
    }
    sources.count(connection, row, skipped or {}, dropped or {})
    write_memory(connection, name, memory)
    return done
