"""Zeek's conn.log: text and JSON tell the same flows, whatever the block, the separator and the columns."""

from __future__ import annotations

import itertools
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from deepidea.flows.schema import get_schema
from deepidea.flows.sensors.records import FLOW_COLUMNS, join_parsed
from deepidea.flows.sensors.zeek import FIELDS as KNOWN
from deepidea.flows.sensors.zeek import ZeekParser
from tests.flows.sensor_lines import FIELDS, zeek_header, zeek_json, zeek_record, zeek_row

ROWS = [zeek_row(n) for n in range(40)]
LOG = zeek_header() + b"".join(ROWS)


def flows(log: bytes) -> pl.DataFrame:
    parsed = ZeekParser().parse(log)
    assert not parsed.skipped
    return parsed.flows


def test_every_cell_comes_from_its_field() -> None:
    table = flows(LOG)
    assert dict(table.schema) == FLOW_COLUMNS
    for row, record in zip(table.iter_rows(named=True), map(zeek_record, range(40)), strict=True):
        same = {name: record[field] for name, field in KNOWN.items() if name not in ("start", "community_id")}
        assert {name: row[name] for name in same} == same
        assert row["start"].timestamp() == record["ts"]
        assert (row["end"] - row["start"]).total_seconds() == record["duration"]


def test_the_table_keeps_the_schema() -> None:
    schema = get_schema("conn")
    table = schema.conform(flows(LOG))
    assert set(schema.features) <= set(table.columns)


def test_text_and_json_are_one() -> None:
    assert_frame_equal(flows(LOG), flows(b"".join(map(zeek_json, range(40)))))
    mixed = zeek_header() + b"".join(zeek_json(n) if n % 5 else ROWS[n] for n in range(40))
    assert_frame_equal(flows(LOG), flows(mixed))


@given(st.lists(st.integers(0, 40), max_size=8))
def test_where_a_block_ends_changes_nothing(cuts: list[int]) -> None:
    parser, bounds = ZeekParser(), [0, *sorted(cuts), 40]
    blocks = [b"".join(ROWS[a:b]) for a, b in itertools.pairwise(bounds)]
    parts = [parser.parse(block) for block in (zeek_header(), *blocks)]
    assert_frame_equal(join_parsed(parts).flows, flows(LOG))


@pytest.mark.parametrize("separator", ["\t", ",", "|", ";"])
def test_any_separator(separator: str) -> None:
    log = zeek_header(separator) + b"".join(zeek_row(n, separator) for n in range(40))
    assert_frame_equal(flows(log), flows(LOG))


def test_headers_come_again_with_other_columns() -> None:
    shuffled = [*reversed(FIELDS), "label", "detailed-label"]
    rest = b"#close\t2026-01-01-00-00-00\n" + zeek_header(fields=shuffled)
    log = zeek_header() + b"".join(ROWS[:20]) + rest + b"".join(zeek_row(n, fields=shuffled) for n in range(20, 40))
    assert_frame_equal(flows(log), flows(LOG))
    assert_frame_equal(flows(log.replace(b"\n", b"\r\n")), flows(LOG))


def test_columns_that_are_missing_are_null() -> None:
    few = [field for field in FIELDS if "_pkts" not in field and field not in ("service", "duration")]
    table = flows(zeek_header(fields=few) + b"".join(zeek_row(n, fields=few) for n in range(40)))
    assert table["fwd_packets"].null_count() == table["service"].null_count() == 40
    assert table["duration_s"].to_list() == [0.0] * 40
    assert table["fwd_bytes"].to_list() == flows(LOG)["fwd_bytes"].to_list()


def test_spaces_before_the_last_columns_are_taken_for_tabs() -> None:
    labelled = [*FIELDS, "label", "detailed-label"]
    rows = b"".join(row.rstrip(b"\n") + b"   Malicious   C&C\n" for row in ROWS)
    assert_frame_equal(flows(zeek_header(fields=labelled) + rows), flows(LOG))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("ts", "soon", "start is not a time"),
        ("ts", "-", "start is not a time"),
        ("id.orig_h", "host.example", "src_ip is not an address"),
        ("id.resp_p", "65536", "dst_port is not a port"),
        ("duration", "-3", "duration_s is not a duration"),
        ("orig_pkts", "-1", "fwd_packets is not a count"),
        ("resp_ip_bytes", "many", "bwd_bytes is not a count"),
        ("proto", "-", "protocol is missing"),
    ],
)
def test_a_bad_cell_costs_its_line_alone(field: str, value: str, reason: str) -> None:
    cells = ROWS[7].rstrip(b"\n").split(b"\t")
    cells[FIELDS.index(field)] = value.encode()
    parsed = ZeekParser().parse(LOG + b"\t".join(cells) + b"\n" + ROWS[1])
    assert (parsed.flows.height, parsed.skipped) == (41, {reason: 1})


def test_lines_that_are_no_rows_are_counted() -> None:
    parsed = ZeekParser().parse(ROWS[0] + LOG + b"half a li\n" + ROWS[1] + b'{"ts":\n\n  \n')
    assert parsed.flows.height == 41
    assert parsed.skipped == {"no #fields line above it": 1, "other number of cells than #fields": 1, "not JSON": 1}


def test_other_logs_are_no_flows() -> None:
    log = zeek_header(path="dns") + ROWS[0] + b'{"_path":"ssl","ts":1}\n{"_path":"conn"}\n'
    parsed = ZeekParser().parse(log)
    assert (parsed.not_flows, parsed.skipped) == ({"dns": 1, "ssl": 1}, {"start is not a time": 1})


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "rows"), [("mixed/conn.log", 141), ("port-scan-vertical/conn.log", 50), ("labeled/conn.log.labeled", 766)]
)
def test_real_logs_are_read_to_the_last_row(data_root: Path, name: str, rows: int) -> None:
    table = flows((data_root / "zeek" / name).read_bytes())
    assert table.height == rows
    assert set(table["protocol"]) <= {"tcp", "udp", "icmp", "ipv6-icmp"}
    assert table["fwd_packets"].null_count() == 0
