"""The behaviours that are found: what is counted of each, from which counts on, its name and its sentence.

A behaviour is one entry here; its counts are columns of :mod:`deepidea.detection.behaviour.windows`. Thresholds were
set on the field captures that `docs/behaviours.md` names, above what benign ones reach (``benign``), and a site can set
others (:func:`read_thresholds`).
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import polars as pl

from deepidea.detection.behaviour.sites import GROUP, INSIDE, OUTSIDE
from deepidea.errors import DataError
from deepidea.flows.attack_classes import AttackClass, Technique, attack_class_of

__all__ = ["BEHAVIOURS", "Behaviour", "read_thresholds", "with_thresholds"]

Key = Literal["source", "source_port", "pair", "service", "target", "target_port"]

TCP, UDP, ICMP = 6, 17, 1
WEB_PORTS = (80, 443, 591, 2082, 2083, 3000, 3128, 5000, 8000, 8008, 8080, 8081, 8088, 8443, 8888, 9443)
LOGIN_PORTS = (21, 22, 23, 139, 445, 2222, 3389, 5900, 5985, 5986)
_NAME_PORTS = (53, 853, 5353, 5355, 137)
_CHATTY_PORTS = (*_NAME_PORTS, 67, 68, 123, 138, 161, 514, 546, 547, 1900, 3478, 3479, 3702, 5349)

_PORT, _PROTOCOL = pl.col("dst_port"), pl.col("protocol")
_TO_OUTSIDE = pl.col("dst_side") == OUTSIDE
# between two public addresses of which none is known to be the site's own, the one that opened the flow is taken for it
_OUTWARDS = _TO_OUTSIDE & pl.col("src_side").is_in([INSIDE, OUTSIDE])
_INWARDS = (pl.col("src_side") == OUTSIDE) & (pl.col("dst_side") == INSIDE)
_TO_ONE = pl.col("dst_side") != GROUP

_DNS_TUNNEL = Technique("T1071", "Application Layer Protocol", "TA0011", "Command and Control")
_ICMP_TUNNEL = Technique("T1095", "Non-Application Layer Protocol", "TA0011", "Command and Control")
_SWEEP = Technique("T1018", "Remote System Discovery", "TA0007", "Discovery")
_VALID_ACCOUNTS = Technique("T1078", "Valid Accounts", "TA0001", "Initial Access")
_FALLBACK = Technique("T1008", "Fallback Channels", "TA0011", "Command and Control")


@dataclass(frozen=True)
class Behaviour:
    """A behaviour of hosts that windows show.

    Parameters
    ----------
    name, title
        What names it, and what people call it.
    class_name
        Class of its alerts: a record of :data:`deepidea.flows.attack_classes.ATTACK_CLASSES`.
    key
        Whose windows are looked at.
    window
        Their length.
    counts
        What is counted: name to an expression of the columns of windows. The first is the one whose ratio to its
        threshold is the margin.
    least, most
        Thresholds by name of count: at least so much, at most so much.
    where
        Flows that it is looked for in.
    sentence
        The evidence in words; counts are filled in by name.
    benign
        Highest value of the first count in benign captures of the field where all else held: measured by
        `benchmarks/behaviour_margins.py`. None of what follows another behaviour.
    technique
        Of MITRE ATT&CK; the class's where absent.
    follows
        Whether it is looked for in flows between hosts that were found scanning or guessing, by the columns of
        :mod:`deepidea.detection.behaviour.following` as well.
    """

    name: str
    title: str
    class_name: str
    key: Key
    window: str
    counts: Mapping[str, pl.Expr]
    least: Mapping[str, float]
    where: pl.Expr
    sentence: str
    most: Mapping[str, float] = field(default_factory=dict)
    benign: float | None = None
    technique: Technique | None = None
    follows: bool = False

    @property
    def attack_class(self) -> AttackClass:
        """What is known about its class."""
        return attack_class_of(self.class_name)

    @property
    def technique_uid(self) -> str | None:
        """Id of its technique of MITRE ATT&CK, None where no single one fits."""
        technique = self.technique or self.attack_class.technique
        return None if technique is None else technique.uid

    @cached_property
    def shown(self) -> pl.Expr:
        """Whether a flow's windows show it."""
        reached = [value.is_not_null() for value in self.counts.values()] if self.follows else []
        reached += [self.counts[name] >= value for name, value in self.least.items()]
        within = [self.counts[name] <= value for name, value in self.most.items()]
        return pl.all_horizontal(self.where, *reached, *within).fill_null(False)

    @cached_property
    def margin(self) -> pl.Expr:
        """How many times the threshold the first count is."""
        name = next(iter(self.least))
        return self.counts[name] / self.least[name]

    @property
    def thresholds(self) -> dict[str, float]:
        """All thresholds; those that must not be exceeded as ``most_...``."""
        return {**self.least, **{f"most_{name}": value for name, value in self.most.items()}}


def _share(part: str, whole: str) -> pl.Expr:
    """Return a ratio that stays a number where the whole is 0."""
    return pl.col(part) / pl.max_horizontal(whole, pl.lit(1.0))


def _vertical(name: str, title: str, window: str, ports: float, benign: float) -> Behaviour:
    counts = {
        "ports": pl.col(f"pair_failing_ports_{window}"),
        "failed_share": _share(f"pair_failed_{window}", f"pair_flows_{window}"),
    }
    return Behaviour(
        name, title, "port_scan", "pair", window, counts, {"ports": ports, "failed_share": 0.7}, _TO_ONE,
        "{ports} ports of one host, {failed_share} of the attempts failed", benign=benign,
    )  # fmt: skip


def _horizontal(name: str, title: str, window: str, hosts: float, where: pl.Expr, benign: float) -> Behaviour:
    counts = {
        "hosts": pl.col(f"source_port_failing_hosts_{window}"),
        "failed_share": _share(f"source_port_failed_{window}", f"source_port_flows_{window}"),
    }
    return Behaviour(
        name, title, "port_scan", "source_port", window, counts, {"hosts": hosts, "failed_share": 0.7}, _TO_ONE & where,
        "{hosts} hosts asked for one port, {failed_share} of the attempts failed", benign=benign,
    )  # fmt: skip


def _guessing(
    name: str, title: str, window: str, logins: float, alike: float, where: pl.Expr, benign: float
) -> Behaviour:
    counts = {
        "logins": pl.col(f"service_short_{window}"),
        "alike_share": _share(f"service_alike_{window}", f"service_short_{window}"),
    }
    return Behaviour(
        name, title, "brute_force", "service", window, counts, {"logins": logins, "alike_share": alike},
        (_PROTOCOL == TCP) & where,
        "{logins} short conversations with one service, {alike_share} of them alike in size",
        benign=benign,
    )  # fmt: skip


def _beacon(name: str, title: str, beats: float, spread: float, same_size: float, benign: float) -> Behaviour:
    columns = ("beats", "gap_s", "gap_spread", "same_size")
    return Behaviour(
        name, title, "botnet", "service", "1h", {column: pl.col(f"service_{column}") for column in columns},
        {"beats": beats, "same_size": same_size, "gap_s": 2.0},
        _OUTWARDS & ~_PORT.is_in(_CHATTY_PORTS),
        "{beats} beats, one each {gap_s} s (spread {gap_spread}), {same_size} of one size",
        most={"gap_spread": spread, "gap_s": 900}, benign=benign,
    )  # fmt: skip


def _flood(name: str, title: str, key: Key, packets: float, benign: float, sentence: str) -> Behaviour:
    return Behaviour(
        name, title, "dos", key, "10s", {"packets": pl.col(f"{key}_small_packets_10s")}, {"packets": packets},
        pl.lit(True), sentence, benign=benign,
    )  # fmt: skip


_IS_WEB, _IS_LOGIN, _IS_NAME = (_PORT.is_in(ports) for ports in (WEB_PORTS, LOGIN_PORTS, _NAME_PORTS))
_OTHER_TCP = (_PROTOCOL == TCP) & ~(_IS_WEB & _TO_OUTSIDE)

BEHAVIOURS: tuple[Behaviour, ...] = (
    _vertical("vertical_scan", "port scan of one host", "10min", 6, 4),
    _vertical("slow_vertical_scan", "slow port scan of one host", "1h", 10, 3),
    _horizontal("horizontal_scan", "scan of many hosts for one port", "1min", 15, _OTHER_TCP, 1),
    _horizontal("slow_horizontal_scan", "slow scan of many hosts for one port", "10min", 25, _OTHER_TCP, 2),
    _horizontal("web_scan", "scan of many hosts for web servers", "1min", 40, (_PROTOCOL == TCP) & _IS_WEB, 15),
    _horizontal("udp_scan", "scan of many hosts for one UDP port", "1min", 60, (_PROTOCOL == UDP) & ~_IS_NAME, 21),
    Behaviour(
        "icmp_sweep", "ICMP sweep", "probe", "source_port", "1min",
        {
            "hosts": pl.col("source_port_failing_hosts_1min"),
            "failed_share": _share("source_port_failed_1min", "source_port_flows_1min"),
            "packets_per_host": _share("source_port_failed_packets_1min", "source_port_failing_hosts_1min"),
        },
        {"hosts": 15, "failed_share": 0.5}, (_PROTOCOL == ICMP) & _TO_ONE,
        "{hosts} hosts pinged without an answer, {failed_share} of all that were pinged",
        most={"packets_per_host": 4}, benign=0, technique=_SWEEP,
    ),
    _guessing("password_guessing", "password guessing", "1min", 8, 0.5, _IS_LOGIN, 0),
    _guessing("slow_password_guessing", "slow password guessing", "10min", 12, 0.6, _IS_LOGIN, 0),
    _guessing("service_guessing", "guessing at a service", "1min", 25, 0.5, ~(_IS_LOGIN | _IS_WEB | _IS_NAME), 9),
    _guessing("web_guessing", "guessing at a web server", "1min", 40, 0.9, _IS_WEB & _INWARDS, 0),
    _beacon("beacon", "beacon", 8, 0.1, 0.85, 0),
    _beacon("irregular_beacon", "beacon of differing sizes", 12, 0.15, 0.5, 0),
    _beacon("jittered_beacon", "beacon with jitter", 16, 0.4, 0.95, 9),
    Behaviour(
        "dead_c2", "retries to a server that does not answer", "botnet", "service", "1h",
        {
            "attempts": pl.col("service_failed_1h"),  # each of a socket, which counts once among the flows
            "failed_share": pl.min_horizontal(_share("service_failed_1h", "service_flows_1h"), pl.lit(1.0)),
            "attempts_10min": pl.col("service_failed_10min"), "attempts_10s": pl.col("service_failed_10s"),
        },
        {"attempts": 50, "failed_share": 0.9}, (_PROTOCOL == TCP) & _OUTWARDS,
        "{attempts} attempts to reach one service, {failed_share} of them without success",
        most={"attempts_10s": 33, "attempts_10min": 1500}, benign=7, technique=_FALLBACK,
    ),
    Behaviour(
        "connection_flood", "connection flood", "dos", "target_port", "10s",
        {
            "connections": pl.col("target_port_flows_10s"),
            "empty_share": _share("target_port_empty_10s", "target_port_flows_10s"),
            "sources": pl.col("target_port_sources_10s"),
        },
        {"connections": 120, "empty_share": 0.7}, _TO_ONE & (_PROTOCOL == TCP),
        "{connections} connections to one service within 10 s, {empty_share} of them empty, from {sources} hosts",
        benign=6,
    ),
    _flood("packet_flood", "packet flood by one host", "service", 5000, 357, "{packets} small packets from one host"),
    _flood(
        "unanswered_flood", "packet flood of one host", "target", 10_000, 357,
        "{packets} small packets without an answer in kind",
    ),
    Behaviour(
        "icmp_flood", "ICMP flood", "dos", "target", "10s", {"packets": pl.col("target_small_packets_10s")},
        {"packets": 3000}, _PROTOCOL == ICMP, "{packets} ICMP messages", benign=30,
    ),
    Behaviour(
        "slow_http", "slow HTTP", "dos", "service", "10min",
        {"sockets": pl.col("service_idle_sockets_10min")}, {"sockets": 12}, (_PROTOCOL == TCP) & _IS_WEB,
        "{sockets} connections to one web server held open with next to no data", benign=3,
    ),
    Behaviour(
        "dns_tunnel", "DNS tunnel", "tunnel", "service", "1h",
        {
            "bytes_out": pl.col("service_bytes_out_1h"),
            "bytes_per_query": _share("service_bytes_out_1h", "service_packets_1h"),
        },
        {"bytes_out": 5000, "bytes_per_query": 100}, (_PROTOCOL == UDP) & (_PORT == 53),
        "{bytes_out} bytes of DNS queries, {bytes_per_query} bytes each on average", benign=121, technique=_DNS_TUNNEL,
    ),
    Behaviour(
        "icmp_tunnel", "ICMP tunnel", "tunnel", "service", "1h",
        {
            "bytes_out": pl.col("service_bytes_out_1h"), "bytes_back": pl.col("service_bytes_back_1h"),
            "bytes_per_packet": _share("service_bytes_out_1h", "service_packets_1h"),
            "packets_10s": pl.col("target_small_packets_10s"),  # a flood of large pings is none
            # nor is a ping, whose answers repeat it: what differs must be more than the few that are lost
            "difference_share": 1 - pl.min_horizontal("service_bytes_out_1h", "service_bytes_back_1h")
            / pl.max_horizontal("service_bytes_out_1h", "service_bytes_back_1h", pl.lit(1.0)),
        },
        {"bytes_out": 2000, "bytes_back": 500, "bytes_per_packet": 100, "difference_share": 0.005},
        (_PROTOCOL == ICMP) & _TO_ONE,
        "{bytes_out} bytes in ICMP messages and {bytes_back} back, {bytes_per_packet} bytes each on average",
        most={"packets_10s": 1500}, benign=0, technique=_ICMP_TUNNEL,
    ),
    Behaviour(
        "upload", "large upload", "exfiltration", "pair", "1h",
        {
            "bytes_out": pl.col("pair_bytes_out_1h"),
            "out_per_back": pl.col("pair_bytes_out_1h") / pl.max_horizontal("pair_bytes_back_1h", pl.lit(1.0)),
        },
        {"bytes_out": 2_000_000, "out_per_back": 10}, _OUTWARDS,
        "{bytes_out} bytes sent out, {out_per_back} times as much as came back", benign=97_408,
    ),
    Behaviour(
        "background_scan", "background scanning", "port_scan", "target", "1h",
        {"sources": pl.col("target_outside_sources_1h")}, {"sources": 30},
        _INWARDS,
        "{sources} hosts from outside that got no answer", benign=4,
    ),
    Behaviour(
        "contact_after_scan", "contact to a scanner", "infiltration", "pair", "1h",
        {"bytes_back": pl.col("flow_bytes_back"), "seconds": pl.col("after_scan_s")}, {"bytes_back": 100}, _OUTWARDS,
        "opened a conversation to a host that had scanned it {seconds} s before, {bytes_back} bytes came back",
        follows=True,
    ),
    Behaviour(
        "login_after_guessing", "login after password guessing", "brute_force", "service", "1h",
        {
            "bytes_back": pl.col("flow_bytes_back"), "bytes_out": pl.col("flow_bytes_out"),
            "lasted_s": pl.col("flow_lasted_s"), "seconds": pl.col("after_guessing_s"),
        },
        {"bytes_back": 3000, "bytes_out": 1000, "lasted_s": 30}, (_PROTOCOL == TCP) & ~_IS_WEB,
        "a conversation of {lasted_s} s, {bytes_back} bytes came back, {seconds} s after passwords were guessed",
        follows=True, technique=_VALID_ACCOUNTS,
    ),
)  # fmt: skip
"""All behaviours that are looked for, in the order in which they are listed."""


def with_thresholds(
    behaviours: Sequence[Behaviour], thresholds: Mapping[str, Mapping[str, float]]
) -> tuple[Behaviour, ...]:
    """Return behaviours with some thresholds of a site's own; ``enabled = false`` leaves one out.

    Raises
    ------
    DataError
        There is no such behaviour or threshold, or a value is no number.

    Examples
    --------
    >>> site = with_thresholds(BEHAVIOURS, {"vertical_scan": {"ports": 20}, "upload": {"enabled": False}})
    >>> site[0].least["ports"], len(BEHAVIOURS) - len(site)
    (20, 1)
    """
    known = {one.name: one for one in behaviours}
    for name, values in thresholds.items():
        if name not in known:
            raise DataError(f"there is no behaviour {name!r}; deepidea behaviours lists them: {', '.join(known)}")
        known[name] = _changed(known[name], values)
        if values.get("enabled", True) is False:
            del known[name]
    return tuple(known.values())


def _changed(behaviour: Behaviour, values: Mapping[str, float]) -> Behaviour:
    least, most = dict(behaviour.least), dict(behaviour.most)
    for name, value in values.items():
        if name == "enabled" and isinstance(value, bool):
            continue
        if name not in behaviour.thresholds or not _is_positive(value):
            raise DataError(
                f"{behaviour.name} has no threshold {name} = {value!r}; set numbers above 0 for: "
                f"{', '.join(behaviour.thresholds)}, or enabled = false"
            )
        side, key = (most, name.removeprefix("most_")) if name.startswith("most_") else (least, name)
        side[key] = value
    return replace(behaviour, least=least, most=most)


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def read_thresholds(path: str | Path) -> dict[str, dict[str, float]]:
    """Return a site's thresholds from a TOML file: a table a behaviour, a number a threshold.

    Raises
    ------
    DataError
        The file cannot be read, or is not TOML of tables.
    """
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"cannot read thresholds from {path}: {error}") from error
    if not all(isinstance(values, dict) for values in found.values()):
        raise DataError(
            f"cannot read thresholds from {path}: write a table for each behaviour, such as [vertical_scan]"
        )
    return found
