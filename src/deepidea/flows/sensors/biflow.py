"""Two records of one direction each put together into one flow of the `conn` schema.

Most exporters of NetFlow tell each direction of a conversation by itself. A record waits for the one of the other
direction that overlaps it in time, or follows it closely; where none comes, it is a flow that nobody answered. All
times are the exporter's own, the waiting too: the same records in the same order give the same flows.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import polars as pl

from deepidea.flows.identity import IDENTITY, icmp_answer, transport_name
from deepidea.flows.sensors.netflow import FlowRecord

__all__ = ["BIFLOW_COLUMNS", "Conversation", "BiflowMerger", "conn_table"]

BIFLOW_COLUMNS: dict[str, pl.DataType] = {
    **IDENTITY,
    "duration_s": pl.Float64(),
    "fwd_packets": pl.Int64(),
    "bwd_packets": pl.Int64(),
    "fwd_bytes": pl.Int64(),
    "bwd_bytes": pl.Int64(),
    "tcp_flags": pl.String(),
}
"""Columns of paired flows: `deepidea.flows.identity.IDENTITY`, and the features of `conn` that NetFlow tells."""

_ICMP = (1, 58)
_ASKING = {(1, 8), (1, 10), (1, 13), (1, 15), (1, 17), (58, 128), (58, 130), (58, 133), (58, 135), (58, 144)}
_MOST_OF_ONE_KEY = 16  # records of one direction, ports and all, that wait at once

_Key = tuple[str, int, bytes, int, bytes, int]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A flow: who opened it, and what went each way.

    Parameters
    ----------
    start_us, end_us
        First and last packet of either direction, microseconds since 1970.
    src, dst, src_port, dst_port, protocol
        As in `deepidea.flows.sensors.netflow.FlowRecord`; ``src`` opened it.
    fwd_packets, bwd_packets, fwd_octets, bwd_octets
        Zero backward where no record told of that way.
    tcp_flags
        Flags of both directions, None where they are not known.
    """

    start_us: int
    end_us: int
    src: bytes
    dst: bytes
    src_port: int | None
    dst_port: int | None
    protocol: int
    fwd_packets: int
    bwd_packets: int
    fwd_octets: int
    bwd_octets: int
    tcp_flags: int | None


@dataclass(slots=True)
class _Exporter:
    """Records of one exporter that wait, oldest first, and its clock: the latest time that it has told."""

    clock_us: int = 0
    waiting: OrderedDict[int, tuple[_Key, FlowRecord]] = field(default_factory=OrderedDict)


class BiflowMerger:
    """Puts the two directions of a conversation together.

    Two records are a pair where exporter, protocol, addresses and ports (of ICMP: a type and its answer) are each
    other's reverse and their times overlap, or lie apart by at most `gap_s`. Of several, the one that overlaps most is
    taken. The one that began first is the opener's; where both began together, the higher port is the client's. ICMP
    messages that ask are the opener's. Records that an exporter cuts because a flow lasts too long stay
    flows of their own.

    Parameters
    ----------
    timeout_s
        How long a record waits for the other direction, by its exporter's clock.
    gap_s
        Most time between the end of one direction and the start of the other: a question and its answer in one packet
        each do not overlap.
    max_waiting
        Records that wait at once; beyond, the oldest goes out as a flow of one direction.

    Attributes
    ----------
    evicted : int
        Records that went out before their time because too many waited.

    Examples
    --------
    >>> client, server = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
    >>> asked = FlowRecord("192.0.2.1", 10_000_000, 0, 9_000_000, client, server, 40_000, 443, 6, 5, 400)
    >>> answered = FlowRecord("192.0.2.1", 10_000_000, 20_000, 9_000_000, server, client, 443, 40_000, 6, 7, 9000)
    >>> pairer = BiflowMerger()
    >>> pairer.add([answered]), len(pairer)
    ([], 1)
    >>> [flow] = pairer.add([asked])
    >>> flow.dst_port, flow.fwd_octets, flow.bwd_octets
    (443, 400, 9000)
    """

    def __init__(self, *, timeout_s: float = 30.0, gap_s: float = 5.0, max_waiting: int = 100_000) -> None:
        if timeout_s < 0 or gap_s < 0 or max_waiting < 1:
            raise ValueError(
                f"timeout_s and gap_s must not be negative and max_waiting at least 1, however: {timeout_s=}, "
                f"{gap_s=}, {max_waiting=}"
            )
        self._timeout_us = round(timeout_s * 1e6)
        self._gap_us = round(gap_s * 1e6)
        self._max_waiting = max_waiting
        self._exporters: OrderedDict[str, _Exporter] = OrderedDict()
        self._of_key: dict[_Key, list[int]] = {}
        self._n_waiting = 0
        self._serial = 0
        self.evicted = 0

    def __len__(self) -> int:
        """Return how many records wait."""
        return self._n_waiting

    def add(self, records: Iterable[FlowRecord]) -> list[Conversation]:
        """Take records in the order in which they came; return the flows that are complete, in order."""
        return [flow for record in records for flow in self._add(record)]

    def flush(self, exporter: str | None = None) -> list[Conversation]:
        """Return what waits, of one exporter or of all, as flows of one direction."""
        names = list(self._exporters) if exporter is None else [exporter]
        return [flow for name in names for flow in self._release_until(name, None)]

    def _add(self, record: FlowRecord) -> list[Conversation]:
        exporter = self._exporters.setdefault(record.exporter, _Exporter())
        self._exporters.move_to_end(record.exporter)
        exporter.clock_us = max(exporter.clock_us, record.exported_us)
        done = self._release_until(record.exporter, exporter.clock_us - self._timeout_us)
        done += self._place(record)
        if not exporter.waiting:  # its clock matters to what waits alone
            del self._exporters[record.exporter]
        return done

    def _place(self, record: FlowRecord) -> list[Conversation]:
        keys = _keys(record)
        if keys is None:
            return [_alone(record)]
        partner = self._take_partner(keys[1], record)
        return self._wait(keys[0], record) if partner is None else [_together(partner, record)]

    def _release_until(self, name: str, before_us: int | None) -> list[Conversation]:
        """Let go what was told at a time or before it; all where that is None."""
        exporter, done = self._exporters.get(name), []
        while exporter is not None and exporter.waiting:
            serial, (_, record) = next(iter(exporter.waiting.items()))
            if before_us is not None and record.exported_us > before_us:
                break
            done.append(_alone(self._take(name, serial)))
        if before_us is None:
            self._exporters.pop(name, None)
        return done

    def _take(self, name: str, serial: int) -> FlowRecord:
        key, record = self._exporters[name].waiting.pop(serial)
        serials = self._of_key[key]
        serials.remove(serial)
        if not serials:
            del self._of_key[key]
        self._n_waiting -= 1
        return record

    def _take_partner(self, reverse: _Key, record: FlowRecord) -> FlowRecord | None:
        """Take the waiting record of the other direction that overlaps most, the earliest of equals."""
        waiting = self._exporters[record.exporter].waiting
        best, most = None, -self._gap_us - 1
        for serial in self._of_key.get(reverse, ()):
            other = waiting[serial][1]
            overlap = min(record.end_us, other.end_us) - max(record.start_us, other.start_us)
            if overlap > most:
                best, most = serial, overlap
        return None if best is None else self._take(record.exporter, best)

    def _wait(self, key: _Key, record: FlowRecord) -> list[Conversation]:
        """Let a record wait; return what has to go out for it."""
        done = []
        same = self._of_key.get(key, [])
        if len(same) >= _MOST_OF_ONE_KEY:
            done.append(_alone(self._evict(record.exporter, same[0])))
        elif self._n_waiting >= self._max_waiting:
            name = next(name for name, exporter in self._exporters.items() if exporter.waiting)
            done.append(_alone(self._evict(name, next(iter(self._exporters[name].waiting)))))
        self._serial += 1
        self._exporters[record.exporter].waiting[self._serial] = (key, record)
        self._of_key.setdefault(key, []).append(self._serial)
        self._n_waiting += 1
        return done

    def _evict(self, name: str, serial: int) -> FlowRecord:
        self.evicted += 1
        return self._take(name, serial)


def _keys(record: FlowRecord) -> tuple[_Key, _Key] | None:
    """Return the key of a record and that of its other direction; None where it has none, or has both in it.

    Exporters of both directions in one record key ICMP by its type, so question and answer are two records there too.
    """
    src_port, dst_port = record.src_port or 0, record.dst_port or 0
    if record.bwd_packets or (record.bwd_packets is not None and record.protocol not in _ICMP):
        return None
    if record.protocol in _ICMP:
        answer = icmp_answer(record.protocol, src_port)
        if answer is None:
            return None
        src_port = dst_port = min(src_port, answer)
    there = (record.exporter, record.protocol, record.src, src_port, record.dst, dst_port)
    back = (record.exporter, record.protocol, record.dst, dst_port, record.src, src_port)
    return there, back


def _opens(record: FlowRecord, other_start_us: int) -> bool:
    """Tell whether a record's source opened the conversation whose other direction began at a time."""
    if record.protocol in _ICMP:
        return (record.protocol, record.src_port) in _ASKING
    if record.start_us != other_start_us:
        return record.start_us < other_start_us
    return (record.src_port or 0) >= (record.dst_port or 0)


def _alone(record: FlowRecord) -> Conversation:
    """Return the flow of a record by itself: of one direction, or of both where the record has both."""
    flow = Conversation(
        record.start_us,
        record.end_us,
        record.src,
        record.dst,
        record.src_port,
        record.dst_port,
        record.protocol,
        record.packets,
        record.bwd_packets or 0,
        record.octets,
        record.bwd_octets or 0,
        record.tcp_flags,
    )
    both = record.bwd_packets and not record.opened_by_src and record.protocol not in _ICMP
    return _turned(flow) if both and (record.src_port or 0) < (record.dst_port or 0) else flow


def _turned(flow: Conversation) -> Conversation:
    ends = flow.dst, flow.src, flow.dst_port, flow.src_port, flow.protocol
    counts = flow.bwd_packets, flow.fwd_packets, flow.bwd_octets, flow.fwd_octets
    return Conversation(flow.start_us, flow.end_us, *ends, *counts, flow.tcp_flags)


def _together(first: FlowRecord, second: FlowRecord) -> Conversation:
    there, back = (first, second) if _opens(first, second.start_us) else (second, first)
    flags = [record.tcp_flags for record in (there, back) if record.tcp_flags is not None]
    return Conversation(
        min(there.start_us, back.start_us),
        max(there.end_us, back.end_us),
        there.src,
        there.dst,
        there.src_port,
        there.dst_port,
        there.protocol,
        there.packets,
        back.packets,
        there.octets,
        back.octets,
        flags[0] | flags[-1] if flags else None,
    )


def conn_table(flows: Sequence[Conversation]) -> pl.DataFrame:
    """Return flows as a table of `BIFLOW_COLUMNS`, in their order.

    ``tcp_flags`` is two hexadecimal digits, as Suricata writes them. ``community_id`` is null: it is worked out where
    it is needed.

    Examples
    --------
    >>> flow = Conversation(0, 1_500_000, bytes(4), bytes(16), 5353, 53, 17, 1, 1, 60, 180, None)
    >>> conn_table([flow]).select("src_ip", "dst_ip", "protocol", "duration_s").row(0)
    ('0.0.0.0', '::', 'udp', 1.5)
    """
    columns = {
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
        "bwd_packets": [flow.bwd_packets for flow in flows],
        "fwd_bytes": [flow.fwd_octets for flow in flows],
        "bwd_bytes": [flow.bwd_octets for flow in flows],
        "tcp_flags": [None if flow.tcp_flags is None else f"{flow.tcp_flags:02x}" for flow in flows],
    }
    return pl.DataFrame(columns, schema=BIFLOW_COLUMNS)


def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
