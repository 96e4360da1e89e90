"""Dealing a user's table to shards: its schema, its labels, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from deepidea.errors import CellError, DataError, LabelError, LeakError, SchemaError
from deepidea.evaluation.protocol import flows_to_train
from deepidea.evaluation.shards import ShardsToTrain, _RowSample, shards_to_train
from deepidea.flows.fingerprint import collapse_duplicates, row_fingerprints
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


def test_the_contract_has_what_was_read(tmp_path: Path) -> None:
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
    assert "determines the label" in dealt(rows, tmp_path).refused["leak"]


def test_a_column_to_keep_that_gives_the_label_away_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LeakError, match="leak"):
        dealt(table(leak=table()["label"].rank("dense")), tmp_path, keep=["leak"])


@pytest.mark.parametrize(
    ("change", "options", "error", "told"),
    [
        ({"label": [""] + ["benign", "dos"] * (N // 2 - 1) + ["dos"]}, {}, LabelError, "line 2"),
        ({}, {"label": "verdict"}, LabelError, "no label column 'verdict'"),
        ({}, {"benign": "good"}, LabelError, "no benign value 'good'"),
        ({"label": ["benign"] * N}, {}, LabelError, "no value but 'benign'"),
        ({"label": ["benign"] * (N - 1) + ["dos"]}, {}, LabelError, "one flow each of dos"),
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
    with pytest.raises(SchemaError, match="differ in the columns note"):
        dealt([table(), table(note=["x"] * N)], tmp_path)


def test_a_word_among_numbers_is_reported_with_its_line(tmp_path: Path, monkeypatch) -> None:
    cells = table()["duration_s"].cast(pl.String).to_list()
    cells[2900] = "many"
    for j, drawn in enumerate((100, 100_000)):  # few rows, which do not show it, and all of them
        monkeypatch.setattr("deepidea.evaluation.shards.DRAWN_ROWS", drawn)
        (tmp_path / str(j)).mkdir()
        with pytest.raises(CellError, match=r"line 2902: duration_s 'many'"):
            dealt(table(duration_s=cells), tmp_path / str(j))


def test_the_standard_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="cannot read the standard input twice"):
        shards_to_train(["-"], tmp_path, n_shards=2, label="label", benign="benign")


ODD: dict[str, Any] = {
    "truth": [True, False, None] * (N // 3),
    "protocol": [6.0, 17.0, None] * (N // 3),
    "port": [80, 443, 53] * (N // 3),
    "name": ["a", "b, c", ' "d" '] * (N // 3),
    "rate": [np.inf, np.nan, 1.5] * (N // 3),
    "void": [None] * N,
    "Label": ["x", "y", "y"] * (N // 3),  # one spelling with the label
    "_key": [1, 2, 3] * (N // 3),
}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_odd_columns_come_out_as_in_memory(tmp_path: Path, suffix: str) -> None:
    found = dealt(table(**ODD), tmp_path, suffix).flows
    known = flows_to_train([tmp_path / f"0.{suffix}"], label="label", benign="benign", split="none").flows
    assert found.schema == known.schema
    prints = row_fingerprints(known.table, known.schema)
    codes = known.classes.replace_strict(known.class_order, range(len(known.class_order))).to_numpy()
    rows, copies = collapse_duplicates(prints, codes.astype(np.int64), np.ones(N))
    assert found.fingerprints.tolist() == prints[rows].tolist()
    assert found.codes.tolist() == codes[rows].tolist()
    assert found.copies.tolist() == copies.tolist()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("labels", "benign"), [([0, 2, 1], "0"), ([0.0, 1.0, 1.0], "0.0"), (["False", "True", "True"], "false")]
)
def test_labels_are_reported_as_in_memory(tmp_path: Path, suffix: str, labels: list[Any], benign: str) -> None:
    if suffix == "parquet" and isinstance(labels[0], str):
        labels = [cell == "True" for cell in labels]
    found = dealt(table(label=labels * (N // 3)), tmp_path, suffix, benign=benign)
    known = flows_to_train([tmp_path / f"0.{suffix}"], label="label", benign=benign, split="none")
    assert {**found.contract, "shards": None} == {**known.contract, "shards": None}


def test_the_rows_that_are_drawn_are_a_fair_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepidea.evaluation.shards.DRAWN_ROWS", 2000)
    drawn = _RowSample(np.random.default_rng(0))
    for start in range(0, 100_000, 500):
        drawn.offer(pl.DataFrame({"x": np.arange(start, start + 500)}))
    places = drawn.rows()["x"].to_numpy()
    assert len(set(places.tolist())) == 2000
    assert np.histogram(places, 4, (0, 100_000))[0] == pytest.approx(500, abs=100)


@pytest.mark.parametrize("more", [["benign"], ["new"] * 3])
def test_a_table_that_changes_while_it_is_read_is_refused(tmp_path: Path, more: list[str]) -> None:
    path, rows = tmp_path / "t.csv", table()
    rows.write_csv(path)
    (tmp_path / "shards").mkdir()

    def grow(_: int) -> None:
        pl.concat([rows, rows[: len(more)].with_columns(label=pl.Series(more))]).write_csv(tmp_path / "grown.csv")
        (tmp_path / "grown.csv").replace(path)  # the first reading goes on in what it opened

    with pytest.raises(DataError, match="changed between two readings"):
        shards_to_train([path], tmp_path / "shards", n_shards=2, label="label", benign="benign", progress=grow)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"schema": "conn", "keep": ["duration_s"]}, "--keep is for a schema that is inferred"),
        ({"schema": "conn+context"}, "train in conn, or in memory"),
        ({"schema": "cicflow"}, "missing"),
        ({"n_shards": 5000}, "shards must be in"),
    ],
)
def test_a_table_is_not_read_for_nothing(tmp_path: Path, monkeypatch, options: Any, told: str) -> None:
    monkeypatch.setattr("deepidea.evaluation.shards.iter_chunks", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(DataError, match=re.escape(told)):
        dealt(table(), tmp_path, **options)
