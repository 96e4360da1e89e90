"""Records of detector files in a store, and the audit that they pass."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from deepidea.model.detector import Detector

MOST_BYTES = 256 << 20
"""Of a detector file that a store takes: it is held in memory whole, by the database too."""
_ID_DIGITS = 16

HowActivated = Literal["activated", "forced", "rolled_back"]


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A detector file that a store keeps, without its bytes.

    Attributes
    ----------
    model_id : str
        Beginning of the file's SHA-256.
    model : str
        Fingerprint of the detector, by which alerts name it; files that differ in thresholds alone share it.
    name, added, added_by
        Given when it was added.
    n_bytes : int
    comparison : dict, optional
        The latest with an active one: ``old_id`` and ``new_id``, and what
        :meth:`deepidea.evaluation.model_comparison.ModelComparison.to_dict` tells.
    active : bool
    """

    model_id: str
    model: str
    name: str
    added: datetime
    added_by: str
    n_bytes: int
    comparison: Mapping[str, Any] | None
    active: bool


@dataclass(frozen=True, slots=True)
class Activation:
    """A line of the history: a model was made the active one, against a bad comparison if forced, or gone back to."""

    activation_id: int
    model_id: str
    kind: HowActivated
    analyst: str
    note: str
    time: datetime


def model_id_of(data: bytes) -> str:
    """Return the id of a detector file: the beginning of its SHA-256."""
    return hashlib.sha256(data).hexdigest()[:_ID_DIGITS]


def open_detector(data: bytes, *, n_threads: int | None = None) -> Detector:
    """Return the detector of a file's bytes, after the same audit as any file's.

    Raises
    ------
    ArtifactError
        They are no detector file, or one that was damaged or changed.
    """
    with tempfile.TemporaryDirectory(prefix="deepidea-model-") as folder:
        path = Path(folder) / "model.idea"
        path.write_bytes(data)
        return Detector.load(path, n_threads=n_threads)
