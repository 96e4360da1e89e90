"""The attack-sharing loss of Dong et al. (equation 6), and losses to compare it with, usable with any torch network.

Every loss is called as ``loss(logits, target, sample_weight)`` and returns the weighted mean over the flows, so that a
row of weight 3 is three rows. Which class a flow is then given is the business of :mod:`deepidea.model.decision`, which
needs to know what the softmax of the trained network means: :data:`LOSSES` says so of each loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

LossName = Literal[
    "attack-sharing",
    "focal",
    "class-balanced",
    "ldam",
    "logit-adjusted",
    "balanced-softmax",
    "hierarchical",
    "cost-sensitive",
]
Floats = NDArray[np.float64]


class AttackSharingLoss(nn.Module):
    r"""Cross-entropy plus ``attack_weight`` times the cross-entropy of benign versus attack.

    With :math:`p = \mathrm{softmax}(z)`, benign class :math:`b` and flow :math:`i` of class :math:`y_i`,

    .. math:: J = \sum_i w_i \left[-\log p_{i y_i} - \lambda\,(I(y_i = b) \log p_{ib}
              + I(y_i \ne b) \log(1 - p_{ib}))\right] / \sum_i w_i

    Both terms are proper losses with the same minimiser, the true class probabilities: the attack weight does not move
    the Bayes boundary, it changes what a finite network learns first.

    Everything is computed from logits, as two cross-entropies: over all classes, and over those on the flow's own side
    of the boundary. So ``log(1 - p_benign)`` is finite, with a finite gradient, where ``1 - p_benign`` itself would
    round to 0.

    Parameters
    ----------
    attack_weight : float
        The paper's lambda. 0 is plain cross-entropy; a large value leaves the two-class problem benign/attack.
    benign : int
        Index of the benign class among the logits.

    Source: Dong et al. 2019 (arXiv 2103.09713), equations 4 and 6.

    Examples
    --------
    >>> import torch
    >>> from deepidea.model.losses import AttackSharingLoss
    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    >>> called_benign = AttackSharingLoss(10.0)(logits, torch.tensor([1, 2]))
    >>> only_cross_entropy = AttackSharingLoss(0.0)(logits, torch.tensor([1, 2]))
    >>> bool(called_benign > only_cross_entropy)
    True
    """

    def __init__(self, attack_weight: float = 10.0, *, benign: int = 0) -> None:
        super().__init__()
        if not 0 <= attack_weight < float("inf"):
            raise ValueError(f"attack_weight must be a finite number >= 0, however: attack_weight={attack_weight}")
        if benign < 0:
            raise ValueError(f"benign must be the index of a class, however: benign={benign}")
        self.attack_weight = float(attack_weight)
        self.benign = benign

    def forward(self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Return the weighted mean loss.

        Parameters
        ----------
        logits : Tensor, float, (n_flows, n_classes)
        target : Tensor, int64, (n_flows,)
        sample_weight : Tensor, float, (n_flows,), optional
            How many flows each row stands for; 1 where absent.

        Returns
        -------
        Tensor, scalar
        """
        _check_shapes(logits, target, self.benign)
        weight = _weights(logits, sample_weight)
        among_all = F.cross_entropy(logits, target, reduction="none")  # -log p_y
        across = _across(logits.shape[1], self.benign, logits.dtype, logits.device)
        own_side = F.cross_entropy(logits + across.index_select(0, target), target, reduction="none")
        # -log P(side of y) = -log p_y + log p(y | its side): the attack-sharing term needs no logarithm of its own
        each = torch.sub((1 + self.attack_weight) * among_all, own_side, alpha=self.attack_weight)
        return torch.dot(each, weight / weight.sum())

    def extra_repr(self) -> str:
        """Return the parameters as torch shows them in a module's repr."""
        return f"attack_weight={self.attack_weight:g}, benign={self.benign}"


@cache
def _across(n_classes: int, benign: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``(n_classes, n_classes)``: for each class, -inf at those across the boundary benign/attack, else 0."""
    is_attack = torch.arange(n_classes, device=device) != benign
    across = is_attack[:, None] != is_attack
    return torch.zeros(n_classes, n_classes, dtype=dtype, device=device).masked_fill_(across, float("-inf"))


def _check_shapes(logits: Tensor, target: Tensor, benign: int = 0) -> None:
    if logits.ndim != 2 or logits.shape[1] < 2 or target.shape != logits.shape[:1]:
        raise ValueError(
            "logits must be (n_flows, n_classes >= 2) and target (n_flows,), "
            f"however: logits={tuple(logits.shape)}, target={tuple(target.shape)}"
        )
    if benign >= logits.shape[1]:
        raise ValueError(f"benign must be below n_classes={logits.shape[1]}, however: benign={benign}")


def _weights(logits: Tensor, sample_weight: Tensor | None) -> Tensor:
    return torch.ones_like(logits[:, 0]) if sample_weight is None else sample_weight.to(logits.dtype)


class _MeanLoss(nn.Module):
    """A loss of each flow by itself, averaged over the flows."""

    def forward(self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Return the weighted mean loss, a scalar; the arguments are those of :meth:`AttackSharingLoss.forward`."""
        _check_shapes(logits, target)
        weight = _weights(logits, sample_weight)
        return (self.per_flow(logits, target) * weight).sum() / weight.sum()

    def per_flow(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each flow, ``(n_flows,)``."""
        raise NotImplementedError


class FocalLoss(_MeanLoss):
    r"""Cross-entropy that fades where the network is right: :math:`-(1 - p_y)^\gamma \log p_y`.

    ``1 - p_y`` comes from a log-sum-exp over the other classes, so that its power has a finite gradient for any gamma.

    Parameters
    ----------
    gamma : float
        0 is cross-entropy; the authors use 2.

    Source: Lin et al. 2017 (arXiv 1708.02002), equation 4, over a softmax and without the factor alpha.

    Examples
    --------
    >>> import torch
    >>> sure_and_right = torch.tensor([[3.0, 0.0]]), torch.tensor([0])
    >>> bool(FocalLoss(2.0)(*sure_and_right) < FocalLoss(0.0)(*sure_and_right))
    True
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = _refuse_unless(0 <= gamma < float("inf"), "gamma must be a finite number >= 0", gamma)

    def per_flow(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each flow, ``(n_flows,)``."""
        log_total = torch.logsumexp(logits, 1)
        log_p = logits.gather(1, target[:, None])[:, 0] - log_total
        log_other = torch.logsumexp(logits.scatter(1, target[:, None], float("-inf")), 1) - log_total
        return -(self.gamma * log_other).exp() * log_p


class _ShiftedCrossEntropy(_MeanLoss):
    """Cross-entropy of logits to which something is added that depends on the true class alone.

    ``shift`` is ``(n_classes, n_classes)``: row y is added to the logits of a flow of class y.
    """

    shift: Tensor

    def __init__(self, shift: Floats) -> None:
        super().__init__()
        self.register_buffer("shift", torch.from_numpy(np.ascontiguousarray(shift, np.float64)))

    def per_flow(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each flow, ``(n_flows,)``."""
        _refuse_width(logits, len(self.shift))
        return F.cross_entropy(logits + self.shift.to(logits.dtype)[target], target, reduction="none")


class LogitAdjustedLoss(_ShiftedCrossEntropy):
    r"""Cross-entropy of :math:`z + \tau \log \pi`: the network learns the logits of balanced classes.

    Parameters
    ----------
    counts : array of float, (n_classes,)
        Training flows of each class, above 0; only their proportions matter.
    tau : float
        1 is the authors' choice.

    Source: Menon et al. 2021 (arXiv 2007.07314), equation 10.

    Notes
    -----
    The softmax of ``z + tau log prior`` is the posterior of the training flows. A network whose last layer has a bias
    can therefore write cross-entropy's solution as its own: the two losses differ in where training starts and in the
    path it takes, not in what a perfect network ends as.

    Examples
    --------
    >>> import torch
    >>> even = torch.zeros(2, 2)
    >>> loss = LogitAdjustedLoss([90, 10])
    >>> [round(loss(even[:1], torch.tensor([label])).neg().exp().item(), 6) for label in (0, 1)]  # the prior
    [0.9, 0.1]
    """

    def __init__(self, counts: ArrayLike, tau: float = 1.0) -> None:
        log_prior = np.log(_shares(counts))
        super().__init__(np.tile(tau * log_prior, (len(log_prior), 1)))


class BalancedSoftmaxLoss(LogitAdjustedLoss):
    r"""Cross-entropy of :math:`p_j = n_j e^{z_j} / \sum_k n_k e^{z_k}`.

    It is :class:`LogitAdjustedLoss` at tau = 1, found by another road: the two give the same network to the last bit.
    The sampler that its authors learn beside it is left out.

    Parameters
    ----------
    counts : array of float, (n_classes,)
        Training flows n of each class, above 0.

    Source: Ren et al. 2020 (arXiv 2007.10740).

    Examples
    --------
    >>> import torch
    >>> logits, target = torch.tensor([[1.0, 0.0]]), torch.tensor([1])
    >>> bool(BalancedSoftmaxLoss([90, 10])(logits, target) > BalancedSoftmaxLoss([50, 50])(logits, target))
    True
    """

    def __init__(self, counts: ArrayLike) -> None:
        super().__init__(counts, tau=1.0)


class LDAMLoss(_ShiftedCrossEntropy):
    r"""Label-distribution-aware margin: cross-entropy after :math:`s C n_y^{-1/4}` is taken off the true class's logit.

    C is such that the rarest class has the margin ``max_margin``. This is the loss alone, without the deferred
    re-weighting of the same paper.

    Parameters
    ----------
    counts : array of float, (n_classes,)
        Training flows n of each class, above 0.
    max_margin, scale : float
        C and s; the defaults are those of the authors' code. They normalise the last layer's inputs and weights and
        multiply by s; a free last layer learns the scaled logits by itself, so that here s only enters the margin.

    Source: Cao et al. 2019 (arXiv 1906.07413), equations 12 and 13.

    Examples
    --------
    >>> import torch
    >>> even = torch.zeros(2, 2)
    >>> frequent, rare = (LDAMLoss([160_000, 10])(even[:1], torch.tensor([label])) for label in (0, 1))
    >>> bool(rare > frequent)
    True
    """

    def __init__(self, counts: ArrayLike, max_margin: float = 0.5, scale: float = 30.0) -> None:
        shares = _shares(counts)
        super().__init__(np.diag(-scale * max_margin * (shares / shares.min()) ** -0.25))


class CostSensitiveLoss(_ShiftedCrossEntropy):
    r"""Cross-entropy of a softmax under costs: :math:`p_j = \xi_{yj} e^{z_j} / \sum_k \xi_{yk} e^{z_k}`.

    The costs are a class histogram's: ``max(h_y, h_j)`` off the diagonal and ``h_y`` on it, h being the share of each
    class. A flow of a rare class must beat a more frequent one by the ratio of the two; a flow of the most frequent
    class meets plain cross-entropy.

    Parameters
    ----------
    counts : array of float, (n_classes,)
        Training flows of each class, above 0; only their proportions matter.

    Source: Khan et al. 2018 (arXiv 1508.03422).

    Notes
    -----
    The authors move the matrix after every epoch that lowers the held-out error, by a gradient step towards a target:
    the histogram's costs, times a Gaussian factor of the separability of the two classes (distances to the nearest
    neighbour within a class over those between classes, among the network's features) and one of their confusion, both
    on held-out flows. Here the matrix is that target with both factors 1, from the first step to the last.

    Two things are in the way of the rest. The centres and widths of the two factors are chosen by cross-validation for
    each data set; without them the target is anything between the histogram's and nothing. And separability needs two
    held-out flows of a class at the least: a tenth of its distinct flows, for a class of less than fifteen, is one or
    none, and rare classes are what the costs are for.

    Examples
    --------
    >>> import torch
    >>> loss, even = CostSensitiveLoss([90, 10]), torch.zeros(1, 2)
    >>> [round(loss(even, torch.tensor([label])).exp().item(), 6) for label in (0, 1)]
    [2.0, 10.0]
    """

    # NOTE[DIFF]: the cost matrix is constant, where Khan et al. learn it beside the network: see the notes above.
    def __init__(self, counts: ArrayLike) -> None:
        shares = _shares(counts)
        super().__init__(np.log(np.maximum(shares[:, None], shares)))


class ClassBalancedLoss(_MeanLoss):
    r"""Cross-entropy weighted by the inverse effective number of flows, :math:`(1 - \beta) / (1 - \beta^{n_y})`.

    The weights are scaled to a mean of 1 over the training flows; the authors let them sum to the number of classes.

    Parameters
    ----------
    counts : array of float, (n_classes,)
        Training flows n of each class, above 0.
    beta : float
        In [0, 1): 0 is cross-entropy, towards 1 a class weighs as its inverse frequency.

    Source: Cui et al. 2019 (arXiv 1901.05555), equation 10.

    Examples
    --------
    >>> ClassBalancedLoss([100, 100]).class_weight.tolist()
    [1.0, 1.0]
    """

    class_weight: Tensor

    def __init__(self, counts: ArrayLike, beta: float = 0.9999) -> None:
        super().__init__()
        self.register_buffer("class_weight", torch.from_numpy(effective_number_weights(counts, beta)))

    def per_flow(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each flow, ``(n_flows,)``."""
        _refuse_width(logits, len(self.class_weight))
        weight = self.class_weight.to(logits.dtype)[target]
        return weight * F.cross_entropy(logits, target, reduction="none")


class HierarchicalLoss(nn.Module):
    r"""Attack-sharing in two steps: is it an attack, and if so, which.

    The first term is :math:`1 + \lambda` times the binary cross-entropy of the logit
    :math:`\log\sum_{j \ge 1} e^{z_j} - z_0`. The second is the cross-entropy among the attacks, each class weighing the
    same, averaged over the attack flows alone: where attacks are few, an average over all flows would starve it. Class
    0 is benign.

    Parameters
    ----------
    counts : array of float, (n_classes,)
        Training flows of each class, above 0.
    attack_weight : float
        The paper's lambda.

    Source: the terms of Dong et al. 2019, equation 6, told apart; the arrangement is our own.

    Examples
    --------
    >>> import torch
    >>> loss, logits = HierarchicalLoss([80, 10, 10], attack_weight=1.0), torch.zeros(1, 3)
    >>> round(loss(logits, torch.tensor([0])).item(), 6), round(2 * float(np.log(3)), 6)  # only whether
    (2.197225, 2.197225)
    """

    class_weight: Tensor

    def __init__(self, counts: ArrayLike, attack_weight: float = 1.0) -> None:
        super().__init__()
        lam = _refuse_unless(0 <= attack_weight < float("inf"), "attack_weight must be finite and >= 0", attack_weight)
        self.attack_weight = lam
        self.register_buffer("class_weight", torch.from_numpy(1 / _shares(counts)))

    def forward(self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar; the arguments are those of :meth:`AttackSharingLoss.forward`."""
        _check_shapes(logits, target)
        _refuse_width(logits, len(self.class_weight))
        weight = _weights(logits, sample_weight)
        log_attack = torch.logsumexp(logits[:, 1:], 1)
        sign = 1 - 2 * (target > 0).to(logits.dtype)  # 1 for benign, -1 for an attack
        binary = F.softplus(sign * (log_attack - logits[:, 0]))
        own = log_attack - logits.gather(1, target[:, None])[:, 0]  # -log p(class | attack), of attacks
        share = weight * self.class_weight.to(logits.dtype)[target] * (target > 0)
        among = (share * own).sum() / share.sum().clamp_min(torch.finfo(logits.dtype).tiny)
        return (1 + self.attack_weight) * (binary * weight).sum() / weight.sum() + among


def effective_number_weights(counts: ArrayLike, beta: float = 0.9999) -> Floats:
    """Return what a flow of each class weighs in :class:`ClassBalancedLoss`, 1 on average over the training flows.

    Examples
    --------
    >>> effective_number_weights([90, 10], beta=0.0).tolist()
    [1.0, 1.0]
    """
    _refuse_unless(0 <= beta < 1, "beta must be in [0, 1)", beta)
    shares = _shares(counts)
    with np.errstate(divide="ignore"):  # beta = 0: log 0 is -inf, and its effective number 1
        effective = -np.expm1(np.asarray(counts, np.float64) * np.log(beta))
    return np.asarray(1 / effective / (shares / effective).sum(), np.float64)


def _shares(counts: ArrayLike) -> Floats:
    values = np.asarray(counts, np.float64)
    if values.ndim != 1 or len(values) < 2 or not (values > 0).all() or not np.isfinite(values).all():
        raise ValueError(f"counts must be numbers above 0 of two classes or more, however: {values.tolist()}")
    return cast(Floats, values / values.sum())


def _refuse_unless(holds: bool, rule: str, value: float) -> float:
    if not holds:
        raise ValueError(f"{rule}, however: {value}")
    return float(value)


def _refuse_width(logits: Tensor, n_classes: int) -> None:
    if logits.shape[1] != n_classes:
        raise ValueError(f"logits must have a column for each of {n_classes} counts, however: {logits.shape[1]}")


# --- what the classifier needs to know of each -----------------------------------------------------------------------


def _follow(prior: Floats) -> Floats:
    return prior


def _nothing(prior: Floats) -> Floats:
    return np.zeros_like(prior)


@dataclass(frozen=True, slots=True)
class LossInfo:
    """How a loss is made, and what the softmax of a network trained with it means.

    Attributes
    ----------
    build : callable
        ``build(counts, attack_weight)`` returns the module. The counts are those of the training flows of each output,
        above 0, as they weigh in training; output 0 is benign.
    prior : callable
        Maps the counts to a prior that the softmax goes with, up to a factor: dividing by it balances the outputs.
    offset : callable
        Maps the counts to what must be added to the trained logits first.
    heeds_attack_weight : bool
        Whether it has the term that ``attack_weight`` weighs.
    adds_up : bool
        Whether the loss of a batch is the mean over its flows, so that parts of the batch add up to it.
    """

    build: Callable[[Floats, float], nn.Module]
    prior: Callable[[Floats], Floats] = _follow
    offset: Callable[[Floats], Floats] = _nothing
    heeds_attack_weight: bool = False
    adds_up: bool = True


def _log_prior(counts: Floats) -> Floats:
    return cast(Floats, np.log(_shares(counts)))


def _attacks_evened(counts: Floats) -> Floats:
    """Return benign's own count, and the attacks' mean count for each of them."""
    return np.concatenate([counts[:1], np.full(len(counts) - 1, counts[1:].mean())])


LOSSES: Mapping[LossName, LossInfo] = {
    # proper: the softmax is the posterior of the training flows
    "attack-sharing": LossInfo(lambda _, attack_weight: AttackSharingLoss(attack_weight), heeds_attack_weight=True),
    # not proper: the softmax has the posterior's order, and is less sure where one class is likely (Charoenphakdee et
    # al. 2021, arXiv 2011.09172); no prior undoes that, so the prior stays
    "focal": LossInfo(lambda _, __: FocalLoss()),
    # the posterior of flows weighted by class: the prior is weighted too
    "class-balanced": LossInfo(
        lambda counts, _: ClassBalancedLoss(counts), prior=lambda counts: counts * effective_number_weights(counts)
    ),
    # margins make the softmax surer than the posterior, by no prior's measure: the prior stays
    "ldam": LossInfo(lambda counts, _: LDAMLoss(counts)),
    # the softmax is balanced; with the log prior added to the logits it is the posterior
    "logit-adjusted": LossInfo(lambda counts, _: LogitAdjustedLoss(counts), offset=_log_prior),
    "balanced-softmax": LossInfo(lambda counts, _: BalancedSoftmaxLoss(counts), offset=_log_prior),
    # benign against attack as in training, attacks among themselves as if evened: so is the prior
    "hierarchical": LossInfo(HierarchicalLoss, prior=_attacks_evened, heeds_attack_weight=True, adds_up=False),
    # costs are meant to move decisions, as those of class_weight, and no prior undoes them: the prior stays
    "cost-sensitive": LossInfo(lambda counts, _: CostSensitiveLoss(counts)),
}
