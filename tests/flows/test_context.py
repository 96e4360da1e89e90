"""What hosts did lately: the same in batch and live, never from later flows, and as a plain count of the past says."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.errors import SchemaError
from deepidea.flows.context import CONTEXT_COLUMNS, HostContext, add_context
from deepidea.flows.schema import get_schema
from deepidea.flows.sensors.projection import to_conn

NAMES = [column.name for column in CONTEXT_COLUMNS]
S = 1_000_000
DTYPE = pl.Datetime("us", "UTC")


def forge(n_flows: int, seed: int, *, n_hosts: int = 6, n_ports: int = 5, step_s: float = 3.0) -> pl.DataFrame:
    """Return flows between a few hosts, in the order in which they end."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.exponential(step_s * S, n_flows).astype(np.int64) * rng.integers(0, 2, n_flows))
    hosts = np.array([f"10.0.0.{i}" for i in range(n_hosts)])
    return pl.DataFrame(
        {
            "end": pl.Series(ends).cast(DTYPE),
            "src_ip": hosts[rng.integers(0, n_hosts, n_flows)],
            "dst_ip": hosts[rng.integers(0, n_hosts, n_flows)],
            "dst_port": rng.integers(1, 1 + n_ports, n_flows),
            "protocol": rng.choice(["tcp", "udp"], n_flows),
            "bwd_packets": rng.integers(0, 4, n_flows),
            "bwd_bytes": rng.integers(0, 100, n_flows),
        }
    )


def counted(flows: pl.DataFrame, max_hosts: int = 10**6) -> tuple[pl.DataFrame, int]:
    """Return the context of each flow by looking at all flows before it, and how many hosts were forgotten."""
    failed = (pl.col("bwd_packets") == 0) | (
        (pl.col("protocol") == "tcp") & (pl.col("bwd_packets") == 1) & (pl.col("bwd_bytes") <= 60)
    )
    past: dict[str, dict[str, list[dict]]] = {"src_ip": {}, "dst_ip": {}}  # by role, then by host, last seen last
    rows, forgotten = [], 0
    for flow in flows.with_columns(failed=failed, at=pl.col("end").dt.timestamp("us")).iter_rows(named=True):
        told: list[float] = []
        for role, hosts in past.items():
            own = hosts.pop(flow[role], [])
            if len(hosts) >= max_hosts:
                del hosts[next(iter(hosts))]
                forgotten += 1
            hosts[flow[role]] = [*own, flow]
            told += _about(hosts[flow[role]][-256:], flow, "dst_ip" if role == "src_ip" else "src_ip")
        rows.append(told)
    return pl.DataFrame(rows, schema=dict.fromkeys(NAMES, pl.Float64), orient="row"), forgotten


def _about(own: list[dict], flow: dict, other_end: str) -> list[float]:
    told: list[float] = []
    for window in (2 * S, 60 * S, None):
        seen = own[-100:] if window is None else [f for f in own if f["at"] >= flow["at"] - window]
        span_s = max((flow["at"] - seen[0]["at"]) / S, 1e-3)
        told += [len({f["dst_port"] for f in seen}), len({f[other_end] for f in seen})]
        told += [len(seen) if window else (len(seen) - 1) / span_s, sum(f["failed"] for f in seen) / len(seen)]
    return told


@settings(max_examples=25)
@given(st.integers(0, 300), st.integers(0, 10**6), st.sampled_from([0.001, 0.5, 10.0]), st.sampled_from([1, 2, 40]))
def test_it_tells_what_a_plain_count_tells(n_flows: int, seed: int, step_s: float, n: int) -> None:
    flows = forge(n_flows, seed, n_hosts=n, n_ports=3 * n, step_s=step_s)
    assert HostContext().add(flows).select(NAMES).equals(counted(flows)[0])


def test_counts_end_with_the_ring() -> None:
    flows = forge(700, 1, n_hosts=1, n_ports=60_000, step_s=0.0001)
    told = HostContext().add(flows)
    assert told.select(NAMES).equals(counted(flows)[0])
    assert told["src_flows_60s"].max() == 256


@settings(max_examples=40)
@given(st.lists(st.integers(0, 200), max_size=8), st.integers(0, 9), st.sampled_from([1, 3, 100]))
def test_chunks_of_any_size_give_the_same_bytes(cuts: list[int], seed: int, max_hosts: int) -> None:
    flows, context = forge(200, seed), HostContext(max_hosts=max_hosts)
    edges = [0, *sorted(cuts), 200]
    parts = pl.concat([context.add(flows[start:end]) for start, end in pairwise(edges)])
    whole = HostContext(max_hosts=max_hosts)
    assert parts.equals(whole.add(flows))
    assert context.evicted == whole.evicted


@settings(max_examples=40)
@given(st.integers(0, 200), st.integers(0, 9))
def test_later_flows_change_nothing(n_kept: int, seed: int) -> None:
    flows = forge(200, seed)
    assert HostContext().add(flows.head(n_kept)).equals(HostContext().add(flows).head(n_kept))


@settings(max_examples=30)
@given(st.integers(0, 9), st.integers(1, 40), st.sampled_from([0.001, 0.5]))
def test_the_host_not_seen_for_longest_is_forgotten(seed: int, max_hosts: int, step_s: float) -> None:
    flows, context = forge(300, seed, n_hosts=50, step_s=step_s), HostContext(max_hosts=max_hosts)
    told, forgotten = counted(flows, max_hosts)
    assert context.add(flows).select(NAMES).equals(told)
    assert context.evicted == forgotten
    assert max(context.n_hosts) <= max_hosts


def test_order_of_rows_does_not_matter_to_a_whole_table() -> None:
    flows = forge(200, 3).with_columns(end=pl.Series(np.arange(200) * S).cast(DTYPE), row=pl.arange(200))
    mixed = flows.sample(fraction=1, shuffle=True, seed=1)
    assert add_context(mixed).select("row").equals(mixed.select("row"))
    assert add_context(mixed).sort("row").equals(add_context(flows))
    assert add_context(flows).equals(HostContext().add(flows))


def test_a_flow_that_comes_late_counts_when_it_comes() -> None:
    ends = pl.Series([100 * S, 1 * S, 101 * S]).cast(DTYPE)
    told = HostContext().add(forge(3, 0, n_hosts=1).with_columns(ends.alias("end")))
    assert told["src_flows_2s"].to_list() == [1, 2, 3]


def test_flows_without_an_address_have_no_context_and_count_nowhere() -> None:
    flows = forge(3, 0, n_hosts=1).with_columns(src_ip=pl.Series(["a", None, "a"]))
    told = HostContext().add(flows)
    assert told["src_flows_60s"].to_list() == [1, None, 2]
    assert told["dst_flows_60s"].to_list() == [1, None, 2]


def test_cicflow_and_its_projection_fail_alike() -> None:
    rng, n = np.random.default_rng(0), 300
    flows = (
        forge(n, 0)
        .drop("end", "bwd_bytes")
        .with_columns(
            timestamp=pl.Series(np.arange(n) * S).cast(pl.Datetime("us")),
            duration_us=pl.Series(rng.integers(0, 9, n) * S),
            fwd_packets=1,
            fwd_bytes=0,
            bwd_bytes=pl.Series(rng.choice([0, 500], n)),
            fwd_header_bytes=20,
            bwd_header_bytes=pl.col("bwd_packets") * 32,
        )
    )
    conn = to_conn(flows)
    assert add_context(conn).select(NAMES).equals(add_context(flows).select(NAMES))


@pytest.mark.parametrize("name", ["src_ip", "end", "bwd_packets"])
def test_what_is_needed_is_asked_for(name: str) -> None:
    with pytest.raises(SchemaError, match="cannot count host context"):
        HostContext().add(forge(2, 0).drop(name))
    with pytest.raises(SchemaError, match="not times"):
        HostContext().add(forge(2, 0).with_columns(end=pl.lit("yesterday")))


@pytest.mark.parametrize("base", ["conn", "cicflow"])
def test_the_schemas_hold_every_column(base: str) -> None:
    schema = get_schema(f"{base}+context")
    assert schema.features == (*get_schema(base).features, *NAMES)
    assert not any(schema[name].optional for name in NAMES)
    assert len(NAMES) == 24


def test_numba_is_loaded_on_first_use() -> None:
    script = (
        "import sys, deepidea.flows.context, deepidea.flows.schema, deepidea.cli.app; print('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"
