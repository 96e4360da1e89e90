"""Headlines of incidents with findings: who did what to whom, and the evidence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.store import alerts, incidents
from deepidea.store.findings import finding_of
from deepidea.store.grouping import Listing
from deepidea.store.headline import finding_headline
from tests.detection.making import FINDING, findings_of
from tests.stores import Store


def evidence(n_hosts: int = 1, n_ports: int = 1, **finding: Any) -> dict[str, Any]:
    hosts, ports = Listing({"192.0.2.1": 1}, n_hosts - 1, True), Listing({"443": 1}, n_ports - 1, True)
    found = finding_of(json.dumps({"key": "pair"} | finding), "some_behaviour")
    return {"hosts": hosts, "ports": ports, "n_hosts": n_hosts, "n_ports": n_ports, "finding": found, "sentence": "E"}


OUTSIDE = "outside to inside"


@pytest.mark.parametrize(
    ("name", "role", "about", "text"),
    [
        ("port_scan", "source", evidence(), "10.0.0.5 scanned 192.0.2.1: E"),
        ("port_scan", "source", evidence(n_hosts=3), "10.0.0.5 scanned 3 hosts; strongest evidence: E"),
        ("host_sweep", "source", evidence(key="source"), "10.0.0.5 scanned the network: E"),
        ("port_scan", "source", evidence(key="source_port"), "10.0.0.5 scanned the network on port 443 (HTTPS): E"),
        ("host_sweep", "source", evidence(key="source", direction="inside to outside"),
         "10.0.0.5 scanned hosts outside: E"),
        ("port_scan", "target", evidence(n_hosts=1204, direction=OUTSIDE),
         "10.0.0.5 was scanned by 1,204 hosts from outside; strongest evidence: E"),
        ("port_scan", "target", evidence(n_hosts=9, key="target", direction=OUTSIDE, counts={"sources": 1204}),
         "10.0.0.5 was scanned by 1,204 hosts from outside: E"),
        ("infiltration", "source", evidence(), "10.0.0.5 contacted 192.0.2.1: E"),
        ("ddos", "target", evidence(n_hosts=9, key="target_port"), "10.0.0.5 was flooded on port 443 (HTTPS): E"),
        ("ddos", "target", evidence(n_hosts=9, key="target_port", direction=OUTSIDE),
         "10.0.0.5 was flooded by hosts from outside on port 443 (HTTPS): E"),
        ("brute_force", "source", evidence(key="service"),
         "10.0.0.5 guessed passwords of 192.0.2.1 on port 443 (HTTPS): E"),
        ("brute_force", "target", evidence(key="service", direction=OUTSIDE),
         "10.0.0.5 had passwords guessed by 192.0.2.1 from outside on port 443 (HTTPS): E"),
        ("botnet", "source", evidence(n_ports=2), "10.0.0.5 kept contacting 192.0.2.1: E"),
        ("exfiltration", "source", evidence(n_ports=2), "10.0.0.5 uploaded data to 192.0.2.1: E"),
    ],
)  # fmt: skip
def test_a_headline_ends_with_the_evidence(name: str, role: str, about: dict[str, Any], text: str) -> None:
    assert finding_headline(name, role, "10.0.0.5", **about) == text


@given(
    st.sampled_from(["port_scan", "DDoS", "brute_force", "botnet", "Web Attack - XSS", "U2R", "tunnel", "zeta", ""]),
    st.sampled_from(["source", "target"]),
    st.sampled_from(["source", "target", "pair", "service", "target_port", None]),
    st.sampled_from(["inside to outside", OUTSIDE, "inside", "outside", None]),
    st.integers(0, 10**6),
    st.integers(0, 65_536),
)
def test_a_headline_is_one_sentence_of_any_incident_with_findings(
    name: str, role: str, key: str, direction: str, n_hosts: int, n_ports: int
) -> None:
    text = finding_headline(name, role, "unknown", **evidence(n_hosts, n_ports, key=key, direction=direction))
    assert text.startswith("A host of unknown address ")
    assert text.endswith(": E")
    assert "  " not in text
    assert "None" not in text


def test_an_incident_of_findings_has_their_headline_and_the_best_evidence(store: Store) -> None:
    rows = [{"sentence": "8 ports of 1 host", "score": 0.9}, {"sentence": "42 ports of 1 host", "at_s": 1.0}]
    store.commit_batch("eth0", None, findings_of(rows), n_flows=2)
    one, alert = store.query(incidents.find).items[0], store.query(alerts.find).items[0]
    assert one.headline == "192.0.2.7 scanned 198.51.100.1: 42 ports of 1 host"
    assert (one.behaviours, one.behaviour) == ((FINDING["behaviour"],), FINDING["behaviour"])
    assert one.finding is not None
    assert one.finding.counts["ports"] == 42
    assert (alert.role, alert.sentence, alert.finding) == ("source", "42 ports of 1 host", one.finding)
