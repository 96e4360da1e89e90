"""A checkpoint of training after each epoch, so that an interrupted training resumes from it.

The file is safetensors: weights, moments of the optimiser, and as metadata a digest of the training and its progress.
Dropout masks start anew with the epoch, so a resumed run equals an uninterrupted one to the bit only without dropout.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from deepidea.errors import ArtifactError, DataError
from deepidea.flows.atomic import replacing
from deepidea.model.batches import RowsInMemory, TrainingRows  # noqa: F401  # the first in an example

_KIND = "deepidea checkpoint 1"


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """State of a training at the end of an epoch.

    Parameters
    ----------
    epochs : list of dict
        The results of each epoch so far.
    rng : dict
        State of the generator that draws batches.
    tensors : dict of Tensor
        Weights and moments, by name.
    """

    epochs: list[dict[str, Any]]
    rng: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The checkpoint file of a training.

    Parameters
    ----------
    path : Path
    training : str
        Identifies the training: :func:`training_digest`.
    """

    path: Path
    training: str

    def save(self, state: CheckpointState) -> None:
        """Write the state, whole or not at all."""
        about = {"kind": _KIND, "training": self.training, "epochs": state.epochs, "rng": state.rng}
        with replacing(self.path) as partial:
            partial.write_bytes(save(state.tensors, {"deepidea": json.dumps(about)}))

    def load(self) -> CheckpointState | None:
        """Return the state, None where there is no file yet.

        Raises
        ------
        ArtifactError
            The file is no checkpoint, or damaged.
        DataError
            It belongs to another training.
        """
        if not self.path.exists():
            return None
        about, tensors = self._read()
        if about.get("training") != self.training:
            raise DataError(
                f"checkpoint {self.path} belongs to a training with other data, parameters or seed; remove it, or name "
                "another file"
            )
        return CheckpointState(about["epochs"], about["rng"], tensors)

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            with safe_open(self.path, "pt") as file:
                about = json.loads((file.metadata() or {}).get("deepidea", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        except (SafetensorError, OSError, ValueError) as error:
            raise ArtifactError(f"cannot read checkpoint {self.path}: {error}; remove it to train anew") from error
        if about.get("kind") != _KIND:
            raise ArtifactError(f"cannot read checkpoint {self.path}: it is no training checkpoint; remove it")
        return about, tensors


def training_digest(rows: TrainingRows, parameters: Sequence[object]) -> str:
    """Return a hash of a training's rows and parameters.

    Examples
    --------
    >>> rows = RowsInMemory(np.zeros((2, 1), np.float32), np.array([0, 1]), np.ones(2))
    >>> training_digest(rows, [1]) == training_digest(rows, [2])
    False
    """
    # The rows themselves, not their file: another taxonomy or encoder makes other rows of one file.
    digest = hashlib.sha256(repr(tuple(parameters)).encode())
    for x, target in rows.arrays():
        digest.update(np.ascontiguousarray(x).data)
        digest.update(np.ascontiguousarray(target).data)
    return digest.hexdigest()
