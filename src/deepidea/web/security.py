"""What surrounds every request: which hosts it may name, how large it may be, and what browsers are told to allow."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
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
    """Refuses requests that are too large, as soon as that shows, told beforehand or not."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > MOST_URL:
            await PlainTextResponse("the address is too long", 414)(scope, receive, send)
            return
        most = MOST_UPLOADED if scope["path"].startswith(UPLOADS) else MOST_BYTES
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or int(declared) > most:
            await self._refuse(scope, receive, send, most)
            return
        await self._run(scope, receive, send, most)

    async def _run(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        n_bytes = 0

        async def counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > most:
                raise HTTPException(413, _too_large(most))
            return message

        await self.app(scope, counted, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        await PlainTextResponse(_too_large(most), 413, {"Connection": "close"})(scope, receive, send)


def _too_large(most: int) -> str:
    return f"a request may hold at most {most:,} bytes, however: this one holds more"


class LoginLimit:
    """Counts logins that failed, by address and in all, and says how long to wait.

    Examples
    --------
    >>> limit = LoginLimit(most=2, within_s=60, most_in_all=100)
    >>> [limit.wait_s("192.0.2.7", now=0.0), limit.failed("192.0.2.7", now=0.0), limit.failed("192.0.2.7", now=1.0)]
    [0.0, None, None]
    >>> limit.wait_s("192.0.2.7", now=2.0), limit.wait_s("192.0.2.8", now=2.0)
    (58.0, 0.0)
    """

    MOST_ADDRESSES = 10_000

    def __init__(self, *, most: int = 10, within_s: float = 300.0, most_in_all: int = 500) -> None:
        self._most, self._within_s = most, within_s
        self._all: deque[float] = deque(maxlen=most_in_all)
        self._of: OrderedDict[str, deque[float]] = OrderedDict()

    def failed(self, address: str, *, now: float | None = None) -> None:
        """Count a login that failed."""
        now = time.monotonic() if now is None else now
        self._all.append(now)
        self._of.setdefault(address, deque(maxlen=self._most)).append(now)
        self._of.move_to_end(address)
        while len(self._of) > self.MOST_ADDRESSES:
            self._of.popitem(last=False)

    def wait_s(self, address: str, *, now: float | None = None) -> float:
        """Return how long this address has to wait before it may try again; 0 where it need not."""
        now = time.monotonic() if now is None else now
        kept = [times for times in (self._all, self._of.get(address)) if times and len(times) == times.maxlen]
        return max([0.0, *(times[0] + self._within_s - now for times in kept)])
