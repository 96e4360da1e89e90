"""Partitions: a stream that is cut into parts, each read by one of several processes at a time.

Which process reads a partition is decided by the stream: Kafka's group protocol, leases in Redis. Both may be wrong
for a while: a process that was paused still takes a partition for its own. Correctness does not depend on them. Each
batch is committed only if the store's position is the one where the batch begins (compare-and-set, as with a fencing
token): of two processes that read the same flows, the second is refused. So every flow counts once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

from deepidea.detection.sources.source import FlowBatch, Partition, Position

__all__ = ["Partition", "PartitionedSource", "HeldPartitions", "read_alone"]


@runtime_checkable
class PartitionedSource(Protocol):
    """A source that several processes read together: `Source` but for `batches`."""

    name: str
    schema: str
    replayable: bool
    is_partitioned: bool
    """Always true; distinguishes it from a source that one process reads."""

    def batches_of_partitions(self, held: HeldPartitions, stop: threading.Event) -> Iterator[FlowBatch]:
        """Yield batches of the partitions that this process holds, each with its :class:`Partition`, until ``stop``.

        An empty batch without a partition is a sign of life. At the end partitions are released once all that was read
        of them is stored.

        Raises
        ------
        DataError, SourceError
            As :meth:`deepidea.detection.sources.source.Source.batches`; a server that goes away is waited for.
        """


class HeldPartitions:
    """The partitions that this process holds, shared by the thread that reads and the loop that stores.

    Parameters
    ----------
    name : str
        Name of the source; that of a partition is ``name#number``.
    position : callable
        Returns the store's position of a name.

    Examples
    --------
    >>> partitions = HeldPartitions("stream", {"stream#3": {"id": "7-0"}}.get)
    >>> partitions.assign(3), partitions.numbers
    ({'id': '7-0'}, (3,))
    >>> partition = partitions.advance(3, {"id": "9-0"})
    >>> partition.after, partitions.is_stored(3)
    ({'id': '7-0'}, False)
    >>> partitions.mark_stored(partition, {"id": "9-0"})
    >>> partitions.is_stored(3)
    True
    """

    def __init__(self, name: str, position: Callable[[str], Position | None]) -> None:
        self.n_refused = 0
        """Flows whose batch was not stored because another process had stored and counted them."""
        self.n_retries = 0
        """Requests that the stream's server did not answer."""
        self.trouble: str | None = None
        """Why the server does not answer now; None while it does."""
        self._name, self._position = name, position
        # Two threads meet here: one reads and is given and takes partitions (`assign`, `advance`, `release`), the other
        # stores and reports (`mark_stored`, `mark_refused`). All state is changed under this lock, and each change
        # wakes `await_stored`. Of a partition:
        #   _generations  counts its assignments and releases; a batch of an earlier one is dropped, not stored
        #   _handed       where the next batch of it begins; absent where this process does not hold it
        #   _stored       where the store stands, as far as this process knows
        #   _refused      a batch was not stored because another process had stored those flows
        self._changed = threading.Condition()
        self._generations: dict[int, int] = {}
        self._handed: dict[int, Position | None] = {}
        self._stored: dict[int, Position | None] = {}
        self._refused: set[int] = set()
        self._ended = False

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the partitions that this process holds."""
        with self._changed:
            return tuple(sorted(self._handed))

    def assign(self, number: int) -> Position | None:
        """Begin a generation of a partition, and return its position in the store."""
        # The store is asked without the lock: it may take its time, and the loop that stores must not wait meanwhile.
        position = self._position(self.name_of(number))
        with self._changed:
            self._generations[number] = self._generations.get(number, 0) + 1
            self._handed[number] = self._stored[number] = position
            self._refused.discard(number)
        return position

    def name_of(self, number: int) -> str:
        """Return the name of a partition in the store."""
        return f"{self._name}#{number}"

    def advance(self, number: int, position: Position) -> Partition:
        """Return the partition of a batch that ends at a position; the next one begins there."""
        with self._changed:
            partition = Partition(self.name_of(number), self._generations[number], self._handed[number])
            self._handed[number] = position
        return partition

    def release(self, number: int) -> None:
        """End the generation of a partition: batches that are not stored yet will not be."""
        with self._changed:
            self._generations[number] = self._generations.get(number, 0) + 1
            self._handed.pop(number, None)
            self._changed.notify_all()

    def take_refused(self) -> set[int]:
        """Return the partitions with a refused batch since the last call: assign them again, or release them."""
        with self._changed:
            # What was refused and released since needs nothing more: whoever holds it now began where the store stood.
            lost, self._refused = self._refused & set(self._handed), set()
        return lost

    def is_stored(self, number: int) -> bool:
        """Whether all that was read of a partition is stored, or never will be."""
        with self._changed:
            # After a refusal nothing that was read will be stored, nor after the loop has ended: nothing to wait for.
            held = number in self._handed and number not in self._refused and not self._ended
            return not held or self._handed[number] == self._stored[number]

    def await_stored(self, numbers: set[int], within_s: float) -> None:
        """Wait until what was read of partitions is stored, for so long at most."""
        deadline = time.monotonic() + within_s
        with self._changed:
            # A Condition has a reentrant lock, so that `is_stored` can take it again.
            while not all(map(self.is_stored, numbers)) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    # --- the loop that stores ----------------------------------------------------------------------------------------

    def is_current(self, partition: Partition) -> bool:
        """Whether a batch is of a generation that goes on."""
        with self._changed:
            number = _number_of(partition)
            return self._generations.get(number) == partition.generation and number not in self._refused

    def mark_stored(self, partition: Partition, position: Position | None) -> None:
        """Record that a batch is stored."""
        with self._changed:
            # A batch may be stored although its partition was released meanwhile: the store decides. It says nothing of
            # the partition as it is held now.
            if self._generations.get(_number_of(partition)) == partition.generation:
                self._stored[_number_of(partition)] = position
            self._changed.notify_all()

    def mark_refused(self, partition: Partition, n_flows: int) -> None:
        """Record that a batch was refused."""
        with self._changed:
            self._refused.add(_number_of(partition))
            self.n_refused += n_flows
            self._changed.notify_all()

    def end(self) -> None:
        """Record that nothing will be stored any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def positions(self) -> Mapping[int, Position | None]:
        """Return the last known position in the store of each partition that this process holds."""
        with self._changed:
            return {number: self._stored[number] for number in self._handed}


def read_alone(source: PartitionedSource, stop: threading.Event) -> Iterator[FlowBatch]:
    """Yield all flows of a shared source from its beginning, for one who keeps no positions, such as calibration.

    It is a member of the group as any other: where processes of the group run, it gets its part alone.
    """
    held = HeldPartitions(source.name, lambda _: None)
    for batch in source.batches_of_partitions(held, stop):
        if batch.partition is None or held.is_current(batch.partition):
            yield replace(batch, position=None, partition=None)
        if batch.partition is not None:
            held.mark_stored(batch.partition, batch.position)


def _number_of(partition: Partition) -> int:
    return int(partition.name.rpartition("#")[2])
