"""Server-sent events: what changes in a store, sent to every open page.

One task polls the store a few times a second (:func:`deepidea.store.changes.since`, under a millisecond where nothing
changed) and publishes each event to all listeners. A listener has a bounded queue; one that falls behind loses the
queue and gets a ``reset`` in its place: reload the page. So memory is bounded, and no listener waits for another.
Events are numbered and the latest are kept, so that a client that reconnects continues after its ``Last-Event-ID``
(HTML standard, 9.2).
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
from deepidea.store import changes
from deepidea.store.changes import Changes, Marks
from deepidea.web.service import AnalystService
from deepidea.web.views import SourcesView

log = logging.getLogger("deepidea.web")

EVENTS = ("hello", "incident", "alerts", "sources", "change", "rules", "models", "store", "reset", "bye")
"""Kinds of events.

``hello``
    First of each stream: ``time``.
``incident``
    A new or changed incident: ``incident`` as in lists, ``new``, and ``replaces``, its earlier ids.
``alerts``
    New alerts that no rule suppresses: ``total``, and their number by class, ``classes``.
``sources``
    Health of sources and sinks, at most once a second: ``sources``, ``sinks``, ``health``, ``message``.
``change``
    A user changed something: ``actor``, ``action``, ``subject``, ``time``.
``rules``, ``models``
    Allow rules, or the active model, have changed.
``store``
    Whether the store answers: ``up``.
``reset``
    Events were missed, reload the page: ``why``.
``bye``
    The stream ends, and reconnecting will not help: ``why``.
"""
POLL_S = 0.3
IDLE_POLL_S = 1.0  # without listeners, and after an error
HEARTBEAT_S = 15.0
SOURCES_EVERY_S = 1.0
SILENCE_CHECK_S = 4.0  # how often health is computed where no engine reports: silence changes it, too
MOST_KEPT = 2_000  # events for clients that reconnect
MOST_QUEUED = 256  # events that a listener may be behind
MOST_LISTENERS = 500
_SHOWN_ACTIONS = ("incident.", "verdict.", "rule.", "model.", "store.")
_REVOKING_ACTIONS = ("token.revoke", "logout")


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its number, its kind, and its data as JSON."""

    number: int
    kind: str
    data: str

    def encode(self, epoch: str) -> bytes:
        """Return the event in wire format."""
        return f"id: {epoch}-{self.number}\nevent: {self.kind}\ndata: {self.data}\n\n".encode("utf-8", "replace")


class TooManyListenersError(DeepIDEAError):
    """The limit of listeners is reached (HTTP 503)."""

    status = 503


@dataclass(eq=False, slots=True)
class _Listener:
    """An open stream: events to be sent, and flags that its coroutine acts on when it wakes."""

    waiting: deque[Event] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    missed: bool = False
    recheck_access: bool = False

    def put(self, event: Event) -> None:
        if len(self.waiting) >= MOST_QUEUED:
            self.waiting.clear()
            self.missed = True
        self.waiting.append(event)
        self.wake.set()


class Live:
    """Polls a store and publishes its changes to all listeners.

    Parameters
    ----------
    service : AnalystService
    poll_s : float
        Seconds between polls while there are listeners.
    heartbeat_s : float
        Seconds of silence after which a stream sends a comment and checks again whether its listener has access.

    Attributes
    ----------
    n_faults : int
        Unexpected errors; after each, polling starts anew and every listener gets a ``reset``.
    """

    def __init__(self, service: AnalystService, *, poll_s: float = POLL_S, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._service, self._poll_s, self._heartbeat_s = service, poll_s, heartbeat_s
        self._epoch = secrets.token_hex(4)  # so that ids of another process are recognised as foreign
        self._kept: deque[Event] = deque(maxlen=MOST_KEPT)
        self._next = 1
        self._listeners: set[_Listener] = set()
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._is_up = True
        self._shown_health: Any = None
        self._health_due, self._has_news = 0.0, True
        self.n_faults = 0

    @property
    def n_listeners(self) -> int:
        """Number of open streams."""
        return len(self._listeners)

    @property
    def last_id(self) -> str:
        """Id of the latest event: a page rendered now continues after it."""
        return f"{self._epoch}-{self._next - 1}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Poll the store within the block; at its end every stream ends."""
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
        """End every stream, from any thread: a server waits for open streams before it exits."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._ended = True
        self._wake.set()
        for listener in self._listeners:
            listener.wake.set()

    # --- polling -----------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        marks: Marks | None = None
        while not self._ended:
            try:
                marks, events = await run_in_threadpool(self._poll, marks)
                for kind, data in [*([] if self._is_up else [("store", {"up": True})]), *events]:
                    self.publish(kind, data)
                self._is_up = True
            except StoreError as error:
                if self._is_up:
                    log.warning("%s", error)
                    self.publish("store", {"up": False})
                self._is_up = False
            except Exception:
                # The same changes may fail again: skip them, and let the pages load what they missed.
                self.n_faults += 1
                marks, self._shown_health = None, None
                log.exception("live updates failed (fault %d), starting anew", self.n_faults)
                self.publish("reset", {"why": "live updates failed and have started anew"})
                await self._pause(IDLE_POLL_S)
                continue
            await self._pause(self._poll_s if self._listeners and self._is_up else IDLE_POLL_S)

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    def _poll(self, marks: Marks | None) -> tuple[Marks, list[tuple[str, Any]]]:
        """Return the events since the last poll."""
        # Marks are the highest sequence numbers seen; the first poll, and the first after a fault, only takes them.
        if marks is None:
            return self._service.store.query(changes.marks), []
        with self._service.store.read() as connection:
            found = changes.since(connection, marks)
            return found.marks, [*self._events_of(found), *self._health_events(found)]

    def _events_of(self, found: Changes) -> Iterator[tuple[str, Any]]:
        if found.n_alerts:
            yield "alerts", {"total": sum(found.n_alerts.values()), "classes": found.n_alerts}
        if found.too_many:
            yield "reset", {"why": "too many changes at once"}
        else:
            for row in found.incidents:
                replaced = found.replaced.get(row.incident_id, [])
                is_new = row.incident_id in found.new
                yield "incident", {"incident": asdict(row), "new": is_new, "replaces": replaced}
        for entry in found.audit:
            if entry.action.startswith(_SHOWN_ACTIONS):
                yield "change", {name: getattr(entry, name) for name in ("actor", "action", "subject", "time")}
            if entry.action in _REVOKING_ACTIONS:
                yield "rights", None
        yield from ((kind, {}) for kind in ("rules", "models") if getattr(found, f"{kind}_changed"))

    def _health_events(self, found: Changes) -> Iterator[tuple[str, Any]]:
        """Yield the health of sources and sinks where it is due and has changed."""
        self._has_news = self._has_news or bool(found.engines) or found.counters_changed
        now = time.monotonic()
        if now < self._health_due + (0.0 if self._has_news else SILENCE_CHECK_S):
            return
        self._has_news, self._health_due = False, now + SOURCES_EVERY_S
        view = self._service.sources()
        if (shown := _visible_health(view)) != self._shown_health:
            self._shown_health = shown
            parts = {name: [asdict(row) for row in getattr(view, name)] for name in ("sources", "sinks")}
            yield "sources", {**parts, "health": view.health, "message": view.message}

    def publish(self, kind: str, data: Any) -> None:
        """Send an event to all listeners; call it in the event loop's thread only."""
        if kind == "rights":
            for listener in self._listeners:
                listener.recheck_access = True
                listener.wake.set()
            return
        event = Event(self._next, kind, _json(data))
        self._next += 1
        self._kept.append(event)
        for listener in self._listeners:
            listener.put(event)

    # --- streams -----------------------------------------------------------------------------------------------------

    async def stream(
        self, last_id: str | None = None, *, may: Callable[[], Awaitable[bool]] | None = None
    ) -> AsyncIterator[bytes]:
        """Return the events from now on, or those after one, in wire format.

        Parameters
        ----------
        last_id : str, optional
            Id of the last event received; where it is no longer known, a ``reset`` comes first.
        may : callable, optional
            Whether the listener still has access; called at each heartbeat, and when anybody's access was revoked.

        Raises
        ------
        TooManyListenersError
            At once.
        """
        if len(self._listeners) >= MOST_LISTENERS:
            raise TooManyListenersError(f"too many open event streams, the limit is {MOST_LISTENERS}; try again later")
        return self._stream(last_id, may)

    async def _stream(self, last_id: str | None, may: Callable[[], Awaitable[bool]] | None) -> AsyncIterator[bytes]:
        listener = _Listener()
        missed = self._missed_since(last_id)
        self._listeners.add(listener)
        self._wake.set()
        try:
            yield b"retry: 2000\n\n"
            yield self._unnumbered("hello", {"time": datetime.now().astimezone()})
            if missed is None:
                yield self._unnumbered("reset", {"why": "events were missed while disconnected"})
            for event in missed or ():
                yield event.encode(self._epoch)
            async for chunk in self._chunks(listener, may):
                yield chunk
        finally:
            self._listeners.discard(listener)

    async def _chunks(self, listener: _Listener, may: Callable[[], Awaitable[bool]] | None) -> AsyncIterator[bytes]:
        # Each round: check access before anything is sent, then a reset for a lost queue, then the events since it.
        while not self._ended:
            is_silent = not await self._wait(listener)
            if self._ended:
                break
            if (is_silent or listener.recheck_access) and may is not None:
                listener.recheck_access = False
                if not await may():
                    yield self._unnumbered("bye", {"why": "the token or session is no longer valid"})
                    return
            if listener.missed:
                listener.missed = False
                yield self._unnumbered("reset", {"why": "events came faster than they were read"})
            while listener.waiting:
                yield listener.waiting.popleft().encode(self._epoch)
            if is_silent:
                yield b": still here\n\n"

    async def _wait(self, listener: _Listener) -> bool:
        """Wait until the listener has something to do; return False where a heartbeat is due first."""
        try:
            await asyncio.wait_for(listener.wake.wait(), self._heartbeat_s)
        except TimeoutError:
            return False
        listener.wake.clear()
        return True

    def _missed_since(self, last_id: str | None) -> list[Event] | None:
        """Return the events after one; None where some are no longer kept."""
        if not last_id:
            return []
        # An id is EPOCH-NUMBER. Numbers start at 1 in each process, so that those of another epoch mean nothing here.
        epoch, _, number = last_id.partition("-")
        if epoch != self._epoch or not (number.isascii() and number.isdecimal() and len(number) < 19):
            return None
        first = self._kept[0].number if self._kept else self._next
        after = int(number)
        return [event for event in self._kept if event.number > after] if first - 1 <= after < self._next else None

    def _unnumbered(self, kind: str, data: Any) -> bytes:
        """Return an event of one stream only; its id is that of the latest event, where a reconnect continues."""
        return Event(self._next - 1, kind, _json(data)).encode(self._epoch)


def _visible_health(view: SourcesView) -> Any:
    """Return what a page shows of the health, without times: a passing minute alone is no event."""
    sources = [(one.name, one.health, one.n_flows, one.n_alerts, one.n_lost, one.flows_per_s) for one in view.sources]
    sinks = [(one.name, one.health, one.n_delivered, one.n_waiting, one.n_dead, one.n_lost) for one in view.sinks]
    return sources, sinks


def _json(data: Any) -> str:
    return json.dumps(data, default=datetime.isoformat, separators=(",", ":"))
