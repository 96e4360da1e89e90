"""Detectors on networks that they were not trained on: calibrated or adapted, for each encoding of numbers.

For each pair of data sets a detector is trained on a sample of the first (distinct flows, at most so many benign ones
and so many of each attack label, the features that all data sets share). Of the second's benign flows one half belongs
to the site: thresholds are set on it, or the detector is adapted to it; the other half counts false alarms. Reported
are the recall of attacks, as the mean over native labels, and the false-positive rate, at two rates.

Usage: python -m benchmarks.site_adaptation [--encodings scaled thermometer:8 ...] [--seeds 1] [--site 50 200 ...]
       [--hidden 0.002 0.01]
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.result_files import RESULTS, write_result
from deepidea.detection.adapt import LEAST_TO_TRAIN, adapt_to
from deepidea.detection.alerting import Thresholds, conformal_quantile
from deepidea.flows.datasets.loading import load_dataset
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.flows.labelled import LabelledFlows
from deepidea.flows.schema import get_schema
from deepidea.flows.taxonomy import BENIGN
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector

RESULT = RESULTS / "site_adaptation.json"
DATA = ("cicids17", "cicids17-improved", "cicids18")
MOST_BENIGN, MOST_OF_A_LABEL = 10_000, 1500
RATES = (1e-2, 1e-3)
ENCODINGS = ("scaled", "thermometer:4", "thermometer:8", "scaled+thermometer:8", "piecewise-linear:16")
Run = dict[str, Any]


def shared_flows() -> dict[str, LabelledFlows]:
    """Return a sample of each data set, with the features that all of them have."""
    flows = {data: _sample(load_dataset(data).train) for data in DATA}
    common = [name for name in flows[DATA[0]].schema.features if all(name in f.schema.features for f in flows.values())]
    schema = get_schema("cicflow").restrict(common)
    return {data: replace(of, table=of.features.select(common), schema=schema) for data, of in flows.items()}


def _sample(flows: LabelledFlows) -> LabelledFlows:
    flows = flows.take(np.unique(row_fingerprints(flows.table, flows.schema), return_index=True)[1])
    order = np.random.default_rng(0).permutation(len(flows))
    place = pl.DataFrame({"label": flows.labels[order]}).select(pl.int_range(pl.len()).over("label")).to_series()
    most = np.where((flows.classes[order] == BENIGN).to_numpy(), MOST_BENIGN, MOST_OF_A_LABEL)
    return flows.take(np.sort(order[place.to_numpy() < most]))


def train(flows: LabelledFlows, encoding: str, seed: int) -> Detector:
    """Train a detector with an encoding, as ``thermometer:8``."""
    name, _, quantiles = encoding.partition(":")
    options: dict[str, Any] = {"n_quantiles": int(quantiles)} if quantiles else {}
    return train_detector(flows, random_state=seed, number_encoding=name, **options)


class Site:
    """A data set as the network to watch: benign flows of the site, and flows to measure by.

    Parameters
    ----------
    flows : LabelledFlows
    seed : int
    n_benign : int, optional
        Benign flows of the site; default: half of all.
    hidden : float
        Share of attacks among them, of all labels alike.
    """

    def __init__(self, flows: LabelledFlows, seed: int, n_benign: int | None = None, hidden: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        is_benign = (flows.classes == BENIGN).to_numpy()
        benign, attacks = (rng.permutation(np.flatnonzero(side)) for side in (is_benign, ~is_benign))
        half = len(benign) // 2
        own = benign[: half if n_benign is None else min(n_benign, half)]
        mixed = attacks[_in_turn(flows.labels[attacks])][: round(hidden * len(own))]
        table = flows.features
        self.site = table[rng.permutation(np.concatenate([own, mixed]))]
        self.quiet = table[benign[half:]]
        rest = np.setdiff1d(attacks, mixed)
        self.attacks, self.labels = table[rest], flows.labels[rest].to_numpy()

    def measure(self, alarms: Mapping[str, NDArray[np.bool_]]) -> dict[str, float]:
        """Return recall and false-positive rate of the alarms on ``attacks`` and ``quiet``."""
        found = [alarms["attacks"][self.labels == label].mean() for label in np.unique(self.labels)]
        return {"recall": round(float(np.mean(found)), 4), "fpr": round(float(alarms["quiet"].mean()), 5)}

    def alarms(self, detector: Detector, thresholds: Thresholds) -> dict[str, NDArray[np.bool_]]:
        """Return which flows raise an alert."""
        parts = {"attacks": self.attacks, "quiet": self.quiet}
        return {name: thresholds.above_threshold(detector.score(of)).to_numpy() for name, of in parts.items()}


def _in_turn(labels: pl.Series) -> NDArray[np.int64]:
    """Return the order that takes one flow of each label, then a second one of each."""
    turn = pl.DataFrame({"label": labels}).select(pl.int_range(pl.len()).over("label")).to_series().to_numpy()
    return np.argsort(turn, kind="stable")


def calibrated(detector: Detector, site: Site, rate: float) -> dict[str, float]:
    """Return the figures of thresholds on ``score`` and ``anomaly``, half of the rate each, as calibration sets them.

    With too few flows for the rate, a threshold is the highest value among them.
    """
    verdicts = detector.score(site.site)
    values = {name: verdicts[name].to_numpy() for name in ("score", "anomaly")}
    bounds = {name: min(conformal_quantile(of, rate / 2), float(of.max())) for name, of in values.items()}
    return site.measure(site.alarms(detector, Thresholds(bounds, rate, len(verdicts), "site")))


def adapted(detector: Detector, site: Site, train_on: bool) -> dict[str, dict[str, float]]:
    """Return the figures after adaptation at each rate; the rate has no part in what is fitted."""
    done = adapt_to(detector, detector.schema.conform(site.site), RATES[0], train=train_on)
    held_out = round(float(np.mean([recall.adapted for recall in done.recalls])), 4)
    about = {"set_aside": done.n_set_aside, "trained": float(not done.not_trained), "held_out_recall": held_out}
    thresholds = {rate: replace(done.thresholds, bounds={"anomaly": 1 - rate}, fpr=rate) for rate in RATES}
    alarms = {rate: site.alarms(done.detector, of) for rate, of in thresholds.items()}
    return {f"{rate:g}": {**site.measure(of), **about} for rate, of in alarms.items()}


def run_pair(detector: Detector, site: Site) -> dict[str, dict[str, dict[str, float]]]:
    """Return the figures of each way, at each rate; ``adapt`` is what the command does by default."""
    ways = {
        "calibrate": {f"{rate:g}": calibrated(detector, site, rate) for rate in RATES},
        "adapt --train no": adapted(detector, site, False),
        "adapt --train yes": adapted(detector, site, True),
    }
    trains = detector.encoder.steps_ is not None and len(site.site) >= LEAST_TO_TRAIN
    return {**ways, "adapt": ways["adapt --train yes" if trains else "adapt --train no"]}


def summarise(runs: Iterable[Run]) -> list[Run]:
    """Return means over pairs and seeds, for each encoding and setting of the site."""
    rows = [
        {name: run[name] for name in ("encoding", "site", "hidden")} | {"way": way, "rate": rate, **figures}
        for run in runs
        for way, by_rate in run["ways"].items()
        for rate, figures in by_rate.items()
    ]
    if not rows:
        return []
    keys = ["encoding", "site", "hidden", "way", "rate"]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    means = [pl.col(name).mean().round(4) for name in ("recall", "fpr", "set_aside", "held_out_recall")]
    return frame.group_by(keys, maintain_order=True).agg(*means, pl.len().alias("runs")).to_dicts()


def known_runs() -> list[Run]:
    """Return the runs of the result file: an interrupted benchmark goes on where it stopped."""
    return list(json.loads(RESULT.read_text())["runs"]) if RESULT.exists() else []


def main() -> None:
    """Run what the result file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encodings", nargs="+", default=list(ENCODINGS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--site", nargs="+", type=int, default=[0], help="benign flows of the site; 0 is half of all")
    parser.add_argument("--hidden", nargs="+", type=float, default=[0.0])
    options = parser.parse_args()
    flows, runs = shared_flows(), known_runs()
    for encoding, seed, source in itertools.product(options.encodings, range(options.seeds), DATA):
        detector: Detector | None = None
        others = [data for data in DATA if data != source]
        for target, n_site, hidden in itertools.product(others, options.site, options.hidden):
            about = {"encoding": encoding, "seed": seed, "source": source, "target": target}
            about |= {"site": n_site, "hidden": hidden}
            if any(about.items() <= run.items() for run in runs):
                continue
            detector = detector or train(flows[source], encoding, seed)
            ways = run_pair(detector, Site(flows[target], seed, n_site or None, hidden))
            runs.append({**about, "ways": ways})
            setting = {"most_benign": MOST_BENIGN, "most_of_a_label": MOST_OF_A_LABEL, "rates": RATES}
            write_result(RESULT, {"setting": setting, "means": summarise(runs), "runs": runs})
            print(about, json.dumps(ways), flush=True)
    for mean in summarise(runs):
        print(mean)


if __name__ == "__main__":
    main()
