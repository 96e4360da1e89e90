"""Summary of the flows of training or of a site: quantiles, example flows, and the distribution of every feature.

A detector file keeps it for two uses. Explanations (:mod:`deepidea.model.explain`) compare a flow with benign ones:
quantiles of each number, shares of each word, and a few dozen benign flows as baselines of integrated gradients. Drift
monitors compare today's traffic with the bins of every feature and of the score.

Flows count as often as they occur, whatever weights they had in training.
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

from deepidea.flows.schema import Schema
from deepidea.flows.shards import FlowTable
from deepidea.model.contracts import reading_contract, require
from deepidea.model.features import read_number

LEVELS = (0.0, 0.005, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.995, 1.0)
"""Shares of the benign flows whose quantiles are kept; the first and the last are the extremes."""

N_BINS = 16
N_BASELINES = 32
MOST_ROWS = 50_000  # for quantiles and bins; 0.5 % of them are still 250
MOST_WORDS = 256
_MOST_BASELINES, _MOST_EDGES = 1000, 1000  # of a contract that comes from a file
_SCORED_ROWS = 4096  # benign rows that baselines are chosen from
_SUM_TOLERANCE = 1e-3  # of shares, which are written with six figures
_PART = "reference"

Floats = NDArray[np.float64]
LogOdds = Callable[[pl.DataFrame], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Bins:
    """Distribution of numbers over intervals.

    Parameters
    ----------
    edges : tuple of float
        Ascending inner edges. Bin ``i`` holds ``edges[i - 1] < x <= edges[i]``; the first and the last bin are open.
    shares : tuple of float
        Of the numbers in each bin, one more than there are edges. The last is 0 where the highest value is common.
    missing : float
        Share of the flows without a number; ``shares`` are of the others.

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
        # Infinity is a value, of rates over no time: it falls into the last bin, though it can be no edge.
        finite, known = _finite(values), values[~np.isnan(values)]
        if not len(finite):
            return cls((), (1.0,), 1.0)
        # inverted_cdf: an edge is a value that occurs, so that a bin never cuts between two flows of one value.
        ranks = np.arange(1, n_bins) / n_bins
        edges = np.unique(_rounded(np.quantile(finite, ranks, method="inverted_cdf")))
        # counted after rounding and with infinities, as the flows to compare with are
        counts = np.bincount(np.searchsorted(edges, known, side="left"), minlength=len(edges) + 1)
        missing = float(_rounded([1 - len(known) / len(values)])[0])
        return cls(tuple(edges.tolist()), tuple(_rounded(counts / len(known)).tolist()), missing)

    def places(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the bin of each number, int64 ``(n_flows,)``; NaN has no bin and must be filtered out first."""
        return np.asarray(np.searchsorted(np.asarray(self.edges, np.float64), values, side="left"), np.int64)

    def contract(self) -> dict[str, Any]:
        """Return the bins as JSON values."""
        return {"edges": list(self.edges), "shares": list(self.shares), "missing": self.missing}

    @classmethod
    def from_contract(cls, contract: Mapping[str, Any]) -> Self:
        """Rebuild from :meth:`contract`; :class:`ArtifactError` where it does not fit."""
        with reading_contract(_PART):
            edges, shares = _floats(contract["edges"], _MOST_EDGES), _floats(contract["shares"], _MOST_EDGES + 1)
            _check_shares(shares, len(edges) + 1)
            require(all(a < b for a, b in pairwise(edges)), _PART, "edges must ascend", edges)
            missing = float(contract["missing"])
            require(0 <= missing <= 1, _PART, "missing must be in [0, 1]", missing)
            return cls(edges, shares, missing)


@dataclass(frozen=True, slots=True)
class Words:
    """Share of flows with each word.

    Parameters
    ----------
    words : tuple of str
        The most frequent first.
    shares : tuple of float
        Of all flows, by word, and last those with any other word or none: one more than there are words.

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
        """Return the share of flows with a word; None where the word is not among those kept."""
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
        with reading_contract(_PART):
            words, shares = contract["words"], _floats(contract["shares"], MOST_WORDS + 1)
            texts = isinstance(words, list) and len(words) <= MOST_WORDS and all(isinstance(w, str) for w in words)
            require(texts, _PART, f"words must be a list of at most {MOST_WORDS} texts", words)
            require(len(set(words)) == len(words), _PART, "words must be distinct", words)
            _check_shares(shares, len(words) + 1)
            return cls(tuple(words), shares)


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Summary of flows; made by :func:`fit_reference`.

    Parameters
    ----------
    n_flows, n_benign : int
        Flows summarised, and the benign ones among them.
    quantiles : mapping of str to tuple of float
        Of each number over benign flows, at :data:`LEVELS`; empty where no benign flow had one.
    words : mapping of str to Words
        Of each category over benign flows.
    baselines : DataFrame, (n_baselines, n_features)
        Benign flows, in the detector's schema.
    baseline_weights : tuple of float
        Share of the benign flows that each baseline stands for.
    bins : mapping of str to Bins or Words
        Of every feature over all flows.
    score_bins : Bins
        Of the detector's ``score`` over flows that it was not trained on, where some were held out.
    """

    n_flows: int
    n_benign: int
    quantiles: Mapping[str, tuple[float, ...]]
    words: Mapping[str, Words]
    baselines: pl.DataFrame
    baseline_weights: tuple[float, ...]
    bins: Mapping[str, Bins | Words]
    score_bins: Bins

    def contract(self) -> dict[str, Any]:
        """Return the reference as plain JSON values."""
        return {
            "n_flows": self.n_flows,
            "n_benign": self.n_benign,
            "levels": list(LEVELS),
            "quantiles": {name: list(values) for name, values in self.quantiles.items()},
            "words": {name: words.contract() for name, words in self.words.items()},
            "starts": {"weights": list(self.baseline_weights), "columns": self.baselines.to_dict(as_series=False)},
            "bins": {name: bins.contract() for name, bins in self.bins.items()},
            "score_bins": self.score_bins.contract(),
        }

    @classmethod
    def from_contract(cls, schema: Schema, contract: Any) -> Self:
        """Rebuild from :meth:`contract`.

        Raises
        ------
        ArtifactError
            The contract is incomplete, of another schema, or holds impossible values.
        """
        with reading_contract(_PART):
            return cls(**_read(schema, contract))


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
    """Summarise flows; None where none of them is benign.

    Parameters
    ----------
    schema : Schema
    flows : DataFrame or ShardedTable, (n_rows, ...)
        Distinct rows as ``schema.conform`` returns them; one column at a time is in memory. Their order must not depend
        on that of the traffic, since rows are sampled by position.
    is_benign : array, bool, (n_rows,)
    weight : array, float64, (n_rows,)
        Flows that each row stands for.
    score_bins : Bins
        Of the detector's scores.
    log_odds : callable
        Returns the detector's log-odds of attack of a few thousand flows: baselines are spread evenly over them, so
        that their mean is that of benign flows.
    seed : int
        Of the samples.

    Notes
    -----
    Quantiles and bins are computed from :data:`MOST_ROWS` rows, sampled by weight, where the weights sum to more.
    Extremes and words are counted over all rows.
    """
    benign = np.flatnonzero(is_benign)
    if not weight[benign].sum() > 0:
        return None
    rng = np.random.default_rng(seed)
    drawn, usual = sample_rows(weight, rng), benign[sample_rows(weight[benign], rng)]
    # quantiles and words describe benign flows, for explanations; bins describe all flows, for drift
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
    baselines = _choose_baselines(flows, schema.features, usual, log_odds, rng)
    n_flows, n_benign = round(weight.sum()), round(weight[benign].sum())
    in_order = {name: bins[name] for name in schema.features}
    return Reference(n_flows, n_benign, quantiles, words, *baselines, in_order, score_bins)


def sample_rows(weight: Floats, rng: np.random.Generator, most: int = MOST_ROWS) -> NDArray[np.int64]:
    """Return each row as often as it weighs: exactly where weights are whole and few, else a systematic sample.

    Examples
    --------
    >>> sample_rows(np.array([2.0, 0.0, 1.0]), np.random.default_rng(0)).tolist()
    [0, 0, 2]
    """
    total = weight.sum()
    if total <= most and (weight == np.floor(weight)).all():
        return np.repeat(np.arange(len(weight)), weight.astype(np.int64))
    # systematic sampling: evenly spaced marks with one random offset on the cumulated weights
    ticks = (np.arange(most) + rng.random()) * (total / most)
    return np.asarray(np.minimum(np.searchsorted(np.cumsum(weight), ticks, side="right"), len(weight) - 1), np.int64)


def _quantiles(usual: NDArray[np.float32], low: float, high: float) -> tuple[float, ...]:
    """Return quantiles of sampled benign flows, float32 ``(n_drawn,)``, with the extremes of all benign flows."""
    known = np.clip(usual[~np.isnan(usual)].astype(np.float64), low, high)
    if not len(known) or np.isnan(low):
        return ()
    inner = np.quantile(known, LEVELS[1:-1], method="inverted_cdf")
    return tuple(_rounded([low, *inner, high]).tolist())


def _extremes(column: NDArray[np.float32]) -> tuple[float, float]:
    """Return the smallest and the largest finite number; NaN without any."""
    finite = column[np.isfinite(column)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (np.nan, np.nan)


def _choose_baselines(
    flows: FlowTable, features: tuple[str, ...], usual: NDArray[np.int64], log_odds: LogOdds, rng: np.random.Generator
) -> tuple[pl.DataFrame, tuple[float, ...]]:
    """Return benign rows at even steps through their log-odds of attack, and their weights.

    Even steps through the ranks make the mean log-odds of the baselines that of all benign flows, so that attributions
    add up to how much more than benign flows a flow looks like an attack.
    """
    sample = usual[rng.permutation(len(usual))[:_SCORED_ROWS]]  # scoring all benign rows would take too long
    ranked = sample[np.argsort(log_odds(flows[sample]), kind="stable")]
    places = ((np.arange(N_BASELINES) + 0.5) / N_BASELINES * len(ranked)).astype(np.int64)
    rows, counts = np.unique(ranked[places], return_counts=True)
    chosen = flows[rows].select(features)
    numbers = [name for name, dtype in chosen.schema.items() if dtype.is_numeric()]
    chosen = chosen.with_columns(_plain_numbers(chosen[name], flows) for name in numbers)
    return chosen, tuple((counts / counts.sum()).tolist())


def _plain_numbers(chosen: pl.Series, flows: FlowTable) -> pl.Series:
    """Return numbers that JSON has, with six figures: infinity becomes the largest finite one, NaN null."""
    values = chosen.cast(pl.Float64).to_numpy().copy()
    if np.isinf(values).any():
        known = _finite(flows[chosen.name].cast(pl.Float64).to_numpy())
        values = np.clip(values, *((known.min(), known.max()) if len(known) else (np.nan, np.nan)))
    return pl.Series(chosen.name, _rounded(values), nan_to_null=True)


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers that are not NaN, infinities clipped to the extremes of the finite ones."""
    known = values[~np.isnan(values)]
    finite = known[np.isfinite(known)]
    return np.asarray(np.clip(known, finite.min(), finite.max()) if len(finite) else finite)


def _rounded(values: Any) -> Floats:
    """Return numbers with six significant figures, as the file keeps them."""
    # Six figures are what the file holds; counting with rounded edges gives the same bins before and after it is read.
    return np.array([float(f"{value:.6g}") for value in np.asarray(values, np.float64).tolist()], np.float64)


# --- reading a contract ----------------------------------------------------------------------------------------------


def _floats(values: Any, most: int) -> tuple[float, ...]:
    numbers = isinstance(values, list) and len(values) <= most and all(math.isfinite(float(value)) for value in values)
    require(numbers, _PART, f"expected a list of at most {most} finite numbers", values)
    return tuple(float(value) for value in values)


def _check_shares(shares: Sequence[float], n: int) -> None:
    summed = len(shares) == n and min(shares) >= 0 and abs(sum(shares) - 1) < _SUM_TOLERANCE
    require(summed, _PART, f"expected {n} shares that sum to 1", shares)


def _read(schema: Schema, contract: Any) -> dict[str, Any]:
    counts = {name: int(contract[name]) for name in ("n_flows", "n_benign")}
    require(1 <= counts["n_benign"] <= counts["n_flows"], _PART, "n_benign must be in 1..n_flows", counts)
    require(contract["levels"] == list(LEVELS), _PART, f"levels must be {list(LEVELS)}", contract["levels"])
    # In the order of the schema, too: explanations pair them by position.
    for entry, names in (("quantiles", schema.numbers), ("words", schema.categories), ("bins", schema.features)):
        found = list(contract[entry])
        require(found == list(names), _PART, f"{entry} must be of the schema's features", found)
    kinds: dict[str, type[Bins] | type[Words]] = dict.fromkeys(schema.numbers, Bins)
    kinds |= dict.fromkeys(schema.categories, Words)
    baselines, weights = _read_baselines(schema, contract["starts"])
    return {
        **counts,
        "quantiles": {name: _read_quantiles(values) for name, values in contract["quantiles"].items()},
        "words": {name: Words.from_contract(words) for name, words in contract["words"].items()},
        "baselines": baselines,
        "baseline_weights": weights,
        "bins": {name: kinds[name].from_contract(bins) for name, bins in contract["bins"].items()},
        "score_bins": Bins.from_contract(contract["score_bins"]),
    }


def _read_quantiles(values: Any) -> tuple[float, ...]:
    quantiles = _floats(values, len(LEVELS))
    whole = len(quantiles) in (0, len(LEVELS)) and list(quantiles) == sorted(quantiles)
    require(whole, _PART, f"expected {len(LEVELS)} ascending quantiles or none", quantiles)
    return quantiles


def _read_baselines(schema: Schema, contract: Any) -> tuple[pl.DataFrame, tuple[float, ...]]:
    weights, columns = _floats(contract["weights"], _MOST_BASELINES), contract["columns"]
    require(tuple(columns) == schema.features, _PART, "starts must have the schema's features", list(columns))
    heights = {len(values) for values in columns.values()}
    require(heights == {len(weights)}, _PART, f"columns of starts must have {len(weights)} rows", heights)
    _check_shares(weights, max(len(weights), 1))
    types = {name: pl.String() if name in schema.categories else pl.Float64() for name in schema.features}
    return pl.DataFrame(columns, schema=pl.Schema(types), strict=True), weights
