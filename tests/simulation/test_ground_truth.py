"""Ground truth finds its flows: by both ends in either direction, by time, and counts what it does not find."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.errors import CellError, FileFormatError, LabelError, SchemaError
from deepidea.flows.skipping import SkipCount
from deepidea.simulation.ground_truth import GROUND_TRUTH, LabelJoin, label_flows, read_labels
from deepidea.simulation.simulate import simulate_capture

NOON = datetime(2024, 1, 15, 12, tzinfo=UTC)
ENDS = ("10.0.0.1", 4000, "10.0.0.2", 80)


def flow(since_s, until_s, ends=ENDS, protocol="tcp"):
    return (NOON + timedelta(seconds=since_s), NOON + timedelta(seconds=until_s), *ends, protocol)


def truth(since_s, until_s, label, ends=ENDS, protocol=6):
    return (*flow(since_s, until_s, ends, protocol), label, label, None, None)


FLOW_COLUMNS = {**dict(list(GROUND_TRUTH.items())[:6]), "protocol": pl.String()}


def flows_of(*rows):
    return pl.DataFrame(rows, schema=FLOW_COLUMNS, orient="row")


def truth_of(*rows):
    return pl.DataFrame(rows, schema=GROUND_TRUTH, orient="row")


def test_flows_cut_from_simulated_conversations_get_their_labels_back(tmp_path):
    simulate_capture(tmp_path / "lab.pcap", tmp_path / "lab.csv", seed=2, minutes=0.3, hosts=9)
    labels = read_labels(tmp_path / "lab.csv")
    middle = labels["start"] + (labels["end"] - labels["start"]) / 2
    halves = [labels.with_columns(end=middle), labels.with_columns(start=middle, **swapped(labels))]
    flows = pl.concat([half.select(*FLOW_COLUMNS, expected="label") for half in halves])
    join = LabelJoin()
    labelled = label_flows(flows.sample(fraction=1, shuffle=True, seed=0), labels, join=join)
    assert (labelled["label"] == labelled["expected"]).all()
    assert (join.flows, join.unused, join.unmatched.total()) == (2 * labels.height, 0, 0)


def swapped(labels):
    names = {"src_ip": "dst_ip", "src_port": "dst_port", "dst_ip": "src_ip", "dst_port": "src_port"}
    return {name: labels[other] for name, other in names.items()}


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), min_size=1, max_size=6), st.integers(0, 20))
def test_the_row_that_overlaps_the_longest_wins(spans, since_s):
    rows = [truth(begin, begin + length, f"l{at}") for at, (begin, length) in enumerate(spans)]
    join = LabelJoin()
    labelled = label_flows(flows_of(flow(since_s, since_s + 3)), truth_of(*rows), slack_s=0, join=join)
    overlaps = [min(begin + length, since_s + 3) - max(begin, since_s) for begin, length in spans]
    best = max(range(len(spans)), key=lambda at: (overlaps[at], -at))
    assert labelled["label"][0] == (f"l{best}" if overlaps[best] >= 0 else None)
    assert join.contested == (sum(overlap >= 0 for overlap in overlaps) > 1)


def test_what_fits_nothing_is_counted_by_reason():
    flows = flows_of(
        flow(0, 1),
        flow(100, 101),
        flow(0, 1, ("10.0.0.1", 4001, "10.0.0.2", 80)),
        flow(0, 1, ("10.0.0.7", 4000, "10.0.0.2", 80)),
        flow(0, 1, protocol="udp"),
    )
    join = LabelJoin()
    labelled = label_flows(flows, truth_of(truth(0, 1, "scan"), truth(50, 51, "late")), join=join)
    assert labelled["label"].to_list() == ["scan", None, None, None, None]
    assert labelled.select(flows.columns).equals(flows)
    assert dict(join.unmatched) == {"no such pair of addresses": 1, "other ports or times": 3}
    assert (join.unused, dict(join.labels)) == (1, {"scan": 1})
    assert str(join).startswith("1 flows labelled by 1 of 2 rows of ground truth; 3 without a label")


def test_unmatched_flows_are_an_error_where_nobody_counts():
    flows, labels = flows_of(flow(0, 1), flow(100, 101)), truth_of(truth(0, 1, "scan"))
    with pytest.raises(LabelError, match="1 of 2 flows match no row"):
        label_flows(flows, labels)
    assert label_flows(flows, labels, otherwise="benign")["class"].to_list() == ["scan", "benign"]


def test_open_columns_stand_for_any():
    labels = truth_of(
        truth(0, 10, "scanner", ("10.0.0.9", None, None, None), None),
        truth(0, 10, "pings", ("10.0.0.1", None, "10.0.0.2", None), 1),
    )
    flows = flows_of(
        flow(1, 2, ("10.0.0.9", 5, "10.0.0.3", 6)),
        flow(1, 2, ("10.0.0.3", 6, "10.0.0.9", 5), "17"),
        flow(1, 2, ("10.0.0.2", 8, "10.0.0.1", 0), "icmp"),
        flow(1, 2),
    )
    labelled = label_flows(flows, labels, join=LabelJoin())
    assert labelled["label"].to_list() == ["scanner", "scanner", "pings", None]


def test_one_address_in_two_spellings_is_one():
    labels = truth_of(truth(0, 1, "scan", ("2001:DB8::0001", 1, "2001:db8:0:0::2", 2)))
    flows = flows_of(flow(0, 1, ("2001:db8::1", 1, "2001:db8::2", 2)))
    assert label_flows(flows, labels)["label"].to_list() == ["scan"]


def test_clocks_may_differ_a_little():
    labels = truth_of(truth(0, 1, "scan"))
    assert label_flows(flows_of(flow(1.9, 3)), labels)["label"].to_list() == ["scan"]
    assert label_flows(flows_of(flow(2.1, 3)), labels, join=LabelJoin())["label"].to_list() == [None]


def test_no_flow_and_no_label():
    assert label_flows(flows_of(), truth_of(truth(0, 1, "scan"))).height == 0
    join = LabelJoin()
    assert label_flows(flows_of(flow(0, 1)), truth_of(), join=join)["label"].to_list() == [None]


LINES = "start,end,src_ip,src_port,protocol,label\n2024-01-15T12:00:00Z,2024-01-15 12:00:01.5,10.0.0.1,,TCP,scan\n"


def test_a_file_of_ones_own_may_leave_columns_out(tmp_path):
    (tmp_path / "t.csv").write_text(LINES)
    labels = read_labels(tmp_path / "t.csv")
    assert labels.schema == pl.Schema(GROUND_TRUTH)
    assert labels.row(0) == (
        NOON,
        NOON + timedelta(seconds=1.5),
        "10.0.0.1",
        None,
        None,
        None,
        6,
        "scan",
        "scan",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("yesterday,2024-01-15T12:00:00Z,10.0.0.1,1,6,x", "start"),
        ("2024-01-15T12:00:00Z,2024-01-15T12:00:00Z,10.0.0,1,6,x", "src_ip"),
        ("2024-01-15T12:00:00Z,2024-01-15T12:00:00Z,10.0.0.1,70000,6,x", "src_port"),
        ("2024-01-15T12:00:00Z,2024-01-15T12:00:00Z,10.0.0.1,1,what,x", "protocol"),
        ("2024-01-15T12:00:00Z,2024-01-15T12:00:00Z,10.0.0.1,1,6,", "label"),
    ],
)
def test_a_row_that_cannot_be_read_is_an_error_or_counted(tmp_path, line, column):
    (tmp_path / "t.csv").write_text(LINES + line + "\n")
    with pytest.raises(CellError, match=rf"row 2: {column} "):
        read_labels(tmp_path / "t.csv")
    skipped = SkipCount()
    assert read_labels(tmp_path / "t.csv", skipped=skipped).height == 1
    assert skipped.reasons == {f"{column} cannot be read": 1}


def test_a_file_that_is_none_is_reported(tmp_path):
    (tmp_path / "t.csv").write_text("start,label\n1,2\n")
    with pytest.raises(SchemaError, match="lacks the column end"):
        read_labels(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(FileFormatError, match="as CSV"):
        read_labels(tmp_path / "t.csv")
    with pytest.raises(FileFormatError, match=r"cannot read .*absent\.csv"):
        read_labels(tmp_path / "absent.csv")
    with pytest.raises(SchemaError, match="src_ip"):
        label_flows(flows_of().drop("src_ip"), truth_of())
