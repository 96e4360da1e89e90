"""What a source of flows is: batches of flows with their identities, and a place to go on from after a restart."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import polars as pl

from deepidea.store.memory import MemoryChange

LINGER_S = 0.2  # a live source hands over what it has at least this often
BATCH_FLOWS = 8_192  # and at most so many flows at once

Position = Mapping[str, Any]
"""Where a source stood, as JSON values; only the source that made it reads it."""


@dataclass(frozen=True, slots=True)
class Partition:
    """The partition that a batch belongs to.

    Parameters
    ----------
    name : str
        Name under which the store keeps the partition's position and counters.
    generation : int
        Counts how often this process was assigned the partition; batches of an earlier generation are not stored.
    after : mapping, optional
        Position that the store must have for the batch to be stored.
    """

    name: str
    generation: int
    after: Position | None


@dataclass(frozen=True, slots=True)
class FlowBatch:
    """Flows that a source gives at once.

    Parameters
    ----------
    flows : DataFrame
        Columns of :data:`deepidea.flows.identity.IDENTITY` and the features of the source's schema, both under
        canonical names.
    position : mapping, optional
        Go on behind these flows from here; None where the source cannot be asked again.
    skipped : mapping
        Records that broke a rule since the batch before, by reason.
    dropped : mapping
        Flows or packets lost since the batch before, by reason: the kernel's, a full queue's.
    received_s : float
        Clock time (seconds since 1970) when the last of them was known.
    not_flows : mapping
        Records since the batch before that are of something else than a flow, by what: ``dns``, ``alert``. They are no
        errors.
    partition : Partition, optional
        Of a source that several processes read together: which partition the flows are of.
    memory : tuple of MemoryChange
        Changes of what the source must remember to go on from the position.
    """

    flows: pl.DataFrame
    position: Position | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    received_s: float = field(default_factory=time.time)
    not_flows: Mapping[str, int] = field(default_factory=dict)
    partition: Partition | None = None
    memory: tuple[MemoryChange, ...] = ()


class Source(Protocol):
    """Where flows come from. Its constructor takes what it reads and its options; nothing is opened before batches."""

    name: str
    """What names it in a store and on screen; the same text after a restart."""

    schema: str
    """Name of the schema of its flows: ``cicflow``, ``conn``, or ``any`` for tables that hold what a model asks for."""

    replayable: bool
    """Whether a position can be gone back to after a crash."""

    def batches(self, after: Position | None, stop: threading.Event) -> Iterator[FlowBatch]:
        """Yield batches, from behind a position or from the start, until the source ends or ``stop`` is set.

        A batch may hold no flows and still count losses and move the position.
        A live source yields at least every :data:`LINGER_S`, so that it can be stopped. Once ``stop`` is set, it hands
        over what it holds and returns.

        Raises
        ------
        DataError
            Where what is read cannot be a source of this kind. A bad record is skipped and counted.
        SourceError
            Where the system refuses it: no such interface, no permission, a server that does not answer.
        """


@runtime_checkable
class RememberingSource(Source, Protocol):
    """A source whose position is not enough to go on from: what it must remember beside it is kept for it."""

    def restore(self, memory: Mapping[str, Sequence[bytes]]) -> None:
        """Take the entries by part that belong to the position that `batches` is called with next."""
