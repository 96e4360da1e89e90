"""Training on Spark: against one process and against processes without Spark, on a cluster of its own, and kills."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pyspark")

from deepidea.adapters import spark_training
from deepidea.adapters.spark import unwrap_errors
from deepidea.adapters.spark_training import TrainingJob, TrainingResult
from deepidea.cli.train import run_command
from deepidea.errors import CellError, DataError, LabelError, MissingExtraError, SourceError, StorageError
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.simulate import simulate_flows
from deepidea.model.checkpoint import Checkpoint
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector
from deepidea.model.workers import WorkerError
from tests.adapters.conftest import Cluster
from tests.adapters.spark_cluster import ON_LOOPBACK
from tests.conftest import Command

FLOWS = simulate_flows(n_flows=3000, seed=5)


# --- what a process ends with -----------------------------------------------------------------------------------------


def test_an_error_of_a_process_is_raised_where_its_result_is_unpacked() -> None:
    for error in (CellError("a is b; c"), WorkerError("one was lost")):
        packed = pickle.dumps(spark_training._Failure(error))
        with pytest.raises(type(error), match=f"^{error}$"):
            pickle.loads(packed)


def told_for(cause: str, *rest: str) -> Exception:
    lines = spark_training._DriverLines(io.StringIO())
    lines.rest.extend(rest)
    error = SourceError("Spark failed: no reason given")
    error.__cause__ = RuntimeError(cause)
    return spark_training._cause_of(error, lines)


def test_what_became_of_a_process_is_reported_in_a_line() -> None:
    killed = told_for("RuntimeError: TorchDistributor failed during training.View stdout logs", "W1129 noise")
    assert isinstance(killed, WorkerError)
    assert "a worker ended early, so the others were ended" in str(killed)
    faulty = told_for("TorchDistributor failed during training", "Traceback", "ValueError: x", "a.ChildFailedError: y")
    assert "a worker ended early (ValueError: x), so" in str(faulty)
    assert isinstance(told_for("TorchDistributor failed during training", "No module named torch"), MissingExtraError)
    first = told_for("TorchDistributor failed during training", "deepidea.errors.LabelError: a is b; c",
                     "deepidea.model.workers.WorkerError: one was lost", "RuntimeError: x")  # fmt: skip
    assert (type(first), str(first)) == (LabelError, "a is b; c")
    assert isinstance(told_for("the disk is full"), SourceError)


def test_lines_for_the_user_are_passed_on_and_others_kept() -> None:
    shown = io.StringIO()
    lines = spark_training._DriverLines(shown)
    for part in ("noise\ndeepi", "dea| epoch", " 1\n\n", "deepidea| \n"):
        lines.write(part)
    assert shown.getvalue() == "epoch 1\n\n"
    assert list(lines.rest) == ["noise", ""]


def job_in(folder: Path) -> dict[str, Any]:
    """Return a job in a folder that the process shares, but for its inputs."""
    names = dict.fromkeys(("output", "token", "folder", "home"), folder)
    return {"command": run_command, "arguments": (), "columns": 80, **names}


def test_a_process_refuses_a_folder_or_data_that_it_does_not_share(tmp_path: Path) -> None:
    there, absent = tmp_path, tmp_path / "absent"
    job = job_in(tmp_path)
    spark_training._require_shared(TrainingJob(inputs=(there,), **job))
    with pytest.raises(StorageError, match="is not that of the driver"):
        spark_training._require_shared(TrainingJob(inputs=(), **{**job, "token": absent}))
    with pytest.raises(DataError, match=f"{absent} is not there on .*under the same path on every executor"):
        spark_training._require_shared(TrainingJob(inputs=(there, absent), **job))


def test_a_detector_that_cannot_be_written_here_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distribute(n_workers: int, job: TrainingJob, *more: Any) -> TrainingResult:
        assert job.arguments[-4:] == ("--checkpoint", str(tmp_path / "kept"), "--output", str(job.output))
        job.output.write_bytes(b"detector")
        return TrainingResult(b"detector", "")

    monkeypatch.setattr(spark_training, "_distribute", distribute)
    monkeypatch.setattr(spark_training, "_require_slots", lambda *_: None)
    spark: Any = None
    with pytest.raises(StorageError, match=r"; the detector is at .*\.kept\.idea$"):
        spark_training.train_on_spark(
            spark, 2, run_command, ["train"], tmp_path / "absent" / "a.idea", tmp_path / "kept"
        )
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"detector"]
    spark_training.train_on_spark(spark, 2, run_command, ["train"], tmp_path / "a.idea", tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["a.idea"]


def test_a_process_lost_after_the_first_had_finished_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distribute(n_workers: int, job: TrainingJob, *more: Any) -> TrainingResult:
        if n_workers == 2:
            job.output.write_bytes(b"detector")
        raise WorkerError("one ended")

    monkeypatch.setattr(spark_training, "_distribute", distribute)
    monkeypatch.setattr(spark_training, "_require_slots", lambda *_: None)
    spark: Any = None
    with pytest.raises(WorkerError):
        spark_training.train_on_spark(spark, 3, run_command, ["train"], tmp_path / "a.idea", tmp_path / "kept")
    spark_training.train_on_spark(spark, 2, run_command, ["train"], tmp_path / "a.idea", tmp_path / "kept")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.idea", b"detector")]


def test_slots_are_waited_for_while_executors_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_training, "_POLL_S", 0.0)
    monkeypatch.setattr(spark_training, "SETTLED_S", 0.05)
    coming = iter([0, 0, 1, 1, 2, 3, 9])
    assert spark_training._wait_for_count(lambda: next(coming), 3, wait=True) == 3
    assert spark_training._wait_for_count(lambda: 1, 3, wait=True) == 1
    assert spark_training._wait_for_count(lambda: 0, 3, wait=False) == 0


def test_a_master_must_come_with_its_engine(command: Command, tmp_path: Path) -> None:
    ran = command("train", "a.csv", "-o", tmp_path / "a.idea", "--master", "local[2]")
    assert (ran.code, "--master needs --engine spark" in ran.err) == (2, True)


# --- a session of this machine ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flows") / "flows.csv"
    FLOWS.write_csv(path)
    return path


def arguments(table: Path) -> list[str]:
    return ["train", str(table), "--label", "label", "--benign", "benign", "--seed", "7"]


@pytest.mark.slow
def test_a_session_of_this_machine_trains_and_refuses_what_it_cannot(
    table: Path, tmp_path: Path, own_session: None
) -> None:
    from deepidea.adapters.spark import open_session
    from deepidea.adapters.spark_training import session_options, train_on_spark

    places = (tmp_path / "a.idea", tmp_path / "kept")
    with open_session("local[2]", options=session_options()) as spark:
        with pytest.raises(SourceError, match=r"3 workers at once: local\[2\] has 2 free slots; give --workers 2"):
            train_on_spark(spark, 3, run_command, arguments(table), *places)
        with pytest.raises(SourceError, match=r"spark\.task\.resource\.gpu\.amount is 0"):
            train_on_spark(spark, 2, run_command, arguments(table), *places, use_gpu=True)
        with pytest.raises(LabelError, match="benign"):
            train_on_spark(spark, 2, run_command, [*arguments(table), "--benign", "harmless"], *places)
        shown = io.StringIO()
        trained = train_on_spark(
            spark, 2, run_command, [*arguments(table), "--epochs", "2"], *places, inputs=[table], shown=shown
        )
    assert isinstance(trained, TrainingResult)
    assert "DeepIDEA detector" in trained.shown
    assert [line.split()[0] for line in shown.getvalue().splitlines()[-2:]] == ["1/2", "2/2"]
    assert len(losses_of(places[0])) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.idea"]


# --- a cluster --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Detector without dropout; those that go on from it have none either."""
    flows, _ = labelled_flows_from_table(FLOWS, "label", "benign")
    path = tmp_path_factory.mktemp("begun") / "begun.idea"
    train_detector(flows, random_state=0, n_epochs=1, dropout=0.0, validation_fraction=0.1).save(path)
    return path


def losses_of(path: Path) -> list[float]:
    return [epoch["loss"] for epoch in Detector.load(path).card["training"]["epochs"]]


def continued(table: Path, begun: Path, output: Path, n_epochs: int, *more: str) -> list[str]:
    return [*arguments(table), "--continue", str(begun), "--epochs", str(n_epochs), "-o", str(output), *more]


def start(*asked: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "deepidea.cli.app", *asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **ON_LOOPBACK},
    )


def ended(running: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = running.communicate(timeout=400)
    return running.returncode, out.decode(), err.decode()


@pytest.mark.slow
def test_a_cluster_learns_what_one_process_does_and_goes_on_after_a_kill(
    cluster: Cluster, table: Path, begun: Path, tmp_path: Path, own_session: None, command: Command
) -> None:
    n_epochs, on = 80, ("--workers", "2", "--engine", "spark", "--master", cluster.master)
    output, kept = tmp_path / "spark.idea", tmp_path / "spark.idea.checkpoint"
    asked = continued(table, begun, output, n_epochs, *on)
    running = start(*asked)
    deadline = time.monotonic() + 240
    while not kept.exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(training_processes()[-1], signal.SIGKILL)
    code, _, err = ended(running)
    last = err.rpartition("error: ")[2]
    assert (code, last.startswith("training stopped: a worker ended early")) == (1, True), err
    assert "Traceback" not in err
    done = len(Checkpoint(kept, "")._read()[0]["epochs"])
    assert 0 < done < n_epochs
    assert not output.exists()

    code, out, err = command(*asked)
    assert code == 0, err
    assert f"{done + 1}/{n_epochs}" in err  # and not from the first
    assert f" 1/{n_epochs}" not in err
    assert "DeepIDEA detector" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spark.idea"]

    for n, name in (("1", "one.idea"), ("2", "two.idea")):
        alone = continued(table, begun, tmp_path / name, n_epochs, "--workers", n)
        code, _, err = ended(start(*alone)) if n == "2" else command(*alone)
        assert code == 0, err
    assert losses_of(output) == losses_of(tmp_path / "two.idea")  # without a kill, without Spark: to the bit
    assert Detector.load(output).graph == Detector.load(tmp_path / "two.idea").graph
    one, spark = (np.array(losses_of(path)) for path in (tmp_path / "one.idea", output))
    np.testing.assert_allclose(spark[:10], one[:10], rtol=1e-4)
    scores = [Detector.load(path).score(FLOWS)["score"].to_numpy() for path in (tmp_path / "one.idea", output)]
    assert np.abs(scores[0] - scores[1]).max() < 0.01


def training_processes() -> list[int]:
    """Return the processes that train below this one, which has started the cluster."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and os.getpid() in ancestors(int(entry.name)):
            line = (entry / "cmdline").read_bytes().split(b"\0")
            if line[-2:][0].endswith(b"/train.py") and b"torch.distributed.run" not in line:
                found.append(int(entry.name))
    assert found, "no process trains"
    return sorted(found)


def ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return []  # it has ended
        found.append(pid)
    return found


@pytest.mark.slow
def test_an_executor_without_this_package_is_reported(
    cluster: Cluster, table: Path, tmp_path: Path, own_session: None, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setenv("PYSPARK_PYTHON", "/usr/bin/python3")
    on = ("--workers", "2", "--engine", "spark", "--master", cluster.master)
    code, _, err = command(*arguments(table), "-o", tmp_path / "a.idea", *on)
    assert (code, "deepidea is not installed for the Python of an executor" in err) == (5, True), err


@pytest.mark.slow
def test_what_a_cluster_does_not_have_or_share_is_reported(
    cluster: Cluster, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_session: None
) -> None:
    from deepidea.adapters.spark import open_session
    from deepidea.adapters.spark_training import session_options, train_on_spark

    output, here = tmp_path / "a.idea", cluster.not_shared / "flows.csv"
    monkeypatch.setattr(spark_training, "SETTLED_S", 2.0)
    with open_session(cluster.master, options=session_options()) as spark:
        with pytest.raises(SourceError, match=r"3 workers at once: .* free slots; give --workers .* or free or add"):
            train_on_spark(spark, 3, run_command, arguments(table), output, tmp_path / "kept")
        if not cluster.not_shared.name:
            pytest.skip("no process may be given a file system of its own here: it takes unshare and mount")
        here.write_bytes(table.read_bytes())
        check, job = spark_training._require_shared, TrainingJob(inputs=(here,), **job_in(tmp_path))
        at_once = spark.sparkContext.parallelize(range(2), 2).barrier()  # as the processes of a training
        with pytest.raises(DataError, match=f"{here} is not there on "), unwrap_errors():
            at_once.mapPartitions(lambda _: [check(job)]).collect()
        with pytest.raises(StorageError, match="is not that of the driver"):
            train_on_spark(spark, 2, run_command, arguments(table), output, cluster.not_shared / "kept", inputs=[table])
    assert list(tmp_path.iterdir()) == []
