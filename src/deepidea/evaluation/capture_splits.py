"""Splits by the circumstances of capture: when a flow began, on which day, and between which two hosts.

Flows of one attack run resemble each other, and a random split puts them on both sides. These splits keep them apart.
Times and addresses decide on which side a flow stands and are nothing else: they are no features.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from deepidea.errors import DataError, LabelError
from deepidea.evaluation.splits import Column, Ints, Split, count_names, name_codes, shuffle_keys
from deepidea.flows.labelled import FILE_COLUMN
from deepidea.flows.taxonomy import BENIGN

EMBARGO_S = 120.0
"""Seconds between a training flow and a test flow: CICFlowMeter cuts a flow after as long, so none reaches across."""

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

Mask = npt.NDArray[np.bool_]


# --- time --------------------------------------------------------------------------------------------------------


def by_time_split(
    times: pl.Series, classes: Column, *, test_fraction: float = 1 / 6, embargo_s: float = EMBARGO_S
) -> Split:
    """Train on the first flows of each day and test on the last.

    Each day is cut for itself: an attack of the public captures runs on one day alone, so a single cut would leave
    nearly every class on one side. A flow after the cut that begins less than `embargo_s` after or before a training
    flow is left out, and so is one of a class that no training flow has; both are counted.

    Parameters
    ----------
    times : Series of Datetime, shape (n_flows,)
        When each flow began.
    classes : Series or sequence of str, shape (n_flows,)
    test_fraction : float
        Share of a day's flows after its cut, above 0 and below 1. Flows of the very moment of the cut come after it.
    embargo_s : float
        In seconds, at least 0.

    Raises
    ------
    DataError
        A time is missing, a fraction outside 0..1, a negative embargo.
    LabelError
        A side without benign flows or without attacks is left.

    Examples
    --------
    >>> from datetime import datetime, timedelta
    >>> times = pl.Series([datetime(2017, 7, 3, 9) + timedelta(minutes=j) for j in range(12)])
    >>> split = by_time_split(times, ["benign", "dos"] * 6, test_fraction=1 / 3)
    >>> split.train.tolist(), split.test.tolist(), split.left_out
    ([0, 1, 2, 3, 4, 5, 6, 7], [9, 10, 11], {'embargo': {'benign': 1}})
    """
    if not (0 < test_fraction < 1 and 0 <= embargo_s < float("inf")):
        raise DataError(
            f"test_fraction must be between 0 and 1 and embargo_s at least 0, got {test_fraction} and {embargo_s}"
        )
    if times.null_count():
        raise DataError(f"cannot split by time: {times.null_count():,} flows have no time; drop them")
    # Microseconds, so that a distance is a difference of integers.
    moments = times.cast(pl.Datetime("us")).cast(pl.Int64).to_numpy()
    early = moments < _cuts(times, test_fraction)
    # A conversation that was cut in two lies on both sides, and its second half would be tested by its first.
    near = ~early & (_distance(moments, np.sort(moments[early])) < embargo_s * 1e6)
    codes, names = name_codes(classes)
    # A class that occurs late on days alone cannot be recognised: counted, not tested.
    unseen = ~early & ~near & ~np.isin(codes, codes[early])
    reasons = {"embargo": near, "class_not_in_training": unseen}
    left_out = {reason: count_names(codes[rows], names) for reason, rows in reasons.items() if rows.any()}
    params = {"test_fraction": test_fraction, "embargo_s": float(embargo_s)}
    return _split(early, ~early & ~near & ~unseen, "by_time", params, classes, left_out)


def _cuts(times: pl.Series, test_fraction: float) -> Ints:
    """Return for each flow the moment (us) from which its day's flows are tested."""
    table = pl.DataFrame({"day": times.dt.date(), "moment": times.cast(pl.Datetime("us")).cast(pl.Int64)})
    place = (pl.len() * (1 - test_fraction)).floor().cast(pl.Int64).clip(upper_bound=pl.len() - 1)
    return table.select(pl.col("moment").sort().get(place).over("day")).to_series().to_numpy()


def _distance(moments: Ints, known: Ints) -> npt.NDArray[np.float64]:
    """Return how far each moment is from the nearest known one; infinite where none is known."""
    # infinities at both ends give every moment a neighbour on either side
    padded = np.concatenate([[-np.inf], known.astype(np.float64), [np.inf]])
    after = np.searchsorted(known, moments) + 1
    nearest: npt.NDArray[np.float64] = np.minimum(moments - padded[after - 1], padded[after] - moments)
    return nearest


def _split(
    trains: Mask,
    tests: Mask,
    kind: str,
    params: Mapping[str, object],
    classes: Column,
    left_out: dict[str, dict[str, int]] | None = None,
) -> Split:
    """Return the split, unless a side cannot be used."""
    benign = (pl.Series(classes).cast(pl.String) == BENIGN).to_numpy()
    for side, rows in (("training", trains), ("test", tests)):
        if not ((rows & benign).any() and (rows & ~benign).any()):
            raise LabelError(
                f"cannot split {kind} with {params}: {side} needs benign flows and attacks, and would have "
                f"{(rows & benign).sum():,} and {(rows & ~benign).sum():,}; choose another split"
            )
    return Split(np.flatnonzero(trains), np.flatnonzero(tests), kind, params, len(trains), left_out=left_out or {})


# --- days --------------------------------------------------------------------------------------------------------


def capture_days(table: pl.DataFrame) -> pl.Series:
    """Return the day of capture of each flow: ``friday``, or ``2017-07-07`` where two days are Fridays.

    Parameters
    ----------
    table
        Flows with a ``timestamp``, or with a ``file`` whose name begins with the day of the week.

    Raises
    ------
    DataError
        The table has neither.

    Examples
    --------
    >>> capture_days(pl.DataFrame({"file": ["Monday-WorkingHours.csv", "friday.csv"]})).to_list()
    ['monday', 'friday']
    """
    if "timestamp" in table.columns and not table["timestamp"].null_count():
        return _named_days(table["timestamp"].dt.date())
    if FILE_COLUMN in table.columns:
        days = table[FILE_COLUMN].cast(pl.String).str.to_lowercase().str.extract(f"^({'|'.join(WEEKDAYS)})")
        if not days.null_count():
            return days.alias("day")
    raise DataError(
        "cannot split by day: the table has neither times nor files named by the weekday; use a stratified split"
    )


def _named_days(dates: pl.Series) -> pl.Series:
    weekdays = {date: WEEKDAYS[date.weekday()] for date in dates.unique()}
    unique = len(set(weekdays.values())) == len(weekdays)
    names = {date: name if unique else date.isoformat() for date, name in weekdays.items()}
    return dates.replace_strict(names, return_dtype=pl.String).alias("day")


def by_day_split(days: pl.Series, classes: Column, *, day: str) -> Split:
    """Test on one day and train on the others.

    Parameters
    ----------
    days : Series of str, shape (n_flows,)
        From :func:`capture_days`.
    classes : Series or sequence of str, shape (n_flows,)
        A class of the test day may be one that no other day shows.
    day : str

    Raises
    ------
    DataError
        There is no such day.
    LabelError
        A side has no benign flows or no attacks.

    Examples
    --------
    >>> days = pl.Series(["monday", "monday", "friday", "friday"])
    >>> by_day_split(days, ["benign", "dos", "benign", "bot"], day="friday").test.tolist()
    [2, 3]
    """
    if day not in days:
        known = ", ".join(days.unique().sort())
        raise DataError(f"the capture has no day {day!r}; choose one of {known}")
    tests = (days == day).to_numpy()
    return _split(~tests, tests, "by_day", {"day": day}, classes)


# --- hosts -------------------------------------------------------------------------------------------------------


def host_pairs(table: pl.DataFrame) -> pl.Series:
    """Return the two addresses of each flow as one text, the same in either direction.

    Raises
    ------
    DataError
        The table has no addresses, or a flow lacks one.

    Examples
    --------
    >>> host_pairs(pl.DataFrame({"src_ip": ["10.0.0.2", "10.0.0.1"], "dst_ip": ["10.0.0.1", "10.0.0.2"]})).to_list()
    ['10.0.0.1 10.0.0.2', '10.0.0.1 10.0.0.2']
    """
    ends = ("src_ip", "dst_ip")
    missing = [name for name in ends if name not in table.columns or table[name].null_count()]
    if missing:
        raise DataError(
            f"cannot split by hosts: {', '.join(missing)} is absent or has gaps; use a stratified split, or files with "
            "addresses"
        )
    first, last = pl.min_horizontal(*ends), pl.max_horizontal(*ends)
    return table.select(pair=pl.concat_str(first, last, separator=" ")).to_series()


def by_host_pair_split(
    pairs: pl.Series, labels: Column, classes: Column, *, test_fraction: float = 1 / 6, seed: int = 0
) -> Split:
    """Split by pairs of hosts: no pair is on both sides, and each label comes as near to its share as it can.

    Pairs are visited in shuffled order, and one is tested where no label gets more test rows by it than its share.
    A label whose pairs are all too large for that is then tested on its smallest pair, where half of the rows of each
    label still train. A label of a single pair trains and is not tested: the question is whether a known attack is
    recognised between other hosts.

    Parameters
    ----------
    pairs : Series of str, shape (n_flows,)
        From :func:`host_pairs`.
    labels, classes : Series or sequence of str, shape (n_flows,)
        Native labels, and the classes they belong to.
    test_fraction : float
        Above 0 and below 1.
    seed : int

    Raises
    ------
    DataError
        A fraction outside 0..1.
    LabelError
        A side would have no benign flows or no attacks.

    Examples
    --------
    >>> pairs = pl.Series(["a b", "a c", "a d", "a e"] * 3)
    >>> classes = ["benign"] * 4 + ["dos"] * 8
    >>> split = by_host_pair_split(pairs, classes, classes, test_fraction=1 / 4)
    >>> pairs[split.test].unique().to_list(), len(split.train)
    (['a b'], 9)
    """
    if not 0 < test_fraction < 1:
        raise DataError(f"test_fraction must be between 0 and 1, got {test_fraction}")
    (codes, names), (pair_codes, pair_names) = name_codes(labels), name_codes(pairs)
    rows = np.zeros((len(pair_names), len(names)), dtype=np.int64)  # (n_pairs, n_labels)
    np.add.at(rows, (pair_codes, codes), 1)
    tests = _choose_pairs(rows, test_fraction, seed)[pair_codes]
    return _split(~tests, tests, "by_host_pair", {"test_fraction": test_fraction, "seed": seed}, classes)


def _choose_pairs(rows: Ints, test_fraction: float, seed: int) -> Mask:
    """Return which pairs are tested; `rows` counts each pair's flows by label."""
    totals, order = rows.sum(axis=0), np.argsort(shuffle_keys(len(rows), seed))
    # a label may give its share, rounded up, but never all of its rows
    share = np.minimum(np.ceil(totals * test_fraction), totals - 1)
    tests, tested = np.zeros(len(rows), dtype=np.bool_), np.zeros_like(totals)
    # Greedy: a pair is tested if no label gets more than its share with it. Labels of few pairs may get none so.
    for pair in order:
        if (tested + rows[pair] <= share).all():
            tests[pair], tested = True, tested + rows[pair]
    # They get the pair that tests the fewest flows, as long as no label is tested with more than half of its flows.
    for label in np.flatnonzero(tested == 0):
        fits = order[(rows[order, label] > 0) & (2 * (tested + rows[order]) <= totals).all(axis=1)]
        if fits.size:
            smallest = fits[np.argmin(rows[fits, label])]
            tests[smallest], tested = True, tested + rows[smallest]
    return tests
