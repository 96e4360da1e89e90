"""Packets in, flows out: the meter, with CICFlowMeter's features under the names of schema ``cicflow``.

The compiled part is :mod:`deepidea.packets.flow_table`; here its rows become features. Three dialects of them exist,
because published tables hold what two versions of CICFlowMeter wrote, mistakes included, and a detector that was
trained on such a table must meet the same mistakes: :data:`DIALECTS` lists them.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deepidea.flows.identity import community_id
from deepidea.flows.packed_arrays import pack_arrays, unpack_arrays
from deepidea.packets import flow_table as t
from deepidea.packets.capture import PacketBlock, iter_capture

Dialect = Literal["corrected", "cicids17-improved", "cicids17"]

DIALECTS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "corrected": (),
        "cicids17-improved": (
            "header bytes are kept in 16 bits and wrap around to negative numbers",
            "subflows are counted as packets, and what is divided by them is cut to an integer",
            "means and rates of bulks are cut to integers",
            "the backward window is that of the last backward packet",
            "the least forward header is 0 where the first packet went backward",
        ),
        "cicids17": (
            "a flow ends at the first FIN, and what follows is a flow of its own; RST ends none",
            "a flow that goes on after its time-out takes its direction from the next packet",
            "Ethernet's padding counts as payload: a bare ACK has 6 bytes",
            "flags are those of the first packet alone",
            "flag counts are swapped: FIN holds RST, SYN holds PSH, RST holds ECE, PSH holds SYN, "
            "URG holds FIN, CWR holds URG, ECE holds CWR",
            "the first packet counts twice in the lengths of all packets and their statistics",
            "the mean packet size is the doubly counted sum over the single count",
            "bulks are all 0",
            "subflows are the whole flow",
            "the ratio of backward to forward packets is cut to an integer",
            "the first packet does not count among the forward packets with payload",
            "windows are -1 where no TCP packet went that way; backward that of the last packet",
            "rates of a flow of no duration are infinite, or not a number where there are no bytes",
        ),
    }
)
"""What each dialect repeats of the mistakes of the CICFlowMeter whose tables it matches."""

ROWS = 8192  # exported at once
_FORMAT = 1  # of what `FlowMeter.save` returns
_DORMANT_COLUMNS = t.WHY + 1  # of a flow that has ended: who, its state and its times; the rest begins anew
_NO_CLOCK = -(1 << 61)
_IP4_MAX = 0xFFFFFFFF


class FlowMeter:
    """Meters packets into flows; state is bounded, and time is that of the packets.

    Parameters
    ----------
    dialect : {"corrected", "cicids17-improved", "cicids17"}
        Whose values to give: :data:`DIALECTS`.
    flow_timeout_s : float
        A flow is cut when it is older than this.
    activity_timeout_s : float
        A gap longer than this is an idle time.
    close_linger_s : float
        A TCP flow that ended is exported after so long, with the packets that came meanwhile.
    snapshot_s : float, optional
        Export flows under way every so many seconds, too.
    max_flows : int
        Of a table; about 900 bytes each, taken as they are needed. When it is full, the oldest flow is exported and
        forgotten, and counted.

    Examples
    --------
    >>> meter = FlowMeter()
    >>> meter.finish().height
    0
    """

    def __init__(
        self,
        *,
        dialect: Dialect = "corrected",
        flow_timeout_s: float = 120.0,
        activity_timeout_s: float = 5.0,
        close_linger_s: float = 0.5,
        snapshot_s: float | None = None,
        max_flows: int = 300_000,
    ) -> None:
        if dialect not in DIALECTS:
            raise ValueError(f"dialect must be one of {', '.join(DIALECTS)}, got {dialect!r}")
        if min(flow_timeout_s, activity_timeout_s) <= 0 or close_linger_s < 0 or max_flows < 1:
            raise ValueError(
                f"time-outs must be positive and max_flows at least 1, got flow_timeout_s={flow_timeout_s}, "
                f"activity_timeout_s={activity_timeout_s}, close_linger_s={close_linger_s}, max_flows={max_flows}"
            )
        if snapshot_s is not None and snapshot_s <= 0:
            raise ValueError(f"snapshot_s must be positive, got {snapshot_s}")
        self.dialect: Dialect = dialect
        self._settings = np.zeros(t.N_SETTINGS, np.int64)
        for place, seconds in (
            (t.TIMEOUT, flow_timeout_s),
            (t.IDLE_GAP, activity_timeout_s),
            (t.LINGER, close_linger_s),
            (t.SNAPSHOT, snapshot_s or 0),
        ):
            self._settings[place] = round(seconds * 1e6)
        self._settings[t.PADDING] = self._settings[t.FIRST_FIN_ENDS] = dialect == "cicids17"
        self._table = t.FlowTable(
            flows=np.zeros((max_flows, t.N_INTS), np.int64),
            moments=np.zeros((max_flows, t.N_FLOATS)),
            places=np.full(1 << (2 * max_flows - 1).bit_length(), -1, np.int32),
            free=np.arange(max_flows - 1, -1, -1, dtype=np.int32),
            state=np.full(t.N_STATE, -1, np.int64),
            settings=self._settings,
            counters=np.zeros(len(t.COUNTERS), np.int64),
            seed=np.uint64(secrets.randbits(64)),  # so that nobody can choose flows that share a place
            ints=np.zeros((ROWS, t.N_INTS), np.int64),
            floats=np.zeros((ROWS, t.N_FLOATS)),
            n_rows=np.zeros(1, np.int64),
        )
        self._table.state[[t.CLOCK, t.N_SERIALS, t.FREE_TOP]] = _NO_CLOCK, 0, max_flows
        self._taken = self._table.counters.copy()
        self._tables: list[pl.DataFrame] = []

    @property
    def counters(self) -> dict[str, int]:
        """Packets by outcome, and what else was counted: :data:`deepidea.packets.flow_table.COUNTERS`."""
        return dict(zip(t.COUNTERS, self._table.counters.tolist(), strict=True))

    def take_counters(self) -> dict[str, int]:
        """Return what was counted since the last call."""
        counts = dict(zip(t.COUNTERS, (self._table.counters - self._taken).tolist(), strict=True))
        self._taken = self._table.counters.copy()
        return counts

    @property
    def n_waiting(self) -> int:
        """Flows that have ended and were not taken yet."""
        return int(self._table.n_rows[0]) + sum(map(len, self._tables))

    def feed(self, block: PacketBlock) -> None:
        """Meter packets; the flows that end wait until they are taken. Cheaper than `add`, block by block."""
        first = 0
        columns = (block.offsets, block.captured, block.lengths, block.times_us, block.link_types)
        while first < len(block):
            first = t.meter_block(self._table, block.data, *columns, first)
            if first < len(block):
                self._put_away()

    def take(self) -> pl.DataFrame:
        """Return the flows that wait, in the order of their ends."""
        self._put_away()
        tables, self._tables = self._tables, []
        return pl.concat(tables) if len(tables) != 1 else tables[0]

    def add(self, block: PacketBlock) -> pl.DataFrame:
        """Meter packets; return the flows that ended before the last of them, in the order of their ends."""
        self.feed(block)
        return self.take()

    def tick(self, now_us: int) -> pl.DataFrame:
        """Export flows whose time has come by a clock; on a quiet link no packet would."""
        while not t.expire(self._table, min(now_us, 1 << 60), 0):
            self._put_away()
        return self.take()

    def advance(self, by_us: int) -> None:
        """Let flows end whose time has come when this much has passed since the last packet; they wait to be taken."""
        if by_us > 0 and self._table.state[t.CLOCK] != _NO_CLOCK:
            ended = self.tick(int(self._table.state[t.CLOCK]) + by_us)
            self._tables.append(ended)

    def finish(self) -> pl.DataFrame:
        """Export all flows that are under way, behind those that wait."""
        while not t.flush(self._table, t.BY_STOP):
            self._put_away()
        return self.take()

    def save(self) -> bytes:
        """Return the flows under way and the counters, for `restore`; nothing may wait to be taken.

        About 100 bytes each, compressed; flows that ended and may go on take about 30.
        """
        if self.n_waiting:
            raise ValueError(f"flows that have ended must be taken before a meter is saved, got {self.n_waiting}")
        table = self._table
        status = table.flows[:, t.STATUS]
        under_way = np.flatnonzero((status != t.FREE) & (status != t.DORMANT)).astype(np.int32)
        dormant = np.flatnonzero(status == t.DORMANT).astype(np.int32)
        arrays: dict[str, NDArray[Any]] = {
            "under_way": under_way,
            "flows": np.ascontiguousarray(table.flows[under_way].T),  # columns compress better than rows
            "moments": np.ascontiguousarray(table.moments[under_way].T),
            "dormant": dormant,
            # A dormant flow was exported: of it only who, when and its state matter, to know what comes late or goes
            # on.
            "ended": np.ascontiguousarray(table.flows[dormant, :_DORMANT_COLUMNS].T),
            "state": table.state,
            "counters": table.counters,
            "taken": self._taken,
        }
        return pack_arrays(self._about(), arrays)

    def restore(self, data: bytes) -> None:
        """Take over the flows and counters of the meter that was saved; the options must be the same.

        Raises
        ------
        ValueError
            The data are damaged, or of a meter with other options or of another release.
        """
        about, saved = unpack_arrays(data)
        if about != self._about():
            raise ValueError("the meter was saved by another release or with other options")
        table, rows = self._table, np.concatenate([saved["under_way"], saved["dormant"]])
        if len(np.unique(rows)) != len(rows) or rows.min(initial=0) < 0 or rows.max(initial=0) >= len(table.flows):
            raise ValueError("the saved flows are damaged")
        table.flows[saved["under_way"]] = saved["flows"].T
        table.moments[saved["under_way"]] = saved["moments"].T
        table.flows[saved["dormant"], :_DORMANT_COLUMNS] = saved["ended"].T
        for name, array in (("state", table.state), ("counters", table.counters), ("taken", self._taken)):
            # In place: the kernel holds these arrays.
            array[:] = saved[name]
        # Saved flows keep their rows, since the lists link rows; what is left is free, the lowest on top as in a new
        # meter. The hash table is filled anew, because each meter has a seed of its own.
        free = np.setdiff1d(np.arange(len(table.flows), dtype=np.int32), rows)[::-1]
        table.free[: len(free)] = free
        table.state[t.FREE_TOP] = len(free)
        t.fill_places(table, rows)

    def _about(self) -> dict[str, Any]:
        sizes = [len(self._table.flows), t.N_INTS, t.N_FLOATS, t.N_STATE, len(t.COUNTERS)]
        return {"format": _FORMAT, "dialect": self.dialect, "settings": self._settings.tolist(), "sizes": sizes}

    def _put_away(self) -> None:
        """Make a table of the exported rows, so that there is room for more."""
        n = int(self._table.n_rows[0])
        if n or not self._tables:
            ints, floats = self._table.ints[:n].copy(), self._table.floats[:n].copy()
            self._tables.append(pl.DataFrame({**_identity(ints), **_features(ints, floats, self.dialect)}))
            self._table.n_rows[0] = 0


def meter_capture(
    source: str | Path | BinaryIO, meter: FlowMeter | None = None, skipped: Counter[str] | None = None
) -> Iterator[pl.DataFrame]:
    """Yield the flows of a capture, in the order of their ends; the last table holds what was under way.

    Parameters
    ----------
    source : path or binary stream
        As :func:`deepidea.packets.capture.iter_capture` reads it.
    meter : FlowMeter, optional
        A new one with its defaults otherwise. Its state goes on: captures that follow each other make one.
    skipped : Counter, optional
        Gets what could not be read, by reason; packets that could not be metered are in ``meter.counters``.
    """
    meter = meter or FlowMeter()
    for block in iter_capture(source, skipped):
        meter.feed(block)
        if meter.n_waiting >= ROWS // 2:
            yield meter.take()
    yield meter.finish()


# --- rows to columns -------------------------------------------------------------------------------------------------

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def _identity(ints: Ints) -> dict[str, pl.Series]:
    time = pl.Datetime("us", "UTC")
    protocol = ints[:, t.PROTOCOL]
    # Of other transports the port columns of a row hold 0, which must not look like a port.
    has_ports = np.isin(protocol, (6, 17, 132))
    ports = {
        name: pl.select(pl.when(pl.Series(has_ports)).then(pl.Series(ints[:, at].astype(np.int32)))).to_series()
        for name, at in (("src_port", t.SRC_PORT), ("dst_port", t.DST_PORT))
    }
    src_ip, dst_ip = (_addresses(ints[:, at], ints[:, at + 1], ints[:, t.VERSION]) for at in (t.SRC_HIGH, t.DST_HIGH))
    return {
        "start": pl.Series(ints[:, t.START]).cast(time),
        "end": pl.Series(ints[:, t.LAST]).cast(time),
        "src_ip": src_ip,
        "src_port": ports["src_port"],
        "dst_ip": dst_ip,
        "dst_port": ports["dst_port"],
        "protocol": pl.Series(protocol).cast(pl.String),
        "community_id": _icmp_ids(ints, src_ip, dst_ip),
        "icmp_type": pl.Series(ints[:, t.KIND].astype(np.int16)),
        "fwd_message_bytes": pl.Series(ints[:, t.FWD_MESSAGE]),
        "bwd_message_bytes": pl.Series(ints[:, t.BWD_MESSAGE]),
        "ended_by": pl.Series([*t.WHYS], dtype=pl.String).gather(ints[:, t.WHY]),
    }


def _addresses(high: Ints, low: Ints, version: Ints) -> pl.Series:
    """Return addresses as text."""
    low4 = pl.DataFrame({"low": low & _IP4_MAX})
    # In polars, column by column: an ipaddress object for each flow would take longer than metering it.
    parts = [(pl.col("low") // (1 << shift) % 256).cast(pl.String) for shift in (24, 16, 8, 0)]
    text = low4.select(pl.concat_str(parts, separator=".")).to_series()
    at = np.flatnonzero(version == 6)
    if len(at):
        text = text.scatter(at, [_ip6(h, w) for h, w in zip(high[at].tolist(), low[at].tolist(), strict=True)])
    return text


@lru_cache(maxsize=65_536)
def _ip6(high: int, low: int) -> str:
    return str(ipaddress.IPv6Address(((high & (1 << 64) - 1) << 64) | (low & (1 << 64) - 1)))


def _icmp_ids(ints: Ints, src_ip: pl.Series, dst_ip: pl.Series) -> pl.Series:
    """Return Community IDs of ICMP flows, which no column but theirs could give later; null for the rest."""
    ids: list[str | None] = [None] * len(ints)
    for at in np.flatnonzero(np.isin(ints[:, t.PROTOCOL], (1, 58))).tolist():
        kind, code, protocol = (int(ints[at, j]) for j in (t.KIND, t.CODE, t.PROTOCOL))
        ids[at] = community_id(src_ip[at], kind, dst_ip[at], code, protocol)
    return pl.Series(ids, dtype=pl.String)


def _divided(top: NDArray[Any], bottom: NDArray[Any]) -> Floats:
    """Return quotients, 0 where nothing divides."""
    top, bottom = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    return np.divide(top, bottom, out=np.zeros(len(top)), where=bottom != 0)


def _features(ints: Ints, floats: Floats, dialect: Dialect) -> dict[str, NDArray[Any]]:
    """Return the features of schema ``cicflow`` in its order."""
    duration = ints[:, t.LAST] - ints[:, t.START]
    counts = (ints[:, t.FWD_N], ints[:, t.BWD_N])
    columns: dict[str, NDArray[Any]] = {"duration_us": duration}
    columns |= _volume(ints, floats, duration, counts)
    columns |= _times(ints, floats, counts)
    columns |= _flags_and_headers(ints, floats, duration, counts)
    columns |= _shapes(ints, floats, counts)
    if dialect == "cicids17-improved":
        columns |= _improved(columns, ints, counts)
    elif dialect == "cicids17":
        columns |= _original(columns, ints, floats, counts)
    return columns


def _spread(
    name: str, order: str, *, n: Ints, floats: Floats, at: int, most: Ints | None = None, least: Ints | None = None
) -> dict[str, NDArray[Any]]:
    """Return the statistics of one quantity; ``{}`` in the name stands for the statistic, all 0 where n is 0."""
    found = {
        "mean": np.where(n > 0, floats[:, at], 0.0),
        "std": np.sqrt(_divided(floats[:, at + 1], np.maximum(n - 1, 0))),
        "max": most,
        "min": least,
    }
    return {name.format(word): value for word in order.split() if (value := found[word]) is not None}


def _volume(ints: Ints, floats: Floats, duration: Ints, counts: tuple[Ints, Ints]) -> dict[str, NDArray[Any]]:
    fwd, bwd = counts
    both = ints[:, t.FWD_BYTES] + ints[:, t.BWD_BYTES]
    columns: dict[str, NDArray[Any]] = {
        "fwd_packets": fwd,
        "bwd_packets": bwd,
        "fwd_bytes": ints[:, t.FWD_BYTES],
        "bwd_bytes": ints[:, t.BWD_BYTES],
    }
    for j, way in enumerate(("fwd", "bwd")):
        ends = {"most": ints[:, t.FWD_MAX + j], "least": ints[:, t.FWD_MIN + j]}
        at = t.M_FWD + 2 * j
        columns |= _spread(way + "_packet_length_{}", "max min mean std", n=counts[j], floats=floats, at=at, **ends)
    seconds = duration / 1e6
    return columns | {"bytes_per_s": _divided(both, seconds), "packets_per_s": _divided(fwd + bwd, seconds)}


def _times(ints: Ints, floats: Floats, counts: tuple[Ints, Ints]) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {}
    of_side = (("fwd_", 1, counts[0], t.FWD_FIRST), ("bwd_", 2, counts[1], t.BWD_FIRST))
    for way, j, n, first in (("", 0, counts[0] + counts[1], t.START), *of_side):
        ends = {"most": ints[:, t.IAT_MAX + 2 * j], "least": ints[:, t.IAT_MIN + 2 * j]}
        if way:
            columns[way + "iat_total_us"] = np.where(n > 1, ints[:, first + 1] - ints[:, first], 0)
        # n packets have n - 1 gaps between them.
        gaps = np.maximum(n - 1, 0)
        columns |= _spread(way + "iat_{}_us", "mean std max min", n=gaps, floats=floats, at=t.M_IAT + 2 * j, **ends)
    return columns


_FLAG_ORDER = (("fin", 0), ("syn", 1), ("rst", 2), ("psh", 3), ("ack", 4), ("urg", 5), ("cwr", 7), ("ece", 6))


def _flags_and_headers(
    ints: Ints, floats: Floats, duration: Ints, counts: tuple[Ints, Ints]
) -> dict[str, NDArray[Any]]:
    fwd, bwd = counts
    columns: dict[str, NDArray[Any]] = {}
    for name, at in (("psh", t.FWD_PSH), ("urg", t.FWD_URG), ("rst", t.FWD_RST)):
        columns |= {f"fwd_{name}_flags": ints[:, at], f"bwd_{name}_flags": ints[:, at + 1]}
    columns |= {"fwd_header_bytes": ints[:, t.FWD_HEADER], "bwd_header_bytes": ints[:, t.BWD_HEADER]}
    seconds = duration / 1e6
    columns |= {"fwd_packets_per_s": _divided(fwd, seconds), "bwd_packets_per_s": _divided(bwd, seconds)}
    most = np.maximum(ints[:, t.FWD_MAX], ints[:, t.BWD_MAX])
    least = np.minimum(ints[:, t.FWD_MIN], ints[:, t.BWD_MIN])
    # A side without packets has 0 in its row, which no packet was.
    least = np.where(bwd == 0, ints[:, t.FWD_MIN], np.where(fwd == 0, ints[:, t.BWD_MIN], least))
    ends = {"most": most, "least": least}
    columns |= _spread("packet_length_{}", "min max mean std", n=fwd + bwd, floats=floats, at=t.M_ALL, **ends)
    columns["packet_length_variance"] = _divided(floats[:, t.M_ALL + 1], np.maximum(fwd + bwd - 1, 0))
    return columns | {f"{name}_flag_count": ints[:, t.N_FLAG + bit] for name, bit in _FLAG_ORDER}


def _shapes(ints: Ints, floats: Floats, counts: tuple[Ints, Ints]) -> dict[str, NDArray[Any]]:
    fwd, bwd = counts
    columns: dict[str, NDArray[Any]] = {
        "down_up_ratio": _divided(bwd, fwd),
        "packet_size_mean": _divided(ints[:, t.FWD_BYTES] + ints[:, t.BWD_BYTES], fwd + bwd),
        "fwd_segment_size_mean": _divided(ints[:, t.FWD_BYTES], fwd),
        "bwd_segment_size_mean": _divided(ints[:, t.BWD_BYTES], bwd),
        **_bulks(ints),
        "subflow_fwd_packets": _divided(fwd, ints[:, t.SUBFLOWS]),
        "subflow_bwd_packets": _divided(bwd, ints[:, t.SUBFLOWS]),
        "subflow_fwd_bytes": _divided(ints[:, t.FWD_BYTES], ints[:, t.SUBFLOWS]),
        "subflow_bwd_bytes": _divided(ints[:, t.BWD_BYTES], ints[:, t.SUBFLOWS]),
        "fwd_init_window_bytes": np.maximum(ints[:, t.FWD_WINDOW], 0),
        "bwd_init_window_bytes": np.maximum(ints[:, t.BWD_WINDOW], 0),
        "fwd_data_packets": ints[:, t.FWD_DATA],
        "fwd_segment_size_min": ints[:, t.SEGMENT_MIN],
    }
    for name, n, at in (("active", t.N_ACTIVE, t.M_ACTIVE), ("idle", t.N_IDLE, t.M_IDLE)):
        ends = {"most": ints[:, n + 1], "least": ints[:, n + 2]}
        columns |= _spread(name + "_{}_us", "mean std max min", n=ints[:, n], floats=floats, at=at, **ends)
    columns |= {"icmp_code": ints[:, t.CODE], "icmp_type": ints[:, t.KIND]}
    # A TCP connection that the time-out cut lasts over all of its flows.
    whole = ints[:, t.EARLIER] + ints[:, t.LAST] - ints[:, t.START]
    return columns | {"tcp_flow_time_us": np.where(ints[:, t.PROTOCOL] == 6, whole, 0)}


def _bulks(ints: Ints) -> dict[str, NDArray[Any]]:
    columns: dict[str, dict[str, NDArray[Any]]] = {"bytes": {}, "packets": {}, "rate": {}}
    for way, at in (("fwd", t.FWD_BULK), ("bwd", t.BWD_BULK)):
        n, n_bytes = ints[:, at + t.B_BULKS], ints[:, at + t.B_ALL_BYTES]
        columns["bytes"][f"{way}_bulk_bytes_mean"] = _divided(n_bytes, n)
        columns["packets"][f"{way}_bulk_packets_mean"] = _divided(ints[:, at + t.B_ALL_PACKETS], n)
        columns["rate"][f"{way}_bulk_rate_mean"] = _divided(n_bytes, ints[:, at + t.B_ALL_US] / 1e6)
    return columns["bytes"] | columns["packets"] | columns["rate"]


# --- what the published tables hold instead --------------------------------------------------------------------------


def _improved(columns: dict[str, NDArray[Any]], ints: Ints, counts: tuple[Ints, Ints]) -> dict[str, NDArray[Any]]:
    """Return the columns in which the corrected CICIDS2017 differs: see :data:`DIALECTS`."""
    n_packets = np.maximum(counts[0] + counts[1], 1)
    whole = {"fwd_packets": counts[0], "bwd_packets": counts[1]}
    whole |= {"fwd_bytes": ints[:, t.FWD_BYTES], "bwd_bytes": ints[:, t.BWD_BYTES]}
    changed: dict[str, NDArray[Any]] = {f"subflow_{name}": value // n_packets for name, value in whole.items()}
    for name in ("fwd_header_bytes", "bwd_header_bytes"):
        # Java's short: the sum of header bytes wraps around at 32,767.
        changed[name] = columns[name].astype(np.int16).astype(np.int64)
    for name in columns:
        if "_bulk_" in name:
            changed[name] = columns[name].astype(np.int64)
    changed["bwd_init_window_bytes"] = np.maximum(ints[:, t.BWD_WINDOW_LAST], 0)
    changed["fwd_segment_size_min"] = np.where(ints[:, t.FIRST_FORWARD] == 1, ints[:, t.SEGMENT_MIN], 0)
    return changed


# Which flag's count stands under which name: the original wrote them in the order of a Java hash map.
_MISPLACED = {"fin": 2, "syn": 3, "rst": 6, "psh": 1, "ack": 4, "urg": 0, "cwr": 5, "ece": 7}


def _original(
    columns: dict[str, NDArray[Any]], ints: Ints, floats: Floats, counts: tuple[Ints, Ints]
) -> dict[str, NDArray[Any]]:
    """Return the columns in which the first CICIDS2017 differs: see :data:`DIALECTS`."""
    fwd, bwd = counts
    flags = ints[:, t.FIRST_FLAGS]
    changed: dict[str, NDArray[Any]] = {f"{name}_flag_count": (flags >> bit) & 1 for name, bit in _MISPLACED.items()}
    for name, bit in (("psh", 3), ("urg", 5), ("rst", 2)):
        changed |= {f"fwd_{name}_flags": (flags >> bit) & 1, f"bwd_{name}_flags": np.zeros_like(flags)}
    changed |= _first_twice(ints, floats, fwd + bwd)
    changed |= {name: np.zeros(len(ints), np.int64) for name in columns if "_bulk_" in name}
    changed |= {"subflow_fwd_packets": fwd, "subflow_bwd_packets": bwd}
    changed |= {"subflow_fwd_bytes": ints[:, t.FWD_BYTES], "subflow_bwd_bytes": ints[:, t.BWD_BYTES]}
    changed["down_up_ratio"] = bwd // np.maximum(fwd, 1)
    changed["fwd_data_packets"] = ints[:, t.FWD_DATA] - (ints[:, t.FIRST_PAYLOAD] > 0)
    changed["fwd_init_window_bytes"] = ints[:, t.FWD_WINDOW]
    changed["bwd_init_window_bytes"] = ints[:, t.BWD_WINDOW_LAST]
    # Java divides by 0 without an error: infinity, or NaN where the numerator is 0 as well.
    instant = columns["duration_us"] == 0
    n_bytes = ints[:, t.FWD_BYTES] + ints[:, t.BWD_BYTES]
    changed["bytes_per_s"] = np.where(instant, np.where(n_bytes > 0, np.inf, np.nan), columns["bytes_per_s"])
    changed["packets_per_s"] = np.where(instant, np.inf, columns["packets_per_s"])
    return changed


def _first_twice(ints: Ints, floats: Floats, n: Ints) -> dict[str, NDArray[Any]]:
    """Return the lengths of all packets with the first counted twice."""
    # One more step of Welford's sums, with the first payload as the value that is added.
    off = ints[:, t.FIRST_PAYLOAD] - floats[:, t.M_ALL]
    mean = floats[:, t.M_ALL] + off / (n + 1)
    variance = (floats[:, t.M_ALL + 1] + off * (ints[:, t.FIRST_PAYLOAD] - mean)) / np.maximum(n, 1)
    lengths = {"packet_length_mean": mean, "packet_length_std": np.sqrt(variance), "packet_length_variance": variance}
    return lengths | {"packet_size_mean": mean * (n + 1) / np.maximum(n, 1)}
