"""What is loaded when, and what works where the training extras are not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import deepidea

EXTRAS = ("torch", "sklearn", "safetensors", "jinja2", "plotly")
WITHOUT_EXTRAS = f"""
import sys
for name in {EXTRAS}:
    sys.modules[name] = None  # importing it raises ImportError
from deepidea.cli import app as cli
"""


def python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)


def without_extras(*argv: object) -> subprocess.CompletedProcess[str]:
    return python(f"{WITHOUT_EXTRAS}\nsys.argv = {['deepidea', *map(str, argv)]!r}\ncli.main()")


def test_importing_the_package_loads_nothing_heavy() -> None:
    ran = python("import sys, deepidea; deepidea.__all__; dir(deepidea); print(*sys.modules)")
    assert {"torch", "polars", "onnxruntime", "numpy", "sklearn", "rich"}.isdisjoint(ran.stdout.split())


def test_help_loads_nothing_heavy() -> None:
    ran = python("import sys; from deepidea.cli import app as cli; print(*sys.modules)")
    assert {"torch", "polars", "onnxruntime", "sklearn", "plotly"}.isdisjoint(ran.stdout.split())


def test_public_names_are_all_and_resolve() -> None:
    assert sorted(deepidea.__all__) == sorted(deepidea._HOMES)
    for name in deepidea.__all__:
        value = getattr(deepidea, name)
        assert (value.__name__, value.__module__) == (name, deepidea._HOMES[name])
    assert set(deepidea.__all__) <= set(dir(deepidea))
    with pytest.raises(AttributeError, match="no attribute 'Detectors'"):
        deepidea.Detectors  # noqa: B018


def test_the_help_of_every_command_works_without_extras() -> None:
    from deepidea.cli.app import app

    inner = {group.name: group.typer_instance for group in app.registered_groups}
    groups = (("", app), *((f"{name} ", group) for name, group in inner.items()))
    lines = [prefix + (c.name or c.callback.__name__) for prefix, group in groups for c in group.registered_commands]
    ran = python(f"""{WITHOUT_EXTRAS}
for line in {["", *inner, *lines]!r}:
    sys.argv = ["deepidea", *line.split(), "--help"]
    try:
        cli.main()
    except SystemExit as left:
        print("code", left.code)
""")
    assert ran.stdout.count("code 0") == ran.stdout.count("Usage: ") == 1 + len(inner) + len(lines), ran.stderr


def test_training_without_torch_names_the_line_to_install(flow_file: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.idea"
    ran = without_extras("train", flow_file, "--label", "label", "--benign", "benign", "-o", model)
    assert ran.returncode == 6
    assert "error: cannot train without torch and scikit-learn: " in ran.stderr
    assert ran.stderr.endswith("install them with: pip install 'deepidea[train]'\n")
    assert not model.exists()


def test_scoring_evaluating_and_inspecting_need_no_extras(model_file: Path, flow_file: Path, tmp_path: Path) -> None:
    for argv in (
        ("inspect", model_file),
        ("score", model_file, flow_file, "-o", tmp_path / "v.csv"),
        ("evaluate", model_file, flow_file, "--json", tmp_path / "s.json"),
        ("data", "list"),
    ):
        ran = without_extras(*argv)
        assert ran.returncode == 0, ran.stderr
    assert json.loads((tmp_path / "s.json").read_text())["data"]["rows"] > 200


def test_a_report_without_jinja2_names_the_line_to_install(model_file: Path, flow_file: Path, tmp_path: Path) -> None:
    ran = without_extras("evaluate", model_file, flow_file, "--report", tmp_path / "r.html")
    assert ran.returncode == 6
    assert "jinja2 is not installed" in ran.stderr
    assert "pip install 'deepidea[train]'" in ran.stderr
    assert not (tmp_path / "r.html").exists()
