"""How a server is to run, as its options say."""

from __future__ import annotations

from dataclasses import dataclass

LOOPBACK = ("localhost", "127.0.0.1", "::1")


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
        Whether browsers may send the session over https alone; with TLS always, behind a proxy that speaks it by choice.
    open_metrics
        Whether ``/metrics`` needs no token.
    session_s
        How long a login lasts, in seconds.
    """

    host: str = "127.0.0.1"
    port: int = 8350
    host_names: tuple[str, ...] = ()
    tls: bool = False
    secure_cookies: bool = False
    open_metrics: bool = False
    session_s: float = 12 * 3600.0

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK
