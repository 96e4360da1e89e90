"""Adaptation: the promised rate on a shifted network, from few flows, with attacks among them, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from deepidea.detection.adapt import LEAST_FLOWS, adapt_to
from deepidea.errors import ArtifactError, DataError
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.model.detector import Detector
from deepidea.model.estimators import DeepIDEAClassifier
from deepidea.model.graph import read_ellipsoids
from deepidea.model.presets import train_detector


def traffic(n_flows: int, seed: int, *, shift: float = 0.0, attacks: float = 0.4) -> pl.DataFrame:
    """Return flows with their label: benign ones move by the shift, attacks stay where they are."""
    rng = np.random.default_rng(seed)
    label = rng.choice(["benign", "flood", "scan"], n_flows, p=[1 - attacks, attacks / 2, attacks / 2])
    centres = {"benign": (shift, shift, 0.0, 0.0), "flood": (6.0, 0.0, 6.0, 0.0), "scan": (0.0, 6.0, 0.0, 6.0)}
    values = np.array([centres[name] for name in label]) + rng.normal(size=(n_flows, 4))
    return pl.DataFrame({f"x{j}": values[:, j] for j in range(4)} | {"label": label})


def trained(**changes: object) -> Detector:
    flows, _ = labelled_flows_from_table(traffic(2000, 0), "label", "benign")
    options = {"hidden": (16, 16), "min_steps": 300, "random_state": 0, "number_encoding": "thermometer"}
    return train_detector(flows, **{**options, **changes})


@pytest.fixture(scope="module")
def detector() -> Detector:
    return trained()


def benign(n_flows: int, seed: int, shift: float = 2.0) -> pl.DataFrame:
    return traffic(n_flows, seed, shift=shift, attacks=0.0).drop("label")


def rate(done, flows: pl.DataFrame) -> float:
    return float(done.thresholds.above_threshold(done.detector.score(flows)).mean())


@pytest.mark.parametrize("train", [False, True])
def test_the_rate_is_kept_on_a_shifted_network_and_attacks_are_found(detector: Detector, train: bool) -> None:
    done = adapt_to(detector, benign(1000, 1), 0.02, train=train)
    attacks = traffic(2000, 3).filter(pl.col("label") != "benign")
    assert rate(done, benign(4000, 2)) < 0.03
    assert rate(done, attacks) > 0.9
    assert bool(done.not_trained) is not train
    assert {recall.name for recall in done.recalls} == {"flood", "scan"}
    assert min(recall.adapted for recall in done.recalls) > 0.8


def test_the_order_of_flows_does_not_matter(detector: Detector) -> None:
    flows = benign(300, 1)
    one, other = (adapt_to(detector, each, 0.02, train=False) for each in (flows, flows.reverse()))
    assert one.detector.graph == other.detector.graph
    assert one.detector.score(flows).equals(other.detector.score(flows))


def test_fifty_flows_suffice_and_the_rate_is_called_extrapolated(detector: Detector) -> None:
    done = adapt_to(detector, benign(LEAST_FLOWS, 1), 0.01, train=False)
    assert "extrapolated from n = 50" in done.thresholds.guarantee
    assert rate(done, benign(4000, 2)) < 0.1
    with pytest.raises(DataError, match="at least 50 benign flows, site has 49"):
        adapt_to(detector, benign(LEAST_FLOWS - 1, 1), 0.01)


def test_attacks_among_the_flows_are_set_aside(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = traffic(4000, 5).filter(pl.col("label") == "flood").head(20).drop("label")
    done = adapt_to(detector, pl.concat([benign(2000, 1, shift=0.5), hidden]), 0.005, train=False)
    found = traffic(4000, 6).filter(pl.col("label") == "flood")
    assert 15 <= done.n_set_aside <= 20
    assert (done.set_aside["looks_like"] == "flood").mean() > 0.7
    assert done.set_aside.join(hidden, on=hidden.columns).height >= 15
    monkeypatch.setattr("deepidea.detection.adapt.MOST_SET_ASIDE", 0.0)
    kept = adapt_to(detector, pl.concat([benign(2000, 1, shift=0.5), hidden]), 0.005, train=False)
    assert rate(done, found) > rate(kept, found) + 0.1


def test_an_adapted_detector_survives_its_file(detector: Detector, tmp_path: Path) -> None:
    done = adapt_to(detector, benign(300, 1), 0.02, train=True)
    done.detector.save(tmp_path / "site.idea")
    kept, flows = Detector.load(tmp_path / "site.idea"), traffic(200, 7).drop("label")
    assert kept.score(flows).equals(done.detector.score(flows))
    assert kept.card["adapted"] == {
        "from": detector.fingerprint,
        "n_flows": 300,
        "n_set_aside": done.n_set_aside,
        "trained": True,
    }
    assert kept.fingerprint != detector.fingerprint
    again = adapt_to(kept, benign(300, 2), 0.02, train=True)
    assert again.detector.sample is not None


def test_a_file_without_a_sample_keeps_its_ellipsoid_of_attacks(detector: Detector) -> None:
    done = adapt_to(detector.with_options(sample=None), benign(300, 1), 0.02)
    assert "lacks a sample of training's flows" in done.not_trained
    assert done.recalls == ()
    before, after = (read_ellipsoids(each.graph) for each in (detector, done.detector))
    assert before is not None
    assert after is not None
    assert (before[1].axes == after[1].axes).all()
    with pytest.raises(ArtifactError, match="cannot train: the detector file lacks a sample"):
        adapt_to(detector.with_options(sample=None), benign(300, 1), 0.02, train=True)


def test_few_flows_and_scaled_numbers_are_not_trained_on_unless_asked(detector: Detector) -> None:
    assert adapt_to(detector, benign(300, 1), 0.02).not_trained == "fewer than 2,000 flows"
    scaled = trained(number_encoding="scaled", novelty="none")
    assert adapt_to(scaled, benign(300, 1), 0.02).not_trained == "numbers are scaled, not encoded in steps"
    assert adapt_to(scaled, benign(300, 1), 0.02, train=True).not_trained == ""


def test_a_detector_that_cannot_be_adapted_is_refused() -> None:
    table, options = traffic(300, 0), {"random_state": 0, "min_steps": 10}
    flat = DeepIDEAClassifier(hidden=(), **options).fit(table.drop("label"), table["label"]).to_detector()
    with pytest.raises(ArtifactError, match="without a hidden layer"):
        adapt_to(flat, benign(100, 1), 0.02)
    bare = DeepIDEAClassifier(hidden=(4,), novelty="none", **options).fit(table.drop("label"), table["label"])
    with pytest.raises(ArtifactError, match="neither attacks of training nor distances"):
        adapt_to(bare.to_detector().with_options(sample=None), benign(100, 1), 0.02)


def test_without_torch_the_rest_is_adapted(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "model.idea")
    benign(2000, 1).write_parquet(tmp_path / "flows.parquet")
    script = f"""
import sys
for name in ("torch", "sklearn", "safetensors"):
    sys.modules[name] = None
import polars as pl
from deepidea import Detector
from deepidea.detection.adapt import adapt_to
detector = Detector.load({str(tmp_path / "model.idea")!r})
print(adapt_to(detector, pl.read_parquet({str(tmp_path / "flows.parquet")!r}), 0.1).not_trained)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "install them with: pip install 'deepidea[train]'" in run.stdout, run.stderr
