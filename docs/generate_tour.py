"""Run the commands of the documents' tours and write their output there: ``python docs/generate_tour.py DIR``.

``DIR`` holds the folders ``nsl-kdd`` and ``cicids17-improved``, and ``zeek/port-scan-vertical/conn.log``. Commands run
in a temporary home folder. Long lines of text are wrapped; most epochs and the end of long
output are left out; the rest is what a command printed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 128
MOST_LINES = 24  # of a command; "..." stands for the rest
_FEWER = {"deepidea train nsl-kdd -o nsl.idea --seed 0": 7}  # the rest is the card that `deepidea inspect` prints
HIDDEN = [
    "deepidea data add cicids17-improved ~/CNS2022",
    "deepidea train cicids17-improved --schema conn -o conn.idea",
]
TOURS = {
    "README.md": {"watch": ["deepidea detect conn.log --model conn.idea", "deepidea incidents"]},
    "docs/quick-start.md": {
        "add": ["deepidea data add nsl-kdd ~/nsl-kdd"],
        "train": ["deepidea train nsl-kdd -o nsl.idea --seed 0"],
        "evaluate": ["deepidea evaluate nsl.idea nsl-kdd --report nsl.html"],
        "score": [
            "deepidea score nsl.idea ~/nsl-kdd/KDDTest-21.txt --no-header -o verdicts.csv",
            "head -n 3 verdicts.csv",
        ],
    },
}
_LINKS = {"nsl-kdd": "nsl-kdd", "CNS2022": "cicids17-improved", "conn.log": "zeek/port-scan-vertical/conn.log"}


def run_tours(data: Path) -> dict[str, dict[str, str]]:
    """Return the text of each block of each page: commands and their output."""
    with tempfile.TemporaryDirectory() as home:
        for name, target in _LINKS.items():
            (Path(home) / name).symlink_to((data / target).resolve())
        for command in HIDDEN:
            _run(command, home)
        return {
            page: {name: "\n".join(_run(command, home) for command in commands) for name, commands in tour.items()}
            for page, tour in TOURS.items()
        }


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
    wrapped = [part for line in printed for part in _wrapped(line)]
    most = _FEWER.get(command, MOST_LINES)
    return "\n".join([f"$ {command}", *wrapped[:most], *(["..."] if len(wrapped) > most else [])])


def without_most_epochs(lines: list[str]) -> list[str]:
    """Put ``...`` in place of all epochs but the first two and the last two."""
    epochs = [place for place, line in enumerate(lines) if re.match(r" *\d+/\d+ +\d", line)]
    if len(epochs) > 4:
        lines[epochs[2] : epochs[-2]] = ["..."]
    return lines


def _wrapped(line: str) -> list[str]:
    is_table = "  " in line.strip()
    return [line] if is_table or len(line) <= WIDTH else textwrap.wrap(line, WIDTH, subsequent_indent="  ")


def filled(text: str, blocks: dict[str, str]) -> str:
    """Return a page with its blocks replaced."""
    for name, block in blocks.items():
        pattern = re.compile(rf"(<!-- tour:{name} -->\n```console\n).*?(\n```\n<!-- /tour:{name} -->)", re.DOTALL)
        text = pattern.sub(lambda found, block=block: f"{found[1]}{block}{found[2]}", text)  # type: ignore[misc]
    return text


def main() -> None:
    """Run the tours and rewrite their pages."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python docs/generate_tour.py DIR, the folder of the data sets")
    for page, blocks in run_tours(Path(sys.argv[1])).items():
        path = ROOT / page
        path.write_text(filled(path.read_text(encoding="utf-8"), blocks), encoding="utf-8")


if __name__ == "__main__":
    main()
