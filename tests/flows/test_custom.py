from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from deepidea.errors import LeakError, SchemaError
from deepidea.flows.custom import infer_schema
from deepidea.flows.schema import get_schema

N = 60
RNG = np.random.default_rng(0)
LABELS = ["ok", "scan", "flood"] * (N // 3)
GOOD = {
    "bytes": RNG.integers(0, 9, N),
    "rate": RNG.normal(size=N),
    "constant": [1] * N,
    "is_login": [True, False] * (N // 2),
    "service": ["http", "dns", "ssh", "http"] * (N // 4),
    "proto": [6, 17] * (N // 2),
}


def _table(**more: object) -> pl.DataFrame:
    return pl.DataFrame({**GOOD, **more, "verdict": LABELS})


def test_kinds_are_recognised_by_content() -> None:
    schema, refused = infer_schema(_table(), label="verdict")
    assert [column.kind for column in schema.columns] == ["number", "number", "number", "flag", "category", "category"]
    assert schema.name == "custom"
    assert refused == {}
    assert schema.conform(_table()).columns == list(GOOD)


TELLTALE = [
    *[
        "id",
        "Flow ID",
        "uid",
        "Unnamed: 0",
        "src_ip",
        "Dst IP",
        "id.orig_h",
        "saddr",
        "Source IP",
        "Src MAC",
        "hostname",
    ],
    *["src_port", "sport", "id.orig_p", "timestamp", "ts", "Stime", "day", "start_time", "last_seen"],
    *["file", "pcap", "label", "attack_cat", "class", "Category", "difficulty"],
]


@pytest.mark.parametrize("name", TELLTALE)
def test_telltale_names_are_refused(name: str) -> None:
    table = _table(**{name: RNG.integers(0, 5, N)})
    schema, refused = infer_schema(table, label="verdict")
    assert name in refused
    assert name not in schema.features
    with pytest.raises(LeakError, match="leak the label"):
        infer_schema(table, label="verdict", keep=[name])


CONTENT = {
    "addresses": [f"10.0.{i % 7}.{i % 5}" for i in range(N)],
    "v6": [f"fe80::{i % 7:x}" for i in range(N)],
    "hardware": [f"00:1b:44:11:3a:{i % 9:02x}" for i in range(N)],
    "clock": [f"14/02/2018 10:{i % 9:02d}:50" for i in range(N)],
    "when": [dt.datetime(2018, 2, 14, 10, i % 9) for i in range(N)],
    "epoch": [1_500_000_000.0 + i * 1.7 for i in range(N)],
    "epoch_ms": [1_500_000_000_000 + i * 1700 for i in range(N)],
    "shuffled": RNG.permutation(N) + 1000,
    "names": [f"conversation {i}" for i in range(N)],
    "origin": ["Friday-WorkingHours.pcap_ISCX.csv", "Monday.csv"] * (N // 2),
    "code": [{"ok": 3, "scan": 1, "flood": 2}[label] for label in LABELS],
    "word": [label.upper() for label in LABELS],
    "lists": [[1]] * N,
}


@pytest.mark.parametrize("name", CONTENT)
def test_telltale_content_is_refused(name: str) -> None:
    _, refused = infer_schema(_table(thing=CONTENT[name]), label="verdict")
    assert list(refused) == ["thing"]


def test_destination_port_is_an_option() -> None:
    table = _table(**{"Destination Port": [80, 443, 22, 53] * 15})
    schema, refused = infer_schema(table, label="verdict")
    assert "Destination Port" not in schema.features
    assert refused == {}
    kept, _ = infer_schema(table, label="verdict", keep=["Destination Port"])
    assert "Destination Port" in kept.numbers


def test_absent_columns_are_named_with_the_nearest() -> None:
    with pytest.raises(SchemaError, match="'verdct'; nearest: verdict"):
        infer_schema(_table(), label="verdct")
    with pytest.raises(SchemaError, match="'byts'; nearest: bytes"):
        infer_schema(_table(), label="verdict", keep=["byts"])


def test_a_table_of_refused_columns_is_an_error() -> None:
    with pytest.raises(SchemaError, match="all are refused"):
        infer_schema(pl.DataFrame({"src_ip": ["a"], "y": ["b"]}), label="y")


@pytest.mark.parametrize("name", ["kdd99", "cicflow", "conn"])
def test_no_feature_of_a_known_schema_is_refused_by_name(name: str) -> None:
    schema = get_schema(name)
    table = pl.DataFrame({feature: [0] * N for feature in schema.features} | {"verdict": LABELS})
    _, refused = infer_schema(table, label="verdict")
    assert refused == {}
    identities = [column.name for column in schema.columns if column.kind == "identity"]
    table = pl.DataFrame({"x": [0] * N} | {name: [0] * N for name in identities} | {"verdict": LABELS})
    assert set(infer_schema(table, label="verdict")[1]) == set(identities)


@pytest.mark.parametrize("column", ["code", "when"])
def test_one_odd_cell_does_not_hide_a_giveaway(column: str) -> None:
    n_flows = 400
    labels = ["ok", "bad"] * (n_flows // 2)
    codes = [11 if label == "ok" else 22 for label in labels]
    times = [1_600_000_000.5 + 7 * row for row in range(n_flows)]
    table = pl.DataFrame({"code": [99, *codes[1:]], "when": [0.0, *times[1:]], "bytes": range(n_flows), "y": labels})
    schema, refused = infer_schema(table.with_columns(pl.col("bytes") % 7), label="y")
    assert column in refused
    assert schema.features == ("bytes",)


def test_a_feature_that_only_often_tells_the_label_stays() -> None:
    labels = ["ok", "bad"] * 200
    table = pl.DataFrame({"flag": [int(row % 20 == 0) ^ (row % 2) for row in range(400)], "y": labels})
    assert infer_schema(table, label="y")[0].features == ("flag",)


def test_a_mostly_constant_column_is_no_giveaway_where_attacks_are_rare() -> None:
    table = pl.DataFrame({"flag": [0] * 997 + [1] * 3, "y": ["ok"] * 990 + ["bad"] * 10})
    assert infer_schema(table, label="y")[0].features == ("flag",)


def test_the_label_cannot_be_a_feature() -> None:
    table = pl.DataFrame({"bytes": [1, 2, 1, 2], "y": ["ok", "bad", "ok", "ok"]})
    with pytest.raises(LeakError, match="is the label"):
        infer_schema(table, label="y", keep=["y"])
