"""The command `deepidea meter`."""

from __future__ import annotations

from typing import Annotated

import typer

from deepidea.cli.options import DialectName, FileFormat, Seconds, option
from deepidea.cli.terminal import flow_progress, say, show_losses, stopping


def meter(
    source: Annotated[
        str, typer.Argument(help="Capture (pcap, pcapng, gz), folder of captures, - for stdin, or interface:NAME.")
    ],
    output: Annotated[str, option("Flows to write: .parquet, .csv or .jsonl; - for stdout.", "--output", "-o")],
    format: FileFormat = None,
    dialect: Annotated[DialectName, option("Version of the features to compute: docs/meter.md.")] = ("corrected"),
    snapshot: Annotated[float | None, option("Write unfinished flows every so many seconds, too.", min=0.001)] = None,
    timeout: Annotated[float, option("Seconds after which a flow is ended.", min=0.001)] = 120.0,
    max_flows: Annotated[int, option("Most open flows; beyond it the oldest is ended early.", min=1)] = 300_000,
    seconds: Seconds = None,
) -> None:
    """Turn packets into flows with CICFlowMeter's features; flows still open at the end are written, too."""
    from deepidea.detection.metering import meter_to_file
    from deepidea.detection.sources.packets import PacketSource

    packets = PacketSource(source, dialect=dialect, snapshot_s=snapshot, flow_timeout_s=timeout, max_flows=max_flows)
    with stopping(seconds) as stop, flow_progress("metering") as progress:
        metered = meter_to_file(packets, output, stop, format=format, progress=progress)
    say(f"metered {metered.n_flows:,} flows into {output}")
    show_losses(metered.skipped, metered.dropped)
