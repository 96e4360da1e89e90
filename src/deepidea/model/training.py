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
from deepidea.model.checkpoint import Checkpoint, Standing, copied
from deepidea.model.networks import MLP, FastMLP
from deepidea.model.workers import Workers

Schedule = Literal["constant", "one-cycle"]
Data = tuple[Tensor, Tensor]  # encoded rows (n_rows, d_in), and what they are (n_rows,)


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch of training came to; handed to ``on_epoch`` when it ends.

    ``validation_cba`` is the class-balanced accuracy on the held-out rows in 0..1, NaN where none were held out.
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
    """Train ``network`` in place with Adam and return what each epoch came to.

    Parameters
    ----------
    rows : TrainingRows
    loss : Module
        Called as ``loss(logits, target, counts)``.
    schedule : {"constant", "one-cycle"}
        The paper's constant step size, or one linear warm-up and a cosine descent to 0.
    validate : callable, optional
        Maps the network in evaluation mode to its score on held-out rows; higher is better.
    workers : Workers, optional
        The processes that share each batch; each is given the same rows.
    checkpoint : Checkpoint, optional
        Where the training stands is kept there after each epoch, and gone on from.

    Raises
    ------
    FloatingPointError
        When the loss is no longer a number.

    Notes
    -----
    On ``KeyboardInterrupt`` the weights of the best epoch so far are put back and the epochs so far returned; an
    interruption before the first epoch ended is raised.
    """
    # NOTE[DIFF]: "100 consecutive connections are one training sample" cannot hold for a per-flow network: a sample is
    # one flow here.
    standing = checkpoint.standing() if checkpoint else None
    done = [Epoch(**told) for told in standing.epochs] if standing else []
    if workers is not None and isinstance(network, MLP):
        network.mask_seeds = workers.mask_seeds(random_state, len(done))
    trained = speed_up(network, device)
    optimiser = Adam(trained.parameters(), weight_decay=weight_decay)
    rates = _Rates(learning_rate, schedule, n_epochs, rows.n_steps(batch_size))
    rng = np.random.default_rng(random_state)
    keeper = _BestWeights(network)
    if standing is not None:
        _take_up(standing, network, optimiser, rng, keeper, done)
    epochs = done
    started = time.perf_counter() - (epochs[-1].elapsed_s if epochs else 0.0)
    try:
        for number in range(len(epochs) + 1, n_epochs + 1):
            parts = (((_on(device, arrays)), batches) for arrays, batches in rows.epoch(batch_size, rng))
            mean_loss = _run_epoch(trained, parts, loss, optimiser, rates.of_epoch(number), workers)
            score = _validation_score(network, validate)
            epochs.append(Epoch(number, n_epochs, mean_loss, score, time.perf_counter() - started))
            keeper.offer(score)
            if checkpoint is not None and (workers is None or workers.rank == 0):
                checkpoint.keep(_standing(network, optimiser, rng, keeper, epochs))
            if on_epoch is not None:
                on_epoch(epochs[-1])
    except KeyboardInterrupt:
        if not epochs:
            raise
        keeper.restore()
    network.eval()
    return epochs


def speed_up(network: nn.Module, device: str) -> nn.Module:
    """Return what trains ``network``: a :class:`FastMLP` over its weights where there can be one, else itself."""
    whole = all(parameter.requires_grad for parameter in network.parameters())
    return FastMLP(network) if type(network) is MLP and device == "cpu" and whole else network


def one_cycle(step: int, n_steps: int) -> float:
    """Return the factor on the step size: a tenth of linear warm-up, then a cosine descent to 0."""
    warm_up = max(1, n_steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, n_steps - warm_up))))


class Adam:
    """torch's Adam without the bookkeeping around each step, which takes longer than the step at the paper's size.

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
            (p, torch.zeros_like(p), torch.zeros_like(p), torch.zeros((), device=p.device)) for p in parameters
        ]
        self._weight_decay = weight_decay

    def state(self) -> dict[str, Tensor]:
        """Return the moments and steps of each parameter, by name."""
        kinds = ("first", "second", "step")
        return {
            f"adam.{j}.{kind}": value
            for j, (_, *moments) in enumerate(self._moments)
            for kind, value in zip(kinds, moments, strict=True)
        }

    def take_up(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state` returned."""
        for name, value in self.state().items():
            value.copy_(state[name])

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter, *_ in self._moments:
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move each parameter that has a gradient."""
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
        """Yield the step sizes of an epoch, counted from 1; without an end, since a shard may have a batch more."""
        for step in count((number - 1) * self.steps_an_epoch):
            yield self.learning_rate * self._factor(step)

    def _factor(self, step: int) -> float:
        return 1.0 if self.schedule == "constant" else one_cycle(step, self.n_epochs * self.steps_an_epoch)


def _on(device: str, arrays: Arrays) -> Data:
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
        for batch, rate in zip(batches, rates, strict=False):
            losses.append(train_step(network, data, batch, loss, optimiser, rate, workers).detach())
            sizes.append(float(batch[1].sum()))
    mean = float(np.average(torch.stack(losses).cpu().numpy(), weights=sizes)) if losses else 0.0
    if workers is not None:
        mean = workers.total(mean)  # each told of its share
    if not math.isfinite(mean):
        raise FloatingPointError(f"the training loss must stay a number, however: loss={mean}; lower learning_rate")
    return mean


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
    if workers is not None:
        return _shared_step(network, data, batch, loss, optimiser, learning_rate, workers)
    x, target = data
    rows = torch.from_numpy(batch[0]).to(x.device)
    counts = torch.from_numpy(batch[1]).to(x.device)
    optimiser.zero_grad()
    value: Tensor = loss(network(x.index_select(0, rows)), target.index_select(0, rows), counts)
    value.backward()  # type: ignore[no-untyped-call]
    optimiser.step(learning_rate)
    return value


def _shared_step(
    network: nn.Module,
    data: Data,
    batch: Batch,
    loss: nn.Module,
    optimiser: Adam,
    learning_rate: float,
    workers: Workers,
) -> Tensor:
    """Take a step by the gradients of all workers; losses are means over flows, so that shares of them add up."""
    (x, target), part = data, workers.part(batch)
    value = torch.zeros(())
    optimiser.zero_grad()
    if len(part[0]):
        rows, counts = (torch.from_numpy(each).to(x.device) for each in part)
        value = workers.share(batch) * loss(network(x.index_select(0, rows)), target.index_select(0, rows), counts)
        value.backward()
    workers.add_up(network.parameters())
    optimiser.step(learning_rate)
    return value


def _standing(
    network: nn.Module, optimiser: Adam, rng: np.random.Generator, keeper: _BestWeights, epochs: list[Epoch]
) -> Standing:
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in keeper.weights.items()} | optimiser.state()
    told = [asdict(epoch) for epoch in epochs]
    return Standing(told, dict(rng.bit_generator.state), copied({**tensors, "best": torch.tensor(keeper.score)}))


def _take_up(
    standing: Standing,
    network: nn.Module,
    optimiser: Adam,
    rng: np.random.Generator,
    keeper: _BestWeights,
    done: list[Epoch],
) -> None:
    """Put a training where it stood; weights go into the memory that is there, which the trained network shares."""
    of = standing.tensors
    with torch.no_grad():
        for name, value in network.state_dict().items():
            value.copy_(of[f"network.{name}"])
    optimiser.take_up(of)
    rng.bit_generator.state = standing.rng
    keeper.score = float(of["best"]) if done else keeper.score
    keeper.weights = {name.removeprefix("best."): value for name, value in of.items() if name.startswith("best.")}


def _validation_score(network: nn.Module, validate: Callable[[nn.Module], float] | None) -> float:
    if validate is None:
        return math.nan
    network.eval()
    with torch.no_grad():
        return validate(network)


class _BestWeights:
    """Remembers the weights of the epoch with the best validation score (the latest, where there is none)."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.score = -math.inf
        self.weights: dict[str, Tensor] = {}

    def offer(self, score: float) -> None:
        if math.isnan(score) or score >= self.score:
            self.score = score
            self.weights = {name: value.clone() for name, value in self.network.state_dict().items()}

    def restore(self) -> None:
        self.network.load_state_dict(self.weights)
