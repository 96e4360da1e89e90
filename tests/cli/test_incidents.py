"""`deepidea incidents` and `deepidea alerts`: findings show their evidence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.detection.making import FINDING, OF_FINDING, alerts_of, findings_of
from tests.stores import open_store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a store with a finding and the alert of another flow."""
    monkeypatch.setenv("COLUMNS", "240")
    url = f"sqlite:///{tmp_path / 'alerts.db'}"
    with open_store(url) as opened:
        opened.commit_batch("eth0", None, findings_of([{"at_s": 9.0}]), n_flows=1)
        opened.commit_batch("eth0", None, alerts_of([{"src_ip": "192.0.2.8", "class": "dos"}]), n_flows=1)
    return url


@pytest.mark.parametrize("name", ["incidents", "alerts"])
def test_evidence_is_a_column_where_there_is_any(command: Command, store: str, name: str) -> None:
    head, finding, flow = command(name, "--store", store).out.splitlines()
    assert "evidence" in head
    assert FINDING["sentence"] in finding
    assert FINDING["sentence"] not in flow


@pytest.mark.parametrize("name", ["incidents", "alerts"])
def test_without_findings_there_is_no_such_column(command: Command, tmp_path: Path, name: str) -> None:
    url = f"sqlite:///{tmp_path / 'flows.db'}"
    with open_store(url) as opened:
        opened.commit_batch("eth0", None, alerts_of([{}]), n_flows=1)
    assert "evidence" not in command(name, "--store", url).out


def test_json_has_the_finding(command: Command, store: str) -> None:
    finding, flow = (json.loads(line) for line in command("incidents", "--store", store, "--json").out.splitlines())
    assert (finding["behaviours"], finding["sentence"]) == ([FINDING["behaviour"]], FINDING["sentence"])
    assert finding["finding"] == {"title": "Port scan vertical", **OF_FINDING}
    assert (flow["behaviours"], flow["sentence"], flow["finding"]) == ([], None, None)
    events = command("alerts", "--store", store, "--format", "eve").out.splitlines()
    assert json.loads(events[0])["deepidea"]["sentence"] == FINDING["sentence"]


@pytest.mark.parametrize("option", ["--suppressed", "--quiet"])  # the latter is of an earlier release
def test_suppressed_alerts_are_listed_alone(command: Command, store: str, option: str) -> None:
    assert command("allow", "add", "--src", "192.0.2.8", "--store", store).code == 0
    (_, shown), (_, hidden) = (command("alerts", *more, "--store", store).out.splitlines() for more in ((), (option,)))
    assert ("192.0.2.8" in shown, "192.0.2.8" in hidden) == (False, True)
