"""A training kept on disk after each epoch, so that one that was cut off goes on from there.

The file is safetensors: weights, moments of the optimiser, and as text what training it is of and where it stood.
Dropout masks begin anew with the epoch, so a run that went on is as good as one that was not cut off, not the same to
the bit; without dropout it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from deepidea.errors import ArtifactError, DataError
from deepidea.flows.atomic import replacing
from deepidea.model.batches import RowsInMemory, TrainingRows  # noqa: F401  # the first in an example

_KIND = "deepidea checkpoint 1"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a training stood when an epoch ended.

    Parameters
    ----------
    epochs : list of dict
        What each epoch so far came to.
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
    """The file of a training.

    Parameters
    ----------
    path : Path
    training : str
        What tells the training from others: :func:`name_training`.
    """

    path: Path
    training: str

    def keep(self, standing: Standing) -> None:
        """Write where the training stands, whole or not at all."""
        about = {"kind": _KIND, "training": self.training, "epochs": standing.epochs, "rng": standing.rng}
        data = save(standing.tensors, {"deepidea": json.dumps(about)})
        with replacing(self.path) as partial:
            partial.write_bytes(data)

    def standing(self) -> Standing | None:
        """Return where the training stood, None where it has not begun.

        Raises
        ------
        ArtifactError
            The file is no checkpoint, or damaged.
        DataError
            It is one of another training.
        """
        if not self.path.exists():
            return None
        about, tensors = self._read()
        if about.get("training") != self.training:
            raise DataError(
                "a checkpoint must be of the same data, parameters and seed, however: "
                f"{self.path} is of another training; remove it, or name another"
            )
        return Standing(about["epochs"], about["rng"], tensors)

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            with safe_open(self.path, "pt") as file:
                about = json.loads((file.metadata() or {}).get("deepidea", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        except (SafetensorError, OSError, ValueError) as error:
            raise ArtifactError(f"a checkpoint must be whole, however: {self.path}: {error}; remove it") from error
        if about.get("kind") != _KIND:
            raise ArtifactError(f"a checkpoint must be one of training, however: {self.path} is none; remove it")
        return about, tensors


def name_training(rows: TrainingRows, parameters: Sequence[object]) -> str:
    """Return what tells a training from others: a hash of its rows and parameters.

    Examples
    --------
    >>> rows = RowsInMemory(np.zeros((2, 1), np.float32), np.array([0, 1]), np.ones(2))
    >>> name_training(rows, [1]) == name_training(rows, [2])
    False
    """
    told = hashlib.sha256(repr(tuple(parameters)).encode())
    for x, target in rows.arrays():
        told.update(np.ascontiguousarray(x).data)
        told.update(np.ascontiguousarray(target).data)
    return told.hexdigest()


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that training will not change, each with memory of its own."""
    return {name: value.detach().clone().contiguous().to(torch.device("cpu")) for name, value in tensors.items()}
