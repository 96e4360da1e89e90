"""Host context: what a flow's hosts did just before it, features that one flow by itself cannot have.

A scan is many flows that each look like a failed connection, a flood many that look like a visit. For every flow, what
its source opened and what was opened to its destination is counted over the last 2 s, the last 60 s and the last
100 flows, the flow itself among them. Counting is causal, one pass in the order in which flows end, in bounded
memory: a later flow changes no earlier number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deepidea.errors import SchemaError
from deepidea.flows.column import Column
from deepidea.flows.packed_arrays import pack_arrays, unpack_arrays

__all__ = ["CONTEXT_COLUMNS", "HostContext", "add_context"]

MAX_HOSTS = 16_384
_FORMAT = 1  # of what `HostContext.save` returns
_LEAST_JOURNAL_BYTES = 1 << 20
_INPUTS = ("ends_us", "src", "dst", "known", "ports", "failed")  # of the kernel, one value a flow
_WINDOWS = {"2s": "in the last 2 s", "60s": "in the last 60 s", "100": "of its last 100 flows"}
_ROLES = {"src": ("source", "opened"), "dst": ("destination", "received")}
_BARE_BYTES = 60  # of a TCP packet over IPv4: 20, and 40 with the options of a handshake
_IPV6_MORE = 20  # bytes by which IPv6's header is the longer


def _window_columns(role: str, window: str) -> tuple[Column, ...]:
    host, did = _ROLES[role]
    flows = f"flows that the {host} {did}, {_WINDOWS[window]}"
    peers = "hosts" if role == "src" else "hosts that opened"
    counts = (
        Column(f"{role}_dst_ports_{window}", "number", "", (), f"different destination ports of {flows}"),
        Column(f"{role}_peers_{window}", "number", "", (), f"different {peers} at the other end of {flows}"),
    )
    share = Column(f"{role}_failed_share_{window}", "number", "", (), f"share that failed of {flows}")
    # Over a fixed time the rate is the count in other units; over a fixed count of flows the time varies, so it is new.
    if window == "100":
        return (*counts, Column(f"{role}_flows_per_s_100", "number", "1/s", (), f"rate of {flows}"), share)
    return (
        *counts,
        Column(f"{role}_flows_{window}", "number", "", (), f"number of {flows}; 256 is 256 or more"),
        share,
    )


CONTEXT_COLUMNS: tuple[Column, ...] = tuple(
    column for role in _ROLES for window in _WINDOWS for column in _window_columns(role, window)
)
"""The columns that `HostContext` adds: of the source, then of the destination, by window."""


class HostContext:
    """Adds to flows what their hosts did lately.

    State is carried from call to call: however flows are cut into tables, each gets the same numbers to the bit.

    Parameters
    ----------
    max_hosts
        Hosts remembered as sources, and as many as destinations. When there are more, the one not seen for longest is
        forgotten and counted; its next flow is its first.

    Notes
    -----
    Of each host the last 256 flows are kept, so counts end there. Memory is at most 11 KB a host, taken as hosts come:
    180 MB with the default. About 2 us a flow (`benchmarks/context_speed.py`); the first flow of a process takes
    seconds where numba's cache is empty.

    A flow **failed** where nothing came back, or where all that came back over TCP is one packet of at most 60 bytes
    (80 over IPv6), which headers fill: a reset, or the second step of a handshake that was never finished. It says the
    same of `conn` and `cicflow` flows, and asks for nothing that some tool does not tell.

    Examples
    --------
    >>> scan = pl.DataFrame({
    ...     "end": pl.Series([0, 1, 2], dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
    ...     "src_ip": "10.0.0.1", "dst_ip": "10.0.0.2", "dst_port": [21, 22, 23], "protocol": "tcp",
    ...     "bwd_packets": 0, "bwd_bytes": 0})
    >>> HostContext().add(scan).select("src_dst_ports_2s", "src_peers_2s", "dst_failed_share_100").rows()
    [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (3.0, 1.0, 1.0)]
    """

    def __init__(self, *, max_hosts: int = MAX_HOSTS) -> None:
        if not 1 <= max_hosts <= 1 << 28:
            raise ValueError(f"max_hosts must be in 1..2^28, got {max_hosts}")
        from deepidea.flows import context_kernel  # numba takes a second to load

        self._kernel = context_kernel
        self._sources = context_kernel.make_hosts(max_hosts)
        self._targets = context_kernel.make_hosts(max_hosts)
        self._max_hosts = max_hosts
        self._clock_us = 0
        self._journal: list[dict[str, NDArray[Any]]] | None = None
        self._snapshot_bytes = self._journal_bytes = 0

    @property
    def n_hosts(self) -> tuple[int, int]:
        """Hosts that are remembered as sources and as destinations."""
        return int(self._sources.n_hosts[0]), int(self._targets.n_hosts[0])

    @property
    def evicted(self) -> int:
        """Hosts that were forgotten for newer ones so far, in either role."""
        return int(self._sources.n_hosts[1] + self._targets.n_hosts[1])

    def add(self, flows: pl.DataFrame) -> pl.DataFrame:
        """Return flows with `CONTEXT_COLUMNS` behind their own columns, row for row.

        Parameters
        ----------
        flows
            Flows of `conn` or `cicflow` under canonical names, with addresses and times, in the order in which they
            ended. One that comes late counts as ended when the latest before it did.

        Returns
        -------
        polars.DataFrame
            Numbers are Float64; null where an address is missing.

        Raises
        ------
        SchemaError
            Addresses, times or counts of packets are absent.
        """
        _refuse_missing(flows)
        src, dst = flows["src_ip"].cast(pl.String), flows["dst_ip"].cast(pl.String)
        known = (src.is_not_null() & dst.is_not_null()).to_numpy()
        out = np.full((flows.height, 2 * self._kernel.N_OUT), np.nan)
        inputs = {
            "ends_us": ends_us(flows).fill_null(0).to_numpy(),
            # Names are 64-bit hashes: two of 10^4 hosts collide with a probability below 10^-11, and memory stays
            # fixed.
            "src": src.hash().to_numpy(),
            "dst": dst.hash().to_numpy(),
            "known": known,
            "ports": flows["dst_port"].cast(pl.Int32).fill_null(-1).to_numpy(),
            "failed": flows.select(failed_flows(flows).fill_null(False).cast(pl.UInt8)).to_series().to_numpy(),
        }
        self._clock_us = self._kernel.add_flows(self._sources, self._targets, self._clock_us, *inputs.values(), out)
        if self._journal is not None and flows.height:
            self._journal.append(inputs)
        columns = (pl.Series(column.name, out[:, i]) for i, column in enumerate(CONTEXT_COLUMNS))
        return flows.with_columns(column.fill_nan(None) for column in columns)

    def save(self) -> tuple[bytes, bool] | None:
        """Return what has changed since the last call, to be kept for `restore`; None where nothing has.

        Returns
        -------
        data, append
            Whether the data follow what was kept so far, or replace it. Mostly they are the flows that were added, 30
            bytes each before compression. A snapshot of all hosts comes first, and again whenever what followed the
            last one has outgrown it, so that all together stays below three snapshots.
        """
        if self._journal is None:
            return self._snapshot()
        if not self._journal:
            return None
        # A snapshot costs as much as all hosts, a journal entry as the new flows. To write a snapshot when the journal
        # has grown to its size keeps the cost of a flow constant, and what `restore` must replay bounded.
        if self._journal_bytes > max(_LEAST_JOURNAL_BYTES, self._snapshot_bytes):
            return self._snapshot()
        together = {name: np.concatenate([part[name] for part in self._journal]) for name in self._journal[0]}
        self._journal = []
        data = pack_arrays({"format": _FORMAT, "kind": "flows", "probe": _hash_probe()}, together)
        self._journal_bytes += len(data)
        return data, True

    def _snapshot(self) -> tuple[bytes, bool]:
        hosts = self._kernel.save_hosts(self._sources, "src_") | self._kernel.save_hosts(self._targets, "dst_")
        about = {"format": _FORMAT, "kind": "hosts", "probe": _hash_probe(), "clock_us": self._clock_us}
        data = pack_arrays({**about, "max_hosts": self._max_hosts}, hosts)
        self._journal, self._journal_bytes, self._snapshot_bytes = [], 0, len(data)
        return data, False

    @classmethod
    def restore(cls, entries: Sequence[bytes], *, max_hosts: int = MAX_HOSTS) -> HostContext:
        """Return the context that `save` was called of, from all that it returned since its last snapshot.

        Raises
        ------
        ValueError
            The data are damaged, of another format, or of a platform that hashes addresses otherwise.
        """
        made = cls(max_hosts=max_hosts)
        for number, data in enumerate(entries):
            about, arrays = unpack_arrays(data)
            made._take(about, arrays, first=number == 0)
            made._journal_bytes += len(data) if number else 0
            made._snapshot_bytes += 0 if number else len(data)
        made._journal = []
        return made

    def _take(self, about: dict[str, Any], arrays: dict[str, NDArray[Any]], *, first: bool) -> None:
        """Take one entry of what was saved."""
        wanted = {"format": _FORMAT, "probe": _hash_probe(), "kind": "hosts" if first else "flows"}
        wanted |= {"max_hosts": self._max_hosts} if first else {}
        if any(about.get(name) != value for name, value in wanted.items()):
            raise ValueError(f"host context of another release or platform: {about}")
        if first:
            self._sources = self._kernel.load_hosts(arrays, "src_", self._max_hosts)
            self._targets = self._kernel.load_hosts(arrays, "dst_", self._max_hosts)
            self._clock_us = int(about["clock_us"])
        else:
            # The journal holds the inputs of the kernel, so replaying it gives the same state to the bit; the outputs
            # were used.
            out = np.full((len(arrays["src"]), 2 * self._kernel.N_OUT), np.nan)
            inputs = [arrays[name] for name in _INPUTS]
            self._clock_us = self._kernel.add_flows(self._sources, self._targets, self._clock_us, *inputs, out)


def _hash_probe() -> int:
    """Return the hash of a known address: it differs where a release or platform of polars hashes otherwise."""
    return int(pl.Series(["192.0.2.1"]).hash()[0])


def _refuse_missing(flows: pl.DataFrame) -> None:
    needed = ["src_ip", "dst_ip", "dst_port", "protocol", "bwd_packets", "bwd_bytes"]
    needed += ["bwd_header_bytes"] if "duration_us" in flows.columns else []
    missing = [name for name in needed if name not in flows.columns]
    if missing:
        raise SchemaError(
            f"cannot count host context: flows lack {', '.join(missing)} of {', '.join(needed)}; take flows with "
            "addresses"
        )


def ends_us(flows: pl.DataFrame) -> pl.Series:
    """Return when flows ended, microseconds since 1970: their end, or start and duration."""
    if "end" in flows.columns:
        return moments_us(flows["end"])
    start = next((name for name in ("start", "timestamp") if name in flows.columns), None)
    unit_us = next((name for name in ("duration_us", "duration_s") if name in flows.columns), None)
    if start is None or unit_us is None:
        raise SchemaError(
            "cannot count host context: flows have neither an end nor a start and a duration; take flows with times"
        )
    lasted_us = flows[unit_us] * (1 if unit_us == "duration_us" else 1_000_000)
    return moments_us(flows[start]) + lasted_us.round().cast(pl.Int64, strict=False).fill_null(0)


def moments_us(moments: pl.Series) -> pl.Series:
    if not isinstance(moments.dtype, pl.Datetime):
        raise SchemaError(
            f"cannot count host context: column {moments.name} holds {moments.dtype}, not times; read it as Datetime"
        )
    return moments.dt.timestamp("us")


def failed_flows(flows: pl.DataFrame) -> pl.Expr:
    """Return which flows failed, see `HostContext`; `cicflow` counts payload and TCP headers apart, no IP header."""
    if "duration_us" in flows.columns:
        bare = (pl.col("bwd_bytes") + pl.col("bwd_header_bytes")) <= _BARE_BYTES - 20
    else:
        v6 = pl.col("src_ip").cast(pl.String).str.contains(":", literal=True)
        bare = pl.col("bwd_bytes") <= _BARE_BYTES + pl.when(v6).then(_IPV6_MORE).otherwise(0)
    tcp = pl.col("protocol").cast(pl.String).str.to_lowercase().is_in(["tcp", "6", "6.0"])
    refused = tcp & (pl.col("bwd_packets") == 1) & bare
    return (pl.col("bwd_packets") == 0) | refused


def add_context(flows: pl.DataFrame, *, max_hosts: int = MAX_HOSTS) -> pl.DataFrame:
    """Return a whole table with `CONTEXT_COLUMNS`, counted in the order in which its flows ended; rows keep theirs.

    Parameters
    ----------
    flows, max_hosts
        As in `HostContext`, in any order; flows that ended together count in the order of the table.

    Raises
    ------
    SchemaError
        As `HostContext.add`.

    Examples
    --------
    >>> import datetime as dt
    >>> start = pl.Series([dt.datetime(2017, 7, 7, 9), dt.datetime(2017, 7, 7, 8)])
    >>> flows = pl.DataFrame({"timestamp": start, "duration_us": 5, "src_ip": "10.0.0.1", "dst_ip": ["10.0.0.2", "::1"],
    ...     "dst_port": 80, "protocol": "6", "bwd_packets": 3, "bwd_bytes": 9, "bwd_header_bytes": 60})
    >>> add_context(flows)["src_peers_100"].to_list()
    [2.0, 1.0]
    """
    _refuse_missing(flows)
    # Ends, not starts: at its end a flow is known, live as in a table, so both get the same numbers.
    order = np.argsort(ends_us(flows).fill_null(0).to_numpy(), kind="stable")
    return HostContext(max_hosts=max_hosts).add(flows[order])[np.argsort(order)]
