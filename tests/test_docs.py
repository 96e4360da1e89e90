"""The documents are held against the program: options, links, names, keys, and every block that says it runs."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepidea import errors
from deepidea.adapters.registration import register_adapters
from deepidea.cli.app import app
from deepidea.detection.sinks.registry import SINKS
from deepidea.evaluation.evaluate import Evaluation
from deepidea.evaluation.metrics import evaluate
from deepidea.flows.datasets.specs import DATASET_SPECS
from deepidea.flows.taxonomy import TAXONOMIES
from deepidea.model.losses import LOSSES

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
GENERATOR = runpy.run_path(str(ROOT / "docs" / "generate_cli.py"))
GROUPS = {group.name for group in app.registered_groups}
COMMANDS: dict[str, str] = {}  # help text by full name, filled on first use


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def helps() -> dict[str, str]:
    """Return the printed help of every command."""
    for name, _ in GENERATOR["commands"](app, "deepidea") if not COMMANDS else ():
        done = CliRunner().invoke(app, [*name.split()[1:], "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
        COMMANDS[name] = re.sub(r"\x1b\[[0-9;]*m", "", done.output)
    return COMMANDS


def options_of(help_text: str) -> set[str]:
    """Return the options that a printed help declares, those that every command has left out."""
    lines = [line for line in help_text.splitlines() if re.match(r"[│|\s*]*-", line)]
    return {option for line in lines for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line[:60])} - {
        "--help",
        "-h",
    }


# --- length -----------------------------------------------------------------------------------------------------------


def test_the_documents_stay_short() -> None:
    assert len(read("README.md").encode()) <= 9_000
    assert len(read("CONTRIBUTING.md").encode()) <= 9_000
    assert sum(len(read(name).split()) for name in NAMES if name.startswith("docs/")) <= 25_000


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_page_of_the_command_line_is_what_its_generator_writes() -> None:
    assert read("docs/cli.md") == GENERATOR["cli_page"](), "run: python docs/generate_cli.py"


@pytest.mark.parametrize("name", [name for name, _ in GENERATOR["commands"](app, "deepidea")])
def test_every_option_of_the_printed_help_is_on_the_page_and_the_other_way_round(name: str) -> None:
    section = read("docs/cli.md").split(f"\n## {name}\n")[1].split("\n## ")[0]
    shown = re.findall(r"^- (?:((?:`-[\w-]+`(?:, )?)+):|\[common\]\S+ (.*))", section, re.M)
    written = {option for cells in shown for option in re.findall(r"`(--?[a-z][a-z-]*)`", " ".join(cells))}
    assert written == options_of(helps()[name])


def fenced(name: str) -> Iterator[tuple[str, str]]:
    """Yield language and text of each fenced block of a page."""
    language, lines = None, []
    for line in read(name).splitlines():
        if line.startswith("```"):
            if language is not None:
                yield language, "\n".join(lines)
            language, lines = (line[3:], []) if language is None else (None, [])
        else:
            lines.append(line)


def shell_commands(name: str) -> Iterator[str]:
    """Yield the lines of a page's blocks that call the program, without what goes before or after a pipe."""
    for language, block in fenced(name):
        for line in block.splitlines() if language in ("", "console") else ():
            for part in line.removeprefix("$ ").split(" # ")[0].split(" | "):
                if part.startswith("deepidea ") and "[OPTIONS]" not in part:
                    yield part


@pytest.mark.parametrize("name", [name for name in NAMES if list(shell_commands(name))])
def test_every_command_in_a_page_exists_with_its_options(name: str) -> None:
    for line in shell_commands(name):
        words = shlex.split(line)
        command = " ".join(words[: 3 if words[1] in GROUPS else 2])
        assert command in helps(), line
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= options_of(helps()[command]), line


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / "src").rglob("*.html")], ids=lambda page: page.name)
def test_every_sink_in_a_page_or_a_template_can_be_opened(page: Path) -> None:
    register_adapters()
    for address in re.findall(r"--sink '?([\w+]+)(?::|\b)", page.read_text(encoding="utf-8")):
        assert address in SINKS, address


def test_the_tours_show_output_of_every_command() -> None:
    tours = runpy.run_path(str(ROOT / "docs" / "generate_tour.py"))["TOURS"]
    for page, name, commands in ((page, *block) for page, tour in tours.items() for block in tour.items()):
        pattern = rf"<!-- tour:{name} -->\n```console\n(.*?)\n```\n<!-- /tour:{name} -->"
        block = re.search(pattern, read(page), re.S)
        assert block is not None, name
        lines = block[1].splitlines()
        assert [line[2:] for line in lines if line.startswith("$ ")] == commands
        assert len(lines) > len(commands)


# --- links and names -------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors that headings make, as hosts of Markdown spell them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_resolves(name: str) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", read(name), flags=re.DOTALL)
    for target in map("".join, re.findall(r"\]\(([^)]+)\)|<img src=\"([^\"]+)", text)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            page = (ROOT / name).parent / path if path else ROOT / name
            assert page.exists(), target
            assert not anchor or anchor in anchors(page), target


@pytest.mark.parametrize("name", NAMES)
def test_every_make_target_in_a_page_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", read(name), re.M)) <= targets


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_the_project_in_a_page_exists(name: str) -> None:
    rooms = ("src/deepidea", "")
    for path in re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|md|txt))`", read(name)):
        at = [ROOT / room / path for room in rooms] + [ROOT / name / ".." / path]
        assert "<" in path or any(place.exists() for place in at), path


@pytest.mark.parametrize("name", NAMES)
def test_every_name_that_a_page_imports_exists(name: str) -> None:
    for module, names in re.findall(r"^from (deepidea[\w.]*) import ([\w, ]+)", read(name), re.M):
        found = __import__(module, fromlist=["_"])
        assert all(hasattr(found, word.strip()) for word in names.split(","))


# --- blocks that run -------------------------------------------------------------------------------------------------


def blocks(name: str) -> list[str]:
    return re.findall(r"<!-- test -->\n```python\n(.*?)```", read(name), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if blocks(name)])
def test_the_marked_blocks_of_a_page_run_from_top_to_bottom(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(name):
        exec(compile(block, name, "exec"), names)


# --- what must be explained in full ----------------------------------------------------------------------------------


def test_every_key_of_an_evaluation_is_explained() -> None:
    page = read("docs/evaluation.md")
    scores = evaluate([0, 1], [0, 1], None, [0.1, 0.9], ["benign", "dos"]).to_dict()
    listed = set(re.findall(r"`([\w.]+)`", page))
    assert {key for key in scores if not key.endswith("_interval")} <= listed
    assert {key for key in scores["per_class"]["dos"] if not key.endswith("_interval")} <= listed
    assert {field.name for field in fields(Evaluation)} - {"scores"} <= {key.split(".")[0] for key in listed}


def test_every_error_and_its_exit_code_is_listed() -> None:
    lines = read("docs/errors.md").splitlines()
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, errors.DeepIDEAError):
            listed = [line for line in lines if re.search(rf"[─ ]?\b{name}\b.*  ", line)]
            assert listed, name
            assert "exit_code" not in vars(error) or re.search(rf" {error.exit_code}\b", listed[0]), name


def test_every_data_set_and_taxonomy_is_listed() -> None:
    page = read("docs/data-sets.md")
    assert all(f"`{name}`" in page for name in DATASET_SPECS)
    assert all(f"`{taxonomy}`" in page for known in TAXONOMIES.values() for taxonomy in known)
    assert all(entry.page in page for entry in DATASET_SPECS.values())


def test_every_loss_is_listed() -> None:
    assert set(LOSSES) <= set(re.findall(r"^\| `([\w-]+)` \|", read("docs/concepts.md"), re.M))


def test_every_departure_from_the_paper_is_listed() -> None:
    rows = re.findall(r"^\| `([\w/]+\.py)` \|", read("docs/accuracy.md"), re.M)
    package = ROOT / "src" / "deepidea"
    marked = [
        str(path.relative_to(package).as_posix())
        for path in package.rglob("*.py")
        for _ in re.findall(r"NOTE\[DIFF\]", path.read_text(encoding="utf-8"))
    ]
    assert sorted(rows) == sorted(marked)


@pytest.mark.parametrize("name", NAMES)
def test_markers_come_in_pairs(name: str) -> None:
    opened = re.findall(r"^<!-- ((?:results|tour):[\w-]+) -->$", read(name), re.M)
    closed = re.findall(r"^<!-- /((?:results|tour):[\w-]+) -->$", read(name), re.M)
    assert opened == closed
    assert len(set(opened)) == len(opened)
