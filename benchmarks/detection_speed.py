"""Lines of sensors to stored alerts: flows a second on one core, latency at a steady rate, and a long replay.

*Throughput*: files of Zeek and EVE lines of which one flow in twenty is an attack, through the whole engine (reading,
parsing, scoring, alerts, incidents, one transaction a batch in SQLite), every thread on one core. Alerts go by
thresholds that other benign flows have set, at a rate of 1e-2; a second figure is without, by score alone, where
nearly one flow in five raises an alert.

*Latency*: a log that grows by so many flows a second, followed; from the end of each flow, which is when its line is
written, to the moment at which its batch is stored.

*Soak*: a day of flows, replayed as fast as it goes by a process of its own: memory by the share that is done, and
whether every line was counted.

Usage: python -m benchmarks.detection_speed [--lines 300000] [--rate 10000] [--seconds 30] [--soak 2000000]
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.result_files import RESULTS, write_result
from benchmarks.sensor_speed import FORMATS, one_core, zeek_text
from deepidea.detection.alerting import Thresholds, fit_thresholds
from deepidea.detection.engine import Engine
from deepidea.detection.sources.registry import open_source
from deepidea.detection.sources.source import FlowBatch
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.schema import get_schema
from deepidea.flows.simulate import simulate_flows
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector
from deepidea.store.store import open_store

ATTACKS = 0.05
TELLS = 20  # times that memory is looked at during the soak


def site_flows(n_flows: int) -> list[dict[str, Any]]:
    """Return invented flows of which one in twenty is an attack."""
    table = simulate_flows(n_flows=max(4 * n_flows, 1000), seed=2)
    attack = table["label"] != "benign"
    n_attacks = round(ATTACKS * n_flows)
    parts = (table.filter(~attack).head(n_flows - n_attacks), table.filter(attack).head(n_attacks))
    return pl.concat(parts).sample(fraction=1.0, shuffle=True, seed=0).to_dicts()


def make_detector() -> Detector:
    """Return a detector of schema conn, with the features that every sensor has."""
    table = simulate_flows(n_flows=5000)
    schema = get_schema("conn").restrict(table.columns)
    flows, _ = labelled_flows_from_table(table, "label", "benign", schema=schema)
    return train_detector(flows, random_state=0, n_epochs=5, min_steps=500)


def site_thresholds(detector: Detector) -> Thresholds:
    """Return thresholds by benign flows that neither trained nor are watched."""
    table = simulate_flows(n_flows=20_000, seed=3)
    return fit_thresholds(detector.score(table.filter(pl.col("label") == "benign")), 1e-2, "benign flows")


def throughput(
    folder: Path, detector: Detector, name: str, n_lines: int, thresholds: Thresholds | None
) -> dict[str, Any]:
    """Return flows a second of one format, after a run that does not count."""
    kind, lines_of = FORMATS[name]
    path = folder / name
    path.write_text("".join(lines_of(site_flows(n_lines))))
    rates = []
    for turn in range(4):
        database = folder / f"{name}-{turn}-{thresholds is None}.db"
        with open_store(f"sqlite:///{database}") as store:
            began = time.perf_counter()
            engine = Engine(open_source(f"{kind}:{path}"), detector, store, thresholds=thresholds)
            progress = engine.run(threading.Event())
            rates.append(round(progress.n_flows / (time.perf_counter() - began)))
    shares = {"flows": progress.n_flows, "alerts": progress.n_alerts}
    return {"flows_per_second": rates[1:], "median_flows_per_second": float(np.median(rates[1:])), **shares}


class TimedEngine(Engine):
    """An engine that notes, for each flow, how long after its end it was stored."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.latencies_s: list[np.ndarray[Any, Any]] = []

    def _process(self, batch: FlowBatch, stop: threading.Event) -> None:
        super()._process(batch, stop)
        if batch.flows.height:
            self.latencies_s.append(time.time() - batch.flows["end"].dt.epoch("us").to_numpy() / 1e6)


def write_steadily(path: Path, lines: Iterator[str], rate: int, seconds: float) -> None:
    """Append lines whose flows end as they are written, so many a second, in steps of ten milliseconds."""
    began, n_written = time.time(), 0
    with path.open("a") as file:
        while (now := time.time()) < began + seconds:
            due = int((now - began) * rate) - n_written
            for line in itertools.islice(lines, due):
                cells = line.split("\t")
                cells[0], cells[8] = f"{now:.6f}", "0.0"  # ts and duration: the flow ends now
                file.write("\t".join(cells))
            file.flush()
            n_written += due
            time.sleep(0.01)


def latency(folder: Path, detector: Detector, rate: int, seconds: float) -> dict[str, Any]:
    """Return the latencies at a steady rate."""
    path, stop = folder / "conn.log", threading.Event()
    lines = zeek_text(site_flows(50_000))
    path.write_text(next(lines))
    endless = itertools.cycle(list(lines))
    with open_store(f"sqlite:///{folder}/steady.db") as store:
        engine = TimedEngine(open_source(f"zeek:{path}", follow=True), detector, store)
        runner = threading.Thread(target=engine.run, args=(stop,))
        runner.start()
        write_steadily(path, endless, rate, seconds)
        time.sleep(1)
        stop.set()
        runner.join()
    latencies_s = np.concatenate(engine.latencies_s)
    steady = latencies_s[len(latencies_s) // 10 :]  # the first tenth warms up
    quantiles = {f"p{share:g}_s": round(float(np.quantile(steady, share / 100)), 3) for share in (50, 99, 99.9)}
    return {"flows_per_second": rate, "flows": len(latencies_s), **quantiles}


_SOAK = """
import sys, threading
from deepidea.detection.engine import Engine
from deepidea.detection.sources.registry import open_source
from deepidea.store.store import open_store
from deepidea.model.detector import Detector

folder, every = sys.argv[1], int(sys.argv[2])
reported = [0]

def report(progress):
    if progress.n_flows >= reported[0]:
        reported[0] += every
        pages = int(open("/proc/self/statm").read().split()[1])
        print(progress.n_flows, pages * 4096 // 2**20, flush=True)

with open_store(f"sqlite:///{folder}/soak.db") as store:
    engine = Engine(open_source(f"zeek:{folder}/soak.log"), Detector.load(f"{folder}/m.idea"), store, on_batch=report)
    at = engine.run(threading.Event())
print(at.n_flows, sum(at.skipped.values()), sum(at.dropped.values()), at.n_alerts)
"""


def soak(folder: Path, detector: Detector, n_flows: int) -> dict[str, Any]:
    """Return the memory of a process that replays a day, and whether every flow was counted."""
    detector.save(folder / "m.idea")
    lines = zeek_text(site_flows(50_000))
    header, block = next(lines), list(lines)
    step = 86_400 / n_flows
    with (folder / "soak.log").open("w") as file:
        file.write(header)
        for n, line in zip(range(n_flows), itertools.cycle(block), strict=False):
            file.write(f"{1_780_000_000 + n * step:.6f}\t" + line.partition("\t")[2])
    began = time.perf_counter()
    command = [sys.executable, "-c", _SOAK, str(folder), str(n_flows // TELLS)]
    *memory, last = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    counted, skipped, dropped, alerts = map(int, last.split())
    mib = [int(line.split()[1]) for line in memory]
    figures = {"hours": 24, "flows": n_flows, "seconds": round(time.perf_counter() - began, 1), "alerts": alerts}
    return {**figures, "uncounted": n_flows - counted - skipped - dropped, "dropped": dropped, "memory_mib": mib}


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=300_000)
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--soak", type=int, default=2_000_000)
    options = parser.parse_args()
    detector = make_detector()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        with one_core():
            single = Detector(
                detector.encoder, detector.decision, detector.classes, detector.labels, detector.graph,
                novelty=detector.novelty, card=detector.card, n_threads=1,
            )  # fmt: skip
            for name, by_score in itertools.product(("zeek_text", "eve_flows"), (False, True)):
                thresholds = None if by_score else site_thresholds(single)
                measured = throughput(Path(folder), single, name, options.lines, thresholds)
                figures[name + "_by_score" * by_score] = measured
                print(name, measured, flush=True)
        figures["latency"] = latency(Path(folder), detector, options.rate, options.seconds)
        print(figures["latency"], flush=True)
        figures["soak"] = soak(Path(folder), detector, options.soak)
        print(figures["soak"], flush=True)
    write_result(RESULTS / "detection_speed.json", figures)


if __name__ == "__main__":
    main()
