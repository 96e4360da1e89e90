"""A conditional generative model of flows: a variational autoencoder with the class as input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deepidea.model.losses import finite
from deepidea.model.threads import torch_threads

LOG_SPREAD_FLOOR = -4.0  # of scaled numbers: the likelihood of a column that is constant in a class must stay finite


class ConditionalVAE(nn.Module):
    """Variational autoencoder of encoded flows, given their class (Kingma & Welling 2014; Sohn et al. 2015).

    Numbers are Gaussian with one learnt spread a column; categories are categorical, with missing as a value.

    Parameters
    ----------
    n_numbers : int
    n_values : sequence of int
        Codes of each category, the missing value included.
    n_classes : int
    d_latent, d_hidden : int
        Size of the code, and of the two hidden layers of encoder and decoder.
    random_state : int
        Seed of the initial weights.

    Examples
    --------
    >>> model = ConditionalVAE(2, (3,), 5)
    >>> scaled, codes = model.draw(np.array([4, 4, 0]), seed=0)
    >>> scaled.shape, codes.shape
    ((3, 2), (3, 1))
    """

    def __init__(
        self,
        n_numbers: int,
        n_values: Sequence[int],
        n_classes: int,
        *,
        d_latent: int = 16,
        d_hidden: int = 128,
        random_state: int = 0,
    ) -> None:
        super().__init__()
        self.n_numbers, self.n_values, self.n_classes, self.d_latent = n_numbers, tuple(n_values), n_classes, d_latent
        d_flow = n_numbers + sum(n_values)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_state)
            self.encoder = _layers(d_flow + n_classes, d_hidden, 2 * d_latent)
            self.decoder = _layers(d_latent + n_classes, d_hidden, d_flow)
        self.log_spread = nn.Parameter(torch.zeros(n_numbers))
        self.log_possible: Tensor
        self.register_buffer("log_possible", torch.zeros(sum(n_values)))

    def allow(self, codes: NDArray[np.int32]) -> None:
        """Restrict :meth:`draw` to the category codes that occur here, ``(n_flows, n_categories)``."""
        occurs = [np.isin(np.arange(size), codes[:, j]) for j, size in enumerate(self.n_values)]
        possible = torch.from_numpy(np.concatenate([np.zeros(0, bool), *occurs]))
        # -inf added to a logit makes a value impossible: the generator must not invent protocols that never occurred.
        self.log_possible = torch.zeros(len(possible)).masked_fill(~possible, -torch.inf)

    def loss(self, flows: EncodedFlows, target: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean negative evidence lower bound of a batch, in nats a flow, up to a constant."""
        given = F.one_hot(target, self.n_classes).float()
        hot = [F.one_hot(column, size) for column, size in zip(flows.codes.unbind(1), self.n_values, strict=True)]
        mean, log_variance = self.encoder(torch.cat([flows.numbers, *hot, given], 1)).chunk(2, 1)
        # reparameterisation: the code is a differentiable function of mean, variance and noise
        noise = torch.randn(mean.shape, generator=generator)
        numbers, logits = self._decode(mean + noise * (log_variance / 2).exp(), given)
        # closed form of the divergence of a diagonal Gaussian from the standard one
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        bound: Tensor = (divergence + self._negative_log_likelihood(numbers, logits, flows)).mean()
        return bound

    def _decode(self, code: Tensor, given: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the means of the numbers, and the logits of each category's values."""
        numbers, values = self.decoder(torch.cat([code, given], 1)).tensor_split([self.n_numbers], 1)
        return numbers, torch.split(values + self.log_possible, list(self.n_values), 1)

    def _negative_log_likelihood(self, numbers: Tensor, logits: tuple[Tensor, ...], flows: EncodedFlows) -> Tensor:
        """Return the negative log-likelihood of each flow under the decoder's outputs, ``(n_flows,)``."""
        # A Gaussian's likelihood grows without bound as its spread shrinks on a constant column: the floor bounds it.
        log_spread = self.log_spread.clamp(min=LOG_SPREAD_FLOOR)
        surprise: Tensor = (0.5 * ((flows.numbers - numbers) / log_spread.exp()) ** 2 + log_spread).sum(1)
        for of_category, codes in zip(logits, flows.codes.unbind(1), strict=True):
            surprise = surprise + F.cross_entropy(of_category, codes, reduction="none")
        return surprise

    def draw(self, target: NDArray[np.int64], *, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Draw a flow for each class index.

        Returns
        -------
        scaled : array, float32, (n_flows, n_numbers)
        codes : array, int32, (n_flows, n_categories)
        """
        generator = torch.Generator().manual_seed(seed)
        given = F.one_hot(torch.from_numpy(target), self.n_classes).float()
        with torch.no_grad(), torch_threads(1):
            code = torch.randn((len(target), self.d_latent), generator=generator)
            numbers, logits = self._decode(code, given)
            spread = self.log_spread.clamp(min=LOG_SPREAD_FLOOR).exp()
            scaled = numbers + torch.randn(numbers.shape, generator=generator) * spread
            drawn = [torch.multinomial(part.softmax(1), 1, generator=generator) for part in logits]
        codes = torch.cat(drawn, 1).numpy() if drawn else np.zeros((len(target), 0))
        return scaled.numpy(), codes.astype(np.int32)


@dataclass(frozen=True, slots=True)
class EncodedFlows:
    """Scaled numbers, float32 ``(n_flows, n_numbers)``, and category codes, int64 ``(n_flows, n_categories)``."""

    numbers: Tensor
    codes: Tensor


def _layers(d_in: int, d_hidden: int, d_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(d_in, d_hidden), nn.ReLU(), nn.Linear(d_hidden, d_hidden), nn.ReLU(), nn.Linear(d_hidden, d_out)
    )


def train_generator(
    model: ConditionalVAE,
    scaled: NDArray[np.float32],
    codes: NDArray[np.int32],
    target: NDArray[np.int64],
    *,
    learning_rate: float = 1e-3,
    batch_size: int = 256,
    n_steps: int = 4000,
    random_state: int = 0,
) -> list[float]:
    """Train ``model`` in place with Adam on batches in which all classes are equally frequent, and return its losses.

    Parameters
    ----------
    scaled : array, float32, (n_flows, n_numbers)
    codes : array, int32, (n_flows, n_categories)
    target : array, int64, (n_flows,)
        Class of each flow; every class occurs.
    n_steps : int
        The returned losses are means over each tenth of them.

    Raises
    ------
    FloatingPointError
        The loss is no longer finite.
    """
    model.allow(codes)
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    generator = torch.Generator().manual_seed(random_state)
    of_class = [np.flatnonzero(target == code) for code in range(model.n_classes)]
    rng = np.random.default_rng(random_state)
    losses = []
    with torch_threads(1):
        for _ in range(n_steps):
            # With replacement: rare classes have fewer rows than a batch wants of them.
            rows = np.concatenate([rng.choice(rows, -(-batch_size // model.n_classes)) for rows in of_class])
            flows = EncodedFlows(torch.from_numpy(scaled[rows]), torch.from_numpy(codes[rows].astype(np.int64)))
            optimiser.zero_grad(set_to_none=True)
            value = model.loss(flows, torch.from_numpy(target[rows]), generator)
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(finite(float(value.detach())))
    return [float(np.mean(part)) for part in np.array_split(losses, min(10, n_steps))]
