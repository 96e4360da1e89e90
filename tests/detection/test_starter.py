"""The detector that the package ships with."""

from __future__ import annotations

import threading
from pathlib import Path

from deepidea.detection.runner import DetectionConfig, run_detection
from deepidea.detection.starter import STARTER_FILE, load_starter
from deepidea.simulation.one_attack import simulate_attack
from deepidea.store import incidents
from deepidea.store.store import open_store
from tests.conftest import Command


def test_it_is_small_and_says_what_it_was_trained_on() -> None:
    detector = load_starter()
    assert detector.schema.name == "conn"
    assert detector.card["data"]["source"] == "simulated"
    import deepidea.detection.starter as starter

    assert Path(starter.__file__).with_name(STARTER_FILE).stat().st_size < 3_000_000


def test_packets_are_watched_without_a_model(tmp_path: Path) -> None:
    simulate_attack("port_scan", ports=60, seconds=5, targets=1, sources=1).write(tmp_path / "scan.pcap")
    reported: list[str] = []
    config = DetectionConfig(str(tmp_path / "scan.pcap"), store=f"sqlite:///{tmp_path}/a.db")
    run_detection(config, threading.Event(), on_model=reported.append)
    assert len(reported) == 1
    assert "starter detector" in reported[0]
    with open_store(config.store) as store:
        assert [one.class_name for one in store.query(incidents.find).items] == ["port_scan"]


def test_thresholds_are_set_without_a_model(tmp_path: Path, command: Command) -> None:
    simulate_attack("beacon", beats=60, period_s=30, jitter=0).write(tmp_path / "quiet.pcap")
    ran = command("calibrate", tmp_path / "quiet.pcap", "--fpr", 0.05, "-o", tmp_path / "site.idea")
    assert ran.code == 0, ran.err
    assert (tmp_path / "site.idea").exists()
