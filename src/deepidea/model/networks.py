"""The network of Dong et al.: fully connected, ReLU, dropout on the input and on every hidden layer.

:class:`MLP` is a plain torch module. :class:`FastMLP` trains the same network on a CPU, where at the paper's size the
overhead of torch takes longer than the arithmetic of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

Array = NDArray[Any]


class MLP(nn.Module):
    """Feed-forward network with dropout (equations 1-3 of the paper).

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
        Seed of the initial weights, and of the masks that :class:`FastMLP` draws.

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
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if min([d_in, n_classes, *hidden]) < 1:
            raise ValueError(f"every layer must have at least one unit, got {(d_in, *hidden, n_classes)}")
        sizes = [d_in, *hidden, n_classes]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.sizes = tuple(sizes)
        self.dropout = dropout
        self._initialise(random_state)
        self.mask_seeds = np.random.SeedSequence(random_state)

    def _initialise(self, random_state: int) -> None:
        # NOTE[DIFF]: the paper gives no initialisation; this is that of torch's linear layers.
        generator = torch.Generator().manual_seed(random_state)
        for weight, bias in self.weights_and_biases():
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound, generator=generator)
            nn.init.uniform_(bias, -bound, bound, generator=generator)

    def weights_and_biases(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Return each layer's weight ``(d_out, d_in)`` and bias ``(d_out,)``, first layer first."""
        parameters = list(self.layers.parameters())
        return list(zip(parameters[0::2], parameters[1::2], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(n_flows, n_classes)`` of encoded features ``(n_flows, d_in)``."""
        *inner, last = self.layers
        h = F.dropout(x, self.dropout, self.training)
        for layer in inner:
            h = F.dropout(torch.relu(layer(h)), self.dropout, self.training)  # (n_flows, d_hidden)
        logits: Tensor = last(h)
        return logits


class FastMLP(nn.Module):
    """Trains an :class:`MLP` on a CPU: the same mathematics without torch's overhead.

    - Its one parameter, ``flat``, holds all weights and biases; those of ``network`` become views of it, so that an
      optimiser's step on ``flat`` trains ``network``.
    - Forward and backward are written out, into memory that is reused. The logits are a leaf of autograd; a hook on
      their gradient computes ``flat.grad``: that of the last batch, never a sum over several.
    - Products are numpy's, whose BLAS has kernels for small matrices.
    - Dropout masks are made from raw random bits by a second thread, some batches ahead.

    Parameters
    ----------
    network : MLP
        On a CPU; all of its parameters are trained.

    Examples
    --------
    >>> import torch
    >>> from deepidea.model.networks import MLP, FastMLP
    >>> network = MLP(41, 5, hidden=(8,))
    >>> fast = FastMLP(network)
    >>> fast(torch.ones(3, 41)).sum().backward()
    >>> torch.optim.SGD(fast.parameters(), lr=0.1).step()
    >>> bool((network.layers[-1].bias == fast.flat[-5:]).all())
    True
    """

    def __init__(self, network: MLP) -> None:
        super().__init__()
        parameters = [parameter for pair in network.weights_and_biases() for parameter in pair]
        # One flat parameter: the optimiser then makes one pass over one array, not many small ones.
        self.flat = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
        self._gradient = torch.zeros_like(self.flat)
        values, gradients = _cut(self.flat.detach(), parameters), _cut(self._gradient, parameters)
        for parameter, value in zip(parameters, values, strict=True):
            # The module's own parameters become views, so that whoever holds the network sees each step: validation,
            # checkpoints.
            parameter.data = value
        arrays = [
            [view.numpy() for view in of_kind]
            for views in (values, gradients)
            for of_kind in (views[0::2], views[1::2])
        ]
        self._layers = [_Layer(*of_layer) for of_layer in zip(*arrays, strict=True)]
        self._memory = _Memory(network.sizes[1:], self.flat.dtype)
        self._masks = MaskStream(network.sizes[:-1], network.dropout, network.mask_seeds) if network.dropout else None

    @np.errstate(over="ignore", invalid="ignore")  # the training loop reports a loss that is not finite
    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(n_flows, n_classes)`` of encoded features ``(n_flows, d_in)``."""
        outputs = self._memory.of(len(x))
        # Masks are 0 or 1 / (1 - dropout) already, so that applying one is a single product.
        masks = self._masks.take(len(x)) if self._masks else None
        values = x.numpy().astype(outputs[0].array.dtype, copy=False)
        inputs = [np.multiply(values, masks[0]) if masks else values]
        for depth, (layer, output) in enumerate(zip(self._layers, outputs, strict=True), start=1):
            np.dot(inputs[-1], layer.weight.T, out=output.array)
            np.add(output.array, layer.bias, out=output.array)
            if depth < len(outputs):
                torch.relu_(output.tensor)
                if masks:
                    np.multiply(output.array, masks[depth], out=output.array)
                inputs.append(output.array)
        # A clone, since the memory is used again by the next batch; a leaf, so that autograd stops here and hands the
        # loss's gradient to the hook.
        logits = outputs[-1].tensor.clone().requires_grad_()
        logits.register_hook(partial(self._backward, inputs))  # type: ignore[no-untyped-call]
        return logits

    @np.errstate(over="ignore", invalid="ignore")
    def _backward(self, inputs: list[Array], logits_gradient: Tensor) -> None:
        # From the last layer down: dW = g^T x and db = the sum of g over the batch, written into views of the flat
        # gradient; then g W, masked by ReLU and dropout, is the gradient g of the layer below.
        outputs = self._memory.of(len(logits_gradient))
        gradient = logits_gradient.numpy()
        ones = np.ones(len(gradient), gradient.dtype)
        for depth in range(len(self._layers) - 1, -1, -1):
            layer = self._layers[depth]
            np.dot(gradient.T, inputs[depth], out=layer.weight_gradient)
            # A product with ones: BLAS sums columns faster than numpy's reduction does for so few rows.
            np.dot(ones, gradient, out=layer.bias_gradient)
            if depth:
                below = outputs[depth - 1]
                np.dot(gradient, layer.weight, out=below.spare_array)
                if self._masks:
                    np.multiply(below.spare_array, self._masks.scale, out=below.spare_array)
                # a unit passes gradient where it was active and not dropped: exactly where its value is > 0; that value
                # is no longer needed, so the gradient is written over it
                _pass_where_positive(below.spare, below.tensor, 0, grad_input=below.tensor)
                gradient = below.array
        # The same array each time; `zero_grad` only forgets it, and each step writes all of it anew.
        self.flat.grad = self._gradient


_pass_where_positive = torch.ops.aten.threshold_backward.grad_input


class _Layer(NamedTuple):
    """Views into the flat parameter and its gradient: weights ``(d_out, d_in)``, biases ``(d_out,)``."""

    weight: Array
    bias: Array
    weight_gradient: Array
    bias_gradient: Array


def _cut(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    pieces = torch.split(flat, [parameter.numel() for parameter in parameters])
    return [piece.view_as(parameter) for piece, parameter in zip(pieces, parameters, strict=True)]


class _Output(NamedTuple):
    """A layer's output ``(n_flows, width)`` and as much scratch memory, each as a tensor and as an array of one memory.

    Whichever of torch and numpy is faster at an operation does it.
    """

    tensor: Tensor
    array: Array
    spare: Tensor
    spare_array: Array


class _Memory:
    """The layers' outputs: views of the same memory for any number of flows, so that it stays in the cache."""

    def __init__(self, widths: Sequence[int], dtype: torch.dtype) -> None:
        self._widths = widths
        self._dtype = dtype
        self._most_flows = 0
        self._outputs: dict[int, list[_Output]] = {}

    def of(self, n_flows: int) -> list[_Output]:
        """Return the output of each layer, first layer first."""
        if n_flows not in self._outputs:
            self._outputs[n_flows] = self._make_views(n_flows)
        return self._outputs[n_flows]

    def _make_views(self, n_flows: int) -> list[_Output]:
        # A larger batch than any before: the views of the old, smaller memory must go with it.
        if n_flows > self._most_flows:
            self._most_flows = n_flows
            self._outputs.clear()
            self._kept = [torch.empty(n_flows * width, dtype=self._dtype) for width in self._widths]
            self._spare = torch.empty(n_flows * max(self._widths), dtype=self._dtype)
        outputs = []
        for kept, width in zip(self._kept, self._widths, strict=True):
            tensor, spare = (memory[: n_flows * width].view(n_flows, width) for memory in (kept, self._spare))
            outputs.append(_Output(tensor, tensor.numpy(), spare, spare.numpy()))
        return outputs


class MaskStream:
    """Dropout masks, batch after batch: deterministic for a seed, drawn by a second thread some batches ahead.

    Each 64-bit draw gives four cells, an order of magnitude cheaper than one Bernoulli variate a cell.

    Parameters
    ----------
    widths : sequence of int
        Units of each layer's input.
    dropout : float
        Probability that a cell is 0, rounded to 2**-16; the others are ``scale`` = 1 / (1 - dropout).
    seeds : SeedSequence
        Streams from one sequence are independent.

    Examples
    --------
    >>> import numpy as np
    >>> from deepidea.model.networks import MaskStream
    >>> masks = MaskStream([4, 2], 0.5, np.random.SeedSequence(0)).take(3)
    >>> [mask.shape for mask in masks], set(np.unique(masks[0]).tolist()) <= {0.0, 2.0}
    ([(3, 4), (3, 2)], True)
    """

    _BATCHES = 8

    def __init__(self, widths: Sequence[int], dropout: float, seeds: np.random.SeedSequence) -> None:
        self.scale = np.float32(1 / (1 - dropout))
        self._dropped = round(dropout * 65536)
        self._bits = np.random.Generator(np.random.SFC64(seeds.spawn(1)[0]))
        self._widths = widths
        self._ends = list(accumulate(widths))
        self._cells, self._used = np.zeros(0, np.float32), 0
        self._pool = ThreadPoolExecutor(1, "masks")
        self._ahead: Future[NDArray[np.float32]] | None = None

    def take(self, n_flows: int) -> list[NDArray[np.float32]]:
        """Return the next mask ``(n_flows, width)`` of each layer's input."""
        # Cells are taken in order from one long array, layer after layer of a batch: contiguous, as numpy multiplies
        # fastest.
        n_cells = n_flows * self._ends[-1]
        if self._used + n_cells > len(self._cells):
            self._cells, self._used = self._next_cells(n_cells), 0
        taken = self._cells[self._used : self._used + n_cells]
        self._used += n_cells
        starts = [0, *self._ends[:-1]]
        cuts = zip(starts, self._ends, self._widths, strict=True)
        return [taken[start * n_flows : end * n_flows].reshape(n_flows, width) for start, end, width in cuts]

    def _next_cells(self, n_cells: int) -> NDArray[np.float32]:
        # One block is drawn ahead while the last one is used up. A larger batch than any before gets a larger block, so
        # that the sequence of cells depends on the seed and the batch sizes alone, not on timing.
        cells = self._ahead.result() if self._ahead else self._cells
        if len(cells) < n_cells:
            cells = self._draw(self._BATCHES * n_cells)
        self._ahead = self._pool.submit(self._draw, len(cells))
        return cells

    def _draw(self, n_cells: int) -> NDArray[np.float32]:
        # each 16-bit quarter of a random word is compared with the dropout rate in units of 2**-16
        words = self._bits.integers(0, 2**64, size=(n_cells + 3) // 4, dtype=np.uint64).view(np.uint16)
        cells: NDArray[np.float32] = np.multiply(words >= self._dropped, self.scale)
        return cells
