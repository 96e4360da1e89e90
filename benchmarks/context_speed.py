"""Speed and memory of the context of flows: `deepidea.flows.context.HostContext` on one core.

Three kinds of traffic, forged: an office (2,000 hosts, most flows to a few servers), a scan (one host over many
addresses and ports), and a flood (flows from ever other addresses, so that hosts are forgotten all the time). Rate:
flows per second of processor time of ``HostContext.add``, hashing and the table of results included, median of several
runs after one that compiles. Memory: what the process grew by, as Linux counts it.

Usage: python -m benchmarks.context_speed [--flows 2000000] [--runs 5]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import polars as pl

from benchmarks.result_files import RESULTS, write_result
from deepidea.flows.context import HostContext
from deepidea.flows.context_kernel import RING_FLOWS

CHUNK_FLOWS = 65_536
GAP_US = 1_000  # mean time from one flow's end to the next


def flows_of(kind: str, n_flows: int, seed: int = 0) -> pl.DataFrame:
    """Return flows of one kind of traffic, in the order in which they end."""
    rng = np.random.default_rng(seed)
    hosts = np.array([f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(1 << 17)])
    one, few, many = np.zeros(n_flows, np.int64), rng.zipf(1.3, n_flows) % 5000, rng.integers(0, 1 << 17, n_flows)
    src, dst = {"office": (many % 2000, few), "scan": (one, many), "flood": (many, one)}[kind]
    return pl.DataFrame(
        {
            "end": pl.Series(np.cumsum(rng.exponential(GAP_US, n_flows).astype(np.int64))).cast(
                pl.Datetime("us", "UTC")
            ),
            "src_ip": hosts[src],
            "dst_ip": hosts[dst],
            "dst_port": rng.integers(1, 65_536, n_flows) if kind == "scan" else rng.choice([53, 80, 443, 22], n_flows),
            "protocol": "tcp",
            "bwd_packets": rng.integers(0, 9, n_flows),
            "bwd_bytes": rng.integers(0, 9000, n_flows),
        }
    )


def rate(flows: pl.DataFrame) -> tuple[int, int]:
    """Return flows per second of processor time of one pass, and how many hosts were forgotten."""
    context, started = HostContext(), time.process_time()
    for chunk in flows.iter_slices(CHUNK_FLOWS):
        context.add(chunk)
    return round(flows.height / (time.process_time() - started)), context.evicted


def resident_mib() -> float:
    """Return the memory of this process, as Linux keeps it."""
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024


def memory_mib(n_hosts: int) -> float:
    """Return what a context grows by when every host that it has room for has filled its ring."""
    before, context = resident_mib(), HostContext(max_hosts=n_hosts)
    flows = flows_of("office", n_hosts)
    ends = pl.Series([f"h{i}" for i in range(n_hosts)])
    for _ in range(RING_FLOWS):
        context.add(flows.with_columns(src_ip=ends, dst_ip=ends))
    return round(resident_mib() - before, 1)


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    started = time.perf_counter()
    rate(flows_of("office", 1000))
    figures: dict[str, Any] = {"flows": options.flows, "first_flows_s": round(time.perf_counter() - started, 2)}
    figures["filled_rings"] = {"hosts": 8192, "mib": memory_mib(8192)}  # before memory lies about that was used once
    for kind in ("office", "scan", "flood"):
        flows = flows_of(kind, options.flows)
        measured = [rate(flows) for _ in range(options.runs)]
        rates = [flows_per_second for flows_per_second, _ in measured]
        figures[kind] = {
            "flows_per_second": rates,
            "median": float(np.median(rates)),
            "hosts_forgotten": measured[0][1],
        }
        print(kind, figures[kind])
    write_result(RESULTS / "context_speed.json", figures)
    print(figures["filled_rings"])


if __name__ == "__main__":
    main()
