"""Findings as records: whatever their JSON is, a page of alerts is never lost to one of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.store import alerts, incidents
from deepidea.store.findings import finding_of
from tests.detection.making import OF_FINDING, alerts_of, findings_of
from tests.stores import Store


def test_a_finding_is_read_as_it_was_written() -> None:
    found = finding_of(json.dumps(OF_FINDING), "port_scan_vertical")
    assert found is not None
    assert {name: getattr(found, name) for name in OF_FINDING} == OF_FINDING
    assert found.title == "Port scan vertical"


def test_an_alert_of_a_flow_has_no_finding() -> None:
    assert finding_of(json.dumps(OF_FINDING), None) is None


NAMES = [*OF_FINDING, "title"]
ANY: Any = st.one_of(st.none(), st.booleans(), st.floats(), st.text(), st.lists(st.integers()),
                     st.dictionaries(st.text(), st.one_of(st.none(), st.floats(), st.text())))  # fmt: skip


@given(st.one_of(st.text(), ANY.map(json.dumps), st.dictionaries(st.sampled_from(NAMES), ANY).map(json.dumps)))
def test_any_text_is_a_finding_of_finite_numbers(text: str) -> None:
    found = finding_of(text, "beacon")
    assert found is not None
    json.dumps([found.window_s, found.counts, found.thresholds, found.margin], allow_nan=False)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "3"])
def test_an_unreadable_finding_is_empty(text: str | None) -> None:
    found = finding_of(text, "beacon")
    assert found is not None
    assert (found.title, found.counts, found.margin) == ("Beacon", {}, None)


def test_the_strongest_finding_of_each_window_stands_for_those_it_grew_from(store: Store) -> None:
    growing = [{"at_s": float(k), "score": 0.8 + k / 100, "sentence": f"{k} ports"} for k in range(9)]
    others = [
        {"at_s": 20.0, "dst_ip": "198.51.100.2", "score": 0.7, "sentence": "another host"},
        {"at_s": 21.0, "behaviour": "sweep", "key": "source", "score": 0.5, "sentence": "few hosts"},
        {
            "at_s": 22.0,
            "behaviour": "sweep",
            "key": "source",
            "score": 0.6,
            "dst_ip": "198.51.100.3",
            "sentence": "hosts",
        },
    ]
    store.commit_batch("eth0", None, findings_of([*growing, *others]), n_flows=12)
    store.commit_batch("eth0", None, alerts_of([{"at_s": 23.0}]), n_flows=1)
    (full,) = store.query(incidents.find_full, search="8 ports").items
    strongest, n_findings = store.query(alerts.strongest_findings, *full.extent, limit=5)
    assert [of.sentence for of in strongest] == ["8 ports", "hosts", "another host"]
    assert (n_findings, full.incident.n_alerts) == (12, 13)


def test_a_day_of_scans_is_one_incident_however_its_findings_arrive(store: Store) -> None:
    hours = [{"at_s": 3_600.0 * k, "src_ip": f"203.0.113.{k}", "role": "target"} for k in (9, -11, 3, 0, 15, -3)]
    for hour in hours:
        store.commit_batch("eth0", None, findings_of([hour]), n_flows=1)
    today, tomorrow = store.query(incidents.find).items[::-1]
    assert (today.n_alerts, today.n_hosts, tomorrow.n_alerts) == (5, 5, 1)
    assert (today.role, today.host, today.duration_s) == ("target", "198.51.100.1", 20 * 3_600)
