"""Parquet files that Spark's tasks read and write themselves, with Spark to distribute the work.

Spark's own reader and writer convert every row several times, at a multiple of the cost of scoring. Where driver and
executors see the files as local files, the driver cuts the inputs into parts, and a task scores a part into a file of
its own with the code for one machine.

How the output becomes whole or absent: tasks write into ``.OUTPUT.<random>.partial/attempts/<random>/`` and rename a
finished file to ``.partial/finished/``. A repeated task replaces a file by the same bytes. When all parts are there,
the driver renames ``finished`` to the output. It renames the partial folder before it removes it, so that tasks still
running, which know the old name, cannot add to it.
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

from deepidea.adapters.spark import Scored, no_pandas_warning, task_detector
from deepidea.errors import DataError, DeepIDEAError, FileFormatError, StorageError
from deepidea.flows.skipping import OnError, SkipCount
from deepidea.flows.tables import check_inputs
from deepidea.model import scoring
from deepidea.model.detector import Detector

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import Broadcast
    from pyspark.sql import SparkSession

PARTS_A_CORE = 4  # at least, so that cores finish at about the same time
LEAST_ROWS = 65_536  # of a part, where there are as many: a task has a cost of its own
MOST_ROWS = 524_288
FINISHED, ATTEMPTS = "finished", "attempts"  # folders in the one that becomes the output
_RESULT = "number bigint, n_flows bigint, skipped string"


@dataclass(frozen=True, slots=True)
class Part:
    """What one task scores: consecutive whole files, or a range of rows of one file.

    Attributes
    ----------
    sizes
        Bytes of each file on the driver: a task that finds another size has another file.
    rows
        Range of rows of the one file; None for all rows of all files.
    """

    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    n_rows: int
    rows: range | None = None

    def followed_by(self, other: Part) -> Part:
        """Return both parts, each of whole files, as one."""
        return Part(self.paths + other.paths, self.sizes + other.sizes, self.n_rows + other.n_rows)


@dataclass(frozen=True, slots=True)
class Table:
    """A Parquet file as its footer describes it."""

    path: Path
    size: int  # bytes
    groups: tuple[int, ...]  # rows of each row group
    columns: pa.Schema = field(repr=False)

    @property
    def n_rows(self) -> int:
        """Rows of the file."""
        return sum(self.groups)


# --- local files ------------------------------------------------------------------------------------------------------


def local_files(spark: SparkSession, inputs: Sequence[str]) -> list[Path] | None:
    """Return the Parquet files of the inputs; None where Spark must read one of them.

    Spark reads what is not on a local file system, not Parquet, or in folders named for values of a column (``day=3``).
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


def local_folder(spark: SparkSession, output: str) -> Path | None:
    """Return the path of an output on a local file system; None on any other."""
    system, place = filesystem_of(spark, output)
    return Path(str(system.makeQualified(place).toUri().getPath())) if _is_local(system) else None


def filesystem_of(spark: SparkSession, path: str) -> tuple[Any, Any]:
    """Return Hadoop's file system for a path, and the path as Hadoop's."""
    java: Any = spark._jvm
    place = java.org.apache.hadoop.fs.Path(path)
    return place.getFileSystem(spark._jsc.hadoopConfiguration()), place


def _is_local(system: Any) -> bool:
    return str(system.getUri().getScheme()) == "file"


def _matches(spark: SparkSession, path: str) -> list[Path | None]:
    """Return the files and folders of a path or glob as Spark finds them, without hidden ones."""
    system, place = filesystem_of(spark, path)
    if not _is_local(system):
        return [None]
    matches = sorted(str(status.getPath().toUri().getPath()) for status in system.globStatus(place) or [])
    return [Path(match) for match in matches if not _is_hidden(Path(match).name)]


def _is_hidden(name: str) -> bool:
    return name.startswith(("_", "."))


def _files_in(place: Path) -> list[Path]:
    """Return every file that is not hidden, sorted by path."""
    if not place.is_dir():
        return [place]
    inside = (path for path in place.rglob("*") if not any(map(_is_hidden, path.relative_to(place).parts)))
    return sorted(path for path in inside if path.is_file())


def _is_partition(path: Path, place: Path) -> bool:
    return any("=" in part for part in path.relative_to(place).parts[:-1])


# --- parts ------------------------------------------------------------------------------------------------------------


def cut_into_parts(files: Sequence[Path], detector: Detector, *, keep_columns: bool, n_cores: int) -> list[Part] | None:
    """Return the files as parts for ``n_cores`` cores; None where Spark must keep the files' columns.

    Raises
    ------
    FileFormatError, SchemaError
        A file is damaged or lacks a feature; it is named, as on one machine.
    """
    check_inputs(files, detector.schema)
    tables = [table for table in map(_table, files) if table.n_rows]
    if not tables or (keep_columns and not _have_same_columns(tables)):
        return None
    n_rows = sum(table.n_rows for table in tables)
    # a quarter of a core's share, within the bounds for a task
    most = min(max(n_rows // (n_cores * PARTS_A_CORE), LEAST_ROWS), MOST_ROWS)
    return _merged((part for table in tables for part in _parts_of(table, most)), most)


def _table(path: Path) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        found = parquet.read_metadata(path)
        groups = tuple(found.row_group(j).num_rows for j in range(found.num_row_groups))
        return Table(path, path.stat().st_size, groups, found.schema.to_arrow_schema())
    except (pa.ArrowException, OSError) as error:
        raise FileFormatError(f"cannot read {path}: {error}; fetch or write it again") from error


def _have_same_columns(tables: Sequence[Table]) -> bool:
    """Whether the files have the same columns, all of types that polars returns unchanged."""
    first = tables[0].columns
    alike = all(table.columns.equals(first, check_metadata=False) for table in tables)
    return alike and all(_is_kept(column.type) for column in first)


def _is_kept(kind: pa.DataType) -> bool:
    """Whether polars and Spark both have the type; polars has no maps, Spark no nanoseconds."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return kind.unit in ("ms", "us")
    tests = ("is_boolean", "is_integer", "is_float32", "is_float64", "is_string", "is_large_string", "is_binary")
    return any(getattr(pa.types, test)(kind) for test in (*tests, "is_date32", "is_decimal128"))


def _parts_of(table: Table, most: int) -> Iterator[Part]:
    """Yield a file in ranges of whole row groups, each of at most `most` rows or one group."""
    path, size = str(table.path), table.size
    if table.n_rows <= most:
        yield Part((path,), (size,), table.n_rows)
        return
    # cut before the row group that would make a part too long, never inside one: a reader decodes whole groups
    start = end = 0
    for n_rows in table.groups:
        if end > start and end + n_rows - start > most:
            yield Part((path,), (size,), end - start, range(start, end))
            start = end
        end += n_rows
    yield Part((path,), (size,), end - start, range(start, end))


def _merged(parts: Iterable[Part], most: int) -> list[Part]:
    """Merge consecutive small files into one part."""
    merged: list[Part] = []
    for part in parts:
        # In the order of the inputs, so that the files of the output keep the order of the flows.
        last = merged[-1] if merged else None
        if last and last.rows is None and part.rows is None and last.n_rows + part.n_rows <= most:
            merged[-1] = last.followed_by(part)
        else:
            merged.append(part)
    return merged


# --- scoring ----------------------------------------------------------------------------------------------------------


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
        New folder, under the same path on every executor. It appears only when it is whole.
    keep_columns, on_error
        As for :func:`deepidea.adapters.spark.score`.

    Returns
    -------
    Scored
        Skipped rows are counted from the results of tasks, so that a task that runs twice counts once.

    Raises
    ------
    DataError
        A file cannot be read or differs where the task runs, or a cell is invalid. Wrapped by Spark:
        :func:`deepidea.adapters.spark.unwrap_errors` unwraps it.
    StorageError
        The output cannot be written. Nothing of it remains, as after any error.
    """
    # One broadcast an executor; the task itself carries the number of its part alone.
    shared = spark.sparkContext.broadcast((task_detector(detector), list(parts)))
    with _atomic_folder(output) as folder:
        task = _Task(shared, str(folder), keep_columns, on_error)
        numbers = spark.range(0, len(parts), 1, len(parts))  # one a partition
        with no_pandas_warning():
            rows = numbers.mapInArrow(task, _RESULT).collect()
        flows = {int(row["number"]): int(row["n_flows"]) for row in rows}
        _complete(folder / FINISHED, [flows[number] for number in range(len(parts))])
    skipped: Counter[str] = Counter()
    for row in rows:
        skipped.update(json.loads(row["skipped"]))
    return Scored(sum(flows.values()), skipped)


@contextlib.contextmanager
def _atomic_folder(output: Path) -> Iterator[Path]:
    """Yield a folder beside `output` whose folder `FINISHED` becomes the output when the block ends well."""
    work = output.parent / f".{output.name}.{secrets.token_hex(8)}.partial"
    try:
        with _writable(output):
            for name in (FINISHED, ATTEMPTS):
                (work / name).mkdir(parents=True)
        yield work
        with _writable(output):
            if output.exists():
                # rename would replace an empty folder silently, and one with files not at all.
                raise FileExistsError("it was created meanwhile")
            (work / FINISHED).rename(output)
    finally:
        if work.exists():
            gone = work.rename(work.with_suffix(".gone"))
            shutil.rmtree(gone, ignore_errors=True)  # files of another user's executor may have to stay


@contextlib.contextmanager
def _writable(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write output folder {output}: {error.strerror or error}; free space or choose another place"
        ) from error


def _complete(finished: Path, flows: Sequence[int]) -> None:
    """Check that all files are there, and remove those without flows, which may lack columns."""
    names = [_file_name(number) for number in range(len(flows))]
    absent = [name for name in names if not (finished / name).exists()]
    if absent:
        raise StorageError(
            f"{absent[0]} was written by an executor and is not visible here: the output must be on a file system that "
            "all machines share; choose another place"
        )
    for name, n_flows in zip(names, flows, strict=True):
        if n_flows == 0 and any(flows):
            (finished / name).unlink()
    (finished / "_SUCCESS").touch()


def _file_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


@dataclass(frozen=True, slots=True)
class _Task:
    """Scores the parts whose numbers a task gets."""

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
        """Score a part into its file; a second attempt writes the same bytes."""
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
            # Spark runs a slow task twice (speculation): both write the same bytes, and the second replaces the first.
            os.replace(attempt / name, Path(self.folder) / FINISHED / name)
        return n_flows, skipped.reasons


def _require_same(part: Part) -> None:
    """Raise where a file is absent or has another size than on the driver."""
    for path, size in zip(part.paths, part.sizes, strict=True):
        try:
            # Size stands for content: a hash would read every file twice.
            here = Path(path).stat().st_size
        except OSError as error:
            raise DataError(
                f"cannot read {path} on {socket.gethostname()}: {error.strerror or error}; put it under the same path "
                "on every machine"
            ) from error
        if here != size:
            raise DataError(
                f"{path} has {here} bytes on {socket.gethostname()} and had {size} on the driver; put the same file on "
                "every machine, and do not change it meanwhile"
            )


@contextlib.contextmanager
def _attempt(folder: Path) -> Iterator[Path]:
    """Yield a folder for one attempt of one task, on the file system of the output."""
    try:
        with tempfile.TemporaryDirectory(dir=folder / ATTEMPTS, ignore_cleanup_errors=True) as place:
            yield Path(place)
    except OSError as error:
        # An error of storage is an OSError, too, and names the file already.
        if isinstance(error, DeepIDEAError):
            raise
        raise StorageError(
            f"cannot write to {folder.parent} on {socket.gethostname()}: {error.strerror or error}; put the output "
            "under the same path on every machine"
        ) from error
