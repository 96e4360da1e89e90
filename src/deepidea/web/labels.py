"""Incidents in plain English: one sentence each: who did what to whom, how much, in what time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from deepidea.flows.attack_classes import attack_class_of, class_title
from deepidea.store.grouping import Listing

__all__ = ["duration_text", "headline", "port_text"]

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
    '192.0.2.7 probed 1,000 ports of 198.51.100.1 in 16 minutes: port scan'
    """
    others, at = _hosts_text(hosts, n_hosts), _ports_text(ports, n_ports)
    who = "a host of unknown address" if host == UNKNOWN_HOST else host
    behaviour = attack_class_of(class_name).behaviour
    if role == "target":
        verb = "was flooded with" if behaviour == "flood" else "received"
        action = f"{verb} {_count(n_alerts, 'flow')}" + (f" from {others}" if others else "") + _on(at)
    else:
        action = _action(behaviour, n_alerts, others, at, n_hosts, n_ports)
    span = f" {_span_text(first, last)}" if n_alerts > 1 else ""
    sentence = f"{who} {action}{span}: {class_title(class_name)}"
    return sentence[0].upper() + sentence[1:]


def _action(behaviour: str, n_alerts: int, others: str, at: str, n_hosts: int, n_ports: int) -> str:
    """Return what a source did, without its name."""
    flows, to = _count(n_alerts, "flow"), f" to {others}" if others else ""
    match behaviour:
        case "scan" if n_ports > 1:
            return f"probed {n_ports:,} ports" + (f" of {others}" if others else "")
        case "scan" if n_hosts > 1:
            return f"contacted {others}{_on(at)}"
        case "login":
            return f"tried {'once' if n_alerts == 1 else f'{n_alerts:,} times'} to log in{to}{_on(at)}"
        case "c2":
            return f"exchanged {flows} with {others or 'others'}{_on(at)}"
        case "web":
            return f"sent {_count(n_alerts, 'attack request')}{to}{_on(at)}"
        case _:
            return f"sent {flows}{to}{_on(at)}"


def _on(ports: str) -> str:
    return f" on {ports}" if ports else ""


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _hosts_text(listing: Listing, n_hosts: int) -> str:
    if n_hosts <= 0 or not listing.top:
        return ""
    return next(iter(listing.top)) if n_hosts == 1 else f"{_about(listing)}{n_hosts:,} hosts"


def _ports_text(listing: Listing, n_ports: int) -> str:
    if n_ports <= 0 or not listing.top:
        return ""
    return port_text(next(iter(listing.top))) if n_ports == 1 else f"{_about(listing)}{n_ports:,} ports"


def _about(listing: Listing) -> str:
    return "" if listing.exact else "about "


def port_text(port: str | int) -> str:
    """Return a port with the service that is usual on it.

    Examples
    --------
    >>> port_text(22), port_text("4444")
    ('port 22 (SSH)', 'port 4444')
    """
    known = PORTS.get(int(port)) if str(port).isdecimal() else None
    return f"port {port}" + (f" ({known})" if known else "")


def _span_text(first: datetime, last: datetime) -> str:
    seconds = (last - first).total_seconds()
    return "within a second" if seconds < 1 else f"in {duration_text(seconds)}"


def duration_text(seconds: float) -> str:
    """Return a length of time in words, as exactly as people need it.

    Examples
    --------
    >>> [duration_text(s) for s in (0.2, 1, 90, 960, 7200, 100_000)]
    ['less than a second', '1 second', '90 seconds', '16 minutes', '2 hours', '28 hours']
    """
    if seconds < 1:
        return "less than a second"
    for unit, length, most in (("second", 1, 120), ("minute", 60, 7200), ("hour", 3600, 172_800)):
        if seconds < most:
            return _count(round(seconds / length), unit)
    return _count(round(seconds / 86_400), "day")
