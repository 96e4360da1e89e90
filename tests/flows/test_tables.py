"""Reading tables: the same rows from any file, in any pieces; every bad row refused or counted."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from deepidea.errors import CellError, DataError, FileFormatError, SchemaError
from deepidea.flows import lines
from deepidea.flows.column import Column
from deepidea.flows.schema import Schema, get_schema
from deepidea.flows.skipping import SkipCount
from deepidea.flows.tables import FlowChunk, check_inputs, expand_inputs, iter_chunks, iter_flows, read_table

SCHEMA = Schema(
    "tiny",
    (
        Column("src_ip", "identity"),
        Column("dst_port", "port"),
        Column("packets", "number", aliases=("Tot Pkts",)),
        Column("rate", "number"),
        Column("service", "category"),
    ),
)
PACKETS = Schema("packets", (Column("fwd_packets", "number"),))
GOOD = "src_ip,dst_port,packets,rate,service\n10.0.0.1,80,3,0.5,http\n10.0.0.2,53,1,Infinity,dns\n"


def flows_of(*inputs, **options) -> pl.DataFrame:
    return pl.concat(iter_flows(list(inputs), SCHEMA, **options))


def written(folder: Path, data: str | bytes, name: str = "flows.csv") -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


cells = st.fixed_dictionaries(
    {
        "src_ip": st.none() | st.from_regex(r"10\.0\.0\.[1-9]", fullmatch=True),
        "dst_port": st.none() | st.integers(0, 65535),
        "packets": st.none() | st.integers(-(2**53), 2**53),
        "rate": st.none() | st.floats(),
        "service": st.none()
        | st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=1).map(str.strip),
    }
)
TYPES = {"src_ip": pl.String, "dst_port": pl.Int64, "packets": pl.Int64, "rate": pl.Float64, "service": pl.String}


@settings(deadline=None)  # files on a busy machine
@given(st.lists(cells, min_size=1, max_size=30), st.integers(1, 12), st.integers(32, 200))
def test_csv_and_parquet_give_the_same_rows_in_any_pieces(tmp_path_factory, rows, chunk_rows, block_bytes):
    folder, table = tmp_path_factory.mktemp("t"), pl.DataFrame(rows, schema=TYPES)
    table = table.with_columns(
        pl.when(pl.col("service") != "").then(pl.col("service"))
    )  # CSV tells null from "" by quotes
    table.write_parquet(folder / "t.parquet", row_group_size=7)
    table.write_csv(folder / "t.csv")
    expected = table.with_columns(pl.col("packets").cast(pl.Float64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block_bytes)
        patch.setattr("deepidea.flows.tables.SLICE_BYTES", 500)
        for path in (folder / "t.parquet", folder / "t.csv"):
            chunks = list(iter_flows([path], SCHEMA, chunk_rows=chunk_rows))
            assert_frame_equal(pl.concat(chunks), expected)
            assert max(map(len, chunks)) <= chunk_rows


@settings(deadline=None)  # files on a busy machine
@given(st.lists(st.sampled_from(["10.0.0.1,80,3,0.5,http", "x,1,many,2,dns", "short", "", "a,1,2,3,4,5", 'a,1,2,3,"'])))
def test_skipping_counts_every_row_it_leaves_out_in_any_pieces(tmp_path_factory, rows):
    path = written(tmp_path_factory.mktemp("t"), "\n".join([GOOD.split("\n")[0], *rows]) + "\n")
    counts = []
    for size in (64, 1 << 20):
        skipped = SkipCount()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lines, "BLOCK_BYTES", size)
            chunks = list(iter_chunks([path], SCHEMA, on_error="skip", skipped=skipped))
        kept = [int(line) for chunk in chunks for line in chunk.positions]
        assert kept == [number for number, row in enumerate(rows, 2) if row.endswith("http")]
        assert skipped.total + len(kept) == sum(row != "" for row in rows)
        counts.append((skipped.total, skipped.reasons))
    assert counts[0] == counts[1]


DIALECTS: dict[str, Callable[[str], str]] = {
    "crlf": lambda text: text.replace("\n", "\r\n"),
    "bom": lambda text: "\ufeff" + text,
    "blank": lambda text: text.replace("\n", "\n\n"),
    "leading-blank": lambda text: "\n\n" + text,
    "no-last-newline": lambda text: text.rstrip("\n"),
    "semicolon": lambda text: text.replace(",", ";"),
    "tab": lambda text: text.replace(",", "\t"),
    "spaces": lambda text: text.replace(",", " , "),
    "quoted": lambda text: "\n".join(",".join(f'"{cell}"' for cell in row.split(",")) for row in text.split()),
    "aliases": lambda text: text.replace("src_ip", " Src_IP").replace("packets", "Tot Pkts"),
    "header-again": lambda text: text.replace("\n", "\n" + text.split("\n")[0] + "\n", 2),
    "inf": lambda text: text.replace("Infinity", " inf "),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_the_same_rows(tmp_path, dialect):
    plain, other = written(tmp_path, GOOD, "plain.csv"), written(tmp_path, DIALECTS[dialect](GOOD), "other.csv")
    assert_frame_equal(flows_of(other), flows_of(plain))
    assert read_table(other).height == 2


def test_types_do_not_depend_on_the_file(tmp_path):
    whole = flows_of(written(tmp_path, GOOD))
    assert whole.schema == pl.Schema(
        {"src_ip": pl.String, "dst_port": pl.Int64, "packets": pl.Float64, "rate": pl.Float64, "service": pl.String}
    )


def test_gzip_folders_globs_and_the_standard_input_give_the_same_rows(tmp_path, monkeypatch):
    plain = written(tmp_path, GOOD)
    packed = written(tmp_path, gzip.compress(GOOD.encode()), "packed.csv.gz")
    expected = flows_of(plain)
    assert_frame_equal(flows_of(packed), expected)
    assert_frame_equal(flows_of(tmp_path), pl.concat([expected, expected]))
    assert_frame_equal(flows_of(f"{tmp_path}/*.csv"), expected)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    expected.write_parquet(parquet := io.BytesIO())
    for data in (GOOD.encode(), parquet.getvalue(), packed.read_bytes()):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert_frame_equal(flows_of("-"), expected)
        assert not list(temporary.iterdir())


def test_inputs_come_once_and_in_order(tmp_path):
    names = ["b.csv", "a.parquet", "deep/c.CSV", ".hidden.csv", "_SUCCESS", "_part/x.csv", "readme.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = expand_inputs([tmp_path / "b.csv", tmp_path, f"{tmp_path}/*.csv", "-"])
    assert [str(path) if str(path) == "-" else path.name for path in found] == ["b.csv", "a.parquet", "c.CSV", "-"]


@pytest.mark.parametrize("inputs", [[], ["absent.csv"], ["*.absent"], ["."]])
def test_an_input_that_stands_for_nothing_is_refused(tmp_path, monkeypatch, inputs):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"name files|check the path"):
        iter_flows(inputs, SCHEMA)


def test_only_a_header_yields_nothing(tmp_path):
    path = written(tmp_path, GOOD.split("\n")[0])
    assert list(iter_flows([path], SCHEMA)) == []
    assert read_table(path).shape == (0, 5)


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"\xef\xbb\xbf", b"\xff\xfea\x00,\x00b\x00\n\x00", b"PK\x03\x04zip", b"a,b\rc"]
)
@pytest.mark.parametrize("read", [flows_of, read_table])
def test_what_is_no_table_is_a_format_error_that_names_the_file(tmp_path, data, read):
    with pytest.raises(FileFormatError, match=r"odd\.csv"):
        read(written(tmp_path, data, "odd.csv"))


@given(st.lists(st.integers(0, 60), max_size=6))
def test_ranges_of_a_parquet_file_are_its_rows_with_their_places(tmp_path_factory, cuts):
    path = tmp_path_factory.mktemp("ranges") / "t.parquet"
    table = pl.DataFrame({"fwd_packets": range(60), "note": [str(j) for j in range(60)]})
    table.write_parquet(path, row_group_size=13)
    edges = [0, *sorted(cuts), 60]
    ranges = [range(start, end) for start, end in itertools.pairwise(edges)]
    found = [chunk for rows in ranges for chunk in iter_chunks([path], PACKETS, rows=rows, chunk_rows=9)]
    assert pl.concat([chunk.original for chunk in found]).equals(table)
    assert [int(row) for chunk in found for row in chunk.positions] == list(range(1, 61))


def test_a_range_is_of_one_parquet_file_and_inside_it(tmp_path):
    pl.DataFrame({"fwd_packets": [1, 2]}).write_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("fwd packets\n1\n2\n")
    for inputs in ([tmp_path / "t.csv"], [tmp_path]):
        with pytest.raises(DataError, match=r"t\.csv.*: it is not one Parquet file"):
            list(iter_chunks(inputs, PACKETS, rows=range(1)))
    with pytest.raises(DataError, match=r"rows 1\.\.3 of .*, which has 2"):
        list(iter_chunks([tmp_path / "t.parquet"], PACKETS, rows=range(1, 3)))


def test_inputs_are_checked_without_being_read(tmp_path):
    pl.DataFrame({"fwd_packets": ["many"]}).write_parquet(tmp_path / "a.parquet")
    check_inputs([tmp_path], PACKETS)
    pl.DataFrame({"other": [1]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(SchemaError, match=r"b\.parquet"):
        check_inputs([tmp_path], PACKETS)


def test_missing_columns_are_reported_before_any_chunk(tmp_path):
    good, poor = written(tmp_path, GOOD), written(tmp_path, GOOD.replace("rate", "pace"), "poor.csv")
    with pytest.raises(SchemaError, match=r"poor\.csv.*rate"):
        next(iter_flows([good, poor], SCHEMA))


def test_two_columns_of_one_name_are_a_schema_error(tmp_path):
    for again in ("packets", "Src IP"):
        path = written(tmp_path, GOOD.replace("\n", f",{again}\n", 1).replace("http", "http,1").replace("dns", "dns,1"))
        with pytest.raises(SchemaError, match=r"flows\.csv"):
            flows_of(path)


def test_a_file_without_header_is_reported_and_can_be_read(tmp_path):
    header, data = GOOD.split("\n", 1)
    bare = written(tmp_path, data.replace("10.0.0.", ""))
    with pytest.raises(FileFormatError, match="mostly numbers"):
        next(iter_flows([bare], SCHEMA))
    assert flows_of(bare, header=header.split(",")).height == 2
    assert read_table(bare, header=header.split(",")).columns == header.split(",")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,1,many,2,dns", r"flows\.csv, line 4: packets 'many' is not a number"),
        ("x,1,\x1b[2J" + 90 * "a" + ",2,dns", r"packets '\\x1b\[2Ja{56}'\.\.\. is not"),
        ("x,1,2", r"flows\.csv, line 4: 3 cells instead of 5 in 'x,1,2'"),
        ("x,1,2,3,4,5", r"6 cells in"),
        ('x,1,2,3,"open', r"a quote that neither begins nor ends a cell"),
        ('x,1,2,3,a"b', r"a quote that neither begins nor ends a cell"),
    ],
)
def test_a_bad_row_is_reported_with_file_line_and_value(tmp_path, row, message):
    path = written(tmp_path, GOOD + row + "\n")
    with pytest.raises(CellError, match=message):
        flows_of(path)
    skipped = SkipCount()
    assert flows_of(path, on_error="skip", skipped=skipped).height == 2
    assert skipped.total == 1
    assert len(skipped.examples) == 1


def test_a_bad_cell_of_parquet_is_reported_with_its_row(tmp_path):
    table = pl.read_csv(GOOD.encode(), schema_overrides={"packets": pl.String}).with_columns(
        packets=pl.Series(["3", "x"])
    )
    table.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(CellError, match=r"t\.parquet, row 2: packets 'x' is not"):
        flows_of(tmp_path / "t.parquet")
    skipped = SkipCount()
    assert flows_of(tmp_path / "t.parquet", on_error="skip", skipped=skipped)["packets"].to_list() == [3.0]
    assert skipped.reasons == {"packets is not a number": 1}


def test_a_port_counts_only_where_it_is_a_feature(tmp_path):
    path = written(tmp_path, GOOD + "x,70000,1,1,dns\ny,none,1,1,dns\n")
    assert flows_of(path)["dst_port"].to_list() == [80, 53, 70000, None]
    with pytest.raises(CellError, match="dst_port"):
        next(iter_flows([path], SCHEMA.with_port()))


def test_skipping_demands_a_count_and_options_are_checked(tmp_path):
    path = written(tmp_path, GOOD)
    for options in ({"on_error": "skip"}, {"on_error": "ignore"}, {"chunk_rows": 0}):
        with pytest.raises(ValueError, match=r"chunk_rows|on_error"):
            iter_flows([path], SCHEMA, **options)


def test_the_original_stands_beside_the_flows_as_it_is_in_the_file(tmp_path):
    path = written(tmp_path, "note,Tot Pkts,rate,service,rate\n007, 3,1.50,é,x\nbad,many,1,b,y\n-,4,,c,z\n")
    skipped = SkipCount()
    [chunk] = iter_chunks([path], Schema("s", SCHEMA.columns[2:3]), on_error="skip", skipped=skipped)
    assert chunk.original is not None
    assert chunk.original.columns == ["note", "Tot Pkts", "rate", "service", "rate_duplicated_0"]
    assert chunk.original.rows() == [("007", " 3", "1.50", "é", "x"), ("-", "4", None, "c", "z")]
    assert chunk.flows["packets"].to_list() == [3.0, 4.0]
    assert [chunk.where(row).removeprefix(str(tmp_path)) for row in range(2)] == [
        "/flows.csv line 2",
        "/flows.csv line 4",
    ]


@settings(deadline=None)  # files on a busy machine
@given(st.integers(1, 7))
def test_slices_of_a_chunk_keep_everything_in_step(rows):
    table = pl.DataFrame({"x": range(10)})
    chunk = FlowChunk(table, table, "f", "row", np.arange(1, 11))
    parts = list(chunk.slices(rows))
    assert [part.where(0) for part in parts] == [f"f row {n}" for n in range(1, 11, rows)]
    assert pl.concat(part.flows for part in parts).equals(table)


def test_bytes_that_are_not_utf8_are_read_as_windows_1252(tmp_path):
    path = written(tmp_path, GOOD.encode() + b"x,1,1,1,Web \x96 \xe9\x81\nx,1,1,1,\xe2\x80\x93\n")
    assert flows_of(path)["service"].to_list()[2:] == ["Web – é\x81", "–"]


def test_a_whole_table_has_the_types_of_all_its_cells(tmp_path):
    path = written(tmp_path, "a,b,c,d,a\n1,Infinity,x,,1\n 2,1.5,y,,2\n,NaN,3,,z\n")
    table = read_table(path)
    assert table.columns == ["a", "b", "c", "d", "a_duplicated_0"]
    assert table.dtypes == [pl.Float64, pl.Float64, pl.String, pl.String, pl.String]
    assert table["b"].to_list()[:2] == [float("inf"), 1.5]


def test_types_that_show_late_are_seen(tmp_path, monkeypatch):
    path = written(tmp_path, "a,b,c\n1,,1\n2,,2\n3.5,4,x\n")
    whole = read_table(path)
    monkeypatch.setattr("deepidea.flows.tables.INFERRED_ROWS", 2)
    assert read_table(path).equals(whole)
    assert whole.rows()[2] == (3.5, 4, "x")


@pytest.mark.parametrize("cut", [0.3, 0.99])
def test_gzip_that_is_cut_off_or_damaged_is_a_format_error(tmp_path, cut):
    packed = gzip.compress((GOOD + "10.0.0.1,80,3,0.5,http\n" * 5000).encode())
    damaged = packed[:20] + b"\x00\xff" + packed[22:]
    for data in (packed[: int(len(packed) * cut)], damaged, b"\x1f\x8b", b"\x1f\x8b" + os.urandom(50)):
        path = written(tmp_path, data, "flows.csv.gz")
        for read in (flows_of, read_table):
            with pytest.raises(DataError, match=r"flows\.csv\.gz"):
                read(path)


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.csv.gz"])
@settings(deadline=None)  # files on a busy machine
@given(junk=st.binary(max_size=200))
@example(junk=b"PAR1PAR1")
@example(junk=b"PAR1" + b"\0" * 100 + b"\x10\0\0\0PAR1")
@example(junk=b'"')
@example(junk=b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
def test_random_bytes_are_a_data_error(tmp_path_factory, name, junk):
    path = written(tmp_path_factory.mktemp("junk"), junk, name)
    for read in (flows_of, read_table):
        if read is read_table and name == "x.csv" and junk:
            continue  # any line of text is the header of a table without rows
        with pytest.raises(DataError):
            read(path)


@settings(deadline=None)  # files on a busy machine
@given(junk=st.binary(max_size=300))
@example(junk=b'"\n"\n')
@example(junk=b'x,1,2,3,"\r\n"\n')
def test_random_bytes_below_a_header_are_skipped_and_counted(tmp_path_factory, junk):
    path = written(tmp_path_factory.mktemp("junk"), GOOD.encode() + junk + b"\n" + GOOD.split("\n")[1].encode())
    skipped = SkipCount()
    kept = flows_of(path, on_error="skip", skipped=skipped)
    assert kept["src_ip"].to_list()[::2][:1] == ["10.0.0.1"]
    assert kept["src_ip"].to_list()[-1] == "10.0.0.1"
    assert kept.height - 3 + skipped.total <= junk.count(b"\n") + 1


def test_damaged_parquet_is_a_data_error_or_reads(tmp_path):
    table = pl.concat([read_table(written(tmp_path, GOOD))] * 500)
    table.write_parquet(tmp_path / "good.parquet", row_group_size=300)
    whole = (tmp_path / "good.parquet").read_bytes()
    chance = random.Random(0)
    outcomes = set()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(4, len(data) - 4)] = chance.randrange(256)
        try:
            outcomes.add(str(flows_of(written(tmp_path, bytes(data), "bad.parquet")).height))
        except DataError as error:
            outcomes.add("refused by name" if "bad.parquet" in str(error) else str(error))
    assert outcomes <= {"1000", "refused by name"}
    assert "refused by name" in outcomes


def test_a_panic_of_the_engine_is_a_format_error(tmp_path, monkeypatch):
    def panic(*_args: object, **_options: object) -> None:
        raise pl.exceptions.PanicException("index out of bounds")

    pl.read_csv(GOOD.encode()).write_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr(pl.LazyFrame, "collect", panic)
    with pytest.raises(FileFormatError, match="index out of bounds"):
        read_table(tmp_path / "t.parquet")


def test_a_line_that_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST_LINE", 1000)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 100)
    with pytest.raises(FileFormatError, match="a line is longer"):
        flows_of(written(tmp_path, GOOD + "x" * 5000))


@pytest.mark.data
def test_real_cicids_files_read_alike_in_chunks_and_whole(data_root):
    schema = get_schema("cicflow")
    for path in [
        *sorted((data_root / "cicids17/MachineLearningCVE").glob("*.csv"))[:2],
        *(data_root / "cicids18").glob("*"),
    ]:
        whole = schema.conform(read_table(path)).select(pl.col(schema.restrict([]).numbers).cast(pl.Float64))
        chunked = pl.concat(iter_flows([path], schema, chunk_rows=5000))
        assert_frame_equal(chunked.select(whole.columns), whole)


@pytest.mark.data
def test_real_kdd_files_read_with_their_column_names(data_root):
    header = [*get_schema("kdd99").features, "label"]
    table = read_table(data_root / "kdd99/corrected.gz", header=header)
    chunks = iter_flows([data_root / "kdd99/corrected.gz"], get_schema("kdd99"), header=header)
    assert table.height == sum(chunk.height for chunk in chunks) == 311_029


MEASURE = """
import re, sys
from pathlib import Path
from deepidea.flows.schema import get_schema
from deepidea.flows.tables import iter_flows
from deepidea.flows.writing import write_flows
rows = write_flows(iter_flows([sys.argv[1]], get_schema("cicflow")), sys.argv[2])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())  # ru_maxrss counts the parent's too
print(rows, int(peak[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
@pytest.mark.parametrize("row_group_rows", [65_536, 1_000_000])
def test_memory_does_not_grow_with_the_file(tmp_path, row_group_rows):
    names = [column.name for column in get_schema("cicflow").columns if column.is_number and not column.optional]
    piece = pl.DataFrame(np.random.default_rng(0).integers(0, 1000, (65_536, len(names))), schema=names, orient="row")
    wide = pl.concat([piece.lazy()] * 30)
    wide.sink_parquet(tmp_path / "wide.parquet", row_group_size=row_group_rows)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "wide.parquet"), str(tmp_path / "copy.parquet")]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    rows, mebibytes = map(int, output.split())
    assert rows == 30 * 65_536  # 1.2 GB of numbers
    assert mebibytes < 400


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_chunks_carry_the_columns_that_are_named(tmp_path, suffix):
    table = pl.DataFrame({"note": ["a", "b"], "x": [1.0, 2.0], "y": [3.0, 4.0]})
    getattr(table, f"write_{suffix}")(tmp_path / f"t.{suffix}")
    for schema in (Schema("tiny", (Column("x", "number"),)), Schema("none", ())):
        [chunk] = iter_chunks([tmp_path / f"t.{suffix}"], schema, keep_original=["note"])
        assert len(chunk) == 2
        assert chunk.flows.columns == list(schema.features)
        assert chunk.original.to_dict(as_series=False) == {"note": ["a", "b"]}
