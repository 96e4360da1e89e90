"""How the default preset was chosen: on training rows alone, in folds that leave out whole attack types.

Each candidate differs from the default preset in what its entry says. Two folds halve the types of each class: of the
attack types in KDD99's test file its publisher says that nearly half are new. The types are dealt out several times,
since in a single split luck decides which types are predicted from which. A fold trains on its types and is tested on
held-out rows of them, and on all rows of the types that were left out. The figure to compare, ``mixed``, is the mean
over classes of the recall on known types and, where there are any, of the mean recall over left-out types. Test files
are never read.

Usage: python -m benchmarks.recipe_search [--data kdd99 nsl-kdd cicids17] [--candidates default ...] [--repeats 3]
       [--results recipe_search]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.result_files import RESULTS, write_result
from deepidea.benchmark.tau_sweep import training_flows
from deepidea.benchmark.unseen_types import TypeFold, iter_type_folds, summarise_recalls, type_recalls
from deepidea.benchmark.variants import DefaultNetwork, FittedNetwork, FittedStack, ForestStack
from deepidea.flows.taxonomy import BENIGN
from deepidea.model.decision import Decision
from deepidea.model.novelty import Novelty

PAPER_SHAPE: dict[str, Any] = {"hidden": (100,) * 10, "dropout": 0.2, "batch_size": 128}
PAPER_RECIPE = {**PAPER_SHAPE, "balance": 0.0, "learning_rate": 1e-4, "schedule": "constant"}
CANDIDATES: dict[str, dict[str, Any]] = {
    "default": {},  # what each of the others differs from
    "lambda 0": {"attack_weight": 0.0},
    "lambda 3": {"attack_weight": 3.0},
    "lambda 10": {"attack_weight": 10.0},
    "labels": {"labels": True},
    "balance 0": {"balance": 0.0},
    "balance 0.75": {"balance": 0.75},
    "dropout 0.3": {"dropout": 0.3},
    "3 epochs": {"n_epochs": 3},
    "2 x 64": {"hidden": (64, 64)},
    "2 x 256": {"hidden": (256, 256)},
    "1 x 512": {"hidden": (512,)},
    "paper's shape and epochs, balance 0": PAPER_RECIPE,
    "paper's shape for 38,600 steps, balance 0": {**PAPER_RECIPE, "min_steps": 38_600},  # ten epochs of KDD99's rows
    "forests of 100 trees": {"n_trees": 100},
    "forests of 300 trees": {"n_trees": 300},
}
TEMPERATURES = (0.75, 1.0, 1.5, 2.0, 2.5, 3.0)  # with tau = 1; where outputs are classes only the product decides
RATES = (0.0, 0.01, 0.02, 0.03, 0.05)  # of benign flows that may be lost to being unlike benign flows
PLAIN = "plain"
ENCODINGS: dict[str, dict[str, Any]] = {  # of numbers; compared with the default in a folder of their own
    "thermometer 4": {"number_encoding": "thermometer", "n_quantiles": 4},
    "thermometer 8": {"number_encoding": "thermometer", "n_quantiles": 8},
    "scaled and thermometer 8": {"number_encoding": "scaled+thermometer", "n_quantiles": 8},
    "piecewise-linear 16": {"number_encoding": "piecewise-linear", "n_quantiles": 16},
}
Codes = NDArray[np.int64]


def decision_name(temperature: float, rate: float) -> str:
    """Return what a decision is called in the result files."""
    return f"temperature {temperature:g}, rate {rate:g}"


def predict(fold: TypeFold, changes: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train on one fold and return, for each decision, the recalls by class (known) and by label (left out)."""
    system = ForestStack(**changes) if "n_trees" in changes else DefaultNetwork(**{"n_epochs": 10, **changes})
    fitted = system.fit(fold.train, seed)
    names = np.array(fitted.classes)
    return {decision: type_recalls(names[codes], fold) for decision, codes in verdicts(fitted, fold.test.features)}


def verdicts(fitted: FittedNetwork | FittedStack, features: Any) -> Iterator[tuple[str, Codes]]:
    """Yield what each decision says of the flows; of a network beside forests, what it says with each and with both."""
    if isinstance(fitted, FittedStack):
        for name, forests in {"random forest": [0], "extra trees": [1], "both": [0, 1]}.items():
            beside = replace(fitted, forests=tuple(fitted.forests[place] for place in forests))
            yield name, beside.predict(features).predicted
        return
    assessed = fitted.assess(features)
    logits, anomaly = assessed.logits, cast(NDArray[np.float64], assessed.anomaly)
    novelty = cast(Novelty, fitted.detector.novelty)
    for temperature in TEMPERATURES:
        for rate in RATES:
            decision = replace(fitted.decision, temperature=temperature, tau=1.0)
            unlike_benign = replace(novelty, rate=rate).is_unlike_benign(anomaly)
            yield decision_name(temperature, rate), _classes(decision, logits, unlike_benign)
    yield PLAIN, _classes(replace(fitted.decision, tau=0.0), logits, None)


def _classes(decision: Decision, logits: NDArray[np.float32], unlike_benign: NDArray[np.bool_] | None) -> Codes:
    return np.asarray(decision.by_class(decision.shares(logits, unlike_benign)).argmax(axis=1), np.int64)


def summarise(folds: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return each decision's figures in percent, among them how many held-out benign flows it calls an attack."""
    summary = summarise_recalls(folds)
    for name, figures in summary.items():
        benign = np.mean([fold[name]["known"][BENIGN] for fold in folds])
        figures["false_alarms"] = round(100 * (1 - float(benign)), 2)
    return summary


def main() -> None:
    """Run the candidates that have no result file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["kdd99", "nsl-kdd", "cicids17"])
    parser.add_argument("--candidates", nargs="+", default=list(CANDIDATES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", default="recipe_search", help="folder of the result files")
    options = parser.parse_args()
    for name in options.candidates:
        for data in options.data:
            path = RESULTS / options.results / data / f"{file_name(name)}.json"
            if not path.exists():
                flows = training_flows(data)
                folds = [
                    predict(fold, {**CANDIDATES, **ENCODINGS}[name], seed)
                    for seed in range(options.repeats)
                    for fold in iter_type_folds(flows, seed=seed)
                ]
                summary = summarise(folds)
                write_result(path, {"data": data, "candidate": name, "summary": summary, "n_trainings": len(folds)})
                best = max(summary, key=lambda decision: summary[decision]["mixed"])
                print(f"{data:10s} {name:24s} best: {best}, {summary[best]}", flush=True)


def file_name(candidate: str) -> str:
    """Return the name of a candidate's result file.

    Examples
    --------
    >>> file_name("paper's shape, balance 0")
    'papers_shape_balance_0'
    """
    return "".join(c for c in candidate.replace(" ", "_") if c.isalnum() or c in "_.")


if __name__ == "__main__":
    main()
