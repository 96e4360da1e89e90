"""Merge unidirectional records into flows of the `conn` schema.

Most NetFlow exporters report each direction of a conversation in a record of its own. A record waits for the one of
the reverse direction that overlaps it in time, or follows it closely; without one it becomes a flow without
answer. All times are the exporter's, also the waiting time: the same records in the same order give the same flows.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import polars as pl

from deepidea.flows.identity import IDENTITY, icmp_answer, transport_name
from deepidea.flows.sensors.netflow import FlowRecord

__all__ = ["BIFLOW_COLUMNS", "BiflowMerger", "conn_table"]

BIFLOW_COLUMNS: dict[str, pl.DataType] = {
    **IDENTITY,
    "duration_s": pl.Float64(),
    **dict.fromkeys(("fwd_packets", "bwd_packets", "fwd_bytes", "bwd_bytes"), pl.Int64()),
    "tcp_flags": pl.String(),
}
"""Columns of merged flows: `deepidea.flows.identity.IDENTITY`, and the features of `conn` that NetFlow has."""

_ICMP = (1, 58)
_REQUESTS = {(1, 8), (1, 10), (1, 13), (1, 15), (1, 17), (58, 128), (58, 130), (58, 133), (58, 135), (58, 144)}
_MAX_OF_ONE_KEY = 16  # records of one direction, ports and all, that wait at once

_Key = tuple[str, int, bytes, int, bytes, int]


@dataclass(slots=True)
class _Exporter:
    """Waiting records of one exporter by serial number, oldest first, and the latest time that it exported."""

    clock_us: int = 0
    waiting: OrderedDict[int, tuple[_Key, FlowRecord]] = field(default_factory=OrderedDict)


class BiflowMerger:
    """Merges the two directions of each conversation.

    Two records match where exporter, protocol, addresses and ports (ICMP: a type and its answer) are each other's
    reverse and their times overlap, or lie at most `gap_s` apart. Of several, the one that overlaps most is taken. The
    record that began first is the opener's; where both began together, the higher port is the client's; an ICMP
    request is the opener's. Records that an exporter cuts because a flow lasts too long stay flows of their own.

    Parameters
    ----------
    timeout_s
        How long a record waits for the reverse direction, by its exporter's clock.
    gap_s
        Longest time between the end of one direction and the start of the other: a request and its answer of one
        packet each do not overlap.
    max_waiting
        Records that wait at once; beyond, the oldest leaves as a flow of one direction.

    Attributes
    ----------
    evicted : int
        Records that left before their time because too many waited.

    Examples
    --------
    >>> client, server = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
    >>> request = FlowRecord("192.0.2.1", 10_000_000, 0, 9_000_000, client, server, 40_000, 443, 6, 5, 400)
    >>> answer = FlowRecord("192.0.2.1", 10_000_000, 20_000, 9_000_000, server, client, 443, 40_000, 6, 7, 9000)
    >>> merger = BiflowMerger()
    >>> merger.add([answer]), len(merger)
    ([], 1)
    >>> [flow] = merger.add([request])
    >>> flow.dst_port, flow.fwd_bytes, flow.bwd_bytes
    (443, 400, 9000)
    """

    # A waiting record is in two places: under its serial in `_exporters[name].waiting`, and its serial under its key
    # in `_serials`. `_insert` and `_remove` alone change them. Exporters are in order of their latest record.

    def __init__(self, *, timeout_s: float = 30.0, gap_s: float = 5.0, max_waiting: int = 100_000) -> None:
        if timeout_s < 0 or gap_s < 0 or max_waiting < 1:
            raise ValueError(
                f"timeout_s and gap_s must be at least 0 and max_waiting at least 1, got {timeout_s}, {gap_s} and "
                f"{max_waiting}"
            )
        self._timeout_us, self._gap_us = round(timeout_s * 1e6), round(gap_s * 1e6)
        self._max_waiting = max_waiting
        self._exporters: OrderedDict[str, _Exporter] = OrderedDict()
        self._serials: dict[_Key, list[int]] = {}
        self._n_waiting = 0
        self._next_serial = 0
        self.evicted = 0

    def __len__(self) -> int:
        """Return how many records wait."""
        return self._n_waiting

    def add(self, records: Iterable[FlowRecord]) -> list[FlowRecord]:
        """Take records in order of arrival; return the flows that are complete, in order, opened by their ``src``."""
        return [flow for record in records for flow in self._add(record)]

    def flush(self, exporter: str | None = None) -> list[FlowRecord]:
        """Return what waits, of one exporter or of all, as flows of one direction."""
        names = list(self._exporters) if exporter is None else [exporter]
        return [flow for name in names for flow in self._release(name, None)]

    def _add(self, record: FlowRecord) -> list[FlowRecord]:
        exporter = self._exporters.get(record.exporter)
        if exporter is None:
            exporter = self._exporters[record.exporter] = _Exporter()
        self._exporters.move_to_end(record.exporter)
        exporter.clock_us = max(exporter.clock_us, record.exported_us)
        # First those whose time is over: they must not be taken for the partner of a record that came after it.
        done = self._release(record.exporter, exporter.clock_us - self._timeout_us)
        keys = _keys(record)
        if keys is None:
            done.append(_oriented(record))
        elif (partner := self._take_partner(keys[1], record)) is not None:
            done.append(_merged(partner, record))
        else:
            done += self._insert(keys[0], record)
        if not exporter.waiting:  # only waiting records need its clock
            del self._exporters[record.exporter]
        return done

    def _release(self, name: str, until_us: int | None) -> list[FlowRecord]:
        """Remove what was exported until a time, all where that is None."""
        exporter, done = self._exporters.get(name), []
        while exporter is not None and exporter.waiting:
            serial, (_, record) = next(iter(exporter.waiting.items()))
            if until_us is not None and record.exported_us > until_us:
                break
            done.append(_oriented(self._remove(name, serial)))
        if until_us is None:
            self._exporters.pop(name, None)
        return done

    def _take_partner(self, reverse: _Key, record: FlowRecord) -> FlowRecord | None:
        """Remove and return the record of the reverse direction that overlaps most, the earliest of equals."""
        waiting = self._exporters[record.exporter].waiting
        # Overlap in microseconds; below 0 it is a gap. Starting just below the largest gap allowed refuses what lies
        # further apart.
        best, most = None, -self._gap_us - 1
        for serial in self._serials.get(reverse, ()):
            other = waiting[serial][1]
            overlap = min(record.end_us, other.end_us) - max(record.start_us, other.start_us)
            if overlap > most:
                best, most = serial, overlap
        return None if best is None else self._remove(record.exporter, best)

    def _insert(self, key: _Key, record: FlowRecord) -> list[FlowRecord]:
        """Make a record wait; return what is evicted for it."""
        done = []
        same = self._serials.get(key, [])
        # Records of one key are searched one by one, so that a flood on one pair of ports must not make the search
        # long.
        if len(same) >= _MAX_OF_ONE_KEY:
            done.append(self._evict(record.exporter, same[0]))
        elif self._n_waiting >= self._max_waiting:
            # Of the exporter heard longest ago, its oldest record: the one least likely to meet its partner still.
            name = next(name for name, exporter in self._exporters.items() if exporter.waiting)
            done.append(self._evict(name, next(iter(self._exporters[name].waiting))))
        self._next_serial += 1
        self._exporters[record.exporter].waiting[self._next_serial] = (key, record)
        self._serials.setdefault(key, []).append(self._next_serial)
        self._n_waiting += 1
        return done

    def _evict(self, name: str, serial: int) -> FlowRecord:
        self.evicted += 1
        return _oriented(self._remove(name, serial))

    def _remove(self, name: str, serial: int) -> FlowRecord:
        key, record = self._exporters[name].waiting.pop(serial)
        serials = self._serials[key]
        serials.remove(serial)
        if not serials:
            del self._serials[key]
        self._n_waiting -= 1
        return record


def _keys(record: FlowRecord) -> tuple[_Key, _Key] | None:
    """Return the key of a record and of its reverse; None where nothing can match it, or both directions are in it.

    Exporters of biflows put the type of ICMP into the key, so that request and answer are two records there, too.
    """
    src_port, dst_port = record.src_port or 0, record.dst_port or 0
    if record.bwd_packets or (record.bwd_packets is not None and record.protocol not in _ICMP):
        return None
    if record.protocol in _ICMP:
        answer = icmp_answer(record.protocol, src_port)
        if answer is None:
            return None
        # Request and answer get one key: the lower of the two types stands for both, in place of ports.
        src_port = dst_port = min(src_port, answer)
    there = (record.exporter, record.protocol, record.src, src_port, record.dst, dst_port)
    back = (record.exporter, record.protocol, record.dst, dst_port, record.src, src_port)
    return there, back


def _opens(record: FlowRecord, other_start_us: int) -> bool:
    """Whether a record's source opened the conversation whose reverse direction began at a time."""
    if record.protocol in _ICMP:
        return (record.protocol, record.src_port) in _REQUESTS
    if record.start_us != other_start_us:
        return record.start_us < other_start_us
    return (record.src_port or 0) >= (record.dst_port or 0)


def _oriented(record: FlowRecord) -> FlowRecord:
    """Return an unmatched record, reversed where it has both directions and its ports imply that ``dst`` opened."""
    both = record.bwd_packets and not record.opened_by_src and record.protocol not in _ICMP
    return record.reversed() if both and (record.src_port or 0) < (record.dst_port or 0) else record


def _merged(first: FlowRecord, second: FlowRecord) -> FlowRecord:
    there, back = (first, second) if _opens(first, second.start_us) else (second, first)
    # Flags of both directions, as Suricata counts them: SYN of one and SYN-ACK of the other are one word.
    flags = there.tcp_flags if back.tcp_flags is None else back.tcp_flags | (there.tcp_flags or 0)
    times = max(there.exported_us, back.exported_us), min(there.start_us, back.start_us), max(there.end_us, back.end_us)
    ends = there.src, there.dst, there.src_port, there.dst_port, there.protocol
    counts = there.fwd_packets, there.fwd_bytes, flags, back.fwd_packets, back.fwd_bytes
    return FlowRecord(*(there.exporter, *times, *ends, *counts), opened_by_src=True)


def conn_table(flows: Sequence[FlowRecord]) -> pl.DataFrame:
    """Return flows as a table of `BIFLOW_COLUMNS`, in their order.

    ``tcp_flags`` is two hexadecimal digits, as Suricata writes them. ``community_id`` is null: it is computed where it
    is needed.

    Examples
    --------
    >>> flow = FlowRecord("192.0.2.1", 0, 0, 1_500_000, bytes(4), bytes(16), 5353, 53, 17, 1, 60)
    >>> conn_table([flow]).select("src_ip", "dst_ip", "protocol", "duration_s", "bwd_packets").row(0)
    ('0.0.0.0', '::', 'udp', 1.5, 0)
    """
    columns = {
        # Column by column: a dict for each flow would take several times as long.
        "start": pl.Series([flow.start_us for flow in flows], dtype=pl.Int64).cast(IDENTITY["start"]),
        "end": pl.Series([flow.end_us for flow in flows], dtype=pl.Int64).cast(IDENTITY["end"]),
        "src_ip": [_text(flow.src) for flow in flows],
        "src_port": [flow.src_port for flow in flows],
        "dst_ip": [_text(flow.dst) for flow in flows],
        "dst_port": [flow.dst_port for flow in flows],
        "protocol": [transport_name(flow.protocol) for flow in flows],
        "community_id": [None] * len(flows),
        "duration_s": [(flow.end_us - flow.start_us) / 1e6 for flow in flows],
        "fwd_packets": [flow.fwd_packets for flow in flows],
        "bwd_packets": [flow.bwd_packets or 0 for flow in flows],
        "fwd_bytes": [flow.fwd_bytes for flow in flows],
        "bwd_bytes": [flow.bwd_bytes or 0 for flow in flows],
        "tcp_flags": [None if flow.tcp_flags is None else f"{flow.tcp_flags:02x}" for flow in flows],
    }
    return pl.DataFrame(columns, schema=BIFLOW_COLUMNS)


def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
