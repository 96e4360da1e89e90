"""A detector and a session that tests of Spark share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.model.presets import train_detector
from tests.adapters.spark_cluster import need_spark
from tests.adapters.spark_flows import FLOWS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    labelled, _ = labelled_flows_from_table(FLOWS, "label", "benign")
    path = tmp_path_factory.mktemp("model") / "m.idea"
    train_detector(labelled, random_state=0, n_epochs=1).save(path)
    return path


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    need_spark()
    from deepidea.adapters.spark import open_session

    with open_session("local[2]", options={"spark.sql.shuffle.partitions": "2"}) as session:
        yield session
