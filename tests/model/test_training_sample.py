"""The sample of training's flows in a detector file: bounded, the same for the same flows, refused where it lies."""

import numpy as np
import pytest

from deepidea.errors import ArtifactError
from deepidea.model.detector import Detector
from deepidea.model.estimators import DeepIDEAClassifier
from deepidea.model.training_sample import TrainingSample, choose_rows
from tests.model.conftest import simulated_flows


def test_held_out_attacks_are_no_training_rows(detector):
    sample = detector.sample
    assert sample.held_out.any()
    assert (sample.outputs[sample.held_out] > 0).all()
    assert set(sample.trained.outputs.tolist()) == {0, 1, 2}
    rows = sample.table(detector.encoder).hash_rows()
    assert rows.n_unique() == len(rows)


def test_a_sample_survives_its_bytes(detector):
    sample = detector.sample.take(detector.sample.outputs >= 0)  # a copy
    sample.raw.numbers[0] = [np.nan, np.inf]
    again = TrainingSample.from_bytes(sample.to_bytes(), detector.encoder, len(detector.labels))
    assert np.array_equal(again.raw.numbers, sample.raw.numbers, equal_nan=True)
    assert np.array_equal(again.raw.codes, sample.raw.codes)
    assert np.array_equal(again.outputs, sample.outputs)
    assert np.array_equal(again.held_out, sample.held_out)


def test_the_table_encodes_to_what_training_saw(detector):
    sample, encoder = detector.sample, detector.encoder
    assert np.array_equal(encoder.transform(sample.table(encoder)), encoder.encode(sample.raw))


@pytest.mark.parametrize("kinds", [["packets", "bytes"], ["service"]], ids=str)
def test_a_detector_keeps_its_sample_in_its_file(kinds, tmp_path):
    table, classes = simulated_flows(200)
    options = {"hidden": (5,), "min_steps": 5, "random_state": 0, "novelty": "none"}
    detector = DeepIDEAClassifier(**options).fit(table.select(kinds), classes).to_detector()
    detector.save(tmp_path / "model.idea")
    kept = Detector.load(tmp_path / "model.idea").sample
    assert kept.to_bytes() == detector.sample.to_bytes()
    detector.with_options(sample=None).save(tmp_path / "public.idea")
    assert Detector.load(tmp_path / "public.idea").sample is None


def test_bytes_that_do_not_fit_are_refused(detector):
    data = bytearray(detector.sample.to_bytes())
    with pytest.raises(ArtifactError, match="no whole number of flows"):
        TrainingSample.from_bytes(bytes(data[:-1]), detector.encoder, 3)
    data[-1] = 7
    with pytest.raises(ArtifactError, match="that the detector lacks"):
        TrainingSample.from_bytes(bytes(data), detector.encoder, 3)


def test_no_part_exceeds_its_bound():
    outputs = np.repeat([0, 1, 2, 3], [5000, 5000, 5000, 2])
    chosen = np.bincount(outputs[choose_rows(outputs, 0, most_attacks=3000, most_benign=1500)])
    assert chosen.tolist() == [1500, 1000, 1000, 2]
