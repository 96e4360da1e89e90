"""What the paper leaves open, settled on KDD99's training rows: scaling, and copies of a repeated row in a batch.

Each choice trains the paper preset once. Told are the last epoch's training loss, the loss over all training flows
without dropout, and the class-balanced accuracy on the held-out tenth of the distinct rows. Test files are not read.

Usage: python -m benchmarks.paper_choices [--epochs 10]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

from benchmarks.result_files import RESULTS, write_result
from benchmarks.training_speed import final_loss
from deepidea.evaluation.protocol import flows_to_train
from deepidea.flows.labelled import LabelledFlows
from deepidea.model import batches
from deepidea.model.presets import make_classifier

CHOICES: dict[str, tuple[int, dict[str, Any]]] = {
    "as preset: log-z-score, up to 8 copies": (8, {}),
    "min-max": (8, {"scaling": "min-max"}),
    "1 copy": (1, {}),
    "every copy": (128, {}),
}


def run(flows: LabelledFlows, choice: str, n_epochs: int) -> dict[str, Any]:
    """Train with one choice and return its figures."""
    batches.MOST_COPIES, changes = CHOICES[choice]
    classifier, _ = make_classifier("paper", schema=flows.schema, n_epochs=n_epochs, random_state=0, **changes)
    classifier.fit(flows.features, flows.classes)
    x = torch.from_numpy(classifier.encoder_.transform(flows.features))
    places = {name: place for place, name in enumerate(classifier.detector_.classes)}
    y = torch.from_numpy(flows.classes.replace_strict(places).to_numpy().astype(np.int64))
    last = classifier.epochs_[-1]
    return {
        "choice": choice,
        "training_loss": last.loss,
        "loss_without_dropout": final_loss(classifier.network_.eval(), x, y),
        "held_out_cba": last.validation_cba,
        "seconds": round(last.elapsed_s, 1),
    }


def main() -> None:
    """Try every choice and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    flows = flows_to_train("kdd99").flows
    runs = [run(flows, choice, options.epochs) for choice in CHOICES]
    write_result(RESULTS / "paper_choices.json", {"data": "kdd99", "epochs": options.epochs, "runs": runs})
    print(runs)


if __name__ == "__main__":
    main()
