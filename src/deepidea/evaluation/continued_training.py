"""Training that goes on: the flows of before, without those held out then, and a comparison with before at the end."""

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
    SplitKind,
    TrainingFlows,
    flows_to_test,
    flows_to_train,
    flows_under_split,
    is_recorded,
)
from deepidea.flows.datasets.installed import file_sha256
from deepidea.model.detector import Detector


def flows_to_continue(
    data: str | Sequence[str | Path],
    detector: Detector,
    *,
    split: SplitKind = "auto",
    test_fraction: float = 1 / 6,
    split_seed: int = 0,
    taxonomy: str | None = None,
    label: str | None = None,
    benign: str | None = None,
) -> TrainingFlows:
    """Return the flows with which a detector's training goes on, under its schema.

    Of the data it was trained on, these are the rows that it was trained on: what was held out then stays held out, so
    that old and new are compared on flows that neither has seen. Other data is split as :func:`flows_to_train` does.

    Parameters
    ----------
    data, split, test_fraction, split_seed, taxonomy, label, benign
        As of :func:`deepidea.evaluation.protocol.flows_to_train`; labels and taxonomy are the detector's where absent.
    detector : Detector

    Raises
    ------
    DataError
        A split is asked for of data that has been split already, or the data cannot be read or split so.
    LabelError
        The data holds a class that the detector does not know.
    """
    recorded = detector.card.get("data", {})
    found = flows_under_split(
        data,
        detector.schema,
        recorded if isinstance(recorded, Mapping) else {},
        split=split,
        test_fraction=test_fraction,
        split_seed=split_seed,
        taxonomy=taxonomy,
        label=label,
        benign=benign,
    )
    refuse_unknown_classes(found.flows.classes, detector.classes)
    return found


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that a training takes: flows, what to go on from, flows besides, and what the file is to keep of them."""

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
    """Return all that a training takes, anew or going on.

    Parameters
    ----------
    data : str or sequence of paths
    continued : path, optional
        Detector file to go on from.
    extra : sequence of paths
        Files of judged flows, see `read_analyst_labels`. They join the training rows; what is
        held out stays as it is.
    fresh : mapping
        What training anew alone may choose: ``keep``, ``use_port`` and ``schema`` of its flows, and by other names
        what does not concern them; in continued training all of it stands.
    **options
        Of both :func:`deepidea.evaluation.protocol.flows_to_train` and :func:`flows_to_continue`.

    Raises
    ------
    DataError
        Data that cannot be read, or an option that does not go with continued training.
    ArtifactError
        A detector file that cannot be used.
    """
    start = None if continued is None else Detector.load(continued)
    if start is None:
        part = flows_to_train(data, **{k: v for k, v in fresh.items() if k in _OF_FLOWS}, **options)
    else:
        _refuse_fresh(fresh)
        part = flows_to_continue(data, start, **options)
    judged = _read_extra(extra, part, start)
    card = part.card()
    if judged is not None:
        card["extra"] = judged.contract()
    if start is not None and continued is not None:
        about = {"model": start.fingerprint, "name": continued.name, "sha256": file_sha256(continued)}
        card["continued_from"] = about
    return Gathered(part, start, judged, card)


def _refuse_fresh(fresh: Mapping[str, Any]) -> None:
    given = [f"--{name.removeprefix('use_')}" for name, value in fresh.items() if value]
    if given:
        raise DataError(
            f"{', '.join(given)} must be chosen when training begins, however: --continue goes on from a detector that "
            "has it already; leave it out"
        )


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
    judged: Sequence[str | Path] = (),
    **options: str | None,
) -> ModelComparison:
    """Compare two detectors on the held-out part of data, and on flows that analysts judged.

    The part is the one that the new detector's card records, else the old one's; data of which neither was trained on a
    part is taken whole.

    Parameters
    ----------
    old, new : Detector
    data : str or sequence of paths
        Name of a data set, or files of labelled flows.
    judged : sequence of paths
        See :func:`deepidea.evaluation.analyst_labels.read_analyst_labels`.
    **options
        ``taxonomy``, ``label`` and ``benign`` as of :func:`deepidea.evaluation.protocol.flows_to_test`.

    Raises
    ------
    DataError
        Nothing is left that neither was trained on.
    """
    contracts = [dict(told) for one in (new, old) if isinstance(told := one.card.get("data", {}), Mapping)]
    contract = next((told for told in contracts if is_recorded(data, told)), contracts[0] if contracts else {})
    flows = flows_to_test(data, new.schema, contract, **options)
    labels = {**dict(zip(old.classes, old.classes, strict=True)), **_labels_of(new)}
    said = read_analyst_labels(judged, new.schema, labels).flows if judged else None
    return compare_detectors(old, new, flows, judged=said)


def _labels_of(detector: Detector) -> dict[str, str]:
    return {
        label: detector.classes[code] for label, code in zip(detector.labels, detector.decision.class_of, strict=True)
    }


def compare_with_start(
    old: Detector, new: Detector, data: str | Sequence[str | Path], **options: Any
) -> ModelComparison | str:
    """Compare on the held-out part of the training data; where there is none to compare on, say why."""
    if new.card.get("data", {}).get("split", {}).get("kind") == "none":
        return "no flows were held out for a comparison"
    try:
        return compare_on(old, new, data, **options)
    except DataError as error:
        return str(error)


def with_comparison(detector: Detector, comparison: ModelComparison | str) -> Detector:
    """Return a detector whose card tells how it compares, where that could be told; save it to keep that."""
    return detector if isinstance(comparison, str) else detector.with_card(comparison=comparison.to_dict())
