"""Which verdicts are worth telling: what is likelier an attack than not, or what lies above a site's thresholds.

A detector names a class for every flow, and most of the flows of a network are benign, so that even a small rate of
false alarms drowns whoever reads them. Split conformal prediction turns benign flows of the network itself, which the
detector was not trained on, into thresholds with a stated rate (Vovk et al. 2005; Bates et al. 2023): a further benign
flow exceeds the threshold at rank ceil((1 - a) (n + 1)) of n scores with probability at most a, whatever their
distribution, as long as it is drawn like them.
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
MEASURES = ("score", "anomaly")  # what thresholds are set on, where a detector tells it


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Alert where any measure lies above its threshold.

    Parameters
    ----------
    bounds : mapping of measure to float
        An alert lies strictly above; infinite where there were too few flows to set one.
    fpr : float
        Rate of benign flows that any of them may exceed.
    n_flows : int
        Benign flows that set them.
    source : str
        Where these came from.

    Examples
    --------
    >>> verdicts = pl.DataFrame({"class": ["benign", "dos"], "score": [0.2, 0.9]})
    >>> Thresholds({"score": 0.5}, fpr=0.01, n_flows=999, source="site").chosen(verdicts).to_list()
    [False, True]
    """

    bounds: Mapping[str, float]
    fpr: float
    n_flows: int
    source: str

    def chosen(self, verdicts: pl.DataFrame) -> pl.Series:
        """Return which verdicts are worth telling, Boolean ``(n_flows,)``."""
        above = [pl.col(name) > bound for name, bound in self.bounds.items() if math.isfinite(bound)]
        return verdicts.select(pl.any_horizontal(above or [pl.lit(False)]).alias("chosen")).to_series().fill_null(False)

    @property
    def guarantee(self) -> str:
        """What they promise, in words."""
        return (
            f"a benign flow drawn like the {self.n_flows:,} of {self.source} raises an alert with a probability of at "
            f"most {self.fpr:g}, on average over such samples"
        )

    def contract(self) -> dict[str, Any]:
        """Return what a detector file keeps, as JSON values; infinity is null."""
        bounds = {name: bound if math.isfinite(bound) else None for name, bound in self.bounds.items()}
        return {"bounds": bounds, "fpr": self.fpr, "n_flows": self.n_flows, "source": self.source}

    @classmethod
    def from_contract(cls, contract: Any) -> Thresholds:
        """Rebuild from :meth:`contract`; :class:`ArtifactError` where it does not fit."""
        try:
            bounds = {
                str(name): math.inf if bound is None else float(bound) for name, bound in contract["bounds"].items()
            }
            found = cls(bounds, float(contract["fpr"]), int(contract["n_flows"]), str(contract["source"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"thresholds of a detector file must be complete, however: {error!r}") from error
        if not set(found.bounds) <= set(MEASURES) or any(bound != bound for bound in found.bounds.values()):
            raise ArtifactError(f"thresholds must be on {' or '.join(MEASURES)}, however: {dict(found.bounds)}")
        return found


LIKELIER_THAN_NOT = Thresholds({"score": 0.5}, fpr=1.0, n_flows=0, source="")
"""What is worth telling where nobody has set thresholds; it promises nothing."""


def fit_thresholds(verdicts: pl.DataFrame, fpr: float, source: str) -> Thresholds:
    """Set thresholds so that a further benign flow is told of with a probability of at most ``fpr``.

    Parameters
    ----------
    verdicts : DataFrame
        Of benign flows that the detector was not trained on: ``score`` and, where it tells it, ``anomaly``.
    fpr : float
        In (0, 1). Each measure gets an equal part of it.
    source : str
        Where the flows came from.

    Raises
    ------
    DataError
        Too few flows for the rate: ``k / fpr - 1`` are needed for k measures.
    """
    if not 0 < fpr < 1:
        raise DataError(f"fpr must lie between 0 and 1, however: fpr={fpr}")
    measures = [name for name in MEASURES if name in verdicts.columns]
    share = fpr / len(measures)
    needed = flows_needed(fpr, len(measures))
    if len(verdicts) < needed:
        raise DataError(
            f"a false-positive rate of {fpr:g} needs at least {needed:,} benign flows, however: {source} has "
            f"{len(verdicts):,}; give more, or allow a rate of {len(measures) / (len(verdicts) + 1):.2g}"
        )
    bounds = {name: quantile(verdicts[name].to_numpy(), share) for name in measures}
    return Thresholds(bounds, fpr, len(verdicts), source)


def flows_needed(fpr: float, n_measures: int = len(MEASURES)) -> int:
    """Return how many benign flows thresholds of a rate take.

    Examples
    --------
    >>> flows_needed(1e-4), flows_needed(0.01, 1)
    (19999, 99)
    """
    return math.ceil(round(n_measures / fpr - 1, 6))


def quantile(scores: NDArray[np.float64], share: float) -> float:
    """Return the conformal quantile: a further score lies above it with a probability of at most ``share``."""
    rank = math.ceil(round((1 - share) * (len(scores) + 1), 6))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def thresholds_of(detector: Detector, fpr: float | None) -> Thresholds | None:
    """Return the thresholds to alert by: those of the detector file, or for a rate, what its own training says.

    Without a rate and without thresholds in the file, None: :data:`LIKELIER_THAN_NOT` decides. With a rate and without
    thresholds, the benign flows that training held out set one on ``anomaly``; that is a promise for networks like the
    one of training alone, which a site's own is not.

    Raises
    ------
    DataError
        A rate was asked for that is not the file's, or that training held out too few benign flows for.
    """
    if fpr is not None and not 0 < fpr < 1:
        raise DataError(f"fpr must lie between 0 and 1, however: fpr={fpr}")
    kept = detector.card.get(CARD_ENTRY)
    if kept is not None:
        return _of_site(Thresholds.from_contract(kept), fpr)
    return None if fpr is None else _of_training(detector, fpr)


def _of_site(thresholds: Thresholds, fpr: float | None) -> Thresholds:
    if fpr is not None and not math.isclose(fpr, thresholds.fpr):
        raise DataError(
            f"the rate must be that of the detector's thresholds, {thresholds.fpr:g} set by {thresholds.source}, "
            f"however: fpr={fpr:g}; leave it out, or run deepidea calibrate for it"
        )
    return thresholds


def _of_training(detector: Detector, fpr: float) -> Thresholds:
    """Return a threshold on ``anomaly`` by the benign flows that training held out."""
    if detector.novelty is None:
        raise DataError(
            f"a false-positive rate needs thresholds of that rate, however: the detector has none for {fpr:g}; run: "
            "deepidea calibrate MODEL BENIGN_FLOWS --fpr RATE"
        )
    n_held_out = round(1 / math.exp(float(detector.novelty.benign.log_shares[-1])) - 1)
    if n_held_out < flows_needed(fpr, 1):
        raise DataError(
            f"a false-positive rate of {fpr:g} needs {flows_needed(fpr, 1):,} benign flows, however: training held out "
            f"{n_held_out:,}; run deepidea calibrate, or allow a rate of {1 / (n_held_out + 1):.2g}"
        )
    return Thresholds({"anomaly": 1 - fpr}, fpr, n_held_out, "training's held-out benign flows")


def name_attacks(verdicts: pl.DataFrame, benign: str) -> pl.DataFrame:
    """Return verdicts in which what a threshold chose, and the class calls benign, has the likeliest attack's name.

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
