"""The whole chain on simulated traffic; ``make demo`` runs it.

1. simulate three captures of similar networks: a labelled one, a benign one, one to monitor;
2. meter the first into flows, and label them by its conversations;
3. train a detector on them, with the host context of each flow;
4. calibrate its alert thresholds on the benign network, at a stated rate of false alarms;
5. run detection on the third capture, which it has never seen: findings of behaviours make incidents;
6. compare them with the simulated attacks, instance by instance.

The traffic is simulated, so the figures show that the parts work together, and nothing about any real network. For
labelled flows of real data sets see ``labelled_flows.py``.

All output goes into one folder, ``demo-output`` in this checkout unless ``--output`` names another.

Usage: python examples/demo.py [--output DIR] [--minutes M] [--seed N]
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path
from typing import Any

import polars as pl

from deepidea import Detector
from deepidea.detection.calibrate import calibrate
from deepidea.detection.runner import DetectionConfig, open_source_for, run_detection
from deepidea.flows.context import add_context
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.schema import get_schema
from deepidea.model.presets import train_detector
from deepidea.packets.meter import meter_capture
from deepidea.simulation.ground_truth import LabelJoin, label_flows, read_labels
from deepidea.simulation.instances import attack_instances
from deepidea.simulation.simulate import simulate_capture
from deepidea.store import incidents
from deepidea.store.alerts import find_table
from deepidea.store.store import Store, open_store

CHECKOUT = Path(__file__).resolve().parents[1]
FPR = 0.005
BACKGROUND = "background_scan"  # of the whole Internet: one quiet line a day, no attack that anyone must see


def main() -> None:
    """Run the six steps."""
    options = read_options()
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    lab, quiet, today = (output / f"{name}.pcap" for name in ("lab", "quiet", "today"))

    print("1. Three captures of SIMULATED traffic")
    networks: tuple[str, ...] = ()
    for capture, seed, attacks in ((lab, 0, None), (quiet, 1, ()), (today, 2, None)):
        chosen = {} if attacks is None else {"attacks": attacks}
        done = simulate_capture(
            capture, capture.with_suffix(".csv"), seed=options.seed + seed, minutes=options.minutes, **chosen
        )
        print(f"   {capture.name}: {done.packets:,} packets")
        networks = done.networks

    print("\n2. Packets to flows, with labels")
    flows = labelled_flows_of(lab)
    counts = ", ".join(f"{name} {n:,}" for name, n in flows["class"].value_counts(sort=True).iter_rows())
    print(f"   {flows.height:,} flows: {counts}")

    print("\n3. Training")
    detector = train(flows, options.seed)

    print("\n4. Thresholds from the benign network")
    calibration = calibrate(detector, open_source_for(detector, str(quiet)), FPR)
    calibration.detector.save(output / "site.idea")
    print(f"   by class alone {calibration.n_predicted_attacks:,} of its flows would have raised an alert")
    print(f"   now {calibration.thresholds.guarantee};")
    print("   the network below is another one, so its rate may differ")

    print("\n5. Detection on the third capture")
    database = output / "alerts.db"
    for file in output.glob("alerts.db*"):
        file.unlink()
    config = DetectionConfig(
        source=str(today),
        model=output / "site.idea",
        store=f"sqlite:///{database}",
        dead_letters=output / "dead-letters",
        home=networks,
    )
    at = run_detection(config, threading.Event()).progress
    print(f"   {at.n_flows:,} flows, {at.n_alerts:,} alerts; skipped: {dict(at.skipped)}")
    with open_store(config.store) as store:
        print_incidents(store)
        print("\n6. Comparison with the simulated attacks")
        print_found(store, today, at.n_flows)
    print(f"\nDetector  {shown(output / 'site.idea')}\nAlerts    {shown(database)}")
    print(f"\nMore: {shown(Path(sys.executable).parent / 'deepidea')} incidents --store sqlite:///{shown(database)}")


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="The whole chain on simulated traffic.")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "demo-output")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each capture")
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


def labelled_flows_of(capture: Path) -> pl.DataFrame:
    """Return the flows of a capture with ``label`` and ``class``, and with the context of their hosts."""
    flows, join = pl.concat(meter_capture(capture)), LabelJoin()
    labelled = label_flows(flows, read_labels(capture.with_suffix(".csv")), join=join)
    return add_context(labelled.drop_nulls("label"))


def train(flows: pl.DataFrame, seed: int) -> Detector:
    """Train a detector on labelled flows and their context, and print its size and held-out accuracy."""
    schema = get_schema("cicflow+context").restrict(flows.columns)
    labelled, _ = labelled_flows_from_table(flows.drop("label"), "class", "benign", schema=schema)
    detector = train_detector(labelled, random_state=seed)
    cba = detector.card["training"]["epochs"][-1]["validation_cba"]
    print(f"   {len(labelled):,} flows, {len(detector.classes)} classes; held-out CBA {100 * cba:.1f} %")
    return detector


def print_incidents(store: Store, most: int = 12) -> None:
    """Print the most urgent incidents."""
    found = store.query(incidents.find, order="severity", limit=1000).items
    print(f"   {len(found)} incidents; the most urgent:")
    for one in found[:most]:
        print(f"   {one.severity_name:8s} {one.first:%H:%M:%S}  {one.headline}")


def print_found(store: Store, capture: Path, n_flows: int) -> None:
    """Print how many instances of each simulated attack were found, and incidents that no attack explains."""
    alerts = store.query(find_table, limit=100_000).filter(pl.col("behaviour").is_not_null())
    instances = attack_instances(read_labels(capture.with_suffix(".csv"))).filter(pl.col("label") != BACKGROUND)
    found = [is_found(one, alerts) for one in instances.iter_rows(named=True)]
    kinds = instances.select("label", found=pl.Series(found)).group_by("label").agg(pl.col("found").sum(), n=pl.len())
    for label, n_found, n in kinds.sort("label").iter_rows():
        print(f"   {label:16s} {n_found} of {n} instances found")
    attackers = set(instances["sources"].explode()) | set(instances["targets"].explode())
    urgent = store.query(incidents.find, limit=1000, severity=3).items
    false = [one for one in urgent if one.host not in attackers]
    print(f"   {len(false)} incidents of hosts in no attack ({1000 * len(false) / n_flows:.2f} per 1,000 flows)")


def is_found(one: dict[str, Any], alerts: pl.DataFrame) -> bool:
    """Return whether a finding was raised between the hosts of an attack, in its time."""
    ends = [*one["sources"], *one["targets"]]
    between = pl.col("src_ip").is_in(ends) & pl.col("dst_ip").is_in(ends)
    during = pl.col("time").is_between(one["first"], one["last"] + pl.duration(minutes=2))
    return alerts.filter(between, during).height > 0


def shown(path: Path) -> str:
    """Return a path relative to the current folder, where it is inside."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


if __name__ == "__main__":
    main()
