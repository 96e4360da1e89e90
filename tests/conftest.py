"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

from deepidea.adapters.registration import register_adapters

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for tests that import onnxruntime before the package does
settings.register_profile("deepidea", deadline=None)  # a busy machine is no failure
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
