"""Sources of flows: how far each has been read, and what came of it."""

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
"""Where a source was read up to, as JSON values; only the source that made it reads it."""


class PartitionStart(Protocol):
    """Partition that a batch is of, and the position that the store must hold for the batch to be committed."""

    @property
    def name(self) -> str:
        """Name under which the partition's position and counters are kept."""

    @property
    def after(self) -> Position | None:
        """Position before the batch."""


@dataclass(frozen=True, slots=True)
class SourceCounters:
    """Flows and alerts of a source since its beginning, and its losses by reason."""

    name: str
    n_flows: int
    n_alerts: int
    n_duplicates: int
    n_suppressed: int
    updated: datetime
    skipped: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)


def position(connection: sa.Connection, source: str) -> Position | None:
    """Return where to resume a source, None where it was never read or cannot be resumed."""
    text = connection.execute(sa.select(SOURCES.c.position).where(SOURCES.c.name == source)).scalar()
    return None if text is None else json.loads(text)


def resume(connection: sa.Connection, source: str) -> tuple[Position | None, Mapping[str, list[bytes]]]:
    """Return the position of a source, and the memory that belongs to it: entries by part."""
    return position(connection, source), read_memory(connection, source)


def refuse_stale(connection: sa.Connection, partition: PartitionStart) -> None:
    """Raise :class:`StalePositionError` where the store does not hold the position at which a batch begins."""
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
