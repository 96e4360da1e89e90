"""Continued training: the same training flows, held-out ones still held out, and a comparison of both detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepidea.errors import DataError
from deepidea.evaluation.analyst_labels import AnalystFlows, label_map, read_analyst_labels
from deepidea.evaluation.evaluate import refuse_unknown_classes
from deepidea.evaluation.model_comparison import ModelComparison, compare_detectors
from deepidea.evaluation.protocol import (
    TrainingFlows,
    flows_to_test,
    flows_to_train,
    flows_under_split,
    is_recorded,
)
from deepidea.flows.datasets.installed import file_sha256
from deepidea.model.detector import Detector


@dataclass(frozen=True, slots=True)
class Gathered:
    """The input of a training: flows, the detector to continue from, analyst flows, and the entries of the new card."""

    part: TrainingFlows
    start: Detector | None
    extra: AnalystFlows | None
    card: dict[str, Any]


_OF_FLOWS = ("keep", "use_port", "schema")


def gather(
    data: str | Sequence[str | Path],
    *,
    continued: Path | None = None,
    extra: Sequence[str | Path] = (),
    fresh: Mapping[str, Any],
    **options: Any,
) -> Gathered:
    """Return the input of a training, new or continued.

    In continued training the rows are those that the detector was trained on: held-out ones stay held out, so that old
    and new are compared on flows that neither has seen. Other data is split as in a new training.

    Parameters
    ----------
    data : str or sequence of paths
    continued : path, optional
        Detector file to continue from.
    extra : sequence of paths
        Files with analyst labels, see `read_analyst_labels`. They join the training rows, never the held-out ones.
    fresh : mapping
        Options of a new training, refused in a continued one: ``keep``, ``use_port``, ``schema``, and others that do
        not concern the flows.
    **options
        Of both :func:`deepidea.evaluation.protocol.flows_to_train` and `flows_under_split`.

    Raises
    ------
    DataError
        Data that cannot be read, or an option that does not go with continued training.
    LabelError
        The data has a class that the detector to continue from does not know.
    ArtifactError
        A detector file that cannot be used.
    """
    start = None if continued is None else Detector.load(continued)
    if start is None:
        part = flows_to_train(data, **{k: v for k, v in fresh.items() if k in _OF_FLOWS}, **options)
    else:
        _refuse_fresh(fresh)
        recorded = start.card.get("data", {})
        # Under the detector's own schema and split: what it was tested on stays a test for its successor.
        part = flows_under_split(data, start.schema, recorded if isinstance(recorded, Mapping) else {}, **options)
        refuse_unknown_classes(part.flows.classes, start.classes)
    analyst_flows = _read_extra(extra, part, start)
    card = part.card()
    if analyst_flows is not None:
        card["extra"] = analyst_flows.contract()
    if start is not None and continued is not None:
        about = {"model": start.fingerprint, "name": continued.name, "sha256": file_sha256(continued)}
        card["continued_from"] = about
    return Gathered(part, start, analyst_flows, card)


def _refuse_fresh(fresh: Mapping[str, Any]) -> None:
    given = [f"--{name.removeprefix('use_')}" for name, value in fresh.items() if value]
    if given:
        raise DataError(f"{', '.join(given)} cannot change with --continue: the detector has it already; leave it out")


def _read_extra(paths: Sequence[str | Path], part: TrainingFlows, start: Detector | None) -> AnalystFlows | None:
    if not paths:
        return None
    if start is None:
        return read_analyst_labels(paths, part.flows.schema, label_map(part.flows))
    return read_analyst_labels(paths, start.schema, _labels_of(start), only_known=True)


def compare_on(
    old: Detector,
    new: Detector,
    data: str | Sequence[str | Path],
    *,
    analyst_files: Sequence[str | Path] = (),
    **options: str | None,
) -> ModelComparison:
    """Compare two detectors on the held-out part of data, and on flows with analyst labels.

    The part is the one that the new detector's card records, else the old one's; data of which neither was trained on a
    part is taken whole.

    Parameters
    ----------
    old, new : Detector
    data : str or sequence of paths
        Name of a data set, or files of labelled flows.
    analyst_files : sequence of paths
        See :func:`deepidea.evaluation.analyst_labels.read_analyst_labels`.
    **options
        ``taxonomy``, ``label`` and ``benign`` as of :func:`deepidea.evaluation.protocol.flows_to_test`.

    Raises
    ------
    DataError
        Nothing is left that neither was trained on.
    """
    recorded = (one.card.get("data", {}) for one in (new, old))
    contracts = [dict(contract) for contract in recorded if isinstance(contract, Mapping)]
    # the new detector's contract first: its held-out rows are those that neither saw
    contract = next((one for one in contracts if is_recorded(data, one)), contracts[0] if contracts else {})
    flows = flows_to_test(data, new.schema, contract, **options)
    labels = {**dict(zip(old.classes, old.classes, strict=True)), **_labels_of(new)}
    labelled = read_analyst_labels(analyst_files, new.schema, labels).flows if analyst_files else None
    return compare_detectors(old, new, flows, analyst_flows=labelled)


def _labels_of(detector: Detector) -> dict[str, str]:
    return {
        label: detector.classes[code] for label, code in zip(detector.labels, detector.decision.class_of, strict=True)
    }


def compare_with_start(
    old: Detector, new: Detector, data: str | Sequence[str | Path], **options: Any
) -> ModelComparison | str:
    """Compare on the held-out part of the training data; return the reason where that is not possible."""
    if new.card.get("data", {}).get("split", {}).get("kind") == "none":
        return "no flows were held out for a comparison"
    try:
        return compare_on(old, new, data, **options)
    except DataError as error:
        return str(error)


def with_comparison(detector: Detector, comparison: ModelComparison | str) -> Detector:
    """Return a detector with a comparison on its card, unchanged where it is only a reason; save it to keep that."""
    return detector if isinstance(comparison, str) else detector.with_card(comparison=comparison.to_dict())
