import numpy as np
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from deepidea.model.estimators import DeepIDEAClassifier
from deepidea.model.losses import LOSSES
from tests.model.conftest import simulated_flows

SMALL = {"hidden": (16,), "dropout": 0.0, "learning_rate": 1e-2, "min_steps": 300, "random_state": 0}


@parametrize_with_checks([DeepIDEAClassifier(hidden=(64, 64), random_state=0)])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def test_learns_overlapping_classes(classifier):
    table, classes = simulated_flows(2000, seed=2)
    predicted = classifier.predict(table)
    recalls = [np.mean(predicted[classes == name] == name) for name in np.unique(classes)]
    assert np.mean(recalls) > 0.85


def test_runs_are_reproducible_to_the_bit():
    table, classes = simulated_flows()
    first, second = (DeepIDEAClassifier(**SMALL).fit(table, classes) for _ in range(2))
    assert np.array_equal(first.predict_proba(table), second.predict_proba(table))
    other = DeepIDEAClassifier(**{**SMALL, "random_state": 1}).fit(table, classes)
    assert not np.array_equal(first.predict_proba(table), other.predict_proba(table))


@pytest.mark.parametrize("duplicates", ["weigh", "drop"])
def test_order_of_rows_does_not_matter(duplicates):
    table, classes = simulated_flows()
    order = np.random.default_rng(0).permutation(len(table))
    first = DeepIDEAClassifier(**SMALL, duplicates=duplicates).fit(table, classes)
    second = DeepIDEAClassifier(**SMALL, duplicates=duplicates).fit(table[order], classes[order])
    assert np.array_equal(first.predict_proba(table), second.predict_proba(table))


def test_a_weight_of_three_is_the_row_three_times():
    table, classes = simulated_flows(200)
    weight = np.random.default_rng(0).integers(0, 4, 200)
    repeated = np.repeat(np.arange(200), weight)
    first = DeepIDEAClassifier(**SMALL).fit(table, classes, sample_weight=weight)
    second = DeepIDEAClassifier(**SMALL).fit(table[repeated], classes[repeated])
    assert np.array_equal(first.predict_proba(table), second.predict_proba(table))


def test_dropping_duplicates_forgets_how_often_a_row_came():
    table, classes = simulated_flows(200)
    twice = np.concatenate([np.arange(200), np.arange(50)])
    first = DeepIDEAClassifier(**SMALL, duplicates="drop").fit(table, classes)
    second = DeepIDEAClassifier(**SMALL, duplicates="drop").fit(table[twice], classes[twice])
    assert np.array_equal(first.predict_proba(table), second.predict_proba(table))


def test_benign_is_found_or_told():
    table, classes = simulated_flows(200)
    assert DeepIDEAClassifier(**SMALL).fit(table, classes).benign_ == "benign"
    assert DeepIDEAClassifier(**SMALL, benign="scan").fit(table, classes).to_detector().benign == "scan"
    with pytest.raises(ValueError, match="benign must be among"):
        DeepIDEAClassifier(**SMALL, benign="normal").fit(table, classes)


def test_balanced_weights_give_an_even_prior():
    table, classes = simulated_flows()
    prior = DeepIDEAClassifier(**SMALL, class_weight="balanced").fit(table, classes).decision_.prior
    assert prior == pytest.approx([1 / 3] * 3, abs=0.01)


def test_costs_shift_decisions_and_not_the_prior():
    table, classes = simulated_flows()
    plain = DeepIDEAClassifier(**SMALL).fit(table, classes)
    shifted = DeepIDEAClassifier(**SMALL, class_weight={"scan": 20.0}).fit(table, classes)
    assert shifted.decision_.prior == plain.decision_.prior
    assert (shifted.predict(table) == "scan").sum() > (plain.predict(table) == "scan").sum()


@pytest.mark.parametrize("loss", LOSSES)
def test_any_loss_finds_rare_attacks(loss):
    table, classes = simulated_flows(2000)
    new, truth = simulated_flows(1000, seed=2)
    predicted = DeepIDEAClassifier(loss=loss, balance=0.5, **SMALL).fit(table, classes).predict(new)
    assert np.mean([np.mean(predicted[truth == name] == name) for name in np.unique(truth)]) > 0.9


@pytest.mark.parametrize("loss", ["attack-sharing", "logit-adjusted", "balanced-softmax"])
def test_where_a_loss_allows_it_probabilities_are_those_of_the_training_flows(loss):
    table, classes = simulated_flows(3000)
    p = DeepIDEAClassifier(loss=loss, **SMALL).fit(table, classes).predict_proba(table)
    assert p.mean(axis=0) == pytest.approx([np.mean(classes == name) for name in np.unique(classes)], abs=0.03)


def test_the_prior_follows_the_weights_of_a_loss():
    table, classes = simulated_flows()
    benign, *attacks = DeepIDEAClassifier(loss="hierarchical", **SMALL).fit(table, classes).decision_.prior
    assert attacks == pytest.approx([(1 - benign) / 2] * 2)
    even = DeepIDEAClassifier(loss="class-balanced", **SMALL).fit(table, classes).decision_.prior
    assert even == pytest.approx([1 / 3] * 3, abs=0.02)  # few flows: their effective number is their number


def test_an_adjusted_loss_goes_on_where_it_stopped():
    table, classes = simulated_flows()
    frozen = {**SMALL, "min_steps": 1, "n_epochs": 1, "learning_rate": 1e-12}
    classifier = DeepIDEAClassifier(loss="logit-adjusted", **frozen, validation_fraction=0.0).fit(table, classes)
    before = classifier.predict_proba(table)
    assert np.allclose(classifier.partial_fit(table, classes).predict_proba(table), before, atol=1e-6)


def test_labels_are_told_apart_and_added_up():
    table, classes = simulated_flows(1200)
    attack = np.where(classes == "benign", "benign", "attack")
    classifier = DeepIDEAClassifier(**SMALL, balance=0.5).fit(table, attack, labels=classes)
    verdicts = classifier.detector_.score(table)
    assert classifier.detector_.labels == ("benign", "flood", "scan")
    assert verdicts.columns == ["class", "label", "score", "p_benign", "p_attack", "anomaly", "unknown"]
    assert np.mean(verdicts["class"].to_numpy() == attack) > 0.9
    assert np.mean(verdicts["label"].to_numpy() == classes) > 0.9
    assert ((verdicts["label"] == "benign") == (verdicts["class"] == "benign")).all()


def test_labels_must_fit():
    table, classes = simulated_flows(50)
    attack = np.where(classes == "benign", "benign", "attack")
    with pytest.raises(ValueError, match="labels must name each"):
        DeepIDEAClassifier(**SMALL).fit(table, attack, labels=classes[:10])
    with pytest.raises(ValueError, match="one class"):
        DeepIDEAClassifier(**SMALL).fit(table, classes, labels=["same"] * 50)


def test_partial_fit_continues():
    table, classes = simulated_flows(1200)
    classifier = DeepIDEAClassifier(**SMALL).fit(table[:600], classes[:600])
    before = classifier.predict_proba(table)
    classifier.partial_fit(table[600:], classes[600:])
    assert not np.array_equal(before, classifier.predict_proba(table))
    with pytest.raises(ValueError, match="y must hold classes"):
        classifier.partial_fit(table[:2], ["benign", "never seen"])


def test_partial_fit_needs_all_classes_first():
    table, classes = simulated_flows(100)
    with pytest.raises(ValueError, match="classes must be given"):
        DeepIDEAClassifier(**SMALL).partial_fit(table, classes)


def test_temperature_is_fitted_on_held_out_rows():
    table, classes = simulated_flows(2000)
    fitted = DeepIDEAClassifier(**SMALL, temperature="auto").fit(table, classes)
    assert 0.2 < fitted.decision_.temperature < 5
    assert fitted.decision_.temperature != 1.0


def test_takes_infinite_and_missing_values():
    table, classes = simulated_flows(200)
    hostile = table.with_columns(
        pl.when(pl.int_range(pl.len()) % 5 == 0).then(float("inf")).otherwise("bytes").alias("bytes")
    )
    hostile = hostile.with_columns(
        pl.when(pl.int_range(pl.len()) % 7 == 0).then(None).otherwise("packets").alias("packets")
    )
    assert np.isfinite(DeepIDEAClassifier(**SMALL).fit(hostile, classes).predict_proba(hostile)).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"duplicates": "maybe"},
        {"device": "tpu"},
        {"n_epochs": 0},
        {"learning_rate": -1},
        {"validation_fraction": 1.0},
        {"balance": 2},
        {"loss": "hinge"},
    ],
)
def test_refuses_wrong_parameters_when_fitted(wrong):
    table, classes = simulated_flows(50)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        clone(DeepIDEAClassifier(**{**SMALL, **wrong})).fit(table, classes)


def test_a_single_class_is_told():
    table, _ = simulated_flows(50)
    with pytest.raises(ValueError, match="at least two classes"):
        DeepIDEAClassifier(**SMALL).fit(table, ["benign"] * 50)
