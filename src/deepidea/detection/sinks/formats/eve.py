"""Alerts as events of Suricata's EVE log."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from deepidea.detection.sinks.formats.alert_fields import (
    Alert,
    ip_version,
    is_icmp,
    number_of,
    present,
    signature_of,
    technique_of,
    to_json,
    verdict,
)
from deepidea.flows.attack_classes import attack_class_of

_EVE_PROTOCOLS = MappingProxyType({"ipv6-icmp": "IPv6-ICMP"})  # the others are in capitals


def to_eve(alert: Alert) -> str:
    """Return an alert as an event of Suricata's EVE log (``etc/schema.json``), with an object ``deepidea`` of ours.

    ``timestamp`` is the end of the flow. An ICMP flow has its type and code in place of ports.
    """
    icmp, protocol = is_icmp(alert), alert["protocol"] or "unknown"
    event = {
        "timestamp": alert["time"],
        "flow_id": int(alert["alert_id"][-13:], 16) >> 1,  # 51 bits: exact in JSON numbers read as doubles
        "event_type": "alert",
        "src_ip": alert["src_ip"],
        "src_port": None if icmp else alert["src_port"],
        "dest_ip": alert["dst_ip"],
        "dest_port": None if icmp else alert["dst_port"],
        "proto": _EVE_PROTOCOLS.get(protocol, protocol.upper()),
        "icmp_type": alert["src_port"] if icmp else None,
        "icmp_code": alert["dst_port"] if icmp else None,
        "ip_v": ip_version(alert["src_ip"]),
        "community_id": alert["community_id"],
        "alert": _eve_alert(alert),
        "flow": _eve_flow(alert),
        "deepidea": verdict(alert),
    }
    return to_json(present(event))


def _eve_alert(alert: Alert) -> dict[str, Any]:
    signature, technique = signature_of(alert), technique_of(alert)
    behaviour = {"behaviour": [alert["behaviour"]]} if alert["behaviour"] else {}
    metadata = behaviour if technique is None else {
        **behaviour,
        "mitre_tactic_id": [technique.tactic_uid],
        "mitre_tactic_name": [technique.tactic],
        "mitre_technique_id": [technique.uid],
        "mitre_technique_name": [technique.name],
    }  # fmt: skip
    event = {
        "action": "allowed",
        "gid": 1,
        "signature_id": number_of(signature),
        "rev": 1,
        "signature": signature,
        "category": attack_class_of(alert["class"]).eve_category,
        "severity": alert["severity"],
        "metadata": metadata,
    }
    return present(event)


def _eve_flow(alert: Alert) -> dict[str, Any]:
    counts = {
        "pkts_toserver": alert["fwd_packets"],
        "pkts_toclient": alert["bwd_packets"],
        "bytes_toserver": alert["fwd_bytes"],
        "bytes_toclient": alert["bwd_bytes"],
    }
    return present({**counts, "start": alert["start"], "end": alert["end"]})
