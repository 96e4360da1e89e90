"""Options that several commands take."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer

from deepidea.cli.app import app
from deepidea.cli.options import options_of_source
from deepidea.detection.runner import DetectionConfig
from deepidea.web.engines import Engines
from tests.conftest import Command


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("2.5", 2.5), ("True", True), ("10.0.0.1", "10.0.0.1"), ("a=b", "a=b"), ("", "")]
)
def test_values_are_numbers_and_truths_where_they_read_so(text: str, value: object) -> None:
    assert options_of_source([f"name={text}"]) == {"name": value}


@pytest.mark.parametrize("given", ["name", "=1", ""])
def test_an_option_needs_name_and_value(given: str) -> None:
    with pytest.raises(typer.BadParameter, match="NAME=VALUE"):
        options_of_source([given])


def test_options_of_detect_reach_its_configuration(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[DetectionConfig] = []

    def note(config: DetectionConfig, *_: object, **__: object) -> None:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("deepidea.detection.runner.run_detection", note)
    line = ("--exporter", "10.0.0.1", "--exporter", "10.0.0.2", "--option", "timeout_s=60", "--sink", "stdout")
    assert command("detect", "netflow://:2055", *line).code == 130
    (config,) = seen
    assert config.source_options == {"exporters": ["10.0.0.1", "10.0.0.2"], "timeout_s": 60}
    assert (config.source, config.sinks, config.model) == ("netflow://:2055", ("stdout",), None)


def test_options_of_serve_reach_the_detection_of_each_source(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_file: Path
) -> None:
    seen: list[DetectionConfig] = []

    def note(_: Engines, configs: list[DetectionConfig], *__: object) -> None:
        seen.extend(configs)
        raise KeyboardInterrupt

    monkeypatch.setattr(Engines, "start", note)
    site, url = tmp_path / "site.toml", f"sqlite:///{tmp_path}/page.db"
    line = ("--flow-alerts", "--home", "192.0.2.0/24", "--home", "2001:db8::/32", "--thresholds", str(site))
    sources = ("--source", "netflow://:2055", "--source", "conn.log", "--model", str(model_file))
    assert command("serve", "--port", "0", "--store", url, *sources, *line).code == 130
    assert [one.source for one in seen] == ["netflow://:2055", "conn.log"]
    for one in seen:
        assert (one.flow_alerts, one.home, one.thresholds) == (True, ("192.0.2.0/24", "2001:db8::/32"), site)


def examples() -> list[str]:
    """Return the example of every command's help."""
    groups = (app, *(group.typer_instance for group in app.registered_groups))
    return [str(command.epilog) for group in groups for command in group.registered_commands]


@pytest.mark.parametrize("example", examples())
def test_the_example_of_every_command_can_be_parsed(example: str) -> None:
    name, *words = shlex.split(example.removeprefix("Example: "))
    command = typer.main.get_command(app)
    while hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(command.make_context(name, [], resilient_parsing=True), words)
    command.make_context(name, words)
