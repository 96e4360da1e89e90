"""What surrounds every request: which hosts it may name, how large and slow it may be, what browsers are to allow."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 1 << 20
MOST_UPLOADED = 64 << 20
UPLOADS = ("/api/v1/models", "/models")
MOST_URL = 8192
MOST_HEAD_BYTES = 32 << 10
DRAINED_BYTES, DRAINED_S = 4 << 20, 2.0  # read and forgotten of what is refused
BODY_WITHIN_S, UPLOAD_WITHIN_S = 30.0, 600.0
STREAMS_END_S = 1.0  # for streams to say good-bye when the server ends, before they are cut

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": that makes browsers tell "Origin: null" with a form of our own, too (Fetch, "append a request
    # Origin header"), and changes are judged by it. To other sites neither tells anything.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class SecurityHeaders:
    """Adds the headers that keep a page to itself; nothing that it answers is cached unless it says so."""

    def __init__(self, app: App, *, tls: bool = False) -> None:
        self.app = app
        self.headers = {**HEADERS, **({"Strict-Transport-Security": "max-age=31536000"} if tls else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


class KnownHosts:
    """Refuses requests that name another host than this server's: a page elsewhere whose name was bent to it."""

    def __init__(self, app: App, *, names: Sequence[str]) -> None:
        self.app, self.names = app, {name.lower().strip("[]") for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and _host_of(Headers(scope=scope).get("host", "")) not in self.names:
            refused = "a request must name a host of this server, however: it names another; see --host-name"
            await PlainTextResponse(refused, 421)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _host_of(header: str) -> str:
    """Return the name in a Host header, without port and brackets.

    Examples
    --------
    >>> _host_of("[::1]:8350"), _host_of("Site.example:80"), _host_of("localhost")
    ('::1', 'site.example', 'localhost')
    """
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


class LimitedBodies:
    """Refuses requests that are too large or too slow, as soon as that shows, told beforehand or not.

    Parameters
    ----------
    app
    may_upload
        Whether whoever asks may send as much as a detector file; asked before any of it is read.
    """

    def __init__(self, app: App, *, may_upload: Callable[[Request], Awaitable[bool]]) -> None:
        self.app, self.may_upload = app, may_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most, within_s = await self._limits(scope)
        refused = _too_long(scope) or _too_large(scope, most)
        if refused is not None:
            await _drain(receive)
            await refused(scope, receive, send)
            return
        await self.app(scope, _Limited(receive, most, within_s), send)

    async def _limits(self, scope: Scope) -> tuple[int, float]:
        is_upload = scope["method"] in ("POST", "PUT") and scope["path"].rstrip("/") in UPLOADS
        if is_upload and await self.may_upload(Request(scope)):
            return MOST_UPLOADED, UPLOAD_WITHIN_S
        return MOST_BYTES, BODY_WITHIN_S


class _Limited:
    """The messages of a request's body, as long as they are few and come in time."""

    def __init__(self, receive: Receive, most: int, within_s: float) -> None:
        self.receive, self.most, self.within_s = receive, most, within_s
        self.n_bytes, self.is_whole = 0, False
        self.ends = asyncio.get_running_loop().time() + within_s

    async def __call__(self) -> Message:
        """Return the next message."""
        if self.is_whole:  # only the end of the connection is still to come, which may take as long as an answer does
            return await self.receive()
        try:
            async with asyncio.timeout_at(self.ends):
                message = await self.receive()
        except TimeoutError as error:
            told = f"a request must come within {self.within_s:g} s, however: this one did not"
            raise HTTPException(408, told, {"Connection": "close"}) from error
        self.n_bytes += len(message.get("body", b""))
        self.is_whole = not message.get("more_body", False)
        if self.n_bytes > self.most:
            if not self.is_whole:
                await _drain(self.receive)
            raise HTTPException(413, _allowed(self.most), {"Connection": "close"})
        return message


class EndingStreams:
    """Ends streams of events when the server ends, which browsers would listen to for ever.

    Parameters
    ----------
    app
    ending
        Set when the server ends.
    """

    def __init__(self, app: App, *, ending: asyncio.Event) -> None:
        self.app, self.ending = app, ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        streams, is_whole = False, False

        async def noted(message: Message) -> None:
            nonlocal streams, is_whole
            if message["type"] == "http.response.start":
                streams = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
            is_whole = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        answering = asyncio.ensure_future(self.app(scope, receive, noted))
        ending = asyncio.ensure_future(self.ending.wait())
        try:
            await asyncio.wait((answering, ending), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() and streams:
                await asyncio.wait((answering,), timeout=STREAMS_END_S)
            if not answering.done() and streams:
                answering.cancel()
                await asyncio.wait((answering,))
                if not is_whole:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            await answering
        finally:
            ending.cancel()
            answering.cancel()


async def _drain(receive: Receive) -> None:
    """Read on for a while, so that whoever still sends gets to read why nobody listens: a closed socket resets it."""
    n_bytes, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAINED_S):
            while more and n_bytes < DRAINED_BYTES:
                message = await receive()
                n_bytes += len(message.get("body", b""))
                more = message.get("more_body", False)


def _too_long(scope: Scope) -> PlainTextResponse | None:
    """Return the answer to an address, or a head, that is too long."""
    if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > MOST_URL:
        return PlainTextResponse(f"an address may have {MOST_URL} bytes, however: this one has more", 414)
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEAD_BYTES:
        return PlainTextResponse(f"a head may have {MOST_HEAD_BYTES} bytes, however: this one has more", 431)
    return None


def _too_large(scope: Scope, most: int) -> PlainTextResponse | None:
    """Return the answer to a body that says itself that it is too large."""
    declared = Headers(scope=scope).get("content-length", "0")
    if declared.isdecimal() and int(declared) <= most:
        return None
    return PlainTextResponse(_allowed(most), 413, {"Connection": "close"})


def _allowed(most: int) -> str:
    return f"a request may hold at most {most:,} bytes, however: this one holds more"


class LoginLimit:
    """Counts what somebody tries, by address and in all, and says how long to wait; in bounded memory.

    Parameters
    ----------
    most, most_in_all
        Attempts within ``within_s`` of one address, and of all.
    within_s
        In seconds.

    Examples
    --------
    >>> limit = LoginLimit(most=2, within_s=60)
    >>> [limit.attempt("192.0.2.7", now=now) for now in (0.0, 1.0, 2.0)], limit.attempt("192.0.2.8", now=2.0)
    ([0.0, 0.0, 58.0], 0.0)
    >>> limit.forgive("192.0.2.7")
    >>> limit.attempt("192.0.2.7", now=2.0)
    0.0
    """

    MOST_ADDRESSES = 10_000

    def __init__(self, *, most: int = 10, within_s: float = 300.0, most_in_all: int = 500) -> None:
        self._most, self._within_s = most, within_s
        self._all: deque[float] = deque(maxlen=most_in_all)
        self._of: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def attempt(self, address: str, *, now: float | None = None) -> float:
        """Count an attempt; where there were too many already, do not, and return how long to wait, in seconds."""
        now = time.monotonic() if now is None else now
        with self._lock:
            own = self._of.setdefault(address, deque(maxlen=self._most))
            self._of.move_to_end(address)
            while len(self._of) > self.MOST_ADDRESSES:
                self._of.popitem(last=False)
            full = [times[0] + self._within_s - now for times in (self._all, own) if len(times) == times.maxlen]
            wait_s = max([0.0, *full])
            if wait_s == 0.0:
                self._all.append(now)
                own.append(now)
        return wait_s

    def forgive(self, address: str) -> None:
        """Take back the last attempt of an address: it was right."""
        with self._lock:
            for times in (self._all, self._of.get(address)):
                if times:
                    times.pop()
