"""Alerts as text that other tools read: Suricata's EVE, the Elastic Common Schema, OCSF and CEF. One line an alert."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

import polars as pl

from deepidea import __version__
from deepidea.detection.alerts import SEVERITIES
from deepidea.errors import DataError
from deepidea.flows.attack_classes import attack_class_of
from deepidea.flows.identity import transport_number

__all__ = ["FORMATS", "Format", "TextFormat", "render", "signature_of"]

Format = Literal["eve", "ecs", "ocsf", "cef"]
Alert = Mapping[str, Any]

PRODUCT, VENDOR = "DeepIDEA", "DeepIDEA"
ECS_VERSION, OCSF_VERSION = "8.17.0", "1.5.0"
LOCAL_SIDS = 1_000_000  # first of the million of signature numbers that are left to a site's own rules


def render(alerts: pl.DataFrame, format: Format | str = "eve") -> list[str]:
    """Return one line of text for each alert, without a line break.

    Parameters
    ----------
    alerts
        Alert table (:data:`deepidea.detection.alerts.ALERT_COLUMNS`); other columns do not matter.
    format
        Name in :data:`FORMATS`.

    Raises
    ------
    DataError
        No format is known by that name.

    Notes
    -----
    About 25 us an alert.

    Examples
    --------
    >>> from deepidea.detection.alerts import make_alerts
    >>> verdicts = pl.DataFrame({"class": ["port_scan"], "score": [0.99]})
    >>> alerts = make_alerts(pl.DataFrame({"src_ip": ["192.0.2.7"]}), verdicts, pl.Series([True]), model="ab12")
    >>> json.loads(render(alerts, "eve")[0])["alert"]["category"]
    'Detection of a Network Scan'
    """
    if format not in FORMATS:
        raise DataError(f"a format must be one of {', '.join(FORMATS)}, however: {format!r} is none of them")
    made = FORMATS[format]
    times = pl.col("time", "start", "end")
    told = times.dt.timestamp("ms") if made.times is None else times.dt.strftime(made.times)
    duration = (pl.col("end") - pl.col("start")).dt.total_nanoseconds().clip(lower_bound=0)
    rows = alerts.drop("features", strict=False).with_columns(told, duration_ns=duration).iter_rows(named=True)
    return [made.to_text(row) for row in rows]


def signature_of(alert: Alert) -> str:
    """Return the title of an alert.

    Examples
    --------
    >>> signature_of({"class": "port_scan", "unknown": False}), signature_of({"class": "dos", "unknown": True})
    ('DeepIDEA: port_scan', 'DeepIDEA: unlike anything known, nearest dos')
    """
    known = str(alert["class"])
    return f"{PRODUCT}: unlike anything known, nearest {known}" if alert.get("unknown") else f"{PRODUCT}: {known}"


@lru_cache(maxsize=4096)
def _number_of(signature: str) -> int:
    """Return a number for a signature, the same everywhere."""
    return LOCAL_SIDS + int.from_bytes(hashlib.blake2b(signature.encode(), digest_size=8).digest()) % LOCAL_SIDS


def _present(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if value is not None and value != {}}


_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def _probabilities(alert: Alert) -> Any:
    return json.loads(alert["probabilities"]) if alert["probabilities"] else None


def _added(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


@lru_cache(maxsize=65_536)
def _ip_version(address: str | None) -> int | None:
    try:
        return None if address is None else ipaddress.ip_address(address).version
    except ValueError:
        return None


def _is_icmp(alert: Alert) -> bool:
    return alert["protocol"] in ("icmp", "ipv6-icmp")


def _verdict(alert: Alert) -> dict[str, Any]:
    """Return what is ours and what no schema of others has a place for."""
    names = ("alert_id", "class", "label", "score", "anomaly", "unknown")
    return _present(
        {**{name: alert[name] for name in names}, "probabilities": _probabilities(alert), "model": alert["model"]}
    )


# --- Suricata EVE ----------------------------------------------------------------------------------------------------

_EVE_PROTOCOLS = MappingProxyType({"ipv6-icmp": "IPv6-ICMP"})  # the others are in capitals


def to_eve(alert: Alert) -> str:
    """Return an alert as an event of Suricata's EVE log (``etc/schema.json``), with an object ``deepidea`` of ours.

    ``timestamp`` is the end of the flow. An ICMP flow has its type and code in place of ports.
    """
    icmp, protocol = _is_icmp(alert), alert["protocol"] or "unknown"
    event = {
        "timestamp": alert["time"],
        "flow_id": int(alert["alert_id"][-13:], 16) >> 1,  # 51 bits, which JSON numbers hold everywhere
        "event_type": "alert",
        "src_ip": alert["src_ip"],
        "src_port": None if icmp else alert["src_port"],
        "dest_ip": alert["dst_ip"],
        "dest_port": None if icmp else alert["dst_port"],
        "proto": _EVE_PROTOCOLS.get(protocol, protocol.upper()),
        "icmp_type": alert["src_port"] if icmp else None,
        "icmp_code": alert["dst_port"] if icmp else None,
        "ip_v": _ip_version(alert["src_ip"]),
        "community_id": alert["community_id"],
        "alert": _eve_alert(alert),
        "flow": _eve_flow(alert),
        "deepidea": _verdict(alert),
    }
    return _json(_present(event))


def _eve_alert(alert: Alert) -> dict[str, Any]:
    signature = signature_of(alert)
    return {
        "action": "allowed",
        "gid": 1,
        "signature_id": _number_of(signature),
        "rev": 1,
        "signature": signature,
        "category": attack_class_of(alert["class"]).eve_category,
        "severity": alert["severity"],
    }


def _eve_flow(alert: Alert) -> dict[str, Any]:
    counts = {
        "pkts_toserver": alert["fwd_packets"],
        "pkts_toclient": alert["bwd_packets"],
        "bytes_toserver": alert["fwd_bytes"],
        "bytes_toclient": alert["bwd_bytes"],
    }
    return _present({**counts, "start": alert["start"], "end": alert["end"]})


# --- Elastic Common Schema -------------------------------------------------------------------------------------------


def to_ecs(alert: Alert) -> str:
    """Return an alert as a document of the Elastic Common Schema 8, with an object ``deepidea`` of ours."""
    icmp, number = _is_icmp(alert), transport_number(alert["protocol"])
    document = {
        "@timestamp": alert["time"],
        "ecs": {"version": ECS_VERSION},
        "message": _sentence(alert),
        "event": _ecs_event(alert),
        "rule": _ecs_rule(alert),
        "source": _ecs_end(alert, "src", "fwd", with_port=not icmp),
        "destination": _ecs_end(alert, "dst", "bwd", with_port=not icmp),
        "network": _present(
            {
                "transport": alert["protocol"],
                "iana_number": None if number is None else str(number),
                "type": {4: "ipv4", 6: "ipv6"}.get(_ip_version(alert["src_ip"]) or 0),
                "community_id": alert["community_id"],
                "bytes": _added(alert["fwd_bytes"], alert["bwd_bytes"]),
                "packets": _added(alert["fwd_packets"], alert["bwd_packets"]),
            }
        ),
        "observer": {"vendor": VENDOR, "product": PRODUCT, "type": "ids", "version": __version__},
        "deepidea": _verdict(alert),
    }
    return _json(_present(document))


def _sentence(alert: Alert) -> str:
    return (
        f"{signature_of(alert)}, score {alert['score']:.4f}: {alert['src_ip'] or '?'} to {alert['dst_ip'] or '?'}"
        + ("" if alert["dst_port"] is None or _is_icmp(alert) else f" port {alert['dst_port']}")
        + f" ({alert['protocol'] or 'unknown'})"
    )


def _ecs_event(alert: Alert) -> dict[str, Any]:
    return _present(
        {
            "kind": "alert",
            "category": ["intrusion_detection", "network"],
            "type": ["info"],
            "id": alert["alert_id"],
            "module": "deepidea",
            "dataset": "deepidea.alert",
            "provider": "deepidea",
            "severity": alert["severity"],
            "risk_score": round(100 * alert["score"], 4),
            "start": alert["start"],
            "end": alert["end"],
            "duration": alert["duration_ns"],
        }
    )


def _ecs_rule(alert: Alert) -> dict[str, Any]:
    signature = signature_of(alert)
    return {"id": str(_number_of(signature)), "name": signature, "category": alert["class"], "version": alert["model"]}


def _ecs_end(alert: Alert, end: str, way: str, *, with_port: bool) -> dict[str, Any]:
    address = alert[f"{end}_ip"]
    return _present(
        {
            "address": address,
            "ip": address if _ip_version(address) else None,
            "port": alert[f"{end}_port"] if with_port else None,
            "bytes": alert[f"{way}_bytes"],
            "packets": alert[f"{way}_packets"],
        }
    )


# --- Open Cybersecurity Schema Framework -----------------------------------------------------------------------------

_OCSF_SEVERITIES = MappingProxyType({1: (5, "Critical"), 2: (4, "High"), 3: (3, "Medium"), 4: (2, "Low")})


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
        "is_alert": True,
        "confidence_score": round(100 * alert["score"]),
        "message": _sentence(alert),
        "metadata": {
            "version": OCSF_VERSION,
            "uid": alert["alert_id"],
            "product": {"name": PRODUCT, "vendor_name": VENDOR, "version": __version__},
        },
        "finding_info": _ocsf_info(alert),
        "evidences": _ocsf_evidences(alert),
        "unmapped": {"deepidea": _verdict(alert)},
    }
    return _json(_present(finding))


def _ocsf_info(alert: Alert) -> dict[str, Any]:
    return _present(
        {
            "uid": alert["alert_id"],
            "title": signature_of(alert),
            "types": [alert["class"]],
            "created_time": alert["time"],
            "first_seen_time": alert["start"],
            "last_seen_time": alert["end"],
            "analytic": {"uid": alert["model"], "name": PRODUCT, "type_id": 4, "type": "Learning (ML/DL)"},
        }
    )


def _ocsf_evidences(alert: Alert) -> list[dict[str, Any]] | None:
    number, version = transport_number(alert["protocol"]), _ip_version(alert["src_ip"])
    connection = {
        "direction_id": 0,
        "direction": "Unknown",
        "protocol_num": number,
        "protocol_name": alert["protocol"],
        "protocol_ver_id": version or 0,
        "community_uid": alert["community_id"],
    }
    ends = {"src_endpoint": _ocsf_end(alert, "src"), "dst_endpoint": _ocsf_end(alert, "dst")}
    return [{**_present(ends), "connection_info": _present(connection)}]


def _ocsf_end(alert: Alert, end: str) -> dict[str, Any]:
    """Return an endpoint, nothing where the address is not known: one must have an address or a name."""
    address = alert[f"{end}_ip"]
    if address is None:
        return {}
    port = None if _is_icmp(alert) else alert[f"{end}_port"]
    return _present({"ip" if _ip_version(address) else "name": address, "port": port})


# --- Common Event Format ---------------------------------------------------------------------------------------------

_CEF_SEVERITIES = MappingProxyType({1: 10, 2: 8, 3: 5, 4: 3})  # 9-10 very high, 7-8 high, 4-6 medium, 0-3 low
_CEF_BREAKS = str.maketrans({"\r": "\\r", "\n": "\\n"})


def _cef_header(text: object) -> str:
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("\r", " ").replace("\n", " ")


def _cef_value(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("=", "\\=").translate(_CEF_BREAKS)


def to_cef(alert: Alert) -> str:
    """Return an alert as a line of ArcSight's Common Event Format, version 0 (Implementing CEF, revision 25).

    ``src`` and ``dst`` take IPv4 alone; IPv6 goes to ``c6a2`` and ``c6a3``, as that guide has it.
    """
    signature = signature_of(alert)
    header = (VENDOR, PRODUCT, __version__, _number_of(signature), signature, _CEF_SEVERITIES[alert["severity"]])
    extension = " ".join(f"{key}={_cef_value(value)}" for key, value in _present(_cef_fields(alert)).items())
    return f"CEF:0|{'|'.join(map(_cef_header, header))}|{extension}"


def _cef_fields(alert: Alert) -> dict[str, Any]:
    icmp = _is_icmp(alert)
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
        **_cef_labelled("cs1", "communityId", alert["community_id"]),
        **_cef_labelled("cs2", "model", alert["model"]),
        **_cef_labelled("cs3", "label", alert["label"]),
        **_cef_labelled("cs4", "severity", SEVERITIES[alert["severity"]]),
        "msg": _sentence(alert)[:1023],
    }


def _cef_address(address: str | None, v4: str, v6: str, label: str) -> dict[str, Any]:
    version = _ip_version(address)
    return _cef_labelled(v6, label, address) if version == 6 else {v4: address if version == 4 else None}


def _cef_labelled(key: str, label: str, value: object) -> dict[str, Any]:
    return {} if value is None else {key: value, f"{key}Label": label}


@dataclass(frozen=True, slots=True)
class TextFormat:
    """A format: makes one line of text of one alert.

    Parameters
    ----------
    to_text
        Takes a row of an alert table without ``features``, with ``duration_ns``, and with its times as below.
    times
        How times are written, as ``strftime`` has it; milliseconds since 1970 where absent.
    """

    to_text: Callable[[Alert], str]
    times: str | None = None


FORMATS: Mapping[str, TextFormat] = MappingProxyType(
    {
        "eve": TextFormat(to_eve, "%Y-%m-%dT%H:%M:%S%.6f%z"),
        "ecs": TextFormat(to_ecs, "%Y-%m-%dT%H:%M:%S%.6fZ"),
        "ocsf": TextFormat(to_ocsf),
        "cef": TextFormat(to_cef),
    }
)
"""Formats by name."""
