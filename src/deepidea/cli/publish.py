"""The command `deepidea publish`."""

from __future__ import annotations

from typing import Annotated

import typer

from deepidea.cli.options import Exporters, Follow, Seconds, Source, SourceOptions, option, options_of_source
from deepidea.cli.terminal import flow_progress, say, show_losses, stopping


def publish(
    source: Source,
    address: Annotated[str, typer.Argument(help="Stream: redis://host/0?stream=NAME or kafka://host:9092/TOPIC.")],
    context: Annotated[bool, option("Add the recent behaviour of each flow's hosts, for detectors with context.")] = (
        True
    ),
    follow: Follow = False,
    exporter: Exporters = None,
    options: SourceOptions = None,
    seconds: Seconds = None,
) -> None:
    """Write flows to a stream that several `deepidea detect` processes share; resumes where it stopped."""
    from deepidea.detection.publish import publish as publish_flows
    from deepidea.detection.publishers import open_publisher
    from deepidea.detection.sources.registry import open_source

    flows = open_source(source, follow=follow, **options_of_source(options, exporters=exporter))
    publisher = open_publisher(address)
    with stopping(seconds) as stop, flow_progress("publishing") as progress:
        done = publish_flows(flows, publisher, stop, context=context, progress=progress)
    say(f"published {done.n_flows:,} flows to {publisher.name}")
    show_losses(done.skipped, done.dropped)
