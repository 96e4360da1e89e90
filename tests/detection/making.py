"""Alerts for tests."""

from __future__ import annotations

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


def alerts_of(rows: Sequence[Mapping[str, Any]], **same: Any) -> pl.DataFrame:
    """Return an alert for each row: its own entries, those of all, those of `ONE`; ``at_s`` is past noon."""
    full = [{**ONE, **same, **row} for row in rows]
    table = pl.DataFrame(full, infer_schema_length=None) if full else pl.DataFrame([ONE]).clear()
    times = pl.Series("end", [NOON + timedelta(seconds=row["at_s"]) for row in full], IDENTITY["end"])
    verdicts = table.select("class", "score", p_benign=1 - pl.col("score"), p_attack=pl.col("score"))
    flows = table.drop("at_s", "class", "score").with_columns(
        times, times.alias("start"), fwd_packets=pl.lit(3.0), bwd_packets=pl.lit(2.0), bytes_per_s=pl.lit(12.5)
    )
    return make_alerts(flows, verdicts, pl.Series([True] * len(full), dtype=pl.Boolean), model="5eed")


def sweep(n: int, *, first: int = 1, **same: Any) -> pl.DataFrame:
    """Return the alerts of a scan of n ports, one each 10 ms."""
    return alerts_of([{"at_s": 0.01 * k, "dst_port": k % 65_536} for k in range(first, first + n)], **same)
