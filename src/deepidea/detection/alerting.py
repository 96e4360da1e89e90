"""Alert thresholds: which verdicts raise an alert, and the rate of false alarms that a threshold guarantees.

Most flows of a network are benign, so even a small false-positive rate of the predicted class buries an analyst.
Split conformal prediction (Vovk et al. 2005; Bates et al. 2023) sets thresholds with a guaranteed rate from the
network's own benign flows, none of which the detector was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deepidea.errors import ArtifactError, DataError
from deepidea.model.detector import Detector

CARD_ENTRY = "alerting"  # of a detector file
MEASURES = ("score", "anomaly")  # columns of verdicts that thresholds are set on; anomaly may be absent


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Alert where any measure lies above its threshold.

    Parameters
    ----------
    bounds : mapping of measure to float
        An alert lies strictly above; infinite where there were too few flows to set one.
    fpr : float
        Rate of benign flows that may exceed any of them.
    n_flows : int
        Benign flows that set them.
    source : str
        Origin of these flows.

    Examples
    --------
    >>> verdicts = pl.DataFrame({"class": ["benign", "dos"], "score": [0.2, 0.9]})
    >>> thresholds = Thresholds({"score": 0.5}, fpr=0.005, n_flows=999, source="site")
    >>> thresholds.above_threshold(verdicts).to_list()
    [False, True]
    >>> thresholds.guarantee
    'expected false alarms: at most 5 per 1,000 benign flows (split conformal, n = 999 from site)'
    """

    bounds: Mapping[str, float]
    fpr: float
    n_flows: int
    source: str

    def above_threshold(self, verdicts: pl.DataFrame) -> pl.Series:
        """Return which verdicts raise an alert, Boolean ``(n_flows,)``."""
        above = [pl.col(name) > bound for name, bound in self.bounds.items() if math.isfinite(bound)]
        if not above:
            return pl.repeat(False, len(verdicts), eager=True)
        return verdicts.select(pl.any_horizontal(above)).to_series().fill_null(False)

    @property
    def guarantee(self) -> str:
        """The expected rate as a phrase; a guaranteed one holds on average over samples of benign flows like these."""
        per = 10 ** max(3, math.ceil(-math.log10(self.fpr)))
        needed = flows_needed(self.fpr, len(self.bounds))
        if self.n_flows < needed:
            return (
                f"expected false alarms: about {self.fpr * per:g} per {per:,} benign flows, extrapolated from n = "
                f"{self.n_flows:,} of {self.source}; no guarantee below {needed:,} flows"
            )
        return (
            f"expected false alarms: at most {self.fpr * per:g} per {per:,} benign flows "
            f"(split conformal, n = {self.n_flows:,} from {self.source})"
        )

    def contract(self) -> dict[str, Any]:
        """Return the entry of a detector file, as JSON values; infinity is null."""
        bounds = {name: bound if math.isfinite(bound) else None for name, bound in self.bounds.items()}
        return {"bounds": bounds, "fpr": self.fpr, "n_flows": self.n_flows, "source": self.source}

    @classmethod
    def from_contract(cls, contract: Any) -> Thresholds:
        """Rebuild from :meth:`contract`; raise :class:`ArtifactError` where an entry is missing or invalid."""
        try:
            bounds = {str(k): math.inf if bound is None else float(bound) for k, bound in contract["bounds"].items()}
            found = cls(bounds, float(contract["fpr"]), int(contract["n_flows"]), str(contract["source"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"cannot read the thresholds of a detector file: {error!r}") from error
        numbers = not any(math.isnan(bound) for bound in found.bounds.values())
        if not (numbers and set(found.bounds) <= set(MEASURES) and 0 < found.fpr <= 1):
            raise ArtifactError(
                f"thresholds of a detector file must be numbers for {' and '.join(MEASURES)} with a rate in (0, 1], "
                f"got {dict(found.bounds)} with {found.fpr}"
            )
        return found


DEFAULT_THRESHOLDS = Thresholds({"score": 0.5}, fpr=1.0, n_flows=0, source="")
"""Alert on what is likelier an attack than not; used where no thresholds are set, and guarantees nothing."""


def fit_thresholds(verdicts: pl.DataFrame, fpr: float, source: str) -> Thresholds:
    """Set thresholds that a further benign flow exceeds with a probability of at most ``fpr``.

    Parameters
    ----------
    verdicts : DataFrame
        Of benign flows that the detector was not trained on: ``score`` and, where the detector has it, ``anomaly``.
    fpr : float
        In (0, 1). Each measure gets an equal part of it, so that their sum bounds the rate of alerts (Bonferroni).
    source : str
        Origin of the flows.

    Raises
    ------
    DataError
        Too few flows for the rate: ``k / fpr - 1`` are needed for k measures.
    """
    check_rate(fpr)
    measures = [name for name in MEASURES if name in verdicts.columns]
    needed = flows_needed(fpr, len(measures))
    if len(verdicts) < needed:
        possible = len(measures) / (len(verdicts) + 1)
        raise DataError(
            f"a false-positive rate of {fpr:g} needs at least {needed:,} benign flows, {source} has {len(verdicts):,}; "
            f"add flows or raise the rate to {possible:.2g}"
        )
    bounds = {name: conformal_quantile(verdicts[name].to_numpy(), fpr / len(measures)) for name in measures}
    return Thresholds(bounds, fpr, len(verdicts), source)


def check_rate(fpr: float) -> None:
    """Raise :class:`DataError` for a rate outside (0, 1)."""
    if not 0 < fpr < 1:
        raise DataError(f"fpr must lie between 0 and 1, got {fpr}")


def flows_needed(fpr: float, n_measures: int = len(MEASURES)) -> int:
    """Return the least number of benign flows that can set thresholds of a rate.

    Examples
    --------
    >>> flows_needed(1e-4), flows_needed(0.01, 1)
    (19999, 99)
    """
    return math.ceil(round(n_measures / fpr - 1, 6))


def conformal_quantile(scores: NDArray[np.float64], rate: float) -> float:
    """Return the bound that a further score exceeds with a probability of at most ``rate``.

    Examples
    --------
    >>> conformal_quantile(np.arange(99.0), 0.05), conformal_quantile(np.arange(9.0), 0.05)
    (94.0, inf)
    """
    # n scores and a further one are exchangeable, so the further one's rank among all n + 1 is uniform, whatever the
    # distribution. It exceeds the k-th smallest with probability at most 1 - k / (n + 1); the least k that keeps this
    # below the rate is ceil((1 - rate) (n + 1)), and k > n means that n is too small. Rounding hides float noise.
    rank = math.ceil(round((1 - rate) * (len(scores) + 1), 6))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def thresholds_of(detector: Detector, fpr: float | None) -> Thresholds | None:
    """Return the thresholds to alert by: those in the detector file, else by a rate those of its training.

    None, without a rate and without thresholds in the file, means :data:`DEFAULT_THRESHOLDS`. With a rate alone, the
    benign flows that training held out set one on ``anomaly``; its guarantee holds for networks like the training one.

    Raises
    ------
    DataError
        The rate differs from the file's, or training held out too few benign flows for it.
    """
    if fpr is not None:
        check_rate(fpr)
    stored = detector.card.get(CARD_ENTRY)
    if stored is None:
        return None if fpr is None else _thresholds_of_training(detector, fpr)
    thresholds = Thresholds.from_contract(stored)
    if fpr is not None and not math.isclose(fpr, thresholds.fpr):
        raise DataError(
            f"the detector has thresholds for fpr={thresholds.fpr:g}, set by {thresholds.source}, not for {fpr:g}; "
            "omit the rate or run deepidea calibrate with it"
        )
    return thresholds


def _thresholds_of_training(detector: Detector, fpr: float) -> Thresholds:
    if detector.novelty is None:
        raise DataError(
            f"the detector has no thresholds for fpr={fpr:g}; run deepidea calibrate MODEL BENIGN_FLOWS --fpr RATE"
        )
    # The anomaly is a conformal p-value of training's held-out flows; its smallest value is 1 / (n + 1).
    n_held_out = round(1 / math.exp(float(detector.novelty.benign.log_shares[-1])) - 1)
    if n_held_out < flows_needed(fpr, 1):
        raise DataError(
            f"a false-positive rate of {fpr:g} needs {flows_needed(fpr, 1):,} benign flows, training held out "
            f"{n_held_out:,}; run deepidea calibrate or raise the rate to {1 / (n_held_out + 1):.2g}"
        )
    return Thresholds({"anomaly": 1 - fpr}, fpr, n_held_out, "the held-out flows of training")


def name_attacks(verdicts: pl.DataFrame, benign: str) -> pl.DataFrame:
    """Return verdicts above a threshold with the likeliest attack as the class of those predicted benign.

    Examples
    --------
    >>> verdicts = pl.DataFrame({"class": ["benign"], "p_benign": [0.7], "p_dos": [0.1], "p_probe": [0.2]})
    >>> name_attacks(verdicts, "benign")["class"].to_list()
    ['probe']
    """
    attacks = [name for name in verdicts.columns if name.startswith("p_") and name != f"p_{benign}"]
    likeliest = pl.concat_list(attacks).list.arg_max()
    names = pl.lit(pl.Series([name.removeprefix("p_") for name in attacks])).gather(likeliest)
    return verdicts.with_columns(
        pl.when(pl.col("class") == benign).then(names).otherwise(pl.col("class")).alias("class")
    )
