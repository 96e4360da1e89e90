"""Classifiers to compare a detector with: references, the paper's classical methods, ensembles of trees.

All of them get the encoding that the networks get, fitted on the training rows. They decide by plain argmax.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from deepidea.benchmark.outputs import FittedModel, Matrix, Outputs, decide_by_margin, encode_rows, number_outputs
from deepidea.benchmark.systems import Fitted, Predictions
from deepidea.evaluation.references import OneRule, majority_class, one_rule
from deepidea.flows.fingerprint import mix_array
from deepidea.flows.labelled import LabelledFlows
from deepidea.model.decision import Decision

# --- references --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reference:
    """A system of two verdicts at most, without probabilities."""

    classes: tuple[str, ...]
    decision: Decision
    parameters: Mapping[str, Any]
    rule: OneRule | None
    verdicts: tuple[int, int]  # without and with an alarm

    @classmethod
    def on(cls, outputs: Outputs, facts: Mapping[str, Any], rule: OneRule | None, verdicts: Any) -> _Reference:
        return cls(outputs.classes, outputs.decision(), facts, rule, verdicts)

    def predict(self, features: pl.DataFrame) -> Predictions:
        alarms = np.zeros(len(features), bool) if self.rule is None else self.rule.predict(features)
        return Predictions(np.array(self.verdicts)[alarms.astype(np.int64)], None, alarms.astype(np.float64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Majority:
    """Gives every flow the most frequent class of training."""

    def fit(self, train: LabelledFlows, seed: int) -> Fitted:  # noqa: ARG002 - there is nothing to draw
        """Count the classes."""
        outputs = number_outputs(train)
        most = majority_class(outputs.target)
        return _Reference.on(outputs, {"class": outputs.classes[most]}, None, (most, most))


@dataclass(frozen=True, slots=True, kw_only=True)
class OneRuleSystem:
    """One comparison on one column; its alarms get the most frequent attack class of training.

    If it nearly wins, the test set is easy and a good score on it says little.

    Examples
    --------
    >>> from deepidea.flows.labelled import labelled_flows_from_table
    >>> table = pl.DataFrame({"bytes": [1, 9, 2, 9, 9], "label": ["benign", "scan", "benign", "scan", "benign"]})
    >>> fitted = OneRuleSystem().fit(labelled_flows_from_table(table, "label", "benign")[0], seed=0)
    >>> fitted.parameters["rule"], fitted.predict(table).predicted
    ('bytes > 2', array([0, 1, 0, 1, 1]))
    """

    def fit(self, train: LabelledFlows, seed: int) -> Fitted:  # noqa: ARG002 - there is nothing to draw
        """Try every comparison on every column."""
        outputs = number_outputs(train)
        is_attack = outputs.target > 0
        rule, attack = one_rule(train.features, is_attack), majority_class(outputs.target[is_attack])
        facts = {"rule": str(rule), "class": outputs.classes[attack]}
        return _Reference.on(outputs, facts, rule, (0, attack))


# --- the paper's classical methods -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SVM:
    """Linear support vector machine, one class against the rest.

    It stops after ``max_iter`` iterations, converged or not, as in the paper; ``parameters`` say which. It has margins,
    no probabilities.
    """

    # NOTE[DIFF]: "100 iterations" without a kernel. An iteration of a kernel machine moves two rows, so that a hundred
    # would look at 200 flows out of half a million; one of the linear machine looks at all of them.
    max_iter: int = 100
    C: float = 1.0

    def fit(self, train: LabelledFlows, seed: int) -> Fitted:
        """Fit on distinct rows, each with its weight in the loss, which is the same as on all flows."""
        rows = encode_rows(train, duplicates="weigh")
        # The primal problem: rows are far more than features.
        machine = LinearSVC(C=self.C, max_iter=self.max_iter, dual=False, random_state=seed)
        with warnings.catch_warnings():
            # stopping early is the recipe; `converged` below records it
            warnings.simplefilter("ignore", ConvergenceWarning)
            machine.fit(rows.x, rows.target, sample_weight=rows.weight)
        iterations = int(machine.n_iter_)
        facts = {**asdict(self), "kernel": "linear", "iterations": iterations, "converged": iterations < self.max_iter}
        return FittedModel.on(rows, facts, lambda x: _margins(machine, x), decide_by_margin)


def _margins(machine: LinearSVC, x: Matrix) -> npt.NDArray[np.float64]:
    margins = np.asarray(machine.decision_function(x), np.float64)
    # Two classes have one margin, that of the second.
    return np.stack([-margins, margins], axis=1) if margins.ndim == 1 else margins


@dataclass(frozen=True, slots=True, kw_only=True)
class KNN:
    """The classes of the nearest training flows, by Euclidean distance (Minkowski, p = 2).

    The same votes as over all training flows, found among distinct vectors: a vector that training holds three times
    is three neighbours. Where only some copies of a vector that has several classes still count, they vote by share.

    Cost: distinct flows to predict times distinct training vectors.
    """

    n_neighbors: int = 5

    def fit(self, train: LabelledFlows, seed: int) -> Fitted:  # noqa: ARG002 - there is nothing to draw
        """Count the classes of each distinct vector."""
        # Search among distinct encoded vectors, each with its votes by class: equal to a search among all flows.
        rows = encode_rows(train, duplicates="weigh")
        _, first, place = np.unique(mix_array(rows.x), return_index=True, return_inverse=True)
        vectors = rows.x[first]  # the encoder may have made one of two
        votes = np.zeros((len(vectors), len(rows.decision.prior)))
        np.add.at(votes, (place, rows.target), rows.weight)
        n_searched = min(self.n_neighbors, len(vectors))
        search = NearestNeighbors(n_neighbors=n_searched, algorithm="brute").fit(vectors)

        def values(x: Matrix) -> npt.NDArray[np.float64]:
            return count_votes(votes[search.kneighbors(x, return_distance=False)], self.n_neighbors)

        return FittedModel.on(rows, {**asdict(self), "metric": "minkowski, p=2", "n_vectors": len(vectors)}, values)


def count_votes(votes: npt.NDArray[np.float64], n_neighbors: int) -> npt.NDArray[np.float64]:
    """Return the share of each class among the nearest flows, ``(n_flows, n_classes)``.

    Parameters
    ----------
    votes : array, float64, (n_flows, n_vectors, n_classes)
        Training flows of each class at each vector, the nearest vector first.
    n_neighbors : int
        Flows that vote: whole vectors while they fit, then a share of the next one.

    Examples
    --------
    >>> count_votes(np.array([[[3.0, 0.0], [0.0, 8.0]]]), 5)
    array([[0.6, 0.4]])
    """
    copies = votes.sum(axis=2)
    # A vector stands for all its copies: of the last one only as many votes count as are left of n_neighbors, in
    # proportion.
    before = np.cumsum(copies, axis=1) - copies
    taken = np.clip(n_neighbors - before, 0, copies)  # (n_flows, n_vectors)
    counted: npt.NDArray[np.float64] = np.einsum("fvc,fv->fc", votes, taken / copies)
    shares: npt.NDArray[np.float64] = counted / counted.sum(axis=1, keepdims=True)
    return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One decision tree (CART)."""

    max_depth: int = 10

    def fit(self, train: LabelledFlows, seed: int) -> Fitted:
        """Fit on distinct rows with their weights: the same splits as on all flows."""
        rows = encode_rows(train, duplicates="weigh")
        tree = DecisionTreeClassifier(max_depth=self.max_depth, random_state=seed)
        tree.fit(rows.x, rows.target, sample_weight=rows.weight)
        return FittedModel.on(rows, {**asdict(self), "leaves": int(tree.get_n_leaves())}, tree.predict_proba)


# --- ensembles of trees ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomForest:
    """Trees on bootstrap samples of the flows.

    Parameters
    ----------
    labels : bool
        Train on native labels; the decision adds them up to classes.
    duplicates : {"keep", "drop"}
        Whether a vector counts as often as it occurs, or once for each output.
    """

    labels: bool = False
    n_trees: int = 100
    duplicates: Literal["keep", "drop"] = "keep"

    def fit(self, train: LabelledFlows, seed: int) -> Fitted:
        """Fit on flows as they are: a bootstrap sample of weighted rows would not be one of the flows."""
        rows = encode_rows(train, labels=self.labels, duplicates=self.duplicates)
        forest = RandomForestClassifier(self.n_trees, random_state=seed, n_jobs=1).fit(rows.x, rows.target)
        return FittedModel.on(rows, asdict(self), forest.predict_proba)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraTrees:
    """Trees on all flows, with random thresholds (Geurts et al. 2006).

    Parameters
    ----------
    labels : bool
        Train on native labels; the decision adds them up to classes.
    n_trees : int
    duplicates : {"weigh", "drop"}
        Whether a vector counts as often as it occurs, or once for each output.
    """

    labels: bool = False
    n_trees: int = 100
    duplicates: Literal["weigh", "drop"] = "weigh"

    def fit(self, train: LabelledFlows, seed: int) -> Fitted:
        """Fit on distinct rows with their weights: the same trees as on all flows."""
        rows = encode_rows(train, labels=self.labels, duplicates=self.duplicates)
        forest = ExtraTreesClassifier(self.n_trees, random_state=seed, n_jobs=1)
        forest.fit(rows.x, rows.target, sample_weight=rows.weight)
        return FittedModel.on(rows, asdict(self), forest.predict_proba)


@dataclass(frozen=True, slots=True, kw_only=True)
class XGBoost:
    """Boosted trees by histograms; what is not a parameter here is the library's default."""

    n_rounds: int = 100
    max_depth: int = 6
    learning_rate: float = 0.3

    def __post_init__(self) -> None:
        importlib.import_module("xgboost")

    def fit(self, train: LabelledFlows, seed: int) -> Fitted:
        """Fit on distinct rows with their weights: the same gradients as on all flows."""
        import xgboost

        rows = encode_rows(train, duplicates="weigh")
        settings = {"max_depth": self.max_depth, "learning_rate": self.learning_rate, "tree_method": "hist"}
        classes = {"objective": "multi:softprob", "num_class": len(rows.decision.prior)}
        data = xgboost.DMatrix(rows.x, rows.target, weight=rows.weight, nthread=1)
        booster = xgboost.train({**settings, **classes, "seed": seed, "nthread": 1}, data, self.n_rounds)
        return FittedModel.on(rows, asdict(self), booster.inplace_predict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LightGBM:
    """Boosted trees that grow by the best leaf; what is not a parameter here is the library's default.

    Leaves need the weight and get the shrinkage that XGBoost gives them by default. With LightGBM's own, leaves of a
    few flows of a rare class run off to logits without bound, and the loss on held-out rows of KDD99 with them.
    """

    n_rounds: int = 100
    n_leaves: int = 31
    learning_rate: float = 0.1
    min_sum_hessian_in_leaf: float = 1.0
    lambda_l2: float = 1.0

    def __post_init__(self) -> None:
        importlib.import_module("lightgbm")

    def fit(self, train: LabelledFlows, seed: int) -> Fitted:
        """Fit on flows as they are: the least number of rows in a leaf counts rows, not weights."""
        import lightgbm

        rows = encode_rows(train)
        settings = {
            "objective": "multiclass",
            "num_class": len(rows.decision.prior),
            "num_leaves": self.n_leaves,
            "learning_rate": self.learning_rate,
            "min_sum_hessian_in_leaf": self.min_sum_hessian_in_leaf,
            "lambda_l2": self.lambda_l2,
            "verbosity": -1,
        }
        # Bit-equal from run to run, at the price of some speed.
        exact = {"seed": seed, "deterministic": True, "force_row_wise": True, "num_threads": 1}
        booster = lightgbm.train({**settings, **exact}, lightgbm.Dataset(rows.x, rows.target), self.n_rounds)
        return FittedModel.on(rows, asdict(self), booster.predict)
