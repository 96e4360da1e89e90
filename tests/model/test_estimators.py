from dataclasses import fields, is_dataclass
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from deepidea.evaluation.shards import shards_to_train
from deepidea.model.detector import Detector
from deepidea.model.estimators import DeepIDEAClassifier
from deepidea.model.losses import LOSSES
from deepidea.model.training import Epoch
from deepidea.model.warm_start import WarmStart
from tests.model.conftest import simulated_flows

SMALL = {"hidden": (16,), "dropout": 0.0, "learning_rate": 1e-2, "min_steps": 300, "random_state": 0}


@parametrize_with_checks([DeepIDEAClassifier(**SMALL)])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.fixture(scope="session")
def small() -> DeepIDEAClassifier:
    """Return the smallest classifier, fitted to the simulated flows."""
    return DeepIDEAClassifier(**SMALL).fit(*simulated_flows())


def test_learns_overlapping_classes(classifier):
    table, classes = simulated_flows(2000, seed=2)
    predicted = classifier.predict(table)
    recalls = [np.mean(predicted[classes == name] == name) for name in np.unique(classes)]
    assert np.mean(recalls) > 0.85


def test_runs_are_reproducible_to_the_bit(small):
    table, classes = simulated_flows()
    again = DeepIDEAClassifier(**SMALL).fit(table, classes)
    assert np.array_equal(small.predict_proba(table), again.predict_proba(table))
    other = DeepIDEAClassifier(**{**SMALL, "random_state": 1}).fit(table, classes)
    assert not np.array_equal(small.predict_proba(table), other.predict_proba(table))


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


def test_benign_is_found_or_named(small):
    table, classes = simulated_flows(200)
    assert small.benign_ == "benign"
    assert DeepIDEAClassifier(**SMALL, benign="scan").fit(table, classes).to_detector().benign == "scan"
    with pytest.raises(ValueError, match="benign must be among"):
        DeepIDEAClassifier(**SMALL, benign="normal").fit(table, classes)


def test_balanced_weights_give_an_even_prior():
    table, classes = simulated_flows()
    prior = DeepIDEAClassifier(**SMALL, class_weight="balanced").fit(table, classes).decision_.prior
    assert prior == pytest.approx([1 / 3] * 3, abs=0.01)


def test_costs_shift_decisions_and_not_the_prior(small):
    table, classes = simulated_flows()
    shifted = DeepIDEAClassifier(**SMALL, class_weight={"scan": 20.0}).fit(table, classes)
    assert shifted.decision_.prior == small.decision_.prior
    assert (shifted.predict(table) == "scan").sum() > (small.predict(table) == "scan").sum()


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


def test_labels_are_distinguished_and_added_up():
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
    with pytest.raises(ValueError, match="must belong to one class"):
        DeepIDEAClassifier(**SMALL).fit(table, classes, labels=["same"] * 50)


def test_partial_fit_continues():
    table, classes = simulated_flows(1200)
    classifier = DeepIDEAClassifier(**SMALL).fit(table[:600], classes[:600])
    before = classifier.predict_proba(table)
    classifier.partial_fit(table[600:], classes[600:])
    assert not np.array_equal(before, classifier.predict_proba(table))
    with pytest.raises(ValueError, match="unknown classes in y"):
        classifier.partial_fit(table[:2], ["benign", "never seen"])


def test_partial_fit_needs_all_classes_first():
    table, classes = simulated_flows(100)
    with pytest.raises(ValueError, match="needs all classes"):
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


# --- fitting again ---------------------------------------------------------------------------------------------------


def plain(value):
    """Return a fitted attribute as plain values that compare equal where the attributes are."""
    if isinstance(value, Detector):
        return plain(vars(value) | {"_session": None})
    if isinstance(value, torch.nn.Module):
        return plain({name: tensor.numpy() for name, tensor in value.state_dict().items()})
    if isinstance(value, Epoch):  # its time differs from run to run
        return value.number, value.n_epochs, value.loss, repr(value.validation_cba)
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return value.dtype, value.tolist()
    return value.to_dict(as_series=False) if isinstance(value, pl.DataFrame) else value


def fit_labels(classifier, tmp_path):
    table, classes = simulated_flows(300, seed=3)
    attack = np.where(classes == "benign", "benign", "attack")
    classifier.set_params(temperature="auto").fit(table, attack, labels=classes)


def fit_array(classifier, tmp_path):
    rng = np.random.default_rng(0)
    classifier.fit(rng.normal(size=(200, 4)), rng.choice(["benign", "flood", "worm"], 200))


def fit_one_side(classifier, tmp_path):
    table, classes = simulated_flows(300, seed=4)
    classifier.set_params(benign="scan", novelty="none").fit(table.drop("service"), classes)


def fit_from_start(classifier, tmp_path):
    table, classes = simulated_flows(300, seed=5)
    start = DeepIDEAClassifier(**SMALL, loss="logit-adjusted").fit(table, classes).to_detector()
    table, classes = simulated_flows(300, seed=6)
    classifier.set_params(loss="logit-adjusted").fit(table, classes, start=WarmStart.of(start, "logit-adjusted"))


def fit_shards(classifier, tmp_path):
    table, classes = simulated_flows(300, seed=7)
    path = tmp_path / "flows.csv"
    table.with_columns(label=pl.Series(classes)).write_csv(path)
    tmp_path.joinpath("shards").mkdir(exist_ok=True)
    classifier.fit_shards(
        shards_to_train([path], tmp_path / "shards", n_shards=2, label="label", benign="benign").flows
    )


def fit_in_parts(classifier, tmp_path):
    table, classes = simulated_flows(200, seed=8)
    classifier.partial_fit(table, classes, np.unique(classes))


FITS = [fit_labels, fit_array, fit_one_side, fit_from_start, fit_shards, fit_labels, fit_array]


@pytest.mark.parametrize(("first", "second"), [*pairwise(FITS), (fit_in_parts, fit_one_side)])
def test_every_fit_sets_every_fitted_attribute_anew(first, second, tmp_path):
    again, fresh = (DeepIDEAClassifier(**SMALL | {"min_steps": 20, "n_epochs": 2}) for _ in range(2))
    first(again, tmp_path)
    again.set_params(**fresh.get_params())
    second(again, tmp_path)
    second(fresh, tmp_path)
    assert set(vars(again)) == set(vars(fresh))
    for name, value in vars(fresh).items():
        assert plain(getattr(again, name)) == plain(value), name


def test_a_single_class_is_reported():
    table, _ = simulated_flows(50)
    with pytest.raises(ValueError, match="at least two classes"):
        DeepIDEAClassifier(**SMALL).fit(table, ["benign"] * 50)
