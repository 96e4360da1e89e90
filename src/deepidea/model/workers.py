"""Training by several processes: each takes its part of every batch, and their gradients are added up.

What a step does to the network is what one process would do with the whole batch, but for the last bits of sums and
for dropout, whose masks each process draws by itself. The processes are started on one machine by :func:`launch`, on
several by hand through torchrun; each reads the same data.

Source: synchronous data-parallel training, as in Li et al. 2020, "PyTorch Distributed", VLDB 13(12).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in its __all__

from deepidea.errors import DataError, DeepIDEAError
from deepidea.model.batches import Batch

PATIENCE_S = 600.0  # for the others to reach the same step: reading data takes them as long as it takes
GRACE_S = 30.0  # for a process to end that is asked to
MEETS_IT_S = 5.0  # for the first process to tell of an error that another one met, such as one of the data
_POLL_S = 0.05
_LAUNCHED = "DEEPIDEA_LAUNCHED"  # in the environment of what launch starts: the number of its process
_Process = subprocess.Popen[bytes]


class WorkerError(DeepIDEAError):
    """A process of a training by several ended early, so that all of them did."""


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes that train together, as one of them sees them.

    Parameters
    ----------
    rank : int
        Of this one, from 0; the first one tells what is done and keeps the result.
    size : int
        How many they are.

    Examples
    --------
    >>> batch = (np.array([3, 5, 8]), np.ones(3, np.float32))
    >>> [Workers(rank, 2).part(batch)[0].tolist() for rank in (0, 1)]
    [[3, 8], [5]]
    """

    rank: int
    size: int

    def part(self, batch: Batch) -> Batch:
        """Return what this process computes of a batch."""
        return batch[0][self.rank :: self.size], batch[1][self.rank :: self.size]

    def share(self, batch: Batch) -> float:
        """Return the weight of this process's part in the mean over the batch; the shares of all add up to 1."""
        return float(self.part(batch)[1].sum()) / float(batch[1].sum())

    def mask_seeds(self, random_state: int, epoch: int = 0) -> np.random.SeedSequence:
        """Return the seeds of this process's dropout masks: others than those of the rest."""
        return np.random.SeedSequence((random_state, self.rank, epoch))

    def add_up(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give each parameter the sum of all processes' gradients."""
        for parameter in parameters:
            if parameter.grad is None:  # this process had no row of the batch
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def total(self, value: float) -> float:
        """Return the sum of all processes' values."""
        summed = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(summed)
        return float(summed.item())


@contextlib.contextmanager
def joined(backend: str = "gloo") -> Iterator[Workers]:
    """Join the other processes that :func:`launch` or torchrun started, as the environment tells.

    Raises
    ------
    WorkerError
        Another process ended, or did not come.
    """
    interruptions: list[int] = []
    try:
        _meet(backend)
        workers = Workers(dist.get_rank(), dist.get_world_size())
        _heed(workers.rank, interruptions)
        yield workers
    except RuntimeError as error:  # what torch.distributed raises where a connection breaks
        if not any(word in str(error) for word in ("onnection", "imed out", "reset by peer")):
            raise
        if interruptions:
            raise KeyboardInterrupt from error
        raise WorkerError(f"all processes must live until the end, however: one was lost ({_first(error)})") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _meet(backend: str) -> None:
    patience = timedelta(seconds=PATIENCE_S)
    if _LAUNCHED not in os.environ:
        dist.init_process_group(backend, timeout=patience)
        return
    end_with_parent(int(os.environ[_LAUNCHED]))
    address, port, rank, size = (os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"))
    store = TCPStore(address, int(port), is_master=False, timeout=patience)
    dist.init_process_group(backend, store=store, rank=int(rank), world_size=int(size), timeout=patience)


def end_with_parent(parent: int) -> None:
    """End this process when the one that started it has ended, however that was: nobody would take its result."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _heed(rank: int, noted: list[int]) -> None:
    """Let in the interruptions that :func:`launch` has held so far, and note them.

    The first process is interrupted. The others go on until it has left them: were they to leave it, it would lose them
    before it has kept what it has.
    """
    if _LAUNCHED in os.environ:
        if rank:
            signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def common_arguments(arguments: Sequence[str], output: Path, *, seed: int | None, checkpoint: Path | None) -> list[str]:
    """Return a command line that all processes can share: one seed, and a checkpoint beside the output.

    Examples
    --------
    >>> common_arguments(["train", "kdd99"], Path("a.idea"), seed=3, checkpoint=None)
    ['train', 'kdd99', '--checkpoint', 'a.idea.checkpoint']
    """
    place = checkpoint or output.with_name(f"{output.name}.checkpoint")
    common = list(arguments) + ([] if checkpoint else ["--checkpoint", str(place)])
    return common if seed is not None else [*common, "--seed", str(_seed_beside(place))]


def _seed_beside(checkpoint: Path) -> int:
    """Return a seed for a training that was given none; it is kept, so that the training can be gone on with."""
    kept = checkpoint.with_name(f"{checkpoint.name}.seed")
    if not (checkpoint.exists() and kept.exists()):
        kept.write_text(str(secrets.randbelow(2**31)))
    return int(kept.read_text())


def launch(module: str, n_workers: int, arguments: Sequence[str], *, threads: int = 1) -> int:
    """Run ``python -m module`` in so many processes on this machine, and return its exit code.

    Ctrl-C reaches them once each: the first one ends early and keeps what it has, as one that trains alone does, and
    the exit code is its own. A second Ctrl-C, SIGTERM or SIGHUP ends all of them, and they end with this process when
    it is killed.

    Parameters
    ----------
    module : str
        Calls :func:`joined`.
    n_workers : int
    arguments : sequence of str
        Of the module's command line.
    threads : int
        Of each process.

    Raises
    ------
    WorkerError
        A process was killed or lost another one, so that the others were ended.
    """
    if n_workers < 1:
        raise DataError(f"there must be a worker at least, however: workers={n_workers}")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # where they meet
    environment = {
        **os.environ,
        _LAUNCHED: str(os.getpid()),
        "MASTER_ADDR": store.host,
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(n_workers),
        "OMP_NUM_THREADS": str(threads),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
    }
    processes: list[_Process] = []
    with _noted(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals, tempfile.TemporaryFile() as said:
        try:
            _start(processes, n_workers, [sys.executable, "-m", module, *arguments], environment, said)
            code = _exit_code(processes, signals)
            if _has_said_why(code):
                _await(processes[0], MEETS_IT_S)
            return _told(code)
        finally:
            _end(processes)
            _pass_on(said, processes)


@contextlib.contextmanager
def _noted(*numbers: int) -> Iterator[list[int]]:
    """Yield where signals are noted, in place of what they do: none may come between a process and its being known."""
    noted: list[int] = []
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(
    processes: list[_Process],
    n_workers: int,
    command: Sequence[str],
    environment: Mapping[str, str],
    said: IO[bytes],
) -> None:
    """Start processes that a terminal's signals do not reach; an interruption waits until they heed it.

    The first one has the terminal. What the others have to say, in errors alone, is kept.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which they inherit
    try:
        for rank in range(n_workers):
            own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            errors = said if rank else None
            processes.append(subprocess.Popen(command, env=own, start_new_session=True, stderr=errors))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _exit_code(processes: Sequence[_Process], signals: list[int]) -> int:
    """Wait for all to end, or one to fail; after Ctrl-C for the first one, whose exit code counts."""
    counting = processes
    while True:
        codes = [process.poll() for process in counting]
        failed = [_as_of_a_shell(code) for code in codes if code]
        if failed or None not in codes:
            return failed[0] if failed else 0
        while signals:
            counting = _interrupted(processes, signals.pop(0), again=counting is not processes)
        time.sleep(_POLL_S)


def _as_of_a_shell(code: int) -> int:
    """Return an interruption's exit code: CPython that was interrupted within `exec` says -2, though it was caught."""
    return 130 if code == -signal.SIGINT else code


def _interrupted(processes: Sequence[_Process], number: int, *, again: bool) -> Sequence[_Process]:
    """Pass Ctrl-C on and return the process to wait for; be ended by any other signal, and by a second one."""
    if number != signal.SIGINT:
        sys.exit(128 + number)
    if again:
        raise KeyboardInterrupt
    for process in processes:
        process.send_signal(number)
    return processes[:1]


def _told(code: int) -> int:
    if not code or _has_said_why(code):
        return code
    raise WorkerError("all workers must live until the end, however: one ended, and the others were ended with it")


def _pass_on(said: IO[bytes], processes: Sequence[_Process]) -> None:
    """Print what the others said; not where the first one has told of an error itself, which all of them meet."""
    if processes and not _has_said_why(_as_of_a_shell(processes[0].returncode)):
        said.seek(0)
        sys.stderr.write(said.read().decode(errors="replace"))


def _has_said_why(code: int) -> bool:
    return code == 130 or 1 < code < 128


def _end(processes: Sequence[_Process]) -> None:
    """End what still runs."""
    for process in processes:
        process.terminate()
    for process in processes:
        if not _await(process, GRACE_S):
            process.kill()
            process.wait()


def _await(process: _Process, within_s: float) -> bool:
    """Return whether a process ended within so many seconds."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(within_s)
    return process.returncode is not None
