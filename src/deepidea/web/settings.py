"""Configuration of the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepidea.errors import DataError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """What to serve, and where.

    Parameters
    ----------
    store
        URL of the store; :func:`~deepidea.detection.runner.default_store` where empty. Made where there is none.
    model
        Detector file: for the detections on ``sources``, and to explain alerts.
    sources, sinks, allow, follow, source_options, home, thresholds, flow_alerts
        Detections of this process, see :class:`~deepidea.detection.runner.DetectionConfig`.
    host, port, host_names
        Where to listen, and further names that requests may use as their host, without wildcards.
    tls_cert, tls_key
        Files of a certificate and its key (PEM).
    secure_cookies, forwarded_allow_ips
        For a proxy that terminates TLS: session cookies for https only, and addresses of trusted proxies, with commas.
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
    home: tuple[str, ...] = ()
    thresholds: Path | None = None
    flow_alerts: bool = False
    host: str = "127.0.0.1"
    port: int = 8350
    host_names: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    secure_cookies: bool = False
    forwarded_allow_ips: str = ""
    open_metrics: bool = False

    def __post_init__(self) -> None:
        if wild := [name for name in self.host_names if "*" in name]:
            raise DataError(f"--host-name takes full names, got {wild[0]!r}; give it once for each name")

    @property
    def is_https(self) -> bool:
        """Whether browsers reach the server by https: TLS ends here or in a proxy."""
        return self.secure_cookies or self.tls_cert is not None

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Hosts that a request may name, which keeps out names that DNS rebinding points here; IPv6 in brackets."""
        names = {name.strip("[]") for name in (*LOOPBACK, self.host, *self.host_names) if name not in EVERYWHERE}
        return tuple(f"[{name}]" if ":" in name else name for name in sorted(names))
