"""What follows a scan or password guessing: the target opens something to the scanner, or a guessed login succeeds.

Scans from outside that get nowhere are background. What makes one urgent is what comes after it, so the pairs of hosts
that were found scanning or guessing are remembered for an hour, and flows between them are looked at again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["FOLLOWING_COLUMNS", "RecentPairs", "pair_names"]

KEPT_US = 3_600_000_000
MAX_PAIRS = 65_536
FOLLOWING_COLUMNS = ("after_scan_s", "after_guessing_s", "flow_bytes_out", "flow_bytes_back", "flow_lasted_s")
"""Of a flow: seconds since a scan of its source by its destination, since its source guessed passwords of its
destination (null where neither was found within the hour), payload bytes, and seconds that it lasted."""


def pair_names(inputs: Mapping[str, NDArray[Any]], *, reverse: bool = False) -> NDArray[np.uint64]:
    """Return a number that names source and destination of each flow, in this order or in the reverse one."""
    first, second = ("dst", "src") if reverse else ("src", "dst")
    named: NDArray[np.uint64] = inputs[first] * np.uint64(0x9E3779B97F4A7C15) ^ inputs[second]
    return named


class RecentPairs:
    """The pairs of hosts that were found scanning or guessing within the last hour, and when."""

    def __init__(self) -> None:
        self._times: OrderedDict[int, list[int]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._times)

    def note(self, pair: int, clock_us: int) -> None:
        """Remember that a pair was found; at most so many pairs, and of each what is younger than an hour."""
        times = [when for when in self._times.pop(pair, []) if clock_us - KEPT_US <= when <= clock_us]
        self._times[pair] = [*times, clock_us]
        if len(self._times) > MAX_PAIRS:
            self._times.popitem(last=False)

    def seconds_since(self, pairs: NDArray[np.uint64], clocks_us: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return for each flow the seconds since its pair was found before it; NaN where it was not."""
        since = np.full(len(pairs), np.nan)
        known = np.fromiter(self._times, np.uint64, len(self._times))
        for row in np.flatnonzero(np.isin(pairs, known)).tolist():
            now_us = int(clocks_us[row])
            before = [when for when in self._times[int(pairs[row])] if now_us - KEPT_US <= when < now_us]
            if before:
                since[row] = (now_us - max(before)) / 1e6
        return since

    def save(self) -> list[tuple[int, list[int]]]:
        """Return pairs and times as JSON values."""
        return list(self._times.items())

    def load(self, saved: list[tuple[int, list[int]]]) -> None:
        """Take back what was saved."""
        self._times = OrderedDict((int(pair), [int(when) for when in times]) for pair, times in saved)


def following_columns(
    scans: RecentPairs, guesses: RecentPairs, inputs: Mapping[str, NDArray[Any]], clocks_us: NDArray[np.int64]
) -> pl.DataFrame:
    """Return :data:`FOLLOWING_COLUMNS` of flows."""
    return pl.DataFrame(
        {
            "after_scan_s": scans.seconds_since(pair_names(inputs, reverse=True), clocks_us),
            "after_guessing_s": guesses.seconds_since(pair_names(inputs), clocks_us),
            "flow_bytes_out": inputs["fwd_bytes"],
            "flow_bytes_back": inputs["bwd_bytes"],
            "flow_lasted_s": (inputs["ends_us"] - inputs["starts_us"]) / 1e6,
        }
    ).fill_nan(None)
