"""What is known about each class of attack: how urgent it is, whose incident it makes, how other tools name it.

Detectors name classes as their data do: ``port_scan``, ``PortScan``, ``DoS Hulk``, ``guess_passwd``. Each record has a
pattern of such names. Patterns do not overlap on any name of a taxonomy, so the order of records does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

__all__ = [
    "ATTACK_CLASSES",
    "TECHNIQUES",
    "UNRECOGNISED",
    "AttackClass",
    "Technique",
    "attack_class_of",
    "class_title",
    "technique_by_id",
]

Behaviour = Literal["scan", "login", "flood", "c2", "web", "other"]


@dataclass(frozen=True, slots=True)
class Technique:
    """A technique of MITRE ATT&CK (Enterprise): id, name, and the tactic that it serves.

    Sub-techniques are left out: a flow does not show them.
    """

    uid: str
    name: str
    tactic_uid: str
    tactic: str


@dataclass(frozen=True, slots=True)
class AttackClass:
    """What is known about a class of attack.

    Parameters
    ----------
    name
        Canonical name.
    title
        What people call it, within a sentence.
    pattern
        Regular expression that is searched in names: in lower case, words separated by one space.
    severity
        1 (critical) to 4 (low), where the detector is sure (:data:`deepidea.detection.alerts.SEVERITIES`).
    role
        Whose incident it makes: the ``source`` of the flows, or the ``target`` where many sources, often forged ones,
        attack one host.
    behaviour
        What its flows do, for a sentence about them.
    eve_category
        Short description of a class in Suricata's ``classification.config``.
    technique
        None where no single technique fits.
    advice
        What an analyst does first; ``{host}`` is the incident's host, ``{other}`` the hosts at the other end.
    aliases
        Further names that its title says better.
    """

    name: str
    title: str
    pattern: str
    severity: Literal[1, 2, 3, 4]
    role: Literal["source", "target"]
    behaviour: Behaviour
    eve_category: str
    technique: Technique | None
    advice: str
    aliases: tuple[str, ...] = ()


_SCANNING = Technique("T1046", "Network Service Discovery", "TA0007", "Discovery")
_DISCOVERY = Technique("T1018", "Remote System Discovery", "TA0007", "Discovery")
_ACTIVE_SCANNING = Technique("T1595", "Active Scanning", "TA0043", "Reconnaissance")
_NETWORK_DOS = Technique("T1498", "Network Denial of Service", "TA0040", "Impact")
_ENDPOINT_DOS = Technique("T1499", "Endpoint Denial of Service", "TA0040", "Impact")
_BRUTE_FORCE = Technique("T1110", "Brute Force", "TA0006", "Credential Access")
_PUBLIC_APPLICATION = Technique("T1190", "Exploit Public-Facing Application", "TA0001", "Initial Access")
_APPLICATION_PROTOCOL = Technique("T1071", "Application Layer Protocol", "TA0011", "Command and Control")
_TUNNELLING = Technique("T1572", "Protocol Tunneling", "TA0011", "Command and Control")
_EXFILTRATION = Technique("T1041", "Exfiltration Over C2 Channel", "TA0010", "Exfiltration")
_USER_EXECUTION = Technique("T1204", "User Execution", "TA0002", "Execution")
_ESCALATION = Technique("T1068", "Exploitation for Privilege Escalation", "TA0004", "Privilege Escalation")
_REMOTE_SERVICES = Technique("T1210", "Exploitation of Remote Services", "TA0008", "Lateral Movement")
_EXTERNAL_SERVICES = Technique("T1133", "External Remote Services", "TA0001", "Initial Access")
_ENCRYPTION = Technique("T1486", "Data Encrypted for Impact", "TA0040", "Impact")
_IN_THE_MIDDLE = Technique("T1557", "Adversary-in-the-Middle", "TA0006", "Credential Access")

_CHECK_SCANNER = (
    "Check whether {host} is a scanner that you operate. If not, identify its owner and check what it contacted next: "
    "a scan often precedes an attack."
)
_CHECK_SERVICE = (
    "Check whether {host} still serves its users. If not, rate-limit or block the traffic as close to its origin as "
    "possible."
)
_ISOLATE = "Isolate {host} from the network now, keep it powered on for forensics, and check what else it contacted."
_CHECK_PATCHES = "Check the logs of {other} for a successful attack from {host}, and whether the service is patched."

UNRECOGNISED = AttackClass(
    "other", "attack", r"(?!)", 2, "source", "other", "Misc Attack", None,
    "Find out what {host} does here and whether {other} expects it.",
)  # fmt: skip
"""What is assumed about a class whose name no pattern matches."""

_RECORDS = (
    AttackClass(
        "port_scan", "port scan", r"^(?!.*\bbackground\b).*(?:scan|port ?sweep|\b(?:nmap|satan|saint)\b)", 3,
        "source", "scan", "Detection of a Network Scan", _SCANNING, _CHECK_SCANNER, ("portscan",),
    ),
    AttackClass(
        "host_sweep", "host sweep", r"(?<!port)(?<!port )sweep", 3, "source", "scan",
        "Detection of a Network Scan", _DISCOVERY, _CHECK_SCANNER,
    ),
    AttackClass(
        "background", "background scanning", r"\bbackground\b", 4, "target", "scan", "Detection of a Network Scan",
        _ACTIVE_SCANNING, "Nothing urgent: every address on the Internet is scanned. Close ports of {host} that need "
        "not be open.",
    ),
    AttackClass(
        "probe", "network probing", r"\bprob(?:e|es|ing)\b|recon|\banalysis\b|fuzz", 3, "source", "scan",
        "Detection of a Network Scan", _ACTIVE_SCANNING, _CHECK_SCANNER,
    ),
    AttackClass(
        "dos", "denial of service (DoS)",
        r"^(?!.*(?:ddos|distributed|reflect|amplif|backscatter)).*"
        r"(?:\bdos\b|denial|flood|slowloris|slow ?http ?test|\bback\b|\bland\b|neptune|\bpod\b|smurf|teardrop|apache2|"
        r"mailbomb|processtable|udpstorm)",
        2, "target", "flood", "Attempted Denial of Service", _ENDPOINT_DOS, _CHECK_SERVICE,
    ),
    AttackClass(
        "ddos", "distributed denial of service (DDoS)", r"ddos|distributed denial|reflect|amplif|backscatter",
        2, "target", "flood", "Attempted Denial of Service", _NETWORK_DOS, _CHECK_SERVICE,
    ),
    AttackClass(
        "brute_force", "password brute force", r"^(?!.*(?:\bweb|\bxss\b)).*(?:brute|patator|guess|passw|credential)",
        2, "source", "login", "Attempted User Privilege Gain", _BRUTE_FORCE,
        "Check the logs of {other} for a successful login from {host}; if there is one, reset that password.",
        ("bruteforce",),
    ),
    AttackClass(
        "web_attack", "web application attack", r"\bweb|\bxss\b|cross site|injection|\bphf\b", 2, "source", "web",
        "Web Application Attack", _PUBLIC_APPLICATION,
        "Check the web server's log of {other} for these requests, and whether any was answered with success.",
    ),
    AttackClass(
        "botnet", "C2 / botnet traffic", r"\bbot\b|botnet|\bc2\b|command and control|beacon", 1, "source", "c2",
        "Malware Command and Control Activity Detected", _APPLICATION_PROTOCOL, _ISOLATE, ("bot", "beacon"),
    ),
    AttackClass(
        "exfiltration", "data exfiltration", r"exfil|\btheft\b|upload", 1, "source", "other",
        "Large Scale Information Leak", _EXFILTRATION,
        "Find out what {host} sent to {other}, and which program sent it. Block the traffic if nobody can explain it.",
    ),
    AttackClass(
        "tunnel", "covert tunnel", r"tunnel", 1, "source", "other", "Large Scale Information Leak", _TUNNELLING,
        "Find the program on {host} that opened the tunnel to {other}. Block the traffic if nobody can explain it.",
    ),
    AttackClass(
        "infiltration", "infiltration", r"^(?!.*scan).*infil", 1, "source", "other", "A Network Trojan was detected",
        _USER_EXECUTION, _ISOLATE, ("infilteration",),
    ),
    AttackClass(
        "u2r", "privilege escalation (U2R)",
        r"\bu2r\b|rootkit|buffer overflow|loadmodule|\bperl\b|\bps\b|sqlattack|xterm|privilege", 1, "source", "other",
        "Attempted Administrator Privilege Gain", _ESCALATION,
        "Check who was logged in on {other} and which processes run as root. Isolate it if you find any sign of it.",
    ),
    AttackClass(
        "r2l", "unauthorised remote access (R2L)",
        r"\br2l\b|ftp write|\bimap\b|multihop|\bnamed\b|sendmail|snmpgetattack|\bspy\b|warez|xlock|xsnoop",
        2, "source", "other", "Attempted User Privilege Gain", _EXTERNAL_SERVICES, _CHECK_PATCHES,
    ),
    AttackClass(
        "heartbleed", "Heartbleed", r"heartbleed", 1, "source", "other", "Attempted Information Leak",
        _PUBLIC_APPLICATION, "Update OpenSSL on {other}, then replace its keys, certificates and passwords.",
    ),
    AttackClass(
        "exploit", "exploit", r"exploit|shellcode", 1, "source", "other", "Attempted User Privilege Gain",
        _REMOTE_SERVICES, _CHECK_PATCHES,
    ),
    AttackClass(
        "backdoor", "backdoor traffic", r"backdoor|trojan", 1, "source", "c2", "A Network Trojan was detected",
        _APPLICATION_PROTOCOL, _ISOLATE,
    ),
    AttackClass(
        "worm", "worm", r"worm", 1, "source", "other", "A Network Trojan was detected", _REMOTE_SERVICES, _ISOLATE,
    ),
    AttackClass(
        "ransomware", "ransomware", r"ransom", 1, "source", "other", "A Network Trojan was detected", _ENCRYPTION,
        _ISOLATE,
    ),
    AttackClass(
        "mitm", "man-in-the-middle attack", r"\bmitm\b|man in the middle|spoof|poison", 1, "source", "other",
        "Misc Attack", _IN_THE_MIDDLE,
        "Check the ARP and DNS caches of {other} against the real addresses, and find {host} on its switch port.",
    ),
)  # fmt: skip

ATTACK_CLASSES: Mapping[str, AttackClass] = MappingProxyType({record.name: record for record in _RECORDS})
"""Records by canonical name."""


TECHNIQUES: Mapping[str, Technique] = MappingProxyType(
    {record.technique.uid: record.technique for record in _RECORDS if record.technique}
    | {
        technique.uid: technique
        for technique in (
            Technique("T1048", "Exfiltration Over Alternative Protocol", "TA0010", "Exfiltration"),
            Technique("T1020", "Automated Exfiltration", "TA0010", "Exfiltration"),
            Technique("T1095", "Non-Application Layer Protocol", "TA0011", "Command and Control"),
            Technique("T1008", "Fallback Channels", "TA0011", "Command and Control"),
            Technique("T1568", "Dynamic Resolution", "TA0011", "Command and Control"),
            Technique("T1571", "Non-Standard Port", "TA0011", "Command and Control"),
            Technique("T1078", "Valid Accounts", "TA0001", "Initial Access"),
            Technique("T1021", "Remote Services", "TA0008", "Lateral Movement"),
        )
    }
)
"""Techniques by id: those of the classes, and further ones that findings of behaviours name."""


def technique_by_id(uid: str) -> Technique | None:
    """Return the technique of an id, of a sub-technique its parent; None where it is not in :data:`TECHNIQUES`.

    Examples
    --------
    >>> technique_by_id("T1110.001").name
    'Brute Force'
    """
    return TECHNIQUES.get(uid.partition(".")[0])


def words_of(name: str) -> str:
    """Return a name as patterns read it.

    Examples
    --------
    >>> words_of("Web Attack - XSS"), words_of("port_scan")
    ('web attack xss', 'port scan')
    """
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


@lru_cache(maxsize=4096)
def attack_class_of(name: str) -> AttackClass:
    """Return what is known about a class, by any of its names; :data:`UNRECOGNISED` where no pattern matches.

    Examples
    --------
    >>> [attack_class_of(name).name for name in ("PortScan", "DoS Hulk", "FTP-Patator", "zeta_strain")]
    ['port_scan', 'dos', 'brute_force', 'other']
    """
    words = words_of(name)
    return next((record for record in _RECORDS if re.search(record.pattern, words)), UNRECOGNISED)


def class_title(name: str) -> str:
    """Return a class in words: its title, or its own name where that says more.

    Examples
    --------
    >>> class_title("port_scan"), class_title("DoS Hulk"), class_title("zeta_strain")
    ('port scan', 'DoS Hulk', 'zeta strain')
    """
    record, key = attack_class_of(name), name.lower().replace(" ", "_")
    return record.title if key in (record.name, *record.aliases) else name.replace("_", " ")
