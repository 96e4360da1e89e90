"""Scoring on Spark: tables larger than one machine, with bit-equal verdicts.

The detector is broadcast, so each executor gets it once, whatever the number of its tasks. A task streams its partition
in Arrow batches, so memory is bounded by a batch. A verdict depends on its flow alone, so partitions, batches and
retries of tasks do not change it.

Examples
--------
::

    from pyspark.sql import SparkSession
    from deepidea.adapters.spark import score

    spark = SparkSession.builder.getOrCreate()
    verdicts = score(spark.read.parquet("s3a://flows/2026/"), "site.idea")
    verdicts.where("score > 0.9").write.parquet("s3a://verdicts/2026/")
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from deepidea import errors
from deepidea.errors import DataError, DeepIDEAError, MissingExtraError, SchemaError, SourceError
from deepidea.flows.schema import Schema
from deepidea.flows.skipping import OnError, SkipCount
from deepidea.flows.tables import conform_rows
from deepidea.model.detector import Detector

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import Accumulator
    from pyspark.sql import DataFrame, SparkSession

BATCH_ROWS = 16_384  # flows in memory of a task
CONNECT_TIMEOUT_S = 5.0  # to a master
_TYPES: Mapping[type[pl.DataType], str] = {
    pl.String: "string",
    pl.Float64: "double",
    pl.Float32: "float",
    pl.Boolean: "boolean",
}
# An error of a task arrives as text, with the traceback of Python inside the stack traces of Java: the class of a
# DeepIDEAError and its message, up to the end of the paragraph.
_OWN_ERROR = re.compile(r"deepidea\.errors\.(\w+): (.+?)(?:\n\s*\n|\n\tat |$)", re.DOTALL)

_NO_PACKAGE = re.compile(r"No module named '(deepidea|polars|onnxruntime)")
_CAUSE = re.compile(r"(Caused by: )?[\w.]*(Error|Exception)\b")


@dataclass(frozen=True, slots=True)
class Scored:
    """Result of a job: flows scored, and skipped rows by reason."""

    n_flows: int
    skipped: Counter[str] = field(default_factory=Counter)


class SkippedRows:
    """Counts the rows that tasks skipped, by reason.

    Spark sums the counts of finished tasks. A task that runs twice, after an executor was lost, may count twice.

    Parameters
    ----------
    spark : SparkSession
    """

    def __init__(self, spark: SparkSession) -> None:
        from pyspark.accumulators import AccumulatorParam

        class _Reasons(AccumulatorParam[Counter[str]]):
            def zero(self, value: Counter[str]) -> Counter[str]:  # noqa: ARG002
                return Counter()

            def addInPlace(self, value1: Counter[str], value2: Counter[str]) -> Counter[str]:
                value1.update(value2)
                return value1

        self.counts: Accumulator[Counter[str]] = spark.sparkContext.accumulator(Counter(), _Reasons())

    @property
    def reasons(self) -> Counter[str]:
        """Rows by reason, of finished tasks."""
        return self.counts.value


def score(
    flows: DataFrame,
    model: str | Path | Detector,
    *,
    keep_columns: bool = True,
    on_error: OnError = "raise",
    skipped: SkippedRows | None = None,
) -> DataFrame:
    """Return one verdict a flow, evaluated lazily.

    Parameters
    ----------
    flows : DataFrame
        Flows under any column names of the detector's schema; batch or streaming.
    model : path or Detector
        Detector file on the driver; executors need no copy of it, but must have this package installed.
    keep_columns : bool
        Whether verdicts have the columns of their flow. Spark keeps no order, so without them verdicts cannot be
        attributed to flows.
    on_error : {"raise", "skip"}
        How to treat an invalid row. ``skip`` counts it in ``skipped``.
    skipped : SkippedRows, optional

    Returns
    -------
    DataFrame
        The flow's columns, and those of :meth:`deepidea.model.detector.Detector.score`, which win where names collide.

    Raises
    ------
    SchemaError
        At once: the table lacks a feature.
    ArtifactError
        At once: the detector file cannot be used.
    CellError
        When Spark evaluates an invalid cell, wrapped in Spark's own exception; :func:`unwrap_errors` unwraps it.
    """
    if on_error == "skip" and skipped is None:
        raise DataError("on_error='skip' needs skipped=SkippedRows(spark), or skipped rows would not be counted")
    detector = task_detector(model if isinstance(model, Detector) else Detector.load(model))
    columns = list(flows.columns)
    _check_columns(columns, detector.schema)
    # Spark takes a name with a dot for a field of a column, so columns are named by number
    numbered = flows.toDF(*(f"c{j}" for j in range(len(columns))))
    names = columns if keep_columns else list(detector.schema.canonical_names(columns))
    numbered = numbered.select(*(f"c{columns.index(name)}" for name in names))
    numbered = numbered.toDF(*(f"c{j}" for j in range(len(names))))
    shared = flows.sparkSession.sparkContext.broadcast(detector)
    verdict_types = _verdict_types(detector)
    kept = [name for name in names if keep_columns and name not in verdict_types]
    counts = skipped.counts if skipped and on_error == "skip" else None
    score_partition = _task(lambda: shared.value, names, kept, counts)
    types = [numbered.schema[f"c{names.index(name)}"].dataType.simpleString() for name in kept]
    described = [f"c{j} {kind}" for j, kind in enumerate([*types, *verdict_types.values()])]
    with no_pandas_warning():
        return numbered.mapInArrow(score_partition, ", ".join(described)).toDF(*kept, *verdict_types)


def task_detector(detector: Detector) -> Detector:
    """Return the detector for tasks: on one thread, since each core has its own task, and with what scoring needs."""
    # Weights, fingerprints and references may be a hundred times as large as the graph, and scoring uses none of them.
    unused = dict.fromkeys(("weights", "training_fingerprints", "reference", "site_reference", "card"))
    return detector.with_options(**unused, n_threads=1)


def _check_columns(names: list[str], schema: Schema) -> None:
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise SchemaError(f"duplicate column names: {', '.join(twice)}; rename one of each")
    text = pl.Schema(dict.fromkeys(names, pl.String()))
    schema.conform(pl.DataFrame(schema=text))


def _verdict_types(detector: Detector) -> dict[str, str]:
    """Return the columns of verdicts with the names of their types in Spark."""
    return {name: _TYPES[type(dtype)] for name, dtype in detector.no_verdicts().schema.items()}


def _task(
    detector: Callable[[], Detector], names: list[str], kept: list[str], counts: Accumulator[Counter[str]] | None
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Return the function that scores the batches of a partition."""

    def score_partition(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        here, done = detector(), 0
        for batch in batches:
            if not batch.num_rows:
                continue
            skipped = None if counts is None else SkipCount()
            # A batch in, a batch out: memory does not grow with the partition.
            yield _score_batch(here, batch, names, kept, done, skipped)
            if counts is not None and skipped:
                counts.add(skipped.reasons)
            done += batch.num_rows

    return score_partition


def _score_batch(
    detector: Detector, batch: pa.RecordBatch, names: list[str], kept: list[str], done: int, skipped: SkipCount | None
) -> pa.RecordBatch:
    """Return the kept columns of a batch, unchanged, and the verdicts."""
    import pyarrow as pa

    known = [names.index(name) for name in detector.schema.canonical_names(names)]
    table = pl.DataFrame(pl.from_arrow(batch.select(known))).rename({f"c{j}": names[j] for j in known})
    chunk = conform_rows(table, detector.schema, source="partition", first_row=done + 1, skipped=skipped)
    verdicts = _as_arrow(detector.score_conformed(chunk.flows))
    # rows that were skipped have no verdict: their positions are missing from the chunk
    rows = batch if len(chunk) == batch.num_rows else batch.take(pa.array(chunk.positions - (done + 1)))
    # Kept columns are Spark's own Arrow arrays, never converted: types that polars lacks come out as they went in.
    columns = [*(rows.column(names.index(name)) for name in kept), *verdicts]
    return pa.RecordBatch.from_arrays(columns, [f"c{j}" for j in range(len(columns))])


def _as_arrow(verdicts: pl.DataFrame) -> Iterator[pa.Array]:
    """Yield the columns in the Arrow types that Spark supports: polars has large strings."""
    import pyarrow as pa

    for column in verdicts.to_arrow(compat_level=pl.CompatLevel.oldest()).itercolumns():
        whole = column.combine_chunks()
        yield whole.cast(pa.string()) if pa.types.is_large_string(whole.type) else whole


@contextlib.contextmanager
def no_pandas_warning() -> Iterator[None]:
    """Suppress Spark's warning on versions of pandas: no table goes through pandas here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas", category=FutureWarning)
        yield


# --- sessions and errors ----------------------------------------------------------------------------------------------


def open_session(master: str = "local[*]", *, options: Mapping[str, str] | None = None) -> SparkSession:
    """Return a Spark session for scoring or training.

    Parameters
    ----------
    master : str
        ``local[2]``, ``spark://host:7077``, ``yarn``, ``k8s://...``.
    options : mapping, optional
        Further settings of Spark, such as ``spark.executor.memory``.

    Raises
    ------
    MissingExtraError
        pyspark or Java is not installed.
    SourceError
        The master does not answer, the session cannot be opened, or this process has a session on another master.
    """
    session_type = _session_type()
    _require_java()
    _require_master(master)
    _require_same_master(session_type, master)
    settings = {
        "spark.ui.enabled": "false",
        "spark.log.level": "ERROR",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(BATCH_ROWS),
        "spark.executorEnv.POLARS_MAX_THREADS": "1",  # each core has its own task
        **(_ON_LOOPBACK if master.startswith("local") else {}),
        **(options or {}),
    }
    if master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # default: python3 on the PATH
    builder = session_type.builder.appName("deepidea").master(master)
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        with no_pandas_warning():
            session: SparkSession = builder.getOrCreate()
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise SourceError(f"cannot open a Spark session on {master}: {reason}") from error
    return session


def _require_same_master(session_type: Any, master: str) -> None:
    """Refuse another master, for which Spark would silently return the open session."""
    active = session_type.getActiveSession()
    if active is not None and active.sparkContext.master != master:
        raise SourceError(
            f"cannot open a Spark session on {master}: this process has one on {active.sparkContext.master}; stop that "
            "session first"
        )


_ON_LOOPBACK = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}


def _session_type() -> Any:
    try:
        import pyarrow  # noqa: F401  # what mapInArrow needs

        with no_pandas_warning():
            from pyspark.sql import SparkSession
    except ImportError as error:
        raise MissingExtraError(
            f"Spark needs pyspark and pyarrow: {error}; install them with: pip install 'deepidea[spark]'"
        ) from error
    return SparkSession


def _require_java() -> None:
    home = os.environ.get("JAVA_HOME")
    found = (Path(home) / "bin" / "java").exists() if home else shutil.which("java") is not None
    if not found:
        where = f"in JAVA_HOME={home}" if home else "on the PATH"
        raise MissingExtraError(
            f"Spark needs Java 17 or newer, found none {where}; install it (Debian: apt install "
            "openjdk-17-jre-headless), or set JAVA_HOME"
        )


def _require_master(master: str) -> None:
    """Refuse a master that does not answer at once; Spark itself would try for minutes."""
    if not master.startswith("spark://"):
        return
    reasons = []
    # A standby pair of masters is named with a comma; one that answers is enough.
    for place in master.removeprefix("spark://").split(","):
        host, _, port = place.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
            return
        except (OSError, ValueError) as error:
            reasons.append(f"{place}: {error}")
    raise SourceError(f"no Spark master answers at {master}: {'; '.join(reasons)}; start it, or give another --master")


@contextlib.contextmanager
def unwrap_errors() -> Iterator[None]:
    """Turn Spark's exception around an error of a task into that error, without stack traces of Java.

    Raises
    ------
    DeepIDEAError
        The error that the task raised; :class:`~deepidea.errors.SourceError` for a failure of Spark itself.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        raise _unwrapped(str(error)) from error


def _unwrapped(text: str) -> DeepIDEAError:
    if own := _OWN_ERROR.search(text):
        return getattr(errors, own[1], DataError)(own[2].strip())
    if _NO_PACKAGE.search(text):
        return SourceError(
            "deepidea is not installed for the Python of an executor; install it there and name that Python in "
            "PYSPARK_PYTHON, or ship an environment with spark.archives"
        )
    # the innermost cause is the last line that names an exception, outside of the stack traces
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("\tat ")]
    causes = [line for line in lines if _CAUSE.match(line)]
    return SourceError(f"Spark failed: {([*lines[:1], *causes] or ['no reason given'])[-1][:500]}")
