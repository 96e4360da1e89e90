"""Addresses of streams and sinks: their options, their one spelling, and what of them may be shown."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from deepidea.errors import DataError

__all__ = ["StreamAddress", "at_least", "destination", "public", "read_address"]

_IMPLIED_PORTS = {"http": 80, "https": 443}

Reads = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class StreamAddress:
    """An address that was read: where the server is, and the options by name."""

    parts: SplitResult
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Scheme, host and path, without user and password."""
        return f"{self.parts.scheme}://{self.parts.netloc.rpartition('@')[2]}{self.parts.path}"

    @property
    def server(self) -> str:
        """What a client connects to, password included: not to be shown."""
        return f"{self.parts.scheme}://{self.parts.netloc}{self.parts.path}"


def read_address(address: str, known: Mapping[str, Reads], needed: tuple[str, ...] = ()) -> StreamAddress:
    """Return the parts and options of an address.

    Parameters
    ----------
    address
        ``scheme://user:password@host:port/path?option=value&...``.
    known
        What reads the text of each option; raises ValueError where it cannot.
    needed
        Options that must be there.

    Raises
    ------
    DataError
        An option is unknown, missing or cannot be read. The password is not in the message.

    Examples
    --------
    >>> read_address("redis://me:secret@host/0?stream=flows", {"stream": str}).place
    'redis://host/0'
    """
    parts = urlsplit(address)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    read = StreamAddress(parts)
    # An option that is misspelt must not silently have no effect.
    unknown = [name for name in given if name not in known]
    missing = [name for name in needed if not given.get(name)]
    if unknown or missing:
        fault = f"unknown option {', '.join(unknown)}" if unknown else f"missing option {', '.join(missing)}"
        raise DataError(f"{fault} of {read.place}; its options: {', '.join(known)}")
    for name, text in given.items():
        try:
            read.options[name] = known[name](text)
        except ValueError as error:
            raise DataError(f"cannot read option {name}={text} of {read.place}: {error}") from error
    return read


def at_least(kind: type[int] | type[float], least: float) -> Reads:
    """Return what reads a number that is no smaller than another.

    Examples
    --------
    >>> at_least(int, 1)("8")
    8
    """

    def read(text: str) -> float:
        number = kind(text)
        if not number >= least:
            raise ValueError(f"it must be at least {least:g}")
        return number

    return read


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
        # ::1 and 0:0:0:0:0:0:0:1 are one host: the name of a sink, by which the store knows it, must not depend on the
        # spelling.
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
