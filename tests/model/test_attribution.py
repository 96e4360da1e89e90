"""Integrated gradients: complete, zero where nothing differs, and those of Captum on the torch network."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.model.attribution import LogOdds, integrated_gradients, run_layers
from deepidea.model.networks import MLP

ODDS = LogOdds((2, 3), (0, 1), 1.5)


def network_of(hidden, d_in=6, seed=0):
    network = MLP(d_in, 5, hidden=hidden, random_state=seed).eval()
    with torch.no_grad():
        for weight, _ in network.weights_and_biases():
            weight.mul_(2.0)  # as steep as trained ones
    return network, [(w.detach().numpy(), b.detach().numpy()) for w, b in network.weights_and_biases()]


def flows_of(n, d_in=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d_in)).astype(np.float32)


@pytest.mark.parametrize("hidden", [(), (8,), (16, 16), (20,) * 10], ids=str)
def test_agrees_with_captum(hidden):
    from captum.attr import IntegratedGradients

    network, layers = network_of(hidden)
    starts, flow = flows_of(4), flows_of(1, seed=1)[0]
    weights = np.array([0.1, 0.2, 0.3, 0.4])

    def log_odds(x):
        z = network(x) / ODDS.temperature
        return torch.logsumexp(z[:, [2, 3]], 1) - torch.logsumexp(z[:, [0, 1]], 1)

    theirs = IntegratedGradients(log_odds).attribute(
        torch.from_numpy(flow).expand(4, -1), torch.from_numpy(starts), n_steps=24, method="riemann_middle"
    )
    ours = integrated_gradients(layers, ODDS, flow, starts, weights, 24)
    assert ours == pytest.approx(weights @ theirs.detach().numpy(), abs=1e-4, rel=1e-4)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.sampled_from([(), (8,), (12, 12), (10, 10, 10)]))
def test_attributions_add_up_to_the_difference(seed, hidden):
    _, layers = network_of(hidden, seed=seed)
    starts, flow = flows_of(8, seed=seed), flows_of(1, seed=seed + 1)[0]
    weights = np.full(8, 1 / 8)
    total = integrated_gradients(layers, ODDS, flow, starts, weights, 400).sum()
    ends = ODDS.values(run_layers(layers, np.concatenate([flow[None], starts])))
    assert total == pytest.approx(ends[0] - weights @ ends[1:], abs=0.02, rel=0.02)


def test_what_does_not_differ_and_what_has_no_weight_is_given_nothing():
    network, _ = network_of((8,))
    with torch.no_grad():
        network.weights_and_biases()[0][0][:, 2] = 0
    layers = [(w.detach().numpy(), b.detach().numpy()) for w, b in network.weights_and_biases()]
    start, flow = flows_of(1), flows_of(1, seed=1)[0]
    flow[4] = start[0, 4]
    given_to = integrated_gradients(layers, ODDS, flow, start, np.ones(1), 16)
    assert given_to[2] == given_to[4] == 0
    assert (given_to[[0, 1, 3, 5]] != 0).all()


def test_the_gradient_of_log_odds_is_that_of_torch():
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    z = logits / ODDS.temperature
    odds = torch.logsumexp(z[:, [2, 3]], 1) - torch.logsumexp(z[:, [0, 1]], 1)
    odds.sum().backward()
    assert ODDS.values(logits.detach().numpy()) == pytest.approx(odds.detach().numpy(), abs=1e-5)
    assert ODDS.gradient(logits.detach().numpy()) == pytest.approx(logits.grad.numpy(), abs=1e-5)
