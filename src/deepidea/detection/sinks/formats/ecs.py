"""Alerts as documents of the Elastic Common Schema."""

from __future__ import annotations

from typing import Any

from deepidea import __version__
from deepidea.detection.sinks.formats.alert_fields import (
    PRODUCT,
    VENDOR,
    Alert,
    added,
    direction_of,
    ip_version,
    is_icmp,
    number_of,
    present,
    sentence,
    signature_of,
    technique_of,
    to_json,
    verdict,
)
from deepidea.flows.identity import transport_number

ECS_VERSION = "8.17.0"
LONGEST_KEYWORD = 1024  # beyond, Elasticsearch does not index it


def to_ecs(alert: Alert) -> str:
    """Return an alert as a document of the Elastic Common Schema 8, with an object ``deepidea`` of ours."""
    icmp, number = is_icmp(alert), transport_number(alert["protocol"])
    document = {
        "@timestamp": alert["time"],
        "ecs": {"version": ECS_VERSION},
        "message": sentence(alert),
        "event": _ecs_event(alert),
        "rule": _ecs_rule(alert),
        "threat": _ecs_threat(alert),
        "source": _ecs_end(alert, "src", "fwd", with_port=not icmp),
        "destination": _ecs_end(alert, "dst", "bwd", with_port=not icmp),
        "network": present(
            {
                "transport": alert["protocol"],
                "iana_number": None if number is None else str(number),
                "type": {4: "ipv4", 6: "ipv6"}.get(ip_version(alert["src_ip"]) or 0),
                "community_id": alert["community_id"],
                "direction": direction_of(alert),
                "bytes": added(alert["fwd_bytes"], alert["bwd_bytes"]),
                "packets": added(alert["fwd_packets"], alert["bwd_packets"]),
            }
        ),
        "observer": {"vendor": VENDOR, "product": PRODUCT, "type": "ids", "version": __version__},
        "deepidea": verdict(alert),
    }
    return to_json(present(document))


def _ecs_event(alert: Alert) -> dict[str, Any]:
    return present(
        {
            "kind": "alert",
            "category": ["intrusion_detection", "network"],
            "type": ["info"],
            "id": alert["alert_id"],
            "module": "deepidea",
            "dataset": "deepidea.alert",
            "provider": "deepidea",
            "reason": None if alert["sentence"] is None else alert["sentence"][:LONGEST_KEYWORD],
            "severity": alert["severity"],
            "risk_score": round(100 * alert["score"], 4),
            "start": alert["start"],
            "end": alert["end"],
            "duration": alert["duration_ns"],
        }
    )


def _ecs_rule(alert: Alert) -> dict[str, Any]:
    signature = signature_of(alert)
    return {"id": str(number_of(signature)), "name": signature, "category": alert["class"], "version": alert["model"]}


def _ecs_threat(alert: Alert) -> dict[str, Any]:
    technique = technique_of(alert)
    if technique is None:
        return {}
    return {
        "framework": "MITRE ATT&CK",
        "tactic": {"id": [technique.tactic_uid], "name": [technique.tactic]},
        "technique": {"id": [technique.uid], "name": [technique.name]},
    }


def _ecs_end(alert: Alert, end: str, way: str, *, with_port: bool) -> dict[str, Any]:
    address = alert[f"{end}_ip"]
    return present(
        {
            "address": address,
            "ip": address if ip_version(address) else None,
            "port": alert[f"{end}_port"] if with_port else None,
            "bytes": alert[f"{way}_bytes"],
            "packets": alert[f"{way}_packets"],
        }
    )
