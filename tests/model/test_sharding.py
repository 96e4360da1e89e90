"""Training shard by shard: the same rows and weights as in memory, and as good a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from deepidea.errors import DataError  # noqa: E402
from deepidea.evaluation.shards import ShardsToTrain, shards_to_train  # noqa: E402
from deepidea.flows.labelled import labelled_flows_from_table  # noqa: E402
from deepidea.flows.simulate import simulate_flows  # noqa: E402
from deepidea.model.batches import RowsInMemory, RowsOnDisk  # noqa: E402
from deepidea.model.detector import Detector  # noqa: E402
from deepidea.model.features import FlowEncoder  # noqa: E402
from deepidea.model.presets import train_detector, train_on_shards  # noqa: E402
from deepidea.model.sharding import encode_shards  # noqa: E402

TABLE = simulate_flows(n_flows=6000, seed=5)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flows") / "flows.parquet"
    TABLE.write_parquet(path)
    return path


def dealt(file: Path, folder: Path, n_shards: int = 3) -> ShardsToTrain:
    folder.mkdir(exist_ok=True)
    return shards_to_train([file], folder, n_shards=n_shards, label="label", benign="benign")


@pytest.fixture(scope="module")
def shards(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return train_on_shards(dealt(file, tmp_path_factory.mktemp("shards")).flows, random_state=3)


@pytest.fixture(scope="module")
def memory() -> Detector:
    flows, _ = labelled_flows_from_table(TABLE, "label", "benign")
    return train_detector(flows, random_state=3)


def test_all_but_the_order_of_batches_is_as_in_memory(shards: Detector, memory: Detector) -> None:
    assert shards.schema == memory.schema
    assert shards.encoder.contract() == memory.encoder.contract()
    assert shards.decision.contract() == memory.decision.contract()
    assert shards.classes == memory.classes
    assert shards.training_fingerprints.tolist() == memory.training_fingerprints.tolist()
    ours, theirs = shards.reference.contract(), memory.reference.contract()
    assert {**ours, "score_bins": 0, "starts": 0} == {**theirs, "score_bins": 0, "starts": 0}


def test_the_detector_is_as_good_as_one_trained_in_memory(shards: Detector, memory: Detector) -> None:
    fresh = simulate_flows(n_flows=4000, seed=11)
    hits = [(found.score(fresh)["class"] == fresh["label"]).mean() for found in (shards, memory)]
    assert hits[0] > hits[1] - 0.02
    losses = [found.card["training"]["epochs"][-1]["loss"] for found in (shards, memory)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_every_preset_trains_in_shards(file: Path, tmp_path: Path) -> None:
    detector = train_on_shards(dealt(file, tmp_path).flows, preset="paper", random_state=3, n_epochs=1)
    assert detector.card["training"]["preset"] == "paper"
    with pytest.raises(DataError, match="cannot train on labels in shards"):
        train_on_shards(dealt(file, tmp_path / "b").flows, labels=True)


def test_a_training_in_shards_goes_on_to_the_bit(file: Path, tmp_path: Path) -> None:
    class CutOffError(Exception):
        pass

    def cut_off(epoch: Any) -> None:
        if epoch.number == 2:
            raise CutOffError

    kept: dict[str, Any] = {"checkpoint": tmp_path / "kept", "random_state": 3, "n_epochs": 4, "dropout": 0.0}
    with pytest.raises(CutOffError):
        train_on_shards(dealt(file, tmp_path / "a").flows, on_epoch=cut_off, **kept)
    resumed = train_on_shards(dealt(file, tmp_path / "b").flows, **kept)
    straight = train_on_shards(dealt(file, tmp_path / "c").flows, random_state=3, n_epochs=4, dropout=0.0)
    assert resumed.graph == straight.graph


def encoded(file: Path, folder: Path, weight_of: Any) -> tuple[RowsOnDisk, np.ndarray, np.ndarray]:
    flows = dealt(file, folder, n_shards=4).flows
    encoder = FlowEncoder(flows.schema).fit(flows.table)
    weight = weight_of(len(flows))
    rows = encode_shards(flows.table, encoder, flows.codes.astype(np.int64), weight)
    return rows, encoder.transform(flows.table.read()), weight


def test_an_epoch_is_all_rows_as_often_as_they_weigh(file: Path, tmp_path: Path) -> None:
    rows, x, weight = encoded(file, tmp_path, lambda n: np.where(np.arange(n) % 50 == 0, 20.0, 1.0))
    drawn: dict[bytes, float] = {}
    for (part, _), batches in rows.epoch(64, np.random.default_rng(0)):
        for places, counts in batches:
            for vector, count in zip(part[places], counts, strict=True):
                drawn[vector.tobytes()] = drawn.get(vector.tobytes(), 0) + float(count)
    expected: dict[bytes, float] = {}
    for vector, count in zip(x, weight, strict=True):
        expected[vector.tobytes()] = expected.get(vector.tobytes(), 0) + count
    assert drawn == expected
    assert len(rows.common.weight) == (weight == 20).sum()  # they are in every shard


def test_shards_come_in_an_order_of_their_own_each_epoch(file: Path, tmp_path: Path) -> None:
    rows, x, weight = encoded(file, tmp_path, np.ones)
    rng = np.random.default_rng(0)
    firsts = [next(iter(rows.epoch(64, rng)))[0][0][0].tobytes() for _ in range(8)]
    assert len(set(firsts)) > 1
    assert np.concatenate([part for part, _ in rows.arrays()]).tobytes() == x.tobytes()
    assert abs(rows.n_steps(64) - RowsInMemory(x, np.zeros(len(x), np.int64), weight).n_steps(64)) < 4
