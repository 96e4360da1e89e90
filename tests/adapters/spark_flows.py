"""Flows that are scored on Spark in tests, and what must come out."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from deepidea.flows.simulate import simulate_flows
from deepidea.model.detector import Detector

FLOWS = simulate_flows(n_flows=4000, seed=3)


def expected(model: Path, flows: pl.DataFrame = FLOWS) -> pl.DataFrame:
    return pl.concat([flows, Detector.load(model).score(flows)], how="horizontal")


def same_rows(left: pl.DataFrame, right: pl.DataFrame) -> bool:
    """Whether two tables hold the same rows, bit for bit, in any order."""
    left = left.select(right.columns)
    return left.sort(pl.all()).equals(right.sort(pl.all()))


def read_back(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(f"{folder}/**/*.parquet", hive_partitioning=False)


def write(kind: str, folder: Path) -> None:
    folder.mkdir()
    for j in range(0, FLOWS.height, 1000):
        part, path = FLOWS.slice(j, 1000), folder / f"part-{j}.{kind}"
        getattr(part, {"parquet": "write_parquet", "csv": "write_csv", "jsonl": "write_ndjson"}[kind])(path)
