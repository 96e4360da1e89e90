"""Two detectors on the same flows: is the new one no worse, and how sure is that?

Both score the same held-out flows, so their differences are paired: only flows that one alone gets right count. Rows
that either was trained on are left out, or memory would win.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from deepidea.errors import DataError
from deepidea.evaluation.evaluate import Scorer
from deepidea.evaluation.metrics import Scores, evaluate
from deepidea.evaluation.references import codes_of
from deepidea.evaluation.splits import is_among
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.flows.labelled import LabelledFlows
from deepidea.flows.taxonomy import BENIGN
from deepidea.model.detector import Detector

CBA_MARGIN = 0.005
FALSE_ALARM_MARGIN = 0.001
N_RESAMPLES = 4_000

Outcome = Literal["better", "no worse", "worse"]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RULE = (
    f"no worse: class-balanced accuracy has fallen by less than {100 * CBA_MARGIN:g} points at the lower end of its "
    f"95 % interval, and the false-alarm rate has risen by {100 * FALSE_ALARM_MARGIN:g} points at most; better: that, "
    "and the interval of one of the two lies wholly on the good side of 0; worse: all else, also where so few flows "
    "cannot decide"
)


@dataclass(frozen=True, slots=True)
class Difference:
    """New minus old, with its 95 % interval; None where there are no such flows."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Side:
    """Scores of one of the detectors, shares in 0..1; None where there are no such flows."""

    cba: float
    detection_rate: float | None
    false_alarm_rate: float | None
    roc_auc: float | None
    recall: dict[str, float | None]

    @classmethod
    def of(cls, scores: Scores) -> Side:
        """Return the side of scores."""
        recall = {name: one.recall for name, one in scores.per_class.items() if one.support}
        return cls(scores.cba, scores.detection_rate, scores.false_alarm_rate, scores.roc_auc, recall)


@dataclass(frozen=True, slots=True)
class AnalystPart:
    """Both on flows with analyst labels: how many, and the share that each gets right as attack or benign."""

    n_flows: int
    n_left_out: int
    old: float | None
    new: float | None


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """An old and a new detector on the same flows.

    Attributes
    ----------
    old, new : str
        Fingerprints (:attr:`deepidea.model.detector.Detector.fingerprint`).
    source : str
        Where the flows come from.
    n_flows, n_left_out : int
        Flows scored, and those left out because either was trained on a flow of the same features.
    class_rows : dict
        Flows scored by class.
    before, after : Side
        Scores of the old and of the new one.
    cba, detection_rate, false_alarm_rate : Difference
        By stratified bootstrap of the flows; a class with few flows of equal outcome looks surer than it is.
    verdict, reason
        By :data:`RULE`, and the figure that decided, in words.
    labelled : AnalystPart, optional
        On flows with analyst labels.
    """

    old: str
    new: str
    source: str
    n_flows: int
    n_left_out: int
    class_rows: dict[str, int]
    before: Side
    after: Side
    cba: Difference
    detection_rate: Difference | None
    false_alarm_rate: Difference | None
    verdict: Outcome
    reason: str
    labelled: AnalystPart | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values, with the rule."""
        return {**asdict(self), "rule": RULE}


def compare_detectors(
    old: Detector,
    new: Detector,
    flows: LabelledFlows,
    *,
    analyst_flows: LabelledFlows | None = None,
    seed: int = 0,
) -> ModelComparison:
    """Compare two detectors on labelled flows.

    Parameters
    ----------
    old, new : Detector
        Each reads the flows under its own schema; a class that one does not know is missed by it.
    flows : LabelledFlows
        Held out: rows that either was trained on are left out.
    analyst_flows : LabelledFlows, optional
        With analyst labels; rows that either was trained on are left out here, too.
    seed : int
        Of the bootstrap: the same flows give the same intervals.

    Raises
    ------
    DataError
        No row is left that neither was trained on, or there are no benign flows or no attacks among them.
    SchemaError
        The flows are of a schema that one of them does not read.

    Examples
    --------
    >>> from deepidea.flows.labelled import labelled_flows_from_table
    >>> from deepidea.flows.simulate import simulate_flows
    >>> from deepidea.model.presets import train_detector
    >>> train, _ = labelled_flows_from_table(simulate_flows(n_flows=600), "label", "benign")
    >>> test, _ = labelled_flows_from_table(simulate_flows(n_flows=600, seed=1), "label", "benign")
    >>> detector = train_detector(train, random_state=0, min_steps=100)
    >>> compare_detectors(detector, detector, test).verdict
    'no worse'
    """
    # Rows that either has trained on would favour it, whichever side they are on now.
    fresh = _fresh(flows, old, new)
    kept = flows.take(fresh)
    # Classes of both: a class that one of them does not know it can never get right.
    classes = tuple(dict.fromkeys((BENIGN, *old.classes, *new.classes, *flows.class_order)))
    truth = codes_of(kept.classes, classes)
    if not (truth == 0).any() or not (truth > 0).any():
        raise DataError(
            f"cannot compare on {flows.source}: of {len(flows):,} flows, {len(flows) - len(kept):,} were trained on, "
            f"and the rest has {int((truth == 0).sum()):,} benign flows and {int((truth > 0).sum()):,} attacks, not "
            "both; hold flows out, or give others"
        )
    verdicts = [_verdicts(one, kept, classes) for one in (old, new)]
    before, after = (Side.of(evaluate(truth, codes, None, score, classes)) for codes, score in verdicts)
    differences = paired_differences(truth, verdicts[0][0], verdicts[1][0], seed)
    verdict, reason = decide_outcome(differences["cba"], differences["false_alarm_rate"])
    counts = dict(kept.classes.value_counts().iter_rows())
    return ModelComparison(
        old=old.fingerprint,
        new=new.fingerprint,
        source=flows.source,
        n_flows=len(kept),
        n_left_out=len(flows) - len(kept),
        class_rows={name: counts[name] for name in classes if name in counts},
        before=before,
        after=after,
        **differences,
        verdict=verdict,
        reason=reason,
        labelled=None if analyst_flows is None else _analyst_part(analyst_flows, old, new),
    )


def _fresh(flows: LabelledFlows, *detectors: Detector) -> npt.NDArray[np.bool_]:
    """Return which rows none of the detectors was trained on; one that does not know counts as trained on none."""
    fresh = np.ones(len(flows), bool)
    for one in detectors:
        if one.training_fingerprints is not None and len(flows):
            prints = row_fingerprints(one.schema.conform(flows.features), one.schema)
            # fingerprints are of one schema each, so every detector is asked under its own
            fresh &= ~is_among(prints, one.training_fingerprints)
    return fresh


def _verdicts(detector: Scorer, flows: LabelledFlows, classes: tuple[str, ...]) -> tuple[Ints, Floats]:
    """Return each flow's class, by place among the classes of both, and its attack score."""
    verdicts = detector.score(flows.features)
    return codes_of(verdicts["class"], classes), verdicts["score"].to_numpy()


def paired_differences(truth: Ints, old: Ints, new: Ints, seed: int = 0) -> dict[str, Any]:
    """Return how class-balanced accuracy and both rates differ, new minus old, each with a 95 % interval.

    Parameters
    ----------
    truth, old, new : array, int64, (n_flows,)
        Places of classes, benign 0.
    seed : int

    Notes
    -----
    Flows are drawn again class by class, so that each sample holds as many of each. Of a class only three counts
    matter (new right and old wrong, both alike, old right and new wrong), and drawing flows again draws these from a
    multinomial distribution: that is the same bootstrap, at no cost of rows (Efron and Tibshirani 1993, chapter 13).

    Examples
    --------
    >>> truth = np.array([0, 0, 1, 1])
    >>> paired_differences(truth, np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]))["false_alarm_rate"].value
    -0.5
    """
    rng = np.random.default_rng(seed)
    # Paired: each flow is 1 where only the new one is right, -1 where only the old one is, else 0. What both get right
    # or wrong alike has no part in the scatter of the difference.
    rights = (new == truth).astype(np.int64) - (old == truth)
    alarms = (new > 0).astype(np.int64) - (old > 0)
    # stratified by class, as class-balanced accuracy is: each sample has as many flows of each class
    per_class = [_resampled(rights[truth == code], rng) for code in np.unique(truth)]
    cba = _difference([value for value, _ in per_class], [drawn for _, drawn in per_class])
    rates = {}
    for name, rows in (("detection_rate", truth > 0), ("false_alarm_rate", truth == 0)):
        value, drawn = _resampled(alarms[rows], rng)
        rates[name] = _difference([value], [drawn]) if rows.any() else None
    return {"cba": cba, **rates}


def _resampled(changes: Ints, rng: np.random.Generator) -> tuple[float, Floats]:
    """Return the mean of changes of -1, 0 and 1, and the means of samples drawn anew."""
    # the sufficient statistic of the bootstrap: how many flows got worse, stayed, got better
    n = max(len(changes), 1)
    counts = np.array([(changes < 0).sum(), (changes == 0).sum(), (changes > 0).sum()])
    shares = counts / max(counts.sum(), 1) if len(changes) else np.array([0.0, 1.0, 0.0])
    drawn = rng.multinomial(n, shares, size=N_RESAMPLES)
    return float(counts[2] - counts[0]) / n, (drawn[:, 2] - drawn[:, 0]) / n


def _difference(values: Sequence[float], samples: Sequence[Floats]) -> Difference:
    low, high = np.quantile(np.mean(samples, axis=0), [0.025, 0.975])
    return Difference(float(np.mean(values)), float(low), float(high))


def decide_outcome(cba: Difference, false_alarms: Difference | None) -> tuple[Outcome, str]:
    """Return whether the new detector is better, no worse or worse by :data:`RULE`, and the figure that decided.

    Examples
    --------
    >>> decide_outcome(Difference(0.02, 0.01, 0.03), Difference(0.0, -0.001, 0.001))[0]
    'better'
    >>> decide_outcome(Difference(0.0, -0.001, 0.001), Difference(0.002, 0.001, 0.003))[0]
    'worse'
    """
    # order matters: a possible loss of accuracy outweighs any gain, then alarms, then improvements
    if cba.low <= -CBA_MARGIN:
        more = "" if cba.high < 0 else "; so few flows cannot exclude it"
        return "worse", f"class-balanced accuracy may have fallen by {-100 * cba.low:.2f} points{more}"
    if false_alarms is not None and false_alarms.value > FALSE_ALARM_MARGIN:
        return "worse", f"the false-alarm rate has risen by {100 * false_alarms.value:.2f} points"
    if cba.low > 0:
        return "better", f"class-balanced accuracy has risen by {100 * cba.low:.2f} points at least"
    if false_alarms is not None and false_alarms.high < 0:
        return "better", f"the false-alarm rate has fallen by {-100 * false_alarms.high:.2f} points at least"
    return "no worse", "neither class-balanced accuracy nor the false-alarm rate is worse by more than their margins"


def _analyst_part(flows: LabelledFlows, old: Detector, new: Detector) -> AnalystPart:
    kept = flows.take(_fresh(flows, old, new))
    left_out = len(flows) - len(kept)
    if not len(kept):
        return AnalystPart(0, left_out, None, None)
    attack = kept.classes != BENIGN
    rights = [float(((one.score(kept.features)["class"] != BENIGN) == attack).mean() or 0.0) for one in (old, new)]  # type: ignore[arg-type]
    return AnalystPart(len(kept), left_out, *rights)
