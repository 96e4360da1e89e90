"""Packages and megabytes of the base install, and what each extra adds, measured in fresh virtual environments.

The wheel is built from this checkout and installed with the pinned versions. A package counts with the files that its
``RECORD`` lists and that are there, compiled bytecode included; pip and setuptools do not count.

Usage: python -m benchmarks.install_size [--extras serve train]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
import venv
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from benchmarks.result_files import RESULTS, write_result

ROOT = Path(__file__).resolve().parents[1]
NOT_COUNTED = {"pip", "setuptools"}


def build_wheel(folder: Path) -> Path:
    """Build the project's wheel into a folder and return its path."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    return next(folder.glob("deepidea-*.whl"))


def installed(wheel: Path, extra: str, folder: Path) -> dict[str, float]:
    """Install the wheel with an extra into a fresh environment; return megabytes by package."""
    venv.create(folder, with_pip=True)
    install = [str(folder / "bin" / "pip"), "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    if extra == "train":  # first and alone, as in the Makefile: the pin then takes the CPU build where one is offered
        subprocess.run([*install, "torch"], check=True)
    subprocess.run([*install, f"{wheel}[{extra}]" if extra else str(wheel)], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    sizes = {found.name: _megabytes(found.files or []) for found in distributions(path=[str(packages)])}
    return {name: size for name, size in sorted(sizes.items()) if name not in NOT_COUNTED}


def _megabytes(files: Any) -> float:
    paths = [Path(file.locate()) for file in files]
    return round(sum(path.stat().st_size for path in paths if path.exists()) / 1e6, 1)


def measure(extras: list[str]) -> dict[str, Any]:
    """Return packages and megabytes of the base install and of what each extra adds to it."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        base = installed(wheel, "", Path(folder, "base"))
        figures = {"base": _summary(base)}
        for extra in extras:
            sizes = installed(wheel, extra, Path(folder, extra))
            figures[extra] = _summary({name: size for name, size in sizes.items() if name not in base})
    return figures


def _summary(sizes: dict[str, float]) -> dict[str, Any]:
    largest = dict(sorted(sizes.items(), key=lambda pair: -pair[1]))
    return {"packages": len(sizes), "megabytes": round(sum(sizes.values()), 1), "by_package": largest}


def main() -> None:
    """Measure and write the result file."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extras", nargs="*", default=[name for name in declared if name != "dev"])
    figures = measure(parser.parse_args().extras)
    write_result(RESULTS / "install_size.json", {"installs": figures})
    for name, of in figures.items():
        print(f"{name}: {of['packages']} packages, {of['megabytes']:,.0f} MB")


if __name__ == "__main__":
    main()
