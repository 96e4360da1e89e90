"""Servers for sinks: real ones on the loopback that keep what they get, can go down, and come up on the same port."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def eventually(holds: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait for something to be so."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.01)


class Receiver:
    """Keeps messages of TCP connections or datagrams; ``up`` and ``down`` at will."""

    def __init__(self, kind: str, *, context: ssl.SSLContext | None = None) -> None:
        self.kind, self.context = kind, context
        self.messages: list[bytes] = []
        self.port = 0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._socket: socket.socket | None = None

    def up(self) -> None:
        udp = self.kind == "udp"
        self._stop.clear()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", self.port))
        self.port = self._socket.getsockname()[1]
        self._socket.settimeout(0.02)
        if not udp:
            self._socket.listen()
        self._begin(self._datagrams if udp else self._accept, self._socket)

    def _begin(self, work: Callable[[socket.socket], None], connection: socket.socket) -> None:
        thread = threading.Thread(target=work, args=(connection,))
        thread.start()
        self._threads.append(thread)

    def _datagrams(self, server: socket.socket) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                self.messages.append(server.recv(65_536))

    def _accept(self, server: socket.socket) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError, OSError):
                connection, _ = server.accept()
                connection.settimeout(5)
                if self.context is not None:
                    try:
                        connection = self.context.wrap_socket(connection, server_side=True)
                    except OSError:
                        connection.close()
                        continue
                self._begin(self._stream, connection)

    def _stream(self, connection: socket.socket) -> None:
        pending = b""
        connection.settimeout(0.02)
        with connection:
            while not self._stop.is_set():
                try:
                    data = connection.recv(65_536)
                except TimeoutError:
                    continue
                except OSError:
                    return
                if not data:
                    return
                pending = self._take(pending + data)

    def _take(self, data: bytes) -> bytes:
        """Keep whole messages of what came, by their octet counts, and return the rest."""
        while b" " in data[:12]:
            count, _, rest = data.partition(b" ")
            if len(rest) < int(count):
                break
            self.messages.append(rest[: int(count)])
            data = rest[int(count) :]
        return data

    def down(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        self._threads.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Webhook:
    """Keeps alerts that are posted to it; answers ``status``, or refuses alerts that hold ``poison``."""

    def __init__(self, *, context: ssl.SSLContext | None = None) -> None:
        self.alerts: list[Any] = []
        self.requests: list[dict[str, str]] = []
        self.status, self.poison = 200, ""
        self.context, self.port = context, 0
        self._server: http.server.ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    def up(self) -> None:
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                refused = owner.poison and owner.poison in body
                status = 400 if refused else owner.status
                if status == 200:
                    owner.alerts += json.loads(body)
                    owner.requests.append({**self.headers, "path": self.path})
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = False
            block_on_close = True

            def handle_error(self, *args: object) -> None:
                pass

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        if self.context is not None:
            self._server.socket = self.context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def down(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join(10)
            self._server.server_close()
            self._server = None


@contextlib.contextmanager
def receiving(server: Any) -> Iterator[Any]:
    """Run a server for the length of a block."""
    server.up()
    try:
        yield server
    finally:
        server.down()


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return the file of a self-signed certificate for 127.0.0.1, and a server's context with it."""
    key, made = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", key, "-out", made]
    subprocess.run([*command.split(), *names], check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    return made, context
