from __future__ import annotations

import numpy as np

from deepidea.cli.evaluate import show_evaluation
from deepidea.evaluation.evaluate import evaluate_detector
from deepidea.evaluation.references import Baselines
from deepidea.evaluation.report import trust_notes
from tests.benchmark.fakes import FakeDetector, draw_flows


def test_an_evaluation_shows_subsets_references_and_classes(capsys):
    flows = draw_flows(300, 1, grid=0.5)
    train = draw_flows(200, 2, grid=0.5)
    detector = FakeDetector(training_fingerprints=np.zeros(1, np.uint64))
    evaluation = evaluate_detector(detector, flows, baselines=Baselines.fit(train))
    show_evaluation(evaluation, trust_notes(evaluation))
    printed = capsys.readouterr().out
    for word in ("all", "distinct", "unseen", "majority: benign", "one rule", "macro F1", "dos", "probe", "Elsewhere"):
        assert word in printed
    assert f"{100 * evaluation.scores.accuracy:.2f}" in printed
