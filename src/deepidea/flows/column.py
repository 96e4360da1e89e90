"""One column of a flow table: its name, its kind, and the names that tools give it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

Kind = Literal["number", "flag", "category", "port", "identity"]
Text = Annotated[str, msgspec.Meta(max_length=500)]  # schemas are also read from files of unknown origin

_NOT_WORD = re.compile(r"[^a-z0-9]+")
_PROTOCOL = re.compile(r"^(proto|protocol|ip_proto(col)?)$")


def column_key(raw: str) -> str:
    """Return the spelling under which two headers count as the same name.

    Case, outer spaces and the choice of separator do not matter, so that ``" Flow Bytes/s"`` and
    ``flow_bytes_s`` are one name.

    Examples
    --------
    >>> column_key(" Flow Bytes/s")
    'flow_bytes_s'
    """
    return _NOT_WORD.sub("_", raw.lower()).strip("_")


def names_protocol(raw: str) -> bool:
    """Whether a header names a column of protocols, whose numbers are words.

    Examples
    --------
    >>> names_protocol("IP Proto"), names_protocol("protocols seen")
    (True, False)
    """
    return _PROTOCOL.match(column_key(raw)) is not None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a schema.

    Parameters
    ----------
    name
        Canonical name, with direction and unit where it has one: ``fwd_iat_mean_us``.
    kind
        ``number``, ``flag`` (0 or 1) and ``category`` are features; ``port`` is a feature only where the schema
        says so; ``identity`` (addresses, times, row numbers) never reaches a model.
    unit
        Unit of the values, empty where they have none.
    aliases
        Names that tools and data sets use for it.
    description
        One line for people.
    optional
        True where some tools do not have it: see `deepidea.flows.schema.Schema.restrict`.

    Examples
    --------
    >>> Column("duration_us", "number", "us", ("Flow Duration",)).is_number
    True
    """

    name: Text
    kind: Kind
    unit: Text = ""
    aliases: Annotated[tuple[Text, ...], msgspec.Meta(max_length=50)] = ()
    description: Text = ""
    optional: bool = False

    @property
    def is_number(self) -> bool:
        """Whether the column is a number that is always a feature."""
        return self.kind in ("number", "flag")

    @property
    def keys(self) -> tuple[str, ...]:
        """Every spelling under which the column is found."""
        return tuple(dict.fromkeys(column_key(name) for name in (self.name, *self.aliases)))
