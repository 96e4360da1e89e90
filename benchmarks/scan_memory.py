"""A scan of a million ports and hosts: peak memory of ``deepidea detect``, and what its incidents come to.

One host sends a SYN to each of so many pairs of host and port, as fast as a fast scanner; nobody answers, so that every
one of them is a flow under way until its time-out, which is what fills a table of flows. The detector is trained on
simulated traffic.

Usage: python -m benchmarks.scan_memory [--targets 1000000] [--rate 20000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.result_files import RESULTS, write_result
from deepidea.flows.context import add_context
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.schema import get_schema
from deepidea.model.presets import train_detector
from deepidea.packets.meter import meter_capture
from deepidea.simulation.ground_truth import LabelJoin, label_flows, read_labels
from deepidea.simulation.simulate import simulate_capture
from deepidea.store import incidents, sources
from deepidea.store.store import open_store

SCANNER = (203, 0, 113, 9)
_HEADER = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")


def write_scan(path: Path, n_targets: int, rate: int) -> None:
    """Write a capture of one SYN to each of a thousand ports of hosts in 10.0.0.0/8; checksums are left out."""
    frame = np.zeros(60, np.uint8)
    frame[12:14] = (8, 0)
    frame[14:34] = (0x45, 0, 0, 44, 0, 1, 0x40, 0, 55, 6, 0, 0, *SCANNER, 10, 0, 0, 0)
    frame[34:58] = (0xA0, 0, 0, 0, *(0,) * 8, 0x60, 2, 4, 0, 0, 0, 0, 0, 2, 4, 5, 0xB4)
    n = np.arange(n_targets)
    records = np.zeros((n_targets, 76), np.uint8)
    records[:, 16:] = frame
    times = n * 1_000_000 // rate
    heads = np.stack([1_780_000_000 + times // 1_000_000, times % 1_000_000, n * 0 + 60, n * 0 + 60], axis=1)
    records[:, :16] = heads.astype("<u4").view(np.uint8)
    hosts, ports = n // 1000, 1 + n % 1000
    records[:, 16 + 31], records[:, 16 + 32], records[:, 16 + 33] = hosts >> 16, hosts >> 8 & 255, hosts & 255
    records[:, 16 + 36], records[:, 16 + 37] = ports >> 8, ports & 255
    path.write_bytes(_HEADER + records.tobytes())


def train(folder: Path) -> None:
    """Write a detector that knows scans, from simulated traffic."""
    capture, labels = folder / "lab.pcap", folder / "lab.csv"
    simulate_capture(capture, labels, seed=7, minutes=5)
    flows = label_flows(pl.concat(meter_capture(capture)), read_labels(labels), join=LabelJoin())
    flows = add_context(flows.drop_nulls("label")).drop("label")
    schema = get_schema("cicflow+context").restrict(flows.columns)
    labelled, _ = labelled_flows_from_table(flows, "class", "benign", schema=schema)
    train_detector(labelled, random_state=0).save(folder / "lab.idea")


def detect(folder: Path) -> tuple[float, float]:
    """Return peak memory in MiB and seconds of a whole ``deepidea detect`` process."""
    script = (
        "import sys; from deepidea.cli.app import main; sys.argv[0] = 'deepidea'\n"
        "try: main()\n"
        "finally: sys.stderr.write('\\npeak ' + open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    given = ["detect", str(folder / "scan.pcap"), "-m", str(folder / "lab.idea"), "--store", f"sqlite:///{folder}/a.db"]
    began = time.perf_counter()
    stderr = subprocess.run([sys.executable, "-c", script, *given], capture_output=True, text=True, check=True).stderr
    return int(stderr.rsplit("peak ", 1)[1]) / 1024, time.perf_counter() - began


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=20_000, help="SYNs a second of the capture's own time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(folder)
        write_scan(folder / "scan.pcap", options.targets, options.rate)
        peak, seconds = detect(folder)
        with open_store(f"sqlite:///{folder}/a.db") as store:
            found = store.query(incidents.find, limit=1000).items
            [source] = store.query(sources.counters)
    figures: dict[str, Any] = {
        "targets": options.targets,
        "peak_memory_mib": round(peak, 1),
        "seconds": round(seconds, 1),
    }
    figures |= {"flows": source.n_flows, "alerts": source.n_alerts, "evicted": source.dropped.get("flow evicted", 0)}
    names = {"class": "class_name", **{name: name for name in ("host", "n_alerts", "n_ports", "n_hosts")}}
    stderr = [{key: getattr(one, name) for key, name in names.items()} for one in found]
    figures |= {"incidents": len(found), "of": stderr[:10]}
    write_result(RESULTS / "scan_memory.json", figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
