"""Limits of requests: size and time of a body, attempts to log in; and the headers that restrict browsers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 1 << 20
MOST_UPLOADED = 64 << 20
UPLOADS = ("/api/v1/models", "/models")
MOST_URL = 8192
MOST_HEAD_BYTES = 32 << 10
DRAINED_BYTES, DRAINED_S = 4 << 20, 2.0  # read and discarded of a refused request
BODY_WITHIN_S, UPLOAD_WITHIN_S = 30.0, 600.0

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
    # Not "no-referrer": with it browsers send "Origin: null" with our own forms, too (Fetch, "append a request Origin
    # header"), and refuse_other_origin needs the origin. Other sites get no referrer either way.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class SecurityHeaders:
    """Adds security headers; a response is not cached unless it sets ``Cache-Control`` itself."""

    def __init__(self, app: ASGIApp, *, tls: bool = False) -> None:
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


class LimitedBodies:
    """Refuses requests that are too large or too slow as soon as that shows, whatever they declare.

    Parameters
    ----------
    app
    may_upload
        Whether the sender may upload a detector file; called before any of the body is read.
    """

    def __init__(self, app: ASGIApp, *, may_upload: Callable[[Request], Awaitable[bool]]) -> None:
        self.app, self.may_upload = app, may_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_bytes, timeout_s = await self._limits(scope)
        if (refusal := _refusal(scope, max_bytes)) is not None:
            await _drain(receive)
            await refusal(scope, receive, send)
            return
        await self.app(scope, _LimitedBody(receive, max_bytes, timeout_s), send)

    async def _limits(self, scope: Scope) -> tuple[int, float]:
        is_upload = scope["method"] in ("POST", "PUT") and scope["path"].rstrip("/") in UPLOADS
        if is_upload and await self.may_upload(Request(scope)):
            return MOST_UPLOADED, UPLOAD_WITHIN_S
        return MOST_BYTES, BODY_WITHIN_S


def _refusal(scope: Scope, max_bytes: int) -> PlainTextResponse | None:
    """Return the answer to a request whose address, headers or declared length are over a limit."""
    if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > MOST_URL:
        return PlainTextResponse(f"the address is longer than {MOST_URL} bytes", 414)
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEAD_BYTES:
        return PlainTextResponse(f"the headers are longer than {MOST_HEAD_BYTES} bytes", 431)
    declared = Headers(scope=scope).get("content-length", "0")
    if not declared.isdecimal() or int(declared) > max_bytes:
        return PlainTextResponse(_too_large(max_bytes), 413, {"Connection": "close"})
    return None


def _too_large(max_bytes: int) -> str:
    return f"the request body is larger than {max_bytes:,} bytes"


class _LimitedBody:
    """Receives the messages of a request's body while they are within the limits of size and time."""

    def __init__(self, receive: Receive, max_bytes: int, timeout_s: float) -> None:
        self.receive, self.max_bytes, self.timeout_s = receive, max_bytes, timeout_s
        self.n_bytes, self.is_complete = 0, False
        self.deadline = asyncio.get_running_loop().time() + timeout_s

    async def __call__(self) -> Message:
        """Return the next message."""
        if self.is_complete:  # what follows is the disconnect, which may come as late as the answer ends
            return await self.receive()
        try:
            async with asyncio.timeout_at(self.deadline):
                message = await self.receive()
        except TimeoutError as error:
            detail = f"the request body took longer than {self.timeout_s:g} s"
            raise HTTPException(408, detail, {"Connection": "close"}) from error
        self.n_bytes += len(message.get("body", b""))
        self.is_complete = not message.get("more_body", False)
        if self.n_bytes > self.max_bytes:
            if not self.is_complete:
                await _drain(self.receive)
            raise HTTPException(413, _too_large(self.max_bytes), {"Connection": "close"})
        return message


async def _drain(receive: Receive) -> None:
    """Discard what is still being sent, for a while: closing at once would reset the client before it reads why."""
    n_bytes, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAINED_S):
            while more and n_bytes < DRAINED_BYTES:
                message = await receive()
                n_bytes += len(message.get("body", b""))
                more = message.get("more_body", False)


class LoginLimit:
    """Limits attempts by address and in total within a sliding window, in bounded memory.

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
        """Count an attempt and return 0; over the limit, return the seconds to wait and do not count it."""
        # Sliding window: each deque holds the times of its latest attempts, as many as are allowed in the window. Where
        # it is full, the next attempt is allowed when its oldest time leaves the window.
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
        """Remove the last attempt of an address, which succeeded."""
        with self._lock:
            for times in (self._all, self._of.get(address)):
                if times:
                    times.pop()
