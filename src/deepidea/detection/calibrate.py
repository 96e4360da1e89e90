"""Calibration: set a detector's thresholds from benign flows of the network that it is going to watch."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from deepidea.detection.alerting import CARD_ENTRY, MEASURES, Thresholds, conformal_quantile, fit_thresholds
from deepidea.detection.engine import flow_adapter
from deepidea.detection.sources.source import Source
from deepidea.errors import DataError
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.model.detector import Detector
from deepidea.model.novelty import Novelty
from deepidea.model.reference import Bins, Reference, fit_reference

SITE_ROWS = 20_000  # sampled flows that the reference of the site is made of
_KEY = "\0key"


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
    measured, sample = list[pl.DataFrame](), _Reservoir(detector)
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
        site_reference=sample.reference(scores["score"]), novelty=_site_novelty(detector, scores)
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


class _Reservoir:
    """A uniform sample of at most :data:`SITE_ROWS` flows, the same however the flows are cut into batches.

    Every flow gets a random key; the flows with the smallest keys are the sample (Efraimidis and Spirakis 2006 with
    equal weights).
    """

    def __init__(self, detector: Detector) -> None:
        self._detector, self._random = detector, np.random.default_rng(0)
        self._sample: pl.DataFrame | None = None

    def add(self, flows: pl.DataFrame) -> None:
        """Draw from conformed flows."""
        keys = pl.Series(_KEY, self._random.random(flows.height))
        new = flows.select(self._detector.schema.features).with_columns(keys)
        if self._sample is not None:
            if self._sample.height >= SITE_ROWS:
                new = new.filter(pl.col(_KEY) < self._sample[_KEY][-1])
            new = pl.concat([self._sample, new], how="vertical_relaxed")
        self._sample = new.sort(_KEY).head(SITE_ROWS)

    def reference(self, scores: pl.Series) -> Reference | None:
        """Return the distributions of the sampled features, and of all scores."""
        assert self._sample is not None  # calibrate refuses a source without flows
        rows = self._sample.drop(_KEY)
        decision, ones = self._detector.decision, np.ones(rows.height)
        return fit_reference(
            self._detector.schema,
            rows,
            ones > 0,
            ones,
            score_bins=Bins.of(scores.to_numpy()),
            log_odds=lambda table: decision.log_odds(self._detector.logits(table)),
        )
