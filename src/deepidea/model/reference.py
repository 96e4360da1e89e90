"""What the flows of training, or of a site, looked like: what is usual, examples of it, and how values were spread.

A detector file keeps it for two uses. Explanations (:mod:`deepidea.model.explain`) compare a flow with benign ones:
quantiles of each number, shares of each word, and a few dozen benign flows to start from. Monitors of drift compare
traffic of today with the bins of every feature and of the score.

Flows count as often as they occur, whatever weights training gave them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deepidea.errors import ArtifactError
from deepidea.flows.schema import Schema
from deepidea.flows.shards import FlowTable
from deepidea.model.features import read_number

LEVELS = (0.0, 0.005, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.995, 1.0)
"""Shares of the benign flows whose quantiles are kept; the first and the last are the extremes."""

N_BINS = 16
N_STARTS = 32
MOST_ROWS = 50_000  # that quantiles and bins are read off; 0.5 % of them are still 250
MOST_WORDS = 256
_MOST_STARTS, _MOST_EDGES = 1000, 1000  # of a contract that comes from a file
_SCORED_ROWS = 4096  # benign rows that start rows are chosen from
_SUM_TOLERANCE = 1e-3  # of shares, which are written with six figures

Floats = NDArray[np.float64]
LogOdds = Callable[[pl.DataFrame], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Bins:
    """How numbers were spread over intervals.

    Parameters
    ----------
    edges : tuple of float
        Ascending inner edges. Bin ``i`` holds ``edges[i - 1] < x <= edges[i]``; the first and the last bin are open.
    shares : tuple of float
        Of the numbers in each bin, one more than there are edges. The last may be 0: what is above a highest value
        that is common.
    missing : float
        Share of the flows that had no number; the others are all of ``shares``.

    Examples
    --------
    >>> import numpy as np
    >>> bins = Bins.of(np.array([0.0, 0.0, 0.0, 7.0, np.nan]), n_bins=4)
    >>> bins.edges, bins.shares, bins.missing
    ((0.0,), (0.75, 0.25), 0.2)
    >>> bins.places(np.array([-1.0, 0.0, 3.0, np.inf])).tolist()
    [0, 0, 1, 1]
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]
    missing: float = 0.0

    @classmethod
    def of(cls, values: NDArray[Any], *, n_bins: int = N_BINS) -> Self:
        """Return bins of about equal shares, fewer where numbers repeat; NaN is missing."""
        values = np.asarray(values, np.float64)
        finite, known = _finite(values), values[~np.isnan(values)]
        if not len(finite):
            return cls((), (1.0,), 1.0)
        ranks = np.arange(1, n_bins) / n_bins
        edges = np.unique(_rounded(np.quantile(finite, ranks, method="inverted_cdf")))
        # after rounding, and with infinities, as they are counted in the flows to compare with
        counts = np.bincount(np.searchsorted(edges, known, side="left"), minlength=len(edges) + 1)
        missing = float(_rounded([1 - len(known) / len(values)])[0])
        return cls(tuple(edges.tolist()), tuple(_rounded(counts / len(known)).tolist()), missing)

    def places(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the bin of each number, int64 ``(n_flows,)``; NaN has none and must be left out."""
        return np.asarray(np.searchsorted(np.asarray(self.edges, np.float64), values, side="left"), np.int64)

    def contract(self) -> dict[str, Any]:
        """Return the bins as JSON values."""
        return {"edges": list(self.edges), "shares": list(self.shares), "missing": self.missing}

    @classmethod
    def from_contract(cls, contract: Mapping[str, Any]) -> Self:
        """Rebuild from :meth:`contract`; :class:`ArtifactError` where it does not fit."""
        edges, shares = _floats(contract["edges"], _MOST_EDGES), _floats(contract["shares"], _MOST_EDGES + 1)
        _check_shares(shares, len(edges) + 1)
        _check(all(a < b for a, b in pairwise(edges)), "edges must ascend", edges)
        missing = float(contract["missing"])
        _check(0 <= missing <= 1, "missing must be a share", missing)
        return cls(edges, shares, missing)


@dataclass(frozen=True, slots=True)
class Words:
    """How often each word was there.

    Parameters
    ----------
    words : tuple of str
        The most frequent first.
    shares : tuple of float
        Of all flows with each word, and last those with any other word or none: one more than there are words.

    Examples
    --------
    >>> words = Words.of(pl.Series(["udp", "tcp", "tcp", None]))
    >>> words
    Words(words=('tcp', 'udp'), shares=(0.5, 0.25, 0.25))
    >>> words.share("tcp"), words.share("icmp")
    (0.5, None)
    """

    words: tuple[str, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, column: pl.Series, weight: Floats | None = None, *, most: int = MOST_WORDS) -> Self:
        """Count words, each flow by its weight."""
        weight = np.ones(len(column)) if weight is None else weight
        counted = pl.DataFrame({"word": column.cast(pl.String), "n": weight})
        total = float(weight.sum()) or 1.0
        by_word = counted.drop_nulls().group_by("word").agg(pl.col("n").sum())
        kept = by_word.sort("n", "word", descending=[True, False]).head(most)
        shares = _rounded(kept["n"].to_numpy() / total)
        others = _rounded([max(1 - float(kept["n"].to_numpy().sum()) / total, 0.0)])
        return cls(tuple(kept["word"]), (*shares.tolist(), *others.tolist()))

    def share(self, word: str | None) -> float | None:
        """Return the share of flows with a word, None where it is not among those that are kept."""
        return dict(zip(self.words, self.shares, strict=False)).get(word or "")

    @property
    def others(self) -> float:
        """Share of flows with any other word, or none."""
        return self.shares[-1]

    def contract(self) -> dict[str, Any]:
        """Return the words as JSON values."""
        return {"words": list(self.words), "shares": list(self.shares)}

    @classmethod
    def from_contract(cls, contract: Mapping[str, Any]) -> Self:
        """Rebuild from :meth:`contract`; :class:`ArtifactError` where it does not fit."""
        words, shares = _texts(contract["words"]), _floats(contract["shares"], MOST_WORDS + 1)
        _check(len(set(words)) == len(words), "words must differ", words)
        _check_shares(shares, len(words) + 1)
        return cls(words, shares)


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What flows looked like; made by :func:`fit_reference`.

    Parameters
    ----------
    n_flows, n_benign : int
        Flows that it tells of, and the benign ones among them.
    quantiles : mapping of str to tuple of float
        Of each number over benign flows, at :data:`LEVELS`; empty where no benign flow had one.
    words : mapping of str to Words
        Of each category over benign flows.
    starts : DataFrame, (n_starts, n_features)
        Benign flows, as the detector's schema has them.
    start_weights : tuple of float
        Share of the benign flows that each start stands for.
    bins : mapping of str to Bins or Words
        Of every feature over all flows.
    score_bins : Bins
        Of the detector's ``score`` over flows that it was not trained on, where some were held out.
    """

    n_flows: int
    n_benign: int
    quantiles: Mapping[str, tuple[float, ...]]
    words: Mapping[str, Words]
    starts: pl.DataFrame
    start_weights: tuple[float, ...]
    bins: Mapping[str, Bins | Words]
    score_bins: Bins

    def contract(self) -> dict[str, Any]:
        """Return what a detector file keeps, as plain JSON values."""
        return {
            "n_flows": self.n_flows,
            "n_benign": self.n_benign,
            "levels": list(LEVELS),
            "quantiles": {name: list(values) for name, values in self.quantiles.items()},
            "words": {name: words.contract() for name, words in self.words.items()},
            "starts": {"weights": list(self.start_weights), "columns": self.starts.to_dict(as_series=False)},
            "bins": {name: bins.contract() for name, bins in self.bins.items()},
            "score_bins": self.score_bins.contract(),
        }

    @classmethod
    def from_contract(cls, schema: Schema, contract: Any) -> Self:
        """Rebuild from :meth:`contract`.

        Raises
        ------
        ArtifactError
            The contract is not whole, not of this schema, or holds what cannot be.
        """
        try:
            return cls(**_read(schema, contract))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, pl.exceptions.PolarsError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(f"a reference of a detector file must be complete, however: {error!r}") from error


def fit_reference(
    schema: Schema,
    flows: FlowTable,
    is_benign: NDArray[np.bool_],
    weight: Floats,
    *,
    score_bins: Bins,
    log_odds: LogOdds,
    seed: int = 0,
) -> Reference | None:
    """Tell what flows look like; None where none of them is benign.

    Parameters
    ----------
    schema : Schema
    flows : DataFrame or ShardedTable, (n_rows, ...)
        Distinct rows as ``schema.conform`` makes them; one column at a time is in memory. Their
        order must not depend on that of the traffic, for the rows that are looked at are drawn by place.
    is_benign : array, bool, (n_rows,)
    weight : array, float64, (n_rows,)
        Flows that each row stands for.
    score_bins : Bins
        Of the detector's scores.
    log_odds : callable
        The detector's log-odds of attack of a few thousand flows: start rows are spread evenly over them, so that
        their mean is that of benign flows.
    seed : int
        Of what is drawn.

    Notes
    -----
    Quantiles and bins are read off :data:`MOST_ROWS` rows, drawn by weight, where the weights add up to more.
    Extremes and words are counted over all rows.
    """
    benign = np.flatnonzero(is_benign)
    if not weight[benign].sum() > 0:
        return None
    rng = np.random.default_rng(seed)
    drawn, usual = draw_rows(weight, rng), benign[draw_rows(weight[benign], rng)]
    bins: dict[str, Bins | Words] = {}
    quantiles: dict[str, tuple[float, ...]] = {}
    words: dict[str, Words] = {}
    for name in schema.numbers:
        column = read_number(flows[name])
        bins[name] = Bins.of(column[drawn])
        quantiles[name] = _quantiles(column[usual], *_extremes(column[benign]))
    for name in schema.categories:
        bins[name] = Words.of(flows[name], weight)
        words[name] = Words.of(flows[name][benign], weight[benign])
    starts, start_weights = _choose_starts(flows, schema.features, usual, log_odds, rng)
    return Reference(
        round(weight.sum()),
        round(weight[benign].sum()),
        quantiles,
        words,
        starts,
        start_weights,
        {name: bins[name] for name in schema.features},
        score_bins,
    )


def draw_rows(weight: Floats, rng: np.random.Generator, most: int = MOST_ROWS) -> NDArray[np.int64]:
    """Return rows so often as their weights say: exactly where that is few enough, else a systematic sample.

    Examples
    --------
    >>> draw_rows(np.array([2.0, 0.0, 1.0]), np.random.default_rng(0)).tolist()
    [0, 0, 2]
    """
    total = weight.sum()
    if total <= most and (weight == np.floor(weight)).all():
        return np.repeat(np.arange(len(weight)), weight.astype(np.int64))
    ticks = (np.arange(most) + rng.random()) * (total / most)
    return np.asarray(np.minimum(np.searchsorted(np.cumsum(weight), ticks, side="right"), len(weight) - 1), np.int64)


def _quantiles(usual: NDArray[np.float32], low: float, high: float) -> tuple[float, ...]:
    """Return quantiles of benign flows, float32 ``(n_drawn,)``, of which the extremes are over all of them."""
    known = np.clip(usual[~np.isnan(usual)].astype(np.float64), low, high)
    if not len(known) or np.isnan(low):
        return ()
    inner = np.quantile(known, LEVELS[1:-1], method="inverted_cdf")
    return tuple(_rounded([low, *inner, high]).tolist())


def _extremes(column: NDArray[np.float32]) -> tuple[float, float]:
    """Return the least and the largest finite number; NaN without any."""
    finite = column[np.isfinite(column)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (np.nan, np.nan)


def _choose_starts(
    flows: FlowTable, features: tuple[str, ...], usual: NDArray[np.int64], log_odds: LogOdds, rng: np.random.Generator
) -> tuple[pl.DataFrame, tuple[float, ...]]:
    """Choose rows at even steps through the benign ones, the likest to an attack last."""
    sample = usual[rng.permutation(len(usual))[:_SCORED_ROWS]]
    ranked = sample[np.argsort(log_odds(flows[sample]), kind="stable")]
    places = ((np.arange(N_STARTS) + 0.5) / N_STARTS * len(ranked)).astype(np.int64)
    rows, counts = np.unique(ranked[places], return_counts=True)
    starts = flows[rows].select(features)
    numbers = [name for name, dtype in starts.schema.items() if dtype.is_numeric()]
    starts = starts.with_columns(_plain_numbers(starts[name], flows) for name in numbers)
    return starts, tuple((counts / counts.sum()).tolist())


def _plain_numbers(chosen: pl.Series, flows: FlowTable) -> pl.Series:
    """Return numbers that JSON knows, with six figures: infinity is the largest finite one, NaN is null."""
    values = chosen.cast(pl.Float64).to_numpy().copy()
    if np.isinf(values).any():
        known = _finite(flows[chosen.name].cast(pl.Float64).to_numpy())
        values = np.clip(values, *((known.min(), known.max()) if len(known) else (np.nan, np.nan)))
    return pl.Series(chosen.name, _rounded(values), nan_to_null=True)


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers with infinities held at the extremes of the finite ones; NaN goes."""
    known = values[~np.isnan(values)]
    finite = known[np.isfinite(known)]
    return np.asarray(np.clip(known, finite.min(), finite.max()) if len(finite) else finite)


def _rounded(values: Any) -> Floats:
    """Return numbers with six significant figures: what the file keeps."""
    return np.array([float(f"{value:.6g}") for value in np.asarray(values, np.float64).tolist()], np.float64)


# --- reading what a file says ------------------------------------------------------------------------------------


def _check(holds: bool, rule: str, fact: object) -> None:
    if not holds:
        raise ArtifactError(f"{rule} in a reference of a detector file, however: {str(fact)[:80]!r}")


def _floats(values: Any, most: int) -> tuple[float, ...]:
    _check(isinstance(values, list) and len(values) <= most, f"numbers must be a list of at most {most}", values)
    told = tuple(float(value) for value in values)
    _check(all(map(math.isfinite, told)), "numbers must be finite", told)
    return told


def _texts(values: Any) -> tuple[str, ...]:
    _check(isinstance(values, list) and len(values) <= MOST_WORDS, f"words must be a list up to {MOST_WORDS}", values)
    _check(all(isinstance(value, str) for value in values), "words must be texts", values)
    return tuple(values)


def _check_shares(shares: Sequence[float], n: int) -> None:
    summed = len(shares) == n and min(shares) >= 0 and abs(sum(shares) - 1) < _SUM_TOLERANCE
    _check(summed, f"shares must be {n} that sum to 1", shares)


def _read(schema: Schema, contract: Any) -> dict[str, Any]:
    counts = {name: int(contract[name]) for name in ("n_flows", "n_benign")}
    _check(1 <= counts["n_benign"] <= counts["n_flows"], "n_benign must be in 1..n_flows", counts)
    _check(contract["levels"] == list(LEVELS), f"levels must be {list(LEVELS)}", contract["levels"])
    for entry, names in (("quantiles", schema.numbers), ("words", schema.categories), ("bins", schema.features)):
        _check(tuple(contract[entry]) == names, f"{entry} must be of the schema's features", list(contract[entry]))
    kinds: dict[str, type[Bins] | type[Words]] = dict.fromkeys(schema.numbers, Bins)
    kinds |= dict.fromkeys(schema.categories, Words)
    starts, weights = _read_starts(schema, contract["starts"])
    return {
        **counts,
        "quantiles": {name: _read_quantiles(values) for name, values in contract["quantiles"].items()},
        "words": {name: Words.from_contract(words) for name, words in contract["words"].items()},
        "starts": starts,
        "start_weights": weights,
        "bins": {name: kinds[name].from_contract(bins) for name, bins in contract["bins"].items()},
        "score_bins": Bins.from_contract(contract["score_bins"]),
    }


def _read_quantiles(values: Any) -> tuple[float, ...]:
    told = _floats(values, len(LEVELS))
    _check(len(told) in (0, len(LEVELS)), f"quantiles must be {len(LEVELS)} or none", told)
    _check(list(told) == sorted(told), "quantiles must ascend", told)
    return told


def _read_starts(schema: Schema, contract: Any) -> tuple[pl.DataFrame, tuple[float, ...]]:
    weights, columns = _floats(contract["weights"], _MOST_STARTS), contract["columns"]
    _check(tuple(columns) == schema.features, "starts must have the schema's features", list(columns))
    _check(all(len(values) == len(weights) for values in columns.values()), "starts must be whole rows", len(weights))
    _check_shares(weights, max(len(weights), 1))
    types = {name: pl.String() if name in schema.categories else pl.Float64() for name in schema.features}
    return pl.DataFrame(columns, schema=pl.Schema(types), strict=True), weights
