"""Numbers as steps between quantiles of training: thermometers and piecewise-linear encodings.

A network on z-scores extrapolates linearly beyond what training showed. Steps are bounded: past the last edge every
number looks alike, as it does to a tree, which carries better to other networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepidea.model.contracts import require

StepKind = Literal["thermometer", "piecewise-linear"]
MOST_QUANTILES = 256
_NARROWEST = np.float32(1e-3)  # in scaled units: narrower bins would magnify the last bits of a logarithm

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class QuantileSteps:
    """Steps of each number, side by side: the first step of every number, then the second of every number, and so on.

    Parameters
    ----------
    kind : {"thermometer", "piecewise-linear"}
        A thermometer has a step for each edge: 1 where the number is above it, else 0. A piecewise-linear encoding
        (Gorishniy et al. 2022, equation 1) has a step for each bin between two edges: 0 below the bin, 1 above it,
        linear inside.
    edges : tuple of arrays, float32
        Ascending edges of each number; few where few values are common, none where a number is constant.

    Attributes
    ----------
    source, rank : array, int64, (n_steps,)
        Number that each step belongs to, and its place among that number's steps.
    start, slope : array, float32, (n_steps,)
        Edge where the step begins, and 1 / width of its bin (1 for a thermometer).

    Examples
    --------
    >>> edges = (np.array([0, 10], np.float32), np.array([], np.float32), np.array([5, 7, 8], np.float32))
    >>> numbers = np.array([[4, 1, 7.5]], np.float32)
    >>> QuantileSteps("thermometer", edges).encode(numbers)
    array([[1., 1., 0., 1., 0.]], dtype=float32)
    >>> QuantileSteps("piecewise-linear", edges).encode(numbers)
    array([[0.4, 1. , 0.5]], dtype=float32)
    """

    kind: StepKind
    edges: tuple[Floats, ...]
    source: NDArray[np.int64] = field(init=False, repr=False)
    rank: NDArray[np.int64] = field(init=False, repr=False)
    start: Floats = field(init=False, repr=False)
    slope: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        of_bins = self.kind == "piecewise-linear"
        starts = [edges[: max(len(edges) - 1, 0)] if of_bins else edges for edges in self.edges]
        widths = [np.diff(edges) if of_bins else np.ones(len(edges), np.float32) for edges in self.edges]
        source = np.repeat(np.arange(len(starts)), [len(of) for of in starts])
        rank = np.concatenate([np.arange(len(of)) for of in starts] or [np.zeros(0, np.int64)])
        order = np.lexsort((source, rank))
        start, width = (_joined(parts)[order] for parts in (starts, widths))
        values = {"source": source[order], "rank": rank[order], "start": start, "slope": np.float32(1) / width}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def n_ranks(self) -> int:
        """Most steps that one number has."""
        return int(self.rank.max(initial=-1)) + 1

    def encode(self, numbers: Floats) -> Floats:
        """Return the steps of numbers, float32 ``(n_flows, n_numbers)``, as float32 ``(n_flows, n_steps)``."""
        chosen = numbers[:, self.source]
        if self.kind == "thermometer":
            return (chosen > self.start).astype(np.float32)
        return np.asarray(np.clip((chosen - self.start) * self.slope, np.float32(0), np.float32(1)))

    def padded(self, values: NDArray[Any], missing: float) -> NDArray[Any]:
        """Return values of each step, ``(..., n_steps)``, in a place for every rank and number.

        Result: ``(..., n_ranks * n_numbers)``. The ONNX graph computes all places, which is faster than choosing.
        """
        whole = np.full((*values.shape[:-1], self.n_ranks * len(self.edges)), missing, values.dtype)
        whole[..., self.places] = values
        return whole

    @property
    def places(self) -> NDArray[np.int64]:
        """Place of each step in a :meth:`padded` array, int64 ``(n_steps,)``."""
        return np.asarray(self.rank * len(self.edges) + self.source)

    @classmethod
    def from_lists(cls, kind: StepKind, edges: Sequence[Sequence[float]]) -> QuantileSteps:
        """Rebuild from the edges of a detector file; :class:`ArtifactError` for impossible ones."""
        steps = cls(kind, tuple(np.asarray(of, np.float32) for of in edges))
        for of in steps.edges:
            usable = of.ndim == 1 and len(of) <= MOST_QUANTILES + 1
            ordered = usable and bool(np.isfinite(of).all() and (np.diff(of) > 0).all())
            require(ordered, "encoder", "edges must be finite and ascend", of)
        return steps


def _joined(parts: Sequence[Floats]) -> Floats:
    return np.concatenate([np.zeros(0, np.float32), *parts], dtype=np.float32)


def fit_edges(kind: StepKind, values: Floats, weight: NDArray[np.float64], n_quantiles: int) -> Floats:
    """Return the edges of one number, float32, ascending.

    Parameters
    ----------
    kind : {"thermometer", "piecewise-linear"}
    values : array, float32, (n_flows,)
        Finite.
    weight : array, float64, (n_flows,)
    n_quantiles : int
        Most edges of a thermometer, most bins of a piecewise-linear encoding.

    Examples
    --------
    >>> values = np.array([0, 0, 0, 0, 0, 0, 2, 3], np.float32)
    >>> fit_edges("thermometer", values, np.ones(8), 3), fit_edges("piecewise-linear", values, np.ones(8), 4)
    (array([0.], dtype=float32), array([0., 3.], dtype=float32))
    >>> fit_edges("thermometer", np.array([0, 1, 1, 1], np.float32), np.ones(4), 3)
    array([0.], dtype=float32)
    """
    if kind == "thermometer":
        inner, distinct = weighted_quantiles(values, weight, np.arange(1, n_quantiles + 1) / (n_quantiles + 1))
        # no number is above the highest: where that is a quantile, the edge is the value below it
        return np.unique(np.where(inner == distinct[-1], distinct[-2:][0], inner))[: len(distinct) - 1]
    inner, distinct = weighted_quantiles(values, weight, np.arange(1, n_quantiles) / n_quantiles)
    return _apart(np.unique(np.concatenate([distinct[:1], inner, distinct[-1:]])))


def weighted_quantiles(values: Floats, weight: NDArray[np.float64], levels: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return quantiles, each a value that occurs, and the distinct values in ascending order.

    Examples
    --------
    >>> weighted_quantiles(np.array([3, 1, 2], np.float32), np.array([1, 1, 2.0]), np.array([0.5]))
    (array([2.], dtype=float32), array([1., 2., 3.], dtype=float32))
    """
    distinct, place = np.unique(values, return_inverse=True)
    reached = np.cumsum(np.bincount(place, weight, minlength=len(distinct)))
    at = np.searchsorted(reached, np.asarray(levels) * reached[-1])
    return distinct[np.minimum(at, len(distinct) - 1)], distinct


def _apart(edges: Floats) -> Floats:
    """Return edges without those that follow the one before too closely; none where fewer than two are left."""
    kept = list(edges[:1])
    for edge in edges[1:]:
        if edge - kept[-1] >= _NARROWEST:
            kept.append(edge)
    return np.array(kept if len(kept) > 1 else [], np.float32)
