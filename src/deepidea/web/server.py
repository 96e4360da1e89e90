"""The HTTP server: uvicorn, ended from outside, patient with nobody who sends half a request."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from deepidea.web.security import MOST_HEAD_BYTES

HEAD_WITHIN_S = 10.0
MOST_CONNECTIONS = 1_000
STOPS_WITHIN_S = 3


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that hangs up on whoever does not send the head of a request in time; uvicorn would wait for ever."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        # asyncio does it for sockets that say they are TCP, which those of a listener made by hand do not: head and
        # body are written one after the other, and the body would wait for the head's acknowledgement, 40 ms
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what came; wait on where it is no whole head."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._wait(ends=True)
        elif self._patience is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._wait(ends=True)
        super().connection_lost(exc)

    def _wait(self, *, ends: bool = False) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None if ends else self.loop.call_later(HEAD_WITHIN_S, self.transport.close)


class PageServer(uvicorn.Server):
    """A server that ends when an event is set, as it does on a signal, and ends its streams first.

    Parameters
    ----------
    app : FastAPI
        Of :func:`deepidea.web.app.create_app`.
    stop : threading.Event
    on_start : callable, optional
        Called when requests are answered.
    tls_cert, tls_key : path, optional
    proxies : str
        Addresses, or blocks, of proxies whose word on a client's address counts, with commas.
    """

    def __init__(
        self,
        app: FastAPI,
        stop: threading.Event,
        *,
        on_start: Callable[[], None] = lambda: None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        proxies: str = "",
    ) -> None:
        config = uvicorn.Config(
            app,
            http=PatientProtocol,
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            ssl_certfile=tls_cert,
            ssl_keyfile=tls_key,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=proxies or "127.0.0.1",
            timeout_graceful_shutdown=STOPS_WITHIN_S,
            h11_max_incomplete_event_size=MOST_HEAD_BYTES,
            limit_concurrency=MOST_CONNECTIONS,
        )
        super().__init__(config)
        self._state, self._stop, self._on_start = app.state, stop, on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._on_start()

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end."""
        return self._stop.is_set() or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End: streams first, which would keep it waiting."""
        live: Any = getattr(self._state, "live", None)
        if live is not None:
            live.stop()
        await super().shutdown(sockets)
