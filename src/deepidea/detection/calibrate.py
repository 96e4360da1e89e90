"""Thresholds for a network of one's own: its benign flows, scored by the detector that is to watch it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from deepidea.detection.alerting import CARD_ENTRY, MEASURES, Thresholds, fit_thresholds, quantile
from deepidea.detection.engine import flow_adapter
from deepidea.detection.sources.source import Source
from deepidea.errors import DataError
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.model.detector import Detector
from deepidea.model.novelty import Novelty
from deepidea.model.reference import Bins, Reference, fit_reference

SITE_ROWS = 20_000  # flows of the site that its reference is made of
_KEY = "\0key"


@dataclass(frozen=True, slots=True)
class Calibration:
    """A detector with thresholds of its site, and what they stand on.

    Parameters
    ----------
    detector : Detector
        The one that was given, with the thresholds in its card, what the site's benign flows look like as its
        ``site_reference``, and a rate at which they, not those of training, are lost to being unlike benign flows.
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
    Memory: 16 bytes a flow, and the features of :data:`SITE_ROWS` flows.
    """
    prepare, skipped = flow_adapter(source.schema, detector), Counter[str]()
    scores, sample = list[pl.DataFrame](), _Reservoir(detector)
    n_called = n_trained_on = n_flows = 0
    for batch in source.batches(None, stop or threading.Event()):
        skipped.update(batch.skipped)
        if batch.flows.is_empty():
            continue
        flows = detector.schema.conform(prepare(batch.flows))
        verdicts = detector.score_conformed(flows)
        sample.add(flows)
        scores.append(verdicts.select(name for name in MEASURES if name in verdicts.columns))
        n_called += int((verdicts["class"] != detector.benign).sum())
        n_trained_on += _count_trained_on(detector, flows)
        n_flows += flows.height
        if progress is not None:
            progress(n_flows)
    if not scores:
        raise DataError(f"thresholds need benign flows, however: {source.name} has none")
    measured = pl.concat(scores)
    thresholds = fit_thresholds(measured, fpr, source.name)
    seen = {"site_reference": sample.reference(measured["score"]), "novelty": _novelty_of_site(detector, measured)}
    known = with_thresholds(detector, thresholds).with_options(**seen)
    return Calibration(known, thresholds, n_called, n_trained_on, skipped)


def _novelty_of_site(detector: Detector, measured: pl.DataFrame) -> Novelty | None:
    """Return what tells the unlike, at a rate that holds for benign flows of the site as it did for training's.

    Where these are no more unlike than training's, or too few to tell, the rate stays what it was.
    """
    novelty = detector.novelty
    if novelty is None or not novelty.rate:
        return novelty
    bound = quantile(measured["anomaly"].to_numpy(), novelty.rate)
    return replace(novelty, rate=max(0.0, 1 - bound)) if 1 - novelty.rate < bound <= 1 else novelty


def _count_trained_on(detector: Detector, flows: pl.DataFrame) -> int:
    if detector.training_fingerprints is None:
        return 0
    prints = pl.Series(row_fingerprints(flows, detector.schema))
    return int(prints.is_in(pl.Series(detector.training_fingerprints).implode()).sum())


def with_thresholds(detector: Detector, thresholds: Thresholds) -> Detector:
    """Return the detector with thresholds in its card; save it to keep them."""
    return detector.with_options(card={**detector.card, CARD_ENTRY: thresholds.contract()})


class _Reservoir:
    """A sample of flows of bounded size, each as likely to be in it; the same for any way of cutting them."""

    def __init__(self, detector: Detector) -> None:
        self._detector, self._random = detector, np.random.default_rng(0)
        self._kept: pl.DataFrame | None = None

    def add(self, flows: pl.DataFrame) -> None:
        """Let conformed flows take part in the draw."""
        keys = pl.Series(_KEY, self._random.random(flows.height))
        new = flows.select(self._detector.schema.features).with_columns(keys)
        if self._kept is not None:
            new = new.filter(pl.col(_KEY) < self._bound)
            if new.is_empty():
                return
            new = pl.concat([self._kept, new], how="vertical_relaxed")
        self._kept = new.sort(_KEY).head(SITE_ROWS)

    @property
    def _bound(self) -> float:
        """Key that a flow must stay below to get in."""
        full = self._kept is not None and self._kept.height >= SITE_ROWS
        return float(self._kept[_KEY][-1]) if full and self._kept is not None else 1.0

    def reference(self, scores: pl.Series) -> Reference | None:
        """Tell what the flows look like, and how all of them score."""
        assert self._kept is not None  # there were flows: thresholds stand on them
        rows = self._kept.drop(_KEY)
        decision, ones = self._detector.decision, np.ones(rows.height)
        return fit_reference(
            self._detector.schema,
            rows,
            ones > 0,
            ones,
            score_bins=Bins.of(scores.to_numpy()),
            log_odds=lambda table: decision.log_odds(self._detector.logits(table)),
        )
