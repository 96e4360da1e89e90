"""The HTTP server: uvicorn that can be stopped by an event and drops clients that send a request too slowly."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from deepidea.web.security import MOST_HEAD_BYTES
from deepidea.web.settings import ServeConfig

HEAD_WITHIN_S = 10.0
MOST_CONNECTIONS = 1_000
STOPS_WITHIN_S = 3


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that disconnects a client whose request head is not complete in time; uvicorn has no such limit.

    The timer runs while h11 waits for a head: from the connection on, and again when the first byte after an answer
    arrives. It stops once the head is complete; the body has a limit of its own (:class:`LimitedBodies`).
    """

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first request."""
        super().connection_made(transport)
        # asyncio sets it only where the socket's proto is TCP, which is not so for a listener made by hand. Without it
        # the body, written after the head, waits for the head's delayed acknowledgement: 40 ms (RFC 1122, 4.2.3.2).
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Stop the timer once the head is complete."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._wait(ends=True)
        elif self._patience is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._wait(ends=True)
        super().connection_lost(exc)

    def _wait(self, *, ends: bool = False) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None if ends else self.loop.call_later(HEAD_WITHIN_S, self.transport.close)


class PageServer(uvicorn.Server):
    """A server that ends when an event is set, as it does on a signal, and ends its event streams first.

    Parameters
    ----------
    app : FastAPI
        Of :func:`deepidea.web.app.create_app`.
    stop : threading.Event
    settings : ServeConfig
        Certificate, and proxies whose word on a client's address counts.
    on_start : callable, optional
        Called when requests are answered.
    """

    def __init__(
        self,
        app: FastAPI,
        stop: threading.Event,
        settings: ServeConfig | None = None,
        *,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        settings = settings or ServeConfig()
        config = uvicorn.Config(
            app,
            http=PatientProtocol,
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
            proxy_headers=bool(settings.forwarded_allow_ips),
            forwarded_allow_ips=settings.forwarded_allow_ips or "127.0.0.1",
            timeout_graceful_shutdown=STOPS_WITHIN_S,
            h11_max_incomplete_event_size=MOST_HEAD_BYTES,
            limit_concurrency=MOST_CONNECTIONS,
        )
        super().__init__(config)
        self._state, self._stop, self._on_start = app.state, stop, on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer requests."""
        await super().startup(sockets)
        self._on_start()

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end."""
        return self._stop.is_set() or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the event streams, which would never end by themselves, then the server."""
        self._state.live.stop()
        await super().shutdown(sockets)
