"""Attack types held back within the training flows, to choose recipes and compare decisions.

Two folds halve the attack types (native labels) of each class. A fold trains on its half and is tested on held-out
rows of the types it knows, and on all rows of the types it never saw. Test flows are never read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepidea.evaluation.splits import leave_types_out_folds
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.flows.labelled import LabelledFlows

N_FOLDS = 2
KNOWN_HELD_OUT = 0.2
"""Share of a fold's training rows that test it on the types it knows."""


@dataclass(frozen=True, slots=True)
class TypeFold:
    """Flows to train on and to test on, and which of the latter are of a type that training lacks.

    Attributes
    ----------
    train, test : LabelledFlows
    left_out : array, bool, (n_test_flows,)
    """

    train: LabelledFlows
    test: LabelledFlows
    left_out: NDArray[np.bool_]


def distinct_flows(flows: LabelledFlows) -> LabelledFlows:
    """Return the first row of each feature vector: a vector on both sides of a fold would test memory alone."""
    prints = row_fingerprints(flows.table, flows.schema)
    return flows.take(np.unique(prints, return_index=True)[1])


def iter_type_folds(flows: LabelledFlows, *, seed: int, n_folds: int = N_FOLDS) -> Iterator[TypeFold]:
    """Yield the folds of one assignment of the types.

    Parameters
    ----------
    flows : LabelledFlows
        Distinct training flows.
    seed : int
        Of the assignment, and of which rows of known types are held out.
    n_folds : int
        At least 2.

    Raises
    ------
    LabelError
        No attack class has two types, or there are fewer types than folds.

    Examples
    --------
    >>> from deepidea.flows.labelled import labelled_flows_from_table
    >>> from deepidea.flows.simulate import simulate_flows
    >>> flows, _ = labelled_flows_from_table(simulate_flows(n_flows=900), "label", "benign")
    >>> try:
    ...     next(iter_type_folds(flows, seed=0))
    ... except Exception as error:
    ...     print(str(error)[:72])
    cannot leave attack types out: no attack class has two native labels; us
    """
    for fold in leave_types_out_folds(flows.labels, flows.classes, n_folds=n_folds, seed=seed):
        # Types that training knows are tested as well: a recipe that gains on unseen types at their cost is no gain.
        known = fold.train[np.random.default_rng(seed).random(len(fold.train)) < KNOWN_HELD_OUT]
        test = flows.take(np.union1d(fold.test, known))
        left_out = test.labels.is_in(list(fold.params["left_out"])).to_numpy()
        yield TypeFold(flows.take(np.setdiff1d(fold.train, known)), test, left_out)


# --- recalls and their means ------------------------------------------------------------------------------

Recalls = dict[str, dict[str, float]]


def type_recalls(named: NDArray[Any], fold: TypeFold) -> Recalls:
    """Return the recall of each class on known types, and of each left-out type, named ``class/label``."""
    classes, labels = fold.test.classes.to_numpy(), fold.test.labels.to_numpy()
    hit = named == classes
    known = {str(c): float(hit[(classes == c) & ~fold.left_out].mean()) for c in np.unique(classes[~fold.left_out])}
    unseen = {
        f"{c}/{n}": float(hit[labels == n].mean())
        for n in np.unique(labels[fold.left_out])
        for c in classes[labels == n][:1]
    }
    return {"known": known, "unseen": unseen}


def summarise_recalls(folds: Sequence[Mapping[str, Recalls]]) -> dict[str, dict[str, float]]:
    """Return, for each decision, the means over folds in percent.

    ``known`` and ``unseen`` are the mean recalls of the classes on types that were trained on and that were not;
    ``mixed`` is the mean over classes of the mean of both, where there are both. Of a type that several folds leave
    out, and of a class that several folds know, the mean counts once.

    Examples
    --------
    >>> summarise_recalls([{"plain": {"known": {"benign": 1.0, "dos": 0.8}, "unseen": {"dos/smurf": 0.4}}}])
    {'plain': {'known': 90.0, 'unseen': 40.0, 'mixed': 80.0}}
    """
    return {name: _means([fold[name] for fold in folds]) for name in folds[0]}


def _means(parts: Sequence[Recalls]) -> dict[str, float]:
    known, unseen = (_mean_of_each([part[kind] for part in parts]) for kind in ("known", "unseen"))
    of_class = {c: [recall for name, recall in unseen.items() if name.split("/")[0] == c] for c in known}
    mixed = [np.mean([known[c], *([np.mean(of_class[c])] if of_class[c] else [])]) for c in known]
    # Classes weigh the same, whatever the number of types each has left out.
    guessed = [np.mean(recalls) for recalls in of_class.values() if recalls]
    means = {"known": np.mean(list(known.values())), "unseen": np.mean(guessed), "mixed": np.mean(mixed)}
    return {name: round(100 * float(value), 2) for name, value in means.items()}


def _mean_of_each(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for part in parts for name in part})
    return {name: float(np.mean([part[name] for part in parts if name in part])) for name in names}
