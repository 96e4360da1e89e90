"""Flows in shards: the same distinct rows as in memory, however they were dealt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.errors import DataError, StorageError
from deepidea.flows.fingerprint import collapse_duplicates, row_fingerprints
from deepidea.flows.schema import Column, Schema
from deepidea.flows.shards import ShardedFlows, ShardedTable, ShardWriter

SCHEMA = Schema("tiny", (Column("bytes", "number"), Column("service", "category")))


def flows(n: int = 500, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    table = pl.DataFrame({"bytes": rng.integers(0, 60, n).astype(float), "service": rng.choice(["dns", "http"], n)})
    return table, rng.integers(0, 3, n).astype(np.uint16)


def dealt(folder: Path, n_shards: int, chunk: int, n: int = 500) -> ShardedFlows:
    table, codes = flows(n)
    writer = ShardWriter(folder, SCHEMA, n_shards)
    for start in range(0, n, chunk):
        writer.add(table[start : start + chunk], codes[start : start + chunk])
    return writer.finish(("benign", "dos", "probe"), "test")


@settings(deadline=None, max_examples=20)
@given(n_shards=st.integers(2, 40), chunk=st.integers(1, 700), waiting=st.sampled_from([1, 1 << 30]))
def test_shards_hold_what_memory_would(tmp_path_factory, n_shards: int, chunk: int, waiting: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("deepidea.flows.shards.WRITTEN_BYTES", waiting)
        found = dealt(tmp_path_factory.mktemp("s"), n_shards, chunk)
    table, codes = flows()
    prints = row_fingerprints(table, SCHEMA)
    rows, copies = collapse_duplicates(prints, codes.astype(np.int64), np.ones(len(table)))
    assert found.table.read().equals(table[rows])
    assert found.fingerprints.tolist() == prints[rows].tolist()
    assert found.codes.tolist() == codes[rows].tolist()
    assert found.copies.tolist() == copies.tolist()


def test_a_sharded_table_answers_as_one_in_memory_does(tmp_path: Path) -> None:
    table = dealt(tmp_path, 5, 100).table
    whole, rng = table.read(), np.random.default_rng(1)
    mask, rows = rng.random(len(table)) < 0.3, rng.integers(0, len(table), 40)
    assert table["bytes"].equals(whole["bytes"])
    assert table[rows].equals(whole[rows])
    part = table.filter(mask)
    assert len(part) == mask.sum()
    assert part.read().equals(whole.filter(mask))
    again = rng.random(len(part)) < 0.5
    assert part.filter(again)["service"].equals(whole.filter(mask).filter(again)["service"])
    assert table.filter(np.zeros(len(table), bool)).is_empty()


def test_rows_are_dealt_evenly_whatever_their_order(tmp_path: Path) -> None:
    rows = pl.DataFrame({"bytes": np.arange(20_000.0), "service": ["dns"] * 20_000})
    writer = ShardWriter(tmp_path, SCHEMA, 8)
    writer.add(rows, np.zeros(20_000, np.uint16))
    found = writer.finish(("benign",), "").table
    assert min(found.sizes) > 0.9 * 20_000 / 8
    means = [shard["bytes"].mean() for shard in found.shards()]  # each is a fair sample
    assert max(abs(mean / 10_000 - 1) for mean in means) < 0.1


def test_no_piece_is_left_behind(tmp_path: Path) -> None:
    found = dealt(tmp_path, 4, 50)
    assert sorted(tmp_path.iterdir()) == list(found.table.paths)


@pytest.mark.parametrize("n_shards", [0, 1, 5000])
def test_a_number_of_shards_out_of_bounds_is_refused(tmp_path: Path, n_shards: int) -> None:
    with pytest.raises(DataError, match="shards must be in 2"):
        ShardWriter(tmp_path, SCHEMA, n_shards)


def test_no_flow_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no flows"):
        ShardWriter(tmp_path, SCHEMA, 2).finish(("benign",), "")


def test_a_disk_that_refuses_is_reported(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "gone", SCHEMA, 2)
    writer.add(*flows(50))
    with pytest.raises(StorageError, match="cannot write shards"):
        writer.finish(("benign", "dos", "probe"), "")


def test_files_are_read_in_order(tmp_path: Path) -> None:
    for j in (0, 1):
        pl.DataFrame({"x": [j]}).write_parquet(tmp_path / f"{j}.parquet")
    assert ShardedTable.of([tmp_path / "1.parquet", tmp_path / "0.parquet"])["x"].to_list() == [1, 0]


def test_few_rows_of_many_leave_nothing_of_the_others_in_memory(tmp_path: Path) -> None:
    pl.DataFrame({"x": np.arange(10_000.0)}).write_parquet(tmp_path / "0.parquet")
    table = ShardedTable.of([tmp_path / "0.parquet"])
    values = table.filter(np.arange(10_000) == 7)["x"]
    assert values.to_list() == [7.0]
    assert not _is_view(values)


def _is_view(values: pl.Series) -> bool:
    """Whether a column stands further on in memory that holds others before it."""
    return bool(values.to_arrow().offset)


def test_shards_of_many_copies_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepidea.flows.shards.WRITTEN_BYTES", 1)  # each chunk is written at once
    writer = ShardWriter(tmp_path, SCHEMA, 2)
    rows = pl.DataFrame({"bytes": [1.0] * 10_000, "service": ["dns"] * 10_000})
    for _ in range(3):
        writer.add(rows, np.zeros(10_000, np.uint16))
    assert sum(pl.read_ipc(piece).height for piece in tmp_path.iterdir()) == 3
    assert writer.finish(("benign",), "").copies.tolist() == [30_000.0]


def test_a_shard_in_waiting_holds_its_own_rows_alone(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, SCHEMA, 2)
    writer.add(*flows(2000))
    assert not any(_is_view(part["bytes"]) for parts in writer._waiting for part in parts)


def test_columns_may_have_any_name(tmp_path: Path) -> None:
    names = ("_print", "_code", "_copies")
    writer = ShardWriter(tmp_path, Schema("odd", tuple(Column(name, "number") for name in names)), 2)
    table = pl.DataFrame({name: [float(j), j + 1.0] for j, name in enumerate(names)})
    writer.add(table, np.zeros(2, np.uint16))
    assert writer.finish(("benign",), "").table.read().sort("_print").equals(table)


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "day=3 [a]*"
    folder.mkdir()
    found = dealt(folder, 3, 100)
    assert found.table.read().columns == ["bytes", "service"]
    assert len(found.table["bytes"]) == len(found)
