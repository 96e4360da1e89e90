"""How far simulated traffic is from captured traffic, counter by counter.

Captures of ordinary applications (``field/benign-captures``) and of attacks (``pcap``) are metered, and so are
simulated sites and simulated attacks of random strength. For each source, pair of hosts and service (pair and port) in
ten minutes the counters of `COUNTERS` are computed. Benign traffic is compared by the Kolmogorov-Smirnov distance of
each counter; a captured attack, which is one instance, by whether its counters lie within the middle 90 % of the
simulated instances of its kinds. A capture of an application is one conversation or a few, so a source in it has few
flows, hosts and bytes: there a distance says little.

Usage: python -m benchmarks.simulation_distances [--data DIR] [--sites 8] [--instances 40]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl

from benchmarks.markdown import table
from benchmarks.result_files import RESULTS, read_result, write_result
from deepidea.errors import DeepIDEAError
from deepidea.packets.meter import meter_capture
from deepidea.simulation.attacks import ATTACKS
from deepidea.simulation.one_attack import simulate_attack
from deepidea.simulation.simulate import simulate_capture

KEYS: dict[str, tuple[str, ...]] = {
    "source": ("src_ip",),
    "pair": ("src_ip", "dst_ip"),
    "service": ("src_ip", "dst_ip", "dst_port", "protocol"),
}
COUNTERS = ("flows", "packets", "ports", "hosts", "failed", "gap", "gap_spread", "same_size", "out", "in", "duration")
CAPTURED: dict[str, tuple[str, tuple[str, ...]]] = {
    "synscan": ("pair", ("port_scan",)),
    "tcp_scan": ("pair", ("port_scan", "stealth_scan")),
    "ssh-bruteforce": ("service", ("ssh_guessing",)),
    "ipv6-dos-6": ("service", ("icmp_flood", "udp_flood")),
    "dns_exfiltration": ("pair", ("dns_tunnel",)),
    "icmp-tunnel": ("pair", ("icmp_tunnel",)),
    "emotet": ("service", ("beacon", "dead_c2")),
    "test-cc-capture-2": ("service", ("beacon",)),
}
"""Attack captures by name: the key and the kinds that each is compared with. Web attacks are not simulated."""

_SHOWN = ("flows", "failed", "gap", "gap_spread", "same_size", "out", "in", "duration")
_WINDOW_US = 600_000_000
_REPEATED = 5  # flows of a key, from which gaps and sizes are compared


def behaviour(flows: pl.DataFrame, key: str) -> pl.DataFrame:
    """Return the counters of each key and window, one row each."""
    windows = _prepared(flows).group_by("capture", *KEYS[key], (pl.col("at_us") // _WINDOW_US).alias("window"))
    out, back = pl.col("out"), pl.col("in")
    near = out.is_between(0.8 * out.median(), 1.2 * out.median()) & back.is_between(
        0.8 * back.median(), 1.2 * back.median()
    )
    gaps = pl.col("at_us").sort().diff().drop_nulls() / 1e6
    repeated = pl.len() >= _REPEATED
    return windows.agg(
        flows=pl.len(),
        packets=pl.col("packets").sum(),
        ports=pl.col("dst_port").n_unique(),
        hosts=pl.col("dst_ip").n_unique(),
        failed=pl.col("failed").mean(),
        gap=pl.when(repeated).then(gaps.median()),
        gap_spread=pl.when(repeated).then((gaps - gaps.median()).abs().median() / (gaps.median() + 1e-9)),
        same_size=pl.when(repeated).then(near.mean()),
        out=out.sum(),
        **{"in": back.sum()},
        duration=pl.col("duration_us").median() / 1e6,
    )


def _prepared(flows: pl.DataFrame) -> pl.DataFrame:
    """Return the columns that counters are made of; multicast is never answered and never fails."""
    silent = pl.col("bwd_packets") == 0
    refused = (pl.col("fwd_bytes") + pl.col("bwd_bytes") == 0) & (pl.col("bwd_rst_flags") > 0)
    group = pl.col("dst_ip").str.contains(r"^(22[4-9]|23\d|ff|255\.)")
    return flows.select(
        "capture",
        *KEYS["service"],
        "duration_us",
        packets=pl.col("fwd_packets") + pl.col("bwd_packets"),
        at_us=pl.col("start").dt.epoch("us") - pl.col("start").dt.epoch("us").min().over("capture"),
        failed=(silent | ((pl.col("protocol").cast(pl.String) == "6") & refused)) & ~group,
        out=pl.col("fwd_bytes") + pl.col("fwd_header_bytes"),
        **{"in": pl.col("bwd_bytes") + pl.col("bwd_header_bytes")},
    )


def metered(captures: Iterable[Path]) -> pl.DataFrame:
    """Return the flows of captures with their names; captures that cannot be read as Ethernet are left out."""
    tables = []
    for path in captures:
        try:
            tables += [flows.with_columns(capture=pl.lit(path.stem)) for flows in meter_capture(path)]
        except DeepIDEAError as error:
            print(f"left out {path.name}: {error}")
    return pl.concat(tables)


def simulated_sites(n_sites: int) -> pl.DataFrame:
    """Return the flows of benign sites of ten minutes."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"site{seed}.pcap" for seed in range(n_sites)]
        for seed, path in enumerate(paths):
            hosts = (10, 20, 40)[seed % 3]
            simulate_capture(path, path.with_suffix(".csv"), seed=seed, hosts=hosts, attacks=(), snaplen=128)
        return metered(paths)


def simulated_attacks(kind: str, n_instances: int) -> pl.DataFrame:
    """Return the flows of instances of an attack of random strength."""
    attack, tables = ATTACKS[kind], []
    for seed in range(n_instances):
        strength = attack.draw(Random(f"{kind} {seed}"))
        flows = simulate_attack(kind, strength, seed=seed).flows()
        tables.append(flows.with_columns(capture=pl.lit(f"{kind} {seed}")))
    return pl.concat(tables)


def busiest(windows: pl.DataFrame) -> pl.DataFrame:
    """Return the window with most packets of each capture."""
    return windows.sort("packets", "flows", descending=True).unique("capture", keep="first", maintain_order=True)


def ks_distance(one: pl.Series, other: pl.Series) -> float:
    """Return the largest difference between two empirical distributions.

    Examples
    --------
    >>> ks_distance(pl.Series([1, 2]), pl.Series([1, 2])), ks_distance(pl.Series([1, 2]), pl.Series([3]))
    (0.0, 1.0)
    """
    left, right = one.drop_nulls().sort().to_numpy(), other.drop_nulls().sort().to_numpy()
    at = np.concatenate([left, right])
    shares = (np.searchsorted(side, at, side="right") / len(side) for side in (left, right))
    return float(np.abs(np.subtract(*shares)).max())


def benign_distances(captured: pl.DataFrame, simulated: pl.DataFrame) -> dict[str, Any]:
    """Return by key and counter: the distance, and both medians."""
    return {key: _distances(behaviour(captured, key), behaviour(simulated, key)) for key in KEYS}


def _distances(captured: pl.DataFrame, simulated: pl.DataFrame) -> dict[str, Any]:
    return {
        name: {
            "ks": round(ks_distance(captured[name], simulated[name]), 3),
            "captured": _quartiles(captured[name]),
            "simulated": _quartiles(simulated[name]),
        }
        for name in COUNTERS
    }


def _quartiles(values: pl.Series) -> list[float | None]:
    """Return the quartiles, and how many values there are."""
    known = values.cast(pl.Float64).drop_nulls()
    return [*(_rounded(known.quantile(share)) for share in (0.25, 0.5, 0.75)), len(known)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def attack_ranges(captured: pl.DataFrame, n_instances: int) -> dict[str, Any]:
    """Return for each captured attack and kind: each counter, its simulated range, and which are within it."""
    found = {}
    for capture, (key, kinds) in CAPTURED.items():
        [real] = busiest(behaviour(captured.filter(pl.col("capture") == capture), key)).to_dicts()
        found[capture] = {
            kind: _within(real, busiest(behaviour(simulated_attacks(kind, n_instances), key))) for kind in kinds
        }
    return found


def _within(real: dict[str, Any], simulated: pl.DataFrame) -> dict[str, Any]:
    counters = {}
    for name in COUNTERS:
        low, middle, high = (_rounded(simulated[name].cast(pl.Float64).quantile(share)) for share in (0.05, 0.5, 0.95))
        value = _rounded(real[name])
        if value is not None and low is not None and high is not None:
            within = low <= value <= high
            counters[name] = {"captured": value, "simulated": [low, middle, high], "within": within}
    return {"counters": counters, "within": sum(each["within"] for each in counters.values()), "of": len(counters)}


def distances_table() -> str:
    """Return the distances of benign traffic and the places of captured attacks as Markdown.

    Sources are left out: a capture of one application has hardly any source with more than one conversation.
    """
    result = read_result("simulation_distances")
    rows = [[key, *(f"{result['benign'][key][name]['ks']:.2f}" for name in _SHOWN)] for key in ("pair", "service")]
    best = {capture: max(kinds.values(), key=_share) for capture, kinds in result["attacks"].items()}
    attacks = ", ".join(f"{capture} {of['within']}/{of['of']}" for capture, of in best.items())
    distances = table(["per", *(name.replace("_", " ") for name in _SHOWN)], rows)
    return f"{distances}\n\nCounters of captured attacks in the middle 90 % of their nearest simulated kind: {attacks}."


def _share(ranges: dict[str, Any]) -> float:
    return float(ranges["within"] / ranges["of"])


TABLES = {"simulation-distances": distances_table}


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DEEPIDEA_DATA", "../shared/data")))
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--instances", type=int, default=40)
    options = parser.parse_args()
    benign = metered(sorted((options.data / "field" / "benign-captures").iterdir()))
    attacks = metered(path for path in sorted((options.data / "pcap").iterdir()) if path.stem in CAPTURED)
    figures = {
        "sites": options.sites,
        "instances": options.instances,
        "benign": benign_distances(benign, simulated_sites(options.sites)),
        "attacks": attack_ranges(attacks, options.instances),
    }
    write_result(RESULTS / "simulation_distances.json", figures)
    print(distances_table())


if __name__ == "__main__":
    main()
