"""How unlike the flows of training a flow is.

A network answers any flow with one of its classes, often with high confidence. Its last hidden layer tells more: flows
of a kind lie close together there. Benign training flows are described by one ellipsoid in that layer, attacks by
another, and a flow by its Mahalanobis distance to each (Lee et al. 2018). Thresholds come from the ranks of held-out
flows, as in conformal prediction (Vovk et al. 2005; Bates et al. 2023), so that error rates are stated.

``benchmarks/zero_day.py`` measures it on attack types absent from training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from deepidea.model.contracts import reading_contract, require
from deepidea.model.decision import Decision

N_AXES = (64, 32)  # kept of the benign and of the attack ellipsoid; more cost speed
MOST_ROWS = 20_000  # of each side, to fit ellipsoids and to rank distances
LOG_ODDS_WEIGHT = 0.25  # of the log-odds of attack beside the distance; chosen as docs/accuracy.md says
ODDS_WEIGHT_AT_SITE = 0.5  # the same in Fisher's sum at a site; chosen by benchmarks/site_adaptation.py
_SHRINKAGE = 1e-3  # of the mean variance, added to each axis: a unit that never fires has variance 0
UNKNOWN_RATE = 0.01  # share of held-out benign flows, and of held-out attacks, beyond the bound of their side
DISTANCES = ("distance_to_benign", "distance_to_attacks")  # outputs of a graph with ellipsoids, beside the logits
_EXACT_RANKS, _OTHER_RANKS = 500, 500  # of the held-out scores kept in a detector
_TAIL_SHARE, _LEAST_TAIL = 0.05, 10  # share of the scores that are its tail, and scores at least

NoveltyRule = Literal["mahalanobis", "none"]
Floats = NDArray[np.float64]
Layer = tuple[NDArray[np.float32], NDArray[np.float32]]  # weight (d_out, d_in) and bias (d_out,), as torch has them


@dataclass(frozen=True, slots=True, eq=False)
class Ellipsoid:
    """Centre and covariance of flows in the last hidden layer: the widest axes exactly, the rest as one variance.

    Parameters
    ----------
    centre : array, float32, (d_hidden,)
    axes : array, float32, (n_axes, d_hidden)
        Eigenvectors v of the covariance with their variance s, scaled to ``sqrt(1 / rest - 1 / s) v``.
    rest : float
        Variance along every other axis; at most that along any kept one.

    Notes
    -----
    With eigenvectors v_i and variances s_i, the squared Mahalanobis distance of a flow h is the sum of
    ``(v_i . (h - centre))^2 / s_i``. Where all but the widest axes share the variance ``rest``, it is
    ``|h - centre|^2 / rest`` less ``(1 / rest - 1 / s_i) (v_i . (h - centre))^2`` for each kept axis, that is
    ``|h - centre|^2 / rest - |axes (h - centre)|^2``: one product with a narrow matrix, also in the ONNX graph.
    """

    centre: NDArray[np.float32]
    axes: NDArray[np.float32]
    rest: float

    @classmethod
    def fit(cls, hidden: NDArray[np.float32], weight: Floats, n_axes: int) -> Self:
        """Describe weighted flows, float32 ``(n_flows, d_hidden)``."""
        # With the k widest axes u_j of variance v_j, and r for all others, a flow x from the centre has the squared
        # Mahalanobis distance
        #   |x|^2 / r - sum over j of (1/r - 1/v_j) (u_j x)^2,
        # so that one product with k vectors is enough, not one with d_hidden. `axes` are u_j sqrt(1/r - 1/v_j).
        share = weight / weight.sum()
        centre = share @ hidden
        apart = hidden - centre
        variances, vectors = np.linalg.eigh((apart * share[:, None]).T @ apart)  # ascending
        variances = np.maximum(variances, 0) + max(_SHRINKAGE * float(variances.mean()), 1e-12)
        # variances ascend: the last axes are the widest and kept, the variances of all others are averaged
        n_rest = max(len(variances) - n_axes, 0)
        rest = float(variances[: max(n_rest, 1)].mean())
        scale = np.sqrt(np.maximum(1 / rest - 1 / variances[n_rest:], 0))
        axes = (vectors[:, n_rest:] * scale).T
        return cls(centre.astype(np.float32), np.ascontiguousarray(axes, np.float32), rest)

    def distances(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the squared Mahalanobis distance of each flow, float32 ``(n_flows,)``."""
        apart = hidden - self.centre
        squared = (apart**2).sum(axis=1) / np.float32(self.rest) - ((apart @ self.axes.T) ** 2).sum(axis=1)
        # The difference of two large numbers: rounding may leave it slightly below 0.
        return np.asarray(np.maximum(squared, np.float32(0)), np.float32)


Ellipsoids = tuple[Ellipsoid, Ellipsoid]  # of benign flows, of attacks
Sample = tuple[NDArray[np.float32], NDArray[np.bool_], Floats]  # encoded flows, which are attacks, weights


def fit_novelty(
    layers: Sequence[Layer], decision: Decision, training: Sample, held_out: Sample, rate: float = 0.0
) -> tuple[Ellipsoids, Novelty]:
    """Return the ellipsoids of training flows, and the ranks of held-out flows by their distances.

    Parameters
    ----------
    layers : sequence of (weight, bias)
        Of the trained network.
    decision : Decision
    training, held_out : tuple of arrays
        Encoded flows ``(n_flows, d_in)``, which of them are attacks, and their weights; both with flows of either side.
    rate : float
        See :class:`Novelty`.
    """
    x, is_attack, weight = training
    hidden = last_hidden(layers, x)
    benign, attacks = (
        Ellipsoid.fit(hidden[side], weight[side], n_axes)
        for side, n_axes in zip((~is_attack, is_attack), N_AXES, strict=True)
    )
    # Ranks of training flows would be too good: the network has pulled them together. Hence held-out flows from here
    # on.
    x, is_attack, _ = held_out
    hidden = last_hidden(layers, x)
    distances = np.stack([benign.distances(hidden), attacks.distances(hidden)], axis=1)
    log_odds = decision.log_odds(hidden @ layers[-1][0].T + layers[-1][1])
    return (benign, attacks), Novelty.fit(log_odds, distances, is_attack, rate)


def sample_sides(is_attack: NDArray[np.bool_], seed: int, most: int = MOST_ROWS) -> NDArray[np.bool_]:
    """Return a mask of at most ``most`` flows of either side, drawn at random."""
    drawn = np.zeros(len(is_attack), bool)
    rng = np.random.default_rng(seed)
    for side in (~is_attack, is_attack):
        drawn[rng.permutation(np.flatnonzero(side))[:most]] = True
    return drawn


def last_hidden(layers: Sequence[Layer], encoded: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the output of the last hidden layer for encoded flows, float32 ``(n_flows, d_hidden)``.

    Examples
    --------
    >>> import numpy as np
    >>> layers = [(np.eye(2, dtype=np.float32), np.zeros(2, np.float32)), (np.ones((3, 2), np.float32), np.zeros(3))]
    >>> last_hidden(layers, np.array([[1.0, -1.0]], np.float32))
    array([[1., 0.]], dtype=float32)
    """
    for weight, bias in layers[:-1]:
        encoded = np.maximum(encoded @ weight.T + bias, np.float32(0))
    return encoded


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutScores:
    """Ranks among the scores of held-out flows: the share of them that is at least as high.

    Parameters
    ----------
    scores : array, float64
        Ascending, all different.
    log_shares : array, float64
        Logarithm of (1 + flows with at least this score) / (1 + flows), for each.
    tail : float
        Beyond the highest score the share falls by a factor e for each step of this size.

    Examples
    --------
    >>> import numpy as np
    >>> held_out = HeldOutScores.of(np.arange(99.0))
    >>> held_out.share_as_high(np.array([-5.0, 49.0, 98.0])).round(3)
    array([1.  , 0.51, 0.02])
    """

    scores: Floats
    log_shares: Floats
    tail: float

    @classmethod
    def of(cls, scores: Floats) -> Self:
        """Keep all of the highest scores, and evenly spaced ranks of the rest."""
        # conformal p-values: the flow to be scored counts among the held-out ones, hence the 1 in both places
        ascending = np.unique(scores)
        counts = len(scores) - np.searchsorted(np.sort(scores), ascending, side="left")
        kept = _kept_ranks(len(ascending))
        return cls(ascending[kept], np.log((1 + counts[kept]) / (1 + len(scores))), _tail_of(scores))

    def share_as_high(self, scores: Floats) -> Floats:
        """Return the conformal p-value: the share of held-out flows with a score at least as high, in 0..1.

        A flow exchangeable with the held-out ones gets a value of at most alpha with probability at most alpha, down to
        1 / (1 + held-out flows); below that an exponential tail is extrapolated, so that ranks stay different.
        """
        return np.asarray(np.exp(self.log_share_as_high(scores)), np.float64)

    def log_share_as_high(self, scores: Floats) -> Floats:
        """Return the logarithm of :meth:`share_as_high`, which far out is finer than the share itself."""
        # All beyond the highest held-out score have the same rank; the tail keeps them apart, so that alerts can be
        # ordered.
        beyond = np.maximum(scores - self.scores[-1], 0) / self.tail
        return np.asarray(np.interp(scores, self.scores, self.log_shares, left=0.0) - beyond, np.float64)

    def contract(self) -> dict[str, Any]:
        """Return the plain JSON values."""
        return {"scores": self.scores.tolist(), "log_shares": self.log_shares.tolist(), "tail": self.tail}

    @classmethod
    def from_contract(cls, contract: dict[str, Any]) -> Self:
        """Rebuild from :meth:`contract`; :class:`ArtifactError` where the contract does not fit."""
        scores, shares = (np.array(contract[name], np.float64) for name in ("scores", "log_shares"))
        known = cls(scores, shares, float(contract["tail"]))
        # Interpolation in scores that do not ascend would silently give any share.
        ranked = scores.ndim == 1 and scores.shape == shares.shape != (0,)
        ordered = ranked and bool((np.diff(scores) > 0).all() and (shares <= 0).all())
        require(ordered, "novelty", "scores must ascend, with log shares of at most 0", known)
        require(known.tail > 0, "novelty", "tail must be above 0", known.tail)
        return known


def _kept_ranks(n: int) -> NDArray[np.int64]:
    """Return ascending ranks: the highest, and evenly spaced ones below."""
    # Thresholds lie among the highest scores, where each rank counts; below, interpolation is off by 1/500 of the rest.
    exact = max(0, n - _EXACT_RANKS)
    spaced = np.linspace(0, exact, min(_OTHER_RANKS, exact), endpoint=False).astype(np.int64)
    return np.concatenate([np.unique(spaced), np.arange(exact, n)])


def _tail_of(scores: Floats) -> float:
    """Return the mean excess over a high score: an exponential tail, the limit of most well-behaved ones."""
    n_high = max(min(_LEAST_TAIL, len(scores)), round(_TAIL_SHARE * len(scores)))
    highest = np.sort(scores)[-n_high:]
    return max(float(highest.mean() - highest[0]), 1e-3)


@dataclass(frozen=True, slots=True, eq=False)
class Novelty:
    """Ranks and bounds by which distances and logits become ``anomaly`` and ``unknown``.

    Parameters
    ----------
    centres, spreads : tuple of two floats
        Of the log distance from benign flows, and of the log-odds of attack, over held-out benign flows: they put the
        two on one scale before they are summed.
    log_odds_weight : float
        Of the second in the sum.
    benign : HeldOutScores
        Of held-out benign flows.
    bounds : tuple of two floats
        Squared distance from benign flows, and from attacks, beyond which lies less than :data:`UNKNOWN_RATE` of
        the held-out flows of that side; infinite where too few were held out.
    rate : float
        A flow is not called benign where a smaller share of benign flows than this is as unlike benign flows, so at
        most this share of exchangeable benign flows is affected; 0 leaves the decision to the network.
    tails : tuple of two HeldOutScores, optional
        Ranks of the same two among benign flows of a site. Where present, Fisher's sum of their p-values (Fisher 1925),
        that of the log-odds weighted by :data:`ODDS_WEIGHT_AT_SITE`, takes the place of the scaled sum: p-values share
        one scale whatever the tails, which on another network than training's may be far longer on one side.
    """

    centres: tuple[float, float]
    spreads: tuple[float, float]
    log_odds_weight: float
    benign: HeldOutScores
    bounds: tuple[float, float]
    rate: float = 0.0
    tails: tuple[HeldOutScores, HeldOutScores] | None = None

    @classmethod
    def fit(
        cls, log_odds: Floats, distances: NDArray[np.float32], is_attack: NDArray[np.bool_], rate: float = 0.0
    ) -> Self:
        """Fit scales, ranks and bounds to held-out flows.

        Parameters
        ----------
        log_odds : array, float64, (n_flows,)
            Log-odds of attack against benign.
        distances : array, float32, (n_flows, 2)
            Squared, from benign flows and from attacks.
        is_attack : array, bool, (n_flows,)
            At least one must be False.
        rate : float
            In 0..1.
        """
        # The scale is from the median to the 95th percentile: the upper half matters, and outliers must not set it.
        parts = _parts(log_odds, distances)[:, ~is_attack]
        middle, high = np.quantile(parts, [0.5, 0.95], axis=1)
        scale = (_pair(middle), _pair(np.maximum(high - middle, 1e-6)), LOG_ODDS_WEIGHT)
        bounds = (_bound(distances[~is_attack, 0]), _bound(distances[is_attack, 1]))
        return cls(*scale, HeldOutScores.of(_sum_scaled(parts, *scale)), bounds, rate)

    def fit_site(self, log_odds: Floats, distances: NDArray[np.float32], attack_distances: NDArray[np.float32]) -> Self:
        """Return the novelty of a site: its ranks and bounds are those of benign flows of the site.

        Parameters
        ----------
        log_odds : array, float64, (n_flows,)
            Of benign flows that neither network nor ellipsoids were fitted to.
        distances : array, float32, (n_flows,)
            Of the same flows, squared, from benign flows of the site.
        attack_distances : array, float32, (n_attacks,)
            Of held-out attacks from attacks; where there are none, the bound stays.
        """
        parts = _parts(log_odds, distances[:, None])
        tails = (HeldOutScores.of(parts[0]), HeldOutScores.of(parts[1]))
        far = _bound(attack_distances) if len(attack_distances) else self.bounds[1]
        site = replace(self, tails=tails, bounds=(_bound(distances), far))
        return replace(site, benign=HeldOutScores.of(site._combined(parts)))

    def _combined(self, parts: Floats) -> Floats:
        """Return one number for each flow from its log distance and log-odds, ``(2, n_flows)``."""
        if self.tails is None:
            return _sum_scaled(parts, self.centres, self.spreads, self.log_odds_weight)
        distance, odds = (tail.log_share_as_high(part) for tail, part in zip(self.tails, parts, strict=True))
        return np.asarray(-distance - ODDS_WEIGHT_AT_SITE * odds)

    def verdict_columns(self, log_odds: Floats, distances: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return the columns of a verdict: ``anomaly``, float64, and ``unknown``, bool, each ``(n_flows,)``."""
        return {"anomaly": self.anomaly(log_odds, distances), "unknown": self.is_unknown(distances)}

    def anomaly(self, log_odds: Floats, distances: NDArray[np.float32]) -> Floats:
        """Return 1 minus the share of benign flows that are as unlike benign flows, in 0..1."""
        scores = self._combined(_parts(log_odds, distances))
        return np.asarray(1.0 - self.benign.share_as_high(scores), np.float64)

    def is_unlike_benign(self, anomaly: Floats) -> NDArray[np.bool_]:
        """Return which flows are not to be called benign, by their :meth:`anomaly`."""
        return np.asarray(anomaly > 1 - self.rate)

    def is_unknown(self, distances: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which flows lie beyond the bounds of both benign flows and known attacks."""
        return np.asarray((distances > np.array(self.bounds, np.float64)).all(axis=1))

    def contract(self) -> dict[str, Any]:
        """Return the plain JSON values; JSON has no infinity, so an infinite bound is null."""
        tails = {} if self.tails is None else {"tails": [tail.contract() for tail in self.tails]}
        scale = {"centres": list(self.centres), "spreads": list(self.spreads), "log_odds_weight": self.log_odds_weight}
        bounds = [bound if math.isfinite(bound) else None for bound in self.bounds]
        return {**scale, "bounds": bounds, "benign": self.benign.contract(), "rate": self.rate, **tails}

    @classmethod
    def from_contract(cls, contract: dict[str, Any]) -> Self:
        """Rebuild from :meth:`contract`; :class:`ArtifactError` where the contract does not fit."""
        with reading_contract("novelty"):
            bounds = [math.inf if bound is None else float(bound) for bound in contract["bounds"]]
            centres, spreads = (_pair(contract[name]) for name in ("centres", "spreads"))
            known = HeldOutScores.from_contract(contract["benign"])
            tails = [HeldOutScores.from_contract(tail) for tail in contract.get("tails", ())]
            require(len(tails) in (0, 2), "novelty", "tails must be two", len(tails))
            rate = float(contract.get("rate", 0.0))  # absent in files written before there was one
            weight, of_site = float(contract["log_odds_weight"]), (tails[0], tails[1]) if tails else None
            novelty = cls(centres, spreads, weight, known, _pair(bounds), rate, of_site)
            novelty._check()
            return novelty

    def _check(self) -> None:
        require(min(self.spreads) > 0, "novelty", "spreads must be above 0", self.spreads)
        require(0 <= self.rate < 1, "novelty", "rate must be in [0, 1)", self.rate)


def _pair(values: Any) -> tuple[float, float]:
    first, second = values
    return float(first), float(second)


def _parts(log_odds: Floats, distances: NDArray[np.float32]) -> Floats:
    # Squared distances span many orders of magnitude; their logarithm is about as wide as the log-odds.
    return np.stack([np.log1p(distances[:, 0].astype(np.float64)), log_odds])  # (2, n_flows)


def _sum_scaled(parts: Floats, centres: tuple[float, float], spreads: tuple[float, float], weight: float) -> Floats:
    # Each in units of its own upper spread, or the one with the larger numbers would decide alone.
    distance, log_odds = ((part - c) / s for part, c, s in zip(parts, centres, spreads, strict=True))
    return np.asarray(distance + weight * log_odds, np.float64)


def _bound(distances: NDArray[np.float32]) -> float:
    """Return the conformal quantile: another flow of this kind exceeds it with probability UNKNOWN_RATE at most."""
    # Split conformal: the ceil((1 - alpha)(n + 1))-th of n scores. Where n is too small for that rank, no bound keeps
    # the promise, and none is set.
    rank = math.ceil((1 - UNKNOWN_RATE) * (len(distances) + 1))
    return float(np.sort(distances)[rank - 1]) if rank <= len(distances) else math.inf
