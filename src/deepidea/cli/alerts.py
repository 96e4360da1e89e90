"""Commands on what a store holds: incidents and alerts, allow rules, drift, counters."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from deepidea.cli.alert_tables import show_alerts, show_incidents, show_rules, show_store
from deepidea.cli.drift_tables import show_drift
from deepidea.cli.options import AlertFormat, AsJson, Limit, StoreUrl
from deepidea.cli.terminal import say, write_json
from deepidea.errors import DataError


class AgainstWhat(StrEnum):
    """Flows that drift is judged by; the values of ``Against``."""

    training = "training"
    site = "site"


def incidents(
    store: StoreUrl = "",
    host: Annotated[str | None, typer.Option(help="Of this address.")] = None,
    severity: Annotated[
        int | None, typer.Option(min=1, max=4, help="As urgent as this at least; 1 is the most.")
    ] = None,
    limit: Limit = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """List incidents: alerts that belong together, the latest first."""
    from deepidea.detection.runner import open_known_store

    with open_known_store(store) as opened:
        rows = opened.incidents(host=host, severity=severity, limit=limit).rows
    if as_json:
        sys.stdout.write(rows.write_ndjson())
    else:
        show_incidents(rows)


def alerts(
    incident: Annotated[
        str | None, typer.Argument(help="Incident whose alerts to list, or how its id begins; all where absent.")
    ] = None,
    store: StoreUrl = "",
    limit: Limit = 50,
    quiet: Annotated[bool, typer.Option(help="List those that allow rules keep quiet.")] = False,
    format: Annotated[AlertFormat | None, typer.Option(help="Print lines of this format in place of a table.")] = None,
) -> None:
    """List alerts, the latest first."""
    from deepidea.detection.runner import open_known_store
    from deepidea.detection.sinks.formats.rendering import render

    with open_known_store(store) as opened:
        wanted = None if incident is None else opened.find_incident(incident)
        rows = opened.alerts(incident=wanted, suppressed=quiet, limit=limit).rows
    if format is None:
        show_alerts(rows)
    else:
        sys.stdout.writelines(line + "\n" for line in render(rows, format.value))


def allow_list(store: StoreUrl = "") -> None:
    """List the allow rules of a store."""
    from deepidea.detection.runner import open_known_store

    with open_known_store(store) as opened:
        show_rules(opened.rules())


def allow_add(
    src: Annotated[str | None, typer.Option(help="Address or CIDR block that opens the flow.")] = None,
    dst: Annotated[str | None, typer.Option(help="Address or block that answers.")] = None,
    host: Annotated[str | None, typer.Option(help="Address or block of either.")] = None,
    peer: Annotated[str | None, typer.Option(help="The other one of a pair with --host.")] = None,
    port: Annotated[str | None, typer.Option(help="Port asked for, or a range: 8000-8100.")] = None,
    class_name: Annotated[str | None, typer.Option("--class", help="Class of the alert.")] = None,
    expires: Annotated[datetime | None, typer.Option(help="When the rule ends, UTC.")] = None,
    note: Annotated[str, typer.Option(help="Why.")] = "",
    store: StoreUrl = "",
) -> None:
    """Keep alerts quiet to which all of the criteria apply: new ones, and those that are stored."""
    from deepidea.detection.runner import default_store
    from deepidea.store.allow_rules import AllowRule
    from deepidea.store.store import open_store

    rule = AllowRule(src, dst, host, peer, port, class_name, expires, note)
    with open_store(store or default_store()) as opened:
        n_changed = opened.add_rule(rule)
    say(f"{rule.rule_id}: {rule}; {n_changed:,} stored alerts are quiet now")


def allow_remove(
    rule_id: Annotated[str, typer.Argument(help="Rule, as `deepidea allow list` names it.")], store: StoreUrl = ""
) -> None:
    """Remove an allow rule, and let go the alerts that it kept quiet."""
    from deepidea.detection.runner import open_known_store

    with open_known_store(store) as opened:
        if rule_id not in {rule.rule_id for rule in opened.rules()}:
            raise DataError(f"a rule must be one of the store's, however: it has no {rule_id}; see deepidea allow list")
        n_changed = opened.remove_rule(rule_id)
    say(f"removed {rule_id}; {n_changed:,} stored alerts are told again")


def drift(
    store: StoreUrl = "",
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Detector file; the one that scored last where absent.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Flows of this source, as `store status` names it.")] = None,
    against: Annotated[
        AgainstWhat | None, typer.Option(help="Flows to compare with; the site's where the detector was calibrated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether the flows of the last 24 hours are like those that the detector was trained on."""
    from deepidea.detection.drift import stored_drift
    from deepidea.detection.engine import fingerprint
    from deepidea.detection.runner import open_known_store
    from deepidea.model.detector import Detector

    named = None if model is None else fingerprint(Detector.load(model))
    kind: Any = against.value if against else None
    with open_known_store(store) as opened, opened.read() as connection:
        report = stored_drift(connection, model=named, source=source, against=kind)
    if as_json:
        write_json(report.to_dict())
    else:
        show_drift(report)


def store_status(store: StoreUrl = "") -> None:
    """Tell what came of each source, and how each sink stands."""
    from deepidea.detection.runner import open_known_store

    with open_known_store(store) as opened:
        show_store(opened.url, opened.counters(), opened.sink_counters())


def store_purge(
    days: Annotated[float, typer.Option(min=0, help="Alerts and incidents older than this go.")],
    store: StoreUrl = "",
) -> None:
    """Let alerts and incidents go that are old by the time of their flows: of a replayed capture, its own."""
    from deepidea.detection.runner import open_known_store

    with open_known_store(store) as opened:
        gone = opened.purge(datetime.now(UTC) - timedelta(days=days))
    say(f"{gone.n_alerts:,} alerts are gone")
