"""Benign traffic resembles attacks where it should, stays within the address plan, and differs from site to site."""

from __future__ import annotations

import ipaddress
from itertools import islice
from random import Random

import dpkt
import polars as pl
import pytest

from deepidea.simulation.applications import APPLICATIONS, is_present
from deepidea.simulation.conversations import Conversation
from deepidea.simulation.frames import RST, SYN
from deepidea.simulation.lab import build_lab
from deepidea.simulation.simulate import draw_start, packets_in_order, simulate_capture
from tests.packets.wire import take_apart

LAB = build_lab(seed=5, hosts=24, duration_s=600.0, vlan=0)


def conversations(name: str, *, seed: int = 0, lab=LAB) -> pl.DataFrame:
    """Return the conversations of one application, with what passed in both directions."""
    rows: dict[int, dict] = {}
    activities = APPLICATIONS[name].activities(lab, Random(f"{name} {seed}"))
    for packet, talk, number, _ in packets_in_order(activities, lab.duration_s):
        about = {"src": talk.src_ip, "dst": talk.dst_ip, "port": talk.dst_port, "protocol": talk.protocol}
        row = rows.setdefault(number, {**about, "at": packet.time_s, "packets": 0, "answered": False})
        row["packets"] += 1
        row["last"] = packet.time_s
        row["answered"] |= is_answer(packet.frame, talk)
    return pl.DataFrame(list(rows.values()))


def is_answer(frame: bytes, talk: Conversation) -> bool:
    """Return whether a frame comes from the server and is no RST."""
    v4 = frame[12:14] == b"\x08\x00"
    src, flags = (frame[26:30], frame[47]) if v4 else (frame[22:38], frame[67] if len(frame) > 67 else 0)
    refuses = talk.protocol == 6 and flags & RST and not flags & SYN
    return src == ipaddress.ip_address(talk.dst_ip).packed and not refuses


@pytest.mark.parametrize("name", APPLICATIONS)
def test_every_application_has_traffic_within_the_address_plan(name):
    found = set()
    for seed in (0, 1):
        activities = APPLICATIONS[name].activities(LAB, Random(f"{name} {seed}"))
        for _, talk, _, _ in islice(packets_in_order(activities, LAB.duration_s), 4000):
            found |= {talk.src_ip, talk.dst_ip}
    assert found
    assert all(map(LAB.plan.holds, found))


@pytest.mark.parametrize("name", ["agents", "sensors", "jobs"])
def test_programs_by_the_clock_are_as_regular_as_beacons(name):
    talks = conversations(name).sort("at").group_by("src", "dst", "port").agg("at", pl.len())
    regular = talks.filter(pl.col("len") > 8).select(
        spread=pl.col("at").list.eval((pl.element().diff() / pl.element().diff().median() - 1).abs()).list.median()
    )
    assert regular.filter(pl.col("spread") < 0.05).height >= 2


@pytest.mark.parametrize(("name", "least"), [("retries", 0.95), ("stale", 0.95), ("games", 0.1), ("sharing", 0.3)])
def test_some_applications_fail_often(name, least):
    talks = pl.concat([conversations(name, seed=seed) for seed in range(2)])
    assert 1 - talks["answered"].mean() > least


def test_the_monitor_reaches_all_hosts_some_of_them_down():
    talks = pl.concat([conversations("checks", seed=seed) for seed in range(4)])
    assert talks["dst"].n_unique() > 12
    assert 0 < 1 - talks.filter(pl.col("protocol") == 1)["answered"].mean() < 0.5


def test_resolvers_put_many_queries_through_one_socket_and_calls_many_small_datagrams():
    assert conversations("forwarding")["packets"].max() > 100
    voice = conversations("calls").filter(pl.col("packets") > 500)
    assert voice.height
    assert (voice["packets"] / (voice["last"] - voice["at"])).median() > 50


def test_logins_come_in_a_crowd_in_the_morning():
    morning, night = (build_lab(seed=5, hosts=24, duration_s=600.0, hour=hour) for hour in (8.2, 3.0))
    counts = [
        conversations("logins", lab=lab).filter(pl.col("port") == 88)["src"].n_unique() for lab in (morning, night)
    ]
    assert counts[0] > counts[1]
    assert counts[0] == len({host.ipv4 for host in morning.clients}) or counts[0] > 10


def test_hosts_behind_one_address_share_it_and_its_ports():
    labs = [build_lab(seed=seed, hosts=30, duration_s=1.0) for seed in range(12)]
    shared = [host for lab in labs for host in (*lab.clients, *lab.visitors) if host.router is not None]
    assert shared
    rng, host = Random(0), shared[0]
    assert host.ipv4 == host.router.ipv4
    ports = [(one.next_port(rng)) for one in (host, host.router) * 50]
    assert len(set(ports)) == 100


def test_sites_differ_in_networks_time_devices_and_applications():
    labs = [build_lab(seed=seed, hosts=20, duration_s=1.0) for seed in range(30)]
    assert len({str(lab.plan.site4).split(".")[0] for lab in labs}) >= 3
    assert len({lab.vlan is None for lab in labs}) == 2
    assert len({len(lab.devices) for lab in labs}) > 3
    assert len({draw_start(seed).hour for seed in range(30)}) > 6
    assert len({tuple(is_present(name, seed) for name in APPLICATIONS) for seed in range(10)}) == 10


def test_no_packet_leaves_the_address_plan(tmp_path):
    done = simulate_capture(tmp_path / "lab.pcap", tmp_path / "lab.csv", seed=11, minutes=0.2, hosts=12)
    plan = build_lab(seed=11, hosts=12, duration_s=1.0).plan
    assert done.networks == plan.networks
    with open(tmp_path / "lab.pcap", "rb") as file:
        packets = [take_apart(0, frame) for _, frame in dpkt.pcap.Reader(file)]
    addresses = {address for seen in packets if seen for address in (seen.src, seen.dst)}
    assert all(plan.holds(str(ipaddress.ip_address(address))) for address in addresses)
