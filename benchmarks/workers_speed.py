"""Training by two processes against one, at the same global batch: time of the epochs, and the loss that they end at.

Each process has one thread and a core of its own. The batches are larger than any preset's: the processes meet after
each one, and the smaller it is the more of the time they spend on that. Times are those of the last epoch's end, so
that starting processes and reading the table are not counted.

Usage: python -m benchmarks.workers_speed [--flows 200000]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.result_files import RESULTS, write_result
from benchmarks.scoring_speed import random_flows
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.model.presets import train_detector
from deepidea.model.workers import join_workers, launch

N_EPOCHS = 3
CELLS = ((256, 128), (4096, 128), (16_384, 128), (4096, 1024))
"""Flows in a batch, and units of each of two layers."""


def train(path: Path, batch_size: int, width: int, output: Path) -> None:
    """Train as one of the processes that were started; the first one writes what it came to."""
    table = pl.read_parquet(path)
    flows, _ = labelled_flows_from_table(table, "label", "benign")
    finished: list[tuple[float, float]] = []
    with join_workers() as workers:
        train_detector(
            flows,
            random_state=0,
            n_epochs=N_EPOCHS,
            batch_size=batch_size,
            hidden=(width, width),
            n_threads=1,
            workers=workers,
            on_epoch=lambda epoch: finished.append((epoch.elapsed_s, epoch.loss)),
        )
    if workers.rank == 0:
        output.write_text(json.dumps({"seconds": finished[-1][0], "loss": finished[-1][1]}))


def measure(path: Path, batch_size: int, width: int, n_workers: int, folder: Path) -> dict[str, Any]:
    """Return seconds and final loss of so many processes."""
    output = folder / f"{batch_size}-{width}-{n_workers}.json"
    arguments = ["--train", str(path), str(batch_size), str(width), str(output)]
    code = launch("benchmarks.workers_speed", n_workers, arguments)
    if code:
        raise RuntimeError(f"training ended with {code}")
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flows", type=int, default=200_000)
    parser.add_argument("--train", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train(Path(given.train[0]), int(given.train[1]), int(given.train[2]), Path(given.train[3]))
        return
    runs = []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "flows.parquet"
        table = random_flows(given.flows, seed=1)
        attack = table["feature_0"] + table["feature_1"] > (table["feature_0"] + table["feature_1"]).quantile(0.8)
        label = pl.Series("label", ["dos" if is_attack else "benign" for is_attack in attack])
        table.with_columns(label).write_parquet(path)
        for batch_size, width in CELLS:
            one, two = (measure(path, batch_size, width, n, Path(name)) for n in (1, 2))
            speed_up = round(one["seconds"] / two["seconds"], 3)
            runs.append({"batch_size": batch_size, "width": width, "one": one, "two": two, "speed_up": speed_up})
            print(runs[-1], flush=True)
    write_result(RESULTS / "workers_speed.json", {"flows": given.flows, "epochs": N_EPOCHS, "runs": runs})


if __name__ == "__main__":
    main()
