"""Commands on packets: meter them into flows, invent a capture."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from deepidea.cli.data_tables import show_simulated
from deepidea.cli.options import DialectName, FileFormat, refuse_unwritable
from deepidea.cli.terminal import flow_progress, say, show_losses, stopping


class AttackKind(StrEnum):
    """Attacks that a simulated capture may hold; the names of ``ATTACKS``, and two for all and none of them."""

    all = "all"
    none = "none"
    port_scan = "port_scan"
    slow_port_scan = "slow_port_scan"
    syn_flood = "syn_flood"
    slowloris = "slowloris"
    ssh_guessing = "ssh_guessing"
    ftp_guessing = "ftp_guessing"
    beacon = "beacon"
    dns_tunnel = "dns_tunnel"
    https_upload = "https_upload"


def meter(
    source: Annotated[
        str, typer.Argument(help="Capture (pcap, pcapng, gz), folder of captures, - for stdin, or interface:NAME.")
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Flows: .parquet, .csv or .jsonl; - for stdout.")],
    format: FileFormat = None,
    dialect: Annotated[DialectName, typer.Option(help="Whose values to give; docs/meter.md tells them apart.")] = (
        DialectName.corrected
    ),
    snapshot: Annotated[
        float | None,
        typer.Option(min=0.001, help="Tell of flows under way every so many seconds, too.", show_default=False),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds after which a flow is cut.")] = 120.0,
    max_flows: Annotated[int, typer.Option(min=1, help="Flows under way at most; the oldest is told early.")] = 300_000,
    seconds: Annotated[float | None, typer.Option(min=0.0, help="Stop after so long; Ctrl-C stops, too.")] = None,
) -> None:
    """Meter packets into flows with CICFlowMeter's features. What was under way at the end is told, too."""
    from deepidea.detection.metering import meter_to_file
    from deepidea.detection.sources.packets import PacketSource

    options: dict[str, Any] = {
        "dialect": dialect.value,
        "snapshot_s": snapshot,
        "flow_timeout_s": timeout,
        "max_flows": max_flows,
    }
    packets = PacketSource(source, **options)
    with stopping(seconds) as stop, flow_progress("metering") as progress:
        told = meter_to_file(packets, output, stop, format=format.value if format else None, progress=progress)
    say(f"metered {told.n_flows:,} flows into {output}")
    show_losses(told.skipped, told.dropped)


def simulate(
    output: Annotated[Path, typer.Option("--output", "-o", help="Capture to write (pcap).")],
    labels: Annotated[Path, typer.Option(help="Ground truth to write (CSV): one conversation a row.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed and options give the same bytes.")] = 0,
    minutes: Annotated[float, typer.Option(min=0.05, max=1440.0, help="How long the capture goes on.")] = 10.0,
    hosts: Annotated[int, typer.Option(min=8, max=200, help="Hosts of the site, six of them servers.")] = 20,
    attacks: Annotated[list[AttackKind], typer.Option(help="Attacks that take place.")] = [AttackKind.all],  # noqa: B006
    vlan: Annotated[int | None, typer.Option(min=1, max=4094, help="802.1Q tag of every frame.")] = None,
    snaplen: Annotated[int, typer.Option(min=64, help="Bytes kept of each packet.")] = 262_144,
) -> None:
    """Invent a labelled capture of a small site, for trying things out: it proves nothing about a real network."""
    from deepidea.simulation.simulate import choose_attacks, simulate_capture

    for path in (output, labels):
        refuse_unwritable(path)
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
    show_simulated(done, output, labels)
