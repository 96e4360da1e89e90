"""Shared by the systems of a benchmark: classes as numbers, encoded flows, predictions from probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from deepidea.benchmark.systems import Predictions
from deepidea.errors import LabelError
from deepidea.flows.fingerprint import collapse_duplicates, row_fingerprints
from deepidea.flows.labelled import LabelledFlows
from deepidea.flows.taxonomy import BENIGN, format_counts
from deepidea.model.decision import Decision
from deepidea.model.features import FlowEncoder

Codes = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]
Duplicates = Literal["keep", "weigh", "drop"]

BLOCK_FLOWS = 16_384


@dataclass(frozen=True, slots=True)
class Outputs:
    """The classes of a system's outputs, and the output of each training flow.

    Attributes
    ----------
    classes : tuple of str
        Those that training has, benign first.
    class_of : tuple of int
        Class of each output, ascending.
    target : array, int64, (n_flows,)
    """

    classes: tuple[str, ...]
    class_of: tuple[int, ...]
    target: Codes

    def decision(self, target: Codes | None = None, weight: npt.NDArray[np.float64] | None = None) -> Decision:
        """Return plain argmax with the prior of the training rows, by default of all flows."""
        counts = np.bincount(self.target if target is None else target, weight, minlength=len(self.class_of))
        return Decision(tuple((counts / counts.sum()).tolist()), tau=0.0, class_of=self.class_of)


def number_outputs(train: LabelledFlows, *, labels: bool = False) -> Outputs:
    """Number the classes of training flows, or the labels of each class; benign is one output either way.

    Raises
    ------
    LabelError
        There are no benign flows, or no attacks.

    Examples
    --------
    >>> from deepidea.flows.labelled import labelled_flows_from_table
    >>> table = pl.DataFrame({"bytes": [1, 2, 3, 3], "verdict": ["ok", "scan", "ok", "scan"]})
    >>> number_outputs(labelled_flows_from_table(table, "verdict", "ok")[0])
    Outputs(classes=('benign', 'scan'), class_of=(0, 1), target=array([0, 1, 0, 1]))
    """
    present = set(train.classes.unique())
    classes = tuple(name for name in train.class_order if name in present)
    if len(classes) < 2 or classes[0] != BENIGN:
        raise LabelError(
            f"cannot train on {train.source or 'the table'}: it has {format_counts(train.classes)}, and training needs "
            "benign flows and an attack; add flows, or choose another taxonomy"
        )
    codes = train.classes.replace_strict(list(classes), list(range(len(classes))), return_dtype=pl.Int64)
    names = train.labels.zip_with(codes > 0, train.classes) if labels else train.classes
    # Outputs of a class are neighbours, benign first: `Decision` asks for that order.
    pairs = pl.DataFrame({"class": codes, "label": names})
    order = pairs.unique().sort("class", "label").with_row_index("output")
    target = pairs.join(order, on=["class", "label"], how="left", maintain_order="left")["output"]
    return Outputs(classes, tuple(order["class"].to_list()), target.to_numpy().astype(np.int64))


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Encoded training rows.

    Attributes
    ----------
    encoder : FlowEncoder
        Fitted on these rows.
    outputs : Outputs
        Of all flows.
    decision : Decision
        Plain argmax, with the prior of these rows.
    x : array, float32, (n_rows, d_in)
    target : array, int64, (n_rows,)
    weight : array, float64, (n_rows,)
        How many flows each row stands for.
    """

    encoder: FlowEncoder
    outputs: Outputs
    decision: Decision
    x: Matrix
    target: Codes
    weight: npt.NDArray[np.float64]


def collapse_rows(train: LabelledFlows, outputs: Outputs) -> tuple[Codes, npt.NDArray[np.float64]]:
    """Return one row for each distinct pair of features and output, and how many flows it stands for."""
    prints = row_fingerprints(train.features, train.schema)
    return collapse_duplicates(prints, outputs.target, np.ones(len(train)))


def encode_rows(train: LabelledFlows, *, labels: bool = False, duplicates: Duplicates = "keep") -> EncodedRows:
    """Encode training flows, each as it is, or the copies of a vector and output as one row that weighs all or one."""
    outputs = number_outputs(train, labels=labels)
    rows, weight = np.arange(len(train)), np.ones(len(train))
    if duplicates != "keep":
        rows, weight = collapse_rows(train, outputs)
    if duplicates == "drop":
        weight = np.ones(len(rows))
    table, target = train.features[rows], outputs.target[rows]
    encoder = FlowEncoder(train.schema).fit(table, weight)
    return EncodedRows(encoder, outputs, outputs.decision(target, weight), encoder.transform(table), target, weight)


def decide(probabilities: npt.NDArray[Any], decision: Decision) -> Predictions:
    """Predict flows from the probability of each output, ``(n_flows, n_outputs)``.

    Examples
    --------
    >>> decide(np.array([[0.75, 0.25], [0.0, 1.0]]), Decision((0.5, 0.5))).predicted
    array([0, 1])
    """
    p = np.asarray(probabilities, np.float32)
    predicted = decision.by_class(decision.corrected(p)).argmax(axis=1)
    return Predictions(np.asarray(predicted, np.int64), p, attack_score(p))


def attack_score(p: Matrix) -> npt.NDArray[np.float64]:
    """Return ``1 - p_benign`` of probabilities ``(n_flows, n_outputs)``, as a detector does.

    Near 1, p_benign is far finer in single precision than the sum of the others: ranks differ there.

    Examples
    --------
    >>> attack_score(np.array([[0.75, 0.25], [0.0, 1.0]], np.float32))
    array([0.25, 1.  ])
    """
    return np.asarray(1.0 - p[:, 0].astype(np.float64), np.float64)


def decide_by_margin(margins: npt.NDArray[Any], _: Decision) -> Predictions:
    """Predict flows from one margin a class, ``(n_flows, n_classes)``, where there are no probabilities.

    The attack score is how far the best attack is ahead of benign.
    """
    predicted = np.asarray(margins.argmax(axis=1), np.int64)
    return Predictions(predicted, None, margins[:, 1:].max(axis=1).astype(np.float64) - margins[:, 0])


@dataclass(frozen=True, slots=True)
class FittedModel:
    """A trained system that predicts each flow by itself.

    Each distinct flow is predicted once, in blocks, so memory is bounded by one row of outputs a flow.

    Parameters
    ----------
    classes, decision, parameters
        See :class:`deepidea.benchmark.systems.Fitted`.
    encoder : FlowEncoder
    values : callable
        Maps encoded flows ``(n_flows, d_in)`` to the input of ``verdict``, ``(n_flows, n_outputs)``.
    verdict : callable
        :func:`decide`, or :func:`decide_by_margin`.
    """

    classes: tuple[str, ...]
    decision: Decision
    parameters: Mapping[str, Any]
    encoder: FlowEncoder
    values: Callable[[Matrix], npt.NDArray[Any]]
    verdict: Callable[[npt.NDArray[Any], Decision], Predictions] = decide

    @classmethod
    def on(cls, rows: EncodedRows, parameters: Mapping[str, Any], values: Any, verdict: Any = decide) -> FittedModel:
        """Return the system that was trained on these rows."""
        parameters = {**parameters, "n_rows": len(rows.target)}
        return cls(rows.outputs.classes, rows.decision, parameters, rows.encoder, values, verdict)

    def predict(self, features: pl.DataFrame) -> Predictions:
        """Predict flows, in their order."""
        prints = row_fingerprints(features, self.encoder.schema)
        # Equal features get equal predictions from such a system: each distinct vector is predicted once.
        _, first, place = np.unique(prints, return_index=True, return_inverse=True)
        distinct = features[first]
        # so that no flows at all still have a shape
        values = [np.zeros((0, len(self.decision.prior)), np.float32)]
        values += [self.values(self.encoder.transform(block)) for block in distinct.iter_slices(BLOCK_FLOWS)]
        return self.verdict(np.concatenate(values)[place], self.decision)
