"""Dealing a user's table to shards: its schema, its labels, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from deepidea.errors import CellError, DataError, LabelError, LeakError, SchemaError
from deepidea.evaluation.protocol import flows_to_train
from deepidea.evaluation.shards import ShardsToTrain, shards_to_train
from deepidea.flows.simulate import simulate_flows

N = 3000


def table(n: int = N, seed: int = 5, **more: Any) -> pl.DataFrame:
    flows = simulate_flows(n_flows=n, seed=seed)
    return flows.with_columns(**{name: pl.Series(values) for name, values in more.items()})


def dealt(rows: pl.DataFrame | list[pl.DataFrame], folder: Path, suffix: str = "csv", **options: Any) -> ShardsToTrain:
    paths = []
    for j, part in enumerate(rows if isinstance(rows, list) else [rows]):
        paths.append(folder / f"{j}.{suffix}")
        getattr(part, f"write_{suffix}")(paths[-1])
    (folder / "shards").mkdir()
    given = {"n_shards": 3, "label": "label", "benign": "benign", **options}
    return shards_to_train(paths, folder / "shards", **given)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_schema_and_refused_columns_are_those_of_a_table_in_memory(tmp_path: Path, suffix: str) -> None:
    rows = table(number=np.arange(N), src_ip=["10.0.0.1"] * N, leak=table()["label"].rank("dense"))
    found = dealt(rows, tmp_path, suffix)
    known = flows_to_train([tmp_path / f"0.{suffix}"], label="label", benign="benign", split="none")
    assert found.flows.schema == known.flows.schema
    assert found.refused == known.refused
    assert set(found.refused) >= {"number", "src_ip", "leak"}


def test_the_contract_tells_what_was_read(tmp_path: Path) -> None:
    rows = table()
    told: list[int] = []
    found = dealt([rows[:1000], rows[1000:]], tmp_path, progress=told.append)
    assert found.contract["rows"] == N
    assert sum(found.contract["class_rows"].values()) == N
    assert found.contract["class_rows"]["benign"] == (rows["label"] == "benign").sum()
    assert found.contract["shards"] == 3
    assert found.flows.copies.sum() == N
    assert told[-1] == N
    assert found.card()["baselines"]["majority"] == "benign"


def test_a_column_that_spells_the_label_is_refused_in_a_file_sorted_by_label(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("deepidea.evaluation.shards.DRAWN_ROWS", 500)  # the first rows are all benign
    rows = table(leak=table()["label"].rank("dense")).sort("label")
    assert "spells the label" in dealt(rows, tmp_path).refused["leak"]


def test_a_column_to_keep_that_gives_the_label_away_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LeakError, match="leak"):
        dealt(table(leak=table()["label"].rank("dense")), tmp_path, keep=["leak"])


@pytest.mark.parametrize(
    ("change", "options", "error", "told"),
    [
        ({"label": [""] + ["benign", "dos"] * (N // 2 - 1) + ["dos"]}, {}, LabelError, "line 2"),
        ({}, {"label": "verdict"}, LabelError, "'verdict' is not"),
        ({}, {"benign": "good"}, LabelError, "'good' does not"),
        ({"label": ["benign"] * N}, {}, LabelError, "alone"),
        ({"label": ["benign"] * (N - 1) + ["dos"]}, {}, LabelError, "dos of column label has one"),
        ({}, {"n_shards": 1}, DataError, "shards must be in"),
        ({}, {"schema": "cicflow"}, SchemaError, "missing"),
    ],
)
def test_what_cannot_train_is_refused(tmp_path: Path, change: Any, options: Any, error: Any, told: str) -> None:
    with pytest.raises(error, match=told):
        dealt(table().with_columns(**{k: pl.Series(v) for k, v in change.items()}), tmp_path, **options)


def test_a_registered_schema_is_taken_as_it_is(tmp_path: Path) -> None:
    assert dealt(table(), tmp_path, schema="conn").flows.schema.name == "conn"


def test_files_of_different_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="differ in note"):
        dealt([table(), table(note=["x"] * N)], tmp_path)


def test_a_word_among_numbers_is_told_with_its_line(tmp_path: Path, monkeypatch) -> None:
    cells = table()["duration_s"].cast(pl.String).to_list()
    cells[2900] = "many"
    for j, drawn in enumerate((100, 100_000)):  # few rows, which do not show it, and all of them
        monkeypatch.setattr("deepidea.evaluation.shards.DRAWN_ROWS", drawn)
        (tmp_path / str(j)).mkdir()
        with pytest.raises(CellError, match=r"duration_s=.*many.*line 2902"):
            dealt(table(duration_s=cells), tmp_path / str(j))


def test_the_standard_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="read twice"):
        shards_to_train(["-"], tmp_path, n_shards=2, label="label", benign="benign")
