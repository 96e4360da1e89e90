"""Runs the server: opens the store and the socket, starts detections, and ends them in order."""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from deepidea.detection.models import detector_of
from deepidea.detection.runner import DetectionConfig, default_store
from deepidea.detection.starter import load_starter
from deepidea.errors import DataError, MissingExtraError, SourceError
from deepidea.model.detector import Detector
from deepidea.store import models
from deepidea.store.access import has_tokens
from deepidea.store.store import Store, open_store
from deepidea.web.engines import Engines
from deepidea.web.settings import EVERYWHERE, ServeConfig

if TYPE_CHECKING:
    from fastapi import FastAPI


def serve_until(stop: threading.Event, config: ServeConfig, *, on_start: Callable[..., None] | None = None) -> None:
    """Serve until ``stop`` is set; then end open requests, and the detections with all that they read stored.

    Parameters
    ----------
    stop : threading.Event
    config : ServeConfig
        Sources and sinks ``kafka://`` and ``redis://`` need
        :func:`deepidea.adapters.registration.register_adapters` first, which the command line calls.
    on_start : callable, optional
        Called as ``on_start(url, store, needs_login=...)`` when requests are answered.

    Raises
    ------
    DeepIDEAError
        Before anything is served: the store, the detector, a source, the certificate or the port cannot be used, or
        others could reach a server without a token.
    """
    _require_extra()
    from deepidea.web.app import create_app

    own = None if config.model is None else Detector.load(config.model)
    _check_certificate(config)
    with open_store(config.store or default_store()) as store, _listening(config) as listener:
        address = listener.getsockname()[0]
        _refuse_unguarded(config, address, store)
        detector = own or (_active(store) if config.sources else None)
        with _detecting(config, store, detector) as engines:
            settings = replace(config, host_names=(*config.host_names, address))
            name = config.model.name if config.model else ""
            app = create_app(store, settings=settings, engines=engines, detector=own, detector_name=name)
            _run(app, config, listener, stop, on_start)


def _active(store: Store) -> Detector:
    """Return the active model of a store, for sources without a detector file; the starter where none is."""
    active = store.query(models.active)
    return load_starter() if active is None else detector_of(store, active.model_id)


def _require_extra() -> None:
    try:
        for name in ("fastapi", "jinja2", "prometheus_client", "python_multipart", "uvicorn"):
            importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"cannot serve: {error}; run: pip install 'deepidea[serve]'") from error


_OF_DETECTION = ("model", "sinks", "allow", "follow", "source_options", "home", "thresholds", "flow_alerts")


@contextlib.contextmanager
def _detecting(config: ServeConfig, store: Store, detector: Detector | None) -> Iterator[Engines]:
    """Run the detections; at the end, stop them with all that they read stored."""
    engines = Engines()
    try:
        if detector is not None and config.sources:
            shared = {name: getattr(config, name) for name in _OF_DETECTION}
            url = config.store or default_store()
            engines.start([DetectionConfig(source, store=url, **shared) for source in config.sources], detector, store)
        yield engines
    finally:
        engines.stop()


def _check_certificate(config: ServeConfig) -> None:
    if (config.tls_cert is None) != (config.tls_key is None):
        raise DataError("TLS needs a certificate and its key; give both --tls-cert and --tls-key")
    if config.tls_cert is not None:
        try:
            # an empty password, or OpenSSL would ask for one at the terminal
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(config.tls_cert, config.tls_key, "")
        except (OSError, ValueError) as error:
            raise DataError(f"cannot use {config.tls_cert} with {config.tls_key}: {error}") from error


@contextlib.contextmanager
def _listening(config: ServeConfig) -> Iterator[socket.socket]:
    """Yield a listening socket; a port that is taken is an error before anything starts."""
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        listener = socket.create_server((config.host, config.port), family=family, backlog=2048)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise SourceError(
            f"cannot listen at {config.host} port {config.port}: {why}; choose another --port or --host"
        ) from error
    with listener:
        yield listener


def _refuse_unguarded(config: ServeConfig, address: str, store: Store) -> None:
    """Refuse to let others in while the store has no token, when everyone on this machine is an admin."""
    is_proxied = bool(config.forwarded_allow_ips) or config.secure_cookies
    if (ipaddress.ip_address(address).is_loopback and not is_proxied) or store.query(has_tokens):
        return
    reason = "a proxy lets others in" if is_proxied else f"{address} is no loopback address"
    raise DataError(
        f"others could reach the server, and the store has no token: {reason}; run: "
        "deepidea tokens add NAME --role admin"
    )


def _run(
    app: FastAPI,
    config: ServeConfig,
    listener: socket.socket,
    stop: threading.Event,
    on_start: Callable[..., None] | None,
) -> None:
    from deepidea.web.server import PageServer

    store: Store = app.state.store

    def report_start() -> None:
        if on_start is not None:
            on_start(_url(config, listener), store.url, needs_login=store.query(has_tokens))

    PageServer(app, stop, config, on_start=report_start).run(sockets=[listener])


def _url(config: ServeConfig, listener: socket.socket) -> str:
    """Return an address that a browser on this machine, or one that knows the server's name, can open."""
    host, port = listener.getsockname()[:2]
    local = "localhost" if host in ("127.0.0.1", *EVERYWHERE) else host
    name = config.host_names[0] if config.host_names else local
    shown = f"[{name}]" if ":" in name else name
    return f"{'http' if config.tls_cert is None else 'https'}://{shown}:{port}/"
