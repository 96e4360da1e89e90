"""The network rows of the benchmark, on flows that are invented."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from deepidea.benchmark import outputs, variants
from deepidea.benchmark.outputs import collapse_rows, number_outputs
from deepidea.benchmark.systems import SYSTEMS, make_system
from deepidea.benchmark.variants import DefaultNetwork, ForestStack, PaperNetwork, one_sided_rows
from deepidea.errors import DataError
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.simulate import simulate_flows
from tests.conftest import TINY

ROWS = [name for name, info in SYSTEMS.items() if info.home.startswith("deepidea.benchmark.variants:")]
SMALL = {**TINY, "min_steps": 100}


@pytest.fixture(scope="module")
def flows():
    return labelled_flows_from_table(simulate_flows(n_flows=1200, seed=1), "label", "benign")[0]


@pytest.fixture(scope="module")
def typed(flows):
    """The same flows in two classes, with the kinds of attack as native labels."""
    classes = flows.classes.replace(dict.fromkeys(flows.class_order[1:], "attack"))
    return replace(flows, classes=classes, class_order=("benign", "attack"))


def balanced_recall(fitted, flows):
    predicted = np.array(fitted.classes)[fitted.predict(flows.features).predicted]
    truth = flows.classes.to_numpy()
    return np.mean([np.mean(predicted[truth == name] == name) for name in fitted.classes])


def small(name):
    """A row of the benchmark with the smallest network that learns anything."""
    system = make_system(name)
    network = getattr(system, "network", system)
    network.changes.update(SMALL)
    if isinstance(system, ForestStack):
        system.forests = tuple(replace(forest, n_trees=10) for forest in system.forests)
    return system


@pytest.mark.parametrize("name", ROWS)
def test_every_row_trains_and_judges(name, flows):
    fitted = small(name).fit(flows, seed=0)
    predictions = fitted.predict(flows.features)
    assert fitted.classes == ("benign", *sorted(flows.class_order[1:]))
    assert predictions.probabilities.dtype == np.float32
    assert predictions.probabilities.sum(axis=1) == pytest.approx(np.ones(len(flows)), abs=1e-5)
    assert predictions.attack_score == pytest.approx(1 - predictions.probabilities[:, 0].astype(float))
    assert len(fitted.decision.prior) == predictions.probabilities.shape[1]
    assert json.loads(json.dumps(fitted.parameters)) == fitted.parameters
    assert balanced_recall(fitted, flows) > 0.25  # a guess has 1/6


@pytest.mark.parametrize("name", ["mlp-under", "deepidea-forests"])
def test_a_seed_decides_all(name, flows):
    first, again, other = (small(name).fit(flows, seed).predict(flows.features).probabilities for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_its_own_verdicts_are_those_of_the_detector(flows):
    fitted = DefaultNetwork(**SMALL).fit(flows, seed=0)
    predictions = fitted.predict(flows.features)
    assert (
        np.array(fitted.classes)[predictions.predicted].tolist()
        == fitted.detector.score(flows.features)["class"].to_list()
    )
    logits = np.log(predictions.probabilities)
    assert np.mean(fitted.decision.classify(logits) == predictions.predicted) > 0.999


def test_a_judgement_keeps_the_order_of_flows_across_blocks(flows, monkeypatch):
    fitted = ForestStack(n_trees=3, **SMALL).fit(flows, seed=0)
    whole = fitted.predict(flows.features).probabilities
    for module in (variants, outputs):
        monkeypatch.setattr(module, "BLOCK_FLOWS", 500)
    assert np.array_equal(fitted.predict(flows.features).probabilities, whole)


def test_labels_are_outputs_of_their_class(typed):
    fitted = DefaultNetwork(labels=True, **SMALL).fit(typed, seed=0)
    assert fitted.classes == ("benign", "attack")
    assert fitted.decision.class_of == (0, 1, 1, 1, 1, 1)
    assert fitted.predict(typed.features).probabilities.shape == (len(typed), 6)


def test_parameters_reach_the_classifier_and_those_unknown_are_refused():
    system = make_system("focal:attack_weight=3,n_epochs=5")
    assert system.changes == {"loss": "focal", "attack_weight": 3, "n_epochs": 5}
    with pytest.raises(DataError, match="parameters that focal has"):
        make_system("focal:depth=3")
    with pytest.raises(DataError, match=r"cannot change schema to .*: fit takes the schema of the flows"):
        make_system("deepidea-forests:schema=kdd99")
    with pytest.raises(DataError, match=r"cannot make .*: sampling must be one of"):
        make_system("deepidea:sampling=smote")
    with pytest.raises(ValueError, match="sampling must be one of"):
        PaperNetwork(sampling="smote")


def test_logit_adjusted_and_balanced_softmax_are_one_row_under_two_names(flows):
    first, second = (small(name).fit(flows, seed=0) for name in ("logit-adjusted", "balanced-softmax"))
    assert np.array_equal(first.assess(flows.features).logits, second.assess(flows.features).logits)
    assert first.decision == second.decision
    assert "= logit-adjusted" in SYSTEMS["balanced-softmax"].title


# --- sampling --------------------------------------------------------------------------------------------------------


def first_rows(flows, **sizes):
    """The first flows of some classes."""
    return np.concatenate([np.flatnonzero(flows.classes == name)[:size] for name, size in sizes.items()])


def test_over_sampling_is_weight(flows):
    few = first_rows(flows, benign=10, port_scan=10, syn_flood=5)
    copies = np.concatenate([few, few[-5:]])
    options = {"validation_fraction": 0.0, "scaling": "min-max", **SMALL}  # whose encoding heeds no weight
    weighed = PaperNetwork(sampling="over", **options).fit(flows.take(few), seed=0)
    copied = PaperNetwork(**options).fit(flows.take(copies), seed=0)
    assert weighed.decision.prior == pytest.approx(copied.decision.prior)
    assert weighed.decision.prior == pytest.approx([1 / 3] * 3)


def distinct(flows):
    return flows.take(collapse_rows(flows, number_outputs(flows, labels=True))[0])


def test_distinct_rows_do_not_depend_on_order(flows):
    twice = flows.take(np.concatenate([np.arange(len(flows)), np.arange(100)]))
    assert len(distinct(twice)) == len(distinct(flows))
    shuffled = twice.take(np.random.default_rng(0).permutation(len(twice)))
    assert distinct(twice).features.equals(distinct(shuffled).features)


def class_sizes(flows):
    return dict(flows.classes.value_counts().iter_rows())


def test_one_sided_selection_cuts_majorities_to_the_median_class(flows):
    before = class_sizes(distinct(flows))
    chosen = flows.take(one_sided_rows(flows, seed=0))
    median = sorted(before.values())[2]
    assert len(chosen) == len(distinct(chosen))
    assert class_sizes(chosen) == {name: min(size, median) for name, size in before.items()}


def test_one_sided_selection_of_two_classes_balances_them(typed):
    sizes = class_sizes(typed.take(one_sided_rows(typed, seed=0)))
    assert sizes["benign"] == sizes["attack"] == class_sizes(distinct(typed))["attack"]


def test_rows_that_the_selection_leaves_come_before_others():
    classes, preferred = np.array(["a"] * 50 + ["b"] * 3), np.arange(53) % 10 == 0
    drawn = variants._draw(classes, preferred, 8, np.random.default_rng(0))
    assert set(np.flatnonzero(preferred)) <= set(drawn)
    assert (classes[drawn] == "a").sum() == 8
    assert (classes[drawn] == "b").sum() == 3


def test_large_classes_are_cut_before_they_are_compared(flows, monkeypatch):
    monkeypatch.setattr(variants, "MOST_ROWS", 60)
    assert max(class_sizes(flows.take(one_sided_rows(flows, seed=0))).values()) <= 60


def test_under_sampling_trains_as_long_as_the_whole_table_would(flows):
    system = PaperNetwork(sampling="one-sided", **{**TINY, "min_steps": 0, "batch_size": 64, "n_epochs": 2})
    trained = system.fit(flows, seed=0).parameters["epochs"]
    n_left = len(one_sided_rows(flows, seed=0))
    assert len(trained) * (n_left // 64 + 1) >= 2 * len(flows) // 64


# --- the network beside forests --------------------------------------------------------------------------------------


def test_the_stack_is_the_mean_of_what_each_says_after_its_correction(typed):
    stack = ForestStack(n_trees=10, **SMALL).fit(typed, seed=0)
    parts = [stack.network.assess(typed.features).shares]
    for forest in stack.forests:
        q = forest.predict(typed.features).probabilities / forest.decision.prior
        parts.append(np.stack([q[:, 0], q[:, 1:].sum(axis=1)], axis=1) / q.sum(axis=1, keepdims=True))
    predictions = stack.predict(typed.features)
    assert predictions.probabilities == pytest.approx(sum(parts) / 3, abs=1e-5)
    assert np.array_equal(predictions.predicted, predictions.probabilities.argmax(axis=1))
    assert np.array_equal(stack.decision.classify(np.log(predictions.probabilities + 1e-9)), predictions.predicted)


def test_the_forests_separate_labels_and_know_one_benign(typed):
    kinds = pl.Series("label", np.where(np.arange(len(typed)) % 2, "normal", "usual"))
    mixed = replace(
        typed, labels=pl.select(pl.when(typed.classes == "benign").then(kinds).otherwise(typed.labels)).to_series()
    )
    for forest in ForestStack(n_trees=3, **SMALL).fit(mixed, seed=0).forests:
        assert forest.decision.class_of == (0, 1, 1, 1, 1, 1)
        assert sum(forest.decision.prior) == pytest.approx(1)


def test_the_forests_do_not_depend_on_the_order_of_rows(flows):
    shuffled = flows.take(np.random.default_rng(0).permutation(len(flows)))
    for forest in ForestStack(n_trees=3, **SMALL).forests:
        first, second = (forest.fit(part, seed=0).predict(flows.features) for part in (flows, shuffled))
        assert np.allclose(first.probabilities, second.probabilities)


def test_the_stack_brings_forests_into_the_order_of_the_network(flows):
    flows = replace(flows, class_order=("benign", *reversed(flows.class_order[1:])))
    stack = ForestStack(n_trees=10, **SMALL).fit(flows, seed=0)
    assert stack.classes != stack.forests[0].classes
    named = np.array(stack.classes)[stack.predict(flows.features).predicted]
    assert np.mean(named == flows.classes.to_numpy()) > 0.9  # in another order, fewer than half


# --- what is unlike benign flows -------------------------------------------------------------------------------------


def test_a_network_judges_as_its_detector_does(flows):
    fitted = DefaultNetwork(novelty_rate=0.3, **SMALL).fit(flows, seed=0)
    verdicts = fitted.detector.score(flows.features)
    predictions = fitted.predict(flows.features)
    assert np.array(fitted.classes)[predictions.predicted].tolist() == verdicts["class"].to_list()
    refused = verdicts["anomaly"].to_numpy() > 0.7
    assert refused.any()
    assert (predictions.predicted[refused] > 0).all()
    by_network = fitted.decision.classify(fitted.assess(flows.features).logits)
    assert np.array_equal(by_network[~refused], predictions.predicted[~refused])
