"""How many threads train fastest, found by trying: on a busy machine two can be 30 times slower than one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

import torch

_TRIES = 8


def fastest_thread_count(step: Callable[[], object], *, most: int | None = None) -> int:
    """Return the number of torch threads with which ``step`` runs fastest: 1, 2, 4, ... up to ``most`` cores.

    Takes the best of a few runs for each count, and gives up on a count whose first run is far behind. torch is left
    with the number of threads it had.
    """
    most = most or os.cpu_count() or 1
    best_count, best_s = 1, float("inf")
    count = 1
    while count <= most:
        with torch_threads(count):
            fastest_s = _fastest(step, give_up_s=3 * best_s)
        if fastest_s < 0.9 * best_s:  # more threads must pay clearly: another program may want that core
            best_count, best_s = count, fastest_s
        count *= 2
    return best_count


def _fastest(step: Callable[[], object], give_up_s: float) -> float:
    step()  # the first run with a new number of threads starts them
    fastest_s = float("inf")
    for _ in range(_TRIES):
        started = time.perf_counter()
        step()
        fastest_s = min(fastest_s, time.perf_counter() - started)
        if fastest_s > give_up_s:
            break
    return fastest_s


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run the block with ``count`` torch threads, then put the former number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
