"""Tables of docs/accuracy.md: how the recipe was chosen, and how attacks are ranked that training does not show."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.markdown import table
from benchmarks.recipe_search import PLAIN, RATES, TEMPERATURES, decision_name
from benchmarks.result_files import RESULTS, read_result
from deepidea.model.presets import PRESETS

_OWN = decision_name(PRESETS["default"]["temperature"], PRESETS["default"]["novelty_rate"])
Summaries = list[dict[str, Any]]


def recipe_decisions() -> str:
    """Return what each decision makes of the default preset's network on training folds, over the data sets."""
    of = _search_results()["default"]
    rows = [
        [f"temperature {t:g}", *(_mixed_and_false(of, decision_name(t, rate)) for rate in RATES)] for t in TEMPERATURES
    ]
    rows.append(["plain argmax", _mixed_and_false(of, PLAIN), *("" for _ in RATES[1:])])
    return table(["decision", *(f"rate {rate:g}" for rate in RATES)], rows)


def recipe_table() -> str:
    """Return the recipe search: each candidate on training folds, mean over the data sets, and each data set alone."""
    results = _search_results()
    networks = {name: of for name, of in results.items() if PLAIN in of[0]}
    ordered = sorted(networks, key=lambda name: -_mean_percent(networks[name], _OWN, "mixed"))
    rows = [_candidate_row(name, networks[name], _OWN) for name in ordered]
    for name, of in results.items():
        rows += [_candidate_row(f"{name}, {kind}", of, kind) for kind in of[0] if name not in networks]
    return table(["candidate", "mixed", "known", "left out", "false alarms", *SEARCHED], rows)


def naming_table() -> str:
    """Return what each rule of naming attacks makes of those that the preset finds, on training folds."""
    of = [read_result(f"naming_search/{data}")["summary"] for data in SEARCHED]
    rows = [_candidate_row(rule, of, rule) for rule in of[0]]
    return table(["named by", "mixed", "known", "left out", "false alarms", *SEARCHED], rows)


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
    measures = [
        f"{_mean_percent(of, decision, measure):.1f}" for measure in ("mixed", "known", "unseen", "false_alarms")
    ]
    return [name, *measures, *(f"{summary[decision]['mixed']:.1f}" for summary in of)]


def _mixed_and_false(of: Summaries, decision: str) -> str:
    return f"{_mean_percent(of, decision, 'mixed'):.1f} ({_mean_percent(of, decision, 'false_alarms'):.1f})"


def _mean_percent(of: Summaries, decision: str, measure: str) -> float:
    return statistics.mean(float(summary[decision][measure]) for summary in of)


def choices_table() -> str:
    """Return what the open choices of the paper preset did on training rows."""
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
    "plain MLP: energy": "plain MLP, energy",
    "plain MLP: 1 - p_benign": "plain MLP, 1 - p_benign",
    "contrastive head: distance": "contrastive benign head, distance from benign",
    "DeepIDEA: max-softmax": "DeepIDEA, one minus the largest probability",
    "DeepIDEA: energy": "DeepIDEA, energy",
    "DeepIDEA: 1 - p_benign": "DeepIDEA, `score`",
    "DeepIDEA: anomaly": "**DeepIDEA, `anomaly`**",
}


def zero_day_table() -> str:
    """Return how each way ranks left-out attack types, mean over the types of a data set."""
    found = read_result("zero_day")["data"]
    head = ["left-out types against benign flows", *(f"{d}: {what}" for d in found for what in _RANKED.values())]
    rows = [
        [title, *(f"{found[d]['summary']['all'][way][key]:.3f}" for d in found for key in _RANKED)]
        for way, title in _WAYS.items()
    ]
    halves = "; ".join(
        f"{data}: {part['DeepIDEA: anomaly']['auroc']:.3f} over the {part['types']} types of {kind}"
        for data, of in found.items()
        for kind, part in of["summary"].items()
        if kind != "all"
    )
    by_seed = "; ".join(f"{data}: {', '.join(_of_each_seed(of['runs']))}" for data, of in found.items())
    return f"{table(head, rows)}\n\nAUROC of `anomaly`: {halves}. Of each seed, over all types: {by_seed}."


def _of_each_seed(runs: list[dict[str, Any]]) -> list[str]:
    seeds = sorted({run["seed"] for run in runs})
    means = [_mean_of([run for run in runs if run["seed"] == s], "DeepIDEA: anomaly", "auroc") for s in seeds]
    return [f"{mean:.3f}" for mean in means]


_RANKED = {"auroc": "AUROC", "recall_at_0.01": "recall at 1e-2", "recall_at_0.001": "recall at 1e-3"}


def zero_day_types_table() -> str:
    """Return the figures of each left-out type; of several seeds the mean."""
    rows = []
    for data, of in read_result("zero_day")["data"].items():
        for name in sorted({run["type"] for run in of["runs"]}):
            runs = [run for run in of["runs"] if run["type"] == name]
            told = [_mean_of(runs, way, key) for way, key in _SHOWN]
            told += [_mean(r["marked"]["left_out"][mark] for r in runs if r["marked"]) for mark in _MARKS]
            rows.append([data, name, f"{runs[0]['flows']:,}", *(f"{value:.3f}" for value in told)])
    ways = ["AUROC plain MLP, max-softmax", "AUROC `score`", "AUROC `anomaly`"]
    return table(["data set", "left out", "flows", *ways, *_RECALLS, "called an attack", "`unknown`"], rows)


_RECALLS = ("recall at 1e-2", "recall at 1e-3")
_SHOWN = [("plain MLP: max-softmax", "auroc"), ("DeepIDEA: 1 - p_benign", "auroc")] + [
    ("DeepIDEA: anomaly", key) for key in _RANKED
]
_MARKS = ("any attack", "unknown")


def _mean_of(runs: list[dict[str, Any]], way: str, key: str) -> float:
    return _mean(run["methods"][way][key] for run in runs if way in run["methods"])


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else float("nan")


TABLES: dict[str, Callable[[], str]] = {
    "recipe_decisions": recipe_decisions,
    "recipe_search": recipe_table,
    "naming_search": naming_table,
    "paper_choices": choices_table,
    "zero_day": zero_day_table,
    "zero_day_types": zero_day_types_table,
}
