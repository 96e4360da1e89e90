"""Writing tables: whole or not at all, in bounded memory, in every format."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from deepidea.errors import DataError, SchemaError, StorageError
from deepidea.flows.writing import write_flows

SUFFIXES = ("parquet", "csv", "jsonl", "csv.gz", "jsonl.gz")
TABLE = pl.DataFrame(
    {"row": range(50), "rate": [i / 7 for i in range(50)], "service": ["http", "dns é", None, 'a"b', ","] * 10}
)


def read_back(path: Path) -> pl.DataFrame:
    if path.name.endswith(".parquet"):
        return pl.read_parquet(path)
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if ".csv" in path.name:
        return pl.read_csv(data, schema=TABLE.schema)
    return pl.read_ndjson(data, schema=TABLE.schema)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(deadline=None)  # files on a busy machine
@given(cuts=st.lists(st.integers(0, 50), max_size=6))
def test_chunks_of_any_size_give_the_same_table(tmp_path_factory, suffix, cuts):
    path = tmp_path_factory.mktemp("out") / f"table.{suffix}"
    edges = [0, *sorted(cuts), 50]
    chunks = [TABLE[start:end] for start, end in pairwise(edges)]
    assert write_flows(chunks, path) == 50
    assert_frame_equal(read_back(path), TABLE)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_chunk_with_a_schema_gives_an_empty_file_that_reads(tmp_path, suffix):
    path = tmp_path / f"none.{suffix}"
    assert write_flows([], path, schema=TABLE.schema) == 0
    assert_frame_equal(read_back(path), TABLE.clear())


def test_no_chunk_without_a_schema_is_refused(tmp_path):
    with pytest.raises(DataError, match="without chunks"):
        write_flows([], tmp_path / "none.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), GeneratorExit()])
def test_an_error_of_the_caller_comes_through_and_leaves_the_old_file(tmp_path, suffix, error):
    path = tmp_path / f"table.{suffix}"
    path.write_text("old")

    def chunks() -> Iterator[pl.DataFrame]:
        yield TABLE
        raise error

    with pytest.raises(type(error)) as raised:
        write_flows(chunks(), path)
    assert raised.value is error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]
    assert not any(thread.name == "deepidea-parquet" for thread in threading.enumerate())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_chunks_are_drawn_in_the_thread_of_the_caller(tmp_path, suffix):
    threads = []

    def chunks() -> Iterator[pl.DataFrame]:
        for _ in range(3):
            threads.append(threading.current_thread())
            yield TABLE

    write_flows(chunks(), tmp_path / f"table.{suffix}")
    assert set(threads) == {threading.current_thread()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_size_limit_is_a_storage_error_and_the_old_file_stays(tmp_path, suffix):
    path = tmp_path / f"table.{suffix}"
    path.write_text("old")
    code = f"""
import resource, numpy, polars as pl
from deepidea.errors import StorageError
from deepidea.flows.writing import write_flows
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
table = pl.DataFrame({{"x": numpy.random.default_rng(0).random(70_000)}})
try:
    write_flows((table for _ in range(20)), {str(path)!r})
except StorageError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "File too large" in ran.stdout
    assert ran.stderr == ""
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_a_full_device_is_a_storage_error(format):
    chunks = (pl.DataFrame({"x": range(100_000)}) for _ in range(5))
    with pytest.raises(StorageError, match="No space left on device"):
        write_flows(chunks, "/dev/full", format=format)
    assert Path("/dev/full").is_char_device()


def test_a_device_is_written_to_and_stays_a_device():
    assert write_flows([TABLE], os.devnull, format="csv") == 50
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_an_interruption_leaves_the_old_file(tmp_path, format):
    path = tmp_path / f"table.{format}"
    path.write_text("old")
    code = f"""
import itertools, polars as pl
from deepidea.flows.writing import write_flows
table = pl.DataFrame({{"x": range(1000)}})
def chunks():
    print("begun", flush=True)
    yield from itertools.repeat(table)
write_flows(chunks(), {str(path)!r})
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            _, stderr = process.communicate(timeout=30)
        finally:
            process.kill()  # where signals are ignored it would write until the disk is full
    assert b"KeyboardInterrupt" in stderr
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]


def test_the_standard_output_gets_csv(capfdbinary):
    assert write_flows([TABLE[:1], TABLE[1:2]], "-") == 2
    assert capfdbinary.readouterr().out.decode() == "row,rate,service\n0,0.0,http\n1,0.14285714285714285,dns é\n"


def test_the_first_chunk_rules_the_columns(tmp_path):
    first = pl.DataFrame({"a": [1.5], "b": ["x"]})
    later = pl.DataFrame({"b": ["y"], "a": [2]})
    poorer = pl.DataFrame({"a": [3]})
    write_flows([first, later, poorer], tmp_path / "t.parquet")
    assert pl.read_parquet(tmp_path / "t.parquet").rows() == [(1.5, "x"), (2.0, "y"), (3.0, None)]


@pytest.mark.parametrize(
    ("second", "rule"),
    [
        (pl.DataFrame({"a": [1], "c": [2]}), "columns that the first one lacks"),
        (pl.DataFrame({"a": ["x"]}), "other types than the first"),
    ],
)
def test_a_chunk_that_does_not_fit_is_a_schema_error(tmp_path, second, rule):
    with pytest.raises(SchemaError, match=rule):
        write_flows([pl.DataFrame({"a": [1]}), second], tmp_path / "t.parquet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_a_format_cannot_hold_is_a_schema_error(tmp_path, suffix):
    held = pl.DataFrame({"a": [[1]]}) if suffix == "csv" else pl.DataFrame({"a": [object()]}, schema={"a": pl.Object})
    with pytest.raises(SchemaError):
        write_flows([held], tmp_path / f"t.{suffix}")
    assert not list(tmp_path.iterdir())


def test_json_lines_hold_null_for_what_json_cannot_say(tmp_path):
    write_flows([pl.DataFrame({"x": [float("inf"), float("nan"), 1.0]})], tmp_path / "t.jsonl")
    lines = (tmp_path / "t.jsonl").read_text().splitlines()
    assert [json.loads(line)["x"] for line in lines] == [None, None, 1.0]


@pytest.mark.parametrize("name", ["t.xlsx", "t", "t.parquet.gz", "t.gz"])
def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(DataError):
        write_flows([TABLE], tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        write_flows([TABLE], tmp_path / "absent" / "t.csv")
