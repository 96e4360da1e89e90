"""Scoring on Spark: tables that outgrow one machine, by the same detector, to the same bits.

The detector is broadcast, so an executor gets it once, whatever the number of its tasks. Each task streams its
partition through in Arrow batches: memory is bounded by a batch, not by the partition. A verdict depends on its flow
alone, so neither partitions nor batches nor retries of tasks change one.

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

BATCH_ROWS = 16_384  # flows that a task holds at a time
REACH_S = 5.0  # for a master to take a connection
_TYPES: Mapping[type[pl.DataType], str] = {
    pl.String: "string",
    pl.Float64: "double",
    pl.Float32: "float",
    pl.Boolean: "boolean",
}
_OURS = re.compile(r"deepidea\.errors\.(\w+): (.+?)(?:\n\s*\n|\n\tat |$)", re.DOTALL)

_NO_PACKAGE = re.compile(r"No module named '(deepidea|polars|onnxruntime)")
_CAUSE = re.compile(r"(Caused by: )?[\w.]*(Error|Exception)\b")


@dataclass(frozen=True, slots=True)
class Scored:
    """What a job did: flows scored, and rows left out by reason."""

    n_flows: int
    skipped: Counter[str] = field(default_factory=Counter)


class Skipped:
    """Rows that tasks left out, by reason; shared by the tasks of one session.

    Spark adds up what finished tasks counted. A task that runs twice, after an executor was lost, may be counted twice.

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
        """Rows by reason, as far as tasks have ended."""
        return self.counts.value


def score(
    flows: DataFrame,
    model: str | Path | Detector,
    *,
    keep_columns: bool = True,
    on_error: OnError = "raise",
    skipped: Skipped | None = None,
) -> DataFrame:
    """Return one verdict a flow; nothing is worked out before Spark needs it.

    Parameters
    ----------
    flows : DataFrame
        Flows under any names that the detector's schema knows; batch or streaming.
    model : path or Detector
        Detector file on the driver; executors need no copy of it, but must have this package installed.
    keep_columns : bool
        Whether verdicts carry the columns of their flow. Spark keeps no order, so without them nothing tells which flow
        a verdict is about.
    on_error : {"raise", "skip"}
        What becomes of a row that breaks a rule. ``skip`` counts it in ``skipped``.
    skipped : Skipped, optional

    Returns
    -------
    DataFrame
        The flow's columns, and those of :meth:`deepidea.model.detector.Detector.score`; a column that both have is the
        verdict's.

    Raises
    ------
    SchemaError
        At once, where the table lacks a feature.
    ArtifactError
        At once, where the detector file cannot be used.
    CellError
        From whatever makes Spark work, wrapped in its own exception (:func:`told` unwraps it), where a cell breaks a
        rule.
    """
    if on_error == "skip" and skipped is None:
        raise DataError("on_error='skip' must come with skipped=Skipped(spark), however: nothing would count the rows")
    detector = for_tasks(model if isinstance(model, Detector) else Detector.load(model))
    columns = list(flows.columns)
    _check_columns(columns, detector.schema)
    # a name with a dot in it would be taken for a field of a column, so that columns go by number
    numbered = flows.toDF(*(f"c{j}" for j in range(len(columns))))
    names = columns if keep_columns else list(detector.schema.canonical_names(columns))
    numbered = numbered.select(*(f"c{columns.index(name)}" for name in names))
    numbered = numbered.toDF(*(f"c{j}" for j in range(len(names))))
    shared = flows.sparkSession.sparkContext.broadcast(detector)
    verdict_types = _verdict_types(detector)
    kept = [name for name in names if keep_columns and name not in verdict_types]
    counts = skipped.counts if skipped and on_error == "skip" else None
    work = _task(lambda: shared.value, names, kept, counts)
    types = [numbered.schema[f"c{names.index(name)}"].dataType.simpleString() for name in kept]
    described = [f"c{j} {kind}" for j, kind in enumerate([*types, *verdict_types.values()])]
    with only_arrow_is_used():
        return numbered.mapInArrow(work, ", ".join(described)).toDF(*kept, *verdict_types)


def for_tasks(detector: Detector) -> Detector:
    """Return the detector as tasks need it: on one thread, since each core has its own task, and without baggage."""
    return Detector(
        detector.encoder,
        detector.decision,
        detector.classes,
        detector.labels,
        detector.graph,
        novelty=detector.novelty,
        n_threads=1,
    )


def _check_columns(names: list[str], schema: Schema) -> None:
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise SchemaError(f"columns must have different names, however: {', '.join(twice)} is there twice; rename one")
    text = pl.Schema(dict.fromkeys(names, pl.String()))
    schema.conform(pl.DataFrame(schema=text))


def _verdict_types(detector: Detector) -> dict[str, str]:
    """Return the columns of verdicts with their types in Spark's words."""
    text = set(detector.schema.categories)
    empty = {name: pl.String() if name in text else pl.Float64() for name in detector.schema.features}
    verdicts = detector.score(pl.DataFrame(schema=empty))
    return {name: _TYPES[type(dtype)] for name, dtype in verdicts.schema.items()}


def _task(
    detector: Callable[[], Detector], names: list[str], kept: list[str], counts: Accumulator[Counter[str]] | None
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Return what a task does with the batches of its partition."""

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        here, done = detector(), 0
        for batch in batches:
            if not batch.num_rows:
                continue
            skipped = None if counts is None else SkipCount()
            yield _score_batch(here, batch, names, kept, done, skipped)
            if counts is not None and skipped:
                counts.add(skipped.reasons)
            done += batch.num_rows

    return work


def _score_batch(
    detector: Detector, batch: pa.RecordBatch, names: list[str], kept: list[str], done: int, skipped: SkipCount | None
) -> pa.RecordBatch:
    """Return the verdicts of a batch beside the columns that are kept, which stay as Spark gave them, type and all."""
    import pyarrow as pa

    known = [names.index(name) for name in detector.schema.canonical_names(names)]
    table = pl.DataFrame(pl.from_arrow(batch.select(known))).rename({f"c{j}": names[j] for j in known})
    chunk = conform_rows(table, detector.schema, source="partition", first_row=done + 1, skipped=skipped)
    verdicts = _as_arrow(detector.score_conformed(chunk.flows))
    rows = batch if len(chunk) == batch.num_rows else batch.take(pa.array(chunk.positions - (done + 1)))
    columns = [*(rows.column(names.index(name)) for name in kept), *verdicts]
    return pa.RecordBatch.from_arrays(columns, [f"c{j}" for j in range(len(columns))])


def _as_arrow(verdicts: pl.DataFrame) -> Iterator[pa.Array]:
    """Yield the columns in the Arrow types that Spark knows: polars has wider ones for text."""
    import pyarrow as pa

    for column in verdicts.to_arrow(compat_level=pl.CompatLevel.oldest()).itercolumns():
        whole = column.combine_chunks()
        yield whole.cast(pa.string()) if pa.types.is_large_string(whole.type) else whole


@contextlib.contextmanager
def only_arrow_is_used() -> Iterator[None]:
    """Keep Spark quiet about versions of pandas: no table goes through pandas here."""
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
        No master answers there, the session cannot be opened, or this process has one on another master already.
    """
    session_type = _session_type()
    _require_java()
    _require_master(master)
    _refuse_other_session(session_type, master)
    settings = {
        "spark.ui.enabled": "false",
        "spark.log.level": "ERROR",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(BATCH_ROWS),
        "spark.executorEnv.POLARS_MAX_THREADS": "1",  # each core has its own task
        **(_ON_LOOPBACK if master.startswith("local") else {}),
        **(options or {}),
    }
    if master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # or Spark takes whatever python3 is on the PATH
    builder = session_type.builder.appName("deepidea").master(master)
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        with only_arrow_is_used():
            session: SparkSession = builder.getOrCreate()
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise SourceError(f"a Spark session must open on {master}, however: {reason}") from error
    return session


def _refuse_other_session(session_type: Any, master: str) -> None:
    """Refuse what Spark would do without a word: give the session that is there, whatever its master."""
    there = session_type.getActiveSession()
    if there is not None and there.sparkContext.master != master:
        raise SourceError(
            f"a process must keep to one master of Spark, however: a session is open on {there.sparkContext.master}, "
            f"and {master} is asked for; stop that session first"
        )


_ON_LOOPBACK = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}


def _session_type() -> Any:
    try:
        import pyarrow  # noqa: F401  # what mapInArrow needs

        with only_arrow_is_used():
            from pyspark.sql import SparkSession
    except ImportError as error:
        raise MissingExtraError(
            f"Spark needs pyspark and pyarrow, however: {error}; install them with: pip install 'deepidea[spark]'"
        ) from error
    return SparkSession


def _require_java() -> None:
    home = os.environ.get("JAVA_HOME")
    found = (Path(home) / "bin" / "java").exists() if home else shutil.which("java") is not None
    if not found:
        where = f"JAVA_HOME={home} has none" if home else "there is none on the PATH"
        raise MissingExtraError(
            f"Spark needs Java 17 or newer, however: {where}; install it (Debian: apt install "
            "openjdk-17-jre-headless), or set JAVA_HOME"
        )


def _require_master(master: str) -> None:
    """Find out at once what Spark would find out after minutes."""
    if not master.startswith("spark://"):
        return
    reasons = []
    for place in master.removeprefix("spark://").split(","):
        host, _, port = place.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
            return
        except (OSError, ValueError) as error:
            reasons.append(f"{place}: {error}")
    raise SourceError(
        f"a master must answer at {master}, however: {'; '.join(reasons)}; start it, or give another --master"
    )


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn what Spark wraps around an error of a task into that error; stack traces of Java are left out.

    Raises
    ------
    DeepIDEAError
        The one that the task raised; :class:`~deepidea.errors.SourceError` for what went wrong in Spark itself.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        raise _told(str(error)) from error


def _told(text: str) -> DeepIDEAError:
    ours = _OURS.search(text)
    if ours is not None:
        kind = getattr(errors, ours[1], DataError)
        return kind(ours[2].strip())
    if _NO_PACKAGE.search(text):
        return SourceError(
            "each executor must have this package installed for the Python that Spark starts there, however: one has "
            "not; install it there and name that Python in PYSPARK_PYTHON, or ship an environment with spark.archives"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("\tat ")]
    causes = [line for line in lines if _CAUSE.match(line)]
    return SourceError(
        f"Spark must finish the job, however: {([*lines[:1], *causes] or ['it says nothing'])[-1][:500]}"
    )
