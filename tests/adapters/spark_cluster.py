"""A standalone Spark cluster on loopback: one master, two workers of one core, ended with the test."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

STARTS_WITHIN_S = 60.0
ON_LOOPBACK = {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m", "PYSPARK_PYTHON": sys.executable}


def need_spark() -> None:
    """Skip where Spark cannot run."""
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Java absent: apt install openjdk-17-jre-headless")


@contextlib.contextmanager
def spark_cluster(
    folder: Path,
    *,
    n_workers: int = 2,
    memory: str = "1g",
    a_core_each: bool = False,
    not_shared: Path | None = None,
) -> Iterator[str]:
    """Yield the address of a cluster's master; its processes end with the context.

    With `a_core_each`, each worker and what it starts keeps to one core, the first worker to the first one. The last
    worker finds nothing in the folder `not_shared`, as a machine of its own would.
    """
    cores = sorted(os.sched_getaffinity(0))
    port = _free_port()
    master = f"spark://127.0.0.1:{port}"
    place = ["--host", "127.0.0.1", "--webui-port", "0"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_daemon(folder / "master", "master.Master", *place, "--port", str(port)))
        _wait_for(folder / "master", "New state: ALIVE")
        names = [f"worker-{number + 1}" for number in range(n_workers)]
        for number, name in enumerate(names):
            core = cores[number % len(cores)] if a_core_each else None
            sizes = ["--cores", "1", "--memory", memory, "--work-dir", str(folder / f"{name}-files")]
            hidden = not_shared if name == names[-1] else None
            daemon = _daemon(folder / name, "worker.Worker", *place, *sizes, master, core=core, hidden=hidden)
            stack.enter_context(daemon)
        for name in names:
            _wait_for(folder / name, "Successfully registered")
        yield master


@contextlib.contextmanager
def _daemon(
    log: Path, name: str, *arguments: str, core: int | None = None, hidden: Path | None = None
) -> Iterator[None]:
    import pyspark

    program = Path(pyspark.__file__).parent / "bin" / "spark-class"
    command = [*(_without(hidden) if hidden else ()), str(program), f"org.apache.spark.deploy.{name}", *arguments]
    with log.open("wb") as out, _kept_to(core):
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **ON_LOOPBACK})
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def _kept_to(core: int | None) -> Iterator[None]:
    """Keep the calling thread to a core, and with it what it starts: a process inherits it."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, before if core is None else {core})
        yield
    finally:
        os.sched_setaffinity(0, before)


def can_hide() -> bool:
    """Whether a process may be given a view of the file system of its own."""
    tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/tmp"]
    return (
        shutil.which("unshare") is not None and subprocess.run(tried, capture_output=True, check=False).returncode == 0
    )


def _without(folder: Path) -> list[str]:
    """Return what a command must be preceded by to find nothing in a folder."""
    return ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]


def _wait_for(log: Path, text: str) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while text not in log.read_text(errors="replace"):
        assert time.monotonic() < deadline, log.read_text(errors="replace")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
