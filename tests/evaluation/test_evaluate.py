from __future__ import annotations

import json
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.errors import DataError, LabelError
from deepidea.evaluation.contracts import to_json_values
from deepidea.evaluation.evaluate import evaluate_detector
from deepidea.evaluation.references import Baselines
from deepidea.flows.datasets.loading import load_dataset
from deepidea.flows.fingerprint import row_fingerprints
from tests.benchmark.fakes import CLASSES, SCHEMA, FakeDetector, draw_flows, labelled


def trained_on(flows, **manifest):
    return FakeDetector(
        training_fingerprints=np.unique(row_fingerprints(flows.features, SCHEMA)), manifest={"seed": 3, **manifest}
    )


def plain(evaluation):
    return json.dumps(evaluation.to_dict(), sort_keys=True, allow_nan=False)


@given(st.integers(0, 99), st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_order_of_flows_changes_nothing(seed, random):
    flows, detector = draw_flows(200, seed, grid=0.5), trained_on(draw_flows(100, seed + 1, grid=0.5))
    order = list(range(200))
    random.shuffle(order)
    assert plain(evaluate_detector(detector, flows)) == plain(evaluate_detector(detector, flows.take(np.array(order))))


@given(st.integers(0, 99))
@settings(max_examples=20)
def test_counts_are_those_of_a_plain_loop(seed):
    flows, train = draw_flows(300, seed, grid=1.0), draw_flows(50, seed + 1, grid=1.0)
    data = evaluate_detector(trained_on(train), flows).data
    rows, seen = list(zip(flows.features.rows(), flows.classes, strict=True)), set(train.features.rows())
    classes_of = {vector: {name for other, name in rows if other == vector} for vector, _ in rows}
    assert data["rows"] == 300
    assert data["class_rows"] == {name: Counter(flows.classes)[name] for name in CLASSES}
    assert data["distinct_rows"] == len(set(rows)) == 300 - data["duplicate_rows"]
    assert data["contradictory_rows"] == sum(len(classes_of[vector]) > 1 for vector, _ in rows)
    most = {vector: max(Counter(name for other, name in rows if other == vector).values()) for vector in classes_of}
    assert data["unavoidable_errors"] == 300 - sum(most.values())
    assert data["twins_in_training"] == sum(vector in seen for vector, _ in rows) == 300 - data["unseen_rows"]


def test_subsets_are_scored_on_their_rows():
    flows, train = draw_flows(400, 1, grid=0.5), draw_flows(100, 2, grid=0.5)
    detector = trained_on(train)
    evaluation = evaluate_detector(detector, flows)
    known = set(train.features.rows())
    fresh = [at for at, vector in enumerate(flows.features.rows()) if vector not in known]
    alone = evaluate_detector(detector, flows.take(np.array(fresh)))
    assert evaluation.subsets["unseen"].to_dict() == alone.scores.to_dict()
    assert evaluation.subsets["distinct"].n_rows == evaluation.data["distinct_rows"]
    assert evaluation.subsets["all"] is evaluation.scores


def test_top_level_keys_are_those_of_all_rows():
    told = evaluate_detector(FakeDetector(), draw_flows(200)).to_dict()
    for name in ("cba", "macro_f1", "pr_auc", "detection_rate", "false_alarm_rate", "calibration_error", "per_class"):
        assert told[name] == told["subsets"]["all"][name]
    assert set(told["per_class"]) == set(CLASSES)
    assert {"data", "model", "baselines", "confusion", "recall_at_fpr", "precision_at_prevalence"} <= set(told)


def test_a_detector_without_fingerprints_has_no_unseen_subset():
    evaluation = evaluate_detector(FakeDetector(), draw_flows(100))
    assert (
        evaluation.subsets["unseen"] is evaluation.data["unseen_rows"] is evaluation.data["twins_in_training"] is None
    )


def test_nothing_unseen_left_is_no_score():
    flows = draw_flows(100)
    evaluation = evaluate_detector(trained_on(flows), flows)
    assert (evaluation.subsets["unseen"], evaluation.data["unseen_rows"]) == (None, 0)


def test_given_fingerprints_need_no_order_and_take_precedence():
    flows = draw_flows(100)
    prints = row_fingerprints(flows.features, SCHEMA)[:40][::-1]
    assert evaluate_detector(trained_on(flows), flows, training_fingerprints=prints).data["unseen_rows"] == 60


def test_unknown_classes_are_named_with_what_to_do():
    flows = draw_flows(50)
    odd = labelled(flows.features, pl.Series(["worm"] * 2 + ["bot"] + flows.classes[3:].to_list()))
    with pytest.raises(LabelError, match=r"'worm' \(2 rows\), 'bot' \(1 rows\), only on benign.*; choose its taxonomy"):
        evaluate_detector(FakeDetector(), odd)


def test_no_flows_is_reported():
    with pytest.raises(DataError, match="fake/test: it has no flows"):
        evaluate_detector(FakeDetector(), draw_flows(10).take(np.array([], int)))


def test_a_detector_that_loses_a_flow_is_reported():
    class Lossy(FakeDetector):
        def score(self, table):
            return super().score(table)[1:]

    with pytest.raises(DataError, match="49 verdicts on 50"):
        evaluate_detector(Lossy(), draw_flows(50))


def test_baselines_are_fitted_on_training_rows_only():
    train, test = draw_flows(500, 1), draw_flows(500, 2)
    baselines = Baselines.fit(train)
    poisoned = labelled(test.features.with_columns(size=pl.Series([1.0] * 500)), test.classes)
    assert baselines.rule.column == "evidence"
    assert (baselines.majority, baselines.rule_class) == ("benign", "dos")
    evaluate_detector(FakeDetector(), poisoned, baselines=baselines)
    assert Baselines.fit(train) == baselines


def test_baselines_of_the_manifest_stand_in_the_table():
    baselines, test = Baselines.fit(draw_flows(500, 1)), draw_flows(300, 2)
    recorded = json.loads(json.dumps(to_json_values(baselines)))
    told = evaluate_detector(FakeDetector(manifest={"baselines": recorded}), test)
    majority, ruled = told.baselines.values()
    assert list(told.baselines) == ["majority: benign", f"one rule: {baselines.rule}"]
    assert (majority.cba, majority.detection_rate) == (pytest.approx(1 / 3), 0)
    assert majority.pr_auc == pytest.approx(majority.attack_rows / 300)
    attacks = (test.classes != "benign").to_numpy()
    assert ruled.detection_rate == pytest.approx(baselines.rule.predict(test.features)[attacks].mean())


@pytest.mark.parametrize(
    "change", [{"majority": "worm"}, {"rule": 3}, {"rule": {"column": "x", "operator": ">", "value": 1}}]
)
def test_damaged_baselines_are_refused(change):
    recorded = {**to_json_values(Baselines.fit(draw_flows(100))), **change}
    with pytest.raises(DataError, match="baseline"):
        evaluate_detector(FakeDetector(manifest={"baselines": recorded}), draw_flows(50))


def test_model_facts_are_brief():
    manifest = {"seed": 1, "schema": {"columns": []}, "training": {"rows": 5, "losses": list(range(1000))}}
    model = evaluate_detector(FakeDetector(manifest=manifest), draw_flows(50)).model
    assert model == {
        "schema": "custom",
        "classes": list(CLASSES),
        "seed": 1,
        "training": {"rows": 5, "losses": "1000 values"},
    }


@pytest.mark.data
def test_known_facts_of_the_kdd99_test_set(data_root, monkeypatch):
    monkeypatch.setenv("DEEPIDEA_DATA", str(data_root))
    data = load_dataset("kdd99")
    known = row_fingerprints(data.train.features, data.train.schema)

    class Silent(FakeDetector):
        def score(self, table):
            columns = {f"p_{name}": np.full(table.height, float(name == "benign")) for name in self.classes}
            return pl.DataFrame({"class": ["benign"] * table.height, "score": np.zeros(table.height), **columns})

    detector = Silent(classes=data.test.class_order, schema=data.test.schema)
    evaluation = evaluate_detector(
        detector, data.test, training_fingerprints=known, baselines=Baselines.fit(data.train)
    )
    facts, (majority, ruled) = evaluation.data, evaluation.baselines.values()
    assert (facts["rows"], facts["distinct_rows"]) == (311_029, 77_287)
    assert facts["twins_in_training"] / facts["rows"] == pytest.approx(0.582, abs=5e-4)
    assert (evaluation.scores.cba, majority.cba) == (pytest.approx(0.2), pytest.approx(0.2))
    assert ruled.detection_rate > 0.85 > 0.05 > ruled.false_alarm_rate
