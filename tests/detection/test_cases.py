"""Single cases of a store, and what changes in it, in SQLite and PostgreSQL alike."""

from __future__ import annotations

from datetime import timedelta

import pytest

from deepidea.errors import DataError
from deepidea.store.allow_rules import AllowRule
from deepidea.store.cases import MOST_CHANGED
from deepidea.store.store import Store
from tests.detection.making import NOON, alerts_of, sweep


def walk(store, **filters):
    rows, after = [], None
    while True:
        page, after = store.hosts(limit=2, after=after, **filters)
        rows += page
        if after is None:
            return rows


def fill(store: Store) -> None:
    store.commit_batch("eth0", None, sweep(30), n_flows=30)
    many = [{"at_s": k, "src_ip": f"192.0.2.{k}", "src_port": k} for k in range(10, 21)]
    store.commit_batch("wlan0", None, alerts_of(many, **{"class": "botnet"}), n_flows=20)


def test_one_alert_and_its_incident(store):
    fill(store)
    page = store.alerts(limit=100).rows
    for row in page.head(3).iter_rows(named=True):
        assert store.alert(row["alert_id"]) == row
        incident = store.incident(store.incident_of(row["alert_id"]))
        assert (incident["class"], incident["host"]) == (row["class"], row["src_ip"])
    assert store.alert("none") is store.incident_of("none") is None


def test_an_incident_in_depth_agrees_with_its_alerts(store):
    fill(store)
    [row] = store.incidents(class_name="port_scan").rows.iter_rows(named=True)
    told = row["incident_id"]
    assert sum(store.incident_series(told, step_s=1).values()) == sum(store.incident_sources(told).values()) == 30
    scores = store.alerts(incident=told).rows["score"]
    assert store.strongest_alert(told)["score"] == scores.max()
    assert store.strongest_alert("none") is None


def test_a_host_is_counted_from_both_ends(store):
    fill(store)
    told = store.host("198.51.100.1")
    assert (told.n_as_source, told.n_as_target) == (0, 41)
    assert told.peers["192.0.2.7"] == 30
    assert told.classes == {"port_scan": 30, "botnet": 11}
    until = NOON + timedelta(minutes=5)
    assert sum(store.host_series("198.51.100.1", NOON, until, step_s=60).values()) == 41
    assert store.host("nobody").first is None


def test_pages_of_hosts_hold_each_once(store):
    fill(store)
    rows = walk(store)
    assert len({row["host"] for row in rows}) == len(rows) == 12
    assert rows == store.hosts(limit=100)[0]
    assert [row["host"] for row in walk(store, search="192.0.2.1")] == [f"192.0.2.{k}" for k in range(10, 20)]
    assert walk(store, since=NOON + timedelta(hours=1)) == []
    with pytest.raises(DataError, match="after must be what a page names"):
        store.hosts(after="bm8")


def test_changes_are_told_once_each(store):
    marks = store.marks()
    fill(store)
    told = store.changes(marks)
    assert told.n_alerts == {"port_scan": 30, "botnet": 11}
    assert (told.incidents.height, len(told.new), told.counters_changed) == (12, 12, True)
    nothing = store.changes(told.marks)
    assert (nothing.n_alerts, nothing.incidents.height, nothing.counters_changed) == ({}, 0, False)
    one = told.incidents["incident_id"][0]
    store.set_incident_state(one, "closed")
    store.judge("incident", told.incidents["incident_id"][1], "unsure", analyst="ann")
    store.audit("ann", "incident.status", one)
    store.add_rule(AllowRule(src="10.0.0.0/8"))
    after = store.changes(told.marks)
    assert set(after.incidents["incident_id"]) == set(told.incidents["incident_id"][:2])
    assert ([entry.subject for entry in after.audit], after.rules_changed, after.new) == ([one], True, frozenset())


def test_more_changes_than_are_told_one_by_one_say_so(store):
    marks = store.marks()
    hosts = [{"at_s": k, "src_ip": f"10.0.{k // 250}.{k % 250}"} for k in range(MOST_CHANGED + 50)]
    store.commit_batch("eth0", None, alerts_of(hosts), n_flows=len(hosts))
    told = store.changes(marks)
    assert (told.too_many, told.incidents.height) == (True, MOST_CHANGED)


def test_what_a_rule_keeps_quiet_is_counted(store):
    fill(store)
    rule = AllowRule(src="192.0.2.7")
    assert store.count_alerts_like({"src_ip": "192.0.2.7"}) == store.add_rule(rule) == 30
    assert store.quiet_counts() == {rule.rule_id: 30}
    assert store.count_alerts_like({"src_ip": "192.0.2.7"}) == 0


def test_together_is_whole_or_not_at_all(store):
    fill(store)
    ids = store.incidents(limit=3).rows["incident_id"].to_list()

    def close(*wanted):
        with store.together():
            for one in wanted:
                store.set_incident_state(one, "closed")

    with pytest.raises(DataError):
        close(*ids, "none")
    assert store.count_incidents(status="closed") == 0
    close(*ids)
    assert store.count_incidents(status="closed") == 3


def test_verdicts_come_in_pages(store):
    fill(store)
    one = store.incidents(limit=1).rows["incident_id"][0]
    for verdict in ("unsure", "true_positive", "unsure"):
        store.judge("incident", one, verdict, analyst="ann")
    page, after = store.feedback_page(limit=2)
    rest, end = store.feedback_page(limit=2, after=after)
    assert [said.verdict for said in page + rest] == ["unsure", "true_positive", "unsure"]
    assert end is None
    assert store.feedback_page(analyst="bob") == ([], None)
