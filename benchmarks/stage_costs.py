"""What each stage behind a sensor takes: publisher, broker, detection, store, sink.

*Stream*: a log is published into a Redis of the script's own, and read by one ``deepidea detect`` that stores into a
PostgreSQL of the script's own, each on this machine. Processor time a flow of publisher, Redis, detection and
PostgreSQL, as Linux counts it, so that what else runs on the machine changes little; memory that Redis takes for a
queued flow.

*Store*: processor time of a whole transaction by the alerts of its batch, ours on one core and the server's, in SQLite
and in PostgreSQL, the least of several; fitted, by least squares of relative errors, as so much a batch, so much where
there are alerts at all, and so much an alert. Beside it stand the statements of a transaction, each of which goes once
to the server and back, and the time in which a write reaches the disk. *Sink*: alerts a second from a store to a file.

*Memory*: of a whole process that watches flows of ever more hosts with a detector of ``conn+context`` by score alone,
against the hosts that it knows and the incidents that its store holds by then.

Usage: python -m benchmarks.stage_costs [--flows 100000] [--runs 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import redis
import sqlalchemy as sa
from tests.adapters.redis_server import running_redis
from tests.detection.postgres import DURABLE, fresh_database, running_server

from benchmarks.filled_store import fill_store, make_alerts
from benchmarks.result_files import RESULTS, write_result
from benchmarks.sensor_speed import one_core
from benchmarks.shared_stream import (
    PARTITIONS,
    WARM_FLOWS,
    Group,
    address_of,
    await_flows,
    await_shares,
    publish_log,
    write_inputs,
)
from deepidea.detection.sinks.delivery import Delivery
from deepidea.detection.sinks.registry import open_sink
from deepidea.detection.sources.source import BATCH_FLOWS
from deepidea.store import batches
from deepidea.store.store import open_store

BATCHES = (0, 8, 64, 512, 4096)  # alerts in a transaction
REPEATS = 12
ALERTS_BEFORE = 100_000  # in the store that transactions are timed on
DELIVERED = 50_000
HOSTS = (100, 2_000, 16_000, 40_000)


def processor_s(pid: int) -> float:
    """Return the time that a process and its children that live were on a core, in seconds."""
    return _own_s(pid) + sum(processor_s(child) for child in _children(pid))


def _own_s(pid: int) -> float:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _postmaster(sockets: str) -> int:
    return int(Path(sockets, "data", "postmaster.pid").read_text().splitlines()[0])


def stream_costs(folder: Path, server: str, sockets: str, n_flows: int) -> dict[str, float]:
    """Return seconds of processor time a flow of each part of a stream, and what one flow of it weighs in Redis."""
    with (
        redis.Redis.from_url(server) as client,
        fresh_database(sockets) as url,
        open_store(url) as store,
        Group(folder, address_of(server, session_s=10), url, pinned=True) as group,
    ):
        client.flushall()
        group.start()
        await_shares(client, 1)
        publish_log(folder / "warm.log", f"{server}?stream=flows")
        await_flows(store, WARM_FLOWS, group)
        measured = _publishing(folder, client, f"{server}?stream=later&partitions={PARTITIONS}", n_flows)
        pid, postmaster = group.processes[0].pid, _postmaster(sockets)
        before = [processor_s(pid), _redis_s(client), processor_s(postmaster)]
        for number in range(PARTITIONS):
            client.rename(f"later:{number}", f"flows:{number}")
        await_flows(store, n_flows + WARM_FLOWS, group)
        after = [processor_s(pid), _redis_s(client), processor_s(postmaster)]
        group.stop()
    names = ("detect_us", "redis_out_us", "postgresql_us")
    spent = {name: 1e6 * (b - a) / n_flows for name, a, b in zip(names, before, after, strict=True)}
    return measured | spent


def _publishing(folder: Path, client: Any, address: str, n_flows: int) -> dict[str, float]:
    held, server_s, own_s = _used(client), _redis_s(client), time.process_time()
    publish_log(folder / "conn.log", address)
    return {
        "publish_us": 1e6 * (time.process_time() - own_s) / n_flows,
        "redis_in_us": 1e6 * (_redis_s(client) - server_s) / n_flows,
        "redis_bytes": (_used(client) - held) / n_flows,
    }


def _redis_s(client: Any) -> float:
    measured = client.info("cpu")
    return float(measured["used_cpu_sys"]) + float(measured["used_cpu_user"])


def _used(client: Any) -> int:
    return int(client.info("memory")["used_memory"])


def commit_costs(url: str, sockets: str | None = None) -> dict[str, Any]:
    """Return milliseconds of a transaction by its alerts, what batch and alert take of them, and its statements."""
    fill_store(url, n_alerts=ALERTS_BEFORE, n_incidents=ALERTS_BEFORE // 10)
    minutes = {0: BATCH_FLOWS}
    servers = [] if sockets is None else [_postmaster(sockets)]
    busy: dict[int, list[float]] = {size: [] for size in BATCHES}
    with open_store(url) as store:
        statements = _Statements(store._engine)
        for batch in _dealt(_fresh_alerts(sum(BATCHES) * REPEATS)):
            before = time.process_time() + sum(map(processor_s, servers))
            store.execute(batches.commit, "s", {"at": before}, batch, n_flows=BATCH_FLOWS, flow_minutes=minutes)
            busy[batch.height].append(time.process_time() + sum(map(processor_s, servers)) - before)
    seconds = {size: min(times) for size, times in busy.items()}  # whatever else runs only adds
    some_alerts, an_alert = fitted({size: spent for size, spent in seconds.items() if size})
    return {
        "ms": {str(size): round(1e3 * spent, 2) for size, spent in seconds.items()},
        "batch_ms": round(1e3 * seconds[0], 3),
        "some_alerts_ms": round(1e3 * max(some_alerts - seconds[0], 0.0), 3),
        "alert_us": round(1e6 * an_alert, 2),
        "statements": round(statements.n / (REPEATS * len(BATCHES)), 1),
    }


def _fresh_alerts(n: int) -> pl.DataFrame:
    """Return alerts of many incidents that come a thousand a second, after all that the store holds."""
    alerts = make_alerts(n, n // 10, seed=1)
    at = alerts["time"].max() + pl.duration(milliseconds=pl.int_range(pl.len()))
    new = pl.lit("f") + pl.col("alert_id").str.slice(1)
    return alerts.with_columns(time=at, start=at, end=at, alert_id=new)


def sync_ms(folder: Path) -> float:
    """Return the milliseconds in which a small write reaches the disk."""
    taken = []
    with (folder / "synced").open("wb") as file:
        for _ in range(100):
            began = time.perf_counter()
            file.write(bytes(8192))
            file.flush()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return round(1e3 * statistics.median(taken), 3)


class _Statements:
    """Counts what an engine says to its database, one of BEGIN and one of COMMIT a transaction among it."""

    def __init__(self, engine: sa.Engine) -> None:
        self.n = 0
        for event in ("before_cursor_execute", "begin", "commit"):
            sa.event.listen(engine, event, self._count)

    def _count(self, *_: Any) -> None:
        self.n += 1


def _dealt(alerts: pl.DataFrame) -> Iterator[pl.DataFrame]:
    at = 0
    for size in [*BATCHES] * REPEATS:
        yield alerts.slice(at, size)
        at += size


def fitted(seconds: dict[int, float]) -> tuple[float, float]:
    """Return seconds a batch and seconds an alert that miss the measured times by the least squares of their shares.

    Examples
    --------
    >>> a_batch, an_alert = fitted({0: 0.004, 100: 0.005, 1000: 0.014})
    >>> round(a_batch, 6), round(an_alert, 6)
    (0.004, 1e-05)
    """
    times = np.array(list(seconds.values()))
    design = np.stack([np.ones(len(times)), np.array(list(seconds))], axis=1) / times[:, None]
    (a_batch, an_alert), *_ = np.linalg.lstsq(design, np.ones(len(times)))
    return float(a_batch), float(an_alert)


def sink_rate(folder: Path) -> float:
    """Return alerts a second of processor time from a store in SQLite to a file."""
    url = f"sqlite:///{folder}/sink.db"
    fill_store(url, n_alerts=DELIVERED, n_incidents=DELIVERED // 10)
    with open_store(url) as store:
        delivery = Delivery(store, open_sink(f"file://{folder}/alerts.json"), folder / "dead", from_start=True)
        began = time.process_time()
        delivery.start()
        assert delivery.stop(drain_s=300)
        return DELIVERED / (time.process_time() - began)


_WATCH = """
import sys, threading
from deepidea.detection.engine import Engine
from deepidea.detection.sources.registry import open_source
from deepidea.model.detector import Detector
from deepidea.store import incidents
from deepidea.store.store import open_store

folder = sys.argv[1]
with open_store(f"sqlite:///{folder}/memory.db") as store:
    Engine(open_source(f"zeek:{folder}/hosts.log"), Detector.load(f"{folder}/model.idea"), store).run(threading.Event())
    held = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
    print(held, store.query(incidents.count))
"""


def memory(folder: Path, n_hosts: int, n_flows: int) -> dict[str, int]:
    """Return the peak memory of a process that watches so many hosts, and the incidents of its store."""
    (folder / "memory.db").unlink(missing_ok=True)
    rows = pl.read_ndjson(folder / "conn.log").head(n_flows).with_row_index("n")
    n = pl.col("n") * 7_919 % n_hosts
    source = pl.concat_str(pl.lit("10."), n // 65_536, pl.lit("."), n // 256 % 256, pl.lit("."), n % 256)
    rows.with_columns(source.alias("id.orig_h")).drop("n").write_ndjson(folder / "hosts.log")
    done = subprocess.run([sys.executable, "-c", _WATCH, str(folder)], capture_output=True, text=True, check=True)
    peak, incidents = done.stdout.split()
    return {"hosts": n_hosts, "mib": round(float(peak)), "incidents": int(incidents)}


def median_of(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of every figure."""
    return {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}


def run(folder: Path, n_flows: int, n_runs: int) -> dict[str, Any]:
    """Return all figures."""
    write_inputs(folder, n_flows)
    lines = (folder / "conn.log").read_bytes().splitlines(keepends=True)
    (folder / "warm.log").write_bytes(b"".join(lines[:WARM_FLOWS]))
    with running_redis(folder) as server, running_server() as sockets:
        streams = [stream_costs(folder, server, sockets, n_flows) for _ in range(n_runs)]
    with running_server(DURABLE) as sockets, fresh_database(sockets) as url, one_core():
        stores = {"postgresql": commit_costs(url, sockets), "sqlite": commit_costs(f"sqlite:///{folder}/commits.db")}
    held = [memory(folder, n_hosts, n_flows) for n_hosts in HOSTS]
    return {
        "flows": n_flows,
        "runs": n_runs,
        "stream": median_of(streams),
        "store": stores,
        "sync_ms": sync_ms(folder),
        "sink_alerts_per_second": round(sink_rate(folder)),
        "memory": held,
    }


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = run(Path(name), options.flows, options.runs)
    write_result(RESULTS / "stage_costs.json", figures)
    print(figures)


if __name__ == "__main__":
    main()
