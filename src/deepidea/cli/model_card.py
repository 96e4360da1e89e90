"""The command `deepidea inspect`, and the model card that training prints, too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from rich.markup import escape

from deepidea.cli.options import ModelFile, option
from deepidea.cli.terminal import counted, duration, out, percent, show_pairs, write_json


def inspect(
    model: ModelFile, as_json: Annotated[bool, option("Print the whole manifest as JSON.", "--json")] = False
) -> None:
    """Print a detector's model card: input, decision, training data, training."""
    from deepidea.model.detector import Detector

    detector = Detector.load(model)
    if as_json:
        write_json(detector.manifest)
    else:
        show_card(detector)


def show_card(detector: Any) -> None:
    """Print a detector's model card."""
    card, training = detector.card, detector.card.get("training", {})
    out.print(f"[bold]DeepIDEA detector[/]  {escape(str(card.get('created_with', '')))}")
    show_pairs("input", _input(detector))
    show_pairs("decision", _decision(detector))
    show_pairs("trained on", _data(card.get("data", {})))
    show_pairs("training", _training(training))
    if "continued_from" in card or "extra" in card:
        show_pairs("continued from", _continued(card, training))


def _input(detector: Any) -> dict[str, str]:
    schema = detector.schema
    categories = (f"{name} ({len(values)} values)" for name, values in detector.encoder.vocabulary_.items())
    return {
        "schema": schema.name,
        "numbers": f"{len(schema.numbers)}, {_number_encoding(detector.encoder)}",
        "categories": ", ".join(categories) or "none",
    }


def _number_encoding(encoder: Any) -> str:
    scaled = f"scaled by {encoder.scaling}"
    if encoder.steps_ is None:
        return scaled
    of_bins = encoder.step_kind == "piecewise-linear"
    steps = f"{encoder.step_kind} over {encoder.n_quantiles} {'bins' if of_bins else 'edges'}"
    return f"{scaled} and {steps}" if encoder.has_scaled else steps


def _decision(detector: Any) -> dict[str, str]:
    import numpy as np

    decision, novelty = detector.decision, detector.novelty
    prior = decision.by_class(np.array([decision.prior], np.float32))[0]
    classes = ", ".join(f"{name} ({100 * p:.2g} %)" for name, p in zip(detector.classes, prior, strict=True))
    rule = f"{_formula(decision.temperature, decision.tau)}, summed by class"
    if novelty is not None and novelty.rate:
        rule += f"; never benign where anomaly > 1 - {novelty.rate:g}"
    labels = ", ".join(detector.labels) if detector.labels != detector.classes else ""
    return {"classes": classes, "labels": labels, "rule": rule, "novelty": _novelty(novelty)}


def _formula(temperature: float, tau: float) -> str:
    """Return the formula of a decision without what changes nothing.

    Examples
    --------
    >>> _formula(1.0, 1.0), _formula(2.0, 0.5), _formula(1.0, 0.0)
    ('softmax(z) / prior', 'softmax(z / 2) / prior^0.5', 'softmax(z)')
    """
    softmax = "softmax(z)" if temperature == 1 else f"softmax(z / {temperature:g})"
    if not tau:
        return softmax
    return f"{softmax} / prior" if tau == 1 else f"{softmax} / prior^{tau:g}"


def _novelty(novelty: Any) -> str:
    if novelty is None:
        return "none"
    least = math.exp(novelty.benign.log_shares[-1])
    sides = zip(("benign flows", "attacks"), novelty.bounds, strict=True)
    few = " and ".join(side for side, bound in sides if bound == math.inf)
    unknown = f"unknown never: too few held-out {few}" if few else "unknown"
    return f"anomaly, from held-out benign flows, down to a rate of {least:.2g}; {unknown}"


def _data(data: Mapping[str, Any]) -> dict[str, str | None]:
    files = (f"{of.get('name')} (sha256 {str(of.get('sha256'))[:12]})" for of in data.get("files", []))
    return {
        "source": data.get("source"),
        "taxonomy": data.get("taxonomy"),
        "files": ", ".join(files),
        "flows": f"{data.get('rows', 0):,}: {counted(data.get('class_rows', {}))}",
        "split": data.get("split", {}).get("kind"),
    }


def _training(training: Mapping[str, Any]) -> dict[str, str]:
    parameters = ", ".join(f"{name}={_brief(value)}" for name, value in training.get("parameters", {}).items())
    last = (training.get("epochs") or [{}])[-1]
    return {
        "preset": training.get("preset", "-"),
        "parameters": parameters,
        "seed, threads": f"{training.get('random_state')}, {training.get('n_threads')}",
        "time": duration(training.get("seconds", 0.0)),
        "last epoch": f"loss {last.get('loss', 0):.4f}, validation CBA {percent(last.get('validation_cba'))} %",
        "distinct vectors": f"{training.get('distinct_rows', 0):,}",
        "interrupted": "yes: the best epoch so far was kept" if training.get("interrupted") else "",
    }


def _brief(value: Any) -> str:
    repeats = isinstance(value, list) and len(set(value)) == 1 and len(value) > 3
    return f"{len(value)}x{value[0]}" if repeats else str(value)


def _continued(card: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, str]:
    start, extra, compared = (card.get(name) or {} for name in ("continued_from", "extra", "comparison"))
    weight = str(training.get("extra_weight"))[:6]
    flows = f"{extra.get('rows', 0):,}, each with weight {weight}: {counted(extra.get('class_rows', {}))}"
    return {
        "detector": f"{start.get('model')} ({start.get('name')})" if start else "none: trained from scratch",
        "labelled alerts": flows if extra else "",
        "comparison": f"{compared.get('verdict')}: {compared.get('reason')}" if compared else "",
    }
