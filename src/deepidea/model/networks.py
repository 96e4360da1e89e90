"""The network of Dong et al.: fully connected, ReLU, dropout on the input and on every hidden layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Feed-forward network with dropout (equations 1-3 of the paper).

    While training on a CPU, forward and backward run as one fused autograd node, with dropout masks cut from raw random
    bits: the same mathematics as a stack of ``Dropout``, ``Linear`` and ``ReLU``, about three times faster at the
    paper's size, where per-operation overhead and random numbers cost more than the arithmetic.

    Parameters
    ----------
    d_in : int
        Number of encoded features.
    n_classes : int
    hidden : sequence of int
        Units of each hidden layer; the paper's are ten of 100.
    dropout : float
        Probability that a unit is dropped; the paper keeps 0.8, so 0.2.
    random_state : int
        Seed of the initial weights and of the masks.

    Examples
    --------
    >>> import torch
    >>> from deepidea.model.networks import MLP
    >>> network = MLP(41, 5, hidden=(100,) * 10)
    >>> network(torch.zeros(3, 41)).shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        d_in: int,
        n_classes: int,
        *,
        hidden: Sequence[int] = (100,) * 10,
        dropout: float = 0.2,
        random_state: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), however: dropout={dropout}")
        if min([d_in, n_classes, *hidden]) < 1:
            raise ValueError(f"every layer must have a unit, however: {(d_in, *hidden, n_classes)}")
        sizes = [d_in, *hidden, n_classes]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.sizes = tuple(sizes)
        self._parameters_in_order = list(self.layers.parameters())  # walking the modules costs more than a product
        self.dropout = dropout
        self._initialise(random_state)
        self._mask_bits = np.random.Generator(np.random.SFC64(random_state))

    def _initialise(self, random_state: int) -> None:
        # NOTE[DIFF]: the paper gives no initialisation; this is that of torch's linear layers.
        generator = torch.Generator().manual_seed(random_state)
        for weight, bias in self.weights_and_biases():
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound, generator=generator)
            nn.init.uniform_(bias, -bound, bound, generator=generator)

    def weights_and_biases(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Return each layer's weight ``(d_out, d_in)`` and bias ``(d_out,)``, from the input on."""
        parameters = self._parameters_in_order
        return list(zip(parameters[0::2], parameters[1::2], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(n_flows, n_classes)`` of encoded features ``(n_flows, d_in)``."""
        if self.training and self.dropout > 0 and x.device.type == "cpu":
            return self._forward_fused(x)
        *inner, last = self.layers
        h = F.dropout(x, self.dropout, self.training)
        for layer in inner:
            h = F.dropout(torch.relu(layer(h)), self.dropout, self.training)  # (n_flows, d_hidden)
        logits: Tensor = last(h)
        return logits

    def _forward_fused(self, x: Tensor) -> Tensor:
        masks = draw_masks(self._mask_bits, len(x), self.sizes[:-1], self.dropout)
        logits: Tensor = _FusedMLP.apply(  # type: ignore[no-untyped-call]
            x, masks, 1 / (1 - self.dropout), *self._parameters_in_order
        )
        return logits


def draw_masks(bits: np.random.Generator, n_flows: int, widths: Sequence[int], dropout: float) -> list[Tensor]:
    """Draw one 0/1 mask ``(n_flows, width)`` per layer input; each cell is 0 with probability ``dropout`` (to 2**-16).

    Four cells come out of each 64-bit draw, an order of magnitude cheaper than a Bernoulli variate a cell.
    """
    n_cells = n_flows * sum(widths)
    words = bits.integers(0, 2**64, size=(n_cells + 3) // 4, dtype=np.uint64).view(np.uint16)[:n_cells]
    cells = torch.from_numpy((words >= round(dropout * 65536)).astype(np.float32))
    flat = torch.split(cells, [n_flows * width for width in widths])
    return [mask.view(n_flows, width) for mask, width in zip(flat, widths, strict=True)]


class _FusedMLP(torch.autograd.Function):
    """All layers as one node. Hidden values are kept unscaled; ``scale`` = 1/keep enters each product instead."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, masks: list[Tensor], scale: float, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[0::2], parameters[1::2]
        inputs = [x * masks[0]]
        for weight, bias, mask in zip(weights[:-1], biases[:-1], masks[1:], strict=True):
            h = torch.addmm(bias, inputs[-1], weight.t(), alpha=scale)
            inputs.append(h.relu_().mul_(mask))
        ctx.inputs, ctx.weights, ctx.scale = inputs, weights, scale
        ctx.x_mask = masks[0] if ctx.needs_input_grad[0] else None
        return torch.addmm(biases[-1], inputs[-1], weights[-1].t(), alpha=scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        gradient: Tensor = grad_outputs[0]
        parameter_gradients: list[Tensor] = []
        for depth in range(len(ctx.weights) - 1, -1, -1):
            parameter_gradients += [gradient.sum(0), torch.mm(gradient.t(), ctx.inputs[depth]).mul_(ctx.scale)]
            if depth or ctx.x_mask is not None:
                gradient = torch.mm(gradient, ctx.weights[depth]).mul_(ctx.scale)
            if depth:  # a unit passes gradient where it was active and not dropped: exactly where its value is > 0
                gradient = torch.ops.aten.threshold_backward(gradient, ctx.inputs[depth], 0)
        x_gradient = gradient * ctx.x_mask if ctx.x_mask is not None else None
        return x_gradient, None, None, *reversed(parameter_gradients)
