"""The model card of a detector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from deepidea.cli.terminal import duration, out, percent, show_pairs


def show_card(detector: Any) -> None:
    """Print a detector's model card."""
    data, training = detector.card.get("data", {}), detector.card.get("training", {})
    out.print(f"[bold]DeepIDEA detector[/]  {escape(str(detector.card.get('created_with', '')))}")
    show_pairs("input", _told_input(detector))
    show_pairs("decision", _told_decision(detector))
    show_pairs("trained on", _told_data(data))
    show_pairs("training", _told_training(training))
    if "continued_from" in detector.card or "extra" in detector.card:
        show_pairs("went on from", _told_beginning(detector.card, training))


def _told_input(detector: Any) -> dict[str, str]:
    schema = detector.schema
    categories = {name: len(values) for name, values in detector.encoder.vocabulary_.items()}
    return {
        "schema": schema.name,
        "numbers": f"{len(schema.numbers)}, scaled by {detector.encoder.scaling}",
        "categories": ", ".join(f"{name} ({count} values)" for name, count in categories.items()) or "none",
    }


def _told_decision(detector: Any) -> dict[str, str]:
    decision = detector.decision
    prior = decision.by_class(_row(decision.prior))[0]
    told = {"classes": ", ".join(f"{c} ({100 * p:.2g} %)" for c, p in zip(detector.classes, prior, strict=True))}
    if detector.labels != detector.classes:
        told["labels told apart"] = ", ".join(detector.labels)
    told["rule"] = f"{_spell_rule(decision.temperature, decision.tau)}, added up by class"
    if detector.novelty is not None and detector.novelty.rate:
        told["rule"] += f"; never benign where anomaly > 1 - {detector.novelty.rate:g}"
    return {**told, "what is new": _told_novelty(detector.novelty)}


def _spell_rule(temperature: float, tau: float) -> str:
    """Return the formula of a decision without what changes nothing.

    Examples
    --------
    >>> _spell_rule(1.0, 1.0), _spell_rule(2.0, 0.5), _spell_rule(1.0, 0.0)
    ('softmax(z) / prior', 'softmax(z / 2) / prior^0.5', 'softmax(z)')
    """
    softmax = "softmax(z)" if temperature == 1 else f"softmax(z / {temperature:g})"
    if not tau:
        return softmax
    return f"{softmax} / prior" if tau == 1 else f"{softmax} / prior^{tau:g}"


def _told_novelty(novelty: Any) -> str:
    if novelty is None:
        return "not told"
    least = math.exp(novelty.benign.log_shares[-1])
    told = f"anomaly, by held-out benign flows, down to a rate of {least:.2g}"
    without = [
        side for side, bound in zip(("benign flows", "attacks"), novelty.bounds, strict=True) if bound == math.inf
    ]
    return told + (f"; unknown never: too few held-out {' and '.join(without)}" if without else "; unknown")


def _row(values: Any) -> Any:
    import numpy as np

    return np.array([values], np.float32)


def _told_data(data: Mapping[str, Any]) -> dict[str, str]:
    files = [f"{file.get('name')} (sha256 {str(file.get('sha256'))[:12]})" for file in data.get("files", [])]
    classes = ", ".join(f"{name} {count:,}" for name, count in data.get("class_rows", {}).items())
    split = data.get("split", {})
    told = {"source": data.get("source"), "taxonomy": data.get("taxonomy"), "files": ", ".join(files)}
    return {**told, "flows": f"{data.get('rows', 0):,}: {classes}", "split": split.get("kind")}


def _told_training(training: Mapping[str, Any]) -> dict[str, str]:
    parameters = ", ".join(f"{name}={_brief(value)}" for name, value in training.get("parameters", {}).items())
    epochs = training.get("epochs", [])
    last = epochs[-1] if epochs else {}
    return {
        "preset": training.get("preset", "-"),
        "parameters": parameters,
        "seed, threads": f"{training.get('random_state')}, {training.get('n_threads')}",
        "time": duration(training.get("seconds", 0.0)),
        "last epoch": f"loss {last.get('loss', 0):.4f}, validation CBA {percent(last.get('validation_cba'))} %",
        "distinct vectors": f"{training.get('distinct_rows', 0):,}",
        "interrupted": "yes: the best epoch so far was kept" if training.get("interrupted") else "",
    }


def _told_beginning(card: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, str]:
    begun, extra, compared = (card.get(name) or {} for name in ("continued_from", "extra", "comparison"))
    classes = ", ".join(f"{name} {count:,}" for name, count in extra.get("class_rows", {}).items())
    weight = str(training.get("extra_weight"))[:6]
    return {
        "detector": f"{begun.get('model')} ({begun.get('name')})" if begun else "none: trained anew",
        "judged flows": f"{extra.get('rows', 0):,}, each as {weight}: {classes}" if extra else "",
        "beside it": f"{compared.get('verdict')}: {compared.get('reason')}" if compared else "",
    }


def _brief(value: Any) -> str:
    if isinstance(value, list) and len(set(value)) == 1 and len(value) > 3:
        return f"{len(value)}x{value[0]}"
    return str(value)
