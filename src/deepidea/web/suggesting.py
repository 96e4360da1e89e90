"""Allow rules that would keep one incident quiet, with what else each of them would."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from deepidea.flows.attack_classes import class_title
from deepidea.store.grouping import listing_of
from deepidea.store.store import Store
from deepidea.web.labels import port_text
from deepidea.web.views import Suggestion

_COLUMN = {"src": "src_ip", "dst": "dst_ip", "port": "dst_port", "class_name": "class"}


def suggestions_for(store: Store, incident: Mapping[str, Any]) -> tuple[Suggestion, ...]:
    """Return allow rules for a row of ``Store.incidents``, the narrowest first.

    All keep to the incident's class. The narrowest names the peer and the port too, where there is just one of each;
    the widest names the host alone.
    """
    if not _is_address(incident["host"]):
        return ()
    return tuple(_suggestion(store, incident, rule) for rule in _rules(incident))


def _rules(incident: Mapping[str, Any]) -> list[dict[str, str]]:
    own, other = ("src", "dst") if incident["role"] == "source" else ("dst", "src")
    wide = {own: incident["host"], "class_name": incident["class"]}
    peer, port = (_only(incident, name) for name in ("hosts", "ports"))
    parts = {**({other: peer} if peer and _is_address(peer) else {}), **({"port": port} if port else {})}
    narrower = [{**wide, name: value} for name, value in parts.items()]
    whole = [{**wide, **parts}] if len(parts) > 1 else []
    return [*whole, *narrower, wide]


def _only(incident: Mapping[str, Any], name: str) -> str | None:
    """Return the one host or port of an incident, None where it has none or several."""
    listing = listing_of(incident[name], incident[f"n_{name}"], most=2)
    return next(iter(listing.top)) if len(listing.top) == 1 and listing.n_more <= 0 else None


def _suggestion(store: Store, incident: Mapping[str, Any], rule: Mapping[str, str]) -> Suggestion:
    criteria = {_COLUMN[name]: int(value) if name == "port" else value for name, value in rule.items()}
    n_alerts = store.count_alerts_like(criteria)
    return Suggestion(dict(rule), _says(rule), n_alerts, max(n_alerts - incident["n_alerts"], 0))


def _says(rule: Mapping[str, str]) -> str:
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
