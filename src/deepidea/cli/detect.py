"""Commands on sources of flows: list the kinds, watch one, put it into a stream, set thresholds by it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepidea.cli.alert_tables import show_calibration, show_rule, show_sources, show_watched, watching
from deepidea.cli.options import (
    AlertFormat,
    DialectName,
    Exporters,
    Follow,
    ModelFile,
    Seconds,
    Source,
    SourceOptions,
    StoreUrl,
    options_of_source,
    refuse_unwritable,
)
from deepidea.cli.terminal import flow_progress, say, show_losses, stopping


def sources() -> None:
    """List the kinds of sources that flows can come from."""
    from deepidea.detection.sources.registry import SOURCES

    show_sources(SOURCES)


def detect(
    source: Source,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Detector file; the store's active model where absent.")
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(
            help="Where alerts go beside the store: stdout, file://, syslog+udp://, +tcp://, +tls://, http(s)://, "
            "kafka://, redis://."
        ),
    ] = None,
    format: Annotated[AlertFormat | None, typer.Option(help="Format of alerts; CEF for syslog, else EVE.")] = None,
    store: StoreUrl = "",
    fpr: Annotated[
        float | None, typer.Option(help="Alert at this rate of false alarms, not by class; see `calibrate`.")
    ] = None,
    follow: Follow = False,
    allow: Annotated[Path | None, typer.Option(help="File of allow rules: TOML or CSV.")] = None,
    dead_letters: Annotated[Path | None, typer.Option(help="Folder for alerts that a sink would not take.")] = None,
    snapshot: Annotated[
        float | None, typer.Option(min=0.001, help="Of packets: tell of flows under way every so many seconds, too.")
    ] = None,
    dialect: Annotated[
        DialectName | None, typer.Option(help="Of packets: whose values; the detector's if absent.")
    ] = None,
    max_flows: Annotated[
        int | None, typer.Option(min=1, help="Of packets: flows under way at most; the oldest is told early.")
    ] = None,
    exporter: Exporters = None,
    option: SourceOptions = None,
    seconds: Seconds = None,
) -> None:
    """Watch a source: score its flows, store alerts and incidents, hand alerts to sinks. Goes on where it stopped."""
    from deepidea.detection.runner import DetectionConfig, run_detection

    packets = {"snapshot_s": snapshot, "dialect": dialect.value if dialect else None, "max_flows": max_flows}
    config = DetectionConfig(
        source=source,
        model=model,
        store=store,
        sinks=tuple(sink or ()),
        format=format.value if format else None,
        fpr=fpr,
        follow=follow,
        allow=allow,
        dead_letters=dead_letters,
        source_options=options_of_source(option, exporters=exporter, **packets),
    )
    with stopping(seconds) as stop, watching(source) as on_batch:
        result = run_detection(config, stop, on_start=show_rule, on_batch=on_batch, on_model=say)
    raise typer.Exit(show_watched(result))


def publish(
    source: Source,
    address: Annotated[str, typer.Argument(help="Stream: redis://host/0?stream=NAME or kafka://host:9092/TOPIC.")],
    context: Annotated[
        bool, typer.Option(help="Let each flow carry what its hosts did lately, for detectors with context.")
    ] = True,
    follow: Follow = False,
    exporter: Exporters = None,
    option: SourceOptions = None,
    seconds: Seconds = None,
) -> None:
    """Put flows into a stream that several `detect` processes share, by pairs of hosts. Goes on where it stopped."""
    from deepidea.detection.publish import publish as put
    from deepidea.detection.publishers import open_publisher
    from deepidea.detection.sources.registry import open_source

    flows, publisher = (
        open_source(source, follow=follow, **options_of_source(option, exporters=exporter)),
        open_publisher(address),
    )
    with stopping(seconds) as stop, flow_progress("publishing") as progress:
        done = put(flows, publisher, stop, context=context, progress=progress)
    say(f"published {done.n_flows:,} flows to {publisher.name}")
    show_losses(done.skipped, done.dropped)


def calibrate(
    model: ModelFile,
    source: Annotated[str, typer.Argument(help="Benign flows of the network to watch; any kind of source.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Detector file to write, with thresholds.")],
    fpr: Annotated[float, typer.Option(help="Rate of benign flows that may raise an alert.")] = 1e-4,
    exporter: Exporters = None,
    option: SourceOptions = None,
    seconds: Annotated[float | None, typer.Option(min=0.0, help="Stop a live source after so long.")] = None,
) -> None:
    """Set thresholds for a network of one's own by its benign flows, with a promise about false alarms."""
    from deepidea.detection.calibrate import calibrate as set_thresholds
    from deepidea.detection.runner import open_source_for
    from deepidea.model.detector import Detector

    refuse_unwritable(output)
    detector = Detector.load(model)
    flows = open_source_for(detector, source, **options_of_source(option, exporters=exporter))
    with stopping(seconds) as stop, flow_progress("scoring") as progress:
        done = set_thresholds(detector, flows, fpr, stop=stop, progress=progress)
    done.detector.save(output)
    show_calibration(done, done.thresholds.n_flows)
    show_losses(done.skipped, {})
    say(f"wrote {output}; next: deepidea detect SOURCE --model {output}")
