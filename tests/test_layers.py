"""Imports by string keep to the layers, too: import-linter sees import statements alone."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "deepidea"
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LAYERS = next(contract["layers"] for contract in CONTRACTS if contract["type"] == "layers")
HEIGHTS = {
    room.strip().removeprefix("deepidea."): -height for height, layer in enumerate(LAYERS) for room in layer.split("|")
}


def names_in(source: str) -> Iterator[str]:
    """Yield the rooms whose modules are named by strings."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = re.fullmatch(r"deepidea\.(\w+)[\w.:]*", node.value)
            if found:
                yield found[1]


def test_names_are_found() -> None:
    assert list(names_in('x = load("deepidea.web.app:App", "deepidea", "see deepidea.cli")')) == ["web"]


@pytest.mark.parametrize("room", [room for room in HEIGHTS if (PACKAGE / room).is_dir()])
def test_no_string_names_a_module_of_a_room_above(room: str) -> None:
    above = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (PACKAGE / room).rglob("*.py")
        for name in names_in(path.read_text())
        if name != room and HEIGHTS.get(name, -len(HEIGHTS)) >= HEIGHTS[room]
    ]
    assert not above
