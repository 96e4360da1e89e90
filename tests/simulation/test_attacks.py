"""Each attack does what its strength says: ports, hosts, tries, failures, regularity, sizes, bytes, direction."""

from __future__ import annotations

import io
from random import Random

import dpkt
import polars as pl
import pytest

from deepidea.simulation.addresses import draw_plan
from deepidea.simulation.attacks import ATTACKS
from deepidea.simulation.instances import attack_instances
from deepidea.simulation.lab import build_lab
from deepidea.simulation.one_attack import SimulatedAttack, simulate_attack
from tests.packets.wire import take_apart

SEEDS = (0, 1, 2)
GUESSING = sorted(kind for kind, attack in ATTACKS.items() if attack.class_name == "brute_force")
UPLOADS = sorted(kind for kind in ATTACKS if kind.endswith("_upload"))
SMALL = {
    "ports": 20, "hosts": 20, "tries": 12, "connections": 10, "beats": 10, "attempts": 10, "probes": 10, "bytes": 2e4,
    "flows_per_s": 10, "packets_per_s": 50, "seconds": 4, "period_s": 5, "per_minute": 60,
}  # fmt: skip


def small(kind: str, seed: int = 0) -> SimulatedAttack:
    return simulate_attack(kind, seed=seed, **{name: SMALL[name] for name in ATTACKS[kind].strength if name in SMALL})


def failed_share(flows: pl.DataFrame) -> float:
    """Return the share of flows in which nobody sent a payload after the handshake."""
    return (flows["bwd_packets"] <= 1).mean()  # type: ignore[return-value]


def spread(values: pl.Series) -> float:
    """Return the median absolute deviation over the median."""
    return (values - values.median()).abs().median() / values.median()  # type: ignore[operator]


def same_size_share(flows: pl.DataFrame) -> float:
    """Return the share of flows whose bytes are within a fifth of the median in both directions."""
    return (
        flows.select(
            pl.all_horizontal(
                pl.col(way).is_between(0.8 * pl.col(way).median(), 1.2 * pl.col(way).median()) for way in WAYS
            )
        )
        .to_series()
        .mean()
    )  # type: ignore[return-value]


WAYS = ("fwd_bytes", "bwd_bytes")


def gaps(flows: pl.DataFrame) -> pl.Series:
    return flows.sort("start")["start"].diff().drop_nulls().dt.total_microseconds() / 1e6


# --- every kind ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ATTACKS)
def test_the_same_arguments_give_the_same_bytes_of_one_instance_within_the_address_plan(kind):
    attack = small(kind)
    assert small(kind).capture == attack.capture
    assert small(kind, seed=1).capture != attack.capture
    [instance] = attack_instances(attack.labels).iter_rows(named=True)
    assert (instance["label"], instance["class"]) == (kind, ATTACKS[kind].class_name)
    lab = build_lab(seed=0, hosts=20, duration_s=1.0)
    assert attack.networks == lab.plan.networks
    assert all(map(lab.plan.holds, [*instance["sources"], *instance["targets"]]))


@pytest.mark.parametrize("kind", ATTACKS)
def test_flows_of_an_attack_come_in_both_schemas(kind):
    attack = small(kind)
    conn, cicflow = attack.flows("conn"), attack.flows()
    assert conn.height == cicflow.height > 0.8 * attack.labels.height  # ICMP errors of one host are one flow
    assert {"duration_s", "fwd_packets", "start", "src_ip"} <= set(conn.columns)


@pytest.mark.parametrize(
    ("kind", "strength", "message"),
    [
        ("worm", {}, "unknown attack 'worm'"),
        ("beacon", {"ports": 3}, "beacon has no parameter 'ports'; choose from beats, period_s, jitter"),
        ("port_scan", {"ports": 0}, "ports of port_scan must be above 0"),
    ],
)
def test_what_no_attack_has_is_refused(kind, strength, message):
    with pytest.raises(ValueError, match=message):
        simulate_attack(kind, **strength)


# --- scans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["port_scan", "udp_scan", "stealth_scan"])
def test_a_scan_probes_so_many_ports_in_so_many_seconds_and_mostly_fails(kind, seed):
    attack = simulate_attack(kind, seed=seed, ports=90, seconds=10)
    flows = attack.flows("conn").filter(pl.col("protocol") != "icmp")
    assert flows["dst_ip"].n_unique() == 1
    assert flows["dst_port"].n_unique() == 90
    assert failed_share(flows) > 0.7
    assert 8 < gaps(flows).sum() < 12


@pytest.mark.parametrize("seed", SEEDS)
def test_a_slow_scan_keeps_its_period(seed):
    flows = simulate_attack("slow_port_scan", seed=seed, ports=12, period_s=60).flows("conn")
    assert flows["dst_port"].n_unique() == 12
    assert 30 < gaps(flows).median() < 90


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["horizontal_scan", "icmp_sweep"])
@pytest.mark.parametrize("hosts", [40, 300])
def test_a_sweep_reaches_so_many_hosts_by_one_port(kind, seed, hosts):
    flows = simulate_attack(kind, seed=seed, hosts=hosts, seconds=20).flows("conn")
    assert 0.95 * hosts <= flows["dst_ip"].n_unique() <= hosts
    assert flows["dst_port"].n_unique() == 1
    assert failed_share(flows) > 0.7


def test_background_scanning_comes_from_many_hosts_that_try_little():
    flows = simulate_attack("background_scan", probes=60, per_minute=30).flows("conn")
    assert flows["src_ip"].n_unique() > 50
    assert flows["dst_ip"].n_unique() == 1
    assert flows.group_by("src_ip").len()["len"].max() <= 3


# --- guessing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", GUESSING)
def test_guessing_repeats_one_shape_at_its_pace(kind, seed):
    flows = simulate_attack(kind, seed=seed, tries=60, per_minute=30).flows("conn")
    per_flow = 60 / flows.height
    assert flows["dst_port"].n_unique() == 1
    assert gaps(flows).sum() / (flows.height - 1) == pytest.approx(per_flow * 2, rel=0.5)
    assert same_size_share(flows) > 0.7


def test_guessing_comes_from_so_many_sources():
    flows = simulate_attack("ssh_guessing", tries=60, per_minute=60, sources=5).flows("conn")
    assert flows["src_ip"].n_unique() == 5


# --- floods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["syn_flood", "connection_flood"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_flood_of_connections_reaches_one_service_at_its_rate(kind, seed):
    flows = simulate_attack(kind, seed=seed, flows_per_s=40, seconds=5).flows("conn")
    assert flows.select("dst_ip", "dst_port").n_unique() == 1
    assert flows.height == pytest.approx(200, rel=0.1)


@pytest.mark.parametrize("kind", ["udp_flood", "icmp_flood"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_flood_of_packets_has_its_rate(kind, seed):
    flows = simulate_attack(kind, seed=seed, packets_per_s=400, seconds=5).flows("conn")
    assert flows["dst_ip"].n_unique() == 1
    assert flows["fwd_packets"].sum() == pytest.approx(2000, rel=0.1)


@pytest.mark.parametrize("kind", ["slowloris", "slow_read_dos"])
def test_connections_are_held_open_with_little_data(kind):
    flows = simulate_attack(kind, connections=20, seconds=60).flows("conn")
    assert flows.height == 20
    assert flows["duration_s"].median() > 20
    assert (flows["fwd_bytes"] + flows["bwd_bytes"]).max() < 10_000


# --- infected hosts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_a_beacon_is_as_regular_as_its_jitter_and_keeps_its_sizes(seed):
    fixed = simulate_attack("beacon", seed=seed, beats=40, period_s=30, jitter=0).flows("conn")
    loose = simulate_attack("beacon", seed=seed, beats=40, period_s=30, jitter=0.4).flows("conn")
    assert fixed.select("src_ip", "dst_ip", "dst_port").n_unique() == 1
    assert gaps(fixed).median() == pytest.approx(30, rel=0.01)
    assert spread(gaps(fixed)) < 0.02
    assert 0.05 < spread(gaps(loose)) < 0.4
    assert same_size_share(fixed) > 0.5  # some implants get many commands


def test_most_implants_keep_their_sizes_nearly_always():
    shares = [same_size_share(simulate_attack("beacon", seed=seed, beats=20).flows("conn")) for seed in range(12)]
    assert sum(share >= 0.9 for share in shares) >= 8


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("targets", [1, 4])
def test_a_dead_server_never_answers_and_is_tried_again(seed, targets):
    flows = simulate_attack("dead_c2", seed=seed, attempts=60, period_s=5, targets=targets).flows("conn")
    assert flows.height == 60
    assert flows["src_ip"].n_unique() == 1
    assert flows["dst_ip"].n_unique() <= targets
    assert failed_share(flows) == 1.0


# --- theft -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sockets", [1, 30])
def test_a_dns_tunnel_carries_its_bytes_in_so_many_sockets(seed, sockets):
    attack = simulate_attack("dns_tunnel", seed=seed, bytes=20_000, seconds=30, sockets=sockets)
    flows = attack.flows("conn")
    out = flows.filter(pl.col("src_ip") == attack_instances(attack.labels)["sources"][0][0])
    assert set(flows["dst_port"]) == {53}
    assert out.height == sockets
    assert out["fwd_bytes"].sum() > 20_000
    assert out["fwd_bytes"].sum() / out["fwd_packets"].sum() > 80


@pytest.mark.parametrize("seed", SEEDS)
def test_an_icmp_tunnel_is_two_way_with_large_payloads(seed):
    attack = simulate_attack("icmp_tunnel", seed=seed, bytes=50_000, seconds=30)
    # Metered flows have no bytes of ICMP, so the packets are read.
    echoes = [take_apart(0, frame).payload for _, frame in dpkt.pcap.Reader(io.BytesIO(attack.capture))]
    assert min(map(len, echoes)) > 100
    assert sum(len(echo) - 8 for echo in echoes if echo[0] in (8, 128)) >= 49_000
    assert {echo[0] for echo in echoes} in ({0, 8}, {128, 129})


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", UPLOADS)
def test_an_upload_carries_its_bytes_outwards(kind, seed):
    flows = simulate_attack(kind, seed=seed, bytes=2_000_000).flows("conn")
    assert flows["src_ip"].n_unique() == 1
    assert 2_000_000 <= flows["fwd_bytes"].sum() < 2_400_000
    assert flows["fwd_bytes"].sum() > 10 * flows["bwd_bytes"].sum()


def test_address_plans_differ_and_are_reserved():
    plans = [draw_plan(Random(seed)) for seed in range(40)]
    kinds = {(plan.site4.is_private, int(plan.site4.network_address) >> 24) for plan in plans}
    assert len(kinds) > 3
    assert not any(plan.holds("8.8.8.8") for plan in plans)


@pytest.mark.parametrize("kind", ATTACKS)
def test_an_attack_of_the_least_strength_is_one_step(kind):
    attack = simulate_attack(kind, dict.fromkeys(ATTACKS[kind].strength, 1.0))
    assert 1 <= attack.labels.height <= 3
