"""What an analyst sees of the starter detector on captures and logs that no training saw: incidents, right and false.

Attacks are the captures and Zeek logs of the data folder, benign traffic is the folder of field captures as one source,
and the edge day is a day of one host on the open Internet. Nothing is calibrated.

Usage: python -m benchmarks.field_captures (needs $DEEPIDEA_DATA)
"""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from benchmarks.result_files import RESULTS, write_result
from deepidea.detection.runner import DetectionConfig, run_detection
from deepidea.store import incidents
from deepidea.store.store import open_store

_C2 = {"botnet", "infiltration", "c2"}
_THEFT = {"exfiltration", "tunnel", "botnet", "c2"}
_SCAN = {"port_scan", "probe", "scan"}
RIGHT: dict[str, set[str]] = {  # beginning of a file's name -> classes that are right; none is benign
    "synscan": _SCAN, "tcp_scan": _SCAN, "port-scan": _SCAN, "ssh-bruteforce": {"brute_force"},
    "WebattackSQLinj": {"web_attack"}, "xss": {"web_attack"}, "ipv6-dos": {"dos", "ddos"}, "dns_exfiltration": _THEFT,
    "icmp-tunnel": _THEFT, "emotet": _C2, "test-cc-capture": _C2, "labeled": _C2, "ftp": set(), "ssh.": set(),
    "mixed": set(),
}  # fmt: skip


def main() -> None:
    """Detect on every capture, log and folder, and write the incidents."""
    data = Path(os.environ["DEEPIDEA_DATA"])
    cells = [_cell(path) for folder in ("pcap", "zeek") for path in sorted((data / folder).iterdir())]
    attacks = [cell for cell in cells if cell["attack"]]
    found, ordinary = sum(cell["right"] for cell in attacks), [cell for cell in cells if not cell["attack"]]
    benign, edge = detect(data / "field" / "benign-captures"), detect(data / "field" / "edge-day")
    figures = {
        "cells": cells,
        "found": found,
        "attacks": len(attacks),
        "ordinary_without_incident": sum(cell["right"] for cell in ordinary),
        "ordinary": len(ordinary),
        "benign": benign,
        "false_per_1000_flows": 1000 * benign["incidents"] / benign["flows"],
        "edge_day": edge,
    }
    print(f"{found} of {len(attacks)} found; benign: {benign}; edge day: {edge}")
    write_result(RESULTS / "field_captures.json", figures)


def _cell(path: Path) -> dict[str, Any]:
    right = next(classes for name, classes in RIGHT.items() if path.name.startswith(name))
    seen = detect(path)
    good = bool(set(seen["classes"]) & right) if right else not seen["incidents"]
    print(path.name, seen, "right" if good else "--", flush=True)
    return {"name": path.name, "attack": bool(right), "right": good, **seen}


def detect(path: Path) -> dict[str, Any]:
    """Return flows, incidents, critical ones, and their classes."""
    with tempfile.TemporaryDirectory() as folder:
        config = DetectionConfig(str(path), store=f"sqlite:///{folder}/a.db")
        progress = run_detection(config, threading.Event()).progress
        with open_store(config.store) as store:
            found = store.query(incidents.find, limit=100_000).items
    critical = sum(one.severity == 1 for one in found)
    classes = sorted({one.class_name for one in found})
    return {"flows": progress.n_flows, "incidents": len(found), "critical": critical, "classes": classes}


if __name__ == "__main__":
    main()
