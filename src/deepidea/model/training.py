"""The training loop: weighted distinct rows in, a trained network out.

A batch is drawn from *all* flows, duplicates included, as the paper does it. A row that comes more than
:data:`MOST_COPIES` times in a batch is then computed that many times, its copies sharing its weight. Without dropout
that leaves the loss of a batch as it is; with dropout the expected loss, of which one copy alone would be a noisy
estimate, since each copy has a mask of its own. On KDD99's 10 % file a batch of 128 flows holds 65 distinct rows.
``benchmarks/paper_choices.py`` measures what the number of copies does to the final loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count, islice, pairwise, repeat
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.adam import adam

from deepidea.model.checkpoint import Checkpoint, Standing, copied
from deepidea.model.networks import MLP, FastMLP
from deepidea.model.workers import Workers

MOST_COPIES = 8
Schedule = Literal["constant", "one-cycle"]
Batch = tuple[NDArray[np.int64], NDArray[np.float32]]


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


def draw_epoch(weight: NDArray[np.float64], batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield the batches of one shuffled pass over the flows that weighted rows stand for.

    A row of weight 3 is drawn three times an epoch, one of weight 0.5 every other epoch (systematic resampling), so
    that integer weights are exactly the repeated rows.

    Parameters
    ----------
    weight : array, float64, (n_rows,)
        How many flows each row stands for.
    batch_size : int
        Flows in a batch.
    rng : Generator

    Yields
    ------
    rows : array, int64
        The rows of the batch, ascending; one row comes at most :data:`MOST_COPIES` times.
    counts : array, float32
        How many flows of the batch each stands for; they add up to ``batch_size``, but for the last batch.

    Examples
    --------
    >>> import numpy as np
    >>> batches = list(draw_epoch(np.array([3.0, 1.0]), 4, np.random.default_rng(0)))
    >>> [(rows.tolist(), counts.tolist()) for rows, counts in batches]
    [([0, 0, 0, 1], [1.0, 1.0, 1.0, 1.0])]
    """
    ends = np.cumsum(weight)
    copies = np.diff(np.floor(ends + rng.random()), prepend=0.0).astype(np.int64)
    flows = rng.permutation(np.repeat(np.arange(len(weight)), copies))
    # one sort of (batch, row) pairs, packed into one number each, finds the repeated rows of all batches at once
    keys = np.sort(np.arange(len(flows)) // batch_size * len(weight) + flows)
    places = np.flatnonzero(np.diff(keys, prepend=-1))
    batches, rows = np.divmod(keys[places], len(weight))
    counts = np.diff(places, append=len(keys)).astype(np.float32)
    starts = np.searchsorted(batches, np.arange(math.ceil(len(flows) / batch_size)))
    copies = np.minimum(counts, MOST_COPIES).astype(np.int64)
    starts = np.append(0, np.cumsum(copies))[np.append(starts, len(rows))]
    rows, counts = np.repeat(rows, copies), np.repeat(counts / copies.astype(np.float32), copies)
    for start, end in pairwise(starts.tolist()):
        yield rows[start:end], counts[start:end]


def train_network(
    network: nn.Module,
    x: NDArray[np.float32],
    target: NDArray[np.int64],
    weight: NDArray[np.float64],
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
    x : array, float32, (n_rows, d_in)
    target : array, int64, (n_rows,)
    weight : array, float64, (n_rows,)
        How many flows each row stands for.
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
    steps_an_epoch = math.ceil(max(weight.sum(), 1) / batch_size)
    factors = (
        repeat(1.0) if schedule == "constant" else (one_cycle(step, n_epochs * steps_an_epoch) for step in count())
    )
    rates = (learning_rate * factor for factor in factors)
    data = (torch.from_numpy(x).to(device), torch.from_numpy(target).to(device))
    rng = np.random.default_rng(random_state)
    keeper = _BestWeights(network)
    if standing is not None:
        _take_up(standing, network, optimiser, rng, keeper, done)
        next(islice(rates, len(done) * steps_an_epoch, len(done) * steps_an_epoch), None)
    epochs = done
    started = time.perf_counter() - (epochs[-1].elapsed_s if epochs else 0.0)
    try:
        for number in range(len(epochs) + 1, n_epochs + 1):
            batches = draw_epoch(weight, batch_size, rng)
            mean_loss = _run_epoch(trained, data, batches, loss, optimiser, rates, workers)
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


def _run_epoch(
    network: nn.Module,
    data: tuple[Tensor, Tensor],
    batches: Iterator[Batch],
    loss: nn.Module,
    optimiser: Adam,
    rates: Iterator[float],
    workers: Workers | None = None,
) -> float:
    network.train()
    losses, sizes = [], []
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
    data: tuple[Tensor, Tensor],
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
    data: tuple[Tensor, Tensor],
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
