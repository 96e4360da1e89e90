"""The attack-sharing loss of Dong et al. (equation 6), usable with any torch network.

Both of its terms are proper losses with the same minimiser, the true class probabilities: the attack weight does not
move the Bayes boundary, it changes what a finite network learns first. Which class a flow is then given is the
business of :mod:`deepidea.model.decision`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class AttackSharingLoss(nn.Module):
    r"""Cross-entropy plus ``attack_weight`` times the cross-entropy of benign versus attack.

    With :math:`p = \mathrm{softmax}(z)`, benign class :math:`b` and flow :math:`i` of class :math:`y_i`,

    .. math:: J = \sum_i w_i \left[-\log p_{i y_i} - \lambda\,(I(y_i = b) \log p_{ib}
              + I(y_i \ne b) \log(1 - p_{ib}))\right] / \sum_i w_i

    Everything is computed from logits: ``log(1 - p_benign)`` is the difference of two log-sum-exp, finite and with a
    finite gradient where ``1 - p_benign`` itself would round to 0.

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
        self._validate(logits, target)
        weight = torch.ones_like(logits[:, 0]) if sample_weight is None else sample_weight.to(logits.dtype)
        loss: Tensor = _AttackSharing.apply(  # type: ignore[no-untyped-call]
            logits, target, weight / weight.sum(), self.attack_weight, self.benign
        )
        return loss

    def _validate(self, logits: Tensor, target: Tensor) -> None:
        if logits.ndim != 2 or logits.shape[1] < 2 or target.shape != logits.shape[:1]:
            raise ValueError(
                "logits must be (n_flows, n_classes >= 2) and target (n_flows,), "
                f"however: logits={tuple(logits.shape)}, target={tuple(target.shape)}"
            )
        if self.benign >= logits.shape[1]:
            raise ValueError(f"benign must be below n_classes={logits.shape[1]}, however: benign={self.benign}")

    def extra_repr(self) -> str:
        """Return the parameters as torch shows them in a module's repr."""
        return f"attack_weight={self.attack_weight:g}, benign={self.benign}"


class _AttackSharing(torch.autograd.Function):
    """The loss with its gradient in closed form: one pass over ``(n_flows, n_classes)`` instead of a dozen nodes."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor, attack_weight: float, benign: int) -> Tensor:
        log_p = torch.log_softmax(logits, 1)
        attack_logits = logits.clone()
        attack_logits[:, benign] = float("-inf")
        is_attack = target != benign
        log_attack = torch.logsumexp(attack_logits, 1) - torch.logsumexp(logits, 1)  # log(1 - p_benign)
        binary = torch.where(is_attack, log_attack, log_p[:, benign])
        ctx.save_for_backward(log_p, attack_logits, target, weight)
        ctx.attack_weight = attack_weight
        own = log_p.gather(1, target[:, None])[:, 0]
        return -((own + attack_weight * binary) * weight).sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        log_p, attack_logits, target, weight = ctx.saved_tensors
        p = log_p.exp()
        onehot = torch.zeros_like(p).scatter_(1, target[:, None], 1)
        is_attack = attack_logits.gather(1, target[:, None]) != float("-inf")
        side = torch.where(is_attack, torch.softmax(attack_logits, 1), onehot)  # p given the right side of the boundary
        gradient = (p - onehot) + ctx.attack_weight * (p - side)
        return gradient * weight[:, None] * grad_outputs[0], None, None, None, None
