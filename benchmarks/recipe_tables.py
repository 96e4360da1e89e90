"""Tables of docs/accuracy.md: how the recipe was chosen, and how unknown attacks are ranked."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.markdown import table
from benchmarks.recipe_search import PLAIN, RATES, TEMPERATURES, decision_name
from benchmarks.result_files import RESULTS, read_result
from deepidea.model.presets import PRESETS

_OWN = decision_name(PRESETS["default"]["temperature"], PRESETS["default"]["novelty_rate"])
Summaries = list[dict[str, Any]]


def recipe_decisions() -> str:
    """Return the default preset's network under each decision on training folds, over the data sets."""
    of = _search_results()["default"]
    rows = [
        [f"temperature {t:g}", *(_mixed_and_false(of, decision_name(t, rate)) for rate in RATES)] for t in TEMPERATURES
    ]
    rows.append(["plain argmax", _mixed_and_false(of, PLAIN), *("" for _ in RATES[1:])])
    return table(["decision", *(f"rate {rate:g}" for rate in RATES)], rows)


def recipe_table() -> str:
    """Return the recipe search: each candidate on training folds, mean over the data sets."""
    results = _search_results()
    networks = {name: of for name, of in results.items() if PLAIN in of[0]}
    ordered = sorted(networks, key=lambda name: -_mean_percent(networks[name], _OWN, "mixed"))
    rows = [_candidate_row(name, networks[name], _OWN) for name in ordered]
    for name, of in results.items():
        rows += [_candidate_row(f"{name}, {kind}", of, kind) for kind in of[0] if name not in networks]
    return table(["candidate", "mixed", "known", "left out", "false alarms"], rows)


SEARCHED = ("kdd99", "nsl-kdd", "cicids17")


def _search_results() -> dict[str, Summaries]:
    """Return the summaries of each candidate that was tried on every data set, in the order of the data sets."""
    found: dict[str, Summaries] = {}
    for data in SEARCHED:
        for path in sorted((RESULTS / "recipe_search" / data).glob("*.json")):
            record = json.loads(path.read_text())
            found.setdefault(record["candidate"], []).append(record["summary"])
    return {name: of for name, of in found.items() if len(of) == len(SEARCHED)}


def _candidate_row(name: str, of: Summaries, decision: str) -> list[str]:
    measures = ("mixed", "known", "unseen", "false_alarms")
    return [name, *(f"{_mean_percent(of, decision, measure):.1f}" for measure in measures)]


def _mixed_and_false(of: Summaries, decision: str) -> str:
    return f"{_mean_percent(of, decision, 'mixed'):.1f} ({_mean_percent(of, decision, 'false_alarms'):.1f})"


def _mean_percent(of: Summaries, decision: str, measure: str) -> float:
    return statistics.mean(float(summary[decision][measure]) for summary in of)


def choices_table() -> str:
    """Return the effect of the open choices of the paper preset on training rows."""
    rows = [
        [
            run["choice"],
            f"{run['training_loss']:.4f}",
            f"{run['loss_without_dropout']:.4f}",
            f"{100 * run['held_out_cba']:.1f}",
        ]
        for run in read_result("paper_choices")["runs"]
    ]
    return table(["choice", "training loss", "loss without dropout", "held-out CBA, percent"], rows)


_WAYS = {
    "plain MLP: max-softmax": "plain MLP, one minus the largest probability",
    "plain MLP: 1 - p_benign": "plain MLP, 1 - p_benign",
    "contrastive head: distance": "contrastive benign head, distance from benign",
    "DeepIDEA: max-softmax": "DeepIDEA, one minus the largest probability",
    "DeepIDEA: 1 - p_benign": "DeepIDEA, `score`",
    "DeepIDEA: anomaly": "**DeepIDEA, `anomaly`**",
}


def zero_day_table() -> str:
    """Return how each method ranks left-out attack types, mean over the types of a data set."""
    found = read_result("zero_day")["data"]
    rows = [
        [title, *("/".join(f"{of['summary']['all'][way][key]:.3f}" for key in _RANKED) for of in found.values())]
        for way, title in _WAYS.items()
    ]
    return table(["left-out types against benign flows", *found], rows)


_RANKED = ("auroc", "recall_at_0.01", "recall_at_0.001")


def site_adaptation_table() -> str:
    """Return recall and false alarms on other networks, mean over pairs, of each encoding of numbers."""
    means = [mean for mean in read_result("site_adaptation")["means"] if not (mean["site"] or mean["hidden"])]
    cells = {(mean["encoding"], mean["way"], mean["rate"]): mean for mean in means}
    ways = ("calibrate", "adapt")
    head = ["numbers", *(f"{way}, {rate}" for way in ways for rate in ("1e-2", "1e-3"))]
    columns = [(way, rate) for way in ways for rate in ("0.01", "0.001")]
    encodings = dict.fromkeys(mean["encoding"] for mean in means)
    rows = [[f"`{name}`", *(_recall_and_rate(cells[name, *column]) for column in columns)] for name in encodings]
    return table(head, rows)


def _recall_and_rate(mean: dict[str, Any]) -> str:
    return f"{mean['recall']:.2f}/{100 * mean['fpr']:.2f}%"


TABLES: dict[str, Callable[[], str]] = {
    "site_adaptation": site_adaptation_table,
    "recipe_decisions": recipe_decisions,
    "recipe_search": recipe_table,
    "paper_choices": choices_table,
    "zero_day": zero_day_table,
}
