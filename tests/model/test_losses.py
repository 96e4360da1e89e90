import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepidea.model.losses import AttackSharingLoss

N_FLOWS, N_CLASSES = 6, 4
logits_arrays = hnp.arrays(np.float64, (N_FLOWS, N_CLASSES), elements=st.floats(-8, 8))
targets = hnp.arrays(np.int64, N_FLOWS, elements=st.integers(0, N_CLASSES - 1))
weights = hnp.arrays(np.float64, N_FLOWS, elements=st.floats(0.1, 5))


def equation_6(logits, target, attack_weight, weight, benign=0):
    """The paper's J_AS, written as it stands there, from probabilities."""
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    is_benign = target == benign
    cross_entropy = -np.log(p[np.arange(len(p)), target])
    binary = is_benign * np.log(p[:, benign]) + ~is_benign * np.log(1 - p[:, benign])
    return np.average(cross_entropy - attack_weight * binary, weights=weight)


@given(logits_arrays, targets, weights, st.sampled_from([0.0, 1.0, 10.0]), st.integers(0, N_CLASSES - 1))
def test_is_equation_6_of_the_paper(logits, target, weight, attack_weight, benign):
    loss = AttackSharingLoss(attack_weight, benign=benign)
    ours = loss(torch.from_numpy(logits), torch.from_numpy(target), torch.from_numpy(weight))
    assert float(ours) == pytest.approx(equation_6(logits, target, attack_weight, weight, benign), rel=1e-9)


@given(logits_arrays, targets, weights)
def test_without_attack_weight_is_cross_entropy(logits, target, weight):
    z, t, w = torch.from_numpy(logits), torch.from_numpy(target), torch.from_numpy(weight)
    reference = (torch.nn.functional.cross_entropy(z, t, reduction="none") * w).sum() / w.sum()
    assert float(AttackSharingLoss(0.0)(z, t, w)) == pytest.approx(float(reference), rel=1e-12)


@pytest.mark.parametrize("benign", [0, 2])
@pytest.mark.parametrize("attack_weight", [0.0, 1.0, 10.0])
def test_gradient_equals_finite_differences(attack_weight, benign):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(N_FLOWS, N_CLASSES, dtype=torch.float64, generator=generator, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 0, 2])
    weight = torch.rand(N_FLOWS, dtype=torch.float64, generator=generator) + 0.1
    loss = AttackSharingLoss(attack_weight, benign=benign)
    assert torch.autograd.gradcheck(lambda z: loss(z, target, weight), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_stays_finite_for_extreme_logits(scale, dtype):
    corners = torch.tensor([[1, -1, -1], [-1, 1, -1], [1, 1, 1], [-1, -1, -1]], dtype=dtype) * scale
    for label in range(3):
        logits = corners.clone().requires_grad_()
        loss = AttackSharingLoss(10.0)(logits, torch.full((4,), label))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()


def test_confident_miss_of_an_attack_keeps_its_gradient():
    logits = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    AttackSharingLoss(10.0)(logits, torch.tensor([1])).backward()
    assert logits.grad[0, 0] == pytest.approx(11.0)  # 1 - p_benign is 0 in float32; log(1 - p) would be -inf


def test_a_row_of_weight_three_is_three_rows():
    logits, target = torch.randn(2, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 2])
    loss = AttackSharingLoss()
    repeated = loss(logits[[0, 0, 0, 1]], target[[0, 0, 0, 1]])
    assert float(loss(logits, target, torch.tensor([3.0, 1.0]))) == pytest.approx(float(repeated), rel=1e-6)


@pytest.mark.parametrize("attack_weight", [-1.0, float("inf"), float("nan")])
def test_refuses_a_weight_that_is_no_weight(attack_weight):
    with pytest.raises(ValueError, match="attack_weight must be"):
        AttackSharingLoss(attack_weight)


def test_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="logits must be"):
        AttackSharingLoss()(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="benign must be below"):
        AttackSharingLoss(benign=3)(torch.zeros(3, 3), torch.zeros(3, dtype=torch.int64))


def test_trains_any_network():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=generator)
    target = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    network = torch.nn.Linear(5, 3)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    losses = []
    for _ in range(50):
        optimiser.zero_grad()
        loss = AttackSharingLoss()(network(x), target)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
