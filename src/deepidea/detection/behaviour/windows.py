"""Behaviour windows: for every flow, what its source, pair, service, target and target port did lately.

One flow of a scan, of a flood, of password guessing or of a beacon looks like a failed, short or idle benign flow. What
tells them apart is how many there are, to whom, how alike, how regular. All of it is counted from fields that every
sensor gives, so packets, Zeek, Suricata and NetFlow share one path.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deepidea.detection.behaviour.sites import GROUP, UNKNOWN, HomeNetworks
from deepidea.flows.context import ends_us, failed_flows, moments_us
from deepidea.flows.identity import transport_number

__all__ = ["COUNTS", "WINDOWS", "WINDOW_COLUMNS", "BehaviourWindows", "identified"]

WINDOWS = {"10s": 10, "1min": 60, "10min": 600, "1h": 3600}
"""Lengths of windows in seconds."""

COUNTS: dict[str, tuple[str, ...]] = {
    "source": ("flows", "failed", "", "", "", "", "failing_ports", "failing_hosts"),
    "source_port": ("flows", "failed", "failed_packets", "", "", "", "failing_hosts", ""),
    "pair": ("flows", "failed", "", "bytes_out", "bytes_back", "", "failing_ports", ""),
    "service": ("flows", "failed", "small_packets", "bytes_out", "bytes_back", "packets", "idle_sockets", ""),
    "target": ("flows", "failed", "small_packets", "", "", "", "outside_sources", ""),
    "target_port": ("flows", "empty", "", "", "", "", "sources", ""),
}
"""What is counted by kind of key, in the order of the kernel; the last two of each are counts of different values."""

_OF_RING = ("short_1min", "alike_1min", "short_10min", "alike_10min", "beats", "gap_s", "gap_spread", "same_size")
_COUNTED = {
    f"{kind}_{name}_{window}": (kind_at, window_at, name_at)
    for kind_at, (kind, names) in enumerate(COUNTS.items())
    for window_at, window in enumerate(WINDOWS)
    for name_at, name in enumerate(names)
    if name
}

WINDOW_COLUMNS = (*_COUNTED, *(f"service_{name}" for name in _OF_RING))
"""Columns that :meth:`BehaviourWindows.add` returns: ``pair_failing_ports_10min`` and the like."""

MAX_KEYS = 1 << 19
_UDP_HEADERS, _ICMP_HEADERS, _TCP_HEADERS = 8, 8, 20
_UDP_SERVICES = [1812, 1813, 1900, 3478, 3702, 4500, 5060, 5353, 5355]  # beside those below 1024
_ICMP_REQUESTS = [8, 13, 15, 17, 128]  # echo, timestamp, information, address mask; echo of ICMPv6
_INPUTS = (
    dict.fromkeys(("starts_us", "ends_us"), "int64") | dict.fromkeys(("src", "dst"), "uint64")
    | dict.fromkeys(("src_ports", "dst_ports"), "int32")
    | dict.fromkeys(("protocols", "src_sides", "dst_sides", "failed"), "uint8")
    | dict.fromkeys(("fwd_packets", "bwd_packets", "fwd_bytes", "bwd_bytes"), "float32")
)  # fmt: skip
_NUMBERS = (
    *(f"{way}_{what}" for way in ("fwd", "bwd") for what in ("packets", "bytes", "header_bytes", "message_bytes")),
    "duration_s", "duration_us", "src_port", "dst_port", "icmp_type", "syn_flag_count",
)  # fmt: skip
_MOST = 1e15  # of packets and bytes of a flow
_NEEDED = ("src_ip", "dst_ip", "dst_port", "protocol", "fwd_packets", "bwd_packets", "fwd_bytes", "bwd_bytes")
_SIDES = HomeNetworks()  # which text is no address does not depend on what is inside


def identified(flows: pl.DataFrame) -> pl.Series:
    """Return which flows have the addresses, times and counts that windows are made of, Boolean ``(n_flows,)``.

    Of each flow by itself, whatever the others have: how flows are cut into tables does not matter.

    Examples
    --------
    >>> identified(pl.DataFrame({"src_ip": ["192.0.2.1"]})).to_list()
    [False]
    """
    begins, lasts = ({*names} & set(flows.columns) for names in (("start", "timestamp"), ("duration_s", "duration_us")))
    times = [*begins, *({"end"} & set(flows.columns))]
    if not begins or not lasts or not set(_NEEDED) <= set(flows.columns):
        return pl.repeat(False, flows.height, eager=True)
    if not all(isinstance(flows[name].dtype, pl.Datetime) for name in times):
        return pl.repeat(False, flows.height, eager=True)
    timed = flows.select(pl.any_horizontal(pl.col(times).is_not_null())).to_series()
    src, dst = (_SIDES.sides(flows[name].cast(pl.String)) for name in ("src_ip", "dst_ip"))
    return timed & (src != UNKNOWN) & (dst != UNKNOWN)


class BehaviourWindows:
    """Counts what hosts, pairs and services did in the last 10 s, 1 min, 10 min and 1 h, flow by flow.

    State is carried from call to call: however flows are cut into tables, each gets the same numbers to the bit.

    Parameters
    ----------
    home
        Networks that are inside. Unless they are named, private ones are, and public addresses that take part in three
        in ten of the flows between public addresses: a sensor sees the flows of the hosts that it watches.
    columns
        Of :data:`WINDOW_COLUMNS`: those that are wanted. Sources are counted where one of theirs is.
    max_keys
        Keys of all kinds that are remembered, a power of two. Where more are active, the one of its set of eight that
        was not seen for longest is forgotten and counted.

    Notes
    -----
    A window of length W covers between W/2 and W: it is counted in two buckets of W/2 that are aligned with the clock.
    Memory is bounded by ``max_keys``: about 500 bytes a key, taken as keys come (`benchmarks/behaviour_speed.py`). Keys
    and values are told apart by 64-bit hashes.
    """

    def __init__(
        self,
        home: HomeNetworks | None = None,
        *,
        columns: Collection[str] = WINDOW_COLUMNS,
        max_keys: int = MAX_KEYS,
    ) -> None:
        if max_keys < 64 or max_keys & (max_keys - 1):
            raise ValueError(f"max_keys must be a power of two from 64 on, got {max_keys}")
        from deepidea.detection.behaviour import kernel  # numba takes a second to load

        self.home, self.max_keys = home, max_keys
        self._networks = home or HomeNetworks()
        self._kernel, self._state = kernel, kernel.make_state(max_keys)
        self._columns = [name for name in WINDOW_COLUMNS if name in columns]
        of_keys = [_COUNTED[name] for name in self._columns if name in _COUNTED]
        kinds, windows, counts = np.array(of_keys, np.int64).reshape(-1, 3).T
        ends = np.searchsorted(kinds, np.arange(len(COUNTS) + 1))
        self._wanted = kernel.Wanted(ends, windows.copy(), counts.copy())

    @property
    def evicted(self) -> int:
        """Keys, and values counted once, that were forgotten for newer ones within the hour so far."""
        return self._kernel.evicted(self._state)

    def add(self, flows: pl.DataFrame) -> pl.DataFrame:
        """Return the windows of each flow, row for row.

        Parameters
        ----------
        flows
            Flows of `conn` or `cicflow` under canonical names, with addresses and times, in the order in which they
            ended. One that comes late counts as ended when the latest before it did.

        Returns
        -------
        polars.DataFrame
            :data:`WINDOW_COLUMNS`, Float32; null where an address is missing, and of what a service's latest flows have
            in common also where it was not looked at again. ``src_side``, ``dst_side``: see `HomeNetworks`;
            ``dst_port``, -1 where there is none; ``protocol``, a number; ``clock_us``, when the flow counts as ended.
        """
        return self.count(self.inputs(flows))

    def count(self, inputs: dict[str, NDArray[Any]]) -> pl.DataFrame:
        """Return what :meth:`add` returns, of flows as :meth:`inputs` gives them."""
        n_flows, n_counts = len(inputs["ends_us"]), len(self._wanted.counts)
        out = np.full((n_flows, n_counts + self._kernel.N_RING_OUT), np.nan, np.float32)
        clocks = np.zeros(n_flows, np.int64)
        # copies: sides are changed, and numba would compile a second time for arrays that are read-only
        flows = self._kernel.Flows(**{name: np.array(values) for name, values in inputs.items()})
        self._kernel.add_flows(self._state, flows, self.home is None, self._wanted, clocks, out)
        places = {f"service_{name}": n_counts + at for at, name in enumerate(_OF_RING)}
        places |= {name: at for at, name in enumerate(self._columns[:n_counts])}
        about = {name: getattr(flows, f"{name}s") for name in ("src_side", "dst_side", "dst_port", "protocol")}
        windows = {name: out[:, places[name]] for name in self._columns}
        return pl.DataFrame({**windows, **about, "clock_us": clocks}).fill_nan(None)

    def inputs(self, flows: pl.DataFrame) -> dict[str, NDArray[Any]]:
        """Return what the kernel takes, see `kernel.Flows`."""
        flows = _with_numbers(flows)
        src, dst = flows["src_ip"].cast(pl.String), flows["dst_ip"].cast(pl.String)
        src_sides, dst_sides = self._networks.sides(src), self._networks.sides(dst)
        protocols = _protocols(flows["protocol"])
        sizes = flows.select(
            *(pl.col(f"{way}_packets").cast(pl.Float32).fill_null(0) for way in ("fwd", "bwd")),
            *(payload_bytes(flows, way, protocols) for way in ("fwd", "bwd")),
        ).select(pl.all().fill_nan(0).clip(0, _MOST))  # one NaN would stay in every sum
        ends = ends_us(flows).fill_null(0)
        unknown = (src_sides == UNKNOWN) | (dst_sides == UNKNOWN)
        return {
            "starts_us": _starts_us(flows, ends).to_numpy(),
            "ends_us": ends.to_numpy(),
            "src": src.hash().to_numpy(),
            "dst": dst.hash().to_numpy(),
            "src_ports": _ports(flows, "src_port"),
            "dst_ports": _ports(flows, "dst_port", known=protocols.is_in([6, 17, 132])),
            "protocols": protocols.to_numpy(),
            "src_sides": src_sides.set(unknown, UNKNOWN).to_numpy(),
            "dst_sides": dst_sides.to_numpy(),
            "failed": failed_attempts(flows, protocols, dst_sides).to_numpy(),
            **{name: sizes[name].to_numpy() for name in sizes.columns},
        }

    def check(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Raise ValueError where arrays are not what :meth:`inputs` returns: the kernel does not look."""
        found = {name: (values.dtype.name, values.shape) for name, values in inputs.items()}
        shape = (len(inputs["ends_us"]),)
        if found != {name: (dtype, shape) for name, dtype in _INPUTS.items()}:
            raise ValueError(f"flows of behaviour windows are damaged: {found}")

    def save(self) -> dict[str, NDArray[Any]]:
        """Return what :meth:`load` needs to count on as if nothing had happened."""
        return self._kernel.save_state(self._state)

    def load(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Take back what was saved.

        Raises
        ------
        ValueError
            It does not fit ``max_keys``.
        """
        self._state = self._kernel.load_state(saved, self.max_keys)


def _with_numbers(flows: pl.DataFrame) -> pl.DataFrame:
    """Return flows with numbers where a reader left text, as it does in columns that no detector needs."""
    texts = [name for name in _NUMBERS if name in flows.columns and not flows[name].dtype.is_numeric()]
    return flows.with_columns(pl.col(texts).cast(pl.Float64, strict=False)) if texts else flows


def _starts_us(flows: pl.DataFrame, ends: pl.Series) -> pl.Series:
    """Return when flows began; their end where that is unknown."""
    name = next(name for name in ("start", "timestamp") if name in flows.columns)
    return pl.select(pl.coalesce(moments_us(flows[name]), ends)).to_series()


def _protocols(protocols: pl.Series) -> pl.Series:
    texts = protocols.cast(pl.String).str.strip_suffix(".0")
    known = {text: transport_number(text) or 0 for text in texts.unique().drop_nulls().to_list()}
    numbers = {text: 1 if number == 58 else number for text, number in known.items()}  # ICMPv6 counts as ICMP
    return texts.replace_strict(numbers, default=0, return_dtype=pl.UInt8).fill_null(0)


def _ports(flows: pl.DataFrame, name: str, known: pl.Series | None = None) -> NDArray[np.int32]:
    """Return ports, -1 where there is none: of ICMP, type and code stand in their place."""
    if name not in flows.columns:
        return np.full(flows.height, -1, np.int32)
    ports = flows[name].cast(pl.Int32, strict=False).fill_null(-1)
    return (ports if known is None else ports.set(~known, -1)).to_numpy()


def _size(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Float32, strict=False).fill_null(0)


def payload_bytes(flows: pl.DataFrame, way: str, protocols: pl.Series) -> pl.Expr:
    """Return payload bytes one way: `cicflow` counts them, `conn` counts IP's, of which bare headers are taken off."""
    packets, counted = (_size(f"{way}_{what}") for what in ("packets", "bytes"))
    icmp = pl.lit(protocols == 1)
    if "duration_us" in flows.columns:
        if f"{way}_message_bytes" not in flows.columns:
            return counted.alias(f"{way}_bytes")
        return (
            pl.when(icmp)
            .then(_size(f"{way}_message_bytes") - _ICMP_HEADERS * packets)
            .otherwise(counted)
            .alias(f"{way}_bytes")
        )
    v6 = pl.col("src_ip").cast(pl.String).str.contains(":", literal=True).fill_null(False)
    transport = pl.lit(protocols.replace_strict({6: _TCP_HEADERS, 17: _UDP_HEADERS, 1: _ICMP_HEADERS}, default=0,
                                                return_dtype=pl.Float32))  # fmt: skip
    left = counted - packets * (transport + pl.when(v6).then(40).otherwise(20))
    # TCP's options are not known from totals: up to 20 bytes a packet are no payload
    slack = pl.when(pl.lit(protocols == 6)).then(packets * 20).otherwise(0)
    return pl.when(left <= slack).then(0).otherwise(left).cast(pl.Float32).alias(f"{way}_bytes")


def failed_attempts(flows: pl.DataFrame, protocols: pl.Series, dst_sides: pl.Series) -> pl.Series:
    """Return which flows are attempts that got nowhere, UInt8 ``(n_flows,)``.

    Nothing came back, or a lone refusal (:class:`deepidea.flows.context.HostContext`). What goes to a group is never
    answered and does not count; nor does a piece of a TCP conversation whose beginning was not seen, or a lone answer
    of UDP: from the port of a service to one of no service, as of discovery.
    """
    tcp = pl.lit(protocols == 6)
    opened = pl.col("fwd_packets") <= 3
    if "syn_flag_count" in flows.columns:
        opened |= pl.col("syn_flag_count") > 0
    elif "state" in flows.columns:
        opened = (
            pl.when(pl.col("state").is_null()).then(opened).otherwise(~pl.col("state").is_in(["OTH", "SHR", "RSTRH"]))
        )
    asked = pl.lit(dst_sides != GROUP) & ~_is_icmp_notice(flows, protocols) & ~_is_udp_answer(flows, protocols)
    failed = failed_flows(flows) & asked & (~tcp | opened)
    return flows.select(failed.fill_null(False).cast(pl.UInt8)).to_series()


def _is_icmp_notice(flows: pl.DataFrame, protocols: pl.Series) -> pl.Expr:
    """Return which flows are messages of ICMP that ask for nothing: errors, advertisements."""
    kind = pl.col("icmp_type") if "icmp_type" in flows.columns else pl.col("src_port")
    if kind.meta.output_name() not in flows.columns:
        return pl.lit(False)
    return pl.lit(protocols == 1) & ~kind.cast(pl.Int64, strict=False).is_in(_ICMP_REQUESTS).fill_null(True)


def _is_udp_answer(flows: pl.DataFrame, protocols: pl.Series) -> pl.Expr:
    if "src_port" not in flows.columns:
        return pl.lit(False)
    ports = [pl.col(name).cast(pl.Int64, strict=False) for name in ("src_port", "dst_port")]
    from_service, to_service = ((port < 1024) | port.is_in(_UDP_SERVICES) for port in ports)
    return pl.lit(protocols == 17) & (from_service & ~to_service).fill_null(False)
