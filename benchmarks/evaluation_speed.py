"""How long scoring verdicts against the truth takes, and telling equal rows by their fingerprints.

*Verdicts*: all figures of `deepidea.evaluation.metrics.evaluate` for three million flows of five classes; beside it a
few of them by scikit-learn: confusion matrix, precision, recall and F1, area under the ROC curve, average precision.

*Fingerprints*: 64 bits of each of half a million rows of 78 numbers; beside it pandas' hash of the same rows.

Both in turn, in one process on one thread each, median of several runs.

Usage: python -m benchmarks.evaluation_speed [--flows 3000000] [--rows 500000] [--runs 5]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support, roc_auc_score

from benchmarks.result_files import RESULTS, write_result
from deepidea.evaluation.metrics import evaluate
from deepidea.flows.fingerprint import mix_array

CLASSES = ("benign", "dos", "probe", "u2r", "r2l")
N_FEATURES = 78


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], runs: int) -> dict[str, float]:
    """Return the median seconds of both, and the median of the ratios."""
    times_s = np.array([[_seconds(ours), _seconds(theirs)] for _ in range(runs + 1)])[1:]
    ours_s, theirs_s = np.median(times_s, axis=0)
    ratio = np.median(times_s[:, 1] / times_s[:, 0])
    return {"ours_s": round(float(ours_s), 3), "theirs_s": round(float(theirs_s), 3), "ratio": round(float(ratio), 2)}


def _seconds(task: Callable[[], object]) -> float:
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def verdicts(n_flows: int, runs: int) -> dict[str, Any]:
    """Return the times of scoring verdicts that are right more often than not."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, len(CLASSES), n_flows)
    shares = rng.dirichlet(np.ones(len(CLASSES)), n_flows).astype(np.float32)
    shares[np.arange(n_flows), truth] += 1
    shares /= shares.sum(axis=1, keepdims=True)
    predicted, score = shares.argmax(axis=1), 1 - shares[:, 0]

    def by_scikit_learn() -> None:
        confusion_matrix(truth, predicted)
        precision_recall_fscore_support(truth, predicted)
        roc_auc_score(truth > 0, score)
        average_precision_score(truth > 0, score)

    return {
        "flows": n_flows,
        **in_turn(lambda: evaluate(truth, predicted, shares, score, CLASSES), by_scikit_learn, runs),
    }


def fingerprints(n_rows: int, runs: int) -> dict[str, Any]:
    """Return the times of one print a row."""
    matrix = np.random.default_rng(0).normal(size=(n_rows, N_FEATURES)).astype(np.float32)
    table = pd.DataFrame(matrix)

    def by_pandas() -> None:
        pd.util.hash_pandas_object(table, index=False)

    return {"rows": n_rows, "features": N_FEATURES, **in_turn(lambda: mix_array(matrix), by_pandas, runs)}


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=3_000_000)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    figures = {
        "verdicts": verdicts(options.flows, options.runs),
        "fingerprints": fingerprints(options.rows, options.runs),
    }
    write_result(RESULTS / "evaluation_speed.json", figures)
    print(figures)


if __name__ == "__main__":
    main()
