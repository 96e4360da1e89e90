"""Train the starter detector on simulated sites, and measure it on other sites and on field captures.

It is of schema `conn`, so every sensor can be scored by it. All its flows are simulated: its licence is the project's.
Field figures are those of single flows at the threshold that half of the field's benign flows set; what behaviours find
is measured by benchmarks/behaviour_recall.py.

Usage: python -m benchmarks.starter [--sites 6] [--minutes 10] (`make starter`)
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

import deepidea.detection.starter
from benchmarks.result_files import RESULTS, write_result
from deepidea.detection.starter import STARTER_FILE
from deepidea.flows.schema import get_schema
from deepidea.flows.sensors.projection import as_schema
from deepidea.model.estimators import DeepIDEAClassifier
from deepidea.packets.meter import meter_capture
from deepidea.simulation.ground_truth import label_flows, read_labels
from deepidea.simulation.simulate import simulate_capture

FIRST_SEED, HELD_OUT_SEED = 1000, 2000
MOST_BENIGN, MOST_OF_CLASS = 8_000, 1_500  # flows of a site
SCHEMA = get_schema("conn")
BACKGROUND = "background"  # scanning of the whole Internet is no class to learn: it is everywhere


def main() -> None:
    """Simulate, train, measure, and write the detector and the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sites", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=10.0)
    given = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + given.sites)
    train = pl.concat(site_flows(seed, given.minutes, few=True) for seed in seeds)
    schema = SCHEMA.restrict([name for name in SCHEMA.features if name in train.columns])
    classifier = DeepIDEAClassifier(
        schema=schema,
        attack_weight=2.0,
        benign="benign",
        hidden=(64, 64),
        number_encoding="thermometer",
        tau=0.0,  # no class is rarer in a simulation than it is made
        novelty_rate=0.001,
        random_state=0,
    )
    classifier.fit(schema.conform(train), train["class"].to_numpy())
    origin = {"source": "simulated", "sites": given.sites, "minutes": given.minutes, "first_seed": FIRST_SEED}
    detector = classifier.to_detector(data={**origin, "split": {"kind": "none"}}, starter=True)
    path = Path(deepidea.detection.starter.__file__).with_name(STARTER_FILE)
    detector.save(path)
    held_out = site_flows(HELD_OUT_SEED, given.minutes)
    verdicts = detector.score(held_out)
    figures = {
        **origin,
        "file_bytes": path.stat().st_size,
        "train_flows": train.height,
        "held_out_site": _recall(held_out["class"], verdicts),
    }
    print(figures)
    write_result(RESULTS / "starter.json", figures)


def site_flows(seed: int, minutes: float, *, few: bool = False) -> pl.DataFrame:
    """Return flows of a simulated site in schema `conn`, with their class; a sample of frequent classes."""
    with tempfile.TemporaryDirectory() as folder:
        capture, truth = Path(folder) / "site.pcap", Path(folder) / "site.csv"
        simulate_capture(capture, truth, seed=seed, minutes=minutes, snaplen=128)
        flows = label_flows(pl.concat(list(meter_capture(capture))), read_labels(truth), otherwise="benign")
    named = pl.when(pl.col("class") == BACKGROUND).then(pl.lit("benign")).otherwise("class").alias("class")
    table = as_schema(flows, SCHEMA).with_columns(flows.select(named))
    print(seed, dict(table["class"].value_counts(sort=True).iter_rows()), flush=True)
    if not few:
        return table
    most = pl.when(pl.col("class") == "benign").then(MOST_BENIGN).otherwise(MOST_OF_CLASS)
    order = pl.int_range(pl.len()).shuffle(seed=seed).over("class")
    return table.filter(order < most)


def _recall(classes: pl.Series, verdicts: pl.DataFrame) -> dict[str, Any]:
    """Return the share of each class that is called an attack, and of benign flows its complement's name."""
    called = pl.DataFrame({"class": classes, "attack": verdicts["class"] != "benign"})
    shares = dict(called.group_by("class").agg(pl.col("attack").mean()).sort("class").iter_rows())
    return {"called_attack": {name: round(share, 4) for name, share in shares.items()}, "flows": len(classes)}


if __name__ == "__main__":
    main()
