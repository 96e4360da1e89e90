"""Every system that is not a variant of the network: one contract, and what each promises beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from deepidea.benchmark.baselines import KNN, SVM, ExtraTrees, Majority, RandomForest, Tree, count_votes
from deepidea.benchmark.outputs import encode_rows, number_outputs
from deepidea.benchmark.systems import SYSTEMS, Fitted, Predictions, make_system
from deepidea.errors import LabelError, MissingExtraError
from deepidea.flows.labelled import LabelledFlows, labelled_flows_from_table
from deepidea.flows.simulate import simulate_flows

OTHERS = "deepidea.benchmark.variants"  # the networks
CLASSIC = "deepidea.benchmark.baselines"
NAMES = [name for name, info in SYSTEMS.items() if not info.home.startswith(OTHERS)]
SMALL = {
    **dict.fromkeys(("random-forest", "random-forest-labels", "extra-trees"), "n_trees=5"),
    **dict.fromkeys(("xgboost", "lightgbm"), "n_rounds=20"),
    "cnn": "channels=2,d_hidden=8,n_epochs=1",
    **dict.fromkeys(("lstm", "lstm-attack-sharing"), "d_hidden=8,n_epochs=1"),
    "generative": "n_steps=20,d_hidden=8,n_epochs=1",
}


def invented_flows() -> LabelledFlows:
    """Return simulated flows in two attack classes, with labels below them, in an order that is not the alphabet's."""
    flows, _ = labelled_flows_from_table(simulate_flows(n_flows=600), "label", "benign")
    probes = {"port_scan": "probe", "syn_flood": "probe"}
    classes = flows.labels.replace_strict({**probes, "benign": "benign"}, default="intrusion")
    return replace(flows, classes=classes.alias("class"), class_order=("benign", "probe", "intrusion"))


FLOWS = invented_flows()
TRAIN, TEST = FLOWS.take(np.arange(450)), FLOWS.take(np.arange(450, 600))


@cache
def fitted(name: str, seed: int = 0) -> Fitted:
    return make_system(f"{name}:{SMALL.get(name, '')}").fit(TRAIN, seed)


def same(a: Predictions, b: Predictions) -> bool:
    known = a.probabilities is not None and b.probabilities is not None
    equal = np.array_equal(a.probabilities, b.probabilities) if known else a.probabilities is b.probabilities
    return equal and np.array_equal(a.predicted, b.predicted) and np.array_equal(a.attack_score, b.attack_score)


# --- the contract ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_flow_gets_one_judgement(name: str) -> None:
    system = fitted(name)
    predictions = system.predict(TEST.features)
    assert system.classes == ("benign", "probe", "intrusion")
    assert predictions.predicted.dtype == np.int64
    assert predictions.predicted.shape == predictions.attack_score.shape == (len(TEST),)
    assert predictions.attack_score.dtype == np.float64
    assert set(predictions.predicted.tolist()) <= {0, 1, 2}
    assert json.loads(json.dumps(dict(system.parameters))) == dict(system.parameters)


@pytest.mark.parametrize("name", NAMES)
def test_its_decision_is_what_the_probabilities_give(name: str) -> None:
    system = fitted(name)
    predictions, decision = system.predict(TEST.features), system.decision
    assert decision.n_classes == 3
    if (p := predictions.probabilities) is not None:
        assert p.dtype == np.float32
        assert p.shape == (len(TEST), len(decision.prior))
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(predictions.attack_score, 1 - p[:, 0].astype(np.float64), atol=1e-5)
        if decision.temperature == 1:
            np.testing.assert_array_equal(
                decision.by_class(decision.corrected(p)).argmax(axis=1), predictions.predicted
            )


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    again = make_system(f"{name}:{SMALL.get(name, '')}").fit(TRAIN, 0)
    assert same(again.predict(TEST.features), fitted(name).predict(TEST.features))
    assert again.parameters == fitted(name).parameters


@pytest.mark.parametrize("name", NAMES)
def test_judging_teaches_nothing(name: str) -> None:
    before = fitted(name).predict(TEST.features)
    poison = TEST.features.with_columns(pl.lit(1e30).cast(pl.Float64).alias("duration_s"), service=pl.lit("poison"))
    fitted(name).predict(poison)
    assert same(fitted(name).predict(TEST.features), before)


@pytest.mark.parametrize("name", NAMES)
def test_flows_may_be_few_or_none(name: str) -> None:
    whole = fitted(name).predict(TEST.features)
    first = fitted(name).predict(TEST.features.head(100))
    np.testing.assert_array_equal(first.predicted, whole.predicted[:100])
    assert len(fitted(name).predict(TEST.features.clear()).predicted) == 0


@pytest.mark.parametrize("name", [name for name in NAMES if "lstm" not in name])
def test_order_of_flows_changes_nothing(name: str) -> None:
    turned = fitted(name).predict(TEST.features.reverse())
    np.testing.assert_array_equal(turned.predicted[::-1], fitted(name).predict(TEST.features).predicted)


@pytest.mark.parametrize("name", NAMES)
def test_classes_that_training_lacks_are_no_outputs(name: str) -> None:
    two = TRAIN.take((TRAIN.classes != "probe").to_numpy())
    system = make_system(f"{name}:{SMALL.get(name, '')}").fit(two, 0)
    assert system.classes == ("benign", "intrusion")
    assert set(system.predict(TEST.features).predicted.tolist()) <= {0, 1}


@pytest.mark.parametrize("name", [name for name in NAMES if SYSTEMS[name].home.startswith(CLASSIC)])
def test_it_learns_something(name: str) -> None:
    """Guessing benign gets a third of class-balanced accuracy; the rule, which knows two classes, hardly more."""
    truth = number_outputs(TEST).target
    predicted = fitted(name).predict(TEST.features).predicted
    least = {"majority": 0.33, "one-rule": 0.4}.get(name, 0.5)
    assert np.mean([(predicted[truth == code] == code).mean() for code in range(3)]) > least


# --- outputs -----------------------------------------------------------------------------------------------------


def test_labels_are_outputs_of_their_class_and_benign_is_one() -> None:
    outputs = number_outputs(TRAIN, labels=True)
    assert outputs.class_of == (0, 1, 1, 2, 2, 2)
    assert np.array_equal(np.array(outputs.class_of)[outputs.target], number_outputs(TRAIN).target)
    assert outputs.decision().prior == tuple((np.bincount(outputs.target) / len(TRAIN)).tolist())


def test_training_needs_benign_flows_and_attacks() -> None:
    with pytest.raises(LabelError, match="training needs benign flows and an attack"):
        Majority().fit(TRAIN.take((TRAIN.classes == "benign").to_numpy()), 0)
    with pytest.raises(LabelError, match="training needs benign flows and an attack"):
        Majority().fit(TRAIN.take((TRAIN.classes != "benign").to_numpy()), 0)


def test_collapsed_rows_weigh_as_many_flows_as_there_are() -> None:
    twice = repeated(TRAIN)
    rows = encode_rows(twice, duplicates="weigh")
    assert rows.weight.sum() == len(twice)
    assert encode_rows(twice, duplicates="drop").weight.sum() == len(rows.target) < len(twice)
    assert rows.decision == number_outputs(twice).decision()


# --- single systems ----------------------------------------------------------------------------------------------


def repeated(flows: LabelledFlows) -> LabelledFlows:
    """Return flows of which some come up to seven times, and some contradict each other."""
    rng = np.random.default_rng(0)
    many = flows.take(np.repeat(np.arange(len(flows)), rng.choice([1, 2, 3, 7], len(flows))))
    swapped = flows.classes.replace({"probe": "intrusion", "intrusion": "probe"})
    both = pl.concat([many.classes, swapped[:40].alias(many.classes.name)])
    return replace(
        many,
        table=pl.concat([many.table, flows.table[:40]]),
        labels=pl.concat([many.labels, flows.labels[:40]]),
        classes=both,
    )


def plain(train: LabelledFlows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all training flows, encoded like the collapsed rows, their classes, and the test flows."""
    encoder = encode_rows(train, duplicates="weigh").encoder
    return encoder.transform(train.features), number_outputs(train).target, encoder.transform(TEST.features)


def test_knn_votes_as_over_all_flows() -> None:
    train = repeated(TRAIN)
    x, y, x_test = plain(train)
    expected = KNeighborsClassifier(5, algorithm="brute").fit(x, y).predict_proba(x_test)
    given = KNN().fit(train, 0).predict(TEST.features).probabilities
    # where several flows are equally far as the fifth, either choice is right
    distances = np.sort(np.linalg.norm(x_test[:, None] - x[None], axis=2), axis=1)
    settled = distances[:, 5] - distances[:, 4] > 1e-6
    assert settled.sum() > 20
    np.testing.assert_allclose(given[settled], expected[settled], atol=1e-6)


def test_knn_on_its_training_flows_counts_copies() -> None:
    train = repeated(TRAIN)
    counts = train.features.with_columns(classes=train.classes).group_by(pl.all()).len()
    often = counts.filter(pl.col("len") == 7)
    judged = KNN().fit(train, 0).predict(often.select(TRAIN.features.columns))
    vectors = counts.group_by(TRAIN.features.columns).len("n_classes")
    alone = often.join(vectors, on=TRAIN.features.columns, how="left", nulls_equal=True)["n_classes"] == 1
    truth = often["classes"].replace_strict({"benign": 0, "probe": 1, "intrusion": 2})
    assert np.array_equal(judged.predicted[alone.to_numpy()], truth.filter(alone).to_numpy())


def test_votes_stop_at_the_number_of_neighbours() -> None:
    votes = np.array([[[1.0, 0.0], [1.0, 3.0], [9.0, 0.0]]])  # 1 + 4 flows are five; the third vector is too far
    np.testing.assert_allclose(count_votes(votes, 5), [[0.4, 0.6]])
    np.testing.assert_allclose(count_votes(votes, 3), [[1.5 / 3, 1.5 / 3]])
    np.testing.assert_allclose(count_votes(votes, 100), [[11 / 14, 3 / 14]])


def test_weighted_rows_make_the_tree_of_all_flows() -> None:
    train = repeated(TRAIN)
    x, y, x_test = plain(train)
    expected = DecisionTreeClassifier(max_depth=10, random_state=3).fit(x, y).predict_proba(x_test)
    given = Tree().fit(train, 3).predict(TEST.features).probabilities
    np.testing.assert_allclose(given, expected, atol=1e-6)


def test_weighted_rows_make_the_extra_trees_of_all_flows() -> None:
    train = repeated(TRAIN)
    x, y, x_test = plain(train)
    expected = ExtraTreesClassifier(5, random_state=3).fit(x, y).predict_proba(x_test)
    given = ExtraTrees(n_trees=5).fit(train, 3).predict(TEST.features).probabilities
    np.testing.assert_allclose(given, expected, atol=1e-6)


def test_svm_is_that_of_all_flows_and_reports_whether_it_converged() -> None:
    train = repeated(TRAIN)
    x, y, x_test = plain(train)
    expected = LinearSVC(max_iter=100, dual=False).fit(x, y).predict(x_test)
    system = SVM().fit(train, 0)
    assert (system.predict(TEST.features).predicted == expected).mean() > 0.98
    assert SVM(max_iter=1).fit(train, 0).parameters["converged"] is False


def test_a_forest_on_labels_adds_them_up() -> None:
    system = RandomForest(labels=True, n_trees=5).fit(TRAIN, 0)
    predictions = system.predict(TEST.features)
    assert system.decision.class_of == (0, 1, 1, 2, 2, 2)
    by_class = system.decision.by_class(predictions.probabilities)
    np.testing.assert_array_equal(by_class.argmax(axis=1), predictions.predicted)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "xgboost", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'deepidea\[benchmark\]'"):
        make_system("xgboost")
