"""Options that several commands take."""

from __future__ import annotations

import pytest
import typer

from deepidea.cli.options import options_of_source
from deepidea.detection.runner import DetectionConfig
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
