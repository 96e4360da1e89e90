"""Tests over seeds: is the difference between two systems larger than the scatter of their seeds?

Two tests, because neither does all. The paired t-test decides from five seeds on, but takes the differences as normally
distributed. The sign-flip test assumes nothing of the kind, but its smallest p-value at n pairs is ``2 ** (1 - n)``: it
cannot reach 5 % below six pairs. Over several data sets the pairs add up, and it can. A test that cannot decide gives
no p-value.

References
----------
R. A. Fisher (1935), *The design of experiments*, section 21 (exact test by flipping the signs of paired differences).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from deepidea.benchmark.comparison import BenchmarkTask, Row, Rule
from deepidea.errors import MissingExtraError

ALPHA = 0.05
MIN_SEEDS = 5
"""Seeds from which the t-test is reported: below, its p-value rests on the assumption of normality alone."""
_MOST_EXACT = 20  # pairs whose signs are all tried; beyond, 100,000 draws
_DRAWS = 100_000


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A row against another over the seeds that both have.

    Attributes
    ----------
    difference : float
        Mean of the row's class-balanced accuracy less the other's.
    n_seeds : int
    kind : {"paired", "one-sample"}
        One-sample where one of the two is the same for every seed.
    t_p, sign_flip_p : float or None
        Two-sided p-values; None where so few seeds cannot decide, or where the difference is the same for every seed.
    """

    difference: float
    n_seeds: int
    kind: Literal["paired", "one-sample"]
    t_p: float | None
    sign_flip_p: float | None

    @property
    def decided(self) -> bool:
        """Whether the t-test rejects equality at 5 %."""
        return self.t_p is not None and self.t_p < ALPHA


def paired_test(row: Row, other: Row, rule: Rule = "own") -> PairedTest | None:
    """Test a row against another; None where they share no seed.

    Raises
    ------
    MissingExtraError
        scipy is not installed.
    """
    differences, kind = _paired_differences(row, other, rule)
    n = len(differences)
    if not n:
        return None
    # Differences that are all the same have no scatter to test against: every test would call them certain.
    varies = max(differences) - min(differences) > 1e-12
    t_p = _t_test(differences) if varies and n >= MIN_SEEDS else None
    flips = sign_flip_p(differences) if varies and can_decide(n) else None
    return PairedTest(math.fsum(differences) / n, n, kind, t_p, flips)


def _paired_differences(row: Row, other: Row, rule: Rule) -> tuple[list[float], Literal["paired", "one-sample"]]:
    """Return the differences seed by seed.

    A row that is the same for several seeds stands for all of them. A single run does not: another seed may change it.
    """
    ours, theirs = row.by_seed(rule), other.by_seed(rule)
    constant = [len(values) > 1 and len(set(values.values())) == 1 for values in (ours, theirs)]
    if constant[0]:
        value = next(iter(ours.values()))
        return [value - theirs[seed] for seed in sorted(theirs)], "one-sample"
    if constant[1]:
        value = next(iter(theirs.values()))
        return [ours[seed] - value for seed in sorted(ours)], "one-sample"
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())], "paired"


def _t_test(differences: Sequence[float]) -> float:
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtraError(
            "cannot test over seeds: scipy is not installed; run: pip install 'deepidea[train]'"
        ) from error
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def can_decide(n_pairs: int) -> bool:
    """Return whether a sign-flip test over so many pairs can reject at 5 %.

    Examples
    --------
    >>> [can_decide(n) for n in (5, 6)]
    [False, True]
    """
    return 2.0 ** (1 - n_pairs) < ALPHA


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of a sum of paired differences when each sign is as likely as the other.

    All ``2 ** n`` signs are tried up to 20 pairs; beyond, 100,000 draws of a fixed seed.

    Examples
    --------
    >>> sign_flip_p([0.1, 0.2, 0.1, 0.3, 0.2, 0.1])
    0.03125
    """
    values, n = np.asarray(differences, np.float64), len(differences)
    observed = abs(values.sum()) - 1e-12  # equal sums differ by rounding
    if n > _MOST_EXACT:
        signs = np.random.default_rng(0).integers(0, 2, (_DRAWS, n), np.int8) * 2 - 1
        # The observed signs count as one of the draws, or a p-value of 0 could come out.
        return float((np.abs(signs @ values) >= observed).sum() + 1) / (_DRAWS + 1)
    # all 2^n sums, built up one difference at a time
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= observed).mean())


@dataclass(frozen=True, slots=True)
class PooledTest:
    """A system against another over the seeds of several data sets, each data set of equal weight.

    Attributes
    ----------
    difference : float
        Mean over data sets of the mean difference in class-balanced accuracy.
    n_data, n_pairs : int
    p : float or None
        Of the sign-flip test; None where so few pairs cannot decide.
    """

    difference: float
    n_data: int
    n_pairs: int
    p: float | None


def pooled_test(tasks: Iterable[BenchmarkTask], system: str, other: str, rule: Rule = "own") -> PooledTest | None:
    """Test a system against another over all tasks that have both; None where fewer than two do."""
    rows = [(task.row(system), task.row(other)) for task in tasks]
    found = [_paired_differences(ours, theirs, rule)[0] for ours, theirs in rows if ours and theirs]
    of_tasks = [differences for differences in found if differences]
    if len(of_tasks) < 2:
        return None
    weighted = [value / len(of) / len(of_tasks) for of in of_tasks for value in of]
    p = sign_flip_p(weighted) if can_decide(len(weighted)) and any(weighted) else None
    return PooledTest(math.fsum(weighted), len(of_tasks), len(weighted), p)
