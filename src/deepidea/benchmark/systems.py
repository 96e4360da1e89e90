"""The systems that a benchmark compares, each a row of its tables under one name.

A system learns from labelled flows and then predicts classes: DeepIDEA's presets, the paper's competitors, trees, the
same network under other losses. All get the same training flows and return the probability of each of their outputs, so
that one decision rule can be applied to all.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from deepidea.errors import DataError, MissingExtraError
from deepidea.flows.labelled import LabelledFlows
from deepidea.flows.schema import suggest
from deepidea.model.decision import Decision

Group = Literal["paper", "reference", "trees", "losses", "beyond", "deepidea"]


@dataclass(frozen=True, slots=True)
class Predictions:
    """The predictions of a fitted system, in the order of the flows.

    Attributes
    ----------
    predicted : array, int64, (n_flows,)
        Place of each flow's class among the system's classes, by the system's own decision.
    probabilities : array, float32, (n_flows, n_outputs), or None
        Of each output (class, or label of a class); None where the system has no probabilities.
    attack_score : array, float64, (n_flows,)
        Higher is more attack-like: ``1 - p_benign`` where there are probabilities.
    unlike_benign : array, bool, (n_flows,), or None
        Flows that the system never calls benign, whatever their probabilities; None where it has no such rule.
    anomaly : array, float64, (n_flows,), or None
        How unlike benign flows, in 0..1, where the system has that beside the attack score.
    """

    predicted: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32] | None
    attack_score: npt.NDArray[np.float64]
    unlike_benign: npt.NDArray[np.bool_] | None = None
    anomaly: npt.NDArray[np.float64] | None = None


class Fitted(Protocol):
    """A trained system."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, benign first."""

    @property
    def decision(self) -> Decision:
        """Training prior and class of each output; temperature and tau are those of the system's own decision."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Training parameters and figures of the training, as JSON values."""

    def predict(self, features: pl.DataFrame) -> Predictions:
        """Predict flows; the table holds the features of the training schema."""


class System(Protocol):
    """A recipe. Its constructor takes the parameters that may be changed, each with a default."""

    def fit(self, train: LabelledFlows, seed: int) -> Fitted:
        """Learn from labelled flows; everything learnt, encoders and samplers too, is learnt from them alone."""


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """A row: its title, its class (``module:Class``), and the parameters it is made with.

    ``paper_row`` is its name in the paper's tables, where it is there. ``needs`` is the extra that installs it.
    """

    title: str
    home: str
    group: Group
    parameters: Mapping[str, Any] = field(default_factory=dict)
    paper_row: str | None = None
    needs: str = "train"


_CLASSIC = "deepidea.benchmark.baselines"
_PAPER = "deepidea.benchmark.variants:PaperNetwork"
_DEFAULT = "deepidea.benchmark.variants:DefaultNetwork"
_WINDOWS = "deepidea.benchmark.windows"
_AUGMENT = "deepidea.benchmark.augmentation"

_CROSS_ENTROPY = {"attack_weight": 0.0}

SYSTEMS: Mapping[str, SystemInfo] = {
    "majority": SystemInfo("majority class", f"{_CLASSIC}:Majority", "reference"),
    "one-rule": SystemInfo("one rule", f"{_CLASSIC}:OneRuleSystem", "reference"),
    "svm": SystemInfo("SVM", f"{_CLASSIC}:SVM", "paper", paper_row="SVM"),
    "knn": SystemInfo("KNN", f"{_CLASSIC}:KNN", "paper", paper_row="KNN"),
    "tree": SystemInfo("decision tree", f"{_CLASSIC}:Tree", "paper", paper_row="DT"),
    "mlp-ce": SystemInfo("MLP+CE", _PAPER, "paper", _CROSS_ENTROPY, "MLP+CE"),
    "mlp-over": SystemInfo(
        "MLP+OverSampling", _PAPER, "paper", {**_CROSS_ENTROPY, "sampling": "over"}, "MLP+OverSampling", "benchmark"
    ),
    "mlp-under": SystemInfo(
        "MLP+UnderSampling",
        _PAPER,
        "paper",
        {**_CROSS_ENTROPY, "sampling": "one-sided"},
        "MLP+UnderSampling",
        "benchmark",
    ),
    "cost-sensitive": SystemInfo("cost-sensitive MLP", _PAPER, "paper", {"loss": "cost-sensitive"}, "Cost-Sensitive"),
    "cnn": SystemInfo("CNN", f"{_WINDOWS}:WindowCNN", "paper", paper_row="CNN"),
    "lstm": SystemInfo("LSTM", f"{_WINDOWS}:WindowLSTM", "paper", _CROSS_ENTROPY),
    "deepidea-paper": SystemInfo("DeepIDEA, paper preset", _PAPER, "paper", paper_row="DeepIDEA"),
    "random-forest": SystemInfo("random forest", f"{_CLASSIC}:RandomForest", "trees"),
    "random-forest-labels": SystemInfo(
        "random forest on labels", f"{_CLASSIC}:RandomForest", "trees", {"labels": True}
    ),
    "extra-trees": SystemInfo("extra trees", f"{_CLASSIC}:ExtraTrees", "trees"),
    "xgboost": SystemInfo("XGBoost", f"{_CLASSIC}:XGBoost", "trees", needs="benchmark"),
    "lightgbm": SystemInfo("LightGBM", f"{_CLASSIC}:LightGBM", "trees", needs="benchmark"),
    "cross-entropy": SystemInfo("cross-entropy", _DEFAULT, "losses", _CROSS_ENTROPY),
    "focal": SystemInfo("focal", _DEFAULT, "losses", {"loss": "focal"}),
    "class-balanced": SystemInfo("class-balanced", _DEFAULT, "losses", {"loss": "class-balanced"}),
    "ldam": SystemInfo("LDAM", _DEFAULT, "losses", {"loss": "ldam"}),
    "logit-adjusted": SystemInfo("logit-adjusted, tau 1", _DEFAULT, "losses", {"loss": "logit-adjusted"}),
    # one loss under two names: both rows stand, so that each paper is found by its own
    "balanced-softmax": SystemInfo(
        "balanced softmax = logit-adjusted", _DEFAULT, "losses", {"loss": "balanced-softmax"}
    ),
    "hierarchical": SystemInfo("hierarchical attack-sharing", _DEFAULT, "losses", {"loss": "hierarchical"}),
    "lstm-attack-sharing": SystemInfo(
        "LSTM with attack-sharing loss", f"{_WINDOWS}:WindowLSTM", "beyond", {"attack_weight": 1.0}
    ),
    "generative": SystemInfo("DeepIDEA on generated minorities", f"{_AUGMENT}:Generative", "beyond"),
    "deepidea": SystemInfo("DeepIDEA", _DEFAULT, "deepidea"),
    "deepidea-forests": SystemInfo("DeepIDEA with forests", "deepidea.benchmark.variants:ForestStack", "deepidea"),
}


def make_system(name: str) -> System:
    """Return an untrained system.

    Parameters
    ----------
    name : str
        Out of :data:`SYSTEMS`, with changed parameters behind a colon: ``"deepidea:attack_weight=3,n_epochs=5"``.

    Raises
    ------
    DataError
        No system of that name, or a parameter that it does not have or whose value it refuses.
    MissingExtraError
        A package that it stands on is not installed.
    """
    row, _, changes = name.partition(":")
    info = find_system(row)
    module, _, class_name = info.home.partition(":")
    try:
        system: Any = getattr(importlib.import_module(module), class_name)
        return system(**{**info.parameters, **_parse_changes(name, changes)})  # type: ignore[no-any-return]
    except ImportError as error:
        raise MissingExtraError(
            f"cannot make {info.title}: {error}; run: pip install 'deepidea[{info.needs}]'"
        ) from error
    except (TypeError, ValueError) as error:
        raise DataError(f"cannot make {name}: {error}; choose parameters that {row} has") from error


def find_system(name: str) -> SystemInfo:
    """Return the entry of a system's name, with or without changed parameters."""
    row = name.partition(":")[0]
    if row not in SYSTEMS:
        raise DataError(f"unknown system {row!r}{suggest(row, SYSTEMS)}; choose one of {', '.join(SYSTEMS)}")
    return SYSTEMS[row]


def _parse_changes(name: str, text: str) -> dict[str, Any]:
    """Return ``a=1,b=x`` as values.

    Examples
    --------
    >>> _parse_changes("deepidea", "attack_weight=3,loss=focal")
    {'attack_weight': 3, 'loss': 'focal'}
    """
    changes = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise DataError(f"cannot read {part!r} in {name!r}: write changed parameters as name=value")
        try:
            changes[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            changes[key] = value
    return changes
