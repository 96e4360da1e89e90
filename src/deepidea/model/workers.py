"""Data-parallel training: each process takes its part of every batch, and their gradients are summed.

A step changes the network as one process with the whole batch would, up to the last bits of sums and to dropout, whose
masks each process draws itself. :func:`launch` starts the processes on one machine; on several, torchrun does. Each
process reads the same data.

Lifetimes, so that no process outlives its training whatever is killed:

- Started processes are in sessions of their own, so a terminal's signals reach the launcher alone. It forwards one
  Ctrl-C to all of them: rank 0 stops training and saves its result, the others ignore it and end when rank 0 has left.
- A second Ctrl-C, SIGTERM or SIGHUP at the launcher terminates all of them.
- Each watches its parent (:func:`end_with_parent`), so that they also end when the launcher is killed.
- SIGINT stays blocked from before they are started until they have joined, so that it cannot hit half-loaded imports.

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

STEP_TIMEOUT_S = 600.0  # for all processes to reach the same step: reading large data takes minutes
TERMINATE_TIMEOUT_S = 30.0  # from SIGTERM to SIGKILL
REPORT_TIMEOUT_S = 5.0  # for rank 0 to report an error that another process met first, such as one of the data
_POLL_S = 0.05
_LAUNCHER_PID = "DEEPIDEA_LAUNCHED"  # environment variable of started processes
_Process = subprocess.Popen[bytes]


class WorkerError(DeepIDEAError):
    """A process of a distributed training ended early, so that all of them did."""


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes that train together, from the view of one of them.

    Parameters
    ----------
    rank : int
        Of this process, from 0; rank 0 reports progress and saves the result.
    size : int
        Number of processes.

    Examples
    --------
    >>> batch = (np.array([3, 5, 8]), np.ones(3, np.float32))
    >>> [Workers(rank, 2).part(batch)[0].tolist() for rank in (0, 1)]
    [[3, 8], [5]]
    """

    rank: int
    size: int

    def part(self, batch: Batch) -> Batch:
        """Return this process's part of a batch."""
        # Every size-th row: parts differ by one row at most.
        return batch[0][self.rank :: self.size], batch[1][self.rank :: self.size]

    def weight_share(self, batch: Batch) -> float:
        """Return the weight of this process's part in the mean over the batch; those of all processes sum to 1."""
        return float(self.part(batch)[1].sum()) / float(batch[1].sum())

    def mask_seeds(self, random_state: int, epoch: int = 0) -> np.random.SeedSequence:
        """Return the seeds of this process's dropout masks, independent of the other processes' masks."""
        return np.random.SeedSequence((random_state, self.rank, epoch))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Set each parameter's gradient to the sum over all processes."""
        for parameter in parameters:
            if parameter.grad is None:  # this process had no row of the batch
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def sum_value(self, value: float) -> float:
        """Return the sum of a value over all processes."""
        summed = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(summed)
        return float(summed.item())


@contextlib.contextmanager
def join_workers(backend: str = "gloo") -> Iterator[Workers]:
    """Join the other processes that :func:`launch` or torchrun started, as their environment variables state.

    Raises
    ------
    WorkerError
        Another process ended, or did not join in time.
    """
    interrupts: list[int] = []
    try:
        _init_process_group(backend)
        workers = Workers(dist.get_rank(), dist.get_world_size())
        _accept_interrupts(workers.rank, interrupts)
        yield workers
    except RuntimeError as error:  # what torch.distributed raises for a broken connection
        # torch.distributed has no type of its own for a broken connection; the first letters are left out for their
        # capitals.
        if not any(word in str(error) for word in ("onnection", "imed out", "reset by peer")):
            raise
        if interrupts:
            raise KeyboardInterrupt from error
        reason = str(error).strip().partition("\n")[0][:200]
        raise WorkerError(f"training stopped: another process was lost ({reason})") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _init_process_group(backend: str) -> None:
    timeout = timedelta(seconds=STEP_TIMEOUT_S)
    if _LAUNCHER_PID not in os.environ:
        dist.init_process_group(backend, timeout=timeout)
        return
    end_with_parent(int(os.environ[_LAUNCHER_PID]))
    address, port, rank, size = (os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"))
    store = TCPStore(address, int(port), is_master=False, timeout=timeout)
    dist.init_process_group(backend, store=store, rank=int(rank), world_size=int(size), timeout=timeout)


def end_with_parent(parent: int) -> None:
    """End this process when its parent process has ended, however it ended: nobody would use the result."""

    def watch() -> None:
        # An orphan gets another parent. prctl(PR_SET_PDEATHSIG) would do it without polling, on Linux alone.
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _accept_interrupts(rank: int, interrupts: list[int]) -> None:
    """Unblock SIGINT, which raises KeyboardInterrupt in rank 0 and is recorded by the others.

    The others continue until rank 0 has left: if they left first, rank 0 would fail before it has saved its result.
    """
    if _LAUNCHER_PID in os.environ:
        if rank:
            signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def common_arguments(arguments: Sequence[str], output: Path, *, seed: int | None, checkpoint: Path | None) -> list[str]:
    """Return the command line for all processes: with one seed, and with a checkpoint beside the output.

    Examples
    --------
    >>> common_arguments(["train", "kdd99"], Path("a.idea"), seed=3, checkpoint=None)
    ['train', 'kdd99', '--checkpoint', 'a.idea.checkpoint']
    """
    path = checkpoint or output.with_name(f"{output.name}.checkpoint")
    common = list(arguments) + ([] if checkpoint else ["--checkpoint", str(path)])
    if seed is not None:
        return common
    drawn = path.with_name(f"{path.name}.seed")  # kept in a file, so that an interrupted training resumes with its seed
    if not (path.exists() and drawn.exists()):
        drawn.write_text(str(secrets.randbelow(2**31)))
    return [*common, "--seed", drawn.read_text()]


def launch(module: str, n_workers: int, arguments: Sequence[str], *, threads: int = 1) -> int:
    """Run ``python -m module`` in ``n_workers`` processes on this machine; return its exit code.

    After Ctrl-C rank 0 ends early and saves its result, as a training in one process does, and its exit code is
    returned. A second Ctrl-C, SIGTERM or SIGHUP ends all processes; they also end when this process is killed.

    Parameters
    ----------
    module : str
        Must use :func:`join_workers`.
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
        raise DataError(f"workers must be at least 1, got {n_workers}")
    # Port 0: the system chooses a free one, which no other training on this machine can have taken.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # their rendezvous
    environment = {
        **os.environ,
        _LAUNCHER_PID: str(os.getpid()),
        "MASTER_ADDR": store.host,
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(n_workers),
        "OMP_NUM_THREADS": str(threads),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
    }
    processes: list[_Process] = []
    with _recorded(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals, tempfile.TemporaryFile() as errors:
        try:
            _start(processes, n_workers, [sys.executable, "-m", module, *arguments], environment, errors)
            code = _wait_for_exit(processes, signals)
            if code and not _is_own_error(code):
                raise WorkerError("training stopped: a worker ended early, so the others were ended")
            if code:
                _wait(processes[0], REPORT_TIMEOUT_S)
            return code
        finally:
            _terminate(processes)
            # where rank 0 has reported an error, the others have met the same one
            if processes and not _is_own_error(_shell_code(processes[0].returncode)):
                errors.seek(0)
                sys.stderr.write(errors.read().decode(errors="replace"))


@contextlib.contextmanager
def _recorded(*numbers: int) -> Iterator[list[int]]:
    """Record signals in a list in place of their handlers, so that none strikes between a start and its record."""
    recorded: list[int] = []
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, _: recorded.append(number))
    try:
        yield recorded
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(
    processes: list[_Process],
    n_workers: int,
    command: Sequence[str],
    environment: Mapping[str, str],
    errors: IO[bytes],
) -> None:
    """Start the processes in sessions of their own; rank 0 has the terminal, the others' standard errors are kept."""
    # A Ctrl-C that strikes while Python starts would end a process before it can report anything: it stays pending.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: see _accept_interrupts
    try:
        for rank in range(n_workers):
            own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            stderr = errors if rank else None
            # Into the list of the caller one by one: should a start fail, those before it are still terminated.
            processes.append(subprocess.Popen(command, env=own, start_new_session=True, stderr=stderr))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for_exit(processes: Sequence[_Process], signals: list[int]) -> int:
    """Return 0 when all have ended well, else the code of the first failure; after Ctrl-C, the code of rank 0."""
    awaited = processes
    while True:
        # After a Ctrl-C only rank 0 is awaited: the others may end as they like, and do once it has left.
        codes = [process.poll() for process in awaited]
        failed = [_shell_code(code) for code in codes if code]
        if failed or None not in codes:
            return failed[0] if failed else 0
        while signals:
            number = signals.pop(0)
            if number != signal.SIGINT:
                sys.exit(128 + number)
            if awaited is not processes:
                raise KeyboardInterrupt
            for process in processes:
                process.send_signal(number)
            awaited = processes[:1]
        time.sleep(_POLL_S)


def _shell_code(code: int) -> int:
    """Return 130 for an interruption: CPython interrupted within `exec` exits with -2, though it was caught."""
    return 130 if code == -signal.SIGINT else code


def _is_own_error(code: int) -> bool:
    """Whether a process ended by an error or interruption that it reported itself."""
    return code == 130 or 1 < code < 128


def _terminate(processes: Sequence[_Process]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        if not _wait(process, TERMINATE_TIMEOUT_S):
            process.kill()
            process.wait()


def _wait(process: _Process, timeout_s: float) -> bool:
    """Return whether a process ended in time."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout_s)
    return process.returncode is not None
