"""Ranges in words say what is true of the quantiles, on the side where the value lies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.flows.column import Column
from deepidea.model.benign_range import locate_number, locate_word
from deepidea.model.reference import LEVELS, Words

DURATION = Column("duration_s", "number", "s", description="from the first packet to the last")
PACKETS = Column("bwd_packets", "number", description="packets answered")
FLAG = Column("land", "flag", description="source and destination are the same")
SPREAD = tuple(float(10 * level) for level in range(len(LEVELS)))  # 0, 10, ..., 100 s


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (101.0, "99 % of benign flows stay under 80 s, all of them under 100 s"),
        (95.0, "99 % of benign flows stay under 80 s"),
        (75.0, "95 % of benign flows stay under 70 s"),
        (65.0, "75 % of benign flows stay under 60 s"),
        (50.0, "half of benign flows lie between 40 s and 60 s"),
        (35.0, "75 % of benign flows stay above 40 s"),
        (25.0, "95 % of benign flows stay above 30 s"),
        (5.0, "99 % of benign flows stay above 20 s"),
        (-1.0, "99 % of benign flows stay above 20 s, all of them above 0 s"),
        (None, "half of benign flows stay under 50 s"),
    ],
)
def test_the_range_is_reported_on_the_side_of_the_value(value, text):
    assert locate_number(value, SPREAD, DURATION).text == text


@pytest.mark.parametrize(
    ("value", "quantiles", "text"),
    [
        (7.0, (0,) * 10 + (9,), "99 % of benign flows have none"),
        (0.0, (2,) * 11, "99 % of benign flows have 2"),
        (3.0, (0, 0, 0, 0, 0, 0, 1, 2, 4, 5, 9), "95 % of benign flows have at most 2"),
        (0.0, (0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8), "95 % of benign flows have at least 1"),
        (0.0, (0,) * 11, "at least half of benign flows have none"),
    ],
)
def test_counts_are_whole(value, quantiles, text):
    assert locate_number(value, tuple(map(float, quantiles)), PACKETS).text == text


def test_flags_are_yes_or_no():
    rare = (0.0,) * 9 + (1.0, 1.0)
    assert locate_number(1.0, rare, FLAG).text == "yes in less than 1 % of benign flows"
    assert locate_number(0.0, rare, FLAG).text == "no in less than 99.5 % of benign flows"
    assert locate_number(0.0, (0.0,) * 11, FLAG).text == "no in nearly all benign flows"


@given(st.lists(st.floats(-1e9, 1e9), min_size=11, max_size=11), st.floats(-1e12, 1e12))
def test_beyond_is_zero_inside_and_grows_outside(values, value):
    quantiles = tuple(sorted(values))
    low, high = quantiles[LEVELS.index(0.01)], quantiles[LEVELS.index(0.99)]
    at = locate_number(value, quantiles, DURATION)
    assert (at.beyond == 0) == (low <= value <= high) or at.beyond == pytest.approx(0, abs=1e-6)
    assert locate_number(max(value, high) * 2 + 1e10, quantiles, DURATION).beyond >= at.beyond * (value > high)
    assert 1 <= at.surprise <= 8


def test_infinity_and_nothing_known_are_reported():
    assert locate_number(np.inf, SPREAD, DURATION).beyond > 10
    assert locate_number(3.0, (), DURATION).text == "no benign flow has a value"


def test_words_by_how_usual_they_are():
    words = Words(("dns", "http"), (0.9, 0.0996, 0.0004))
    assert locate_word("irc", words).text == "seen in less than 0.04 % of benign flows"
    assert locate_word(None, words).text == "missing in 0.04 % of benign flows at most"
    assert locate_word("dns", words).surprise == 1
    assert locate_word("irc", words).beyond > locate_word("http", words).beyond == 0
