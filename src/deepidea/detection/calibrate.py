"""Calibration: set a detector's thresholds from benign flows of the network that it is going to watch."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import polars as pl

from deepidea.detection.alerting import CARD_ENTRY, MEASURES, Thresholds, conformal_quantile, fit_thresholds
from deepidea.detection.flow_adapter import flow_adapter
from deepidea.detection.flow_sample import Reservoir, site_reference
from deepidea.detection.sources.source import Source
from deepidea.errors import DataError
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.model.detector import Detector
from deepidea.model.novelty import Novelty

SITE_ROWS = 20_000  # sampled flows that the reference of the site is made of


@dataclass(frozen=True, slots=True)
class Calibration:
    """A detector with thresholds for its site, and the counts behind them.

    Parameters
    ----------
    detector : Detector
        The given one with the thresholds in its card, the site's benign flows as its ``site_reference``, and a novelty
        rate that holds for these instead of training's.
    thresholds : Thresholds
    n_predicted_attacks : int
        Benign flows whose predicted class is an attack: the alerts there would be without thresholds.
    n_in_training : int
        Benign flows that equal a training row in every feature.
    skipped : Counter
        Unreadable records, by reason.
    """

    detector: Detector
    thresholds: Thresholds
    n_predicted_attacks: int
    n_in_training: int
    skipped: Counter[str] = field(default_factory=Counter)


def calibrate(
    detector: Detector,
    source: Source,
    fpr: float,
    *,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Set a detector's thresholds from benign flows of the network that it is going to watch.

    Parameters
    ----------
    detector : Detector
    source : Source
        Of benign flows: a quiet day that somebody checked. An attack among them raises the thresholds.
    fpr : float
        Rate of benign flows that may raise an alert, in (0, 1).
    stop : threading.Event, optional
        Ends a live source.
    progress : callable, optional
        Called with the number of flows so far.

    Raises
    ------
    DataError
        Too few flows for the rate, or flows that do not fit the detector's schema.

    Notes
    -----
    Memory: 16 bytes a flow, and the features of :data:`SITE_ROWS` flows.
    """
    prepare, skipped = flow_adapter(source.schema, detector), Counter[str]()
    measured, sample = list[pl.DataFrame](), Reservoir(detector.schema.features, SITE_ROWS)
    n_attacks = n_in_training = n_flows = 0
    for batch in source.batches(None, stop or threading.Event()):
        skipped.update(batch.skipped)
        if batch.flows.is_empty():
            continue
        flows = detector.schema.conform(prepare(batch.flows))
        verdicts = detector.score_conformed(flows)
        sample.add(flows)
        measured.append(verdicts.select(name for name in MEASURES if name in verdicts.columns))
        n_attacks += int((verdicts["class"] != detector.benign).sum())
        n_in_training += _count_in_training(detector, flows)
        n_flows += flows.height
        if progress is not None:
            progress(n_flows)
    if not measured:
        raise DataError(f"cannot set thresholds: {source.name} has no flows; add benign flows")
    scores = pl.concat(measured)
    thresholds = fit_thresholds(scores, fpr, source.name)
    calibrated = with_thresholds(detector, thresholds).with_options(
        site_reference=site_reference(detector, sample.rows, scores["score"]), novelty=_site_novelty(detector, scores)
    )
    return Calibration(calibrated, thresholds, n_attacks, n_in_training, skipped)


def _site_novelty(detector: Detector, scores: pl.DataFrame) -> Novelty | None:
    """Return the novelty with a rate that as few benign flows of the site exceed as did of training's.

    The rate stays where the site's flows are no more unlike training than its own, or too few to tell.
    """
    novelty = detector.novelty
    if novelty is None or not novelty.rate:
        return novelty
    bound = conformal_quantile(scores["anomaly"].to_numpy(), novelty.rate)
    return replace(novelty, rate=max(0.0, 1 - bound)) if 1 - novelty.rate < bound <= 1 else novelty


def _count_in_training(detector: Detector, flows: pl.DataFrame) -> int:
    if detector.training_fingerprints is None:
        return 0
    prints = pl.Series(row_fingerprints(flows, detector.schema))
    return int(prints.is_in(pl.Series(detector.training_fingerprints).implode()).sum())


def with_thresholds(detector: Detector, thresholds: Thresholds) -> Detector:
    """Return the detector with thresholds in its card."""
    return detector.with_options(card={**detector.card, CARD_ENTRY: thresholds.contract()})
