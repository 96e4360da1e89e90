"""`deepidea behaviours`: what is looked for, and thresholds as a file that is read again."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from deepidea.detection.behaviour.registry import BEHAVIOURS
from tests.conftest import Command


def test_every_behaviour_is_listed(command: Command) -> None:
    ran = command("behaviours")
    assert ran.code == 0
    words = ran.out.split()
    assert {one.name for one in BEHAVIOURS} <= set(words)


def test_thresholds_as_toml_are_those_of_the_registry_and_can_be_read_again(command: Command, tmp_path: Path) -> None:
    printed = command("behaviours", "--toml").out
    assert tomllib.loads(printed) == {one.name: one.thresholds for one in BEHAVIOURS}
    path = tmp_path / "site.toml"
    path.write_text(printed)
    assert command("behaviours", "--toml", "--thresholds", path).out == printed


def test_a_sites_thresholds_are_shown(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("[vertical_scan]\nports = 77\n[upload]\nenabled = false\n")
    shown = tomllib.loads(command("behaviours", "--toml", "--thresholds", path).out)
    assert shown["vertical_scan"]["ports"] == 77
    assert "upload" not in shown


@pytest.mark.parametrize(
    ("text", "fact"),
    [("[scan]\nports = 3", "no behaviour 'scan'"), ("[beacon]\nbeats = 0", "beats = 0"), ("beats", "cannot read")],
)
def test_wrong_thresholds_are_refused(command: Command, tmp_path: Path, text: str, fact: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text)
    ran = command("behaviours", "--thresholds", path)
    assert (ran.code, fact in " ".join(ran.err.split())) == (3, True), ran.err
