"""Score files and tables on Spark into folders of verdicts: once, or as new files arrive."""

from __future__ import annotations

import csv
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deepidea.adapters.spark import Scored, SkippedRows, score, unwrap_errors
from deepidea.adapters.spark_parts import cut_into_parts, filesystem_of, local_files, local_folder, score_parts
from deepidea.errors import DataError, FileFormatError, StorageError
from deepidea.flows.skipping import OnError
from deepidea.model.detector import Detector

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Format = Literal["parquet", "csv", "json"]
TABLE = "table:"
POLL_S = 0.2
MAX_FILE_AGE = "36500d"  # new files count however old their time stamps are; Spark ignores old ones by default
_SUFFIXES: dict[str, Format] = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
_SEPARATORS = ";\t|"


def score_files(
    spark: SparkSession,
    detector: Detector,
    inputs: Sequence[str],
    output: str,
    *,
    keep_columns: bool = True,
    on_error: OnError = "raise",
    header: Sequence[str] | None = None,
) -> Scored:
    """Score files that Spark can read and write a folder of verdicts.

    Parquet on paths that every machine sees bypasses Spark's reader and writer: see `deepidea.adapters.spark_parts`.

    Parameters
    ----------
    spark : SparkSession
    detector : Detector
    inputs : sequence of str
        Paths on any file system of Spark (local, ``hdfs://``, ``s3a://``), globs and folders of Parquet, CSV or JSON
        lines, all of one kind; or one ``table:NAME`` of Spark's catalogue.
    output : str
        New folder; ``.csv`` or ``.jsonl`` at its end select that format, else Parquet.
    keep_columns, on_error
        As for :func:`deepidea.adapters.spark.score`.
    header : sequence of str, optional
        Column names of CSV files that have no header line.

    Raises
    ------
    DeepIDEAError
        The inputs cannot be read or lack a feature, a cell is invalid, or the output exists.
    """
    options: dict[str, Any] = {"keep_columns": keep_columns, "on_error": on_error}
    with unwrap_errors():
        if _exists(spark, output):
            raise StorageError(f"output folder {output} already exists; remove it or choose another")
        kind = _SUFFIXES.get(Path(output).suffix, "parquet")
        folder = local_folder(spark, output) if kind == "parquet" else None
        files = local_files(spark, inputs) if folder and not inputs[0].startswith(TABLE) else None
        n_cores = spark.sparkContext.defaultParallelism
        parts = cut_into_parts(files, detector, keep_columns=keep_columns, n_cores=n_cores) if files else None
        if folder and parts:
            return score_parts(spark, detector, parts, folder, **options)
        skipped = SkippedRows(spark) if on_error == "skip" else None
        verdicts = score(read_flows(spark, inputs, header=header), detector, **options, skipped=skipped)
        n_flows = _write(verdicts, output, kind, mode="error")
    return Scored(n_flows, skipped.reasons if skipped else Counter())


def read_flows(spark: SparkSession, inputs: Sequence[str], *, header: Sequence[str] | None = None) -> DataFrame:
    """Return the flows of files as Spark reads them; cells of CSV stay text, for the detector's schema to parse."""
    if len(inputs) == 1 and inputs[0].startswith(TABLE):
        return spark.table(inputs[0].removeprefix(TABLE))
    kind = _kind_of_all(spark, inputs)
    if kind == "csv":
        names, separator = _head_of(spark, inputs[0], header)
        rows = spark.read.csv(list(inputs), sep=separator, header=header is None, inferSchema=False)
        return rows.toDF(*names)
    return spark.read.format(kind).load(list(inputs))


def _kind_of_all(spark: SparkSession, inputs: Sequence[str]) -> Format:
    kinds = {path: _kind_of(spark, path) for path in inputs}
    if len(set(kinds.values())) != 1:
        raise DataError(f"inputs of one job differ in format: {kinds}; score them one by one")
    return next(iter(kinds.values()))


def _kind_of(spark: SparkSession, path: str) -> Format:
    """Return the format by the suffix of a path or of its first file."""
    for name in (path, _first_file(spark, path)):
        suffix = Path(name.removesuffix(".gz")).suffix.lower()
        if suffix in _SUFFIXES:
            return _SUFFIXES[suffix]
    raise FileFormatError(f"unknown format of {path}: its name must end in {', '.join(_SUFFIXES)}; rename it")


def _first_file(spark: SparkSession, path: str) -> str:
    """Return the first file of a path, glob or folder, on any file system of Spark."""
    system, place = filesystem_of(spark, path)
    for status in sorted(system.globStatus(place) or [], key=str):
        if not status.isDirectory():
            return str(status.getPath().toString())
        files = system.listFiles(status.getPath(), True)
        while files.hasNext():
            found = files.next().getPath()
            if not str(found.getName()).startswith(("_", ".")):
                return str(found.toString())
    raise DataError(f"no file matches {path}; check the path")


def _head_of(spark: SparkSession, path: str, header: Sequence[str] | None) -> tuple[list[str], str]:
    """Return the column names of CSV files, and the separator of their cells."""
    first = spark.read.text(_first_file(spark, path)).first()
    line = "" if first is None else str(first[0]).lstrip("\ufeff").rstrip("\r")
    if not line.strip():
        raise FileFormatError(f"{path} has no CSV header: its first line is empty")
    separator = "," if "," in line else next((mark for mark in _SEPARATORS if mark in line), ",")
    cells = next(csv.reader([line], delimiter=separator))
    given = list(header or cells)
    names = given[: len(cells)] + [f"extra_{j + 1}" for j in range(len(cells) - len(given))]
    return _made_unique(names), separator


def _made_unique(names: Sequence[str]) -> list[str]:
    """Return unique names: the second of one becomes ``<name>_duplicated_0``, as on one machine.

    Examples
    --------
    >>> _made_unique(["a", "b", "a", "a"])
    ['a', 'b', 'a_duplicated_0', 'a_duplicated_1']
    """
    seen: Counter[str] = Counter()
    made = []
    for name in names:
        made.append(f"{name}_duplicated_{seen[name] - 1}" if seen[name] else name)
        seen[name] += 1
    return made


def _exists(spark: SparkSession, path: str) -> bool:
    system, place = filesystem_of(spark, path)
    return bool(system.exists(place))


def _write(verdicts: DataFrame, place: str, kind: Format, *, mode: str) -> int:
    """Write verdicts and return their number."""
    from pyspark.sql import Observation
    from pyspark.sql.functions import count, lit

    # Counts rows while they are written: a count of its own would score everything a second time.
    seen = Observation("verdicts")
    writer = verdicts.observe(seen, count(lit(1)).alias("n")).write.mode(mode).format(kind)
    (writer.option("header", True) if kind == "csv" else writer).save(place)
    return int(seen.get["n"])


# --- new files --------------------------------------------------------------------------------------------------------


def score_new_files(
    spark: SparkSession,
    detector: Detector,
    inputs: Sequence[str],
    output: str,
    checkpoint: str | None,
    *,
    stop: threading.Event | None = None,
    follow: bool = True,
    keep_columns: bool = True,
    on_error: OnError = "raise",
    files_at_once: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Scored:
    """Score files as they arrive in a folder; each exactly once, whatever is killed when.

    Files that arrive together are a batch, with its own folder ``output/batch=<number>``. Spark records the files of a
    batch in ``checkpoint`` before it starts the batch. After a kill, the last batch is therefore repeated from the same
    files and overwrites the same folder, so that no verdict is lost or duplicated.

    Parameters
    ----------
    spark : SparkSession
    detector : Detector
    inputs : sequence of str
        The one folder where files arrive: whole, by a rename; names that begin with ``_`` or ``.`` are ignored. At
        least one file must be there already: the columns are read from it. Order and age of files do not matter.
    output, checkpoint : str
        Folders, both required. They belong together: a new checkpoint with an old output is refused.
    stop : threading.Event, optional
        Ends the job; the next run repeats an unfinished batch.
    follow : bool
        Whether to wait for more files; else the job ends after the present ones.
    keep_columns, on_error
        As for :func:`deepidea.adapters.spark.score`.
    files_at_once : int
        Most files of a batch.
    progress : callable, optional
        Called with the number of flows so far.

    Returns
    -------
    Scored
        Of this run.
    """
    if len(inputs) != 1 or checkpoint is None:
        raise DataError(
            f"scoring new files needs one folder and a checkpoint, got {len(inputs)} inputs and "
            f"{'no' if checkpoint is None else 'a'} checkpoint; give --checkpoint"
        )
    counted: Counter[str] = Counter()
    skipped = SkippedRows(spark) if on_error == "skip" else None

    # Runs on the driver for each batch; overwriting the batch's own folder makes a repeated batch harmless.
    def score_batch(rows: DataFrame, number: int) -> None:
        verdicts = score(rows, detector, keep_columns=keep_columns, on_error=on_error, skipped=skipped)
        counted["flows"] += _write(verdicts, f"{output}/batch={number:09d}", "parquet", mode="overwrite")
        if progress is not None:
            progress(counted["flows"])

    with unwrap_errors():
        # The checkpoint knows which files were scored; without it Spark would begin with the first one.
        if _exists(spark, output) and not _exists(spark, checkpoint):
            raise StorageError(
                f"output {output} exists and checkpoint {checkpoint} does not, so every file would be scored again; "
                "give the checkpoint of this output, or another output"
            )
        flows = _stream_of(spark, inputs[0], files_at_once)
        writer = flows.writeStream.foreachBatch(score_batch).option("checkpointLocation", checkpoint)
        trigger: dict[str, Any] = {"processingTime": "0 seconds"} if follow else {"availableNow": True}
        _wait(writer.trigger(**trigger).start(), stop or threading.Event())
    return Scored(counted["flows"], skipped.reasons if skipped else Counter())


def _stream_of(spark: SparkSession, folder: str, files_at_once: int) -> DataFrame:
    """Return the stream of a folder's files, with the columns of the present ones."""
    # a stream needs a fixed schema before its first file
    now = read_flows(spark, [folder])
    kind = _kind_of(spark, folder)
    reader = spark.readStream.schema(now.schema).format(kind)
    options: dict[str, Any] = {"maxFilesPerTrigger": files_at_once, "maxFileAge": MAX_FILE_AGE}
    if kind == "csv":
        options |= {"header": True, "sep": _head_of(spark, folder, None)[1], "enforceSchema": True}
    return reader.options(**options).load(folder)


def _wait(query: Any, stop: threading.Event) -> None:
    try:
        while query.isActive and not stop.is_set():
            # In short waits: a call into Java does not return for an event of Python.
            query.awaitTermination(POLL_S)
        if query.exception() is not None:
            raise query.exception()
    finally:
        query.stop()
