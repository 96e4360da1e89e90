"""How long the whole suite takes, as `make test` runs it, and which tests take longest.

Usage: python -m benchmarks.suite_time
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

from benchmarks.result_files import RESULTS, write_result

_SLOWEST = re.compile(r"^(\d+\.\d+)s (call|setup|teardown)\s+(\S+)", re.MULTILINE)
_ENDED = re.compile(r"(\d+) (passed|failed|skipped|errors?)")


def main() -> int:
    """Run the suite, write its seconds and counts, and return the exit code of pytest."""
    line = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal", "--durations", "20"]
    began = time.monotonic()
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.monotonic() - began
    print(done.stdout)
    counts = {what.rstrip("s"): int(n) for n, what in _ENDED.findall(done.stdout.splitlines()[-1])}
    slowest = {f"{test} ({step})": float(s) for s, step, test in _SLOWEST.findall(done.stdout)}
    figures = {"seconds": round(seconds), "cores": os.cpu_count(), "tests": counts, "slowest": slowest}
    write_result(RESULTS / "suite_time.json", figures)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
