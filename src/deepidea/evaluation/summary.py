"""An evaluation in brief, kept in the detector file that it is of, so that whoever has the file can be shown it.

It is kept beside the card's other entries and changes neither network nor decision: the detector's fingerprint stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

import deepidea
from deepidea.evaluation.evaluate import Evaluation
from deepidea.evaluation.metrics import OperatingCurve, Reliability, Scores
from deepidea.evaluation.report import trust_notes

__all__ = ["EVALUATION_ENTRY", "summarise_evaluation"]

EVALUATION_ENTRY = "evaluation"
"""Of the card of a detector file."""
MOST_POINTS = 100  # of a curve
_DIGITS = 6
_WHOLE = ("n_rows", "cba", "cba_interval", "macro_f1", "accuracy", "detection_rate", "detection_rate_interval",
          "false_alarm_rate", "false_alarm_rate_interval", "pr_auc", "roc_auc", "calibration_error",
          "attack_calibration_error", "recall_at_fpr", "precision_at_prevalence", "per_class", "confusion")  # fmt: skip
_BASELINE = ("cba", "detection_rate", "false_alarm_rate", "macro_f1")


def summarise_evaluation(evaluation: Evaluation, *, now: datetime | None = None) -> dict[str, Any]:
    """Return an evaluation as JSON values: what a page draws and tells of it, a few kilobytes.

    Parameters
    ----------
    evaluation : Evaluation
    now : datetime, optional
        When it was made; the clock's where absent.

    Returns
    -------
    dict
        ``made``, ``made_with``; ``data``, what it was made on; ``classes``; ``subsets``, by ``all``, ``distinct`` and
        ``unseen`` the scores of :class:`deepidea.evaluation.metrics.Scores`, ``curve`` (``threshold``, ``recall``,
        ``precision``, ``false_positive_rate``, of 100 points at most), ``reliability`` and ``attack_reliability``
        (``stated``, ``observed``, ``rows``), or None where there are no such rows; ``baselines``; ``notes``, how far to
        trust it, as ``heading`` and ``text``.
    """
    return {
        "made": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
        "made_with": f"deepidea {deepidea.__version__}",
        "data": dict(evaluation.data),
        "classes": list(evaluation.scores.classes),
        "subsets": {name: None if of is None else _scores(of) for name, of in evaluation.subsets.items()},
        "baselines": {name: _chosen(of.to_dict(), _BASELINE) for name, of in evaluation.baselines.items()},
        "notes": [{"heading": note.heading, "text": note.text} for note in trust_notes(evaluation)],
    }


def _scores(scores: Scores) -> dict[str, Any]:
    bins = {name: _bins(getattr(scores, name)) for name in ("reliability", "attack_reliability")}
    return {**_chosen(scores.to_dict(), _WHOLE), "curve": _curve(scores.curve), **bins}


def _chosen(told: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: _rounded(told[name]) for name in names}


def _curve(curve: OperatingCurve | None) -> dict[str, list[float]] | None:
    """Return a curve with fewer points, its ends among them."""
    if curve is None:
        return None
    n = len(curve.recall)
    kept = np.unique(np.linspace(0, n - 1, min(n, MOST_POINTS)).round().astype(np.int64))
    names = ("threshold", "recall", "precision", "false_positive_rate")
    return {name: _rounded(getattr(curve, name)[kept].tolist()) for name in names}


def _bins(of: Reliability | None) -> dict[str, list[float]] | None:
    names = ("stated", "observed", "rows")
    return None if of is None else {name: _rounded(getattr(of, name).tolist()) for name in names}


def _rounded(value: Any) -> Any:
    """Return JSON values with few digits; what is not finite is None."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(item) for item in value]
    return value
