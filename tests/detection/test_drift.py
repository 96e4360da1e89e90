"""Drift: held-out flows are stable, other ones are not; any batches give the same counts; unknown has a reason."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.detection.drift import (
    LEAST_FLOWS,
    NO_REFERENCE,
    RULE,
    SAMPLED,
    Baseline,
    DriftMonitor,
    DriftReport,
    drift_report,
    slots_of,
    stored_drift,
)
from deepidea.detection.engine import Engine, fingerprint
from deepidea.errors import StoreError
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.simulate import simulate_flows
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector
from deepidea.model.reference import Bins, Words
from tests.conftest import Command
from tests.detection.test_engine import Tables
from tests.stores import Store, open_store

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def detector() -> Detector:
    flows, _ = labelled_flows_from_table(simulate_flows(n_flows=4000), "label", "benign")
    return train_detector(flows, random_state=0, n_epochs=3, min_steps=200)


@pytest.fixture(scope="module")
def held_out() -> pl.DataFrame:
    return at(simulate_flows(n_flows=3000, seed=9))


def at(flows: pl.DataFrame, when: datetime = NOON) -> pl.DataFrame:
    return flows.with_columns(end=pl.lit(when).cast(pl.Datetime("us", "UTC")))


def other_network(flows: pl.DataFrame) -> pl.DataFrame:
    """Return flows of a network where everything is slower and larger, and speaks another protocol."""
    numbers = [name for name, dtype in flows.schema.items() if dtype.is_float()]
    return flows.with_columns(pl.col(numbers) * 7 + 3)


def drift_of(store: Store, **asked: Any) -> DriftReport:
    with store.read() as connection:
        return stored_drift(connection, **asked)


def watch(detector: Detector, flows: pl.DataFrame, store: Store, size: int = 200) -> DriftReport:
    Engine(Tables(flows, size), detector, store).run(threading.Event())
    return drift_of(store)


def test_held_out_flows_of_the_same_data_are_stable(detector: Detector, held_out: pl.DataFrame, store: Store) -> None:
    report = watch(detector, held_out, store)
    assert report.light == "green", report.reason
    assert report.n_flows == 3000
    assert {feature.status for feature in (*report.features, report.score) if feature} == {"stable"}
    assert report.sentence == "The traffic is like the traffic that this model was trained on."


def test_another_network_is_red(detector: Detector, held_out: pl.DataFrame, sqlite_store: Store) -> None:
    report = watch(detector, other_network(held_out), sqlite_store)
    assert report.light == "red"
    assert report.sentence == "This model was not trained on traffic like this."
    assert report.features[0].status == "shifted"
    assert re.search(r"^above .+ in [\d.]+ % of flows, in training [\d.]+ %$", report.features[0].change)
    assert report.rule == RULE


@pytest.mark.parametrize("n", [LEAST_FLOWS, 400, 2000])
def test_chance_is_no_drift(detector: Detector, n: int) -> None:
    baseline = Baseline.of(detector, "m")
    assert baseline is not None
    rng = np.random.default_rng(n)
    lights = []
    for _ in range(20):
        counts = [rng.multinomial(n, shares / shares.sum()) for shares in map(slots_of, baseline.kinds)]
        lights.append(drift_report(baseline, [0], [n], np.concatenate(counts).astype(np.uint32)[None]).light)
    assert set(lights) == {"green"}


def test_too_few_flows_are_unknown(detector: Detector, held_out: pl.DataFrame, sqlite_store: Store) -> None:
    report = watch(detector, held_out.head(LEAST_FLOWS - 1), sqlite_store)
    assert report.light == "unknown"
    assert f"{LEAST_FLOWS} are needed" in report.sentence


@settings(max_examples=20)
@given(st.integers(1, 900), st.integers(1, 50))
def test_a_sample_is_bounded_and_places_are_those_of_the_reference(n: int, seed: int) -> None:
    detector, flows = _known()
    flows = flows.sample(n, seed=seed)
    monitor = DriftMonitor(detector, "m")
    conformed = detector.schema.conform(flows)
    (binned,) = monitor.count(conformed, detector.score_conformed(conformed)["score"], flows)
    assert binned.n_flows == min(n, SAMPLED)
    sample = conformed[np.arange(binned.n_flows) * n // binned.n_flows]
    first = 0
    for name, kind in monitor.baselines[0].bins.items():
        width = len(kind.shares) + isinstance(kind, Bins)
        here = binned.counts[first : first + width]
        assert here.sum() == binned.n_flows
        if isinstance(kind, Words):
            assert here[-1] == (~sample[name].is_in(list(kind.words)).fill_null(False)).sum()
        else:
            places = kind.places(sample[name].cast(pl.Float32).to_numpy())
            assert here[:-1].tolist() == np.bincount(places, minlength=width - 1).tolist()
        first += width


_KEPT: list[Any] = []


def _known() -> tuple[Detector, pl.DataFrame]:
    if not _KEPT:
        table = simulate_flows(n_flows=1000)
        flows, _ = labelled_flows_from_table(table, "label", "benign")
        _KEPT.extend((train_detector(flows, random_state=0, n_epochs=1, min_steps=50), at(table)))
    return _KEPT[0], _KEPT[1]


def test_hours_add_up_whatever_the_batches_and_restarts(
    detector: Detector, held_out: pl.DataFrame, tmp_path: Any
) -> None:
    parts = [at(part, NOON + timedelta(hours=k)) for k, part in enumerate(held_out.head(900).iter_slices(300))]
    reports = []
    for size in (100, 250):
        url = f"sqlite:///{tmp_path}/{size}.db"
        for upto in (450, 900):
            with open_store(url) as store:
                report = watch(detector, pl.concat(parts).head(upto), store, size)
        reports.append(report)
    first, second = reports
    assert first.hours.equals(second.hours)
    assert first.hours["n_flows"].to_list() == [300, 300, 300]
    assert (first.since, first.until) == (NOON, NOON + timedelta(hours=3))
    assert first.feature_hours.width == 1 + len(first.features)


def test_an_older_file_without_a_reference_is_unknown(detector: Detector, held_out: pl.DataFrame, store: Store) -> None:
    report = watch(detector.with_options(reference=None), held_out, store)
    assert (report.light, report.reason) == ("unknown", NO_REFERENCE)
    assert "train again" in report.sentence
    assert report.to_dict()["features"] == []


def test_the_reference_of_the_site_goes_before_training(
    detector: Detector, held_out: pl.DataFrame, sqlite_store: Store
) -> None:
    site = detector.with_options(site_reference=detector.reference, reference=detector.reference)
    assert watch(site, held_out, sqlite_store).against == "site"
    assert drift_of(sqlite_store, against="training").against == "training"
    assert drift_of(sqlite_store, against="training").light == "green"


def test_counts_by_other_bins_are_not_mixed(detector: Detector, held_out: pl.DataFrame, sqlite_store: Store) -> None:
    watch(detector, held_out.head(1000), sqlite_store)
    assert detector.reference is not None
    other = replace(detector.reference, score_bins=Bins((0.5,), (0.5, 0.5)))
    nothing = sqlite_store.alerts().rows.drop("source").clear()
    sqlite_store.commit_batch("tables", {"rows": 0}, nothing, n_flows=0)  # read from the start again
    report = watch(detector.with_options(reference=other), held_out.head(600), sqlite_store)
    assert report.n_flows == 600


def test_a_baseline_survives_its_json(detector: Detector) -> None:
    baseline = Baseline.of(detector, "m")
    assert baseline is not None
    back = Baseline.from_json(baseline.to_json())
    assert (back.bins, back.score_bins, back.n_flows) == (baseline.bins, baseline.score_bins, baseline.n_flows)
    with pytest.raises(StoreError, match="drift reference"):
        Baseline.from_json('{"model": "m"}')


def test_missing_numbers_are_a_change() -> None:
    detector, _ = _known()
    known = Baseline.of(detector, "m")
    assert known is not None
    name = known.schema.numbers[0]
    baseline = Baseline("m", "training", known.schema, {name: Bins((1.0,), (0.5, 0.5))}, Bins((0.5,), (0.9, 0.1)), 1000)
    report = drift_report(baseline, [0], [1000], np.array([[250, 250, 500, 900, 100, 0]], np.uint32))
    assert report.features[0].change == "missing in 50 % of flows, in training 0 %"
    assert report.features[0].psi > 1


def test_the_command_prints_light_and_sentence(
    detector: Detector, held_out: pl.DataFrame, tmp_path: Any, command: Command
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with open_store(url) as store:
        watch(detector, held_out, store)
    detector.save(tmp_path / "m.idea")
    ran = command("drift", "--store", url, "--model", tmp_path / "m.idea")
    assert ran.code == 0
    assert ran.out.startswith("green  The traffic is like the traffic that this model was trained on.")
    report = json.loads(command("drift", "--store", url, "--json").out)
    assert (report["light"], report["model"], len(report["hours"])) == ("green", fingerprint(detector), 1)


@pytest.mark.data
def test_nsl_kdd_held_out_is_stable_and_its_test_set_is_not(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepidea.flows.datasets.loading import load_dataset

    monkeypatch.setenv("DEEPIDEA_DATA", str(data_root))
    data = load_dataset("nsl-kdd")
    assert data.test is not None
    rows = np.random.default_rng(0).permutation(len(data.train))
    detector = train_detector(data.train.take(np.sort(rows[:20_000])), random_state=0, n_epochs=1)
    monitor = DriftMonitor(detector, "m")

    def light(flows: pl.DataFrame) -> str:
        binned = []
        for part in flows.iter_slices(SAMPLED):
            conformed = detector.schema.conform(part)
            binned += monitor.count(conformed, detector.score_conformed(conformed)["score"], at(part))
        counts = np.stack([one.counts for one in binned]).sum(axis=0, dtype=np.uint32)
        return drift_report(monitor.baselines[0], [0], [flows.height], counts[None]).light

    assert light(data.train.features[rows[20_000:40_000]]) == "green"
    assert light(data.test.features) in ("amber", "red")
