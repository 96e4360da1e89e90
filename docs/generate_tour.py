"""Run the commands of the README's tour and put what they print into it: ``python docs/generate_tour.py DIR``.

``DIR`` is a folder of NSL-KDD. Each command runs in a shell of its own, in a temporary home folder where the data set
lies under ``~/nsl-kdd``. Lines longer than the page are wrapped, and most epochs are left out; apart from that a block
is what the command printed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
WIDTH = 100
TOUR = {
    "add": ["deepidea data add nsl-kdd ~/nsl-kdd"],
    "describe": ["deepidea data describe nsl-kdd | tail -n 5"],
    "train": ["deepidea train nsl-kdd -o nsl.idea --seed 0"],
    "evaluate": ["deepidea evaluate nsl.idea nsl-kdd --json nsl.json --report nsl.html"],
    "score": ["deepidea score nsl.idea ~/nsl-kdd/KDDTest-21.txt --no-header -o verdicts.csv", "head -n 4 verdicts.csv"],
    "inspect": ["deepidea inspect nsl.idea | head -n 9"],
}


def run_tour(folder: Path) -> dict[str, str]:
    """Return the text of each block: commands and what they printed."""
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "nsl-kdd").symlink_to(folder.resolve())
        return {name: "\n".join(_run(command, home) for command in commands) for name, commands in TOUR.items()}


def _run(command: str, home: str) -> str:
    program = str(Path(sys.executable).parent)
    settings = {"HOME": home, "DEEPIDEA_HOME": f"{home}/registered", "COLUMNS": str(WIDTH), "PYTHONUNBUFFERED": "1"}
    environment = {**os.environ, **settings, "PATH": f"{program}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, shell=True, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{command}: exit code {done.returncode}\n{done.stdout}")
    printed = without_most_epochs([line.rstrip() for line in done.stdout.splitlines() if line.strip()])
    return "\n".join([f"$ {command}", *(wrapped for line in printed for wrapped in _wrapped(line))])


def without_most_epochs(lines: list[str]) -> list[str]:
    """Put ``...`` in place of all epochs but the first two and the last two."""
    epochs = [place for place, line in enumerate(lines) if re.match(r" *\d+/\d+ +\d", line)]
    if len(epochs) > 4:
        lines[epochs[2] : epochs[-2]] = ["..."]
    return lines


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent="  ", drop_whitespace=True) if len(line) > WIDTH else [line]


def filled(text: str, blocks: dict[str, str]) -> str:
    """Return the README with its blocks replaced."""
    for name, block in blocks.items():
        pattern = re.compile(rf"(<!-- tour:{name} -->\n```console\n).*?(\n```\n<!-- /tour:{name} -->)", re.DOTALL)
        text = pattern.sub(lambda found, block=block: f"{found[1]}{block}{found[2]}", text)  # type: ignore[misc]
    return text


def main() -> None:
    """Run the tour and rewrite the README."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python docs/generate_tour.py DIR, the folder of NSL-KDD's files")
    blocks = run_tour(Path(sys.argv[1]))
    README.write_text(filled(README.read_text(encoding="utf-8"), blocks), encoding="utf-8")


if __name__ == "__main__":
    main()
