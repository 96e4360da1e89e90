"""What a detector file tells of itself, made into facts, a confusion matrix and plots."""

from __future__ import annotations

from collections.abc import Mapping
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


def _evaluation(_: Mapping[str, Any] | None) -> list[dict[str, Any] | None]:
    return []


def summary_of(_: ModelView) -> dict[str, Any] | None:
    """Return the confusion matrix and the facts of an evaluation."""
    return None
