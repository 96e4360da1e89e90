"""Scoring on Spark: two executors against one, one against a single core without Spark, and the memory of an executor.

A standalone cluster on loopback; each executor has one core and, with what it starts, keeps to it, as the one without
Spark does. Master and driver are on the same machine. Flows of 78 features in Parquet, from one folder into another;
blocks of them repeat, which changes no cost. Files are read by the tasks themselves, and, at a size of its own, by
Spark's reader and writer, beside a mere copy of the table by these.
Times are of the job, reading and writing included, the best of the turns after one on a single file that does not
count; the session is open by then. What was written lately is in the system's cache, as far as it fits. Memory is the
most that an executor's JVM and its Python workers held together, looked at once a second.

Usage: python -m benchmarks.spark_speed [--flows 20000000] [--spark-flows 2000000] [--turns 1]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.result_files import RESULTS, write_result
from benchmarks.scoring_speed import random_flows, write_table
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector
from deepidea.model.scoring import score_files

PARTS = 16
MEMORY = "700m"  # of an executor's JVM


def make_detector(path: Path) -> Detector:
    """Return a detector of 78 features, written to a file."""
    import polars as pl

    table = random_flows(20_000, seed=1)
    label = pl.when(table["feature_0"] > table["feature_0"].median()).then(pl.lit("dos")).otherwise(pl.lit("benign"))
    flows, _ = labelled_flows_from_table(table.with_columns(label.alias("label")), "label", "benign")
    detector = train_detector(flows, random_state=0, n_epochs=1)
    detector.save(path)
    return Detector.load(path, n_threads=1)


def write_flows(folder: Path, n_flows: int) -> int:
    """Write about so many flows in files of the same rows; return how many they are."""
    folder.mkdir()
    first = folder / "part-00.parquet"
    write_table(first, n_flows // PARTS)
    for part in range(1, PARTS):
        shutil.copyfile(first, folder / f"part-{part:02d}.parquet")
    return n_flows // PARTS * PARTS


def best_rate(work: Callable[[Path], object], folder: Path, n_flows: int, turns: int) -> float:
    """Return flows a second of the best turn; what is written goes again."""
    rates = []
    for turn in range(turns):
        output = folder / f"out-{turn}.parquet"
        began = time.perf_counter()
        work(output)
        rates.append(n_flows / (time.perf_counter() - began))
        shutil.rmtree(output) if output.is_dir() else output.unlink()
    return max(rates)


def alone(model: Path, flows: Path, folder: Path, n_flows: int, turns: int) -> float:
    """Return flows a second of a process that keeps to one core from its start, threads of libraries included."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.spark_speed",
        "--alone",
        *map(str, (model, flows, folder, n_flows, turns)),
    ]
    environment = {**os.environ, "POLARS_MAX_THREADS": "1"}
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    finally:
        os.sched_setaffinity(0, before)
    return float(ended.stdout)


def score_alone(model: Path, flows: Path, folder: Path, n_flows: int, turns: int) -> float:
    """Return flows a second of this process, on one thread."""
    detector = Detector.load(model, n_threads=1)
    score_files(detector, [flows / "part-00.parquet"], folder / "first.parquet", keep_original=True)
    return best_rate(lambda output: score_files(detector, [flows], output, keep_original=True), folder, n_flows, turns)


@dataclass(frozen=True, slots=True)
class Measured:
    """Rates of a cluster by what it did, in flows a second, and the most memory of an executor in MiB."""

    rates: list[float]
    most_mib: float


def on_cluster(
    ways: Sequence[Way], detector: Detector, flows: Path, folder: Path, n_flows: int, turns: int, n_workers: int
) -> Measured:
    """Measure what a cluster of so many executors does."""
    from tests.adapters.spark_cluster import ON_LOOPBACK, spark_cluster

    from deepidea.adapters.spark import open_session

    os.environ |= ON_LOOPBACK
    seen = _Memory()
    place = Path(tempfile.mkdtemp(dir=folder))
    with contextlib.ExitStack() as opened:
        master = opened.enter_context(spark_cluster(place, n_workers=n_workers, a_core_each=True))
        spark = opened.enter_context(open_session(master, options={"spark.executor.memory": MEMORY}))
        opened.enter_context(seen)
        rates = []
        for way in ways:
            way(spark, detector, flows / "part-00.parquet", place / "first.parquet")
            rates.append(best_rate(functools.partial(way, spark, detector, flows), place, n_flows, turns))
            shutil.rmtree(place / "first.parquet")
    return Measured(rates, seen.most_mib)


Way = Callable[[Any, Detector, Path, Path], object]


def by_tasks(spark: Any, detector: Detector, flows: Path, output: Path) -> None:
    """Score as the command does."""
    from deepidea.adapters.spark_files import score_files as score_on_spark

    score_on_spark(spark, detector, [str(flows)], str(output))


def by_spark(spark: Any, detector: Detector, flows: Path, output: Path) -> None:
    """Score between Spark's own reader and writer."""
    from deepidea.adapters.spark import score

    score(spark.read.parquet(str(flows)), detector).write.parquet(str(output))


def copied(spark: Any, _: Detector, flows: Path, output: Path) -> None:
    """Copy a table by Spark alone: the bound of its reader and writer."""
    spark.read.parquet(str(flows)).write.parquet(str(output))


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
        while not self._stop.wait(1.0):
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
    parser.add_argument("--flows", type=int, default=20_000_000)
    parser.add_argument("--spark-flows", type=int, default=2_000_000, help="between Spark's reader and writer")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the files of the run have room")
    parser.add_argument("--alone", nargs=5, help=argparse.SUPPRESS)  # the process without Spark
    given = parser.parse_args()
    if given.alone:
        model, flows, folder = map(Path, given.alone[:3])
        print(score_alone(model, flows, folder, int(given.alone[3]), int(given.alone[4])))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        result = {"load_before": round(os.getloadavg()[0], 2), **measure(Path(name), given)}
    write_result(RESULTS / "spark_speed.json", result)
    print(result)


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return every figure."""
    detector = make_detector(folder / "m.idea")
    few, many = folder / "few", folder / "many"
    n_few, n_many = write_flows(few, given.spark_flows), write_flows(many, given.flows)
    size = sum(path.stat().st_size for path in many.iterdir())
    rate = alone(folder / "m.idea", many, folder, n_many, given.turns)
    one, two = (on_cluster([by_tasks], detector, many, folder, n_many, given.turns, n) for n in (1, 2))
    spark = on_cluster([by_spark, copied], detector, few, folder, n_few, given.turns, 1)
    return {
        "flows": n_many,
        "features": 78,
        "gib": round(size / 2**30, 2),
        "turns": given.turns,
        "alone_flows_per_second": round(rate),
        "executors_1_flows_per_second": round(one.rates[0]),
        "executors_1_mib": round(one.most_mib),
        "executors_2_flows_per_second": round(two.rates[0]),
        "executors_2_mib": round(two.most_mib),
        "two_against_one": round(two.rates[0] / one.rates[0], 3),
        "one_against_alone": round(one.rates[0] / rate, 3),
        "spark_io_flows": n_few,
        "spark_io_flows_per_second": round(spark.rates[0]),
        "spark_io_mib": round(spark.most_mib),
        "spark_io_against_alone": round(spark.rates[0] / rate, 3),
        "spark_copy_flows_per_second": round(spark.rates[1]),
    }


if __name__ == "__main__":
    main()
