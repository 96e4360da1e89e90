import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepidea.model.losses import AttackSharingLoss
from deepidea.model.networks import MLP
from deepidea.model.training import MOST_COPIES, draw_epoch, train_network


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
    return train_network(network, *problem(), **{**settings, **arguments})


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
    with pytest.raises(FloatingPointError, match="must stay a number"):
        train(network)
