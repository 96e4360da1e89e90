"""The CNN and the LSTM as systems; that they keep the contract of all is tested with the baselines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from deepidea.benchmark.systems import make_system
from deepidea.benchmark.windows import WindowCNN, WindowLSTM
from deepidea.flows.labelled import LabelledFlows, labelled_flows_from_table
from deepidea.flows.simulate import simulate_flows

QUICK = {"d_hidden": 16, "n_epochs": 8, "learning_rate": 1e-2}


def flows_in_turn(n_flows: int, seed: int) -> LabelledFlows:
    """Return flows of which each is an attack if the one before it was small: only an order can tell."""
    size = np.random.default_rng(seed).choice([10.0, 1000.0], n_flows)
    label = np.where(np.roll(size, 1) < 100, "echo", "benign")
    table = pl.DataFrame({"fwd_bytes": size, "duration_s": size / 7 + np.arange(n_flows) % 3, "label": label})
    return labelled_flows_from_table(table, "label", "benign")[0]


def test_the_lstm_uses_the_order_of_the_table() -> None:
    train, test = flows_in_turn(1500, 0), flows_in_turn(600, 1)
    truth = (test.classes == "echo").to_numpy()
    in_order = WindowLSTM(**QUICK, batch_size=2).fit(train, 0).predict(test.features).predicted == truth
    assert in_order.mean() > 0.95
    mixed = np.random.default_rng(0).permutation(len(train))
    out_of_order = WindowLSTM(**QUICK, batch_size=2).fit(train.take(mixed), 0).predict(test.features).predicted == truth
    assert out_of_order.mean() < 0.7


def test_the_attack_weight_reaches_the_loss() -> None:
    flows, _ = labelled_flows_from_table(simulate_flows(n_flows=300), "label", "benign")
    plain, shared = (make_system(f"{name}:d_hidden=4,n_epochs=1") for name in ("lstm", "lstm-attack-sharing"))
    assert plain.fit(flows, 0).parameters["losses"] < shared.fit(flows, 0).parameters["losses"]


def test_the_cnn_learns_what_two_features_say_together() -> None:
    size, duration = np.random.default_rng(0).random((2, 800))
    label = np.where(duration < size, "burst", "benign")
    flows, _ = labelled_flows_from_table(
        pl.DataFrame({"fwd_bytes": size, "duration_s": duration, "label": label}), "label", "benign"
    )
    network = WindowCNN(channels=4, d_hidden=16, learning_rate=3e-3, batch_size=32).fit(flows, 0)
    assert (network.predict(flows.features).predicted == (label == "burst")).mean() > 0.9


def test_a_flow_is_scored_by_the_window_it_stands_in() -> None:
    flows = flows_in_turn(250, 0)
    system = WindowLSTM(d_hidden=4, n_epochs=1).fit(flows, 0)
    whole = system.predict(flows.features).probabilities
    np.testing.assert_allclose(system.predict(flows.features[100:]).probabilities, whole[100:], atol=1e-6)
    assert np.abs(system.predict(flows.features[50:]).probabilities[:50] - whole[50:100]).max() > 1e-6


def test_the_encoder_learns_from_training_flows_alone() -> None:
    flows = flows_in_turn(200, 0)
    system = WindowLSTM(d_hidden=4, n_epochs=1).fit(flows, 0)
    far = replace(flows, table=flows.table.with_columns(pl.col("fwd_bytes") * 1e6))
    before = system.encoder.contract()
    system.predict(far.features)
    assert system.encoder.contract() == before
