"""Training speed of the paper preset against a plain torch loop, in one run, to the same loss.

The peer is what a reader of the paper would write: ``nn.Sequential`` of ``Dropout``, ``Linear``, ``ReLU``, a
``DataLoader`` over a ``TensorDataset``, Adam, the loss from ``log_softmax``. It is given the encoded features and the
number of threads it is fastest with; its time is that of the loop alone. Ours is the time of ``fit``: reading the
table's columns, finding duplicates, encoding, training. Both take 10 epochs over the 494,021 flows of KDD99's 10 %
file in batches of 128; both losses are the attack-sharing loss over all those flows, without dropout.

Usage: python -m benchmarks.training_speed [--runs 3] [--epochs 10]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.result_files import RESULTS, write_result
from deepidea.evaluation.protocol import flows_to_train
from deepidea.flows.labelled import LabelledFlows
from deepidea.model.estimators import DeepIDEAClassifier
from deepidea.model.losses import AttackSharingLoss
from deepidea.model.presets import make_classifier
from deepidea.model.threads import torch_threads


def plain_network(d_in: int, n_classes: int) -> nn.Sequential:
    """Return the paper's network from torch's own layers."""
    layers: list[nn.Module] = [nn.Dropout(0.2)]
    for d in [d_in, *[100] * 9]:
        layers += [nn.Linear(d, 100), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(100, n_classes))


def plain_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return equation 6 the way it is usually written in torch."""
    log_p = torch.log_softmax(logits, 1)
    log_attack = torch.logsumexp(logits[:, 1:], 1) - torch.logsumexp(logits, 1)
    binary = torch.where(target == 0, log_p[:, 0], log_attack)
    return -(log_p.gather(1, target[:, None])[:, 0] + 10 * binary).mean()


def plain_loop(
    x: Tensor, y: Tensor, n_epochs: int, seed: int, most_steps: int | None = None
) -> tuple[float, nn.Module]:
    """Train as a plain script does and return the seconds and the network."""
    torch.manual_seed(seed)
    network = plain_network(x.shape[1], int(y.max()) + 1)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    loader = DataLoader(TensorDataset(x, y), batch_size=128, shuffle=True)
    started = time.perf_counter()
    for _ in range(n_epochs):
        for step, (batch, target) in enumerate(loader):
            optimiser.zero_grad()
            plain_loss(network(batch), target).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if step + 1 == most_steps:
                break
    return time.perf_counter() - started, network.eval()


def fastest_threads(x: Tensor, y: Tensor) -> dict[int, float]:
    """Return the seconds that 300 steps of the plain loop take with each number of threads."""
    seconds = {}
    for count in (1, 2):
        with torch_threads(count):
            plain_loop(x, y, 1, 0, most_steps=20)
            seconds[count] = min(plain_loop(x, y, 1, 0, most_steps=300)[0] for _ in range(2))
    return seconds


def final_loss(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the attack-sharing loss over all flows."""
    with torch.no_grad():
        logits = torch.cat([network(x[i : i + 16_384]) for i in range(0, len(x), 16_384)])
        return float(AttackSharingLoss(10.0)(logits, y).item())


def ours(flows: LabelledFlows, n_epochs: int, seed: int) -> tuple[float, DeepIDEAClassifier]:
    """Fit the paper preset and return the seconds and the classifier."""
    started = time.perf_counter()
    classifier, _ = make_classifier(
        "paper",
        schema=flows.schema,
        n_epochs=n_epochs,
        random_state=np.random.RandomState(seed),
        n_threads="auto",
        validation_fraction=0.0,
    )
    classifier.fit(flows.features, flows.classes)
    return time.perf_counter() - started, classifier


def run(flows: LabelledFlows, n_epochs: int, seed: int, threads: int) -> dict[str, Any]:
    """Run one of ours, then one of the peer's."""
    our_seconds, classifier = ours(flows, n_epochs, seed)
    x = torch.from_numpy(classifier.encoder_.transform(flows.features))
    places = {name: place for place, name in enumerate(classifier.detector_.classes)}
    y = torch.from_numpy(flows.classes.replace_strict(places).to_numpy().astype(np.int64))
    with torch_threads(threads):
        plain_seconds, network = plain_loop(x, y, n_epochs, seed)
    return {
        "ours_seconds": round(our_seconds, 2),
        "plain_seconds": round(plain_seconds, 2),
        "ratio": round(plain_seconds / our_seconds, 2),
        "ours_loss": round(final_loss(classifier.network_.eval(), x, y), 5),
        "plain_loss": round(final_loss(network, x, y), 5),
        "ours_threads": classifier.n_threads_,
    }


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    flows = flows_to_train("kdd99").flows
    classifier = ours(flows, 1, 0)[1]
    x = torch.from_numpy(classifier.encoder_.transform(flows.features))
    trial = fastest_threads(x, torch.zeros(len(x), dtype=torch.int64))
    threads = min(trial, key=lambda count: trial[count])
    runs = [run(flows, options.epochs, seed, threads) for seed in range(options.runs)]
    summary = {name: round(float(np.median([r[name] for r in runs])), 5) for name in runs[0]}
    figures = {"flows": len(flows), "epochs": options.epochs, "plain_threads": threads, "plain_trial_seconds": trial}
    write_result(RESULTS / "training_speed.json", {**figures, "median": summary, "runs": runs})
    print(summary)


if __name__ == "__main__":
    main()
