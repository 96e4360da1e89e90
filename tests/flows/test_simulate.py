"""Invented flows: well-formed, the same for the same seed, and no walk-over."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from sklearn.tree import DecisionTreeClassifier

from deepidea.flows.schema import get_schema
from deepidea.flows.simulate import simulate_flows


@settings(deadline=None)  # files on a busy machine
@given(st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_flows_are_well_formed_and_the_same_for_the_same_seed(n_flows, seed):
    flows = simulate_flows(n_flows=n_flows, seed=seed)
    assert flows.height == n_flows
    assert flows.equals(simulate_flows(n_flows=n_flows, seed=seed))
    schema = get_schema("conn").restrict(flows.columns)
    assert (schema.conform(flows).select(schema.numbers).min_horizontal() >= 0).all()
    for way in ("fwd", "bwd"):
        assert (flows[f"{way}_bytes"] >= 28 * flows[f"{way}_packets"]).all()
        assert (flows[f"{way}_bytes"] <= 1500 * flows[f"{way}_packets"]).all()
    assert flows["dst_port"].is_between(0, 65535).all()


def test_another_seed_gives_other_flows():
    assert not simulate_flows(n_flows=100, seed=1).equals(simulate_flows(n_flows=100, seed=2))


def test_most_flows_are_benign_and_every_attack_is_there():
    counts = dict(simulate_flows(n_flows=20_000)["label"].value_counts().iter_rows())
    assert counts.keys() == {"benign", "port_scan", "syn_flood", "brute_force", "beacon", "exfiltration"}
    assert 0.8 < counts["benign"] / 20_000 < 0.9
    assert min(counts.values()) > 50


def test_classes_can_be_learned_and_not_distinguished_for_certain():
    flows = simulate_flows(n_flows=30_000)
    numbers = flows.drop("label", "dst_port").to_dummies(["protocol", "service", "state"]).to_numpy()
    labels = flows["label"].to_numpy()
    tree = DecisionTreeClassifier(max_depth=10, class_weight="balanced", random_state=0).fit(numbers[::2], labels[::2])
    assert 0.6 < balanced_accuracy_score(labels[1::2], tree.predict(numbers[1::2])) < 0.95


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match="n_flows must be at least 0, got -1"):
        simulate_flows(n_flows=-1)


def test_no_flow_keeps_the_types():
    assert simulate_flows(n_flows=0).schema == simulate_flows(n_flows=50).schema
    assert simulate_flows(n_flows=0).schema["service"] == pl.String
