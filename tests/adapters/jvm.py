"""Options of Java for the short processes of tests: fewer compilations, classes from an archive.

A job of a test is some seconds of Spark, most of them spent on loading and compiling its classes anew in each process.

Usage: python -m tests.adapters.jvm FOLDER  (runs the job whose classes `class_archive` keeps)
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

_SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
_WITHIN_S = 300.0


def options_of_java(archive: Path | None) -> dict[str, str]:
    """Return the environment that gives the options to drivers, to masters and workers, and to executors."""
    # Java goes on without an archive that is absent or of other classes, and would say so where Spark reads a command
    options = _SHORT_LIVED if archive is None else f"{_SHORT_LIVED} -XX:SharedArchiveFile={archive} -Xlog:disable"
    executors = f"--conf 'spark.executor.extraJavaOptions={options}' pyspark-shell"
    return {"SPARK_SUBMIT_OPTS": options, "SPARK_DAEMON_JAVA_OPTS": options, "PYSPARK_SUBMIT_ARGS": executors}


def class_archive(folder: Path) -> Path:
    """Return the archive of the classes that Spark loads, made where it is absent; it is of one Java and one Spark."""
    import pyspark

    java = Path(shutil.which("java") or "java").resolve()
    versions = f"{pyspark.__version__} {pyspark.__file__} {java} {java.stat().st_mtime_ns}"
    archive = folder / f"spark-{hashlib.sha256(versions.encode()).hexdigest()[:16]}.jsa"
    if not archive.exists():
        _make(archive)
    return archive


def _make(archive: Path) -> None:
    """Run a job that leaves its classes, or none where this Java keeps no archives."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        made = Path(folder) / "made.jsa"
        environment = {**os.environ, "SPARK_SUBMIT_OPTS": f"{_SHORT_LIVED} -XX:ArchiveClassesAtExit={made}"}
        job = [sys.executable, "-m", "tests.adapters.jvm", f"{folder}/job"]
        root = Path(__file__).parents[2]
        subprocess.run(job, env=environment, cwd=root, check=True, capture_output=True, timeout=_WITHIN_S)
        if made.exists():
            made.replace(archive)


def _run_job(folder: Path) -> None:
    """Read, convert and write a small table, as the jobs of tests do, and wait until Java has ended."""
    from pyspark import SparkContext

    from deepidea.adapters.spark import no_pandas_warning, open_session

    def unchanged(batches: Iterator[Any]) -> Iterator[Any]:
        yield from batches

    folder.mkdir()
    pl.DataFrame({"a": ["1", "2"], "b": ["x", "y"]}).write_csv(folder / "in.csv")
    with open_session("local[1]") as spark, no_pandas_warning():
        rows = spark.read.csv(str(folder / "in.csv"), header=True).mapInArrow(unchanged, "a string, b string")
        rows.write.parquet(str(folder / "out"))
        assert spark.read.parquet(str(folder / "out")).count() == 2
    java: Any = SparkContext._gateway
    java.proc.communicate()  # its end of input is what ends it


if __name__ == "__main__":
    _run_job(Path(sys.argv[1]))
