"""Delivery: sends alerts from the store to a sink, each at least once, and again until the sink has taken it.

The store keeps how far a sink has got, so alerts stored while a sink or this process was down are sent later. An alert
that a sink refuses for too long goes to a file of dead letters, so that it holds up no other; dead letters are tried
again when the sink takes other alerts.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from deepidea.detection.sinks.dead_letters import DeadLetters
from deepidea.detection.sinks.formats.rendering import render
from deepidea.detection.sinks.sink import Sink
from deepidea.errors import SinkError, StorageError, StoreError
from deepidea.store import deliveries
from deepidea.store.store import Store

__all__ = ["Delivery", "DeliveryStatus", "Patience"]

log = logging.getLogger("deepidea.detection")
SINGLE_FAILURES = 3  # alerts refused one after another, each by itself, before the sink counts as down


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a sink is tried before its alerts become dead letters.

    Parameters
    ----------
    first_wait_s, longest_wait_s
        Time to the second attempt, and the longest between two; it doubles from one to the next, and each is cut by up
        to a half at random, so that many senders do not come at once.
    give_up_s, give_up_attempts
        A batch becomes dead letters when it has been tried for so long, or so many times, whichever is first.
    """

    first_wait_s: float = 0.5
    longest_wait_s: float = 60.0
    give_up_s: float = 900.0
    give_up_attempts: int = 50

    def wait_s(self, attempts: int) -> float:
        """Return how long to wait after so many failures in a row.

        Examples
        --------
        >>> 2.0 <= Patience(first_wait_s=1.0).wait_s(3) <= 4.0
        True
        """
        longest = min(self.first_wait_s * 2.0 ** min(attempts - 1, 60), self.longest_wait_s)
        # Jitter: many processes that lost one server must not all come back at the same moment.
        return longest * random.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """Counts of a sink's alerts: delivered, waiting in the store, in dead letters, lost; and the latest error."""

    sink: str
    n_delivered: int
    n_waiting: int
    n_dead: int
    n_lost: int
    last_error: str | None
    last_error_at: datetime | None

    def __str__(self) -> str:
        sent = f"{self.sink}: {self.n_delivered} delivered, {self.n_waiting} waiting"
        dead = f", {self.n_dead} in dead letters" if self.n_dead else ""
        lost = f", {self.n_lost} lost to retention" if self.n_lost else ""
        return sent + dead + lost + (f"; {self.last_error}" if self.last_error else "")


@dataclass(slots=True)
class _Failures:
    """The failures in a row so far, and the last of them."""

    attempts: int = 0
    since: float = 0.0
    error: str | None = None
    at: datetime | None = None

    def note(self, error: Exception) -> None:
        if not self.attempts:
            self.since = time.monotonic()
        self.attempts += 1
        known = isinstance(error, SinkError | StoreError | StorageError)
        self.error = str(error) if known else f"unexpected {type(error).__name__}: {error}"
        self.at = datetime.now(UTC)


class Delivery:
    """Sends alerts of a store to a sink, in a thread of its own.

    Parameters
    ----------
    store
        Where alerts are; the sink is registered there, and is owed what is stored from then on.
    sink
        Where they go.
    dead_letter_dir
        Folder of dead letters, made where absent: one file a sink, one JSON object a line, with ``alert_id``, ``line``,
        ``error`` and ``at``.
    patience
        How long to try.
    batch_alerts
        Most alerts in one call of the sink.
    poll_s
        How often to look for new alerts; :meth:`wake` is quicker.
    from_start
        Owe a sink that is new to the store all that is stored.

    Examples
    --------
    >>> import tempfile
    >>> from deepidea.detection.sinks.registry import open_sink
    >>> from deepidea.store.store import open_store
    >>> folder = tempfile.mkdtemp()
    >>> with open_store(f"sqlite:///{folder}/alerts.db") as store:
    ...     delivery = Delivery(store, open_sink(f"file://{folder}/alerts.json"), f"{folder}/dead-letters")
    ...     delivery.start()
    ...     is_owed_nothing = delivery.stop(drain_s=5)
    >>> is_owed_nothing
    True
    """

    def __init__(
        self,
        store: Store,
        sink: Sink,
        dead_letter_dir: str | Path,
        *,
        patience: Patience | None = None,
        batch_alerts: int = 500,
        poll_s: float = 0.5,
        from_start: bool = False,
    ) -> None:
        self._store, self._sink, self._patience = store, sink, patience or Patience()
        self._batch_alerts, self._poll_s = batch_alerts, poll_s
        self._letters = DeadLetters(dead_letter_dir, sink.name)
        self._wake, self._stop = threading.Event(), threading.Event()
        self._deadline: float | None = None  # of draining, once it is to stop
        self._thread: threading.Thread | None = None
        self._failures, self._last = _Failures(), _Failures()
        self._letters_due = 0.0  # when dead letters are tried next
        store.execute(deliveries.register, sink.name, from_start=from_start)

    def start(self) -> None:
        """Begin to deliver."""
        if self._thread is None:
            self._stop.clear()
            self._deadline = None
            self._thread = threading.Thread(target=self._run, name=f"delivery to {self._sink.name}", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Look for new alerts at once."""
        self._wake.set()

    def stop(self, drain_s: float = 5.0) -> bool:
        """Deliver what is waiting, for as long as this at most, and end; return whether the sink is owed nothing.

        A sink that is down is tried once more and no longer waited for; what it is owed stays in the store.
        """
        if self._thread is not None:
            self._deadline = time.monotonic() + drain_s
            self._stop.set()
            self._wake.set()
            self._thread.join()
            self._thread = None
        self._sink.close()
        return self.status().n_waiting == 0

    def status(self) -> DeliveryStatus:
        """Return how the delivery stands."""
        at = next(c for c in self._store.query(deliveries.counters) if c.sink == self._sink.name)
        counts = (at.n_delivered, at.n_waiting, at.n_dead, at.n_lost)
        return DeliveryStatus(at.sink, *counts, self._last.error, self._last.at)

    @property
    def fault(self) -> tuple[str, str] | None:
        """Name of the sink and its last error, while it rejects alerts; None otherwise."""
        return None if self._failures.error is None else (self._sink.name, self._failures.error)

    # --- the thread --------------------------------------------------------------------------------------------------
    # Whatever fails, the thread lives until stop(): alerts stay owed in the store, the failure is in the status, and
    # the next attempt waits. What is no error of a sink, a store or the disk is a fault of the program, and is logged.

    def _run(self) -> None:
        while not self._is_over():
            self._wake.clear()
            stopping = self._stop.is_set()  # before looking: what is stored until stop() is called is still delivered
            try:
                done = self.deliver_once()
            except (SinkError, StoreError, StorageError) as error:
                self._note(error)
                done = 0
            except Exception as error:
                log.exception("delivery to %s failed; its alerts stay in the store and are sent again", self._sink.name)
                self._note(error)
                done = 0
            # Once stopped: until nothing is left, or something fails. Waiting for a sink that is down would hold up the
            # end.
            if stopping and (not done or self._failures.attempts):
                return
            if self._failures.attempts:
                self._stop.wait(self._patience.wait_s(self._failures.attempts))
            elif not done:
                self._wake.wait(self._poll_s)

    def _is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _note(self, error: Exception) -> None:
        self._failures.note(error)
        self._last = replace(self._failures)

    def deliver_once(self) -> int:
        """Deliver one batch, or dead letters where no alert waits; return how many alerts were handled.

        Raises
        ------
        SinkError
            The sink did not take the batch, and it is not yet time to give up on it.
        StoreError, StorageError
            The store does not answer, or dead letters cannot be written.
        """
        alerts = self._store.query(deliveries.undelivered, self._sink.name, limit=self._batch_alerts)
        if alerts.is_empty():
            return self._deliver_letters() if self._letters_are_due() else 0
        lines = render(alerts, self._sink.format)
        # At least once: the sink or the file of dead letters has an alert before the store marks it. A crash in between
        # sends it again.
        refused: Sequence[int] = ()
        try:
            self._sink.send(lines)
        except SinkError as error:
            if not self._should_give_up():
                raise
            refused = self._send_singly(lines)
            self._letters.add(alerts["alert_id"].gather(refused).to_list(), [lines[i] for i in refused], error)
            self._note(error)
        n_taken = len(lines) - len(refused)
        self._store.execute(
            deliveries.mark_delivered, self._sink.name, alerts["seq"][-1], n_delivered=n_taken, n_dead=len(refused)
        )
        if n_taken:
            self._failures = _Failures()
        return len(lines)

    def _should_give_up(self) -> bool:
        """Return whether a batch that fails now has been tried for long enough."""
        tried = self._failures
        if not tried.attempts:
            return self._patience.give_up_attempts <= 1
        too_long = time.monotonic() - tried.since >= self._patience.give_up_s
        return too_long or tried.attempts + 1 >= self._patience.give_up_attempts

    def _send_singly(self, lines: Sequence[str]) -> list[int]:
        """Send lines one by one, so that one that is refused takes no other along; return which were refused."""
        refused: list[int] = []
        for place, line in enumerate(lines):
            # several refusals in a row: the sink is down, and waiting for each further line would take too long
            try:
                self._sink.send([line])
            except SinkError:
                refused.append(place)
                if refused[-SINGLE_FAILURES:] == list(range(place - SINGLE_FAILURES + 1, place + 1)):
                    return [*refused, *range(place + 1, len(lines))]
        return refused

    def _letters_are_due(self) -> bool:
        return time.monotonic() >= self._letters_due and self._letters.exist()

    def _deliver_letters(self) -> int:
        """Send dead letters again; those that are refused stay."""
        # Before sending, so that letters that are refused again are not tried in a loop.
        self._letters_due = time.monotonic() + self._patience.longest_wait_s
        n_taken = 0
        with self._letters.opened() as letters:
            while chunk := list(islice(letters, self._batch_alerts)):
                lines = [line for _, line in chunk]
                try:
                    self._sink.send(lines)
                    refused: list[int] = []
                except SinkError as error:
                    self._last = _Failures(1, 0.0, str(error), datetime.now(UTC))
                    refused = self._send_singly(lines)
                letters.kept += [chunk[i][0] for i in refused]
                self._store.execute(
                    deliveries.mark_delivered,
                    self._sink.name,
                    0,
                    n_delivered=len(chunk) - len(refused),
                    n_dead=len(refused) - len(chunk),
                )
                n_taken += len(chunk) - len(refused)
                # Nothing of a chunk was taken: the sink is down again, and the rest stays in the file.
                if len(refused) == len(chunk) or self._is_over():
                    break
        if n_taken:
            self._failures = _Failures()
        return n_taken
