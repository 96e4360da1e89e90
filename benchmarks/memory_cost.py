"""What it costs to save with each position what a restart needs: host context of logs, open flows of captures.

Each source is detected by an engine that saves, and by one whose saving is switched off, in turns in one process. The
sizes are those that the store holds at the end.

Usage: python -m benchmarks.memory_cost [--flows 200000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import sqlalchemy as sa

from benchmarks.result_files import RESULTS, write_result
from benchmarks.shared_stream import write_inputs
from deepidea.detection.engine import Engine
from deepidea.detection.flow_adapter import FlowAdapter
from deepidea.detection.runner import open_source_for
from deepidea.detection.sources.packets import _Replay
from deepidea.flows.context import add_context
from deepidea.flows.schema import get_schema
from deepidea.model.detector import Detector
from deepidea.model.estimators import DeepIDEAClassifier
from deepidea.packets.meter import meter_capture
from deepidea.simulation.simulate import simulate_capture
from deepidea.store.store import open_store


def main() -> None:
    """Measure a log and a capture with and without saving, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=90.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, given.flows)
        simulate_capture(folder / "lab.pcap", folder / "lab.csv", minutes=given.minutes, seed=1)
        found = {
            "conn.log, host context": measure(folder / "conn.log", Detector.load(folder / "model.idea"), given.rounds),
            "capture, host context": measure(folder / "lab.pcap", capture_detector(folder / "lab.pcap"), given.rounds),
        }
    write_result(RESULTS / "memory_cost.json", {"flows": given.flows, "minutes": given.minutes, "sources": found})


def capture_detector(path: Path) -> Detector:
    """Return a detector of metered flows with host context; what it finds does not matter here."""
    flows = add_context(pl.concat(meter_capture(path)))
    schema = get_schema("cicflow+context")
    classes = np.where(flows["dst_port"].fill_null(0).to_numpy() % 3 == 0, "attack", "benign")
    classifier = DeepIDEAClassifier(schema=schema, n_epochs=1, min_steps=20, random_state=0)
    return classifier.fit(schema.conform(flows), classes).to_detector()


def measure(path: Path, detector: Detector, rounds: int) -> dict[str, Any]:
    """Return seconds of a detection with and without saving, medians of rounds, and the bytes that are kept."""
    seconds: dict[str, list[float]] = {"saved": [], "not saved": []}
    for _ in range(rounds):
        for kind, of in seconds.items():
            n_flows, took_s, n_bytes = detect(path, detector, saves=kind == "saved")
            of.append(took_s)
            if kind == "saved":
                kept = n_bytes
    fast, slow = median(seconds["not saved"]), median(seconds["saved"])
    figures = {"flows": n_flows, "seconds": slow, "seconds_without": fast, "ratio": slow / fast, "kept_bytes": kept}
    print(path.name, figures)
    return figures


def detect(path: Path, detector: Detector, *, saves: bool) -> tuple[int, float, int]:
    """Return flows, seconds, and bytes of the memory that the store keeps."""
    nothing: Callable[..., tuple[()]] = lambda *_: ()  # noqa: E731
    with tempfile.TemporaryDirectory() as folder, open_store(f"sqlite:///{folder}/a.db") as store:
        engine = Engine(open_source_for(detector, str(path)), detector, store)
        with (
            mock.patch.object(FlowAdapter, "save", FlowAdapter.save if saves else nothing),
            mock.patch.object(_Replay, "_checkpoint", _Replay._checkpoint if saves else nothing),
        ):
            began = time.perf_counter()
            progress = engine.run(threading.Event())
            took_s = time.perf_counter() - began
        with store.read() as connection:
            n_bytes = connection.execute(
                sa.text("SELECT COALESCE(SUM(LENGTH(data)), 0) FROM source_memory")
            ).scalar_one()
    return progress.n_flows, took_s, int(n_bytes)


if __name__ == "__main__":
    main()
