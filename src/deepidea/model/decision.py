"""From network outputs to verdicts: calibration, then correction for the training prior.

Class-balanced accuracy is maximised by ``argmax_j P(j | flow) / P(j)``, not by ``argmax_j P(j | flow)``: in traffic
that is 98 % benign the second rarely names a rare attack. The correction is only as good as the probabilities, and a
network that fits its training rows well is over-confident on attacks it has not seen, hence the temperature.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepidea.model.contracts import reading_contract


@dataclass(frozen=True, slots=True)
class Decision:
    """How the network's outputs become a class and an attack score.

    An output is a class, or one label of a class where the network was trained on finer labels; each label is then
    corrected for its own prior before the labels of a class are summed.

    Parameters
    ----------
    prior : tuple of float
        Share of each output among the training flows; positive, sums to 1.
    temperature : float
        Logits are divided by it before the softmax; above 1 softens.
    tau : float
        Strength of the prior correction ``p / prior^tau``: 0 is none, 1 balances the outputs.
    class_of : tuple of int, optional
        Class of each output, ascending from 0 without gaps; one output a class where absent.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.log([[0.90, 0.10]])
    >>> Decision((0.99, 0.01), tau=0.0).classify(logits), Decision((0.99, 0.01), tau=1.0).classify(logits)
    (array([0]), array([1]))
    """

    prior: tuple[float, ...]
    temperature: float = 1.0
    tau: float = 1.0
    class_of: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.prior) < 2 or min(self.prior) <= 0 or abs(sum(self.prior) - 1) > 1e-6:
            raise ValueError(f"prior must be positive shares that sum to 1, got {self.prior}")
        if not 0 < self.temperature < float("inf") or not 0 <= self.tau < float("inf"):
            raise ValueError(f"temperature must be > 0 and tau >= 0, got {self.temperature} and {self.tau}")
        if not self.class_of:
            # Without finer labels an output is a class.
            object.__setattr__(self, "class_of", tuple(range(len(self.prior))))
        steps = [b - a for a, b in pairwise((0, *self.class_of))]
        if len(self.class_of) != len(self.prior) or steps[0] or not set(steps) <= {0, 1}:
            raise ValueError(f"class_of must ascend from 0 without gaps, one for each prior, got {self.class_of}")

    @property
    def n_classes(self) -> int:
        """Number of classes, at most that of outputs."""
        return self.class_of[-1] + 1

    def probabilities(self, logits: NDArray[Any]) -> NDArray[np.float32]:
        """Return the calibrated probability of each output, float32 ``(n_flows, n_outputs)``."""
        return softmax(np.asarray(logits, np.float32) / np.float32(self.temperature))

    def log_odds(self, logits: NDArray[Any]) -> NDArray[np.float64]:
        """Return the calibrated log-odds of attack against benign, float64 ``(n_flows,)``, finite where ``p`` is 1."""
        scaled = np.asarray(logits, np.float64) / self.temperature
        attacks = self.class_of.index(1)  # the outputs of benign come first
        # From logits, not from p: log(p / (1 - p)) is infinite as soon as p rounds to 1, and ranks among sure verdicts
        # are lost.
        return np.asarray(_log_sum_exp(scaled[:, attacks:]) - _log_sum_exp(scaled[:, :attacks]), np.float64)

    def corrected(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ``p / prior^tau`` of each output, not normalised, float32 ``(n_flows, n_outputs)``."""
        # the largest weight is 1, so that no product overflows
        weights = (np.array(self.prior) / min(self.prior)) ** -self.tau
        return probabilities * weights.astype(np.float32)

    def by_class(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sum the outputs of each class, float32 ``(n_flows, n_classes)``."""
        if self.n_classes == len(self.class_of):
            return values
        # outputs of a class are adjacent: class_of ascends
        starts = np.searchsorted(self.class_of, np.arange(self.n_classes))
        summed: NDArray[np.float32] = np.add.reduceat(values, starts, axis=1)
        return summed

    def classify(self, logits: NDArray[Any]) -> NDArray[np.int64]:
        """Return the index of each flow's class, int64 ``(n_flows,)``."""
        balanced = self.by_class(self.corrected(self.probabilities(logits)))
        return np.asarray(balanced.argmax(axis=1), np.int64)

    def shares(self, logits: NDArray[Any], unlike_benign: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Return ``p / prior^tau`` of each output, ``(n_flows, n_outputs)``; the largest sum of a class decides.

        Parameters
        ----------
        logits : array, (n_flows, n_outputs)
        unlike_benign : array, bool, (n_flows,), optional
            Flows that are not called benign whatever their logits, see :attr:`deepidea.model.novelty.Novelty.rate`.

        Examples
        --------
        >>> import numpy as np
        >>> decision, logits = Decision((0.5, 0.25, 0.25)), np.array([[9.0, 1.0, 0.0]])
        >>> decision.shares(logits).argmax(), decision.shares(logits, np.array([True])).argmax()
        (np.int64(0), np.int64(1))
        """
        corrected = self.corrected(self.probabilities(logits))
        if unlike_benign is None:
            return corrected
        first_attack = self.class_of.index(1)
        corrected[unlike_benign, :first_attack] = 0
        # Where benign is so likely that every attack underflows to 0, the softmax is taken among the attacks alone.
        underflowed = ~corrected.any(axis=1)
        if underflowed.any():
            attacks = np.array(logits[underflowed], np.float32)
            attacks[:, :first_attack] = -np.inf
            corrected[underflowed] = self.corrected(self.probabilities(attacks))
        return corrected

    def contract(self) -> dict[str, Any]:
        """Return the decision as plain JSON values."""
        numbers = {"temperature": self.temperature, "tau": self.tau}
        return {"prior": list(self.prior), **numbers, "class_of": list(self.class_of)}

    @classmethod
    def from_contract(cls, contract: dict[str, Any]) -> Decision:
        """Rebuild a decision from :meth:`contract`; :class:`ArtifactError` where the contract does not fit."""
        with reading_contract("decision"):
            prior = tuple(float(share) for share in contract["prior"])
            class_of = tuple(int(code) for code in contract["class_of"])
            return cls(prior, float(contract["temperature"]), float(contract["tau"]), class_of)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the softmax over the last axis, in the precision of its input."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))  # at most 1: no overflow
    normalised: NDArray[np.float32] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return normalised


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return log softmax over the last axis, in the precision of its input."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


def _log_sum_exp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if values.shape[1] == 1:
        return values[:, 0]
    highest = values.max(axis=1)
    return np.asarray(highest + np.log(np.exp(values - highest[:, None]).sum(axis=1)), np.float64)


def fit_temperature(
    logits: NDArray[np.float32], target: NDArray[np.int64], weight: NDArray[np.float64] | None = None
) -> float:
    """Return the temperature that minimises the weighted cross-entropy of held-out rows (Guo et al. 2017).

    Parameters
    ----------
    logits : array, float32, (n_flows, n_classes)
    target : array, int64, (n_flows,)
    weight : array, float64, (n_flows,), optional

    Notes
    -----
    Golden-section search of log T in [log 0.05, log 20]; the loss is unimodal in T. Cost: 40 passes over the logits.
    """
    weight = np.ones(len(target)) if weight is None else weight
    rows = np.arange(len(target))

    def loss(log_temperature: float) -> float:
        log_p = log_softmax(logits / np.float32(np.exp(log_temperature)))
        return float(-(log_p[rows, target] * weight).sum() / weight.sum())

    # In the logarithm, where the loss has one minimum and 0.05 is as far from 1 as 20; no gradient, no dependency.
    return float(np.exp(_golden_section(loss, np.log(0.05), np.log(20.0))))


def _golden_section(function: Any, low: float, high: float, n_steps: int = 40) -> float:
    # Invariant: low < a < b < high with a minimum between low and high; each step reuses one of the two inner values.
    ratio = (np.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = function(a), function(b)
    for _ in range(n_steps):
        if fa < fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = function(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = function(b)
    return float((low + high) / 2)
