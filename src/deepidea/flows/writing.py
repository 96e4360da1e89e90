"""Write flow tables of any size as Parquet, CSV or JSON lines, chunk by chunk, whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import io
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Protocol, Self, TypeVar, cast, get_args

import polars as pl
from polars.exceptions import PanicException, PolarsError
from polars.io.plugins import register_io_source

from deepidea.errors import DataError, DeepIDEAError, SchemaError, StorageError
from deepidea.flows.atomic import replacing

__all__ = ["Format", "format_of", "write_flows"]

Format = Literal["parquet", "csv", "jsonl"]
ROW_GROUP_ROWS = 65_536
TEXT_ROWS = 8_192  # made into text at a time

T = TypeVar("T")
_SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


def write_flows(
    chunks: Iterable[pl.DataFrame], path: str | Path, *, format: Format | None = None, schema: pl.Schema | None = None
) -> int:
    """Write chunks of a table to one file, in their order, and return the number of rows.

    The file appears at ``path`` when it is whole and on the disk. Until then, and after any failure, an older file
    there is unchanged. Memory holds a few chunks, however long the table. `chunks` is iterated in the caller's thread.

    Parameters
    ----------
    chunks
        Tables of the same columns. Later chunks are put into the first one's order and types; a missing column is
        filled with nulls.
    path
        ``.parquet``, ``.csv``, ``.jsonl``, the last two also with ``.gz``; ``-`` is the standard output. Pipes and
        devices are written to as the rows come.
    format
        Format where the suffix has none; the standard output is CSV by default.
    schema
        Polars schema of the file, by default the first chunk's. Needed for a file without rows.

    Raises
    ------
    StorageError
        The system refuses to write: a full disk, a missing folder.
    SchemaError
        A chunk has other columns than the first, or types that the file cannot hold.
    DataError
        The format is unknown, or there is neither a chunk nor a schema.

    Notes
    -----
    JSON knows neither infinity nor NaN: JSON lines hold null for them. CSV holds ``inf`` and ``NaN``.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "flows.csv"
    >>> write_flows([pl.DataFrame({"fwd_packets": [3, 1]}), pl.DataFrame({"fwd_packets": [7]})], path)
    3
    >>> path.read_text().split()
    ['fwd_packets', '3', '1', '7']
    """
    chosen, packed = format_of(str(path), format)
    with _open_target(path) as stream, _maybe_packed(stream, packed) as file:
        return _write_all(chunks, file, _WRITERS[chosen], schema)


def format_of(path: str, format: str | None) -> tuple[Format, bool]:
    """Return the format of an output, and whether it is gzipped; :class:`DataError` where the format is unknown."""
    packed = path.lower().endswith(".gz")
    suffix = Path(path[:-3] if packed else path).suffix.lower()
    chosen = format or ("csv" if path == "-" else _SUFFIXES.get(suffix))
    if chosen not in get_args(Format):
        raise DataError(
            f"cannot write {path!r}: the format is none of {', '.join(get_args(Format))}; "
            "choose another suffix or name the format"
        )
    if packed and chosen == "parquet":
        raise DataError(f"cannot write {path!r}: Parquet is compressed inside; drop the .gz")
    return cast("Format", chosen), packed


@contextlib.contextmanager
def _open_target(path: str | Path) -> Iterator[IO[bytes]]:
    if str(path) == "-":
        with _storage_errors("the standard output"):
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
    elif Path(path).exists() and not Path(path).is_file():  # a pipe or device cannot be replaced, only written to
        with _storage_errors(str(path)), open(path, "wb") as stream:
            yield stream
    else:
        with replacing(path) as partial, open(partial, "wb") as stream:
            yield stream


@contextlib.contextmanager
def _storage_errors(target: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, DeepIDEAError):  # a SourceError of the rows, for one
            raise
        raise StorageError(f"cannot write {target}: {error.strerror or error}; the output is not whole") from error


@contextlib.contextmanager
def _maybe_packed(stream: IO[bytes], packed: bool) -> Iterator[IO[bytes]]:
    if not packed:
        yield stream
        return
    # Without name and time: equal tables are equal files.
    with gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=6, mtime=0) as file:
        yield cast("IO[bytes]", file)


class _Writer(Protocol):
    """Writes chunks of one schema; leaving its ``with`` block finishes the file."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def write(self, chunk: pl.DataFrame) -> None: ...


def _write_all(
    chunks: Iterable[pl.DataFrame],
    file: IO[bytes],
    make_writer: Callable[[IO[bytes], pl.Schema], _Writer],
    schema: pl.Schema | None,
) -> int:
    rest = iter(chunks)
    first = list(islice(rest, 1))
    if schema is None and not first:
        raise DataError("cannot write a table without chunks and without a schema; pass schema=")
    schema = first[0].schema if schema is None else schema
    rows = 0
    with make_writer(file, schema) as writer:
        for chunk in chain(_drained(first), rest):
            writer.write(_fitted(chunk, schema))
            rows += chunk.height
            del chunk  # or it would live until the next one has been made
    return rows


def _drained(chunks: list[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield chunks and let go of them, so that each can be freed once it is written."""
    while chunks:
        yield chunks.pop()


def _fitted(chunk: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Return the chunk in the columns and types of the file."""
    if chunk.schema == schema:
        return chunk
    # A column that is missing becomes null; one too many has no place in a file whose columns are fixed.
    extra = [name for name in chunk.columns if name not in schema]
    if extra:
        raise SchemaError(
            f"a chunk has columns that the first one lacks: {', '.join(extra)}; write tables of different columns to "
            "different files"
        )
    columns = (_column_of(chunk, name, dtype) for name, dtype in schema.items())
    try:
        return chunk.select(columns) if chunk.width else pl.DataFrame(schema=schema)
    except PolarsError as error:
        raise SchemaError(f"a chunk has other types than the first one: {error}") from error


def _column_of(chunk: pl.DataFrame, name: str, dtype: pl.DataType) -> pl.Expr:
    return pl.col(name).cast(dtype) if name in chunk.columns else pl.lit(None, dtype).alias(name)


class _TextWriter:
    """CSV or JSON lines: every chunk is made into text and appended."""

    def __init__(self, file: IO[bytes], to_text: Callable[[pl.DataFrame, io.BytesIO], None]) -> None:
        self._file, self._to_text = file, to_text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Do nothing: every chunk has been written."""

    def write(self, chunk: pl.DataFrame) -> None:
        # Text takes several times the memory of its numbers.
        for piece in chunk.iter_slices(TEXT_ROWS):
            text = io.BytesIO()
            try:
                self._to_text(piece, text)
            except PolarsError as error:
                raise SchemaError(f"cannot write a value as text: {error}; write Parquet") from error
            self._file.write(text.getbuffer())


def _csv_writer(file: IO[bytes], schema: pl.Schema) -> _TextWriter:
    head = io.BytesIO()
    pl.DataFrame(schema=dict.fromkeys(schema, pl.String)).write_csv(head)
    file.write(head.getbuffer())
    return _TextWriter(file, lambda chunk, text: chunk.write_csv(text, include_header=False))


def _json_lines_writer(file: IO[bytes], _schema: pl.Schema) -> _TextWriter:
    return _TextWriter(file, lambda chunk, text: chunk.write_ndjson(text))


class _Abandoned(Exception):
    """Raised in the engine to stop it: the caller has an error of its own."""


class _ParquetWriter:
    """Parquet by the engine's streaming sink, which pulls, while the caller pushes.

    The engine calls its source from a thread of its own. Chunks cross a queue of one, so that the generator that makes
    them runs, and is interrupted, in the caller's thread.
    """

    def __init__(self, file: IO[bytes], schema: pl.Schema) -> None:
        self._file = _Recording(file)
        self._schema = schema
        # At most one chunk waits: the writer of chunks is held up until the file has taken the one before.
        self._queue: queue.Queue[pl.DataFrame | BaseException | None] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._sink, name="deepidea-parquet", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An error of the caller must end the sink without a footer: a file that was finished would look whole.
        self._put(_Abandoned() if error is not None else None)  # None ends the table
        self._thread.join()
        if error is None:
            self._raise_error()

    def write(self, chunk: pl.DataFrame) -> None:
        if chunk.height:
            self._put(chunk)
        self._raise_error()

    def _put(self, item: pl.DataFrame | BaseException | None) -> None:
        # A sink that has failed draws no more: without the time limit the caller would wait for ever.
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.05)
                return

    def _raise_error(self) -> None:
        """Raise the error of the sink, the system's own where there was one."""
        if self._file.error is not None:
            raise self._file.error
        if self._error is not None:
            raise SchemaError(f"cannot write a column as Parquet: {self._error}") from self._error

    def _sink(self) -> None:
        # The sink pulls rows from a generator that is fed by the queue; so row groups are written as chunks come, in
        # bounded memory.
        table = register_io_source(lambda *_hints: self._drawn(), schema=self._schema, is_pure=True)
        target = cast("Any", self._file)
        try:
            table.sink_parquet(target, row_group_size=ROW_GROUP_ROWS, maintain_order=True)
        except (PolarsError, PanicException, OSError, TypeError, _Abandoned) as error:
            self._error = error

    def _drawn(self) -> Iterator[pl.DataFrame]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            # Or the generator would hold the chunk while it waits for the next one.
            del item


class _Recording:
    """A file that remembers the system's error, which the engine would raise as one of its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        return self._recorded(lambda: self._file.write(data))

    def flush(self) -> None:
        self._recorded(self._file.flush)

    def _recorded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except OSError as error:
            self.error = error
            raise


_WRITERS: dict[Format, Callable[[IO[bytes], pl.Schema], _Writer]] = {
    "parquet": _ParquetWriter,
    "csv": _csv_writer,
    "jsonl": _json_lines_writer,
}
