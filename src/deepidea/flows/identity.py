"""Columns that identify a flow in every source, and never reach a model: hosts, ports, times, Community ID."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from functools import lru_cache

import polars as pl

IDENTITY: dict[str, pl.DataType] = {
    "start": pl.Datetime("us", "UTC"),
    "end": pl.Datetime("us", "UTC"),
    "src_ip": pl.String(),
    "src_port": pl.Int32(),
    "dst_ip": pl.String(),
    "dst_port": pl.Int32(),
    "protocol": pl.String(),
    "community_id": pl.String(),
}
"""Columns of every source beside the features of its schema. ``src`` sent the first packet; ports are null where the
transport has none; ``protocol`` is as in the schema, ``"6"`` or ``"tcp"``; ``community_id`` may be null, for it is
computed with an alert."""

TRANSPORTS: dict[int, str] = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}
_NUMBERS = {name: number for number, name in TRANSPORTS.items()} | {"icmp6": 58}

# ICMP types of requests and of their answers: the two directions of one conversation (Community ID specification).
_ICMP_PAIRS = {
    1: {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17, 10: 9, 9: 10},
    58: {128: 129, 129: 128, 133: 134, 134: 133, 135: 136, 136: 135, 130: 131, 131: 130, 144: 145, 145: 144},
}


def transport_number(protocol: str | int | None) -> int | None:
    """Return the IP protocol number of any spelling, None where it is none.

    Examples
    --------
    >>> transport_number("TCP"), transport_number("17"), transport_number("icmp6"), transport_number("?")
    (6, 17, 58, None)
    """
    text = str(protocol).strip().lower()
    if text in _NUMBERS:
        return _NUMBERS[text]
    return int(text) if text.isascii() and text.isdigit() and int(text) < 256 else None


def transport_name(protocol: str | int | None) -> str:
    """Return the name of a transport: ``tcp``, ``udp``, ``icmp``, ``ipv6-icmp``, ``sctp``, else its number.

    Examples
    --------
    >>> transport_name("6"), transport_name("udp"), transport_name(47), transport_name(None)
    ('tcp', 'udp', '47', 'unknown')
    """
    number = transport_number(protocol)
    return "unknown" if number is None else TRANSPORTS.get(number, str(number))


def community_id(
    src_ip: str, src_port: int | None, dst_ip: str, dst_port: int | None, protocol: str | int, *, seed: int = 0
) -> str | None:
    """Return the Community ID, version 1, of a flow: equal for both directions, and in every tool that computes it.

    Parameters
    ----------
    src_ip, dst_ip : str
        IPv4 or IPv6.
    src_port, dst_port : int or None
        ICMP: type and code, as Zeek and Suricata write them. None where the transport has no ports.
    protocol : str or int

    Returns
    -------
    str or None
        None where an address or the protocol is not one.

    Notes
    -----
    ``1:`` and the base64 of the SHA-1 of seed (2 bytes), smaller and greater endpoint's address, protocol, a zero byte,
    and the ports (2 bytes each). Endpoints are ordered by address, then port; ICMP messages without an answer keep
    their direction. Source: https://github.com/corelight/community-id-spec.

    Examples
    --------
    >>> community_id("128.232.110.120", 34855, "66.35.250.204", 80, "tcp")
    '1:LQU9qZlK+B5F3KDmev6m5PMibrg='
    >>> community_id("66.35.250.204", 80, "128.232.110.120", 34855, 6)
    '1:LQU9qZlK+B5F3KDmev6m5PMibrg='
    """
    number, src, dst = transport_number(protocol), _packed(src_ip), _packed(dst_ip)
    if number is None or src is None or dst is None:
        return None
    ports, one_way = _ports(number, src_port, dst_port)
    (src, sport), (dst, dport) = (src, ports and ports[0]), (dst, ports and ports[1])
    # The smaller end first, so that both directions hash alike; ICMP without a counterpart has one direction.
    if not one_way and (src, sport or 0) > (dst, dport or 0):
        src, sport, dst, dport = dst, dport, src, sport
    data = seed.to_bytes(2, "big") + src + dst + bytes((number, 0))
    if ports is not None:
        data += (sport or 0).to_bytes(2, "big") + (dport or 0).to_bytes(2, "big")
    return "1:" + base64.b64encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()


@lru_cache(maxsize=65_536)
def _packed(address: str) -> bytes | None:
    try:
        return ipaddress.ip_address(address).packed
    except ValueError:
        return None


def _ports(number: int, src_port: int | None, dst_port: int | None) -> tuple[tuple[int, int] | None, bool]:
    """Return the two ports, of ICMP its type and that of the answer, and whether the flow has one direction only."""
    if number in (6, 17, 132):
        return (src_port or 0, dst_port or 0), False
    if number not in (1, 58):
        return None, False
    kind, code = src_port or 0, dst_port or 0
    other = icmp_answer(number, kind)
    return ((kind, code), True) if other is None else ((kind, other), False)


def icmp_answer(number: int, kind: int) -> int | None:
    """Return the ICMP (1) or ICMPv6 (58) type that answers a type, or that it answers; None where there is none.

    Examples
    --------
    >>> icmp_answer(1, 8), icmp_answer(58, 129), icmp_answer(1, 3)
    (0, 128, None)
    """
    return _ICMP_PAIRS[number].get(kind)
