"""Every behaviour is found in flows that were made for it, and not below its threshold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from deepidea.detection.behaviour.findings import BehaviourDetector
from deepidea.detection.behaviour.registry import BEHAVIOURS, Behaviour, read_thresholds, with_thresholds
from deepidea.detection.behaviour.windows import WINDOW_COLUMNS
from deepidea.errors import DataError
from deepidea.flows.attack_classes import ATTACK_CLASSES
from tests.detection.behaviour.flow_tables import LOGIN, OUTSIDE, UNANSWERED, conn_flows

BY_NAME = {one.name: one for one in BEHAVIOURS}
FOLLOWING = ("after_guessing_s", "after_scan_s", "flow_lasted_s", "flow_bytes_back", "flow_bytes_out")  # test_following
_RING = 1  # sockets of a service before its flows are compared with each other


@dataclass(frozen=True)
class Made:
    """How the n-th flow of a behaviour is made, and how many count towards its threshold."""

    row: Callable[[int], dict[str, Any]]
    same: dict[str, Any] = field(default_factory=dict)
    per_flow: float = 1.0
    ignored: int = 0

    def least(self, behaviour: Behaviour) -> int:
        """Return how many flows reach the first threshold."""
        return self.ignored + -int(-next(iter(behaviour.least.values())) // self.per_flow)

    def flows(self, n: int) -> pl.DataFrame:
        """Return the first n of them."""
        return conn_flows([self.row(k) for k in range(n)], **self.same)


def _ports(gap_s: float) -> Callable[[int], dict[str, Any]]:
    return lambda n: {"at_s": gap_s * n, "dst_port": 7_000 + n}


def _hosts(gap_s: float) -> Callable[[int], dict[str, Any]]:
    return lambda n: {"at_s": gap_s * n, "dst_ip": f"10.2.{n // 250}.{n % 250}"}


def _sockets(gap_s: float) -> Callable[[int], dict[str, Any]]:
    return lambda n: {"at_s": gap_s * n, "src_port": 40_000 + n}


def _jittered(n: int) -> dict[str, Any]:
    return _sockets(60)(n) | {"at_s": 60.0 * n + (0, -20, 0)[n % 3]}


def _of_two_sizes(n: int) -> dict[str, Any]:
    return _sockets(60)(n) | {"fwd_bytes": (1_900, 1_900, 2_800)[n % 3]}


_PACKETS = {"protocol": "udp", "fwd_packets": 500, "fwd_bytes": 500 * 48, "dst_port": 9, **UNANSWERED}
_IDLE = {"duration_s": 20.0, "fwd_packets": 4, "fwd_bytes": 400, "bwd_packets": 3, "bwd_bytes": 120}
_BEAT = {"dst_ip": OUTSIDE, "dst_port": 443, **LOGIN}
_QUERY = {"protocol": "udp", "dst_port": 53, "fwd_bytes": 128, "bwd_bytes": 128}
_PING = {"protocol": "icmp", "src_port": 8, "dst_port": 0}
_SENT = {"fwd_packets": 400, "fwd_bytes": 516_000, "bwd_packets": 200, "bwd_bytes": 8_000, "duration_s": 5.0}

MADE = {
    "vertical_scan": Made(_ports(1)),
    "slow_vertical_scan": Made(_ports(180)),
    "horizontal_scan": Made(_hosts(1)),
    "slow_horizontal_scan": Made(_hosts(12)),
    "web_scan": Made(_hosts(0.4), {"dst_port": 80}),
    "udp_scan": Made(_hosts(0.4), {"protocol": "udp", "dst_port": 161, **UNANSWERED}),
    "icmp_sweep": Made(_hosts(1), {**_PING, **UNANSWERED}),
    "password_guessing": Made(_sockets(2), LOGIN, ignored=_RING),
    "slow_password_guessing": Made(_sockets(12), LOGIN, ignored=_RING),
    "service_guessing": Made(_sockets(1), {**LOGIN, "dst_port": 5432}, ignored=_RING),
    "web_guessing": Made(_sockets(1), {**LOGIN, "src_ip": OUTSIDE, "dst_port": 443}, ignored=_RING),
    "beacon": Made(_sockets(60), _BEAT, ignored=_RING),
    "irregular_beacon": Made(_of_two_sizes, _BEAT, ignored=_RING),
    "jittered_beacon": Made(_jittered, _BEAT, ignored=_RING),
    "dead_c2": Made(_sockets(20), {"dst_ip": OUTSIDE, "dst_port": 4444, **UNANSWERED}),
    "connection_flood": Made(_sockets(0.02), {"dst_port": 8080}),
    "packet_flood": Made(_sockets(0.1), _PACKETS, per_flow=500),
    "unanswered_flood": Made(lambda n: {"at_s": 0.1 * n, "src_ip": f"198.51.100.{n}"}, _PACKETS, per_flow=500),
    "slow_http": Made(_sockets(5), {**_IDLE, "dst_port": 80}),
    "dns_tunnel": Made(_sockets(5), _QUERY, per_flow=100),
    "icmp_tunnel": Made(lambda n: {"at_s": 5.0 * n}, {**_PING, "fwd_bytes": 228, "bwd_bytes": 208}, per_flow=200),
    "icmp_flood": Made(_sockets(0.1), {**_PACKETS, "protocol": "icmp", "src_port": 8, "dst_port": 0}, per_flow=500),
    "upload": Made(_sockets(60), {**_SENT, "dst_ip": OUTSIDE, "dst_port": 443}, per_flow=500_000),
}


def found(flows: pl.DataFrame) -> set[str]:
    """Return the behaviours that are found in flows."""
    return set(BehaviourDetector(max_keys=1 << 12).find(flows)["behaviour"])


@pytest.mark.parametrize("name", MADE)
def test_a_behaviour_is_found_from_its_threshold_on(name: str) -> None:
    made, behaviour = MADE[name], BY_NAME[name]
    assert name in found(made.flows(made.least(behaviour)))


@pytest.mark.parametrize("name", MADE)
def test_a_behaviour_is_not_found_below_its_threshold(name: str) -> None:
    made, behaviour = MADE[name], BY_NAME[name]
    assert name not in found(made.flows(made.least(behaviour) - 1))


def _answered(_: int) -> dict[str, Any]:
    return {"bwd_packets": 3, "bwd_bytes": 1_500, "fwd_packets": 4, "fwd_bytes": 900}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vertical_scan", {**_answered(0)}),
        ("horizontal_scan", {**_answered(0)}),
        ("horizontal_scan", {"dst_ip": OUTSIDE}),  # one host again and again
        ("udp_scan", {"dst_port": 53}),
        ("icmp_sweep", {"src_port": 3}),  # an error is no request
        ("icmp_sweep", {"fwd_packets": 30}),  # monitoring
        ("password_guessing", {"bwd_packets": 0, "bwd_bytes": 0}),
        ("web_guessing", {"src_ip": "10.0.0.5"}),  # a browser of the site
        ("web_guessing", {"bwd_packets": 0, "bwd_bytes": 0}),
        ("beacon", {"dst_ip": "10.0.0.9"}),
        ("beacon", {"dst_port": 123}),
        ("irregular_beacon", {"dst_ip": "10.0.0.9"}),
        ("irregular_beacon", {"dst_port": 123}),
        ("dead_c2", {"dst_ip": "10.0.0.9"}),
        ("connection_flood", {**_answered(0)}),
        ("packet_flood", {"fwd_bytes": 500 * 1_400}),
        ("slow_http", {"dst_port": 22}),
        ("slow_http", {"bwd_bytes": 90_000, "bwd_packets": 70}),
        ("dns_tunnel", {"fwd_bytes": 70}),
        ("icmp_tunnel", {"fwd_bytes": 92, "bwd_bytes": 92}),
        ("icmp_tunnel", {"bwd_bytes": 228}),
        ("upload", {"dst_ip": "10.0.0.9"}),
        ("upload", {"bwd_bytes": 500_000}),
    ],
)  # fmt: skip
def test_what_only_resembles_a_behaviour_is_not_it(name: str, change: dict[str, Any]) -> None:
    made = MADE[name]
    flows = made.flows(3 * made.least(BY_NAME[name]))
    assert name not in found(flows.with_columns(pl.lit(value).alias(column) for column, value in change.items()))


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=BY_NAME)
def test_an_entry_is_complete(behaviour: Behaviour) -> None:
    assert behaviour.class_name in ATTACK_CLASSES
    assert set(behaviour.least) | set(behaviour.most) <= set(behaviour.counts)
    assert behaviour.sentence.format_map(dict.fromkeys(behaviour.counts, "1"))
    assert behaviour.benign is None or behaviour.benign < next(iter(behaviour.least.values()))
    used = {name for one in behaviour.counts.values() for name in one.meta.root_names()}
    assert used <= {*WINDOW_COLUMNS, *FOLLOWING}


def test_what_is_not_made_here_is_known() -> None:
    made_in_test_following = {"background_scan", "contact_after_scan", "login_after_guessing"}
    assert set(BY_NAME) - set(MADE) == made_in_test_following


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(BEHAVIOURS)


# --- thresholds of a site ---------------------------------------------------------------------------------------------


def test_a_site_sets_thresholds_and_leaves_behaviours_out(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("[vertical_scan]\nports = 50\n[beacon]\nmost_gap_spread = 0.05\n[upload]\nenabled = false\n")
    site = {one.name: one for one in with_thresholds(BEHAVIOURS, read_thresholds(path))}
    assert site["vertical_scan"].least == {**BY_NAME["vertical_scan"].least, "ports": 50}
    assert site["beacon"].most == {**BY_NAME["beacon"].most, "gap_spread": 0.05}
    assert set(BY_NAME) - set(site) == {"upload"}
    scanned = BehaviourDetector(tuple(site.values()), max_keys=1 << 12).find(MADE["vertical_scan"].flows(49))
    assert "vertical_scan" not in set(scanned["behaviour"])


def test_enabled_true_changes_nothing() -> None:
    assert with_thresholds(BEHAVIOURS, {"upload": {"enabled": True}}) == BEHAVIOURS


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("[portscan]\nports = 5", "no behaviour 'portscan'"),
        ("[vertical_scan]\nhosts = 5", "no threshold hosts = 5"),
        ("[vertical_scan]\nmost_ports = 5", "no threshold most_ports"),
        ("[vertical_scan]\nports = 'many'", "no threshold ports = 'many'"),
        ("[vertical_scan]\nports = true", "no threshold ports = True"),
        ("[vertical_scan]\nports = nan", "ports = nan"),
        ("[vertical_scan]\nports = 0", "ports = 0"),
        ("[vertical_scan]\nports = -3", "ports = -3"),
        ("[vertical_scan]\nenabled = 0", "enabled = 0"),
        ("vertical_scan = 5", "[vertical_scan]"),
        ("[vertical_scan", "cannot read thresholds"),
        ("\xff", "cannot read thresholds"),
    ],
)
def test_a_file_of_thresholds_that_means_nothing_is_refused(tmp_path: Path, text: str, fact: str) -> None:
    path = tmp_path / "site.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as refused:
        with_thresholds(BEHAVIOURS, read_thresholds(path))
    assert fact in str(refused.value)


def test_a_file_of_thresholds_that_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.toml"):
        read_thresholds(tmp_path / "none.toml")


def test_benign_values_are_those_that_were_measured() -> None:
    measured = json.loads((Path(__file__).parents[3] / "benchmarks/results/behaviour_margins.json").read_text())
    assert {one.name: one.benign for one in BEHAVIOURS if not one.follows} == measured["benign"]
    assert all(one.benign < next(iter(one.least.values())) for one in BEHAVIOURS if one.benign is not None)
