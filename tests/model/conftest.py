"""A small detector, trained once for the whole room."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
import torch

from deepidea.model.detector import Detector
from deepidea.model.estimators import DeepIDEAClassifier


def simulated_flows(n_flows: int = 600, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    """Three overlapping classes over two numbers and a category."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(["benign", "flood", "scan"], n_flows, p=[0.7, 0.2, 0.1])
    centre = {"benign": 3.0, "flood": 8.0, "scan": 0.0}
    packets = np.array([rng.lognormal(centre[name] / 2, 0.5) for name in classes]).round()
    sizes = np.array([rng.lognormal(centre[name], 1.0) for name in classes])
    services = [rng.choice(["dns", "http", "ssh"] if name == "benign" else ["http", "other"]) for name in classes]
    return pl.DataFrame({"packets": packets, "bytes": sizes, "service": services}), classes


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Networks as small as those of tests take many times longer on two threads than on one on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def flows() -> pl.DataFrame:
    return simulated_flows(600, seed=1)[0]


@pytest.fixture(scope="session")
def classifier() -> DeepIDEAClassifier:
    table, classes = simulated_flows()
    return DeepIDEAClassifier(hidden=(16, 16), dropout=0.0, random_state=0).fit(table, classes)


@pytest.fixture(scope="session")
def detector(classifier: DeepIDEAClassifier) -> Detector:
    return classifier.to_detector(data={"source": "simulated"})
