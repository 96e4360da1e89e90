"""Stand-ins for a detector and for labelled flows, small enough to reckon by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from deepidea.flows.labelled import LabelledFlows
from deepidea.flows.schema import Column, Schema

SCHEMA = Schema("custom", (Column("evidence", "number"), Column("size", "number"), Column("protocol", "category")))
CLASSES = ("benign", "dos", "probe")


def labelled(table, classes, source="fake/test"):
    return LabelledFlows(table, classes, classes, SCHEMA, CLASSES, source)


@dataclass(frozen=True)
class FakeDetector:
    """Believes the evidence: the higher it is, the more attack-like; the protocol tells which attack."""

    classes: tuple[str, ...] = CLASSES
    schema: Schema = SCHEMA
    manifest: dict = field(default_factory=dict)
    training_fingerprints: np.ndarray | None = None

    def score(self, table):
        attack = 1 / (1 + np.exp(-table["evidence"].to_numpy()))
        likely = (table["protocol"] == "icmp").to_numpy() * 0.8 + 0.1
        shares = [1 - attack, attack * (1 - likely), attack * likely] + [0 * attack] * (len(self.classes) - 3)
        probabilities = np.stack(shares, axis=1).astype(np.float32)
        names = pl.Series(self.classes).gather(probabilities.argmax(axis=1))
        columns = {f"p_{name}": probabilities[:, at] for at, name in enumerate(self.classes)}
        return pl.DataFrame({"class": names, "score": attack.astype(np.float32), **columns})


def draw_flows(n_rows, seed=0, grid=None):
    """Draw flows whose evidence tells attack from benign fairly well; a coarse grid makes many twins."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n_rows, p=[0.8, 0.15, 0.05])
    evidence = rng.normal(np.array([-3.0, 2.5, 1.5])[truth], 1.5)
    evidence = evidence if grid is None else np.rint(evidence / grid) * grid
    icmp = rng.random(n_rows) < np.array([0.3, 0.1, 0.85])[truth]
    protocol = pl.Series(np.where(icmp, "icmp", "tcp").tolist(), dtype=pl.String)
    table = pl.DataFrame({"evidence": evidence, "size": np.zeros(n_rows), "protocol": protocol})
    return labelled(table, pl.Series([CLASSES[at] for at in truth.tolist()]))
