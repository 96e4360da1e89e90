"""Shares: a stream that is cut into parts, each read by one of several processes at a time.

Who reads a share, the stream's own means settle: Kafka's group protocol, leases in Redis. That may be wrong for a
while: a process that was paused still thinks that a share is its own. So it is not relied upon. What a batch leads to
is stored only if the store stands where the batch begins, in the same transaction: of two that read the same flows one
is first, and the other one's batch is refused as if it had never been read. Every flow counts once, whoever reads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from deepidea.detection.sources.source import FlowBatch, Position

__all__ = ["Share", "SharedSource", "Shares", "read_alone"]


@dataclass(frozen=True, slots=True)
class Share:
    """Which share a batch is of.

    Parameters
    ----------
    name : str
        Name under which the store keeps the share's position and counters.
    turn : int
        Which turn of ours with the share it is: what was read in an earlier one is not stored.
    after : mapping, optional
        Where the store must stand for the batch to be stored.
    """

    name: str
    turn: int
    after: Position | None


@runtime_checkable
class SharedSource(Protocol):
    """A source that several processes read together: `Source` but for `batches`."""

    name: str
    schema: str
    replayable: bool
    is_shared: bool
    """Always true; tells it from a source that one process reads."""

    def batches_of_shares(self, shares: Shares, stop: threading.Event) -> Iterator[FlowBatch]:
        """Yield batches of the shares that are ours, each with its :class:`Share`, until ``stop`` is set.

        A batch without flows, losses and share says that the source is there. At the end shares are handed back, once
        what was read of them is stored.

        Raises
        ------
        DataError, SourceError
            As :meth:`deepidea.detection.sources.source.Source.batches`; a server that goes away is waited for.
        """


class Shares:
    """The shares that this process holds, between the thread that reads them and the loop that stores what they tell.

    Parameters
    ----------
    name : str
        Name of the source; that of a share is ``name#number``.
    position : callable
        Gives the store's position of a name.

    Examples
    --------
    >>> shares = Shares("stream", {"stream#3": {"id": "7-0"}}.get)
    >>> shares.take(3), shares.held
    ({'id': '7-0'}, (3,))
    >>> share = shares.hand_over(3, {"id": "9-0"})
    >>> share.after, shares.is_settled(3)
    ({'id': '7-0'}, False)
    >>> shares.settle(share, {"id": "9-0"})
    >>> shares.is_settled(3)
    True
    """

    def __init__(self, name: str, position: Callable[[str], Position | None]) -> None:
        self.n_refused = 0
        """Flows whose batch was not stored, because another process had stored them: they are counted there."""
        self.n_retries = 0
        """Times that the stream's server did not answer."""
        self.trouble: str | None = None
        """Why it does not answer now; None while it does."""
        self._name, self._position = name, position
        self._changed = threading.Condition()
        self._turns: dict[int, int] = {}
        self._handed: dict[int, Position | None] = {}
        self._stored: dict[int, Position | None] = {}
        self._lost: set[int] = set()
        self._ended = False

    @property
    def held(self) -> tuple[int, ...]:
        """Numbers of the shares that are ours now."""
        with self._changed:
            return tuple(sorted(self._handed))

    def take(self, number: int) -> Position | None:
        """Begin a turn with a share, and return where the store stands with it."""
        position = self._position(self.name_of(number))
        with self._changed:
            self._turns[number] = self._turns.get(number, 0) + 1
            self._handed[number] = self._stored[number] = position
            self._lost.discard(number)
        return position

    def name_of(self, number: int) -> str:
        """Return the name of a share in the store."""
        return f"{self._name}#{number}"

    def hand_over(self, number: int, position: Position) -> Share:
        """Return the share of a batch that ends at a position; the next one begins there."""
        with self._changed:
            share = Share(self.name_of(number), self._turns[number], self._handed[number])
            self._handed[number] = position
        return share

    def drop(self, number: int) -> None:
        """End our turn with a share: what was read of it and is not stored yet will not be."""
        with self._changed:
            self._turns[number] = self._turns.get(number, 0) + 1
            self._handed.pop(number, None)
            self._changed.notify_all()

    def take_lost(self) -> set[int]:
        """Return the shares of which a batch was refused, and forget that: take them again, or drop them."""
        with self._changed:
            lost, self._lost = self._lost & set(self._handed), set()
        return lost

    def is_settled(self, number: int) -> bool:
        """Whether all that was read of a share is stored, or never will be."""
        with self._changed:
            held = number in self._handed and number not in self._lost and not self._ended
            return not held or self._handed[number] == self._stored[number]

    def await_settled(self, numbers: set[int], within_s: float) -> None:
        """Wait until what was read of shares is stored, for so long at most."""
        deadline = time.monotonic() + within_s
        with self._changed:
            while not all(map(self.is_settled, numbers)) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    # --- the loop that stores ----------------------------------------------------------------------------------------

    def is_current(self, share: Share) -> bool:
        """Whether a batch is of a turn that goes on."""
        with self._changed:
            number = _number_of(share)
            return self._turns.get(number) == share.turn and number not in self._lost

    def settle(self, share: Share, position: Position | None) -> None:
        """Take note that a batch is stored."""
        with self._changed:
            if self._turns.get(_number_of(share)) == share.turn:
                self._stored[_number_of(share)] = position
            self._changed.notify_all()

    def refuse(self, share: Share, n_flows: int) -> None:
        """Take note that a batch was refused."""
        with self._changed:
            self._lost.add(_number_of(share))
            self.n_refused += n_flows
            self._changed.notify_all()

    def end(self) -> None:
        """Take note that nothing will be stored any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def positions(self) -> Mapping[int, Position | None]:
        """Return where the store stands with each share that is ours, as far as is known here."""
        with self._changed:
            return {number: self._stored[number] for number in self._handed}


def read_alone(source: SharedSource, stop: threading.Event) -> Iterator[FlowBatch]:
    """Yield all flows of a shared source from its beginning, for one who keeps no positions, such as calibration.

    It is a member of the group as any other: where processes of the group run, it gets its part alone.
    """
    shares = Shares(source.name, lambda _: None)
    for batch in source.batches_of_shares(shares, stop):
        if batch.share is None or shares.is_current(batch.share):
            yield replace(batch, position=None, share=None)
        if batch.share is not None:
            shares.settle(batch.share, batch.position)


def _number_of(share: Share) -> int:
    return int(share.name.rpartition("#")[2])
