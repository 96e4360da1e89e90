"""Drift: compare the distribution of today's flows with the flows that a detector was trained or calibrated on.

A sample of every batch is counted in the bins of the detector's reference, one set for each feature and one for the
score. The store keeps the counts by the hour (:mod:`deepidea.store.drift`); a report compares their sum.

*PSI*, the population stability index, is the sum over bins of (q - p) ln(q / p) with p the share in the reference and q
the share today: the symmetrised divergence of Kullback and Leibler (1951), used with these limits since Lewis, *An
Introduction to Credit Scoring* (1992). *KS* is the statistic of Kolmogorov and Smirnov on the same bins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

import numpy as np
import polars as pl
import sqlalchemy as sa
from numpy.typing import NDArray

from deepidea.detection.rates import flow_times_us
from deepidea.errors import ArtifactError, StoreError
from deepidea.flows.column import Column
from deepidea.flows.labels import title_of, value_text
from deepidea.flows.schema import Schema
from deepidea.model.detector import Detector
from deepidea.model.features import read_numbers
from deepidea.model.reference import Bins, Words
from deepidea.store import engines
from deepidea.store.drift import Against, BinnedFlows, Counts, baselines, hour_counts, latest_model
from deepidea.store.engines import EngineState

__all__ = [
    "Baseline",
    "DriftMonitor",
    "DriftReport",
    "FeatureDrift",
    "drift_report",
    "stored_drift",
    "unknown_drift",
]

Light = Literal["green", "amber", "red", "unknown"]
Status = Literal["stable", "moved", "shifted"]

SAMPLED = 256  # most flows of a batch that are counted
LEAST_FLOWS = 200  # of a report
MOVED, SHIFTED = 0.1, 0.25  # PSI
MOST_SHIFTED, MOST_UNSTABLE = 0.25, 0.1  # shares of the features: more shifted is red, more moved is amber
RULE = (
    f"red: more than {MOST_SHIFTED:.0%} of the features, or the score, have shifted (PSI above {SHIFTED}); "
    f"amber: more than {MOST_UNSTABLE:.0%} of the features, or the score, have moved (PSI above {MOVED}); "
    f"unknown: fewer than {LEAST_FLOWS} sampled flows, or no reference in the detector file; else green"
)
NO_REFERENCE = "the detector file has no reference; train again with this release"
NO_SITE = "the detector file has no reference of the site; run deepidea calibrate"
_UNUSABLE = "the counts in the store were made with other bins; new flows are counted with the new ones"

SCORE = Column("score", "number", "", (), "how likely an attack the detector considers a flow")
_EMPTY_SHARE = 1e-4  # stands for an empty bin, whose logarithm would be infinite
_RARE_WORD = 0.005  # words rarer than this are pooled: the PSI of each would be chance alone
_FINEST_SCORE = 0.02  # narrower bins of the score are pooled: they hold sure verdicts thousandths apart
_HOUR_US = 3_600_000_000
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """The bins that flows are compared by.

    The counts of all bins lie side by side in one array of *slots*: for each feature and last for the score, one slot a
    bin and one for missing values, or one a word and one for all other words.

    Parameters
    ----------
    model : str
        Fingerprint of the detector.
    against : {"training", "site"}
        Whether the bins are of the flows it was trained on or calibrated on.
    schema : Schema
    bins : mapping of feature to Bins or Words
    score_bins : Bins
    n_flows : int
        Flows in the reference.
    """

    model: str
    against: Against
    schema: Schema
    bins: Mapping[str, Bins | Words]
    score_bins: Bins
    n_flows: int

    @classmethod
    def of(cls, detector: Detector, model: str, against: Against = "training") -> Self | None:
        """Return that of a detector, None where its file has no such reference."""
        reference = detector.reference if against == "training" else detector.site_reference
        if reference is None:
            return None
        return cls(model, against, detector.schema, reference.bins, reference.score_bins, reference.n_flows)

    @property
    def kinds(self) -> tuple[Bins | Words, ...]:
        """The bins of every feature in order, and last those of the score."""
        return (*self.bins.values(), self.score_bins)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that :attr:`kinds` are of."""
        return (*(self.schema[name] for name in self.bins), SCORE)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """The first slot of each column, and last the number of slots, ``(n_features + 2,)``."""
        return np.cumsum([0, *(len(slots_of(kind)) for kind in self.kinds)])

    def to_json(self) -> str:
        """Return the text that the store keeps."""
        entry: dict[str, Any] = {"model": self.model, "against": self.against, "n_flows": self.n_flows}
        bins = {name: kind.contract() for name, kind in self.bins.items()}
        entry |= {"schema": self.schema.contract(), "bins": bins, "score_bins": self.score_bins.contract()}
        return json.dumps(entry, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild from :meth:`to_json`; raise :class:`StoreError` where it is incomplete."""
        try:
            entry = json.loads(text)
            bins = {name: _bins_from(contract) for name, contract in entry["bins"].items()}
            schema, score = Schema.from_contract(entry["schema"]), Bins.from_contract(entry["score_bins"])
            ordered = {name: bins[name] for name in schema.features if name in bins}
            return cls(entry["model"], entry["against"], schema, ordered, score, int(entry["n_flows"]))
        except (KeyError, TypeError, ValueError, ArtifactError) as error:
            raise StoreError(f"cannot read a drift reference from the store: {error!r}; purge the store") from error


def _bins_from(contract: Mapping[str, Any]) -> Bins | Words:
    return Words.from_contract(contract) if "words" in contract else Bins.from_contract(contract)


def slots_of(kind: Bins | Words) -> Floats:
    """Return the share of the reference in each slot of a column."""
    if isinstance(kind, Words):
        return np.array(kind.shares)
    return np.array([*(share * (1 - kind.missing) for share in kind.shares), kind.missing])


def layout_of(baseline: Baseline) -> bytes:
    """Return the 8-byte hash of a baseline's bins."""
    kinds = [(column.name, kind.contract()) for column, kind in zip(baseline.columns, baseline.kinds, strict=True)]
    # Counts of two layouts must never be added; the store keeps this beside them.
    return hashlib.blake2b(json.dumps(kinds, sort_keys=True).encode(), digest_size=8).digest()


class _Binner:
    """Counts flows in the slots of one baseline."""

    def __init__(self, baseline: Baseline) -> None:
        self.baseline = baseline
        self._about = (baseline.model, baseline.against, baseline.to_json(), layout_of(baseline))
        begins = dict(zip((column.name for column in baseline.columns), baseline.offsets.tolist(), strict=False))
        bins = {**baseline.bins, SCORE.name: baseline.score_bins}
        numeric = [(begins[name], bins[name]) for name in (*baseline.schema.numbers, SCORE.name)]
        inner = [(begin, kind.edges) for begin, kind in numeric if isinstance(kind, Bins)]
        # One column of ascending edges a number, padded with infinity: the bin of x is the number of edges below it.
        self._edges = np.full((max(len(edges) for _, edges in inner), len(inner)), np.inf)
        for j, (_, edges) in enumerate(inner):
            self._edges[: len(edges), j] = edges
        self._begins = np.array([begin for begin, _ in inner])
        self._missing = np.array([begin + len(edges) + 1 for begin, edges in inner])
        self._words = [
            (name, {word: begins[name] + k for k, word in enumerate(kind.words)}, begins[name] + len(kind.words))
            for name, kind in baseline.bins.items()
            if isinstance(kind, Words)
        ]

    def count(self, flows: pl.DataFrame, numbers: Floats, hours: NDArray[np.int64]) -> list[BinnedFlows]:
        """Return the counts of each hour."""
        places = sum((numbers > edges).astype(np.int64) for edges in self._edges)
        slots = np.where(np.isnan(numbers), self._missing, self._begins + places)
        words = [
            np.array([places.get(word, other) for word in flows[name].cast(pl.String).to_list()], np.int64)
            for name, places, other in self._words
        ]
        slots = np.column_stack([slots, *words])  # n_sampled, n_features + 1
        return [self._of_hour(hour, slots[hours == hour]) for hour in np.unique(hours).tolist()]

    def _of_hour(self, hour: int, slots: NDArray[np.int64]) -> BinnedFlows:
        counts = np.bincount(slots.ravel(), minlength=int(self.baseline.offsets[-1])).astype(np.uint32)
        return BinnedFlows(*self._about, hour, len(slots), counts)


class DriftMonitor:
    """Counts scored flows in the bins of every reference that a detector file has.

    Parameters
    ----------
    detector : Detector
    model : str
        Its fingerprint.
    """

    def __init__(self, detector: Detector, model: str) -> None:
        self.schema = detector.schema
        found = (Baseline.of(detector, model, against) for against in ("training", "site"))
        self.baselines = [baseline for baseline in found if baseline is not None]
        self._binners = [_Binner(baseline) for baseline in self.baselines]

    def count(self, conformed: pl.DataFrame, scores: pl.Series, flows: pl.DataFrame) -> list[BinnedFlows]:
        """Return the counts of a sample of a batch, by the hour of flow time.

        Parameters
        ----------
        conformed : DataFrame, (n_flows, ...)
            As ``schema.conform`` makes them.
        scores : Series, (n_flows,)
        flows : DataFrame, (n_flows, ...)
            With the times of the flows, where they have any.

        Notes
        -----
        At most :data:`SAMPLED` flows, evenly spaced: a batch of any size takes about a millisecond, and the same batch
        gives the same counts.
        """
        if not self._binners or conformed.is_empty():
            return []
        n = min(SAMPLED, conformed.height)
        # Evenly spaced, not random: no state, and the same batch always gives the same counts.
        rows = np.arange(n) * conformed.height // n
        sample = conformed[rows]
        numbers = np.column_stack([read_numbers(sample, self.schema), scores.gather(rows).to_numpy()])
        hours = flow_times_us(flows[rows]) // _HOUR_US * _HOUR_US
        return [counts for binner in self._binners for counts in binner.count(sample, numbers, hours)]


# --- reports ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """Drift of one feature, or of the score.

    Parameters
    ----------
    name, title : str
        Of the column.
    psi : float
        Corrected for chance; at least 0.
    ks : float
        Largest difference of the shares of flows up to x, over all edges x; of words, half the sum of all differences.
    status : {"stable", "moved", "shifted"}
    change : str
        The largest change as a phrase.
    """

    name: str
    title: str
    psi: float
    ks: float
    status: Status
    change: str


@dataclass(frozen=True, slots=True, eq=False)
class DriftReport:
    """Comparison of flows with those that a detector was trained or calibrated on.

    Parameters
    ----------
    light : {"green", "amber", "red", "unknown"}
        By :data:`RULE`.
    sentence, reason : str
        What the light means, and the counts that decide it.
    model : str
        Fingerprint of the detector.
    against : {"training", "site"}
    n_flows : int
        Sampled flows.
    since, until : datetime, optional
        First hour, and end of the last; None where there was none.
    features : tuple of FeatureDrift
        In descending order of PSI.
    score : FeatureDrift, optional
    hours : DataFrame
        ``time``, ``n_flows``, ``score`` and ``mean`` (PSI of the score, and over features), ``share_shifted``; null in
        hours with fewer than :data:`LEAST_FLOWS` flows.
    feature_hours : DataFrame
        ``time``, and the PSI of every feature.
    """

    light: Light
    sentence: str
    reason: str
    model: str
    against: Against
    n_flows: int = 0
    since: datetime | None = None
    until: datetime | None = None
    features: tuple[FeatureDrift, ...] = ()
    score: FeatureDrift | None = None
    hours: pl.DataFrame = field(default_factory=pl.DataFrame)
    feature_hours: pl.DataFrame = field(default_factory=pl.DataFrame)

    @property
    def rule(self) -> str:
        """The rule of the light."""
        return RULE

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, without :attr:`feature_hours`."""
        plain = ("light", "sentence", "reason", "rule", "model", "against", "n_flows")
        return {
            **{name: getattr(self, name) for name in plain},
            "since": None if self.since is None else self.since.isoformat(),
            "until": None if self.until is None else self.until.isoformat(),
            "score": None if self.score is None else asdict(self.score),
            "features": [asdict(feature) for feature in self.features],
            "hours": [{**row, "time": row["time"].isoformat()} for row in self.hours.iter_rows(named=True)],
        }


def unknown_drift(reason: str, *, model: str = "", against: Against = "training", n_flows: int = 0) -> DriftReport:
    """Return a report without a comparison, and the reason why there is none."""
    return DriftReport("unknown", f"Unknown: {reason}.", reason, model, against, n_flows)


def drift_report(baseline: Baseline, hours_us: Sequence[int], flows: Sequence[int], counts: Counts) -> DriftReport:
    """Compare counts with their baseline.

    Parameters
    ----------
    baseline : Baseline
    hours_us, flows : sequence of int, (n_hours,)
        Each hour's beginning in microseconds since 1970, ascending, and its sampled flows.
    counts : array, uint32, (n_hours, n_slots)
    """
    n_flows = sum(flows)
    if n_flows < LEAST_FLOWS:
        reason = f"{n_flows:,} flows were sampled, {LEAST_FLOWS} are needed"
        return unknown_drift(reason, model=baseline.model, against=baseline.against, n_flows=n_flows)
    # The sum over hours decides; each hour by itself is for the plot, and says nothing where it has few flows.
    comparison = _Comparison(baseline)
    total = counts.sum(axis=0, dtype=np.int64)
    psi = comparison.psi(total[None], np.array([n_flows]))[0]
    *features, score = (comparison.describe(j, total, n_flows, float(psi[j])) for j in range(len(psi)))
    light, reason = _light([feature.psi for feature in features], score.psi)
    by_hour = comparison.psi(counts.astype(np.int64), np.array(flows))
    by_hour[np.array(flows) < LEAST_FLOWS] = np.nan
    return DriftReport(
        light,
        _SENTENCES[light, baseline.against],
        reason,
        baseline.model,
        baseline.against,
        n_flows,
        datetime.fromtimestamp(hours_us[0] / 1e6, UTC),
        datetime.fromtimestamp((hours_us[-1] + _HOUR_US) / 1e6, UTC),
        tuple(sorted(features, key=lambda feature: (-feature.psi, -feature.ks, feature.name))),
        score,
        *_hour_tables(baseline, hours_us, flows, by_hour),
    )


def stored_drift(
    connection: sa.Connection,
    *,
    model: str | None = None,
    source: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    against: Against | None = None,
) -> DriftReport:
    """Return whether flows in a store are like those that a detector was trained on.

    Parameters
    ----------
    connection : Connection
        Of a store.
    model
        Fingerprint of the detector; the one that scored last where absent.
    source
        Flows of one source; of all where absent.
    since, until
        Hours of flow time; the newest 24 that hold flows where absent.
    against
        Flows of training, or of the site that it was calibrated by; the latter where it was, where absent.
    """
    states = [state for state in engines.latest(connection) if source in (None, state.source)]
    model = model or (states[0].model if states else latest_model(connection, source))
    if model is None:
        return unknown_drift("nothing has been watched with this store yet", against=against or "training")
    # The site's own traffic is the better yardstick where a calibration has left one.
    kinds: tuple[Against, ...] = ("site", "training") if against is None else (against,)
    known = baselines(connection, model)
    found = next((known[kind] for kind in kinds if kind in known), None)
    if found is None:
        return unknown_drift(_why_nothing(states, model, kinds[-1]), model=model, against=kinds[-1])
    baseline = Baseline.from_json(found)
    hours = hour_counts(
        connection, model, baseline.against, layout_of(baseline), source=source, since=since, until=until
    )
    if hours.hours_us:
        return drift_report(baseline, hours.hours_us, hours.n_flows, hours.counts)
    reason = _UNUSABLE if hours.n_unusable else "no flows fell into these hours"
    return unknown_drift(reason, model=model, against=baseline.against)


def _why_nothing(states: Sequence[EngineState], model: str, against: Against) -> str:
    own = [state for state in states if state.model == model]
    if not own:
        return f"no flows of model {model} were counted: it did not watch, or its file keeps no reference"
    if against == "site":
        return NO_SITE
    return NO_REFERENCE if not own[0].has_reference else "no flows came yet"


class _Comparison:
    """The reference's shares by slot, and by pool: a pool is a slot, or several that are too small to compare alone."""

    def __init__(self, baseline: Baseline) -> None:
        self.baseline, self._offsets = baseline, baseline.offsets
        pools = [*map(_pools, baseline.bins.values()), _score_pools(baseline.score_bins)]
        self._first_pool = np.cumsum([0, *(int(pool.max()) + 1 for pool in pools)])
        self._pool = np.concatenate([pool + begin for pool, begin in zip(pools, self._first_pool, strict=False)])
        self._shares = np.concatenate([slots_of(kind) for kind in baseline.kinds])
        self._expected = self._pooled(self._shares[None])[0]

    def _pooled(self, values: NDArray[Any]) -> Floats:
        n_pools = int(self._first_pool[-1])
        return np.stack([np.bincount(self._pool, weights=row, minlength=n_pools) for row in values])

    def psi(self, counts: NDArray[np.int64], flows: NDArray[np.int64]) -> Floats:
        """Return the PSI of each feature and the score, corrected for chance, ``(n_hours, n_features + 1)``."""
        n, n_reference = np.maximum(flows, 1)[:, None], self.baseline.n_flows
        found = self._pooled(counts) / n
        # Half a flow stands for an empty bin, but never less than 1e-4: one flow in a bin that was empty must not
        # decide.
        p = np.maximum(self._expected, max(_EMPTY_SHARE, 0.5 / n_reference))
        q = np.maximum(found, np.maximum(_EMPTY_SHARE, 0.5 / n))
        used = (self._expected > 0) | (found > 0)
        terms = np.where(used, (q - p) * np.log(q / p), 0.0)
        begins = self._first_pool[:-1]
        # Under no drift, n PSI / (1 + n / n_reference) is about chi-squared with bins - 1 degrees of freedom (Yurdakul
        # and Naranjo 2020), so the expected PSI is (bins - 1) (1 / n + 1 / n_reference): subtract it.
        chance = (np.add.reduceat(used.astype(np.float64), begins, axis=1) - 1) * (1 / n + 1 / n_reference)
        psi: Floats = np.maximum(np.add.reduceat(terms, begins, axis=1) - chance, 0.0)
        return psi

    def describe(self, j: int, total: NDArray[np.int64], n_flows: int, psi: float) -> FeatureDrift:
        """Return the drift of column j, the score if it is the last."""
        here = slice(self._offsets[j], self._offsets[j + 1])
        kind, column = self.baseline.kinds[j], self.baseline.columns[j]
        before, now = self._shares[here], total[here] / n_flows
        sides = column, before, now
        change = _change_of_words(kind, *sides) if isinstance(kind, Words) else _change_of_numbers(kind, *sides)
        subject, shares, ks = change
        reference = "training" if self.baseline.against == "training" else "calibration"
        status: Status = "shifted" if psi > SHIFTED else "moved" if psi > MOVED else "stable"
        title = "Score" if column is SCORE else title_of(column)
        text = f"{subject} in {_percent(shares[1])} of flows, in {reference} {_percent(shares[0])}"
        return FeatureDrift(column.name, title, psi, ks, status, text)


def _pools(kind: Bins | Words) -> NDArray[np.int64]:
    """Return the pool of each slot: rare words share one."""
    shares = slots_of(kind)
    rare = (shares < _RARE_WORD) & isinstance(kind, Words)
    rare[-1] = False
    pools = np.where(rare, 0, np.cumsum(~rare) - 1 + int(rare.any()))
    return pools.astype(np.int64)


def _score_pools(bins: Bins) -> NDArray[np.int64]:
    """Return the pool of each slot of the score: neighbours narrower than :data:`_FINEST_SCORE` share one."""
    pools, begin = [0], 0.0
    for edge in bins.edges:
        wide = edge - begin >= _FINEST_SCORE
        begin = edge if wide else begin
        pools.append(pools[-1] + wide)
    return np.array([*pools, pools[-1] + 1])


Change = tuple[str, tuple[float, float], float]  # what changed most, its shares before and now, KS


def _change_of_numbers(kind: Bins, column: Column, before: Floats, now: Floats) -> Change:
    missing = before[-1], now[-1]
    # The last share is that of missing values, which lie above no edge.
    above = [1 - np.cumsum(shares)[:-2] - shares[-1] for shares in (before, now)]  # shares of flows above each edge
    gaps = above[1] - above[0]
    if not len(gaps) or abs(missing[1] - missing[0]) > np.abs(gaps).max():
        return "missing", missing, float(abs(missing[1] - missing[0]))
    e = int(np.abs(gaps).argmax())
    value, ks = value_text(kind.edges[e], column), float(abs(gaps[e]))
    if gaps[e] > 0:
        return f"above {value}", (above[0][e], above[1][e]), ks
    return f"at most {value}", (1 - above[0][e] - missing[0], 1 - above[1][e] - missing[1]), ks


def _change_of_words(kind: Words, column: Column, before: Floats, now: Floats) -> Change:
    gaps = now - before
    k = int(np.abs(gaps).argmax())
    word = value_text(kind.words[k], column) or "empty" if k < len(kind.words) else "other values"
    return word, (before[k], now[k]), float(np.abs(gaps).sum() / 2)


def _percent(share: float) -> str:
    """Return a share in percent, with a decimal where it is below 5 % or above 95 %."""
    return f"{100 * share:.{int(0 < share < 0.05 or 0.95 < share < 1)}f} %"


def _light(features: Sequence[float], score: float) -> tuple[Light, str]:
    """Return the light by :data:`RULE`, and the counts that decide it."""
    n = len(features)
    n_shifted, n_moved = (sum(psi > bound for psi in features) for bound in (SHIFTED, MOVED))
    counts = f"{n_shifted} of {n} features have shifted, {n_moved - n_shifted} have moved; PSI of the score {score:.2f}"
    if n_shifted > MOST_SHIFTED * n or score > SHIFTED:
        return "red", counts
    return ("amber" if n_moved > MOST_UNSTABLE * n or score > MOVED else "green"), counts


_SENTENCES: Mapping[tuple[Light, Against], str] = {
    ("green", "training"): "The traffic is like the traffic that this model was trained on.",
    ("amber", "training"): "Some of the traffic is unlike the traffic that this model was trained on.",
    ("red", "training"): "This model was not trained on traffic like this.",
    ("green", "site"): "The traffic is like the traffic that this model was calibrated on.",
    ("amber", "site"): "Some of the traffic is unlike the traffic that this model was calibrated on.",
    ("red", "site"): "The network has changed since this model was calibrated; its false-alarm rate no longer holds.",
}


def _hour_tables(
    baseline: Baseline, hours_us: Sequence[int], flows: Sequence[int], psi: Floats
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return PSI by the hour: of the score and over features, and of each feature."""
    time = pl.from_epoch(pl.Series("time", hours_us, pl.Int64), time_unit="us").dt.replace_time_zone("UTC")
    of_features = psi[:, :-1] if psi.shape[1] > 1 else np.zeros((len(psi), 1))
    # An hour of too few flows is unknown: NaN must not count as no shift.
    shifted = np.where(np.isnan(psi[:, 0]), np.nan, (of_features > SHIFTED).mean(axis=1))
    hours = pl.DataFrame(
        {
            "time": time,
            "n_flows": list(flows),
            "score": psi[:, -1],
            "mean": of_features.mean(axis=1),
            "share_shifted": shifted,
        }
    )
    by_feature = {column.name: psi[:, j] for j, column in enumerate(baseline.columns[:-1])}
    return hours.fill_nan(None), pl.DataFrame({"time": time, **by_feature}).fill_nan(None)
