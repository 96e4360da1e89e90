"""Splits by time, day and hosts keep apart what belongs together, and account for every row."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deepidea.errors import DataError, LabelError
from deepidea.evaluation import capture_splits as captures
from deepidea.evaluation.splits import Split

CLASSES = ["benign", "dos", "scan"]


@st.composite
def timed(draw):
    """Flows of one to three days at whole seconds, in any order, often at the same moment."""
    n_rows = draw(st.integers(2, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    seconds = rng.integers(0, draw(st.sampled_from([30, 3000, 40_000])), n_rows)
    days = rng.integers(0, draw(st.integers(1, 3)), n_rows)
    start = datetime(2017, 7, 3, 9)
    times = [start + timedelta(days=int(d), seconds=int(s)) for d, s in zip(days, seconds, strict=True)]
    return pl.Series(times), rng.choice(CLASSES, n_rows).tolist()


def attempt(split, *args, **options) -> Split:
    """Return a split; pass over tables that it rightly refuses."""
    try:
        return split(*args, **options)
    except LabelError as error:
        if "needs benign flows and attacks" not in str(error):
            raise
        return assume(False)


def assert_accounted(split: Split, classes: list[str]) -> None:
    """Check that no row is on both sides, and that both sides and what was left out are all rows, class by class."""
    assert not set(split.train.tolist()) & set(split.test.tolist())
    counts = Counter(np.take(classes, np.concatenate([split.train, split.test])).tolist())
    for rows in (split.dropped, *split.left_out.values()):
        counts.update(rows)
    assert counts == Counter(classes)


@settings(deadline=None)
@given(timed(), st.floats(0.05, 0.9), st.sampled_from([0.0, 1.0, 60.0, 900.0]))
def test_a_gap_lies_between_training_and_test_flows(drawn, fraction, embargo_s):
    times, classes = drawn
    split = attempt(captures.by_time_split, times, classes, test_fraction=fraction, embargo_s=embargo_s)
    assert_accounted(split, classes)
    trained, tested = times[split.train].to_numpy(), times[split.test].to_numpy()
    gaps = np.abs(tested[:, None] - trained[None, :]) / np.timedelta64(1, "s")
    assert gaps.min() >= embargo_s
    assert {classes[row] for row in split.test} <= {classes[row] for row in split.train}


@settings(deadline=None)
@given(timed(), st.integers(0, 99))
def test_each_day_is_cut_by_time_alone(drawn, seed):
    times, classes = drawn
    split = attempt(captures.by_time_split, times, classes, embargo_s=0.0)
    for day in times.dt.date().unique():
        trained, tested = (times[rows].filter(times[rows].dt.date() == day) for rows in (split.train, split.test))
        assert not (len(trained) and len(tested)) or trained.max() < tested.min()
    order = np.random.default_rng(seed).permutation(len(times))
    again = captures.by_time_split(times[order], np.take(classes, order).tolist(), embargo_s=0.0)
    assert sorted(order[again.train]) == split.train.tolist()


def test_what_is_left_out_by_time_is_reported():
    times = pl.Series([datetime(2017, 7, 3, 9) + timedelta(minutes=j) for j in range(10)])
    classes = ["benign", "dos"] * 4 + ["scan", "benign"]
    with pytest.raises(LabelError, match=r"by_time .*test needs .* would have 1 and 0"):
        captures.by_time_split(times, classes, test_fraction=0.3)
    split = captures.by_time_split(times, classes, test_fraction=0.4)
    assert split.left_out == {"embargo": {"benign": 1}, "class_not_in_training": {"scan": 1}}
    assert split.to_contract()["left_out"] == split.left_out
    assert (split.train.tolist(), split.test.tolist()) == ([0, 1, 2, 3, 4, 5], [7, 9])


def test_a_split_by_time_needs_every_time():
    times = pl.Series([datetime(2017, 7, 3), None])
    with pytest.raises(DataError, match="1 flows have no time"):
        captures.by_time_split(times, ["benign", "dos"])
    for change in ({"test_fraction": 0.0}, {"embargo_s": -1.0}, {"embargo_s": float("nan")}):
        with pytest.raises(DataError, match="must be between"):
            captures.by_time_split(times.head(1), ["benign"], **change)


@given(st.lists(st.tuples(st.sampled_from(["mon", "tue", "wed"]), st.sampled_from(CLASSES)), min_size=4))
def test_a_day_is_wholly_tested(rows):
    days, classes = pl.Series([day for day, _ in rows]), [name for _, name in rows]
    assume("mon" in days)
    split = attempt(captures.by_day_split, days, classes, day="mon")
    assert_accounted(split, classes)
    assert set(days[split.test]) == {"mon"}
    assert "mon" not in set(days[split.train])


def test_days_are_named_by_the_week_where_that_distinguishes_them():
    week = pl.DataFrame({"timestamp": [datetime(2017, 7, 3), datetime(2017, 7, 7, 23)], "file": ["x.csv"] * 2})
    assert captures.capture_days(week).to_list() == ["monday", "friday"]
    fortnight = [datetime(2018, 2, 14), datetime(2018, 2, 28)]
    named = captures.capture_days(pl.DataFrame({"timestamp": fortnight})).to_list()
    assert named == [str(date(2018, 2, 14)), str(date(2018, 2, 28))]
    with pytest.raises(DataError, match="the table has neither"):
        captures.capture_days(week.select("file"))
    with pytest.raises(DataError, match="'sunday'; choose one of friday, monday"):
        captures.by_day_split(captures.capture_days(week), ["benign", "dos"], day="sunday")


@st.composite
def paired(draw):
    """Flows between a few hosts, of which some have most of the flows."""
    n_rows, rng = draw(st.integers(6, 150)), np.random.default_rng(draw(st.integers(0, 2**32)))
    ends = (rng.random((n_rows, 2)) ** 2 * draw(st.integers(2, 12))).astype(int).astype(str)
    table = pl.DataFrame({"src_ip": ends[:, 0], "dst_ip": ends[:, 1]})
    return table, rng.choice(CLASSES, n_rows).tolist()


@settings(deadline=None)
@given(paired(), st.floats(0.05, 0.5), st.integers(0, 99))
def test_no_pair_of_hosts_is_on_both_sides(drawn, fraction, seed):
    table, classes = drawn
    pairs = captures.host_pairs(table)
    split = attempt(captures.by_host_pair_split, pairs, classes, classes, test_fraction=fraction, seed=seed)
    assert_accounted(split, classes)
    unordered = [frozenset(row) for row in table.iter_rows()]
    assert not {unordered[row] for row in split.train} & {unordered[row] for row in split.test}
    assert {classes[row] for row in split.test} <= {classes[row] for row in split.train}


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 99), st.floats(0.1, 0.5))
def test_many_small_pairs_come_near_to_the_share_of_each_class(draw, seed, fraction):
    rng = np.random.default_rng(draw)
    pairs, classes = pl.Series(rng.integers(0, 400, 800).astype(str)), rng.choice(CLASSES, 800).tolist()
    split = captures.by_host_pair_split(pairs, classes, classes, test_fraction=fraction, seed=seed)
    tested = Counter(np.take(classes, split.test).tolist())
    for name, rows in Counter(classes).items():
        assert tested[name] == pytest.approx(rows * fraction, abs=0.05 * rows)


def test_a_label_of_one_pair_trains_though_its_class_has_more():
    pairs = pl.Series(["a b"] * 2 + ["a c", "a d", "a e", "a f"] * 3)
    labels = ["hulk"] * 2 + ["slow"] * 4 + ["normal"] * 8
    classes = ["dos"] * 6 + ["benign"] * 8
    for seed in range(9):
        split = captures.by_host_pair_split(pairs, labels, classes, test_fraction=0.3, seed=seed)
        assert {0, 1} <= set(split.train.tolist())
        assert set(np.take(labels, split.test).tolist()) == {"slow", "normal"}


def test_a_class_of_one_pair_trains():
    pairs = pl.Series(["a b"] * 5 + ["a c", "a d"] * 4)
    classes = ["dos"] * 5 + ["benign", "scan"] * 2 + ["scan", "benign"] * 2
    split = captures.by_host_pair_split(pairs, classes, classes, test_fraction=0.5)
    assert set(range(5)) <= set(split.train.tolist())
    assert set(np.take(classes, split.test).tolist()) == {"benign", "scan"}


def test_a_split_by_hosts_needs_addresses():
    with pytest.raises(DataError, match="dst_ip is absent or has gaps"):
        captures.host_pairs(pl.DataFrame({"src_ip": ["10.0.0.1"]}))
    with pytest.raises(DataError, match="must be between 0 and 1"):
        captures.by_host_pair_split(pl.Series(["a b"]), ["benign"], ["benign"], test_fraction=1.0)
