"""How long it takes to explain one flow: a detector of 78 features, by the default preset and by the paper's.

Time: one call of ``Explainer.explain`` for one flow, scoring included, many times over, after the first few; and the
time to make the explainer, which is done once a detector. What the reference adds to training is measured on the same
flows, and what it adds to the file, in bytes of the manifest.

Usage: python -m benchmarks.explain_speed [--flows 300]
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import polars as pl

from benchmarks.result_files import RESULTS, write_result
from benchmarks.scoring_speed import N_FEATURES, random_flows
from deepidea.flows.labelled import LabelledFlows, labelled_flows_from_table
from deepidea.model.detector import Detector
from deepidea.model.estimators import DeepIDEAClassifier
from deepidea.model.explain import Explainer
from deepidea.model.presets import train_detector

N_TRAINING = 100_000
WARM_UP = 10


def labelled_flows() -> LabelledFlows:
    """Return flows of 78 features and five classes that differ in some of them, so that there is something to learn."""
    table, rng = random_flows(N_TRAINING, seed=1), np.random.default_rng(0)
    names = np.array(["benign", "dos", "probe", "r2l", "u2r"])
    codes = rng.choice(5, len(table), p=[0.8, 0.1, 0.05, 0.03, 0.02])
    shifted = table.with_columns(
        pl.Series(f"feature_{6 * j}", table[f"feature_{6 * j}"].to_numpy() * np.where(codes == j % 4 + 1, 30.0, 1.0))
        for j in range(13)
    )
    flows, _ = labelled_flows_from_table(shifted.with_columns(pl.Series("label", names[codes])), "label", "benign")
    return flows


def timed_reference() -> list[float]:
    """Make training record how long its reference takes; return the list of these times."""
    seconds: list[float] = []
    original = DeepIDEAClassifier._summarise

    def timed(self: DeepIDEAClassifier, *arguments: Any) -> Any:
        started = time.perf_counter()
        reference = original(self, *arguments)
        seconds.append(time.perf_counter() - started)
        return reference

    DeepIDEAClassifier._summarise = timed  # type: ignore[method-assign, assignment]
    return seconds


def measure(detector: Detector, flows: pl.DataFrame) -> dict[str, float]:
    """Return times of explaining each flow by itself, in milliseconds."""
    started = time.perf_counter()
    explainer = Explainer(detector)
    made = time.perf_counter() - started
    times_ms, steps, missed = [], [], []
    for row in range(flows.height):
        started = time.perf_counter()
        [found] = explainer.explain(flows[row])
        times_ms.append(1000 * (time.perf_counter() - started))
        steps.append(found.n_steps)
        missed.append(abs(found.residual) / max(abs(found.log_odds - found.benign_log_odds), 1.0))
    of = np.array(times_ms[WARM_UP:])
    return {
        "median_ms": round(float(np.median(of)), 2),
        "p95_ms": round(float(np.quantile(of, 0.95)), 2),
        "explainer_ms": round(1000 * made, 1),
        "median_steps": float(np.median(steps)),
        "worst_residual": round(max(missed), 4),
    }


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=300)
    options = parser.parse_args()
    training, figures = labelled_flows(), dict[str, Any]()
    seconds = timed_reference()
    for preset in ("default", "paper"):
        started = time.perf_counter()
        detector = train_detector(training, preset=preset, random_state=0, n_epochs=3)
        trained = time.perf_counter() - started
        attacks = training.features.filter(training.classes != "benign").head(options.flows // 2)
        benign = training.features.filter(training.classes == "benign").head(options.flows - attacks.height)
        figures[preset] = measure(detector, pl.concat([attacks, benign]))
        figures[preset] |= {"training_s": round(trained, 2), "reference_s": round(seconds[-1], 3)}
        figures[preset]["reference_bytes"] = (
            len(json.dumps(detector.reference.contract(), indent=1)) if detector.reference else 0
        )
    write_result(
        RESULTS / "explain_speed.json",
        {"features": N_FEATURES, "training_flows": N_TRAINING, "flows": options.flows, **figures},
    )
    print(figures)


if __name__ == "__main__":
    main()
