"""Single cases of a store, and what changes in it, in SQLite and PostgreSQL alike."""

from __future__ import annotations

from datetime import timedelta

import pytest

from deepidea.errors import DataError
from deepidea.store import alerts, deliveries, incidents, rules
from deepidea.store.allow_rules import AllowRule
from deepidea.store.changes import MOST_CHANGED
from tests.detection.making import NOON, alerts_of, sweep
from tests.stores import Store


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
    full = store.query(incidents.get_full, told)
    activity = store.query(incidents.activity, *full.extent, step_s=1)
    assert sum(activity.by_time.values()) == 30
    assert activity.by_source == {"eth0": 30}
    strongest, verdict = store.query(alerts.strongest, *full.extent)
    assert strongest["score"] == store.alerts(incident=told).rows["score"].max()
    assert verdict is None
    assert store.query(alerts.strongest, "none", NOON, NOON) is None


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
    assert len({row.host for row in rows}) == len(rows) == 12
    assert rows == store.hosts(limit=100)[0]
    assert [row.host for row in walk(store, search="192.0.2.1")] == [f"192.0.2.{k}" for k in range(10, 20)]
    assert walk(store, since=NOON + timedelta(hours=1)) == []
    with pytest.raises(DataError, match="bm8"):
        store.hosts(after="bm8")


def test_changes_are_reported_once_each(store):
    marks = store.marks()
    fill(store)
    told = store.changes(marks)
    assert told.n_alerts == {"port_scan": 30, "botnet": 11}
    assert (len(told.incidents), len(told.new), told.counters_changed) == (12, 12, True)
    nothing = store.changes(told.marks)
    assert (nothing.n_alerts, len(nothing.incidents), nothing.counters_changed) == ({}, 0, False)
    ids = [one.incident_id for one in told.incidents]
    one = ids[0]
    store.set_incident_state(one, "closed")
    store.judge("incident", ids[1], "unsure", analyst="ann")
    store.audit("ann", "incident.status", one)
    store.add_rule(AllowRule(src="10.0.0.0/8"))
    after = store.changes(told.marks)
    assert {changed.incident_id for changed in after.incidents} == set(ids[:2])
    assert ([entry.subject for entry in after.audit], after.rules_changed, after.new) == ([one], True, frozenset())


def test_more_changes_than_are_sent_one_by_one_are_reported(store):
    marks = store.marks()
    hosts = [{"at_s": k, "src_ip": f"10.0.{k // 250}.{k % 250}"} for k in range(MOST_CHANGED + 50)]
    store.commit_batch("eth0", None, alerts_of(hosts), n_flows=len(hosts))
    told = store.changes(marks)
    assert (told.too_many, len(told.incidents)) == (True, MOST_CHANGED)


def test_what_a_rule_suppresses_is_counted(store):
    fill(store)
    rule = AllowRule(src="192.0.2.7")
    like = {"src_ip": "192.0.2.7"}, {"src_ip": "192.0.2.7", "class": "botnet"}
    assert store.query(alerts.count_like, like) == [30, 0]
    assert store.add_rule(rule) == 30
    assert [(one.rule_id, one.n_alerts) for one in store.query(rules.find)] == [(rule.rule_id, 30)]
    assert store.query(alerts.count_like, like) == [0, 0]
    assert store.query(alerts.count_like, []) == []


def test_a_write_transaction_is_whole_or_not_at_all(store):
    fill(store)
    ids = store.incidents(limit=3).rows["incident_id"].to_list()

    def close(*wanted):
        with store.write():
            for one in wanted:
                store.set_incident_state(one, "closed")

    with pytest.raises(DataError):
        close(*ids, "none")
    assert store.count_incidents(status="closed") == 0
    close(*ids)
    assert store.count_incidents(status="closed") == 3


def test_transactions_of_a_thread_nest(store):
    """What ends within another transaction is undone with it, and joins no other later."""

    def register_and_fail():
        with store.write():
            store.register_sink("one")
            with store.write():
                store.register_sink("two")
            with store.read() as connection:
                assert len(store.query(deliveries.counters)) == len(deliveries.counters(connection)) == 2
            store.register_sink("three")
            raise DataError("undo")

    with pytest.raises(DataError, match="undo"):
        register_and_fail()
    assert store.sink_counters() == []
    with store.read() as outer, store.read() as inner:
        assert inner is outer


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
