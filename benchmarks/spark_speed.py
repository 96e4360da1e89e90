"""Scoring on Spark: two executors against one, one against a single core without Spark, and the memory of an executor.

A standalone cluster on loopback, each executor with one core; flows of 78 features in Parquet, as Spark splits them.
Times are of the job, reading and writing Parquet included, after one that does not count; the session is open by then.
Memory is the most that an executor's JVM and its Python workers held together, looked at ten times a second. Master,
driver and executors share the cores of one machine: with two of them, the second executor has less than a core.

Usage: python -m benchmarks.spark_speed [--flows 2000000]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.result_files import RESULTS, write_result
from benchmarks.scoring_speed import random_flows
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector
from deepidea.model.scoring import score_files

PARTS = 16
TURNS = 2


def make_detector(path: Path) -> Detector:
    """Return a detector of 78 features, written to a file."""
    import polars as pl

    table = random_flows(20_000, seed=1)
    label = pl.when(table["feature_0"] > table["feature_0"].median()).then(pl.lit("dos")).otherwise(pl.lit("benign"))
    flows, _ = labelled_flows_from_table(table.with_columns(label.alias("label")), "label", "benign")
    detector = train_detector(flows, random_state=0, n_epochs=1)
    detector.save(path)
    return Detector.load(path, n_threads=1)


def write_flows(folder: Path, n_flows: int) -> None:
    """Write flows in as many files as two executors can share evenly."""
    folder.mkdir()
    for part in range(PARTS):
        random_flows(n_flows // PARTS, seed=part).write_parquet(folder / f"part-{part:02d}.parquet")


def alone(detector: Detector, flows: Path, n_flows: int, folder: Path) -> float:
    """Return flows a second of one core without Spark."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        began = time.perf_counter()
        score_files(detector, [flows], folder / "alone.parquet", keep_original=True)
        return n_flows / (time.perf_counter() - began)
    finally:
        os.sched_setaffinity(0, before)


def on_spark(detector: Detector, flows: Path, n_flows: int, folder: Path, n_workers: int) -> tuple[float, float]:
    """Return flows a second of a cluster, and the most memory of an executor in MiB."""
    from tests.adapters.spark_cluster import ON_LOOPBACK, spark_cluster

    from deepidea.adapters.spark import open_session
    from deepidea.adapters.spark_files import score_files as score_on_spark

    os.environ |= ON_LOOPBACK
    rates, seen = [], _Memory()
    place = folder / f"cluster-{n_workers}"
    place.mkdir()
    with contextlib.ExitStack() as opened:
        master = opened.enter_context(spark_cluster(place, n_workers=n_workers))
        spark = opened.enter_context(open_session(master, options={"spark.executor.memory": "700m"}))
        opened.enter_context(seen)
        for turn in range(TURNS + 1):
            began = time.perf_counter()
            score_on_spark(spark, detector, [str(flows)], str(place / f"out-{turn}"))
            rates.append(n_flows / (time.perf_counter() - began))
            shutil.rmtree(place / f"out-{turn}")
    return max(rates[1:]), seen.most_mib


class _Memory:
    """Looks at what executors and their Python workers hold."""

    def __init__(self) -> None:
        self.most_mib, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            held = _held()
            self.most_mib = max([self.most_mib, *held])


def _held() -> list[float]:
    """Return the resident memory of each executor with its Python workers, in MiB."""
    processes: dict[int, tuple[int, bytes, float]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it has just ended
            processes[int(entry.name)] = (int(stat[1]), line, int(stat[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
    executors = [pid for pid, (_, line, _) in processes.items() if b"CoarseGrainedExecutorBackend" in line]
    return [_with_children(pid, processes) for pid in executors]


def _with_children(pid: int, processes: dict[int, tuple[int, bytes, float]]) -> float:
    own = processes[pid][2]
    return own + sum(_with_children(child, processes) for child, (parent, *_) in processes.items() if parent == pid)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flows", type=int, default=2_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        detector, flows = make_detector(folder / "m.idea"), folder / "flows"
        write_flows(flows, given.flows)
        result: dict[str, Any] = {"flows": given.flows, "features": 78}
        result["alone_flows_per_second"] = round(alone(detector, flows, given.flows, folder))
        for n_workers in (1, 2):
            rate, memory = on_spark(detector, flows, given.flows, folder, n_workers)
            result |= {
                f"executors_{n_workers}_flows_per_second": round(rate),
                f"executors_{n_workers}_mib": round(memory),
            }
    result["two_against_one"] = result["executors_2_flows_per_second"] / result["executors_1_flows_per_second"]
    result["one_against_alone"] = result["executors_1_flows_per_second"] / result["alone_flows_per_second"]
    write_result(
        RESULTS / "spark_speed.json", {k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()}
    )
    print(result)


if __name__ == "__main__":
    main()
