"""The attacks of the simulation by label. Most attackers are hosts that also do what everybody does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from deepidea.simulation import floods, guessing, implants, scans, theft
from deepidea.simulation.episodes import (
    Attack,
    Bounds,
    Cast,
    Episode,
    against_hosts,
    against_server,
    either_way,
    from_client,
)
from deepidea.simulation.lab import Activity

_RUN_S: Bounds = (0.2, 240)
_WEB = against_server("web")


def _guessing(login: guessing.Login) -> Attack:
    strength: dict[str, Bounds] = {"tries": (10, 1000), "per_minute": (4, 600), "sources": (1, 6)}
    cast = against_server(login.server)
    return Attack("brute_force", partial(guessing.guess_passwords, login), cast, strength, counted="tries")


def _flood(run: Callable[[Episode], Activity], cast: Cast, rate: str, per_s: Bounds) -> Attack:
    return Attack("dos", run, cast, {rate: per_s, "seconds": (2, 60), "sources": (1, 20)})


def _holding(run: Callable[[Episode], Activity]) -> Attack:
    return Attack("dos", run, _WEB, {"connections": (30, 400), "seconds": (30, 240), "sources": (1, 6)})


def _upload(run: Callable[[Episode], Activity]) -> Attack:
    return Attack("exfiltration", run, from_client, {"bytes": (2e6, 2e8)})


ATTACKS: dict[str, Attack] = {
    "port_scan": Attack(
        "port_scan", scans.scan_ports, against_hosts,
        {"ports": (6, 3000), "seconds": _RUN_S, "targets": (1, 3), "sources": (1, 3)},
    ),
    "slow_port_scan": Attack(
        "port_scan", scans.scan_slowly, against_hosts,
        {"ports": (10, 300), "period_s": (10, 300), "targets": (1, 4), "sources": (1, 2)},
        counted="ports", lasting=True,
    ),
    "horizontal_scan": Attack(
        "port_scan", scans.sweep_port, against_hosts, {"hosts": (20, 1000), "seconds": _RUN_S, "sources": (1, 2)}
    ),
    "udp_scan": Attack(
        "port_scan", scans.scan_by_udp, against_hosts, {"ports": (15, 1000), "seconds": _RUN_S, "sources": (1, 2)}
    ),
    "stealth_scan": Attack(
        "port_scan", scans.scan_stealthily, against_hosts, {"ports": (10, 1000), "seconds": _RUN_S, "sources": (1, 2)}
    ),
    "icmp_sweep": Attack(
        "host_sweep", scans.sweep_by_ping, against_hosts, {"hosts": (20, 254), "seconds": _RUN_S, "sources": (1, 2)}
    ),
    "background_scan": Attack(
        "background", scans.scan_in_background, _WEB, {"probes": (20, 20_000), "per_minute": (4, 60)},
        counted="probes", lasting=True,
    ),
    "syn_flood": _flood(floods.flood_with_syn, _WEB, "flows_per_s", (20, 1000)),
    "connection_flood": _flood(floods.flood_with_connections, _WEB, "flows_per_s", (20, 400)),
    "udp_flood": _flood(floods.flood_with_datagrams, either_way, "packets_per_s", (500, 10_000)),
    "icmp_flood": _flood(floods.flood_with_pings, either_way, "packets_per_s", (500, 10_000)),
    "slowloris": _holding(floods.hold_by_requests),
    "slow_read_dos": _holding(floods.hold_by_reading),
    "ssh_guessing": _guessing(guessing.SSH),
    "ftp_guessing": _guessing(guessing.FTP),
    "rdp_guessing": _guessing(guessing.RDP),
    "smb_guessing": _guessing(guessing.SMB),
    "http_guessing": _guessing(guessing.HTTP),
    "beacon": Attack(
        "botnet", implants.beacon, from_client,
        {"beats": (20, 2000), "period_s": (5, 600), "jitter": (0, 0.4)}, counted="beats", lasting=True,
    ),
    "dead_c2": Attack(
        "botnet", implants.retry_dead_server, from_client,
        {"attempts": (50, 3000), "period_s": (1, 120), "targets": (1, 12)}, counted="attempts", lasting=True,
    ),
    "dns_tunnel": Attack(
        "exfiltration", theft.tunnel_by_dns, from_client,
        {"bytes": (5e3, 5e5), "seconds": (10, 1200), "sockets": (0.1, 1000)}, packet_bytes=25,  # often one socket
    ),
    "icmp_tunnel": Attack(
        "exfiltration", theft.tunnel_by_ping, from_client, {"bytes": (5e3, 1e6), "seconds": (10, 1200)},
        packet_bytes=200,
    ),
    "https_upload": _upload(theft.upload_by_tls),
    "ftp_upload": _upload(theft.upload_by_ftp),
    "scp_upload": _upload(theft.upload_by_scp),
}  # fmt: skip
"""Attacks by label. The labels seed their random draws: a new name gives other captures."""
