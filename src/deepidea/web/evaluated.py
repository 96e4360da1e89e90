"""Facts, confusion matrix and plots from a detector file's card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepidea.store.headline import duration
from deepidea.web.plots import bars_plot, curves_plot
from deepidea.web.rendering import number, share, size
from deepidea.web.views import ModelView

Facts = list[tuple[str, str]]


def facts_of(view: ModelView) -> Facts:
    """Return the main facts of a card: names and values, plain text."""
    row, bounds = view.row, view.thresholds or {}
    facts = [
        ("Name", row.name or row.model_id),
        ("Detector", row.model),
        ("Schema", f"{view.schema}, {view.n_features} features"),
        ("Classes", ", ".join(view.classes)),
    ]
    if bounds:
        known = {name: bound for name, bound in bounds.get("bounds", {}).items() if bound is not None}
        limits = [f"{name} above {number(bound, 4)}" for name, bound in known.items()]
        facts.append(("Alerts at", " or ".join(limits) or "attack more likely than benign"))
        if bounds.get("fpr") is not None:
            facts.append(("Set for", f"{share(bounds['fpr'])} false alarms (n = {number(bounds.get('n_flows'))})"))
    else:
        facts.append(("Alerts at", "attack more likely than benign; set a false alarm rate with deepidea calibrate"))
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
    """Return the plots of a model that has numbers for them: key, title, caption, and plot."""
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
    return {"key": "training", "title": "Training", "caption": "by epoch", "plot": plot}


def _evaluation(kept: Mapping[str, Any] | None) -> list[dict[str, Any] | None]:
    if kept is None:
        return []
    subsets = {_TITLES.get(name, name): of for name, of in kept.get("subsets", {}).items() if of and of.get("curve")}
    return [_precision(subsets), _detection(subsets), _calibration(kept), _recall_by_class(kept)]


_TITLES = {"all": "All flows", "distinct": "Distinct flows", "unseen": "Unseen in training"}


def _precision(subsets: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return precision against recall, and as its table the area under each curve."""
    curves = {name: (of["curve"]["recall"], of["curve"]["precision"]) for name, of in subsets.items()}
    if not curves:
        return None
    rows = [(name, of["pr_auc"]) for name, of in subsets.items() if of.get("pr_auc") is not None]
    plot = curves_plot(curves, "recall of attacks", "area under the curve", y_named="precision", table=rows)
    return {"key": "precision", "title": "Precision and recall", "caption": "over all thresholds", "plot": plot}


def _detection(subsets: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return recall and false alarms by threshold, to choose one."""
    whole = next(iter(subsets.values()), None)
    if whole is None:
        return None
    curve = whole["curve"]
    lines = {"attacks detected": (curve["threshold"], curve["recall"]),
             "false alarms": (curve["threshold"], curve["false_positive_rate"])}  # fmt: skip
    rows = [(f"attacks detected at {share(float(rate))} false alarms", at)
            for rate, at in whole.get("recall_at_fpr", {}).items() if at is not None]  # fmt: skip
    plot = curves_plot(lines, "threshold of the score", "share of flows", table=rows)
    return {
        "key": "thresholds",
        "title": "Thresholds",
        "caption": "effect of each threshold",
        "plot": plot,
    }


def _calibration(kept: Mapping[str, Any]) -> dict[str, Any] | None:
    whole = kept.get("subsets", {}).get("all") or {}
    named = {"verdict's class": whole.get("reliability"), "attack score": whole.get("attack_reliability")}
    curves = {name: (of["stated"], of["observed"]) for name, of in named.items() if of}
    if not curves:
        return None
    errors = {"verdict's class": "calibration_error", "attack score": "attack_calibration_error"}
    rows = [(name, whole[errors[name]]) for name in curves if whole.get(errors[name]) is not None]
    plot = curves_plot(curves, "stated probability", "calibration error", y_named="observed", table=rows, diagonal=True)
    return {"key": "calibration", "title": "Calibration", "caption": "dotted line: perfectly calibrated", "plot": plot}


def _recall_by_class(kept: Mapping[str, Any]) -> dict[str, Any] | None:
    whole = kept.get("subsets", {}).get("all") or {}
    recalls = [(name, float(of["recall"])) for name, of in whole.get("per_class", {}).items()
               if of.get("recall") is not None]  # fmt: skip
    if not recalls:
        return None
    return {
        "key": "recall",
        "title": "Recall by class",
        "caption": "share of each class that is detected",
        "plot": bars_plot(recalls),
    }


def summary_of(view: ModelView) -> dict[str, Any] | None:
    """Return facts and notes of an evaluation, and its confusion matrix as rows of cells."""
    kept = view.evaluation
    whole = None if kept is None else kept.get("subsets", {}).get("all")
    if kept is None or whole is None:
        return None
    data = kept.get("data", {})
    facts = [
        ("Class-balanced accuracy", _with_span(whole, "cba")),
        ("Attacks detected", _with_span(whole, "detection_rate")),
        ("False alarms", _with_span(whole, "false_alarm_rate")),
        ("PR AUC", share(whole.get("pr_auc"))),
    ]
    return {
        "caption": f"{number(data.get('rows'))} flows of {data.get('source', 'unknown data')}",
        "made": kept.get("made", ""),
        "facts": facts,
        "notes": kept.get("notes", []),
        "classes": (whole.get("confusion") or {}).get("classes", []),
        "confusion": _confusion(whole.get("confusion") or {}),
    }


def _with_span(scores: Mapping[str, Any], name: str) -> str:
    span = scores.get(f"{name}_interval")
    value = share(scores.get(name))
    ends = None if not span else (span["low"], span["high"]) if isinstance(span, Mapping) else tuple(span)
    return value if ends is None else f"{value} ({share(ends[0])} to {share(ends[1])})"


def _confusion(matrix: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row a true class, with counts and their shares of the row."""
    pairs = zip(matrix.get("classes", ()), matrix.get("counts", ()), strict=True)
    return [{"name": name, "cells": [{"n": n, "share": n / (sum(row) or 1)} for n in row]} for name, row in pairs]
