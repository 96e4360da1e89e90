"""Files and tables in, folders of verdicts out, on Spark: once, or as files arrive."""

from __future__ import annotations

import csv
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deepidea.adapters.spark import Scored, Skipped, score, told
from deepidea.adapters.spark_parts import Part, cut_into_parts, plain_files, plain_folder, score_parts
from deepidea.errors import DataError, FileFormatError, StorageError
from deepidea.flows.skipping import OnError
from deepidea.model.detector import Detector

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Format = Literal["parquet", "csv", "json"]
TABLE = "table:"
POLL_S = 0.2
MAX_FILE_AGE = "36500d"  # a file that comes late is not passed over, however old it is
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

    Parquet on paths that every machine sees goes past Spark's reader and writer: see `deepidea.adapters.spark_parts`.

    Parameters
    ----------
    spark : SparkSession
    detector : Detector
    inputs : sequence of str
        Paths of any file system that Spark knows (local, ``hdfs://``, ``s3a://``), globs and folders of Parquet, CSV or
        JSON lines, all of one kind; or one ``table:NAME`` out of Spark's catalogue.
    output : str
        Folder that is not there yet; ``.csv`` or ``.jsonl`` at its end make it one of such files, else Parquet.
    keep_columns, on_error
        As for :func:`deepidea.adapters.spark.score`.
    header : sequence of str, optional
        Column names of CSV files that have no header line.

    Raises
    ------
    DeepIDEAError
        The inputs cannot be read or lack a feature, a cell breaks a rule, the output is there already.
    """
    options: dict[str, Any] = {"keep_columns": keep_columns, "on_error": on_error}
    with told():
        _refuse_existing(spark, output)
        kind = _SUFFIXES.get(Path(output).suffix, "parquet")
        folder = plain_folder(spark, output) if kind == "parquet" else None
        parts = _plain_parts(spark, detector, inputs, keep_columns) if folder else None
        if folder and parts:
            return score_parts(spark, detector, parts, folder, **options)
        flows = read_flows(spark, inputs, header=header)
        return _score_by_spark(flows, detector, output, kind, **options)


def _plain_parts(
    spark: SparkSession, detector: Detector, inputs: Sequence[str], keep_columns: bool
) -> list[Part] | None:
    """Return the inputs as parts that tasks can read themselves; None where they cannot."""
    files = None if inputs[0].startswith(TABLE) else plain_files(spark, inputs)
    if files is None:
        return None
    return cut_into_parts(files, detector, keep_columns=keep_columns, n_cores=spark.sparkContext.defaultParallelism)


def _score_by_spark(
    flows: DataFrame, detector: Detector, output: str, kind: Format, *, keep_columns: bool, on_error: OnError
) -> Scored:
    """Score flows between Spark's own reader and writer."""
    skipped = Skipped(flows.sparkSession) if on_error == "skip" else None
    verdicts = score(flows, detector, keep_columns=keep_columns, on_error=on_error, skipped=skipped)
    n_flows = _written(verdicts, output, kind, mode="error")
    return Scored(n_flows, skipped.reasons if skipped else Counter())


def read_flows(spark: SparkSession, inputs: Sequence[str], *, header: Sequence[str] | None = None) -> DataFrame:
    """Return the flows of files as Spark reads them; cells of CSV stay text, which the detector's schema then reads."""
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
        raise DataError(f"inputs of one job must be of one kind, however: they are {kinds}; score them one by one")
    return next(iter(kinds.values()))


def _kind_of(spark: SparkSession, path: str) -> Format:
    """Return the format that a path, or the first file that it stands for, names."""
    for name in (path, _first_file(spark, path)):
        suffix = Path(name.removesuffix(".gz")).suffix.lower()
        if suffix in _SUFFIXES:
            return _SUFFIXES[suffix]
    raise FileFormatError(
        f"a file must be named for its kind ({', '.join(_SUFFIXES)}), however: {path} is not; rename it"
    )


def _first_file(spark: SparkSession, path: str) -> str:
    """Return the first file that a path, glob or folder stands for, by any file system that Spark knows."""
    java: Any = spark._jvm
    place = java.org.apache.hadoop.fs.Path(path)
    system = place.getFileSystem(spark._jsc.hadoopConfiguration())
    for status in sorted(system.globStatus(place) or [], key=str):
        if not status.isDirectory():
            return str(status.getPath().toString())
        files = system.listFiles(status.getPath(), True)
        while files.hasNext():
            found = files.next().getPath()
            if not str(found.getName()).startswith(("_", ".")):
                return str(found.toString())
    raise DataError(f"an input must stand for at least one file, however: {path} stands for none; check the path")


def _head_of(spark: SparkSession, path: str, header: Sequence[str] | None) -> tuple[list[str], str]:
    """Return the column names of CSV files, and what separates their cells."""
    first = spark.read.text(_first_file(spark, path)).first()
    line = "" if first is None else str(first[0]).lstrip("\ufeff").rstrip("\r")
    if not line.strip():
        raise FileFormatError(f"a CSV file must begin with its header, however: {path} begins with an empty line")
    separator = "," if "," in line else next((mark for mark in _SEPARATORS if mark in line), ",")
    cells = next(csv.reader([line], delimiter=separator))
    given = list(header or cells)
    names = given[: len(cells)] + [f"extra_{j + 1}" for j in range(len(cells) - len(given))]
    return _made_different(names), separator


def _made_different(names: Sequence[str]) -> list[str]:
    """Return names of which none comes twice: the second of one is ``<name>_duplicated_0``, as on one machine.

    Examples
    --------
    >>> _made_different(["a", "b", "a", "a"])
    ['a', 'b', 'a_duplicated_0', 'a_duplicated_1']
    """
    seen: Counter[str] = Counter()
    made = []
    for name in names:
        made.append(f"{name}_duplicated_{seen[name] - 1}" if seen[name] else name)
        seen[name] += 1
    return made


def _refuse_existing(spark: SparkSession, output: str) -> None:
    java: Any = spark._jvm
    place = java.org.apache.hadoop.fs.Path(output)
    if place.getFileSystem(spark._jsc.hadoopConfiguration()).exists(place):
        raise StorageError(
            f"the output folder must not be there yet, however: {output} is; remove it or choose another"
        )


def _written(verdicts: DataFrame, place: str, kind: Format, *, mode: str) -> int:
    """Write verdicts and return how many they are."""
    from pyspark.sql import Observation
    from pyspark.sql.functions import count, lit

    seen = Observation("verdicts")
    writer = verdicts.observe(seen, count(lit(1)).alias("n")).write.mode(mode).format(kind)
    (writer.option("header", True) if kind == "csv" else writer).save(place)
    return int(seen.get["n"])


# --- files that arrive ------------------------------------------------------------------------------------------------


def score_arriving(
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
    """Score files as they arrive in a folder; each once, whatever is killed when.

    What arrives together is written to a folder of its own, ``output/batch=<number>``. Spark keeps in ``checkpoint``
    which files make up which batch before it begins one, so that after a kill the last batch is done again from the
    same files into the same place, and no verdict is lost or there twice.

    Parameters
    ----------
    spark : SparkSession
    detector : Detector
    inputs : sequence of str
        The one folder where files arrive: whole, by a rename; names that begin with ``_`` or ``.`` are passed over. One
        file at least must be there already, since it tells the columns. Order and age of the files do not matter.
    output, checkpoint : str
        Folders, both needed. They belong together: a new checkpoint with an old output is refused.
    stop : threading.Event, optional
        Ends the work; a batch at hand is done again by the next run.
    follow : bool
        Whether to wait for more files; else ends when those that are there are done.
    keep_columns, on_error
        As for :func:`deepidea.adapters.spark.score`.
    files_at_once : int
        Most files of a batch.
    progress : callable, optional
        Gets the number of flows so far.

    Returns
    -------
    Scored
        Of this run.
    """
    if len(inputs) != 1 or checkpoint is None:
        raise DataError(
            "files that arrive need one folder and a checkpoint, however: "
            f"{len(inputs)} inputs and {'no' if checkpoint is None else 'a'} checkpoint are given; give --checkpoint"
        )
    counted: Counter[str] = Counter()
    skipped = Skipped(spark) if on_error == "skip" else None

    def work(rows: DataFrame, number: int) -> None:
        verdicts = score(rows, detector, keep_columns=keep_columns, on_error=on_error, skipped=skipped)
        counted["flows"] += _written(verdicts, f"{output}/batch={number:09d}", "parquet", mode="overwrite")
        if progress is not None:
            progress(counted["flows"])

    with told():
        _refuse_foreign(spark, output, checkpoint)
        flows = _arriving(spark, inputs[0], files_at_once)
        writer = flows.writeStream.foreachBatch(work).option("checkpointLocation", checkpoint)
        trigger: dict[str, Any] = {"processingTime": "0 seconds"} if follow else {"availableNow": True}
        _wait(writer.trigger(**trigger).start(), stop or threading.Event())
    return Scored(counted["flows"], skipped.reasons if skipped else Counter())


def _arriving(spark: SparkSession, folder: str, files_at_once: int) -> DataFrame:
    """Return the stream of a folder's files, with the columns of those that are there."""
    now = read_flows(spark, [folder])
    kind = _kind_of(spark, folder)
    reader = spark.readStream.schema(now.schema).format(kind)
    options: dict[str, Any] = {"maxFilesPerTrigger": files_at_once, "maxFileAge": MAX_FILE_AGE}
    if kind == "csv":
        options |= {"header": True, "sep": _head_of(spark, folder, None)[1], "enforceSchema": True}
    return reader.options(**options).load(folder)


def _refuse_foreign(spark: SparkSession, output: str, checkpoint: str) -> None:
    java: Any = spark._jvm
    places = [java.org.apache.hadoop.fs.Path(place) for place in (output, checkpoint)]
    conf = spark._jsc.hadoopConfiguration()
    there = [place.getFileSystem(conf).exists(place) for place in places]
    if there == [True, False]:
        raise StorageError(
            f"verdicts and checkpoint must belong together, however: {output} is there and {checkpoint} is not, so "
            "that every file would be scored into it again; give its checkpoint, or another output"
        )


def _wait(query: Any, stop: threading.Event) -> None:
    try:
        while query.isActive and not stop.is_set():
            query.awaitTermination(POLL_S)
        if query.exception() is not None:
            raise query.exception()
    finally:
        query.stop()
