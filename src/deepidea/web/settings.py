"""How a server is to run, as its options say."""

from __future__ import annotations

from dataclasses import dataclass

from deepidea.store.access import IDLE_S, LASTS_S

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")


@dataclass(frozen=True, slots=True)
class WebSettings:
    """How a server is to run.

    Parameters
    ----------
    host, port
        Where it listens.
    host_names
        Names that requests may call it by, besides loopback's and ``host``.
    tls
        Whether it speaks TLS itself.
    secure_cookies
        Whether browsers may send the session over https alone: with TLS, or behind a proxy that speaks it.
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

    @property
    def names(self) -> tuple[str, ...]:
        """What requests may call the server; an address that stands for all addresses is no name."""
        own = () if self.host in EVERYWHERE else (self.host,)
        return (*LOOPBACK, *own, *self.host_names)
