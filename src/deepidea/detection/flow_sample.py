"""A uniform sample of a stream of flows, and the reference made of it."""

from __future__ import annotations

import numpy as np
import polars as pl

from deepidea.flows.identity import IDENTITY
from deepidea.model.detector import Detector
from deepidea.model.reference import Bins, Reference, fit_reference

_KEY = "\0key"


class Reservoir:
    """A uniform sample of flows, the same however the flows are cut into batches.

    Every flow gets a random key; the flows with the smallest keys are the sample (Efraimidis and Spirakis 2006 with
    equal weights).

    Parameters
    ----------
    features : tuple of str
        Columns to keep; those of :data:`deepidea.flows.identity.IDENTITY` are kept where present.
    most : int
        Flows to keep.
    """

    def __init__(self, features: tuple[str, ...], most: int) -> None:
        self._features, self._most, self._random = features, most, np.random.default_rng(0)
        self._sample: pl.DataFrame | None = None

    def add(self, flows: pl.DataFrame) -> None:
        """Draw from conformed flows."""
        keys = pl.Series(_KEY, self._random.random(flows.height))
        columns = [*self._features, *(c for c in IDENTITY if c in flows.columns and c not in self._features)]
        new = flows.select(columns).with_columns(keys)
        if self._sample is not None:
            if self._sample.height >= self._most:
                new = new.filter(pl.col(_KEY) < self._sample[_KEY][-1])
            new = pl.concat([self._sample, new], how="vertical_relaxed")
        self._sample = new.sort(_KEY).head(self._most)

    @property
    def rows(self) -> pl.DataFrame:
        """The sample, in random order; without columns before any flow was added."""
        return pl.DataFrame() if self._sample is None else self._sample.drop(_KEY)


def site_reference(detector: Detector, flows: pl.DataFrame, scores: pl.Series) -> Reference | None:
    """Return the distributions of the features of sampled benign flows, and of the scores of all of them."""
    decision, ones = detector.decision, np.ones(flows.height)
    return fit_reference(
        detector.schema,
        flows.select(detector.schema.features),
        ones > 0,
        ones,
        score_bins=Bins.of(scores.to_numpy()),
        log_odds=lambda table: decision.log_odds(detector.logits(table)),
    )
