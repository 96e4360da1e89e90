"""What finding behaviours costs: flows a second of a detection with it over one without, and memory of a million hosts.

Each source is detected with and without behaviour windows in turns, in one process; seconds are processor time of all
threads, since other work on a machine would tell in wall time. Memory is that of the windows alone, as the process
grows while a million hosts open a flow each within an hour.

Usage: python -m benchmarks.behaviour_speed [--flows 200000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl

from benchmarks.memory_cost import capture_detector
from benchmarks.result_files import RESULTS, write_result
from benchmarks.shared_stream import write_inputs
from deepidea.detection.behaviour.findings import BehaviourDetector
from deepidea.detection.behaviour.kernel import _tables
from deepidea.detection.engine import Engine
from deepidea.detection.runner import open_source_for
from deepidea.model.detector import Detector
from deepidea.simulation.simulate import simulate_capture
from deepidea.store.store import open_store

MILLION = 1_000_000
HOUR_US = 3_600_000_000


def main() -> None:
    """Measure a log, a capture and the memory, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=30.0)
    given = parser.parse_args()
    memory = windows_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, given.flows)
        simulate_capture(folder / "lab.pcap", folder / "lab.csv", minutes=given.minutes, seed=1)
        conn = Detector.load(folder / "model.idea")
        found = {
            "conn.log": measure(folder / "conn.log", conn, given.rounds),
            "capture": measure(folder / "lab.pcap", capture_detector(folder / "lab.pcap"), given.rounds),
        }
    write_result(RESULTS / "behaviour_speed.json", {"sources": found, "memory": memory})


def measure(path: Path, detector: Detector, rounds: int) -> dict[str, Any]:
    """Return processor seconds of a detection with and without behaviours, medians of rounds, and their ratio."""
    detect(path, detector, finds=True)  # compiles
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for finds, of in seconds.items():
            n_flows, took_s = detect(path, detector, finds=finds)
            of.append(took_s)
    slow, fast = median(seconds[True]), median(seconds[False])
    figures = {"flows": n_flows, "seconds": slow, "seconds_without": fast, "ratio": fast / slow}
    print(path.name, figures)
    return figures


def detect(path: Path, detector: Detector, *, finds: bool) -> tuple[int, float]:
    """Return flows and processor seconds."""
    with tempfile.TemporaryDirectory() as folder, open_store(f"sqlite:///{folder}/a.db") as store:
        behaviours = BehaviourDetector if finds else None
        engine = Engine(open_source_for(detector, str(path)), detector, store, behaviours=behaviours)
        began = time.process_time()
        progress = engine.run(threading.Event())
        return progress.n_flows, time.process_time() - began


def windows_memory() -> dict[str, Any]:
    """Return how the process grows while a million hosts open a flow each, in MiB, and what is forgotten."""
    finder = BehaviourDetector()
    finder.find(_flows(np.arange(10)))  # compiles
    before = _resident_mib()
    for first in range(0, MILLION, 8192):
        finder.find(_flows(np.arange(first, min(first + 8192, MILLION))))
    tables = sum(array.nbytes for _, _, arrays in _tables(finder.windows._state) for array in arrays) / 2**20
    figures = {"hosts": MILLION, "mib": _resident_mib() - before, "tables_mib": tables, "forgotten": finder.evicted}
    print("memory", figures)
    return figures


def _flows(numbers: np.ndarray) -> pl.DataFrame:
    """Return a flow of each of some hosts to one of a hundred servers."""
    ends = pl.Series(1_780_000_000_000_000 + numbers * (HOUR_US // MILLION)).cast(pl.Datetime("us", "UTC"))
    hosts = [f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in numbers]
    servers = [f"192.168.1.{n % 100}" for n in numbers]
    constant = {"src_port": 40_000, "dst_port": 443, "protocol": "tcp", "duration_s": 0.1}
    counts = {"fwd_packets": 5, "bwd_packets": 5, "fwd_bytes": 900, "bwd_bytes": 5000}
    return pl.DataFrame({"start": ends, "end": ends, "src_ip": hosts, "dst_ip": servers}).with_columns(
        **{name: pl.lit(value) for name, value in (constant | counts).items()}
    )


def _resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
