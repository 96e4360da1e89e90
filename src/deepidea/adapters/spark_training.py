"""Training on Spark: its TorchDistributor starts the processes that train together (:mod:`deepidea.model.workers`).

Each task of one barrier stage starts torchrun, which starts one process that runs a command line. Two channels lead
back to the driver. Standard error: lines of rank 0 marked with :data:`_MARK` are shown to the user, the last others are
kept to explain failures. The task's result: the detector's bytes, or an error that is raised where the task unpickles
it, so that the task fails and Spark ends the other tasks at once.

Which error is reported: when a process fails, the others lose their connection to it and fail too, and Spark may name
any of them first. So a process that lost another one waits :data:`REPORT_TIMEOUT_S` before it fails, every process
writes its error to standard error, and the driver prefers the first such line that is no loss.

A local master's tasks work in the same way: TorchDistributor's own local mode lets all processes write their result
into one file, so it is not used.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from deepidea import errors
from deepidea.adapters.spark import no_pandas_warning, unwrap_errors
from deepidea.errors import DataError, DatasetError, DeepIDEAError, MissingExtraError, SourceError, StorageError
from deepidea.flows.atomic import replacing
from deepidea.flows.datasets.installed import data_home

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SETTLED_S = 10.0  # between the registrations of two executors of a session, at most
FIRST_EXECUTOR_S = 60.0  # until the first executor registers, at most
REPORT_TIMEOUT_S = 5.0  # for the process that failed first to report its error
_POLL_S = 0.2
_MARK = "deepidea| "  # prefix of lines for the user
_NO_OUTPUT = "TorchDistributor failed during training"  # pyspark's message for a process without a result
_LOST = re.compile(
    f"{_NO_OUTPUT}|failed with return code|workers.WorkerError|ExecutorLostFailure|Python worker exited unexpectedly"
)
_NO_TORCH = re.compile(r"No module named '?(torch|sklearn|safetensors|pandas)\b")
_FAULT = re.compile(r"\w*(Error|Exception): ")
_OWN_ERROR = re.compile(r"deepidea\.errors\.(\w+Error): (.+)")  # written by _failure; losses are of another module


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Result of a training.

    Parameters
    ----------
    detector : bytes
        The detector file.
    shown : str
        Standard output of rank 0.
    """

    detector: bytes
    shown: str


Command = Callable[[list[str]], object]


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Command line of each process, and the files it needs.

    Parameters
    ----------
    command : callable
        Trains with the arguments.
    arguments : tuple of str
    output : Path
        File that rank 0 writes the detector to, in a folder that all share.
    token : Path
        File that the driver wrote into that folder.
    inputs : tuple of Path
        Files and folders that must exist on each machine.
    folder : Path
        Working directory, for relative paths.
    columns : int
        Width of the user's terminal.
    home : Path
        Folder of registered data sets.
    """

    command: Command
    arguments: tuple[str, ...]
    output: Path
    token: Path
    inputs: tuple[Path, ...]
    folder: Path
    columns: int
    home: Path


def session_options(*, threads: int = 1) -> dict[str, str]:
    """Return the settings of Spark for a training; ``threads`` are those of each process."""
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",  # or lines would arrive in blocks
        "TORCHELASTIC_LOG_LEVEL": "CRITICAL",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    waiting = "spark.scheduler.barrier.maxConcurrentTasksCheck"
    return {
        **{f"spark.executorEnv.{name}": value for name, value in environment.items()},
        "spark.ui.showConsoleProgress": "false",
        # keeps the cause of an error, which is the process's own error
        "spark.sql.execution.pyspark.udf.simplifiedTraceback.enabled": "false",
        "spark.log.level": "FATAL",  # errors are reported in one line of our own
        f"{waiting}.interval": "5s",
        f"{waiting}.maxFailures": "2",
    }


def train_on_spark(
    spark: SparkSession,
    n_workers: int,
    command: Command,
    arguments: Sequence[str],
    output: Path,
    checkpoint: Path,
    *,
    inputs: Sequence[str | Path] = (),
    use_gpu: bool = False,
    shown: TextIO | None = None,
) -> TrainingResult:
    """Train a detector by processes on the executors, and write it on this machine.

    Parameters
    ----------
    spark : SparkSession
        Opened with :func:`session_options`.
    n_workers : int
        Processes, one a task; all run at once.
    command : callable
        What each process runs with the arguments: a function of a module, so that it can be pickled.
    arguments : sequence of str
        Of its command line; must include a seed. Output and checkpoint are added.
    output : Path
        Detector file to write, on this machine alone.
    checkpoint : Path
        In a folder that driver and executors share. The next run with the same arguments resumes from it.
    inputs : sequence of paths
        Must be readable under the same path on each executor; what is no file or folder here, such as names of data
        sets, is left to the processes.
    use_gpu : bool
        Whether each task uses the GPU that Spark assigns to it.
    shown : text stream, optional
        Receives the lines of rank 0 as they arrive; default: standard error.

    Raises
    ------
    SourceError
        The cluster has fewer slots than workers, or Spark failed.
    StorageError
        The checkpoint's folder is not shared, or the detector cannot be written.
    WorkerError
        A process ended early.
    DeepIDEAError
        Raised by a process, such as for invalid data.
    """
    _require_slots(spark, n_workers)
    if use_gpu:
        _require_gpu(spark)
    with _shared_token(checkpoint) as token:
        shared = token.with_suffix(".idea")
        existing = tuple(Path(given).absolute() for given in inputs if Path(given).exists())
        # of an option given twice, the last one counts
        whole = (*arguments, "--checkpoint", str(checkpoint.absolute()), "--output", str(shared))
        columns = shutil.get_terminal_size().columns
        job = TrainingJob(command, whole, shared, token, existing, Path.cwd(), columns, data_home().absolute())
        result = _distribute_or_recover(n_workers, job, use_gpu, shown or sys.stderr)
        try:
            with replacing(output) as partial:
                partial.write_bytes(result.detector)
        except StorageError as error:
            raise StorageError(f"{error}; the detector is at {shared}") from error
        shared.unlink(missing_ok=True)
    return result


def _distribute_or_recover(n_workers: int, job: TrainingJob, use_gpu: bool, shown: TextIO) -> TrainingResult:
    """Train; where a process is lost after rank 0 has finished, return the detector that rank 0 wrote, whole."""
    from deepidea.model.workers import WorkerError

    try:
        return _distribute(n_workers, job, use_gpu, shown)
    except WorkerError:
        if not job.output.exists():
            raise
        return TrainingResult(job.output.read_bytes(), "")


@contextlib.contextmanager
def _shared_token(checkpoint: Path) -> Iterator[Path]:
    """Yield a file beside the checkpoint, by which executors check whether they share its folder."""
    folder = checkpoint.absolute().parent
    token = folder / f".{checkpoint.name}.{secrets.token_hex(8)}"
    try:
        token.touch(exist_ok=False)
    except OSError as error:
        raise StorageError(
            f"cannot write to the checkpoint's folder {folder}: {error.strerror}; choose another --checkpoint"
        ) from error
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


def _distribute(n_workers: int, job: TrainingJob, use_gpu: bool, shown: TextIO) -> TrainingResult:
    from pyspark.ml.torch.distributor import TorchDistributor

    lines = _DriverLines(shown)
    with _explained_errors(lines), no_pandas_warning():
        # it uses the active session
        distributor = TorchDistributor(num_processes=n_workers, local_mode=False, use_gpu=use_gpu)
        distributor.logger.setLevel("WARNING")
        with contextlib.redirect_stderr(lines):
            result = distributor.run(run_process, job)
    if not isinstance(result, TrainingResult):
        raise SourceError(f"Spark returned {type(result).__name__} in place of a detector from the first process")
    return result


# --- slots ------------------------------------------------------------------------------------------------------------


def _require_slots(spark: SparkSession, n_workers: int) -> None:
    """Refuse more workers than slots; Spark itself would wait for hours, or forever."""
    if n_workers < 1:
        raise DataError(f"workers must be at least 1, got {n_workers}")
    context: Any = spark.sparkContext
    slots = _wait_for_count(lambda: _slots(context), n_workers, wait=not context.master.startswith("local"))
    if slots < n_workers:
        further = f"give --workers {slots}, or " if slots else ""
        raise SourceError(
            f"cannot run {n_workers} workers at once: {context.master} has {slots} free slots; {further}free or add "
            "cores of the cluster"
        )


def _slots(context: Any) -> int:
    """Return how many tasks can run at once on the registered executors."""
    java = context._jsc.sc()  # pyspark has no such method
    return int(java.maxNumConcurrentTasks(java.resourceProfileManager().defaultResourceProfile()))


def _wait_for_count(count: Callable[[], int], wanted: int, *, wait: bool) -> int:
    """Return a count as soon as it is ``wanted``, else when it no longer grows."""
    now, since = count(), time.monotonic()
    # Executors register one by one, seconds after the session has opened; a count that has settled will not grow.
    while wait and now < wanted and time.monotonic() - since < (SETTLED_S if now else FIRST_EXECUTOR_S):
        time.sleep(_POLL_S)
        before, now = now, count()
        since = since if now == before else time.monotonic()
    return now


def _require_gpu(spark: SparkSession) -> None:
    amount = spark.conf.get("spark.task.resource.gpu.amount", "0")
    if amount != "1":
        raise SourceError(
            f"spark.task.resource.gpu.amount is {amount}, each worker needs 1; set it and the discovery of GPUs in "
            "spark-defaults.conf, or train with --device cpu"
        )


# --- driver: lines and errors -----------------------------------------------------------------------------------------


class _DriverLines(io.TextIOBase):
    """Replaces standard error: shows lines for the user, and keeps the last of the others."""

    def __init__(self, shown: TextIO) -> None:
        self.shown = shown
        # Bounded: Spark may write stack traces without end.
        self.rest: deque[str] = deque(maxlen=200)
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.startswith(_MARK):
                self.shown.write(line.removeprefix(_MARK) + "\n")
                self.shown.flush()
            else:
                self.rest.append(line)
        return len(text)

    def first_error(self) -> DeepIDEAError | None:
        """Return the first error that a process reported, other than the loss of another process."""
        found = [match for line in self.rest if (match := _OWN_ERROR.fullmatch(line.strip()))]
        return _named(*found[0].groups()) if found else None

    def last_exception(self) -> str:
        """Return the last line that names an exception other than torchrun's own; empty without any."""
        found = [line.strip() for line in self.rest if _FAULT.match(line) and "ChildFailedError" not in line]
        return found[-1][:300] if found else ""


@contextlib.contextmanager
def _explained_errors(lines: _DriverLines) -> Iterator[None]:
    """Raise the error that a process raised, or a :class:`WorkerError` that says why it ended."""
    try:
        with unwrap_errors():
            yield
    except SourceError as error:
        raise _cause_of(error, lines) from error
    except RuntimeError as error:  # of the distributor, before it starts anything: encryption, GPUs
        reason = " ".join(str(error).split())
        raise SourceError(f"Spark cannot start the processes: {reason[:500]}") from error


def _cause_of(error: SourceError, lines: _DriverLines) -> DeepIDEAError:
    from deepidea.model.workers import WorkerError

    # An import error ends the executor before it can report, so Spark names only a lost process: look for it first.
    if any(_NO_TORCH.search(text) for text in (str(error.__cause__), *lines.rest)):
        return MissingExtraError(
            "an executor has no torch, scikit-learn, safetensors or pandas; install them for the Python that Spark "
            "starts there: pip install 'deepidea[train,spark]'"
        )
    if not _LOST.search(str(error.__cause__)):
        return error
    if first := lines.first_error():
        return first
    reason = lines.last_exception()
    return WorkerError(
        f"training stopped: a worker ended early{f' ({reason})' if reason else ''}, so the others were ended; the same "
        "command resumes from the checkpoint"
    )


# --- executor: one process --------------------------------------------------------------------------------------------


class _Failure:
    """An error as the result of a process; unpickling raises it."""

    def __init__(self, error: DeepIDEAError) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Callable[[str, str], None], tuple[str, str]]:
        return _raise, (type(self.error).__name__, str(self.error))


def _raise(kind: str, text: str) -> None:
    raise _named(kind, text)


def _named(kind: str, text: str) -> DeepIDEAError:
    from deepidea.model.workers import WorkerError

    error: DeepIDEAError = (WorkerError if kind == WorkerError.__name__ else getattr(errors, kind, DataError))(text)
    return error


def run_process(job: TrainingJob) -> TrainingResult | _Failure | None:
    """Train as one of several processes; torchrun calls it on an executor."""
    from deepidea.model.workers import WorkerError, end_with_parent

    # Of a task that Spark kills, torchrun goes first; the training must not go on without it.
    end_with_parent(os.getppid())
    try:
        return _run(job)
    except WorkerError as error:
        time.sleep(REPORT_TIMEOUT_S)
        return _failure(error)
    except DatasetError as error:
        where = f"{error} (on {socket.gethostname()}: each executor must have the data under the same path)"
        return _failure(DatasetError(where))
    except DeepIDEAError as error:
        return _failure(error)


def _failure(error: DeepIDEAError) -> _Failure:
    """Return an error as a result, and let this process exit with code 1 after it has written that result.

    After exit code 0, torchrun would wait for the other processes.
    """
    atexit.register(os._exit, 1)
    sys.stderr.write(f"{type(error).__module__}.{type(error).__name__}: {error}\n\n")
    return _Failure(error)


def _run(job: TrainingJob) -> TrainingResult | None:
    _require_shared(job)
    if job.folder.is_dir():  # else no path of the command line is relative, or the command reports it as missing
        os.chdir(job.folder)
    os.environ |= {"COLUMNS": str(job.columns), "DEEPIDEA_HOME": str(job.home)}
    if os.environ["MASTER_ADDR"] in ("127.0.0.1", "localhost"):
        # gloo would take the interface that the host name resolves to, which a machine without a network may not have.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    first = os.environ["RANK"] == "0"
    marked = contextlib.redirect_stderr(_MarkedLines(sys.stderr, job) if first else sys.stderr)
    with marked, contextlib.redirect_stdout(io.StringIO()) as shown:
        job.command(list(job.arguments))
    return TrainingResult(job.output.read_bytes(), shown.getvalue()) if first else None


def _require_shared(job: TrainingJob) -> None:
    host = socket.gethostname()
    # A folder of the same name on the executor's own disk would lose the checkpoint without a word.
    if not job.token.exists():
        raise StorageError(
            f"the checkpoint's folder {job.token.parent} on {host} is not that of the driver; name one that the driver "
            "and all executors share with --checkpoint"
        )
    missing = [str(path) for path in job.inputs if not path.exists()]
    if missing:
        raise DataError(
            f"{', '.join(missing)} is not there on {host}: data must be under the same path on every executor; put it "
            "on shared storage, or copy it"
        )


class _MarkedLines(io.TextIOBase):
    """Marks each line for the user, except the one that names the file which only the driver reads."""

    def __init__(self, to: TextIO, job: TrainingJob) -> None:
        self.to, self.internal = to, str(job.output)
        self._begun = ""
        to.write("\n")  # the distributor shows the first line twice on a local master

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if self.internal not in line:
                self.to.write(f"{_MARK}{line}\n")
        self.to.flush()
        return len(text)
