"""Drift: whether the flows of today are spread as those were that a detector was trained on, or calibrated by.

A sample of every batch is put into the bins of the detector's reference: each feature's, and the score's. The counts of
an hour are kept in the store (:mod:`deepidea.detection.store_drift`), and compared when somebody asks.

*PSI*, the population stability index, is the sum over bins of (q - p) ln(q / p), where p is the share of the reference
and q that of today; it is the symmetrised divergence of Kullback and Leibler (1951), in use since Lewis, *An
Introduction to Credit Scoring* (1992), with his limits: above 0.25 a distribution has shifted, above 0.1 it has moved.
Where nothing has changed, chance alone makes it about (bins - 1) (1 / n + 1 / n_reference) for n flows (Yurdakul and
Naranjo 2020), which is taken off.
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
from numpy.typing import NDArray

from deepidea.detection.rates import flow_times_us
from deepidea.errors import ArtifactError, StoreError
from deepidea.flows.column import Column
from deepidea.flows.labels import title_of, value_text
from deepidea.flows.schema import Schema
from deepidea.model.detector import Detector
from deepidea.model.features import read_numbers
from deepidea.model.reference import Bins, Words

__all__ = [
    "Against",
    "Baseline",
    "BinnedFlows",
    "DriftMonitor",
    "DriftReport",
    "FeatureDrift",
    "compare",
    "unknown_drift",
]

Against = Literal["training", "site"]
Light = Literal["green", "amber", "red", "unknown"]
Verdict = Literal["stable", "moved", "shifted"]

SAMPLED = 256  # flows of a batch that are looked at
LEAST_FLOWS = 200  # that anything is said of
MOVED, SHIFTED = 0.1, 0.25  # PSI
MOST_SHIFTED, MOST_UNSTABLE = 0.25, 0.1  # shares of the features: above the one it is red, above the other amber
RULE = (
    f"red: more than {MOST_SHIFTED:.0%} of the features, or the score, have shifted (PSI above {SHIFTED}); "
    f"amber: more than {MOST_UNSTABLE:.0%} of the features, or the score, have moved (PSI above {MOVED}); "
    f"unknown: fewer than {LEAST_FLOWS} flows were looked at, or the detector keeps no reference; else green"
)
NO_REFERENCE = "the detector file keeps no reference; train again with this release"
NO_SITE = "the detector file keeps no reference of a site; deepidea calibrate makes one"

SCORE = Column("score", "number", "", (), "how likely an attack the detector holds a flow for")
_EMPTY_SHARE = 1e-4  # of a bin that holds nothing: the logarithm of zero says too much
_RARE_WORD = 0.005  # words rarer than this are one bin: each by itself would be chance alone
_FINEST_SCORE = 0.02  # sure verdicts lie within thousandths, where bins of equal shares would follow any breath
_HOUR_US = 3_600_000_000
Counts = NDArray[np.uint32]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """What flows are compared with: the bins of one detector.

    Parameters
    ----------
    model : str
        Fingerprint of the detector.
    against : {"training", "site"}
        Whether the flows of its training made the bins, or those that it was calibrated by.
    schema : Schema
    bins : mapping of feature to Bins or Words
    score_bins : Bins
    n_flows : int
        Flows that made them.
    """

    model: str
    against: Against
    schema: Schema
    bins: Mapping[str, Bins | Words]
    score_bins: Bins
    n_flows: int

    @classmethod
    def of(cls, detector: Detector, model: str, against: Against = "training") -> Self | None:
        """Return that of a detector, None where its file keeps none."""
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

    def to_json(self) -> str:
        """Return what a store keeps."""
        bins = {name: kind.contract() for name, kind in self.bins.items()}
        told = {"model": self.model, "against": self.against, "n_flows": self.n_flows}
        score = self.score_bins.contract()
        return json.dumps({**told, "schema": self.schema.contract(), "bins": bins, "score_bins": score}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild from :meth:`to_json`; :class:`StoreError` where the store holds something else."""
        try:
            told = json.loads(text)
            bins = {name: _bins_from(entry) for name, entry in told["bins"].items()}
            schema, score = Schema.from_contract(told["schema"]), Bins.from_contract(told["score_bins"])
            ordered = {name: bins[name] for name in schema.features if name in bins}
            return cls(told["model"], told["against"], schema, ordered, score, int(told["n_flows"]))
        except (KeyError, TypeError, ValueError, ArtifactError) as error:
            raise StoreError(f"a store must keep whole references, however: {error!r}; purge it") from error


def _bins_from(contract: Mapping[str, Any]) -> Bins | Words:
    return Words.from_contract(contract) if "words" in contract else Bins.from_contract(contract)


def slots_of(kind: Bins | Words) -> Floats:
    """Return the shares of a reference by slot: one a bin, then one of what is missing or another word."""
    if isinstance(kind, Words):
        return np.array(kind.shares)
    return np.array([*(share * (1 - kind.missing) for share in kind.shares), kind.missing])


@dataclass(frozen=True, slots=True, eq=False)
class BinnedFlows:
    """How sampled flows of one hour fell into the slots of a baseline.

    Parameters
    ----------
    baseline : Baseline
    layout : bytes
        What the counts are counted by, as a hash: those of another layout cannot be added.
    hour_us : int
        The hour's beginning, in microseconds since 1970.
    n_flows : int
    counts : array, uint32, (n_slots,)
    """

    baseline: Baseline
    layout: bytes
    hour_us: int
    n_flows: int
    counts: Counts


def layout_of(baseline: Baseline) -> bytes:
    """Return 8 bytes that differ where bins do."""
    kinds = [(column.name, kind.contract()) for column, kind in zip(baseline.columns, baseline.kinds, strict=True)]
    return hashlib.blake2b(json.dumps(kinds, sort_keys=True).encode(), digest_size=8).digest()


class _Binner:
    """Puts flows into the slots of one baseline."""

    def __init__(self, baseline: Baseline) -> None:
        self.baseline, self._layout = baseline, layout_of(baseline)
        widths = [len(slots_of(kind)) for kind in baseline.kinds]
        first = np.cumsum([0, *widths])
        self._n_slots = int(first[-1])
        begins = dict(zip((column.name for column in baseline.columns), first[:-1].tolist(), strict=True))
        numbers = [(begins[name], baseline.bins[name]) for name in baseline.schema.numbers]
        numeric = [*numbers, (int(first[-2]), baseline.score_bins)]
        inner = [kind.edges for _, kind in numeric if isinstance(kind, Bins)]
        self._edges = np.full((max(map(len, inner)), len(inner)), np.inf)  # (most_edges, n_numbers + 1)
        for j, edges in enumerate(inner):
            self._edges[: len(edges), j] = edges
        self._begins = np.array([begin for begin, _ in numeric])
        self._missing = np.array([begin + len(edges) + 1 for (begin, _), edges in zip(numeric, inner, strict=True)])
        self._words = [
            (name, {word: begins[name] + k for k, word in enumerate(kind.words)}, begins[name] + len(kind.words))
            for name, kind in baseline.bins.items()
            if isinstance(kind, Words)
        ]

    def count(self, flows: pl.DataFrame, numbers: Floats, hours: NDArray[np.int64]) -> list[BinnedFlows]:
        """Return the counts of each hour."""
        places = sum((numbers > edges).astype(np.int64) for edges in self._edges)
        slots = np.where(np.isnan(numbers), self._missing, self._begins + places)
        words = [self._word_slots(flows[name], places, other) for name, places, other in self._words]
        slots = np.column_stack([slots, *words]) if words else slots  # (n_sampled, n_features + 1)
        told = []
        for hour in np.unique(hours).tolist():
            here = slots[hours == hour]
            counts = np.bincount(here.ravel(), minlength=self._n_slots).astype(np.uint32)
            told.append(BinnedFlows(self.baseline, self._layout, hour, len(here), counts))
        return told

    @staticmethod
    def _word_slots(column: pl.Series, places: Mapping[str, int], other: int) -> NDArray[np.int64]:
        """Return the slot of each word; a dictionary is quicker than a join for as few as there are."""
        return np.array([places.get(word, other) for word in column.cast(pl.String).to_list()], np.int64)


class DriftMonitor:
    """Counts the flows that a detector scores against all that its file keeps of others; nothing where that is nothing.

    Parameters
    ----------
    detector : Detector
    model : str
        Its fingerprint.
    """

    def __init__(self, detector: Detector, model: str) -> None:
        self.schema = detector.schema
        known = (Baseline.of(detector, model, against) for against in ("training", "site"))
        self.baselines = [baseline for baseline in known if baseline is not None]
        self._binners = [_Binner(baseline) for baseline in self.baselines]

    def count(self, conformed: pl.DataFrame, scores: pl.Series, flows: pl.DataFrame) -> list[BinnedFlows]:
        """Return how a sample of a batch falls into bins, by the hour of flow time.

        Parameters
        ----------
        conformed : DataFrame, (n_flows, ...)
            As ``schema.conform`` makes them.
        scores : Series, (n_flows,)
        flows : DataFrame, (n_flows, ...)
            With the times of the flows, where they have any.

        Notes
        -----
        At most :data:`SAMPLED` flows, at even steps: so a batch of any size costs the same, about a millisecond, and
        the same batch gives the same counts.
        """
        if not self._binners or conformed.is_empty():
            return []
        n = min(SAMPLED, conformed.height)
        rows = np.arange(n) * conformed.height // n
        sample = conformed[rows]
        numbers = np.column_stack([read_numbers(sample, self.schema), scores.gather(rows).to_numpy()])
        hours = flow_times_us(flows[rows]) // _HOUR_US * _HOUR_US
        return [told for binner in self._binners for told in binner.count(sample, numbers, hours)]


# --- comparing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """How one feature, or the score, is spread beside the reference.

    Parameters
    ----------
    name, title : str
        Of the column.
    psi : float
        Less what chance alone makes of it; 0 at least.
    ks : float
        Largest difference, over all values x, of the shares of flows up to x (Kolmogorov and Smirnov, on the bins). Of
        words, the largest difference of the shares of any set of them.
    verdict : {"stable", "moved", "shifted"}
    said : str
        What has changed most, in words.
    """

    name: str
    title: str
    psi: float
    ks: float
    verdict: Verdict
    said: str


@dataclass(frozen=True, slots=True, eq=False)
class DriftReport:
    """Whether flows are like those that the detector was trained on.

    Parameters
    ----------
    light : {"green", "amber", "red", "unknown"}
        By :data:`RULE`.
    sentence, reason : str
        What it means, and why.
    model : str
    against : {"training", "site"}
    n_flows : int
        Flows that were looked at, a sample of all.
    since, until : datetime, optional
        First hour, and end of the last; None where there was none.
    features : tuple of FeatureDrift
        Those that have drifted most first.
    score : FeatureDrift, optional
    hours : DataFrame
        ``time``, ``n_flows``, ``score`` and ``mean`` (PSI of the score, and over features), ``share_shifted``; null in
        hours with too few flows.
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
        """What decides the light."""
        return RULE

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, without the PSI of every feature in every hour."""
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
    """Return a report that says why nothing can be said."""
    return DriftReport("unknown", f"Unknown: {reason}.", reason, model, against, n_flows)


def compare(baseline: Baseline, hours_us: Sequence[int], flows: Sequence[int], counts: Counts) -> DriftReport:
    """Compare counts with what they were counted by.

    Parameters
    ----------
    baseline : Baseline
    hours_us, flows : sequence of int, (n_hours,)
        Each hour's beginning in microseconds since 1970, ascending, and the flows that were looked at.
    counts : array, uint32, (n_hours, n_slots)
    """
    n_flows = sum(flows)
    if n_flows < LEAST_FLOWS:
        reason = f"{n_flows:,} flows were looked at, and {LEAST_FLOWS} are needed"
        return unknown_drift(reason, model=baseline.model, against=baseline.against, n_flows=n_flows)
    spread = _Spread(baseline)
    total = counts.sum(axis=0, dtype=np.int64)
    psi = spread.psi(total[None], np.array([n_flows]))[0]
    drifts = [spread.describe(j, total, n_flows, float(psi[j])) for j in range(len(psi))]
    features, score = drifts[:-1], drifts[-1]
    light, reason = _judge([feature.psi for feature in features], score.psi)
    by_hour = spread.psi(counts.astype(np.int64), np.array(flows))
    by_hour[np.array(flows) < LEAST_FLOWS] = np.nan
    return DriftReport(
        light,
        _sentence(light, baseline.against),
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


class _Spread:
    """The reference's shares of all slots side by side, rare words taken together."""

    def __init__(self, baseline: Baseline) -> None:
        self.baseline, self._columns = baseline, baseline.columns
        shares = [slots_of(kind) for kind in baseline.kinds]
        self._kinds = baseline.kinds
        self.first = np.cumsum([0, *map(len, shares)])
        pools = [*(_pools(kind) for kind in baseline.bins.values()), _score_pools(baseline.score_bins)]
        self._first_pool = np.cumsum([0, *(int(pool.max()) + 1 for pool in pools)])
        self._pool = np.concatenate([pool + begin for pool, begin in zip(pools, self._first_pool, strict=False)])
        self.shares = np.concatenate(shares)
        self._expected = self._pooled(self.shares[None])[0]

    def _pooled(self, values: NDArray[Any]) -> Floats:
        n_pools = int(self._first_pool[-1])
        return np.stack([np.bincount(self._pool, weights=row, minlength=n_pools) for row in values])

    def psi(self, counts: NDArray[np.int64], flows: NDArray[np.int64]) -> Floats:
        """Return the PSI of each feature and the score less what chance makes of it, ``(n_hours, n_features + 1)``."""
        n, n_reference = np.maximum(flows, 1)[:, None], self.baseline.n_flows
        found = self._pooled(counts) / n
        p = np.maximum(self._expected, max(_EMPTY_SHARE, 0.5 / n_reference))
        q = np.maximum(found, np.maximum(_EMPTY_SHARE, 0.5 / n))
        terms = np.where((self._expected > 0) | (found > 0), (q - p) * np.log(q / p), 0.0)
        used = ((self._expected > 0) | (found > 0)).astype(np.float64)
        begins = self._first_pool[:-1]
        chance = (np.add.reduceat(used, begins, axis=1) - 1) * (1 / n + 1 / n_reference)
        psi: Floats = np.maximum(np.add.reduceat(terms, begins, axis=1) - chance, 0.0)
        return psi

    def describe(self, j: int, total: NDArray[np.int64], n_flows: int, psi: float) -> FeatureDrift:
        """Return one feature beside its reference."""
        here = slice(self.first[j], self.first[j + 1])
        kind, column = self._kinds[j], self._columns[j]
        before, now = self.shares[here], total[here] / n_flows
        told = (column, before, now)
        said, ks = _words_said(kind, *told) if isinstance(kind, Words) else _numbers_said(kind, *told)
        verdict: Verdict = "shifted" if psi > SHIFTED else "moved" if psi > MOVED else "stable"
        title = "Score" if column is SCORE else title_of(column)
        where = "training" if self.baseline.against == "training" else "the site's calibration"
        return FeatureDrift(column.name, title, psi, ks, verdict, f"{title}: {said.format(where=where)}")


def _pools(kind: Bins | Words) -> NDArray[np.int64]:
    """Return which pool each slot is in: rare words share one, all else has its own."""
    shares = slots_of(kind)
    rare = (shares < _RARE_WORD) & isinstance(kind, Words)
    rare[-1] = False
    pools = np.where(rare, 0, np.cumsum(~rare) - 1 + int(rare.any()))
    return pools.astype(np.int64)


def _score_pools(bins: Bins) -> NDArray[np.int64]:
    """Return which pool each slot of the score is in: bins narrower than what matters to anyone share one."""
    pools, kept = [0], 0.0
    for edge in bins.edges:
        wide = edge - kept >= _FINEST_SCORE
        kept = edge if wide else kept
        pools.append(pools[-1] + wide)
    return np.array([*pools, pools[-1] + 1])


def _numbers_said(kind: Bins, column: Column, before: Floats, now: Floats) -> tuple[str, float]:
    """Return what has changed most of numbers in words, and by how much."""
    ups = 1 - np.cumsum(before)[:-2] - before[-1], 1 - np.cumsum(now)[:-2] - now[-1]  # shares above each edge
    gaps = ups[1] - ups[0]
    missing = abs(now[-1] - before[-1])
    if not len(gaps) or missing > np.abs(gaps).max():
        shares = share_texts(now[-1], before[-1])
        return f"missing in {shares[0]} of flows now; in {{where}}, in {shares[1]}", float(missing)
    e = int(np.abs(gaps).argmax())
    value, ks = value_text(kind.edges[e], column), float(abs(gaps[e]))
    if gaps[e] > 0:
        shares = share_texts(ups[1][e], ups[0][e])
        return f"{shares[0]} of flows now above {value}; in {{where}}, {shares[1]}", ks
    shares = share_texts(1 - ups[1][e] - now[-1], 1 - ups[0][e] - before[-1])
    return f"{shares[0]} of flows now {value} at most; in {{where}}, {shares[1]}", ks


def _words_said(kind: Words, column: Column, before: Floats, now: Floats) -> tuple[str, float]:
    """Return which word's share has changed most, and half the sum of all changes."""
    gaps = now - before
    k = int(np.abs(gaps).argmax())
    word = value_text(kind.words[k], column) if k < len(kind.words) else "none of the known words"
    word = word.replace("{", "{{").replace("}", "}}") or "empty"
    shares = share_texts(now[k], before[k])
    return f"{word} in {shares[0]} of flows now; in {{where}}, in {shares[1]}", float(np.abs(gaps).sum() / 2)


_FRACTIONS = {
    0.1: "a tenth", 0.2: "a fifth", 0.25: "a quarter", 1 / 3: "a third", 0.5: "half", 2 / 3: "two thirds",
    0.75: "three quarters", 0.8: "four fifths", 0.9: "nine tenths",
}  # fmt: skip


def share_texts(*shares: float) -> tuple[str, ...]:
    """Return shares in words where plain ones are near all of them, else in percent.

    Examples
    --------
    >>> share_texts(0.507, 0.1), share_texts(0.0, 0.998), share_texts(0.5, 0.43), share_texts(0.995, 0.004)
    (('half', 'a tenth'), ('none', 'nearly all'), ('50 %', '43 %'), ('nearly all', 'hardly any'))
    """
    words = [_share_word(share) for share in shares]
    if None not in words and len(set(words)) == len(words):
        return tuple(str(word) for word in words)
    return tuple(f"{100 * share:.1f} %" if min(share, 1 - share) < 0.05 else f"{100 * share:.0f} %" for share in shares)


def _share_word(share: float) -> str | None:
    if share <= 0.01:
        return "none" if share <= 0 else "hardly any"
    if share >= 0.99:
        return "all" if share >= 1 else "nearly all"
    near = min(_FRACTIONS, key=lambda fraction: abs(fraction - share))
    return _FRACTIONS[near] if abs(near - share) <= 0.012 else None


def _judge(features: Sequence[float], score: float) -> tuple[Light, str]:
    """Return the light, and the counts that decide it."""
    n = len(features)
    n_shifted, n_moved = (sum(psi > bound for psi in features) for bound in (SHIFTED, MOVED))
    told = f"{n_shifted} of {n} features have shifted, {n_moved - n_shifted} have moved; PSI of the score {score:.2f}"
    if n_shifted > MOST_SHIFTED * n or score > SHIFTED:
        return "red", told
    return ("amber" if n_moved > MOST_UNSTABLE * n or score > MOVED else "green"), told


_SENTENCES: Mapping[tuple[Light, Against], str] = {
    ("green", "training"): "The traffic is like that which this model was trained on.",
    ("amber", "training"): "Some of the traffic is unlike that which this model was trained on.",
    ("red", "training"): "This model was not trained on traffic like this.",
    ("green", "site"): "The traffic is like that which this model was calibrated by.",
    ("amber", "site"): "Some of the traffic is unlike that which this model was calibrated by.",
    ("red", "site"): "The network has changed since this model was calibrated: its rate of false alarms is no promise.",
}


def _sentence(light: Light, against: Against) -> str:
    return _SENTENCES[light, against]


def _hour_tables(
    baseline: Baseline, hours_us: Sequence[int], flows: Sequence[int], psi: Floats
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return PSI by the hour: of the score and over features, and of each feature."""
    time = pl.from_epoch(pl.Series("time", hours_us, pl.Int64), time_unit="us").dt.replace_time_zone("UTC")
    few = np.isnan(psi[:, 0])
    shifted = np.where(few, np.nan, (psi[:, :-1] > SHIFTED).mean(axis=1)) if psi.shape[1] > 1 else np.zeros(len(psi))
    mean = psi[:, :-1].mean(axis=1) if psi.shape[1] > 1 else np.zeros(len(psi))
    hours = pl.DataFrame(
        {"time": time, "n_flows": list(flows), "score": psi[:, -1], "mean": mean, "share_shifted": shifted}
    )
    features = {column.name: psi[:, j] for j, column in enumerate(baseline.columns[:-1])}
    by_feature = pl.DataFrame({"time": time, **features})
    return hours.fill_nan(None), by_feature.fill_nan(None)
