"""What continued training starts from: encoder, outputs and weights of a trained detector."""

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
class WarmStart:
    """A trained detector as the start of further training.

    Parameters
    ----------
    encoder, classes, labels, class_of, fingerprints
        The detector's own.
    hidden
        Units of each hidden layer.
    offset
        What its loss added to the logits after training, float64 ``(n_outputs,)``; taken off before training continues.
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
    def of(cls, detector: Detector, loss: LossName) -> WarmStart:
        """Return the start for a detector that was trained with ``loss``.

        Raises
        ------
        ArtifactError
            It lacks its weights or the fingerprints of its training rows, or its weights fit no network.
        """
        weights, prints = detector.weights, detector.training_fingerprints
        if weights is None or prints is None:
            missing = "weights.safetensors" if weights is None else "training_rows.u64"
            raise ArtifactError(f"cannot continue training: the detector has no {missing}; train without --continue")
        # the classifier sorts its classes, so that outputs keep their meaning only in this order
        if detector.classes != (BENIGN, *sorted(set(detector.classes[1:]))):
            raise ArtifactError(
                f"cannot continue training: the detector's classes are {detector.classes}, expected {BENIGN} and then "
                "its attacks in order"
            )
        read, decision = _read_weights(weights), detector.decision
        return cls(
            encoder=detector.encoder,
            classes=detector.classes,
            labels=detector.labels,
            class_of=decision.class_of,
            fingerprints=prints,
            hidden=_hidden(read),
            # a loss with an offset has the prior of the counts, and its offset depends on their proportions alone
            offset=LOSSES[loss].offset(np.array(decision.prior)),
            weights=read,
        )

    def load_into(self, network: nn.Module) -> None:
        """Copy the weights into a network; :class:`ArtifactError` where they do not fit."""
        try:
            network.load_state_dict(self.weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ArtifactError(f"weights.safetensors does not fit encoder and outputs: {reason}") from error


def _read_weights(data: bytes) -> dict[str, Tensor]:
    try:
        weights: dict[str, Any] = load(data)
    except (SafetensorError, ValueError) as error:
        raise ArtifactError(f"cannot read weights.safetensors: {error}; get a fresh copy") from error
    odd = [name for name, values in weights.items() if values.dtype != torch.float32 or not values.isfinite().all()]
    if odd:
        raise ArtifactError(f"weights.safetensors holds other values than finite float32: {', '.join(odd[:5])}")
    return weights


def _hidden(weights: dict[str, Tensor]) -> tuple[int, ...]:
    layers = sorted((int(match[1]), len(weights[name])) for name in weights if (match := _WEIGHT.fullmatch(name)))
    return tuple(width for _, width in layers[:-1])
