"""The server from its options to its end: store, detections, sockets."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepidea.detection.store import Store, open_store
from deepidea.detection.watch import Setting, default_store
from deepidea.errors import DataError, MissingExtraError, SourceError
from deepidea.model.detector import Detector

STOPS_WITHIN_S = 5


@dataclass(frozen=True, slots=True)
class Serving:
    """What to serve, and where.

    Parameters
    ----------
    store
        URL of the store; :func:`~deepidea.detection.watch.default_store` where empty. Made where there is none.
    model
        Detector file: to watch ``sources`` with, and to explain alerts.
    sources, sinks, allow, follow
        What to watch in this process, see :class:`~deepidea.detection.watch.Setting`.
    host, port, host_names
        Where to listen, and what browsers call it.
    tls_cert, tls_key
        Files of a certificate and its key.
    secure_cookies, forwarded_allow_ips
        For a proxy that speaks https.
    open_metrics
        Whether ``/metrics`` needs no token.
    """

    store: str = ""
    model: Path | None = None
    sources: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()
    allow: Path | None = None
    follow: bool = True
    host: str = "127.0.0.1"
    port: int = 8350
    host_names: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    secure_cookies: bool = False
    forwarded_allow_ips: str = ""
    open_metrics: bool = False


def serve_until(stop: threading.Event, serving: Serving, *, on_start: Callable[..., None] | None = None) -> None:
    """Serve until ``stop`` is set; then end what is under way, and the detections with all that they read stored.

    Parameters
    ----------
    stop : threading.Event
    serving : Serving
    on_start : callable, optional
        Called as ``on_start(url, store, needs_login=...)`` when requests are answered.

    Raises
    ------
    DeepIDEAError
        Before anything is served: the store, the detector, a source, the certificate or the port cannot be used, or
        others could reach a server that no token guards.
    """
    server_of = _server_type()
    detector = None if serving.model is None else Detector.load(serving.model)
    if serving.sources and detector is None:
        raise DataError("a source needs a detector, however: none is named; give --model")
    _check_certificate(serving)
    with open_store(serving.store or default_store()) as store, _listening(serving) as listener:
        _refuse_unguarded(serving, store)
        engines = _started(serving, store, detector)
        try:
            server = server_of(_app(serving, store, engines, detector), listener, serving)
            _run(server, listener, stop, lambda: _tell(on_start, serving, listener, store))
        finally:
            engines.stop()


def _server_type() -> Callable[..., Any]:
    try:
        import fastapi  # noqa: F401
        import jinja2  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise MissingExtraError(
            f"the page needs FastAPI and its companions, however: {error}; install them with: "
            "pip install 'deepidea[serve]'"
        ) from error

    def make(app: Any, listener: socket.socket, serving: Serving) -> uvicorn.Server:
        config = uvicorn.Config(
            app,
            fd=listener.fileno(),
            log_level="warning",
            access_log=False,
            server_header=False,
            ssl_certfile=serving.tls_cert,
            ssl_keyfile=serving.tls_key,
            proxy_headers=bool(serving.forwarded_allow_ips),
            forwarded_allow_ips=serving.forwarded_allow_ips or None,
            timeout_graceful_shutdown=STOPS_WITHIN_S,
            h11_max_incomplete_event_size=64 << 10,
        )
        return uvicorn.Server(config)

    return make


def _app(serving: Serving, store: Store, engines: Any, detector: Detector | None) -> Any:
    from deepidea.web.app import create_app
    from deepidea.web.settings import WebSettings

    settings = WebSettings(
        host=serving.host,
        port=serving.port,
        host_names=serving.host_names,
        tls=serving.tls_cert is not None,
        secure_cookies=serving.secure_cookies or serving.tls_cert is not None,
        open_metrics=serving.open_metrics,
    )
    return create_app(store, settings=settings, engines=engines, detector=detector)


def _started(serving: Serving, store: Store, detector: Detector | None) -> Any:
    from deepidea.web.engines import Engines

    engines = Engines()
    if detector is not None and serving.sources:
        setting = Setting(
            store=serving.store or default_store(), sinks=serving.sinks, allow=serving.allow, follow=serving.follow
        )
        engines.start(serving.sources, detector, setting)
    return engines


def _check_certificate(serving: Serving) -> None:
    if (serving.tls_cert is None) != (serving.tls_key is None):
        raise DataError("TLS takes a certificate and its key, however: one is missing; give --tls-cert and --tls-key")
    if serving.tls_cert is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(serving.tls_cert, serving.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise DataError(f"a certificate and its key must be readable and fit, however: {error}") from error


@contextlib.contextmanager
def _listening(serving: Serving) -> Iterator[socket.socket]:
    """Yield a socket that listens, so that a port that is taken is found out before anything starts."""
    try:
        family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
        listener = socket.create_server((serving.host, serving.port), family=family, backlog=2048)
    except OSError as error:
        raise SourceError(
            f"the server must be able to listen at {serving.host} port {serving.port}, however: {error.strerror}; "
            "choose another --port or --host"
        ) from error
    with listener:
        yield listener


def _refuse_unguarded(serving: Serving, store: Store) -> None:
    if serving.host not in ("127.0.0.1", "::1", "localhost") and not store.has_tokens():
        raise DataError(
            f"a server that others can reach must have a token, however: {serving.host} is no loopback address and the "
            "store has no token; run: deepidea tokens add NAME --role admin"
        )


def _run(server: Any, listener: socket.socket, stop: threading.Event, on_start: Callable[[], None]) -> None:
    """Run the server in a thread of its own, where it takes no signals, and end it when it is to stop."""
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), name="deepidea-serve")
    thread.start()
    try:
        while not server.started and thread.is_alive():
            stop.wait(0.01)
        on_start()
        while not stop.wait(0.2) and thread.is_alive():
            pass
    finally:
        server.should_exit = True
        thread.join(2 * STOPS_WITHIN_S)


def _tell(on_start: Callable[..., None] | None, serving: Serving, listener: socket.socket, store: Store) -> None:
    if on_start is not None:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else "localhost" if host == "127.0.0.1" else host
        scheme = "http" if serving.tls_cert is None else "https"
        on_start(f"{scheme}://{shown}:{port}/", store.url, needs_login=store.has_tokens())
