"""How the default preset was chosen: on training rows alone, in folds that leave out whole attack types.

Each candidate differs from the base in what its entry says. Two folds halve the types of each class: of the attack
types in KDD99's test file its publisher says that nearly half are new. The types are dealt out several times, since one
deal decides by luck which types must be guessed from which. A fold trains on its types and is judged on held-out rows
of them, and on all rows of the types that were left out. The figure to compare, ``mixed``, is the mean over classes of
the recall on known types and, where there are any, of the mean recall over left-out types. Test files are never read.

Usage: python -m benchmarks.recipe_search [--data kdd99 nsl-kdd cicids17] [--candidates base ...] [--deals 3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.result_files import RESULTS, write_result
from deepidea.evaluation.experiments import TAXONOMY
from deepidea.evaluation.protocol import flows_to_train
from deepidea.evaluation.splits import Split, leave_types_out_folds
from deepidea.evaluation.variants import DefaultNetwork, FittedNetwork, FittedStack, ForestStack
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.flows.labelled import LabelledFlows

PAPER_SHAPE: dict[str, Any] = {"hidden": (100,) * 10, "dropout": 0.2, "batch_size": 128}
BASE: dict[str, Any] = {"n_epochs": 10, "hidden": (256, 256)}  # what each candidate differs from
CANDIDATES: dict[str, dict[str, Any]] = {
    "base": {},
    "lambda 0": {"attack_weight": 0.0},
    "lambda 3": {"attack_weight": 3.0},
    "lambda 10": {"attack_weight": 10.0},
    "balance 0": {"balance": 0.0},
    "balance 0.75": {"balance": 0.75},
    "labels": {"labels": True},
    "dropout 0.3": {"dropout": 0.3},
    "1 x 512": {"hidden": (512,)},
    "2 x 128": {"hidden": (128, 128)},
    "2 x 64": {"hidden": (64, 64)},
    "2 x 128, lambda 3": {"hidden": (128, 128), "attack_weight": 3.0},
    "2 x 128, lambda 10": {"hidden": (128, 128), "attack_weight": 10.0},
    "paper's shape and steps, balance 0": {
        **PAPER_SHAPE,
        "balance": 0.0,
        "learning_rate": 1e-4,
        "schedule": "constant",
    },
    "3 epochs": {"n_epochs": 3},
    "with a forest": {"n_trees": 100},
}
TEMPERATURES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)  # with tau = 1; where outputs are classes only the product decides
NETWORK_WEIGHTS = (0.2, 0.35, 0.5)  # of the stack with a forest
N_FOLDS = 2
KNOWN_HELD_OUT = 0.2  # share of a fold's training rows that judge it on the types it knows
Codes = NDArray[np.int64]


def training_rows(data: str) -> LabelledFlows:
    """Return the distinct training flows of a data set: nothing held out for the test is among them."""
    flows = flows_to_train(data, taxonomy=TAXONOMY.get(data)).flows
    prints = row_fingerprints(flows.table, flows.schema)
    return flows.take(np.unique(prints, return_index=True)[1])


def judge(flows: LabelledFlows, fold: Split, changes: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train on one fold and return, for each decision, the recalls by class (known) and by label (left out)."""
    known = fold.train[np.random.default_rng(seed).random(len(fold.train)) < KNOWN_HELD_OUT]
    training = flows.take(np.setdiff1d(fold.train, known))
    test = flows.take(np.union1d(fold.test, known))
    started = time.perf_counter()
    system = ForestStack(**{**BASE, **changes}) if "n_trees" in changes else DefaultNetwork(**{**BASE, **changes})
    fitted = system.fit(training, seed)
    seconds = time.perf_counter() - started
    left_out = test.labels.is_in(list(fold.params["left_out"])).to_numpy()
    told = {
        decision: recalls(np.array(fitted.classes)[codes], test, left_out)
        for decision, codes in verdicts(fitted, test.features)
    }
    return {"seconds": round(seconds, 2), "decisions": told}


def verdicts(fitted: FittedNetwork | FittedStack, features: Any) -> Iterator[tuple[str, Codes]]:
    """Yield what each decision says of the flows: by temperature, or by the network's weight beside a forest."""
    if isinstance(fitted, FittedStack):
        for weight in NETWORK_WEIGHTS:
            yield f"{weight:g}", replace(fitted, network_weight=weight).judge(features).predicted
        return
    logits = fitted.logits(features)
    yield "plain", replace(fitted.decision, temperature=1.0, tau=0.0).classify(logits)
    for temperature in TEMPERATURES:
        yield f"{temperature:g}", replace(fitted.decision, temperature=temperature, tau=1.0).classify(logits)


def recalls(named: NDArray[Any], test: LabelledFlows, left_out: NDArray[np.bool_]) -> dict[str, dict[str, float]]:
    """Return the recall of each class on known types, and of each left-out label."""
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
    return {name: _means([fold["decisions"][name] for fold in folds]) for name in folds[0]["decisions"]}


def _means(parts: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    classes = sorted({c for part in parts for c in part["known"]})
    known = {c: np.mean([part["known"][c] for part in parts if c in part["known"]]) for c in classes}
    labels = sorted({name for part in parts for name in part["unseen"]})
    unseen = {name: np.mean([part["unseen"][name] for part in parts if name in part["unseen"]]) for name in labels}
    of_class = {c: [recall for name, recall in unseen.items() if name.split("/")[0] == c] for c in classes}
    mixed = [np.mean([known[c], *([np.mean(of_class[c])] if of_class[c] else [])]) for c in classes]
    guessed = [np.mean(recalls) for recalls in of_class.values() if recalls]
    means = {"known": np.mean(list(known.values())), "unseen": np.mean(guessed), "mixed": np.mean(mixed)}
    return {name: round(100 * float(value), 2) for name, value in means.items()}


def main() -> None:
    """Run the candidates that have no result file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["kdd99", "nsl-kdd", "cicids17"])
    parser.add_argument("--candidates", nargs="+", default=list(CANDIDATES))
    parser.add_argument("--deals", type=int, default=3)
    options = parser.parse_args()
    for name in options.candidates:
        for data in options.data:
            path = RESULTS / "recipe_search" / data / f"{file_name(name)}.json"
            if not path.exists():
                flows = training_rows(data)
                folds = [
                    judge(flows, fold, CANDIDATES[name], seed)
                    for seed in range(options.deals)
                    for fold in leave_types_out_folds(flows.labels, flows.classes, n_folds=N_FOLDS, seed=seed)
                ]
                summary = summarise(folds)
                write_result(path, {"data": data, "candidate": name, "summary": summary, "folds": folds})
                print(f"{data:10s} {name:24s} {summary}", flush=True)


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
