"""Training by several processes, and training that goes on from where it was cut off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from deepidea.errors import ArtifactError, DataError  # noqa: E402
from deepidea.flows.labelled import labelled_flows_from_table  # noqa: E402
from deepidea.flows.simulate import simulate_flows  # noqa: E402
from deepidea.model.checkpoint import Checkpoint  # noqa: E402
from deepidea.model.detector import Detector  # noqa: E402
from deepidea.model.losses import LOSSES  # noqa: E402
from deepidea.model.presets import train_detector  # noqa: E402
from deepidea.model.workers import WorkerError, Workers, _wait_for_exit, common_arguments, join_workers  # noqa: E402
from tests.detection.servers import eventually  # noqa: E402

FLOWS, _ = labelled_flows_from_table(simulate_flows(n_flows=3000, seed=5), "label", "benign")


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_parts_make_up_the_batch_and_shares_make_up_one(n: int) -> None:
    batch = (np.arange(5), np.array([1, 2, 1, 3, 1], np.float32))
    parts = [Workers(rank, n).part(batch) for rank in range(n)]
    assert sorted(np.concatenate([rows for rows, _ in parts])) == list(range(5))
    assert sum(Workers(rank, n).weight_share(batch) for rank in range(n)) == pytest.approx(1.0)


@pytest.mark.parametrize("name", [name for name, info in LOSSES.items() if info.is_mean_reduction])
def test_a_loss_is_the_sum_of_the_shares_of_workers(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    loss = LOSSES[name].build(np.array([50.0, 30.0, 5.0]), 10.0)
    logits, target = torch.randn(9, 3, generator=generator), torch.arange(9) % 3
    counts = torch.rand(9, generator=generator) + 0.5
    batch = (np.arange(9), counts.numpy())
    shares = [
        worker.weight_share(batch) * loss(logits[rows], target[rows], counts[rows])
        for worker in (Workers(0, 2), Workers(1, 2))
        for rows in [torch.from_numpy(worker.part(batch)[0])]
    ]
    assert sum(float(share) for share in shares) == pytest.approx(float(loss(logits, target, counts)), rel=1e-5)


def test_a_process_whose_others_are_gone_before_they_meet_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def meet(backend: str) -> None:
        raise torch.distributed.DistNetworkError("Connection reset by peer")

    monkeypatch.setattr("deepidea.model.workers._init_process_group", meet)
    with (
        pytest.raises(WorkerError, match=r"another process was lost \(Connection reset by peer\)"),
        join_workers(),
    ):
        pass


def test_every_process_gets_the_same_command_line(tmp_path: Path) -> None:
    drawn = common_arguments(["train", "x"], tmp_path / "a.idea", seed=None, checkpoint=None)
    assert drawn[-2] == "--seed"
    (tmp_path / "a.idea.checkpoint").touch()  # a run that was cut off goes on with its seed
    assert common_arguments(["train", "x"], tmp_path / "a.idea", seed=None, checkpoint=None) == drawn


# --- going on ---------------------------------------------------------------------------------------------------------


class CutOffError(Exception):
    """What stands for a machine that went away."""


def losses_of(detector: Detector) -> list[float]:
    return [epoch["loss"] for epoch in detector.card["training"]["epochs"]]


def test_a_training_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    def cut_off(epoch: Any) -> None:
        if epoch.number == 2:
            raise CutOffError

    kept: dict[str, Any] = {"checkpoint": tmp_path / "kept", "random_state": 3, "n_epochs": 4, "dropout": 0.0}
    with pytest.raises(CutOffError):
        train_detector(FLOWS, on_epoch=cut_off, **kept)
    numbers: list[int] = []
    resumed = train_detector(FLOWS, on_epoch=lambda epoch: numbers.append(epoch.number), **kept)
    whole = train_detector(FLOWS, random_state=3, n_epochs=4, dropout=0.0)
    assert numbers == [3, 4]
    assert resumed.graph == whole.graph  # to the bit
    assert losses_of(resumed) == losses_of(whole)


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "kept"
    train_detector(FLOWS, checkpoint=place, random_state=3, n_epochs=1)
    with pytest.raises(DataError, match="belongs to a training with other"):
        train_detector(FLOWS, checkpoint=place, random_state=4, n_epochs=1)
    data = place.read_bytes()
    for damaged in (b"", data[:100], b"\x80\x04pickle", data[:8] + b"x" * 50):
        place.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="cannot read checkpoint"):
            Checkpoint(place, "").load()


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flows") / "flows.csv"
    simulate_flows(n_flows=3000, seed=5).write_csv(path)
    return path


def command(table: Path, output: Path, *more: str) -> list[str]:
    named = ["train", str(table), "--label", "label", "--benign", "benign", "-o", str(output), "--seed", "7"]
    return [sys.executable, "-m", "deepidea.cli.app", *named, *more]


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--shards", "3")], ids=["memory", "shards"])
def test_two_processes_learn_as_one_does(table: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    found = []
    for n in ("1", "2"):
        output = tmp_path / f"{n}.idea"
        ran = subprocess.run(
            command(table, output, "--workers", n, "--epochs", "6", *more),
            capture_output=True,
            timeout=150,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr.decode()
        assert ran.stderr.count(b"wrote ") == 1  # one process reports it
        found.append(Detector.load(output))
    one, two = (np.array(losses_of(detector)) for detector in found)
    assert np.abs(two / one - 1)[1:].max() < 0.1  # masks of dropout are others
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.idea", "2.idea"]


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_run_and_the_next_run_goes_on(table: Path, tmp_path: Path) -> None:
    output, kept = tmp_path / "a.idea", tmp_path / "a.idea.checkpoint"
    asked = command(table, output, "--workers", "2", "--epochs", "400")
    running = subprocess.Popen(asked, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 90
    while not kept.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(workers_of(running)[-1], signal.SIGKILL)
    _, err = running.communicate(timeout=90)
    assert running.returncode == 1, err.decode()
    assert b"a worker ended early" in err
    assert kept.exists()
    assert not output.exists()
    assert json.loads(json.dumps(Checkpoint(kept, "")._read()[0]["epochs"]))


@pytest.fixture
def running(table: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A training by two processes that goes on for long, in a process group as a shell would start it."""
    asked = command(
        table, tmp_path / "a.idea", "--workers", "2", "--epochs", "4000", "--checkpoint", str(tmp_path / "k")
    )
    process = subprocess.Popen(asked, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0)
    with process:
        yield process
        process.terminate()


def workers_of(process: subprocess.Popen[Any]) -> list[int]:
    """Return the processes that a command has started, when there are two of them."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while len(children.read_text().split()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    return sorted(map(int, children.read_text().split()))


@pytest.mark.slow
def test_ctrl_c_keeps_the_best_epoch_as_of_one_process(running: subprocess.Popen[str], tmp_path: Path) -> None:
    assert running.stderr is not None
    next(line for line in running.stderr if " 3/4000" in line)
    workers = workers_of(running)
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=90)
    assert running.returncode == 0, err
    assert err.splitlines()[-1].startswith(f"wrote {tmp_path / 'a.idea'}; next: ")
    assert "Traceback" not in err
    assert Detector.load(tmp_path / "a.idea").card["training"]["interrupted"] is True
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.idea"]  # and no checkpoint
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


@pytest.mark.slow
@pytest.mark.parametrize("wait_s", [0.0, 0.5, 1.5])  # for the processes to begin, and to load torch
def test_ctrl_c_before_an_epoch_is_one_line_and_exit_code_130(
    running: subprocess.Popen[str], tmp_path: Path, wait_s: float
) -> None:
    workers = workers_of(running)
    time.sleep(wait_s)
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=90)
    assert (running.returncode, err.splitlines()[-1]) == (130, "interrupted")
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_a_process_that_ends_by_the_signal_of_ctrl_c_was_interrupted() -> None:
    ends = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGINT)"
    with subprocess.Popen([sys.executable, "-c", ends]) as process:
        assert _wait_for_exit([process], []) == 130


@pytest.mark.slow
@pytest.mark.parametrize("asked_twice", [False, True])
def test_a_command_that_is_ended_ends_its_processes(
    running: subprocess.Popen[str], tmp_path: Path, asked_twice: bool
) -> None:
    workers = workers_of(running)
    for number in (signal.SIGINT, signal.SIGINT) if asked_twice else (signal.SIGTERM,):
        os.kill(running.pid, number)
        time.sleep(0.3)
    _, err = running.communicate(timeout=90)
    assert (running.returncode, "Traceback" in err) == (130 if asked_twice else 143, False), err
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


@pytest.mark.slow
def test_processes_end_with_a_command_that_is_killed(running: subprocess.Popen[str], tmp_path: Path) -> None:
    workers = workers_of(running)
    eventually((tmp_path / "k").exists)
    running.kill()
    eventually(lambda: not any(runs(pid) for pid in workers))
    assert Checkpoint(tmp_path / "k", "")._read()[0]["epochs"]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"  # ended, and not waited for
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_an_error_of_a_worker_has_its_exit_code_and_no_traceback(table: Path, tmp_path: Path) -> None:
    asked = command(table, tmp_path / "a.idea", "--workers", "2", "--loss", "hierarchical")
    ran = subprocess.run(asked, capture_output=True, text=True, timeout=90, check=False)
    assert ran.returncode == 3
    assert ran.stderr.count("loss=hierarchical is no mean over flows") == 1  # though both meet it
    assert "Traceback" not in ran.stderr
