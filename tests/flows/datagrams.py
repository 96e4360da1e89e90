"""Datagrams of NetFlow and IPFIX, forged from their specifications: a second hand that knows the formats."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from typing import Any

UNIX_S = 1_700_000_000
UPTIME_MS = 60_000
V9_FIELDS = ((8, 4), (12, 4), (2, 4), (1, 4), (22, 4), (21, 4), (7, 2), (11, 2), (6, 1), (4, 1))
IPFIX_FIELDS = ((8, 4), (12, 4), (2, 8), (1, 8), (152, 8), (153, 8), (7, 2), (11, 2), (6, 2), (4, 1))


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def v5(records: Sequence[dict[str, Any]], *, number: int = 0, uptime_ms: int = UPTIME_MS, sampling: int = 0) -> bytes:
    """Return a datagram; each record gives src, dst, packets, octets, first, last, sport, dport, flags, protocol."""
    header = struct.pack(">HHIIIIBBH", 5, len(records), uptime_ms, UNIX_S, 0, number, 0, 0, sampling)
    return header + b"".join(_v5_record(**record) for record in records)


def _v5_record(
    src: str = "10.0.0.1",
    dst: str = "10.0.0.2",
    packets: int = 3,
    octets: int = 180,
    first: int = 58_000,
    last: int = 59_500,
    sport: int = 40_000,
    dport: int = 443,
    flags: int = 0x1B,
    protocol: int = 6,
) -> bytes:
    counts = struct.pack(">4xHHIIIIHH", 1, 2, packets, octets, first, last, sport, dport)
    return packed(src) + packed(dst) + counts + struct.pack(">xBBBHHBBH", flags, protocol, 0, 0, 0, 24, 24, 0)


def template(number: int, fields: Sequence[tuple[int, ...]]) -> bytes:
    """Return a template record; a field is number and length, and in IPFIX an enterprise."""
    return struct.pack(">HH", number, len(fields)) + b"".join(_field(*part) for part in fields)


def _field(number: int, length: int, enterprise: int = 0) -> bytes:
    if not enterprise:
        return struct.pack(">HH", number, length)
    return struct.pack(">HHI", number | 0x8000, length, enterprise)


def a_set(number: int, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">HH", number, 4 + len(body)) + body


def v9(*sets: bytes, number: int = 0, domain: int = 1, unix_s: int = UNIX_S, uptime_ms: int = UPTIME_MS) -> bytes:
    return struct.pack(">HHIIII", 9, len(sets), uptime_ms, unix_s, number, domain) + b"".join(sets)


def ipfix(*sets: bytes, number: int = 0, domain: int = 1, unix_s: int = UNIX_S) -> bytes:
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), unix_s, number, domain) + body


def row(fields: Sequence[tuple[int, ...]], *values: int | str | bytes) -> bytes:
    """Return a data record of fixed lengths."""
    parts = []
    for (_, length, *_rest), value in zip(fields, values, strict=True):
        if isinstance(value, bytes):
            parts.append(value)
        else:
            parts.append(packed(value) if isinstance(value, str) else value.to_bytes(length, "big"))
    return b"".join(parts)


def v9_row(src: str = "10.0.0.1", dst: str = "10.0.0.2", sport: int = 40_000, dport: int = 443) -> bytes:
    return row(V9_FIELDS, src, dst, 3, 180, 58_000, 59_500, sport, dport, 0x1B, 6)


def ipfix_row(src: str = "10.0.0.1", dst: str = "10.0.0.2", sport: int = 40_000, dport: int = 443) -> bytes:
    ms = 1000 * UNIX_S
    return row(IPFIX_FIELDS, src, dst, 3, 180, ms - 2000, ms - 500, sport, dport, 0x1B, 6)
