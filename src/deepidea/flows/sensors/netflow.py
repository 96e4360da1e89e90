"""NetFlow v5 and v9 and IPFIX: datagrams of an exporter to records of flows.

Sources: Cisco's export datagram formats (v5), RFC 3954 (v9), RFC 7011 and 7012 (IPFIX), RFC 5103 (both directions in
one record). Every byte is a stranger's: each length is held against what is there, templates and exporters are kept in
bounded numbers, and what cannot be read is skipped and counted by reason. Nothing here reads a clock: times are those
of the exporter, so the same datagrams give the same records.

A record is of one direction with most exporters: `deepidea.flows.sensors.biflow` puts the two together.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from deepidea.flows.sensors.netflow_templates import (
    REVERSE,
    SAMPLING,
    Template,
    Values,
    read_options_template,
    read_template,
)

__all__ = ["FlowRecord", "NetFlowDecoder"]

_V5_HEADER = struct.Struct(">HHIIIIBBH")
_V5_RECORD = struct.Struct(">4s4s4xHHIIIIHHxBBB8x")
_V9_HEADER = struct.Struct(">HHIIII")
_IPFIX_HEADER = struct.Struct(">HHIII")
_LEAST_DATA_SET = 256

_WRAP_MS = 1 << 32  # the uptime of an exporter begins anew after 49.7 days
_STEADY_US = 1_500_000  # seconds in headers are cut off; a start-up time that moves by less has not moved
_LATEST_US = 253_402_300_799_000_000  # the end of the year 9999
_MOST_COUNTED = (1 << 63) - 1
_NTP_TO_UNIX_S = 2_208_988_800
_RESTARTED = 1_000_000  # a sequence that jumps by more was begun anew


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """What an exporter told of one direction of a conversation, or of both.

    Parameters
    ----------
    exporter
        Address of who told it.
    exported_us, start_us, end_us
        When it was told, when its first and last packets passed; microseconds since 1970 by the exporter's clock.
    src, dst
        IPv4 or IPv6 addresses, 4 or 16 bytes.
    src_port, dst_port
        Of ICMP: type and code. None where the transport has none.
    protocol
        IP protocol number.
    packets, octets
        From ``src`` to ``dst``; bytes at the IP level.
    tcp_flags
        All flags seen, None where the exporter tells none.
    bwd_packets, bwd_octets
        From ``dst`` to ``src`` where the record has both directions, else None.
    opened_by_src
        Whether the exporter says that ``src`` began; otherwise the first packet, or the port, has to tell.
    """

    exporter: str
    exported_us: int
    start_us: int
    end_us: int
    src: bytes
    dst: bytes
    src_port: int | None
    dst_port: int | None
    protocol: int
    packets: int
    octets: int
    tcp_flags: int | None = None
    bwd_packets: int | None = None
    bwd_octets: int | None = None
    opened_by_src: bool = False


@dataclass(slots=True)
class _Sequence:
    """Where an exporter's numbering of what it sends stands.

    The number counts records before this datagram (v5, IPFIX) or datagrams (v9); some exporters count records in v9
    too, and some count those of this datagram with them. All three steps are taken for whole.
    """

    last: int | None = None
    n_last: int = 0

    def step(self, number: int, n_records: int | None, by_datagram: bool) -> int:
        """Take the next number; return how many records or datagrams are missing before it."""
        last, n_last, self.last = self.last, self.n_last, number
        self.n_last = n_records or 0
        if last is None or n_records is None:
            self.last = None if n_records is None else number  # nothing can be expected after records of unknown number
            return 0
        step = (number - last) % (1 << 32)
        expected = {1, n_last, n_records} if by_datagram else {n_last, n_records}
        if step >= 1 << 31:  # came late; unless it is far back, the greater number still stands
            late = (1 << 32) - step < _RESTARTED
            self.last, self.n_last = (last, n_last) if late else (number, n_records)
            return 0
        missing = step - (1 if by_datagram else n_last)
        return missing if step not in expected and 0 < missing < _RESTARTED else 0


@dataclass(slots=True)
class _Exporter:
    """What is kept of one exporter: address, version and observation domain."""

    templates: OrderedDict[int, Template] = field(default_factory=OrderedDict)
    sequence: _Sequence = field(default_factory=_Sequence)
    booted_us: int | None = None
    init_ms: int | None = None

    def steady_us(self, unix_us: int, uptime_ms: int) -> int:
        """Return the time of a datagram, free of the jitter that cut-off seconds put into it.

        The start-up time that the first datagram tells is kept while later ones tell nearly the same, across the
        uptime's wrap-around too, so that which of two flows began first does not hang on the datagram it came in.
        """
        booted = unix_us - 1000 * uptime_ms
        if self.booted_us is not None:
            wrap = 1000 * _WRAP_MS
            moved = (booted - self.booted_us + wrap // 2) % wrap - wrap // 2
            booted -= moved if abs(moved) <= _STEADY_US else 0
        self.booted_us = booted
        return booted + 1000 * uptime_ms


@dataclass(frozen=True, slots=True)
class _Told:
    """Who sent a datagram and when; `uptime_ms` is None in IPFIX, which has none in its header."""

    exporter: str
    state: _Exporter
    at_us: int
    uptime_ms: int | None

    def of_uptime(self, uptime_ms: int) -> int | None:
        """Return the time of a moment given as uptime: at most 24.8 days from the datagram's."""
        if self.uptime_ms is not None:
            ago = (self.uptime_ms - uptime_ms + _WRAP_MS // 2) % _WRAP_MS - _WRAP_MS // 2
            return self.at_us - 1000 * ago
        init = self.state.init_ms
        if init is None:
            return None
        wraps = max(0, (self.at_us // 1000 - init - uptime_ms + _WRAP_MS // 2) // _WRAP_MS)
        return 1000 * (init + uptime_ms + wraps * _WRAP_MS)


class NetFlowDecoder:
    """Reads datagrams of NetFlow v5, v9 and IPFIX; keeps the templates that their exporters sent.

    Parameters
    ----------
    max_exporters
        Exporters that are remembered; the one silent for longest goes first.
    max_templates
        Templates remembered of each; the oldest goes first.

    Attributes
    ----------
    skipped : Counter
        What could not be read, by reason.
    dropped : Counter
        What the exporters' sequence numbers say was lost on the way, by unit.
    sampled : dict
        Exporters that sample, with one packet in how many: their counts are of the sample, not scaled up.

    Notes
    -----
    Sequence gaps are the exporter's word; an exporter that begins anew is none. Where counters before and after
    the router stand in one record (23 and 24 beside 1 and 2), those before are taken. About 10 us a record.

    Examples
    --------
    >>> header = struct.pack(">HHIIIIBBH", 5, 1, 60_000, 1_700_000_000, 0, 0, 0, 0, 0)
    >>> body = bytes((10, 0, 0, 1, 10, 0, 0, 2)) + struct.pack(">4xHHIIIIHHxBBB8x", 0, 0, 3, 180, 58_000, 59_500,
    ...     40_000, 443, 0x1B, 6, 0)
    >>> decoder = NetFlowDecoder()
    >>> [record] = decoder.decode(header + body, "192.0.2.1")
    >>> record.packets, record.octets, record.dst_port, record.start_us
    (3, 180, 443, 1699999998000000)
    >>> decoder.decode(b"not NetFlow", "192.0.2.1"), dict(decoder.skipped)
    ([], {'datagram of no version that is known': 1})
    """

    def __init__(self, *, max_exporters: int = 1_024, max_templates: int = 1_024) -> None:
        if max_exporters < 1 or max_templates < 1:
            raise ValueError(
                f"max_exporters and max_templates must be at least 1, however: {max_exporters=}, {max_templates=}"
            )
        self._max_exporters = max_exporters
        self._max_templates = max_templates
        self._exporters: OrderedDict[tuple[str, int, int], _Exporter] = OrderedDict()
        self.skipped: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.sampled: dict[str, int] = {}

    def decode(self, datagram: bytes, exporter: str) -> list[FlowRecord]:
        """Return the records of a datagram; whatever its bytes are, nothing is raised.

        Parameters
        ----------
        datagram
            Payload of one UDP datagram.
        exporter
            Address that it came from: templates are kept by it.
        """
        version = int.from_bytes(datagram[:2], "big")
        if version == 5:
            return self._v5(datagram, exporter)
        if version == 9:
            return self._v9(datagram, exporter)
        if version == 10:
            return self._ipfix(datagram, exporter)
        self.skipped["datagram of no version that is known"] += 1
        return []

    def _v5(self, data: bytes, exporter: str) -> list[FlowRecord]:
        if len(data) < _V5_HEADER.size:
            return self._cut_off("datagram")
        _, count, uptime_ms, seconds, nanoseconds, number, engine, slot, sampling = _V5_HEADER.unpack_from(data)
        state = self._state(exporter, 5, engine << 8 | slot)
        self._note_sampling(exporter, sampling & 0x3FFF)
        _add(self.dropped, "records lost on the way", state.sequence.step(number, count, by_datagram=False))
        told = _Told(exporter, state, state.steady_us(seconds * 1_000_000 + nanoseconds // 1000, uptime_ms), uptime_ms)
        whole = min(count, (len(data) - _V5_HEADER.size) // _V5_RECORD.size)
        _add(self.skipped, "record cut off", count - whole)
        end = _V5_HEADER.size + whole * _V5_RECORD.size
        records = (self._v5_record(told, *row) for row in _V5_RECORD.iter_unpack(data[_V5_HEADER.size : end]))
        return [record for record in records if record is not None]

    def _v5_record(self, told: _Told, src: bytes, dst: bytes, *rest: int) -> FlowRecord | None:
        _in, _out, packets, octets, first, last, src_port, dst_port, flags, protocol, _tos = rest
        start, end = told.of_uptime(first), told.of_uptime(last)
        ports = _ports_of(protocol, src_port, dst_port, dst_port)
        tcp_flags = flags if protocol == 6 else None
        return self._checked(
            FlowRecord(
                told.exporter, told.at_us, start or 0, end or 0, src, dst, *ports, protocol, packets, octets, tcp_flags
            )
        )

    def _v9(self, data: bytes, exporter: str) -> list[FlowRecord]:
        if len(data) < _V9_HEADER.size:
            return self._cut_off("datagram")
        _, _, uptime_ms, seconds, number, domain = _V9_HEADER.unpack_from(data)
        state = self._state(exporter, 9, domain)
        told = _Told(exporter, state, state.steady_us(seconds * 1_000_000, uptime_ms), uptime_ms)
        records, n_records = self._sets(data, _V9_HEADER.size, len(data), told, ipfix=False)
        missing = state.sequence.step(number, n_records or 0, by_datagram=True)
        _add(self.dropped, "datagrams lost on the way", missing)
        return records

    def _ipfix(self, data: bytes, exporter: str) -> list[FlowRecord]:
        if len(data) < _IPFIX_HEADER.size:
            return self._cut_off("datagram")
        _, length, seconds, number, domain = _IPFIX_HEADER.unpack_from(data)
        if not _IPFIX_HEADER.size <= length <= len(data):
            return self._cut_off("datagram")
        state = self._state(exporter, 10, domain)
        told = _Told(exporter, state, seconds * 1_000_000, None)
        records, n_records = self._sets(data, _IPFIX_HEADER.size, length, told, ipfix=True)
        _add(self.dropped, "records lost on the way", state.sequence.step(number, n_records, by_datagram=False))
        return records

    def _state(self, exporter: str, version: int, domain: int) -> _Exporter:
        key = (exporter, version, domain)
        if key not in self._exporters:
            if len(self._exporters) >= self._max_exporters:
                (gone, _, _), _ = self._exporters.popitem(last=False)
                self.sampled.pop(gone, None)
                self.skipped["exporter forgotten for a newer one"] += 1
            self._exporters[key] = _Exporter()
        self._exporters.move_to_end(key)
        return self._exporters[key]

    def _cut_off(self, what: str) -> list[FlowRecord]:
        self.skipped[f"{what} cut off"] += 1
        return []

    def _sets(self, data: bytes, at: int, end: int, told: _Told, *, ipfix: bool) -> tuple[list[FlowRecord], int | None]:
        """Return the records of all sets, and how many data records there were; None where that cannot be known."""
        records: list[FlowRecord] = []
        n_records: int | None = 0
        for number, first, last in self._set_bounds(data, at, end):
            if number in ((2, 3) if ipfix else (0, 1)):
                n_templates = self._take_templates(data, first, last, told.state, number % 2 == 1, ipfix)
                n_records = n_records if ipfix or n_records is None else n_records + n_templates
            elif number >= _LEAST_DATA_SET:
                n_read = self._take_data(data, first, last, told, number, records)
                n_records = None if n_read is None or n_records is None else n_records + n_read
            else:
                self.skipped["set of no kind that is known"] += 1
        return records, n_records

    def _set_bounds(self, data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        while at + 4 <= end:
            number, length = struct.unpack_from(">HH", data, at)
            if length < 4 or at + length > end:
                self._cut_off("set")
                return
            yield number, at + 4, at + length
            at += length

    def _take_templates(self, data: bytes, at: int, end: int, state: _Exporter, options: bool, ipfix: bool) -> int:
        read, n_read = (read_options_template if options else read_template), 0
        while at + 4 <= end and any(data[at : at + 4]):  # zeros are padding
            told = read(data, at, end, ipfix=ipfix)
            if told is None:
                self._cut_off("template")
                return n_read
            number, template, at = told
            self._keep(state, number, template)
            n_read += 1
        return n_read

    def _keep(self, state: _Exporter, number: int, template: Template | None) -> None:
        if template is None:  # taken back: one, or all where the number is that of template sets
            if number >= _LEAST_DATA_SET:
                state.templates.pop(number, None)
            else:
                state.templates.clear()
        elif number < _LEAST_DATA_SET or template.least_size == 0:
            self.skipped["template of no data"] += 1
        else:
            if number not in state.templates and len(state.templates) >= self._max_templates:
                state.templates.popitem(last=False)
                self.skipped["template forgotten for a newer one"] += 1
            state.templates[number] = template
            state.templates.move_to_end(number)

    def _take_data(
        self, data: bytes, at: int, end: int, told: _Told, number: int, records: list[FlowRecord]
    ) -> int | None:
        template = told.state.templates.get(number)
        if template is None:
            self.skipped["set of data without a template yet"] += 1
            return None
        n_read = 0
        while at + template.least_size <= end:  # what is left after the last record is padding
            read = template.read(data, at, end)
            if read is None:
                self._cut_off("record")
                return None
            values, at = read
            n_read += 1
            self._take_record(values, template, told, records)
        return n_read

    def _take_record(self, values: Values, template: Template, told: _Told, records: list[FlowRecord]) -> None:
        if template.samples:
            self._note_sampling(told.exporter, _number(values, *SAMPLING))
        if template.options:
            told.state.init_ms = _number(values, "init ms") or told.state.init_ms
            return
        record = self._record(values, told, template.both_ways)
        if record is not None:
            records.append(record)

    def _note_sampling(self, exporter: str, interval: int | None) -> None:
        if interval is not None and interval > 1:
            self.sampled[exporter] = interval

    def _record(self, values: Values, told: _Told, both_ways: bool) -> FlowRecord | None:
        src, dst = _address(values, "src"), _address(values, "dst")
        protocol = _number(values, "protocol")
        fwd, bwd, opened_by_src = _counts(values, both_ways)
        times = _times(values, told, both_ways)
        if src is None or dst is None:
            return self._without("addresses")
        if protocol is None:
            return self._without("a protocol")
        if fwd is None:
            return self._without("counts of packets and bytes")
        if times is None:
            return self._without("times")
        bwd_packets, bwd_octets = bwd or (None, None)
        record = FlowRecord(
            told.exporter,
            told.at_us,
            *times,
            src,
            dst,
            *_ports(values, protocol),
            protocol,
            *fwd,
            _tcp_flags(values, protocol),
            bwd_packets,
            bwd_octets,
            opened_by_src=opened_by_src,
        )
        return self._checked(_turned(record, values) if bwd is not None else record)

    def _without(self, what: str) -> FlowRecord | None:
        self.skipped[f"record without {what}"] += 1
        return None

    def _checked(self, record: FlowRecord) -> FlowRecord | None:
        """Return a record whose numbers can be true, else count it."""
        if not 0 <= record.start_us <= record.end_us <= _LATEST_US:
            self.skipped["record of times that cannot be"] += 1
            return None
        if max(record.packets, record.octets, record.bwd_packets or 0, record.bwd_octets or 0) > _MOST_COUNTED:
            self.skipped["record of counts that cannot be"] += 1
            return None
        if record.packets == 0 and not record.bwd_packets:
            self.skipped["record of no packets"] += 1
            return None
        return record


def _add(counter: Counter[str], reason: str, count: int) -> None:
    """Count without leaving zeros behind."""
    if count:
        counter[reason] += count


def _number(values: Values, *names: str) -> int | None:
    """Return the first of some fields that a record has."""
    for name in names:
        if name in values:
            return int.from_bytes(values[name], "big")
    return None


def _address(values: Values, end: str) -> bytes | None:
    """Return an address; a record with both kinds, one of them unset, has the other."""
    v4, v6 = values.get(f"{end} ipv4"), values.get(f"{end} ipv6")
    return v6 if v4 is None or (v6 is not None and any(v6) and not any(v4)) else v4


_Counts = tuple[int, int]
_PACKETS, _OCTETS = (tuple(f"{what}{kind}" for kind in ("", " total", " out")) for what in ("packets", "octets"))
_BACK_PACKETS, _BACK_OCTETS = ((f"{REVERSE}{what}", f"{REVERSE}{what} total") for what in ("packets", "octets"))


def _pair(values: Values, packets: tuple[str, ...], octets: tuple[str, ...]) -> _Counts | None:
    n_packets, n_octets = _number(values, *packets), _number(values, *octets)
    return None if n_packets is None or n_octets is None else (n_packets, n_octets)


def _counts(values: Values, both_ways: bool) -> tuple[_Counts | None, _Counts | None, bool]:
    """Return packets and bytes forward and backward, and whether forward is said to be the opener's way."""
    if "initiator packets" in values:
        opened = _pair(values, ("initiator packets",), ("initiator octets",))
        return opened, _pair(values, ("responder packets",), ("responder octets",)), True
    fwd = _pair(values, _PACKETS, _OCTETS)
    bwd = _pair(values, _BACK_PACKETS, _BACK_OCTETS) if both_ways else None
    return fwd, bwd, _number(values, "biflow direction") == 1


def _turned(record: FlowRecord, values: Values) -> FlowRecord:
    """Return a record of both directions the other way round where it says that ``dst`` began."""
    if _number(values, "biflow direction") != 2 and record.packets:
        return record
    is_icmp = record.protocol in (1, 58)  # whose type and code are nobody's ports
    return replace(
        record,
        src=record.dst,
        dst=record.src,
        src_port=record.src_port if is_icmp else record.dst_port,
        dst_port=record.dst_port if is_icmp else record.src_port,
        packets=record.bwd_packets or 0,
        octets=record.bwd_octets or 0,
        bwd_packets=record.packets,
        bwd_octets=record.octets,
        opened_by_src=True,
    )


def _tcp_flags(values: Values, protocol: int) -> int | None:
    there, back = _number(values, "tcp flags"), _number(values, f"{REVERSE}tcp flags")
    if protocol != 6 or (there is None and back is None):
        return None
    return ((there or 0) | (back or 0)) & 0xFF  # the control bits proper; the nine above are the header's length


def _ports(values: Values, protocol: int) -> tuple[int | None, int | None]:
    src = _number(values, "src port", "tcp src port", "udp src port")
    dst = _number(values, "dst port", "tcp dst port", "udp dst port")
    kind, code = _number(values, "icmp type", "icmpv6 type"), _number(values, "icmp code", "icmpv6 code")
    icmp = _number(values, "icmp", "icmpv6") if kind is None else kind << 8 | (code or 0)
    return _ports_of(protocol, src, dst, dst if icmp is None else icmp)


def _ports_of(protocol: int, src: int | None, dst: int | None, icmp: int | None) -> tuple[int | None, int | None]:
    """Return the ports, of ICMP type and code, which many exporters write into the port of the receiver."""
    if protocol in (6, 17, 132):
        return (src or 0) & 0xFFFF, (dst or 0) & 0xFFFF
    if protocol in (1, 58):
        return ((icmp or 0) >> 8) & 0xFF, (icmp or 0) & 0xFF
    return None, None


def _times(values: Values, told: _Told, both_ways: bool) -> tuple[int, int] | None:
    """Return start and end in microseconds since 1970."""
    start, end = _time(values, "start", told), _time(values, "end", told)
    if both_ways:
        start = min((at for at in (start, _time(values, f"{REVERSE}start", told)) if at is not None), default=None)
        end = max((at for at in (end, _time(values, f"{REVERSE}end", told)) if at is not None), default=None)
    if end is None:
        end = _number_us(values, "event ms", 1000)
    if start is None or end is None:
        start, end = _by_duration(values, start, end)
    return None if start is None or end is None else (start, end)


def _by_duration(values: Values, start: int | None, end: int | None) -> tuple[int | None, int | None]:
    duration = _number_us(values, "duration us", 1)
    duration = _number_us(values, "duration ms", 1000) if duration is None else duration
    if duration is None:
        return start, end
    return (
        end - duration if start is None and end is not None else start,
        start + duration if end is None and start is not None else end,
    )


def _number_us(values: Values, name: str, unit_us: int) -> int | None:
    return int.from_bytes(values[name], "big") * unit_us if name in values else None


_Reader = Callable[[bytes, Values, _Told], int | None]


def _ntp(raw: bytes, _values: Values, _told: _Told) -> int | None:
    if len(raw) != 8:
        return None
    seconds, fraction = int.from_bytes(raw[:4], "big"), int.from_bytes(raw[4:], "big")
    return (seconds - _NTP_TO_UNIX_S) * 1_000_000 + (fraction * 1_000_000 >> 32)


def _uptime(raw: bytes, values: Values, told: _Told) -> int | None:
    uptime_ms, init_ms = int.from_bytes(raw, "big"), _number(values, "init ms")
    return told.of_uptime(uptime_ms) if init_ms is None else 1000 * (init_ms + uptime_ms)


_FORMS: dict[str, _Reader] = {
    "ntp ns": _ntp,
    "ntp": _ntp,
    "ms": lambda raw, _values, _told: 1000 * int.from_bytes(raw, "big"),
    "s": lambda raw, _values, _told: 1_000_000 * int.from_bytes(raw, "big"),
    "ago us": lambda raw, _values, told: told.at_us - int.from_bytes(raw, "big"),
    "uptime": _uptime,
}
_MOMENTS: dict[str, tuple[tuple[str, _Reader], ...]] = {
    moment: tuple((f"{moment} {form}", read) for form, read in _FORMS.items())
    for moment in ("start", "end", f"{REVERSE}start", f"{REVERSE}end")
}
"""The forms in which a moment may be told, the finest first."""


def _time(values: Values, moment: str, told: _Told) -> int | None:
    for name, read in _MOMENTS[moment]:
        if name in values:
            return read(values[name], values, told)
    return None
