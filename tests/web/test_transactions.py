"""Each page, and each GET of the API, is one read transaction."""

from __future__ import annotations

import pytest
from benchmarks.page_queries import CALLS, PAGES, Reads, reading

from tests.stores import Store


@pytest.fixture
def reads(filled: Store) -> Reads:
    return reading(filled)


def test_what_a_get_shows_is_of_one_moment(reads: Reads) -> None:
    for path in (*PAGES, *CALLS):
        of = reads.of(path)
        assert (path, of.transactions) == (path, ["read"])


def test_an_incident_takes_ten_queries(reads: Reads) -> None:
    assert len(reads.of("/incidents/INCIDENT").statements) <= 10
