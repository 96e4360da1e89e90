import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepidea.model.losses import (
    LOSSES,
    AttackSharingLoss,
    BalancedSoftmaxLoss,
    ClassBalancedLoss,
    CostSensitiveLoss,
    FocalLoss,
    HierarchicalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    effective_number_weights,
)

N_FLOWS, N_CLASSES = 6, 4
logits_arrays = hnp.arrays(np.float64, (N_FLOWS, N_CLASSES), elements=st.floats(-8, 8))
targets = hnp.arrays(np.int64, N_FLOWS, elements=st.integers(0, N_CLASSES - 1))
weights = hnp.arrays(np.float64, N_FLOWS, elements=st.floats(0.1, 5))
few = settings(max_examples=20, deadline=None)  # for each of many losses


def equation_6(logits, target, attack_weight, weight, benign=0):
    """The paper's J_AS, written as it stands there, from probabilities."""
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    is_benign = target == benign
    cross_entropy = -np.log(p[np.arange(len(p)), target])
    binary = is_benign * np.log(p[:, benign]) + ~is_benign * np.log(1 - p[:, benign])
    return np.average(cross_entropy - attack_weight * binary, weights=weight)


@settings(deadline=None)
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


# --- losses to compare with, each against its formula written plainly ------------------------------------------------

COUNTS = np.array([700.0, 200.0, 90.0, 10.0])
SHARES = COUNTS / COUNTS.sum()


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def focal(logits, target, weight):
    p = softmax(logits)[np.arange(N_FLOWS), target]
    return np.average(-((1 - p) ** 2) * np.log(p), weights=weight)


def logit_adjusted(logits, target, weight):
    shares = SHARES * np.exp(logits)
    return np.average(-np.log((shares / shares.sum(1, keepdims=True))[np.arange(N_FLOWS), target]), weights=weight)


def class_balanced(logits, target, weight):
    of_class = (1 - 0.9999) / (1 - 0.9999**COUNTS)
    of_class /= of_class @ SHARES
    return np.average(-of_class[target] * np.log(softmax(logits)[np.arange(N_FLOWS), target]), weights=weight)


def ldam(logits, target, weight):
    own = np.arange(N_FLOWS), target
    moved = logits.copy()
    moved[own] -= 30 * 0.5 * (COUNTS[target] / 10) ** -0.25
    return np.average(-np.log(softmax(moved)[own]), weights=weight)


def balanced_softmax(logits, target, weight):
    counted = COUNTS * np.exp(logits)
    p = counted[np.arange(N_FLOWS), target] / counted.sum(1)
    return np.average(-np.log(p), weights=weight)


def cost_sensitive(logits, target, weight):
    costs = np.array([[max(a, b) for b in SHARES] for a in SHARES])[target]
    p = costs * np.exp(logits) / (costs * np.exp(logits)).sum(1, keepdims=True)
    return np.average(-np.log(p[np.arange(N_FLOWS), target]), weights=weight)


def hierarchical(logits, target, weight):
    attack = 1 - softmax(logits)[:, 0]
    binary = np.average(-np.log(np.where(target > 0, attack, 1 - attack)), weights=weight)
    own = np.append(np.zeros((N_FLOWS, 1)), softmax(logits[:, 1:]), axis=1)[np.arange(N_FLOWS), target]
    weight = weight / COUNTS[target] * (target > 0)
    among = -(weight * np.log(np.where(target > 0, own, 1))).sum() / weight.sum() if weight.any() else 0.0
    return 11 * binary + among


FORMULAS = {
    "attack-sharing": lambda logits, target, weight: equation_6(logits, target, 10.0, weight),
    "focal": focal,
    "class-balanced": class_balanced,
    "ldam": ldam,
    "logit-adjusted": logit_adjusted,
    "balanced-softmax": balanced_softmax,
    "hierarchical": hierarchical,
    "cost-sensitive": cost_sensitive,
}


@pytest.mark.parametrize("name", LOSSES)
@few
@given(logits_arrays, targets, weights)
def test_is_its_formula(name, logits, target, weight):
    loss = LOSSES[name].build(COUNTS, 10.0)
    ours = loss(torch.from_numpy(logits), torch.from_numpy(target), torch.from_numpy(weight))
    assert float(ours) == pytest.approx(FORMULAS[name](logits, target, weight), rel=1e-8, abs=1e-12)


# --- what every registered loss keeps to -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_any_gradient_equals_finite_differences(name):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(N_FLOWS, N_CLASSES, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.rand(N_FLOWS, dtype=torch.float64, generator=generator) + 0.1
    loss = LOSSES[name].build(COUNTS, 10.0)
    assert torch.autograd.gradcheck(lambda z: loss(z, torch.tensor([0, 1, 2, 3, 0, 2]), weight), logits)


@pytest.mark.parametrize("name", LOSSES)
@few
@given(logits_arrays, targets, hnp.arrays(np.int64, N_FLOWS, elements=st.integers(1, 3)))
def test_in_any_loss_a_row_of_weight_three_is_three_rows(name, logits, target, copies):
    loss, z, t = LOSSES[name].build(COUNTS, 10.0), torch.from_numpy(logits), torch.from_numpy(target)
    repeated = torch.from_numpy(np.repeat(np.arange(N_FLOWS), copies))
    assert float(loss(z, t, torch.from_numpy(copies))) == pytest.approx(float(loss(z[repeated], t[repeated])), rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("target", range(3))
def test_any_loss_stays_finite_for_extreme_logits(name, target):
    corners = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1], [-1, -1, -1], [0, 0, 0]]) * 1e4
    logits = corners.requires_grad_()
    loss = LOSSES[name].build(np.array([1e6, 1e3, 1.0]), 10.0)(logits, torch.full((6,), target))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_any_loss_refuses_logits_that_do_not_fit(name):
    loss = LOSSES[name].build(COUNTS, 10.0)
    with pytest.raises(ValueError, match="logits must be"):
        loss(torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64))
    if "class_weight" in dict(loss.named_buffers()) or "shift" in dict(loss.named_buffers()):
        with pytest.raises(ValueError, match="a column for each of 4"):
            loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))


def minimiser(name, posterior):
    """Logits, offset included, that minimise a loss over flows of one vector whose classes have this posterior."""
    loss = LOSSES[name].build(COUNTS, 1.0)
    logits = torch.zeros(1, N_CLASSES, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], lr=1, max_iter=300, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = loss(logits.expand(N_CLASSES, -1), torch.arange(N_CLASSES), torch.from_numpy(posterior))
        value.backward()
        return value

    optimiser.step(closure)
    return logits.detach().numpy() + LOSSES[name].offset(COUNTS)


@pytest.mark.parametrize("name", ["attack-sharing", "class-balanced", "logit-adjusted", "balanced-softmax"])
def test_over_its_prior_the_softmax_is_that_of_balanced_classes(name):
    posterior = np.array([0.6, 0.2, 0.15, 0.05])
    balanced = softmax(minimiser(name, posterior))[0] / LOSSES[name].prior(COUNTS)
    wanted = posterior / COUNTS
    assert balanced / balanced.sum() == pytest.approx(wanted / wanted.sum(), abs=1e-4)


def test_hierarchical_leaves_benign_alone_and_balances_the_attacks():
    posterior = np.array([0.6, 0.2, 0.15, 0.05])
    p = softmax(minimiser("hierarchical", posterior))[0]
    assert p[0] == pytest.approx(0.6, abs=1e-4)
    assert p[1:] / p[1:].sum() == pytest.approx((posterior / COUNTS)[1:] / (posterior / COUNTS)[1:].sum(), abs=1e-4)
    prior = LOSSES["hierarchical"].prior(COUNTS)
    assert prior == pytest.approx([700, 100, 100, 100])


@pytest.mark.parametrize("name", ["focal", "cost-sensitive"])
def test_what_is_not_proper_keeps_the_order(name):
    p = softmax(minimiser(name, np.array([0.7, 0.2, 0.07, 0.03])))[0]
    assert (np.diff(p) < 0).all()


def test_focal_is_less_sure_than_the_posterior():
    assert softmax(minimiser("focal", np.array([0.7, 0.2, 0.07, 0.03])))[0, 0] < 0.65


# --- what is special about each --------------------------------------------------------------------------------------


def test_focal_without_gamma_and_class_balanced_without_beta_are_cross_entropy():
    logits, target = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0])
    reference = pytest.approx(float(torch.nn.functional.cross_entropy(logits, target)), rel=1e-5)
    assert float(FocalLoss(0.0)(logits, target)) == reference
    assert float(ClassBalancedLoss(COUNTS, beta=0.0)(logits, target)) == reference


def test_effective_numbers_run_from_even_weights_to_inverse_frequencies():
    almost_one = effective_number_weights(COUNTS, 1 - 1e-12)
    assert almost_one * SHARES == pytest.approx(np.full(4, 0.25), rel=1e-3)
    assert effective_number_weights(COUNTS) @ SHARES == pytest.approx(1)


def test_balanced_softmax_is_logit_adjustment():
    assert BalancedSoftmaxLoss is LogitAdjustedLoss
    assert LOSSES["balanced-softmax"] is LOSSES["logit-adjusted"]


def test_the_rarest_class_has_the_largest_margin():
    margins = -LDAMLoss(COUNTS, max_margin=0.5, scale=10.0).shift.diagonal()
    assert margins.tolist() == sorted(margins.tolist())
    assert float(margins[-1]) == pytest.approx(5.0)


def test_costs_ask_of_a_rare_class_to_beat_frequent_ones_by_their_ratio():
    shift = CostSensitiveLoss(COUNTS).shift.exp().numpy()
    assert shift[3] / shift[3, 3] == pytest.approx(COUNTS / 10)
    assert shift[0] / shift[0, 0] == pytest.approx(np.ones(4))


def test_costs_stay_the_histograms_while_a_network_learns():
    loss, network = CostSensitiveLoss(COUNTS), torch.nn.Linear(3, N_CLASSES)
    before = loss.shift.clone()
    optimiser = torch.optim.SGD([*network.parameters(), *loss.parameters()], lr=1.0)
    x = torch.randn(N_FLOWS, 3, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        loss(network(x), torch.arange(N_FLOWS) % N_CLASSES).backward()
        optimiser.step()
    assert torch.equal(loss.shift, before)
    assert before.exp().numpy() == pytest.approx(np.maximum(SHARES[:, None], SHARES))


def test_hierarchical_has_nothing_to_say_among_attacks_without_one():
    loss, logits = HierarchicalLoss(COUNTS, attack_weight=0.0), torch.zeros(3, 4, requires_grad=True)
    loss(logits, torch.zeros(3, dtype=torch.int64)).backward()
    assert float(logits.grad[0, 0]) == pytest.approx(-0.75 / 3)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("counts", [[1.0], [1.0, 0.0], [1.0, float("nan")], [[1.0, 2.0]]])
def test_refuses_counts_that_are_none(counts):
    with pytest.raises(ValueError, match="counts must be"):
        LogitAdjustedLoss(counts)


def test_refuses_parameters_out_of_their_range():
    with pytest.raises(ValueError, match="gamma must be"):
        FocalLoss(-1)
    with pytest.raises(ValueError, match="beta must be"):
        ClassBalancedLoss(COUNTS, beta=1.0)
    with pytest.raises(ValueError, match="attack_weight must be"):
        HierarchicalLoss(COUNTS, attack_weight=-1)
