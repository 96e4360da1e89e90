"""What happens in a store, told to every browser that looks, as it happens: server-sent events.

One task of the process asks the store a few times a second what has changed (:meth:`Store.changes`, less than a
millisecond where nothing has) and hands each event to all who listen. Each has a queue of bounded length. Whoever reads
too slowly to keep up loses the queue and gets a ``reset`` in its place, which says: load the page anew. So memory is
bounded, and nobody waits for anybody. Events carry numbers, and the latest are kept, so that whoever was cut off goes
on behind the last one that it got (the ``Last-Event-ID`` of the HTML standard).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from starlette.concurrency import run_in_threadpool

from deepidea.errors import DeepIDEAError, StoreError
from deepidea.store.cases import Changes, Marks
from deepidea.web.desk import Desk
from deepidea.web.views import SourcesView

log = logging.getLogger("deepidea.web")

EVENTS = ("hello", "incident", "alerts", "sources", "change", "rules", "models", "store", "reset", "bye")
"""Kinds of events.

``hello``
    First of each stream: ``time``.
``incident``
    An incident is new or has changed: ``incident`` as lists show it, ``new``, and ``replaces``, ids that it had before.
``alerts``
    New alerts that no rule keeps quiet: ``total``, and ``classes`` with the number of each.
``sources``
    How sources and sinks stand, about once a second while something is watched: ``sources``, ``sinks``, ``health``,
    ``says``.
``change``
    Somebody did something: ``actor``, ``action``, ``subject``, ``time``.
``rules``, ``models``
    Allow rules, or the active model, have changed.
``store``
    Whether the store answers: ``up``.
``reset``
    Events were missed: load the page anew; ``why``.
``bye``
    The stream ends, and asking again will not help: ``why``.
"""
POLL_S = 0.3
IDLE_POLL_S = 1.0  # while nobody listens
HEARTBEAT_S = 15.0
SOURCES_EVERY_S = 1.0
_LOOK_ANEW_S = 4.0  # at how sources stand, where none has told anything
MOST_KEPT = 2_000  # events for those who were cut off
MOST_QUEUED = 256  # events that somebody may be behind
MOST_LISTENERS = 500
_TOLD_ACTIONS = ("incident.", "verdict.", "rule.", "model.", "store.")
_RIGHTS = ("token.revoke", "revoke token", "logout")


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its number, its kind, and JSON."""

    number: int
    kind: str
    data: str

    def text(self, epoch: str) -> bytes:
        """Return it as it goes over the wire."""
        return f"id: {epoch}-{self.number}\nevent: {self.kind}\ndata: {self.data}\n\n".encode("utf-8", "replace")


class TooManyListenersError(DeepIDEAError):
    """As many listen as may (HTTP 503)."""

    status = 503


@dataclass(eq=False, slots=True)
class _Listener:
    """Whoever listens: what it has not got yet, and whether it fell behind or is to go."""

    waiting: deque[Event] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    missed: bool = False
    must_show_rights: bool = False

    def put(self, event: Event) -> None:
        if len(self.waiting) >= MOST_QUEUED:
            self.waiting.clear()
            self.missed = True
        self.waiting.append(event)
        self.wake.set()


class Live:
    """Follows a store, and tells all who listen.

    Parameters
    ----------
    desk : Desk
    poll_s : float
        Seconds between looks while somebody listens.
    heartbeat_s : float
        Seconds of silence after which a stream says that it is alive, and rights are looked at anew.
    """

    def __init__(self, desk: Desk, *, poll_s: float = POLL_S, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._desk, self._poll_s, self._heartbeat_s = desk, poll_s, heartbeat_s
        self._epoch = secrets.token_hex(4)  # numbers of another process mean nothing to this one
        self._kept: deque[Event] = deque(maxlen=MOST_KEPT)
        self._next = 1
        self._listeners: set[_Listener] = set()
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._up = True
        self._sources: Any = None
        self._sources_due, self._moved = 0.0, True

    @property
    def n_listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    @property
    def last_id(self) -> str:
        """Id of the latest event: a page that is made now asks for what comes after it."""
        return f"{self._epoch}-{self._next - 1}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the store within the block; at its end every stream ends."""
        self._loop = asyncio.get_running_loop()
        task = asyncio.create_task(self._follow(), name="deepidea-live")
        try:
            yield
        finally:
            self._end()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def stop(self) -> None:
        """End every stream, from whichever thread: a server waits for open streams before it is done."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._ended = True
        self._wake.set()
        for listener in self._listeners:
            listener.wake.set()

    # --- following ---------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        marks: Marks | None = None
        while not self._ended:
            try:
                marks, told = await run_in_threadpool(self._look, marks)
                for kind, data in [*([] if self._up else [("store", {"up": True})]), *told]:
                    self.tell(kind, data)
                self._up = True
            except StoreError as error:
                if self._up:
                    log.warning("%s", error)
                    self.tell("store", {"up": False})
                self._up = False
            await self._pause(self._poll_s if self._listeners and self._up else IDLE_POLL_S)

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    def _look(self, marks: Marks | None) -> tuple[Marks, list[tuple[str, Any]]]:
        """Return what has happened since the last look."""
        if marks is None:
            return self._desk.store.marks(), []
        changes = self._desk.store.changes(marks)
        return changes.marks, [*self._events_of(changes), *self._standing(changes)]

    def _events_of(self, changes: Changes) -> Iterator[tuple[str, Any]]:
        if changes.n_alerts:
            yield "alerts", {"total": sum(changes.n_alerts.values()), "classes": changes.n_alerts}
        if changes.too_many:
            yield "reset", {"why": "more has changed than can be told one by one"}
        else:
            rows = self._desk.rows_of(changes.incidents)
            for row in rows:
                replaced = changes.replaced.get(row.incident_id, [])
                is_new = row.incident_id in changes.new
                yield "incident", {"incident": asdict(row), "new": is_new, "replaces": replaced}
        for entry in changes.audit:
            if entry.action.startswith(_TOLD_ACTIONS):
                names = ("actor", "action", "subject", "time")
                yield "change", {name: getattr(entry, name) for name in names}
            if entry.action in _RIGHTS:
                yield "rights", None
        yield from ((kind, {}) for kind in ("rules", "models") if getattr(changes, f"{kind}_changed"))

    def _standing(self, changes: Changes) -> Iterator[tuple[str, Any]]:
        """Tell how sources stand, where that is due and has changed; that an engine is silent is a change too."""
        self._moved = self._moved or bool(changes.engines) or changes.counters_changed
        now = time.monotonic()
        if now < self._sources_due + (0.0 if self._moved else _LOOK_ANEW_S):
            return
        self._moved = False
        self._sources_due = now + SOURCES_EVERY_S
        standing = self._desk.sources()
        told = _gist(standing)
        if told != self._sources:
            self._sources = told
            about = {"health": standing.health, "says": standing.says}
            yield (
                "sources",
                {
                    "sources": [asdict(one) for one in standing.sources],
                    "sinks": [asdict(one) for one in standing.sinks],
                    **about,
                },
            )

    def tell(self, kind: str, data: Any) -> None:
        """Hand an event to all who listen; in the loop's thread alone."""
        if kind == "rights":
            for listener in self._listeners:
                listener.must_show_rights = True
                listener.wake.set()
            return
        event = Event(self._next, kind, json.dumps(data, default=_plain, separators=(",", ":")))
        self._next += 1
        self._kept.append(event)
        for listener in self._listeners:
            listener.put(event)

    # --- listening ---------------------------------------------------------------------------------------------------

    async def stream(
        self, last_id: str | None = None, *, may: Callable[[], Awaitable[bool]] | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the events from now on, or those that came after one, as they go over the wire.

        Parameters
        ----------
        last_id : str, optional
            Of the last event that was got; where it is not known any more, a ``reset`` comes first.
        may : callable, optional
            Whether the listener still may; asked at each heartbeat, and when rights were taken from anybody.

        Raises
        ------
        TooManyListenersError
            At once.
        """
        if len(self._listeners) >= MOST_LISTENERS:
            raise TooManyListenersError(
                f"at most {MOST_LISTENERS} may listen at once, however: as many do; try again later"
            )
        return self._stream(last_id, may)

    async def _stream(self, last_id: str | None, may: Callable[[], Awaitable[bool]] | None) -> AsyncIterator[bytes]:
        listener = _Listener()
        missed = self._behind(last_id)
        self._listeners.add(listener)
        self._wake.set()
        try:
            yield b"retry: 2000\n\n"
            yield self._aside("hello", {"time": datetime.now().astimezone()})
            if missed is None:
                yield self._aside("reset", {"why": "events were missed while the stream was away"})
            for event in missed or ():
                yield event.text(self._epoch)
            async for chunk in self._chunks(listener, may):
                yield chunk
        finally:
            self._listeners.discard(listener)

    async def _chunks(self, listener: _Listener, may: Callable[[], Awaitable[bool]] | None) -> AsyncIterator[bytes]:
        while not self._ended:
            silent = not await self._waited(listener)
            if self._ended:
                break
            if (silent or listener.must_show_rights) and may is not None:
                listener.must_show_rights = False
                if not await may():
                    yield self._aside("bye", {"why": "the token or session opens nothing any more"})
                    return
            if listener.missed:
                listener.missed = False
                yield self._aside("reset", {"why": "events came faster than they were read"})
            while listener.waiting:
                yield listener.waiting.popleft().text(self._epoch)
            if silent:
                yield b": still here\n\n"

    async def _waited(self, listener: _Listener) -> bool:
        """Wait until there is something to do; return False where a heartbeat is due first."""
        try:
            await asyncio.wait_for(listener.wake.wait(), self._heartbeat_s)
        except TimeoutError:
            return False
        listener.wake.clear()
        return True

    def _behind(self, last_id: str | None) -> list[Event] | None:
        """Return the events after one, None where they cannot be told."""
        if not last_id:
            return []
        epoch, _, number = last_id.partition("-")
        if epoch != self._epoch or not (number.isascii() and number.isdecimal() and len(number) < 19):
            return None
        first = self._kept[0].number if self._kept else self._next
        after = int(number)
        return [event for event in self._kept if event.number > after] if first - 1 <= after < self._next else None

    def _aside(self, kind: str, data: Any) -> bytes:
        """Return an event of one stream alone, which has no number of its own: where it goes on stays as it was."""
        at = self._next - 1
        return Event(at, kind, json.dumps(data, default=_plain, separators=(",", ":"))).text(self._epoch)


def _gist(standing: SourcesView) -> Any:
    """Return what makes it worth telling anew how sources stand: not that a minute has gone by."""
    sources = [
        (one.name, one.health, one.n_flows, one.n_alerts, one.n_lost, one.flows_per_s) for one in standing.sources
    ]
    sinks = [(one.name, one.health, one.n_delivered, one.n_waiting, one.n_dead, one.n_lost) for one in standing.sinks]
    return sources, sinks


def _plain(value: Any) -> Any:
    """Return what JSON has no type for."""
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no value of an event")
