import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepidea.errors import ArtifactError
from deepidea.model.decision import Decision, fit_temperature

PRIOR = (0.9, 0.09, 0.01)
logits_arrays = hnp.arrays(np.float32, (5, 3), elements=st.floats(-50, 50, width=32))


@given(logits_arrays)
def test_without_correction_the_most_probable_class_wins(logits):
    chosen = logits[np.arange(5), Decision(PRIOR, tau=0.0).classify(logits)]
    assert chosen == pytest.approx(logits.max(1), rel=1e-6, abs=1e-6)  # near-equal logits may round to a tie


@given(logits_arrays, st.floats(0.1, 10))
def test_probabilities_sum_to_one(logits, temperature):
    p = Decision(PRIOR, temperature=temperature).probabilities(logits)
    assert p.sum(1) == pytest.approx(np.ones(5), abs=1e-5)


def test_full_correction_balances_the_classes():
    log_likelihood = np.log(np.array([[0.2, 0.3, 0.5]]))
    posterior = log_likelihood + np.log(PRIOR)
    assert Decision(PRIOR, tau=0.0).classify(posterior).tolist() == [0]
    assert Decision(PRIOR, tau=1.0).classify(posterior).tolist() == [2]


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_temperature_is_found_again(true_temperature):
    rng = np.random.default_rng(0)
    calibrated = rng.normal(size=(20_000, 3)).astype(np.float32) * 2
    p = np.exp(calibrated) / np.exp(calibrated).sum(1, keepdims=True)
    target = (p.cumsum(1) < rng.random((20_000, 1))).sum(1)
    assert fit_temperature(calibrated * true_temperature, target) == pytest.approx(true_temperature, rel=0.05)


def test_labels_are_corrected_before_they_are_added_up():
    decision = Decision((0.9, 0.05, 0.05), tau=1.0, class_of=(0, 1, 1))
    p = np.array([[0.80, 0.12, 0.08]], np.float32)
    assert decision.by_class(p) == pytest.approx(np.array([[0.8, 0.2]]))
    assert decision.by_class(decision.corrected(p)).argmax(1).tolist() == [1]


@pytest.mark.parametrize("class_of", [(0, 0, 2), (1, 1, 2), (0, 1), (0, 1, 0)])
def test_refuses_outputs_without_order(class_of):
    with pytest.raises(ValueError, match="class_of must ascend"):
        Decision(PRIOR, class_of=class_of)


def test_contract_rebuilds_the_same_decision():
    decision = Decision(PRIOR, temperature=2.0, tau=0.5, class_of=(0, 1, 1))
    assert Decision.from_contract(decision.contract()) == decision


@pytest.mark.parametrize("contract", [{}, {"prior": [1.0], "temperature": 1, "tau": 1}, {"prior": 3}])
def test_a_contract_that_does_not_fit_is_refused(contract):
    with pytest.raises(ArtifactError, match="decision contract"):
        Decision.from_contract(contract)


@pytest.mark.parametrize("arguments", [{"temperature": 0.0}, {"tau": -1.0}])
def test_refuses_impossible_parameters(arguments):
    with pytest.raises(ValueError, match="temperature must be"):
        Decision(PRIOR, **arguments)


@given(logits_arrays, st.floats(0.5, 3))
def test_log_odds_are_those_of_the_probabilities(logits, temperature):
    decision = Decision(PRIOR, temperature=temperature, class_of=(0, 1, 1))
    p = 1 / (1 + np.exp(decision.log_odds(logits)))
    assert p == pytest.approx(decision.probabilities(logits)[:, 0], abs=1e-5)
