"""Parquet files that Spark's tasks read and write themselves, as one machine does, with Spark to share out the work.

Spark's own reader and writer turn every row over several times, at a multiple of what scoring costs. Where driver and
executors see the files as plain files, they are not needed: the driver cuts the inputs into parts, a task scores a part
into a file of its own by the code of one machine, and tells how many flows that were. The files come together in a
folder beside the output, which takes the output's name when every part is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepidea.adapters.spark import Scored, for_tasks, only_arrow_is_used
from deepidea.errors import DataError, DeepIDEAError, FileFormatError, StorageError
from deepidea.flows.skipping import OnError, SkipCount
from deepidea.flows.tables import check_inputs
from deepidea.model import scoring
from deepidea.model.detector import Detector

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import Broadcast
    from pyspark.sql import SparkSession

PARTS_A_CORE = 4  # at least, so that cores end at about the same time
LEAST_ROWS = 65_536  # of a part that might be larger: a task costs something, too
MOST_ROWS = 524_288
FINISHED, ATTEMPTS = "finished", "attempts"  # folders in the one that becomes the output
_RESULT = "number bigint, n_flows bigint, skipped string"


@dataclass(frozen=True, slots=True)
class Part:
    """What one task scores: whole files that follow each other, or some rows of one.

    Attributes
    ----------
    sizes
        Bytes of each file when the work was shared out: a task that finds another number sees another file.
    rows
        Rows of the one file; None for all rows of all files.
    """

    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    n_rows: int
    rows: range | None = None

    def followed_by(self, other: Part) -> Part:
        """Return the part that holds both; each must be of whole files."""
        return Part(self.paths + other.paths, self.sizes + other.sizes, self.n_rows + other.n_rows)


@dataclass(frozen=True, slots=True)
class Table:
    """A Parquet file as its end describes it."""

    path: Path
    size: int  # bytes
    groups: tuple[int, ...]  # rows of each row group
    columns: pa.Schema = field(repr=False)

    @property
    def n_rows(self) -> int:
        """Rows of the file."""
        return sum(self.groups)


# --- which files can be read so ---------------------------------------------------------------------------------------


def plain_files(spark: SparkSession, inputs: Sequence[str]) -> list[Path] | None:
    """Return the Parquet files that inputs stand for; None where one of them is Spark's to read.

    That is whatever is not on a file system of plain files, is not Parquet, or lies in folders whose names are values
    of a column (``day=3``).
    """
    found: list[Path] = []
    for given in inputs:
        for match in _matches(spark, given):
            if match is None:
                return None
            inside = _files_in(match)
            if any(path.suffix.lower() != ".parquet" or _is_partition(path, match) for path in inside):
                return None
            found += inside
    return list(dict.fromkeys(found)) or None


def plain_folder(spark: SparkSession, output: str) -> Path | None:
    """Return the path of an output on a file system of plain files; None on any other."""
    system, place = _place(spark, output)
    return Path(str(system.makeQualified(place).toUri().getPath())) if _is_plain(system) else None


def _place(spark: SparkSession, path: str) -> tuple[Any, Any]:
    java: Any = spark._jvm
    place = java.org.apache.hadoop.fs.Path(path)
    return place.getFileSystem(spark._jsc.hadoopConfiguration()), place


def _is_plain(system: Any) -> bool:
    return str(system.getUri().getScheme()) == "file"


def _matches(spark: SparkSession, path: str) -> list[Path | None]:
    """Return the files and folders that a path or glob stands for, as Spark finds them; hidden ones are passed over."""
    system, place = _place(spark, path)
    if not _is_plain(system):
        return [None]
    matches = sorted(str(status.getPath().toUri().getPath()) for status in system.globStatus(place) or [])
    return [Path(match) for match in matches if not _is_hidden(Path(match).name)]


def _is_hidden(name: str) -> bool:
    return name.startswith(("_", "."))


def _files_in(place: Path) -> list[Path]:
    """Return every file that is not hidden, whatever its name, in the order of their paths."""
    if not place.is_dir():
        return [place]
    inside = (path for path in place.rglob("*") if not any(map(_is_hidden, path.relative_to(place).parts)))
    return sorted(path for path in inside if path.is_file())


def _is_partition(path: Path, place: Path) -> bool:
    return any("=" in part for part in path.relative_to(place).parts[:-1])


# --- sharing out ------------------------------------------------------------------------------------------------------


def cut_into_parts(files: Sequence[Path], detector: Detector, *, keep_columns: bool, n_cores: int) -> list[Part] | None:
    """Return the files as parts for so many cores; None where the files' columns are better kept by Spark.

    Raises
    ------
    FileFormatError, SchemaError
        As on one machine: a file is damaged or lacks a feature; it is named.
    """
    check_inputs(files, detector.schema)
    tables = [table for table in map(_table, files) if table.n_rows]
    if not tables or (keep_columns and not _go_together(tables)):
        return None
    n_rows = sum(table.n_rows for table in tables)
    most = min(max(n_rows // (n_cores * PARTS_A_CORE), LEAST_ROWS), MOST_ROWS)
    return _joined((part for table in tables for part in _parts_of(table, most)), most)


def _table(path: Path) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        found = parquet.read_metadata(path)
        groups = tuple(found.row_group(j).num_rows for j in range(found.num_row_groups))
        return Table(path, path.stat().st_size, groups, found.schema.to_arrow_schema())
    except (pa.ArrowException, OSError) as error:
        raise FileFormatError(
            f"a file must be whole and of its kind, however: {path} cannot be read: {error}; make it or fetch it again"
        ) from error


def _go_together(tables: Sequence[Table]) -> bool:
    """Whether the files have the same columns, all of types that come out of polars as they went in."""
    first = tables[0].columns
    alike = all(table.columns.equals(first, check_metadata=False) for table in tables)
    return alike and all(_comes_through(column.type) for column in first)


def _comes_through(kind: pa.DataType) -> bool:
    """Whether a type is kept as it is; polars has no maps, and Spark no nanoseconds."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return kind.unit in ("ms", "us")
    tests = ("is_boolean", "is_integer", "is_float32", "is_float64", "is_string", "is_large_string", "is_binary")
    return any(getattr(pa.types, test)(kind) for test in (*tests, "is_date32", "is_decimal128"))


def _parts_of(table: Table, most: int) -> Iterator[Part]:
    """Yield a file in ranges of whole row groups, each of `most` rows or one group."""
    path, size = str(table.path), table.size
    if table.n_rows <= most:
        yield Part((path,), (size,), table.n_rows)
        return
    start = end = 0
    for n_rows in table.groups:
        if end > start and end + n_rows - start > most:
            yield Part((path,), (size,), end - start, range(start, end))
            start = end
        end += n_rows
    yield Part((path,), (size,), end - start, range(start, end))


def _joined(parts: Iterable[Part], most: int) -> list[Part]:
    """Return parts of which small whole files that follow each other share one."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if last and last.rows is None and part.rows is None and last.n_rows + part.n_rows <= most:
            joined[-1] = last.followed_by(part)
        else:
            joined.append(part)
    return joined


# --- the work ---------------------------------------------------------------------------------------------------------


def score_parts(
    spark: SparkSession,
    detector: Detector,
    parts: Sequence[Part],
    output: Path,
    *,
    keep_columns: bool = True,
    on_error: OnError = "raise",
) -> Scored:
    """Score parts into a folder of as many Parquet files, ``part-00000.parquet`` and so on in the order of the flows.

    Parameters
    ----------
    spark : SparkSession
    detector : Detector
    parts : sequence of Part
    output : path
        Folder that is not there yet and that every executor would see under this path. It appears when it is whole.
    keep_columns, on_error
        As for :func:`deepidea.adapters.spark.score`.

    Returns
    -------
    Scored
        What is skipped is counted by what tasks return, so that a task that runs twice counts once.

    Raises
    ------
    DataError
        A file cannot be read or is not the same where the task runs; a cell breaks a rule. Wrapped by Spark:
        :func:`deepidea.adapters.spark.told` unwraps it.
    StorageError
        The output cannot be written. Nothing of it is left, as after any error.
    """
    shared = spark.sparkContext.broadcast((for_tasks(detector), list(parts)))
    with _appearing(output) as folder:
        task = _Task(shared, str(folder), keep_columns, on_error)
        numbers = spark.range(0, len(parts), 1, len(parts))  # one a partition
        with only_arrow_is_used():
            rows = numbers.mapInArrow(task, _RESULT).collect()
        flows = {int(row["number"]): int(row["n_flows"]) for row in rows}
        _settle(folder / FINISHED, [flows[number] for number in range(len(parts))])
    skipped: Counter[str] = Counter()
    for row in rows:
        skipped.update(json.loads(row["skipped"]))
    return Scored(sum(flows.values()), skipped)


@contextlib.contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """Yield a folder beside `output`; what is `FINISHED` in it becomes the output when the block ends well.

    Attempts of tasks have a folder of their own: one that nobody waits for any more cannot reach the output.
    """
    work = output.parent / f".{output.name}.{secrets.token_hex(8)}.partial"
    try:
        with _writable(output):
            for name in (FINISHED, ATTEMPTS):
                (work / name).mkdir(parents=True)
        yield work
        with _writable(output):
            if output.exists():
                raise FileExistsError("it came while the work went on")
            (work / FINISHED).rename(output)
    finally:
        _remove(work)


@contextlib.contextmanager
def _writable(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the output folder must be writable, however: {output}: {error.strerror or error}; free space or choose "
            "another place"
        ) from error


def _remove(work: Path) -> None:
    """Remove the folder under another name, which tasks that still run do not know, so that they add nothing to it."""
    gone = work.with_suffix(".gone")
    if work.exists():
        work.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)  # what an executor of another user wrote may have to stay


def _settle(finished: Path, flows: Sequence[int]) -> None:
    """Make sure that all files are there, and leave out those without flows, which may lack columns to be kept."""
    names = [_file_name(number) for number in range(len(flows))]
    absent = [name for name in names if not (finished / name).exists()]
    if absent:
        raise StorageError(
            f"the output must be on a file system that all machines share, however: {absent[0]} was written and is not "
            "to be seen here; choose another place"
        )
    for name, n_flows in zip(names, flows, strict=True):
        if n_flows == 0 and any(flows):
            (finished / name).unlink()
    (finished / "_SUCCESS").touch()


def _file_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


@dataclass(frozen=True, slots=True)
class _Task:
    """What a task does with the numbers of its parts."""

    shared: Broadcast[tuple[Detector, list[Part]]]
    folder: str
    keep_columns: bool
    on_error: OnError

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in batches:
            for number in batch.column(0).to_pylist():
                n_flows, skipped = self._score(number)
                row = {"number": number, "n_flows": n_flows, "skipped": json.dumps(skipped)}
                yield pa.RecordBatch.from_pylist([row])

    def _score(self, number: int) -> tuple[int, Counter[str]]:
        """Score a part into its file; a second attempt puts the same bytes there."""
        detector, parts = self.shared.value
        skipped, name = SkipCount(), _file_name(number)
        part = parts[number]
        _require_same(part)
        with _attempt(Path(self.folder)) as attempt:
            n_flows = scoring.score_files(
                detector,
                part.paths,
                attempt / name,
                keep_original=self.keep_columns,
                on_error=self.on_error,
                skipped=skipped,
                rows=part.rows,
            )
            os.replace(attempt / name, Path(self.folder) / FINISHED / name)
        return n_flows, skipped.reasons


def _require_same(part: Part) -> None:
    """Raise where a file is not the one that the driver saw."""
    for path, size in zip(part.paths, part.sizes, strict=True):
        try:
            here = Path(path).stat().st_size
        except OSError as error:
            raise DataError(
                "a file must be there under the same path on every machine until it is read, however: "
                f"{path} on {socket.gethostname()}: {error.strerror or error}; put it where all machines see it"
            ) from error
        if here != size:
            raise DataError(
                f"a file must be the same on every machine until it is read, however: {path} has {here} bytes on "
                f"{socket.gethostname()}, and had {size} when the work was shared out; put it where all machines see it"
            )


@contextlib.contextmanager
def _attempt(folder: Path) -> Iterator[Path]:
    """Yield a folder for one attempt of one task, on the file system of the output."""
    try:
        with tempfile.TemporaryDirectory(dir=folder / ATTEMPTS, ignore_cleanup_errors=True) as place:
            yield Path(place)
    except OSError as error:
        if isinstance(error, DeepIDEAError):
            raise
        raise StorageError(
            "the folder of the output must be there under the same path on every machine, however: "
            f"{folder.parent} on {socket.gethostname()}: {error.strerror or error}; put it where all machines see it"
        ) from error
