"""What an attack is called once it is known to be one: other rules than the preset's, on the folds of recipe_search.

The default preset says which flows of a fold are attacks. Each rule then names the class of these anew, and says
nothing of the others, so that false alarms are the same for all. The last one knows the right class: it shows what is
lost by calling attacks benign alone, and how much there is to be won by better names.

Usage: python -m benchmarks.naming_search [--data kdd99 nsl-kdd cicids17] [--repeats 3]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from benchmarks.recipe_search import summarise
from benchmarks.result_files import RESULTS, write_result
from deepidea.benchmark.baselines import ExtraTrees
from deepidea.benchmark.systems import Fitted
from deepidea.benchmark.tau_sweep import training_flows
from deepidea.benchmark.unseen_types import TypeFold, iter_type_folds, type_recalls
from deepidea.benchmark.variants import DefaultNetwork, FittedNetwork
from deepidea.flows.labelled import LabelledFlows
from deepidea.model.graph import read_layers
from deepidea.model.novelty import last_hidden

SOFTENED = (0.5, 2.0, 3.0)  # temperatures
WEAKENED = (0.0, 0.5)  # tau
MOST_ROWS = 8_000  # training rows of a class among which neighbours are looked for
Floats = NDArray[np.float32]


def predict(fold: TypeFold, seed: int) -> dict[str, Any]:
    """Train on one fold and return, for each rule, the recalls by class (known) and by label (left out)."""
    network = DefaultNetwork(n_epochs=10).fit(fold.train, seed)
    trees = ExtraTrees(labels=True, n_trees=100, duplicates="drop").fit(fold.train, seed)
    names = np.array(network.classes)
    found = network.assess(fold.test.features).shares.argmax(axis=1) > 0
    by_rule = {}
    for rule, values in _values(network, trees, fold.train, fold.test.take(np.flatnonzero(found))).items():
        codes = np.zeros(len(found), np.int64)
        codes[found] = 1 + values.argmax(axis=1)
        by_rule[rule] = type_recalls(names[codes], fold)
    right = np.where(found, fold.test.classes.to_numpy(), names[0])
    right[found & (right == names[0])] = names[1]  # a benign flow stays one that was called an attack
    return {**by_rule, "told the right class": type_recalls(right, fold)}


def _values(network: FittedNetwork, trees: Fitted, train: LabelledFlows, found: LabelledFlows) -> dict[str, Floats]:
    """Return for each rule what it gives each attack class, ``(n_found, n_attack_classes)``; the largest names it."""
    features = found.features
    logits = network.assess(features).logits

    def corrected(**changes: Any) -> Floats:
        decision = replace(network.decision, **changes)
        attacks = logits.copy()
        attacks[:, : decision.class_of.index(1)] = -np.inf
        return decision.by_class(decision.corrected(decision.probabilities(attacks)))[:, 1:]

    by_rule = {"as the preset does": corrected()}
    by_rule |= {f"temperature {t:g}": corrected(temperature=t) for t in SOFTENED}
    by_rule |= {f"tau {tau:g}": corrected(tau=tau) for tau in WEAKENED}
    decision = replace(trees.decision, tau=1.0)
    shares = decision.by_class(decision.corrected(cast(Floats, trees.predict(features).probabilities)))
    by_rule["extra trees on labels"] = shares[:, [trees.classes.index(name) for name in network.classes[1:]]]
    by_rule["nearest neighbour, encoded"] = -_distances(network, train, found, hidden=False)
    by_rule["nearest neighbour, last hidden layer"] = -_distances(network, train, found, hidden=True)
    return by_rule


def _distances(network: FittedNetwork, train: LabelledFlows, found: LabelledFlows, *, hidden: bool) -> Floats:
    """Return the distance of each found flow to its nearest training flow of each attack class."""
    detector = network.detector
    layers = read_layers(detector.graph, detector.encoder)

    def place(flows: LabelledFlows) -> Floats:
        encoded = detector.encoder.transform(detector.schema.conform(flows.features))
        return last_hidden(layers, encoded) if hidden else encoded

    rng, classes = np.random.default_rng(0), train.classes.to_numpy()
    test, columns = place(found), []
    for name in network.classes[1:]:
        rows = rng.permutation(np.flatnonzero(classes == name))[:MOST_ROWS]
        nearest = NearestNeighbors(n_neighbors=1).fit(place(train.take(np.sort(rows))))
        columns.append(nearest.kneighbors(test)[0][:, 0])
    return np.stack(columns, axis=1).astype(np.float32)


def main() -> None:
    """Judge the rules on each data set, and write a result file for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["kdd99", "nsl-kdd", "cicids17"])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for data in options.data:
        flows = training_flows(data)
        folds = [predict(fold, seed) for seed in range(options.repeats) for fold in iter_type_folds(flows, seed=seed)]
        summary = summarise(folds)
        write_result(RESULTS / "naming_search" / f"{data}.json", {"data": data, "summary": summary})
        print(data, *(f"{name}: {recalls}" for name, recalls in summary.items()), sep="\n  ", flush=True)


if __name__ == "__main__":
    main()
