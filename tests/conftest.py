"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def find_data_root() -> Path | None:
    """Return the folder of real data: ``$DEEPIDEA_DATA``, else ``../shared/data`` beside the checkout."""
    named = os.environ.get("DEEPIDEA_DATA")
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    candidates = [Path(named)] if named else [beside]
    return next((path for path in candidates if path.is_dir()), None)


@pytest.fixture(scope="session")
def data_root() -> Path:
    root = find_data_root()
    if root is None:
        pytest.skip("real data absent: set DEEPIDEA_DATA to a folder with kdd99/, nsl-kdd/, cicids17/ ...")
    return root


@pytest.fixture(autouse=True, scope="session")
def isolated_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep registered data sets of the person who runs the tests out of them, and theirs out of that person's home."""
    os.environ["DEEPIDEA_HOME"] = str(tmp_path_factory.mktemp("deepidea-home"))
