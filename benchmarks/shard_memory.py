"""Training in shards against training in memory: peak memory, time, and how good the detector is.

The flows are random numbers of 78 features, none of them twice, and an attack is what three of them say with some
noise, so that there is something to learn and something to get wrong. Peak memory is that of a whole ``deepidea train``
process, as Linux keeps it. Class-balanced accuracy is on fresh flows.

Usage: python -m benchmarks.shard_memory [--flows 500000 2000000]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.result_files import RESULTS, write_result
from benchmarks.scoring_speed import random_flows
from deepidea.flows.writing import write_flows
from deepidea.model.detector import Detector

EPOCHS = 3
ROWS_A_SHARD = 125_000
BLOCK = 100_000


def labelled(n_flows: int, seed: int) -> pl.DataFrame:
    """Return flows of which about a fifth are attacks of two kinds."""
    flows, rng = random_flows(n_flows, seed), np.random.default_rng(seed + 1)
    signal = sum(np.log1p(flows[f"feature_{j}"].to_numpy()) for j in (0, 2, 4)) + rng.normal(0, 1, n_flows)
    kinds = np.select([signal > 16, signal < 8.5], ["dos", "probe"], "benign")
    return flows.with_columns(pl.Series("label", kinds))


def write(path: Path, n_flows: int) -> None:
    """Write so many flows."""
    sizes = [BLOCK] * (n_flows // BLOCK) + [n_flows % BLOCK] * bool(n_flows % BLOCK)
    write_flows((labelled(size, seed=j) for j, size in enumerate(sizes)), path)


def train(path: Path, model: Path, *more: str) -> dict[str, float]:
    """Return seconds and peak memory of a training process, and how its detector does on fresh flows."""
    named = ["train", str(path), "--label", "label", "--benign", "benign", "--seed", "0", "--epochs", str(EPOCHS)]
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "deepidea.cli.app", *named, "--split", "none", "-o", str(model), *more],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"training ended with status {status}")
    seconds = time.perf_counter() - began
    fresh = labelled(100_000, seed=10_000)
    hit = (Detector.load(model).score(fresh)["class"] == fresh["label"]).to_numpy()
    cba = np.mean([hit[(fresh["label"] == kind).to_numpy()].mean() for kind in fresh["label"].unique()])
    return {"seconds": round(seconds, 1), "peak_mib": round(used.ru_maxrss / 1024), "cba": round(float(cba), 4)}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flows", type=int, nargs="+", default=[500_000, 2_000_000])
    given = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for n_flows in given.flows:
        with tempfile.TemporaryDirectory() as name:
            path, model, shards = Path(name) / "flows.parquet", Path(name) / "m.idea", max(2, n_flows // ROWS_A_SHARD)
            write(path, n_flows)
            run = {"flows": n_flows, "shards": shards, "file_mib": round(path.stat().st_size / 2**20)}
            run |= {"in_shards": train(path, model, "--shards", str(shards)), "in_memory": train(path, model)}
            runs.append(run)
            print(run, flush=True)
    write_result(RESULTS / "shard_memory.json", {"features": 78, "epochs": EPOCHS, "runs": runs})


if __name__ == "__main__":
    main()
