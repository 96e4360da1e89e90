"""What the questions of page and API take of a store of many alerts, each asked some times: median and longest.

Usage: python -m benchmarks.desk_speed
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from benchmarks.result_files import RESULTS, write_result
from deepidea.detection.alerts import make_alerts
from deepidea.detection.rates import flows_by_minute
from deepidea.detection.store import Store, open_store
from deepidea.web.desk import Desk

N_ALERTS, BATCH, TRIES = 200_000, 10_000, 5
DAYS = 28
CLASSES = ("port_scan", "DDoS", "brute_force", "botnet")


def main() -> None:
    """Fill a store and ask."""
    with tempfile.TemporaryDirectory() as folder, open_store(f"sqlite:///{folder}/alerts.db") as store:
        fill(store)
        told = {name: measured(ask) for name, ask in questions(store).items()}
        n_incidents = store.count_incidents()
    write_result(
        RESULTS / "desk_speed.json", {"n_alerts": N_ALERTS, "n_incidents": n_incidents, "tries": TRIES, "ms": told}
    )
    print(told)


def fill(store: Store) -> None:
    """Put alerts of four weeks into a store: a few hosts with very many, many with a few."""
    rng, begin = np.random.default_rng(0), datetime.now(UTC) - timedelta(days=DAYS)
    for part in range(N_ALERTS // BATCH):
        span = DAYS * 86_400_000 * BATCH // N_ALERTS  # milliseconds: batches come in order of time, as flows do
        at = part * span + np.sort(rng.integers(0, span, BATCH))
        host = (rng.pareto(0.6, BATCH) * 3).clip(0, 20_000).astype(int)
        ends = [begin + timedelta(milliseconds=int(ms)) for ms in at]
        flows = pl.DataFrame(
            {
                "start": ends,
                "end": ends,
                "src_ip": [f"10.{h >> 8}.{h & 255}.7" for h in host],
                "src_port": rng.integers(1024, 65_535, BATCH),
                "dst_ip": [f"198.51.100.{x}" for x in rng.integers(1, 30, BATCH)],
                "dst_port": rng.integers(1, 2000, BATCH),
                "protocol": ["tcp"] * BATCH,
            }
        )
        names, score = rng.choice(CLASSES, BATCH, p=(0.6, 0.1, 0.2, 0.1)), rng.uniform(0.5, 1, BATCH)
        verdicts = pl.DataFrame({"class": names, "score": score, "p_benign": 1 - score})
        alerts = make_alerts(flows, verdicts, pl.Series([True] * BATCH), model="5eed")
        minutes = flows_by_minute(flows)
        store.commit_batch("eth0", {"part": part}, alerts, n_flows=BATCH, flow_minutes=minutes)


def questions(store: Store) -> dict[str, Callable[[], Any]]:
    """Return what is asked, by what it is called."""
    desk = Desk(store)
    largest = desk.incidents(order="alerts", limit=1).items[0]
    busiest = desk.hosts(limit=500).items
    host = max(busiest, key=lambda row: row.n_alerts).host
    alert = desk.alerts(limit=1).items[0].alert_id
    marks = store.marks()
    return {
        "overview of 24 h": lambda: desk.overview("24h"),
        "overview of 30 d": lambda: desk.overview("30d"),
        "incidents, the latest": lambda: desk.incidents(),
        "incidents, by severity": lambda: desk.incidents(order="severity"),
        "incidents, searched by address": lambda: desk.incidents(search="198.51.100.7"),
        "the largest incident": lambda: desk.incident(largest.incident_id),
        "alerts of a host": lambda: desk.alerts(host=host),
        "the busiest host": lambda: desk.host(host),
        "hosts": lambda: desk.hosts(),
        "an alert": lambda: desk.alert(alert),
        "sources": lambda: desk.sources(),
        "what has changed, nothing": lambda: store.changes(marks),
    }


def measured(ask: Callable[[], Any]) -> dict[str, float]:
    took = []
    for _ in range(TRIES):
        began = time.perf_counter()
        ask()
        took.append(1000 * (time.perf_counter() - began))
    return {"median": round(statistics.median(took), 2), "longest": round(max(took), 2)}


if __name__ == "__main__":
    main()
