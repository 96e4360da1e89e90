"""What the detection commands show: a live line while they watch, incidents, alerts, rules and counters."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from deepidea.cli.terminal import duration, err, out, print_wide, say, show_losses

_ID_SHOWN = 18  # tells incidents, and alerts, apart; commands take the beginning of an id
_TELL_EVERY_S = 10.0  # where there is no terminal to redraw
SEVERITIES = {1: "critical", 2: "high", 3: "medium", 4: "low"}  # read without loading what makes alerts
_SEVERITY_STYLES = {1: "bold red", 2: "red", 3: "yellow", 4: "dim"}


@contextlib.contextmanager
def watching(address: str) -> Iterator[Callable[[Any, Sequence[Any]], None]]:
    """Yield a callback of progress and deliveries that redraws a line, or without a terminal tells one at times."""
    from rich.live import Live

    if not err.is_terminal:
        yield _told_now_and_then(address)
        return
    with Live(Text(f"watching {address}"), console=err, transient=True, refresh_per_second=4) as live:
        yield lambda progress, deliveries: live.update(status_line(address, progress, deliveries))


def _told_now_and_then(address: str) -> Callable[[Any, Sequence[Any]], None]:
    last = time.monotonic()

    def show(progress: Any, deliveries: Sequence[Any]) -> None:
        nonlocal last
        if time.monotonic() - last >= _TELL_EVERY_S:
            last = time.monotonic()
            say(status_line(address, progress, deliveries).plain)

    return show


def status_line(address: str, progress: Any, deliveries: Sequence[Any]) -> Text:
    """Return one line: flows and their rate, alerts, what waits, what was lost, how sinks stand."""
    parts = [
        f"{address}: {progress.n_flows:,} flows, {progress.flows_per_s:,.0f}/s",
        f"{progress.n_alerts:,} alerts" + (f" ({progress.n_suppressed:,} quiet)" if progress.n_suppressed else ""),
    ]
    if progress.n_queued:
        parts.append(f"{progress.n_queued} batches behind")
    for what, counts in (("skipped", progress.skipped), ("dropped", progress.dropped)):
        if counts:
            parts.append(f"{sum(counts.values()):,} {what}")
    if progress.n_store_retries:
        parts.append(f"{progress.n_store_retries} store retries")
    parts += _told_shares(progress.shares)
    parts += [_told_sink(delivery.status()) for delivery in deliveries]
    return Text("  |  ".join(parts))


def _told_shares(shares: Any) -> list[str]:
    """Return which shares of a stream are read here, and what is the matter with its server."""
    if shares is None:
        return []
    held = ", ".join(map(str, shares.held)) or "none yet"
    again = [f"{shares.n_retries} retries of the stream"] if shares.n_retries else []
    return [f"shares: {held}", *again, *([shares.trouble] if shares.trouble else [])]


def _told_sink(status: Any) -> str:
    waits = f", {status.n_waiting:,} wait" if status.n_waiting else ""
    dead = f", {status.n_dead:,} dead" if status.n_dead else ""
    down = " (down)" if status.last_error and status.n_waiting else ""
    return f"{status.sink}: {status.n_delivered:,} sent{waits}{dead}{down}"


def show_rule(thresholds: Any) -> None:
    """Tell what raises an alert."""
    if thresholds is None:
        say(
            "alerts: flows likelier an attack than benign, by the shares of training; `deepidea calibrate` sets "
            "thresholds by benign flows of your own network, with a promise about false alarms"
        )
        return
    bounds = ", ".join(f"{name} above {bound:.6g}" for name, bound in thresholds.bounds.items())
    say(f"alerts: {bounds}; {thresholds.guarantee}")


def show_watched(watched: Any) -> int:
    """Tell what a detection came to, and return its exit code: 5 where a sink has not taken all that it is owed."""
    at = watched.progress
    say(
        f"{at.n_flows:,} flows in {duration(time.monotonic() - at.began_s)}, {at.n_alerts:,} new alerts"
        + (f", {at.n_suppressed:,} of them kept quiet by allow rules" if at.n_suppressed else "")
        + (f", {at.n_duplicates:,} known already" if at.n_duplicates else "")
    )
    if watched.resumed:
        say(
            "it went on where an earlier run with this store had stopped; to score all of it again, with another "
            "detector or other thresholds, give another --store"
        )
    if at.latencies_s:
        say(
            f"delay from flow to stored alert: median {at.latency_s(0.5):.3f} s, 99 % within {at.latency_s(0.99):.3f} s"
        )
    if at.shares is not None and at.shares.n_refused:
        say(f"{at.shares.n_refused:,} flows more were read here and stored by another process, which counts them")
    show_losses(at.skipped, at.dropped)
    for status in watched.deliveries:
        say(str(status))
    waiting = sum(status.n_waiting for status in watched.deliveries)
    if waiting:
        say(f"{waiting:,} alerts wait in the store; they are sent when detect runs again with the same sink")
    return 5 if waiting else 0


def show_calibration(done: Any, n_flows: int) -> None:
    """Tell what thresholds were set, by what, and what they promise."""
    thresholds = done.thresholds
    for name, bound in thresholds.bounds.items():
        say(f"{name} above {bound:.6g} raises an alert")
    say(thresholds.guarantee)
    say(f"by class alone, {done.n_predicted_attacks:,} of these {n_flows:,} benign flows would have raised one")
    if done.n_in_training:
        say(f"{done.n_in_training:,} of them equal a training flow in every feature; the promise counts on fresh ones")


def show_sources(sources: Mapping[str, Any]) -> None:
    """Print the kinds of sources."""
    table = Table("name", "what", "schema", "resumes", Column("address", overflow="fold"), box=None, pad_edge=False)
    for name, info in sources.items():
        table.add_row(name, info.title, info.schema, "yes" if info.replayable else "no", info.example)
    print_wide(table)


def show_incidents(rows: Any) -> None:
    """Print incidents, the latest first."""
    if rows.is_empty():
        say("no incidents")
        return
    names = ("severity", "class", "host", "from", "for", "alerts", "ports", "hosts", "status", "incident")
    table = Table(*names[:-1], Column(names[-1], no_wrap=True, min_width=_ID_SHOWN), box=None, pad_edge=False)
    for row in rows.iter_rows(named=True):
        long = (row["last"] - row["first"]).total_seconds()
        table.add_row(
            Text(SEVERITIES[row["severity"]], _SEVERITY_STYLES[row["severity"]]),
            row["class"],
            f"{row['host'] or '?'} ({row['role']})",
            shown_time(row["first"]),
            duration(long),
            f"{row['n_alerts']:,}",
            _few(row["ports"], row["n_ports"]),
            _few(row["hosts"], row["n_hosts"]),
            row["status"] or "open",
            row["incident_id"][:_ID_SHOWN],
        )
    print_wide(table)


def _few(listed: str, n: int) -> str:
    """Return the most frequent of what an incident lists, and how many others there are."""
    kept = json.loads(listed)
    ranked = sorted(zip(kept["counts"], kept["values"], strict=True), key=lambda pair: (-pair[0], pair[1]))
    return "".join(value for _, value in ranked[:1]) + (f" +{n - 1:,}" if n > 1 else "")


def shown_time(when: datetime | None) -> str:
    """Return a time to the second."""
    return "?" if when is None else when.strftime("%Y-%m-%d %H:%M:%S")


def show_alerts(rows: Any) -> None:
    """Print alerts, the latest first."""
    if rows.is_empty():
        say("no alerts")
        return
    names = ("time", "severity", "class", "score", "from", "to", "protocol")
    table = Table(*names, Column("alert", no_wrap=True, min_width=_ID_SHOWN), box=None, pad_edge=False)
    for row in rows.iter_rows(named=True):
        table.add_row(
            shown_time(row["time"]),
            Text(SEVERITIES[row["severity"]], _SEVERITY_STYLES[row["severity"]]),
            row["class"] + (" (unknown)" if row["unknown"] else ""),
            f"{row['score']:.4f}",
            shown_endpoint(row["src_ip"], row["src_port"]),
            shown_endpoint(row["dst_ip"], row["dst_port"]),
            row["protocol"] or "?",
            row["alert_id"][:_ID_SHOWN],
        )
    print_wide(table)


def shown_endpoint(address: str | None, port: int | None) -> str:
    """Return an address and a port as people write them."""
    if address is None:
        return "?"
    shown = f"[{address}]" if ":" in address and port is not None else address
    return shown if port is None else f"{shown}:{port}"


def show_rules(rules: Sequence[Any]) -> None:
    """Print allow rules."""
    if not rules:
        say("no allow rules")
        return
    table = Table("rule", "keeps quiet", "until", "from", "note", box=None, pad_edge=False)
    for rule in rules:
        table.add_row(rule.rule_id, str(rule), shown_time(rule.expires) if rule.expires else "for ever",
                      rule.origin or "by hand", rule.note)  # fmt: skip
    print_wide(table)


def show_store(url: str, sources: Sequence[Any], sinks: Sequence[Any]) -> None:
    """Print what came of each source, and how each sink stands."""
    out.print(url, markup=False, soft_wrap=True)
    table = Table("source", "flows", "alerts", "quiet", "skipped", "dropped", "updated", box=None, pad_edge=False)
    for at in sources:
        counts = (at.n_flows, at.n_alerts, at.n_suppressed, sum(at.skipped.values()), sum(at.dropped.values()))
        table.add_row(at.name, *(f"{n:,}" for n in counts), shown_time(at.updated))
    print_wide(table)
    if sinks:
        table = Table("sink", "delivered", "waiting", "dead letters", "lost", box=None, pad_edge=False)
        for sink in sinks:
            told = (sink.n_delivered, sink.n_waiting, sink.n_dead, sink.n_lost)
            table.add_row(sink.sink, *(f"{n:,}" for n in told))
        print_wide(table)
    for at in sources:
        show_losses(at.skipped, at.dropped)
