"""A real browser, and a day of a small network: a server that watches a log which the test writes."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from benchmarks.detection_speed import site_thresholds
from benchmarks.sensor_speed import FIELDS, zeek_fields, zeek_text

from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.schema import get_schema
from deepidea.flows.simulate import simulate_flows

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Yield Debian's Chromium, headless; skips where it is not installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Chromium absent: apt install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(QUIET))
        try:
            yield browser
        finally:
            browser.close()


@dataclass(slots=True)
class Network:
    """A log of a sensor that grows as the test says."""

    log: Path
    flows: pl.DataFrame = field(default_factory=lambda: simulate_flows(n_flows=4000, seed=11))
    n_written: int = 0

    def begin(self) -> None:
        self.log.write_text(next(zeek_text([])))

    def talk(self, label: str, n: int, **fixed: Any) -> None:
        """Write flows of a kind that end now; `fixed` are fields of the log."""
        kind = self.flows.filter(pl.col("label") == label)
        rows = pl.concat([kind] * (n // kind.height + 1)).head(n).to_dicts()
        with self.log.open("a") as log:
            for k, row in enumerate(rows):
                told = {**zeek_fields(self.n_written, row), **fixed}
                told["ts"] = time.time() - float(told.get("duration") or 0) - (n - k) * 0.05
                told["id.resp_p"] = fixed.get("id.resp_p", told["id.resp_p"])
                log.write("\t".join(str(told.get(name, "-")) for name in FIELDS.split()) + "\n")
                self.n_written += 1


def train_site_detector(path: Path) -> None:
    """Train a detector of what sensors tell, set thresholds by benign flows, and keep how it did on others."""
    from deepidea.detection.calibrate import with_thresholds
    from deepidea.evaluation.evaluate import evaluate_detector
    from deepidea.evaluation.summary import EVALUATION_ENTRY, summarise_evaluation
    from deepidea.model.presets import train_detector

    table, others = simulate_flows(n_flows=5000), simulate_flows(n_flows=2000, seed=21)
    schema = get_schema("conn").restrict(table.columns)
    flows, _ = labelled_flows_from_table(table, "label", "benign", schema=schema)
    detector = train_detector(flows, random_state=0, n_epochs=5, min_steps=500)
    held_out, _ = labelled_flows_from_table(others, "label", "benign", schema=schema)
    kept = detector.with_options(
        card={**detector.card, EVALUATION_ENTRY: summarise_evaluation(evaluate_detector(detector, held_out))}
    )
    with_thresholds(kept, site_thresholds(kept)).save(path)
