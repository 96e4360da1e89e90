from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from deepidea.errors import ArtifactError
from deepidea.model import artifact
from deepidea.model.decision import Decision
from deepidea.model.detector import Detector
from deepidea.model.estimators import DeepIDEAClassifier
from deepidea.model.graph import audit_graph
from deepidea.model.novelty import UNKNOWN_RATE, Ellipsoid, HeldOutScores, Novelty, last_hidden, sample_sides
from tests.model.conftest import simulated_flows


def clouds(n_flows: int = 4000, seed: int = 0):
    """Benign flows around 0, attacks around 6, in eight dimensions of unequal width; log-odds that know the two."""
    rng = np.random.default_rng(seed)
    is_attack = rng.random(n_flows) < 0.3
    hidden = rng.normal(size=(n_flows, 8)) * np.linspace(0.2, 2, 8) + 6 * is_attack[:, None]
    return hidden.astype(np.float32), is_attack, hidden.mean(axis=1) - 3


def fitted(seed: int = 0):
    hidden, is_attack, _ = clouds(seed=seed)
    ellipsoids = [Ellipsoid.fit(hidden[side], np.ones(side.sum()), 8) for side in (~is_attack, is_attack)]
    held_out, is_attack, log_odds = clouds(seed=seed + 100)
    return ellipsoids, Novelty.fit(log_odds, distances(ellipsoids, held_out), is_attack)


def distances(ellipsoids, hidden):
    return np.stack([of.distances(hidden) for of in ellipsoids], axis=1)


# --- distances ---------------------------------------------------------------------------------------------------


def test_the_distance_is_that_of_mahalanobis():
    hidden, is_attack, _ = clouds()
    benign = hidden[~is_attack].astype(np.float64)
    apart = benign - benign.mean(axis=0)
    expected = np.einsum("ij,jk,ik->i", apart, np.linalg.inv(apart.T @ apart / len(apart)), apart)
    found = Ellipsoid.fit(hidden[~is_attack], np.ones(len(benign)), 8).distances(hidden[~is_attack])
    assert found == pytest.approx(expected, rel=0.05)  # shrinkage takes a little off the narrowest axis


def test_a_weight_of_three_is_three_rows():
    hidden = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    weight = np.where(np.arange(50) < 10, 3.0, 1.0)
    repeated = np.repeat(hidden, weight.astype(int), axis=0)
    one, other = Ellipsoid.fit(hidden, weight, 2), Ellipsoid.fit(repeated, np.ones(len(repeated)), 2)
    assert one.distances(hidden) == pytest.approx(other.distances(hidden), rel=1e-3)


def test_few_axes_keep_what_is_far_far():
    rng = np.random.default_rng(1)
    flat = rng.normal(size=(500, 8)).astype(np.float32) * np.array([5, 4, 1, 1, 1, 1, 1, 1], np.float32)
    ellipsoid = Ellipsoid.fit(flat, np.ones(500), 2)
    beside = np.eye(8, dtype=np.float32)[7:] * 9  # along an axis that is not kept
    assert ellipsoid.axes.shape == (2, 8)
    assert ellipsoid.distances(beside) > np.quantile(ellipsoid.distances(flat), 0.99)


def test_units_that_never_fire_break_nothing():
    dead = np.zeros((20, 5), np.float32)
    assert np.isfinite(Ellipsoid.fit(dead, np.ones(20), 3).distances(dead + 1)).all()


# --- rates -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=60), st.floats(0.05, 1))
def test_the_rate_holds_on_exchangeable_scores_with_ties(values, alpha):
    """Each of n + 1 scores in turn is the new one: at most alpha of them may get a share of at most alpha."""
    scores = np.array([*values, 0], float)
    shares = [
        HeldOutScores.of(np.delete(scores, at)).share_as_high(scores[at : at + 1])[0] for at in range(len(scores))
    ]
    inside = alpha >= 1 / len(scores)  # below, the tail is extrapolated
    assert not inside or np.mean(np.array(shares) <= alpha + 1e-12) <= alpha + 1e-9


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=50))
def test_a_higher_score_is_never_more_usual(values):
    held_out = HeldOutScores.of(np.array(values))
    shares = held_out.share_as_high(np.linspace(-60, 60, 500))
    assert (np.diff(shares) <= 0).all()
    assert shares[0] == 1


def test_ranks_of_many_scores_are_thinned_but_the_highest():
    scores = np.random.default_rng(0).normal(size=50_000)
    held_out = HeldOutScores.of(scores)
    assert len(held_out.scores) == 1000
    assert held_out.scores[-500:].tolist() == np.sort(scores)[-500:].tolist()
    for level in (-1.0, 0.0, 2.0):
        assert held_out.share_as_high(np.array([level]))[0] == pytest.approx((scores >= level).mean(), abs=0.002)


def test_the_stated_rates_hold_on_fresh_flows():
    ellipsoids, novelty = fitted()
    hidden, is_attack, log_odds = clouds(20_000, seed=7)
    apart = distances(ellipsoids, hidden)
    anomaly = novelty.anomaly(log_odds, apart)[~is_attack]
    for alpha in (0.1, 0.01):
        assert (anomaly >= 1 - alpha).mean() == pytest.approx(alpha, rel=0.35)
    unknown = novelty.is_unknown(apart)
    assert unknown[~is_attack].mean() < 1.5 * UNKNOWN_RATE
    assert unknown[is_attack].mean() < 1.5 * UNKNOWN_RATE


def test_what_lies_far_from_both_is_unknown_and_ranks_above_benign():
    ellipsoids, novelty = fitted()
    hidden, is_attack, log_odds = clouds(seed=3)
    new = np.random.default_rng(4).normal(size=(200, 8)).astype(np.float32) + np.array([9, -9] * 4, np.float32)
    assert novelty.is_unknown(distances(ellipsoids, new)).all()
    # log-odds that take the new flows for benign: distance alone must show them
    anomaly = novelty.anomaly(np.full(200, -3.0), distances(ellipsoids, new))
    usual = novelty.anomaly(log_odds, distances(ellipsoids, hidden))[~is_attack]
    truth = np.repeat([1, 0], [200, len(usual)])
    assert roc_auc_score(truth, np.concatenate([anomaly, usual])) > 0.99
    assert novelty.anomaly(log_odds, distances(ellipsoids, hidden))[is_attack].min() > 0.99


def test_too_few_held_out_flows_make_nothing_unknown():
    few = np.arange(6, dtype=np.float32).reshape(3, 2)
    novelty = Novelty.fit(np.zeros(3), few, np.array([False, False, True]))
    assert not novelty.is_unknown(np.full((4, 2), 1e9, np.float32)).any()


@pytest.mark.parametrize(("most", "drawn"), [(5, 8), (100, 33)])
def test_of_either_side_at_most_so_many_are_drawn(most, drawn):
    is_attack = np.arange(33) >= 30
    chosen = sample_sides(is_attack, seed=0, most=most)
    assert chosen.sum() == drawn
    assert chosen[is_attack].all()


# --- in a detector -----------------------------------------------------------------------------------------------


def test_the_graph_gives_the_distances_that_were_fitted(detector, classifier, flows):
    hidden = last_hidden(classifier._layers(), classifier.encoder_.transform(flows))
    given = np.concatenate(detector._run_padded(flows)[1:], axis=1)[: len(flows)]
    # a distance is the small difference of two large single-precision numbers
    assert given == pytest.approx(distances(classifier.ellipsoids_, hidden), rel=0.02, abs=0.25)
    audit_graph(detector.graph)


def test_a_saved_detector_keeps_it_to_the_bit(detector, flows, tmp_path):
    detector.save(tmp_path / "model.idea")
    loaded = Detector.load(tmp_path / "model.idea")
    assert loaded.novelty.contract() == detector.novelty.contract()
    assert loaded.score(flows).select("anomaly", "unknown").equals(detector.score(flows).select("anomaly", "unknown"))


def test_flows_like_none_of_training_are_marked(detector):
    strange = pl.DataFrame({"packets": [1.0] * 5, "bytes": [1e9] * 5, "service": ["never seen"] * 5})
    usual = simulated_flows(2000, seed=9)
    verdicts = detector.score(usual[0])
    assert detector.score(strange)["anomaly"].min() > 0.99
    assert (verdicts["anomaly"].to_numpy()[usual[1] == "benign"] > 0.95).mean() < 0.1


@pytest.mark.parametrize("changes", [{"novelty": "none"}, {"validation_fraction": 0.0}, {"hidden": ()}])
def test_without_what_it_needs_a_detector_does_not_report(changes):
    table, classes = simulated_flows(200)
    changes = {"hidden": (8,), "n_epochs": 1, "min_steps": 5, "random_state": 0} | changes
    detector = DeepIDEAClassifier(**changes).fit(table, classes).to_detector()
    assert detector.novelty is None
    assert "novelty" not in detector.manifest
    assert not {"anomaly", "unknown"} & set(detector.score(table).columns)


def test_further_training_drops_what_no_longer_holds():
    table, classes = simulated_flows(300)
    classifier = DeepIDEAClassifier(hidden=(8,), n_epochs=1, min_steps=5, random_state=0).fit(table, classes)
    assert classifier.detector_.novelty is not None
    assert classifier.partial_fit(table, classes).detector_.novelty is None


def test_a_detector_file_of_before_loads_and_does_not_report(flows, tmp_path, monkeypatch):
    table, classes = simulated_flows(200)
    classifier = DeepIDEAClassifier(hidden=(8,), n_epochs=1, min_steps=5, random_state=0, novelty="none")
    classifier.fit(table, classes).to_detector().save(tmp_path / "old.idea")
    assert "novelty" not in artifact.read_artifact(tmp_path / "old.idea")[0]
    assert Detector.load(tmp_path / "old.idea").score(flows).columns[:3] == ["class", "score", "p_benign"]


def test_its_contract_is_json_and_comes_back():
    _, novelty = fitted()
    for known in (novelty, replace(novelty, bounds=(1.0, np.inf))):
        written = json.dumps(known.contract(), allow_nan=False)
        again = Novelty.from_contract(json.loads(written))
        assert json.dumps(again.contract()) == written
        assert again.bounds == known.bounds


@pytest.mark.parametrize(
    "changes",
    [{"centres": [1]}, {"spreads": [0.0, 1.0]}, {"benign": {}}, {"bounds": 3}]
    + [
        {"benign": {"scores": s, "shares": p, "tail": t}}
        for s, p, t in (([], [], 1), ([2, 1], [1, 1], 1), ([1], [2], 1))
    ]
    + [{"benign": {"scores": [1], "log_shares": [0], "tail": 0}}],
)
def test_a_contract_that_does_not_fit_is_refused(changes):
    contract = fitted()[1].contract() | changes
    with pytest.raises(ArtifactError, match="novelty contract"):
        Novelty.from_contract(contract)


def test_a_graph_with_distances_goes_with_novelty_alone(detector):
    with pytest.raises(ArtifactError, match=r"model\.onnx maps"):
        Detector(detector.encoder, detector.decision, detector.classes, detector.labels, detector.graph)


def test_the_card_says_what_is_reported(detector, capsys):
    from deepidea.cli.model_card import show_card

    show_card(detector)
    assert "unknown never: too few held-out" in " ".join(capsys.readouterr().out.split())


# --- what is not called benign ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.4])
def test_what_is_unlike_benign_is_not_called_benign(detector, flows, rate):
    rated = detector.with_options(novelty=replace(detector.novelty, rate=rate))
    before, after = rated.with_options(novelty=replace(detector.novelty, rate=0.0)).score(flows), rated.score(flows)
    refused = after["anomaly"] > 1 - rate
    assert not (after.filter(refused)["class"] == "benign").any()
    assert after.filter(~refused).equals(before.filter(~refused))
    assert after.drop("class").equals(before.drop("class"))  # what is said of a flow stays, its class may not
    attacks = after.filter(refused).select("p_flood", "p_scan").to_numpy() / np.array(detector.decision.prior[1:])
    assert np.array_equal(after.filter(refused)["class"], np.array(["flood", "scan"])[attacks.argmax(axis=1)])


def test_benign_flows_are_lost_to_it_at_its_rate():
    hidden, is_attack, log_odds = clouds(8000, seed=3)
    ellipsoids, novelty = fitted()
    anomaly = novelty.anomaly(log_odds, distances(ellipsoids, hidden))
    for rate in (0.01, 0.05, 0.2):
        lost = (anomaly[~is_attack] > 1 - rate).mean()
        assert lost == pytest.approx(rate, abs=0.4 * rate)


def test_the_likeliest_attack_is_found_however_sure_benign_is():
    logits = np.array([[900.0, -3.0, -2.0], [900.0, -2.0, -3.0]], np.float32)  # as probabilities both attacks are 0
    shares = Decision((0.8, 0.1, 0.1)).shares(logits, np.array([True, True]))
    assert shares.argmax(axis=1).tolist() == [2, 1]


def test_a_file_written_before_there_was_a_rate_lets_the_network_decide(detector):
    contract = detector.novelty.contract()
    del contract["rate"]
    assert Novelty.from_contract(contract).rate == 0


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_is_a_share(detector, flows, rate):
    with pytest.raises(ArtifactError, match=r"novelty contract .*: rate must be in \[0, 1\)"):
        Novelty.from_contract({**detector.novelty.contract(), "rate": rate})
    with pytest.raises(ValueError, match=r"novelty_rate must be in \[0, 1\)"):
        DeepIDEAClassifier(novelty_rate=rate).fit(flows, ["benign", *["scan"] * (len(flows) - 1)])
