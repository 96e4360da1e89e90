"""Batches of training: from rows in memory, or from one shard after the other.

A batch is drawn from *all* flows, duplicates included, as in the paper. A row drawn more than :data:`MOST_COPIES` times
is computed that many times, with its weight shared among the copies: the batch loss stays the same without dropout, and
its expectation with dropout. One copy alone would be a noisy estimate of that, since each copy has its own mask. On
KDD99's 10 % file a batch of 128 flows holds 65 distinct rows. ``benchmarks/paper_choices.py`` measures the effect of
the number of copies on the final loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MOST_COPIES = 8
Batch = tuple[NDArray[np.int64], NDArray[np.float32]]
Arrays = tuple[NDArray[np.float32], NDArray[np.int64]]  # encoded rows (n_rows, d_in), and their outputs (n_rows,)


class TrainingRows(Protocol):
    """Encoded rows to train on, in memory or not."""

    def epoch(self, batch_size: int, rng: np.random.Generator) -> Iterator[tuple[Arrays, Iterator[Batch]]]:
        """Yield arrays that are in memory together, with batches from them; all of them are one epoch."""

    def arrays(self) -> Iterator[Arrays]:
        """Yield all rows, in a fixed order."""

    def n_steps(self, batch_size: int) -> int:
        """Return how many batches an epoch has."""


@dataclass(frozen=True, slots=True, eq=False)
class RowsInMemory:
    """Rows that are in memory.

    Parameters
    ----------
    x : array, float32, (n_rows, d_in)
    target : array, int64, (n_rows,)
    weight : array, float64, (n_rows,)
        How many flows each row stands for.

    Examples
    --------
    >>> rows = RowsInMemory(np.zeros((3, 1), np.float32), np.array([0, 1, 1]), np.array([3.0, 1.0, 1.0]))
    >>> rows.n_steps(2)
    3
    """

    x: NDArray[np.float32]
    target: NDArray[np.int64]
    weight: NDArray[np.float64]

    def epoch(self, batch_size: int, rng: np.random.Generator) -> Iterator[tuple[Arrays, Iterator[Batch]]]:
        """Yield all rows once."""
        yield (self.x, self.target), draw_epoch(self.weight, batch_size, rng)

    def arrays(self) -> Iterator[Arrays]:
        """Yield all rows once."""
        yield self.x, self.target

    def n_steps(self, batch_size: int) -> int:
        """Return how many batches an epoch has."""
        return math.ceil(max(float(self.weight.sum()), 1) / batch_size)


@dataclass(frozen=True, slots=True, eq=False)
class RowsOnDisk:
    """Rows of which one shard at a time is in memory, in a new random order each epoch.

    Each shard must be a fair sample of all rows, since many consecutive batches are drawn from it alone. A row that
    stands for many flows would make one shard unfair, so such rows are in every shard, with their part of the weight.

    Parameters
    ----------
    paths : sequence of path
        One ``.npy`` of encoded rows, float32 ``(n_rows, d_in)``, for each shard.
    targets, weights : sequences of arrays, (n_rows,)
        Of the rows of each shard.
    common : RowsInMemory
        Rows common to all shards, with their weight over all shards.
    """

    paths: Sequence[Path]
    targets: Sequence[NDArray[np.int64]]
    weights: Sequence[NDArray[np.float64]]
    common: RowsInMemory

    def epoch(self, batch_size: int, rng: np.random.Generator) -> Iterator[tuple[Arrays, Iterator[Batch]]]:
        """Yield one shard after the other."""
        for j in rng.permutation(len(self.paths)).tolist():
            yield self._shard(j), draw_epoch(self._weights(j), batch_size, rng)

    def arrays(self) -> Iterator[Arrays]:
        """Yield shards in their order."""
        for j in range(len(self.paths)):
            yield self._shard(j)

    def n_steps(self, batch_size: int) -> int:
        """Return how many batches an epoch has, give or take a few where weights are fractional."""
        return sum(math.ceil(max(float(self._weights(j).sum()), 1) / batch_size) for j in range(len(self.paths)))

    def _shard(self, j: int) -> Arrays:
        # Read anew each epoch: memory holds one shard, and the system caches what it has room for.
        x = np.concatenate([np.load(self.paths[j], allow_pickle=False), self.common.x])
        return x, np.concatenate([self.targets[j], self.common.target])

    def _weights(self, j: int) -> NDArray[np.float64]:
        # The parts of all shards sum to the weight: over an epoch a common row is drawn as often as it would be in
        # memory.
        return np.concatenate([self.weights[j], self.common.weight / len(self.paths)])


def draw_epoch(weight: NDArray[np.float64], batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield the batches of one shuffled pass over the flows that weighted rows stand for.

    A row of weight 3 is drawn three times an epoch, one of weight 0.5 every other epoch (systematic resampling); whole
    weights are exactly repeated rows.

    Parameters
    ----------
    weight : array, float64, (n_rows,)
        How many flows each row stands for.
    batch_size : int
        Flows in a batch.
    rng : Generator

    Yields
    ------
    rows : array, int64
        The rows of the batch, ascending; each at most :data:`MOST_COPIES` times.
    counts : array, float32
        How many flows of the batch each stands for; their sum is ``batch_size``, except in the last batch.

    Examples
    --------
    >>> import numpy as np
    >>> batches = list(draw_epoch(np.array([3.0, 1.0]), 4, np.random.default_rng(0)))
    >>> [(rows.tolist(), counts.tolist()) for rows, counts in batches]
    [([0, 0, 0, 1], [1.0, 1.0, 1.0, 1.0])]
    """
    # Systematic resampling: rows laid end to end, each as long as its weight, beside a ruler with a random offset;
    # a row is drawn once for each whole mark inside it.
    ends = np.cumsum(weight)
    copies = np.diff(np.floor(ends + rng.random()), prepend=0.0).astype(np.int64)
    flows = rng.permutation(np.repeat(np.arange(len(weight)), copies))
    # one sort of (batch, row) pairs, packed into integers, finds the repeated rows of all batches at once
    keys = np.sort(np.arange(len(flows)) // batch_size * len(weight) + flows)
    places = np.flatnonzero(np.diff(keys, prepend=-1))
    batches, rows = np.divmod(keys[places], len(weight))
    counts = np.diff(places, append=len(keys)).astype(np.float32)
    starts = np.searchsorted(batches, np.arange(math.ceil(len(flows) / batch_size)))
    # a row stands for ``counts`` flows of its batch and is computed at most MOST_COPIES times, each with equal weight
    copies = np.minimum(counts, MOST_COPIES).astype(np.int64)
    starts = np.append(0, np.cumsum(copies))[np.append(starts, len(rows))]
    rows, counts = np.repeat(rows, copies), np.repeat(counts / copies.astype(np.float32), copies)
    for start, end in pairwise(starts.tolist()):
        yield rows[start:end], counts[start:end]
