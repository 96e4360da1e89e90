"""Thresholds keep the rate they promise, and the file that carries them is not believed blindly."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.detection.alerting import Thresholds, fit_thresholds, flows_needed, name_attacks
from deepidea.errors import ArtifactError, DataError


def verdicts(n, seed):
    rng = np.random.default_rng(seed)
    return pl.DataFrame({"score": rng.random(n), "anomaly": rng.random(n)})


def test_the_rate_is_kept_on_average():
    """Over many samples the rate of false alarms has the promised mean: between a - 1/(n+1) a measure and a."""
    fitted = [fit_thresholds(verdicts(199, seed), 0.05, "s") for seed in range(200)]
    rates = [each.above_threshold(verdicts(2000, 10_000 + seed)).mean() for seed, each in enumerate(fitted)]
    assert 0.045 < np.mean(rates) < 0.0505


@given(st.integers(1, 300), st.sampled_from([0.5, 0.1, 0.02]))
def test_exactly_the_flows_needed_suffice(extra, fpr):
    needed = flows_needed(fpr)
    assert all(map(math.isfinite, fit_thresholds(verdicts(needed, 0), fpr, "s").bounds.values()))
    with pytest.raises(DataError, match=f"at least {needed:,}"):
        fit_thresholds(verdicts(max(0, needed - extra), 0), fpr, "s")


def test_of_the_flows_that_set_them_no_more_than_the_rate_lies_above():
    table = verdicts(9_999, 3)
    assert fit_thresholds(table, 0.01, "s").above_threshold(table).sum() <= 100


def test_a_detector_file_keeps_them():
    kept = Thresholds({"score": 0.25, "anomaly": math.inf}, 0.01, 500, "site")
    assert Thresholds.from_contract(kept.contract()) == kept


@pytest.mark.parametrize("damage", [{}, {"bounds": {"x": 1}}, {"bounds": None}, {"fpr": "no"}])
def test_a_damaged_entry_is_refused(damage):
    contract = {**Thresholds({"score": 0.2}, 0.1, 9, "s").contract(), **damage} if damage else {}
    with pytest.raises(ArtifactError, match="thresholds"):
        Thresholds.from_contract(contract)


def test_without_a_finite_threshold_no_flow_lies_above():
    assert Thresholds({"score": math.inf}, 0.01, 9, "s").above_threshold(verdicts(7, 0)).to_list() == [False] * 7


def test_a_rate_below_what_the_flows_support_is_called_extrapolated():
    thresholds = Thresholds({"anomaly": 0.999}, 0.001, 50, "site")
    assert "about 1 per 1,000 benign flows, extrapolated from n = 50" in thresholds.guarantee
    assert "at most" in Thresholds({"anomaly": 0.999}, 0.001, 999, "site").guarantee


def test_a_verdict_above_a_threshold_never_reads_benign():
    table = pl.DataFrame({"class": ["benign", "dos"], "p_benign": [0.5, 0.1], "p_dos": [0.2, 0.8], "p_r2l": [0.3, 0.1]})
    assert name_attacks(table, "benign")["class"].to_list() == ["r2l", "dos"]


@pytest.mark.parametrize("fpr", [0, 1, -0.1])
def test_a_rate_must_be_one(fpr):
    with pytest.raises(DataError, match="between 0 and 1"):
        fit_thresholds(verdicts(10, 0), fpr, "s")
