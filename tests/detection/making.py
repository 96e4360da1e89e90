"""Alerts for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from deepidea.detection.alerts import make_alerts
from deepidea.flows.identity import IDENTITY

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
ONE: Mapping[str, Any] = {
    "at_s": 0.0,
    "src_ip": "192.0.2.7",
    "src_port": 40_000,
    "dst_ip": "198.51.100.1",
    "dst_port": 22,
    "protocol": "tcp",
    "class": "port_scan",
    "score": 0.99,
}


def alerts_of(rows: Sequence[Mapping[str, Any]], *, findings: pl.DataFrame | None = None, **same: Any) -> pl.DataFrame:
    """Return an alert for each row: its own entries, those of all, those of `ONE`; ``at_s`` is past noon."""
    full = [{**ONE, **same, **row} for row in rows]
    table = pl.DataFrame(full, infer_schema_length=None) if full else pl.DataFrame([ONE]).clear()
    times = pl.Series("end", [NOON + timedelta(seconds=row["at_s"]) for row in full], IDENTITY["end"])
    verdicts = table.select("class", "score", p_benign=1 - pl.col("score"), p_attack=pl.col("score"))
    flows = table.drop("at_s", "class", "score").with_columns(
        times, times.alias("start"), fwd_packets=pl.lit(3.0), bwd_packets=pl.lit(2.0), bytes_per_s=pl.lit(12.5)
    )
    selected = pl.Series([True] * len(full), dtype=pl.Boolean)
    return make_alerts(flows, verdicts, selected, findings=findings, model="5eed")


FINDING: Mapping[str, Any] = {
    "behaviour": "port_scan_vertical",
    "role": "source",
    "sentence": "42 ports of 1 host, 95 % refused, 5 s",
    "severity": 3,
}
OF_FINDING: Mapping[str, Any] = {
    "window_s": 600,
    "key": "pair",
    "counts": {"ports": 42, "failed_share": 0.95},
    "thresholds": {"ports": 8},
    "margin": 5.25,
    "technique": "T1046",
    "direction": "inside",
}


def findings_of(rows: Sequence[Mapping[str, Any]], **same: Any) -> pl.DataFrame:
    """Return the alert of a finding for each row, as `alerts_of` does; `FINDING` is what rows do not name.

    What the finding itself has, ``counts``, ``direction`` and so on, comes from the rows too, else from `OF_FINDING`.
    """
    full = [{**ONE, **FINDING, **OF_FINDING, **same, **row} for row in rows]
    findings = pl.DataFrame(
        [
            {name: row[name] for name in (*FINDING, "class", "score")}
            | {"finding": json.dumps({name: row[name] for name in OF_FINDING})}
            for row in full
        ]
    )
    return alerts_of([{name: row[name] for name in ONE} for row in full], findings=findings)


def sweep(n: int, *, first: int = 1, **same: Any) -> pl.DataFrame:
    """Return the alerts of a scan of n ports, one each 10 ms."""
    return alerts_of([{"at_s": 0.01 * k, "dst_port": k % 65_536} for k in range(first, first + n)], **same)
