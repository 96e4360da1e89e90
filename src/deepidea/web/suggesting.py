"""Suggested allow rules for an incident, with the alerts that each would suppress."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import sqlalchemy as sa

from deepidea.flows.attack_classes import class_title
from deepidea.store.alerts import count_like
from deepidea.store.grouping import listing_of
from deepidea.store.headline import port_text
from deepidea.store.incidents import FullIncident
from deepidea.web.views import Suggestion

_COLUMN = {"src": "src_ip", "dst": "dst_ip", "port": "dst_port", "class_name": "class"}


def suggestions_for(connection: sa.Connection, full: FullIncident) -> tuple[Suggestion, ...]:
    """Return allow rules for an incident, the narrowest first.

    All have the incident's class and host; narrower ones also its peer or its port, if it has only one.
    """
    if not _is_address(full.incident.host):
        return ()
    rules = _rules(full)
    criteria = [
        {_COLUMN[name]: int(value) if name == "port" else value for name, value in rule.items()} for rule in rules
    ]
    counts = count_like(connection, criteria)
    own = full.incident.n_alerts
    return tuple(Suggestion(rule, _text_of(rule), n, max(n - own, 0)) for rule, n in zip(rules, counts, strict=True))


def _rules(full: FullIncident) -> list[dict[str, str]]:
    incident, finding = full.incident, full.incident.finding
    own, other = ("src", "dst") if incident.role == "source" else ("dst", "src")
    wide = {own: incident.host, "class_name": incident.class_name}
    peer = _only(full.hosts, incident.n_hosts) if finding is None or finding.names_peer(incident.role) else None
    port = _only(full.ports, incident.n_ports) if finding is None or finding.names_port else None
    parts = {**({other: peer} if peer and _is_address(peer) else {}), **({"port": port} if port else {})}
    narrower = [{**wide, name: value} for name, value in parts.items()]
    whole = [{**wide, **parts}] if len(parts) > 1 else []
    return [*whole, *narrower, wide]


def _only(stored: str, n_distinct: int) -> str | None:
    """Return the single host or port of an incident, None where it has none or several."""
    listing = listing_of(stored, n_distinct, most=2)
    return next(iter(listing.top)) if len(listing.top) == 1 and listing.n_more <= 0 else None


def _text_of(rule: Mapping[str, str]) -> str:
    ends = [f"from {rule['src']}"] if "src" in rule else []
    ends += [f"to {rule['dst']}"] if "dst" in rule else []
    at = f" on {port_text(rule['port'])}" if "port" in rule else ""
    return f"{class_title(rule['class_name'])} {' '.join(ends)}{at}"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
