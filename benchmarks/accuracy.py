"""Accuracy of the presets on the public data sets: several seeds, one result file for each data set and preset.

KDD99 trains on the 10 % file and tests on ``corrected``, NSL-KDD on KDDTrain+ and KDDTest+, both with the official
five classes. CICIDS17 is split 5:1 by class, another split for each seed, and held-out rows that repeat a training row
are dropped; its classes are the paper's. Nothing is chosen on test rows;
docs/accuracy.md says what had been seen of them when.

Usage: python -m benchmarks.accuracy [--data kdd99 ...] [--presets default paper] [--seeds 5]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.result_files import RESULTS, write_result
from deepidea.evaluation.evaluate import evaluate_detector
from deepidea.evaluation.protocol import flows_to_test, flows_to_train
from deepidea.model.presets import PRESETS, train_detector

TAXONOMY = {"cicids17": "paper"}
KEPT = ("cba", "macro_f1", "accuracy", "detection_rate", "false_alarm_rate", "pr_auc", "calibration_error")


def run_seed(data: str, preset: str, seed: int) -> dict[str, Any]:
    """Train and test once."""
    part = flows_to_train(data, taxonomy=TAXONOMY.get(data), split_seed=seed)
    started = time.perf_counter()
    detector = train_detector(part.flows, preset=preset, card=part.card(), random_state=seed)
    seconds = time.perf_counter() - started
    told = evaluate_detector(detector, flows_to_test(data, detector.schema, part.contract)).to_dict()
    scores = {name: told[name] for name in KEPT}
    recalls = {name: entry["recall"] for name, entry in told["per_class"].items()}
    subsets = {name: {"cba": entry["cba"]} for name, entry in told["subsets"].items() if entry}
    more = {"recalls": recalls, "recall_at_fpr": told["recall_at_fpr"], "subsets": subsets, "data": told["data"]}
    return {"seed": seed, "train_seconds": round(seconds, 2), **scores, **more, "confusion": told["confusion"]}


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation over seeds, in percent."""

    def spread(values: list[float]) -> dict[str, float]:
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return {"mean": round(100 * float(np.mean(values)), 2), "sd": round(100 * deviation, 2)}

    scores = {name: spread([run[name] for run in runs]) for name in KEPT if runs[0][name] is not None}
    recalls = {name: spread([run["recalls"][name] for run in runs]) for name in runs[0]["recalls"]}
    subsets = {name: spread([run["subsets"][name]["cba"] for run in runs]) for name in runs[0]["subsets"]}
    return {**scores, "recalls": recalls, "subsets": subsets}


def main() -> None:
    """Run what was asked for and write the result files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["kdd99", "nsl-kdd", "cicids17"])
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    for data in options.data:
        for preset in options.presets:
            runs = [run_seed(data, preset, seed) for seed in range(options.seeds)]
            summary = summarise(runs)
            parameters = {k: list(v) if isinstance(v, tuple) else v for k, v in PRESETS[preset].items()}
            figures = {"data": data, "preset": preset, "parameters": parameters, "summary": summary, "runs": runs}
            write_result(RESULTS / "accuracy" / f"{data}-{preset}.json", figures)
            print(f"{data:10s} {preset:8s} CBA {summary['cba']} recalls {summary['recalls']}", flush=True)


if __name__ == "__main__":
    main()
