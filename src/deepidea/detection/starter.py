"""The detector that the package ships with, so that flows can be watched before anyone trains."""

from __future__ import annotations

from importlib import resources

from deepidea.errors import ArtifactError
from deepidea.model.detector import Detector

__all__ = ["STARTER_FILE", "load_starter"]

STARTER_FILE = "starter.idea"
"""Name of its file in this package: made by `make starter` from simulated traffic (benchmarks/starter.py)."""


def load_starter() -> Detector:
    """Return the starter detector, of schema ``conn``: packets, Zeek, Suricata and NetFlow can be scored by it.

    Raises
    ------
    ArtifactError
        This installation lacks its file.
    """
    with resources.as_file(resources.files("deepidea.detection") / STARTER_FILE) as path:
        if not path.exists():
            raise ArtifactError(
                f"this installation has no starter detector ({STARTER_FILE}); name a detector with --model"
            )
        return Detector.load(path)
