"""Settings of the server."""

from __future__ import annotations

from dataclasses import dataclass

from deepidea.errors import DataError
from deepidea.store.access import IDLE_S, LASTS_S

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")


@dataclass(frozen=True, slots=True)
class WebSettings:
    """Settings of the server.

    Parameters
    ----------
    host, port
        Where it listens.
    host_names
        Further names that requests may use as their host, without wildcards.
    tls
        Whether the server terminates TLS.
    secure_cookies
        Whether the session cookie is for https only: with TLS here or in a proxy.
    open_metrics
        Whether ``/metrics`` needs no token.
    session_s, idle_s
        How long a login lasts, in all and without a request, in seconds.
    """

    host: str = "127.0.0.1"
    port: int = 8350
    host_names: tuple[str, ...] = ()
    tls: bool = False
    secure_cookies: bool = False
    open_metrics: bool = False
    session_s: float = LASTS_S
    idle_s: float = IDLE_S

    def __post_init__(self) -> None:
        if wild := [name for name in self.host_names if "*" in name]:
            raise DataError(f"--host-name takes full names, got {wild[0]!r}; give it once for each name")

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Hosts that a request may name, which keeps out names that DNS rebinding points here; IPv6 in brackets."""
        own = () if self.host in EVERYWHERE else (self.host,)
        names = {name.strip("[]") for name in (*LOOPBACK, *own, *self.host_names) if name not in EVERYWHERE}
        return tuple(f"[{name}]" if ":" in name else name for name in sorted(names))
