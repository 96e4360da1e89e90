"""Findings as records: whatever their JSON is, a page of alerts is never lost to one of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.store.findings import finding_of
from tests.detection.making import OF_FINDING


def test_a_finding_is_read_as_it_was_written() -> None:
    found = finding_of(json.dumps(OF_FINDING), "port_scan_vertical")
    assert found is not None
    assert {name: getattr(found, name) for name in OF_FINDING} == OF_FINDING
    assert found.title == "Port scan vertical"


def test_an_alert_of_a_flow_has_no_finding() -> None:
    assert finding_of(json.dumps(OF_FINDING), None) is None


NAMES = [*OF_FINDING, "title"]
ANY: Any = st.one_of(st.none(), st.booleans(), st.floats(), st.text(), st.lists(st.integers()),
                     st.dictionaries(st.text(), st.one_of(st.none(), st.floats(), st.text())))  # fmt: skip


@given(st.one_of(st.text(), ANY.map(json.dumps), st.dictionaries(st.sampled_from(NAMES), ANY).map(json.dumps)))
def test_any_text_is_a_finding_of_finite_numbers(text: str) -> None:
    found = finding_of(text, "beacon")
    assert found is not None
    json.dumps([found.window_s, found.counts, found.thresholds, found.margin], allow_nan=False)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "3"])
def test_an_unreadable_finding_is_empty(text: str | None) -> None:
    found = finding_of(text, "beacon")
    assert found is not None
    assert (found.title, found.counts, found.margin) == ("Beacon", {}, None)
