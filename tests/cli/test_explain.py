"""`deepidea explain`: an alert of a store, rows of a file, for people and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from deepidea.cli.explain import show_explanation
from deepidea.model.detector import Detector
from deepidea.model.explain import Explainer
from deepidea.store.alert_columns import ALERT_COLUMNS
from tests.conftest import Command
from tests.detection.making import FINDING, findings_of
from tests.stores import open_store


@pytest.fixture
def store(command: Command, model_file: Path, flow_file: Path, tmp_path: Path) -> str:
    """URL of a store with the alerts of `flow_file`."""
    url = f"sqlite:///{tmp_path / 'alerts.db'}"
    ran = command("detect", flow_file, "--model", model_file, "--store", url, "--flow-alerts")
    assert ran.code == 0, ran.err
    return url


def test_an_alert_that_is_listed_can_be_explained(command: Command, model_file: Path, store: str):
    listed = command("alerts", "--store", store, "--limit", 3).out.splitlines()
    beginning = listed[1].split()[-1]
    ran = command("explain", model_file, beginning, "--store", store)
    assert ran.code == 0, ran.err
    headline, about, head, *reasons, kinds, footer = ran.out.splitlines()
    assert kinds.startswith("By kind: ")
    assert headline.startswith("Looks like ")
    assert about.startswith(f"alert {beginning}")
    assert head.split() == ["feature", "value", "push", "benign", "flows"]
    assert 1 <= len(reasons) <= 8
    assert "benign flows of training" in footer


def test_a_finding_is_shown_before_the_flow_that_completed_it(command: Command, model_file: Path, store: str):
    with open_store(store) as opened:
        alert = opened.alerts(limit=1).rows.drop("source", "suppressed_by")
        found = findings_of([{}]).select("behaviour", "sentence", "finding")
        raised = alert.with_columns(**found.to_dict(), alert_id=pl.lit("f" * 32), suppressed_by=pl.lit(None, pl.String))
        opened.commit_batch("eth0", None, raised.select(*ALERT_COLUMNS), n_flows=1)
    first, second, headline, *_ = command("explain", model_file, "ffff", "--store", store).out.splitlines()
    assert first == f"Port scan vertical: {FINDING['sentence']}, 5.25 times the threshold"
    assert "scored by itself" in second
    assert headline.startswith("Looks like ")
    written = json.loads(command("explain", model_file, "ffff", "--store", store, "--json").out)
    assert (written["behaviour"], written["sentence"]) == (FINDING["behaviour"], FINDING["sentence"])


def test_json_has_every_key(command: Command, model_file: Path, store: str):
    beginning = command("alerts", "--store", store, "--limit", 1).out.split()[-1]
    written = json.loads(command("explain", model_file, beginning, "--store", store, "--json", "--top", 2).out)
    assert written["alert_id"].startswith(beginning)
    assert len(written["reasons"]) == 2
    assert {"headline", "class_name", "score", "basis", "log_odds", "residual", "range_of"} <= set(written)
    assert {"name", "title", "value", "push", "share", "direction", "benign_range"} <= set(written["reasons"][0])


def test_rows_of_a_file(command: Command, model_file: Path, flow_file: Path):
    ran = command("explain", model_file, "--flows", flow_file, "--row", 7, "--row", 2, "--top", 3)
    assert ran.code == 0, ran.err
    assert [line.split(":")[0] for line in ran.out.splitlines() if line.startswith("row ")] == ["row 7", "row 2"]
    written = json.loads(command("explain", model_file, "--flows", flow_file, "--json").out)
    assert len(written) == 5
    scores = Detector.load(model_file).score(pl.read_csv(flow_file))["score"]
    assert [one["score"] for one in written] == pytest.approx(scores.sort(descending=True).head(5).to_list())


@pytest.mark.parametrize("given", [(), ("0", "--flows", "x.csv")])
def test_either_an_alert_or_flows(command: Command, model_file: Path, given: tuple[str, ...]):
    ran = command("explain", model_file, *given)
    assert ran.code == 3
    assert "either an alert or --flows" in ran.err


def test_a_store_that_is_not_there_and_an_alert_that_is_not(
    command: Command, model_file: Path, store: str, tmp_path: Path
):
    assert command("explain", model_file, "0", "--store", f"sqlite:///{tmp_path / 'none.db'}").code == 5
    ran = command("explain", model_file, "ffff", "--store", store)
    assert ran.code == 3
    assert "none does; see deepidea alerts" in ran.err


def test_what_is_not_known_is_reported(model_file: Path, flow_file: Path, capsys: pytest.CaptureFixture[str]):
    old = Detector.load(model_file).with_options(reference=None)
    [found] = Explainer(old).explain(pl.read_csv(flow_file).head(1))
    show_explanation(found, "row 1")
    assert "no benign range is known" in capsys.readouterr().out
    [found] = Explainer(old).explain(pl.read_csv(flow_file).head(1), basis="anomaly")
    show_explanation(found, "row 1")
    assert "unlike benign flows" in capsys.readouterr().out
