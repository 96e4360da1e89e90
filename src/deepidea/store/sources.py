"""Sources of flows: positions, counters and losses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import sqlalchemy as sa

from deepidea.errors import StalePositionError
from deepidea.store.memory import read_memory
from deepidea.store.statements import add_up, time_of
from deepidea.store.tables import LOSSES, SOURCES

Position = Mapping[str, Any]
"""How far a source was read, as JSON values; its form is the source's own."""


class PartitionStart(Protocol):
    """Partition of a batch, and the stored position that the batch needs to be committed."""

    @property
    def name(self) -> str:
        """Name of the partition's position and counters."""

    @property
    def after(self) -> Position | None:
        """Position before the batch."""


@dataclass(frozen=True, slots=True)
class SourceCounters:
    """Total flows and alerts of a source, and its losses by reason."""

    name: str
    n_flows: int
    n_alerts: int
    n_duplicates: int
    n_suppressed: int
    updated: datetime
    skipped: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)


def position(connection: sa.Connection, source: str) -> Position | None:
    """Return the position of a source, None where it was never read or cannot be resumed."""
    text = connection.execute(sa.select(SOURCES.c.position).where(SOURCES.c.name == source)).scalar()
    return None if text is None else json.loads(text)


def resume(connection: sa.Connection, source: str) -> tuple[Position | None, Mapping[str, list[bytes]]]:
    """Return the position of a source and its memory: entries by part."""
    return position(connection, source), read_memory(connection, source)


def refuse_stale(connection: sa.Connection, partition: PartitionStart) -> None:
    """Raise :class:`StalePositionError` unless the store holds the position at which a batch begins.

    This fences a process that has lost its partition without noticing, by a long pause or a network split: the new
    owner has moved the position, so the late batch is refused and nothing is stored twice. The check and the write are
    one transaction.
    """
    stored = position(connection, partition.name)
    if stored != partition.after:
        raise StalePositionError(
            f"stale batch of {partition.name}: the store is at {stored}, the batch begins at {partition.after}; "
            "another process reads it"
        )


def count(
    connection: sa.Connection, row: Mapping[str, Any], skipped: Mapping[str, int], dropped: Mapping[str, int]
) -> None:
    """Add a batch to the counters of its source; a position of None leaves the stored one."""
    add_up(connection, SOURCES, [{key: value for key, value in row.items() if value is not None}])
    losses = [
        {"source": row["name"], "kind": kind, "reason": reason, "n": n}
        for kind, counts in (("skipped", skipped), ("dropped", dropped))
        for reason, n in counts.items()
        if n
    ]
    add_up(connection, LOSSES, losses)


def counters(connection: sa.Connection) -> list[SourceCounters]:
    """Return the counters of every source, by name."""
    of: dict[tuple[str, str], dict[str, int]] = {}
    for loss in connection.execute(sa.select(LOSSES).order_by(LOSSES.c.reason)).mappings():
        of.setdefault((loss["source"], loss["kind"]), {})[loss["reason"]] = loss["n"]
    return [
        SourceCounters(
            **{key: row[key] for key in ("name", "n_flows", "n_alerts", "n_duplicates", "n_suppressed")},
            updated=time_of(row["updated_us"]),
            skipped=of.get((row["name"], "skipped"), {}),
            dropped=of.get((row["name"], "dropped"), {}),
        )
        for row in connection.execute(sa.select(SOURCES).order_by(SOURCES.c.name)).mappings()
    ]
