"""A detector, a session and a cluster that all tests of Spark in a process share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.model.presets import train_detector
from tests.adapters.jvm import class_archive, options_of_java
from tests.adapters.spark_cluster import ON_LOOPBACK, can_hide, need_spark, spark_cluster
from tests.adapters.spark_flows import FLOWS


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    labelled, _ = labelled_flows_from_table(FLOWS, "label", "benign")
    path = tmp_path_factory.mktemp("model") / "m.idea"
    train_detector(labelled, random_state=0, n_epochs=1).save(path)
    return path


@pytest.fixture(scope="session")
def java(request: pytest.FixtureRequest) -> Iterator[None]:
    """Java and Spark, or the test is skipped; whatever starts from here on is quick to start."""
    need_spark()
    cache = getattr(request.config, "cache", None)
    archive = class_archive(Path(cache.mkdir("spark"))) if cache else None
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options_of_java(archive).items():
            patch.setenv(name, value)
        yield


def close_session() -> None:
    """Stop the session of this process, if there is one."""
    from pyspark.sql import SparkSession

    if (session := SparkSession.getActiveSession()) is not None:
        session.stop()


@pytest.fixture
def spark(java: None) -> Any:
    """Session on this machine; it stays open for the next test that needs it."""
    from deepidea.adapters.spark import open_session

    return open_session("local[2]", options={"spark.sql.shuffle.partitions": "2"})


@pytest.fixture
def own_session(java: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a test open a session of its own, on the cluster too: close the shared one, which later tests open again."""
    for name, value in ON_LOOPBACK.items():
        monkeypatch.setenv(name, value)
    close_session()
    yield
    close_session()


@pytest.fixture(scope="session", autouse=True)
def last_session() -> Iterator[None]:
    yield
    if "pyspark" in sys.modules:
        close_session()


class Cluster(NamedTuple):
    """Address of a master of two workers, and a folder that the second worker does not share."""

    master: str
    not_shared: Path


@pytest.fixture(scope="session")
def cluster(java: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    not_shared = tmp_path_factory.mktemp("not-shared") if can_hide() else None
    with spark_cluster(tmp_path_factory.mktemp("cluster"), not_shared=not_shared) as master:
        yield Cluster(master, not_shared or Path())
