"""Executors and drivers that are killed while tasks write: nothing is lost, nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import polars as pl
import pytest

from deepidea.model.detector import Detector
from tests.adapters.conftest import Cluster
from tests.adapters.spark_cluster import ON_LOOPBACK
from tests.adapters.spark_flows import FLOWS, expected, read_back

pytest.importorskip("pyarrow")


def executors_of(driver_port: str) -> list[int]:
    """Return the processes of a driver's executors."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes() if entry.name.isdecimal() else b""
        except OSError:
            continue  # it has just ended
        java = line.startswith(b"/") and b"CoarseGrainedExecutorBackend" in line
        if java and f":{driver_port}\0".encode() in line:
            found.append(int(entry.name))
    return found


def wait_for(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 180
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline, list(folder.rglob("*"))
        time.sleep(0.02)


TIMES = 17  # the flows in a file, just more than a part has at least: each file is a part


def write_many(folder: Path, n_files: int) -> int:
    """Write enough that a kill comes in time; return the number of flows."""
    folder.mkdir()
    rows = pl.concat([FLOWS] * TIMES)
    for j in range(n_files):
        rows.write_parquet(folder / f"{j:02d}.parquet")
    return n_files * rows.height


@pytest.mark.slow
def test_executors_killed_at_work_change_no_verdict(
    model: Path, cluster: Cluster, tmp_path: Path, own_session: None
) -> None:
    from deepidea.adapters.spark import open_session
    from deepidea.adapters.spark_files import score_files

    n_flows, killed = write_many(tmp_path / "flows", 8), []
    (tmp_path / "there").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ON_LOOPBACK.items():
            patch.setenv(name, value)
        with open_session(cluster.master) as spark:
            port = spark.sparkContext.getConf().get("spark.driver.port")

            def kill() -> None:
                for number in (0, 3):
                    wait_for(tmp_path / "there", f".out.*/finished/part-{number:05d}.parquet")
                    killed.extend(executors_of(port)[:1])
                    os.kill(killed[-1], signal.SIGKILL)

            killer = threading.Thread(target=kill)
            killer.start()
            done = score_files(spark, Detector.load(model), [str(tmp_path / "flows")], str(tmp_path / "there" / "out"))
            killer.join()
    assert (done.n_flows, len(set(killed))) == (n_flows, 2)
    assert os.listdir(tmp_path / "there") == ["out"]
    verdicts = expected(model, FLOWS)
    assert read_back(tmp_path / "there" / "out").equals(pl.concat([verdicts] * 8 * TIMES))


@pytest.mark.slow
def test_a_driver_killed_at_work_leaves_no_output_and_its_next_run_is_whole(
    java: None, model: Path, tmp_path: Path
) -> None:
    write_many(tmp_path / "flows", 6)
    command = [sys.executable, "-m", "deepidea.cli.app", "score", str(model), str(tmp_path / "flows")]
    command += ["-o", str(tmp_path / "out"), "--engine", "spark", "--master", "local[1]"]
    for how in (signal.SIGKILL, signal.SIGINT, None):
        running = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **ON_LOOPBACK}
        )
        if how is not None:
            wait_for(tmp_path, ".out.*/finished/part-00001.parquet")
            running.send_signal(how)
        _, said = running.communicate(timeout=180)
        assert (tmp_path / "out").exists() == (how is None), said.decode()
        left = list(tmp_path.glob(".out.*"))
        assert len(left) == (how is signal.SIGKILL), said.decode()
        for folder in left:
            folder.rename(tmp_path / "left")
    assert read_back(tmp_path / "out").equals(pl.concat([expected(model)] * 6 * TIMES))
