"""The operator's page over a store of weeks: time of the server, weight of a page, and a hundred that look on live.

*Pages*: a million alerts in ten thousand incidents in SQLite; the server runs as a process of its own, and each page is
asked for many times over, one after the other.

*Weight*: all that a browser loads for its first page but plotly's script, as it is and as it goes over the wire.

*Seen*: a list of incidents is open in Chromium; from the moment at which a flow's line is written to the log to that at
which the page says that there is a new incident, one after another.

*Live*: the server watches a log that grows by so many flows a second, one in twenty an attack, while a hundred streams
of events are read. An alert's latency is from the end of its flow, which is when its line is written, to the arrival of
the event that counts it; nothing is lost where every stream counts as many alerts as the store holds.

Usage: python -m benchmarks.page_speed [--alerts 1000000] [--incidents 10000] [--browsers 100] [--rate 10000]
       [--seconds 30]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin

import httpx
import numpy as np
import polars as pl

from benchmarks.detection_speed import make_detector, site_flows, site_thresholds, write_steadily
from benchmarks.filled_store import fill_store
from benchmarks.result_files import RESULTS, write_result
from benchmarks.sensor_speed import FIELDS, zeek_fields, zeek_text
from deepidea.detection.calibrate import with_thresholds
from deepidea.flows.simulate import simulate_flows
from deepidea.store import incidents
from deepidea.store.store import open_store

REPEATS = 60
SEEN = 20
_ADDRESS = re.compile(r"the page: (\S+)")


@contextlib.contextmanager
def served(store: str, *options: str) -> Iterator[str]:
    """Yield the address of `deepidea serve` over a store, a process of its own that ends with the context."""
    command = [sys.executable, "-m", "deepidea.cli.app", "serve", "--store", store, "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield _address_of(process)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
    if code:
        raise RuntimeError(f"the server ended with exit code {code}")


def _address_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    lines = ""
    for line in process.stderr:
        lines += line
        if found := _ADDRESS.search(line):
            threading.Thread(target=_read_on, args=(process.stderr,), daemon=True).start()
            return found[1].rstrip("/")
    raise RuntimeError(f"the server ended: {lines}")


def _read_on(pipe: IO[str]) -> None:
    """Read to the end, or the server would wait for a pipe that is full."""
    with contextlib.suppress(ValueError):  # closed while it is read
        for _ in pipe:
            pass


# --- pages ------------------------------------------------------------------------------------------------------------


def page_times(address: str, store: str) -> dict[str, dict[str, float]]:
    """Return the time of each page in milliseconds: median, 95th percentile, and bytes."""
    with open_store(store) as opened:
        largest = opened.query(incidents.find, order="alerts", limit=1).items[0].incident_id
    paths = {
        "overview, 24 hours": "/",
        "overview, 30 days": "/?window=30d",
        "incidents": "/incidents",
        "incidents, searched by host": "/incidents?q=10.0.12",
        "incidents, searched by class and port": "/incidents?q=port_scan+443",
        "incidents, urgent first, filtered": "/incidents?order=severity&status=open&severity=2",
        "the largest incident": f"/incidents/{largest}",
        "hosts": "/hosts",
        "sources": "/sources",
        "incidents by the API, searched": "/api/v1/incidents?search=10.0.12&limit=50",
    }
    with httpx.Client(base_url=address) as client:
        return {name: _times_of(client, path) for name, path in paths.items()}


def _times_of(client: httpx.Client, path: str) -> dict[str, float]:
    measured = []
    for _ in range(REPEATS + 3):
        began = time.perf_counter()
        answer = client.get(path)
        measured.append(1000 * (time.perf_counter() - began))
        answer.raise_for_status()
    of = np.array(measured[3:])
    median, p95 = round(float(np.median(of)), 1), round(float(np.quantile(of, 0.95)), 1)
    return {"median_ms": median, "p95_ms": p95, "bytes": len(answer.content)}


def weight(address: str) -> dict[str, Any]:
    """Return the bytes of the first page and all that it names, plotly's script apart."""
    with httpx.Client(base_url=address) as client:
        page = client.get("/").content
        names = set(re.findall(rb'(?:src|href)="(/static/[^"#]+)', page))
        parts = {"/": page} | {name.decode(): client.get(urljoin(address, name.decode())).content for name in names}
    own = {name.partition("?")[0]: data for name, data in parts.items() if "plotly.min.js" not in name}
    return {
        "files": {name: len(data) for name, data in sorted(own.items())},
        "bytes": sum(len(data) for data in own.values()),
        "packed_bytes": sum(len(gzip.compress(data, 6)) for data in own.values()),
    }


# --- live -------------------------------------------------------------------------------------------------------------


def seen(folder: Path) -> list[float] | None:
    """Return how long each new incident takes to show on an open page, in seconds; None where there is no Chromium."""
    program = shutil.which("chromium")
    if program is None:
        return None
    from playwright.sync_api import sync_playwright

    log, model = folder / "seen.log", folder / "seen.idea"
    detector = make_detector()
    with_thresholds(detector, site_thresholds(detector)).save(model)
    kind = simulate_flows(n_flows=2000, seed=2).filter(pl.col("label") == "brute_force").to_dicts()
    log.write_text(next(zeek_text([])))
    options = ("--model", str(model), "--source", f"zeek:{log}", "--follow", "--flow-alerts")
    waits = []
    with served(f"sqlite:///{folder}/seen.db", *options) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(base_url=address)
        for number in range(SEEN):
            page.goto("/incidents")
            page.wait_for_timeout(1000)  # for the stream to open
            began = time.time()
            _write_attack(log, kind, number)
            page.wait_for_selector("#arrived:not([hidden])")
            waits.append(round(time.time() - began, 3))
        browser.close()
    return waits


def _write_attack(log: Path, kind: list[dict[str, Any]], number: int) -> None:
    """Write flows of a host that was not heard of before, which end now."""
    with log.open("a") as file:
        for n, flow in enumerate(kind):
            own = {"id.orig_h": f"192.0.2.{number + 1}", "ts": time.time(), "duration": 0.5}
            fields = zeek_fields(n, flow) | own
            file.write("\t".join(str(fields.get(name, "-")) for name in FIELDS.split()) + "\n")


def live(folder: Path, n_browsers: int, rate: int, seconds: float) -> dict[str, Any]:
    """Return the latency of alerts in streams of events, and how many each stream missed."""
    detector, log, model = make_detector(), folder / "conn.log", folder / "site.idea"
    with_thresholds(detector, site_thresholds(detector)).save(model)
    lines = zeek_text(site_flows(50_000))
    log.write_text(next(lines))
    store = f"sqlite:///{folder}/live.db"
    with served(store, "--model", str(model), "--source", f"zeek:{log}", "--follow", "--flow-alerts") as address:
        writer = threading.Thread(target=_write, args=(log, itertools.cycle(list(lines)), rate, seconds))
        heard = asyncio.run(_listen(address, n_browsers, writer, seconds))
    with open_store(store) as opened, opened.read() as connection:
        rows = connection.exec_driver_sql("SELECT time_us FROM alerts WHERE seq > 0 ORDER BY seq").fetchall()
        [counters] = connection.exec_driver_sql("SELECT n_flows FROM sources").fetchall()
    ended = np.array([row[0] for row in rows]) / 1e6
    latencies = np.concatenate([_latencies(events, ended) for events in heard])
    counts = [sum(n for _, n in events) for events in heard]
    quantiles = {f"p{share:g}_s": round(float(np.quantile(latencies, share / 100)), 3) for share in (50, 95, 99, 100)}
    measured = {"browsers": n_browsers, "flows": int(counters[0]), "flows_per_second": rate, "alerts": len(ended)}
    return {**measured, "most_missed": max(len(ended) - count for count in counts), **quantiles}


def _write(log: Path, lines: Iterator[str], rate: int, seconds: float) -> None:
    time.sleep(2)  # for the streams to open
    write_steadily(log, lines, rate, seconds)


async def _listen(
    address: str, n_browsers: int, writer: threading.Thread, seconds: float
) -> list[list[tuple[float, int]]]:
    """Return what each stream heard: when, and of how many alerts."""
    limits = httpx.Limits(max_connections=n_browsers + 1)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=None) as client:
        heard: list[list[tuple[float, int]]] = [[] for _ in range(n_browsers)]
        tasks = [asyncio.create_task(_hear(client, events)) for events in heard]
        writer.start()
        await asyncio.sleep(seconds + 7)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for fault in ended:
            if isinstance(fault, Exception):
                raise fault
    return heard


async def _hear(client: httpx.AsyncClient, events: list[tuple[float, int]]) -> None:
    async with client.stream("GET", "/api/v1/events") as answer:
        answer.raise_for_status()
        kind = ""
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: ") and kind in ("alerts", "reset"):
                if kind == "reset" and "one by one" not in line:  # that one says: more than fits a list has changed
                    raise RuntimeError(f"a stream fell behind: {line}")
                if kind == "reset":
                    continue
                events.append((time.time(), int(json.loads(line.removeprefix("data: "))["total"])))


def _latencies(events: list[tuple[float, int]], ended: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the time from the end of its flow for each alert that a stream received; they come in order."""
    arrived = np.repeat([when for when, _ in events], [n for _, n in events])
    return np.asarray(arrived - ended[: len(arrived)])


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--alerts", type=int, default=1_000_000)
    parser.add_argument("--incidents", type=int, default=10_000)
    parser.add_argument("--browsers", type=int, default=100)
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/filled.db"
        fill_store(store, n_alerts=given.alerts, n_incidents=given.incidents)
        with served(store) as address:
            pages, weighed = page_times(address, store), weight(address)
        waits = seen(Path(folder))
        measured = live(Path(folder), given.browsers, given.rate, given.seconds)
    result = {"alerts": given.alerts, "incidents": given.incidents, "pages": pages, "weight": weighed, "live": measured}
    result["seen_s"] = waits
    write_result(RESULTS / "page_speed.json", result)
    print(pl.DataFrame([{"page": name, **times} for name, times in pages.items()]))
    print(weighed, waits, measured)


if __name__ == "__main__":
    main()
