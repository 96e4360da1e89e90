import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepidea.model.batches import MOST_COPIES, RowsInMemory, draw_epoch
from deepidea.model.losses import AttackSharingLoss
from deepidea.model.networks import MLP, FastMLP
from deepidea.model.training import Adam, one_cycle, speed_up, train_network


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 64), st.integers(0, 99))
def test_an_epoch_draws_each_row_as_often_as_it_weighs(weights, batch_size, seed):
    drawn = np.zeros(len(weights))
    for rows, counts in draw_epoch(np.array(weights, float), batch_size, np.random.default_rng(seed)):
        np.add.at(drawn, rows, counts)
        assert np.unique(rows, return_counts=True)[1].max() <= MOST_COPIES
        assert counts.sum() <= batch_size
    assert drawn.tolist() == weights


def test_a_fractional_weight_is_drawn_as_often_on_average():
    rng = np.random.default_rng(0)
    weight = np.array([0.25, 1.5, 2.0])
    drawn = np.zeros(3)
    for _ in range(2000):
        for rows, counts in draw_epoch(weight, 4, rng):
            np.add.at(drawn, rows, counts)
    assert drawn / 2000 == pytest.approx(weight, abs=0.03)


def problem(n_rows=400):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_rows, 4)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 1), np.ones(n_rows)


def train(network, **arguments):
    settings = {"loss": AttackSharingLoss(), "learning_rate": 3e-3, "batch_size": 32, "n_epochs": 3}
    return train_network(network, RowsInMemory(*problem()), **{**settings, **arguments})


def test_loss_falls():
    epochs = train(MLP(4, 3, hidden=(16,), dropout=0.0), n_epochs=8)
    assert epochs[-1].loss < 0.7 * epochs[0].loss
    assert epochs[-1].left_s == 0


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_equal_seeds_give_equal_weights(schedule):
    first, second = MLP(4, 3, hidden=(16,)), MLP(4, 3, hidden=(16,))
    for network in (first, second):
        train(network, schedule=schedule, random_state=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_fast_training_is_that_of_a_plain_loop(weight_decay):
    trained, plain = (MLP(4, 3, hidden=(16, 8), dropout=0.0, random_state=1) for _ in range(2))
    train(trained, random_state=3, learning_rate=1e-3, weight_decay=weight_decay)
    x, target, weight = problem()
    optimiser = torch.optim.Adam(plain.parameters(), lr=1e-3, weight_decay=weight_decay)
    rng = np.random.default_rng(3)
    for rows, counts in (batch for _ in range(3) for batch in draw_epoch(weight, 32, rng)):
        optimiser.zero_grad()
        logits = plain(torch.from_numpy(x[rows]))
        AttackSharingLoss()(logits, torch.from_numpy(target[rows]), torch.from_numpy(counts)).backward()
        optimiser.step()
    for parameter, other in zip(trained.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-3, atol=1e-5)


def test_any_network_and_any_loss_train():
    class Loss(torch.nn.Module):
        def forward(self, logits, target, counts):
            each = torch.nn.functional.cross_entropy(logits, target, reduction="none")
            return (each * counts).sum() / counts.sum()

    stack = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(16, 3))
    stack.register_parameter("unused", torch.nn.Parameter(torch.ones(2)))  # gets no gradient: stays as it is
    before = stack.unused.clone()
    for network in (stack, MLP(4, 3, hidden=(16,))):
        epochs = train(network, loss=Loss(), n_epochs=8)
        assert epochs[-1].loss < 0.8 * epochs[0].loss
    assert torch.equal(stack.unused, before)


def test_only_a_whole_mlp_on_a_cpu_is_sped_up():
    network, frozen = MLP(4, 3), MLP(4, 3)
    frozen.layers[0].weight.requires_grad_(False)
    assert speed_up(network, "cuda") is network
    assert speed_up(frozen, "cpu") is frozen
    assert isinstance(speed_up(network, "cpu"), FastMLP)


def test_adam_is_that_of_torch():
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    adam, other = Adam([ours], weight_decay=0.1), torch.optim.Adam([theirs], lr=0.0, weight_decay=0.1)
    for rate in (0.1, 0.2, 0.05):
        other.param_groups[0]["lr"] = rate
        for parameter, optimiser in ((ours, adam), (theirs, other)):
            optimiser.zero_grad()
            parameter.pow(3).sum().backward()
        adam.step(rate)
        other.step()
    torch.testing.assert_close(ours, theirs)


def test_one_cycle_rises_for_a_tenth_and_falls_to_nothing():
    factors = [one_cycle(step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1.0
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[100] == pytest.approx(0.0)


def test_interruption_leaves_the_best_epoch_so_far():
    network, seen = MLP(4, 3, hidden=(16,)), []
    scores = iter([0.5, 0.9, 0.6])

    def interrupt_the_third(epoch):
        seen.append([p.clone() for p in network.parameters()])
        if epoch.number == 3:
            raise KeyboardInterrupt

    epochs = train(network, n_epochs=9, validate=lambda _: next(scores), on_epoch=interrupt_the_third)
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), seen[1], strict=True))


def test_interruption_before_the_first_epoch_is_raised():
    class Interrupting(AttackSharingLoss):
        def forward(self, *arguments):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(MLP(4, 3, hidden=(16,)), loss=Interrupting())


def test_a_loss_that_is_no_number_stops_training():
    network = MLP(4, 3, hidden=(16,))
    with torch.no_grad():
        network.weights_and_biases()[0][0].fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        train(network)
