"""Findings: the same however flows are cut and whenever detection is restarted; who, how urgent, in which words."""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from deepidea.detection.behaviour import findings as findings_module
from deepidea.detection.behaviour.findings import AGAIN_S, FINDING_COLUMNS, BehaviourDetector, in_words, score_of
from deepidea.detection.behaviour.registry import BEHAVIOURS
from deepidea.detection.behaviour.sites import HomeNetworks
from deepidea.flows.packed_arrays import pack_arrays, unpack_arrays
from deepidea.packets.meter import meter_capture
from tests.detection.behaviour.flow_tables import LOGIN, OUTSIDE, UNANSWERED, conn_flows, random_flows, scan
from tests.detection.behaviour.test_windows import HOSTILE_FLOWS
from tests.packets.forging import ACK, PSH, RST, SYN, icmp, pcap, tcp, udp

KEYS = 1 << 12
SOME = tuple(known for known in BEHAVIOURS if known.name in ("vertical_scan", "slow_vertical_scan", "beacon", "upload"))


def detector(**options: Any) -> BehaviourDetector:
    return BehaviourDetector(**{"max_keys": KEYS, **options})


def kept(found_by: BehaviourDetector, entries: list[bytes]) -> list[bytes]:
    """Return entries as a store would keep them after one more save."""
    saved = found_by.save()
    if saved is None:
        return entries
    data, append = saved
    return [*entries, data] if append else [data]


def eventful(seed: int, n: int) -> pl.DataFrame:
    """Return random flows with a scan of ports among them."""
    flows, scanned = random_flows(seed, n), scan(max(n // 3, 1), gap_s=7.0)
    order = np.random.default_rng(seed).permutation(n + scanned.height)
    return pl.concat([flows, scanned.select(flows.columns)])[order].sort("end", maintain_order=True)


@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 120), min_size=1, max_size=6),
    restart_after=st.sets(st.integers(0, 6)),
    max_keys=st.sampled_from([64, 256, KEYS]),
    snapshots=st.booleans(),
)
def test_cuts_and_restarts_change_no_finding(
    seed: int, cuts: list[int], restart_after: set[int], max_keys: int, snapshots: bool
) -> None:
    flows = eventful(seed, sum(cuts) + 10)
    whole = detector(max_keys=max_keys)
    expected, now, entries, at, parts = whole.find(flows), detector(max_keys=max_keys), [], 0, []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(findings_module, "_LEAST_JOURNAL_BYTES", 1 if snapshots else 1 << 20)
        for number, n in enumerate([*cuts, flows.height]):
            parts.append(now.find(flows.slice(at, n)).with_columns(pl.col("row") + np.uint32(at)))
            entries, at = kept(now, entries), min(at + n, flows.height)
            now = now.restored(entries) if number in restart_after else now
    assert_frame_equal(pl.concat(parts), expected, check_exact=True)
    assert now.evicted == whole.evicted


def test_there_are_findings_to_compare() -> None:
    assert detector().find(eventful(1, 300)).height > 5


def test_a_journal_grows_until_a_snapshot_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings_module, "_LEAST_JOURNAL_BYTES", 1)
    now, appended = detector(), []
    for first in range(0, 40_000, 400):
        now.find(conn_flows([{"at_s": n} for n in range(first, first + 400)]))
        saved = now.save()
        assert saved is not None
        appended.append(saved[1])
    assert appended[0] is False
    assert True in appended
    assert False in appended[1:]
    now.save()  # perhaps a snapshot in the place of a long journal
    assert now.save() is None


# --- state that is damaged --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def entries() -> list[bytes]:
    """A snapshot, and flows since."""
    now = detector()
    now.find(scan(50))
    snapshot = kept(now, [])
    now.find(scan(50, first=100))
    return kept(now, snapshot)


def repacked(data: bytes, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> bytes:
    about, arrays = unpack_arrays(data)
    change(about, arrays)
    return pack_arrays(about, arrays)


def _set(name: str, value: Callable[[Any], Any]) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    return lambda _, arrays: arrays.update({name: value(arrays[name])})


@pytest.mark.parametrize(
    ("which", "change"),
    [
        (0, lambda about, _: about.update(format=99)),
        (0, lambda about, _: about.update(max_keys=64)),
        (0, lambda about, _: about.update(raised=[["beacon", 1]])),
        (0, lambda about, _: about.update(raised=[["beacon", [1], 2, 3]])),
        (0, lambda about, _: about.pop("raised")),
        (0, lambda _, arrays: arrays.pop("now_us")),
        (0, lambda _, arrays: arrays.pop("keys.1")),
        (0, _set("keys.places", lambda places: places + KEYS)),
        (0, _set("keys.places", lambda places: places - KEYS)),
        (0, _set("keys.3", lambda cells: cells[:, :2])),
        (0, _set("keys.0", lambda names: names.astype(np.float64))),
        (0, _set("now", lambda now: now[:1])),
        (1, lambda about, _: about.update(kind="windows")),
        (1, lambda _, arrays: arrays.pop("src")),
        (1, lambda _, arrays: arrays.update(more=np.zeros(50))),
        (1, _set("dst_ports", lambda ports: ports[:1])),
        (1, _set("failed", lambda failed: failed.astype(np.int64))),
        (1, _set("fwd_bytes", lambda sizes: sizes[:, None])),
    ],
)
def test_damaged_state_is_refused(
    entries: list[bytes], which: int, change: Callable[[dict[str, Any], dict[str, Any]], object]
) -> None:
    broken = [repacked(data, change) if at == which else data for at, data in enumerate(entries)]
    with pytest.raises(ValueError, match=r"behaviour windows|does not fit|do not fit|unpack"):
        detector().restored(broken)


@pytest.mark.parametrize("data", [b"", b"\0", b"x" * 100])
def test_what_is_no_state_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        detector().restored([data])


@given(at=st.integers(0, 10**6), bits=st.integers(1, 255))
def test_flipped_bits_are_refused_where_they_mean_anything(entries: list[bytes], at: int, bits: int) -> None:
    data = bytearray(entries[0])
    data[at % len(data)] ^= bits
    try:
        detector().restored([bytes(data)])
    except ValueError:
        return
    assert zlib.decompress(data) == zlib.decompress(entries[0])


def test_state_without_its_snapshot_is_refused(entries: list[bytes]) -> None:
    with pytest.raises(ValueError, match="another release or size"):
        detector().restored(entries[1:])


# --- when a finding is raised -----------------------------------------------------------------------------------------


def test_a_growing_scan_is_raised_a_few_dozen_times_and_the_last_knows_its_size() -> None:
    found = detector().find(scan(20_000, gap_s=0.001)).filter(behaviour="vertical_scan")
    ports = [json.loads(finding)["counts"]["ports"] for finding in found["finding"]]
    assert len(ports) < 60
    assert 20_000 / 1.25 <= ports[-1] <= 20_000
    assert all(later >= 1.25 * earlier for earlier, later in itertools.pairwise(ports))


def test_what_goes_on_is_raised_again_after_some_minutes() -> None:
    flows = conn_flows([{"at_s": 20.0 * n, "dst_port": 1 + n % 8} for n in range(200)])
    found = detector().find(flows).filter(behaviour="vertical_scan")
    times = flows["end"].gather(found["row"]).dt.timestamp("ms").diff().drop_nulls() / 1000
    assert (times >= AGAIN_S).sum() >= 8
    assert times.max() <= 1.1 * AGAIN_S


def test_what_is_remembered_as_raised_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings_module, "MAX_RAISED", 16)
    now = detector()
    for host in range(100):
        now.find(scan(8, src_ip=f"10.3.0.{host}"))
    assert len(now._raised) == 16


# --- who, how urgent, in which words ----------------------------------------------------------------------------------


def one(flows: pl.DataFrame, name: str, home: HomeNetworks | None = None, *, at: int = -1) -> dict[str, Any]:
    """Return a finding of a behaviour, the last, with its evidence."""
    row = detector(home=home).find(flows).filter(behaviour=name).row(at, named=True)
    return row | json.loads(row["finding"])


@pytest.mark.parametrize(
    ("src", "dst", "home", "role", "direction", "background"),
    [
        ("10.0.0.5", "10.0.0.9", None, "source", "inside", False),
        ("10.0.0.5", OUTSIDE, None, "source", "inside to outside", False),
        (OUTSIDE, "10.0.0.9", None, "target", "outside to inside", True),
        ("2001:db8::7", "fd00::9", None, "target", "outside to inside", True),
        ("fd00::5", "fd00::9", None, "source", "inside", False),
        ("::ffff:203.0.113.9", "::ffff:10.0.0.9", None, "target", "outside to inside", True),
        ("10.0.0.5", "10.0.0.9", ("10.0.0.9/32",), "target", "outside to inside", True),
        (OUTSIDE, "198.51.100.1", ("203.0.113.0/24",), "source", "inside to outside", False),
    ],
)
def test_a_scan_from_outside_is_background_and_belongs_to_its_target(
    src: str, dst: str, home: tuple[str, ...] | None, role: str, direction: str, background: bool
) -> None:
    flows = scan(80, src_ip=src, dst_ip=dst)
    found = one(flows, "vertical_scan", None if home is None else HomeNetworks(home))
    assert (found["role"], found["direction"]) == (role, direction)
    assert (found["severity"] == 4) == background


def test_guessing_from_outside_is_background_and_from_inside_is_not() -> None:
    def logins(src: str) -> dict[str, Any]:
        rows = [{"at_s": 2.0 * n, "src_port": 40_000 + n} for n in range(20)]
        return one(conn_flows(rows, **LOGIN, src_ip=src), "password_guessing")

    outside, inside = logins(OUTSIDE), logins("10.0.0.5")
    assert (outside["role"], outside["severity"]) == ("target", 4)
    assert inside["severity"] < 4


def test_a_flood_is_urgent_wherever_it_comes_from() -> None:
    flows = conn_flows([{"at_s": 0.01 * n, "src_port": 40_000 + n} for n in range(400)], dst_port=80)
    assert one(flows, "connection_flood")["severity"] < 4
    assert one(flows.with_columns(src_ip=pl.lit(OUTSIDE)), "connection_flood")["severity"] < 4


def test_a_scan_of_a_group_is_none() -> None:
    assert detector().find(scan(40, dst_ip="224.0.0.251", protocol="udp", **UNANSWERED)).is_empty()


def test_the_evidence_is_in_words_and_numbers() -> None:
    found = one(scan(8), "vertical_scan", at=0)
    assert found["sentence"] == "6 ports of one host, 100 % of the attempts failed (10 min)"
    assert (found["window_s"], found["key"], found["technique"]) == (600, "pair", "T1046")
    assert found["counts"] == {"ports": 6, "failed_share": 1}
    assert (found["margin"], found["score"]) == (1.0, 0.75)
    assert found["thresholds"] == dict(next(known for known in BEHAVIOURS if known.name == "vertical_scan").least)


@given(margin=st.floats(0, 1e12))
def test_scores_grow_with_the_margin(margin: float) -> None:
    assert 0.75 <= score_of(margin) <= score_of(2 * margin) <= 1


@given(value=st.floats(allow_nan=False, allow_infinity=False, min_value=0))
def test_every_count_can_be_written(value: float) -> None:
    assert all(in_words(name, value) for name in ("ports", "failed_share", "bytes_out"))


# --- flows in another form --------------------------------------------------------------------------------------------


def _tcp_attempt(at: float, port: int, dst: str = "10.0.0.9") -> Iterator[tuple[float, bytes]]:
    yield at, tcp("10.0.0.5", 40_000 + port, dst, port, SYN)
    yield at + 0.001, tcp(dst, port, "10.0.0.5", 40_000 + port, RST | ACK)


def _login(at: float, n: int) -> Iterator[tuple[float, bytes]]:
    there, back = ("10.0.0.5", 50_000 + n, "10.0.0.8", 22), ("10.0.0.8", 22, "10.0.0.5", 50_000 + n)
    frames = [tcp(*there, SYN), tcp(*back, SYN | ACK), tcp(*there, ACK), tcp(*there, PSH | ACK, b"p" * 90)]
    frames += [tcp(*back, PSH | ACK, b"no" * 40), tcp(*there, RST | ACK)]
    yield from ((at + 0.01 * k, frame) for k, frame in enumerate(frames))


def _busy_network() -> list[tuple[float, bytes]]:
    packets = [frame for n in range(30) for frame in _tcp_attempt(1_000.0 + n, 100 + n)]
    packets += [frame for n in range(40) for frame in _login(1_100.0 + 1.5 * n, n)]
    packets += [(1_200.0 + n, icmp("10.0.0.5", f"10.4.0.{n}", 8, 0)) for n in range(30)]
    packets += [(1_300.0 + n, udp("10.0.0.6", 6_000 + n, OUTSIDE, 53, b"t" * 150)) for n in range(60)]
    packets += [(1_400.0 + 0.0001 * n, udp("10.0.0.7", 7, "10.0.0.9", 9, b"f")) for n in range(12_000)]
    return sorted(packets, key=lambda packet: packet[0])


def as_zeek(metered: pl.DataFrame) -> pl.DataFrame:
    """Return metered flows as conn.log has them: seconds, IP's bytes, ICMP's type in the place of a port."""
    is_icmp = pl.col("protocol") == "1"
    return metered.select(
        "start", "end", "src_ip", "dst_ip", "fwd_packets", "bwd_packets",
        src_port=pl.when(is_icmp).then(pl.col("icmp_type").cast(pl.Int32)).otherwise("src_port"),
        dst_port=pl.when(is_icmp).then(0).otherwise("dst_port"),
        protocol=pl.col("protocol").replace({"1": "icmp", "6": "tcp", "17": "udp"}),
        duration_s=pl.col("duration_us") / 1e6,
        fwd_bytes=pl.col("fwd_message_bytes") + 20 * pl.col("fwd_packets"),
        bwd_bytes=pl.col("bwd_message_bytes") + 20 * pl.col("bwd_packets"),
    )  # fmt: skip


def test_packets_and_logs_of_the_same_traffic_give_the_same_findings(tmp_path: Path) -> None:
    path = tmp_path / "busy.pcap"
    path.write_bytes(pcap(_busy_network()))
    metered = pl.concat(meter_capture(path))
    of_packets, of_log = detector().find(metered), detector().find(as_zeek(metered))
    assert {"vertical_scan", "password_guessing", "icmp_sweep", "dns_tunnel", "packet_flood"} <= set(
        of_packets["behaviour"]
    )
    assert_frame_equal(of_packets, of_log, check_exact=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda flows: flows.with_columns(protocol=pl.lit("6")),
        lambda flows: flows.with_columns(protocol=pl.lit("6.0")),
        lambda flows: flows.with_columns(protocol=pl.lit(6)),
        lambda flows: flows.with_columns(protocol=pl.lit("TCP")),
        lambda flows: flows.with_columns(pl.col("src_port", "dst_port").cast(pl.String)),
        lambda flows: flows.with_columns(pl.col("^.*_(packets|bytes)$").cast(pl.String)),
        lambda flows: flows.with_columns(pl.col("start", "end").dt.replace_time_zone(None)),
        lambda flows: flows.with_columns(pl.col("start", "end").dt.cast_time_unit("ns")),
        lambda flows: flows.drop("end"),
        lambda flows: flows.with_columns(pl.col("src_ip", "dst_ip").cast(pl.Categorical)),
        lambda flows: flows.with_columns(more=pl.lit("unknown")),
    ],
)
def test_other_types_and_spellings_give_the_same_findings(change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    flows = scan(60)
    assert_frame_equal(detector().find(change(flows)), detector().find(flows), check_exact=True)


@given(flows=HOSTILE_FLOWS)
def test_whatever_flows_hold_findings_are_whole(flows: pl.DataFrame) -> None:
    now = detector(max_keys=64)
    found = pl.concat([now.find(flows) for _ in range(3)])
    assert found.schema == pl.Schema(FINDING_COLUMNS)
    for row in found.iter_rows(named=True):
        evidence = json.loads(row["finding"], parse_constant=_refuse)
        assert math.isfinite(evidence["margin"])
        assert 0.75 <= row["score"] <= 1


def _refuse(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def test_no_flows_give_no_findings() -> None:
    assert detector().find(scan(3).clear()).is_empty()


def test_fewer_behaviours_are_looked_for_where_so_told() -> None:
    assert set(detector(behaviours=SOME).find(scan(500))["behaviour"]) == {"vertical_scan", "slow_vertical_scan"}
