"""What a detector file tells of itself, made into facts, a confusion matrix and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepidea.web.plots import curves_plot
from deepidea.web.rendering import duration, number, share, size
from deepidea.web.views import ModelView

Facts = list[tuple[str, str]]


def facts_of(view: ModelView) -> Facts:
    """Return the card in brief: names and values, plain text."""
    row, bounds = view.row, view.thresholds or {}
    facts = [
        ("Name", row.name or row.model_id),
        ("Detector", row.model),
        ("Schema", f"{view.schema}, {view.n_features} features"),
        ("Classes", ", ".join(view.classes)),
    ]
    if bounds:
        known = {name: bound for name, bound in bounds.get("bounds", {}).items() if bound is not None}
        told = [f"{name} above {number(bound, 4)}" for name, bound in known.items()]
        facts.append(("Alerts at", " or ".join(told) or "what is likelier an attack"))
        if bounds.get("fpr") is not None:
            facts.append(("Set for", f"{share(bounds['fpr'])} false alarms, by {number(bounds.get('n_flows'))} flows"))
    else:
        facts.append(("Alerts at", "what is likelier an attack than not; deepidea calibrate sets a rate"))
    training = view.training
    if training.get("epochs"):
        facts.append(("Trained", f"{len(training['epochs'])} epochs in {duration(training.get('seconds'))}"))
    if training.get("preset"):
        facts.append(("Preset", str(training["preset"])))
    if training.get("distinct_rows"):
        facts.append(("Training flows", f"{number(training['distinct_rows'])} distinct"))
    if row.n_bytes:
        facts.append(("File", f"{size(row.n_bytes)}, added {row.added:%Y-%m-%d}" if row.added else size(row.n_bytes)))
    return facts


def plots_of(view: ModelView) -> list[dict[str, Any]]:
    """Return the plots of a model that there are numbers for: key, title, what to say, and the plot."""
    return [made for made in (_training(view.training), *_evaluation(view.evaluation)) if made is not None]


def _training(training: Mapping[str, Any]) -> dict[str, Any] | None:
    epochs = [epoch for epoch in training.get("epochs", []) if isinstance(epoch, Mapping)]
    names = [name for name in ("loss", "validation_loss", "validation_cba") if any(name in epoch for epoch in epochs)]
    if not names:
        return None
    curves = {
        name.replace("_", " "): ([float(k + 1) for k, epoch in enumerate(epochs) if name in epoch],
                                 [float(epoch[name]) for epoch in epochs if name in epoch])
        for name in names
    }  # fmt: skip
    plot = curves_plot(curves, "epoch", "", shares=False)
    return {"key": "training", "title": "Training", "told": "by epoch", "plot": plot}


def _evaluation(told: Mapping[str, Any] | None) -> list[dict[str, Any] | None]:
    """Return the precision-recall curve and the calibration of the flows that were evaluated, seen or not."""
    scores = _scores(told)
    if scores is None:
        return []
    return [_precision(scores), _calibration(scores)]


def _scores(told: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the scores of flows that the detector had not seen, of all flows where there are none."""
    subsets = (told or {}).get("subsets") or {}
    found: Mapping[str, Any] | None = subsets.get("unseen") or subsets.get("all")
    return found


def _precision(scores: Mapping[str, Any]) -> dict[str, Any] | None:
    curve = scores.get("curve")
    if not curve:
        return None
    plot = curves_plot({"attack": (curve["recall"], curve["precision"])}, "recall of attacks", "precision",
                       told=[("area under it", scores.get("pr_auc") or 0.0)])  # fmt: skip
    return {"key": "precision", "title": "Precision and recall", "told": "over thresholds of the score", "plot": plot}


def _calibration(scores: Mapping[str, Any]) -> dict[str, Any] | None:
    bins = {"class": scores.get("reliability"), "attack": scores.get("attack_reliability")}
    curves = {f"of the {name}" if name == "class" else "that it is an attack": (of["stated"], of["observed"])
              for name, of in bins.items() if of}  # fmt: skip
    if not curves:
        return None
    plot = curves_plot(curves, "stated probability", "observed share", diagonal=True)
    return {"key": "calibration", "title": "Calibration", "told": "exact on the dotted line", "plot": plot}


def summary_of(view: ModelView) -> dict[str, Any] | None:
    """Return the confusion matrix and the facts of an evaluation."""
    told, scores = view.evaluation, _scores(view.evaluation)
    if told is None or scores is None:
        return None
    known = "flows that it had not seen" if (told.get("subsets") or {}).get("unseen") else "flows"
    facts = [
        (name, share(scores[key]) + _between(scores.get(f"{key}_interval")))
        for name, key in (
            ("Class-balanced accuracy", "cba"),
            ("Attacks found", "detection_rate"),
            ("False alarms", "false_alarm_rate"),
            ("Macro F1", "macro_f1"),
        )
        if scores.get(key) is not None
    ]
    facts += [(f"Recall of {row['name']}", _recall(row)) for row in _per_class(scores)]
    made = (
        f"{number(scores['n_rows'])} {known} of {told.get('data', {}).get('source') or 'a table'}, {told['made'][:10]}"
    )
    return {"told": made, "facts": facts, "classes": told["classes"], "confusion": _confusion(told["classes"], scores)}


def _between(interval: Sequence[float] | None) -> str:
    return f" ({share(interval[0])} – {share(interval[1])})" if interval else ""


def _per_class(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, **row} for name, row in (scores.get("per_class") or {}).items()]


def _recall(row: Mapping[str, Any]) -> str:
    return share(row.get("recall")) + _between(row.get("recall_interval"))


def _confusion(classes: list[str], scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row a true class: its share in each verdict, and how many."""
    counts: list[list[int]] = (scores.get("confusion") or {}).get("counts") or []
    return [
        {"name": name, "cells": [{"n": n, "share": n / max(sum(row), 1)} for n in row]}
        for name, row in zip(classes, counts, strict=False)
    ]
