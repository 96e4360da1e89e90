"""What a sink is, and what all sinks share: options and errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol
from urllib.parse import SplitResult, parse_qsl

from deepidea.errors import DataError, SinkError

TIMEOUT_S = 10.0


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
