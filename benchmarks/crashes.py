"""kill -9 at random moments of a replay: the store must end as it does without a kill.

A table of flows is watched by ``deepidea detect`` in a process of its own, which is killed after a random while and
started again, until it finishes before it is killed. Then another store is begun, until there were so many kills.
Alerts, incidents, position and counters of each are compared with those of a run that nobody disturbed.

Usage: python -m benchmarks.crashes [--kills 50] [--flows 150000] [--seed 0]
"""

from __future__ import annotations

import argparse
import itertools
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.result_files import RESULTS, write_result
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.simulate import simulate_flows
from deepidea.model.presets import train_detector
from deepidea.store import alerts as stored_alerts
from deepidea.store import incidents, sources
from deepidea.store.store import open_store


def write_inputs(folder: Path, n_flows: int) -> None:
    """Write a detector and a table of flows between a few hosts, a thousand a second."""
    flows, _ = labelled_flows_from_table(simulate_flows(n_flows=3000), "label", "benign")
    train_detector(flows, random_state=0, n_epochs=3, min_steps=200).save(folder / "model.idea")
    table = simulate_flows(n_flows=n_flows, seed=1).drop("label")
    rows = pl.int_range(n_flows, eager=True)
    start = pl.Series(rows * 1000 + 1_780_000_000_000_000).cast(pl.Datetime("us", "UTC"))
    hosts = pl.concat_str(pl.lit("10.0."), (rows % 50).cast(pl.String), pl.lit(".7"))
    table = table.with_columns(
        start=start, end=start, src_ip=hosts, dst_ip=pl.lit("10.1.0.1"), src_port=(rows % 60_000).cast(pl.Int32)
    )
    table.write_parquet(folder / "flows.parquet")


def command(folder: Path, store: str) -> list[str]:
    """Return the command line of a detection."""
    given = ["--model", str(folder / "model.idea"), "--store", f"sqlite:///{folder / store}", "--flow-alerts"]
    return [sys.executable, "-m", "deepidea.cli.app", "detect", str(folder / "flows.parquet"), *given]


def contents(folder: Path, store: str) -> dict[str, Any]:
    """Return everything of a store that a kill must not change."""
    with open_store(f"sqlite:///{folder / store}") as opened:
        alerts = opened.query(stored_alerts.find_table, suppressed=None, limit=1_000_000).sort("alert_id")
        found = opened.query(incidents.find_full, limit=100_000).items
        counters = [(c.name, c.n_flows, c.n_alerts, c.n_duplicates, c.skipped) for c in opened.query(sources.counters)]
        position = opened.query(sources.position, str(folder / "flows.parquet"))
    return {"alerts": alerts.rows(), "incidents": sorted(map(str, found)), "counters": counters, "position": position}


def kill_until_done(folder: Path, store: str, longest_s: float, rng: random.Random) -> int:
    """Run until it finishes before it is killed; return how many kills there were."""
    for n_kills in itertools.count():
        process = subprocess.Popen(command(folder, store), stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0, longest_s))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        else:
            return n_kills
    raise AssertionError


def run(folder: Path, kills: int, n_flows: int, seed: int) -> dict[str, Any]:
    """Return how many kills and replays there were, and whether the stores are equal."""
    write_inputs(folder, n_flows)
    began = time.monotonic()
    subprocess.run(command(folder, "whole.db"), stderr=subprocess.DEVNULL, check=True)
    longest_s, rng = time.monotonic() - began, random.Random(seed)
    whole, n_kills, replays = contents(folder, "whole.db"), 0, 0
    equal = dict.fromkeys(whole, True)
    while n_kills < kills:
        n_kills += kill_until_done(folder, f"killed-{replays}.db", longest_s, rng)
        killed = contents(folder, f"killed-{replays}.db")
        equal = {name: held and whole[name] == killed[name] for name, held in equal.items()}
        replays += 1
    sizes = {"flows": n_flows, "alerts": len(whole["alerts"]), "incidents": len(whole["incidents"])}
    return {"kills": n_kills, "replays": replays, **sizes, "equal": equal}


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--flows", type=int, default=150_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), options.kills, options.flows, options.seed)
    write_result(RESULTS / "crashes.json", figures)
    print(figures)


if __name__ == "__main__":
    main()
