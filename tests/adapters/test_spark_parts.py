"""Parquet files that Spark's tasks read and write themselves: the same as on one machine, whole or not at all."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.errors import CellError, DataError, FileFormatError, SchemaError, StorageError
from deepidea.flows.skipping import SkipCount
from deepidea.model import scoring
from deepidea.model.detector import Detector
from tests.adapters.spark_flows import FLOWS, expected, read_back, same_rows, write

pytest.importorskip("pyarrow")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepidea.adapters import spark_parts

    monkeypatch.setattr(spark_parts, "LEAST_ROWS", 1)
    monkeypatch.setattr(spark_parts, "MOST_ROWS", 300)


def write_groups(folder: Path, *heights: int) -> None:
    """Write the flows in files of so many rows, in row groups of a hundred."""
    folder.mkdir()
    starts = [sum(heights[:j]) for j in range(len(heights) + 1)]
    for j, (start, end) in enumerate(pairwise(starts)):
        FLOWS.slice(start, end - start).write_parquet(folder / f"{j}.parquet", row_group_size=100)


def with_bad_cell(number: str, row: int, rows: pl.DataFrame = FLOWS) -> pl.DataFrame:
    bad = pl.when(pl.int_range(pl.len()) == row).then(pl.lit("many")).otherwise(pl.col(number).cast(pl.String))
    return rows.with_columns(bad.alias(number))


# --- sharing out ------------------------------------------------------------------------------------------------------


@given(
    files=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=8), min_size=1, max_size=8),
    most=st.integers(1, 99),
)
def test_parts_hold_every_row_once_in_order_and_end_with_row_groups(files: list[list[int]], most: int) -> None:
    from deepidea.adapters.spark_parts import Table, _merged, _parts_of

    tables = [Table(Path(f"/{j}"), 0, tuple(groups), None) for j, groups in enumerate(files)]
    parts = _merged((part for table in tables for part in _parts_of(table, most)), most)
    held = [(path, part.rows or range(sum(files[int(path[1:])]))) for part in parts for path in part.paths]
    for j, groups in enumerate(files):
        ranges = [rows for path, rows in held if path == f"/{j}"]
        assert [row for rows in ranges for row in rows] == list(range(sum(groups)))
        assert {rows.stop for rows in ranges} <= {sum(groups[: k + 1]) for k in range(len(groups))}
    assert [int(path[1:]) for path, _ in held] == sorted(int(path[1:]) for path, _ in held)
    assert all(part.n_rows <= most or part.n_rows in files[int(part.paths[0][1:])] for part in parts)


def test_only_local_parquet_files_that_go_together_are_taken(spark: Any, model: Path, tmp_path: Path) -> None:
    from deepidea.adapters.spark_parts import cut_into_parts, local_files, local_folder

    write("parquet", tmp_path / "flows")
    write("csv", tmp_path / "text")
    (tmp_path / "days" / "day=3").mkdir(parents=True)
    FLOWS.write_parquet(tmp_path / "days" / "day=3" / "a.parquet")
    here = local_files(spark, [f"file://{tmp_path}/flows", f"{tmp_path}/fl*/part-[01]*"])
    assert here == [tmp_path / "flows" / f"part-{j}.parquet" for j in (0, 1000, 2000, 3000)]
    assert [local_files(spark, [f"{tmp_path}/{name}"]) for name in ("days", "text", "none")] == [None, None, None]
    assert local_files(spark, [f"{tmp_path}/days/*"]) == [tmp_path / "days" / "day=3" / "a.parquet"]
    assert local_folder(spark, f"file:{tmp_path}/out") == tmp_path / "out"
    FLOWS.with_columns(pl.lit([[1]]).alias("nested")).write_parquet(tmp_path / "nested.parquet")
    detector, others = Detector.load(model), ["nested.parquet", "flows/part-0.parquet"]
    for files in ([tmp_path / "nested.parquet"], [tmp_path / name for name in others]):
        assert cut_into_parts(files, detector, keep_columns=True, n_cores=1) is None
        assert cut_into_parts(files, detector, keep_columns=False, n_cores=1) is not None


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_columns", [True, False])
def test_the_folder_holds_what_one_machine_writes_in_its_order(
    spark: Any, model: Path, tmp_path: Path, small_parts: None, keep_columns: bool
) -> None:
    from deepidea.adapters.spark_files import score_files

    write_groups(tmp_path / "flows", 1250, 30, 40, 1980, 700)
    detector = Detector.load(model)
    done = score_files(
        spark, detector, [str(tmp_path / "flows")], str(tmp_path / "deep" / "out"), keep_columns=keep_columns
    )
    scoring.score_files(detector, [tmp_path / "flows"], tmp_path / "one.parquet", keep_original=keep_columns)
    names = sorted(path.name for path in (tmp_path / "deep" / "out").iterdir())
    assert names == ["_SUCCESS", *(f"part-{j:05d}.parquet" for j in range(len(names) - 1))]
    assert (done.n_flows, len(names) > 12) == (4000, True)
    assert read_back(tmp_path / "deep" / "out").equals(pl.read_parquet(tmp_path / "one.parquet"))
    assert os.listdir(tmp_path / "deep") == ["out"]
    assert spark.read.parquet(str(tmp_path / "deep" / "out")).count() == 4000


def test_columns_of_every_kept_type_come_through(spark: Any, model: Path, tmp_path: Path) -> None:
    from deepidea.adapters.spark_files import score_files

    kept = spark.createDataFrame(FLOWS.head(9).to_arrow()).selectExpr(
        "*", "cast(1.25 as decimal(9,3)) as price", "timestamp_micros(17) as at", "date'2026-01-02' as day",
        "timestamp_ntz'2026-01-02 03:04:05' as seen", "X'00ff' as raw", "cast(null as string) as note", "1Y as tiny",
    )  # fmt: skip
    spark.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    kept.coalesce(1).write.parquet(str(tmp_path / "flows"))
    score_files(spark, Detector.load(model), [str(tmp_path / "flows")], str(tmp_path / "out"))
    assert (tmp_path / "out" / "part-00000.parquet").exists()
    found = spark.read.parquet(str(tmp_path / "out")).select(kept.columns)
    assert found.dtypes == kept.dtypes
    assert sorted(map(str, found.collect())) == sorted(map(str, kept.collect()))


def test_a_file_system_of_another_kind_is_left_to_spark(spark: Any, model: Path, tmp_path: Path) -> None:
    from deepidea.adapters.spark_files import score_files
    from deepidea.adapters.spark_parts import local_files, local_folder

    write("parquet", tmp_path / "flows")
    spark._jsc.hadoopConfiguration().set("fs.viewfs.mounttable.test.link./here", f"file://{tmp_path}")
    there = "viewfs://test/here"
    assert (local_files(spark, [f"{there}/flows"]), local_folder(spark, f"{there}/out")) == (None, None)
    detector = Detector.load(model)
    for inputs, output in ((f"{there}/flows", str(tmp_path / "a")), (str(tmp_path / "flows"), f"{there}/b")):
        assert score_files(spark, detector, [inputs], output).n_flows == 4000
    assert same_rows(read_back(tmp_path / "a"), expected(model))
    assert same_rows(read_back(tmp_path / "b"), expected(model))


def test_files_without_rows_and_parts_without_verdicts(
    spark: Any, model: Path, tmp_path: Path, small_parts: None
) -> None:
    from deepidea.adapters.spark_files import score_files

    detector = Detector.load(model)
    number = detector.schema.numbers[0]
    (tmp_path / "flows").mkdir()
    text = FLOWS.with_columns(pl.col(number).cast(pl.String))
    text.head(0).write_parquet(tmp_path / "flows" / "0.parquet")
    text.head(300).with_columns(pl.lit("many").alias(number)).write_parquet(tmp_path / "flows" / "1.parquet")
    with_bad_cell(number, 7, text.slice(300, 300)).write_parquet(tmp_path / "flows" / "2.parquet")
    done = score_files(spark, detector, [str(tmp_path / "flows")], str(tmp_path / "out"), on_error="skip")
    skipped = SkipCount()
    scoring.score_files(
        detector, [tmp_path / "flows"], tmp_path / "1.parquet", keep_original=True, on_error="skip", skipped=skipped
    )
    assert (done.n_flows, dict(done.skipped)) == (299, {f"{number} is not a number": 301})
    assert done.skipped == skipped.reasons
    assert read_back(tmp_path / "out").equals(pl.read_parquet(tmp_path / "1.parquet"))
    done = score_files(spark, detector, [str(tmp_path / "flows" / "0.parquet")], str(tmp_path / "none"))
    assert (done.n_flows, spark.read.parquet(str(tmp_path / "none")).count()) == (0, 0)


def test_a_second_attempt_puts_the_same_bytes_in_the_same_place(model: Path, tmp_path: Path) -> None:
    from deepidea.adapters.spark_parts import ATTEMPTS, FINISHED, _Task, cut_into_parts

    FLOWS.write_parquet(tmp_path / "a.parquet")
    detector = Detector.load(model, n_threads=1)
    parts = cut_into_parts([tmp_path / "a.parquet"], detector, keep_columns=True, n_cores=1)
    for name in (FINISHED, ATTEMPTS):
        (tmp_path / name).mkdir()
    task = _Task(SimpleNamespace(value=(detector, parts)), str(tmp_path), True, "raise")
    seen = set()
    for _ in range(3):
        assert task._score(0) == (4000, {})
        seen.add((tmp_path / FINISHED / "part-00000.parquet").read_bytes())
    assert (len(seen), os.listdir(tmp_path / ATTEMPTS)) == (1, [])


# --- what goes wrong --------------------------------------------------------------------------------------------------


def damage(path: Path, *, at: float, length: int = 4000) -> None:
    data = bytearray(path.read_bytes())
    start = int(len(data) * at)
    data[start : start + length] = bytes(255 - byte for byte in data[start : start + length])
    path.write_bytes(data)


def test_an_error_names_file_and_row_as_on_one_machine_and_leaves_nothing(
    spark: Any, model: Path, tmp_path: Path, small_parts: None
) -> None:
    from deepidea.adapters.spark_files import score_files

    detector = Detector.load(model)
    number = detector.schema.numbers[0]
    (tmp_path / "cells").mkdir()
    with_bad_cell(number, 2345).write_parquet(tmp_path / "cells" / "a.parquet", row_group_size=100)
    for name in ("damaged", "cut", "lacking"):
        write_groups(tmp_path / name, 2000, 2000)
    damage(tmp_path / "damaged" / "1.parquet", at=0.5)
    os.truncate(tmp_path / "cut" / "1.parquet", 30_000)
    FLOWS.drop(number).write_parquet(tmp_path / "lacking" / "1.parquet")
    (tmp_path / "there").mkdir()
    for name, error, match in (
        ("cells", CellError, rf"{tmp_path}.*a.parquet, row 2346: {number} 'many' is not a number"),
        ("damaged", FileFormatError, "cannot read .*1.parquet"),
        ("cut", FileFormatError, "cannot read .*1.parquet"),
        ("lacking", SchemaError, f"{tmp_path}/lacking/1.parquet: .*1 missing"),
    ):
        with pytest.raises(error, match=match) as raised:
            score_files(spark, detector, [str(tmp_path / name)], str(tmp_path / "there" / "out"))
        with pytest.raises(error) as alone:
            scoring.score_files(detector, [tmp_path / name], tmp_path / "one.parquet", keep_original=True)
        assert str(raised.value) == str(alone.value)
        assert os.listdir(tmp_path / "there") == []


def test_files_that_are_not_the_same_where_the_task_runs_are_reported(spark: Any, model: Path, tmp_path: Path) -> None:
    from deepidea.adapters.spark import unwrap_errors
    from deepidea.adapters.spark_parts import _attempt, cut_into_parts, score_parts

    write_groups(tmp_path / "flows", 2000, 2000)
    files = [tmp_path / "flows" / f"{j}.parquet" for j in range(2)]
    detector = Detector.load(model)
    parts = cut_into_parts(files, detector, keep_columns=True, n_cores=2) or []
    FLOWS.head(5).write_parquet(files[1])
    with pytest.raises(DataError, match=r"1.parquet has \d+ bytes on .* and had \d+ on the driver"), unwrap_errors():
        score_parts(spark, detector, parts, tmp_path / "out")
    files[1].unlink()
    with pytest.raises(DataError, match=r"cannot read .*1.parquet on .*No such file"), unwrap_errors():
        score_parts(spark, detector, parts, tmp_path / "out")
    with pytest.raises(StorageError, match=r"cannot write to .*the same path on every machine"):
        _attempt(tmp_path / "none").__enter__()
    assert os.listdir(tmp_path) == ["flows"]


def test_an_output_that_cannot_be_made_or_came_meanwhile_is_reported(tmp_path: Path) -> None:
    from deepidea.adapters.spark_parts import _atomic_folder

    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write output folder"), _atomic_folder(tmp_path / "file" / "out"):
        pass
    with pytest.raises(StorageError, match="it was created meanwhile"), _atomic_folder(tmp_path / "out"):
        (tmp_path / "out").mkdir()
    assert sorted(os.listdir(tmp_path)) == ["file", "out"]
