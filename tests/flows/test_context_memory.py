"""Host context that is saved and restored goes on as if nothing had happened."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.flows.context import CONTEXT_COLUMNS, HostContext
from deepidea.flows.packed_arrays import pack_arrays, unpack_arrays

NAMES = [column.name for column in CONTEXT_COLUMNS]


def flows(seed: int, n: int, *, n_hosts: int = 12) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.choice([0, 1_000, 500_000, -200_000, 30_000_000], n, p=[0.3, 0.4, 0.2, 0.05, 0.05]))
    hosts = [f"10.0.0.{i}" for i in range(n_hosts)]
    return pl.DataFrame(
        {
            "end": pl.Series(ends + 10**15).cast(pl.Datetime("us", "UTC")),
            "src_ip": pl.Series(rng.choice(hosts, n)),
            "dst_ip": pl.Series([None if i == len(hosts) else hosts[i] for i in rng.integers(0, len(hosts) + 1, n)]),
            "dst_port": pl.Series(rng.integers(1, 400, n)),
            "protocol": "tcp",
            "bwd_packets": pl.Series(rng.integers(0, 3, n)),
            "bwd_bytes": 40,
        }
    )


def kept(context: HostContext, entries: list[bytes]) -> list[bytes]:
    """Entries as a store would keep them after one more save."""
    saved = context.save()
    if saved is None:
        return entries
    data, append = saved
    return [*entries, data] if append else [data]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(1, 400), min_size=1, max_size=8),
    max_hosts=st.sampled_from([5, 64]),
    restart_after=st.sets(st.integers(0, 7)),
)
def test_restored_context_gives_the_same_numbers(
    seed: int, cuts: list[int], max_hosts: int, restart_after: set[int]
) -> None:
    table = flows(seed, sum(cuts))
    whole = HostContext(max_hosts=max_hosts).add(table).select(NAMES)
    context, entries, at, parts = HostContext(max_hosts=max_hosts), [], 0, []
    for number, n in enumerate(cuts):
        parts.append(context.add(table.slice(at, n)).select(NAMES))
        entries, at = kept(context, entries), at + n
        if number in restart_after:
            context = HostContext.restore(entries, max_hosts=max_hosts)
    assert pl.concat(parts).equals(whole)
    assert context.n_hosts[0] <= max_hosts


def test_saved_flows_are_compacted_into_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepidea.flows.context._LEAST_JOURNAL_BYTES", 2_000)
    context, entries, sizes = HostContext(), [], []
    for seed in range(60):
        context.add(flows(seed, 50))
        entries = kept(context, entries)
        sizes.append(len(entries))
    assert max(sizes) < 40
    assert sizes.count(1) > 1
    assert context.save() is None


@pytest.mark.parametrize("change", ["cut", "other platform", "other size", "order"])
def test_damaged_memory_is_refused(change: str) -> None:
    context = HostContext(max_hosts=64)
    context.add(flows(1, 100))
    [data] = kept(context, [])
    about, arrays = unpack_arrays(data)
    if change == "order":
        arrays["src_before"][0] = 1_000_000
    data = {
        "cut": data[:-50],
        "other platform": pack_arrays({**about, "probe": 7}, arrays),
        "other size": data,
        "order": pack_arrays(about, arrays),
    }[change]
    with pytest.raises(ValueError, match=r"damaged|another release"):
        HostContext.restore([data], max_hosts=32 if change == "other size" else 64)
