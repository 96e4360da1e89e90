"""From an alert in a store, or a row of a file, to why."""

import json
import threading

import numpy as np
import polars as pl
import pytest

from deepidea.detection.alerting import Thresholds
from deepidea.detection.calibrate import SITE_ROWS, calibrate, with_thresholds
from deepidea.detection.engine import Engine
from deepidea.detection.explain import explain_alert, explain_rows
from deepidea.errors import DataError
from deepidea.flows.context import HostContext
from deepidea.flows.schema import get_schema
from deepidea.flows.simulate import simulate_flows
from deepidea.model.detector import Detector
from deepidea.model.estimators import DeepIDEAClassifier
from deepidea.model.explain import Explainer
from tests.detection.test_engine import Tables, detector, flows, stored  # noqa: F401 - fixtures


@pytest.fixture
def alerts(detector, flows, sqlite_store):  # noqa: F811
    Engine(Tables(flows), detector, sqlite_store).run(threading.Event())
    return stored(sqlite_store)


def test_a_stored_alert_is_explained_as_its_flow_is(detector, flows, alerts):  # noqa: F811
    verdicts = detector.score(flows)
    chosen = flows.filter(verdicts["score"] > 0.5).with_row_index()
    expected = {row["src_port"]: row["index"] for row in chosen.iter_rows(named=True)}
    explainer = Explainer(detector)
    for alert in alerts.head(10).iter_rows(named=True):
        explanation = explain_alert(detector, alert, explainer=explainer)
        [direct] = explainer.explain(chosen[expected[alert["src_port"]]], classes=[alert["class"]])
        assert explanation == direct
        assert explanation.headline.startswith(f"Looks like {alert['class']}: ")


def test_a_beginning_finds_an_alert_and_only_one(alerts, sqlite_store):
    one = alerts.row(0, named=True)
    assert sqlite_store.find_alert(one["alert_id"][:18]) == one
    with pytest.raises(DataError, match="begins 'zz': none does"):
        sqlite_store.find_alert("zz")
    with pytest.raises(DataError, match="5 or more do"):
        sqlite_store.find_alert("0")


def test_another_detectors_alert_is_refused(flows, alerts):  # noqa: F811
    table = simulate_flows(n_flows=500)
    other = DeepIDEAClassifier(hidden=(4,), random_state=1, min_steps=10).fit(
        table.select(pl.exclude("label")), table["label"].to_numpy()
    )
    with pytest.raises(DataError, match=r"detector \w+ made it"):
        explain_alert(other.to_detector(), alerts.row(0, named=True))


def test_an_alert_without_its_features_is_not_explained(detector, alerts):  # noqa: F811
    alert = alerts.row(0, named=True)
    with pytest.raises(DataError, match="no longer has its features"):
        explain_alert(detector, {**alert, "features": None})
    with pytest.raises(DataError, match="incomplete"):
        explain_alert(detector, {**alert, "features": '{"fwd_packets": 3.0}'})


def test_what_raised_the_alert_is_explained(detector, alerts):  # noqa: F811
    alert = {**alerts.row(0, named=True), "anomaly": 0.9999, "score": 0.3}
    assert explain_alert(detector, alert).basis == "anomaly"
    site = with_thresholds(detector, Thresholds({"score": 0.2, "anomaly": 0.99}, 0.01, 999, "site"))
    assert explain_alert(site, alert).basis == "score"
    assert explain_alert(site, {**alert, "score": 0.1}).headline.startswith("Unlike benign flows")


def test_alerts_of_a_detector_with_context_hold_what_it_saw(sqlite_store):
    conn, n = get_schema("conn"), 400
    rng = np.random.default_rng(0)
    start = pl.datetime_range(
        pl.datetime(2026, 1, 1), pl.datetime(2026, 1, 1, 0, 0, 39, 900_000), "100ms", eager=True, time_zone="UTC"
    )
    scans = np.arange(n) % 2 == 0
    table = pl.DataFrame(
        {
            "start": start, "end": start, "dst_ip": "10.1.0.1", "protocol": "tcp", "duration_s": rng.random(n),
            "src_ip": np.where(scans, "10.0.0.9", "10.0.0.1"), "dst_port": np.where(scans, np.arange(n), 443),
            "src_port": pl.int_range(n, eager=True, dtype=pl.Int32), "fwd_packets": 1.0, "bwd_packets": 1.0,
            "fwd_bytes": 60.0, "bwd_bytes": 40.0,
        }
    )  # fmt: skip
    schema = get_schema("conn+context").restrict([c.name for c in conn.columns if not c.optional])
    context = HostContext().add(table)
    options = {"hidden": (8,), "random_state": 0, "min_steps": 300, "schema": schema}
    made = DeepIDEAClassifier(**options).fit(context, np.where(scans, "port_scan", "benign")).to_detector()
    source = Tables(table, 64)
    source.schema = "conn"
    Engine(source, made, sqlite_store).run(threading.Event())
    rows = stored(sqlite_store)
    assert rows.height > 100
    assert set(json.loads(rows["features"][-1])) == set(made.schema.features)
    explanation = explain_alert(made, rows.row(-1, named=True))
    assert explanation.score == pytest.approx(rows["score"][-1])
    assert "ports contacted" in explanation.headline


# --- a site's own flows --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benign():
    table = simulate_flows(n_flows=4000, seed=11)
    return table.filter(pl.col("label") == "benign")


def test_calibration_keeps_what_the_sites_flows_are_like(detector, benign, tmp_path):  # noqa: F811
    done = calibrate(detector, Tables(benign, 500), 0.05)
    done.detector.save(tmp_path / "site.idea")
    site = Detector.load(tmp_path / "site.idea")
    assert site.site_reference.n_benign == benign.height
    assert site.reference.contract() == detector.reference.contract()
    assert Explainer(site).range_of == "site"
    assert sum(site.site_reference.score_bins.shares) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("size", [7, 333, 4000])
def test_the_sample_of_a_site_does_not_depend_on_batches(detector, benign, monkeypatch, size):  # noqa: F811
    from deepidea.detection import calibrate as module

    monkeypatch.setattr(module, "SITE_ROWS", 200)
    few = benign.head(600)
    reference = calibrate(detector, Tables(few, size), 0.05).detector.site_reference
    whole = calibrate(detector, Tables(few, 600), 0.05).detector.site_reference
    assert reference.contract() == whole.contract()
    assert reference.n_flows == 200 < SITE_ROWS


# --- flows of a file -----------------------------------------------------------------------------------------------


def test_rows_of_a_file_are_explained_in_the_order_asked_for(detector, flows, tmp_path):  # noqa: F811
    path = tmp_path / "flows.csv"
    flows.select(detector.schema.features).write_csv(path)
    explained = explain_rows(detector, path, [600, 3])
    assert [row for row, _ in explained] == [600, 3]
    assert [found.score for _, found in explained] == pytest.approx(detector.score(flows)["score"].gather([599, 2]))
    for rows, message in (([601], "has 600 rows, got row 601"), ([0], "counted from 1")):
        with pytest.raises(DataError, match=message):
            explain_rows(detector, path, rows)


def test_without_rows_the_likeliest_attacks_are_explained(detector, flows, tmp_path):  # noqa: F811
    path = tmp_path / "flows.parquet"
    flows.select(detector.schema.features).write_parquet(path)
    explained = explain_rows(detector, path)
    scores = [found.score for _, found in explained]
    assert scores == pytest.approx(detector.score(flows)["score"].sort(descending=True).head(5).to_list())
    flows.select(detector.schema.features).clear().write_parquet(path)
    with pytest.raises(DataError, match="no flows"):
        explain_rows(detector, path)
