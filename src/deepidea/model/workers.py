"""Training by several processes: each takes its part of every batch, and their gradients are added up.

What a step does to the network is what one process would do with the whole batch, but for the last bits of sums and
for dropout, whose masks each process draws by itself. The processes are started by torchrun, on one machine by
:func:`launch`, on several by hand; each reads the same data.

Source: synchronous data-parallel training, as in Li et al. 2020, "PyTorch Distributed", VLDB 13(12).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from deepidea.errors import DataError, DeepIDEAError
from deepidea.model.batches import Batch

PATIENCE_S = 600.0  # for the others to reach the same step: reading data takes them as long as it takes


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
    """Join the other processes that torchrun started, as it tells in the environment.

    Raises
    ------
    WorkerError
        Another process ended, or did not come.
    """
    dist.init_process_group(backend, timeout=timedelta(seconds=PATIENCE_S))
    try:
        yield Workers(dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:  # what torch.distributed raises where a connection breaks
        if not any(word in str(error) for word in ("onnection", "imed out", "reset by peer")):
            raise
        raise WorkerError(f"all processes must live until the end, however: one was lost ({_first(error)})") from error
    finally:
        dist.destroy_process_group()


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


def launch(n_workers: int, arguments: Sequence[str], *, threads: int = 1) -> int:
    """Run a command line of this program in so many processes on this machine; return its exit code.

    Parameters
    ----------
    n_workers : int
    arguments : sequence of str
        What stands behind ``deepidea``.
    threads : int
        Of each process.

    Raises
    ------
    WorkerError
        A process was killed, so that the others were ended.
    """
    return launch_module("deepidea.cli", n_workers, arguments, threads=threads)


def launch_module(module: str, n_workers: int, arguments: Sequence[str], *, threads: int = 1) -> int:
    """Run a module as :func:`launch` runs this program; it must call :func:`joined`."""
    if n_workers < 1:
        raise DataError(f"there must be a worker at least, however: workers={n_workers}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TORCHELASTIC_LOG_LEVEL": "CRITICAL"}
    environment |= {"TORCH_CPP_LOG_LEVEL": "ERROR", "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo")}
    process = subprocess.Popen([*command, "-m", module, *arguments], env=environment)
    try:
        return _told(process.wait())
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        raise


def _told(code: int) -> int:
    if code == 1:  # how torchrun ends where a process of its did, whatever that one's code
        raise WorkerError("all workers must live until the end, however: one ended, and the others were ended with it")
    return code
