"""What the store keeps for sources to remember, with their positions."""

from __future__ import annotations

import pytest

from deepidea.detection.sources.source import Partition
from deepidea.errors import StalePositionError
from deepidea.store.memory import MemoryChange
from tests.detection.making import alerts_of
from tests.stores import Store


def commit(store: Store, at: int, *memory: MemoryChange, **options: object) -> None:
    store.commit_batch("s", {"at": at}, alerts_of([{"at_s": at}]), n_flows=1, memory=memory, **options)


def test_entries_are_appended_or_replaced(store: Store) -> None:
    commit(store, 1, MemoryChange("hosts", b"a"), MemoryChange("meter", b"x"))
    commit(store, 2, MemoryChange("hosts", b"b", append=True), MemoryChange("meter", b"y"))
    assert store.resume("s") == ({"at": 2}, {"hosts": [b"a", b"b"], "meter": [b"y"]})
    commit(store, 3, MemoryChange("hosts", b"c"), MemoryChange("hosts", b"d", append=True))
    assert store.resume("s") == ({"at": 3}, {"hosts": [b"c", b"d"], "meter": [b"y"]})
    assert store.resume("other") == (None, {})


def test_a_refused_batch_leaves_the_memory_alone(store: Store) -> None:
    partition = Partition("s#0", 1, None)
    commit(store, 1, MemoryChange("hosts", b"a"), partition=partition)
    with pytest.raises(StalePositionError):
        commit(store, 2, MemoryChange("hosts", b"b"), partition=partition)
    assert store.resume("s#0") == ({"at": 1}, {"hosts": [b"a"]})


def test_a_source_takes_everything_along_to_its_new_name(store: Store) -> None:
    commit(store, 1, MemoryChange("hosts", b"a"), skipped={"bad": 2}, flow_minutes={60_000_000: 1})
    store.rename_source("s", "/logs/s")
    store.rename_source("unknown", "x")
    assert store.resume("/logs/s") == ({"at": 1}, {"hosts": [b"a"]})
    [counters] = store.counters()
    assert (counters.name, counters.n_flows, counters.skipped) == ("/logs/s", 1, {"bad": 2})
    assert set(store.alerts().rows["source"]) == {"/logs/s"}
    commit(store, 1)
    store.rename_source("s", "/logs/s")  # taken
    assert [counters.name for counters in store.counters()] == ["/logs/s", "s"]
