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
from deepidea.evaluation.tau_sweep import training_flows
from deepidea.evaluation.unseen_types import TypeFold, iter_type_folds, summarise_recalls, type_recalls
from deepidea.evaluation.variants import DefaultNetwork, FittedNetwork, FittedStack, ForestStack

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
Codes = NDArray[np.int64]


def judge(fold: TypeFold, changes: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train on one fold and return, for each decision, the recalls by class (known) and by label (left out)."""
    started = time.perf_counter()
    system = ForestStack(**{**BASE, **changes}) if "n_trees" in changes else DefaultNetwork(**{**BASE, **changes})
    fitted = system.fit(fold.train, seed)
    seconds = time.perf_counter() - started
    told = {
        decision: type_recalls(np.array(fitted.classes)[codes], fold)
        for decision, codes in verdicts(fitted, fold.test.features)
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
                flows = training_flows(data)
                folds = [
                    judge(fold, CANDIDATES[name], seed)
                    for seed in range(options.deals)
                    for fold in iter_type_folds(flows, seed=seed)
                ]
                summary = summarise_recalls([fold["decisions"] for fold in folds])
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
