"""Where results are kept, and what every result file says of the run beside its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deepidea.benchmark.provenance import about_this_run

RESULTS = Path(__file__).parent / "results"


def write_result(path: Path, figures: dict[str, Any]) -> None:
    """Write a result file: the figures, and the machine and versions they were measured with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**figures, "run": about_this_run()}, indent=1) + "\n")


def read_result(name: str) -> dict[str, Any]:
    """Return a result file by its path under ``results``, without the suffix."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found
