"""What takes flows to a stream, and every kind of it by the scheme of its address."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from deepidea.detection.addresses import public
from deepidea.errors import DataError

if TYPE_CHECKING:
    from deepidea.detection.sources.source import Position

__all__ = ["PUBLISHERS", "Publisher", "open_publisher", "register_publisher"]


class Publisher(Protocol):
    """Takes lines to a stream. Its constructor takes the address and opens nothing."""

    name: str

    def __init__(self, address: str) -> None: ...

    def open(self, source: str) -> Position | None:
        """Connect, or connect again, and return the position that the stream keeps of a source; None where it has none.

        Positions are kept by the name of the source.
        """

    def publish(self, source: str, keys: Sequence[str], lines: Sequence[bytes], position: str | None) -> None:
        """Put lines into the partitions of their keys, and the position behind them: all of it or nothing.

        Raises
        ------
        SourceError
            The server does not take them; opening again tells which position it has.
        """

    def close(self) -> None:
        """Close what is open."""


_registry: dict[str, str] = {}
PUBLISHERS: Mapping[str, str] = MappingProxyType(_registry)
"""Class of each publisher, ``module:Class``, by the scheme of its address; imported when one is opened."""


def register_publisher(home: str, *schemes: str) -> None:
    """Add a publisher for schemes of addresses; one that is registered already is replaced."""
    _registry.update(dict.fromkeys(schemes, home))


def open_publisher(address: str) -> Publisher:
    """Return the publisher of an address, of kinds that :mod:`deepidea.adapters.registration` registers.

    Raises
    ------
    DataError
        It is the address of no stream.
    MissingExtraError
        What it needs is not installed.
    """
    home = PUBLISHERS.get(address.partition("://")[0].lower())
    if home is None:
        schemes = ", ".join(f"{name}://" for name in PUBLISHERS)
        raise DataError(f"cannot publish flows to {public(address)!r}; a stream's address begins with {schemes}")
    publisher: type[Publisher] = pkgutil.resolve_name(home)
    return publisher(address)
