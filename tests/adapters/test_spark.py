"""Scoring on Spark: a session in this process, a cluster of its own processes, and kills."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from deepidea.errors import (
    CellError,
    DataError,
    FileFormatError,
    MissingExtraError,
    SchemaError,
    SourceError,
    StorageError,
)
from deepidea.model.detector import Detector
from tests.adapters.conftest import Cluster
from tests.adapters.spark_cluster import ON_LOOPBACK, need_spark
from tests.adapters.spark_flows import FLOWS, expected, read_back, same_rows, write
from tests.conftest import Command
from tests.detection.servers import eventually

# --- tables in, tables out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_parts", [1, 7])
def test_verdicts_are_those_of_one_machine_to_the_bit(spark: Any, model: Path, n_parts: int) -> None:
    from deepidea.adapters.spark import score

    rows = spark.createDataFrame(FLOWS.to_arrow()).repartition(n_parts)
    found = pl.DataFrame(pl.from_arrow(score(rows, model).toArrow()))
    assert same_rows(found, expected(model))


def test_columns_that_polars_does_not_know_come_through(spark: Any, model: Path) -> None:
    from deepidea.adapters.spark import score

    rows = spark.createDataFrame(FLOWS.head(5).to_arrow()).selectExpr(
        "*", "cast(1.25 as decimal(9,3)) as `a.price`", "map('k', array(1, 2)) as tags", "interval 3 days as wait"
    )
    found = score(rows, model).select("`a.price`", "tags", "wait", "class").collect()
    assert {(str(row[0]), str(row[1]), row[2].days) for row in found} == {("1.250", "{'k': [1, 2]}", 3)}


def test_what_is_wrong_with_a_table_is_reported_before_any_work(spark: Any, model: Path) -> None:
    from deepidea.adapters.spark import score

    rows = spark.createDataFrame(FLOWS.head(5).to_arrow())
    with pytest.raises(SchemaError, match="1 missing"):
        score(rows.drop(Detector.load(model).schema.features[0]), model)
    with pytest.raises(SchemaError, match="duplicate column names"):
        score(rows.withColumnRenamed(rows.columns[0], rows.columns[1]), model)
    with pytest.raises(DataError, match=r"needs skipped=SkippedRows"):
        score(rows, model, on_error="skip")


def test_a_bad_cell_in_one_partition_is_named_or_counted(spark: Any, model: Path) -> None:
    from deepidea.adapters.spark import SkippedRows, score, unwrap_errors

    number = Detector.load(model).schema.numbers[0]
    text = FLOWS.head(100).with_columns(pl.col(number).cast(pl.String))
    bad = text.with_columns(pl.when(pl.int_range(pl.len()) == 42).then(pl.lit("many")).otherwise(number).alias(number))
    rows = spark.createDataFrame(bad.to_arrow()).repartition(3)
    with pytest.raises(CellError, match=f"{number} 'many' is not a number"), unwrap_errors():
        score(rows, model).count()
    skipped = SkippedRows(spark)
    kept = score(rows, model, on_error="skip", skipped=skipped)
    assert pl.DataFrame(pl.from_arrow(kept.toArrow())).height == 99
    assert dict(skipped.reasons) == {f"{number} is not a number": 1}


def test_verdicts_alone_are_worked_out_from_the_columns_they_need(spark: Any, model: Path) -> None:
    from deepidea.adapters.spark import score

    rows = spark.createDataFrame(FLOWS.to_arrow()).selectExpr("'x' as `a.note`", "*", "map('k', 1) as tags")
    found = pl.DataFrame(pl.from_arrow(score(rows, model, keep_columns=False).toArrow()))
    assert same_rows(found, expected(model).select(pl.exclude(FLOWS.columns)))


def test_a_table_without_rows_has_verdicts_without_rows(spark: Any, model: Path) -> None:
    from deepidea.adapters.spark import score

    found = score(spark.createDataFrame(FLOWS.to_arrow()).where("false"), model)
    assert found.columns == expected(model).columns
    assert found.count() == 0


def test_tasks_run_polars_on_one_thread_since_each_core_has_its_own(spark: Any) -> None:
    from deepidea.adapters.spark import no_pandas_warning

    def sizes(batches: Any) -> Any:
        import polars
        import pyarrow as pa

        yield from (pa.RecordBatch.from_pydict({"n": [polars.thread_pool_size()]}) for _ in batches)

    with no_pandas_warning():
        found = spark.range(0, 2, 1, 2).mapInArrow(sizes, "n bigint").collect()
    assert [row.n for row in found] == [1, 1]


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_files_of_each_kind_are_scored_as_on_one_machine(spark: Any, model: Path, tmp_path: Path, kind: str) -> None:
    from deepidea.adapters.spark_files import score_files

    write(kind, tmp_path / "flows")
    done = score_files(spark, Detector.load(model), [str(tmp_path / "flows")], str(tmp_path / "out"))
    verdicts = expected(model).select(pl.exclude(FLOWS.columns))
    assert done.n_flows == FLOWS.height
    assert same_rows(read_back(tmp_path / "out").select(verdicts.columns), verdicts)


def test_a_table_of_the_catalogue_is_an_input(spark: Any, model: Path, tmp_path: Path) -> None:
    from deepidea.adapters.spark_files import score_files

    spark.createDataFrame(FLOWS.head(50).to_arrow()).createOrReplaceTempView("flows_here")
    assert score_files(spark, Detector.load(model), ["table:flows_here"], str(tmp_path / "out.csv")).n_flows == 50
    assert sum(pl.read_csv(path).height for path in (tmp_path / "out.csv").glob("*.csv")) == 50
    with pytest.raises(SourceError, match="TABLE_OR_VIEW_NOT_FOUND"):
        score_files(spark, Detector.load(model), ["table:none_such"], str(tmp_path / "out"))


def test_inputs_and_outputs_that_cannot_be_used_are_refused(spark: Any, model: Path, tmp_path: Path) -> None:
    from deepidea.adapters.spark_files import score_files

    write("csv", tmp_path / "flows")
    (tmp_path / "empty.csv").touch()
    FLOWS.head(3).write_parquet(tmp_path / "a.parquet")
    here, detector = str(tmp_path / "flows"), Detector.load(model)
    for inputs, output, error, match in (
        ([here], here, StorageError, "already exists"),
        ([f"{tmp_path}/none/*.csv"], "out", DataError, "no file matches"),
        ([here, f"{tmp_path}/a.parquet"], "out", DataError, "differ in format"),
        ([f"{tmp_path}/empty.csv"], "out", FileFormatError, "has no CSV header"),
        ([sys.executable], "out", FileFormatError, "unknown format"),
    ):
        with pytest.raises(error, match=match):
            score_files(spark, detector, inputs, str(tmp_path / output))


@pytest.mark.data
def test_official_files_with_their_odd_names_and_cells_are_read(spark: Any, data_root: Path, tmp_path: Path) -> None:
    from deepidea.adapters.spark_files import read_flows
    from deepidea.flows.schema import get_schema
    from deepidea.flows.tables import read_table

    path = data_root / "cicids17" / "MachineLearningCVE" / "Tuesday-WorkingHours.pcap_ISCX.csv"
    rows, schema = read_flows(spark, [str(path)]), get_schema("cicflow")
    here = read_table(path)
    assert rows.columns == here.columns
    found = schema.conform(pl.DataFrame(pl.from_arrow(rows.limit(2000).toArrow())))
    assert found.equals(schema.conform(here.head(2000)).cast(dict(found.schema)))


# --- files that arrive ------------------------------------------------------------------------------------------------


def arrive(folder: Path, name: str, part: pl.DataFrame) -> None:
    part.write_parquet(folder / f"_{name}")
    (folder / f"_{name}").rename(folder / name)


def test_files_that_arrive_late_and_out_of_order_are_scored_once(spark: Any, model: Path, tmp_path: Path) -> None:
    from deepidea.adapters.spark_files import score_new_files

    (tmp_path / "in").mkdir()
    places = [str(tmp_path / "out"), str(tmp_path / "checkpoint")]
    arrive(tmp_path / "in", "9.parquet", FLOWS.slice(0, 1000))
    detector = Detector.load(model)
    counts = [score_new_files(spark, detector, [str(tmp_path / "in")], *places, follow=False).n_flows]
    arrive(tmp_path / "in", "1.parquet", FLOWS.slice(1000, 3000))
    os.utime(tmp_path / "in" / "1.parquet", (0, 0))  # as old as a file can be
    counts.append(score_new_files(spark, detector, [str(tmp_path / "in")], *places, follow=False).n_flows)
    counts.append(score_new_files(spark, detector, [str(tmp_path / "in")], *places, follow=False).n_flows)
    assert counts == [1000, 3000, 0]
    assert same_rows(read_back(tmp_path / "out"), expected(model))


def test_an_output_without_its_checkpoint_is_refused(spark: Any, model: Path, tmp_path: Path) -> None:
    from deepidea.adapters.spark_files import score_new_files

    write("parquet", tmp_path / "flows")
    here, out, detector = [str(tmp_path / "flows")], str(tmp_path / "out"), Detector.load(model)
    score_new_files(spark, detector, here, out, str(tmp_path / "checkpoint"), follow=False)
    with pytest.raises(StorageError, match="would be scored again"):
        score_new_files(spark, detector, here, out, str(tmp_path / "another"), follow=False)
    with pytest.raises(DataError, match="give --checkpoint"):
        score_new_files(spark, detector, here, out, None)


def start(model: Path, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    places = [str(folder / "in"), "-o", str(folder / "out"), "--checkpoint", str(folder / "checkpoint")]
    command = [sys.executable, "-m", "deepidea.cli.app", "score", str(model), *places, "--engine", "spark", *more]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **ON_LOOPBACK}
    )


@pytest.mark.slow
def test_a_kill_at_any_moment_changes_no_verdict(java: None, model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    parts = iter(enumerate(FLOWS.iter_slices(200)))
    for wait_s in (random.Random(5).uniform(0, 1.5) for _ in range(3)):
        for j, part in itertools.islice(parts, 5):  # so that each run has a batch
            arrive(tmp_path / "in", f"{j}.parquet", part)
        before = records(tmp_path)
        running = start(model, tmp_path, "--follow", "--master", "local[1]")
        eventually(lambda n=before: records(tmp_path) > n, 120)
        time.sleep(wait_s)
        running.kill()
        running.communicate()
    for j, part in parts:
        arrive(tmp_path / "in", f"{j}.parquet", part)
    last = start(model, tmp_path, "--master", "local[1]")
    _, err = last.communicate(timeout=120)
    assert last.returncode == 0, err.decode()
    assert same_rows(read_back(tmp_path / "out"), expected(model))


def records(folder: Path) -> int:
    """Return how many files a checkpoint has."""
    return sum(1 for _ in (folder / "checkpoint").rglob("*"))


# --- a cluster --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_cluster_gives_the_same_verdicts_and_names_what_is_wrong(
    model: Path, cluster: Cluster, tmp_path: Path, own_session: None, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    write("csv", tmp_path / "flows")
    on = (tmp_path / "flows", "--engine", "spark", "--master", cluster.master)
    ran = command("score", model, *on, "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    verdicts = expected(model).select(pl.exclude(FLOWS.columns))
    assert same_rows(read_back(tmp_path / "out").select(verdicts.columns), verdicts)
    monkeypatch.setenv("PYSPARK_PYTHON", "/usr/bin/python3")
    code, _, err = command("score", model, *on, "-o", tmp_path / "none")
    assert (code, "deepidea is not installed for the Python of an executor" in err) == (5, True), err
    assert "Traceback" not in err.rpartition("error: ")[2]


def test_a_session_on_another_master_is_not_taken_for_the_one_asked_for(spark: Any) -> None:
    from deepidea.adapters.spark import open_session

    assert open_session("local[2]") is spark
    with pytest.raises(SourceError, match=r"session on local\[1\]: this process has one on local\[2\]"):
        open_session("local[1]")


def test_what_is_missing_is_reported_at_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    need_spark()
    FLOWS.head(3).write_parquet(tmp_path / "a.parquet")
    asked = ("score", model, tmp_path / "a.parquet", "-o", tmp_path / "out", "--engine", "spark", "--master")
    ran = command(*asked, "spark://127.0.0.1:1")
    assert (ran.code, "no Spark master answers at spark://127.0.0.1:1" in ran.err) == (5, True)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    ran = command(*asked, "local[1]")
    assert (ran.code, "Spark needs Java 17 or newer" in ran.err) == (6, True)
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    from deepidea.adapters.spark import open_session

    with pytest.raises(MissingExtraError, match=r"pip install 'deepidea\[spark\]'"):
        open_session()
