"""Windows of behaviours: the same numbers however flows are cut, and the numbers of a plain count."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from deepidea.detection.behaviour.sites import GROUP, INSIDE, OUTSIDE, UNKNOWN, HomeNetworks
from deepidea.detection.behaviour.windows import WINDOW_COLUMNS, WINDOWS, BehaviourWindows, identified
from deepidea.errors import DataError
from tests.detection.behaviour.flow_tables import REFUSED, UNANSWERED, conn_flows, random_flows, scan

ROOMY = 1 << 13


@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 200), min_size=1, max_size=6),
    max_keys=st.sampled_from([64, 1024, ROOMY]),
)
def test_windows_do_not_depend_on_how_flows_are_cut(seed: int, cuts: list[int], max_keys: int) -> None:
    flows = random_flows(seed, sum(cuts) + 1)
    whole, parted = BehaviourWindows(max_keys=max_keys), BehaviourWindows(max_keys=max_keys)
    bounds = [0, *np.cumsum(cuts).tolist(), flows.height]
    parts = [parted.add(flows[first:last]) for first, last in itertools.pairwise(bounds)]
    assert_frame_equal(pl.concat(parts), whole.add(flows), check_exact=True)
    assert parted.evicted == whole.evicted


def counted(flows: pl.DataFrame, key: list[str], value: str, half_s: int) -> list[int]:
    """Return how many values of failed flows each flow's key has in the two latest buckets, counted plainly."""
    clocks, seen, numbers = [], {}, []
    for row in flows.iter_rows(named=True):
        clocks.append(max(int(row["end"].timestamp() * 1e6), *clocks[-1:], 0))
        bucket = clocks[-1] // (half_s * 1_000_000)
        mine = seen.setdefault(tuple(row[name] for name in key), {})
        if row["bwd_packets"] == 0:
            mine.setdefault(bucket, set()).add(row[value])
        numbers.append(len(mine.get(bucket, set()) | mine.get(bucket - 1, set())))
    return numbers


_STEPS = st.sampled_from([0.0, 0.2, 3.0, 12.0, 40.0, 400.0, -3.0, 2_500.0])
_ATTEMPTS = st.tuples(_STEPS, st.integers(1, 3), st.integers(1, 3), st.integers(20, 24), st.booleans())


@pytest.mark.parametrize(
    ("column", "key", "value"),
    [
        ("pair_failing_ports", ["src_ip", "dst_ip"], "dst_port"),
        ("source_port_failing_hosts", ["src_ip", "dst_port"], "dst_ip"),
        ("source_failing_hosts", ["src_ip"], "dst_ip"),
    ],
)
@given(attempts=st.lists(_ATTEMPTS, min_size=1, max_size=60))
def test_failing_ports_and_hosts_are_those_of_a_plain_count(
    column: str, key: list[str], value: str, attempts: list[tuple[float, int, int, int, bool]]
) -> None:
    times = np.cumsum([step for step, *_ in attempts])
    flows = conn_flows(
        [
            {"at_s": at, "src_ip": f"10.0.0.{src}", "dst_ip": f"10.0.1.{dst}", "dst_port": port}
            | (UNANSWERED if failed else {"bwd_packets": 3, "bwd_bytes": 900})
            for at, (_, src, dst, port, failed) in zip(times.tolist(), attempts, strict=True)
        ]
    )
    found = BehaviourWindows(max_keys=ROOMY).add(flows)
    for name, seconds in WINDOWS.items():
        assert found[f"{column}_{name}"].to_list() == counted(flows, key, value, seconds // 2), name


@pytest.mark.parametrize("max_keys", [64, 256, 1024])
def test_memory_is_bounded_and_what_is_forgotten_is_counted(max_keys: int) -> None:
    windows = BehaviourWindows(max_keys=max_keys)
    sizes = {name: array.nbytes for name, array in windows.save().items()}
    assert max(sizes.values()) < 1000
    for first in range(0, 20_000, 5_000):
        windows.add(conn_flows([{"at_s": n / 100, "src_ip": f"10.1.{n >> 8 & 255}.{n & 255}", "src_port": n % 60_000}
                                for n in range(first, first + 5_000)]))  # fmt: skip
    saved = windows.save()
    assert len(saved["keys.places"]) <= max_keys
    assert len(saved["members.places"]) <= 4 * max_keys
    assert windows.evicted > 20_000 - max_keys


def test_a_key_that_was_idle_for_an_hour_begins_anew_and_is_not_counted_as_forgotten() -> None:
    windows = BehaviourWindows(max_keys=64)
    for hour in range(50):
        windows.add(conn_flows([{"at_s": 7_300.0 * hour, "src_ip": f"10.0.{hour}.1", "dst_ip": f"10.1.{hour}.1"}]))
    assert windows.evicted == 0


@pytest.mark.parametrize("max_keys", [0, 32, 100, 1000, -64])
def test_the_number_of_keys_is_a_power_of_two(max_keys: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        BehaviourWindows(max_keys=max_keys)


def test_a_flow_without_an_address_has_no_windows_and_counts_nowhere() -> None:
    flows = scan(4)
    holes = flows.with_columns(src_ip=pl.Series([None, *flows["src_ip"][1:]]))
    found = BehaviourWindows(max_keys=ROOMY).add(holes)
    assert found.select(WINDOW_COLUMNS)[0].null_count().row(0) == (1,) * len(WINDOW_COLUMNS)
    assert found["pair_failing_ports_10s"].to_list() == [None, 1, 2, 3]


def test_a_source_port_that_is_absent_does_no_harm() -> None:
    assert BehaviourWindows(max_keys=ROOMY).add(scan(3).drop("src_port"))["pair_failing_ports_1h"].to_list() == [
        1,
        2,
        3,
    ]


# --- clocks that are wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", [1, 1970, 9999])
def test_one_wrong_time_spoils_no_more_than_a_hundred_flows(year: int) -> None:
    wrong = scan(1).with_columns(start=datetime(year, 1, 1, tzinfo=UTC), end=datetime(year, 1, 1, tzinfo=UTC))
    flows = conn_flows([{"at_s": 60.0 * n, "dst_port": 1 + n} for n in range(200)])
    found = BehaviourWindows(max_keys=ROOMY).add(pl.concat([wrong.select(flows.columns), flows]))
    truth = BehaviourWindows(max_keys=ROOMY).add(flows)
    times = flows["end"].dt.timestamp("us")
    assert found["clock_us"][101:].to_list() == times[100:].to_list()
    late = slice(170, 200)  # an hour after the clock is right again
    assert_frame_equal(found[1:].select(WINDOW_COLUMNS)[late], truth.select(WINDOW_COLUMNS)[late], check_exact=True)


def test_an_older_file_after_a_newer_one_has_windows_of_its_own() -> None:
    windows, older = (
        BehaviourWindows(max_keys=ROOMY),
        conn_flows([{"at_s": 10.0 * n, "dst_port": n} for n in range(900)]),
    )
    windows.add(conn_flows([{"at_s": 90_000.0 + n, "dst_port": 2_000 + n} for n in range(50)]))
    found = windows.add(older)
    truth = BehaviourWindows(max_keys=ROOMY).add(older)
    assert found["pair_failing_ports_10min"][-300:].to_list() == truth["pair_failing_ports_10min"][-300:].to_list()


def test_a_time_that_is_not_known_moves_no_clock() -> None:
    flows = scan(150).with_columns(end=pl.lit(None, pl.Datetime("us", "UTC")))
    windows = BehaviourWindows(max_keys=ROOMY)
    before = windows.add(scan(1))["clock_us"][0]
    assert windows.add(flows)["clock_us"].unique().to_list() == [before]


# --- which flows have what windows need -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda flows: flows, True),
        (lambda flows: flows.rename({"duration_s": "duration_us", "start": "timestamp"}), True),
        (lambda flows: flows.drop("src_ip"), False),
        (lambda flows: flows.drop("start"), False),
        (lambda flows: flows.drop("bwd_bytes"), False),
        (lambda flows: flows.with_columns(src_ip=pl.lit(None, pl.String)), False),
        (lambda flows: flows.with_columns(dst_ip=pl.lit(None, pl.String)), False),
        (lambda flows: flows.with_columns(dst_ip=pl.lit("host.example")), False),
        (lambda flows: flows.with_columns(start=pl.lit(None, pl.Datetime("us"))), True),  # they have an end
        (lambda flows: flows.with_columns(end=pl.lit(None, pl.Datetime("us"))), True),
        (
            lambda flows: flows.with_columns(pl.lit(None, pl.Datetime("us")).alias(name) for name in ("start", "end")),
            False,
        ),
        (lambda flows: flows.with_columns(end=pl.lit("2026-05-04 12:00")), False),
        (lambda flows: flows.with_columns(start=pl.lit("2026-05-04 12:00")), False),
        (lambda flows: flows.clear(), False),
    ],
)
def test_flows_need_addresses_times_and_counts(change: Callable[[pl.DataFrame], pl.DataFrame], expected: bool) -> None:
    flows = change(scan(3))
    assert identified(flows).to_list() == [expected] * flows.height


# --- sides of a site --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "side"),
    [
        ("10.255.255.255", INSIDE), ("172.16.0.1", INSIDE), ("172.32.0.1", OUTSIDE), ("192.168.3.4", INSIDE),
        ("169.254.1.1", INSIDE), ("127.0.0.1", INSIDE), ("100.64.0.1", INSIDE), ("100.128.0.1", OUTSIDE),
        ("203.0.113.9", OUTSIDE), ("8.8.8.8", OUTSIDE), ("fd00::1", INSIDE), ("fe80::1", INSIDE),
        ("fe80::1%eth0", INSIDE),
        ("::1", INSIDE), ("2001:db8::1", OUTSIDE), ("::ffff:10.0.0.1", INSIDE), ("::ffff:8.8.8.8", OUTSIDE),
        ("224.0.0.251", GROUP), ("239.255.255.250", GROUP), ("ff02::fb", GROUP), ("255.255.255.255", GROUP),
        ("::ffff:224.0.0.1", GROUP), ("10.0.0", UNKNOWN), ("", UNKNOWN), ("host.example", UNKNOWN), (None, UNKNOWN),
    ],
)  # fmt: skip
def test_private_networks_are_inside(address: str | None, side: int) -> None:
    assert HomeNetworks().sides(pl.Series([address], dtype=pl.String)).to_list() == [side]


def test_named_networks_take_the_place_of_private_ones() -> None:
    home = HomeNetworks(("198.51.100.0/24", "2001:db8::/32"))
    addresses = pl.Series(["198.51.100.7", "::ffff:198.51.100.7", "2001:db8:1::5", "10.0.0.1"])
    assert home.sides(addresses).to_list() == [INSIDE, INSIDE, INSIDE, OUTSIDE]


@pytest.mark.parametrize("cidr", ["10.0.0.0/33", "home", "", "10.0.0.0/8/8", "2001:db8::/129"])
def test_what_is_no_network_is_refused(cidr: str) -> None:
    with pytest.raises(DataError, match=r"is not a network.*192\.0\.2\.0/24"):
        HomeNetworks((cidr,))


def public(n: int, **same: object) -> pl.DataFrame:
    """Return flows of one public host with many others."""
    return conn_flows(
        [{"at_s": n, "dst_ip": f"198.51.{n % 7}.{n % 250}"} for n in range(n)], src_ip="192.0.2.7", **same
    )


def test_a_public_address_that_takes_part_in_most_flows_is_inside() -> None:
    found = BehaviourWindows(max_keys=ROOMY).add(public(400))
    assert found["src_side"][-1] == INSIDE
    assert found["dst_side"].unique().to_list() == [OUTSIDE]


def test_named_networks_end_the_search_for_the_sites_own() -> None:
    windows = BehaviourWindows(HomeNetworks(("10.0.0.0/8",)), max_keys=ROOMY)
    assert windows.add(public(400))["src_side"].unique().to_list() == [OUTSIDE]


# --- input that no sensor should give ---------------------------------------------------------------------------------

_WHEN = st.sampled_from([None, *(datetime(year, 5, 4, tzinfo=UTC) for year in (1, 1969, 2026, 9999))])
_NUMBER = st.sampled_from([None, 0.0, -1.0, 1.0, 1e30, float("nan"), float("inf"), -float("inf")])
_PORT = st.sampled_from([None, 0, 65_535, -1, 70_000, -(2**31), 2**31 - 1])
_PROTOCOL = st.sampled_from([None, "", "tcp", "TCP", "6.0", "999", "-1", "é\x00", "icmp", "udp"])
_ADDRESS = st.sampled_from([None, "", "10.0.0.1", "999.1.1.1", "fe80::1%x", "224.0.0.1", "x" * 400, "203.0.113.1"])
_HOSTILE = st.fixed_dictionaries(
    {"start": _WHEN, "end": _WHEN, "duration_s": _NUMBER, "protocol": _PROTOCOL}
    | dict.fromkeys(("src_ip", "dst_ip"), _ADDRESS)
    | dict.fromkeys(("src_port", "dst_port"), _PORT)
    | dict.fromkeys(("fwd_packets", "bwd_packets", "fwd_bytes", "bwd_bytes"), _NUMBER)
)
_TYPES = {
    **dict.fromkeys(("start", "end"), pl.Datetime("us", "UTC")),
    **dict.fromkeys(("src_ip", "dst_ip", "protocol"), pl.String),
    **dict.fromkeys(("src_port", "dst_port"), pl.Int64),
}  # fmt: skip


def hostile(rows: list[dict[str, object]]) -> pl.DataFrame:
    """Return such flows as a table."""
    return pl.DataFrame(rows, schema={name: _TYPES.get(name, pl.Float64) for name in ("start", "end", *REFUSED)
                                      if name != "at_s"})  # fmt: skip


HOSTILE_FLOWS = st.lists(_HOSTILE, min_size=1, max_size=30).map(hostile)


@given(flows=HOSTILE_FLOWS, ends=st.booleans())
def test_whatever_flows_hold_every_window_is_a_number_or_null(flows: pl.DataFrame, ends: bool) -> None:
    windows = BehaviourWindows(max_keys=64)
    found = windows.add(flows if ends else flows.drop("end")).select(WINDOW_COLUMNS)
    assert found.height == flows.height
    assert found.select(pl.all().drop_nulls().is_finite().all()).row(0) == (True,) * len(WINDOW_COLUMNS)
    after = windows.add(scan(3).with_columns(src_ip=pl.lit("10.9.9.9")))  # and what follows is counted
    assert after["pair_failing_ports_1h"].to_list() == [1, 2, 3]


def test_times_far_apart_do_not_hang() -> None:
    times = [datetime(2026, 5, 4, tzinfo=UTC) + timedelta(days=365 * n * (-1) ** n) for n in range(300)]
    flows = scan(300).with_columns(start=pl.Series(times), end=pl.Series(times))
    assert BehaviourWindows(max_keys=64).add(flows).height == 300


@pytest.mark.parametrize(("protocol", "src_port", "failing"), [("udp", 1900, 0), ("udp", 50_000, 9), ("tcp", 1900, 9)])
def test_lone_answers_of_discovery_are_no_attempts(protocol: str, src_port: int, failing: int) -> None:
    flows = conn_flows([{"at_s": n, "dst_port": 40_000 + n} for n in range(9)], src_port=src_port, protocol=protocol,
                       fwd_packets=1, bwd_packets=0, bwd_bytes=0, state=None)  # fmt: skip
    assert BehaviourWindows(max_keys=ROOMY).add(flows)["pair_failing_ports_1h"].max() == failing
