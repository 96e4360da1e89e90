"""Flows as lines of a stream: what goes in comes out to the bit, poison is counted, pairs of hosts stay together."""

from __future__ import annotations

from collections import Counter
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from deepidea.flows.context import HostContext
from deepidea.flows.flow_lines import StreamParser, flow_lines, has_context, pair_keys, partition_of
from deepidea.flows.sensors.records import FLOW_COLUMNS
from deepidea.flows.sensors.suricata import EveParser
from deepidea.flows.sensors.zeek import ZeekParser
from tests.flows.sensor_lines import eve_dns, eve_flow, zeek_json

TIMES = st.integers(0, 2**52)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
COUNTS = st.none() | st.integers(0, 2**62)
PORTS = st.none() | st.integers(0, 65_535)
FLOWS = st.fixed_dictionaries(
    {
        "start": TIMES, "end": TIMES, "src_ip": TEXT, "src_port": PORTS, "dst_ip": TEXT, "dst_port": PORTS,
        "protocol": TEXT, "community_id": st.none() | TEXT, "duration_s": st.none() | st.floats(0, 2**31),
        "service": st.none() | TEXT, "fwd_packets": COUNTS, "bwd_packets": COUNTS, "fwd_bytes": COUNTS,
        "bwd_bytes": COUNTS, "state": st.none() | TEXT, "tcp_flags": st.none() | TEXT,
    }
)  # fmt: skip


def flows_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    numbers = {name: pl.Int64() if isinstance(dtype, pl.Datetime) else dtype for name, dtype in FLOW_COLUMNS.items()}
    return pl.DataFrame(rows, schema=numbers).with_columns(
        pl.from_epoch(name, time_unit="us").dt.replace_time_zone("UTC").alias(name) for name in ("start", "end")
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(FLOWS, min_size=1, max_size=5))
def test_what_goes_in_comes_out(rows: list[dict[str, Any]]) -> None:
    flows = flows_of(rows)
    parsed = StreamParser().parse(flow_lines(flows))
    assert dict(parsed.skipped) == {}
    assert_frame_equal(parsed.flows, flows, check_exact=True)


@pytest.mark.parametrize(("parser", "line"), [(EveParser(), eve_flow), (ZeekParser(), zeek_json)])
def test_flows_of_sensors_come_out_with_their_context(parser: Any, line: Any) -> None:
    lines = [line(n).strip() for n in range(40)]
    flows = HostContext().add(parser.parse(b"\n".join(lines)).flows)
    assert_frame_equal(StreamParser().parse(flow_lines(flows)).flows, flows, check_exact=True)
    assert_frame_equal(StreamParser().parse(lines).flows, parser.parse(b"\n".join(lines)).flows)


def test_a_mixture_comes_in_its_order_and_every_message_is_counted() -> None:
    own = flow_lines(EveParser().parse(eve_flow(2)).flows)
    bad = [b"poison", b"", b"\xff{", b'{"flow":"conn","start":"x"}', b'{"flow":"conn",', b"[1]"]
    messages = [eve_flow(0), zeek_json(1), *own, eve_dns(1), *bad, eve_flow(3) + eve_flow(4)]
    parsed = StreamParser().parse(messages)
    assert parsed.flows["src_port"].to_list() == [1024, 1025, 1026]
    assert dict(parsed.not_flows) == {"dns": 1}
    assert sum(parsed.skipped.values()) == len(bad) + 1


@pytest.mark.parametrize(
    "change", [{"src_ip": None}, {"dst_port": 70_000}, {"fwd_bytes": -1}, {"duration_s": -1.0}, {"start": None}]
)
def test_a_flow_that_breaks_a_rule_is_counted(change: dict[str, Any]) -> None:
    row = flows_of(
        [dict.fromkeys(FLOW_COLUMNS) | {"start": 1, "end": 1, "src_ip": "a", "dst_ip": "b", "protocol": "c"}]
    )
    broken = row.with_columns(pl.lit(value).cast(row.schema[name]).alias(name) for name, value in change.items())
    parsed = StreamParser().parse(flow_lines(pl.concat([row, broken])))
    assert parsed.flows.height == 1
    assert dict(parsed.skipped) == {"not a flow: a column is missing or out of range": 1}


def test_context_counts_where_every_flow_carries_it() -> None:
    flows = EveParser().parse(eve_flow(1) + eve_flow(2)).flows
    with_it, without = flow_lines(HostContext().add(flows)), flow_lines(flows)
    assert has_context(StreamParser().parse(with_it).flows)
    assert not has_context(StreamParser().parse(with_it + without).flows)
    assert not has_context(StreamParser().parse(without + with_it).flows)


def test_a_pair_is_in_one_share_whichever_way_it_talks_and_shares_are_even() -> None:
    hosts = [f"10.0.{n // 50}.{n % 50}" for n in range(100)]
    pairs = pl.DataFrame({"src_ip": [a for a in hosts for _ in hosts], "dst_ip": hosts * len(hosts)})
    back = pairs.select(src_ip="dst_ip", dst_ip="src_ip")
    shares = partition_of(pair_keys(pairs), 8)
    assert shares.equals(partition_of(pair_keys(back), 8))
    counts = Counter(shares.to_list())
    assert set(counts) == set(range(8))
    assert max(counts.values()) < 1.3 * min(counts.values())
