"""Read flow tables of any size: CSV, CSV in gzip, Parquet, folders, globs and the standard input.

Tables are read in order, in pieces of a bounded size. A file's first bytes decide its format, not its name.

NOTE: polars ends the whole process when a Parquet file states a size that cannot be allocated; Python cannot catch
that. Read Parquet from strangers in a process of its own.

Parquet is read in slices of rows rather than by the engine's own batches: those run ahead by several row groups, and
of a wide table that is soon a gigabyte. CSV is cut into blocks of lines (`deepidea.flows.lines`), and each is parsed
straight to numbers; only where that fails is the block parsed as text, to find the cell.
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
from collections import Counter
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
from deepidea.flows.skipping import OnError, SkipCount, quoted, skip_or_raise

__all__ = [
    "FlowChunk",
    "ReadOptions",
    "check_inputs",
    "check_same_columns",
    "column_names",
    "conform_rows",
    "expand_inputs",
    "iter_chunks",
    "iter_flows",
    "name_inputs",
    "open_table",
    "read_table",
]

CHUNK_ROWS = 65_536
SLICE_BYTES = 64 << 20  # of a Parquet file, unpacked, at a time
INFERRED_ROWS = 10_000
STDIN = "-"

_SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")
_FOREIGN = {
    b"PK\x03\x04": "a zip archive (or a workbook)",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\xfd7zXZ": "compressed with xz",
    b"BZh": "compressed with bzip2",
    **dict.fromkeys((b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x0a\x0d\x0d\x0a"), "a packet capture"),
}


def expand_inputs(inputs: Sequence[str | Path]) -> list[Path]:
    """Return the files of paths, globs and folders, each once, in order.

    Parameters
    ----------
    inputs
        A folder stands for the CSV and Parquet files in it and below, sorted by path, without names that begin with
        ``.`` or ``_``. A glob stands for its matches, sorted. ``-``, the standard input, stays as it is.

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
        raise DataError("no input was given; name files, folders or -")
    return list(dict.fromkeys(path for given in inputs for path in _expand(given)))


def _expand(given: str | Path) -> list[Path]:
    path = Path(given)
    # A name that exists is meant as it is, even where brackets in it would make it a glob.
    if str(given) == STDIN or (path.exists() and not path.is_dir()):
        return [path]
    if path.is_dir():
        # Names that begin with a dot or an underscore are what Spark and others leave beside data.
        found = [inner for inner in path.rglob("*") if _is_table_name(inner.relative_to(path)) and inner.is_file()]
        fault = f"has no file that ends in {', '.join(_SUFFIXES)}"
    else:
        found = [match for match in map(Path, glob.glob(str(given), recursive=True)) if match.is_file()]
        fault = "does not exist"
    if not found:
        raise DataError(f"cannot read {given}: it {fault}; check the path")
    return sorted(found)


def _is_table_name(path: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return not hidden and path.name.lower().endswith(_SUFFIXES)


def name_inputs(paths: Sequence[Path]) -> str:
    """Return the name of files in messages that are one table.

    Examples
    --------
    >>> name_inputs([Path("day/a.csv"), Path("day/b.csv"), Path("day/c.csv")])
    'a.csv and 2 more'
    """
    return paths[0].name if len(paths) == 1 else f"{paths[0].name} and {len(paths) - 1} more"


def check_same_columns(paths: Sequence[Path], columns: Sequence[Sequence[str]]) -> None:
    """Check that files have the same columns, in any order.

    Raises
    ------
    SchemaError
        A file lacks a column of the first one, or has one more.
    """
    for path, names in zip(paths, columns, strict=True):
        uneven = sorted(set(names) ^ set(columns[0]))
        if uneven:
            raise SchemaError(
                f"cannot read {path} and {paths[0]} as one table: they differ in the columns {', '.join(uneven[:8])}; "
                "name files of one kind"
            )


@dataclass(frozen=True, slots=True)
class FlowChunk:
    """Flows that follow each other in one file.

    Attributes
    ----------
    flows
        Table in the schema's columns; see `iter_flows`.
    original
        The same rows with the columns of the file under their own names, or None where not requested. Cells of a CSV
        file are text; those of Parquet keep their types.
    source
        Name of the file.
    unit
        What `positions` counts: lines of a CSV file (its header is line 1), or rows of a Parquet file, from 1.
    positions
        Position of each flow in the file, int64 (n_flows,).

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
        """Return where a flow of the chunk comes from, for messages."""
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

    Numbers are ``Float64``, categories ``String``, ports that are no features ``Int64`` (null where invalid), so that
    chunks of different files fit together. Identity columns are kept, as text from CSV and in their own types from
    Parquet; columns that the schema does not know are dropped. Memory is bounded by the size of a chunk and of a row
    group, not by that of the files.

    Parameters
    ----------
    inputs
        Files, folders, globs or ``-``: see `expand_inputs`.
    schema
        Schema that every file must have.
    chunk_rows
        Most rows of a chunk; the cells do not depend on it.
    on_error
        ``raise`` ends at the first row that breaks a rule; ``skip`` skips and counts such rows.
    skipped
        Where they are counted; ``skip`` needs one.
    header
        Column names of CSV files that have no header line.

    Raises
    ------
    FileFormatError
        A file is empty, damaged, cut off or neither CSV nor Parquet.
    SchemaError
        A file lacks columns; every file is checked before the first chunk.
    CellError
        A row breaks a rule and `on_error` is ``raise``: file, line and column are named.
    StorageError
        The standard input does not fit on the disk, where it is stored while it is read.

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
    r"""Yield what `iter_flows` does, with the position of every flow and, on request, the original columns.

    Parameters
    ----------
    inputs, schema, chunk_rows, on_error, skipped, header
        As for `iter_flows`.
    keep_original
        Whether chunks have the columns of the file as they are, or the names of those that they have. With all of
        them CSV takes about twice the time: it is parsed twice.
    rows
        Rows to read, from 0, of one Parquet file; all where absent. Parts of a file should begin with a row group,
        or that group is unpacked twice.

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
        raise ValueError(f"chunk_rows must be at least 1, got {chunk_rows}")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    if on_error == "skip" and skipped is None:
        raise ValueError("on_error='skip' needs skipped=SkipCount() to count the rows in")
    options = ReadOptions(schema, skipped if on_error == "skip" else None, keep_original, rows)
    return _iter_files(expand_inputs(inputs), options, chunk_rows, header)


def check_inputs(inputs: Sequence[str | Path], schema: Schema, *, header: Sequence[str] | None = None) -> None:
    """Check files as `iter_chunks` does before it reads the first one.

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
    """
    with contextlib.ExitStack() as opened:
        for path in expand_inputs(inputs):
            _check_columns(open_table(*opened.enter_context(_on_disk(path)), header), schema)


def conform_rows(
    table: pl.DataFrame, schema: Schema, *, source: str, first_row: int = 1, skipped: SkipCount | None = None
) -> FlowChunk:
    """Return rows that were read elsewhere as `iter_chunks` would.

    Parameters
    ----------
    table
        Rows under any names that the schema knows.
    schema
        Schema that they must have.
    source, first_row
        Name of their source in messages, and the number of the first row in it.
    skipped
        Where rows that break a rule are counted; without it the first one raises.

    Raises
    ------
    SchemaError
        A column is missing.
    CellError
        A row breaks a rule and `skipped` is None.

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
    return _conformed(table, source, "row", positions, ReadOptions(schema, skipped, keep_original=False))


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
        return open_table(file, name, header).whole()


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
    return open_table(Path(path), str(path)).columns.names()


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Schema, error handling and columns to read; without `skipped` a bad row raises."""

    schema: Schema
    skipped: SkipCount | None
    keep_original: bool | Collection[str]
    rows: range | None = None  # of the only file

    def wanted(self, columns: Sequence[str]) -> list[str]:
        """Return the columns of a file that have to be read."""
        known = set(self.known(columns))
        return [name for name in columns if name in known or self.keeps(name)]

    def keeps(self, column: str) -> bool:
        """Whether chunks have a column of the file as it is."""
        return self.keep_original if isinstance(self.keep_original, bool) else column in self.keep_original

    def original(self, table: pl.DataFrame) -> pl.DataFrame | None:
        """Return the columns that chunks have as they are; None where none was requested."""
        return table.select([*filter(self.keeps, table.columns)]) if self.keep_original else None

    def known(self, columns: Sequence[str]) -> list[str]:
        """Return the columns of a file that the schema knows."""
        return list(self.schema.canonical_names(columns))


class Table(Protocol):
    """A file that holds a table."""

    name: str
    columns: pl.Schema
    looks_headless: bool
    removed: Counter[str]
    """Lines of a CSV file that were removed, once it has been read: ``blank`` and ``header``."""

    def chunks(self, options: ReadOptions) -> Iterator[FlowChunk]:
        """Yield the flows in order, as many at a time as fit."""

    def whole(self) -> pl.DataFrame:
        """Return all rows and columns."""


def _iter_files(
    paths: Sequence[Path], options: ReadOptions, chunk_rows: int, header: Sequence[str] | None
) -> Iterator[FlowChunk]:
    # All files are opened and checked before the first row comes: a fault in the last one must not show after hours.
    with contextlib.ExitStack() as opened:
        tables = [open_table(*opened.enter_context(_on_disk(path)), header) for path in paths]
        for table in tables:
            _check_columns(table, options.schema)
        if options.rows is not None and [type(table) for table in tables] != [_ParquetTable]:
            raise DataError(
                f"cannot read some rows of {', '.join(map(str, paths))}: it is not one Parquet file; read all rows"
            )
        for table in tables:
            for chunk in table.chunks(options):
                yield from chunk.slices(chunk_rows)
                del chunk  # or it would live until the next one has been read


@contextlib.contextmanager
def _on_disk(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield a file that can be opened again and its name in messages; the standard input is copied to one."""
    if str(path) != STDIN:
        yield path, str(path)
        return
    with tempfile.TemporaryDirectory(prefix="deepidea-") as folder:
        # A stream cannot be read twice, and columns must be checked before the first row: it is copied to the disk.
        copy = Path(folder) / "standard-input"
        try:
            with copy.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        except OSError as error:
            raise StorageError(
                f"cannot copy the standard input to {folder}: {error.strerror or error}; set TMPDIR to a folder with "
                "more room, or name a file"
            ) from error
        yield copy, "standard input"


def open_table(path: Path, name: str, header: Sequence[str] | None = None) -> Table:
    """Return the reader of a file, by its first bytes.

    Parameters
    ----------
    path, name
        The file, and its name in messages.
    header
        Column names of a CSV file that has no header line.

    Raises
    ------
    DataError
        The file cannot be opened.
    FileFormatError
        The file is empty, or neither CSV nor Parquet.
    """
    # By content first: names lie, and a pipe has none that would tell.
    magic = _first_bytes(path, name)
    suffix = path.suffix.lower()
    if magic.startswith(b"PAR1"):
        return _ParquetTable(path, name)
    packed = magic.startswith(b"\x1f\x8b")
    if suffix in (".parquet", ".pq") or (suffix == ".gz" and not packed):
        kind, mark = ("gzip", "1f 8b") if suffix == ".gz" else ("Parquet", "PAR1")
        raise FileFormatError(f"cannot read {name}: a {kind} file begins with {mark}, this one with {magic[:4]!r}")
    foreign = next((kind for mark, kind in _FOREIGN.items() if magic.startswith(mark)), None)
    if foreign is not None:
        raise FileFormatError(f"cannot read {name}: it is {foreign}; use CSV, CSV in gzip or Parquet")
    return _CsvTable(path, name, packed, header)


def _first_bytes(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror or error}; check the path") from error
    if not magic:
        raise FileFormatError(f"cannot read {name}: it is empty; a table needs at least a header")
    return magic


class _CsvTable:
    """A CSV file, plain or in gzip."""

    def __init__(self, path: Path, name: str, packed: bool, header: Sequence[str] | None) -> None:
        self._path, self.name, self._packed, self._header = path, name, packed, header
        with self._lines() as lines:
            self.columns = pl.Schema(dict.fromkeys(lines.columns, pl.String()))
            self.looks_headless = lines.looks_headless
            self.removed = lines.removed

    @contextlib.contextmanager
    def _lines(self) -> Iterator[CsvLines]:
        # Opened for each reading: held open from the check on, many files would pass the limit of a process.
        with self._path.open("rb") as file, gzip.open(file) if self._packed else file as stream:
            yield CsvLines(cast("IO[bytes]", stream), self.name, self._header)

    def chunks(self, options: ReadOptions) -> Iterator[FlowChunk]:
        with self._lines() as lines:
            self.removed = lines.removed
            wanted = options.wanted(lines.columns)
            for block in lines.blocks(options.skipped):
                if len(block.lines):
                    yield self._chunk(block, lines, wanted, options)

    def _chunk(self, block: Block, lines: CsvLines, wanted: Sequence[str], options: ReadOptions) -> FlowChunk:
        # Straight to numbers first, the fast way. Where a cell is none, the block is read again as text, to name that
        # cell.
        with contextlib.suppress(PolarsError, CellError):  # parsing as text below finds the cell
            types = _typed_columns(lines, options.schema)
            flows = options.schema.conform(_parse(block, lines, options.known(lines.columns), types))
            # As text: a number that is read and written again may be spelt differently.
            original = options.original(_parse(block, lines, [*filter(options.keeps, wanted)], {}))
            return FlowChunk(_settled(flows, options.schema), original, self.name, "line", block.lines)
        with _engine_errors(self.name):
            text = _parse(block, lines, wanted, {})
        return _conformed(text, self.name, "line", block.lines, options)

    def whole(self) -> pl.DataFrame:
        joined = io.BytesIO()
        with self._lines() as lines:
            for block in lines.blocks(None):
                joined.write(block.data)
        if not joined.tell():
            return pl.DataFrame(schema=dict.fromkeys(lines.columns, pl.String))
        with _engine_errors(self.name):
            return _numbers_from_text(_inferred(joined.getvalue(), lines))


def _inferred(data: bytes, lines: CsvLines) -> pl.DataFrame:
    """Parse rows in the types of the first ones; in those of all, at ten times the time, where that fails."""
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
    for cells in (text.head(1000), text):  # the first cells decide most columns
        stripped = cells.str.strip_chars().replace("", None)
        numbers = stripped.cast(pl.Float64, strict=False)
        if numbers.null_count() > stripped.null_count():
            return None
    return numbers if numbers.null_count() < len(text) else None


class _ParquetTable:
    """A Parquet file."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.looks_headless, self.removed = False, Counter[str]()
        with _engine_errors(name):
            # The name as it is: brackets in it are no glob, and a folder `day=3` adds no column.
            self._rows = pl.scan_parquet(path, glob=False, hive_partitioning=False)
            self.columns = self._rows.collect_schema()

    def chunks(self, options: ReadOptions) -> Iterator[FlowChunk]:
        wanted = self._columns(options)
        # Cells of Parquet differ in size, so a slice is so many rows as about 64 MiB hold unpacked.
        here, at_once = self._range(options.rows), _slice_rows(self.columns.values())
        for start in here[::at_once]:
            length = min(at_once, here.stop - start)
            with _engine_errors(self.name):
                table = self._rows.slice(start, length).select(wanted).collect()
            positions = np.arange(start + 1, start + 1 + table.height)
            yield _conformed(table, self.name, "row", positions, options)
            del table  # or it would live until the next one has been read

    def _range(self, rows: range | None) -> range:
        """Return the rows to read."""
        with _engine_errors(self.name):
            height = self._rows.select(pl.len()).collect().item()
        if rows is not None and rows.stop > height:
            raise DataError(
                f"cannot read rows {rows.start}..{rows.stop} of {self.name}, which has {height}; do not change a file "
                "while it is read"
            )
        return range(height) if rows is None else rows

    def _columns(self, options: ReadOptions) -> list[pl.Expr]:
        """Return the columns to read; numbers are cast on the way, which saves a copy."""
        names = options.wanted(self.columns.names())
        canonical = options.schema.canonical_names(names)
        numbers = {name for name in names if canonical.get(name) in options.schema.numbers}
        return [
            pl.col(name).cast(pl.Float64)
            if name in numbers and self.columns[name].is_numeric() and not options.keep_original
            else pl.col(name)
            for name in names
        ]

    def whole(self) -> pl.DataFrame:
        with _engine_errors(self.name):
            return self._rows.collect()


def _slice_rows(types: Iterable[pl.DataType]) -> int:
    """Return how many rows fit; a power of two, because row groups mostly are."""
    # About: text is a view of 16 bytes and its letters.
    row_bytes = sum(8 if dtype.is_numeric() else 32 for dtype in types)
    return 1 << (max(SLICE_BYTES // max(row_bytes, 1), 1).bit_length() - 1)


def _check_columns(table: Table, schema: Schema) -> None:
    try:
        schema.conform(pl.DataFrame(schema=table.columns))
    except (SchemaError, DuplicateError) as error:  # the latter where two columns are one identity
        if table.looks_headless:
            raise FileFormatError(
                f"cannot read {table.name}: its first line is mostly numbers ({quoted(','.join(table.columns))}); "
                "put the column names above it"
            ) from error
        raise SchemaError(f"{table.name}: {error}") from error


def _conformed(
    table: pl.DataFrame,
    source: str,
    unit: Literal["line", "row"],
    positions: npt.NDArray[np.int64],
    options: ReadOptions,
) -> FlowChunk:
    """Return the rows in the schema's columns; skip or refuse those that break its rules."""
    try:
        flows = options.schema.conform(table)
    except CellError:
        kept = _skip_bad_rows(table, source, unit, positions, options)
        table, positions = table.filter(kept), positions[kept.to_numpy()]
        flows = options.schema.conform(table)
    return FlowChunk(_settled(flows, options.schema), options.original(table), source, unit, positions)


def _skip_bad_rows(
    table: pl.DataFrame, source: str, unit: str, positions: npt.NDArray[np.int64], options: ReadOptions
) -> pl.Series:
    """Skip or refuse rows by their first bad cell; return which rows are left, Boolean (n_rows,)."""
    # A row with two bad cells is one row that was skipped, for the reason of the first.
    bad = options.schema.bad_cells(table).unique("row", keep="first", maintain_order=True)
    for (column,), cells in bad.group_by("column", maintain_order=True):
        row, _, value = cells.row(0)
        rule = "is not in 0..65535" if options.schema[str(column)].kind == "port" else "is not a number"
        message = f"cannot read {source}, {unit} {positions[row]}: {column} {quoted(str(value))} {rule}"
        skip_or_raise(f"{column} {rule}", cells.height, message, options.skipped)
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
    """Raise what polars cannot read as an error of the library.

    A damaged file can also make polars panic: that reaches Python as `PanicException`, which is no `Exception`.
    """
    try:
        yield
    except (PolarsError, PanicException, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise FileFormatError(f"cannot read {source}: {first_line}; fetch or write it again") from error
