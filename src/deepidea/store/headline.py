"""Incidents in plain English: a sentence each about who did what to whom, how often and how long."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime

from deepidea.flows.attack_classes import attack_class_of, class_title
from deepidea.store.findings import Finding
from deepidea.store.grouping import Listing

__all__ = ["NOTHING", "duration", "finding_headline", "headline", "port_text"]

NOTHING = "–"

PORTS: Mapping[int, str] = {
    20: "FTP data", 21: "FTP", 22: "SSH", 23: "Telnet", 25: "SMTP", 53: "DNS", 67: "DHCP", 80: "HTTP", 88: "Kerberos",
    110: "POP3", 123: "NTP", 135: "RPC", 137: "NetBIOS", 139: "NetBIOS", 143: "IMAP", 161: "SNMP", 389: "LDAP",
    443: "HTTPS", 445: "SMB", 465: "SMTPS", 514: "syslog", 587: "SMTP", 636: "LDAPS", 993: "IMAPS", 995: "POP3S",
    1433: "SQL Server", 1521: "Oracle", 3306: "MySQL", 3389: "RDP", 5060: "SIP", 5432: "PostgreSQL", 5900: "VNC",
    6379: "Redis", 6667: "IRC", 8080: "HTTP", 8443: "HTTPS", 9200: "Elasticsearch", 27017: "MongoDB",
}  # fmt: skip
UNKNOWN_HOST = "unknown"


def headline(
    class_name: str,
    role: str,
    host: str,
    *,
    n_alerts: int,
    first: datetime,
    last: datetime,
    hosts: Listing,
    ports: Listing,
    n_hosts: int,
    n_ports: int,
) -> str:
    """Return one sentence about an incident.

    Examples
    --------
    >>> from datetime import UTC, timedelta
    >>> at = datetime(2026, 5, 4, 12, tzinfo=UTC)
    >>> hosts, ports = Listing({"198.51.100.1": 1000}, 0, True), Listing({"22": 1, "23": 1}, 998, True)
    >>> about = {"n_alerts": 1000, "hosts": hosts, "ports": ports, "n_hosts": 1, "n_ports": 1000}
    >>> headline("port_scan", "source", "192.0.2.7", first=at, last=at + timedelta(minutes=16), **about)
    '192.0.2.7 probed 1,000 ports of 198.51.100.1 in 16 min: port scan'
    """
    others, at = _listed(hosts, n_hosts, "hosts", str), _listed(ports, n_ports, "ports", port_text)
    who = _name(host)
    behaviour = attack_class_of(class_name).behaviour
    if role == "target":
        verb = "was flooded with" if behaviour == "flood" else "received"
        action = f"{verb} {_plural(n_alerts, 'flow')}" + (f" from {others}" if others else "") + _on(at)
    else:
        action = _action(behaviour, n_alerts, others, at)
    span = f" in {duration((last - first).total_seconds())}" if n_alerts > 1 else ""
    sentence = f"{who} {action}{span}: {class_title(class_name)}"
    return sentence[0].upper() + sentence[1:]


def _action(behaviour: str, n_alerts: int, others: str, at: str) -> str:
    """Return the predicate of a sentence about a source."""
    flows, to = _plural(n_alerts, "flow"), f" to {others}" if others else ""
    match behaviour:
        case "scan" if at or others:
            return "probed " + " of ".join(filter(None, (at, others)))
        case "login":
            return f"tried {'once' if n_alerts == 1 else f'{n_alerts:,} times'} to log in{to}{_on(at)}"
        case "c2":
            return f"exchanged {flows} with {others or 'others'}{_on(at)}"
        case "web":
            return f"sent {_plural(n_alerts, 'attack request')}{to}{_on(at)}"
        case _:
            return f"sent {flows}{to}{_on(at)}"


def finding_headline(
    class_name: str,
    role: str,
    host: str,
    *,
    sentence: str,
    finding: Finding,
    hosts: Listing,
    ports: Listing,
    n_hosts: int,
    n_ports: int,
) -> str:
    """Return one sentence about an incident with findings, which ends with the strongest evidence.

    Examples
    --------
    >>> from deepidea.store.findings import finding_of
    >>> hosts, ports = Listing({"198.51.100.7": 9}, 1203, False), Listing({"22": 1}, 0, True)
    >>> about = {"hosts": hosts, "ports": ports, "n_hosts": 1204, "n_ports": 1, "sentence": "42 ports of 1 host, 5 s"}
    >>> scan = finding_of('{"key": "pair", "direction": "outside to inside"}', "port_scan_vertical")
    >>> finding_headline("port_scan", "target", "192.0.2.9", finding=scan, **about)
    '192.0.2.9 was scanned by about 1,204 hosts from outside; strongest evidence: 42 ports of 1 host, 5 s'
    """
    others = _listed(hosts, n_hosts, "hosts", str) if finding.names_peer(role) else _counted_sources(finding)
    at = _on(_listed(ports, n_ports, "ports", port_text)) if n_ports == 1 and "0" not in ports.top else ""
    if role == "target":
        action = _suffered(class_name, _attackers(finding, others), at if finding.names_port else "")
    else:
        action = _did(class_name, others or _everywhere(finding), at if finding.names_port else "")
    strongest = "; strongest evidence: " if finding.names_peer(role) and n_hosts > 1 else ": "
    text = f"{_name(host)} {action}{strongest}{sentence}"
    return text[0].upper() + text[1:]


def _name(host: str) -> str:
    return "a host of unknown address" if host == UNKNOWN_HOST else host


def _counted_sources(finding: Finding) -> str:
    """Return the number of hosts that a window over their target counted."""
    n = round(finding.counts.get("sources", 0))
    return _plural(n, "host") if n else ""


def _attackers(finding: Finding, others: str) -> str:
    if (finding.direction or "").startswith("outside to"):
        return f" by {others or 'hosts'} from outside"
    return f" by {others}" if others else ""


def _everywhere(finding: Finding) -> str:
    """Return the other end of a source that reached for many hosts."""
    return "hosts outside" if (finding.direction or "").endswith("outside") else "the network"


def _did(class_name: str, others: str, at: str) -> str:
    """Return the predicate of a sentence about a source with a finding."""
    known = attack_class_of(class_name)
    match known.name, known.behaviour:
        case _, "scan":
            return f"scanned {others}{at}"
        case _, "login":
            return f"guessed passwords of {others}{at}"
        case _, "flood":
            return f"flooded {others}{at}"
        case _, "c2":
            return f"kept contacting {others}{at}"
        case "infiltration", _:
            return f"contacted {others}{at}"
        case "exfiltration", _:
            return f"uploaded data to {others}{at}"
        case "tunnel", _:
            return f"tunnelled data to {others}{at}"
        case _:
            return f"sent suspicious traffic to {others}{at}"


def _suffered(class_name: str, by: str, at: str) -> str:
    """Return the predicate of a sentence about a target with a finding."""
    match attack_class_of(class_name).behaviour:
        case "scan":
            return f"was scanned{by}{at}"
        case "login":
            return f"had passwords guessed{by}{at}"
        case "flood":
            return f"was flooded{by}{at}"
        case "c2":
            return f"was contacted again and again{by}{at}"
        case _:
            return f"was attacked{by}{at}"


def _on(ports: str) -> str:
    return f" on {ports}" if ports else ""


def _listed(listing: Listing, n: int, noun: str, one: Callable[[str], str]) -> str:
    """Return the single value, or the number of values; empty without any."""
    if n <= 0 or not listing.top:
        return ""
    return one(next(iter(listing.top))) if n == 1 else f"{'' if listing.exact else 'about '}{n:,} {noun}"


def port_text(port: str | int) -> str:
    """Return a port with the service that is usual on it.

    Examples
    --------
    >>> port_text(22), port_text("4444")
    ('port 22 (SSH)', 'port 4444')
    """
    known = PORTS.get(int(port)) if str(port).isdecimal() else None
    return f"port {port}" + (f" ({known})" if known else "")


def _plural(n: int, one: str) -> str:
    return f"{n:,} {one}" + ("" if n == 1 else "s")


def duration(seconds: float | None, units: int = 2) -> str:
    """Return a time span in its largest units.

    Examples
    --------
    >>> [duration(s) for s in (0, 0.0042, 0.25, 7.31, 75, 3_700, 200_000)]
    ['0 s', '4.2 ms', '250 ms', '7.3 s', '1 min 15 s', '1 h 1 min', '2 d 7 h']
    """
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if 0 < seconds < 1:
        return f"{seconds * 1e3:.2g} ms" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{max(seconds, 0):.1f}".removesuffix(".0") + " s"
    parts: list[str] = []
    rest = int(seconds)
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        n, rest = divmod(rest, unit)
        if n or parts:
            parts.append(f"{n} {name}" if n else "")
    return " ".join(filter(None, parts[:units]))
