"""Reading flow tables of any size: CSV, CSV in gzip, Parquet, folders, globs and the standard input.

Tables are read in pieces of a bounded size, in their order. What a file is, its first bytes say, not its name.

NOTE: polars ends the whole process when a Parquet file lies about a size it then cannot allocate; no handler in
Python sees that. Whoever takes Parquet from strangers reads it in a process of its own.

Parquet is read in slices of rows rather than by the engine's own batches: those run ahead of whoever takes them, by
several row groups, and a gigabyte of a wide table is soon in memory. CSV is cut into blocks of lines here
(`deepidea.flows.lines`) and each is parsed by itself, as numbers at once; only where that fails is the block read
as text, to find the cell.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import gzip
import io
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.exceptions import DuplicateError, PanicException, PolarsError

from deepidea.errors import CellError, DataError, FileFormatError, SchemaError, StorageError
from deepidea.flows.lines import Block, CsvLines
from deepidea.flows.schema import Schema
from deepidea.flows.skipping import OnError, SkipCount, shown, skip_or_raise

__all__ = [
    "FlowChunk",
    "check_inputs",
    "column_names",
    "conform_rows",
    "expand_inputs",
    "iter_chunks",
    "iter_flows",
    "name_inputs",
    "read_table",
    "check_same_columns",
]

CHUNK_ROWS = 65_536
SLICE_BYTES = 64 << 20  # of a Parquet file, unpacked, at a time
INFERRED_ROWS = 10_000
STDIN = "-"

_SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")
_FOREIGN = {
    b"PK\x03\x04": "a zip archive (or a workbook)",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"\xfd7zXZ": "packed with xz",
    b"BZh": "packed with bzip2",
    b"\xd4\xc3\xb2\xa1": "a packet capture",
    b"\xa1\xb2\xc3\xd4": "a packet capture",
    b"\x0a\x0d\x0d\x0a": "a packet capture",
}


def expand_inputs(inputs: Sequence[str | Path]) -> list[Path]:
    """Return the files that paths, globs and folders stand for, each once, in order.

    Parameters
    ----------
    inputs
        A folder stands for the CSV and Parquet files in it and below, sorted by path; names that begin with ``.`` or
        ``_`` are passed over. A glob stands for its matches, sorted. ``-``, the standard input, stays as it is.

    Raises
    ------
    DataError
        An input stands for no file.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("b.csv", "a.csv", "notes.txt"):
    ...     _ = (folder / name).write_text("x")
    >>> [path.name for path in expand_inputs([folder])]
    ['a.csv', 'b.csv']
    """
    if not inputs:
        raise DataError("a table must come from somewhere, however: no input was named; name files, folders or -")
    return list(dict.fromkeys(path for given in inputs for path in _expand(given)))


def _expand(given: str | Path) -> list[Path]:
    path = Path(given)
    if str(given) == STDIN or (path.exists() and not path.is_dir()):
        return [path]
    if path.is_dir():
        found = sorted(
            inner for inner in path.rglob("*") if _is_table_name(inner.relative_to(path)) and inner.is_file()
        )
        return found or _nothing(f"{path} has no file that ends in {', '.join(_SUFFIXES)}")
    matches = sorted(Path(match) for match in glob.glob(str(given), recursive=True))
    return [match for match in matches if match.is_file()] or _nothing(f"{given} is not there")


def _is_table_name(path: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return not hidden and path.name.lower().endswith(_SUFFIXES)


def _nothing(fact: str) -> list[Path]:
    raise DataError(f"an input must stand for at least one file, however: {fact}; check the path")


def name_inputs(paths: Sequence[Path]) -> str:
    """Return what messages call files that are one table.

    Examples
    --------
    >>> name_inputs([Path("day/a.csv"), Path("day/b.csv"), Path("day/c.csv")])
    'a.csv and 2 more'
    """
    return paths[0].name if len(paths) == 1 else f"{paths[0].name} and {len(paths) - 1} more"


def check_same_columns(paths: Sequence[Path], columns: Sequence[Sequence[str]]) -> None:
    """Refuse files of different columns, in whatever order those are.

    Raises
    ------
    SchemaError
        A file lacks a column of the first one, or has one more.
    """
    for path, names in zip(paths, columns, strict=True):
        uneven = sorted(set(names) ^ set(columns[0]))
        if uneven:
            raise SchemaError(
                f"files of one table must have the same columns, however: {path} and {paths[0]} differ in "
                f"{', '.join(uneven[:8])}; name files of one kind"
            )


@dataclass(frozen=True, slots=True)
class FlowChunk:
    """Flows that follow each other in one file.

    Attributes
    ----------
    flows
        Table in the schema's columns; see `iter_flows`.
    original
        The same rows with every column of the file under its own name, or None where it was not asked for. Cells of a
        CSV file are text, as they stand there; those of Parquet keep their types.
    source
        Name of the file.
    unit
        What `positions` counts: lines of a CSV file (its header is line 1), or rows of a Parquet file, from 1.
    positions
        Where each flow stands in the file, int64 (n_flows,).

    Examples
    --------
    >>> chunk = FlowChunk(pl.DataFrame({"x": [1]}), None, "conn.csv", "line", np.array([812]))
    >>> chunk.where(0)
    'conn.csv line 812'
    """

    flows: pl.DataFrame
    original: pl.DataFrame | None
    source: str
    unit: Literal["line", "row"]
    positions: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.positions)

    def where(self, row: int) -> str:
        """Return where a flow of the chunk comes from, for people."""
        return f"{self.source} {self.unit} {self.positions[row]}"

    def slices(self, rows: int) -> Iterator[FlowChunk]:
        """Yield chunks of at most so many rows; they share this one's memory."""
        for start in range(0, len(self), rows):
            original = None if self.original is None else self.original.slice(start, rows)
            positions = self.positions[start : start + rows]
            yield FlowChunk(self.flows.slice(start, rows), original, self.source, self.unit, positions)


def iter_flows(
    inputs: Sequence[str | Path],
    schema: Schema,
    *,
    chunk_rows: int = CHUNK_ROWS,
    on_error: OnError = "raise",
    skipped: SkipCount | None = None,
    header: Sequence[str] | None = None,
) -> Iterator[pl.DataFrame]:
    r"""Yield the flows of files in chunks, in order, in the schema's columns.

    Numbers are ``Float64``, categories ``String``, ports that are no features ``Int64`` (null where they are none),
    so that chunks of different files go together; identity columns that a file has are kept, as text from CSV and
    in their own types from Parquet. Columns that the schema does not know go. Memory is bounded by the size of a
    chunk and of a row group, not by that of the files.

    Parameters
    ----------
    inputs
        Files, folders, globs or ``-``: see `expand_inputs`.
    schema
        Schema that every file must have.
    chunk_rows
        Most rows of a chunk. Where a chunk ends has no influence on any cell.
    on_error
        ``raise`` ends at the first row that breaks a rule; ``skip`` leaves such rows out and counts them.
    skipped
        Where they are counted; ``skip`` demands one, so that nothing goes unseen.
    header
        Column names of CSV files that have no header line.

    Raises
    ------
    FileFormatError
        A file is empty, damaged, cut off or neither CSV nor Parquet.
    SchemaError
        A file lacks columns; every file is looked at before the first chunk.
    CellError
        A row breaks a rule and `on_error` is ``raise``: file, line and column are named.
    StorageError
        The standard input does not fit on the disk, where it is kept while it is read.

    Examples
    --------
    >>> import tempfile
    >>> from deepidea.flows.column import Column
    >>> schema = Schema("tiny", (Column("fwd_packets", "number"), Column("protocol", "category")))
    >>> path = Path(tempfile.mkdtemp()) / "flows.csv"
    >>> _ = path.write_text("Fwd Packets,protocol\n3,tcp\nmany,udp\n,icmp\n")
    >>> skipped = SkipCount()
    >>> [chunk.rows() for chunk in iter_flows([path], schema, on_error="skip", skipped=skipped)]
    [[(3.0, 'tcp'), (None, 'icmp')]]
    >>> print(skipped)
    1 row skipped: 1 x fwd_packets is not a number
    """
    chunks = iter_chunks(
        inputs, schema, chunk_rows=chunk_rows, on_error=on_error, skipped=skipped, header=header, keep_original=False
    )
    return (chunk.flows for chunk in chunks)


def iter_chunks(
    inputs: Sequence[str | Path],
    schema: Schema,
    *,
    chunk_rows: int = CHUNK_ROWS,
    on_error: OnError = "raise",
    skipped: SkipCount | None = None,
    header: Sequence[str] | None = None,
    keep_original: bool | Collection[str] = True,
    rows: range | None = None,
) -> Iterator[FlowChunk]:
    r"""Yield what `iter_flows` does, with the place of every flow and, if wanted, the original columns beside.

    Parameters
    ----------
    inputs, schema, chunk_rows, on_error, skipped, header
        As for `iter_flows`.
    keep_original
        Whether chunks carry every column of the file, or the names of those that they carry. CSV takes about twice
        the time where they carry all: it is parsed twice.
    rows
        Rows to read, from 0, where the input is one Parquet file; all where absent. Whoever shares a file among
        processes begins each share with a row group, or its first group is unpacked for nothing.

    Raises
    ------
    FileFormatError, SchemaError, CellError, StorageError
        As `iter_flows`.
    DataError
        `rows` are not of one Parquet file.

    Examples
    --------
    >>> import tempfile
    >>> from deepidea.flows.column import Column
    >>> path = Path(tempfile.mkdtemp()) / "flows.csv"
    >>> _ = path.write_text("note,fwd packets\nfirst,3\n")
    >>> [chunk] = iter_chunks([path], Schema("tiny", (Column("fwd_packets", "number"),)))
    >>> chunk.flows.rows(), chunk.original.rows()
    ([(3.0,)], [('first', '3')])
    """
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1, however: chunk_rows={chunk_rows}")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', however: on_error={on_error!r}")
    if on_error == "skip" and skipped is None:
        raise ValueError("on_error='skip' must come with skipped=SkipCount(), so that no row goes unseen")
    reading = _Reading(schema, skipped if on_error == "skip" else None, keep_original, rows)
    return _iter_files(expand_inputs(inputs), reading, chunk_rows, header)


def check_inputs(inputs: Sequence[str | Path], schema: Schema, *, header: Sequence[str] | None = None) -> None:
    r"""Look at files as `iter_chunks` does before it reads the first one.

    Parameters
    ----------
    inputs, schema, header
        As for `iter_flows`.

    Raises
    ------
    FileFormatError
        A file is empty, damaged at its ends or neither CSV nor Parquet.
    SchemaError
        A file lacks columns.

    Examples
    --------
    >>> import tempfile
    >>> from deepidea.flows.column import Column
    >>> path = Path(tempfile.mkdtemp()) / "flows.csv"
    >>> _ = path.write_text("fwd packets\n3\n")
    >>> check_inputs([path], Schema("tiny", (Column("fwd_packets", "number"),)))
    """
    with contextlib.ExitStack() as opened:
        for path in expand_inputs(inputs):
            _open_table(*opened.enter_context(_on_disk(path)), header).check(schema)


def conform_rows(
    table: pl.DataFrame, schema: Schema, *, source: str, first_row: int = 1, skipped: SkipCount | None = None
) -> FlowChunk:
    """Return what `iter_chunks` makes of rows that were read elsewhere.

    Parameters
    ----------
    table
        Rows under any names that the schema knows.
    schema
        Schema that they must have.
    source, first_row
        What messages call the place of the rows, and the number of the first one there.
    skipped
        Where rows that break a rule are counted; absent, the first one raises.

    Raises
    ------
    SchemaError
        A column is missing.
    CellError
        A row breaks a rule and nothing counts it.

    Examples
    --------
    >>> from deepidea.flows.column import Column
    >>> skipped = SkipCount()
    >>> schema = Schema("tiny", (Column("fwd_packets", "number"),))
    >>> rows = pl.DataFrame({"Fwd Packets": ["3", "many"]})
    >>> conform_rows(rows, schema, source="part 7", skipped=skipped).flows.rows(), skipped.total
    ([(3.0,)], 1)
    """
    positions = np.arange(first_row, first_row + table.height)
    return _conformed(table, source, "row", positions, _Reading(schema, skipped, keep_original=False))


def read_table(path: str | Path, *, header: Sequence[str] | None = None) -> pl.DataFrame:
    r"""Return a whole table: CSV, CSV in gzip, Parquet, or ``-``, the standard input.

    Names are the file's own; the second column of one name is ``<name>_duplicated_0``. The types of CSV columns are
    inferred from all their cells; a column of numbers stays one with ``Infinity``, ``NaN`` and empty cells in it.

    Parameters
    ----------
    path
        The file.
    header
        Column names of a CSV file that has no header line.

    Raises
    ------
    FileFormatError
        The file is empty, damaged, cut off or neither CSV nor Parquet.
    CellError
        A line of a CSV file has more or fewer cells than the header; file and line are named.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "flows.csv"
    >>> _ = path.write_text("rate,label\nInfinity,DoS\n1.5,BENIGN\n")
    >>> read_table(path).dtypes
    [Float64, String]
    """
    with _on_disk(Path(path)) as (file, name):
        return _open_table(file, name, header).whole()


def column_names(path: str | Path) -> list[str]:
    r"""Return the names of a table's columns, as the file has them.

    Raises
    ------
    FileFormatError
        As for `read_table`.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "flows.csv"
    >>> _ = path.write_text("rate,label\n1.5,BENIGN\n")
    >>> column_names(path)
    ['rate', 'label']
    """
    return _open_table(Path(path), str(path), None).names()


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one run of reading keeps to; `skipped` is None where a bad row ends it."""

    schema: Schema
    skipped: SkipCount | None
    keep_original: bool | Collection[str]
    rows: range | None = None  # of the only file, where not all are read

    def wanted(self, columns: Sequence[str]) -> list[str]:
        """Return the columns of a file that have to be read."""
        known = set(self.known(columns))
        return [name for name in columns if name in known or self.keeps(name)]

    def keeps(self, column: str) -> bool:
        """Whether chunks carry a column of a file as it is."""
        return self.keep_original if isinstance(self.keep_original, bool) else column in self.keep_original

    def original(self, table: pl.DataFrame) -> pl.DataFrame | None:
        """Return the columns that chunks carry as they are; None where that was not asked for."""
        return table.select([*filter(self.keeps, table.columns)]) if self.keep_original else None

    def known(self, columns: Sequence[str]) -> list[str]:
        """Return the columns of a file that the schema knows."""
        return list(self.schema.canonical_names(columns))


class _Table(Protocol):
    """A file that holds a table."""

    def names(self) -> list[str]:
        """Return the names of the columns."""

    def check(self, schema: Schema) -> None:
        """Raise unless the columns are there."""

    def chunks(self, reading: _Reading) -> Iterator[FlowChunk]:
        """Yield the flows in order, as many at a time as fit."""

    def whole(self) -> pl.DataFrame:
        """Return all rows and columns."""


def _iter_files(
    paths: Sequence[Path], reading: _Reading, chunk_rows: int, header: Sequence[str] | None
) -> Iterator[FlowChunk]:
    with contextlib.ExitStack() as opened:
        tables = [_open_table(*opened.enter_context(_on_disk(path)), header) for path in paths]
        for table in tables:
            table.check(reading.schema)
        if reading.rows is not None and [type(table) for table in tables] != [_ParquetTable]:
            raise DataError(
                f"rows to read must be of one Parquet file, however: {', '.join(map(str, paths))} is not one; "
                "name one, or read all rows"
            )
        for table in tables:
            for chunk in table.chunks(reading):
                yield from chunk.slices(chunk_rows)
                del chunk  # or it would live until the next one has been read


@contextlib.contextmanager
def _on_disk(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield a file that can be opened again and its name in messages; the standard input is copied to one."""
    if str(path) != STDIN:
        yield path, str(path)
        return
    with tempfile.TemporaryDirectory(prefix="deepidea-") as folder:
        copy = Path(folder) / "standard-input"
        try:
            with copy.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        except OSError as error:
            raise StorageError(
                f"the standard input must fit on the disk, however: {folder}: {error.strerror or error}; "
                "set TMPDIR to a folder with more room, or name a file"
            ) from error
        yield copy, "standard input"


def _open_table(path: Path, name: str, header: Sequence[str] | None) -> _Table:
    """Return the reader of what the file's first bytes say that it is."""
    magic = _first_bytes(path, name)
    if magic.startswith(b"PAR1"):
        return _ParquetTable(path, name)
    if path.name.lower().endswith((".parquet", ".pq")):
        raise FileFormatError(f"a Parquet file must begin with PAR1, however: {name} begins with {magic[:4]!r}")
    packed = magic.startswith(b"\x1f\x8b")
    if path.name.lower().endswith(".gz") and not packed:
        raise FileFormatError(f"a gzip file must begin with 1f 8b, however: {name} begins with {magic[:4]!r}")
    for mark, kind in _FOREIGN.items():
        if magic.startswith(mark):
            raise FileFormatError(f"a table must be CSV, CSV in gzip or Parquet, however: {name} is {kind}")
    return _CsvTable(path, name, packed, header)


def _first_bytes(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise DataError(f"an input must be readable, however: {name}: {error.strerror or error}") from error
    if not magic:
        raise FileFormatError(f"a table must have at least a header, however: {name} is empty")
    return magic


class _CsvTable:
    """A CSV file, plain or in gzip."""

    def __init__(self, path: Path, name: str, packed: bool, header: Sequence[str] | None) -> None:
        self._path = path
        self._name = name
        self._packed = packed
        self._header = header

    @contextlib.contextmanager
    def _lines(self) -> Iterator[CsvLines]:
        with self._path.open("rb") as file:
            if not self._packed:
                yield CsvLines(file, self._name, self._header)
                return
            with gzip.open(file) as stream:
                yield CsvLines(cast("IO[bytes]", stream), self._name, self._header)

    def names(self) -> list[str]:
        with self._lines() as lines:
            return list(lines.columns)

    def check(self, schema: Schema) -> None:
        with self._lines() as lines:
            try:
                _check_columns(pl.Schema(dict.fromkeys(lines.columns, pl.String())), schema, self._name)
            except SchemaError as error:
                if lines.looks_headless:
                    raise FileFormatError(
                        f"a CSV file must begin with a header line, however: the first line of {self._name} is "
                        f"mostly numbers ({shown(','.join(lines.columns))}); put the column names above it"
                    ) from error
                raise

    def chunks(self, reading: _Reading) -> Iterator[FlowChunk]:
        with self._lines() as lines:
            wanted = reading.wanted(lines.columns)
            for block in lines.blocks(reading.skipped):
                if len(block.lines):
                    yield self._chunk(block, lines, wanted, reading)

    def _chunk(self, block: Block, lines: CsvLines, wanted: Sequence[str], reading: _Reading) -> FlowChunk:
        with contextlib.suppress(PolarsError, CellError):  # the reading as text below finds the cell
            types = _typed_columns(lines, reading.schema)
            flows = reading.schema.conform(_parse(block, lines, reading.known(lines.columns), types))
            original = reading.original(_parse(block, lines, [*filter(reading.keeps, wanted)], {}))
            return FlowChunk(_settled(flows, reading.schema), original, self._name, "line", block.lines)
        with _engine_errors(self._name):
            text = _parse(block, lines, wanted, {})
        return _conformed(text, self._name, "line", block.lines, reading)

    def whole(self) -> pl.DataFrame:
        joined = io.BytesIO()
        with self._lines() as lines:
            for block in lines.blocks(None):
                joined.write(block.data)
        if not joined.tell():
            return pl.DataFrame(schema=dict.fromkeys(lines.columns, pl.String))
        with _engine_errors(self._name):
            return _numbers_from_text(_inferred(joined.getvalue(), lines))


def _inferred(data: bytes, lines: CsvLines) -> pl.DataFrame:
    """Parse rows in the types of their first thousands; in those of all, at ten times the time, where that fails."""
    read = functools.partial(pl.read_csv, data, has_header=False, new_columns=lines.columns, separator=lines.separator)
    with contextlib.suppress(PolarsError):
        return read(infer_schema_length=INFERRED_ROWS)
    return read(infer_schema_length=None)


def _typed_columns(lines: CsvLines, schema: Schema) -> dict[str, pl.DataType]:
    names = schema.canonical_names(lines.columns)
    return {raw: pl.Float64() for raw, name in names.items() if name in schema.numbers}


def _parse(block: Block, lines: CsvLines, wanted: Sequence[str], types: dict[str, pl.DataType]) -> pl.DataFrame:
    """Parse a block; columns without a type are text."""
    return pl.read_csv(
        block.data,
        has_header=False,
        schema={name: types.get(name, pl.String()) for name in lines.columns},
        columns=[lines.columns.index(name) for name in wanted],
        separator=lines.separator,
    )


def _numbers_from_text(table: pl.DataFrame) -> pl.DataFrame:
    """Make numbers of text columns that hold nothing else; polars leaves those with an ``Infinity`` as text."""
    return table.with_columns(
        number
        for column in table.iter_columns()
        if column.dtype == pl.String and (number := _as_number(column)) is not None
    )


def _as_number(text: pl.Series) -> pl.Series | None:
    if not _all_numbers(text.head(1000)) or text.null_count() == len(text) or not _all_numbers(text):
        return None
    return text.str.strip_chars().cast(pl.Float64, strict=False)


def _all_numbers(text: pl.Series) -> bool:
    stripped = text.str.strip_chars()
    empty = stripped.is_null() | (stripped == "")
    return bool((empty | stripped.cast(pl.Float64, strict=False).is_not_null()).all())


class _ParquetTable:
    """A Parquet file."""

    def __init__(self, path: Path, name: str) -> None:
        self._name = name
        with _engine_errors(name):
            self._rows = pl.scan_parquet(path, glob=False, hive_partitioning=False)
            self._schema = self._rows.collect_schema()

    def names(self) -> list[str]:
        return list(self._schema.names())

    def check(self, schema: Schema) -> None:
        _check_columns(self._schema, schema, self._name)

    def chunks(self, reading: _Reading) -> Iterator[FlowChunk]:
        wanted = self._columns(reading)
        here, at_once = self._range(reading.rows), _slice_rows(self._schema.values())
        for start in here[::at_once]:
            length = min(at_once, here.stop - start)
            with _engine_errors(self._name):
                table = self._rows.slice(start, length).select(wanted).collect()
            positions = np.arange(start + 1, start + 1 + table.height)
            yield _conformed(table, self._name, "row", positions, reading)
            del table  # or it would live until the next one has been read

    def _range(self, rows: range | None) -> range:
        """Return the rows to read: those asked for, or all."""
        with _engine_errors(self._name):
            height = self._rows.select(pl.len()).collect().item()
        if rows is not None and rows.stop > height:
            raise DataError(
                f"rows to read must be in the file, however: rows {rows.start}..{rows.stop} of {self._name}, which has "
                f"{height}; do not change a file while it is read"
            )
        return range(height) if rows is None else rows

    def _columns(self, reading: _Reading) -> list[pl.Expr]:
        """Return the columns to read; numbers are given their type on the way, which saves a copy."""
        names = reading.wanted(self._schema.names())
        canonical = reading.schema.canonical_names(names)
        numbers = {name for name in names if canonical.get(name) in reading.schema.numbers}
        return [
            pl.col(name).cast(pl.Float64)
            if name in numbers and self._schema[name].is_numeric() and not reading.keep_original
            else pl.col(name)
            for name in names
        ]

    def whole(self) -> pl.DataFrame:
        with _engine_errors(self._name):
            return self._rows.collect()


def _slice_rows(types: Iterable[pl.DataType]) -> int:
    """Return how many rows fit; a power of two, because row groups mostly are."""
    row_bytes = sum(8 if dtype.is_numeric() else 32 for dtype in types)
    return 1 << (max(SLICE_BYTES // max(row_bytes, 1), 1).bit_length() - 1)


def _check_columns(columns: pl.Schema, schema: Schema, source: str) -> None:
    try:
        schema.conform(pl.DataFrame(schema=columns))
    except (SchemaError, DuplicateError) as error:  # the latter where two columns are one identity
        raise SchemaError(f"{source}: {error}") from error


def _conformed(
    table: pl.DataFrame,
    source: str,
    unit: Literal["line", "row"],
    positions: npt.NDArray[np.int64],
    reading: _Reading,
) -> FlowChunk:
    """Return the rows that keep the schema's rules; see to those that do not."""
    try:
        flows = reading.schema.conform(table)
    except CellError:
        kept = _refuse_bad_cells(table, source, unit, positions, reading)
        table, positions = table.filter(kept), positions[kept.to_numpy()]
        flows = reading.schema.conform(table)
    return FlowChunk(_settled(flows, reading.schema), reading.original(table), source, unit, positions)


def _refuse_bad_cells(
    table: pl.DataFrame, source: str, unit: str, positions: npt.NDArray[np.int64], reading: _Reading
) -> pl.Series:
    """Refuse rows by their first bad cell; return which rows are left, Boolean (n_rows,)."""
    bad = reading.schema.bad_cells(table).unique("row", keep="first", maintain_order=True)
    for (column,), cells in bad.group_by("column", maintain_order=True):
        row, _, value = cells.row(0)
        rule = "a port (0..65535)" if reading.schema[str(column)].kind == "port" else "a number"
        skip_or_raise(
            f"{column} is not {rule}",
            cells.height,
            f"{column} must be {rule}, however: {column}={shown(str(value))} ({source} {unit} {positions[row]})",
            reading.skipped,
        )
    kept = np.ones(table.height, np.bool_)
    kept[bad["row"].to_numpy()] = False
    return pl.Series(kept)


def _settled(flows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Give columns the same type whatever file they came from."""
    kinds = {column.name: column.kind for column in schema.columns if not schema.is_feature(column)}
    ports = [name for name in flows.columns if kinds.get(name) == "port"]
    text = [name for name in flows.columns if name in kinds and flows.schema[name] == pl.String]
    numbers = [name for name in flows.columns if name in schema.numbers]
    return flows.with_columns(pl.col(text).str.strip_chars()).with_columns(
        pl.col(numbers).cast(pl.Float64), pl.col(ports).cast(pl.Int64, strict=False)
    )


@contextlib.contextmanager
def _engine_errors(source: str) -> Iterator[None]:
    """Tell what polars cannot read as an error of ours.

    A damaged file can also make polars panic: that reaches Python as `PanicException`, which is no `Exception`, so
    that it is named here.
    """
    try:
        yield
    except (PolarsError, PanicException, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise FileFormatError(
            f"a file must be whole and of its kind, however: {source} cannot be read: {first_line}; "
            "make it or fetch it again"
        ) from error
