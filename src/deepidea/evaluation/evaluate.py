"""A detector against labelled flows: on all rows, on distinct rows, and on vectors it never saw in training.

Flow tables repeat themselves: most rows of a test file often stand in the training file too, feature for feature. One
score over all rows then measures memory. So every score here comes three times, with the counts beside it, and next
to two references that need no network (`Baselines`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from deepidea.errors import DataError, LabelError
from deepidea.evaluation.metrics import Ints, Scores, evaluate
from deepidea.evaluation.references import Baselines, codes_of
from deepidea.evaluation.splits import count_contradictory, is_among
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.flows.schema import Schema

if TYPE_CHECKING:
    from deepidea.flows.labelled import LabelledFlows

Fingerprints = npt.NDArray[np.uint64]


class Scorer(Protocol):
    """The part of `deepidea.model.detector.Detector` that an evaluation uses."""

    @property
    def schema(self) -> Schema:
        """Columns that it reads."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, benign first."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What its file records about it, JSON-able."""

    @property
    def training_fingerprints(self) -> Fingerprints | None:
        """Fingerprints of the vectors it was trained on, or None."""

    def score(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return columns class, score and p_<class>, one row per flow, in order."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of a detector on labelled flows, with the facts needed to read them.

    Attributes
    ----------
    scores : Scores
        On all rows.
    subsets : mapping of "all", "distinct", "unseen" to Scores or None
        Distinct: the first row of each feature vector and class. Unseen: rows whose vector was not trained on; None
        where the detector does not know what it was trained on, or no row is left.
    baselines : mapping of name to Scores
        Majority class and one rule, on all rows; empty where no training rows were at hand.
    data : mapping
        source, schema, rows, class_rows, distinct_rows, duplicate_rows, contradictory_rows (same features, another
        class), unavoidable_errors (rows that any detector with these features gets wrong), twins_in_training and
        unseen_rows (None where not known).
    model : mapping
        Summary of the detector's manifest.
    """

    scores: Scores
    subsets: Mapping[str, Scores | None]
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    baselines: Mapping[str, Scores] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values: the scores on all rows on top, then subsets, baselines, data and model."""
        subsets = {name: scores.to_dict() if scores else None for name, scores in self.subsets.items()}
        baselines = {name: scores.to_dict() for name, scores in self.baselines.items()}
        facts = {"data": dict(self.data), "model": dict(self.model)}
        return {**self.scores.to_dict(), "subsets": subsets, "baselines": baselines, **facts}


# --- the one entry -----------------------------------------------------------------------------------------------


def evaluate_detector(
    detector: Scorer,
    flows: LabelledFlows,
    *,
    training_fingerprints: Fingerprints | None = None,
    baselines: Baselines | None = None,
) -> Evaluation:
    """Score a detector on labelled flows.

    Parameters
    ----------
    detector : Detector
    flows : LabelledFlows
        At least one row; each class must be one of the detector's.
    training_fingerprints : ndarray of uint64, optional
        Of the rows it was trained on; by default those that the detector carries.
    baselines : Baselines, optional
        By default those in the detector's manifest under "baselines", if any.

    Raises
    ------
    LabelError
        A class that the detector does not know.
    SchemaError, CellError
        The flows do not have the detector's columns.
    DataError
        There are no flows.
    """
    if len(flows) == 0:
        raise DataError(f"cannot evaluate on {flows.source}: it has no flows")
    refuse_unknown_classes(flows.classes, detector.classes)
    # Fingerprints are of what the detector reads: columns that it does not see make no two flows different.
    features = detector.schema.conform(flows.features)
    known = detector.training_fingerprints if training_fingerprints is None else training_fingerprints
    fingerprints = row_fingerprints(features, detector.schema)
    verdicts = _Verdicts.of(detector, features, codes_of(flows.classes, detector.classes))
    baselines = baselines or _recorded_baselines(detector)
    rows = subset_rows(verdicts.truth, fingerprints, known)
    everything = verdicts.scores()
    parts = {name: verdicts.scores(at) if at is not None and len(at) else None for name, at in rows.items()}
    return Evaluation(
        scores=everything,
        subsets={"all": everything, **parts},
        data={**_data_facts(flows, everything, rows), **_contradictions(verdicts.truth, fingerprints)},
        model=_model_facts(detector),
        baselines=baselines.scores(features, verdicts.truth, detector.classes) if baselines else {},
    )


def refuse_unknown_classes(truth: pl.Series, classes: tuple[str, ...]) -> None:
    """Raise :class:`LabelError` where a class is none that was trained on, and say which and how often."""
    unknown = truth.filter(~truth.is_in(list(classes))).value_counts(sort=True)
    if unknown.height:
        counts = ", ".join(f"{name!r} ({rows} rows)" for name, rows in unknown.iter_rows())
        raise LabelError(
            f"the detector was not trained on {counts}, only on {', '.join(classes)}; choose its "
            "taxonomy, train with those classes, or leave the rows out"
        )


def _recorded_baselines(detector: Scorer) -> Baselines | None:
    recorded = detector.manifest.get("baselines")
    return (
        Baselines.from_contract(recorded, detector.classes, detector.schema.features)
        if isinstance(recorded, Mapping)
        else None
    )


@dataclass(frozen=True, slots=True)
class _Verdicts:
    """Truth and verdicts as arrays of one row per flow."""

    classes: tuple[str, ...]
    truth: Ints
    predicted: Ints
    probabilities: npt.NDArray[np.float32]  # (n_flows, n_classes)
    attack_score: npt.NDArray[np.float32]

    @classmethod
    def of(cls, detector: Scorer, features: pl.DataFrame, truth: Ints) -> _Verdicts:
        verdicts = detector.score(features)
        if verdicts.height != truth.size:
            raise DataError(f"the detector returned {verdicts.height} verdicts on {truth.size} flows")
        probabilities = verdicts.select(pl.col([f"p_{name}" for name in detector.classes])).to_numpy()
        predicted = codes_of(verdicts["class"], detector.classes)
        return cls(detector.classes, truth, predicted, probabilities, verdicts["score"].to_numpy())

    def scores(self, rows: Ints | slice = slice(None)) -> Scores:
        """Score some rows, by default all."""
        columns = (self.truth, self.predicted, self.probabilities, self.attack_score)
        truth, predicted, probabilities, score = (column[rows] for column in columns)
        return evaluate(truth, predicted, probabilities, score, self.classes)


def subset_rows(truth: Ints, fingerprints: Fingerprints, known: Fingerprints | None) -> dict[str, Ints | None]:
    """Return the rows of the subsets that are scored beside all rows.

    Parameters
    ----------
    truth : array, int64, (n_flows,)
    fingerprints : array, uint64, (n_flows,)
    known : array, uint64, or None
        Fingerprints of the training vectors; unknown where None.

    Returns
    -------
    dict
        "distinct": the first row of each feature vector and class. "unseen": rows whose vector was not trained on, or
        None.
    """
    table = pl.DataFrame({"fingerprint": fingerprints, "truth": truth}).with_row_index("row")
    # a vector with two classes counts once for each: a contradiction stays visible
    first = table.unique(["fingerprint", "truth"], keep="first", maintain_order=True)["row"]
    unseen = None if known is None else np.flatnonzero(~is_among(fingerprints, known))
    return {"distinct": first.to_numpy().astype(np.int64), "unseen": unseen}


# --- facts beside the scores -------------------------------------------------------------------------------------


def _contradictions(truth: Ints, fingerprints: Fingerprints) -> dict[str, int]:
    """Count rows whose features occur with several classes, and those outside the most frequent class of theirs."""
    # Of equal feature vectors a detector can get the rows of one class right at most: all but its largest are lost.
    table = pl.LazyFrame({"fingerprint": fingerprints, "truth": truth})
    minority = pl.col("rows").sum() - pl.col("rows").max()
    vectors = table.group_by("fingerprint", "truth").agg(rows=pl.len()).group_by("fingerprint").agg(minority)
    unavoidable = int(vectors.select(pl.col("rows").sum()).collect().item())
    return {"contradictory_rows": count_contradictory(truth, fingerprints), "unavoidable_errors": unavoidable}


def _data_facts(flows: LabelledFlows, scores: Scores, rows: Mapping[str, Ints | None]) -> dict[str, Any]:
    distinct, unseen = rows["distinct"], rows["unseen"]
    n_distinct = 0 if distinct is None else len(distinct)
    return {
        "source": flows.source,
        "schema": flows.schema.name,
        "rows": len(flows),
        "class_rows": {name: of.support for name, of in scores.per_class.items()},
        "distinct_rows": n_distinct,
        "duplicate_rows": len(flows) - n_distinct,
        "twins_in_training": None if unseen is None else len(flows) - len(unseen),
        "unseen_rows": None if unseen is None else len(unseen),
    }


def _model_facts(detector: Scorer) -> dict[str, Any]:
    bulky = {"schema", "encoder", "members", "baselines", "classes", "evaluation"}
    facts = {name: shorten_lists(value) for name, value in detector.manifest.items() if name not in bulky}
    return {"schema": detector.schema.name, "classes": list(detector.classes), **facts}


def shorten_lists(value: Any, most_items: int = 40) -> Any:
    """Return a JSON value for people: a long list becomes its length, a mapping its first items."""
    if isinstance(value, Mapping):
        return {str(name): shorten_lists(item) for name, item in list(value.items())[:most_items]}
    if isinstance(value, list | tuple):
        return [shorten_lists(item) for item in value] if len(value) <= most_items else f"{len(value)} values"
    return value if isinstance(value, str | int | float | bool | None) else str(value)
