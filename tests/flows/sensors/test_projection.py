"""CICFlowMeter's flows projected as NetFlow would report them."""

from __future__ import annotations

import socket
from collections import defaultdict
from pathlib import Path

import dpkt
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.errors import SchemaError
from deepidea.evaluation.protocol import flows_to_test, flows_to_train
from deepidea.flows.context import add_context
from deepidea.flows.datasets.loading import load_dataset
from deepidea.flows.schema import get_schema
from deepidea.flows.sensors.biflow import conn_table
from deepidea.flows.sensors.netflow import FlowRecord
from deepidea.flows.sensors.projection import as_schema, project_flows, to_conn
from deepidea.flows.simulate import simulate_flows
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector
from tests.conftest import TINY

NUMBERS = {"tcp": 6, "udp": 17}


def cicflow(n_flows: int, seed: int) -> pl.DataFrame:
    """Return simulated flows as CICFlowMeter counts them: payload and transport headers apart."""
    flows = simulate_flows(n_flows=n_flows, seed=seed)
    rng = np.random.default_rng(seed)
    header = pl.when(pl.col("protocol") == "tcp").then(20).otherwise(8)
    names = [column.name for column in get_schema("cicflow").columns if column.is_number and not column.optional]
    return flows.select(
        *(pl.Series(name, rng.integers(0, 9, n_flows)) for name in names),
        label="label",
        dst_port="dst_port",
        protocol=pl.col("protocol").replace_strict(NUMBERS).cast(pl.Float64),
    ).with_columns(
        flows["fwd_packets"],
        flows["bwd_packets"],
        duration_us=(flows["duration_s"] * 1e6).round(),
        fwd_header_bytes=flows.select(header * pl.col("fwd_packets")).to_series(),
        bwd_header_bytes=flows.select(header * pl.col("bwd_packets")).to_series(),
        fwd_bytes=flows.select(pl.col("fwd_bytes") - (header + 20) * pl.col("fwd_packets")).to_series(),
        bwd_bytes=flows.select(pl.col("bwd_bytes") - (header + 20) * pl.col("bwd_packets")).to_series(),
    )


def flow(**changes: object) -> pl.DataFrame:
    least = {"protocol": 6, "duration_us": 10, "fwd_packets": 2, "bwd_packets": 1, "fwd_bytes": 10}
    return pl.DataFrame(least | {"bwd_bytes": 0, "fwd_header_bytes": 40, "bwd_header_bytes": 20} | changes)


@given(st.integers(0, 200), st.integers(0, 5))
def test_projecting_undoes_what_the_meter_does(n_flows: int, seed: int) -> None:
    projected, seen = to_conn(cicflow(n_flows, seed)), simulate_flows(n_flows=n_flows, seed=seed)
    assert projected.height == n_flows
    for name in ("protocol", "fwd_packets", "bwd_packets", "fwd_bytes", "bwd_bytes", "label", "dst_port"):
        assert projected[name].to_list() == seen[name].to_list()
    assert projected["duration_s"].to_list() == pytest.approx(seen["duration_s"].to_list())


def test_it_tells_what_netflow_tells_of_the_same_packets() -> None:
    there = FlowRecord("", 0, 0, 10, bytes(4), bytes(4), 40_000, 443, 6, 2, 10 + 80, 0x12, 1, 40)
    projected = to_conn(flow(syn_flag_count=2, ack_flag_count=1).with_columns(_no_flags()), tcp_flags=True)
    netflow = conn_table([there])
    features = get_schema("conn").restrict(projected.columns).features
    assert projected.select(features).rows() == netflow.select(features).rows()


def _no_flags() -> list[pl.Expr]:
    return [pl.lit(0).alias(f"{flag}_flag_count") for flag in ("fin", "rst", "psh", "urg", "ece", "cwr")]


@pytest.mark.parametrize(
    ("change", "name", "expected"),
    [
        ({"src_ip": "fd00::1"}, "fwd_bytes", 10 + 40 + 80),
        ({"fwd_header_bytes": -30_036}, "fwd_bytes", None),  # overflowed in a long flow
        ({"fwd_header_bytes": 121}, "fwd_bytes", None),
        ({"protocol": 17, "fwd_header_bytes": 64}, "fwd_bytes", 10 + 16 + 40),
        ({"protocol": 1, "fwd_header_bytes": 0}, "fwd_bytes", None),
        ({"protocol": 1, "bwd_packets": 0, "bwd_header_bytes": 0}, "bwd_bytes", 0),
        ({"duration_us": -1}, "duration_s", None),
        ({"protocol": "TCP"}, "protocol", "tcp"),
        ({"protocol": 47.0}, "protocol", "47"),
    ],
)
def test_what_is_not_known_is_null(change: dict[str, object], name: str, expected: object) -> None:
    assert to_conn(flow(**change))[name].to_list() == [expected]


def test_names_are_kept_once() -> None:
    named = flow().with_columns(flow_id=pl.lit("a-b"), timestamp=pl.lit(1), start=pl.lit(2), src_ip=pl.lit("10.0.0.1"))
    projected = to_conn(named)
    assert (projected["uid"].item(), projected["start"].item(), "timestamp" in projected.columns) == ("a-b", 2, False)
    schema = get_schema("conn").restrict(projected.columns)
    assert schema.conform(projected)["timestamp"].item() == 2


def test_a_table_without_a_protocol_is_refused() -> None:
    with pytest.raises(SchemaError, match="onto conn: protocol is missing"):
        to_conn(flow().drop("protocol"))


def test_a_detector_trained_on_the_projection_scores_conn_tables(tmp_path: Path, command) -> None:
    table, model = tmp_path / "meter.csv", tmp_path / "conn.idea"
    cicflow(1500, seed=3).write_csv(table)
    part = flows_to_train(str(table), label="label", benign="benign", schema="conn")
    train_detector(part.flows, card=part.card(), random_state=0, **TINY).save(model)
    detector = Detector.load(model)
    assert detector.schema.name == "conn"
    zeek = simulate_flows(n_flows=200, seed=9)
    assert detector.score(zeek).height == 200
    netflow = conn_table([FlowRecord("", 0, 0, 10, bytes(4), bytes(4), 4, 5, 6, 2, 90, 2, 1, 40)])
    assert detector.score(netflow).height == 1
    tested = flows_to_test(str(table), detector.schema, detector.card["data"])
    assert 200 < len(tested) < 300
    assert command("evaluate", model, table).code == 0


def test_the_command_line_trains_in_a_schema(tmp_path: Path, command, tiny_presets) -> None:
    table, model = tmp_path / "meter.csv", tmp_path / "conn.idea"
    cicflow(1500, seed=3).write_csv(table)
    given = ("--label", "label", "--benign", "benign", "--schema", "conn", "--seed", 0, "--port")
    assert command("train", table, *given, "-o", model).code == 0
    schema = Detector.load(model).schema
    assert (schema.name, schema.use_port, "duration_us" in schema.features) == ("conn", True, False)


def test_other_tables_stay_and_other_data_sets_are_refused() -> None:
    table = simulate_flows(n_flows=3)
    assert as_schema(table, get_schema("conn")) is table
    with pytest.raises(SchemaError, match=r"cannot convert flows of schema kdd99 .* to conn"):
        project_flows(_labelled("kdd99"), "conn")


def _labelled(name: str):
    from deepidea.flows.labelled import LabelledFlows

    return LabelledFlows(pl.DataFrame(), pl.Series(), pl.Series(), get_schema(name), (), "kdd99/train")


def test_a_table_gets_its_context_under_any_spelling(tmp_path: Path) -> None:
    start = pl.Series("Timestamp", np.arange(1500) * 1_000_000).cast(pl.Datetime("us"))
    hosts = {"Src IP": pl.lit("10.0.0.1"), "Dst IP": pl.lit("10.0.0.2")}
    table = cicflow(1500, seed=3).with_columns(start, **hosts)
    table.write_parquet(tmp_path / "meter.parquet")
    known = table.rename({"Src IP": "src_ip", "Dst IP": "dst_ip", "Timestamp": "timestamp"})
    expected = add_context(known)["src_failed_share_60s", "dst_flows_2s"]
    for name in ("conn+context", "cicflow+context"):
        given = {"label": "label", "benign": "benign", "schema": name}
        part = flows_to_train(str(tmp_path / "meter.parquet"), split="none", **given)
        assert part.flows.schema.name == name
        assert part.flows.features["src_failed_share_60s", "dst_flows_2s"].equals(expected)
        assert as_schema(part.flows.table, get_schema(name)) is part.flows.table


@pytest.mark.data
@pytest.mark.parametrize("name", ["conn", "conn+context", "cicflow+context"])
def test_a_data_set_trains_and_tests_in_another_schema(data_root: Path, monkeypatch, name: str) -> None:
    monkeypatch.setenv("DEEPIDEA_DATA", str(data_root))
    part = flows_to_train("cicids17-improved", schema=name)
    tested = flows_to_test("cicids17-improved", part.flows.schema, part.contract)
    assert part.flows.schema.features == tested.schema.features
    assert part.flows.schema.name == name
    assert 0 < len(tested) <= part.contract["rows"] / 4


@pytest.mark.data
def test_bytes_of_the_corrected_data_set_are_those_of_its_packets(data_root: Path, monkeypatch) -> None:
    monkeypatch.setenv("DEEPIDEA_DATA", str(data_root))
    projected = project_flows(load_dataset("cicids17-improved").train, "conn").table
    seen = _packets_of(data_root / "pcap" / "WebattackSQLinj.pcap")
    thursday = projected.filter(pl.col("file").cast(pl.String) == "thursday.csv")
    rows = {row[:4]: row[4:] for row in thursday.select(*ENDS, *COUNTS).iter_rows()}
    assert len(seen) == 9
    assert {ends: rows[ends] for ends in seen} == seen


ENDS = ("src_ip", "src_port", "dst_ip", "dst_port")
COUNTS = ("fwd_packets", "bwd_packets", "fwd_bytes", "bwd_bytes")


def _packets_of(capture: Path) -> dict[tuple[object, ...], tuple[int, ...]]:
    flows: dict[tuple[object, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    with capture.open("rb") as file:
        for _, data in dpkt.pcap.Reader(file):
            packet = dpkt.ethernet.Ethernet(data).data
            src, dst = socket.inet_ntoa(packet.src), socket.inet_ntoa(packet.dst)
            back = packet.data.sport == 80
            ends = (src, packet.data.sport, dst, packet.data.dport)
            counts = flows[(*ends[2:], *ends[:2]) if back else ends]
            counts[back] += 1
            counts[2 + back] += packet.len
    return {ends: tuple(counts) for ends, counts in flows.items()}
