"""Random draws of the simulation: log-normal sizes, Pareto pauses, arrivals in bursts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random


def spawn(rng: Random) -> Random:
    """Return an independent generator, so that the draws of one conversation change no other conversation."""
    return Random(rng.getrandbits(64))


def lognormal(rng: Random, median: float, sigma: float, *, most: float = math.inf) -> float:
    """Return a log-normal value of at most `most`; `sigma` is the standard deviation of its logarithm.

    Examples
    --------
    >>> lognormal(Random(0), 100, 1.0, most=150) <= 150
    True
    """
    return min(median * math.exp(sigma * rng.gauss(0.0, 1.0)), most)


def pareto(rng: Random, least: float, *, tail: float = 1.3, most: float = math.inf) -> float:
    """Return a Pareto value from `least` to `most`; the smaller the tail index, the more large values.

    Examples
    --------
    >>> 2.0 <= pareto(Random(0), 2.0, most=60.0) <= 60.0
    True
    """
    return min(least * rng.paretovariate(tail), most)


def geometric(rng: Random, mean: float) -> int:
    """Return a geometric count of at least one.

    Examples
    --------
    >>> geometric(Random(0), 1.0)
    1
    """
    return 1 if mean <= 1 else 1 + int(math.log(1.0 - rng.random()) / math.log(1.0 - 1.0 / mean))


def arrivals(
    rng: Random, every_s: float, until_s: float, *, sigma: float = 1.2, since_s: float = 0.0
) -> Iterator[float]:
    """Yield times with log-normal gaps of `every_s` in the mean; the larger `sigma`, the burstier.

    Examples
    --------
    >>> times = list(arrivals(Random(0), 1.0, 100.0))
    >>> 50 < len(times) < 200, times == sorted(times)
    (True, True)
    """
    at_s = since_s + every_s * rng.random()
    while at_s < until_s:
        yield at_s
        at_s += lognormal(rng, every_s * math.exp(-sigma * sigma / 2), sigma)


def periodic(rng: Random, every_s: float, until_s: float, *, jitter: float) -> Iterator[float]:
    """Yield times of a timer whose period varies by a share of `jitter`.

    Examples
    --------
    >>> times = list(periodic(Random(0), 10.0, 100.0, jitter=0.1))
    >>> all(9 <= later - at <= 11 for at, later in zip(times, times[1:]))
    True
    """
    at_s = every_s * rng.random()
    while at_s < until_s:
        yield at_s
        at_s += every_s * rng.uniform(1 - jitter, 1 + jitter)


def log_uniform(rng: Random, least: float, most: float) -> float:
    """Return a value between two, each order of magnitude as likely as any other.

    Examples
    --------
    >>> 2.0 <= log_uniform(Random(0), 2.0, 200.0) <= 200.0
    True
    """
    return least * (most / least) ** rng.random()


def paced(rng: Random, since_s: float, every_s: float, count: int, *, jitter: float) -> Iterator[float]:
    """Yield `count` times whose gaps are `every_s` with a share of `jitter`, which is at most 1.

    Examples
    --------
    >>> [round(at) for at in paced(Random(0), 5.0, 10.0, 3, jitter=0.0)]
    [5, 15, 25]
    """
    at_s = since_s
    for _ in range(count):
        yield at_s
        at_s += every_s * rng.uniform(1 - jitter, 1 + jitter)
