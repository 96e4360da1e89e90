"""NetFlow v5, NetFlow v9 and IPFIX: from an exporter's datagrams to flow records.

Sources: Cisco's export datagram formats (v5), RFC 3954 (v9), RFC 7011 and 7012 (IPFIX), RFC 5103 (biflows).

Input is untrusted: each length is checked against the bytes at hand, templates and exporters are limited in number,
and what cannot be read is skipped and counted by reason. No clock is read: times are the exporter's, so that the same
datagrams give the same records. Most exporters send one record for each direction; `deepidea.flows.sensors.biflow`
merges them.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from deepidea.flows.sensors.netflow_templates import REVERSE, SAMPLING, Template, Values, read_template

__all__ = ["FlowRecord", "NetFlowDecoder"]

# version, count, uptime, seconds, nanoseconds, sequence, engine type and id, sampling; then records of 48 bytes.
_V5_HEADER = struct.Struct(">HHIIIIBBH")
_V5_RECORD = struct.Struct(">4s4s4xHHIIIIHHxBBB8x")
_V9_HEADER = struct.Struct(">HHIIII")  # RFC 3954, section 5.1
_IPFIX_HEADER = struct.Struct(">HHIII")  # RFC 7011, section 3.1
_TEMPLATE_SETS = {0: False, 1: True, 2: False, 3: True}  # set id: whether of options; 0 and 1 are v9's
_FIRST_DATA_SET = 256

_WRAP_MS = 1 << 32  # an exporter's uptime restarts at 0 after 49.7 days
_STEADY_US = 1_500_000  # headers hold whole seconds: a boot time that moves by less has not moved
_LATEST_US = 253_402_300_799_000_000  # the end of the year 9999
_MAX_COUNT = (1 << 63) - 1
_NTP_TO_UNIX_S = 2_208_988_800
_RESTART_GAP = 1_000_000  # a sequence number that jumps by more was reset
_ICMP = (1, 58)
_WITH_PORTS = (6, 17, 132)


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """One direction of a conversation as an exporter reported it, or both.

    Parameters
    ----------
    exporter
        Address of the exporter.
    exported_us, start_us, end_us
        Times of export, of the first and of the last packet; microseconds since 1970 by the exporter's clock.
    src, dst
        IPv4 or IPv6 addresses, 4 or 16 bytes.
    src_port, dst_port
        ICMP: type and code. None where the transport has no ports.
    protocol
        IP protocol number.
    fwd_packets, fwd_bytes
        From ``src`` to ``dst``; bytes at the IP level.
    tcp_flags
        All flags seen, None where unknown.
    bwd_packets, bwd_bytes
        From ``dst`` to ``src``; None in a record of one direction.
    opened_by_src
        Whether the exporter states that ``src`` opened the conversation.
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
    fwd_packets: int
    fwd_bytes: int
    tcp_flags: int | None = None
    bwd_packets: int | None = None
    bwd_bytes: int | None = None
    opened_by_src: bool = False

    def reversed(self, opened_by_src: bool = False) -> FlowRecord:
        """Return the record with its directions exchanged; type and code of ICMP stay where they are."""
        ports = (self.dst_port, self.src_port) if self.protocol not in _ICMP else (self.src_port, self.dst_port)
        return FlowRecord(
            *(self.exporter, self.exported_us, self.start_us, self.end_us, self.dst, self.src, *ports, self.protocol),
            *(self.bwd_packets or 0, self.bwd_bytes or 0, self.tcp_flags, self.fwd_packets, self.fwd_bytes),
            opened_by_src=opened_by_src,
        )


@dataclass(slots=True)
class _Sequence:
    """Sequence number of an exporter's last datagram, and how many records that had.

    By the standards the number counts the records before this datagram (v5, IPFIX) or datagrams (v9). Some exporters
    count records in v9, too, and some include those of the datagram itself. None of these three steps is a gap.
    """

    last: int | None = None
    n_last: int = 0

    def step(self, number: int, n_records: int | None, by_datagram: bool) -> int:
        """Advance to a number, and return how many records or datagrams are missing before it."""
        last, n_last, self.last = self.last, self.n_last, number
        self.n_last = n_records or 0
        if last is None or n_records is None:
            self.last = None if n_records is None else number  # the next number is unknown where n_records is
            return 0
        # Sequence numbers wrap around at 2^32: all differences are taken modulo it, and half of the range counts as
        # backward.
        step = (number - last) % (1 << 32)
        expected = {1, n_last, n_records} if by_datagram else {n_last, n_records}
        if step >= 1 << 31:  # a late datagram keeps the greater number; a far smaller number is a restart
            late = (1 << 32) - step < _RESTART_GAP
            self.last, self.n_last = (last, n_last) if late else (number, n_records)
            return 0
        # What the datagram before announced is not missing: its own records (v5, IPFIX) or itself (v9).
        missing = step - (1 if by_datagram else n_last)
        return missing if step not in expected and 0 < missing < _RESTART_GAP else 0


@dataclass(slots=True)
class _Exporter:
    """State of one observation domain of an exporter and version: templates and clocks are valid within it."""

    templates: OrderedDict[int, Template] = field(default_factory=OrderedDict)
    sequence: _Sequence = field(default_factory=_Sequence)
    booted_us: int | None = None
    init_ms: int | None = None

    def steady_us(self, unix_us: int, uptime_ms: int) -> int:
        """Return the time of a datagram without the jitter of whole seconds in its header.

        The boot time of the first datagram stays in use while later ones imply nearly the same, also after the uptime
        wrapped around. Otherwise which of two flows began first would depend on the datagrams they came in.
        """
        booted = unix_us - 1000 * uptime_ms
        if self.booted_us is not None:
            wrap = 1000 * _WRAP_MS
            # The difference nearest to 0 modulo a wrap of the uptime; a restart of the exporter moves its boot time by
            # more.
            moved = (booted - self.booted_us + wrap // 2) % wrap - wrap // 2
            booted -= moved if abs(moved) <= _STEADY_US else 0
        self.booted_us = booted
        return booted + 1000 * uptime_ms


@dataclass(frozen=True, slots=True)
class _Datagram:
    """Exporter and time of a datagram; `uptime_ms` is None in IPFIX, whose header has none."""

    exporter: str
    state: _Exporter
    at_us: int
    uptime_ms: int | None

    def of_uptime(self, uptime_ms: int) -> int | None:
        """Return the time at an uptime: at most 24.8 days from the datagram's, half of what 32 bits hold."""
        if self.uptime_ms is not None:
            # A flow may have begun before the uptime wrapped around: its uptime is then the greater number.
            ago = (self.uptime_ms - uptime_ms + _WRAP_MS // 2) % _WRAP_MS - _WRAP_MS // 2
            return self.at_us - 1000 * ago
        init = self.state.init_ms
        if init is None:
            return None
        # IPFIX has no uptime in its header: how often it has wrapped since the start of the system follows from the
        # export time.
        wraps = max(0, (self.at_us // 1000 - init - uptime_ms + _WRAP_MS // 2) // _WRAP_MS)
        return 1000 * (init + uptime_ms + wraps * _WRAP_MS)


class NetFlowDecoder:
    """Decoder of NetFlow v5, v9 and IPFIX datagrams; remembers the templates of their exporters.

    Parameters
    ----------
    max_exporters
        Exporters remembered; the one silent for longest goes first.
    max_templates
        Templates remembered of each; the oldest goes first.

    Attributes
    ----------
    skipped : Counter
        What could not be read, by reason.
    dropped : Counter
        What was lost in transit according to the exporters' sequence numbers, by unit.
    sampled : dict
        Exporters that sample, with one packet in how many. Their counts are of the sample, not scaled up.

    Notes
    -----
    An exporter that restarts is no gap. Where counters before and after the router are in one record (1 and 2 beside
    23 and 24), those before are taken. About 10 us a record.

    Examples
    --------
    >>> header = struct.pack(">HHIIIIBBH", 5, 1, 60_000, 1_700_000_000, 0, 0, 0, 0, 0)
    >>> body = bytes((10, 0, 0, 1, 10, 0, 0, 2)) + struct.pack(">4xHHIIIIHHxBBB8x", 0, 0, 3, 180, 58_000, 59_500,
    ...     40_000, 443, 0x1B, 6, 0)
    >>> decoder = NetFlowDecoder()
    >>> [record] = decoder.decode(header + body, "192.0.2.1")
    >>> record.fwd_packets, record.fwd_bytes, record.dst_port, record.start_us
    (3, 180, 443, 1699999998000000)
    >>> decoder.decode(b"not NetFlow", "192.0.2.1"), dict(decoder.skipped)
    ([], {'datagram of an unknown version': 1})
    """

    def __init__(self, *, max_exporters: int = 1_024, max_templates: int = 1_024) -> None:
        if max_exporters < 1 or max_templates < 1:
            raise ValueError(
                f"max_exporters and max_templates must be at least 1, got {max_exporters} and {max_templates}"
            )
        self._max_exporters, self._max_templates = max_exporters, max_templates
        self._exporters: OrderedDict[tuple[str, int, int], _Exporter] = OrderedDict()
        self._decoders = {5: self._v5, 9: self._v9, 10: self._ipfix}
        self.skipped: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.sampled: dict[str, int] = {}

    def decode(self, datagram: bytes, exporter: str) -> list[FlowRecord]:
        """Return the records of a datagram; nothing is raised, whatever its bytes.

        Parameters
        ----------
        datagram
            Payload of one UDP datagram.
        exporter
            Address that sent it.
        """
        # The version is the first field in all three formats.
        decode = self._decoders.get(int.from_bytes(datagram[:2], "big"))
        if decode is None:
            self.skipped["datagram of an unknown version"] += 1
            return []
        try:
            return decode(datagram, exporter)
        except struct.error:  # shorter than its header
            return self._truncated("datagram")

    def _v5(self, data: bytes, exporter: str) -> list[FlowRecord]:
        _, count, uptime_ms, seconds, nanoseconds, number, engine, slot, sampling = _V5_HEADER.unpack_from(data)
        state = self._state(exporter, 5, engine << 8 | slot)
        self._note_sampling(exporter, sampling & 0x3FFF)
        _add(self.dropped, "records lost in transit", state.sequence.step(number, count, by_datagram=False))
        at_us = state.steady_us(seconds * 1_000_000 + nanoseconds // 1000, uptime_ms)
        source = _Datagram(exporter, state, at_us, uptime_ms)
        # The header says how many records follow; only as many are read as are there.
        whole = min(count, (len(data) - _V5_HEADER.size) // _V5_RECORD.size)
        _add(self.skipped, "truncated record", count - whole)
        end = _V5_HEADER.size + whole * _V5_RECORD.size
        records = (self._v5_record(source, *row) for row in _V5_RECORD.iter_unpack(data[_V5_HEADER.size : end]))
        return [record for record in records if record is not None]

    def _v5_record(self, source: _Datagram, src: bytes, dst: bytes, *rest: int) -> FlowRecord | None:
        _in, _out, packets, octets, first, last, src_port, dst_port, flags, protocol, _tos = rest
        times = source.of_uptime(first) or 0, source.of_uptime(last) or 0
        ports = _ports_of(protocol, src_port, dst_port, dst_port)
        tcp_flags = flags if protocol == 6 else None
        return self._checked(
            FlowRecord(source.exporter, source.at_us, *times, src, dst, *ports, protocol, packets, octets, tcp_flags)
        )

    def _v9(self, data: bytes, exporter: str) -> list[FlowRecord]:
        _, _, uptime_ms, seconds, number, domain = _V9_HEADER.unpack_from(data)
        state = self._state(exporter, 9, domain)
        source = _Datagram(exporter, state, state.steady_us(seconds * 1_000_000, uptime_ms), uptime_ms)
        records, n_records = self._sets(data, _V9_HEADER.size, len(data), source, ipfix=False)
        missing = state.sequence.step(number, n_records or 0, by_datagram=True)
        _add(self.dropped, "datagrams lost in transit", missing)
        return records

    def _ipfix(self, data: bytes, exporter: str) -> list[FlowRecord]:
        _, length, seconds, number, domain = _IPFIX_HEADER.unpack_from(data)
        if not _IPFIX_HEADER.size <= length <= len(data):
            return self._truncated("datagram")
        state = self._state(exporter, 10, domain)
        source = _Datagram(exporter, state, seconds * 1_000_000, None)
        records, n_records = self._sets(data, _IPFIX_HEADER.size, length, source, ipfix=True)
        _add(self.dropped, "records lost in transit", state.sequence.step(number, n_records, by_datagram=False))
        return records

    def _state(self, exporter: str, version: int, domain: int) -> _Exporter:
        # A template or sequence number means nothing outside of its observation domain (RFC 7011, 3.1; source ID of RFC
        # 3954), nor in another version. Senders can be forged, so their number is bounded.
        key = (exporter, version, domain)
        if key not in self._exporters:
            if len(self._exporters) >= self._max_exporters:
                (gone, _, _), _ = self._exporters.popitem(last=False)
                self.sampled.pop(gone, None)
                self.skipped["exporter evicted: too many exporters"] += 1
            self._exporters[key] = _Exporter()
        # In the order of their latest datagram, so that the one heard longest ago is evicted.
        self._exporters.move_to_end(key)
        return self._exporters[key]

    def _truncated(self, what: str) -> list[FlowRecord]:
        self.skipped[f"truncated {what}"] += 1
        return []

    def _sets(
        self, data: bytes, at: int, end: int, source: _Datagram, *, ipfix: bool
    ) -> tuple[list[FlowRecord], int | None]:
        """Return the records of all sets, and how many data records there were; None where that is unknown."""
        records: list[FlowRecord] = []
        n_records: int | None = 0
        for number, first, last in self._set_bounds(data, at, end):
            if number in ((2, 3) if ipfix else (0, 1)):
                n_templates = self._read_templates(data, first, last, source.state, _TEMPLATE_SETS[number], ipfix)
                # Records of options count in the sequence of IPFIX (RFC 7011, 3.1); templates do not, but some
                # exporters of v9 count them, too. Once a set cannot be read, nobody knows how many records it had.
                n_records = n_records if ipfix or n_records is None else n_records + n_templates
            elif number >= _FIRST_DATA_SET:
                n_read = self._read_data(data, first, last, source, number, records)
                n_records = None if n_read is None or n_records is None else n_records + n_read
            else:
                self.skipped["set of an unknown kind"] += 1
        return records, n_records

    def _set_bounds(self, data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield id, first byte and end of each set (RFC 3954, section 5.2; RFC 7011, section 3.3)."""
        while at + 4 <= end:
            number, length = struct.unpack_from(">HH", data, at)
            if length < 4 or at + length > end:
                self._truncated("set")
                return
            yield number, at + 4, at + length
            at += length

    def _read_templates(self, data: bytes, at: int, end: int, state: _Exporter, options: bool, ipfix: bool) -> int:
        n_read = 0
        while at + 4 <= end and any(data[at : at + 4]):  # zeros are padding
            read = read_template(data, at, end, ipfix=ipfix, options=options)
            if read is None:
                self._truncated("template")
                return n_read
            number, template, at = read
            self._store_template(state, number, template)
            n_read += 1
        return n_read

    def _store_template(self, state: _Exporter, number: int, template: Template | None) -> None:
        if template is None:  # withdrawn: one, or all where the id is that of template sets (RFC 7011, section 8.1)
            if number >= _FIRST_DATA_SET:
                state.templates.pop(number, None)
            else:
                state.templates.clear()
        elif number < _FIRST_DATA_SET or template.least_size == 0:
            self.skipped["template without data"] += 1
        else:
            # Over UDP templates are sent again and again, so that one that was evicted comes back.
            if number not in state.templates and len(state.templates) >= self._max_templates:
                state.templates.popitem(last=False)
                self.skipped["template evicted: too many templates"] += 1
            state.templates[number] = template
            state.templates.move_to_end(number)

    def _read_data(
        self, data: bytes, at: int, end: int, source: _Datagram, number: int, records: list[FlowRecord]
    ) -> int | None:
        """Add the records of a data set; return how many there were, None where that is unknown."""
        template = source.state.templates.get(number)
        if template is None:
            self.skipped["data set before its template"] += 1
            return None
        n_read = 0
        while at + template.least_size <= end:  # shorter remains are padding
            read = template.read(data, at, end)
            if read is None:
                self._truncated("record")
                return None
            values, at = read
            n_read += 1
            if template.samples:
                self._note_sampling(source.exporter, _number(values, *SAMPLING))
            # Options describe the exporter, not a flow: of them the sampling rate and the start of its clock matter.
            if template.options:
                source.state.init_ms = _number(values, "init ms") or source.state.init_ms
            elif (record := self._record(values, source, template.both_ways)) is not None:
                records.append(record)
        return n_read

    def _note_sampling(self, exporter: str, interval: int | None) -> None:
        if interval is not None and interval > 1:
            self.sampled[exporter] = interval

    def _record(self, values: Values, source: _Datagram, both_ways: bool) -> FlowRecord | None:
        src, dst = _address(values, "src"), _address(values, "dst")
        protocol = _number(values, "protocol")
        fwd, bwd, opened_by_src = _counts(values, both_ways)
        times = _times(values, source, both_ways)
        if src is None or dst is None:
            return self._skip("record without addresses")
        if protocol is None:
            return self._skip("record without a protocol")
        if fwd is None:
            return self._skip("record without counts of packets and bytes")
        if times is None:
            return self._skip("record without times")
        bwd_packets, bwd_bytes = bwd or (None, None)
        record = FlowRecord(
            *(source.exporter, source.at_us, *times, src, dst, *_ports(values, protocol), protocol, *fwd),
            tcp_flags=_tcp_flags(values, protocol),
            bwd_packets=bwd_packets,
            bwd_bytes=bwd_bytes,
            opened_by_src=opened_by_src,
        )
        # direction 2 of RFC 5103, section 6.3: the reverse direction opened
        turn = bwd is not None and (_number(values, "biflow direction") == 2 or not record.fwd_packets)
        return self._checked(record.reversed(opened_by_src=True) if turn else record)

    def _checked(self, record: FlowRecord) -> FlowRecord | None:
        """Return a record whose numbers are possible, else count it."""
        # What would not fit into a table's types must not get there: one record would fail the batch of all.
        if not 0 <= record.start_us <= record.end_us <= _LATEST_US:
            return self._skip("record with impossible times")
        if max(record.fwd_packets, record.fwd_bytes, record.bwd_packets or 0, record.bwd_bytes or 0) > _MAX_COUNT:
            return self._skip("record with impossible counts")
        if record.fwd_packets == 0 and not record.bwd_packets:
            return self._skip("record without packets")
        return record

    def _skip(self, reason: str) -> FlowRecord | None:
        self.skipped[reason] += 1
        return None


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


def _address(values: Values, side: str) -> bytes | None:
    """Return an address; of two kinds in one record, the one that is set."""
    v4, v6 = values.get(f"{side} ipv4"), values.get(f"{side} ipv6")
    return v6 if v4 is None or (v6 is not None and any(v6) and not any(v4)) else v4


_Counts = tuple[int, int]
_PACKETS, _OCTETS = (tuple(f"{what}{kind}" for kind in ("", " total", " out")) for what in ("packets", "octets"))
_BACK_PACKETS, _BACK_OCTETS = ((f"{REVERSE}{what}", f"{REVERSE}{what} total") for what in ("packets", "octets"))


def _pair(values: Values, packets: tuple[str, ...], octets: tuple[str, ...]) -> _Counts | None:
    n_packets, n_octets = _number(values, *packets), _number(values, *octets)
    return None if n_packets is None or n_octets is None else (n_packets, n_octets)


def _counts(values: Values, both_ways: bool) -> tuple[_Counts | None, _Counts | None, bool]:
    """Return packets and bytes forward and backward, and whether the exporter states that forward is the opener's."""
    # Cisco's firewalls name the two sides instead of reversing one record: the initiator opened.
    if "initiator packets" in values:
        opened = _pair(values, ("initiator packets",), ("initiator octets",))
        return opened, _pair(values, ("responder packets",), ("responder octets",)), True
    fwd = _pair(values, _PACKETS, _OCTETS)
    bwd = _pair(values, _BACK_PACKETS, _BACK_OCTETS) if both_ways else None
    return fwd, bwd, _number(values, "biflow direction") == 1


def _tcp_flags(values: Values, protocol: int) -> int | None:
    there, back = _number(values, "tcp flags"), _number(values, f"{REVERSE}tcp flags")
    if protocol != 6 or (there is None and back is None):
        return None
    return ((there or 0) | (back or 0)) & 0xFF  # the flags proper; higher bits are of the header's length


def _ports(values: Values, protocol: int) -> tuple[int | None, int | None]:
    src = _number(values, "src port", "tcp src port", "udp src port")
    dst = _number(values, "dst port", "tcp dst port", "udp dst port")
    kind, code = _number(values, "icmp type", "icmpv6 type"), _number(values, "icmp code", "icmpv6 code")
    icmp = _number(values, "icmp", "icmpv6") if kind is None else kind << 8 | (code or 0)
    return _ports_of(protocol, src, dst, dst if icmp is None else icmp)


def _ports_of(protocol: int, src: int | None, dst: int | None, icmp: int | None) -> tuple[int | None, int | None]:
    """Return ports, or type and code of ICMP, which many exporters write into the destination port."""
    if protocol in _WITH_PORTS:
        return (src or 0) & 0xFFFF, (dst or 0) & 0xFFFF
    return (((icmp or 0) >> 8) & 0xFF, (icmp or 0) & 0xFF) if protocol in _ICMP else (None, None)


def _times(values: Values, source: _Datagram, both_ways: bool) -> tuple[int, int] | None:
    """Return start and end in microseconds since 1970."""
    start, end = _time(values, "start", source), _time(values, "end", source)
    if both_ways:
        # Of a biflow with times for each direction, the flow lasts from the earlier start to the later end.
        start = min((at for at in (start, _time(values, f"{REVERSE}start", source)) if at is not None), default=None)
        end = max((at for at in (end, _time(values, f"{REVERSE}end", source)) if at is not None), default=None)
    if end is None:
        end = _number_us(values, "event ms", 1000)
    if start is None or end is None:
        duration = _number_us(values, "duration us", 1)
        duration = _number_us(values, "duration ms", 1000) if duration is None else duration
        known = end if start is None else start
        if duration is None or known is None:
            return None
        return (known - duration, known) if start is None else (known, known + duration)
    return start, end


def _number_us(values: Values, name: str, unit_us: int) -> int | None:
    return int.from_bytes(values[name], "big") * unit_us if name in values else None


_Reader = Callable[[bytes, Values, _Datagram], int | None]


def _ntp(raw: bytes, _values: Values, _source: _Datagram) -> int | None:
    if len(raw) != 8:
        return None
    # NTP timestamps: seconds since 1900, and 2^-32 of a second (RFC 5905, 6; RFC 7011, 6.1.9).
    seconds, fraction = int.from_bytes(raw[:4], "big"), int.from_bytes(raw[4:], "big")
    return (seconds - _NTP_TO_UNIX_S) * 1_000_000 + (fraction * 1_000_000 >> 32)


def _uptime(raw: bytes, values: Values, source: _Datagram) -> int | None:
    uptime_ms, init_ms = int.from_bytes(raw, "big"), _number(values, "init ms")
    return source.of_uptime(uptime_ms) if init_ms is None else 1000 * (init_ms + uptime_ms)


_FORMS: dict[str, _Reader] = {
    "ntp ns": _ntp,
    "ntp": _ntp,
    "ms": lambda raw, _values, _source: 1000 * int.from_bytes(raw, "big"),
    "s": lambda raw, _values, _source: 1_000_000 * int.from_bytes(raw, "big"),
    "ago us": lambda raw, _values, source: source.at_us - int.from_bytes(raw, "big"),
    "uptime": _uptime,
}
_MOMENTS: dict[str, tuple[tuple[str, _Reader], ...]] = {
    moment: tuple((f"{moment} {form}", read) for form, read in _FORMS.items())
    for moment in ("start", "end", f"{REVERSE}start", f"{REVERSE}end")
}
"""Fields that hold a time, the finest resolution first."""


def _time(values: Values, moment: str, source: _Datagram) -> int | None:
    for name, read in _MOMENTS[moment]:
        if name in values:
            return read(values[name], values, source)
    return None
