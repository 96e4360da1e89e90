"""A real server of the page on a free port of loopback, in a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI

from deepidea.store.access import Role
from deepidea.web.access import unmasked
from deepidea.web.app import create_app
from deepidea.web.server import PageServer
from deepidea.web.settings import ServeConfig
from tests.stores import Store


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs: its address, its application, and its store."""

    url: str
    app: FastAPI
    store: Store
    stop: threading.Event

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.rpartition("/")[2].partition(":")
        return host, int(port)

    def token(self, role: Role, **options: Any) -> str:
        """Return the secret of a new token."""
        return self.store.add_token(f"{role}-{len(self.store.tokens())}", role, **options)[1]

    def program(self, role: Role) -> httpx.Client:
        """Return a client that sends a token."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.token(role)}"}, timeout=60)

    @contextlib.contextmanager
    def browser(self, role: Role | None = None) -> Iterator[httpx.Client]:
        """Yield a client that does what browsers do; logged in where a role is given."""
        with httpx.Client(base_url=self.url, headers={"Origin": self.url, "Sec-Fetch-Site": "same-origin"}) as client:
            if role is not None:
                assert client.post("/login", data={"token": self.token(role)}).status_code == 303
            yield client

    def csrf(self, client: httpx.Client) -> str:
        """Return the secret that the pages of a browser carry."""
        session = self.store.find_session(client.cookies["deepidea"])
        assert session is not None
        return unmasked(session.csrf).decode()


@contextlib.contextmanager
def running(
    store: Store, *, settings: ServeConfig | None = None, routers: Sequence[APIRouter] = (), **options: Any
) -> Iterator[Served]:
    """Yield a server over a store; it is stopped at the end."""
    app = create_app(store, settings=settings, **options)
    for router in routers:
        app.include_router(router)
    stop, begun = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = PageServer(app, stop, on_start=begun.set)
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        thread.start()
        try:
            assert begun.wait(20)
            yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", app, store, stop)
        finally:
            stop.set()
            thread.join(60)
            assert not thread.is_alive()
