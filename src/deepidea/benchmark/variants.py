"""The network rows of the benchmark: the two presets with one thing changed, and the network beside forests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from deepidea.benchmark.baselines import ExtraTrees, RandomForest
from deepidea.benchmark.outputs import BLOCK_FLOWS, attack_score, collapse_rows, number_outputs
from deepidea.benchmark.systems import Fitted, Predictions
from deepidea.flows.labelled import LabelledFlows
from deepidea.model.decision import Decision, softmax
from deepidea.model.detector import Assessment, Detector
from deepidea.model.features import FlowEncoder
from deepidea.model.presets import PRESETS, make_classifier, train_detector

Sampling = Literal["none", "over", "one-sided"]
SAMPLINGS: tuple[Sampling, ...] = ("none", "over", "one-sided")
MOST_ROWS = 100_000  # of a class, before one-sided selection: what it compares grows with the square

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FittedNetwork:
    """A trained detector as a system of the benchmark."""

    detector: Detector
    sampling: Sampling = "none"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, benign first."""
        return self.detector.classes

    @property
    def decision(self) -> Decision:
        """The decision of the detector."""
        return self.detector.decision

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The training entry of the detector's card, and how the training rows were sampled."""
        return {"sampling": self.sampling, **self.detector.card["training"]}

    def predict(self, features: pl.DataFrame) -> Predictions:
        """Predict flows; the probabilities are the softmax of the outputs, at temperature 1."""
        found = self.assess(features)
        probabilities, shares = softmax(found.logits), found.shares
        unlike_benign = shares[:, 0] == 0  # a share of exactly 0 is one that was taken away, or has no weight
        return Predictions(
            shares.argmax(axis=1), probabilities, attack_score(probabilities), unlike_benign, found.anomaly
        )

    def assess(self, features: pl.DataFrame) -> Assessment:
        """Return logits, shares and anomaly of the detector, computed block by block."""
        flows = self.detector.schema.conform(features)
        starts = range(0, max(len(flows), 1), BLOCK_FLOWS)
        blocks = [self.detector.assess(flows.slice(start, BLOCK_FLOWS)) for start in starts]
        anomaly = [block.anomaly for block in blocks if block.anomaly is not None]
        return Assessment(
            np.concatenate([block.logits for block in blocks]),
            np.concatenate([block.shares for block in blocks]),
            np.concatenate(anomaly) if anomaly else None,
        )


class DefaultNetwork:
    """The ``default`` preset with changed parameters.

    Parameters
    ----------
    sampling : {"none", "over", "one-sided"}
        What is done to the training flows first.

        "over" balances the classes by over-sampling. A repeated row is a row of more weight, so this is ``balance=1``:
        each batch is drawn from the balanced table, for as many steps as without. Rows stay what they are, and no row
        is left out by chance, as it may be where copies are drawn.

        "one-sided" is :func:`one_sided_rows`, trained for as many steps as all flows would take: ten passes over the
        few rows that are left would only show how little ten short passes teach.
    **changes
        Parameters of ``DeepIDEAClassifier`` that differ from the preset, and ``labels``: whether to train on native
        labels. ``n_epochs`` is then kept to, unless ``min_steps`` is given too.

    Raises
    ------
    TypeError
        A parameter does not exist, or is one that :meth:`fit` decides: ``random_state``, ``schema``.

    Examples
    --------
    >>> from deepidea.flows.labelled import labelled_flows_from_table
    >>> from deepidea.flows.simulate import simulate_flows
    >>> flows, _ = labelled_flows_from_table(simulate_flows(n_flows=500), "label", "benign")
    >>> fitted = DefaultNetwork(loss="focal", hidden=(16,), n_epochs=1).fit(flows, seed=0)
    >>> fitted.classes[0], fitted.parameters["parameters"]["loss"]
    ('benign', 'focal')
    """

    preset = "default"

    def __init__(self, *, sampling: Sampling = "none", **changes: Any) -> None:
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {SAMPLINGS}, got {sampling!r}")
        if sampling == "one-sided":
            import imblearn  # noqa: F401  # fails now, not after the data are read
        _refuse_what_fit_decides(changes)
        make_classifier(self.preset, **changes)  # fails on a parameter that does not exist
        self.sampling = sampling
        self.changes = changes

    def fit(self, train: LabelledFlows, seed: int) -> FittedNetwork:
        """Train on labelled flows, sampled; the seed decides the sample and the network."""
        changes = dict(self.changes)
        # NOTE[DIFF]: a balanced table is several times as long as the table itself; here an epoch is not, so that every
        # row of the benchmark takes the same number of steps.
        if self.sampling == "over":
            changes["balance"] = 1.0
        elif self.sampling == "one-sided":
            # ten passes over the few rows left would be far fewer steps than the other rows of the table get
            changes["min_steps"] = max(self._count_steps(train), changes.get("min_steps", 0))
            train = train.take(one_sided_rows(train, seed))
        detector = train_detector(train, preset=self.preset, random_state=seed, **changes)
        return FittedNetwork(detector, self.sampling)

    def _count_steps(self, train: LabelledFlows) -> int:
        """Return how many steps the preset's epochs take over all of the flows."""
        options = {**PRESETS[self.preset], **self.changes}
        n_flows = len(collapse_rows(train, number_outputs(train))[0]) if options["duplicates"] == "drop" else len(train)
        return int(options["n_epochs"]) * math.ceil(n_flows / int(options["batch_size"]))


def _refuse_what_fit_decides(changes: Mapping[str, Any]) -> None:
    for name, source in {"random_state": "the seed", "schema": "the schema of the flows"}.items():
        if name in changes:
            raise TypeError(f"cannot change {name} to {changes[name]!r}: fit takes {source}")


class PaperNetwork(DefaultNetwork):
    """The ``paper`` preset with changed parameters, which are those of :class:`DefaultNetwork`.

    Examples
    --------
    >>> PaperNetwork(attack_weight=0.0, sampling="over").sampling
    'over'
    """

    preset = "paper"


def one_sided_rows(flows: LabelledFlows, seed: int) -> Ints:
    """Return the rows that one-sided selection and random under-sampling leave (Kubat and Matwin 1997).

    Parameters
    ----------
    flows : LabelledFlows
        Training flows; features are encoded by what these flows teach.
    seed : int

    Notes
    -----
    The method is one for two classes; this is our reading for several. It works on distinct rows, each once. Majority
    classes are those with more of them than the class of median size (the smaller of two). Of these, the rows are
    dropped that the nearest neighbour already gets right from the smallest class and one row of their own, and then
    those that form a Tomek link with another class. "Balanced by under-sampling": a majority class then has as many
    rows as the median class, drawn at random from what the selection left and, where that is fewer, from the rest; an
    easy class would else be left with a single row. Smaller classes stay as they are: cutting all to the smallest would
    leave 260 rows of KDD99.

    A class of more than :data:`MOST_ROWS` distinct rows is first cut to that many at random. Neither NSL-KDD nor the
    10 % file of KDD99 has one; there the selection takes about a minute.
    """
    from imblearn.under_sampling import OneSidedSelection

    # NOTE[DIFF]: one-sided selection knows two classes, and the paper does not say how it was used on five.
    rng = np.random.default_rng(seed)
    rows, _ = collapse_rows(flows, number_outputs(flows, labels=True))
    classes = flows.classes[rows].to_numpy()
    names, sizes = np.unique(classes, return_counts=True)
    median = int(np.sort(sizes)[(len(sizes) - 1) // 2])
    compared = _draw(classes, np.zeros(len(rows), bool), MOST_ROWS, rng)
    rows, classes = rows[compared], classes[compared]
    features = flows.features[rows]
    selection = OneSidedSelection(sampling_strategy=names[sizes > median].tolist(), random_state=seed)
    selection.fit_resample(FlowEncoder(flows.schema).fit(features).transform(features), classes)
    selected = np.zeros(len(rows), bool)
    selected[selection.sample_indices_] = True
    return rows[_draw(classes, selected, median, rng)]


def _draw(classes: npt.NDArray[Any], preferred: npt.NDArray[np.bool_], most: int, rng: np.random.Generator) -> Ints:
    """Return the places of up to ``most`` rows of each class at random, those preferred before the others."""
    drawn = []
    for name in np.unique(classes):
        # Shuffled, then sorted by preference: within the preferred and within the others the order stays random.
        members = rng.permutation(np.flatnonzero(classes == name))
        drawn.append(members[np.argsort(~preferred[members], kind="stable")][:most])
    return np.sort(np.concatenate(drawn))


# --- the network beside forests ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FittedStack:
    """A network and forests, averaged after each was corrected for its prior."""

    network: FittedNetwork
    forests: tuple[Fitted, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, benign first."""
        return self.network.classes

    @property
    def decision(self) -> Decision:
        """The plain one: an even prior at tau 0, because the correction came before the average."""
        return Decision((1 / len(self.classes),) * len(self.classes), temperature=1.0, tau=0.0)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What each of the forests was grown with, and the network's parameters."""
        return {"forests": [forest.parameters for forest in self.forests], "network": self.network.parameters}

    def predict(self, features: pl.DataFrame) -> Predictions:
        """Predict flows; the probabilities are those of balanced classes, and the largest decides."""
        conformed = self.network.detector.schema.conform(features)
        shares = [
            self.network.assess(conformed).shares,
            *(self._balanced(forest, conformed) for forest in self.forests),
        ]
        # Corrected before the average: averaged first, a forest that is sure of benign would outvote the rest on rare
        # classes.
        mean = np.asarray(np.mean(shares, axis=0), np.float32)
        return Predictions(np.asarray(mean.argmax(axis=1), np.int64), mean, attack_score(mean))

    def _balanced(self, forest: Fitted, conformed: pl.DataFrame) -> Floats:
        """Return the class shares of a forest, corrected by label at tau 1, in the order of the classes here."""
        # By label before labels are summed: a label's prior differs from its class's.
        decision = replace(forest.decision, tau=1.0)
        corrected = decision.by_class(decision.corrected(cast(Floats, forest.predict(conformed).probabilities)))
        # Forests and networks may number the classes differently.
        order = [forest.classes.index(name) for name in self.classes]
        return np.asarray(corrected[:, order] / corrected.sum(axis=1, keepdims=True), np.float32)


class ForestStack:
    """The default network beside a random forest and extra trees on native labels: recipe F.

    Each is corrected for its prior first, the forests by label at tau 1, the network by its own decision; then class
    shares are averaged, with equal weights. Averaging first would let the prior of the surest one through. So the
    stack's own decision is the plain one, and its probabilities are those of balanced classes.

    What each forest adds on training folds: ``benchmarks/recipe_search.py``.

    Parameters
    ----------
    n_trees : int
        Of each forest; they grow on distinct rows.
    **changes
        Parameters of :class:`DefaultNetwork`.

    Examples
    --------
    >>> from deepidea.flows.labelled import labelled_flows_from_table
    >>> from deepidea.flows.simulate import simulate_flows
    >>> flows, _ = labelled_flows_from_table(simulate_flows(n_flows=500), "label", "benign")
    >>> stack = ForestStack(n_trees=5, hidden=(16,), n_epochs=1).fit(flows, seed=0)
    >>> stack.predict(flows.features).probabilities.shape
    (500, 6)
    """

    def __init__(self, *, n_trees: int = 300, **changes: Any) -> None:
        self.network = DefaultNetwork(**changes)
        self.forests = tuple(
            kind(labels=True, n_trees=n_trees, duplicates="drop") for kind in (RandomForest, ExtraTrees)
        )

    def fit(self, train: LabelledFlows, seed: int) -> FittedStack:
        """Train all on the same flows; the seed decides all."""
        return FittedStack(self.network.fit(train, seed), tuple(forest.fit(train, seed) for forest in self.forests))
