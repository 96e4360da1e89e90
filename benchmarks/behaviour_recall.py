"""Which simulated attacks behaviours find, instance by instance, and what they raise in benign look-alikes.

Each site differs by its seed: addresses, servers, rates, loss, tunnels. An instance is found where a finding of its
class is raised between its hosts in its time. A false incident is a host and class with findings of more than low
severity at flows that are no attack's.

Usage: python -m benchmarks.behaviour_recall [--sites 3] [--minutes 30] [--seed 100]
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.result_files import RESULTS, write_result
from deepidea.detection.behaviour.findings import BehaviourDetector
from deepidea.detection.behaviour.sites import HomeNetworks
from deepidea.flows.attack_classes import attack_class_of
from deepidea.packets.meter import meter_capture
from deepidea.simulation.attacks import ATTACKS
from deepidea.simulation.ground_truth import label_flows, read_labels
from deepidea.simulation.instances import attack_instances
from deepidea.simulation.simulate import simulate_capture

BATCH_FLOWS = 4096
ALIKE = {"host_sweep": "scan", "port_scan": "scan", "probe": "scan", "background": "scan", "tunnel": "theft"} | {
    "exfiltration": "theft"
}  # classes that an analyst would take one for the other
LOOK_ALIKE = "background_scan"  # no attack that anybody must see


def main() -> None:
    """Simulate the sites, find behaviours in them, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=100)
    given = parser.parse_args()
    sites = [measure(given.seed + number, given.minutes) for number in range(given.sites)]
    kinds = {kind: _sums(sites, kind) for kind in ATTACKS}
    n_benign = sum(site["benign_flows"] for site in sites)
    false = sum((Counter(site["false"]) for site in sites), Counter())
    total = {"instances": kinds, "benign_flows": n_benign, "false_incidents": dict(false)}
    total["false_per_1000"] = 1000 * sum(false.values()) / max(n_benign, 1)
    for kind, (found, n) in kinds.items():
        print(f"{kind:18s} {found:3d} of {n:3d}")
    print(f"false incidents: {dict(false)} of {n_benign:,} benign flows = {total['false_per_1000']:.2f} per 1,000")
    write_result(RESULTS / "behaviour_recall.json", {"minutes": given.minutes, "seed": given.seed, **total})


def _sums(sites: list[dict[str, Any]], kind: str) -> tuple[int, int]:
    found, n = (sum(site["kinds"].get(kind, (0, 0))[at] for site in sites) for at in (0, 1))
    return found, n


def measure(seed: int, minutes: float) -> dict[str, Any]:
    """Return found and all instances by kind, benign flows, and false incidents by behaviour, of one site."""
    with tempfile.TemporaryDirectory() as folder:
        capture, truth = Path(folder) / "site.pcap", Path(folder) / "site.csv"
        site = simulate_capture(capture, truth, seed=seed, minutes=minutes, snaplen=128)
        flows, labels = pl.concat(list(meter_capture(capture))), read_labels(truth)
    finder = BehaviourDetector(home=HomeNetworks(site.networks))
    found = pl.concat(
        finder.find(flows[at : at + BATCH_FLOWS]).with_columns(pl.col("row") + at)
        for at in range(0, flows.height, BATCH_FLOWS)
    )
    known = label_flows(flows, labels, otherwise="benign")
    at_rows = found.with_columns(
        label=known["label"].gather(found["row"]), src=flows["src_ip"].gather(found["row"]),
        dst=flows["dst_ip"].gather(found["row"]), time=flows["end"].gather(found["row"]),
    )  # fmt: skip
    instances = attack_instances(labels)
    kinds: dict[str, list[int]] = {}
    for one in instances.iter_rows(named=True):
        counts = kinds.setdefault(one["label"], [0, 0])
        counts[1] += 1
        counts[0] += _is_found(one, at_rows)
    attacks = set(ATTACKS) - {LOOK_ALIKE}
    false = _false_incidents(at_rows.filter(pl.col("severity") < 4), instances)
    benign = int((~known["label"].is_in(attacks)).sum())
    raised = dict(false["behaviour"].value_counts().iter_rows())
    print(seed, flows.height, {kind: tuple(pair) for kind, pair in kinds.items()}, raised, flush=True)
    return {"kinds": {kind: tuple(pair) for kind, pair in kinds.items()}, "benign_flows": benign, "false": raised}


def _false_incidents(found: pl.DataFrame, instances: pl.DataFrame) -> pl.DataFrame:
    """Return hosts and classes that are found though no attack of a like class has the host at either end."""
    host = pl.when(pl.col("role") == "source").then("src").otherwise("dst")
    of_hosts = instances.select(
        like=pl.col("class").map_elements(_like, pl.String), host=pl.concat_list("sources", "targets")
    ).explode("host")
    incidents = found.select("behaviour", "class", host.alias("host")).unique(["class", "host"])
    named = incidents.with_columns(like=pl.col("class").map_elements(_like, pl.String))
    return named.join(of_hosts.unique(), on=["like", "host"], how="anti")


def _like(name: str) -> str:
    return ALIKE.get(name, attack_class_of(name).name)


def _is_found(one: dict[str, Any], found: pl.DataFrame) -> bool:
    """Return whether a finding of a like class was raised at a flow between the instance's hosts, in its time."""
    alike = [name for name in found["class"].unique() if _like(name) == _like(one["class"])]
    ends = list({*one["sources"], *one["targets"]})
    between = pl.col("src").is_in(ends) & pl.col("dst").is_in(ends)
    during = pl.col("time").is_between(one["first"], one["last"] + pl.duration(minutes=5))
    return found.filter(between, during, pl.col("class").is_in(alike)).height > 0


if __name__ == "__main__":
    main()
