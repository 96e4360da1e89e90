from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deepidea.errors import DataError, LabelError
from deepidea.evaluation import metrics
from deepidea.evaluation.contracts import from_json_values, to_json_values
from deepidea.evaluation.references import OneRule, one_rule

CLASSES = ("benign", "dos", "probe")


@st.composite
def verdicts(draw, min_rows=2, max_rows=60):
    """Truth, prediction, probabilities and attack scores on a coarse grid, so that ties are common."""
    n_rows = draw(st.integers(min_rows, max_rows))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    truth, predicted = rng.integers(0, 3, (2, n_rows))
    parts = rng.integers(1, draw(st.sampled_from([3, 1000])), (n_rows, 3)).astype(float)
    probabilities = parts / parts.sum(axis=1, keepdims=True)
    return truth, predicted, probabilities, 1 - probabilities[:, 0]


def outputs(scores):
    return json.dumps(scores.to_dict(), sort_keys=True)


@given(verdicts(), st.randoms(use_true_random=False))
def test_order_of_rows_changes_no_bit(drawn, random):
    order = list(range(len(drawn[0])))
    random.shuffle(order)
    straight = metrics.evaluate(*drawn, CLASSES)
    shuffled = metrics.evaluate(*(column[order] for column in drawn), CLASSES)
    assert outputs(straight) == outputs(shuffled)
    assert (straight.score_histogram == shuffled.score_histogram).all()


@given(verdicts(), st.integers(2, 4))
def test_repeating_all_rows_changes_no_share(drawn, times):
    once = metrics.evaluate(*drawn, CLASSES)
    again = metrics.evaluate(*(np.concatenate([column] * times) for column in drawn), CLASSES)
    for name in ("cba", "macro_f1", "accuracy", "detection_rate", "false_alarm_rate", "pr_auc", "roc_auc", "brier"):
        assert getattr(again, name) == pytest.approx(getattr(once, name))
    assert (again.confusion == times * once.confusion).all()


@given(verdicts())
def test_decision_scores_agree_with_scikit_learn(drawn):
    truth, predicted, probabilities, score = drawn
    ours = metrics.evaluate(truth, predicted, probabilities, score, CLASSES)
    recalls = reference.recall_score(truth, predicted, labels=np.unique(truth), average=None, zero_division=0)
    assert ours.cba == pytest.approx(recalls.mean())
    assert ours.accuracy == pytest.approx(reference.accuracy_score(truth, predicted))
    assert ours.macro_f1 == pytest.approx(reference.f1_score(truth, predicted, average="macro", zero_division=0))
    assert (ours.confusion == reference.confusion_matrix(truth, predicted, labels=[0, 1, 2])).all()


@given(verdicts())
def test_ranking_scores_agree_with_scikit_learn(drawn):
    truth, predicted, probabilities, score = drawn
    assume(0 < (truth > 0).sum() < truth.size)
    ours = metrics.evaluate(truth, predicted, probabilities, score, CLASSES)
    assert ours.pr_auc == pytest.approx(reference.average_precision_score(truth > 0, score))
    assert ours.roc_auc == pytest.approx(reference.roc_auc_score(truth > 0, score))
    assert ours.attack_brier == pytest.approx(reference.brier_score_loss(truth > 0, score))
    assert ours.brier == pytest.approx(((probabilities - np.eye(3)[truth]) ** 2).sum(axis=1).mean())


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_interval_solves_its_equation(successes, trials):
    successes = min(successes, trials)
    interval, share = metrics.wilson_interval(successes, trials), successes / trials
    assert 0 <= interval.low <= share <= interval.high <= 1
    for end in (interval.low, interval.high):
        distance = abs(share - end)
        assert distance == pytest.approx(metrics.Z_95 * (end * (1 - end) / trials) ** 0.5, abs=1e-7)


def test_mean_share_interval_covers_the_truth():
    rng, rates, sizes = np.random.default_rng(0), np.array([0.99, 0.7, 0.3]), np.array([5000, 200, 30])
    drawn = rng.binomial(sizes, rates, (2000, 3))
    intervals = [metrics.mean_share_interval(list(zip(hits, sizes.tolist(), strict=True))) for hits in drawn.tolist()]
    covered = np.mean([interval.low <= rates.mean() <= interval.high for interval in intervals])
    assert 0.935 <= covered <= 0.975


def test_classes_without_rows_are_left_out_of_the_means():
    scores = metrics.evaluate([0, 0, 1], [0, 0, 1], None, None, CLASSES)
    assert (scores.cba, scores.macro_f1) == (1.0, 1.0)
    probe = scores.per_class["probe"]
    assert (probe.recall, probe.precision, probe.f1, probe.recall_interval) == (None, None, None, None)


@pytest.mark.parametrize(
    ("benign_rows", "resolved"), [(99, []), (100, ["0.01"]), (10_000, ["0.01", "0.001", "0.0001"])]
)
def test_recall_at_a_rate_needs_rows_that_resolve_it(benign_rows, resolved):
    truth = np.append(np.zeros(benign_rows, int), [1, 1])
    score = np.append(np.linspace(0, 0.5, benign_rows), [0.2, 0.9])
    scores = metrics.evaluate(truth, truth, None, score, CLASSES[:2])
    assert [rate for rate, recall in scores.to_dict()["recall_at_fpr"].items() if recall is not None] == resolved
    for rate, at in scores.recall_at_fpr.items():
        assert (at.reason is None) == (rate in resolved)


@given(verdicts(min_rows=150, max_rows=400))
def test_recall_at_a_rate_keeps_the_budget_and_is_the_best_that_does(drawn):
    truth, predicted, _, score = drawn
    benign = score[truth == 0]
    assume(benign.size >= 100 and (truth > 0).any())
    at = metrics.evaluate(truth, predicted, None, score, CLASSES).recall_at_fpr["0.01"]
    recalls = [(score[truth > 0] >= t).mean() for t in np.unique(score) if (benign >= t).mean() <= 0.01]
    assert at.recall == pytest.approx(max(recalls, default=0.0))
    assert at.false_positive_rate <= 0.01


def test_a_saturated_score_leaves_no_threshold_and_reports_it():
    truth = np.repeat([0, 1], [1000, 50])
    at = metrics.evaluate(truth, truth, None, np.repeat([0.0, 1.0, 1.0], [988, 12, 50]), CLASSES[:2]).recall_at_fpr[
        "0.01"
    ]
    assert (at.recall, at.threshold) == (0.0, None)
    assert at.reason == "no threshold keeps it: 12 benign rows share the highest score"


def test_precision_at_prevalence_is_bayes():
    truth, predicted = np.repeat([0, 1], [10_000, 100]), np.repeat([0, 1, 0, 1], [9_790, 210, 2, 98])
    scores = metrics.evaluate(truth, predicted, None, None, CLASSES[:2])
    assert scores.precision_at_prevalence["0.0001"] == pytest.approx(0.0046, abs=1e-4)
    assert list(scores.precision_at_prevalence) == ["0.01", "0.001", "0.0001", "0.00001"]
    for key, value in scores.precision_at_prevalence.items():
        interval = scores.precision_at_prevalence_interval[key]
        assert interval.low < value < interval.high


def test_no_false_alarm_seen_is_not_perfect_precision():
    scores = metrics.evaluate([0] * 1000 + [1] * 10, [0] * 1000 + [1] * 10, None, None, CLASSES[:2])
    assert scores.precision_at_prevalence["0.0001"] == 1.0
    assert scores.precision_at_prevalence_interval["0.0001"].low < 0.03


@given(verdicts())
def test_calibration_bins_hold_every_row_once(drawn):
    truth, predicted, probabilities, _ = drawn
    reliability = metrics.evaluate(*drawn, CLASSES).reliability
    stated = probabilities[np.arange(truth.size), predicted]
    assert reliability.rows.sum() == truth.size
    assert len(reliability.rows) <= metrics.CALIBRATION_BINS
    assert (reliability.rows > 0).all()
    assert reliability.stated @ reliability.rows == pytest.approx(stated.sum())
    assert reliability.observed @ reliability.rows == pytest.approx((truth == predicted).sum())


def test_calibration_error_tells_honest_from_overconfident():
    rng = np.random.default_rng(0)
    chance = rng.random(200_000)
    truth = (rng.random(200_000) < chance).astype(int)
    honest = metrics.evaluate(truth, truth, None, chance, CLASSES[:2])
    boastful = metrics.evaluate(truth, truth, None, (chance > 0.5).astype(float), CLASSES[:2])
    assert honest.attack_calibration_error < 0.01
    assert boastful.attack_calibration_error == pytest.approx(0.25, abs=0.01)


@given(verdicts(min_rows=50, max_rows=4000))
@settings(max_examples=30)
def test_thinned_curve_keeps_its_area(drawn):
    scores = metrics.evaluate(*drawn, CLASSES)
    assume(scores.curve is not None)
    assert_curve_is_sound(scores, tolerance=1 / 250)


def test_thinned_curve_of_a_smooth_ranking_is_exact_to_four_digits():
    rng = np.random.default_rng(1)
    truth = np.repeat([0, 1], [300_000, 20_000])
    score = 1 / (1 + np.exp(-rng.normal(np.where(truth, 2.0, -2.0), 1.5)))
    assert_curve_is_sound(metrics.evaluate(truth, truth, None, score, CLASSES[:2]), tolerance=1e-4)


def assert_curve_is_sound(scores, tolerance):
    curve = scores.curve
    assert len(curve.recall) <= metrics.CURVE_POINTS
    assert curve.recall[-1] == curve.false_positive_rate[-1] == 1
    assert (np.diff(curve.recall) >= 0).all()
    assert (np.diff(curve.threshold) < 0).all()
    area = np.trapezoid(np.append(0, curve.recall), np.append(0, curve.false_positive_rate))
    assert area == pytest.approx(scores.roc_auc, abs=tolerance)


@pytest.mark.parametrize("truth", [[0, 0, 0], [1, 2, 1]])
def test_one_kind_of_rows_leaves_what_needs_both_undefined(truth):
    scores = metrics.evaluate(truth, truth, np.full((3, 3), 1 / 3), [0.1, 0.2, 0.3], CLASSES)
    assert (scores.pr_auc, scores.roc_auc, scores.curve) == (None, None, None)
    assert None in (scores.detection_rate, scores.false_alarm_rate)
    assert scores.recall_at_fpr["0.01"].reason
    json.loads(json.dumps(scores.to_dict(), allow_nan=False))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"truth": []}, DataError),
        ({"truth": [0, 3]}, DataError),
        ({"predicted": [0]}, DataError),
        ({"attack_score": [0.5, float("nan")]}, DataError),
        ({"attack_score": [0.5, 1.5]}, DataError),
        ({"attack_score": [0.5]}, DataError),
        ({"probabilities": [[0.5, 0.5], [0.5, 0.5]]}, DataError),
        ({"class_order": ["dos", "probe", "u2r"]}, LabelError),
        ({"class_order": ["benign", "benign", "u2r"]}, LabelError),
    ],
)
def test_bad_input_is_reported(change, error):
    sound = {
        "truth": [0, 1],
        "predicted": [0, 1],
        "probabilities": None,
        "attack_score": [0.1, 0.9],
        "class_order": CLASSES,
    }
    with pytest.raises(error, match=next(iter(change))):
        metrics.evaluate(**{**sound, **change})


def test_scores_without_score_and_probabilities_say_so():
    plain = metrics.evaluate([0, 1], [0, 1], None, None, CLASSES[:2]).to_dict()
    assert plain["recall_at_fpr"] == {"0.01": None, "0.001": None, "0.0001": None}
    assert plain["recall_at_fpr_details"]["0.01"]["reason"] == "there is no attack score"
    assert plain["calibration_error"] is plain["pr_auc"] is None


@given(
    st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 2.5, None, float("nan"), float("inf")]), st.booleans()), min_size=2)
)
def test_one_rule_finds_the_best_threshold(rows):
    table, is_attack = (
        pl.DataFrame({"x": pl.Series([value for value, _ in rows], dtype=pl.Float64)}),
        [a for _, a in rows],
    )
    assume(len(set(is_attack)) == 2)
    rule = one_rule(table, is_attack)
    assert reference.balanced_accuracy_score(is_attack, rule.predict(table)) == pytest.approx(
        rule.training_balanced_accuracy
    )
    numbers = table["x"].fill_nan(None).fill_null(-9.0).to_numpy()
    every = [reference.balanced_accuracy_score(is_attack, numbers > cut) for cut in (-9, -1, 0, 2.5)]
    assert rule.training_balanced_accuracy == pytest.approx(max(max(every), 1 - min(every)))


def test_one_rule_may_be_a_category_and_survives_its_contract():
    table = pl.DataFrame({"bytes": [1, 2, 3, 4], "service": ["http", "eco", "http", None]})
    rule = one_rule(table, [False, True, False, True])
    assert str(rule) == "service != http"
    assert from_json_values(json.loads(json.dumps(to_json_values(rule), allow_nan=False)), OneRule, "a", "b") == rule
    assert rule.predict(table).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("contract", "fault"),
    [
        ({}, "column"),
        ({"column": "a", "operator": "<", "value": 1}, "operator"),
        ({"column": 1, "operator": ">", "value": 1}, "column"),
        ({"column": "a", "operator": ">", "value": "b"}, "a > 'b'"),
    ],
)
def test_damaged_rule_contract_is_refused(contract, fault):
    with pytest.raises(DataError, match=fault):
        from_json_values(contract, OneRule, "a rule", "write it again")


def test_one_rule_needs_both_kinds():
    with pytest.raises(LabelError, match="all attack or all benign"):
        one_rule(pl.DataFrame({"x": [1, 2]}), [True, True])
    with pytest.raises(DataError, match="2 flows of 1 columns, 1 flags"):
        one_rule(pl.DataFrame({"x": [1, 2]}), [True])
