"""Feedback: kept beside predictions, followed where incidents merge, exported as labelled flows of any number."""

from __future__ import annotations

import csv
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.detection.feedback_export import export_feedback, unpack_features
from deepidea.errors import DataError
from deepidea.flows.feedback_columns import guard_cells, unguard_cells
from deepidea.store.allow_rules import AllowRule
from tests.detection.making import NOON, alerts_of, findings_of, sweep
from tests.stores import Store


def put(store: Store, alerts: pl.DataFrame) -> None:
    store.commit_batch("s", None, alerts, n_flows=alerts.height)


def incident_ids(store: Store) -> list[str]:
    return store.incidents(limit=100).rows.sort("first")["incident_id"].to_list()


def exported(store: Store, folder: Path, **options: Any) -> pl.DataFrame:
    export_feedback(store, folder / "f.parquet", **options)
    return pl.read_parquet(folder / "f.parquet")


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_the_latest_verdict_holds_and_all_of_them_stay(store: Store) -> None:
    put(store, sweep(3))
    (incident,) = incident_ids(store)
    before = store.alerts().rows
    store.judge("incident", incident, "unsure", analyst="ann")
    said = store.judge("incident", incident, "true_positive", class_name="worm", note="=1\0<b>", analyst="bob")
    assert store.verdicts_of([incident, "none"]) == {incident: said}
    history = store.feedback(subject="incident", subject_id=incident)
    assert [(one.verdict, one.class_name, one.analyst, one.note) for one in history] == [
        ("true_positive", "worm", "bob", "=1\ufffd<b>"),
        ("unsure", None, "ann", ""),
    ]
    assert store.alerts().rows.equals(before)
    assert store.feedback(limit=1) == history[:1]


def test_an_incidents_verdict_holds_for_its_alerts_except_those_with_their_own(store: Store) -> None:
    put(store, sweep(3))
    (incident,) = incident_ids(store)
    ids = store.alerts().rows["alert_id"].to_list()
    store.judge("incident", incident, "false_positive", analyst="ann")
    store.judge("alert", ids[1], "true_positive", analyst="ann")
    found = store.verdicts_on_alerts(ids)
    assert [found[one].verdict for one in ids] == ["false_positive", "true_positive", "false_positive"]


def test_a_verdict_follows_incidents_that_merge(store: Store) -> None:
    put(store, alerts_of([{"at_s": 0.0}, {"at_s": 900.0}]))
    first, second = incident_ids(store)
    store.judge("incident", second, "false_positive", analyst="ann")
    put(store, alerts_of([{"at_s": 450.0}]))
    (merged,) = incident_ids(store)
    assert merged == first
    assert store.verdicts_of([merged])[merged].verdict == "false_positive"
    assert len(store.feedback(subject="incident", subject_id=second)) == 1
    assert store.judge("incident", second, "unsure", analyst="ann").subject_id == merged


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"subject_id": "no"}, "no incident 'no'"),
        ({"verdict": "maybe"}, "verdict must be one of true_positive, false_positive, unsure"),
        ({"verdict": "false_positive", "class_name": "dos"}, "class 'dos' needs verdict true_positive"),
        ({"class_name": "benign"}, "got 'benign'"),
        ({"analyst": " "}, "name of its analyst"),
        ({"note": "x" * 10_001}, "note may have 10,000 characters at most, got 10,001"),
        ({"subject": "host"}, "subject must be alert or incident, got 'host'"),
    ],
)
def test_an_invalid_verdict_is_refused_and_leaves_nothing(sqlite_store: Store, said: Any, told: str) -> None:
    put(sqlite_store, sweep(1))
    (incident,) = incident_ids(sqlite_store)
    whole = {"subject": "incident", "subject_id": incident, "verdict": "true_positive", "analyst": "ann", **said}
    with pytest.raises(DataError) as refused:
        sqlite_store.judge(whole.pop("subject"), whole.pop("subject_id"), whole.pop("verdict"), **whole)
    assert told in str(refused.value)
    assert sqlite_store.feedback() == []


# --- export ----------------------------------------------------------------------------------------------------------


def test_an_export_holds_identity_features_and_the_labels(store: Store, tmp_path: Path) -> None:
    put(store, pl.concat([sweep(3), sweep(2, src_ip="192.0.2.8"), sweep(2, src_ip="192.0.2.9")]))
    of = {row["host"]: row["incident_id"] for row in store.incidents().rows.iter_rows(named=True)}
    store.judge("incident", of["192.0.2.7"], "false_positive", analyst="ann", note="backup")
    store.judge("incident", of["192.0.2.8"], "true_positive", class_name="worm", analyst="bob")
    store.judge("incident", of["192.0.2.9"], "unsure", analyst="bob")
    told = export_feedback(store, tmp_path / "f.parquet")
    rows = pl.read_parquet(tmp_path / "f.parquet").sort("src_ip", "dst_port")
    assert rows["label"].to_list() == ["benign"] * 3 + ["worm"] * 2
    assert rows["bytes_per_s"].to_list() == [12.5] * 5
    assert rows.select("src_ip", "prediction", "score", "model", "source", "verdict", "analyst", "note").row(0) == (
        "192.0.2.7", "port_scan", 0.99, "5eed", "s", "false_positive", "ann", "backup",
    )  # fmt: skip
    assert (told.n_flows, told.n_unsure, dict(told.labels)) == (5, 2, {"benign": 3, "worm": 2})
    assert rows["incident_id"].unique().sort().to_list() == sorted([of["192.0.2.7"], of["192.0.2.8"]])


def test_alerts_that_an_allow_rule_suppresses_are_exported_all_the_same(store: Store, tmp_path: Path) -> None:
    put(store, sweep(40))
    (incident,) = incident_ids(store)
    store.judge("incident", incident, "false_positive", analyst="ann")
    store.add_rule(AllowRule(src="192.0.2.7", port="1-10"))
    assert incident_ids(store) != [incident]
    assert exported(store, tmp_path).height == 40
    store.add_rule(AllowRule(src="192.0.2.7"))
    assert incident_ids(store) == []
    assert exported(store, tmp_path).height == 40


def test_findings_are_labelled_and_exported_as_the_flow_that_completed_them(store: Store, tmp_path: Path) -> None:
    put(store, findings_of([{"at_s": 1.0, "class": "brute_force"}, {"at_s": 2.0, "class": "botnet"}]))
    guessing, beacon = incident_ids(store)
    store.judge("incident", guessing, "true_positive", analyst="ann")
    store.judge("incident", beacon, "false_positive", analyst="ann")
    rows = exported(store, tmp_path).sort("prediction")
    assert rows.select("prediction", "label").rows() == [("botnet", "benign"), ("brute_force", "brute_force")]
    assert rows["bytes_per_s"].to_list() == [12.5, 12.5]


def test_a_flow_of_several_findings_is_exported_once(store: Store, tmp_path: Path) -> None:
    kinds = [{"behaviour": name} for name in ("vertical_scan", "slow_vertical_scan", "horizontal_scan")]
    put(store, pl.concat([findings_of(kinds), findings_of([{"at_s": 1.0}]), alerts_of([{}, {"at_s": 2.0}])]))
    (incident,) = incident_ids(store)
    store.judge("incident", incident, "true_positive", analyst="ann")
    told = export_feedback(store, tmp_path / "f.parquet")
    assert (told.n_flows, told.n_repeated) == (3, 3)
    assert pl.read_parquet(tmp_path / "f.parquet")["end"].n_unique() == 3


def test_the_label_of_a_days_scans_holds_for_the_day_that_a_rule_suppresses(store: Store, tmp_path: Path) -> None:
    hours = [{"at_s": 3_600.0 * k, "src_ip": f"203.0.113.{k}", "role": "target"} for k in range(30)]  # from noon on
    put(store, findings_of(hours))
    today, tomorrow = incident_ids(store)
    store.judge("incident", today, "false_positive", analyst="ann")
    assert exported(store, tmp_path).height == 12
    store.add_rule(AllowRule(dst="198.51.100.1", class_name="port_scan"))
    assert incident_ids(store) == []
    assert exported(store, tmp_path).height == 12
    (rule,) = store.rules()
    store.remove_rule(rule.rule_id)
    assert incident_ids(store) == [today, tomorrow]


def test_no_flow_is_exported_twice_and_the_newer_verdict_wins(store: Store, tmp_path: Path) -> None:
    put(store, sweep(40))
    (old,) = incident_ids(store)
    store.judge("incident", old, "false_positive", analyst="ann")
    store.add_rule(AllowRule(src="192.0.2.7", port="1-10"))
    (new,) = incident_ids(store)
    store.judge("incident", new, "true_positive", analyst="ann")
    rows = exported(store, tmp_path)
    assert rows["alert_id"].n_unique() == rows.height == 40
    assert dict(rows["label"].value_counts().iter_rows()) == {"benign": 10, "port_scan": 30}


def test_a_share_of_an_incident_is_the_same_every_time_and_the_rest_is_counted(store: Store, tmp_path: Path) -> None:
    put(store, sweep(200))
    (incident,) = incident_ids(store)
    store.judge("incident", incident, "false_positive", analyst="ann")
    singled = store.alerts(limit=1).rows["alert_id"].item()
    store.judge("alert", singled, "true_positive", analyst="ann")
    told = export_feedback(store, tmp_path / "a.parquet", per_incident=30)
    assert (told.n_flows, told.n_capped) == (31, 169)
    assert singled in pl.read_parquet(tmp_path / "a.parquet")["alert_id"]
    assert exported(store, tmp_path, per_incident=30).equals(pl.read_parquet(tmp_path / "a.parquet"))


def test_what_retention_took_of_labelled_incidents_is_counted(store: Store, tmp_path: Path) -> None:
    put(store, alerts_of([{"at_s": 300.0 * k} for k in range(4)]))
    put(store, alerts_of([{"at_s": 0.0, "src_ip": "192.0.2.8"}]))
    for incident in incident_ids(store):
        store.judge("incident", incident, "true_positive", analyst="ann")
    store.purge(NOON + timedelta(seconds=400))
    told = export_feedback(store, tmp_path / "f.jsonl")
    assert (told.n_flows, told.n_purged, told.n_purged_incidents) == (2, 2, 1)
    store.purge(NOON + timedelta(days=1))
    with pytest.raises(DataError, match=r"\(0 unsure, 0 labelled and deleted, 2 labelled incidents"):
        export_feedback(store, tmp_path / "g.jsonl")
    assert not (tmp_path / "g.jsonl").exists()


def test_many_pages_are_one_table_whatever_the_columns(
    sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepidea.store.labelled_alerts.PAGE_ROWS", 7)
    plain, worded = sweep(20), sweep(20, src_ip="192.0.2.8")
    odd = pl.Series(['{"state":6,"rate":"inf"}', '{"state":"S0","rate":null}'] * 10)
    put(sqlite_store, plain)
    put(sqlite_store, worded.with_columns(features=odd))
    for incident in incident_ids(sqlite_store):
        sqlite_store.judge("incident", incident, "true_positive", analyst="ann")
    rows = exported(sqlite_store, tmp_path)
    assert rows.height == 40
    assert set(rows["state"].drop_nulls()) == {"6", "S0"}
    assert rows["rate"].is_infinite().sum() == 10
    assert rows["fwd_packets"].count() == 20


def test_a_csv_has_no_cell_that_a_spreadsheet_runs(sqlite_store: Store, tmp_path: Path) -> None:
    put(sqlite_store, alerts_of([{"src_ip": "@SUM(1)"}, {"at_s": 1.0, "src_ip": "-2"}]))
    for incident in incident_ids(sqlite_store):
        sqlite_store.judge("incident", incident, "false_positive", note='=HYPERLINK("x")', analyst="+ann")
    export_feedback(sqlite_store, tmp_path / "f.csv")
    with (tmp_path / "f.csv").open(newline="") as file:
        cells = [cell for row in list(csv.reader(file))[1:] for cell in row]
    assert {'\'=HYPERLINK("x")', "'+ann", "'@SUM(1)", "'-2"} <= set(cells)
    assert not [cell for cell in cells if cell[:1] in "=+-@\t\r" and cell]


@given(st.lists(st.text("'=+-@\t\rab\u00e9", max_size=4)))
def test_guarding_a_cell_can_be_undone(words: list[str]) -> None:
    table = pl.DataFrame({"word": pl.Series(words, dtype=pl.String)})
    assert unguard_cells(guard_cells(table)).equals(table)


def test_features_come_back_as_numbers_and_words() -> None:
    table = unpack_features(pl.Series(['{"a":1,"b":true,"c":"nan"}', '{"a":2.5,"d":"tcp"}', "{}"]))
    assert table.schema == {"a": pl.Float64, "b": pl.Float64, "c": pl.Float64, "d": pl.String}
    assert table["a"].to_list() == [1.0, 2.5, None]
