"""Scores of a detector: every number with what it can and cannot carry.

Class-balanced accuracy alone says little about a detector that will meet one attack in ten thousand flows. So
`evaluate` returns, beside it, each class with counts and intervals, the ranking quality of the attack score, the
recall that a false-alarm budget leaves, the share of true alerts at realistic attack rates, and how far the
probabilities can be believed. A number that the rows cannot resolve is ``None``, with the reason beside it.

All scores are counts, or sums over sorted values: the order of the rows changes no bit of them. The cost is
O(n_flows log n_flows). `deepidea.evaluation.references` has the references that every table shows beside a detector.

References
----------
E. B. Wilson (1927), *Probable inference, the law of succession, and statistical inference*.
G. Y. Zou, A. Donner (2008), *Construction of confidence limits about effect measures: a general approach* (MOVER).
K. F. Y. Lam (2023), *Confidence intervals for the F1 score: a comparison of four methods*, arXiv:2309.14621.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from deepidea.errors import DataError, LabelError
from deepidea.evaluation.contracts import to_json_values
from deepidea.flows.taxonomy import BENIGN

FALSE_POSITIVE_RATES = (1e-2, 1e-3, 1e-4)
PREVALENCES = (1e-2, 1e-3, 1e-4, 1e-5)
CALIBRATION_BINS = 15
CURVE_POINTS = 500
SCORE_BINS = 50
Z_95 = 1.959963984540054

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


# --- intervals ---------------------------------------------------------------------------------------------------


class Interval(msgspec.Struct, array_like=True, frozen=True):
    """A 95 % confidence interval, both ends in 0..1; ``[low, high]`` in JSON."""

    low: float
    high: float


def wilson_interval(successes: int, trials: int) -> Interval | None:
    """Return Wilson's 95 % score interval of a share, or None where nothing was tried.

    Parameters
    ----------
    successes, trials : int
        Counts, ``0 <= successes <= trials``.

    Examples
    --------
    >>> interval = wilson_interval(9, 10)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.596, 0.982)
    >>> wilson_interval(0, 0) is None
    True
    """
    if trials == 0:
        return None
    share, z2 = successes / trials, Z_95**2
    # Wilson 1927: the shares p for which |share - p| <= z sqrt(p (1 - p) / n), solved for p. Unlike the normal interval
    # it neither leaves 0..1 nor shrinks to nothing at a share of 0 or 1.
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    # Exact at the ends, where rounding would leave 1e-19 or so.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(low, high)


def mean_share_interval(counts: Sequence[tuple[int, int]]) -> Interval | None:
    """Return a 95 % interval of the mean of independent shares.

    The distance from each share to its Wilson limits stands in for its standard error, and the distances add up in
    squares (MOVER, Zou and Donner 2008). It is the normal approximation of a mean of binomials, without its fault: a
    class with all of its five rows right still widens the interval. Rows count as independent; twins are not.

    Parameters
    ----------
    counts : sequence of (successes, trials)
        Pairs with no trials are left out.

    Examples
    --------
    >>> interval = mean_share_interval([(990, 1000), (5, 5)])
    >>> round(interval.low, 2), round(interval.high, 2)
    (0.78, 1.0)
    """
    used = [(hits / trials, wilson_interval(hits, trials)) for hits, trials in counts if trials]
    if not used:
        return None
    mean = math.fsum(share for share, _ in used) / len(used)
    # MOVER: distances to the limits add up in squares, on each side for itself
    below = math.hypot(*(share - limits.low for share, limits in used if limits)) / len(used)
    above = math.hypot(*(limits.high - share for share, limits in used if limits)) / len(used)
    return Interval(max(0.0, mean - below), min(1.0, mean + above))


def _f1_interval(hits: int, misses_and_false_alarms: int) -> Interval | None:
    """Carry Wilson's interval of J = TP / (TP + FP + FN) through F1 = 2J / (1 + J) (Lam 2023, "indirect")."""
    limits = wilson_interval(hits, hits + misses_and_false_alarms)
    return limits and Interval(*(2 * end / (1 + end) for end in (limits.low, limits.high)))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


# --- records -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Scores of one class against all others.

    Attributes
    ----------
    precision, recall, f1 : float or None
        None where the class was never predicted, has no rows, or neither.
    support, predicted : int
        Rows of the class, and rows that the detector put into it.
    precision_interval, recall_interval, f1_interval : Interval or None
        95 %. Wilson's for precision and recall; for F1 that of TP / (TP + FP + FN), carried over.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    predicted: int
    precision_interval: Interval | None
    recall_interval: Interval | None
    f1_interval: Interval | None

    @classmethod
    def from_counts(cls, hits: int, support: int, predicted: int) -> ClassScores:
        """Build from true positives, rows of the class, and rows predicted as it."""
        return cls(
            precision=_share(hits, predicted),
            recall=_share(hits, support),
            f1=_share(2 * hits, support + predicted),
            support=support,
            predicted=predicted,
            precision_interval=wilson_interval(hits, predicted),
            recall_interval=wilson_interval(hits, support),
            f1_interval=_f1_interval(hits, support + predicted - 2 * hits),
        )


@dataclass(frozen=True, slots=True)
class RecallAtRate:
    """The best recall of attacks that a budget of false alarms leaves, read off these very rows.

    The threshold is the lowest that keeps the budget *here*; carried to other rows it will not keep it exactly.
    Where there are fewer benign rows than one budgeted false alarm needs, all is None and `reason` says so. Where so
    many benign rows share the highest score that no threshold keeps the budget, the recall is 0 and `reason` says so.
    """

    recall: float | None
    recall_interval: Interval | None = None
    threshold: float | None = None
    false_positive_rate: float | None = None
    false_alarms: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class OperatingCurve:
    """What each threshold of the attack score would do: one record serves the ROC and the precision-recall curve.

    Attributes
    ----------
    threshold, recall, false_positive_rate, precision : ndarray of float, shape (n_points,), n_points <= 500
        From the highest threshold to the lowest; an alarm is a score at or above the threshold. Points are chosen at
        even steps of recall, of the false-positive rate, and of its logarithm.
    """

    threshold: Floats
    recall: Floats
    false_positive_rate: Floats
    precision: Floats

    def thinned(self, n_points: int) -> OperatingCurve:
        """Return the curve with fewer points, evenly spaced, its ends among them."""
        n = self.recall.size
        kept = np.unique(np.linspace(0, n - 1, min(n, n_points)).round().astype(np.int64))
        return OperatingCurve(*(getattr(self, name)[kept] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Reliability:
    """Stated probability against what happened, in up to 15 bins of about equal mass.

    Rows with the same stated probability share a bin, so that the order of rows cannot matter; bins may then differ
    in mass.

    Attributes
    ----------
    stated, observed : ndarray of float, shape (n_bins,)
        Mean stated probability, and the share of rows where it came true.
    rows : ndarray of int, shape (n_bins,)
    """

    stated: Floats
    observed: Floats
    rows: Ints

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance, weighted by rows."""
        return float(np.abs(self.stated - self.observed) @ self.rows / self.rows.sum())


@dataclass(frozen=True, slots=True)
class Scores:
    """All scores of one set of verdicts; see `evaluate`.

    Attributes
    ----------
    classes : tuple of str
        The order of `confusion`, `per_class` and `score_histogram`.
    cba, cba_interval
        Class-balanced accuracy: the mean recall over the classes that have rows; interval by `mean_share_interval`.
    macro_f1 : float
        Mean F1 over the classes that have rows or were predicted.
    detection_rate, false_alarm_rate : float or None
        Share of attack rows, and of benign rows, that the decision called any attack. None without such rows.
    pr_auc, roc_auc : float or None
        Average precision of the attack score with attack as the positive class; area under the ROC curve.
    recall_at_fpr : mapping of "0.01", "0.001", "0.0001" to RecallAtRate
    precision_at_prevalence : mapping of "0.01" .. "0.00001" to float or None
        Share of alerts that would be true where that share of flows is an attack, by Bayes from the two rates above.
        Its interval takes both rates at their unfavourable, then at their favourable limits.
    calibration_error, attack_calibration_error : float or None
        Expected calibration error of the predicted class's probability; of the attack score.
    brier, attack_brier : float or None
        Mean squared distance of the probabilities from the truth: over classes (0..2), and of the attack score (0..1).
    confusion : ndarray of int, shape (n_classes, n_classes)
        Rows are the truth, columns the verdict.
    score_histogram : ndarray of int, shape (n_classes, 50), or None
        Rows per class and equal step of the attack score.
    """

    classes: tuple[str, ...]
    n_rows: int
    cba: float
    cba_interval: Interval
    macro_f1: float
    accuracy: float
    detection_rate: float | None
    detection_rate_interval: Interval | None
    false_alarm_rate: float | None
    false_alarm_rate_interval: Interval | None
    pr_auc: float | None
    roc_auc: float | None
    recall_at_fpr: Mapping[str, RecallAtRate]
    precision_at_prevalence: Mapping[str, float | None]
    precision_at_prevalence_interval: Mapping[str, Interval | None]
    calibration_error: float | None
    attack_calibration_error: float | None
    brier: float | None
    attack_brier: float | None
    per_class: Mapping[str, ClassScores]
    confusion: Ints
    curve: OperatingCurve | None
    reliability: Reliability | None
    attack_reliability: Reliability | None
    score_histogram: Ints | None

    @property
    def benign_rows(self) -> int:
        """Rows whose truth is benign."""
        return self.per_class[BENIGN].support

    @property
    def attack_rows(self) -> int:
        """Rows whose truth is any attack."""
        return self.n_rows - self.benign_rows

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as JSON-able values, without curves, bins and histograms.

        ``recall_at_fpr`` maps rates to plain recalls; thresholds and reasons stand in ``recall_at_fpr_details``.
        """
        drawn = {"curve", "reliability", "attack_reliability", "score_histogram", "classes"}
        plain = to_json_values({name: getattr(self, name) for name in self.__slots__ if name not in drawn})
        plain["recall_at_fpr_details"] = plain["recall_at_fpr"]
        plain["recall_at_fpr"] = {rate: at["recall"] for rate, at in plain["recall_at_fpr"].items()}
        plain["confusion"] = {"classes": list(self.classes), "counts": plain["confusion"]}
        return dict(plain)


# --- the one entry -----------------------------------------------------------------------------------------------


def evaluate(
    truth: npt.ArrayLike,
    predicted: npt.ArrayLike,
    probabilities: npt.ArrayLike | None,
    attack_score: npt.ArrayLike | None,
    class_order: Sequence[str],
) -> Scores:
    """Score verdicts against the truth.

    Parameters
    ----------
    truth, predicted : array-like of int, shape (n_flows,)
        Positions in `class_order`.
    probabilities : array-like of float, shape (n_flows, n_classes), or None
        Probability per class. None (a rule has none) leaves the calibration of the verdict out.
    attack_score : array-like of float, shape (n_flows,), or None
        In 0..1, higher is more attack-like. None leaves out all that ranks by it.
    class_order : sequence of str
        Class names; "benign" is one of them, the others are attacks.

    Raises
    ------
    DataError
        No rows, arrays of different length, a position outside `class_order`, a probability or score that is not in
        0..1.
    LabelError
        "benign" is not among the classes, or a class stands there twice.

    Examples
    --------
    >>> scores = evaluate([0, 0, 1, 1], [0, 1, 1, 1], None, [0.1, 0.6, 0.5, 0.9], ["benign", "dos"])
    >>> scores.cba, scores.detection_rate, scores.false_alarm_rate
    (0.75, 1.0, 0.5)
    >>> scores.recall_at_fpr["0.01"].reason
    'a false-positive rate of 0.01 needs at least 100 benign rows, here are 2'
    """
    classes = _checked_classes(class_order)
    truth, predicted = _checked_codes(truth, "truth", classes), _checked_codes(predicted, "predicted", classes)
    _check_length(predicted, truth, "predicted")
    n_classes = len(classes)
    # pairs (truth, verdict) as one number each, counted in a single pass
    confusion = np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)
    is_attack = truth != classes.index(BENIGN)
    return Scores(
        classes=classes,
        n_rows=truth.size,
        confusion=confusion,
        **_decision_scores(confusion, classes),
        **_ranking_scores(attack_score, truth, is_attack, n_classes),
        **_confidence_scores(probabilities, truth, predicted, n_classes),
    )


def _checked_classes(class_order: Sequence[str]) -> tuple[str, ...]:
    classes = tuple(class_order)
    if BENIGN not in classes or len(set(classes)) != len(classes):
        raise LabelError(f"class_order must have {BENIGN!r} and no class twice, got {', '.join(map(repr, classes))}")
    return classes


def _checked_codes(values: npt.ArrayLike, name: str, classes: tuple[str, ...]) -> Ints:
    codes = np.asarray(values)
    if codes.ndim != 1 or codes.size == 0 or not np.issubdtype(codes.dtype, np.integer):
        raise DataError(f"{name} must be a column of class positions, got {codes.dtype} of shape {codes.shape}")
    if codes.min() < 0 or codes.max() >= len(classes):
        raise DataError(f"{name} must be in 0..{len(classes) - 1}, got {codes.min()}..{codes.max()}")
    return codes.astype(np.int64, copy=False)


def _check_length(values: npt.NDArray[Any], truth: Ints, name: str) -> None:
    if len(values) != len(truth):
        raise DataError(f"{name} has {len(values)} rows for {len(truth)} flows")


def _check_unit_range(values: npt.NDArray[Any], name: str) -> None:
    low, high = float(values.min()), float(values.max())
    # Sums of float32 shares pass 1 by rounding; anything beyond is no probability.
    if not (low >= 0 and high <= 1 + 1e-5):  # a NaN fails both
        raise DataError(f"{name} must be in 0..1, got {low}..{high}")


# --- what the decision did ---------------------------------------------------------------------------------------


def _decision_scores(confusion: Ints, classes: tuple[str, ...]) -> dict[str, Any]:
    hits, support, predicted = (
        counts.tolist() for counts in (confusion.diagonal(), confusion.sum(1), confusion.sum(0))
    )
    per_class = {
        c: ClassScores.from_counts(*counts) for c, *counts in zip(classes, hits, support, predicted, strict=True)
    }
    f1s = [scores.f1 for scores in per_class.values() if scores.f1 is not None]
    # Classes without a row have no recall, and none is made up for them: the mean is over those that occur.
    recalls = [scores.recall for scores in per_class.values() if scores.recall is not None]
    return {
        "per_class": per_class,
        "cba": math.fsum(recalls) / len(recalls),
        "cba_interval": mean_share_interval(list(zip(hits, support, strict=True))),
        "macro_f1": math.fsum(f1s) / len(f1s),
        "accuracy": sum(hits) / sum(support),
        **_alarm_scores(confusion, classes.index(BENIGN)),
    }


def _alarm_scores(confusion: Ints, benign: int) -> dict[str, Any]:
    benign_rows = int(confusion[benign].sum())
    attack_rows = int(confusion.sum()) - benign_rows
    false_alarms = benign_rows - int(confusion[benign, benign])
    detected = attack_rows - int(confusion[:, benign].sum() - confusion[benign, benign])
    detection, detection_limits = _share(detected, attack_rows), wilson_interval(detected, attack_rows)
    # an alarm is any verdict but benign, so a wrong attack class still counts as detected
    alarm, alarm_limits = _share(false_alarms, benign_rows), wilson_interval(false_alarms, benign_rows)
    return {
        "detection_rate": detection,
        "detection_rate_interval": detection_limits,
        "false_alarm_rate": alarm,
        "false_alarm_rate_interval": alarm_limits,
        "precision_at_prevalence": {
            decimal(p): None if detection is None or alarm is None else alert_precision(detection, alarm, p)
            for p in PREVALENCES
        },
        "precision_at_prevalence_interval": {
            decimal(p): _alert_precision_interval(detection_limits, alarm_limits, p) for p in PREVALENCES
        },
    }


def decimal(rate: float) -> str:
    """Spell a rate without an exponent, as the keys of the score tables do.

    Examples
    --------
    >>> decimal(1e-5), decimal(0.01)
    ('0.00001', '0.01')
    """
    return f"{rate:.12f}".rstrip("0").rstrip(".")


def alert_precision(detection_rate: float, false_alarm_rate: float, prevalence: float) -> float | None:
    """Return the share of alerts that are true where `prevalence` of the flows are attacks (Bayes).

    None where there would be no alert at all.

    Examples
    --------
    >>> round(alert_precision(0.98, 0.021, 1e-4), 4)
    0.0046
    """
    true = prevalence * detection_rate
    alerts = true + (1 - prevalence) * false_alarm_rate
    return true / alerts if alerts else None


def _alert_precision_interval(detection: Interval | None, alarm: Interval | None, prevalence: float) -> Interval | None:
    if detection is None or alarm is None:
        return None
    # the interval is conservative: both rates at their unfavourable limits at once
    worst = alert_precision(detection.low, alarm.high, prevalence)
    best = alert_precision(detection.high, alarm.low, prevalence)
    return None if worst is None or best is None else Interval(worst, best)


# --- what the attack score ranks ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Alarms at each distinct threshold, from the highest down; shapes (n_thresholds,)."""

    threshold: Floats
    true: Ints
    false: Ints

    @classmethod
    def of(cls, score: npt.NDArray[Any], is_attack: Bools) -> _Ranking:
        # counts at or above each threshold by binary search in the sorted scores: O(n log n), no loop over thresholds
        threshold = np.unique(score)
        attack, benign = np.sort(score[is_attack]), np.sort(score[~is_attack])
        true = attack.size - np.searchsorted(attack, threshold, side="left")
        false = benign.size - np.searchsorted(benign, threshold, side="left")
        return cls(threshold[::-1].astype(np.float64), true[::-1], false[::-1])

    @property
    def precision(self) -> Floats:
        return self.true / (self.true + self.false)


def _ranking_scores(
    attack_score: npt.ArrayLike | None, truth: Ints, is_attack: Bools, n_classes: int
) -> dict[str, Any]:
    if attack_score is None:
        reason = "there is no attack score"
        names = ("pr_auc", "roc_auc", "attack_calibration_error", "attack_brier", "curve", "attack_reliability")
        nothing = {decimal(rate): RecallAtRate(None, reason=reason) for rate in FALSE_POSITIVE_RATES}
        return {**dict.fromkeys(names), "score_histogram": None, "recall_at_fpr": nothing}
    score = np.asarray(attack_score)
    _check_length(score, truth, "attack_score")
    _check_unit_range(score, "attack_score")
    ranking, reliability = _Ranking.of(score, is_attack), _reliability(score, is_attack)
    # With one kind of flow alone nothing is ranked: the areas would be 0 / 0.
    both = ranking.true[-1] > 0 and ranking.false[-1] > 0
    return {
        "pr_auc": _average_precision(ranking) if both else None,
        "roc_auc": _roc_area(ranking) if both else None,
        "recall_at_fpr": {decimal(rate): _recall_at_rate(ranking, rate) for rate in FALSE_POSITIVE_RATES},
        "curve": _thinned_curve(ranking) if both else None,
        "attack_reliability": reliability,
        "attack_calibration_error": reliability.error,
        "attack_brier": _sorted_mean((score.astype(np.float64) - is_attack) ** 2),
        "score_histogram": _score_histogram(score, truth, n_classes),
    }


def _average_precision(ranking: _Ranking) -> float:
    # average precision: precision at each threshold, weighted by the recall that it adds
    gained = np.diff(ranking.true, prepend=0)
    return float(gained @ ranking.precision / ranking.true[-1])


def _roc_area(ranking: _Ranking) -> float:
    true, false = np.append(0, ranking.true), np.append(0, ranking.false)
    # Ties make slanted segments, which count equal scores of attack and benign as half: the Mann-Whitney statistic.
    return float(np.trapezoid(true, false) / (int(true[-1]) * int(false[-1])))


def _recall_at_rate(ranking: _Ranking, rate: float) -> RecallAtRate:
    attacks, benign = int(ranking.true[-1]), int(ranking.false[-1])
    if attacks == 0:
        return RecallAtRate(None, reason="there are no attack rows")
    # Fewer benign rows than one false alarm needs: zero false alarms would say nothing of this rate. 1e-9: products
    # such as 1000 * 0.001 may lie just below 1.
    if benign * rate < 1 - 1e-9:
        needed = math.ceil(1 / rate - 1e-9)
        rule = f"a false-positive rate of {decimal(rate)} needs at least {needed} benign rows"
        return RecallAtRate(None, reason=f"{rule}, here are {benign}")
    # `false` ascends with falling thresholds: the last place within the budget is the lowest threshold that keeps it
    kept = int(np.searchsorted(ranking.false, math.floor(benign * rate + 1e-9), side="right"))
    if kept == 0:  # even the highest score costs more false alarms than the budget has
        reason = f"no threshold keeps it: {int(ranking.false[0])} benign rows share the highest score"
        return RecallAtRate(0.0, wilson_interval(0, attacks), None, 0.0, 0, reason)
    true, false = int(ranking.true[kept - 1]), int(ranking.false[kept - 1])
    limits = wilson_interval(true, attacks)
    return RecallAtRate(true / attacks, limits, float(ranking.threshold[kept - 1]), false / benign, false)


def _thinned_curve(ranking: _Ranking) -> OperatingCurve:
    kept = _thinned(ranking.true, ranking.false)
    return OperatingCurve(
        threshold=ranking.threshold[kept],
        recall=ranking.true[kept] / ranking.true[-1],
        false_positive_rate=ranking.false[kept] / ranking.false[-1],
        precision=ranking.precision[kept],
    )


def _thinned(true: Ints, false: Ints) -> Ints:
    """Choose at most 500 positions; both ends are among them. The area between them moves by less than 1/250."""
    quarter = CURVE_POINTS // 4
    # half of the points by recall, a quarter by the false-positive rate, a quarter by its logarithm, for small rates
    by_recall = np.searchsorted(true, np.linspace(0, true[-1], 2 * quarter))
    by_rate = np.searchsorted(false, np.linspace(0, false[-1], quarter))
    by_magnitude = np.searchsorted(false, np.geomspace(1, max(1, false[-1]), quarter) * (1 - 1e-12))
    return np.unique(np.concatenate([by_recall, by_rate, by_magnitude]))


def _score_histogram(score: npt.NDArray[Any], truth: Ints, n_classes: int) -> Ints:
    # a score of exactly 1 belongs to the last step
    step = np.clip((score * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)
    return np.bincount(truth * SCORE_BINS + step, minlength=n_classes * SCORE_BINS).reshape(n_classes, SCORE_BINS)


# --- what the probabilities state --------------------------------------------------------------------------------


def _confidence_scores(
    probabilities: npt.ArrayLike | None, truth: Ints, predicted: Ints, n_classes: int
) -> dict[str, Any]:
    if probabilities is None:
        return dict.fromkeys(("calibration_error", "brier", "reliability"))
    stated = np.asarray(probabilities)
    if stated.shape != (truth.size, n_classes):
        raise DataError(f"probabilities must have shape {(truth.size, n_classes)}, got {stated.shape}")
    _check_unit_range(stated, "probabilities")
    # The stated probability of the class that was named, which need not be the likeliest one: decisions correct for the
    # prior.
    confidence = np.take_along_axis(stated, predicted[:, None], axis=1)[:, 0]
    reliability = _reliability(confidence, truth == predicted)
    return {"reliability": reliability, "calibration_error": reliability.error, "brier": _brier(stated, truth)}


def _reliability(stated: npt.NDArray[Any], happened: Bools) -> Reliability:
    # Bins of equal mass: cut at quantiles, then moved so that equal probabilities share a bin; sums run over sorted
    # values, so that the order of rows changes no bit.
    order = np.argsort(stated)
    stated, happened = stated[order].astype(np.float64), happened[order]
    n_rows = stated.size
    cuts = np.searchsorted(stated, stated[np.arange(1, CALIBRATION_BINS) * n_rows // CALIBRATION_BINS])
    edges = np.unique(np.concatenate([[0], cuts]))  # of rows; a cut moves down to the first row of equal probability
    rows = np.diff(np.append(edges, n_rows))
    observed = np.add.reduceat(happened, edges, dtype=np.int64) / rows
    return Reliability(np.add.reduceat(stated, edges) / rows, observed, rows)


def _brier(stated: npt.NDArray[Any], truth: Ints) -> float:
    of_truth = np.take_along_axis(stated, truth[:, None], axis=1)[:, 0]
    # sum over classes of (p - 1[truth])^2 = sum p^2 - 2 p_truth + 1
    squares = np.einsum("ij,ij->i", stated, stated, dtype=np.float64)
    return _sorted_mean(squares - 2.0 * of_truth + 1.0)


def _sorted_mean(values: Floats) -> float:
    """Mean of values summed in ascending order: the same bits for any order of rows."""
    return float(np.sort(values).mean())
