"""Every feature has a title, and every value reads as people write it."""

import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deepidea.flows.column import Column
from deepidea.flows.labels import (
    TITLES,
    is_count,
    kind_of,
    percent_text,
    phrase_of,
    title_of,
    topic_of,
    unit_of,
    value_text,
)
from deepidea.flows.schema import SCHEMAS, get_schema

FEATURES = [c for name in SCHEMAS for c in get_schema(name).with_port().columns if c.kind != "identity"]


@pytest.mark.parametrize("name", [name for name in SCHEMAS if name != "custom"])
def test_every_feature_has_a_title_of_its_own(name):
    schema = get_schema(name).with_port()
    titles = [TITLES[feature] for feature in schema.features]
    assert len(set(titles)) == len(titles)
    assert all(title[0].isupper() and "_" not in title and len(title) <= 55 for title in titles)


@given(st.sampled_from(FEATURES), st.floats(allow_nan=True) | st.none())
@example(next(column for column in FEATURES if not column.unit), 999.5)
def test_any_value_has_a_text_that_fits_a_cell(column, value):
    text = value_text(value, column)
    assert text
    assert len(text) < 40 or abs(value or 0) > 1e15
    assert not re.search(r"e[+-]\d", text) or abs(value) < 1e-3 or abs(value) > 1e12
    assert phrase_of(value, column)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (119e6, "us", "119 s"),
        (119.0, "s", "119 s"),
        (0.012, "s", "12 ms"),
        (3.4, "us", "3.4 µs"),
        (0, "us", "0 s"),
        (999_999.9, "us", "1 s"),
        (2520, "s", "42 min"),
        (18_720, "s", "5.2 h"),
        (268_000, "s", "3.1 days"),
        (512, "B", "512 B"),
        (1_234_567, "B", "1.23 MB"),
        (999_999, "B", "1 MB"),
        (2500, "B/s", "2.5 kB/s"),
        (15_625, "1/s", "15,625/s"),
        (0.5, "share", "50 %"),
        (1_234_567, "", "1,234,567"),
        (0.3333, "", "0.333"),
        (-4.0, "s", "-4 s"),
        (math.inf, "B/s", "infinite"),
        (math.nan, "B", "missing"),
    ],
)
def test_numbers_in_human_units(value, unit, text):
    assert value_text(float(value), Column("x", "number", unit, description="something")) == text


@pytest.mark.parametrize(
    ("name", "schema", "value", "phrase"),
    [
        ("bwd_packets", "cicflow", 0.0, "no reply packets"),
        ("fwd_packets", "cicflow", 1.0, "1 forward packet"),
        ("syn_flag_count", "cicflow", 1.0, "1 packet with SYN"),
        ("duration_us", "cicflow", 119e6, "flow duration 119 s"),
        ("fwd_init_window_bytes", "cicflow", -1.0, "first forward TCP window none"),
        ("src_dst_ports_2s", "conn+context", 230.0, "230 ports contacted by the source in 2 s"),
        ("dst_failed_share_60s", "conn+context", 0.98, "98 % failed flows of the destination in 60 s"),
        ("state", "conn", "S0", "connection state S0 (attempt without answer)"),
        ("protocol", "cicflow", "6", "protocol 6 (tcp)"),
        ("land", "kdd99", 0.0, "same source and destination: no"),
        ("land", "kdd99", 1.0, "same source and destination"),
        ("num_failed_logins", "kdd99", 1.0, "1 failed login"),
        ("num_root", "kdd99", 1.0, "1 access as root"),
        ("src_bytes", "kdd99", 0.0, "no bytes from source"),
    ],
)
def test_phrases_stand_in_a_sentence(name, schema, value, phrase):
    assert phrase_of(value, get_schema(schema)[name]) == phrase


def test_columns_of_ones_own_are_spelt_out():
    assert title_of(Column("fwd_iat_max_us", "number")) == "Forward gap max"
    assert value_text(2e6, Column("fwd_iat_max_us", "number")) == "2 s"
    assert unit_of(Column("load_per_s", "number")) == "1/s"
    assert title_of(Column("count", "number")) == "Count"  # KDD's means something else
    assert is_count(Column("bwd_packets", "number"))
    assert topic_of(Column("fwd_packets", "number")) != topic_of(Column("bwd_packets", "number"))


@pytest.mark.parametrize("name", [name for name in SCHEMAS if name != "custom"])
def test_kinds_are_few(name):
    schema = get_schema(name).with_port()
    assert 4 <= len({kind_of(schema[feature]) for feature in schema.features}) <= 8


@given(st.floats(0, 1))
def test_percent_is_100_only_of_all(share):
    assert (percent_text(share) == "0 %") == (share == 0)
    assert percent_text(share) != "100 %" or share > 0.99994
