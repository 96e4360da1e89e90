"""Why: the features that drove a verdict, compared with benign flows, as numbers and as text.

Explained is the log-odds of the verdict's class against benign, calibrated by the detector's temperature, relative to
benign flows in the detector file (:mod:`deepidea.model.reference`): the site's own after calibration there, else those
of training. A feature's **push** is its integrated gradient (:mod:`deepidea.model.attribution`) in units of log-odds;
the pushes of all features sum to how much more than benign flows the flow looks like an attack.

An alert raised by its ``anomaly`` alone is not explained by that sum, since the network finds the flow benign; the
reasons are then the features outside of the benign range, furthest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deepidea.errors import ArtifactError, DataError
from deepidea.flows.column import Column
from deepidea.flows.labels import kind_of, phrase_of, title_of, topic_of, unit_of, value_text
from deepidea.model.attribution import LogOdds, integrated_gradients, run_layers
from deepidea.model.benign_range import NOT_KNOWN, RangePosition, locate_number, locate_word
from deepidea.model.detector import Detector
from deepidea.model.features import RawFeatures
from deepidea.model.graph import read_layers
from deepidea.model.novelty import UNKNOWN_RATE, Novelty

FIRST_STEPS, MOST_STEPS = 16, 256
TOLERANCE = 0.01  # relative error of the sum of the pushes
TOP = 8
_IN_HEADLINE = 3
_LEAST_PUSH = 0.25  # of the strongest one, for a place in the headline
_LIKELIER_THAN_NOT = 0.5

Basis = Literal["score", "anomaly"]
RangeOf = Literal["site", "training", "none"]
Direction = Literal["attack", "benign", "none"]


@dataclass(frozen=True, slots=True)
class Reason:
    """What one feature contributes to a verdict.

    Parameters
    ----------
    name, title : str
        Canonical name, and a readable one.
    value : str
        With its unit, formatted; ``raw`` is the table's value.
    raw : float, str or None
    push : float
        Log-odds that it adds; above 0 is towards attack.
    share : float
        Of all that pushes towards attack, 0..1; 0 where it pushes towards benign.
    direction : {"attack", "benign", "none"}
    benign_range : str
        Range of benign flows on the side where the value lies; empty where none is known.
    beyond, surprise : float
        Distance outside of the benign range, and information content in bits, as in
        :class:`deepidea.model.benign_range.RangePosition`.
    """

    name: str
    title: str
    value: str
    raw: float | str | None
    push: float
    share: float
    direction: Direction
    benign_range: str
    beyond: float
    surprise: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a flow got its verdict.

    Parameters
    ----------
    headline : str
        One readable line.
    class_name : str
    score, anomaly : float
        Of the verdict; ``anomaly`` is None for a detector without novelty.
    unknown : bool or None
    basis : {"score", "anomaly"}
        What raised the alert; orders ``reasons`` by push, or by distance from the benign range.
    log_odds : float
        Of the class against benign.
    benign_log_odds : float
        Mean over the baselines.
    reasons : tuple of Reason
    other_push : float
        Sum over the features that are not among the reasons.
    kinds : dict of str to float
        Sum of the pushes of each kind of feature (sizes, times, ...), highest first.
    residual : float
        Sum of all pushes less ``log_odds - benign_log_odds``: the error of the numerical integral in ``n_steps`` steps.
    n_steps : int
    range_of : {"site", "training", "none"}
        Whose benign flows.
    n_benign : int
        Benign flows behind the range.
    """

    headline: str
    class_name: str
    score: float
    anomaly: float | None
    unknown: bool | None
    basis: Basis
    log_odds: float
    benign_log_odds: float
    reasons: tuple[Reason, ...]
    other_push: float
    kinds: dict[str, float]
    residual: float
    n_steps: int
    range_of: RangeOf
    n_benign: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; infinity becomes text."""
        return {**asdict(self), "reasons": [{**asdict(one), "raw": _plain(one.raw)} for one in self.reasons]}


def _plain(raw: float | str | None) -> float | str | None:
    return raw if raw is None or isinstance(raw, str) or np.isfinite(raw) else str(raw)


def explain(detector: Detector, flows: pl.DataFrame, *, top: int = TOP) -> list[Explanation]:
    """Explain the verdict on each flow of a table.

    Parameters
    ----------
    detector : Detector
    flows : DataFrame
        As for :meth:`Detector.score`.
    top : int
        Most reasons of each.

    Raises
    ------
    SchemaError, CellError
        As by :meth:`Detector.score`.
    ArtifactError
        The detector's graph was not written by this project, so its layers cannot be read.

    Examples
    --------
    >>> from deepidea.flows.labelled import labelled_flows_from_table
    >>> from deepidea.flows.simulate import simulate_flows
    >>> from deepidea.model.presets import train_detector
    >>> table = simulate_flows(n_flows=500)
    >>> flows, _ = labelled_flows_from_table(table, "label", "benign")
    >>> detector = train_detector(flows, random_state=0, min_steps=100)
    >>> [found] = explain(detector, table.filter(pl.col("label") == "port_scan").head(1), top=2)
    >>> len(found.reasons), found.range_of
    (2, 'training')
    """
    return Explainer(detector).explain(flows, top=top)


class Explainer:
    """Explains verdicts of one detector, in milliseconds a flow.

    Parameters
    ----------
    detector : Detector
    n_steps : int, optional
        Steps from each baseline; default: doubled from :data:`FIRST_STEPS` until the sum of the pushes is within
        :data:`TOLERANCE`, or up to :data:`MOST_STEPS`.
    """

    def __init__(self, detector: Detector, *, n_steps: int | None = None) -> None:
        self.detector, self.n_steps = detector, n_steps
        self.reference = detector.site_reference or detector.reference
        self.range_of: RangeOf = (
            "none" if self.reference is None else "site" if detector.site_reference is not None else "training"
        )
        self._layers = read_layers(detector.graph, detector.encoder)
        self._baselines, self._weights = self._encode_baselines()
        self._logits = run_layers(self._layers, self._baselines)
        names = (*detector.schema.numbers, *detector.encoder.vocabulary_)  # in the order of the encoded features
        self._columns = [detector.schema[name] for name in names]
        self._sources = detector.encoder.sources

    def _encode_baselines(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        encoder, reference = self.detector.encoder, self.reference
        if reference is not None:
            baselines = encoder.transform(reference.baselines)
            self._check_layers(reference.baselines, baselines)
            return baselines, np.array(reference.baseline_weights) / sum(reference.baseline_weights)
        # an old file has no reference: the training medians with unknown categories stand in for benign flows
        medians = RawFeatures(encoder.fill_[None], np.zeros((1, len(encoder.vocabulary_)), np.int32))
        return encoder.encode(medians), np.ones(1)

    def _check_layers(self, flows: pl.DataFrame, encoded: NDArray[np.float32]) -> None:
        """Refuse a graph with constants in the places of ours that computes something else with them."""
        # Attributions are of the layers that were read from the graph. If these are not what the graph computes, they
        # are wrong.
        theirs, ours = self.detector.logits(flows), run_layers(self._layers, encoded)
        if not np.allclose(theirs, ours, rtol=1e-3, atol=1e-2):
            apart = np.abs(theirs - ours).max()
            raise ArtifactError(
                f"cannot explain: model.onnx and its layers differ by {apart:.3g}; deepidea did not write it"
            )

    def explain(
        self,
        flows: pl.DataFrame,
        *,
        top: int = TOP,
        classes: Sequence[str] | None = None,
        basis: Basis | None = None,
    ) -> list[Explanation]:
        """Explain each flow of a table.

        Parameters
        ----------
        flows : DataFrame, (n_flows, ...)
        top : int
        classes : sequence of str, optional
            Class to explain each flow by; default: that of its verdict.
        basis : {"score", "anomaly"}, optional
            What to explain; default: the score, but the anomaly of flows that are likelier benign and whose anomaly at
            most the novelty rate (else 1 %) of benign flows reach.

        Raises
        ------
        DataError
            The detector does not have a class.
        """
        table = self.detector.schema.conform(flows)
        verdicts = self.detector.score_conformed(table)
        encoded = self.detector.encoder.transform(table)
        rows = table.select(column.name for column in self._columns).rows()
        names = classes or verdicts["class"].to_list()
        each = zip(rows, verdicts.iter_rows(named=True), encoded, names, strict=True)
        return [self._explain_one(*one, basis, top) for one in each]

    def _explain_one(
        self,
        raw: tuple[Any, ...],
        verdict: dict[str, Any],
        encoded: NDArray[np.float32],
        class_name: str,
        basis: Basis | None,
        top: int,
    ) -> Explanation:
        # The class that raised an alert need not be today's verdict: a caller may name it.
        odds = self._odds_of(class_name)
        log_odds = float(odds.values(run_layers(self._layers, encoded[None]))[0])
        benign_log_odds = float(self._weights @ odds.values(self._logits))
        pushes, residual, n_steps = self._pushes(odds, encoded, log_odds - benign_log_odds)
        basis = basis or _basis_of(verdict, self.detector.novelty)
        # The headline chooses among all strong reasons; what is shown is cut afterwards.
        reasons = self._ranked_reasons(raw, pushes, basis, top, towards_benign=class_name == self.detector.benign)
        shown = reasons[: max(top, 0)]
        return Explanation(
            headline=self._headline(reasons, class_name, basis),
            class_name=class_name,
            score=verdict["score"],
            anomaly=verdict.get("anomaly"),
            unknown=verdict.get("unknown"),
            basis=basis,
            log_odds=log_odds,
            benign_log_odds=benign_log_odds,
            reasons=tuple(shown),
            other_push=float(pushes.sum() - sum(reason.push for reason in shown)),
            kinds=self._by_kind(pushes),
            residual=residual,
            n_steps=n_steps,
            range_of=self.range_of,
            n_benign=0 if self.reference is None else self.reference.n_benign,
        )

    def _odds_of(self, class_name: str) -> LogOdds:
        detector = self.detector
        if class_name not in detector.classes:
            raise DataError(f"unknown class {class_name!r}; the detector has {', '.join(detector.classes)}")
        code, of = detector.classes.index(class_name), detector.decision.class_of
        # Against benign: the log-odds of the class. Of a benign verdict, those of any attack, whose negative pushes
        # explain it.
        wanted = tuple(j for j, c in enumerate(of) if (c == code if code else c > 0))
        return LogOdds(wanted, tuple(j for j, c in enumerate(of) if c == 0), detector.decision.temperature)

    def _pushes(
        self, odds: LogOdds, encoded: NDArray[np.float32], difference: float
    ) -> tuple[NDArray[np.float64], float, int]:
        """Return the push of each feature, the residual, and the steps taken."""
        # Completeness gives the exact sum of the pushes, and so the error of the midpoint sum.
        n_steps = self.n_steps or FIRST_STEPS
        while True:
            fine = integrated_gradients(self._layers, odds, encoded, self._baselines, self._weights, n_steps)
            residual = float(fine.sum()) - difference
            enough = abs(residual) <= TOLERANCE * max(abs(difference), 1.0)
            if enough or self.n_steps or n_steps >= MOST_STEPS:
                break
            n_steps *= 2
        # the push of a feature is the sum over the columns that it is encoded by
        pushes = np.bincount(self._sources, fine, minlength=len(self._columns))
        return np.asarray(pushes, np.float64), residual, n_steps

    def _by_kind(self, pushes: NDArray[np.float64]) -> dict[str, float]:
        """Sum the pushes of related features: each of a dozen sizes may get little, all of them together much."""
        summed: dict[str, float] = {}
        for column, push in zip(self._columns, pushes.tolist(), strict=True):
            kind = kind_of(column)
            summed[kind] = summed.get(kind, 0.0) + push
        return dict(sorted(summed.items(), key=lambda item: -item[1]))

    def _ranked_reasons(
        self, raw: tuple[Any, ...], pushes: NDArray[np.float64], basis: Basis, top: int, *, towards_benign: bool
    ) -> list[Reason]:
        """Return the first ``top`` reasons in order, and further ones strong enough for the headline."""
        places = [self._place(column, value) for column, value in zip(self._columns, raw, strict=True)]
        beyond = np.array([place.beyond for place in places])
        # lexsort: the last key is the first criterion
        order = np.lexsort((-np.abs(pushes), -beyond)) if basis == "anomaly" else np.argsort(-np.abs(pushes))
        side = -pushes if towards_benign else pushes
        strong = side >= _LEAST_PUSH * max(side.max(initial=0.0), 1e-12)
        kept = [j for rank, j in enumerate(order.tolist()) if rank < top or strong[j]]
        towards_attack = float(pushes[pushes > 0].sum()) or 1.0
        return [_reason(self._columns[j], raw[j], float(pushes[j]), towards_attack, places[j]) for j in kept]

    def _place(self, column: Column, value: Any) -> RangePosition:
        if self.reference is None:
            return NOT_KNOWN
        if column.kind == "category":
            return locate_word(value, self.reference.words[column.name])
        return locate_number(value, self.reference.quantiles[column.name], column)

    def _headline(self, reasons: Sequence[Reason], class_name: str, basis: Basis) -> str:
        if basis == "anomaly":
            found = self._phrases([reason for reason in reasons if reason.beyond > 0])
            return "Unlike benign flows" + (f": {found}" if found else " in how features come together, not in any one")
        benign = class_name == self.detector.benign
        side = [reason for reason in reasons if reason.direction == ("benign" if benign else "attack")]
        strong = [reason for reason in side if abs(reason.push) >= _LEAST_PUSH * abs(side[0].push)]
        if not benign:  # among strong pushes, the most unusual values first
            strong.sort(key=lambda reason: -reason.push * reason.surprise)
        phrases = self._phrases(strong)
        return f"Looks {'benign' if benign else f'like {class_name}'}{f': {phrases}' if phrases else ''}"

    def _phrases(self, reasons: Sequence[Reason]) -> str:
        """Join the first few phrases; of features on the same topic, or with the same value, one."""
        phrases: list[str] = []
        known: set[object] = set()
        for reason in reasons:
            column = self.detector.schema[reason.name]
            alone = column.kind in ("category", "flag") or unit_of(column) == "share"
            about = {topic_of(column)} | (set() if alone else {reason.value})
            if not about & known:
                phrases.append(phrase_of(reason.raw, column))
            known |= about
        return ", ".join(phrases[:_IN_HEADLINE])


def _basis_of(verdict: dict[str, Any], novelty: Novelty | None) -> Basis:
    if verdict["score"] > _LIKELIER_THAN_NOT or verdict.get("anomaly") is None or novelty is None:
        return "score"
    return "anomaly" if verdict["anomaly"] > 1 - (novelty.rate or UNKNOWN_RATE) else "score"


def _reason(column: Column, value: Any, push: float, towards_attack: float, place: RangePosition) -> Reason:
    raw = value if value is None or isinstance(value, str) else float(value)
    direction: Direction = "attack" if push > 0 else "benign" if push < 0 else "none"
    return Reason(
        name=column.name,
        title=title_of(column),
        value=value_text(raw, column),
        raw=raw,
        push=push,
        share=max(push, 0.0) / towards_attack,
        direction=direction,
        benign_range=place.text,
        beyond=place.beyond,
        surprise=place.surprise,
    )
