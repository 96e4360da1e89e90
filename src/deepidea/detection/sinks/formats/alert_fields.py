"""Fields of an alert that several formats share: signature, number, sentence, verdict."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from deepidea.flows.attack_classes import Technique, attack_class_of, technique_by_id
from deepidea.store.findings import Finding, finding_of

Alert = Mapping[str, Any]

PRODUCT, VENDOR = "DeepIDEA", "DeepIDEA"
LOCAL_SIDS = 1_000_000  # first of the million of signature numbers that are left to a site's own rules


def signature_of(alert: Alert) -> str:
    """Return the title of an alert: by its behaviour where a finding raised it, else by its class.

    Examples
    --------
    >>> signature_of({"class": "port_scan", "unknown": False}), signature_of({"class": "dos", "unknown": True})
    ('DeepIDEA: port_scan', 'DeepIDEA: unlike anything known, nearest dos')
    """
    if alert.get("behaviour"):
        return f"{PRODUCT}: {alert['behaviour']}"
    known = str(alert["class"])
    return f"{PRODUCT}: unlike anything known, nearest {known}" if alert.get("unknown") else f"{PRODUCT}: {known}"


def technique_of(alert: Alert) -> Technique | None:
    """Return the ATT&CK technique of an alert's finding, else of its class; None where the flow is unlike any class."""
    finding = finding_in(alert)
    if finding and finding.technique and (known := technique_by_id(finding.technique)):
        return known
    return None if alert.get("unknown") else attack_class_of(str(alert["class"])).technique


def finding_in(alert: Alert) -> Finding | None:
    """Return the finding that raised an alert."""
    return finding_of(alert.get("finding"), alert.get("behaviour"))


DIRECTIONS = MappingProxyType(
    {
        "outside to inside": "inbound",
        "inside to outside": "outbound",
        "inside": "internal",
        "outside": "external",
    }
)


def direction_of(alert: Alert) -> str | None:
    """Return the direction of a finding, seen from the edge of the home networks; None where it is not known."""
    finding = finding_in(alert)
    return DIRECTIONS.get(finding.direction or "") if finding else None


@lru_cache(maxsize=4096)
def number_of(signature: str) -> int:
    """Return a number for a signature, the same everywhere."""
    # From a hash of the text, for rules of a SIEM refer to it: a count would change with the order of classes.
    return LOCAL_SIDS + int.from_bytes(hashlib.blake2b(signature.encode(), digest_size=8).digest()) % LOCAL_SIDS


def present(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that have a value."""
    return {name: value for name, value in entries.items() if value is not None and value != {}}


to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def added(*counts: int | None) -> int | None:
    """Return the sum of the known counts, None where none is known."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


@lru_cache(maxsize=65_536)
def ip_version(address: str | None) -> int | None:
    """Return 4 or 6, None of what is no IP address."""
    try:
        return None if address is None else ipaddress.ip_address(address).version
    except ValueError:
        return None


def is_icmp(alert: Alert) -> bool:
    """Return whether a flow has a type and a code in place of ports."""
    return alert["protocol"] in ("icmp", "ipv6-icmp")


def verdict(alert: Alert) -> dict[str, Any]:
    """Return the fields that no schema of others has: the object ``deepidea``."""
    names = ("alert_id", "class", "label", "score", "anomaly", "unknown")
    finding = finding_in(alert)
    behaviour = {name: alert[name] for name in ("behaviour", "role", "sentence")} if finding else {}
    behaviour |= {"finding": present(asdict(finding))} if finding else {}
    probabilities = json.loads(alert["probabilities"]) if alert["probabilities"] else None
    own = {name: alert[name] for name in names}
    return present({**own, **behaviour, "probabilities": probabilities, "model": alert["model"]})


def sentence(alert: Alert) -> str:
    """Return an alert in one sentence, which ends with the evidence of a finding."""
    evidence = f": {alert['sentence']}" if alert.get("sentence") else ""
    return (
        f"{signature_of(alert)}, score {alert['score']:.4f}: {alert['src_ip'] or '?'} to {alert['dst_ip'] or '?'}"
        + ("" if alert["dst_port"] is None or is_icmp(alert) else f" port {alert['dst_port']}")
        + f" ({alert['protocol'] or 'unknown'}){evidence}"
    )
