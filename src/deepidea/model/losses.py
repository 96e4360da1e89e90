"""The attack-sharing loss of Dong et al. (equation 6), and losses to compare it with, usable with any torch network.

Every loss is called as ``loss(logits, target, sample_weight)`` and returns the weighted mean over the flows, so that a
row of weight 3 is three rows. The decision (:mod:`deepidea.model.decision`) must know what the softmax of the trained
network means: :data:`LOSSES` states it for each loss.
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
            raise ValueError(f"attack_weight must be finite and at least 0, got {attack_weight}")
        if benign < 0:
            raise ValueError(f"benign must be the index of a class, got {benign}")
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
        # Equation 6 is equation 4, -log p_y, plus lambda times -log P(side), where the side is benign or attack and
        # P(side) is p_b or 1 - p_b. In float32 1 - p_b rounds to 0 for a confident miss, so its logarithm is never
        # taken: P(side) = p_y / p(y | side), and p(y | side) is a softmax over the logits of y's own side alone. So
        #     J = (1 + lambda) * -log p_y  -  lambda * -log p(y | side),
        # two cross-entropies from logits, finite and with a finite gradient for any finite logits.
        among_all = F.cross_entropy(logits, target, reduction="none")  # -log p_y
        across = _across(logits.shape[1], self.benign, logits.dtype, logits.device)
        own_side = F.cross_entropy(logits + across.index_select(0, target), target, reduction="none")
        each = torch.sub((1 + self.attack_weight) * among_all, own_side, alpha=self.attack_weight)
        return torch.dot(each, weight / weight.sum())

    def extra_repr(self) -> str:
        """Return the parameters as torch shows them in a module's repr."""
        return f"attack_weight={self.attack_weight:g}, benign={self.benign}"


@cache
def _across(n_classes: int, benign: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a mask ``(n_classes, n_classes)``: -inf where classes are on different sides, benign/attack, else 0."""
    is_attack = torch.arange(n_classes, device=device) != benign
    # Row y, added to the logits of a flow of class y, leaves the softmax only the classes on y's own side: exp(-inf) is
    # exactly 0, and so is its gradient.
    across = is_attack[:, None] != is_attack
    return torch.zeros(n_classes, n_classes, dtype=dtype, device=device).masked_fill_(across, float("-inf"))


def _check_shapes(logits: Tensor, target: Tensor, benign: int = 0) -> None:
    if logits.ndim != 2 or logits.shape[1] < 2 or target.shape != logits.shape[:1]:
        raise ValueError(
            "logits must be (n_flows, n_classes >= 2) and target (n_flows,), "
            f"got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    if benign >= logits.shape[1]:
        raise ValueError(f"benign must be below n_classes={logits.shape[1]}, got {benign}")


def _weights(logits: Tensor, sample_weight: Tensor | None) -> Tensor:
    return torch.ones_like(logits[:, 0]) if sample_weight is None else sample_weight.to(logits.dtype)


class _MeanLoss(nn.Module):
    """A loss of each flow by itself, averaged over the flows."""

    def forward(self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Return the weighted mean loss, a scalar; the arguments are those of :meth:`AttackSharingLoss.forward`."""
        _check_shapes(logits, target)
        weight = _weights(logits, sample_weight)
        return (self._per_flow(logits, target) * weight).sum() / weight.sum()

    def _per_flow(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each flow, ``(n_flows,)``."""
        raise NotImplementedError


class FocalLoss(_MeanLoss):
    r"""Cross-entropy that fades where the network is right: :math:`-(1 - p_y)^\gamma \log p_y`.

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
        self.gamma = _check(0 <= gamma < float("inf"), "gamma must be finite and at least 0", gamma)

    def _per_flow(self, logits: Tensor, target: Tensor) -> Tensor:
        log_total = torch.logsumexp(logits, 1)
        log_p = logits.gather(1, target[:, None])[:, 0] - log_total
        # log(1 - p_y) as a log-sum-exp over the other classes: its power has a finite gradient for any gamma
        log_other = torch.logsumexp(logits.scatter(1, target[:, None], float("-inf")), 1) - log_total
        return -(self.gamma * log_other).exp() * log_p


class _ShiftedCrossEntropy(_MeanLoss):
    """Cross-entropy after row y of ``shift``, ``(n_classes, n_classes)``, is added to logits of flows of class y."""

    shift: Tensor

    def __init__(self, shift: Floats) -> None:
        super().__init__()
        self.register_buffer("shift", torch.from_numpy(np.ascontiguousarray(shift, np.float64)))

    def _per_flow(self, logits: Tensor, target: Tensor) -> Tensor:
        _check_width(logits, len(self.shift))
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

    At tau = 1 it is the balanced softmax of Ren et al. 2020 (arXiv 2007.10740),
    :math:`p_j = n_j e^{z_j} / \sum_k n_k e^{z_k}`: :math:`n_j e^{z_j} = e^{z_j + \log n_j}`, and the total count
    cancels. Their learnt sampler is left out.

    Notes
    -----
    The softmax of ``z + tau log prior`` is the posterior of the training flows. A network whose last layer has a bias
    can express cross-entropy's solution too: the losses differ in where training starts and in its path, not in the
    solution of a perfect network.

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
        # The shift is the same whatever the true class, so every row is equal.
        super().__init__(np.tile(tau * log_prior, (len(log_prior), 1)))


BalancedSoftmaxLoss = LogitAdjustedLoss


class LDAMLoss(_ShiftedCrossEntropy):
    r"""Label-distribution-aware margin: cross-entropy after :math:`s C n_y^{-1/4}` is taken off the true class's logit.

    C gives the rarest class the margin ``max_margin``. The paper's deferred re-weighting is left out.

    Parameters
    ----------
    counts : array of float, (n_classes,)
        Training flows n of each class, above 0.
    max_margin, scale : float
        C and s; the defaults are those of the authors' code. They normalise the last layer's inputs and weights and
        multiply by s; a free last layer learns the scale itself, so s enters the margin alone here.

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
        # Counted in rows of the rarest class, whose margin is max_margin, n_y^(-1/4) needs no C. Only the true class's
        # logit is moved, hence a diagonal.
        super().__init__(np.diag(-scale * max_margin * (shares / shares.min()) ** -0.25))


class CostSensitiveLoss(_ShiftedCrossEntropy):
    r"""Cross-entropy of a softmax under costs: :math:`p_j = \xi_{yj} e^{z_j} / \sum_k \xi_{yk} e^{z_k}`.

    The costs are a class histogram's: ``max(h_y, h_j)`` off the diagonal and ``h_y`` on it, h being the share of each
    class. A flow of a rare class must beat a more frequent one by the ratio of the two; flows of the most frequent
    class get plain cross-entropy.

    Parameters
    ----------
    counts : array of float, (n_classes,)
        Training flows of each class, above 0; only their proportions matter.

    Source: Khan et al. 2018 (arXiv 1508.03422).

    Notes
    -----
    The authors update the matrix after every epoch that lowers the held-out error, by a gradient step towards a target:
    the histogram's costs, times Gaussian factors of the separability of the two classes and of their confusion, both on
    held-out flows. Here the matrix is that target with both factors 1, from the first step to the last: the centres and
    widths of the factors need cross-validation per data set, and separability needs two held-out flows of a class,
    which classes of fewer than fifteen distinct flows, those the costs are for, do not have.

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
        # Costs multiply the exponentials of a softmax, so their logarithms are added to its logits.
        super().__init__(np.log(np.maximum(shares[:, None], shares)))


class ClassBalancedLoss(_MeanLoss):
    r"""Cross-entropy weighted by the inverse effective number of flows, :math:`(1 - \beta) / (1 - \beta^{n_y})`.

    The weights have a mean of 1 over the training flows; the authors' sum to the number of classes.

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

    def _per_flow(self, logits: Tensor, target: Tensor) -> Tensor:
        _check_width(logits, len(self.class_weight))
        weight = self.class_weight.to(logits.dtype)[target]
        return weight * F.cross_entropy(logits, target, reduction="none")


class HierarchicalLoss(nn.Module):
    r"""Attack-sharing in two steps: attack or benign, then which attack.

    The first term is :math:`1 + \lambda` times the binary cross-entropy of the logit
    :math:`\log\sum_{j \ge 1} e^{z_j} - z_0`. The second is the cross-entropy among the attacks, each class weighing the
    same, averaged over the attack flows alone: averaged over all flows it would vanish where attacks are few. Class 0
    is benign.

    Parameters
    ----------
    counts : array of float, (n_classes,)
        Training flows of each class, above 0.
    attack_weight : float
        The paper's lambda.

    Source: the terms of Dong et al. 2019, equation 6, separated; the arrangement is our own.

    Examples
    --------
    >>> import torch
    >>> loss, logits = HierarchicalLoss([80, 10, 10], attack_weight=1.0), torch.zeros(1, 3)
    >>> round(loss(logits, torch.tensor([0])).item(), 6), round(2 * float(np.log(3)), 6)  # the first term alone
    (2.197225, 2.197225)
    """

    class_weight: Tensor

    def __init__(self, counts: ArrayLike, attack_weight: float = 1.0) -> None:
        super().__init__()
        finite = 0 <= attack_weight < float("inf")
        self.attack_weight = _check(finite, "attack_weight must be finite and at least 0", attack_weight)
        self.register_buffer("class_weight", torch.from_numpy(1 / _shares(counts)))

    def forward(self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar; the arguments are those of :meth:`AttackSharingLoss.forward`."""
        _check_shapes(logits, target)
        _check_width(logits, len(self.class_weight))
        weight = _weights(logits, sample_weight)
        log_attack = torch.logsumexp(logits[:, 1:], 1)
        sign = 1 - 2 * (target > 0).to(logits.dtype)  # 1 for benign, -1 for an attack
        # -log sigmoid(-sign z), with z the log-odds of attack: softplus neither overflows nor loses small values, for
        # any logits.
        binary = F.softplus(sign * (log_attack - logits[:, 0]))
        own = log_attack - logits.gather(1, target[:, None])[:, 0]  # -log p(class | attack), of attacks
        share = weight * self.class_weight.to(logits.dtype)[target] * (target > 0)
        # A batch without attacks has no second term: 0 over the smallest number, not 0 over 0.
        among = (share * own).sum() / share.sum().clamp_min(torch.finfo(logits.dtype).tiny)
        return (1 + self.attack_weight) * (binary * weight).sum() / weight.sum() + among


def effective_number_weights(counts: ArrayLike, beta: float = 0.9999) -> Floats:
    """Return the weight of a flow of each class in :class:`ClassBalancedLoss`; their mean over training flows is 1.

    Examples
    --------
    >>> effective_number_weights([90, 10], beta=0.0).tolist()
    [1.0, 1.0]
    """
    _check(0 <= beta < 1, "beta must be in [0, 1)", beta)
    shares = _shares(counts)
    with np.errstate(divide="ignore"):  # beta = 0: log 0 is -inf, and its effective number 1
        # 1 - beta^n as -expm1(n log beta): with beta near 1 the plain difference has few digits left for small n.
        effective = -np.expm1(np.asarray(counts, np.float64) * np.log(beta))
    return np.asarray(1 / effective / (shares / effective).sum(), np.float64)


def finite(loss: float) -> float:
    """Return the training loss, or raise :class:`FloatingPointError` where it is not finite."""
    if not np.isfinite(loss):
        raise FloatingPointError(f"training diverged: the loss is {loss}; lower learning_rate")
    return loss


def _shares(counts: ArrayLike) -> Floats:
    values = np.asarray(counts, np.float64)
    if values.ndim != 1 or len(values) < 2 or not (values > 0).all() or not np.isfinite(values).all():
        raise ValueError(f"counts must be finite numbers above 0, of two classes or more, got {values.tolist()}")
    return cast(Floats, values / values.sum())


def _check(holds: bool, rule: str, value: float) -> float:
    if not holds:
        raise ValueError(f"{rule}, got {value}")
    return float(value)


def _check_width(logits: Tensor, n_classes: int) -> None:
    if logits.shape[1] != n_classes:
        raise ValueError(f"logits have {logits.shape[1]} columns, expected a column for each of {n_classes} counts")


# --- registry --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LossInfo:
    """How a loss is made, and what the softmax of a network trained with it means.

    Attributes
    ----------
    build : callable
        ``build(counts, attack_weight)`` returns the module. The counts are the weighted training flows of each output,
        above 0; output 0 is benign.
    prior : callable
        Maps the counts to the prior of the softmax, up to a factor: dividing by it balances the outputs.
    offset : callable
        Maps the counts to what must be added to the trained logits first.
    uses_attack_weight : bool
        Whether it has the term that ``attack_weight`` weighs.
    is_mean_reduction : bool
        Whether the loss of a batch is the mean over its flows, so that workers can share a batch.
    """

    build: Callable[[Floats, float], nn.Module]
    prior: Callable[[Floats], Floats] = lambda counts: counts
    offset: Callable[[Floats], Floats] = np.zeros_like
    uses_attack_weight: bool = False
    is_mean_reduction: bool = True


def _log_prior(counts: Floats) -> Floats:
    return cast(Floats, np.log(_shares(counts)))


def _even_attacks(counts: Floats) -> Floats:
    """Return benign's own count, and the attacks' mean count for each attack."""
    return np.concatenate([counts[:1], np.full(len(counts) - 1, counts[1:].mean())])


# the softmax is balanced; with the log prior added to the logits it is the posterior
_LOGIT_ADJUSTED = LossInfo(lambda counts, _: LogitAdjustedLoss(counts), offset=_log_prior)

LOSSES: Mapping[LossName, LossInfo] = {
    # proper: the softmax is the posterior of the training flows
    "attack-sharing": LossInfo(lambda _, attack_weight: AttackSharingLoss(attack_weight), uses_attack_weight=True),
    # not proper: the softmax has the posterior's order, and is less sure where one class is likely (Charoenphakdee et
    # al. 2021, arXiv 2011.09172); no prior undoes that, so the prior stays
    "focal": LossInfo(lambda _, __: FocalLoss()),
    # the posterior of flows weighted by class: the prior is weighted too
    "class-balanced": LossInfo(
        lambda counts, _: ClassBalancedLoss(counts), prior=lambda counts: counts * effective_number_weights(counts)
    ),
    # margins make the softmax surer than the posterior, by no prior's measure: the prior stays
    "ldam": LossInfo(lambda counts, _: LDAMLoss(counts)),
    "logit-adjusted": _LOGIT_ADJUSTED,
    "balanced-softmax": _LOGIT_ADJUSTED,
    # benign against attack as in training, attacks among themselves as if evened: so is the prior
    "hierarchical": LossInfo(HierarchicalLoss, prior=_even_attacks, uses_attack_weight=True, is_mean_reduction=False),
    # costs are meant to move decisions, as those of class_weight, and no prior undoes them: the prior stays
    "cost-sensitive": LossInfo(lambda counts, _: CostSensitiveLoss(counts)),
}
