"""Findings on the page and in the API: their evidence, what to do about them, and rules that suppress them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from benchmarks.page_queries import reading

from deepidea.store import incidents
from deepidea.web.advice import next_steps
from deepidea.web.service import AnalystService
from tests.detection.making import alerts_of, findings_of
from tests.stores import Store
from tests.web.conftest import Someone
from tests.web.reading import read_page
from tests.web.running import running

VERTICAL = [
    {
        "sentence": f"{n} ports of 1 host",
        "score": 0.9 + k / 100,
        "at_s": float(k),
        "counts": {"ports": n, "idle_s": 90},
        "dst_ip": f"198.51.100.{1 + k // 4}",
    }
    for k, n in enumerate((8, 42, 320, 450, 600, 777, 993))
]
SWEEP = {"behaviour": "port_scan_horizontal", "sentence": "281 hosts on port 445", "score": 0.5, "key": "source"}


@pytest.fixture
def watched(sqlite_store: Store) -> AnalystService:
    rows = [{**row, "thresholds": {"ports": 8, "most_idle_s": 120}, "technique": "T1595"} for row in VERTICAL]
    found = findings_of([*rows, {**SWEEP, "at_s": 9.0, "dst_ip": "198.51.100.99"}])
    sqlite_store.commit_batch("eth0", None, found, n_flows=900)
    return AnalystService(sqlite_store)


def only(service: AnalystService, **filters: Any) -> Any:
    (row,) = service.incidents(**filters).items
    return service.incident(row.incident_id)


def test_an_incident_shows_the_strongest_finding_of_each_window(
    watched: AnalystService,
) -> None:
    view = only(watched)
    assert [of.sentence for of in view.findings] == [
        "993 ports of 1 host",
        "281 hosts on port 445",
        "450 ports of 1 host",
    ]
    assert view.n_findings == 8


def test_the_page_shows_counts_against_thresholds(watched: AnalystService) -> None:
    row = only(watched).incident
    with running(watched.store) as server:
        page = read_page(server.url, httpx.get(f"{server.url}/incidents/{row.incident_id}").text)
    assert "192.0.2.7 scanned 3 hosts; strongest evidence: 993 ports of 1 host" in page.text
    evidence = page.text[page.text.index("the strongest of 8 findings") :]
    for shown in (
        "993 ports of 1 host", "ports 993 (at least 8)", "idle 1 min 30 s (at most 2 min)", "5.2× the threshold",
        "10 min window of a pair of hosts", "inside the network", "T1595 Active Scanning",
    ):  # fmt: skip
        assert shown in evidence


def test_findings_cost_one_query_more(watched: AnalystService) -> None:
    of = reading(watched.store).of("/incidents/INCIDENT")
    assert of.transactions == ["read"]
    assert len(of.statements) <= 11


def test_the_api_returns_findings_of_incidents_and_alerts(watched: AnalystService) -> None:
    row = only(watched).incident
    with running(watched.store) as server, httpx.Client(base_url=f"{server.url}/api/v1") as client:
        incident = client.get(f"/incidents/{row.incident_id}").json()
        alert = client.get("/alerts").json()["items"][0]
    assert incident["incident"]["behaviours"] == ["port_scan_horizontal", "port_scan_vertical"]
    assert incident["incident"]["sentence"] == "993 ports of 1 host"
    assert incident["findings"][0]["finding"]["counts"] == {"ports": 993, "idle_s": 90}
    assert (alert["behaviour"], alert["role"], alert["finding"]["key"]) == ("port_scan_horizontal", "source", "source")


def test_incidents_are_found_by_behaviour_and_sentence(watched: AnalystService) -> None:
    watched.store.commit_batch("eth0", None, alerts_of([{"src_ip": "192.0.2.8"}]), n_flows=1)
    for words in ("993 ports", "port_scan_horizontal"):
        assert [row.host for row in watched.incidents(search=words).items] == ["192.0.2.7"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("port_scan", "Check that 198.51.100.1 answers only on ports that it should"),
        ("brute_force", "Check the logs of 198.51.100.1 for a successful login from 192.0.2.7"),
        ("ddos", "Check whether 198.51.100.1 still serves its users"),
    ],
)
def test_advice_for_a_target_tells_it_from_its_attackers(sqlite_store: Store, name: str, advice: str) -> None:
    sqlite_store.commit_batch("eth0", None, findings_of([{"class": name, "role": "target"}]), n_flows=1)
    view = only(AnalystService(sqlite_store))
    assert next_steps(view)[0].startswith(advice)


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("pair", {"src", "dst"}),
        ("service", {"src", "dst", "port"}),
        ("source", {"src"}),
        ("source_port", {"src", "port"}),
    ],
)
def test_suggested_rules_name_what_the_window_watches(sqlite_store: Store, key: str, fields: set[str]) -> None:
    sqlite_store.commit_batch("eth0", None, findings_of([{"key": key}]), n_flows=1)
    (narrowest, *_) = only(AnalystService(sqlite_store)).suggestions
    assert narrowest.rule.keys() - {"class_name"} == fields


def test_a_rule_suppresses_findings_and_releases_them_as_they_were(watched: AnalystService) -> None:
    before = watched.store.query(incidents.find_full).items
    rule, n_suppressed = watched.add_rule({"src": "192.0.2.7", "class": "port_scan"}, actor=Someone())
    assert (n_suppressed, watched.incidents().total) == (8, 0)
    watched.remove_rule(rule.rule_id, actor=Someone())
    assert watched.store.query(incidents.find_full).items == before
