"""Rates: flows by the minute; a step of the alert rate is found where it is, steady noise is none."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.detection.rates import alert_rate_changes, flows_by_minute
from deepidea.errors import MissingExtraError

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def counts(n_flows: np.ndarray, rate: np.ndarray | float, seed: int = 0) -> pl.DataFrame:
    times = [NOON + timedelta(minutes=k) for k in range(len(n_flows))]
    alerts = np.random.default_rng(seed).binomial(n_flows, rate)
    return pl.DataFrame({"time": times, "n_flows": n_flows, "n_alerts": alerts})


@given(st.lists(st.one_of(st.none(), st.integers(0, 600)), min_size=1, max_size=50))
def test_minutes_hold_every_flow_once(seconds: list[int | None]) -> None:
    ends = pl.Series("end", [None if s is None else NOON + timedelta(seconds=s) for s in seconds])
    told = flows_by_minute(pl.DataFrame({"end": ends.cast(pl.Datetime("us", "UTC"))}), now=NOON)
    assert sum(told.values()) == len(seconds)
    for minute, n in told.items():
        at = round(minute / 1e6 - NOON.timestamp())
        assert n == sum(at <= (s or 0) < at + 60 for s in seconds)


def test_flows_without_times_fall_where_they_are_seen() -> None:
    assert flows_by_minute(pl.DataFrame({"x": [1, 2]}), now=NOON) == {round(NOON.timestamp() * 1e6): 2}
    assert flows_by_minute(pl.DataFrame({"x": []}), now=NOON) == {}


@pytest.mark.parametrize(("before", "after"), [(0.001, 0.02), (0.2, 0.05), (0.0, 0.01)])
@pytest.mark.parametrize("seed", range(3))
def test_a_step_is_found_where_it_is(before: float, after: float, seed: int) -> None:
    n = np.random.default_rng(seed).integers(200, 3000, 600)
    (change,) = alert_rate_changes(counts(n, np.where(np.arange(600) < 300, before, after), seed))
    assert abs((change.at - NOON).total_seconds() / 60 - 300) <= 15
    assert change.before == pytest.approx(before, rel=0.3, abs=1e-3)
    assert change.after == pytest.approx(after, rel=0.3)


def test_steady_noise_is_no_change() -> None:
    chance = np.random.default_rng(1)
    days = [counts(chance.integers(20, 3000, 1440), 10 ** chance.uniform(-4, -0.5), seed) for seed in range(40)]
    assert sum(len(alert_rate_changes(day)) for day in days) == 0


def test_few_or_no_flows_are_no_change() -> None:
    assert alert_rate_changes(counts(np.full(1440, 1), 0.5).head(40)) == []
    assert alert_rate_changes(counts(np.zeros(100, np.int64), 0.5)) == []
    assert alert_rate_changes(counts(np.zeros(0, np.int64), 0.5)) == []


def test_without_river_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "river.drift", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'deepidea\[serve\]'"):
        alert_rate_changes(counts(np.full(50, 100), 0.1))
