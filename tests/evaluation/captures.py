"""Small captures in the files of the CIC data sets, with times and addresses."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from deepidea.flows.datasets.loading import add_dataset
from tests.flows.datasets.test_loading import REQUIRED

DAYS = {
    "monday": ("FTP-Patator", "SSH-Patator"),
    "wednesday": ("DoS Hulk", "DoS GoldenEye", "DDoS"),
    "friday": ("PortScan", "Botnet"),
}


def capture_table(day: str, seed: int = 0, n_flows: int = 180) -> pl.DataFrame:
    """Return a day's flows: benign ones and attacks in turn, all day long; a fifth repeats features of others."""
    place = list(DAYS).index(day)
    rng, date = np.random.default_rng([seed, place]), datetime(2017, 7, 3 + 2 * place, 9)
    kinds = ("BENIGN", "BENIGN", *DAYS[day])
    labels = [kinds[row % len(kinds)] for row in range(n_flows)]
    times = [date + timedelta(hours=hour) for hour in rng.uniform(0, 8, n_flows).tolist()]
    features = {name: rng.integers(0, 1000, n_flows) for name in REQUIRED}
    source = np.where(rng.random(n_flows) < 0.8, np.arange(n_flows), rng.integers(0, n_flows, n_flows))
    ends = rng.integers(1, 12, (n_flows, 2))
    return pl.DataFrame(
        {
            "id": np.arange(n_flows),
            "Flow ID": [f"{day}-{row}" for row in range(n_flows)],
            "Src IP": [f"10.0.0.{end}" for end in ends[:, 0]],
            "Src Port": rng.integers(1024, 65535, n_flows),
            "Dst IP": [f"10.0.0.{end}" for end in ends[:, 1]],
            "Dst Port": rng.choice([21, 80, 443], n_flows),
            "Protocol": rng.choice([6, 17], n_flows)[source],
            "Timestamp": [f"{time:%Y-%m-%d %H:%M:%S.%f}" for time in times],
            **{name: values[source] for name, values in features.items()},
            "Attempted Category": [-1] * n_flows,
            "Label": labels,
        }
    )


def add_improved(folder: Path, tables: dict[str, pl.DataFrame] | None = None) -> None:
    """Register a small corrected CICIDS2017."""
    folder.mkdir(parents=True, exist_ok=True)
    for day, table in (tables or {day: capture_table(day) for day in DAYS}).items():
        table.write_csv(folder / f"{day}.csv")
    add_dataset("cicids17-improved", folder)


def add_original(folder: Path) -> None:
    """Register a small CICIDS2017 as published for machine learning: no times, no addresses, files named by day."""
    folder.mkdir(parents=True, exist_ok=True)
    hidden = ("id", "Flow ID", "Src IP", "Src Port", "Dst IP", "Protocol", "Timestamp", "Attempted Category")
    for day in DAYS:
        table = capture_table(day, seed=1).drop(hidden).with_columns(pl.col("Label").replace({"Botnet": "Bot"}))
        table.write_csv(folder / f"{day.title()}-WorkingHours.pcap_ISCX.csv")
    add_dataset("cicids17", folder)
