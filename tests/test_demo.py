"""The examples run as a newcomer runs them: in a process of their own, with no data set at hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from deepidea.model.detector import Detector

RUN_ABOVE = ("demo.py", "labelled_flows.py")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, home: Path, *options: str) -> str:
    settings = {"HOME": str(home), "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8"}
    environment = {**os.environ, **settings}
    for variable in ("DEEPIDEA_HOME", "ORT_DISABLE_TELEMETRY"):  # the second is for the package to set
        environment.pop(variable, None)
    command = [sys.executable, str(EXAMPLES / name), *options]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Return what the example printed, its output folder and the home folder it ran in."""
    output, home = tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("home")
    return run("labelled_flows.py", home, "--simulated", "--flows", "6000", "--output", str(output)), output, home


@pytest.mark.slow
def test_the_labelled_flows_example_says_what_it_found(labelled: tuple[str, Path, Path]) -> None:
    told, output, _ = labelled
    scores = json.loads((output / "scores.json").read_text())
    assert "SIMULATED" in told
    assert f"all:       {100 * scores['cba']:.1f} %" in told
    for name, of in scores["per_class"].items():
        assert f"recall of {name + ':':14s} {100 * of['recall']:5.1f} %" in told
    assert "report.html" in told


@pytest.mark.slow
def test_the_labelled_flows_example_leaves_one_verdict_a_flow_and_a_detector_that_gives_them_again(
    labelled: tuple[str, Path, Path],
) -> None:
    _, output, _ = labelled
    flows, verdicts = pl.read_csv(output / "new-flows.csv"), pl.read_csv(output / "verdicts.csv")
    again = Detector.load(output / "demo.idea").score(flows)
    assert verdicts["class"].to_list() == again["class"].to_list()
    assert "label" not in flows.columns
    assert (output / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.slow
def test_the_labelled_flows_example_leaves_no_trace_in_the_home_folder(labelled: tuple[str, Path, Path]) -> None:
    _, _, home = labelled
    assert not [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_the_demo_finds_what_was_simulated(tmp_path: Path) -> None:
    told = run("demo.py", tmp_path, "--minutes", "2", "--output", str(tmp_path / "out"))
    lines = [line.split() for line in told.splitlines() if line.endswith(" instances found")]
    found = {words[0]: (int(words[1]), int(words[3])) for words in lines}
    assert "SIMULATED" in told
    for kind in ("syn_flood", "port_scan", "icmp_sweep", "dns_tunnel"):
        assert found[kind][0] == found[kind][1] > 0
    assert sum(n for n, _ in found.values()) > 0.7 * sum(n for _, n in found.values())
    assert " incidents; the most urgent:" in told


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in RUN_ABOVE))
def test_every_other_example_runs(name: str, tmp_path: Path) -> None:
    assert run(name, tmp_path)
