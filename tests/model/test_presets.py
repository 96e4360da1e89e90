from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pytest

from deepidea.errors import DataError, LabelError, MissingExtraError
from deepidea.flows.labelled import LabelledFlows, labelled_flows_from_table
from deepidea.flows.simulate import simulate_flows
from deepidea.model.presets import PRESETS, make_classifier, train_detector
from tests.conftest import TINY


@pytest.fixture(scope="module")
def site() -> LabelledFlows:
    return labelled_flows_from_table(simulate_flows(n_flows=600, seed=1), "label", "benign")[0]


def typed(flows: LabelledFlows) -> LabelledFlows:
    """The same flows in two classes, with the kinds of attack as native labels."""
    classes = flows.classes.replace(dict.fromkeys(flows.class_order[1:], "attack"))
    return LabelledFlows(flows.table, flows.labels, classes, flows.schema, ("benign", "attack"), "typed")


def members(detector):
    """All that decides a verdict, and all that is remembered of the training rows."""
    contracts = (detector.encoder.contract(), detector.decision.contract(), detector.schema.contract())
    return detector.graph, detector.weights, detector.training_fingerprints.tobytes(), contracts, detector.labels


def test_the_paper_preset_is_the_papers() -> None:
    stated = {
        "hidden": (100,) * 10,
        "dropout": 0.2,
        "attack_weight": 10,
        "learning_rate": 1e-4,
        "batch_size": 128,
        "n_epochs": 10,
    }
    assert {name: PRESETS["paper"][name] for name in stated} == stated


def test_the_paper_preset_adds_nothing_of_ours() -> None:
    paper = PRESETS["paper"]
    assert (paper["temperature"], paper["tau"], paper["balance"], paper["min_steps"]) == (1, 0, 0, 0)
    assert (paper["labels"], paper["duplicates"], paper["schedule"]) == (False, "weigh", "constant")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_entry_of_a_preset_is_a_parameter(preset: str) -> None:
    classifier, with_labels = make_classifier(preset)
    parameters = classifier.get_params()
    assert {name: parameters[name] for name in PRESETS[preset] if name != "labels"} == {
        name: value for name, value in PRESETS[preset].items() if name != "labels"
    }
    assert with_labels is PRESETS[preset]["labels"]
    assert set(PRESETS[preset]) == set(PRESETS["default"])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_seed_makes_the_same_bits(site: LabelledFlows, preset: str) -> None:
    first, again, other = (train_detector(site, preset=preset, random_state=seed, **TINY) for seed in (5, 5, 6))
    assert members(first) == members(again)
    assert first.weights != other.weights


def test_the_order_of_rows_changes_no_bit(site: LabelledFlows) -> None:
    shuffled = site.take(np.random.default_rng(0).permutation(len(site)))
    first, again = (train_detector(flows, random_state=5, **TINY) for flows in (site, shuffled))
    assert members(first) == members(again)


def test_labels_are_distinguished_and_added_up_to_classes(site: LabelledFlows) -> None:
    with_labels = train_detector(typed(site), random_state=0, labels=True, **TINY)
    assert with_labels.classes == ("benign", "attack")
    assert set(with_labels.labels) == {"benign", *site.class_order[1:]}
    verdicts = with_labels.score(site.features)
    assert set(verdicts.filter(pl.col("class") == "attack")["label"]) <= set(site.class_order[1:])
    assert verdicts.columns == ["class", "label", "score", "p_benign", "p_attack", "anomaly", "unknown"]
    without = train_detector(typed(site), random_state=0, labels=False, **TINY)
    assert without.labels == without.classes == ("benign", "attack")


def test_benign_labels_are_one_output(site: LabelledFlows) -> None:
    services = site.table["protocol"]
    labels = site.labels.zip_with(site.classes != "benign", "benign over " + services)
    flows = LabelledFlows(site.table, labels, site.classes, site.schema, site.class_order)
    assert train_detector(flows, random_state=0, **TINY).labels == tuple(site.class_order)


def test_the_card_reports_the_training(site: LabelledFlows) -> None:
    seen = []
    detector = train_detector(site, card={"data": {"source": "here"}}, random_state=7, on_epoch=seen.append, **TINY)
    training = detector.card["training"]
    assert [epoch["loss"] for epoch in training["epochs"]] == [epoch.loss for epoch in seen]
    assert (training["preset"], training["random_state"], training["n_threads"]) == ("default", 7, 1)
    assert training["parameters"]["hidden"] == [16]
    assert set(training["parameters"]) == set(PRESETS["default"]) - {"labels"}
    assert training["distinct_rows"] == len(detector.training_fingerprints)
    assert training["interrupted"] is False
    assert detector.card["data"] == {"source": "here"}


def test_epochs_that_are_asked_for_are_kept_to(site: LabelledFlows) -> None:
    asked = train_detector(site, n_epochs=3, hidden=(4,), random_state=0)
    assert len(asked.card["training"]["epochs"]) == 3
    stepped = train_detector(site, n_epochs=3, min_steps=20, hidden=(4,), random_state=0)
    assert len(stepped.card["training"]["epochs"]) > 3


def test_an_interruption_keeps_the_epochs_so_far(site: LabelledFlows) -> None:
    def interrupt(epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    detector = train_detector(site, n_epochs=9, hidden=(4,), random_state=0, on_epoch=interrupt)
    assert len(detector.card["training"]["epochs"]) == 2
    assert detector.card["training"]["interrupted"] is True
    assert len(detector.score(site.features)) == len(site)


def test_an_interruption_before_the_first_epoch_is_raised(site: LabelledFlows, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deepidea.model.training.train_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_detector(site, random_state=0, **TINY)


def test_one_class_cannot_train(site: LabelledFlows) -> None:
    benign = site.take((site.classes == "benign").to_numpy())
    with pytest.raises(LabelError, match=r"cannot train on table: it holds benign \(.*add flows"):
        train_detector(benign, **TINY)


def test_attacks_alone_cannot_train(site: LabelledFlows) -> None:
    attacks = site.take((site.classes != "benign").to_numpy())
    flows = LabelledFlows(
        attacks.table, attacks.labels, attacks.classes, attacks.schema, site.class_order[1:], "attacks.csv"
    )
    with pytest.raises(LabelError, match="needs benign flows"):
        train_detector(flows, **TINY)


def test_a_class_of_one_training_row_is_reported(site: LabelledFlows) -> None:
    rows = np.flatnonzero((site.classes != "beacon").to_numpy()).tolist()
    rows.append(int(np.flatnonzero((site.classes == "beacon").to_numpy())[0]))
    with pytest.raises(LabelError, match=r"table has one of beacon; drop it"):
        train_detector(site.take(np.array(rows)), **TINY)


def test_an_unknown_preset_is_reported() -> None:
    with pytest.raises(ValueError, match="preset must be one of default, paper, got 'best'"):
        make_classifier("best")


def test_a_missing_extra_is_reported(monkeypatch, site: LabelledFlows) -> None:
    monkeypatch.setitem(sys.modules, "deepidea.model.estimators", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'deepidea\[train\]'"):
        train_detector(site, **TINY)


def test_an_attack_weight_that_the_loss_has_no_use_for_is_refused(site):
    with pytest.raises(DataError, match=r"attack_weight has no effect with loss=focal.*attack-sharing or hierarchical"):
        train_detector(site, loss="focal", attack_weight=3.0)
