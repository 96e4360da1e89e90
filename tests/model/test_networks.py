import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deepidea.model.networks import MLP, draw_masks


def plain_forward(network, x, masks):
    """The network of the paper, one operation after the other, with given masks."""
    scale = 1 / (1 - network.dropout)
    pairs = network.weights_and_biases()
    h = x * masks[0] * scale
    for (weight, bias), mask in zip(pairs[:-1], masks[1:], strict=True):
        h = torch.relu(F.linear(h, weight, bias)) * mask * scale
    return F.linear(h, *pairs[-1])


def same_masks(network, n_flows):
    bits = np.random.Generator(np.random.SFC64(7))
    network._mask_bits = np.random.Generator(np.random.SFC64(7))
    return draw_masks(bits, n_flows, network.sizes[:-1], network.dropout)


@pytest.mark.parametrize("hidden", [(8,), (8, 5), (100,) * 10])
def test_fused_training_pass_equals_plain_operations(hidden):
    network = MLP(6, 3, hidden=hidden, dropout=0.3, random_state=1).double().train()
    x = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    masks = [mask.double() for mask in same_masks(network, 9)]
    expected = plain_forward(network, x, masks)
    wanted = torch.autograd.grad(expected.square().sum(), [x, *network.parameters()])
    network._mask_bits = np.random.Generator(np.random.SFC64(7))
    found = network(x)
    gradients = torch.autograd.grad(found.square().sum(), [x, *network.parameters()])
    torch.testing.assert_close(found, expected)
    for gradient, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other)


def test_dropout_keeps_the_share_it_should():
    masks = draw_masks(np.random.Generator(np.random.SFC64(0)), 2000, [50, 50], 0.2)
    for mask in masks:
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        assert float(mask.mean()) == pytest.approx(0.8, abs=0.01)


def test_evaluation_does_not_drop():
    network = MLP(6, 3).eval()
    x = torch.ones(4, 6)
    assert torch.equal(network(x), network(x))


def test_equal_seeds_are_equal_networks():
    first, second, other = (MLP(6, 3, random_state=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_paper_configuration_has_ten_layers_of_100():
    assert MLP(118, 5).sizes == (118, *[100] * 10, 5)


@pytest.mark.parametrize(("arguments", "rule"), [({"dropout": 1.0}, "dropout must"), ({"hidden": (0,)}, "every layer")])
def test_refuses_impossible_networks(arguments, rule):
    with pytest.raises(ValueError, match=rule):
        MLP(6, 3, **arguments)
