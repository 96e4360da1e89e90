"""Several processes on one stream: how much faster two are than one, and what killing one of them changes.

A real Redis server and a real PostgreSQL server, both of the script's own, and processes of ``deepidea detect`` on the
same machine: what the servers take, the processes lack.

*Speed*: the processes, each kept to one core, since one alone would take all of them, read a stream of eight shares,
first a little to be warm, then all of it at once; from then to the moment at which the store has counted the last flow.

*Takeover*: flows come while one of two processes, drawn by lot, is killed with SIGKILL and started again, many times.
The store is compared with that of one process that read the same log with nobody's help.

*Context*: how many flows get other windows of their hosts where each share is counted by itself, whatever it is keyed
by, and how many alerts of a detector with context change by that, in a simulated capture.

Usage: python -m benchmarks.shared_stream [--flows 200000] [--runs 3] [--kills 20] [--kill-flows 60000] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import redis
from tests.adapters.redis_server import running_redis
from tests.detection.postgres import fresh_database, running_server

from benchmarks.result_files import RESULTS, write_result
from deepidea.adapters.redis_group import RedisPublisher
from deepidea.detection.alerting import fit_thresholds
from deepidea.detection.calibrate import with_thresholds
from deepidea.detection.publish import publish
from deepidea.detection.publishers import Publisher
from deepidea.detection.sources.registry import open_source
from deepidea.detection.sources.source import FlowBatch, Position
from deepidea.flows.context import CONTEXT_COLUMNS, HostContext, add_context
from deepidea.flows.flow_lines import pair_keys, partition_of
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.schema import get_schema
from deepidea.flows.sensors.projection import to_conn
from deepidea.flows.simulate import simulate_flows
from deepidea.model.presets import train_detector
from deepidea.packets.meter import meter_capture
from deepidea.simulation.ground_truth import label_flows, read_labels
from deepidea.simulation.simulate import simulate_capture
from deepidea.store import alerts as stored_alerts
from deepidea.store import incidents, sources
from deepidea.store.store import Store, open_store

SESSION_S = 2.0
PARTITIONS = 8
PATIENCE_S = 300.0
WARM_FLOWS = 2_000
LAB_MINUTES = 5.0


def site_flows(n_flows: int, seed: int) -> pl.DataFrame:
    """Return invented flows between a few hosts, two hundred a second by their end, one in twenty an attack."""
    rows = pl.int_range(n_flows, eager=True)
    table = simulate_flows(n_flows=2 * n_flows + 100, seed=seed).with_row_index("n")
    table = table.filter((pl.col("label") == "benign") | (pl.col("n") % 4 == 0)).drop("n").head(n_flows)
    start = (rows * 5_000 + 1_780_000_000_000_000).cast(pl.Datetime("us", "UTC"))
    hosts = pl.concat_str(pl.lit("10.0."), (rows * 7 % 50).cast(pl.String), pl.lit(".7"))
    others = pl.concat_str(pl.lit("10.1.0."), (rows * 13 % 31).cast(pl.String))
    ports = (rows % 60_000).cast(pl.Int32)
    return table.with_columns(start=start, end=start, src_ip=hosts, dst_ip=others, src_port=ports)


_ZEEK = {
    "src_ip": "id.orig_h", "src_port": "id.orig_p", "dst_ip": "id.resp_h", "dst_port": "id.resp_p",
    "protocol": "proto", "service": "service", "duration_s": "duration", "fwd_packets": "orig_pkts",
    "bwd_packets": "resp_pkts", "fwd_bytes": "orig_ip_bytes", "bwd_bytes": "resp_ip_bytes", "state": "conn_state",
}  # fmt: skip


def write_inputs(folder: Path, n_flows: int, *, context: bool = True) -> None:
    """Write a detector and the conn.log that it is to watch."""
    schema = "conn+context" if context else "conn"
    table = add_context(site_flows(4000, 0)) if context else site_flows(4000, 0)
    columns = [name for name in table.columns if name not in ("tcp_flags", "end", "start")]
    flows, _ = labelled_flows_from_table(
        table.select(columns), "label", "benign", schema=get_schema(schema).restrict(columns)
    )
    detector = train_detector(flows, random_state=0, n_epochs=3, min_steps=200)
    fresh = add_context(site_flows(20_000, 2)) if context else site_flows(20_000, 2)
    benign = detector.score(fresh.filter(pl.col("label") == "benign"))
    with_thresholds(detector, fit_thresholds(benign, 1e-2, "benign flows")).save(folder / "model.idea")
    rows = site_flows(n_flows, 1)
    result = rows.select(
        (pl.col("end").dt.timestamp("us") / 1e6 - pl.col("duration_s")).alias("ts"),
        *(pl.col(name).alias(z) for name, z in _ZEEK.items()),
    )
    result.write_ndjson(folder / "conn.log")


def detection(folder: Path, address: str, store: str) -> list[str]:
    """Return the command line of a detection."""
    given = ["--model", str(folder / "model.idea"), "--store", store, "--flow-alerts"]
    return [sys.executable, "-m", "deepidea.cli.app", "detect", address, *given]


class Group:
    """Processes of ``deepidea detect`` on one stream; whatever happens, none is left."""

    def __init__(self, folder: Path, address: str, store: str, *, pinned: bool = False) -> None:
        self._command, self._log, self._pinned = detection(folder, address, store), folder / "processes.log", pinned
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_error: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def start(self) -> None:
        """Start one more; if pinned, on a core of its own as far as there are any."""
        core = str(len(self.processes) % (os.cpu_count() or 1))
        command = ["taskset", "-c", core, *self._command] if self._pinned else self._command
        with self._log.open("ab") as log:
            self.processes.append(subprocess.Popen(command, stderr=log))

    def kill(self, rng: random.Random) -> None:
        """Kill one and start another."""
        gone = self.processes.pop(rng.randrange(len(self.processes)))
        gone.kill()
        gone.wait()
        self.start()

    def stop(self) -> list[int]:
        """Ask all to end, and return their exit codes."""
        for process in self.processes:
            process.terminate()
        return [process.wait(60) for process in self.processes]


def counted(store: Store) -> int:
    """Return how many flows a store has counted."""
    return sum(counter.n_flows for counter in store.query(sources.counters))


def await_flows(store: Store, n_flows: int, group: Group) -> float:
    """Wait until so many flows are counted, and return when that was seen."""
    deadline = time.monotonic() + PATIENCE_S
    while counted(store) < n_flows:
        if time.monotonic() > deadline or all(process.poll() is not None for process in group.processes):
            raise TimeoutError(f"{counted(store)} of {n_flows} flows were counted")
        time.sleep(0.02)
    return time.monotonic()


def contents(store: Store) -> dict[str, Any]:
    """Return everything of a store that must not depend on how many processes filled it."""
    alerts = store.query(stored_alerts.find_table, suppressed=None, limit=1_000_000).drop("source").sort("alert_id")
    found = store.query(incidents.find_full, limit=100_000).items
    counters = store.query(sources.counters)
    sums = [sum(getattr(c, name) for c in counters) for name in ("n_flows", "n_alerts", "n_duplicates")]
    losses = [sum(sum(getattr(c, kind).values()) for c in counters) for kind in ("skipped", "dropped")]
    return {
        "alerts": alerts.rows(),
        "incidents": sorted(map(str, found)),
        "counters": [*sums, *losses],
    }


def alone(folder: Path) -> dict[str, Any]:
    """Return the store of one process that reads the log itself."""
    url = f"sqlite:///{folder / 'alone.db'}"
    subprocess.run(detection(folder, str(folder / "conn.log"), url), stderr=subprocess.DEVNULL, check=True)
    with open_store(url) as store:
        return contents(store)


class Dosed:
    """A source whose flows come in doses, each when it is let go."""

    name, schema, replayable = "dosed", "conn", False

    def __init__(self, path: Path, doses: int) -> None:
        batches = open_source(f"zeek:{path}").batches(None, threading.Event())
        flows = pl.concat([batch.flows for batch in batches])
        size = -(-flows.height // doses)
        self._doses = [flows[at : at + size] for at in range(0, flows.height, size)]
        self.let_go = threading.Semaphore(0)

    def batches(self, after: Position | None, stop: threading.Event) -> Iterator[FlowBatch]:  # noqa: ARG002
        """Yield the doses."""
        for dose in self._doses:
            self.let_go.acquire()
            yield from (FlowBatch(part) for part in dose.iter_slices(1_000))


@contextlib.contextmanager
def feeding(path: Path, publisher: Publisher, doses: int) -> Iterator[Dosed]:
    """Publish a log in doses by a thread of its own."""
    source = Dosed(path, doses)
    feeder = threading.Thread(target=publish, args=(source, publisher, threading.Event()))
    feeder.start()
    try:
        yield source
    finally:
        for _ in range(doses):
            source.let_go.release()
        feeder.join()


def address_of(server: str, *, session_s: float = SESSION_S) -> str:
    """Return the address of the shared stream."""
    return f"{server}?stream=flows&group=site&partitions={PARTITIONS}&session_s={session_s:g}"


def takeover(folder: Path, server: str, url: str, n_flows: int, kills: int, seed: int) -> dict[str, Any]:
    """Return how many kills there were, and whether the store is that of a process that read alone."""
    rng = random.Random(seed)
    with (
        open_store(url) as store,
        Group(folder, address_of(server), url) as group,
        feeding(
            folder / "conn.log", RedisPublisher(f"{server}?stream=flows&partitions={PARTITIONS}"), kills + 1
        ) as source,
    ):
        for _ in range(2):
            group.start()
        source.let_go.release()
        await_flows(store, 1, group)
        began = time.monotonic()
        for _ in range(kills):
            source.let_go.release()
            time.sleep(rng.uniform(0.1, 2 * SESSION_S))
            group.kill(rng)
        await_flows(store, n_flows, group)
        seconds, codes = time.monotonic() - began, group.stop()
        found, whole = contents(store), alone(folder)
    equal = {name: found[name] == whole[name] for name in whole}
    result = {"flows": n_flows, "alerts": len(whole["alerts"]), "incidents": len(whole["incidents"])}
    return {"kills": kills, **result, "seconds": round(seconds, 1), "exit_codes": codes, "equal": equal}


def speed(folder: Path, server: str, url: str, n_flows: int, n_processes: int) -> float:
    """Return the flows a second of so many processes."""
    with (
        redis.Redis.from_url(server) as client,
        open_store(url) as store,
        Group(folder, address_of(server, session_s=10), url, pinned=True) as group,
    ):
        client.flushall()
        for _ in range(n_processes):
            group.start()
        await_shares(client, n_processes)
        publish_log(folder / "warm.log", f"{server}?stream=flows")
        await_flows(store, WARM_FLOWS, group)
        publish_log(folder / "conn.log", f"{server}?stream=later&partitions={PARTITIONS}")
        began = time.monotonic()
        for number in range(PARTITIONS):
            client.rename(f"later:{number}", f"flows:{number}")
        ended = await_flows(store, n_flows + WARM_FLOWS, group)
        group.stop()
    return n_flows / (ended - began)


def publish_log(path: Path, address: str) -> None:
    """Publish a log, with what hosts did."""
    publish(open_source(f"zeek:{path}"), RedisPublisher(address), threading.Event())


def await_shares(client: Any, n_processes: int) -> None:
    """Wait until every process has its part of the shares."""
    keys = [f"flows:owner:site:{number}" for number in range(PARTITIONS)]
    deadline = time.monotonic() + PATIENCE_S
    while len(set(client.mget(keys))) < n_processes or None in client.mget(keys):
        if time.monotonic() > deadline:
            raise TimeoutError("the processes did not share the stream")
        time.sleep(0.1)


def lab_flows(folder: Path, seed: int, minutes: float) -> pl.DataFrame:
    """Return the labelled flows of a simulated capture as `conn`, in the order in which they ended."""
    capture, labels = folder / f"{seed}.pcap", folder / f"{seed}.csv"
    simulate_capture(capture, labels, seed=seed, minutes=minutes, hosts=20, snaplen=128)
    metered = label_flows(pl.concat(meter_capture(capture)), read_labels(labels)).drop_nulls("label")
    return to_conn(metered.drop("label"))


def context_kept(folder: Path, minutes: float) -> dict[str, Any]:
    """Return what becomes of windows and alerts where every share counts for itself, by the key of the shares."""
    known, flows = add_context(lab_flows(folder, 1, minutes)), lab_flows(folder, 2, minutes)
    schema = get_schema("conn+context").restrict(known.columns)
    detector = train_detector(
        labelled_flows_from_table(known, "class", "benign", schema=schema)[0], random_state=0, n_epochs=5, min_steps=500
    )
    whole, rows = HostContext().add(flows), pl.int_range(flows.height, eager=True)
    raised = detector.score(whole)["score"] > 0.5
    result: dict[str, Any] = {"flows": flows.height, "alerts": int(raised.sum())}
    for name, keys in {"pair": pair_keys(flows), "source": flows["src_ip"], "destination": flows["dst_ip"]}.items():
        shares = partition_of(keys, PARTITIONS)
        parts = [HostContext().add(flows.filter(shares == n)) for n in range(PARTITIONS)]
        order = pl.concat([rows.filter(shares == n) for n in range(PARTITIONS)]).arg_sort()
        split = pl.concat(parts)[order]
        same = pl.all_horizontal(pl.col(c.name).eq_missing(split[c.name]) for c in CONTEXT_COLUMNS)
        other = detector.score(split)["score"] > 0.5
        result[name] = {
            "other_windows": round(1 - float(whole.select(same).to_series().mean()), 4),  # type: ignore[arg-type]
            "alerts_lost": int((raised & ~other).sum()),
            "alerts_more": int((other & ~raised).sum()),
        }
    return result


def speeds(folder: Path, server: str, sockets: str, n_flows: int, runs: int) -> dict[str, Any]:
    """Return flows a second of one process and of two, in turn."""
    write_inputs(folder, n_flows)
    lines = (folder / "conn.log").read_bytes().splitlines(keepends=True)
    (folder / "warm.log").write_bytes(b"".join(lines[:WARM_FLOWS]))
    rates: dict[int, list[int]] = {1: [], 2: []}
    for n_processes in [1, 2] * runs:
        with fresh_database(sockets) as url:
            rates[n_processes].append(round(speed(folder, server, url, n_flows, n_processes)))
        print(n_processes, rates[n_processes][-1], flush=True)
    medians = {n: statistics.median(found) for n, found in rates.items()}
    result = {"one": rates[1], "two": rates[2], "flows": n_flows, "partitions": PARTITIONS}
    return {**result, "median_ratio": round(medians[2] / medians[1], 2)}


def run(folder: Path, *, n_flows: int, kills: int, kill_flows: int, runs: int, seed: int) -> dict[str, Any]:
    """Return both measurements; without flows, or without kills, the other one alone."""
    figures: dict[str, Any] = {}
    if n_flows:
        figures["context"] = context_kept(folder, LAB_MINUTES)
    with running_redis(folder) as server, running_server() as sockets:
        if n_flows:
            figures["speed"] = speeds(folder, server, sockets, n_flows, runs)
        if kills:
            write_inputs(folder, kill_flows)
            with redis.Redis.from_url(server) as client, fresh_database(sockets) as url:
                client.flushall()
                figures["takeover"] = takeover(folder, server, url, kill_flows, kills, seed)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kill-flows", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        figures = run(
            Path(folder), n_flows=given.flows, kills=given.kills, kill_flows=given.kill_flows, runs=given.runs,
            seed=given.seed,
        )  # fmt: skip
    write_result(RESULTS / "shared_stream.json", figures)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
