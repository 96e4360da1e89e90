"""The whole chain on simulated traffic; ``make demo`` runs it.

1. simulate three captures of similar networks: a labelled one, a benign one, one to monitor;
2. meter the first into flows, and label them by its conversations;
3. train a detector on them, with the host context of each flow;
4. calibrate its alert thresholds on the benign network, at a stated rate of false alarms;
5. run detection on the third capture, which it has never seen, and print the incidents;
6. compare them with the simulated attacks.

The traffic is simulated, so the figures show that the parts work together, and nothing about any real network. For
labelled flows of real data sets see ``labelled_flows.py``.

All output goes into one folder, ``demo-output`` in this checkout unless ``--output`` names another.

Usage: python examples/demo.py [--output DIR] [--minutes M] [--seed N]
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

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
from deepidea.simulation.simulate import simulate_capture
from deepidea.store import incidents
from deepidea.store.alerts import find_table
from deepidea.store.incidents import FullIncident
from deepidea.store.store import Store, open_store

CHECKOUT = Path(__file__).resolve().parents[1]
FPR = 0.005


def main() -> None:
    """Run the six steps."""
    options = read_options()
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    lab, quiet, today = (output / f"{name}.pcap" for name in ("lab", "quiet", "today"))

    print("1. Three captures of SIMULATED traffic")
    for capture, seed, attacks in ((lab, 0, None), (quiet, 1, ()), (today, 2, None)):
        chosen = {} if attacks is None else {"attacks": attacks}
        done = simulate_capture(
            capture, capture.with_suffix(".csv"), seed=options.seed + seed, minutes=options.minutes, **chosen
        )
        print(f"   {capture.name}: {done.packets:,} packets")

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
        flow_alerts=True,
    )
    at = run_detection(config, threading.Event()).progress
    print(f"   {at.n_flows:,} flows, {at.n_alerts:,} alerts; skipped: {dict(at.skipped)}")
    with open_store(config.store) as store:
        print_incidents(store)
        print("\n6. Comparison with the simulated attacks")
        print_detection_rates(store, today)
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
    found = store.query(incidents.find_full, order="severity", limit=1000).items
    print(f"   {len(found)} incidents; the most urgent:")
    for full in sorted(found, key=_by_urgency)[:most]:
        one, ports = full.incident, ", ".join(busiest(full.ports))
        print(
            f"   {one.class_name:13s} {one.role} {one.host:22s} {one.first:%H:%M:%S}-{one.last:%H:%M:%S} "
            f"{one.n_alerts:6,} alerts, {one.n_ports:4,} ports ({ports}), {one.n_hosts:5,} hosts"
        )


def _by_urgency(full: FullIncident) -> tuple[int, int]:
    return full.incident.severity, -full.incident.n_alerts


def busiest(listed: str, most: int = 3) -> Iterator[str]:
    """Yield the ports of an incident that most alerts are about."""
    kept = json.loads(listed)
    ranked = sorted(zip(kept["counts"], kept["values"], strict=True), reverse=True)
    yield from (value for _, value in ranked[:most])


def print_detection_rates(store: Store, capture: Path) -> None:
    """Print, for each kind of simulated traffic, how many of its flows raised an alert."""
    flows = labelled_flows_of(capture)
    alerts = store.query(find_table, limit=100_000)
    who = ["start", "src_ip", "src_port", "dst_ip", "dst_port"]
    alerted = alerts.select(*who).unique().with_columns(alerted=True)
    marked = flows.join(alerted, on=who, how="left", nulls_equal=True)
    shares = marked.group_by("label").agg(n=pl.len(), share=pl.col("alerted").fill_null(False).mean())
    for label, n, share in shares.sort(pl.col("label") == "benign", "share", descending=[False, True]).iter_rows():
        print(f"   {label:16s} {n:6,} flows, {100 * share:5.1f} % alerted")


def shown(path: Path) -> str:
    """Return a path relative to the current folder, where it is inside."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


if __name__ == "__main__":
    main()
