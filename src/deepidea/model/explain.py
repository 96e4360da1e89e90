"""Why: the features that drove a verdict, against benign flows, in numbers and in words.

What is explained is the log-odds of the verdict's class against benign, calibrated by the detector's temperature, and
what it is compared with are benign flows that the detector file keeps (:mod:`deepidea.model.reference`): the site's own
where it was calibrated there, else those of training. A feature's **push** is its integrated gradient
(:mod:`deepidea.model.attribution`) in units of log-odds; the pushes of all features add up to how much more the flow
looks like an attack than benign flows do.

An alert that its ``anomaly`` alone raised is not explained by that sum, since the network finds it benign; for those,
the features that lie outside of the benign range are told, the furthest first.
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
from deepidea.model.benign_range import NOT_KNOWN, Place, place_number, place_word
from deepidea.model.detector import Detector
from deepidea.model.features import RawFeatures
from deepidea.model.graph import read_layers
from deepidea.model.novelty import UNKNOWN_RATE, Novelty

FIRST_STEPS, MOST_STEPS = 16, 256
TOLERANCE = 0.01  # of the difference that pushes must add up to
TOP = 8
_IN_HEADLINE = 3
_LEAST_PUSH = 0.25  # of the strongest one, for a place in the headline
_LIKELIER_THAN_NOT = 0.5

Basis = Literal["score", "anomaly"]
RangeOf = Literal["site", "training", "none"]
Direction = Literal["attack", "benign", "none"]


@dataclass(frozen=True, slots=True)
class Reason:
    """What one feature has to do with a verdict.

    Parameters
    ----------
    name, title : str
        Canonical name, and one for people.
    value : str
        With its unit in human form; ``raw`` is as the table has it.
    raw : float, str or None
    push : float
        Log-odds that it adds, above 0 towards attack.
    share : float
        Of all that pushes towards attack, 0..1; 0 where it pushes towards benign.
    direction : {"attack", "benign", "none"}
    benign_range : str
        What benign flows keep to, on the side where the value lies; empty where no benign range is known.
    beyond : float
        How far outside of the benign range; 0 inside.
    surprise : float
        Bits; both as :class:`deepidea.model.benign_range.Place` has them.
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
        One line for people.
    class_name : str
    score, anomaly : float
        Of the verdict; ``anomaly`` None where the detector does not tell it.
    unknown : bool or None
    basis : {"score", "anomaly"}
        What raised the alert, and so what ``reasons`` are ordered by: push, or distance from the benign range.
    log_odds : float
        Of the class against benign.
    benign_log_odds : float
        The mean of the benign flows that it is compared with.
    reasons : tuple of Reason
    other_push : float
        Sum over the features that are not among the reasons.
    kinds : dict of str to float
        Sum of the pushes of each kind of feature, sizes, times, and so on: the highest first.
    residual : float
        What all pushes add up to, less ``log_odds - benign_log_odds``: the error of the sum that stands for an
        integral, over ``n_steps`` steps.
    n_steps : int
    range_of : {"site", "training", "none"}
        Whose benign flows.
    n_benign : int
        How many the range was read off.
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
        """Return plain JSON values; infinity stands as text."""
        told = asdict(self)
        told["reasons"] = [{**asdict(reason), "raw": _plain(reason.raw)} for reason in self.reasons]
        return told


def _plain(raw: float | str | None) -> float | str | None:
    return raw if raw is None or isinstance(raw, str) or np.isfinite(raw) else str(raw)


def explain(detector: Detector, flows: pl.DataFrame, *, top: int = TOP) -> list[Explanation]:
    """Explain the verdict on each flow of a table.

    Parameters
    ----------
    detector : Detector
    flows : DataFrame
        As :meth:`Detector.score` takes it.
    top : int
        Most reasons of each.

    Raises
    ------
    SchemaError, CellError
        As by :meth:`Detector.score`.
    ArtifactError
        The detector's graph was written by other hands, and cannot be read back.

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
    """Explains verdicts of one detector; made once, it takes milliseconds a flow.

    Parameters
    ----------
    detector : Detector
    n_steps : int, optional
        Steps from each start. Where absent, they are doubled from :data:`FIRST_STEPS` until the pushes add up within
        :data:`TOLERANCE`, or to :data:`MOST_STEPS`.
    """

    def __init__(self, detector: Detector, *, n_steps: int | None = None) -> None:
        self.detector, self.n_steps = detector, n_steps
        self.reference = detector.site_reference or detector.reference
        self.range_of: RangeOf = (
            "none" if self.reference is None else "site" if detector.site_reference is not None else "training"
        )
        self._layers = read_layers(detector.graph, detector.encoder)
        self._starts, self._weights = self._encode_starts()
        self._logits = run_layers(self._layers, self._starts)
        self._columns = [detector.schema[name] for name in _encoded_order(detector)]
        self._widths = [1] * len(detector.schema.numbers) + [len(v) for v in detector.encoder.vocabulary_.values()]

    def _encode_starts(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        encoder = self.detector.encoder
        if self.reference is not None:
            starts = encoder.transform(self.reference.starts)
            self._check_layers(starts)
            return starts, np.array(self.reference.start_weights) / sum(self.reference.start_weights)
        medians = RawFeatures(encoder.fill_[None], np.zeros((1, len(encoder.vocabulary_)), np.int32))
        return encoder.encode(medians), np.ones(1)

    def _check_layers(self, starts: NDArray[np.float32]) -> None:
        """Refuse a graph whose constants are where ours are, but which computes something else."""
        assert self.reference is not None
        told, ours = self.detector.logits(self.reference.starts), run_layers(self._layers, starts)
        if not np.allclose(told, ours, rtol=1e-3, atol=1e-2):
            raise ArtifactError(
                "model.onnx must compute what its layers say, however: logits differ by "
                f"{np.abs(told - ours).max():.3g}; it was not written by this project"
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
            Class to explain each flow by; that of its verdict where absent.
        basis : {"score", "anomaly"}, optional
            What is to be explained. Where absent, the score, save for flows that are likelier benign and that a
            benign flow in a hundred at most is as unlike as.

        Raises
        ------
        DataError
            A class that the detector does not know.
        """
        table = self.detector.schema.conform(flows)
        verdicts = self.detector.score_conformed(table)
        encoded = self.detector.encoder.transform(table)
        rows = table.select(column.name for column in self._columns).rows()
        told = verdicts.iter_rows(named=True)
        return [
            self._explain_one(raw, verdict, x, classes[i] if classes else verdict["class"], basis, top)
            for i, (raw, verdict, x) in enumerate(zip(rows, told, encoded, strict=True))
        ]

    def _explain_one(
        self,
        raw: tuple[Any, ...],
        verdict: dict[str, Any],
        encoded: NDArray[np.float32],
        class_name: str,
        basis: Basis | None,
        top: int,
    ) -> Explanation:
        odds = self._odds_of(class_name)
        log_odds = float(odds.values(run_layers(self._layers, encoded[None]))[0])
        start = float(self._weights @ odds.values(self._logits))
        pushes, residual, n_steps = self._pushes(odds, encoded, log_odds - start)
        basis = basis or _basis_of(verdict, self.detector.novelty)
        reasons = self._ranked_reasons(raw, pushes, basis, top, towards_benign=class_name == self.detector.benign)
        shown = reasons[: max(top, 0)]
        anomaly, unknown = verdict.get("anomaly"), verdict.get("unknown")
        return Explanation(
            headline=self._headline(reasons, class_name, basis),
            class_name=class_name,
            score=verdict["score"],
            anomaly=anomaly,
            unknown=unknown,
            basis=basis,
            log_odds=log_odds,
            benign_log_odds=start,
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
            raise DataError(f"a class must be one of {', '.join(detector.classes)}, however: it is {class_name!r}")
        code, of = detector.classes.index(class_name), detector.decision.class_of
        wanted = tuple(j for j, c in enumerate(of) if (c == code if code else c > 0))
        return LogOdds(wanted, tuple(j for j, c in enumerate(of) if c == 0), detector.decision.temperature)

    def _pushes(
        self, odds: LogOdds, encoded: NDArray[np.float32], difference: float
    ) -> tuple[NDArray[np.float64], float, int]:
        """Return the push of each feature, how far they miss the difference, and the steps taken."""
        n_steps = self.n_steps or FIRST_STEPS
        while True:
            fine = integrated_gradients(self._layers, odds, encoded, self._starts, self._weights, n_steps)
            residual = float(fine.sum()) - difference
            enough = abs(residual) <= TOLERANCE * max(abs(difference), 1.0)
            if enough or self.n_steps or n_steps >= MOST_STEPS:
                break
            n_steps *= 2
        ends = np.cumsum(self._widths)
        pushes = [fine[end - width : end].sum() for end, width in zip(ends, self._widths, strict=True)]
        return np.array(pushes, np.float64), residual, n_steps

    def _by_kind(self, pushes: NDArray[np.float64]) -> dict[str, float]:
        """Add up what features say that go together: each of a dozen sizes gets little, all of them much."""
        summed: dict[str, float] = {}
        for column, push in zip(self._columns, pushes.tolist(), strict=True):
            kind = kind_of(column)
            summed[kind] = summed.get(kind, 0.0) + push
        return dict(sorted(summed.items(), key=lambda item: -item[1]))

    def _ranked_reasons(
        self, raw: tuple[Any, ...], pushes: NDArray[np.float64], basis: Basis, top: int, *, towards_benign: bool
    ) -> list[Reason]:
        """Return the reasons to show, in order, and behind them what a headline may be made of."""
        places = [self._place(column, value) for column, value in zip(self._columns, raw, strict=True)]
        beyond = np.array([place.beyond for place in places])
        order = np.lexsort((-np.abs(pushes), -beyond)) if basis == "anomaly" else np.argsort(-np.abs(pushes))
        side = -pushes if towards_benign else pushes
        told = side >= _LEAST_PUSH * max(side.max(initial=0.0), 1e-12)
        kept = [j for rank, j in enumerate(order.tolist()) if rank < top or told[j]]
        towards_attack = float(pushes[pushes > 0].sum()) or 1.0
        return [_reason(self._columns[j], raw[j], float(pushes[j]), towards_attack, places[j]) for j in kept]

    def _place(self, column: Column, value: Any) -> Place:
        if self.reference is None:
            return NOT_KNOWN
        if column.kind == "category":
            return place_word(value, self.reference.words[column.name])
        return place_number(value, self.reference.quantiles[column.name], column)

    def _headline(self, reasons: Sequence[Reason], class_name: str, basis: Basis) -> str:
        if basis == "anomaly":
            told = self._phrases([reason for reason in reasons if reason.beyond > 0])
            return "Unlike benign flows" + (f": {told}" if told else " in how features come together, not in any one")
        benign = class_name == self.detector.benign
        side = [reason for reason in reasons if reason.direction == ("benign" if benign else "attack")]
        strong = [reason for reason in side if abs(reason.push) >= _LEAST_PUSH * abs(side[0].push)]
        if not benign:  # of what pushes hard, people want what is out of the ordinary
            strong.sort(key=lambda reason: -reason.push * reason.surprise)
        told = self._phrases(strong)
        return f"Looks {'benign' if benign else f'like {class_name}'}" + (f": {told}" if told else "")

    def _phrases(self, reasons: Sequence[Reason]) -> str:
        """Put the first few in a row; of features about the same thing, or with the same value, one."""
        told: list[str] = []
        known: set[object] = set()
        for reason in reasons:
            column = self.detector.schema[reason.name]
            alone = column.kind in ("category", "flag") or unit_of(column) == "share"
            about = {topic_of(column)} | (set() if alone else {reason.value})
            if not about & known:
                told.append(phrase_of(reason.raw, column))
            known |= about
        return ", ".join(told[:_IN_HEADLINE])


def _encoded_order(detector: Detector) -> tuple[str, ...]:
    return (*detector.schema.numbers, *detector.encoder.vocabulary_)


def _basis_of(verdict: dict[str, Any], novelty: Novelty | None) -> Basis:
    if verdict["score"] > _LIKELIER_THAN_NOT or verdict.get("anomaly") is None or novelty is None:
        return "score"
    return "anomaly" if verdict["anomaly"] > 1 - (novelty.rate or UNKNOWN_RATE) else "score"


def _reason(column: Column, value: Any, push: float, towards_attack: float, place: Place) -> Reason:
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
