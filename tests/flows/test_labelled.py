from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from deepidea.errors import LabelError, LeakError
from deepidea.flows.labelled import label_flows, labelled_flows_from_table
from deepidea.flows.schema import Column, Schema
from deepidea.flows.taxonomy import Taxonomy

N = 30
TABLE = pl.DataFrame(
    {
        "src_ip": ["10.0.0.1"] * N,
        "bytes": np.arange(N) % 7,
        "proto": ["tcp", "udp"] * (N // 2),
        "verdict": ["normal"] * 15 + ["flood"] * 10 + ["scan"] * 5,
    }
)


def test_a_users_table_becomes_labelled_flows() -> None:
    flows, refused = labelled_flows_from_table(TABLE, "verdict", "normal")
    assert flows.class_order == ("benign", "flood", "scan")
    assert flows.features.columns == ["bytes", "proto"]
    assert list(refused) == ["src_ip"]
    assert flows.labels.to_list() == TABLE["verdict"].to_list()
    assert flows.classes.to_list() == [label.replace("normal", "benign") for label in TABLE["verdict"]]


def test_take_keeps_rows_together() -> None:
    flows, _ = labelled_flows_from_table(TABLE, "verdict", "normal")
    some = flows.take(np.array([29, 0]))
    assert (some.classes.to_list(), some.table["bytes"].to_list()) == (["scan", "benign"], [1, 0])
    masked = flows.take(np.arange(N) >= 28)
    assert len(masked) == 2
    assert masked.class_order == flows.class_order


def test_numbers_and_booleans_are_labels_too() -> None:
    table = TABLE.with_columns(verdict=pl.Series([0] * 15 + [1] * 15))
    assert labelled_flows_from_table(table, "verdict", "0")[0].class_order == ("benign", "1")
    table = TABLE.with_columns(verdict=pl.Series([False] * 15 + [True] * 15))
    assert labelled_flows_from_table(table, "verdict", "false")[0].class_order == ("benign", "true")


def _with(labels: list[str | None]) -> pl.DataFrame:
    return TABLE.with_columns(verdict=pl.Series(labels, dtype=pl.String))


@pytest.mark.parametrize(
    ("table", "label", "benign", "message"),
    [
        (TABLE, "verdit", "normal", "label column 'verdit'; nearest: verdict"),
        (TABLE, "verdict", "benign", r"'benign'; its values: normal \(15\), flood \(10\), scan \(5\)"),
        (_with(["normal"] * N), "verdict", "normal", "no value but 'normal'"),
        (
            _with(["normal"] * 29 + [None]),
            "verdict",
            "normal",
            r"1 flows have no label \(first: row 30, column verdict\)",
        ),
        (_with(["normal"] * 29 + [" "]), "verdict", "normal", "1 flows have no label"),
        (_with(["normal"] * 29 + ["worm"]), "verdict", "normal", "column verdict has one flow each of worm"),
        (_with(["normal"] * 15 + ["benign"] * 15), "verdict", "normal", "rename one"),
    ],
)
def test_labels_that_cannot_train_are_reported(table: pl.DataFrame, label: str, benign: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        labelled_flows_from_table(table, label, benign)


def test_keeping_an_address_is_a_leak() -> None:
    with pytest.raises(LeakError, match="src_ip"):
        labelled_flows_from_table(TABLE, "verdict", "normal", keep=["src_ip"])


def test_dropped_labels_take_their_rows_along() -> None:
    schema = Schema("custom", (Column("bytes", "number"),))
    taxonomy = Taxonomy("few", {"normal": "benign", "scan": "scan"}, frozenset({"flood"}))
    flows = label_flows(TABLE, TABLE["verdict"], schema, taxonomy, "t")
    assert (len(flows), flows.class_order) == (20, ("benign", "scan"))
    assert flows.table.height == len(flows.labels) == len(flows.classes) == 20
    assert flows.classes.null_count() == 0
