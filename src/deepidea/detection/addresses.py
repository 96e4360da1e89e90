"""Addresses of streams: what their options are, and what of them may be shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from deepidea.errors import DataError

__all__ = ["StreamAddress", "at_least", "read_address"]

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
    told = dict(parse_qsl(parts.query, keep_blank_values=True))
    read = StreamAddress(parts)
    unknown = [name for name in told if name not in known]
    missing = [name for name in needed if not told.get(name)]
    if unknown or missing:
        raise DataError(
            f"the address of a stream may have {', '.join(known)} and must have {', '.join(needed) or 'none of them'}, "
            f"however: {read.place} has {', '.join(told) or 'no option'}; correct it"
        )
    for name, text in told.items():
        try:
            read.options[name] = known[name](text)
        except ValueError as error:
            raise DataError(
                f"an option of a stream must be readable, however: {name}={text} of {read.place}: {error}"
            ) from error
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
            raise ValueError(f"it must be {least:g} or more")
        return number

    return read
