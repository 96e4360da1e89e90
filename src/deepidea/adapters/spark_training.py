"""Training on Spark: its TorchDistributor starts the processes that train together.

What they do together is in :mod:`deepidea.model.workers`. Each task of one barrier stage starts one process, which runs
this program's command line as torchrun would on a machine of its own. Standard errors of the first one travel to the
driver line by line. What a process ends with travels as the task's result: the detector's bytes, or an error, which is
raised where the task unpacks it, so that the task fails and Spark ends the others with it at once.

The tasks of a local master are such tasks, too: TorchDistributor's own local mode lets all processes write their result
into one file.
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
from deepidea.adapters.spark import only_arrow_is_used, told
from deepidea.errors import DataError, DatasetError, DeepIDEAError, MissingExtraError, SourceError, StorageError
from deepidea.flows.atomic import replacing
from deepidea.flows.datasets.installed import data_home

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SETTLED_S = 10.0  # executors of one session come within that, one after the other
ARRIVAL_S = 60.0  # for the first executor to come
GRACE_S = 5.0  # for the process that failed to tell why, before those that lost it tell that
_POLL_S = 0.2
_MARK = "deepidea| "  # of a line that is meant for the user
_NO_OUTPUT = "TorchDistributor failed during training"  # what Spark's Python says of a process that left no result
_LOST = re.compile(
    f"{_NO_OUTPUT}|failed with return code|workers.WorkerError|ExecutorLostFailure|Python worker exited unexpectedly"
)
_NO_TORCH = re.compile(r"No module named '?(torch|sklearn|safetensors|pandas)\b")
_FAULT = re.compile(r"\w*(Error|Exception): ")
_TOLD = re.compile(r"deepidea\.errors\.(\w+Error): (.+)")  # a line of a process that failed, for all to see


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training came to.

    Parameters
    ----------
    detector : bytes
        The detector file.
    shown : str
        What the first process wrote to its standard output.
    """

    detector: bytes
    shown: str


Command = Callable[[list[str]], object]


@dataclass(frozen=True, slots=True)
class Job:
    """What each process is told: a command line, and what must be where.

    Parameters
    ----------
    command : callable
        Takes the arguments and trains.
    arguments : tuple of str
    output : Path
        File that the first process writes the detector to, in a folder that all share.
    token : Path
        File that the driver wrote into that folder.
    inputs : tuple of Path
        What must be there on each machine.
    folder : Path
        Where the command was given: relative paths start there.
    columns : int
        Width of the user's terminal.
    home : Path
        Where data sets are registered.
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
    """Return the settings of Spark that such a training needs; ``threads`` are those of each process."""
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",  # or lines would come in blocks
        "TORCHELASTIC_LOG_LEVEL": "CRITICAL",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    waiting = "spark.scheduler.barrier.maxConcurrentTasksCheck"
    return {
        **{f"spark.executorEnv.{name}": value for name, value in environment.items()},
        "spark.ui.showConsoleProgress": "false",
        # or the cause of an error, which is a process's own error, would be left out
        "spark.sql.execution.pyspark.udf.simplifiedTraceback.enabled": "false",
        "spark.log.level": "FATAL",  # what fails is told in a line of ours
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
) -> Trained:
    """Train a detector by processes on the executors, and write it here.

    Parameters
    ----------
    spark : SparkSession
        Opened with :func:`session_options`.
    n_workers : int
        Processes, one a task; all must run at once.
    command : callable
        What each process runs, with the arguments: a function of a module, so that it can be pickled.
    arguments : sequence of str
        Of its command line: a seed must be among them. Output and checkpoint are added.
    output : Path
        Detector file to write, on this machine alone.
    checkpoint : Path
        Of the training, in a folder that driver and executors share. The next run with the same arguments goes on from
        it.
    inputs : sequence of paths
        What must be readable under the same path on each executor; those that are no file or folder here, such as
        names of data sets, are left to the processes.
    use_gpu : bool
        Whether each task gets the GPU that Spark gave it.
    shown : text stream, optional
        Gets the lines of the first process as they come; the standard error where absent.

    Raises
    ------
    SourceError
        The cluster has fewer slots than workers, or Spark failed.
    StorageError
        The checkpoint's folder is not shared, or the detector cannot be written.
    WorkerError
        A process ended early.
    DeepIDEAError
        What a process raised, such as for data that break a rule.
    """
    _require_slots(spark, n_workers)
    if use_gpu:
        _require_gpu(spark)
    with _shared_token(checkpoint) as token:
        kept = token.with_suffix(".idea")
        job = _job(command, arguments, kept, token, checkpoint, inputs)
        trained = _distribute_or_find(n_workers, job, use_gpu, shown or sys.stderr)
        try:
            with replacing(output) as partial:
                partial.write_bytes(trained.detector)
        except StorageError as error:
            raise StorageError(f"{error}; the detector is at {kept}") from error
        kept.unlink(missing_ok=True)
    return trained


def _distribute_or_find(n_workers: int, job: Job, use_gpu: bool, shown: TextIO) -> Trained:
    """Train; where a process is lost after the first one had finished, take what that one wrote: it is whole."""
    from deepidea.model.workers import WorkerError

    try:
        return _distribute(n_workers, job, use_gpu, shown)
    except WorkerError:
        if not job.output.exists():
            raise
        return Trained(job.output.read_bytes(), "")


def _job(
    command: Command,
    arguments: Sequence[str],
    kept: Path,
    token: Path,
    checkpoint: Path,
    inputs: Sequence[str | Path],
) -> Job:
    there = tuple(Path(given).absolute() for given in inputs if Path(given).exists())
    # the last of an option that is given twice counts
    whole = (*arguments, "--checkpoint", str(checkpoint.absolute()), "--output", str(kept))
    columns = shutil.get_terminal_size().columns
    return Job(command, whole, kept, token, there, Path.cwd(), columns, data_home().absolute())


@contextlib.contextmanager
def _shared_token(checkpoint: Path) -> Iterator[Path]:
    """Yield a file beside the checkpoint by which executors find out whether its folder is theirs, too."""
    folder = checkpoint.absolute().parent
    token = folder / f".{checkpoint.name}.{secrets.token_hex(8)}"
    try:
        token.touch(exist_ok=False)
    except OSError as error:
        raise StorageError(
            f"the checkpoint's folder must be writable, however: {folder}: {error.strerror}; choose another place"
        ) from error
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


def _distribute(n_workers: int, job: Job, use_gpu: bool, shown: TextIO) -> Trained:
    from pyspark.ml.torch.distributor import TorchDistributor

    lines = _Lines(shown)
    with _clear_errors(lines), only_arrow_is_used():
        # it takes the session that is active
        distributor = TorchDistributor(num_processes=n_workers, local_mode=False, use_gpu=use_gpu)
        distributor.logger.setLevel("WARNING")
        with contextlib.redirect_stderr(lines):
            trained = distributor.run(work, job)
    if not isinstance(trained, Trained):
        raise SourceError(f"the first process must return a detector, however: it returned {type(trained).__name__}")
    return trained


# --- slots ------------------------------------------------------------------------------------------------------------


def _require_slots(spark: SparkSession, n_workers: int) -> None:
    """Wait for as many slots as workers; Spark itself would wait for hours, or for ever."""
    if n_workers < 1:
        raise DataError(f"there must be a worker at least, however: workers={n_workers}")
    context: Any = spark.sparkContext
    slots = _settled(lambda: _slots(context), n_workers, wait=not context.master.startswith("local"))
    if slots < n_workers:
        further = f"give --workers {slots}, or " if slots else ""
        raise SourceError(
            f"all workers must run at once, however: {n_workers} were asked for, and {context.master} has "
            f"{slots} free slots; {further}free or add cores of the cluster"
        )


def _slots(context: Any) -> int:
    """Return how many tasks can run at once on the executors that have come."""
    java = context._jsc.sc()
    return int(java.maxNumConcurrentTasks(java.resourceProfileManager().defaultResourceProfile()))


def _settled(count: Callable[[], int], wanted: int, *, wait: bool) -> int:
    """Return a count as soon as it is what is wanted, else when it no longer grows."""
    now, since = count(), time.monotonic()
    while wait and now < wanted and time.monotonic() - since < (SETTLED_S if now else ARRIVAL_S):
        time.sleep(_POLL_S)
        before, now = now, count()
        since = since if now == before else time.monotonic()
    return now


def _require_gpu(spark: SparkSession) -> None:
    amount = spark.conf.get("spark.task.resource.gpu.amount", "0")
    if amount != "1":
        raise SourceError(
            f"each worker on a GPU must get one of its own, however: spark.task.resource.gpu.amount is {amount}; set "
            "it to 1, and what finds GPUs on executors, in spark-defaults.conf, or train with --device cpu"
        )


# --- the driver's side: lines and errors ------------------------------------------------------------------------------


class _Lines(io.TextIOBase):
    """Stands for the standard error: passes on what is meant for the user, and remembers the end of the rest."""

    def __init__(self, shown: TextIO) -> None:
        self.shown = shown
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

    def told(self) -> DeepIDEAError | None:
        """Return the first error that a process told of; others lost that process, which Spark may tell earlier."""
        found = [match for line in self.rest if (match := _TOLD.fullmatch(line.strip()))]
        return _named(*found[0].groups()) if found else None

    def fault(self) -> str:
        """Return the last line that names an exception, but for torchrun's own; empty where there is none."""
        found = [line.strip() for line in self.rest if _FAULT.match(line) and "ChildFailedError" not in line]
        return found[-1][:300] if found else ""


@contextlib.contextmanager
def _clear_errors(lines: _Lines) -> Iterator[None]:
    """Raise what a process raised, or say in a line what became of it."""
    try:
        with told():
            yield
    except SourceError as error:
        raise _what_ended(error, lines) from error
    except RuntimeError as error:  # of the distributor, before it starts anything: encryption, GPUs
        reason = " ".join(str(error).split())
        raise SourceError(f"Spark must be able to start the processes, however: {reason[:500]}") from error


def _what_ended(error: SourceError, lines: _Lines) -> DeepIDEAError:
    from deepidea.model.workers import WorkerError

    if any(_NO_TORCH.search(text) for text in (str(error.__cause__), *lines.rest)):
        return MissingExtraError(
            "each executor must have what training needs, however: one has no torch, scikit-learn or pandas; install "
            "it for the Python that Spark starts there: pip install 'deepidea[train,spark]'"
        )
    if not _LOST.search(str(error.__cause__)):
        return error
    if told := lines.told():
        return told
    fault = lines.fault()
    return WorkerError(
        f"all workers must live until the end, however: one ended{f' ({fault})' if fault else ''}, and the others were "
        "ended with it; the same command goes on from the checkpoint"
    )


# --- the executors' side: one process ---------------------------------------------------------------------------------


class _Failure:
    """An error that a process hands over as its result; whoever unpacks it raises it."""

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


def work(job: Job) -> Trained | _Failure | None:
    """Train as one of several processes; what torchrun runs on an executor."""
    from deepidea.model.workers import WorkerError, end_with_parent

    end_with_parent(os.getppid())
    try:
        return _run(job)
    except WorkerError as error:
        time.sleep(GRACE_S)
        return _failed(error)
    except DatasetError as error:
        where = f"{error} (on {socket.gethostname()}: each executor must have the data under the same path)"
        return _failed(DatasetError(where))
    except DeepIDEAError as error:
        return _failed(error)


def _failed(error: DeepIDEAError) -> _Failure:
    """Return an error as a result, and end this process as one that failed: torchrun waits for others of one that did.

    The result is written when this function has returned, and the process ends after that.
    """
    atexit.register(os._exit, 1)
    # for the executor's own log, and for the driver: Spark may tell it first that others lost this process
    sys.stderr.write(f"{type(error).__module__}.{type(error).__name__}: {error}\n\n")
    return _Failure(error)


def _run(job: Job) -> Trained | None:
    _require_shared(job)
    if job.folder.is_dir():  # where it is not, no path of the command line is relative, or it is told to be missing
        os.chdir(job.folder)
    os.environ |= {"COLUMNS": str(job.columns), "DEEPIDEA_HOME": str(job.home)}
    if os.environ["MASTER_ADDR"] in ("127.0.0.1", "localhost"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    first = os.environ["RANK"] == "0"
    marking = contextlib.redirect_stderr(_Marking(sys.stderr, job) if first else sys.stderr)
    with marking, contextlib.redirect_stdout(io.StringIO()) as shown:
        job.command(list(job.arguments))
    return Trained(job.output.read_bytes(), shown.getvalue()) if first else None


def _require_shared(job: Job) -> None:
    host = socket.gethostname()
    if not job.token.exists():
        raise StorageError(
            f"the checkpoint must be in a folder that the driver and all executors share, however: {job.token.parent} "
            f"on {host} is another one; name a place that is shared with --checkpoint"
        )
    missing = [str(path) for path in job.inputs if not path.exists()]
    if missing:
        raise DataError(
            f"data must be readable under the same path on every executor, however: {', '.join(missing)} is not there "
            f"on {host}; put it on storage that all share, or copy it"
        )


class _Marking(io.TextIOBase):
    """Marks each line for the user, but for the one that names the file which only the driver reads."""

    def __init__(self, to: TextIO, job: Job) -> None:
        self.to, self.unsaid = to, str(job.output)
        self._begun = ""
        to.write("\n")  # the distributor shows the first line twice on a local master

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if self.unsaid not in line:
                self.to.write(f"{_MARK}{line}\n")
        self.to.flush()
        return len(text)
