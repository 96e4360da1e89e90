"""Flows in the columns that every sensor gives, made for the tests of behaviours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from tests.detection.making import NOON

OUTSIDE = "203.0.113.9"
REFUSED: Mapping[str, Any] = {
    "at_s": 0.0,
    "duration_s": 0.0,
    "src_ip": "10.0.0.5",
    "src_port": 40_000,
    "dst_ip": "10.0.0.9",
    "dst_port": 22,
    "protocol": "tcp",
    "fwd_packets": 1,
    "bwd_packets": 1,
    "fwd_bytes": 44,
    "bwd_bytes": 40,
}
"""A TCP attempt that a reset answers; ``at_s`` is when it ends, past noon."""
UNANSWERED = {"bwd_packets": 0, "bwd_bytes": 0}
LOGIN = {"fwd_packets": 10, "fwd_bytes": 1_900, "bwd_packets": 10, "bwd_bytes": 2_400, "duration_s": 1.5}


def conn_flows(rows: Sequence[Mapping[str, Any]], **same: Any) -> pl.DataFrame:
    """Return `conn` flows: of each row its own entries, those of all, those of `REFUSED`."""
    table = pl.DataFrame([{**REFUSED, **same, **row} for row in rows], infer_schema_length=None)
    past_us = (pl.col("at_s") * 1e6).round().cast(pl.Int64).cast(pl.Duration("us"))
    lasted_us = (pl.col("duration_s") * 1e6).round().cast(pl.Int64).cast(pl.Duration("us"))
    return table.with_columns(end=NOON + past_us, start=NOON + past_us - lasted_us).drop("at_s")


def scan(n: int, *, gap_s: float = 0.01, first: int = 1, **same: Any) -> pl.DataFrame:
    """Return the flows of a scan of n ports of one host."""
    return conn_flows([{"at_s": gap_s * k, "dst_port": k} for k in range(first, first + n)], **same)


def random_flows(seed: int, n: int, *, n_hosts: int = 6) -> pl.DataFrame:
    """Return flows of a few hosts, inside and outside, that fail, answer, wait and repeat over hours."""
    rng = np.random.default_rng(seed)
    hosts = np.array([*(f"10.0.0.{i}" for i in range(n_hosts)), OUTSIDE, "2001:db8::7", "224.0.0.251", "?"])
    steps = rng.choice([0.0, 0.001, 0.5, -0.2, 30.0, 2_000.0], n, p=[0.3, 0.4, 0.2, 0.05, 0.04, 0.01])
    replies = rng.integers(0, 4, n)
    columns = {
        "at_s": np.cumsum(steps), "duration_s": rng.choice([0.0, 0.2, 15.0], n), "src_ip": rng.choice(hosts[:-2], n),
        "src_port": rng.integers(1024, 1064, n), "dst_ip": rng.choice(hosts, n),
        "dst_port": rng.choice([22, 53, 80, 443, 5432, *range(7000, 7020)], n),
        "protocol": rng.choice(["tcp", "udp", "icmp"], n, p=[0.7, 0.2, 0.1]), "fwd_packets": 1 + replies,
        "bwd_packets": replies, "fwd_bytes": 60 * (1 + replies), "bwd_bytes": 40 * replies,
    }  # fmt: skip
    table = pl.DataFrame(columns)
    flows = conn_flows(table.rows(named=True))
    return flows.with_columns(dst_ip=pl.when(pl.col("dst_ip") != "?").then("dst_ip"))
