"""Draws of the simulation: skewed sizes, heavy-tailed pauses, arrivals that come in bursts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

__all__ = ["arrivals", "child", "count", "heavy", "jittered", "skewed"]


def child(rng: Random) -> Random:
    """Return chance of its own, so that what one conversation draws changes no other."""
    return Random(rng.getrandbits(64))


def skewed(rng: Random, median: float, spread: float, *, most: float = math.inf) -> float:
    """Return a log-normal value; `spread` is that of its logarithm.

    Examples
    --------
    >>> skewed(Random(0), 100, 1.0, most=150) <= 150
    True
    """
    return min(median * math.exp(spread * rng.gauss(0.0, 1.0)), most)


def heavy(rng: Random, least: float, *, tail: float = 1.3, most: float = math.inf) -> float:
    """Return a Pareto value: mostly near the least, now and then many times that.

    Examples
    --------
    >>> 2.0 <= heavy(Random(0), 2.0, most=60.0) <= 60.0
    True
    """
    return min(least * rng.paretovariate(tail), most)


def count(rng: Random, mean: float) -> int:
    """Return a geometric count of at least one.

    Examples
    --------
    >>> count(Random(0), 1.0)
    1
    """
    return 1 if mean <= 1 else 1 + int(math.log(1.0 - rng.random()) / math.log(1.0 - 1.0 / mean))


def arrivals(
    rng: Random, every_s: float, until_s: float, *, spread: float = 1.2, since_s: float = 0.0
) -> Iterator[float]:
    """Yield times that are `every_s` apart in the mean; the larger the spread, the more they come in bursts.

    Examples
    --------
    >>> times = list(arrivals(Random(0), 1.0, 100.0))
    >>> 50 < len(times) < 200, times == sorted(times)
    (True, True)
    """
    at_s = since_s + every_s * rng.random()
    while at_s < until_s:
        yield at_s
        at_s += skewed(rng, every_s * math.exp(-spread * spread / 2), spread)


def jittered(rng: Random, every_s: float, until_s: float, *, jitter: float, since_s: float = 0.0) -> Iterator[float]:
    """Yield times of a timer that is off by a share of its period each time.

    Examples
    --------
    >>> times = list(jittered(Random(0), 10.0, 100.0, jitter=0.1))
    >>> all(9 <= later - at <= 11 for at, later in zip(times, times[1:]))
    True
    """
    at_s = since_s + every_s * rng.random()
    while at_s < until_s:
        yield at_s
        at_s += every_s * rng.uniform(1 - jitter, 1 + jitter)
