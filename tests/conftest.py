"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

from deepidea.adapters.registration import register_adapters
from tests.stores import Store, open_store

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for tests that import onnxruntime before the package does
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker per core runs the suite: more threads only wait for each other
settings.register_profile("deepidea", deadline=None, max_examples=40)  # a busy machine is no failure
settings.register_profile("thorough", deadline=None, max_examples=500)  # pytest --hypothesis-profile thorough
settings.load_profile("deepidea")
register_adapters()  # as the command line does


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


class Ran(NamedTuple):
    """What a command came to: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command line in this process, as the console script would."""
    from deepidea.cli import app as cli

    def run(*argv: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["deepidea", *map(str, argv)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        code = left.value.code
        return Ran(code if isinstance(code, int) else int(code is not None), *capsys.readouterr())

    return run


TINY = {"hidden": (16,), "learning_rate": 1e-2, "min_steps": 60, "n_epochs": 2, "dropout": 0.0}


@pytest.fixture
def tiny_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `deepidea train` a matter of a blink: networks and epochs as small as they get."""
    from deepidea.model import presets

    small = {name: {**preset, **TINY} for name, preset in presets.PRESETS.items()}
    monkeypatch.setattr(presets, "PRESETS", small)


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[str]:
    """Folder of the socket of a PostgreSQL server, where one is installed."""
    from tests.detection.postgres import running_server

    with running_server() as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty store, of each kind in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
        return
    from tests.detection.postgres import fresh_database

    with fresh_database(request.getfixturevalue("postgres_socket")) as url:
        yield url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """Empty store, of each kind in turn."""
    with open_store(store_url) as opened:
        yield opened


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[Store]:
    """Empty SQLite store."""
    with open_store(f"sqlite:///{tmp_path / 'one.db'}") as opened:
        yield opened


@pytest.fixture(scope="session")
def flow_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CSV file of 1,500 simulated flows with their label: the training table of `model_file`."""
    from deepidea.flows.simulate import simulate_flows

    path = tmp_path_factory.mktemp("flows") / "site.csv"
    simulate_flows(n_flows=1500, seed=3).write_csv(path)
    return path


@pytest.fixture(scope="session")
def model_file(flow_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Detector file trained on five sixths of `flow_file`."""
    from deepidea.evaluation.protocol import flows_to_train
    from deepidea.model.presets import train_detector

    part = flows_to_train(str(flow_file), label="label", benign="benign")
    path = tmp_path_factory.mktemp("model") / "site.idea"
    train_detector(part.flows, card=part.card(), random_state=0, **TINY).save(path)
    return path
