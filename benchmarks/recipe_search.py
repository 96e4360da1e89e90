"""How the default preset was chosen: on training rows alone, in folds that leave out whole attack types.

Each candidate differs from the base in what its entry says. A fold trains on the rest and is judged on held-out rows of
the types it knows, and on all rows of the types that were left out. The figure to compare, ``mixed``, is the mean over
classes of the recall on known types and, where there are any, of the mean recall over left-out types. Test files are
never read.

Usage: python -m benchmarks.recipe_search [--data kdd99 nsl-kdd cicids17] [--candidates base ...] [--folds 3]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.result_files import RESULTS, write_result
from deepidea.evaluation.protocol import flows_to_train
from deepidea.evaluation.splits import Split, leave_types_out_folds
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.flows.labelled import LabelledFlows
from deepidea.model.decision import Decision
from deepidea.model.detector import Detector
from deepidea.model.presets import make_classifier

BASE: dict[str, Any] = {
    "labels": True,
    "attack_weight": 1.0,
    "hidden": (256, 256),
    "dropout": 0.1,
    "learning_rate": 1e-3,
    "batch_size": 256,
    "n_epochs": 30,
    "schedule": "one-cycle",
    "scaling": "log-z-score",
    "duplicates": "drop",
    "balance": 0.5,
}
CANDIDATES: dict[str, dict[str, Any]] = {
    "base": {},
    "lambda 0": {"attack_weight": 0.0},
    "lambda 10": {"attack_weight": 10.0},
    "balance 0": {"balance": 0.0},
    "balance 1": {"balance": 1.0},
    "classes": {"labels": False},
    "classes, dropout 0.2": {"labels": False, "dropout": 0.2},
    "classes, 10 epochs": {"labels": False, "n_epochs": 10},
    "classes, 10 epochs, dropout 0.2": {"labels": False, "n_epochs": 10, "dropout": 0.2},
    "classes, 10 epochs, dropout 0.3": {"labels": False, "n_epochs": 10, "dropout": 0.3},
    "classes, 5 epochs, dropout 0.2": {"labels": False, "n_epochs": 5, "dropout": 0.2},
    "classes, 10 epochs, 10 x 100": {"labels": False, "n_epochs": 10, "hidden": (100,) * 10},
    "dropout 0.2": {"dropout": 0.2},
    "10 epochs": {"n_epochs": 10},
    "3 x 256": {"hidden": (256, 256, 256)},
    "4 x 128": {"hidden": (128,) * 4},
    "min-max": {"scaling": "min-max"},
}
DECISIONS = [
    (1.0, 0.0),
    (1.0, 0.5),
    (1.0, 1.0),
    (1.5, 0.5),
    (2.0, 0.0),
    (2.0, 0.25),
    (2.0, 0.5),
    (2.0, 1.0),
    (3.0, 0.5),
]
KNOWN_HELD_OUT = 0.2  # share of a fold's training rows that judge it on the types it knows
TAXONOMY = {"cicids17": "paper"}


def training_rows(data: str) -> LabelledFlows:
    """Return the distinct training flows of a data set: nothing held out for the test is among them."""
    flows = flows_to_train(data, taxonomy=TAXONOMY.get(data)).flows
    prints = row_fingerprints(flows.table, flows.schema)
    return flows.take(np.unique(prints, return_index=True)[1])


def judge(flows: LabelledFlows, fold: Split, changes: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train on one fold and return, for each decision, the recalls by class (known) and by label (left out)."""
    classifier, with_labels = make_classifier("default", **{**BASE, **changes}, random_state=seed, schema=flows.schema)
    known = fold.train[np.random.default_rng(seed).random(len(fold.train)) < KNOWN_HELD_OUT]
    training = flows.take(np.setdiff1d(fold.train, known))
    test = flows.take(np.union1d(fold.test, known))
    started = time.perf_counter()
    classifier.fit(training.features, training.classes, labels=training.labels if with_labels else None)
    seconds = time.perf_counter() - started
    left_out = test.labels.is_in(list(fold.params["left_out"])).to_numpy()
    told = {}
    logits = classifier.detector_.logits(classifier.detector_.schema.conform(test.features))
    for temperature, tau in DECISIONS:
        decision = replace(classifier.decision_, temperature=temperature, tau=tau)
        told[f"{temperature:g}, {tau:g}"] = recalls(classifier.detector_, decision, logits, test, left_out)
    return {"seconds": round(seconds, 2), "decisions": told}


def recalls(
    detector: Detector,
    decision: Decision,
    logits: NDArray[np.float32],
    test: LabelledFlows,
    left_out: NDArray[np.bool_],
) -> dict[str, dict[str, float]]:
    """Return the recall of each class on known types, and of each left-out label."""
    named = np.array(detector.classes)[decision.classify(logits)]
    hit = named == test.classes.to_numpy()
    classes, labels = test.classes.to_numpy(), test.labels.to_numpy()
    known = {str(c): float(hit[(classes == c) & ~left_out].mean()) for c in np.unique(classes[~left_out])}
    unseen = {
        f"{c}/{n}": float(hit[labels == n].mean())
        for n in np.unique(labels[left_out])
        for c in classes[labels == n][:1]
    }
    return {"known": known, "unseen": unseen}


def summarise(folds: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return, for each decision, the means over folds: known, unseen, and mixed as the module says."""
    told = {}
    for decision in folds[0]["decisions"]:
        parts = [fold["decisions"][decision] for fold in folds]
        classes = sorted({c for part in parts for c in part["known"]})
        known = {c: np.mean([part["known"][c] for part in parts if c in part["known"]]) for c in classes}
        unseen: dict[str, list[float]] = {c: [] for c in classes}
        for part in parts:
            for name, recall in part["unseen"].items():
                unseen[name.split("/")[0]].append(recall)
        mixed = [np.mean([known[c], *([np.mean(unseen[c])] if unseen[c] else [])]) for c in classes]
        means = {"known": np.mean(list(known.values())), "unseen": np.mean([np.mean(u) for u in unseen.values() if u])}
        told[decision] = {
            name: round(100 * float(value), 2) for name, value in {**means, "mixed": np.mean(mixed)}.items()
        }
    return told


def main() -> None:
    """Run the candidates that have no result file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["kdd99", "nsl-kdd", "cicids17"])
    parser.add_argument("--candidates", nargs="+", default=list(CANDIDATES))
    parser.add_argument("--folds", type=int, default=3)
    options = parser.parse_args()
    for name in options.candidates:
        for data in options.data:
            path = RESULTS / "recipe_search" / data / f"{name.replace(' ', '_').replace(',', '')}.json"
            if not path.exists():
                flows = training_rows(data)
                splits = leave_types_out_folds(flows.labels, flows.classes, n_folds=options.folds)
                folds = [judge(flows, fold, CANDIDATES[name], seed) for seed, fold in enumerate(splits)]
                summary = summarise(folds)
                write_result(path, {"data": data, "candidate": name, "summary": summary, "folds": folds})
                print(f"{data:10s} {name:24s} {summary}", flush=True)


if __name__ == "__main__":
    main()
