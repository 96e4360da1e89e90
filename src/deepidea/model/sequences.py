"""Networks of the benchmark: a CNN along a flow's features, an LSTM along a window of flows."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepidea.model.losses import finite
from deepidea.model.threads import torch_threads


class FlowCNN(nn.Module):
    """Two convolutions with max-pooling along the encoded features of one flow, then six fully connected layers.

    Source: Chowdhury et al. 2017, "A few-shot deep learning approach for improved intrusion detection", as far as the
    paper restates it: 2 convolutions, 2 max-poolings, 6 fully connected layers. Widths are our own.

    Parameters
    ----------
    d_in : int
        Number of encoded features.
    n_classes : int
    channels : int
        Of the first convolution; the second has twice as many.
    d_hidden : int
        Units of each fully connected layer but the last.
    random_state : int
        Seed of the initial weights.

    Examples
    --------
    >>> FlowCNN(41, 5)(torch.zeros(3, 41)).shape
    torch.Size([3, 5])
    """

    def __init__(
        self, d_in: int, n_classes: int, *, channels: int = 16, d_hidden: int = 100, random_state: int = 0
    ) -> None:
        super().__init__()
        # Weights follow from random_state alone, and the caller's generator is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_state)
            self.features = nn.Sequential(
                nn.Conv1d(1, channels, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool1d(2, ceil_mode=True),
                nn.Conv1d(channels, 2 * channels, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool1d(2, ceil_mode=True),
                nn.Flatten(),
            )
            # Each pooling halves the width and rounds up.
            sizes = [2 * channels * math.ceil(math.ceil(d_in / 2) / 2), *[d_hidden] * 5]
            inner = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
            self.classifier = nn.Sequential(*inner, nn.Linear(d_hidden, n_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(n_flows, n_classes)`` of encoded features ``(n_flows, d_in)``."""
        logits: Tensor = self.classifier(self.features(x[:, None, :]))
        return logits


class FlowLSTM(nn.Module):
    """An LSTM along a window of flows: each flow is classified from itself and those before it in the window.

    Source: Hochreiter & Schmidhuber 1997; one layer, as torch has it.

    Parameters
    ----------
    d_in : int
        Number of encoded features.
    n_classes : int
    d_hidden : int
        Units.
    random_state : int
        Seed of the initial weights.

    Examples
    --------
    >>> FlowLSTM(41, 5)(torch.zeros(2, 100, 41)).shape
    torch.Size([2, 100, 5])
    """

    def __init__(self, d_in: int, n_classes: int, *, d_hidden: int = 100, random_state: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_state)
            self.recurrent = nn.LSTM(d_in, d_hidden, batch_first=True)
            self.last = nn.Linear(d_hidden, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(n_windows, n_flows, n_classes)`` of encoded flows ``(n_windows, n_flows, d_in)``."""
        logits: Tensor = self.last(self.recurrent(x)[0])
        return logits


def cut_windows(values: NDArray[np.generic], window: int) -> NDArray[np.generic]:
    """Cut rows into windows in their order, ``(n_windows, window, ...)``; the last one is padded with zeros.

    Examples
    --------
    >>> cut_windows(np.array([1, 2, 3]), 2)
    array([[1, 2],
           [3, 0]])
    """
    n_windows = math.ceil(len(values) / window)
    # Padding gets weight 0 in training, and is cut off again in `run_windows`.
    filled = np.zeros((n_windows * window, *values.shape[1:]), values.dtype)
    filled[: len(values)] = values
    return filled.reshape(n_windows, window, *values.shape[1:])


def train_on_windows(
    network: nn.Module,
    x: NDArray[np.float32],
    target: NDArray[np.int64],
    *,
    loss: nn.Module,
    window: int,
    learning_rate: float,
    batch_size: int,
    n_epochs: int,
    random_state: int = 0,
) -> list[float]:
    """Train ``network`` in place with Adam on windows of consecutive flows, and return the mean loss of each epoch.

    Runs on one torch thread, so that a seed makes it reproducible to the bit on a CPU.

    Parameters
    ----------
    network : Module
        Maps ``(n_windows, window, d_in)`` to ``(n_windows, window, n_classes)``.
    x : array, float32, (n_flows, d_in)
        In the order of the table.
    target : array, int64, (n_flows,)
    loss : Module
        Called as ``loss(logits, target, weight)`` on the flows of a batch; padding has weight 0.
    window : int
        Flows in a window.
    batch_size : int
        Windows in a batch.

    Raises
    ------
    FloatingPointError
        The loss is no longer finite.
    """
    parts = [torch.from_numpy(cut_windows(part, window)) for part in (x, target, np.ones(len(x), np.float32))]
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
    rng = np.random.default_rng(random_state)
    network.train()
    with torch_threads(1):
        losses = []
        for _ in range(n_epochs):
            batches = torch.split(torch.from_numpy(rng.permutation(len(parts[0]))), batch_size)
            total = sum(_step(network, [part[batch] for part in parts], loss, optimiser) for batch in batches)
            losses.append(total / len(x))
    network.eval()
    return losses


def _step(network: nn.Module, batch: list[Tensor], loss: nn.Module, optimiser: torch.optim.Optimizer) -> float:
    """Take one step and return the loss summed over the batch's flows."""
    x, target, weight = batch
    optimiser.zero_grad(set_to_none=True)
    value: Tensor = loss(network(x).flatten(0, 1), target.flatten(), weight.flatten())
    finite(float(value.detach()))
    value.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(value.detach()) * float(weight.sum())


def run_flows(network: nn.Module, x: NDArray[np.float32], block: int = 4096) -> NDArray[np.float32]:
    """Return the class probabilities of independent flows, ``(n_flows, n_classes)``."""
    with torch.no_grad(), torch_threads(1):
        parts = [torch.softmax(network(part), -1) for part in torch.split(torch.from_numpy(x), block)]
    probabilities: NDArray[np.float32] = torch.cat(parts).numpy()
    return probabilities


def run_windows(network: nn.Module, x: NDArray[np.float32], window: int, block: int = 64) -> NDArray[np.float32]:
    """Return the class probabilities of consecutive flows, cut into windows, ``(n_flows, n_classes)``.

    ``block`` windows go through the network at a time.
    """
    with torch.no_grad(), torch_threads(1):
        windows = torch.split(torch.from_numpy(cut_windows(x, window)), block)
        parts = [torch.softmax(network(part), -1) for part in windows]
    probabilities: NDArray[np.float32] = torch.cat(parts).flatten(0, 1)[: len(x)].numpy()
    return probabilities
