"""Adaptation: refit a detector to the benign flows of the network that it is going to watch.

A threshold alone keeps attacks as quiet as benign flows, since another network's benign flows lie where training's
attacks do. So the ellipsoid of benign flows in the last hidden layer is fitted to the site's, the network trains on
with them as benign, and one threshold is set on Fisher's sum of the p-values of score and distance, among flows that
nothing was fitted to. ``benchmarks/site_adaptation.py`` measures it on other networks.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deepidea.detection.alerting import Thresholds, check_rate, fit_thresholds, flows_needed
from deepidea.detection.calibrate import SITE_ROWS, with_thresholds
from deepidea.detection.flow_adapter import flow_adapter
from deepidea.detection.flow_sample import Reservoir, site_reference
from deepidea.detection.sources.source import Source
from deepidea.errors import ArtifactError, DataError, MissingExtraError
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.flows.labelled import LabelledFlows
from deepidea.model.detector import Detector
from deepidea.model.graph import build_graph, read_ellipsoids, read_layers
from deepidea.model.novelty import N_AXES, Ellipsoid, Layer, Novelty, last_hidden
from deepidea.model.training_sample import TrainingSample

LEAST_FLOWS = 50
LEAST_TO_TRAIN = 2000  # with fewer flows, training on was measured to cost recall of attacks that training lacks
MOST_FLOWS = 100_000
MOST_FITTED = 10_000
N_FOLDS, N_FOLDS_TRAINED, MOST_FOLDED = 20, 5, 4000
"""Up to so many flows, each is measured by a fit to the other folds, fewer where the network trains for each of them;
more flows are halved: one half is fitted, the other ranks."""
MOST_SET_ASIDE = 0.01
_NEARER = 0.5  # a suspect is at most this times as far from an attack of training as from the site's flows
_SUSPECTED = 0.03  # share of the flows, the most anomalous ones, that are compared with attacks of training
_LEAST_ODDS = 0.0  # log-odds of attack of a suspect
_COMPARED = 5000  # flows of the site that a suspect is compared with
_EXAMPLES = 20
CARD_ENTRY = "adapted"  # of a detector file
_OF_FORMER = ("evaluation", "comparison")  # entries of a card that hold for the network before

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ClassRecall:
    """Share of training's held-out attacks of one class that raise an alert.

    Parameters
    ----------
    name : str
    n_flows : int
    calibrated : float or None
        By the thresholds of :func:`deepidea.detection.calibrate.calibrate` on the same flows; None where they are too
        few for these.
    adapted : float
    """

    name: str
    n_flows: int
    calibrated: float | None
    adapted: float


@dataclass(frozen=True, slots=True)
class Adaptation:
    """A detector adapted to its site, and what was done.

    Parameters
    ----------
    detector : Detector
    thresholds : Thresholds
    n_flows : int
        Benign flows of the site.
    set_aside : DataFrame
        Examples of the flows that resemble attacks of training and were not taken for benign, the nearest first, with
        ``looks_like``, the class of the nearest attack.
    n_set_aside : int
    not_trained : str
        Why the network did not train on; empty where it did.
    recalls : tuple of ClassRecall
        Empty for a detector without held-out attacks in its file.
    skipped : Counter
        Unreadable records, by reason.
    """

    detector: Detector
    thresholds: Thresholds
    n_flows: int
    set_aside: pl.DataFrame
    n_set_aside: int
    not_trained: str
    recalls: tuple[ClassRecall, ...]
    skipped: Counter[str] = field(default_factory=Counter)


def adapt(
    detector: Detector,
    source: Source,
    fpr: float,
    *,
    train: bool | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] | None = None,
) -> Adaptation:
    """Adapt a detector to benign flows of a source, of which at most :data:`MOST_FLOWS` are sampled.

    Parameters
    ----------
    detector : Detector
    source : Source
        Of benign flows: a quiet day that somebody checked.
    fpr, train
        As for :func:`adapt_to`.
    stop : threading.Event, optional
        Ends a live source.
    progress : callable, optional
        Called with the number of flows so far.

    Raises
    ------
    DataError
        Too few flows, or flows that do not fit the detector's schema.
    ArtifactError
        The detector file lacks what adaptation needs.
    """
    check_rate(fpr)
    prepare, skipped = flow_adapter(source.schema, detector), Counter[str]()
    sample, n_flows = Reservoir(detector.schema.features, MOST_FLOWS), 0
    for batch in source.batches(None, stop or threading.Event()):
        skipped.update(batch.skipped)
        if not batch.flows.is_empty():
            sample.add(detector.schema.conform(prepare(batch.flows)))
            n_flows += batch.flows.height
        if progress is not None:
            progress(n_flows)
    return replace(adapt_to(detector, sample.rows, fpr, source=source.name, train=train), skipped=skipped)


def adapt_to(
    detector: Detector, flows: pl.DataFrame, fpr: float, *, source: str = "site", train: bool | None = None
) -> Adaptation:
    """Adapt a detector to conformed benign flows of its site.

    Parameters
    ----------
    detector : Detector
    flows : DataFrame
        At least :data:`LEAST_FLOWS`. Attacks among them cost recall: those that resemble an attack of training are set
        aside, up to :data:`MOST_SET_ASIDE` of the flows.
    fpr : float
        Rate of benign flows that may raise an alert, in (0, 1). With fewer than ``1 / fpr - 1`` flows the threshold is
        extrapolated and guarantees nothing.
    source : str
        Origin of the flows.
    train : bool, optional
        Whether the network trains on with the flows as benign. Default: where torch is installed, the file holds what
        training needs, there are :data:`LEAST_TO_TRAIN` flows, and numbers are encoded in steps; on scaled numbers it
        was measured to do harm.

    Raises
    ------
    DataError
        Too few flows.
    ArtifactError
        The detector has no hidden layer, or neither attacks of training nor an ellipsoid of them.
    MissingExtraError
        ``train`` is true and torch is not installed.

    Notes
    -----
    Cost: about a second for each of up to six trainings, and one for a thousand flows to compare with.
    """
    check_rate(fpr)
    if len(flows) < LEAST_FLOWS:
        raise DataError(
            f"adaptation needs at least {LEAST_FLOWS} benign flows, {source} has {len(flows)}; add flows of the site"
        )
    site = _Site(detector, _why_not_trained(detector, len(flows), train))
    flows = _shuffled(detector, flows)
    suspects, like = _find_suspects(site, flows)
    kept = flows.filter(~np.isin(np.arange(len(flows)), suspects))
    fitted, log_odds, distances = _fit_and_rank(site, kept)
    novelty = _base_novelty(detector).fit_site(log_odds, distances, fitted.distances_of_held_out(detector.sample))
    adapted = fitted.detector(novelty)
    scores = adapted.score_conformed(kept)["score"]
    thresholds = Thresholds({"anomaly": 1 - fpr}, fpr, len(log_odds), source)
    reference = site_reference(adapted, kept.head(SITE_ROWS), scores)
    adapted = with_thresholds(adapted.with_options(site_reference=reference), thresholds)
    recalls = _recalls(detector, adapted, thresholds, flows)
    aside = flows[suspects].with_columns(looks_like=like)
    done = Adaptation(
        adapted, thresholds, len(flows), aside.head(_EXAMPLES), len(aside), site.not_trained, recalls, Counter()
    )
    card = {name: value for name, value in adapted.card.items() if name not in _OF_FORMER}
    return replace(done, detector=adapted.with_options(card={**card, CARD_ENTRY: _card_entry(done, detector)}))


def _shuffled(detector: Detector, flows: pl.DataFrame) -> pl.DataFrame:
    """Return the flows in an order that is random, but the same for the same flows in any order."""
    order = np.argsort(row_fingerprints(flows, detector.schema), kind="stable")
    return flows[np.random.default_rng(0).permutation(order)]


def _card_entry(done: Adaptation, former: Detector) -> Mapping[str, Any]:
    counts = {"n_flows": done.n_flows, "n_set_aside": done.n_set_aside}
    return {"from": former.fingerprint, **counts, "trained": not done.not_trained}


# --- the network and its ellipsoids --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A network with ellipsoids of benign flows and of attacks in its last hidden layer."""

    network: Detector
    layers: list[Layer]
    benign: Ellipsoid
    attacks: Ellipsoid

    def hidden(self, flows: pl.DataFrame) -> Floats:
        return last_hidden(self.layers, self.network.encoder.transform(flows))

    def measure(self, flows: pl.DataFrame) -> tuple[NDArray[np.float64], Floats]:
        """Return the log-odds of attack and the distance from benign flows of each flow."""
        hidden = self.hidden(flows)
        weight, bias = self.layers[-1]
        return self.network.decision.log_odds(hidden @ weight.T + bias), self.benign.distances(hidden)

    def distances_of_held_out(self, sample: TrainingSample | None) -> Floats:
        """Return the distances of training's held-out attacks from attacks; none without a sample."""
        if sample is None:
            return np.zeros(0, np.float32)
        encoded = self.network.encoder.encode(sample.take(sample.held_out).raw)
        return self.attacks.distances(last_hidden(self.layers, encoded))

    def detector(self, novelty: Novelty) -> Detector:
        """Return the detector with these ellipsoids and a novelty."""
        graph = build_graph(self.network.encoder, self.layers, (self.benign, self.attacks))
        return self.network.with_options(graph=graph, novelty=novelty)


@dataclass(frozen=True, slots=True)
class _Site:
    """What is fitted to flows of a site: a detector, whose network trains on unless there is a reason against it."""

    former: Detector
    not_trained: str

    def fit(self, flows: pl.DataFrame, *, train: bool = True) -> _Fitted:
        """Fit network and ellipsoids to benign flows, at most :data:`MOST_FITTED` of them."""
        flows = flows.head(MOST_FITTED)
        network = _train_on(self.former, flows) if train and not self.not_trained else self.former
        layers = read_layers(network.graph, network.encoder)
        hidden = last_hidden(layers, network.encoder.transform(flows))
        benign = Ellipsoid.fit(hidden, np.ones(len(hidden)), N_AXES[0])
        return _Fitted(network, layers, benign, _attack_ellipsoid(network, layers))


def _attack_ellipsoid(network: Detector, layers: list[Layer]) -> Ellipsoid:
    if len(layers) < 2:
        raise ArtifactError("cannot adapt a detector without a hidden layer; run deepidea calibrate instead")
    if network.sample is not None:
        trained = network.sample.trained
        hidden = last_hidden(layers, network.encoder.encode(trained.take(trained.outputs > 0).raw))
        return Ellipsoid.fit(hidden, np.ones(len(hidden)), N_AXES[1])
    known = read_ellipsoids(network.graph)
    if known is None:
        raise ArtifactError(
            "cannot adapt: the detector file holds neither attacks of training nor distances from them; train again, "
            "or run deepidea calibrate"
        )
    return known[1]


def _base_novelty(detector: Detector) -> Novelty:
    """Return the detector's novelty, or for one without it a novelty whose values the site's all replace."""
    if detector.novelty is not None:
        return detector.novelty
    return Novelty.fit(np.zeros(2), np.zeros((2, 2), np.float32), np.array([False, True]))


# --- training ------------------------------------------------------------------------------------------------------


def _why_not_trained(detector: Detector, n_flows: int, train: bool | None) -> str:
    """Return the reason for which the network does not train on; empty where it does."""
    lacking = [
        name
        for name, part in (
            ("a sample of training's flows", detector.sample),
            ("its weights", detector.weights),
            ("fingerprints of training's flows", detector.training_fingerprints),
        )
        if part is None
    ]
    if train is False:
        return "as asked"
    if lacking:
        if train:
            raise ArtifactError(f"cannot train: the detector file lacks {' and '.join(lacking)}; train it again")
        return f"the detector file lacks {' and '.join(lacking)}"
    if train is None and detector.encoder.steps_ is None:
        return "numbers are scaled, not encoded in steps"
    if train is None and n_flows < LEAST_TO_TRAIN:
        return f"fewer than {LEAST_TO_TRAIN:,} flows"
    return _missing_torch(required=bool(train))


def _missing_torch(*, required: bool) -> str:
    from deepidea.model.presets import make_classifier

    try:
        make_classifier()
    except MissingExtraError as error:
        if required:
            raise
        return str(error)
    return ""


def _train_on(detector: Detector, flows: pl.DataFrame) -> Detector:
    """Continue training with flows of a site as benign, beside training's own sample.

    The rate is the full one of training: a tenth of it, as for continued training on all flows, was measured to move
    the network too little.
    """
    from deepidea.model.presets import CONTINUED_RATE, recorded_parameters, train_detector

    sample = detector.sample
    assert sample is not None  # _why_not_trained
    _, recorded = recorded_parameters(detector)
    settings: dict[str, Any] = {"validation_fraction": 0.0, "novelty": "none", "n_epochs": 10, "random_state": 0}
    rate = float(recorded["learning_rate"]) / CONTINUED_RATE
    trained = train_detector(_labelled(detector, sample.trained, flows), start=detector, learning_rate=rate, **settings)
    return trained.with_options(card=detector.card, sample=sample, reference=detector.reference)


def _labelled(detector: Detector, sample: TrainingSample, flows: pl.DataFrame) -> LabelledFlows:
    """Return the sample under its own labels and the site's flows as benign."""
    features = detector.schema.features
    table = pl.concat([sample.table(detector.encoder), flows.select(features)], how="vertical_relaxed")
    labels = np.array(detector.labels)[sample.outputs]
    classes = np.array(detector.classes)[np.array(detector.decision.class_of)[sample.outputs]]
    own = pl.Series([detector.benign] * len(flows))
    labelled, classed = (pl.concat([pl.Series(names.tolist()), own]) for names in (labels, classes))
    return LabelledFlows(table, labelled, classed, detector.schema, detector.classes)


# --- attacks among the flows ---------------------------------------------------------------------------------------


def _find_suspects(site: _Site, flows: pl.DataFrame) -> tuple[NDArray[np.int64], pl.Series]:
    """Return the flows that resemble attacks of training, the nearest first, and the class of the nearest attack.

    Of the most anomalous flows that the detector finds likelier an attack than benign, those at most half as far from
    an attack as from the site's own flows. The distance from these is that of the neighbour which 1 % of the site's
    flows are nearer than, so that up to so many attacks of a kind do not vouch for each other.
    """
    sample = site.former.sample
    if sample is None:
        return np.zeros(0, np.int64), pl.Series([], dtype=pl.String)
    known = sample.take(sample.outputs > 0)
    first = site.fit(flows, train=False)
    hidden, attacks = first.hidden(flows), last_hidden(first.layers, first.network.encoder.encode(known.raw))
    log_odds, distances = first.measure(flows)
    ranks = _base_novelty(site.former).fit_site(log_odds, distances, np.zeros(0, np.float32))
    anomaly = ranks.anomaly(log_odds, distances[:, None])
    asked = np.argsort(-anomaly, kind="stable")[: max(1, round(_SUSPECTED * len(flows)))]
    near, place = _nearness(hidden, attacks, asked)
    chosen = np.flatnonzero((near < _NEARER) & (log_odds[asked] > _LEAST_ODDS))
    chosen = chosen[np.argsort(near[chosen], kind="stable")][: int(MOST_SET_ASIDE * len(flows))]
    classes = np.array(site.former.classes)[np.array(site.former.decision.class_of)[known.outputs[place[chosen]]]]
    return asked[chosen], pl.Series(classes.tolist(), dtype=pl.String)


def _nearness(hidden: Floats, attacks: Floats, asked: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """Return each flow's distance from the nearest attack over that from the site's flows, and which attack that is."""
    site = hidden[:_COMPARED]
    scale = np.concatenate([site, attacks]).std(axis=0) + np.float32(1e-3)
    rank = max(2, round(MOST_SET_ASIDE * len(site)) + 1)  # a flow itself is among the nearest
    from_site = np.partition(_squared(hidden[asked] / scale, site / scale), rank, axis=1)[:, rank]
    from_attacks = _squared(hidden[asked] / scale, attacks / scale)
    nearest = np.asarray(from_attacks.argmin(axis=1))
    ratio = from_attacks[np.arange(len(asked)), nearest] / np.maximum(from_site, np.float32(1e-12))
    return np.sqrt(ratio), nearest


def _squared(a: Floats, b: Floats) -> Floats:
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.maximum(squared, np.float32(0)))


# --- ranks ---------------------------------------------------------------------------------------------------------


def _fit_and_rank(site: _Site, flows: pl.DataFrame) -> tuple[_Fitted, NDArray[np.float64], Floats]:
    """Return the fit to the flows, and log-odds and distances of flows that were not part of the fit behind them."""
    if len(flows) > MOST_FOLDED:
        fitted = site.fit(flows[: len(flows) // 2])
        return fitted, *fitted.measure(flows[len(flows) // 2 :])
    # few flows: each is measured by a fit to the other folds, and all of them make the fit that is kept
    n_folds = N_FOLDS if site.not_trained else N_FOLDS_TRAINED
    fold = np.arange(len(flows)) % n_folds
    log_odds, distances = np.zeros(len(flows)), np.zeros(len(flows), np.float32)
    for number in range(n_folds):
        out = fold == number
        log_odds[out], distances[out] = site.fit(flows.filter(~out)).measure(flows.filter(out))
    return site.fit(flows), log_odds, distances


# --- the check on training's attacks -------------------------------------------------------------------------------


def _recalls(
    former: Detector, adapted: Detector, thresholds: Thresholds, flows: pl.DataFrame
) -> tuple[ClassRecall, ...]:
    """Return recall on training's held-out attacks, by the thresholds of calibration and after adaptation."""
    sample = former.sample
    if sample is None or not sample.held_out.any():
        return ()
    held_out = sample.take(sample.held_out)
    table = former.schema.conform(held_out.table(former.encoder))
    calibrated = _calibrated(former, thresholds.fpr, flows)
    before = None if calibrated is None else calibrated.above_threshold(former.score_conformed(table)).to_numpy()
    after = thresholds.above_threshold(adapted.score_conformed(table)).to_numpy()
    codes = np.array(former.decision.class_of)[held_out.outputs]
    return tuple(
        ClassRecall(
            former.classes[code],
            int((codes == code).sum()),
            None if before is None else float(before[codes == code].mean()),
            float(after[codes == code].mean()),
        )
        for code in np.unique(codes).tolist()
    )


def _calibrated(former: Detector, fpr: float, flows: pl.DataFrame) -> Thresholds | None:
    verdicts = former.score_conformed(flows)
    n_measures = 1 + ("anomaly" in verdicts.columns)
    return fit_thresholds(verdicts, fpr, "") if len(flows) >= flows_needed(fpr, n_measures) else None
