"""What a sink is, and what all sinks share: how addresses are spelled, options, errors."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Protocol
from urllib.parse import SplitResult, parse_qsl

from deepidea.errors import DataError, SinkError

TIMEOUT_S = 10.0
_IMPLIED_PORTS = {"http": 80, "https": 443}


class Sink(Protocol):
    """Where lines go. Its constructor opens nothing; the first :meth:`send` does."""

    name: str
    """Its destination in one spelling, without a password: names it in a store and on screen."""

    format: str
    """Name of the format that it takes (:data:`deepidea.detection.sinks.formats.rendering.FORMATS`)."""

    def send(self, lines: Sequence[str]) -> None:
        """Send lines, all of them or none as far as can be known.

        Raises
        ------
        SinkError
            It did not take them; the caller keeps them and sends them again. Some may have arrived.
        """

    def close(self) -> None:
        """Close what is open; a later :meth:`send` opens it again."""


def destination(parts: SplitResult, *, port: int | None = None, path: str = "") -> str:
    """Return scheme, host, port and path of an address in one spelling, without user and password.

    Parameters
    ----------
    parts : SplitResult
    port, path
        Of an address that names none. The ports of ``http`` and ``https`` are left out, as browsers do.

    Examples
    --------
    >>> from urllib.parse import urlsplit
    >>> destination(urlsplit("REDIS://me:secret@Localhost"), port=6379, path="/0")
    'redis://localhost:6379/0'
    >>> destination(urlsplit("syslog+tcp://[0:0::1]"), port=601)
    'syslog+tcp://[::1]:601'
    """
    host = parts.hostname or ""
    with contextlib.suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    shown = f"[{host}]" if ":" in host else host
    port = parts.port or port
    if port == _IMPLIED_PORTS.get(parts.scheme):
        port = None
    return f"{parts.scheme}://{shown}{f':{port}' if port else ''}{parts.path.rstrip('/') or path}"


def public(address: str) -> str:
    """Return an address without user and password.

    Examples
    --------
    >>> public("https://me:secret@host/hook")
    'https://host/hook'
    """
    return re.sub(r"//[^/]*@", "//", address)


def sink_options(parts: SplitResult, *known: str) -> dict[str, str]:
    """Return the options of an address.

    Raises
    ------
    DataError
        An option is none of these.
    """
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = [name for name in options if name not in known]
    if unknown:
        raise DataError(
            f"unknown option {', '.join(unknown)} of a {parts.scheme} sink; its options: {', '.join(known) or 'none'}"
        )
    return options


@contextlib.contextmanager
def sink_errors(name: str, *more: type[Exception]) -> Iterator[None]:
    """Raise errors of files and connections, and more of a protocol, as :class:`~deepidea.errors.SinkError`."""
    known: tuple[type[Exception], ...] = (OSError, ValueError, *more)  # ValueError: a closed stream, an unusable host
    try:
        yield
    except known as error:
        if isinstance(error, SinkError):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SinkError(f"cannot send alerts to {name}: {reason}") from error
