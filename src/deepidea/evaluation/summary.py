"""An evaluation in brief, kept in the file of its detector, so that the page can show it to whoever has the file.

It is an entry of the card and changes neither network nor decision: the detector's fingerprint stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import deepidea
from deepidea.evaluation.contracts import rounded, to_json_values
from deepidea.evaluation.evaluate import Evaluation
from deepidea.evaluation.metrics import Scores
from deepidea.evaluation.report import trust_notes

__all__ = ["EVALUATION_ENTRY", "summarise_evaluation"]

EVALUATION_ENTRY = "evaluation"
"""Of the card of a detector file."""
MOST_POINTS = 100  # of a curve
_WHOLE = ("n_rows", "cba", "cba_interval", "macro_f1", "accuracy", "detection_rate", "detection_rate_interval",
          "false_alarm_rate", "false_alarm_rate_interval", "pr_auc", "roc_auc", "calibration_error",
          "attack_calibration_error", "recall_at_fpr", "precision_at_prevalence", "per_class", "confusion")  # fmt: skip
_BASELINE = ("cba", "detection_rate", "false_alarm_rate", "macro_f1")


def summarise_evaluation(evaluation: Evaluation, *, now: datetime | None = None) -> dict[str, Any]:
    """Return what a page shows of an evaluation, as JSON values of a few kilobytes.

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
    baselines = {name: _chosen(scores, _BASELINE) for name, scores in evaluation.baselines.items()}
    return {
        "made": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
        "made_with": f"deepidea {deepidea.__version__}",
        "data": dict(evaluation.data),
        "classes": list(evaluation.scores.classes),
        # curves and bins are thinned and rounded: the card of a detector file stays small
        "subsets": {name: scores and _subset(scores) for name, scores in evaluation.subsets.items()},
        "baselines": baselines,
        "notes": to_json_values(trust_notes(evaluation)),
    }


def _subset(scores: Scores) -> dict[str, Any]:
    drawn = {
        "curve": scores.curve and scores.curve.thinned(MOST_POINTS),
        "reliability": scores.reliability,
        "attack_reliability": scores.attack_reliability,
    }
    return {**_chosen(scores, _WHOLE), **rounded(to_json_values(drawn))}


def _chosen(scores: Scores, names: Iterable[str]) -> dict[str, Any]:
    values = scores.to_dict()
    return {name: rounded(values[name]) for name in names}
