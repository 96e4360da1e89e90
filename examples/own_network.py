"""The attack-sharing loss in a network of your own: here one with a residual connection and batch normalisation.

The loss is an ordinary torch module: logits and class numbers in, a scalar out. Everything else stays as you have it.

Usage: python examples/own_network.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepidea import AttackSharingLoss
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.simulate import simulate_flows
from deepidea.model.features import FlowEncoder


class ResidualNetwork(nn.Module):
    """Any network will do, as long as it returns one logit a class."""

    def __init__(self, d_in: int, n_classes: int, d_hidden: int = 64) -> None:
        super().__init__()
        self.first = nn.Linear(d_in, d_hidden)
        self.inner = nn.Sequential(nn.BatchNorm1d(d_hidden), nn.ReLU(), nn.Linear(d_hidden, d_hidden))
        self.last = nn.Linear(d_hidden, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(n_flows, n_classes)``."""
        h = self.first(x)
        logits: Tensor = self.last(torch.relu(h + self.inner(h)))
        return logits


def main() -> None:
    """Train for a few passes and print how many attacks are still called benign."""
    torch.manual_seed(0)
    flows, _ = labelled_flows_from_table(simulate_flows(n_flows=4000), "label", "benign")
    classes = list(flows.class_order)  # benign first, so benign=0 below

    x = torch.from_numpy(FlowEncoder(flows.schema).fit(flows.features).transform(flows.features))
    y = torch.tensor([classes.index(name) for name in flows.classes])

    network = ResidualNetwork(x.shape[1], len(classes))
    loss_function = AttackSharingLoss(attack_weight=10, benign=0)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for epoch in range(1, 16):
        for rows in torch.randperm(len(x)).split(128):
            optimiser.zero_grad()
            loss = loss_function(network(x[rows]), y[rows])
            loss.backward()
            optimiser.step()
        if epoch % 3 == 0:
            print(f"pass {epoch:2d}: {100 * share_missed(network, x, y):5.1f} % of the attacks are called benign")


def share_missed(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of attack flows that the network calls benign, without any correction for the prior."""
    network.eval()
    with torch.no_grad():
        missed = network(x[y != 0]).argmax(1) == 0
    network.train()
    return float(missed.float().mean())


if __name__ == "__main__":
    main()
