"""Networks that see a flow's features or a window's flows side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deepidea.model.losses import AttackSharingLoss
from deepidea.model.sequences import FlowCNN, FlowLSTM, cut_windows, run_flows, run_windows, train_on_windows

SETTINGS = {"window": 4, "learning_rate": 0.02, "batch_size": 8, "n_epochs": 20}


def remembered_flows(n_flows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return flows whose class is written on the flow before them, the first of a window apart."""
    x = np.random.default_rng(seed).integers(0, 2, (n_flows, 1)).astype(np.float32)
    target = np.roll(x[:, 0], 1).astype(np.int64)
    target[:: SETTINGS["window"]] = 0
    return x, target


def trained(random_state: int = 0, n_epochs: int = 2) -> tuple[FlowLSTM, list[float]]:
    network = FlowLSTM(1, 2, d_hidden=8, random_state=random_state)
    x, target = remembered_flows(402)
    settings = {**SETTINGS, "n_epochs": n_epochs, "random_state": random_state}
    losses = train_on_windows(network, x, target, loss=AttackSharingLoss(0.0), **settings)
    return network, losses


def test_the_cnn_has_the_layers_that_the_paper_names() -> None:
    kinds = [type(layer) for layer in FlowCNN(118, 5).modules()]
    assert [kinds.count(kind) for kind in (nn.Conv1d, nn.MaxPool1d, nn.Linear)] == [2, 2, 6]


@pytest.mark.parametrize("d_in", [1, 2, 3, 41, 118])
def test_the_cnn_takes_any_number_of_features(d_in: int) -> None:
    assert FlowCNN(d_in, 3, channels=2, d_hidden=4)(torch.zeros(2, d_in)).shape == (2, 3)


def test_a_seed_settles_the_weights_and_leaves_the_generator_of_torch_alone() -> None:
    before = torch.get_rng_state()
    for kind in (FlowCNN, FlowLSTM):
        first, same, other = (
            torch.cat([p.flatten() for p in kind(6, 2, random_state=s).parameters()]) for s in (0, 0, 1)
        )
        assert torch.equal(first, same)
        assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_lstm_knows_the_past_only() -> None:
    network, x = FlowLSTM(3, 2, d_hidden=5), torch.randn(1, 10, 3, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[:, 6] += 1
    same = (network(x) == network(changed)).all(dim=2)[0]
    assert same.tolist() == [True] * 6 + [False] * 4


def test_the_lstm_learns_what_stands_on_the_flow_before() -> None:
    network, losses = trained(n_epochs=20)
    x, target = remembered_flows(400, seed=1)
    assert losses[-1] < losses[0] / 3
    assert (run_windows(network, x, SETTINGS["window"]).argmax(axis=1) == target).mean() > 0.97


def test_training_is_reproducible_to_the_last_bit() -> None:
    x, _ = remembered_flows(50, seed=2)
    first, second, other = (trained(seed) for seed in (0, 0, 1))
    assert first[1] == second[1] != other[1]
    np.testing.assert_array_equal(run_windows(first[0], x, 4), run_windows(second[0], x, 4))


def test_what_fills_the_last_window_teaches_nothing() -> None:
    seen = []

    class Watching(AttackSharingLoss):
        def forward(self, logits, target, sample_weight=None):
            seen.append(sample_weight.clone())
            return super().forward(logits, target, sample_weight)

    x, target = remembered_flows(6)
    train_on_windows(FlowLSTM(1, 2, d_hidden=2), x, target, loss=Watching(0.0), **{**SETTINGS, "n_epochs": 1})
    assert sorted(seen[0].tolist()) == [0, 0, 1, 1, 1, 1, 1, 1]


def test_the_loss_is_the_mean_over_flows() -> None:
    network, (x, target) = FlowLSTM(1, 2, d_hidden=4), remembered_flows(6)
    with torch.no_grad():
        logits = network(torch.from_numpy(cut_windows(x, 4))).flatten(0, 1)[:6]
        expected = float(AttackSharingLoss(1.0)(logits, torch.from_numpy(target)))
    once = {**SETTINGS, "n_epochs": 1}
    assert train_on_windows(network, x, target, loss=AttackSharingLoss(1.0), **once) == [pytest.approx(expected)]


def test_blocks_change_no_verdict() -> None:
    x, _ = remembered_flows(41)
    lstm, cnn = FlowLSTM(1, 2, d_hidden=4), FlowCNN(1, 2, channels=2, d_hidden=4)
    np.testing.assert_allclose(run_windows(lstm, x, 4, block=2), run_windows(lstm, x, 4), atol=1e-6)
    np.testing.assert_allclose(run_flows(cnn, x, block=7), run_flows(cnn, x), atol=1e-6)
    assert run_windows(lstm, x, 4).shape == run_flows(cnn, x).shape == (41, 2)


def test_a_loss_that_is_no_number_is_reported() -> None:
    x, target = remembered_flows(8)
    x[0] = np.nan
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        train_on_windows(FlowLSTM(1, 2), x, target, loss=AttackSharingLoss(0.0), **SETTINGS)
