"""Alerts as lines of ArcSight's Common Event Format."""

from __future__ import annotations

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
    number_of,
    present,
    sentence,
    signature_of,
    technique_of,
)
from deepidea.store.alert_columns import SEVERITIES

_CEF_SEVERITIES = MappingProxyType({1: 10, 2: 8, 3: 5, 4: 3})  # 9-10 very high, 7-8 high, 4-6 medium, 0-3 low
_CEF_BREAKS = str.maketrans({"\r": "\\r", "\n": "\\n"})


def _cef_header(text: object) -> str:
    # Header and extension escape differently: | in the one, = in the other, backslashes in both.
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("\r", " ").replace("\n", " ")


def _cef_value(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("=", "\\=").translate(_CEF_BREAKS)


def to_cef(alert: Alert) -> str:
    """Return an alert as a line of ArcSight's Common Event Format, version 0 (Implementing CEF, revision 25).

    ``src`` and ``dst`` take IPv4 alone; IPv6 goes to ``c6a2`` and ``c6a3``, as that guide has it.
    """
    signature = signature_of(alert)
    header = (VENDOR, PRODUCT, __version__, number_of(signature), signature, _CEF_SEVERITIES[alert["severity"]])
    extension = " ".join(f"{key}={_cef_value(value)}" for key, value in present(_cef_fields(alert)).items())
    return f"CEF:0|{'|'.join(map(_cef_header, header))}|{extension}"


def _cef_fields(alert: Alert) -> dict[str, Any]:
    icmp, technique, finding = is_icmp(alert), technique_of(alert), finding_in(alert)
    margin = finding.margin if finding else None
    return {
        "rt": alert["time"],
        "start": alert["start"],
        "end": alert["end"],
        "externalId": alert["alert_id"],
        "cat": alert["class"],
        "act": "alert",
        **_cef_address(alert["src_ip"], "src", "c6a2", "Source IPv6 Address"),
        "spt": None if icmp else alert["src_port"],
        **_cef_address(alert["dst_ip"], "dst", "c6a3", "Destination IPv6 Address"),
        "dpt": None if icmp else alert["dst_port"],
        "proto": None if alert["protocol"] is None else alert["protocol"].upper(),
        "out": alert["fwd_bytes"],
        "in": alert["bwd_bytes"],
        **_cef_labelled("cfp1", "score", f"{alert['score']:.6f}"),
        **_cef_labelled("cfp2", "anomaly", None if alert["anomaly"] is None else f"{alert['anomaly']:.6f}"),
        **_cef_labelled("cfp3", "margin", None if margin is None else f"{margin:.6f}"),
        **_cef_labelled("cs1", "communityId", alert["community_id"]),
        **_cef_labelled("cs2", "model", alert["model"]),
        **_cef_labelled("cs3", "label", alert["label"]),
        **_cef_labelled("cs4", "severity", SEVERITIES[alert["severity"]]),
        **_cef_labelled("cs5", "mitreTechnique", None if technique is None else f"{technique.uid} {technique.name}"),
        **_cef_labelled("cs6", "behaviour", alert["behaviour"]),
        "deviceDirection": {"inbound": 0, "outbound": 1}.get(direction_of(alert) or ""),
        "reason": None if alert["sentence"] is None else alert["sentence"][:1023],
        "msg": sentence(alert)[:1023],
    }


def _cef_address(address: str | None, v4: str, v6: str, label: str) -> dict[str, Any]:
    version = ip_version(address)
    return _cef_labelled(v6, label, address) if version == 6 else {v4: address if version == 4 else None}


def _cef_labelled(key: str, label: str, value: object) -> dict[str, Any]:
    return {} if value is None else {key: value, f"{key}Label": label}
