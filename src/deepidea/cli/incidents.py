"""The commands `deepidea incidents` and `deepidea alerts`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepidea.cli.alert_cells import ID_SHOWN, endpoint_cell, id_column, severity_cell, time_cell
from deepidea.cli.options import AlertFormat, Limit, StoreUrl, known_store, option
from deepidea.cli.terminal import duration, show_table

if TYPE_CHECKING:
    from deepidea.store.incidents import FullIncident


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
    from deepidea.store import incidents as stored

    with known_store(store) as opened:
        found = opened.query(stored.find_full, host=host, severity=severity, limit=limit).items
    if as_json:
        sys.stdout.writelines(json.dumps(_json(full), default=_iso) + "\n" for full in found)
        return
    with_evidence = any(full.incident.sentence for full in found)
    names = ("severity", "class", "host", "from", "for", "alerts", *(("evidence",) if with_evidence else ()), "ports",
             "hosts", "status", id_column("incident"))  # fmt: skip
    show_table(names, (_incident(full, with_evidence=with_evidence) for full in found), empty="no incidents")


def _json(full: FullIncident) -> dict[str, Any]:
    of = full.incident
    names = ("incident_id", "role", "host", "first", "last", "n_alerts", "severity", "score", "n_ports", "n_hosts",
             "status", "note", "changed", "behaviours", "behaviour", "sentence")  # fmt: skip
    listed = {"incident_key": full.incident_key, "class": of.class_name, "ports": full.ports, "hosts": full.hosts}
    finding = None if of.finding is None else asdict(of.finding)
    return {**{name: getattr(of, name) for name in names}, **listed, "finding": finding}


def _iso(when: datetime) -> str:
    return when.isoformat()


def _incident(full: FullIncident, *, with_evidence: bool) -> tuple[Any, ...]:
    of = full.incident
    return (
        severity_cell(of.severity),
        of.class_name,
        f"{of.host or '?'} ({of.role})",
        time_cell(of.first),
        duration(of.duration_s),
        f"{of.n_alerts:,}",
        *((of.sentence or "",) if with_evidence else ()),
        _most_frequent(full.ports, of.n_ports),
        _most_frequent(full.hosts, of.n_hosts),
        of.status,
        of.incident_id[:ID_SHOWN],
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
    suppressed: Annotated[bool, option("List the alerts that allow rules suppress.", "--suppressed")] = False,
    format: Annotated[AlertFormat | None, option("Print lines of this format instead of a table.")] = None,
    quiet: Annotated[bool, option("Former name of --suppressed.", "--quiet", hidden=True)] = False,
) -> None:
    """List alerts, latest first."""
    from deepidea.detection.sinks.formats.rendering import render
    from deepidea.store import incidents as stored
    from deepidea.store.alerts import find_table

    with known_store(store) as opened, opened.read() as connection:
        wanted = None if incident is None else stored.find_id(connection, incident)
        rows = find_table(connection, incident=wanted, suppressed=suppressed or quiet, limit=limit)
    if format is not None:
        sys.stdout.writelines(line + "\n" for line in render(rows, format))
        return
    with_evidence = rows["sentence"].null_count() < rows.height
    names = ("time", "severity", "class", "score", "from", "to", "protocol",
             *(("evidence",) if with_evidence else ()), id_column("alert"))  # fmt: skip
    found = rows.iter_rows(named=True)
    show_table(names, (_alert(row, with_evidence=with_evidence) for row in found), empty="no alerts")


def _alert(row: dict[str, Any], *, with_evidence: bool) -> tuple[Any, ...]:
    return (
        time_cell(row["time"]),
        severity_cell(row["severity"]),
        row["class"] + (" (unknown)" if row["unknown"] else ""),
        f"{row['score']:.4f}",
        endpoint_cell(row["src_ip"], row["src_port"]),
        endpoint_cell(row["dst_ip"], row["dst_port"]),
        row["protocol"] or "?",
        *((row["sentence"] or "",) if with_evidence else ()),
        row["alert_id"][:ID_SHOWN],
    )
