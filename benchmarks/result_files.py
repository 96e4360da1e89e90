"""Where results are kept, and what every result file says of the run beside its figures."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_TOLD = ("deepidea", "numpy", "onnxruntime", "polars", "scikit-learn", "torch")


def write_result(path: Path, figures: dict[str, Any]) -> None:
    """Write a result file: the figures, and the machine and versions they were measured with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**figures, "run": about_this_run()}, indent=1) + "\n")


def read_result(name: str) -> dict[str, Any]:
    """Return a result file by its path under ``results``, without the suffix."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def about_this_run() -> dict[str, Any]:
    """Return date, processor, cores and versions."""
    return {
        "date": dt.date.today().isoformat(),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in _TOLD},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()
