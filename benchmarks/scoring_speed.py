"""Scoring speed and memory: a Parquet file of 78 features in, a Parquet file of verdicts out.

The detector has the architecture of the default preset. Rate: flows per second of ``score_files``, reading, encoding,
network, decision and writing included, median of several runs. Memory: the peak of a whole ``deepidea score`` process,
for tables of growing size. The flows are random numbers of the kinds that flow tables hold; their values do not change
the cost.

Usage: python -m benchmarks.scoring_speed [--flows 4000000] [--runs 5] [--only-encodings]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.result_files import RESULTS, write_result
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.writing import write_flows
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector
from deepidea.model.scoring import score_files

N_FEATURES = 78
BLOCK = 500_000


def random_flows(n_flows: int, seed: int = 0) -> pl.DataFrame:
    """Return flows of 78 features: counts, sizes, times and rates in turn."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for j in range(N_FEATURES):
        values = rng.lognormal(4, 2, n_flows)
        columns[f"feature_{j}"] = values.round().clip(0, 2**31 - 1).astype(np.int32) if j % 2 else values
    return pl.DataFrame(columns)


def small_detector(**changes: Any) -> Detector:
    """Return a detector of the default architecture for five classes; what it learnt does not matter."""
    table = random_flows(5000, seed=1)
    names = np.array(["benign", "dos", "probe", "r2l", "u2r"])
    labelled = table.with_columns(pl.Series("label", names[np.random.default_rng(0).integers(0, 5, len(table))]))
    flows, _ = labelled_flows_from_table(labelled, "label", "benign")
    return train_detector(flows, random_state=0, n_epochs=1, min_steps=20, **changes)


def write_table(path: Path, n_flows: int) -> None:
    """Write so many flows; blocks repeat, their rows do not matter."""
    block = random_flows(min(BLOCK, n_flows))
    sizes = [BLOCK] * (n_flows // BLOCK) + [n_flows % BLOCK] * bool(n_flows % BLOCK)
    write_flows((block.head(size) for size in sizes), path)


def peak_memory_mib(model: Path, table: Path, output: Path) -> float:
    """Return the peak resident memory of a whole ``deepidea score`` process, as Linux keeps it."""
    script = (
        "import sys; from deepidea.cli.app import app; sys.argv[0] = 'deepidea'\n"
        "try: app()\n"
        "finally: sys.stderr.write('\\npeak ' + open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    command = [sys.executable, "-c", script, "score", str(model), str(table), "-o", str(output)]
    per_second = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return int(per_second.rsplit("peak ", 1)[1]) / 1024


def rates(detector: Detector, table: Path, output: Path, runs: int) -> list[float]:
    """Return flows per second of each run, after one that does not count."""
    per_second: list[float] = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        n_flows = score_files(detector, [table], output)
        per_second.append(round(n_flows / (time.perf_counter() - started)))
    return per_second[1:]


ENCODINGS: dict[str, dict[str, Any]] = {
    "scaled": {},
    "thermometer:4": {"number_encoding": "thermometer", "n_quantiles": 4},
    "thermometer:8": {"number_encoding": "thermometer", "n_quantiles": 8},
    "scaled+thermometer:8": {"number_encoding": "scaled+thermometer", "n_quantiles": 8},
    "piecewise-linear:16": {"number_encoding": "piecewise-linear", "n_quantiles": 16},
}


def encoding_costs(n_flows: int = 100_000, runs: int = 7) -> dict[str, float]:
    """Return the scoring cost of each encoding of numbers over that of scaled numbers, on one thread.

    Encodings take turns in one process, and the least processor time of each counts: other processes only add.
    """
    flows = random_flows(n_flows)
    detectors = {name: small_detector(**options).with_options(n_threads=1) for name, options in ENCODINGS.items()}
    seconds = dict.fromkeys(detectors, float("inf"))
    for _ in range(runs):
        for name, detector in detectors.items():
            started = time.process_time()
            detector.score(flows)
            seconds[name] = min(seconds[name], time.process_time() - started)
    return {name: round(took / seconds["scaled"], 2) for name, took in seconds.items()}


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=4_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only-encodings", action="store_true", help="compare the encodings of numbers alone")
    options = parser.parse_args()
    costs = encoding_costs()
    write_result(RESULTS / "encoding_costs.json", {"features": N_FEATURES, "cost_over_scaled": costs})
    print(costs)
    if options.only_encodings:
        return
    with tempfile.TemporaryDirectory() as folder:
        table, output, model = (Path(folder) / name for name in ("flows.parquet", "verdicts.parquet", "model.idea"))
        detector = small_detector()
        detector.save(model)
        memory = {}
        for n_flows in (options.flows // 16, options.flows // 4, options.flows):
            write_table(table, n_flows)
            memory[str(n_flows)] = round(peak_memory_mib(model, table, output), 1)
        measured = rates(detector, table, output, options.runs)
        one_thread = Detector.load(model, n_threads=1)
        single = rates(one_thread, table, output, 2)
        without = rates(small_detector(novelty="none"), table, output, options.runs)
    figures = {"features": N_FEATURES, "flows": options.flows, "flows_per_second": measured}
    medians = {"median_flows_per_second": float(np.median(measured)), "one_scoring_thread": float(np.median(single))}
    medians["without_anomaly"] = float(np.median(without))
    write_result(
        RESULTS / "scoring_speed.json", {**figures, **medians, "encoding_costs": costs, "peak_memory_mib": memory}
    )
    print(medians, costs, memory)


if __name__ == "__main__":
    main()
