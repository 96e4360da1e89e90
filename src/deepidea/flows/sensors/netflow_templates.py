"""Templates of NetFlow v9 and IPFIX: the layout of data records.

Sources: RFC 3954 (NetFlow v9), RFC 7011 (IPFIX), RFC 5103 (biflows), and IANA's registry of IPFIX information
elements, whose first numbers are those of NetFlow v9.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["ELEMENTS", "REVERSE", "SAMPLING", "Field", "Template", "Values", "read_template"]

Values = dict[str, bytes]
"""Known fields of one record, by name, as raw bytes."""

VARIABLE = 65_535  # a field whose length is in each record (RFC 7011, section 7)
REVERSE_ENTERPRISE = 29_305  # of the reverse direction's elements (RFC 5103, section 6.1)
REVERSE = "reverse "
MAX_FIELDS = 1_024

# fmt: off
ELEMENTS: Mapping[int, str] = MappingProxyType({
    # counts: delta, total, after the router, and of the two sides of a biflow
    1: "octets", 85: "octets total", 23: "octets out", 231: "initiator octets", 232: "responder octets",
    2: "packets", 86: "packets total", 24: "packets out", 298: "initiator packets", 299: "responder packets",
    # transport
    4: "protocol", 6: "tcp flags", 7: "src port", 11: "dst port", 180: "udp src port", 181: "udp dst port",
    182: "tcp src port", 183: "tcp dst port", 32: "icmp", 139: "icmpv6",
    176: "icmp type", 177: "icmp code", 178: "icmpv6 type", 179: "icmpv6 code",
    # addresses
    8: "src ipv4", 12: "dst ipv4", 27: "src ipv6", 28: "dst ipv6",
    # times
    22: "start uptime", 150: "start s", 152: "start ms", 154: "start ntp", 156: "start ntp ns", 158: "start ago us",
    21: "end uptime", 151: "end s", 153: "end ms", 155: "end ntp", 157: "end ntp ns", 159: "end ago us",
    160: "init ms", 161: "duration ms", 162: "duration us", 323: "event ms",
    # sampling and direction
    34: "sampling interval", 50: "sampler interval", 305: "sampling packets", 239: "biflow direction",
})
# fmt: on
"""Information elements that the decoder reads, by number; all others are skipped."""

SAMPLING = ("sampling packets", "sampling interval", "sampler interval")
_EXACT = {"src ipv4": (4,), "dst ipv4": (4,), "src ipv6": (16,), "dst ipv6": (16,)}
_NUMBER_LENGTHS = tuple(range(1, 9))  # integers may be sent shorter than their type (RFC 7011, section 6.2)


class Field(NamedTuple):
    """A field of a template: its name, None where it is not in `ELEMENTS`, and its length in bytes or `VARIABLE`."""

    name: str | None
    length: int


class Template:
    r"""Layout of a data record.

    Parameters
    ----------
    fields
        Every field in order; in an options template the scope fields first.
    varies
        Whether a length of `VARIABLE` is a variable length, as in IPFIX; in v9 it is a number of bytes.
    options
        Whether its records describe the exporter, not flows.

    Attributes
    ----------
    least_size : int
        Bytes of the shortest record.
    both_ways, samples : bool
        Whether a field is of the reverse direction, or gives a sampling rate.

    Examples
    --------
    >>> template = Template((Field("packets", 2), Field(None, 1), Field("protocol", 1)))
    >>> template.read(bytes((0, 7, 99, 6)), 0, 4)
    ({'packets': b'\x00\x07', 'protocol': b'\x06'}, 4)
    """

    __slots__ = ("_places", "_varies", "both_ways", "fields", "least_size", "options", "samples")

    def __init__(self, fields: tuple[Field, ...], *, varies: bool = False, options: bool = False) -> None:
        self.fields, self.options = fields, options
        # 65535 is a length like any other in v9, which has no fields of variable length.
        self._varies = varies and any(length == VARIABLE for _, length in fields)
        self._places: list[tuple[str, int, int]] = []  # name, first byte and end; valid where no length varies
        self.least_size = 0
        for name, length in fields:
            size = 1 if self._varies and length == VARIABLE else length
            if name is not None and _fits(name, length):
                self._places.append((name, self.least_size, self.least_size + size))
            self.least_size += size
        names = {name for name, _ in fields if name is not None}
        self.both_ways = any(name.startswith(REVERSE) for name in names)
        self.samples = not names.isdisjoint(SAMPLING)

    def read(self, data: bytes, at: int, end: int) -> tuple[Values, int] | None:
        """Return the values of the record at an offset and where the next begins; None where it is truncated."""
        if at + self.least_size > end:
            return None
        # Where no length varies, the places of all known fields are known beforehand: one slice each, whatever lies
        # between.
        if self._varies:
            return self._read_varying(data, at, end)
        return {name: data[at + first : at + last] for name, first, last in self._places}, at + self.least_size

    def _read_varying(self, data: bytes, at: int, end: int) -> tuple[Values, int] | None:
        values: Values = {}
        for name, length in self.fields:
            if length == VARIABLE:
                length, at = _length_in_record(data, at, end)
            if at + length > end:
                return None
            if name is not None and _fits(name, length):
                values[name] = data[at : at + length]
            at += length
        return values, at


def _fits(name: str, length: int) -> bool:
    return length in _EXACT.get(name.removeprefix(REVERSE), _NUMBER_LENGTHS)


def _length_in_record(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a field's length and its first byte; where the length is truncated, one that exceeds the record.

    One byte, or 255 and two bytes (RFC 7011, section 7).
    """
    if at < end and data[at] < 255:
        return data[at], at + 1
    return (int.from_bytes(data[at + 1 : at + 3], "big"), at + 3) if at + 3 <= end else (end, at + 1)


def read_template(
    data: bytes, at: int, end: int, *, ipfix: bool, options: bool = False
) -> tuple[int, Template | None, int] | None:
    """Return id, template and end of the template record at an offset; None where it is truncated or malformed.

    The template is None where the record withdraws it: it has no fields (RFC 7011, section 8.1). Scope fields of an
    options template are fields without a name.

    Examples
    --------
    >>> data = bytes.fromhex("0100 0002 0004 0001 0002 0002")
    >>> read_template(data, 0, len(data), ipfix=False)[1].least_size
    3
    >>> data = bytes.fromhex("0100 0004 0004 0001 0004 0022 0004")
    >>> read_template(data, 0, len(data), ipfix=False, options=True)[1].fields
    (Field(name=None, length=4), Field(name='sampling interval', length=4))
    """
    if at + 4 > end:
        return None
    number, count = struct.unpack_from(">HH", data, at)
    at, n_scopes = at + 4, 0
    # A template withdrawal (RFC 7011, 8.1); v9 has none, but a template without fields says as little there.
    if count == 0 and (ipfix or not options):
        return number, None, at
    if options:
        second, at = int.from_bytes(data[at : at + 2], "big"), at + 2
        # v9: bytes of the scopes, then of the options (RFC 3954, section 6.1);
        # IPFIX: number of all fields, then of the scopes among them (RFC 7011, section 3.4.2.2)
        n_scopes, count = (second, count) if ipfix else (count // 4, (count + second) // 4)
    fields = _read_fields(data, at, end, count, ipfix) if n_scopes <= count and 0 < count <= MAX_FIELDS else None
    if fields is None:
        return None
    named, at = fields
    # A scope names what the options are about (an interface, a template). Its bytes are skipped, so it has no name.
    scopes = (Field(None, length) for _, length in named[:n_scopes])
    return number, Template((*scopes, *named[n_scopes:]), varies=ipfix, options=options), at


def _read_fields(data: bytes, at: int, end: int, count: int, ipfix: bool) -> tuple[list[Field], int] | None:
    fields = []
    for _ in range(count):
        if at + 4 > end:
            return None
        number, length = struct.unpack_from(">HH", data, at)
        at += 4
        name = ELEMENTS.get(number)
        if ipfix and number & 0x8000:  # an enterprise number follows (RFC 7011, section 3.2)
            if at + 4 > end:
                return None
            name = _enterprise_name(number & 0x7FFF, int.from_bytes(data[at : at + 4], "big"))
            at += 4
        fields.append(Field(name, length))
    return fields, at


def _enterprise_name(number: int, enterprise: int) -> str | None:
    name = ELEMENTS.get(number)
    if name is None or enterprise not in (0, REVERSE_ENTERPRISE):
        return None
    return name if enterprise == 0 else REVERSE + name
