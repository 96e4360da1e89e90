"""DeepIDEA: a trainable network intrusion detector.

The public names below are resolved on first use, so that ``import deepidea`` loads neither torch nor polars.

Examples
--------
>>> import deepidea
>>> sorted(deepidea.__all__)[:3]
['AttackSharingLoss', 'DeepIDEAClassifier', 'Detector']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepidea.flows.datasets.loading import load_dataset
    from deepidea.model.detector import Detector
    from deepidea.model.estimators import DeepIDEAClassifier
    from deepidea.model.losses import AttackSharingLoss

__version__ = "0.1.0"
__all__ = ["AttackSharingLoss", "DeepIDEAClassifier", "Detector", "load_dataset"]

_HOMES = {
    "AttackSharingLoss": "deepidea.model.losses",
    "DeepIDEAClassifier": "deepidea.model.estimators",
    "Detector": "deepidea.model.detector",
    "load_dataset": "deepidea.flows.datasets.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'deepidea' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
