"""How long `deepidea --help` and `import deepidea` take, each as a fresh process, median of several.

Usage: python -m benchmarks.startup [--runs 15]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.result_files import RESULTS, write_result

PROGRAM = Path(sys.executable).with_name("deepidea")
COMMANDS = {
    "deepidea --help": [str(PROGRAM), "--help"],
    "python -c 'import deepidea'": [sys.executable, "-c", "import deepidea"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def seconds(command: list[str], runs: int) -> float:
    """Return the median wall time of a command."""
    times_s = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times_s.append(time.perf_counter() - started)
    return round(float(np.median(times_s[1:])), 4)


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    figures = {name: seconds(command, options.runs) for name, command in COMMANDS.items()}
    write_result(RESULTS / "startup.json", {"median_seconds": figures})
    print(figures)


if __name__ == "__main__":
    main()
