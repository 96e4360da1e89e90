from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.flows.datasets.description import describe, describe_flows, imbalance
from deepidea.flows.datasets.loading import Dataset, add_dataset, load_dataset
from deepidea.flows.labelled import LabelledFlows, label_flows
from deepidea.flows.schema import Column, Schema
from deepidea.flows.taxonomy import Taxonomy

SCHEMA = Schema("custom", (Column("x", "number"), Column("fwd_init_window_bytes", "number")))
TAXONOMY = Taxonomy("three", {"ok": "benign", "scan": "scan", "flood": "flood"})


def _flows(x: list[float | None], labels: list[str]) -> LabelledFlows:
    table = pl.DataFrame({"x": pl.Series(x, dtype=pl.Float64), "fwd_init_window_bytes": [-1] * len(x)})
    return label_flows(table, pl.Series(labels), SCHEMA, TAXONOMY, "t")


def test_a_table_is_counted() -> None:
    flows = _flows(
        [1.0, 1.0, 1.0, 2.0, 2.0, float("inf"), None, float("nan")],
        ["ok", "ok", "scan", "scan", "flood", "ok", "ok", "ok"],
    )
    d = describe_flows(flows)
    assert d.classes == {"benign": 5, "scan": 2, "flood": 1}
    assert (d.distinct_vectors, d.distinct_rows, d.duplicate_rows) == (4, 6, 2)
    assert (d.contradictory_rows, d.contradictory_vectors) == (5, 2)
    assert (d.benign_or_attack_rows, d.benign_or_attack_vectors) == (3, 1)
    assert (d.missing_cells, d.infinite_cells) == ({"x": 2}, {"x": 1})
    assert d.minus_one_windows == {"fwd_init_window_bytes": 8}


def test_a_split_is_counted() -> None:
    train = _flows([1.0, 2.0, 2.0, 3.0], ["ok", "ok", "scan", "scan"])
    test = _flows([1.0, 1.0, 2.0, 3.0, 9.0], ["ok", "flood", "flood", "flood", "ok"])
    dataset = Dataset("d", "D", SCHEMA, TAXONOMY, train, test, (), {})
    split = describe(dataset).split
    assert split is not None
    assert (split.seen_rows, split.contradicting_rows, split.other_class_rows) == (4, 1, 3)
    assert split.new_labels == {"flood": 3}


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(lambda counts: sum(counts) > 0))
def test_imbalance_follows_the_equation(counts: list[int]) -> None:
    expected = sum(max(counts) - n for n in counts) / sum(counts)
    assert imbalance(counts) == pytest.approx(expected)


@pytest.mark.data
def test_kdd99_facts(data_root: Path) -> None:
    add_dataset("kdd99", data_root / "kdd99", training="10-percent")
    d = describe(load_dataset("kdd99"))
    assert d.test is not None
    assert d.split is not None
    assert (d.train.rows, d.train.distinct_rows, d.train.distinct_vectors) == (494_021, 145_586, 145_584)
    assert (d.test.rows, d.test.distinct_rows, d.test.distinct_vectors) == (311_029, 77_291, 77_216)
    assert (d.split.seen_rows, round(d.split.seen_share, 3)) == (181_136, 0.582)
    assert d.split.contradicting_rows == 3_148
    assert (len(d.split.new_labels), sum(d.split.new_labels.values())) == (17, 18_729)
    assert d.test.classes == {"benign": 60_593, "dos": 229_853, "probe": 4_166, "u2r": 228, "r2l": 16_189}
    assert round(d.train.imbalance, 2) == 2.96
    assert [file.official for file in d.files] == [True, True]
    assert json.loads(json.dumps(d.to_dict()))["split"]["seen_rows"] == 181_136


@pytest.mark.data
def test_cicids17_odd_cells_are_reported_by_column(data_root: Path) -> None:
    add_dataset("cicids17", data_root / "cicids17")
    d = describe(load_dataset("cicids17"))
    assert d.train.missing_cells == {"bytes_per_s": 18}
    assert d.train.infinite_cells == {"bytes_per_s": 31, "packets_per_s": 49}
    assert sum(d.train.minus_one_windows.values()) == d.quirks["minus_one_windows"] == 100_595
    assert d.test is d.split is None
