"""The command `deepidea simulate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from deepidea.cli.options import option, require_writable
from deepidea.cli.terminal import counted, flow_progress, say


class AttackKind(StrEnum):
    """Attacks that a simulated capture may hold; the names of ``ATTACKS``, and two for all and none of them."""

    all = "all"
    none = "none"
    port_scan = "port_scan"
    slow_port_scan = "slow_port_scan"
    horizontal_scan = "horizontal_scan"
    udp_scan = "udp_scan"
    stealth_scan = "stealth_scan"
    icmp_sweep = "icmp_sweep"
    background_scan = "background_scan"
    syn_flood = "syn_flood"
    connection_flood = "connection_flood"
    udp_flood = "udp_flood"
    icmp_flood = "icmp_flood"
    slowloris = "slowloris"
    slow_read_dos = "slow_read_dos"
    ssh_guessing = "ssh_guessing"
    ftp_guessing = "ftp_guessing"
    rdp_guessing = "rdp_guessing"
    smb_guessing = "smb_guessing"
    http_guessing = "http_guessing"
    beacon = "beacon"
    dead_c2 = "dead_c2"
    dns_tunnel = "dns_tunnel"
    icmp_tunnel = "icmp_tunnel"
    https_upload = "https_upload"
    ftp_upload = "ftp_upload"
    scp_upload = "scp_upload"


def simulate(
    output: Annotated[Path, option("Capture to write (pcap).", "--output", "-o")],
    labels: Annotated[Path, option("Ground truth to write (CSV): one conversation a row.")],
    seed: Annotated[int, option("The same seed and options give the same bytes.", min=0)] = 0,
    minutes: Annotated[float, option("Length of the capture.", min=0.05, max=1440.0)] = 10.0,
    hosts: Annotated[int, option("Hosts of the site, six of them servers.", min=8, max=200)] = 20,
    attacks: Annotated[list[AttackKind], option("Attack to simulate; repeatable.")] = [AttackKind.all],  # noqa: B006
    vlan: Annotated[int | None, option("802.1Q tag of every frame, 0 for none; else drawn.", min=0, max=4094)] = None,
    snaplen: Annotated[int, option("Bytes kept of each packet.", min=64)] = 262_144,
) -> None:
    """Write a labelled capture of an invented small network, to try things out with."""
    from deepidea.simulation.simulate import choose_attacks, simulate_capture

    for path in (output, labels):
        require_writable(path)
    chosen = choose_attacks(kind.value for kind in attacks)
    with flow_progress("simulating", unit="packets") as progress:
        done = simulate_capture(
            output,
            labels,
            seed=seed,
            minutes=minutes,
            hosts=hosts,
            attacks=chosen,
            vlan=vlan,
            snaplen=snaplen,
            progress=progress,
        )
    say(f"wrote {output}: {done.packets:,} packets, {done.without_label:,} of them ARP and without a label")
    conversations = counted(dict(done.conversations.most_common()))
    say(f"wrote {labels}: {done.conversations.total():,} conversations: {conversations}")
    say(f"networks of the site: {', '.join(done.networks)}")
    say("the traffic is invented: results on it say nothing about a real network")
