"""Integrated gradients through fully connected ReLU layers, forward and backward written out in numpy.

For a network ``f``, a flow ``x`` and a baseline ``s``, the attribution of feature ``i`` is

    (x_i - s_i) * integral over t in 0..1 of  df/dx_i (s + t (x - s))

(Sundararajan et al. 2017, equation 1), averaged over many baselines, as expected gradients do (Erion et al. 2021). The
attributions then sum to ``f(x)`` minus the mean of ``f(s)`` (completeness). The integral is a midpoint sum: between the
kinks of ReLU layers the gradient of the logits is constant, so higher orders gain nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepidea.model.novelty import Layer, last_hidden

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LogOdds:
    """Log-odds of some outputs of a network against others.

    Parameters
    ----------
    wanted, against : tuple of int
        Outputs whose probabilities are summed on either side.
    temperature : float
        Divides the logits.

    Examples
    --------
    >>> import numpy as np
    >>> odds = LogOdds((1, 2), (0,), 2.0)
    >>> odds.values(np.array([[0.0, 4.0, 4.0]], np.float32)).round(3)
    array([2.693], dtype=float32)
    """

    wanted: tuple[int, ...]
    against: tuple[int, ...]
    temperature: float

    def values(self, logits: Floats) -> Floats:
        """Return the log-odds of logits ``(..., n_outputs)``, float32 ``(...)``."""
        scaled = logits / np.float32(self.temperature)
        return _log_sum(scaled[..., self.wanted])[0] - _log_sum(scaled[..., self.against])[0]

    def gradient(self, logits: Floats) -> Floats:
        """Return their gradient with respect to the logits, of the same shape."""
        scaled, gradient = logits / np.float32(self.temperature), np.zeros_like(logits)
        gradient[..., self.wanted] = _log_sum(scaled[..., self.wanted])[1]
        gradient[..., self.against] -= _log_sum(scaled[..., self.against])[1]
        return gradient / np.float32(self.temperature)


def _log_sum(values: Floats) -> tuple[Floats, Floats]:
    """Return log sum exp over the last axis, and its gradient."""
    highest = values.max(axis=-1, keepdims=True)
    exponentials = np.exp(values - highest)
    total = exponentials.sum(axis=-1, keepdims=True)
    return (highest + np.log(total))[..., 0], exponentials / total


def run_layers(layers: Sequence[Layer], encoded: Floats) -> Floats:
    """Return the logits of encoded flows, float32 ``(n_flows, n_outputs)``."""
    weight, bias = layers[-1]
    return np.asarray(last_hidden(layers, encoded) @ weight.T + bias, np.float32)


def integrated_gradients(
    layers: Sequence[Layer], odds: LogOdds, flow: Floats, baselines: Floats, weights: NDArray[Any], n_steps: int
) -> NDArray[np.float64]:
    """Return the attribution of each encoded feature: what it adds to the log-odds of a flow.

    Parameters
    ----------
    layers : sequence of (weight, bias)
    odds : LogOdds
    flow : array, float32, (d_in,)
    baselines : array, float32, (n_baselines, d_in)
    weights : array, (n_baselines,)
        Sums to 1.
    n_steps : int
        Midpoints on the path from each baseline.

    Returns
    -------
    array, float64, (d_in,)

    Notes
    -----
    The first layer is linear before its ReLU and maps a straight path to a straight path, so its products are with the
    baselines and the flow alone, not with every step. Cost: ``n_baselines * n_steps`` rows through the other layers,
    forward and backward, as one small product a baseline, which BLAS computes on the calling thread.

    Examples
    --------
    >>> import numpy as np
    >>> layers = [(np.array([[0.0, 0.0], [3.0, -1.0]], np.float32), np.zeros(2, np.float32))]
    >>> flow, baseline = np.array([2.0, 1.0], np.float32), np.zeros((1, 2), np.float32)
    >>> integrated_gradients(layers, LogOdds((1,), (0,), 1.0), flow, baseline, np.ones(1), 4)
    array([ 6., -1.])
    """
    weight, bias = layers[0]
    # The path from a baseline to the flow is straight, and the first layer is affine: its outputs lie on a straight
    # line too. So they are computed at both ends alone, and only the layers behind it at every step.
    ends = np.concatenate([baselines, flow[None]]) @ weight.T + bias  # (n_baselines + 1, d_1)
    steps = ((np.arange(n_steps) + 0.5) / n_steps).astype(np.float32)
    path = ends[:-1, None] + steps[:, None] * (ends[-1] - ends[:-1])[:, None]  # (n_baselines, n_steps, d_1)
    # The chain rule through the first layer is the same at each step: its weights are applied to the mean gradient
    # once.
    mean = _gradient_at_first(layers[1:], odds, path).mean(axis=1) @ weight  # (n_baselines, d_in)
    return np.asarray(np.asarray(weights, np.float64) @ ((flow - baselines) * mean).astype(np.float64))


def _gradient_at_first(layers: Sequence[Layer], odds: LogOdds, outputs: Floats) -> Floats:
    """Return the gradient of the log-odds with respect to the outputs of the first layer, before its ReLU."""
    forward = [outputs]  # of each layer, before the ReLU
    for weight, bias in layers:
        forward.append(np.maximum(forward[-1], np.float32(0)) @ weight.T + bias)
    gradient = odds.gradient(forward[-1])
    for (weight, _), below in zip(reversed(layers), reversed(forward[:-1]), strict=True):
        # ReLU passes the gradient where its input was above 0.
        gradient = (gradient @ weight) * (below > 0)
    return gradient
