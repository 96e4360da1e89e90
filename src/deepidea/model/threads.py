"""The fastest number of training threads, by measurement: on a busy machine two can be 30 times slower than one."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from threadpoolctl import threadpool_limits

_TRIES = 25


def fastest_thread_count(step: Callable[[], object], *, most: int | None = None) -> int:
    """Return the number of threads with which ``step`` runs fastest: 1, 2, 4, ... up to ``most`` cores.

    Compares medians of some runs (minima would hide the delays of many threads), and drops a count that is far behind
    at once. The number of threads is restored.
    """
    most = most or os.cpu_count() or 1
    best_count, best_s = 1, float("inf")
    count = 1
    # On a busy machine more threads wait for each other at every small product: each count is tried, and a slow one is
    # cut short.
    while count <= most:
        with torch_threads(count):
            median_s = _median(step, give_up_s=3 * best_s)
        if median_s < 0.9 * best_s:  # more threads must pay clearly: another program may need that core
            best_count, best_s = count, median_s
        count *= 2
    return best_count


def _median(step: Callable[[], object], give_up_s: float) -> float:
    step()  # the first run with a new number of threads starts them
    taken_s: list[float] = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        step()
        taken_s.append(time.perf_counter() - started)
        if taken_s[-1] > give_up_s:
            break
    return statistics.median(taken_s)


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run the block with ``count`` threads of torch and of numpy's BLAS, then restore the former numbers."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
