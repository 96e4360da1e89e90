"""The training loop: weighted distinct rows in, a trained network out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from deepidea.model.batches import Arrays, Batch, TrainingRows
from deepidea.model.checkpoint import Checkpoint, CheckpointState
from deepidea.model.losses import finite
from deepidea.model.networks import MLP, FastMLP
from deepidea.model.workers import Workers

Schedule = Literal["constant", "one-cycle"]
Data = tuple[Tensor, Tensor]  # encoded rows (n_rows, d_in), and their outputs (n_rows,)


@dataclass(frozen=True, slots=True)
class Epoch:
    """Result of one epoch, passed to ``on_epoch``.

    ``validation_cba`` is the class-balanced accuracy on the held-out rows in 0..1, NaN without held-out rows.
    """

    number: int
    n_epochs: int
    loss: float
    validation_cba: float
    elapsed_s: float

    @property
    def left_s(self) -> float:
        """Seconds left, at the pace so far."""
        return self.elapsed_s / self.number * (self.n_epochs - self.number)


def train_network(
    network: nn.Module,
    rows: TrainingRows,
    *,
    loss: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.0,
    batch_size: int,
    n_epochs: int,
    schedule: Schedule = "constant",
    random_state: int = 0,
    device: str = "cpu",
    validate: Callable[[nn.Module], float] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    workers: Workers | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[Epoch]:
    """Train ``network`` in place with Adam and return the result of each epoch.

    Parameters
    ----------
    rows : TrainingRows
    loss : Module
        Called as ``loss(logits, target, counts)``.
    schedule : {"constant", "one-cycle"}
        The paper's constant step size, or a linear warm-up and a cosine descent to 0.
    validate : callable, optional
        Maps the network in evaluation mode to its score on held-out rows; higher is better.
    workers : Workers, optional
        The processes that share each batch; each has the same rows.
    checkpoint : Checkpoint, optional
        Written after each epoch; training resumes from it.

    Raises
    ------
    FloatingPointError
        The loss is no longer finite.

    Notes
    -----
    On ``KeyboardInterrupt`` the weights of the best epoch so far are restored and the epochs so far returned; during
    the first epoch it is raised.
    """
    # NOTE[DIFF]: "100 consecutive connections are one training sample" cannot hold for a per-flow network: a sample is
    # one flow here.
    state = checkpoint.load() if checkpoint else None
    epochs = [Epoch(**epoch) for epoch in state.epochs] if state else []
    # dropout masks of a resumed training differ from those of its first part, and between workers
    if workers is not None and isinstance(network, MLP):
        network.mask_seeds = workers.mask_seeds(random_state, len(epochs))
    trained = speed_up(network, device)
    optimiser = Adam(trained.parameters(), weight_decay=weight_decay)
    rates = _Rates(learning_rate, schedule, n_epochs, rows.n_steps(batch_size))
    rng = np.random.default_rng(random_state)
    best = _BestWeights(network)
    if state is not None:
        _resume(state, network, optimiser, rng, best)
    # Time that a resumed training took before counts, too.
    started = time.perf_counter() - (epochs[-1].elapsed_s if epochs else 0.0)
    try:
        for number in range(len(epochs) + 1, n_epochs + 1):
            parts = ((_to_device(device, arrays), batches) for arrays, batches in rows.epoch(batch_size, rng))
            mean_loss = _run_epoch(trained, parts, loss, optimiser, rates.of_epoch(number), workers)
            score = _validation_score(network, validate)
            epochs.append(Epoch(number, n_epochs, mean_loss, score, time.perf_counter() - started))
            best.update(score)
            # all workers hold the same weights after each step; one of them writes
            if checkpoint is not None and (workers is None or workers.rank == 0):
                checkpoint.save(_checkpoint_state(network, optimiser, rng, best, epochs))
            if on_epoch is not None:
                on_epoch(epochs[-1])
    except KeyboardInterrupt:
        # Interrupted in the first epoch: there is nothing yet that would be worth a detector.
        if not epochs:
            raise
        best.restore()
    network.eval()
    return epochs


def speed_up(network: nn.Module, device: str) -> nn.Module:
    """Return a :class:`FastMLP` that trains ``network``'s weights where that is possible, else ``network``."""
    whole = all(parameter.requires_grad for parameter in network.parameters())
    return FastMLP(network) if type(network) is MLP and device == "cpu" and whole else network


def one_cycle(step: int, n_steps: int) -> float:
    """Return the factor on the step size: a tenth of linear warm-up, then a cosine descent to 0."""
    warm_up = max(1, n_steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, n_steps - warm_up))))


class Adam:
    """Adam (equations 7-12 of the paper) without the bookkeeping of torch, which takes longer than a small step itself.

    Parameters
    ----------
    parameters : iterable of Parameter
    weight_decay : float

    Examples
    --------
    >>> import torch
    >>> from deepidea.model.training import Adam
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> (weight * torch.tensor([1.0, -1.0])).sum().backward()
    >>> Adam([weight]).step(0.25)
    >>> weight.tolist()
    [0.75, 1.25]
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, weight_decay: float = 0.0) -> None:
        self._moments = [
            # First and second moment, and the count of steps, which the fused kernel wants as a tensor.
            (p, torch.zeros_like(p), torch.zeros_like(p), torch.zeros((), device=p.device))
            for p in parameters
        ]
        self._weight_decay = weight_decay

    def state(self) -> dict[str, Tensor]:
        """Return moments and steps of each parameter, by name."""
        kinds = ("first", "second", "step")
        return {
            f"adam.{j}.{kind}": value
            for j, (_, *moments) in enumerate(self._moments)
            for kind, value in zip(kinds, moments, strict=True)
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from the values of :meth:`state`."""
        for name, value in self.state().items():
            value.copy_(state[name])

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter, *_ in self._moments:
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move each parameter that has a gradient."""
        # torch's functional Adam, fused: one call for all parameters, without parameter groups, hooks and profiling
        moved = [(p, p.grad, first, second, step) for p, first, second, step in self._moments if p.grad is not None]
        parameters, gradients, first, second, steps = map(list, zip(*moved, strict=True))
        adam(
            parameters,
            gradients,
            first,
            second,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )


@dataclass(frozen=True, slots=True)
class _Rates:
    """Step sizes."""

    learning_rate: float
    schedule: Schedule
    n_epochs: int
    steps_an_epoch: int

    def of_epoch(self, number: int) -> Iterator[float]:
        """Yield the step sizes of an epoch, counted from 1; endless, since a shard may have an extra batch."""
        for step in count((number - 1) * self.steps_an_epoch):
            yield self.learning_rate * self._factor(step)

    def _factor(self, step: int) -> float:
        return 1.0 if self.schedule == "constant" else one_cycle(step, self.n_epochs * self.steps_an_epoch)


def _to_device(device: str, arrays: Arrays) -> Data:
    x, target = arrays
    return torch.from_numpy(x).to(device), torch.from_numpy(target).to(device)


def _run_epoch(
    network: nn.Module,
    parts: Iterable[tuple[Data, Iterator[Batch]]],
    loss: nn.Module,
    optimiser: Adam,
    rates: Iterator[float],
    workers: Workers | None = None,
) -> float:
    network.train()
    losses, sizes = [], []
    for data, batches in parts:
        # `rates` is endless: the batches decide when an epoch ends.
        for batch, rate in zip(batches, rates, strict=False):
            losses.append(train_step(network, data, batch, loss, optimiser, rate, workers).detach())
            sizes.append(float(batch[1].sum()))
    mean = float(np.average(torch.stack(losses).cpu().numpy(), weights=sizes)) if losses else 0.0
    if workers is not None:
        mean = workers.sum_value(mean)  # each worker's losses are its share of the mean
    return finite(mean)


def train_step(
    network: nn.Module,
    data: Data,
    batch: Batch,
    loss: nn.Module,
    optimiser: Adam,
    learning_rate: float,
    workers: Workers | None = None,
) -> Tensor:
    """Take one optimiser step on one batch and return its loss; with workers, this one's share of it."""
    x, target = data
    own = batch if workers is None else workers.part(batch)
    # A worker whose part of a batch is empty still takes part in the sum of gradients, or the others would wait for it.
    value: Tensor = torch.zeros(())
    optimiser.zero_grad()
    if len(own[0]):
        rows, counts = (torch.from_numpy(each).to(x.device) for each in own)
        value = loss(network(x.index_select(0, rows)), target.index_select(0, rows), counts)
        # A loss is a mean over flows: the loss of the batch is the sum of its parts' losses, each times its share of
        # the batch's weight, and so is the gradient.
        value = value if workers is None else workers.weight_share(batch) * value
        value.backward()  # type: ignore[no-untyped-call]
    if workers is not None:
        workers.sum_gradients(network.parameters())
    optimiser.step(learning_rate)
    return value


def _checkpoint_state(
    network: nn.Module, optimiser: Adam, rng: np.random.Generator, best: _BestWeights, epochs: list[Epoch]
) -> CheckpointState:
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.weights.items()} | optimiser.state()
    tensors["best"] = torch.tensor(best.score)
    # safetensors refuses tensors that share memory, as the views of a FastMLP's flat parameter do
    own = {name: value.detach().clone().contiguous().to("cpu") for name, value in tensors.items()}
    return CheckpointState([asdict(epoch) for epoch in epochs], dict(rng.bit_generator.state), own)


def _resume(
    state: CheckpointState, network: nn.Module, optimiser: Adam, rng: np.random.Generator, best: _BestWeights
) -> None:
    """Restore a checkpoint; weights are copied in place, since the network that is trained shares their memory."""
    with torch.no_grad():
        for name, value in network.state_dict().items():
            value.copy_(state.tensors[f"network.{name}"])
    optimiser.load_state(state.tensors)
    rng.bit_generator.state = state.rng
    if state.epochs:
        best.score = float(state.tensors["best"])
    best.weights = {
        name.removeprefix("best."): value for name, value in state.tensors.items() if name.startswith("best.")
    }


def _validation_score(network: nn.Module, validate: Callable[[nn.Module], float] | None) -> float:
    if validate is None:
        return math.nan
    network.eval()
    with torch.no_grad():
        return validate(network)


class _BestWeights:
    """Keeps the weights of the epoch with the best validation score; without scores, of the latest epoch."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.score = -math.inf
        self.weights: dict[str, Tensor] = {}

    def update(self, score: float) -> None:
        if math.isnan(score) or score >= self.score:
            self.score = score
            # Ties go to the later epoch, which has seen more batches.
            self.weights = {name: value.clone() for name, value in self.network.state_dict().items()}

    def restore(self) -> None:
        self.network.load_state_dict(self.weights)
