"""Templates of NetFlow v9 and IPFIX: what stands where in a data record.

Sources: RFC 3954 (NetFlow v9), RFC 7011 (IPFIX), RFC 5103 (both directions in one record), and IANA's registry of
IPFIX information elements, whose first numbers are those of NetFlow v9.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["ELEMENTS", "REVERSE", "SAMPLING", "Field", "Template", "Values", "read_options_template", "read_template"]

Values = dict[str, bytes]
"""Fields of one record that we know, by name, as they stand there."""

VARIABLE = 65_535  # length of a field whose length stands in each record (RFC 7011, section 7)
REVERSE_ENTERPRISE = 29_305  # whose elements are IANA's own of the way back (RFC 5103)
REVERSE = "reverse "
MOST_FIELDS = 1_024

ELEMENTS: Mapping[int, str] = MappingProxyType(
    {
        1: "octets",
        2: "packets",
        85: "octets total",
        86: "packets total",
        23: "octets out",
        24: "packets out",
        231: "initiator octets",
        232: "responder octets",
        298: "initiator packets",
        299: "responder packets",
        4: "protocol",
        6: "tcp flags",
        7: "src port",
        11: "dst port",
        180: "udp src port",
        181: "udp dst port",
        182: "tcp src port",
        183: "tcp dst port",
        8: "src ipv4",
        12: "dst ipv4",
        27: "src ipv6",
        28: "dst ipv6",
        32: "icmp",
        139: "icmpv6",
        176: "icmp type",
        177: "icmp code",
        178: "icmpv6 type",
        179: "icmpv6 code",
        22: "start uptime",
        21: "end uptime",
        150: "start s",
        151: "end s",
        152: "start ms",
        153: "end ms",
        154: "start ntp",
        155: "end ntp",
        156: "start ntp ns",
        157: "end ntp ns",
        158: "start ago us",
        159: "end ago us",
        160: "init ms",
        161: "duration ms",
        162: "duration us",
        323: "event ms",
        34: "sampling interval",
        50: "sampler interval",
        305: "sampling packets",
        239: "biflow direction",
    }
)
"""The information elements that we read, by number; all others are stepped over."""

SAMPLING = ("sampling packets", "sampling interval", "sampler interval")
_EXACT = {"src ipv4": (4,), "dst ipv4": (4,), "src ipv6": (16,), "dst ipv6": (16,)}
_NUMBER_LENGTHS = tuple(range(1, 9))  # integers may be sent shorter than their type (RFC 7011, section 6.2)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a template: its name where we know it, and its length in bytes or `VARIABLE`."""

    name: str | None
    length: int


@dataclass(frozen=True, slots=True)
class Template:
    r"""What a data record consists of.

    Parameters
    ----------
    fields
        Every field in order, scope fields of an options template first.
    varies
        Whether a length of `VARIABLE` means one: in IPFIX.
    options
        Whether its records tell of the exporter, not of flows.
    least_size
        Bytes of the shortest record.
    both_ways, samples
        Whether a field is of the way back, or tells how packets were sampled.

    Examples
    --------
    >>> template = Template((Field("packets", 2), Field(None, 1), Field("protocol", 1)))
    >>> template.read(bytes((0, 7, 99, 6)), 0, 4)
    ({'packets': b'\x00\x07', 'protocol': b'\x06'}, 4)
    """

    fields: tuple[Field, ...]
    varies: bool = False
    options: bool = False
    least_size: int = field(init=False)
    both_ways: bool = field(init=False)
    samples: bool = field(init=False)
    _places: tuple[tuple[str, int, int], ...] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        sizes = [1 if self._has_own_length(f) else f.length for f in self.fields]
        names = [part.name for part in self.fields if part.name is not None]
        object.__setattr__(self, "least_size", sum(sizes))
        object.__setattr__(self, "both_ways", any(name.startswith(REVERSE) for name in names))
        object.__setattr__(self, "samples", any(name in names for name in SAMPLING))
        fixed = not any(map(self._has_own_length, self.fields))
        object.__setattr__(self, "_places", _places(self.fields) if fixed else None)

    def _has_own_length(self, part: Field) -> bool:
        return self.varies and part.length == VARIABLE

    def read(self, data: bytes, at: int, end: int) -> tuple[Values, int] | None:
        """Return the values of the record at an offset and where the next begins; None where it is cut off."""
        if at + self.least_size > end:
            return None
        if self._places is None:
            return self._walk(data, at, end)
        return {name: data[at + first : at + last] for name, first, last in self._places}, at + self.least_size

    def _walk(self, data: bytes, at: int, end: int) -> tuple[Values, int] | None:
        values: Values = {}
        for part in self.fields:
            length = part.length
            if self._has_own_length(part):
                told = _own_length(data, at, end)
                if told is None:
                    return None
                length, at = told
            if at + length > end:
                return None
            if part.name is not None and _fits(part.name, length):
                values[part.name] = data[at : at + length]
            at += length
        return values, at


def _places(fields: tuple[Field, ...]) -> tuple[tuple[str, int, int], ...]:
    """Return name, first byte and end of the fields that we know."""
    places, at = [], 0
    for part in fields:
        if part.name is not None and _fits(part.name, part.length):
            places.append((part.name, at, at + part.length))
        at += part.length
    return tuple(places)


def _fits(name: str, length: int) -> bool:
    return length in _EXACT.get(name.removeprefix(REVERSE), _NUMBER_LENGTHS)


def _own_length(data: bytes, at: int, end: int) -> tuple[int, int] | None:
    """Return the length that a record gives a field, and where the field begins."""
    if at >= end:
        return None
    if data[at] < 255:
        return data[at], at + 1
    return (int.from_bytes(data[at + 1 : at + 3], "big"), at + 3) if at + 3 <= end else None


def read_template(data: bytes, at: int, end: int, *, ipfix: bool) -> tuple[int, Template | None, int] | None:
    """Return number, template and end of the template record at an offset; None where it is cut off.

    A template of no fields, with which IPFIX takes one back, is None.

    Examples
    --------
    >>> data = bytes.fromhex("0100 0002 0004 0001 0002 0002")
    >>> read_template(data, 0, len(data), ipfix=False)[1].least_size
    3
    """
    if at + 4 > end:
        return None
    number, count = struct.unpack_from(">HH", data, at)
    if count == 0:
        return number, None, at + 4
    read = _read_fields(data, at + 4, end, count, ipfix)
    return None if read is None else (number, Template(read[0], varies=ipfix), read[1])


def read_options_template(data: bytes, at: int, end: int, *, ipfix: bool) -> tuple[int, Template | None, int] | None:
    """Return the same of an options template; its scope fields are fields like the others to us, but never named.

    Examples
    --------
    >>> data = bytes.fromhex("0100 0004 0004 0001 0004 0022 0004")
    >>> read_options_template(data, 0, len(data), ipfix=False)[1].fields
    (Field(name=None, length=4), Field(name='sampling interval', length=4))
    """
    if at + (4 if ipfix else 6) > end:
        return None
    number, first = struct.unpack_from(">HH", data, at)
    if ipfix and first == 0:
        return number, None, at + 4
    if at + 6 > end:
        return None
    second = int.from_bytes(data[at + 4 : at + 6], "big")
    n_scopes, count = (second, first) if ipfix else (first // 4, (first + second) // 4)  # v9 counts bytes
    read = _read_fields(data, at + 6, end, count, ipfix) if count > 0 and n_scopes <= count else None
    if read is None:
        return None
    fields = (*(Field(None, f.length) for f in read[0][:n_scopes]), *read[0][n_scopes:])
    return number, Template(fields, varies=ipfix, options=True), read[1]


def _read_fields(data: bytes, at: int, end: int, count: int, ipfix: bool) -> tuple[tuple[Field, ...], int] | None:
    if count > MOST_FIELDS:
        return None
    fields = []
    for _ in range(count):
        if at + 4 > end:
            return None
        number, length = struct.unpack_from(">HH", data, at)
        at += 4
        enterprise = 0
        if ipfix and number & 0x8000:
            if at + 4 > end:
                return None
            enterprise = int.from_bytes(data[at : at + 4], "big")
            number, at = number & 0x7FFF, at + 4
        fields.append(Field(_name(number, enterprise), length))
    return tuple(fields), at


def _name(number: int, enterprise: int) -> str | None:
    name = ELEMENTS.get(number)
    if name is None or enterprise not in (0, REVERSE_ENTERPRISE):
        return None
    return name if enterprise == 0 else REVERSE + name
