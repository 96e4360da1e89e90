"""How fast records of sensors become flows: lines per second of Zeek's two formats and of EVE, on one core.

The lines are made from simulated flows, with every field that the tools write by default. Among EVE's events, seven in
ten are no flows, as in a network where DNS, TLS and HTTP are logged as well; another figure is of flow events alone.
Rate: lines of a file over the time in which its source gives every batch, reading and parsing included, median of
several runs. Beside it stands the rate by processor time, which is what an idle core would do where other programs
run on the machine at the same time.

Usage: python -m benchmarks.sensor_speed [--lines 200000] [--runs 5]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.result_files import RESULTS, write_result
from deepidea.detection.sources.registry import open_source
from deepidea.flows.simulate import simulate_flows

Flow = dict[str, Any]
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
FIELDS = "ts uid id.orig_h id.orig_p id.resp_h id.resp_p proto service duration orig_bytes resp_bytes conn_state"
FIELDS += " local_orig local_resp missed_bytes history orig_pkts orig_ip_bytes resp_pkts resp_ip_bytes tunnel_parents"


def zeek_fields(n: int, flow: Flow) -> Flow:
    """Return a flow as the fields of conn.log, those that are not set left out."""
    values = {
        "ts": BEGINNING.timestamp() + n / 100,
        "uid": f"C{n:017d}",
        "id.orig_h": f"10.1.{n // 250 % 250}.{n % 250}",
        "id.orig_p": 1024 + n % 60_000,
        "id.resp_h": f"198.51.100.{n % 199}",
        "id.resp_p": flow["dst_port"],
        "proto": flow["protocol"],
        "service": flow["service"],
        "duration": round(flow["duration_s"], 6) or None,
        "orig_bytes": flow["fwd_bytes"] // 2,
        "resp_bytes": flow["bwd_bytes"] // 2,
        "conn_state": flow["state"],
        "local_orig": "T",
        "local_resp": "F",
        "missed_bytes": 0,
        "history": "ShADadFf",
        "orig_pkts": flow["fwd_packets"],
        "orig_ip_bytes": flow["fwd_bytes"],
        "resp_pkts": flow["bwd_packets"],
        "resp_ip_bytes": flow["bwd_bytes"],
    }
    return {name: value for name, value in values.items() if value is not None}


def zeek_text(flows: list[Flow]) -> Iterator[str]:
    fields = FIELDS.split()
    yield "#separator \\x09\n#unset_field\t-\n#path\tconn\n#fields\t" + "\t".join(fields) + "\n"
    for n, flow in enumerate(flows):
        values = zeek_fields(n, flow)
        yield "\t".join(str(values.get(field, "-")) for field in fields) + "\n"


def zeek_json(flows: list[Flow]) -> Iterator[str]:
    for n, flow in enumerate(flows):
        yield json.dumps(zeek_fields(n, flow), separators=(",", ":")) + "\n"


def _eve(n: int, of: Flow, kind: str, **more: Any) -> str:
    event = {
        "timestamp": f"{BEGINNING + timedelta(seconds=n / 100):%Y-%m-%dT%H:%M:%S.%f%z}",
        "flow_id": 1_000_000_000_000_000 + n,
        "in_iface": "eth0",
        "event_type": kind,
        "src_ip": f"10.1.{n // 250 % 250}.{n % 250}",
        "src_port": 1024 + n % 60_000,
        "dest_ip": f"198.51.100.{n % 199}",
        "dest_port": of["dst_port"],
        "proto": of["protocol"].upper(),
    }
    return json.dumps(event | more, separators=(",", ":")) + "\n"


def _eve_flow(n: int, flow: Flow) -> str:
    start = BEGINNING + timedelta(seconds=n / 100)
    values = {
        "pkts_toserver": flow["fwd_packets"],
        "pkts_toclient": flow["bwd_packets"],
        "bytes_toserver": flow["fwd_bytes"],
        "bytes_toclient": flow["bwd_bytes"],
        "start": f"{start:%Y-%m-%dT%H:%M:%S.%f%z}",
        "end": f"{start + timedelta(seconds=flow['duration_s']):%Y-%m-%dT%H:%M:%S.%f%z}",
        "age": int(flow["duration_s"]),
        "state": "closed",
        "reason": "timeout",
        "alerted": False,
    }
    flags = {"tcp_flags": "1b", "tcp_flags_ts": "1b", "tcp_flags_tc": "1b", "syn": True, "fin": True, "psh": True}
    more = {"tcp": flags} if flow["protocol"] == "tcp" else {}
    return _eve(n, flow, "flow", app_proto=flow["service"] or "failed", flow=values, **more)


def eve_flows(flows: list[Flow]) -> Iterator[str]:
    yield from (_eve_flow(n, flow) for n, flow in enumerate(flows))


def eve_mixed(flows: list[Flow]) -> Iterator[str]:
    query = {"version": 3, "type": "request", "tx_id": 0, "id": 4711, "queries": [{"rrname": "example", "rrtype": "A"}]}
    for n, flow in enumerate(flows):
        yield _eve_flow(n, flow) if n % 10 < 3 else _eve(n, flow, "dns", pcap_cnt=n, dns=query)


FORMATS: dict[str, tuple[str, Callable[[list[Flow]], Iterator[str]]]] = {
    "zeek_text": ("zeek", zeek_text),
    "zeek_json": ("zeek", zeek_json),
    "eve_flows": ("eve", eve_flows),
    "eve_mixed": ("eve", eve_mixed),
}


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep every thread of this process on one core, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    allowed = os.sched_getaffinity(0)
    for thread in threads:
        os.sched_setaffinity(thread, [max(allowed)])
    try:
        yield
    finally:
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setaffinity(thread, allowed)


def rates(address: str, lines: int, runs: int) -> tuple[list[float], list[float]]:
    """Return lines per second and per second of processor time of each run, after one that does not count."""
    by_time, by_processor = list[float](), list[float]()
    for _ in range(runs + 1):
        started, busy = time.perf_counter(), time.process_time()
        for batch in open_source(address).batches(None, threading.Event()):
            assert not batch.skipped
        by_time.append(round(lines / (time.perf_counter() - started)))
        by_processor.append(round(lines / (time.process_time() - busy)))
    return by_time[1:], by_processor[1:]


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    flows = simulate_flows(n_flows=options.lines).to_dicts()
    figures: dict[str, Any] = {"lines": options.lines, "cores": 1}
    with tempfile.TemporaryDirectory() as folder, one_core():
        for name, (kind, lines_of) in FORMATS.items():
            path = Path(folder) / name
            path.write_text("".join(lines_of(flows)))
            measured, by_processor = rates(f"{kind}:{path}", options.lines, options.runs)
            medians = {
                "median_lines_per_second": float(np.median(measured)),
                "median_lines_per_processor_second": float(np.median(by_processor)),
            }
            figures[name] = {"lines_per_second": measured, **medians, "bytes": path.stat().st_size}
            print(name, medians)
    write_result(RESULTS / "sensor_speed.json", figures)


if __name__ == "__main__":
    main()
