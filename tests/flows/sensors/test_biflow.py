"""Two directions, one flow: who opened it, who waits how long, and nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.flows.identity import IDENTITY
from deepidea.flows.schema import get_schema
from deepidea.flows.sensors.biflow import BIFLOW_COLUMNS, BiflowMerger, conn_table
from deepidea.flows.sensors.netflow import FlowRecord

S = 1_000_000
CLIENT, SERVER = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
THERE = FlowRecord("192.0.2.1", 100 * S, 90 * S, 95 * S, CLIENT, SERVER, 40_000, 443, 6, 5, 400, 0x02)
BACK = replace(
    THERE, start_us=90 * S + 20, src=SERVER, dst=CLIENT, src_port=443, dst_port=40_000, fwd_packets=7, fwd_bytes=9
)


def merged(*records: FlowRecord, **options: float) -> list[FlowRecord]:
    merger = BiflowMerger(**options)  # type: ignore[arg-type]
    return [*merger.add(records), *merger.flush()]


records = st.builds(
    FlowRecord,
    exporter=st.sampled_from(["192.0.2.1", "192.0.2.2"]),
    exported_us=st.integers(0, 200).map(lambda s: s * S),
    start_us=st.integers(0, 100).map(lambda s: s * S),
    end_us=st.integers(100, 200).map(lambda s: s * S),
    src=st.sampled_from([CLIENT, SERVER]),
    dst=st.sampled_from([CLIENT, SERVER]),
    src_port=st.sampled_from([443, 40_000, 8, 0]),
    dst_port=st.sampled_from([443, 40_000, 0]),
    protocol=st.sampled_from([6, 17, 1]),
    fwd_packets=st.integers(1, 9),
    fwd_bytes=st.integers(40, 999),
)


@given(st.lists(records, max_size=40), st.integers(1, 8), st.integers(0, 40))
def test_every_packet_and_byte_comes_out_once(records: list[FlowRecord], most: int, cut: int) -> None:
    merger = BiflowMerger(max_waiting=most)
    flows = [*merger.add(records[:cut]), *merger.add(records[cut:]), *merger.flush()]
    assert sum(flow.fwd_packets + (flow.bwd_packets or 0) for flow in flows) == sum(
        record.fwd_packets for record in records
    )
    assert sum(flow.fwd_bytes + (flow.bwd_bytes or 0) for flow in flows) == sum(record.fwd_bytes for record in records)
    assert flows == merged(*records, max_waiting=most)
    assert len(merger) == 0


@pytest.mark.parametrize("records", [(THERE, BACK), (BACK, THERE)])
def test_the_one_that_began_first_opened_it(records: Sequence[FlowRecord]) -> None:
    [flow] = merged(*records)
    assert (flow.src, flow.dst_port, flow.fwd_packets, flow.bwd_packets, flow.tcp_flags) == (CLIENT, 443, 5, 7, 2)
    [flow] = merged(*(replace(r, start_us=90 * S - 1) if r is BACK else r for r in records))
    assert (flow.src, flow.dst_port, flow.start_us) == (SERVER, 40_000, 90 * S - 1)


@pytest.mark.parametrize("swapped", [False, True])
def test_on_a_tie_the_higher_port_is_the_clients(swapped: bool) -> None:
    records = [THERE, replace(BACK, start_us=THERE.start_us)]
    [flow] = merged(*(reversed(records) if swapped else records))
    assert (flow.src, flow.src_port, flow.dst_port) == (CLIENT, 40_000, 443)


def test_a_question_and_its_answer_of_one_packet_are_a_pair() -> None:
    asked = replace(THERE, start_us=90 * S, end_us=90 * S, protocol=17)
    answered = replace(BACK, start_us=94 * S, end_us=94 * S, protocol=17)
    assert len(merged(asked, answered)) == 1
    assert len(merged(asked, replace(answered, start_us=96 * S, end_us=96 * S))) == 2


def test_of_several_the_one_that_overlaps_most_is_taken() -> None:
    early = replace(THERE, start_us=80 * S, end_us=90 * S, fwd_packets=1)
    flows = merged(early, THERE, BACK)
    assert sorted((flow.fwd_packets, flow.bwd_packets) for flow in flows) == [(1, None), (5, 7)]


def test_unpaired_goes_out_by_the_exporters_clock() -> None:
    merger = BiflowMerger(timeout_s=30)
    other = replace(THERE, dst_port=80)
    assert merger.add([THERE, replace(other, exported_us=129 * S)]) == []
    assert merger.add([replace(BACK, exporter="192.0.2.9", exported_us=500 * S)]) == []  # another one's clock
    [flow] = merger.add([replace(other, exported_us=130 * S)])
    assert (flow.src, flow.bwd_packets, flow.fwd_packets) == (CLIENT, None, 5)
    assert len(merger) == 3


def test_what_waits_is_bounded_and_what_went_early_counted() -> None:
    merger = BiflowMerger(max_waiting=3)
    out = merger.add([replace(THERE, src_port=port) for port in range(10)])
    assert [flow.src_port for flow in out] == list(range(7))
    assert (merger.evicted, len(merger)) == (7, 3)
    same = BiflowMerger()
    assert len(same.add([THERE] * 20)) == 4  # records of one direction alone do not pile up


def test_icmp_pairs_a_question_with_its_answer() -> None:
    asked = replace(THERE, protocol=1, src_port=8, dst_port=0, tcp_flags=None)
    answered = replace(BACK, protocol=1, src_port=0, dst_port=0, tcp_flags=None, start_us=89 * S)
    [flow] = merged(answered, asked)
    assert (flow.src, flow.src_port, flow.dst_port, flow.tcp_flags) == (CLIENT, 8, 0, None)
    assert len(BiflowMerger().add([replace(asked, src_port=3)])) == 1  # unreachable: nothing answers it


def test_a_record_of_both_directions_waits_for_none() -> None:
    both = replace(BACK, bwd_packets=1, bwd_bytes=60)
    [flow] = BiflowMerger().add([both])
    assert (flow.src, flow.fwd_packets, flow.bwd_packets) == (CLIENT, 1, 7)
    [flow] = BiflowMerger().add([replace(both, opened_by_src=True)])
    assert (flow.src, flow.fwd_packets, flow.bwd_packets) == (SERVER, 7, 1)


def test_the_table_is_one_of_conn() -> None:
    table = conn_table(merged(THERE, BACK, replace(THERE, src=bytes(16), dst=bytes(15) + b"\1", protocol=50)))
    assert dict(table.schema) == BIFLOW_COLUMNS
    assert list(IDENTITY) == table.columns[: len(IDENTITY)]
    schema = get_schema("conn").restrict(table.columns)
    assert schema.conform(table).select(schema.features).height == 2
    assert table["protocol"].to_list() == ["tcp", "50"]
    assert table["tcp_flags"].to_list() == ["02", "02"]
    assert conn_table([]).schema == table.schema
