from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepidea.flows.fingerprint import mix_array, row_fingerprints
from deepidea.flows.schema import Column, Schema, get_schema

MIXED = Schema(
    "mixed", (Column("src_ip", "identity"), Column("x", "number"), Column("on", "flag"), Column("proto", "category"))
)
GOLDEN = ["0x3c9f05d81c5ee75d", "0xecccafc730fe676c"]
GOLDEN_ARRAY = "0x84b015730a60eb90"
SMALL_FLOATS = st.sampled_from([0.0, -0.0, 1.0, 2.0, float("nan"), float("inf")])


def _mixed(x: list[float | None], proto: list[str | None]) -> pl.DataFrame:
    return pl.DataFrame({"src_ip": [str(i) for i in range(len(x))], "x": x, "on": [0] * len(x), "proto": proto})


def test_golden_values_do_not_change() -> None:
    prints = row_fingerprints(_mixed([1.5, None], ["tcp", None]), MIXED)
    assert [hex(value) for value in prints.tolist()] == GOLDEN
    assert hex(int(mix_array(np.array([[0, 1, -2.5]], dtype=np.float32))[0])) == GOLDEN_ARRAY


@given(arrays(np.float32, st.tuples(st.integers(0, 30), st.integers(1, 4)), elements=SMALL_FLOATS.map(np.float32)))
def test_equal_vectors_and_only_they_have_equal_prints(matrix: np.ndarray) -> None:
    rows = {tuple("nan" if np.isnan(v) else float(v) + 0.0 for v in row) for row in matrix}
    assert len(np.unique(mix_array(matrix))) == len(rows)


@given(st.permutations(range(8)))
def test_order_of_rows_does_not_matter(order: list[int]) -> None:
    table = _mixed([float(i) for i in range(8)], ["tcp", "udp"] * 4)
    prints = row_fingerprints(table, MIXED)
    assert np.array_equal(row_fingerprints(table[order], MIXED), prints[order])


def test_a_table_of_numbers_prints_as_its_matrix() -> None:
    matrix = np.random.default_rng(0).normal(size=(40_000, 3)).astype(np.float32)
    schema = Schema("numbers", tuple(Column(name, "number") for name in "abc"))
    table = pl.DataFrame(matrix, schema=["a", "b", "c"])
    assert np.array_equal(row_fingerprints(table, schema), mix_array(matrix))
    assert np.array_equal(row_fingerprints(table.cast(pl.Float64), schema), mix_array(matrix))


def test_types_that_hold_the_same_number_print_alike() -> None:
    table = _mixed([3.0, 0.0], ["tcp", "udp"])
    others = [table.with_columns(pl.col("x").cast(dtype)) for dtype in (pl.Int8, pl.UInt64, pl.Float32)]
    assert all(np.array_equal(row_fingerprints(o, MIXED), row_fingerprints(table, MIXED)) for o in others)


def test_identities_do_not_count_and_categories_do() -> None:
    prints = row_fingerprints(_mixed([1.0] * 4, ["tcp", "tcp", "udp", None]), MIXED)
    assert prints[0] == prints[1]
    assert len(set(prints.tolist())) == 3


def test_a_million_structured_rows_do_not_collide() -> None:
    bits = (np.arange(1 << 20)[:, None] >> np.arange(20)) & 1
    assert len(np.unique(mix_array(bits.astype(np.float32)))) == 1 << 20


def test_an_empty_table_has_no_prints() -> None:
    assert row_fingerprints(_mixed([], []).cast({"x": pl.Float64}), MIXED).shape == (0,)


@pytest.mark.data
@pytest.mark.parametrize(("name", "distinct"), [("kddcup.data_10_percent.gz", 145_584), ("corrected.gz", 77_216)])
def test_distinct_prints_are_distinct_vectors(data_root: Path, name: str, distinct: int) -> None:
    schema = get_schema("kdd99")
    table = pl.read_csv(data_root / "kdd99" / name, has_header=False, new_columns=[*schema.features, "label"])
    features = schema.conform(table.drop("label"))
    assert len(np.unique(row_fingerprints(features, schema))) == features.n_unique() == distinct
