"""Rates: flows by the minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from deepidea.detection.rates import flows_by_minute

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


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
