"""Alerts: identity that survives a replay, severity, and what the model saw."""

from __future__ import annotations

import json
import math
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.detection.alerts import features_of, make_alerts
from deepidea.errors import SchemaError
from deepidea.flows.identity import community_id
from deepidea.flows.simulate import simulate_flows
from deepidea.model.detector import Detector
from deepidea.store.alert_columns import ALERT_COLUMNS
from tests.detection.making import FINDING, NOON, OF_FINDING, alerts_of, findings_of, sweep


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 7))
def test_an_alert_has_the_same_id_in_every_batch_and_order(ports: list[int], size: int) -> None:
    rows = [{"dst_port": port, "at_s": float(place % 5)} for place, port in enumerate(ports)]
    whole = alerts_of(rows)
    parts = pl.concat([alerts_of(rows[i : i + size]) for i in range(0, len(rows), size)])
    assert parts.equals(whole)
    assert alerts_of(rows[::-1])["alert_id"].to_list() == whole["alert_id"].to_list()[::-1]


@pytest.mark.parametrize(
    "other",
    [{"src_port": 1}, {"dst_ip": "198.51.100.2"}, {"protocol": "udp"}, {"class": "dos"}, {"at_s": 1e-6}],
    ids=str,
)
def test_flows_of_another_identity_or_class_are_other_alerts(other: dict[str, object]) -> None:
    assert alerts_of([{}, other])["alert_id"].n_unique() == 2


def test_flows_alike_in_identity_and_class_are_one_alert() -> None:
    assert alerts_of([{"score": 0.5}, {"score": 0.6}])["alert_id"].n_unique() == 1


def test_without_an_identity_features_distinguish_alerts() -> None:
    flows = pl.DataFrame({"fwd_packets": [1.0, 2.0, 2.0]})
    verdicts = pl.DataFrame({"class": ["dos"] * 3, "score": [1.0] * 3})
    alerts = make_alerts(flows, verdicts, pl.Series([True] * 3), model="m", made_at=NOON)
    assert alerts["alert_id"].n_unique() == 2
    assert alerts["time"].to_list() == [NOON] * 3


def test_only_selected_flows_are_alerts_in_their_order() -> None:
    flows = pl.DataFrame({"dst_port": [1, 2, 3, 4], "fwd_packets": [1.0, 2.0, 3.0, 4.0]})
    verdicts = pl.DataFrame({"class": ["a", "b", "c", "d"], "score": [0.1, 0.2, 0.3, 0.4]})
    alerts = make_alerts(flows, verdicts, pl.Series([True, False, None, True]), model="m")
    assert alerts.select("dst_port", "class", "fwd_packets").rows() == [(1, "a", 1), (4, "d", 4)]
    assert alerts.schema == pl.Schema(ALERT_COLUMNS)


def test_nothing_chosen_is_an_empty_table_of_the_same_columns() -> None:
    assert alerts_of([]).schema == pl.Schema(ALERT_COLUMNS)
    assert alerts_of([]).height == 0


def test_a_finding_gives_class_score_and_severity_and_the_flow_the_rest() -> None:
    flows = pl.DataFrame({"src_ip": ["192.0.2.7"] * 2, "dst_port": [1, 2], "fwd_packets": [1.0, 2.0]})
    verdicts = pl.DataFrame(
        {"class": ["benign", "dos"], "label": ["benign", "hulk"], "score": [0.1, 0.7], "anomaly": [0.2, 0.3],
         "p_dos": [0.1, 0.7], "unknown": [True, False]}
    )  # fmt: skip
    found = {"class": "port_scan", "score": 0.97, **FINDING, "severity": 4, "finding": json.dumps(OF_FINDING)}
    findings = pl.DataFrame([found, dict.fromkeys(found)])
    alerts = make_alerts(flows, verdicts, pl.Series([True, True]), findings=findings, model="m", made_at=NOON)
    raised, plain = alerts.rows(named=True)
    assert (raised["class"], raised["score"], raised["severity"], raised["sentence"]) == (
        "port_scan", 0.97, 4, FINDING["sentence"])  # fmt: skip
    assert (raised["anomaly"], raised["probabilities"], raised["fwd_packets"]) == (0.2, '{"dos":0.1}', 1)
    assert (raised["label"], raised["unknown"]) == (None, None)  # of the last flow, not of the behaviour
    without = make_alerts(flows, verdicts, pl.Series([False, True]), model="m", made_at=NOON)
    assert [plain] == without.rows(named=True)


def test_a_flow_and_what_it_completes_are_different_alerts() -> None:
    flow, scan, sweep = alerts_of([{}]), findings_of([{}]), findings_of([{"behaviour": "port_scan_horizontal"}])
    assert pl.concat([flow, scan, sweep])["alert_id"].n_unique() == 3
    assert findings_of([{"sentence": "60 ports of 1 host"}])["alert_id"].equals(scan["alert_id"])


def test_findings_of_another_number_of_rows_are_refused() -> None:
    with pytest.raises(SchemaError, match="1, got 2"):
        alerts_of([{}], findings=findings_of([{}, {}]))


def test_ids_sort_by_time() -> None:
    alerts = sweep(50)
    assert alerts.sort("alert_id")["time"].is_sorted()


@pytest.mark.parametrize(
    ("name", "severity"),
    [("botnet", 1), ("u2r", 1), ("Infilteration", 1), ("DDoS", 2), ("web_attack", 2), ("PortScan", 3), ("probe", 3)],
)
def test_a_class_has_its_severity_and_one_less_urgent_where_unsure(name: str, severity: int) -> None:
    assert alerts_of([{"score": 0.99}, {"score": 0.6}], **{"class": name})["severity"].to_list() == [
        severity,
        severity + 1,
    ]


def test_what_is_unlike_anything_is_medium_at_least() -> None:
    verdicts = pl.DataFrame({"class": ["benign", "botnet"], "score": [0.1, 0.99], "unknown": [True, True]})
    alerts = make_alerts(pl.DataFrame({"x": [1, 2]}), verdicts, pl.Series([True, True]), model="m")
    assert alerts["severity"].to_list() == [3, 1]


def test_community_ids_are_computed_where_they_are_missing() -> None:
    alerts = alerts_of([{"community_id": "1:given"}, {"community_id": None}, {"community_id": None, "src_ip": "?"}])
    expected = community_id("192.0.2.7", 40_000, "198.51.100.1", 22, "tcp")
    assert alerts["community_id"].to_list() == ["1:given", expected, None]


@given(st.lists(st.sampled_from([0.0, -1.5, 1e300, math.inf, -math.inf, math.nan]), min_size=1, max_size=8))
def test_features_come_back_as_they_were(values: list[float]) -> None:
    flows = pl.DataFrame({f"f{i}": [value, 1.0] for i, value in enumerate(values)}).with_columns(word=pl.lit('a"b'))
    verdicts = pl.DataFrame({"class": ["dos", "dos"], "score": [1.0, 1.0]})
    alerts = make_alerts(flows, verdicts, pl.Series([True, True]), model="m")
    back = pl.concat([features_of(text) for text in alerts["features"]])
    assert back.select(flows.columns).equals(flows, null_equal=True)


def test_a_detectors_own_verdicts_make_alerts(model_file) -> None:
    detector = Detector.load(model_file)
    flows = simulate_flows(n_flows=200, seed=5)
    verdicts = detector.score(flows)
    alerts = make_alerts(detector.schema.conform(flows), verdicts, verdicts["class"] != detector.benign, model="m")
    assert alerts.height > 0
    assert set(json.loads(alerts["probabilities"][0])) == set(detector.classes)
    again = detector.score(features_of(alerts["features"][0]))
    assert again["score"].item() == pytest.approx(alerts["score"][0])


def test_tables_of_other_heights_are_refused() -> None:
    with pytest.raises(SchemaError, match="1 flows, 2 verdicts"):
        make_alerts(pl.DataFrame({"x": [1]}), pl.DataFrame({"class": ["a", "b"]}), pl.Series([True]), model="m")


def test_time_is_the_end_of_the_flow_else_its_start() -> None:
    when = pl.Datetime("us", "UTC")
    flows = pl.DataFrame({"start": [NOON, NOON], "end": [NOON + timedelta(seconds=5), None]}).cast(when)
    verdicts = pl.DataFrame({"class": ["a", "a"], "score": [1.0, 1.0]})
    alerts = make_alerts(flows, verdicts, pl.Series([True, True]), model="m")
    assert alerts["time"].to_list() == [NOON + timedelta(seconds=5), NOON]
