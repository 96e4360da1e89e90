"""Alerts as findings of the Open Cybersecurity Schema Framework."""

from __future__ import annotations

from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from deepidea import __version__
from deepidea.detection.sinks.formats.alert_fields import (
    PRODUCT,
    VENDOR,
    Alert,
    direction_of,
    finding_in,
    ip_version,
    is_icmp,
    present,
    sentence,
    signature_of,
    technique_of,
    to_json,
    verdict,
)
from deepidea.flows.identity import transport_number

OCSF_VERSION = "1.5.0"


_OCSF_SEVERITIES = MappingProxyType({1: (5, "Critical"), 2: (4, "High"), 3: (3, "Medium"), 4: (2, "Low")})


_OCSF_DIRECTIONS = MappingProxyType(
    {"inbound": (1, "Inbound"), "outbound": (2, "Outbound"), "internal": (3, "Lateral")}
)


def to_ocsf(alert: Alert) -> str:
    """Return an alert as a Detection Finding of OCSF (class 2004), activity Create."""
    severity_id, severity = _OCSF_SEVERITIES[alert["severity"]]
    finding = {
        "activity_id": 1,
        "activity_name": "Create",
        "category_uid": 2,
        "category_name": "Findings",
        "class_uid": 2004,
        "class_name": "Detection Finding",
        "type_uid": 200401,
        "type_name": "Detection Finding: Create",
        "time": alert["time"],
        "start_time": alert["start"],
        "end_time": alert["end"],
        "severity_id": severity_id,
        "severity": severity,
        "status_id": 1,
        "status": "New",
        # A finding that is meant to be looked at, not one of many observations.
        "is_alert": True,
        "confidence_score": round(100 * alert["score"]),
        "message": sentence(alert),
        "metadata": {
            "version": OCSF_VERSION,
            "uid": alert["alert_id"],
            "product": {"name": PRODUCT, "vendor_name": VENDOR, "version": __version__},
        },
        "finding_info": _ocsf_info(alert),
        "evidences": _ocsf_evidences(alert),
        "unmapped": {"deepidea": {name: of for name, of in verdict(alert).items() if name != "finding"}},
    }
    return to_json(present(finding))


def _ocsf_info(alert: Alert) -> dict[str, Any]:
    return present(
        {
            "uid": alert["alert_id"],
            "title": signature_of(alert),
            "desc": alert["sentence"],
            "types": [alert["class"]],
            "attacks": _ocsf_attacks(alert),
            "created_time": alert["time"],
            "first_seen_time": alert["start"],
            "last_seen_time": alert["end"],
            "analytic": _ocsf_analytic(alert),
        }
    )


def _ocsf_analytic(alert: Alert) -> dict[str, Any]:
    if alert["behaviour"]:
        return {"uid": alert["behaviour"], "name": f"{PRODUCT} behaviours", "type_id": 2, "type": "Behavioral"}
    return {"uid": alert["model"], "name": PRODUCT, "type_id": 4, "type": "Learning (ML/DL)"}


def _ocsf_attacks(alert: Alert) -> list[dict[str, Any]] | None:
    technique = technique_of(alert)
    if technique is None:
        return None
    tactic = {"uid": technique.tactic_uid, "name": technique.tactic}
    return [{"tactic": tactic, "technique": {"uid": technique.uid, "name": technique.name}}]


def _ocsf_evidences(alert: Alert) -> list[dict[str, Any]] | None:
    number, version = transport_number(alert["protocol"]), ip_version(alert["src_ip"])
    direction_id, direction = _OCSF_DIRECTIONS.get(direction_of(alert) or "", (0, "Unknown"))
    connection = {
        "direction_id": direction_id,
        "direction": direction,
        "protocol_num": number,
        "protocol_name": alert["protocol"],
        "protocol_ver_id": version or 0,
        "community_uid": alert["community_id"],
    }
    ends = {"src_endpoint": _ocsf_end(alert, "src"), "dst_endpoint": _ocsf_end(alert, "dst")}
    finding = finding_in(alert)
    data = {"data": present(asdict(finding))} if finding else {}
    return [{**present(ends), "connection_info": present(connection), **data}]


def _ocsf_end(alert: Alert, end: str) -> dict[str, Any]:
    """Return an endpoint, nothing where the address is not known: one must have an address or a name."""
    address = alert[f"{end}_ip"]
    if address is None:
        return {}
    port = None if is_icmp(alert) else alert[f"{end}_port"]
    return present({"ip" if ip_version(address) else "name": address, "port": port})
