"""The server from its options to its end: store, detections, sockets."""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepidea.detection.models import detector_of
from deepidea.detection.runner import DetectionConfig, default_store
from deepidea.errors import DataError, MissingExtraError, SourceError
from deepidea.model.detector import Detector
from deepidea.store.store import Store, open_store
from deepidea.web.engines import Engines

if TYPE_CHECKING:
    from fastapi import FastAPI


@dataclass(frozen=True, slots=True)
class Serving:
    """What to serve, and where.

    Parameters
    ----------
    store
        URL of the store; :func:`~deepidea.detection.runner.default_store` where empty. Made where there is none.
    model
        Detector file: to watch ``sources`` with, and to explain alerts.
    sources, sinks, allow, follow
        What to detect in this process, see :class:`~deepidea.detection.runner.DetectionConfig`.
    source_options
        For the constructor of each source.
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
    follow: bool = False
    source_options: Mapping[str, Any] = field(default_factory=dict)
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
    _require_extra()
    own = None if serving.model is None else Detector.load(serving.model)
    _check_certificate(serving)
    with open_store(serving.store or default_store()) as store, _listening(serving) as listener:
        _refuse_unguarded(serving, listener, store)
        detector = own or (_active(store) if serving.sources else None)
        with _watching(serving, store, detector) as engines:
            _run(_app(serving, listener, store, engines, own), serving, listener, stop, on_start)


def _active(store: Store) -> Detector:
    """Return the active model of a store, which watches where no detector file is named."""
    active = store.active_model()
    if active is None:
        raise DataError(
            "a source needs a detector, however: none is named, and the store has no active model; give --model, or "
            "run deepidea models add FILE and deepidea models activate ID"
        )
    return detector_of(store, active.model_id)


def _require_extra() -> None:
    try:
        for name in ("fastapi", "jinja2", "plotly", "prometheus_client", "python_multipart", "uvicorn"):
            importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"the page needs FastAPI and its companions, however: {error}; install them with: "
            "pip install 'deepidea[serve]'"
        ) from error


def _app(
    serving: Serving, listener: socket.socket, store: Store, engines: Engines, detector: Detector | None
) -> FastAPI:
    from deepidea.web.app import create_app
    from deepidea.web.settings import WebSettings

    host, port = listener.getsockname()[:2]
    name = serving.model.name if serving.model else ""
    settings = WebSettings(
        host=host,
        port=port,
        host_names=(serving.host, *serving.host_names),
        tls=serving.tls_cert is not None,
        secure_cookies=serving.secure_cookies or serving.tls_cert is not None,
        open_metrics=serving.open_metrics,
    )
    return create_app(store, settings=settings, engines=engines, detector=detector, detector_name=name)


@contextlib.contextmanager
def _watching(serving: Serving, store: Store, detector: Detector | None) -> Iterator[Engines]:
    """Run the detections, and end them with all that they read stored."""
    engines = Engines()
    try:
        if detector is not None and serving.sources:
            shared = DetectionConfig(
                source="",
                model=serving.model,
                store=serving.store or default_store(),
                sinks=serving.sinks,
                allow=serving.allow,
                follow=serving.follow,
                source_options=serving.source_options,
            )
            engines.start([replace(shared, source=source) for source in serving.sources], detector, store)
        yield engines
    finally:
        engines.stop()


def _check_certificate(serving: Serving) -> None:
    if (serving.tls_cert is None) != (serving.tls_key is None):
        raise DataError("TLS takes a certificate and its key, however: one is missing; give --tls-cert and --tls-key")
    if serving.tls_cert is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                serving.tls_cert,
                serving.tls_key,
                password="",  # or it would ask at the terminal
            )
        except (OSError, ValueError) as error:
            raise DataError(f"a certificate and its key must be readable and fit, however: {error}") from error


@contextlib.contextmanager
def _listening(serving: Serving) -> Iterator[socket.socket]:
    """Yield a socket that listens, so that a port that is taken is found out before anything starts."""
    try:
        family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
        listener = socket.create_server((serving.host, serving.port), family=family, backlog=2048)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise SourceError(
            f"the server must be able to listen at {serving.host} port {serving.port}, however: {why}; "
            "choose another --port or --host"
        ) from error
    with listener:
        yield listener


def _refuse_unguarded(serving: Serving, listener: socket.socket, store: Store) -> None:
    """Refuse to let others in while no token exists, when everyone on this machine is an admin."""
    host = listener.getsockname()[0]
    is_proxied = bool(serving.forwarded_allow_ips) or serving.secure_cookies
    if (ipaddress.ip_address(host).is_loopback and not is_proxied) or store.has_tokens():
        return
    reached = "a proxy lets others in" if is_proxied else f"{host} is no loopback address"
    raise DataError(
        f"a server that others can reach must have a token, however: {reached}, and the store has no token; run: "
        "deepidea tokens add NAME --role admin"
    )


def _run(
    app: FastAPI, serving: Serving, listener: socket.socket, stop: threading.Event, on_start: Callable[..., None] | None
) -> None:
    from deepidea.web.server import PageServer

    def tell() -> None:
        if on_start is not None:
            on_start(_url(serving, listener), app.state.store.url, needs_login=app.state.store.has_tokens())

    server = PageServer(
        app,
        stop,
        on_start=tell,
        tls_cert=serving.tls_cert,
        tls_key=serving.tls_key,
        proxies=serving.forwarded_allow_ips,
    )
    server.run(sockets=[listener])


def _url(serving: Serving, listener: socket.socket) -> str:
    """Return the address that a browser on this machine, or one that knows the server's name, can open."""
    host, port = listener.getsockname()[:2]
    name = (
        serving.host_names[0] if serving.host_names else "localhost" if host in ("127.0.0.1", "0.0.0.0", "::") else host
    )
    shown = f"[{name}]" if ":" in name else name
    return f"{'http' if serving.tls_cert is None else 'https'}://{shown}:{port}/"
