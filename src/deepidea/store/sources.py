"""Sources of flows: how far each has been read, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

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
