"""The service: what it shows adds up, and what it changes is whole and written down."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.errors import DataError, StoreError
from deepidea.flows.simulate import simulate_flows
from deepidea.store.grouping import Listing
from deepidea.store.headline import headline
from deepidea.store.incidents import IncidentOrder
from deepidea.store.models import read_model
from deepidea.web.service import MOST_IN_BULK, AnalystService, ChangedError, NotThereError
from deepidea.web.windows import LENGTHS, MOST_POINTS, Window, window_of
from tests.detection.making import NOON, alerts_of, sweep
from tests.stores import open_store
from tests.web.conftest import XSS, Someone

INJECTED = ["' OR 1=1 --", '"; DROP TABLE alerts; --', "%", "_", "\\", "1; SELECT 1", "'"]


def pages(ask, **filters):
    """Return the items of all pages, of three items each."""
    after, found = None, []
    for _ in itertools.count():
        page = ask(limit=3, after=after, **filters)
        found += page.items
        after = page.next
        if after is None:
            return found
    raise AssertionError


# --- looking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", get_args(IncidentOrder))
def test_pages_hold_every_incident_once_in_every_order(service, order):
    ids = [row.incident_id for row in pages(service.incidents, order=order)]
    assert len(ids) == len(set(ids)) == service.incidents(limit=1).total == 34


def test_pages_hold_every_host_and_alert_once(service):
    hosts = [(row.host, row.role) for row in pages(service.hosts)]
    assert len(hosts) == len(set(hosts)) == 34
    assert hosts == [(row.host, row.role) for row in service.hosts(limit=100).items]
    alerts = [row.alert_id for row in pages(service.alerts, class_name="brute_force")]
    assert len(alerts) == len(set(alerts)) == 40


def test_hosts_come_by_severity_then_alerts(service):
    rows = service.hosts(limit=100).items
    assert [(row.severity, -row.n_alerts) for row in rows] == sorted((row.severity, -row.n_alerts) for row in rows)
    assert [row.host for row in service.hosts(search="ONERROR").items] == [XSS]


def test_figures_of_the_overview_agree_with_each_other(service):
    told = service.overview("24h")
    assert told.window.anchor == "newest"
    assert told.n_alerts == 621 == sum(row.n_alerts for row in told.severities)
    assert told.n_flows == 6000
    assert told.n_incidents == told.n_open == 34
    assert all(len(line) == len(told.alerts.times) for line in told.alerts.lines.values())
    assert (told.health, told.drift.light) == ("ok", "unknown")


def test_an_incident_is_understood_at_a_glance(service):
    row = service.incidents(class_name="port_scan").items[0]
    assert row.headline == "192.0.2.7 probed 300 ports of 198.51.100.1 in 3 s: port scan"
    view = service.incident(row.incident_id)
    assert view.ports.total == 300
    assert sum(view.series.lines["alerts"]) == row.n_alerts
    assert (view.strongest.class_name, view.why.available) == ("port_scan", False)
    assert "deepidea models add" in view.why.fault
    assert [one.n_alerts for one in view.suggestions] == [300, 300]


def test_a_suggested_rule_suppresses_what_it_promised(service, ann):
    for row in service.incidents(limit=4, order="alerts").items:
        view = service.incident(row.incident_id)
        for suggestion in view.suggestions:
            seen = service.preview_rule(suggestion.rule, incident_id=row.incident_id)
            assert (seen.n_alerts, seen.n_other) == (suggestion.n_alerts, suggestion.n_other)
            rule, n_changed = service.add_rule(suggestion.rule, actor=ann)
            assert n_changed == suggestion.n_alerts == rule.n_alerts
            assert service.incident(row.incident_id) is None
            assert service.remove_rule(rule.rule_id, actor=ann) == n_changed
        assert service.store.incident(row.incident_id)["n_alerts"] == row.n_alerts


def test_a_host_is_shown_from_both_ends(service):
    target = service.host("198.51.100.1")
    assert (target.n_as_source, target.n_as_target) == (0, 621)
    assert sum(target.series.lines["alerts"]) == target.n_alerts
    assert target.ports[0].value == "80"
    assert not service.host("203.0.113.250").known
    assert service.host("192.0.2.9").incidents.items[0].class_name == "brute_force"


@pytest.mark.parametrize("text", INJECTED)
def test_filters_take_sql_for_text(service, text):
    assert not service.incidents(host=text).items
    assert not service.incidents(class_name=text).items
    assert not service.alerts(host=text, class_name=text, source=text).items
    assert not service.host(text).known
    assert not service.verdicts(analyst=text).items
    assert service.incidents(limit=1).total == 34


def test_hostile_texts_come_back_as_they_were(service, ann):
    row = service.incidents(host=XSS).items[0]
    assert (row.class_name, XSS in row.headline) == (XSS, True)
    service.change_incident(row.incident_id, note=XSS, actor=ann)
    view = service.incident(row.incident_id)
    assert view.incident.note == XSS
    assert view.suggestions == ()  # no rule is made of what is no address


@pytest.fixture(scope="module")
def detector():
    from deepidea.model.estimators import DeepIDEAClassifier

    table = simulate_flows(n_flows=500)
    made = DeepIDEAClassifier(hidden=(8,), random_state=0, min_steps=50)
    made.fit(table.select(pl.exclude("label")), table["label"].to_numpy())
    return made.to_detector(training={"epochs": [{"loss": 0.1}]})


def test_an_alert_is_explained_by_the_detector_that_made_it(filled, detector, ann, tmp_path):
    from deepidea.detection.engine import Engine
    from tests.detection.test_engine import Tables

    flows = simulate_flows(n_flows=300).drop("label")
    Engine(Tables(flows), detector, filled).run(threading.Event())
    mine = [row for row in filled.alerts(limit=1000).rows.iter_rows(named=True) if row["model"] == detector.fingerprint]
    ask = AnalystService(filled).why(mine[0]["alert_id"])
    assert not ask.available
    detector.save(tmp_path / "one.idea")
    service = AnalystService(filled)
    service.add_model(read_model(tmp_path / "one.idea"), actor=ann)
    told = service.why(mine[0]["alert_id"])
    assert told.available
    assert told == AnalystService(filled, detector=detector).why(mine[0]["alert_id"])
    assert told.headline.startswith(f"Looks like {mine[0]['class']}")
    view = service.model()
    assert (view.row.stored, view.schema, view.evaluation) == (True, detector.schema.name, None)
    assert "--keep" in view.evaluation_fault
    assert view.training["epochs"]


def test_models_are_activated_and_gone_back_from(filled, detector, ann, tmp_path):
    service, other = AnalystService(filled), detector.with_card(note="other")
    detector.save(tmp_path / "a.idea")
    other.save(tmp_path / "b.idea")
    first, second = (service.add_model(read_model(tmp_path / f"{name}.idea"), actor=ann) for name in "ab")
    service.activate(first.model_id, actor=ann)
    assert "have not been compared" in service.activation_fault(second.model_id)
    with pytest.raises(DataError, match="have not been compared"):
        service.activate(second.model_id, actor=ann)
    assert service.activate(second.model_id, actor=ann, force=True).kind == "forced"
    assert service.models().can_roll_back
    assert service.rollback(actor=ann).model_id == first.model_id
    service.remove_model(second.model_id, actor=ann)
    told = [(line.action, line.subject) for line in service.audit().items]
    assert told[:2] == [("model.remove", second.model_id), ("model.rollback", "")]
    assert len(told) == 6  # what was refused left none


@pytest.mark.parametrize("entry", [{"src": "192.0.2.0/27"}, {"host": "198.51.100.1", "port": "20-80"}, {"dst": "::/0"}])
def test_a_preview_shows_what_a_rule_will_do(service, ann, entry):
    seen = service.preview_rule({**entry, "expires": "2000-01-01"})
    assert service.add_rule(entry, actor=ann)[1] == seen.n_alerts
    assert service.preview_rule(entry).n_alerts == 0


def test_a_window_stands_for_its_times(service):
    window = service.window("1h")
    assert service.incidents(window="1h", limit=100) == service.incidents(since=window.since, limit=100)
    assert service.hosts(window="1h", limit=100).items
    assert service.count_urgent() == 33


# --- changing --------------------------------------------------------------------------------------------------------


def test_every_change_leaves_a_line_of_audit(service, ann):
    row = service.incidents(class_name="port_scan").items[0]
    changes = {
        "incident.status": lambda: service.set_status([row.incident_id], "closed", actor=ann),
        "incident.note": lambda: service.change_incident(row.incident_id, note="seen", actor=ann),
        "verdict.add": lambda: service.add_verdict("incident", row.incident_id, "unsure", actor=ann),
        "rule.add": lambda: service.add_rule({"src": "10.0.0.0/8"}, actor=ann),
        "rule.remove": lambda: service.remove_rule(service.rules()[0].rule_id, actor=ann),
        "token.add": lambda: service.add_token("bob", "admin", actor=ann),
        "token.revoke": lambda: service.revoke_token(service.tokens()[0].token_id, actor=ann),
        "store.purge": lambda: service.purge(NOON - timedelta(days=1), actor=ann),
    }
    for n, (action, change) in enumerate(changes.items(), 1):
        change()
        lines = service.audit(limit=100).items
        assert (len(lines), lines[0].action) == (n, action)
        assert (lines[0].actor, lines[0].address) == (ann.name, ann.address)


def test_what_is_refused_changes_nothing_and_leaves_no_line(service, ann):
    ids = [row.incident_id for row in service.incidents(limit=3).items]
    refused = [
        lambda: service.set_status([*ids, "0" * 32], "closed", actor=ann),
        lambda: service.set_status(ids, "gone", actor=ann),
        lambda: service.set_status([f"{k:032x}" for k in range(MOST_IN_BULK + 1)], "closed", actor=ann),
        lambda: service.add_verdict("incident", "0" * 32, "unsure", actor=ann),
        lambda: service.add_verdict("incident", ids[0], "false_positive", class_name="dos", actor=ann),
        lambda: service.add_rule({"src": "no address"}, actor=ann),
        lambda: service.remove_rule("allow-000000000000", actor=ann),
        lambda: service.activate("0" * 16, actor=ann),
        lambda: service.rollback(actor=ann),
        lambda: service.revoke_token("0" * 12, actor=ann),
    ]
    for change in refused:
        with pytest.raises(DataError):
            change()
    assert not service.audit().items
    assert {row.status for row in service.incidents(limit=100).items} == {"open"}


def test_bulk_is_whole_or_not_at_all(service, ann):
    rows = service.incidents(limit=10).items
    ids = [row.incident_id for row in rows]
    with pytest.raises(NotThereError):
        service.set_status([*ids, "f" * 32], "closed", actor=ann)
    assert {row.status for row in service.incidents(limit=10).items} == {"open"}
    changed = service.set_status(ids, "false_alarm", actor=ann, note="a printer")
    assert {(row.status, row.note) for row in changed} == {("false_alarm", "a printer")}
    assert service.incidents(status="false_alarm").total == 10
    assert len(service.audit().items) == 10


def test_a_change_by_someone_else_is_noticed(service, ann):
    row = service.incidents(limit=1).items[0]
    first = service.change_incident(row.incident_id, actor=ann, status="acknowledged", version=row.version)
    with pytest.raises(ChangedError, match="changed by someone else"):
        service.change_incident(row.incident_id, actor=Someone("bob"), status="closed", version=row.version)
    with pytest.raises(ChangedError):
        service.set_status([row.incident_id], "closed", actor=ann, versions={row.incident_id: row.version})
    last = service.change_incident(row.incident_id, actor=Someone("bob"), note="mine", version=first.version)
    assert (last.status, last.note) == ("acknowledged", "mine")


def test_verdicts_are_shown_where_they_hold(service, ann):
    row = service.incidents(class_name="brute_force").items[0]
    service.add_verdict("incident", row.incident_id, "true_positive", actor=ann, class_name="botnet", note="c2")
    view = service.incident(row.incident_id)
    assert (view.incident.verdict.verdict, view.history[0].class_name) == ("true_positive", "botnet")
    assert view.log[0].action == "verdict.add"
    assert service.alert(view.strongest.alert_id).alert.verdict.analyst == ann.name
    assert [said.subject_id for said in service.verdicts().items] == [row.incident_id]


def test_a_transaction_holds_for_one_thread_alone(filled):
    """Another thread's reading goes on, and sees nothing of it before the end."""
    seen = []
    with filled.write():
        filled.register_sink("one")
        other = threading.Thread(target=lambda: seen.append(len(filled.sink_counters())))
        other.start()
        other.join()
        assert len(filled.sink_counters()) == 1
    assert (seen, len(filled.sink_counters())) == ([0], 1)


# --- windows, words --------------------------------------------------------------------------------------------------

times = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@given(st.sampled_from(sorted(LENGTHS)), times, times)
def test_a_window_has_points_enough_and_holds_the_newest_data_or_now(name, newest, now):
    window = window_of(name, newest=newest, oldest=newest - timedelta(days=3), now=now)
    assert window.since < window.until
    assert 60 <= len(window.times) <= MOST_POINTS + 1 or name == "all"
    assert len(window.times) <= MOST_POINTS + 1
    assert window.times[0] <= window.since
    assert (window.anchor == "newest") == bool(window.note)
    assert window.until in (now, newest + timedelta(minutes=1))


@given(times, times)
def test_a_window_of_two_times_is_those_or_refused(since, until):
    if since >= until:
        with pytest.raises(DataError, match="begin before it ends"):
            window_of(since=since, until=until)
    else:
        window = window_of(since=since, until=until)
        assert (window.since, window.until, window.anchor) == (since, until, "given")
        assert len(window.times) <= MOST_POINTS + 1


def test_a_scan_of_one_port_names_the_port():
    about = {"n_alerts": 1, "first": NOON, "last": NOON, "n_hosts": 1, "n_ports": 1}
    one = headline("port_scan", "source", "192.0.2.7", hosts=Listing({"198.51.100.1": 1}, 0, True),
                   ports=Listing({"22": 1}, 0, True), **about)  # fmt: skip
    assert one == "192.0.2.7 probed port 22 (SSH) of 198.51.100.1: port scan"


@given(
    st.sampled_from(["port_scan", "DDoS", "brute_force", "botnet", "Web Attack - XSS", "U2R", "zeta", ""]),
    st.sampled_from(["source", "target"]),
    st.integers(1, 10**7),
    st.integers(0, 10**6),
    st.integers(0, 65_536),
    st.floats(0, 1e8),
)
def test_a_headline_is_one_sentence_of_any_incident(name, role, n_alerts, n_hosts, n_ports, seconds):
    hosts = Listing({"198.51.100.1": 1} if n_hosts else {}, max(n_hosts - 1, 0), n_hosts < 1024)
    ports = Listing({"22": 1} if n_ports else {}, max(n_ports - 1, 0), n_ports < 1024)
    counts = {"n_alerts": n_alerts, "n_hosts": n_hosts, "n_ports": n_ports, "hosts": hosts, "ports": ports}
    text = headline(name, role, "192.0.2.7", first=NOON, last=NOON + timedelta(seconds=seconds), **counts)
    assert text.startswith("192.0.2.7 ")
    assert "  " not in text.rstrip()
    assert "None" not in text
    assert len(text) < 200


def test_what_changed_is_reported_once(tmp_path, ann):
    with open_store(f"sqlite:///{tmp_path / 'one.db'}") as store:
        before = store.marks()
        store.commit_batch("eth0", None, sweep(10), n_flows=10)
        told = store.changes(before)
        assert (told.n_alerts, len(told.incidents)) == ({"port_scan": 10}, 1)
        assert told.new == frozenset(one.incident_id for one in told.incidents)
        quiet = store.changes(told.marks)
        assert (quiet.n_alerts, len(quiet.incidents), quiet.audit, quiet.counters_changed) == ({}, 0, (), False)
        store.commit_batch("eth0", None, alerts_of([{"at_s": -1.0, "dst_port": 9}]), n_flows=1)
        merged = store.changes(told.marks)
        assert not merged.new
        assert merged.replaced == {merged.incidents[0].incident_id: [told.incidents[0].incident_id]}


def test_a_window_is_a_record():
    assert Window("given", "", NOON, NOON + timedelta(minutes=1), 60).times == [NOON]


def test_a_model_whose_audit_line_fails_is_not_added(service, ann, monkeypatch):
    file = (Path(__file__).parents[1] / "data" / "format-1" / "model.idea").read_bytes()

    def fail(*_args, **_named):
        raise StoreError("the log is full")

    monkeypatch.setattr("deepidea.store.audit.write", fail)
    with pytest.raises(StoreError):
        service.add_model(read_model(file), actor=ann)
    assert service.store.models() == []
