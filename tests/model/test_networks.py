import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deepidea.model.networks import MLP, FastMLP, MaskStream


def plain_forward(network, x, masks):
    """The network of the paper, one operation after the other, with given masks."""
    pairs = network.weights_and_biases()
    h = x * masks[0]
    for (weight, bias), mask in zip(pairs[:-1], masks[1:], strict=True):
        h = torch.relu(F.linear(h, weight, bias)) * mask
    return F.linear(h, *pairs[-1])


def masks_of(network, n_flows):
    """The masks that the next FastMLP over the network draws first."""
    if not network.dropout:
        return [torch.ones(n_flows, width) for width in network.sizes[:-1]]
    seeds = np.random.SeedSequence(network.mask_seeds.entropy)
    return [torch.from_numpy(mask) for mask in MaskStream(network.sizes[:-1], network.dropout, seeds).take(n_flows)]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("hidden", [(), (8,), (8, 5), (5, 8), (100,) * 10])
def test_fast_training_pass_equals_plain_operations(hidden, dropout):
    network = MLP(6, 3, hidden=hidden, dropout=dropout, random_state=1).double().train()
    x = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = plain_forward(network, x, masks_of(network, 9))
    wanted = torch.autograd.grad(expected.square().sum(), list(network.parameters()))
    fast = FastMLP(network)
    found = fast(x)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(fast.flat.grad, torch.cat([gradient.flatten() for gradient in wanted]))


def test_batches_of_any_size_follow_each_other():
    network = MLP(6, 3, hidden=(7, 4), dropout=0.0)
    fast, rng = FastMLP(network), torch.Generator().manual_seed(0)
    for n_flows in (5, 2, 9, 5, 1):
        x = torch.randn(n_flows, 6, generator=rng)
        wanted = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
        fast(x).square().sum().backward()
        torch.testing.assert_close(fast.flat.grad, torch.cat([gradient.flatten() for gradient in wanted]))


def test_a_step_on_the_flat_parameter_trains_the_network():
    network = MLP(6, 3, hidden=(4,))
    fast = FastMLP(network)
    with torch.no_grad():
        fast.flat.fill_(0.5)
    assert all(bool((parameter == 0.5).all()) for parameter in network.parameters())
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == {
        "layers.0.weight": (4, 6),
        "layers.0.bias": (4,),
        "layers.1.weight": (3, 4),
        "layers.1.bias": (3,),
    }


def test_dropout_keeps_the_share_it_should():
    masks = MaskStream([50, 50], 0.2, np.random.SeedSequence(0)).take(2000)
    for mask in masks:
        assert set(np.unique(mask).tolist()) == {0.0, 1.25}
        assert float((mask > 0).mean()) == pytest.approx(0.8, abs=0.01)


def test_masks_are_the_same_for_a_seed_and_never_drawn_twice():
    streams = [MaskStream([3, 40], 0.5, np.random.SeedSequence(seed)) for seed in (1, 1, 2)]
    sizes = (4, 4, 90, 4, *[7] * 60)  # a batch that no chunk drawn ahead holds, then many chunks
    first, again, other = ([stream.take(size) for size in sizes] for stream in streams)
    for some, same in zip(first, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(some, same, strict=True))
    assert not np.array_equal(first[0][1], other[0][1])
    assert len({batch[1].tobytes() for batch in first}) == len(sizes)


def test_two_trainings_of_one_network_draw_other_masks():
    seeds = MLP(6, 3).mask_seeds
    first, second = (MaskStream([40], 0.5, seeds).take(9)[0] for _ in range(2))
    assert not np.array_equal(first, second)


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
