"""Date, machine and versions of a measurement, kept beside its figures."""

from __future__ import annotations

import datetime as dt
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("deepidea", "numpy", "onnxruntime", "polars", "scikit-learn", "torch")


def about_this_run() -> dict[str, Any]:
    """Return date, processor, cores and the versions of what is installed, as JSON values.

    Examples
    --------
    >>> sorted(about_this_run())
    ['cores', 'date', 'processor', 'python', 'versions']
    """
    return {
        "date": dt.date.today().isoformat(),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()
