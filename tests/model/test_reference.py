"""The reference of a detector: independent of how training flows were written; checked when a file is read."""

import copy
import json
import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.errors import ArtifactError
from deepidea.model.detector import Detector
from deepidea.model.estimators import DeepIDEAClassifier
from deepidea.model.reference import LEVELS, Bins, Reference, Words, sample_rows
from tests.model.conftest import simulated_flows
from tests.model.test_artifact import forged

NUMBERS = st.lists(st.floats(-1e6, 1e6) | st.sampled_from([0.0, np.nan, np.inf, -np.inf]), min_size=1, max_size=80)


@given(NUMBERS, st.integers(2, 20))
def test_every_number_has_a_bin_and_shares_are_of_all(values, n_bins):
    values = np.array(values)
    bins = Bins.of(values, n_bins=n_bins)
    known = values[~np.isnan(values)]
    assert sum(bins.shares) == pytest.approx(1, abs=1e-4)
    assert len(bins.shares) == len(bins.edges) + 1
    if not np.isfinite(known).any():
        assert bins == Bins((), (1.0,), 1.0)
    else:
        assert bins.missing == pytest.approx(np.isnan(values).mean(), abs=1e-5)
        counts = np.bincount(bins.places(known), minlength=len(bins.shares))
        assert counts / len(known) == pytest.approx(np.array(bins.shares), abs=1e-5)
    assert Bins.from_contract(json.loads(json.dumps(bins.contract()))) == bins


@given(st.lists(st.sampled_from(["tcp", "udp", "icmp", "", None]), min_size=1))
def test_words_are_counted_once_each(words):
    counted = Words.of(pl.Series(words, dtype=pl.String), most=2)
    assert sum(counted.shares) == pytest.approx(1, abs=1e-4)
    for word in counted.words:
        assert counted.share(word) == pytest.approx(words.count(word) / len(words), abs=1e-5)
    assert Words.from_contract(counted.contract()) == counted


@given(st.lists(st.integers(0, 5), min_size=1).filter(any), st.integers(0, 9))
def test_rows_are_drawn_as_often_as_they_weigh(weights, seed):
    weight, rng = np.array(weights, float), np.random.default_rng(seed)
    assert (np.bincount(sample_rows(weight, rng), minlength=len(weight)) == weight).all()
    sampled = np.bincount(sample_rows(weight, rng, most=1000 * len(weight) - 1), minlength=len(weight))
    assert (sampled[weight == 0] == 0).all()
    scaled = sample_rows(weight + 0.5, rng, most=4000)
    expected = 4000 * (weight + 0.5) / (weight + 0.5).sum()
    assert np.abs(np.bincount(scaled, minlength=len(weight)) - expected).max() < 2


def test_a_detector_reports_what_benign_flows_are_like(detector):
    table, classes = simulated_flows()
    benign = table.filter(pl.Series(classes) == "benign")
    known = detector.reference
    assert (known.n_flows, known.n_benign) == (len(table), len(benign))
    quantiles = dict(zip(LEVELS, known.quantiles["bytes"], strict=True))
    assert quantiles[0.0] == pytest.approx(benign["bytes"].min(), rel=1e-5)
    assert quantiles[1.0] == pytest.approx(benign["bytes"].max(), rel=1e-5)
    assert (benign["bytes"] <= quantiles[0.99] * 1.00001).mean() == pytest.approx(0.99, abs=0.005)
    assert known.words["service"].share("other") is None
    assert known.words["service"].share("dns") == pytest.approx((benign["service"] == "dns").mean(), abs=1e-5)
    assert set(known.bins) == set(table.columns)
    assert known.bins["service"].share("other") > 0


def test_baselines_are_benign_flows_whose_mean_log_odds_is_theirs(detector):
    table, classes = simulated_flows()
    benign = table.filter(pl.Series(classes) == "benign")
    baselines, weights = detector.reference.baselines, np.array(detector.reference.baseline_weights)
    assert weights.sum() == pytest.approx(1)
    apart = np.abs(baselines["bytes"].to_numpy()[:, None] / benign["bytes"].to_numpy() - 1).min(axis=1)
    assert apart.max() < 1e-5  # six figures are kept
    odds = detector.decision.log_odds(detector.logits(benign))
    started = weights @ detector.decision.log_odds(detector.logits(baselines))
    assert started == pytest.approx(odds.mean(), abs=0.1 * odds.std())


def test_neither_order_nor_repetition_nor_presets_for_duplicates_matter():
    table, classes = simulated_flows(300)
    options = {"hidden": (4,), "min_steps": 20, "n_epochs": 1, "random_state": 0}
    weight = np.arange(300) % 3 + 1.0
    plain = DeepIDEAClassifier(**options).fit(table, classes, sample_weight=weight).reference_.contract()
    shuffled = np.random.default_rng(0).permutation(300)
    order = np.repeat(shuffled, weight[shuffled].astype(int))
    repeated = (
        DeepIDEAClassifier(**options, duplicates="drop", balance=0.5).fit(table[order], classes[order]).reference_
    )
    for entry in ("n_flows", "n_benign", "quantiles", "words", "bins"):
        assert repeated.contract()[entry] == plain[entry], entry


def test_a_file_keeps_it_and_is_small(detector, tmp_path):
    detector.save(tmp_path / "a.idea")
    loaded = Detector.load(tmp_path / "a.idea")
    assert loaded.reference.contract() == detector.reference.contract()
    assert "reference" not in loaded.card
    assert len(json.dumps(loaded.manifest)) < 100_000
    for other in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded)), loaded.with_options(n_threads=1)):
        assert other.manifest == detector.manifest


def test_a_file_without_it_loads(detector, tmp_path):
    detector.with_options(reference=None).save(tmp_path / "old.idea")
    old = Detector.load(tmp_path / "old.idea")
    assert old.reference is None
    assert "reference" not in old.manifest


def changed(contract, path, value):
    """Return a contract with one entry changed."""
    contract = copy.deepcopy(contract)
    *parents, last = path
    entry = contract
    for key in parents:
        entry = entry[key]
    entry[last] = value
    return contract


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["n_flows"], 0),
        (["n_benign"], "many"),
        (["levels"], [0.5]),
        (["quantiles", "bytes"], [3.0, 1.0] * 5 + [9.0]),
        (["quantiles", "bytes"], [1.0]),
        (["quantiles"], {}),
        (["quantiles", "bytes", 3], float("nan")),
        (["words", "service", "shares"], [2.0]),
        (["words", "service", "words"], [1, 2]),
        (["bins", "bytes"], {"edges": [2.0, 1.0], "shares": [0.5, 0.25, 0.25], "missing": 0.0}),
        (["bins", "bytes", "missing"], 7),
        (["bins", "service"], None),
        (["score_bins"], {}),
        (["score_bins", "shares"], "x"),
        (["starts", "weights"], []),
        (["starts", "weights"], [1.0] * 2000),
        (["starts", "columns", "bytes"], ["a"] * 32),
        (["starts", "columns"], {}),
        (["starts"], 3),
    ],
    ids=lambda part: str(part)[:40],
)
def test_what_a_file_says_is_audited(detector, path, value):
    contract = changed(detector.reference.contract(), path, value)
    with pytest.raises(ArtifactError, match="reference contract of a detector file"):
        Reference.from_contract(detector.schema, contract)


def test_a_forged_file_is_refused(detector, tmp_path):
    detector.save(tmp_path / "a.idea")
    with pytest.raises(ArtifactError, match="'reference'"):
        Detector.load(forged(tmp_path / "a.idea", reference=[1]))
    detector.save(tmp_path / "a.idea")
    with pytest.raises(ArtifactError, match="reference"):
        Detector.load(forged(tmp_path / "a.idea", site_reference={"n_flows": 3}))


def test_more_training_leaves_it_and_renews_the_scores():
    table, classes = simulated_flows(400)
    classifier = DeepIDEAClassifier(hidden=(4,), min_steps=20, n_epochs=1, random_state=0).fit(table, classes)
    before = classifier.reference_
    classifier.partial_fit(table.head(100), classes[:100])
    assert classifier.reference_.quantiles == before.quantiles
    assert classifier.reference_.score_bins != before.score_bins
    first = DeepIDEAClassifier(hidden=(4,), random_state=0).partial_fit(table, classes, classes=np.unique(classes))
    assert first.reference_.n_flows == 400
    assert first.to_detector().reference is first.reference_


def test_odd_numbers_are_kept_as_json_knows_them(tmp_path):
    table = pl.DataFrame({"rate": [np.inf, np.nan, -np.inf, 1.0, 2.0, 3.0] * 20, "empty": [None] * 120}).cast(
        pl.Float64
    )
    classes = np.array(["benign", "benign", "scan"] * 40)
    detector = DeepIDEAClassifier(hidden=(4,), min_steps=10, random_state=0).fit(table, classes).to_detector()
    detector.save(tmp_path / "odd.idea")
    known = Detector.load(tmp_path / "odd.idea").reference
    assert known.quantiles["empty"] == ()
    assert max(known.quantiles["rate"]) == 2.0
    assert known.bins["rate"].missing == pytest.approx(1 / 6, abs=1e-4)
