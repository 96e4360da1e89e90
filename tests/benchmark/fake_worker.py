"""The process of a cell with invented systems: real names, so that any table knows them, and small deeds.

``tree`` is right fairly often, ``svm`` knows no probabilities, ``knn`` fails, ``cnn`` dies, ``lstm`` takes its time.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deepidea.benchmark import cell as benchmark_cell
from deepidea.benchmark.systems import Predictions
from deepidea.benchmark.tasks import Experiment
from deepidea.errors import DataError
from deepidea.model.decision import Decision
from tests.benchmark.fakes import CLASSES, FakeDetector, draw_flows

WORKER = (sys.executable, str(Path(__file__).resolve()))


@dataclass(frozen=True)
class FakeFitted:
    decision: Decision
    with_probabilities: bool = True
    classes: tuple[str, ...] = CLASSES
    parameters: dict = field(default_factory=lambda: {"depth": 3})

    def predict(self, features):
        table = FakeDetector().score(features)
        stated = table.select([f"p_{name}" for name in CLASSES]).to_numpy()
        if not self.with_probabilities:
            margin = np.log(stated[:, 1:].sum(axis=1) / stated[:, 0])
            return Predictions((margin > 0).astype(np.int64), None, margin.astype(np.float64))
        return Predictions(stated.argmax(axis=1), stated, 1.0 - stated[:, 0].astype(np.float64))


@dataclass(frozen=True)
class FakeSystem:
    name: str

    def fit(self, train, seed):
        if self.name == "knn":
            raise DataError("neighbours must be near, however: they are <b>far</b>")
        if self.name == "cnn":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.name == "lstm":
            Path(os.environ["FAKE_PID_FILE"]).write_text(str(os.getpid()))
            time.sleep(float(os.environ["FAKE_NAP_S"]))
        codes = train.classes.replace_strict(dict(zip(CLASSES, range(3), strict=True)))
        prior = np.bincount(codes.to_numpy(), minlength=3) / len(train)
        return FakeFitted(Decision(tuple(prior.tolist())), self.name != "svm")


def deal(data, protocol="auto", *, seed=0):
    return Experiment(draw_flows(400, 1, grid=0.5), draw_flows(300, 2 + seed, grid=0.5), {"source": data})


if __name__ == "__main__":
    benchmark_cell.make_system = lambda name: FakeSystem(name.partition(":")[0])
    benchmark_cell.load_experiment = deal
    benchmark_cell.main()
