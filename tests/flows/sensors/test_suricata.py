"""EVE: flow events are flows, others are not, and both sensors tell the same conversations alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from deepidea.flows.conn import STATES
from deepidea.flows.sensors.suricata import EveParser
from deepidea.flows.sensors.zeek import ZeekParser
from tests.flows.sensor_lines import eve_dns, eve_flow, zeek_json

EVE = b"".join(eve_flow(n) for n in range(40))


def test_one_conversation_is_one_flow_whatever_sensor_saw_it() -> None:
    theirs = ZeekParser().parse(b"".join(map(zeek_json, range(40)))).flows
    assert_frame_equal(EveParser().parse(EVE).flows.drop("tcp_flags"), theirs.drop("tcp_flags"))


def test_other_events_are_counted_by_kind_and_are_no_errors() -> None:
    parsed = EveParser().parse(eve_dns(1) + EVE + eve_dns(2) + b'{"event_type": "netflow"}\n{"event_type":"alert"}\n')
    assert (parsed.flows.height, parsed.skipped) == (40, {})
    assert parsed.not_flows == {"dns": 2, "netflow": 1, "alert": 1}


def test_spaces_in_json_and_order_of_keys_do_not_matter() -> None:
    spaced = EVE.replace(b'":', b'" : ').replace(b',"', b', "')
    assert_frame_equal(EveParser().parse(spaced).flows, EveParser().parse(EVE).flows)


def test_an_event_about_flows_is_not_one() -> None:
    lines = (
        b'{"event_type":"stats","about":{"event_type":"flow"}}\n{"about":{"event_type":"flow"},"event_type":"alert"}\n'
    )
    parsed = EveParser().parse(lines)
    assert (parsed.flows.height, sum(parsed.not_flows.values()), parsed.skipped) == (0, 2, {})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[]", "event_type is missing"),
        (b'{"timestamp": 1}', "event_type is missing"),
        (eve_flow(1, flow=3), "start is not a time"),
        (eve_flow(1, src_ip=None), "src_ip is not an address"),
        (eve_flow(1, dest_port=-1), "dst_port is not a port"),
        (eve_flow(1, proto=None), "protocol is missing"),
        (eve_flow(1).replace(b'"end":"2023', b'"end":"2022'), "duration_s is not a duration"),
    ],
)
def test_a_bad_record_costs_itself_alone(line: bytes, reason: str) -> None:
    parsed = EveParser().parse(EVE + line.rstrip(b"\n") + b"\n" + EVE)
    assert (parsed.flows.height, parsed.skipped) == (80, {reason: 1})


@pytest.mark.parametrize(
    ("proto", "tcp", "state"),
    [
        ("TCP", {"tcp_flags": "16", "tcp_flags_ts": "02", "tcp_flags_tc": "14"}, "REJ"),
        ("TCP", {"tcp_flags": "1b", "tcp_flags_ts": "1b", "tcp_flags_tc": "1b"}, "SF"),
        ("TCP", {"tcp_flags": "16", "tcp_flags_ts": "16", "tcp_flags_tc": "12"}, "RSTO"),
        ("TCP", None, "SF"),
        ("UDP", None, "SF"),
        ("ICMP", None, "OTH"),
    ],
)
def test_states_are_in_zeeks_words(proto: str, tcp: dict[str, str] | None, state: str) -> None:
    [found] = EveParser().parse(eve_flow(1, proto=proto, tcp=tcp)).flows["state"].to_list()
    assert found == state in STATES


def test_icmp_has_type_and_code_for_ports() -> None:
    line = eve_flow(1, proto="IPv6-ICMP", src_port=None, dest_port=None, icmp_type=128, icmp_code=0, tcp=None)
    flow = EveParser().parse(line).flows.row(0, named=True)
    assert (flow["protocol"], flow["src_port"], flow["dst_port"]) == ("ipv6-icmp", 128, 0)


def test_a_community_id_is_kept() -> None:
    parsed = EveParser().parse(eve_flow(1, community_id="1:LQU9qZlK+B5F3KDmev6m5PMibrg="))
    assert parsed.flows["community_id"].to_list() == ["1:LQU9qZlK+B5F3KDmev6m5PMibrg="]


@pytest.mark.data
def test_real_events_are_read_to_the_last(data_root: Path) -> None:
    parsed = EveParser().parse((data_root / "suricata" / "eve.json").read_bytes())
    assert (parsed.records, parsed.flows.height, parsed.skipped) == (2500, 1012, {})
    assert parsed.not_flows["alert"] == 745
    assert set(parsed.flows["state"]) <= set(STATES)
