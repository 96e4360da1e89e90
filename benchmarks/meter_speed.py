"""Packets a second: a capture in, every flow with all its features out, on one core, beside NFStream in the same run.

The capture is the simulator's, or one that is given. The rate is that of reading, dissecting, metering and making the
table of features; compilation, which happens once on a machine, is not counted. NFStream gets its statistics and no
deep inspection, one meter. It is no dependency: where no interpreter that has it is given, its row is absent.

Usage: python -m benchmarks.meter_speed [--capture FILE] [--minutes 10] [--runs 5] [--nfstream PYTHON]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.result_files import RESULTS, write_result
from deepidea.packets.meter import FlowMeter, meter_capture
from deepidea.simulation.simulate import simulate_capture

_NFSTREAM = """
import sys, time
from nfstream import NFStreamer
if __name__ == "__main__":
    began = time.perf_counter()
    n_packets = n_flows = 0
    for flow in NFStreamer(source=sys.argv[1], statistical_analysis=True, n_dissections=0, n_meters=1):
        n_packets += flow.bidirectional_packets
        n_flows += 1
    print(n_packets, n_flows, time.perf_counter() - began)
"""


def meter_once(capture: Path) -> tuple[int, int, float]:
    """Return packets, flows and seconds of one run over a capture."""
    meter, n_flows, began = FlowMeter(), 0, time.perf_counter()
    for flows in meter_capture(capture, meter):
        n_flows += flows.height
    return meter.counters["metered"], n_flows, time.perf_counter() - began


def first_run(capture: Path) -> float:
    """Return the seconds of the first run of a new machine, which has nothing compiled."""
    code = "import sys; from pathlib import Path; from benchmarks.meter_speed import meter_once as m; "
    code += "print(m(Path(sys.argv[1]))[2])"
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        command = [sys.executable, "-c", code, str(capture)]
        return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def nfstream_once(python: str, capture: Path) -> tuple[int, int, float]:
    """Return the same of NFStream, run by an interpreter that has it."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "peer.py"
        script.write_text(_NFSTREAM)
        output = subprocess.run([python, script, capture], capture_output=True, text=True, check=True).stdout
    packets, flows, seconds = output.splitlines()[-1].split()  # it warns of what it does not support before
    return int(packets), int(flows), float(seconds)


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capture", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--nfstream", help="interpreter of an environment that has NFStream")
    options = parser.parse_args()
    os.sched_setaffinity(0, {0})  # one core, for whatever is started too
    with tempfile.TemporaryDirectory() as folder:
        capture = options.capture or Path(folder) / "lab.pcap"
        if options.capture is None:
            simulate_capture(capture, Path(folder) / "lab.csv", seed=7, minutes=options.minutes)
        compiled = first_run(capture)
        meter_once(capture)
        ours, theirs = [], []
        for _ in range(options.runs):
            ours.append(meter_once(capture))
            if options.nfstream:
                theirs.append(nfstream_once(options.nfstream, capture))
        size = capture.stat().st_size
    figures = {"capture_bytes": size, "packets": ours[0][0], "flows": ours[0][1], "first_run_s": round(compiled, 2)}
    rates = [round(packets / seconds) for packets, _, seconds in ours]
    figures |= {"packets_per_second": rates, "median_packets_per_second": float(np.median(rates))}
    if theirs:
        peer = [round(packets / seconds) for packets, _, seconds in theirs]
        ratio = round(float(np.median(rates) / np.median(peer)), 1)
        figures["nfstream"] = {"flows": theirs[0][1], "packets_per_second": peer, "times_faster": ratio}
    write_result(RESULTS / "meter_speed.json", figures)
    print(figures)


if __name__ == "__main__":
    main()
