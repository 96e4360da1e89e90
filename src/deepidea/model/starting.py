"""What continued training begins with: encoder, outputs and weights of a detector that is trained already."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from deepidea.errors import ArtifactError
from deepidea.flows.taxonomy import BENIGN
from deepidea.model.detector import Detector
from deepidea.model.features import FlowEncoder
from deepidea.model.losses import LOSSES, LossName

_WEIGHT = re.compile(r"layers\.(\d{1,3})\.weight")


@dataclass(frozen=True, slots=True)
class Start:
    """A detector as training takes it up again.

    Parameters
    ----------
    encoder, classes, labels, class_of, fingerprints
        The detector's own.
    hidden
        Units of each hidden layer.
    offset
        What its loss added to the logits at the end, float64 ``(n_outputs,)``: training goes on without it.
    weights
        By their torch names.
    """

    encoder: FlowEncoder
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    class_of: tuple[int, ...]
    fingerprints: NDArray[np.uint64]
    hidden: tuple[int, ...]
    offset: NDArray[np.float64]
    weights: dict[str, Tensor] = field(repr=False)

    @classmethod
    def of(cls, detector: Detector, loss: LossName) -> Start:
        """Return what to go on from.

        Parameters
        ----------
        detector : Detector
        loss : str
            What it was trained with.

        Raises
        ------
        ArtifactError
            It lacks its weights or the fingerprints of its training rows, or its weights fit nothing.
        """
        weights, prints = detector.weights, detector.training_fingerprints
        for name, member in (("weights.safetensors", weights), ("training_rows.u64", prints)):
            if member is None:
                raise ArtifactError(
                    f"a detector to go on from must hold {name}, however: it does not; train anew, without --continue"
                )
        assert weights is not None  # for the type checker: checked above
        assert prints is not None
        if detector.classes != (BENIGN, *sorted(set(detector.classes[1:]))):
            raise ArtifactError(
                f"a detector to go on from must hold {BENIGN} and its attacks in order, however: {detector.classes}"
            )
        read = _read_weights(weights)
        decision = detector.decision
        return cls(
            encoder=detector.encoder,
            classes=detector.classes,
            labels=detector.labels,
            class_of=decision.class_of,
            fingerprints=prints,
            hidden=_hidden(read),
            # every loss with an offset follows the prior, up to a factor that shares do without
            offset=LOSSES[loss].offset(np.array(decision.prior)),
            weights=read,
        )

    def load_into(self, network: nn.Module) -> None:
        """Put the weights into a network; :class:`ArtifactError` where they are of another."""
        try:
            network.load_state_dict(self.weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ArtifactError(f"weights.safetensors must fit encoder and outputs, however: {reason}") from error


def _read_weights(data: bytes) -> dict[str, Tensor]:
    try:
        weights: dict[str, Any] = load(data)
    except (SafetensorError, ValueError) as error:
        raise ArtifactError(f"weights.safetensors must be whole, however: {error}; get a fresh copy") from error
    odd = [name for name, values in weights.items() if values.dtype != torch.float32 or not values.isfinite().all()]
    if odd:
        raise ArtifactError(f"weights must be finite float32 numbers, however: {', '.join(odd[:5])} are not")
    return weights


def _hidden(weights: dict[str, Tensor]) -> tuple[int, ...]:
    layers = sorted((int(match[1]), len(weights[name])) for name in weights if (match := _WEIGHT.fullmatch(name)))
    return tuple(width for _, width in layers[:-1])
