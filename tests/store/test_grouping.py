"""Incidents: a property of the set of alerts, of bounded size."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.store import grouping as incidents
from deepidea.store.grouping import INCIDENT_COLUMNS, MOST_LISTED, group_alerts, listing_of
from tests.detection.making import FINDING, alerts_of, findings_of, sweep

NONE = pl.DataFrame(schema=pl.Schema(INCIDENT_COLUMNS))


def added(known: pl.DataFrame, alerts: pl.DataFrame) -> pl.DataFrame:
    """Return all incidents after alerts were added to them."""
    grouped = group_alerts(alerts, known, gap_s=600)
    gone = [*grouped.replaced["old_id"], *grouped.incidents["incident_id"]]
    rest = known.filter(~pl.col("incident_id").is_in(gone))
    return pl.concat([rest, grouped.incidents]).sort("incident_id")


ALERT = st.fixed_dictionaries(
    {
        "at_s": st.integers(0, 12).map(lambda k: 250.0 * k),
        "src_ip": st.sampled_from(["192.0.2.1", "192.0.2.2"]),
        "dst_ip": st.sampled_from([f"198.51.100.{k}" for k in range(5)]),
        "dst_port": st.sampled_from([*range(8), None]),
        "class": st.sampled_from(["port_scan", "ddos"]),
        "score": st.sampled_from([0.5, 0.95]),
    }
)


FINDINGS = st.fixed_dictionaries(
    {
        "at_s": st.integers(0, 400).map(lambda k: 250.0 * k),  # more than a day
        "src_ip": st.sampled_from(["192.0.2.1", "192.0.2.2"]),
        "dst_ip": st.sampled_from(["198.51.100.1", "198.51.100.2"]),
        "class": st.sampled_from(["port_scan", "botnet"]),
        "role": st.sampled_from(["source", "target", None]),
        "behaviour": st.sampled_from(["port_scan_vertical", "beacon", 'od"d', None]),
        "score": st.sampled_from([0.5, 0.95]),
        "sentence": st.sampled_from(["5 ports", "42 ports"]),
        "severity": st.integers(1, 4),
    }
)


@settings(max_examples=60)
@given(st.lists(FINDINGS, min_size=1, max_size=25), st.lists(st.integers(1, 9), min_size=25), st.randoms())
def test_incidents_of_findings_do_not_depend_on_order_either(rows: list[Any], sizes: list[int], random: Any) -> None:
    alerts = findings_of(rows)
    whole = group_alerts(alerts, NONE).incidents
    random.shuffle(rows)
    known, rest = NONE, findings_of(rows)
    for size in sizes:
        if rest.height:
            known, rest = added(known, rest.head(size)), rest.slice(size)
    assert known.equals(whole)
    assert whole["n_alerts"].sum() == alerts.height
    assert set(whole["behaviours"].str.json_decode(pl.List(pl.String)).explode().drop_nulls()) == set(
        alerts["behaviour"].drop_nulls()
    )


@settings(max_examples=60)
@given(st.lists(ALERT, min_size=1, max_size=25), st.lists(st.integers(1, 9), min_size=25), st.randoms())
def test_incidents_do_not_depend_on_order_or_batches(rows: list[Any], sizes: list[int], random: Any) -> None:
    whole = group_alerts(alerts_of(rows), NONE).incidents
    random.shuffle(rows)
    known, rest = NONE, alerts_of(rows)
    for size in sizes:
        if rest.height:
            known, rest = added(known, rest.head(size)), rest.slice(size)
    assert known.equals(whole)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=60), st.integers(1, 20))
def test_beyond_what_is_listed_order_and_batches_do_not_matter_either(ports: list[int], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(incidents, "MOST_LISTED", 8)
        alerts = alerts_of([{"dst_port": port, "src_port": place} for place, port in enumerate(ports)])
        whole, known = group_alerts(alerts, NONE).incidents, NONE
        for part in alerts.reverse().iter_slices(size):
            known = added(known, part)
        assert known.equals(whole)
        kept = incidents.listing_of(whole["ports"].item(), whole["n_ports"].item(), most=99).top
        assert all(ports.count(int(port)) == n for port, n in kept.items())


@settings(max_examples=60)
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_neighbours_in_an_incident_are_a_gap_apart_at_most(times: list[int]) -> None:
    found = group_alerts(alerts_of([{"at_s": float(t), "src_port": k} for k, t in enumerate(times)]), NONE).incidents
    ordered = sorted(times)
    assert found.height == 1 + sum(b - a > 600 for a, b in pairwise(ordered))
    assert found["n_alerts"].sum() == len(times)


def test_a_sweep_over_a_thousand_ports_is_one_incident() -> None:
    found = group_alerts(sweep(1000), NONE).incidents.row(0, named=True)
    assert (found["n_alerts"], found["n_ports"], found["n_hosts"]) == (1000, 1000, 1)
    listing = listing_of(found["ports"], found["n_ports"])
    assert (len(listing.top), listing.n_more, listing.exact) == (10, 990, True)


def test_a_wide_scan_is_one_incident_of_bounded_size() -> None:
    known = NONE
    for batch in range(5):
        rows = [
            {"dst_ip": f"10.{batch}.{k // 250}.{k % 250}", "dst_port": k, "at_s": float(batch)} for k in range(6000)
        ]
        known = added(known, alerts_of(rows))
    found = known.row(0, named=True)
    assert known.height == 1
    assert found["n_alerts"] == 30_000
    assert found["n_hosts"] == pytest.approx(30_000, rel=0.12)
    assert found["n_ports"] == pytest.approx(6_000, rel=0.12)
    assert len(found["hosts"]) + len(found["ports"]) < 40 * MOST_LISTED
    assert not listing_of(found["hosts"], found["n_hosts"]).exact


def test_a_late_alert_joins_two_incidents_under_the_first_ones_id() -> None:
    early, late, between = (alerts_of([{"at_s": at}]) for at in (0.0, 1100.0, 550.0))
    apart = added(added(NONE, late), early)
    assert apart.height == 2
    grouped = group_alerts(between, apart)
    assert grouped.incidents["incident_id"].to_list() == [apart["incident_id"][0]]
    assert grouped.replaced.rows() == [(apart["incident_id"][1], apart["incident_id"][0])]


@pytest.mark.parametrize(
    ("name", "role"),
    [("port_scan", "source"), ("dos", "target"), ("DoS Hulk", "target"), ("DDoS", "target"), ("brute_force", "source")],
)
def test_an_incident_is_the_offending_hosts_save_where_many_attack_one(name: str, role: str) -> None:
    found = group_alerts(alerts_of([{"src_ip": f"192.0.2.{k}"} for k in range(9)], **{"class": name}), NONE).incidents
    assert found.height == (1 if role == "target" else 9)
    assert found["role"].unique().to_list() == [role]


def test_a_finding_names_whose_incident_it_makes() -> None:
    rows = [{"src_ip": f"192.0.2.{k}", "at_s": 3_600.0 * k} for k in range(9)]
    found = group_alerts(findings_of(rows, role="target"), NONE).incidents
    assert found.select("role", "host", "n_alerts", "n_hosts").rows() == [("target", "198.51.100.1", 9, 9)]
    assert group_alerts(findings_of(rows, role="source"), NONE).incidents.height == 9


def test_scans_and_guessing_by_target_are_one_incident_a_day() -> None:
    rows = [{"src_ip": f"192.0.2.{k}", "at_s": 3_600.0 * k} for k in range(-12, 36)]  # noon is 0
    found = group_alerts(findings_of(rows, role="target"), NONE).incidents
    assert found["n_alerts"].to_list() == [24, 24]
    guessing = {"class": "brute_force", "behaviour": "password_guessing"}
    assert group_alerts(findings_of(rows, role="target", **guessing), NONE).incidents.height == 2
    flood = {"class": "dos", "behaviour": "packet_flood"}
    assert group_alerts(findings_of(rows, role="target", **flood), NONE).incidents.height == 48


def test_an_incident_shows_the_finding_with_the_highest_score_the_latest_of_several() -> None:
    rows = [
        {"sentence": "8 ports", "score": 0.9, "at_s": 0.0},
        {"sentence": "42 ports", "score": 0.97, "at_s": 1.0},
        {"sentence": "99 ports", "score": 0.97, "at_s": 2.0, "behaviour": "port_scan_slow"},
        {"sentence": "7 ports", "score": 0.8, "at_s": 3.0},
    ]
    flow = alerts_of([{"score": 0.999, "at_s": 4.0}])
    found = group_alerts(pl.concat([findings_of(rows), flow]), NONE).incidents.row(0, named=True)
    assert (found["sentence"], found["behaviour"], found["finding_score"]) == ("99 ports", "port_scan_slow", 0.97)
    assert (found["behaviours"], found["score"]) == (f'["port_scan_slow", "{FINDING["behaviour"]}"]', 0.999)


def test_severity_and_score_are_the_worst() -> None:
    found = group_alerts(alerts_of([{"score": 0.5}, {"score": 0.97, "at_s": 1.0}]), NONE).incidents
    assert found.select("severity", "score").row(0) == (3, 0.97)
