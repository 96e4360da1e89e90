"""What a detector file keeps of an evaluation: the figures as they are, small, and nothing of the detector changes."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from deepidea.evaluation.evaluate import evaluate_detector
from deepidea.evaluation.summary import EVALUATION_ENTRY, MOST_POINTS, summarise_evaluation
from deepidea.flows.simulate import simulate_flows
from deepidea.model.detector import Detector
from tests.benchmark.fakes import FakeDetector, draw_flows

NOW = datetime(2026, 5, 4, tzinfo=UTC)


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_the_evaluation(seed):
    evaluation = evaluate_detector(FakeDetector(), draw_flows(2000, seed, grid=0.01))
    told = json.loads(json.dumps(summarise_evaluation(evaluation, now=NOW), allow_nan=False))
    scores, kept = evaluation.scores, told["subsets"]["all"]
    assert kept["confusion"]["counts"] == scores.confusion.tolist()
    assert kept["cba"] == pytest.approx(scores.cba, rel=1e-5)
    for name, of in scores.per_class.items():
        assert kept["per_class"][name]["recall"] == (None if of.recall is None else pytest.approx(of.recall, rel=1e-5))
    assert kept["per_class"]["benign"]["recall_interval"][0] < kept["per_class"]["benign"]["recall_interval"][1]
    assert told["subsets"]["unseen"] is None  # it does not know what it was trained on
    assert told["data"]["rows"] == 2000
    assert told["notes"]


def test_a_curve_keeps_its_ends_and_its_course():
    evaluation = evaluate_detector(FakeDetector(), draw_flows(5000, 1, grid=0.001))
    curve, kept = evaluation.scores.curve, summarise_evaluation(evaluation, now=NOW)["subsets"]["all"]["curve"]
    assert len(kept["recall"]) == min(len(curve.recall), MOST_POINTS)
    for name in ("recall", "precision", "false_positive_rate", "threshold"):
        whole = getattr(curve, name)
        assert [kept[name][0], kept[name][-1]] == pytest.approx([whole[0], whole[-1]], rel=1e-5)
    assert np.all(np.diff(kept["recall"]) >= 0)


def test_it_is_a_few_kilobytes():
    told = summarise_evaluation(evaluate_detector(FakeDetector(), draw_flows(3000, 2, grid=0.01)), now=NOW)
    assert len(json.dumps(told)) < 40_000


def test_a_detector_file_keeps_it_and_judges_as_before(command, tmp_path):
    from deepidea.model.estimators import DeepIDEAClassifier

    table = simulate_flows(n_flows=500)
    made = DeepIDEAClassifier(hidden=(8,), random_state=0, min_steps=50)
    made.fit(table.select(pl.exclude("label")), table["label"].to_numpy())
    before, path, data = made.to_detector(), tmp_path / "a.idea", tmp_path / "flows.csv"
    before.save(path)
    table.write_csv(data)
    plain = command("evaluate", path, data, "--label", "label", "--benign", "benign")
    assert EVALUATION_ENTRY not in Detector.load(path).card
    kept = command("evaluate", path, data, "--label", "label", "--benign", "benign", "--keep")
    assert (kept.code, kept.out) == (0, plain.out), kept.err
    after = Detector.load(path)
    assert after.fingerprint == before.fingerprint
    assert after.score(table.drop("label")).equals(before.score(table.drop("label")))
    assert after.card[EVALUATION_ENTRY]["data"]["rows"] == table.height
    assert (
        command("evaluate", path, data, "--label", "label", "--benign", "benign", "--keep").out == plain.out
    )  # and may be kept anew
