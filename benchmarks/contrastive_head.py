"""A contrastive benign head, to compare what a detector says of new attacks with: benchmarks/zero_day.py.

After the loss CLAD of Wilkie et al. (A Novel Contrastive Loss for Zero-Day Network Intrusion Detection, IEEE TNSM,
2026): flows are mapped to directions, and each benign flow of a batch pushes each attack away until their squared
cosine distance reaches a margin. Attacks do not attract each other, so nothing says where a new one must lie. Flows are
ranked by their cosine distance from the mean direction of benign training flows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deepidea.flows.labelled import LabelledFlows
from deepidea.flows.taxonomy import BENIGN
from deepidea.model.features import FlowEncoder
from deepidea.model.networks import MLP

MARGIN = 1.0  # that of the paper's program: a right angle
HIDDEN, D_DIRECTION, DROPOUT = (128, 128), 64, 0.1  # the default preset's network
LEARNING_RATE, BATCH_SIZE, N_EPOCHS, MIN_STEPS = 1e-3, 256, 10, 1000  # and its steps
Rank = Callable[[pl.DataFrame], NDArray[np.float32]]


def contrastive_loss(directions: Tensor, is_benign: Tensor) -> Tensor:
    """Return the mean shortfall of the margin over the pairs of a benign flow and an attack that fall short.

    Parameters
    ----------
    directions : Tensor, (n_flows, d), of length 1
    is_benign : Tensor, bool, (n_flows,)

    Examples
    --------
    >>> import torch
    >>> contrastive_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([True, False, False]))
    tensor(1.)
    """
    distances = 1 - directions[is_benign] @ directions[~is_benign].T
    short = F.relu(MARGIN - distances**2)
    return short.sum() / (short > 0).sum().clamp(min=1)


def train_head(flows: LabelledFlows, seed: int) -> Rank:
    """Train on labelled flows and return what ranks others: the higher, the further from benign."""
    encoder = FlowEncoder(flows.schema).fit(flows.features, np.ones(len(flows)))
    x = torch.from_numpy(encoder.transform(flows.features))
    is_benign = torch.from_numpy((flows.classes == BENIGN).to_numpy())
    network = MLP(x.shape[1], D_DIRECTION, hidden=HIDDEN, dropout=DROPOUT, random_state=seed)
    torch.manual_seed(seed)  # of dropout
    _train(network, x, is_benign, np.random.default_rng(seed))
    centre = F.normalize(_directions(network, x[is_benign]).mean(dim=0), dim=0)

    def rank(features: pl.DataFrame) -> NDArray[np.float32]:
        encoded = torch.from_numpy(encoder.transform(features))
        return np.asarray(1 - (_directions(network, encoded) @ centre).numpy(), np.float32)

    return rank


def _train(network: MLP, x: Tensor, is_benign: Tensor, rng: np.random.Generator) -> None:
    """Take steps over batches of half benign flows, half attacks: pairs of the two are all that the loss knows."""
    sides = [np.flatnonzero(side) for side in (is_benign.numpy(), ~is_benign.numpy())]
    n_steps = max(N_EPOCHS * len(x) // BATCH_SIZE, MIN_STEPS)
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=n_steps)
    network.train()
    for _ in range(n_steps):
        rows = np.concatenate([rng.choice(side, BATCH_SIZE // 2) for side in sides])
        loss = contrastive_loss(F.normalize(network(x[rows]), dim=1), is_benign[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()


@torch.no_grad()
def _directions(network: MLP, x: Tensor) -> Tensor:
    network.eval()
    return F.normalize(network(x), dim=1)
