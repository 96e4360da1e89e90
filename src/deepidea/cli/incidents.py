"""The commands `deepidea incidents` and `deepidea alerts`."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from deepidea.cli.alert_cells import ID_SHOWN, endpoint_cell, id_column, severity_cell, time_cell
from deepidea.cli.options import AlertFormat, Limit, StoreUrl, known_store, option
from deepidea.cli.terminal import duration, show_table


def incidents(
    store: StoreUrl = "",
    host: Annotated[str | None, option("Only incidents of this address.")] = None,
    severity: Annotated[int | None, option("Only this severity or a more urgent one; 1 is critical.", min=1, max=4)] = (
        None
    ),
    limit: Limit = 50,
    as_json: Annotated[bool, option("Print JSON lines.", "--json")] = False,
) -> None:
    """List incidents, groups of related alerts, latest first."""
    with known_store(store) as opened:
        rows = opened.incidents(host=host, severity=severity, limit=limit).rows
    if as_json:
        sys.stdout.write(rows.write_ndjson())
        return
    names = ("severity", "class", "host", "from", "for", "alerts", "ports", "hosts", "status", id_column("incident"))
    show_table(names, map(_incident, rows.iter_rows(named=True)), empty="no incidents")


def _incident(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        severity_cell(row["severity"]),
        row["class"],
        f"{row['host'] or '?'} ({row['role']})",
        time_cell(row["first"]),
        duration((row["last"] - row["first"]).total_seconds()),
        f"{row['n_alerts']:,}",
        _most_frequent(row["ports"], row["n_ports"]),
        _most_frequent(row["hosts"], row["n_hosts"]),
        row["status"] or "open",
        row["incident_id"][:ID_SHOWN],
    )


def _most_frequent(counts: str, n: int) -> str:
    """Return the most frequent value of an incident's counts (JSON), and how many others there are."""
    listed = json.loads(counts)
    ranked = sorted(zip(listed["counts"], listed["values"], strict=True), key=lambda pair: (-pair[0], pair[1]))
    return "".join(value for _, value in ranked[:1]) + (f" +{n - 1:,}" if n > 1 else "")


def alerts(
    incident: Annotated[
        str | None, typer.Argument(help="Incident id or its beginning; by default alerts of all incidents.")
    ] = None,
    store: StoreUrl = "",
    limit: Limit = 50,
    quiet: Annotated[bool, option("List the alerts that allow rules suppress.")] = False,
    format: Annotated[AlertFormat | None, option("Print lines of this format instead of a table.")] = None,
) -> None:
    """List alerts, latest first."""
    from deepidea.detection.sinks.formats.rendering import render

    with known_store(store) as opened:
        wanted = None if incident is None else opened.find_incident(incident)
        rows = opened.alerts(incident=wanted, suppressed=quiet, limit=limit).rows
    if format is not None:
        sys.stdout.writelines(line + "\n" for line in render(rows, format))
        return
    names = ("time", "severity", "class", "score", "from", "to", "protocol", id_column("alert"))
    show_table(names, map(_alert, rows.iter_rows(named=True)), empty="no alerts")


def _alert(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        time_cell(row["time"]),
        severity_cell(row["severity"]),
        row["class"] + (" (unknown)" if row["unknown"] else ""),
        f"{row['score']:.4f}",
        endpoint_cell(row["src_ip"], row["src_port"]),
        endpoint_cell(row["dst_ip"], row["dst_port"]),
        row["protocol"] or "?",
        row["alert_id"][:ID_SHOWN],
    )
