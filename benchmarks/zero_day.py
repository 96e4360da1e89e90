"""Attack types that training does not show: each is left out in turn, and its flows are ranked against benign ones.

Of the distinct training flows of a data set a fifth of the benign ones is held out, at most so many flows of each label
train, and of them none of the type that is left out. Told are, for each way to rank flows, the area under the ROC
curve of the left-out flows against the held-out benign ones, and the recall at false-positive rates of 1e-2 and 1e-3;
and, of the detector's own marks, how many left-out and how many benign flows are called ``unknown`` or any attack.

Every second type by name is a development type: the method was chosen on these, with seed 0, before any other type had
been scored. The others confirm it. Test files are never read.

Usage: python -m benchmarks.zero_day [--data cicids17-improved kdd99] [--systems DeepIDEA] [--seeds 5]
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.contrastive_head import train_head
from benchmarks.result_files import RESULTS, write_result
from deepidea.flows.datasets.loading import load_dataset
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.flows.labelled import LabelledFlows
from deepidea.flows.taxonomy import BENIGN
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector

RESULT = RESULTS / "zero_day.json"
MOST_OF_A_LABEL = 10_000  # KDD99 has two labels of more, which would only cost time
BENIGN_HELD_OUT = 0.2
RATES = (1e-2, 1e-3)
PLAIN: dict[str, Any] = {"attack_weight": 0.0, "temperature": 1.0, "tau": 0.0, "balance": 0.0, "novelty": "none"}
NETWORKS: dict[str, dict[str, Any]] = {"DeepIDEA": {}, "plain MLP": PLAIN}
HEAD = "contrastive head"
SYSTEMS = (*NETWORKS, HEAD)


def distinct_flows(data: str) -> LabelledFlows:
    """Return the distinct training flows of a data set, at most so many of a label."""
    flows = load_dataset(data).train
    prints = row_fingerprints(flows.table, flows.schema)
    flows = flows.take(np.unique(prints, return_index=True)[1])
    order = np.random.default_rng(0).permutation(len(flows))
    places = pl.DataFrame({"label": flows.labels[order]}).select(pl.int_range(pl.len()).over("label")).to_series()
    return flows.take(np.sort(order[places.to_numpy() < MOST_OF_A_LABEL]))


def types_of(flows: LabelledFlows) -> dict[str, str]:
    """Return each attack label and whether it is for development or for confirmation."""
    attacks = flows.labels.filter(flows.classes != BENIGN).unique().sort().to_list()
    return {name: ("development", "confirmation")[place % 2] for place, name in enumerate(attacks)}


def run(flows: LabelledFlows, system: str, left_out: str, seed: int) -> dict[str, Any]:
    """Train without a type and return how its flows are ranked."""
    is_benign = (flows.classes == BENIGN).to_numpy()
    held_out = is_benign & (np.random.default_rng(1000 + seed).random(len(flows)) < BENIGN_HELD_OUT)
    is_new = (flows.labels == left_out).to_numpy()
    train = flows.take(~held_out & ~is_new)
    new, benign = (flows.take(rows).features for rows in (is_new, held_out))
    of_new, of_benign, marks = (
        _by_head(train, new, benign, seed)
        if system == HEAD
        else _by_network(train_detector(train, random_state=seed, **NETWORKS[system]), new, benign)
    )
    values = {f"{system}: {way}": judge(of_new[way], of_benign[way]) for way in of_new}
    named = {"system": system, "type": left_out, "seed": seed, "flows": int(is_new.sum())}
    return {**named, "methods": values, "marked": marks}


Rankings = dict[str, NDArray[Any]]
Ranked = tuple[Rankings, Rankings, dict[str, dict[str, float]]]


def _by_head(train: LabelledFlows, new: pl.DataFrame, benign: pl.DataFrame, seed: int) -> Ranked:
    rank = train_head(train, seed)
    return {"distance": rank(new)}, {"distance": rank(benign)}, {}


def _by_network(detector: Detector, new: pl.DataFrame, benign: pl.DataFrame) -> Ranked:
    marks = {} if detector.novelty is None else {"left_out": marked(detector, new), "benign": marked(detector, benign)}
    return rankings(detector, new), rankings(detector, benign), marks


def rankings(detector: Detector, features: pl.DataFrame) -> dict[str, NDArray[Any]]:
    """Return, for each way to rank flows, a score that is higher for what is more likely new or an attack."""
    logits = detector.logits(detector.schema.conform(features)).astype(np.float64)
    energy = -np.logaddexp.reduce(logits, axis=1)
    ways = {"max-softmax": -(logits.max(axis=1) + energy), "energy": energy}
    ways["1 - p_benign"] = detector.decision.log_odds(logits)
    verdicts = detector.score(features)
    return ways | ({"anomaly": verdicts["anomaly"].to_numpy()} if "anomaly" in verdicts.columns else {})


def judge(new: NDArray[Any], benign: NDArray[Any]) -> dict[str, float]:
    """Return the area under the ROC curve, and the recall at each rate of false positives."""
    truth = np.repeat([1, 0], [len(new), len(benign)])
    values = {"auroc": float(roc_auc_score(truth, np.concatenate([new, benign])))}
    descending = np.sort(benign)[::-1]
    recalls = {f"recall_at_{rate:g}": float((new > descending[int(rate * len(benign))]).mean()) for rate in RATES}
    return {name: round(value, 5) for name, value in {**values, **recalls}.items()}


def marked(detector: Detector, features: pl.DataFrame) -> dict[str, float]:
    """Return the shares that a detector calls unknown, more than 99 % anomalous, any attack, and one of the three."""
    verdicts = detector.score(features)
    marks = {"unknown": verdicts["unknown"], "anomaly above 0.99": verdicts["anomaly"] > 0.99}
    marks["any attack"] = verdicts["class"] != BENIGN
    marks["unknown or any attack"] = marks["unknown"] | marks["any attack"]
    return {name: round(float(mark.to_numpy().mean()), 5) for name, mark in marks.items()}


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over types of a data set: of all, and of either kind; seeds of a type are averaged first."""
    kinds = {"all": runs, **{k: [r for r in runs if r["kind"] == k] for k in ("development", "confirmation")}}
    return {kind: _means(of) for kind, of in kinds.items() if of}


def _means(runs: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [
        {"type": run["type"], "name": f"{method}|{figure}", "value": value}
        for run in runs
        for method, figures in {**run["methods"], **{f"marked {k}": v for k, v in run["marked"].items()}}.items()
        for figure, value in figures.items()
    ]
    by_type = pl.DataFrame(rows).group_by("name", "type", maintain_order=True).agg(pl.col("value").mean())
    means: dict[str, dict[str, float]] = {}
    for name, value in by_type.group_by("name", maintain_order=True).agg(pl.col("value").mean()).iter_rows():
        method, figure = name.split("|")
        means.setdefault(method, {})[figure] = round(value, 4)
    return {"types": len({run["type"] for run in runs}), **means}


def known_runs() -> dict[str, list[dict[str, Any]]]:
    """Return the runs of the result file: an interrupted benchmark goes on where it stopped."""
    if not RESULT.exists():
        return {}
    return {data: of["runs"] for data, of in json.loads(RESULT.read_text())["data"].items()}


def write(runs: Mapping[str, list[dict[str, Any]]]) -> None:
    """Write the result file."""
    values = {data: {"summary": summarise(of), "runs": of} for data, of in runs.items() if of}
    setting = {"most_of_a_label": MOST_OF_A_LABEL, "benign_held_out": BENIGN_HELD_OUT}
    write_result(RESULT, {"setting": setting, "data": values})


def main() -> None:
    """Run what the result file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["cicids17-improved", "kdd99"])
    parser.add_argument("--types", nargs="+", default=["development", "confirmation"])
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    runs = known_runs()
    flows = {data: distinct_flows(data) for data in options.data}
    seeds = range(options.seeds)
    for system, (data, part), seed in itertools.product(options.systems, flows.items(), seeds):
        for name, kind in types_of(part).items():
            done = {(of["system"], of["type"], of["seed"]) for of in runs.setdefault(data, [])}
            if kind in options.types and (system, name, seed) not in done:
                runs[data].append({**run(part, system, name, seed), "kind": kind})
                write(runs)
                values = {way: of["auroc"] for way, of in runs[data][-1]["methods"].items()}
                print(f"{data:18s} {name:28s} {seed} {values}", flush=True)
    for data, of in runs.items():
        print(data, json.dumps(summarise(of), indent=1), flush=True)


if __name__ == "__main__":
    main()
