"""The commands `deepidea detect` and `deepidea sources`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column
from rich.text import Text

from deepidea.cli.options import (
    ALERTS,
    SOURCE,
    AlertFormat,
    DialectName,
    Exporters,
    FlowAlerts,
    Follow,
    HomeNetwork,
    Seconds,
    SiteThresholds,
    Source,
    SourceOptions,
    StoreUrl,
    option,
    options_of_source,
)
from deepidea.cli.terminal import duration, err, say, show_losses, show_table, stopping

_REPORT_EVERY_S = 10.0  # where there is no terminal to redraw


def sources() -> None:
    """List the kinds of sources that flows can come from."""
    from deepidea.detection.sources.registry import SOURCES

    rows = ((name, of.title, of.schema, "yes" if of.replayable else "no", of.example) for name, of in SOURCES.items())
    show_table(("name", "what", "schema", "resumes", Column("address", overflow="fold")), rows)


def detect(
    source: Source,
    model: Annotated[
        Path | None, option("Detector file; by default the store's active model, else the starter.", "--model", "-m")
    ] = None,
    store: StoreUrl = "",
    seconds: Seconds = None,
    sink: Annotated[
        list[str] | None,
        option(
            "Send alerts here, too; repeatable: stdout, file:///path, syslog+udp://host (or +tcp, +tls), https://..., "
            "kafka://..., redis://...",
            panel=ALERTS,
        ),
    ] = None,
    format: Annotated[
        AlertFormat | None, option("Format of sent alerts; by default CEF for syslog, else EVE.", panel=ALERTS)
    ] = None,
    fpr: Annotated[
        float | None,
        option(
            "Single flows: alert at this false-alarm rate; needs `deepidea calibrate`, --flow-alerts.", panel=ALERTS
        ),
    ] = None,
    allow: Annotated[Path | None, option("File of allow rules, TOML or CSV.", panel=ALERTS)] = None,
    flow_alerts: FlowAlerts = False,
    thresholds: SiteThresholds = None,
    home: HomeNetwork = None,
    dead_letters: Annotated[Path | None, option("Folder for alerts that a sink refuses.", panel=ALERTS)] = None,
    follow: Follow = False,
    exporter: Exporters = None,
    snapshot: Annotated[
        float | None, option("Packets: score unfinished flows every so many seconds, too.", min=0.001, panel=SOURCE)
    ] = None,
    dialect: Annotated[
        DialectName | None, option("Packets: which features to compute; by default the detector's.", panel=SOURCE)
    ] = None,
    max_flows: Annotated[
        int | None, option("Packets: most open flows; beyond it the oldest is ended early.", min=1, panel=SOURCE)
    ] = None,
    options: SourceOptions = None,
) -> None:
    """Score the flows of a source, store alerts and incidents, send alerts to sinks; resumes where it stopped."""
    from deepidea.detection.runner import DetectionConfig, run_detection

    of_packets = {"snapshot_s": snapshot, "dialect": dialect, "max_flows": max_flows}
    config = DetectionConfig(
        source=source,
        model=model,
        store=store,
        sinks=tuple(sink or ()),
        format=format,
        fpr=fpr,
        follow=follow,
        allow=allow,
        dead_letters=dead_letters,
        source_options=options_of_source(options, exporters=exporter, **of_packets),
        home=tuple(home or ()),
        thresholds=thresholds,
        flow_alerts=flow_alerts,
    )
    with stopping(seconds) as stop, live_status(source) as on_batch:
        on_start = show_thresholds if flow_alerts else _show_findings
        result = run_detection(config, stop, on_start=on_start, on_batch=on_batch, on_model=say)
    raise typer.Exit(show_result(result))


def _show_findings(_: Any) -> None:
    """Print what raises an alert where single flows do not."""
    say("alerts: what hosts do over time (`deepidea behaviours` lists it); single flows too with --flow-alerts")


def show_thresholds(thresholds: Any) -> None:
    """Print what raises an alert."""
    if thresholds is None:
        say(
            "alerts: flows more likely an attack than benign, at the class shares of training; `deepidea calibrate` "
            "sets thresholds from benign flows of your network"
        )
        return
    bounds = ", ".join(f"{name} above {bound:.6g}" for name, bound in thresholds.bounds.items())
    say(f"alerts: {bounds}; {thresholds.guarantee}")


@contextlib.contextmanager
def live_status(address: str) -> Iterator[Callable[[Any, Sequence[Any]], None]]:
    """Yield a callback of progress and deliveries that redraws a line, or without a terminal prints one at times."""
    from rich.live import Live

    if not err.is_terminal:
        yield _periodic_status(address)
        return
    # redrawn in place and removed at the end
    with Live(Text(f"reading {address}"), console=err, transient=True, refresh_per_second=4) as live:
        yield lambda progress, deliveries: live.update(status_line(address, progress, deliveries))


def _periodic_status(address: str) -> Callable[[Any, Sequence[Any]], None]:
    last = time.monotonic()

    def show(progress: Any, deliveries: Sequence[Any]) -> None:
        nonlocal last
        if time.monotonic() - last >= _REPORT_EVERY_S:
            last = time.monotonic()
            say(status_line(address, progress, deliveries).plain)

    return show


def status_line(address: str, progress: Any, deliveries: Sequence[Any]) -> Text:
    """Return one line: flows and their rate, alerts, queue, losses, partitions, sinks."""
    parts = [
        f"{address}: {progress.n_flows:,} flows, {progress.flows_per_s:,.0f}/s",
        f"{progress.n_alerts:,} alerts" + (f" ({progress.n_suppressed:,} suppressed)" if progress.n_suppressed else ""),
    ]
    if progress.n_queued:
        parts.append(f"{progress.n_queued} batches behind")
    for what, counts in (("skipped", progress.skipped), ("dropped", progress.dropped)):
        if counts:
            parts.append(f"{sum(counts.values()):,} {what}")
    if progress.n_store_retries:
        parts.append(f"{progress.n_store_retries} store retries")
    parts += _partitions(progress.held)
    parts += [_sink(delivery.status()) for delivery in deliveries]
    return Text("  |  ".join(parts))


def _partitions(held: Any) -> list[str]:
    """Return which partitions of a stream this process reads, and the trouble with its server."""
    if held is None:
        return []
    numbers = ", ".join(map(str, held.numbers)) or "none yet"
    retries = [f"{held.n_retries} retries of the stream"] if held.n_retries else []
    return [f"partitions: {numbers}", *retries, *([held.trouble] if held.trouble else [])]


def _sink(status: Any) -> str:
    waits = f", {status.n_waiting:,} wait" if status.n_waiting else ""
    dead = f", {status.n_dead:,} dead" if status.n_dead else ""
    down = " (down)" if status.last_error and status.n_waiting else ""
    return f"{status.sink}: {status.n_delivered:,} sent{waits}{dead}{down}"


def show_result(result: Any) -> int:
    """Print the figures of a detection, and return its exit code: 5 where alerts still wait for a sink."""
    at = result.progress
    say(
        f"{at.n_flows:,} flows in {duration(time.monotonic() - at.began_s)}, {at.n_alerts:,} new alerts"
        + (f", {at.n_suppressed:,} of them suppressed by allow rules" if at.n_suppressed else "")
        + (f", {at.n_duplicates:,} duplicates of stored ones" if at.n_duplicates else "")
    )
    if result.resumed:
        say(
            "resumed where an earlier run with this store stopped; to score everything again, with another detector "
            "or other thresholds, give another --store"
        )
    if at.latencies_s:
        say(f"delay from flow to alert: median {at.latency_s(0.5):.3f} s, 99 % within {at.latency_s(0.99):.3f} s")
    if at.held is not None and at.held.n_refused:
        say(f"{at.held.n_refused:,} more flows were read here but stored and counted by another process")
    show_losses(at.skipped, at.dropped)
    if at.n_forgotten:
        say(f"{at.n_forgotten:,} hosts, pairs and services were forgotten for newer ones within the hour")
    for status in result.deliveries:
        say(str(status))
    waiting = sum(status.n_waiting for status in result.deliveries)
    if waiting:
        say(f"{waiting:,} alerts wait in the store; deepidea detect with the same sink sends them")
    return 5 if waiting else 0
