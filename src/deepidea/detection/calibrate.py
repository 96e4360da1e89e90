"""Thresholds for a network of one's own: its benign flows, scored by the detector that is to watch it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import polars as pl

from deepidea.detection.alerting import CARD_ENTRY, MEASURES, Thresholds, fit_thresholds
from deepidea.detection.engine import flow_adapter
from deepidea.detection.source import Source
from deepidea.errors import DataError
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.model.detector import Detector


@dataclass(frozen=True, slots=True)
class Calibration:
    """A detector with thresholds of its site, and what they stand on.

    Parameters
    ----------
    detector : Detector
        The one that was given, with the thresholds in its card.
    thresholds : Thresholds
    n_called_attacks : int
        Of the benign flows, those that the detector's class calls an attack: what alerts without thresholds would be.
    n_trained_on : int
        Of the benign flows, those that equal a training row in every feature.
    skipped : Counter
        Records that could not be read, by reason.
    """

    detector: Detector
    thresholds: Thresholds
    n_called_attacks: int
    n_trained_on: int
    skipped: Counter[str] = field(default_factory=Counter)


def calibrate(
    detector: Detector,
    source: Source,
    fpr: float,
    *,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Set a detector's thresholds by benign flows of the network that it is to watch.

    Parameters
    ----------
    detector : Detector
    source : Source
        Of flows that are benign: a quiet day, checked by someone. An attack among them raises the thresholds.
    fpr : float
        Rate of benign flows that may raise an alert, in (0, 1).
    stop : threading.Event, optional
        Ends a live source.
    progress : callable, optional
        Called with the number of flows so far.

    Raises
    ------
    DataError
        Too few flows for the rate, or a source whose flows the detector cannot read.

    Notes
    -----
    Memory: 16 bytes a flow.
    """
    prepare, skipped = flow_adapter(source.schema, detector), Counter[str]()
    scores: list[pl.DataFrame] = []
    n_called = n_trained_on = n_flows = 0
    for batch in source.batches(None, stop or threading.Event()):
        skipped.update(batch.skipped)
        if batch.flows.is_empty():
            continue
        flows = prepare(batch.flows)
        verdicts = detector.score(flows)
        scores.append(verdicts.select(name for name in MEASURES if name in verdicts.columns))
        n_called += int((verdicts["class"] != detector.benign).sum())
        n_trained_on += _count_trained_on(detector, flows)
        n_flows += flows.height
        if progress is not None:
            progress(n_flows)
    if not scores:
        raise DataError(f"thresholds need benign flows, however: {source.name} has none")
    thresholds = fit_thresholds(pl.concat(scores), fpr, source.name)
    return Calibration(with_thresholds(detector, thresholds), thresholds, n_called, n_trained_on, skipped)


def _count_trained_on(detector: Detector, flows: pl.DataFrame) -> int:
    if detector.training_fingerprints is None:
        return 0
    conformed = detector.schema.conform(flows)
    prints = pl.Series(row_fingerprints(conformed, detector.schema))
    return int(prints.is_in(pl.Series(detector.training_fingerprints).implode()).sum())


def with_thresholds(detector: Detector, thresholds: Thresholds) -> Detector:
    """Return the detector with thresholds in its card; save it to keep them."""
    return Detector(
        detector.encoder,
        detector.decision,
        detector.classes,
        detector.labels,
        detector.graph,
        weights=detector.weights,
        training_fingerprints=detector.training_fingerprints,
        novelty=detector.novelty,
        card={**detector.card, CARD_ENTRY: thresholds.contract()},
        n_threads=detector.n_threads,
    )
