"""Packets written byte by byte, so that a test knows what is in them."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
A, B = "10.0.0.1", "10.0.0.2"


def tcp(src, sport, dst, dport, flags, payload=b"", *, window=1000, options=b"", padded=False):
    header = struct.pack(">HHIIBBHHH", sport, dport, 1, 1, (20 + len(options)) << 2, flags, window, 0, 0) + options
    return ethernet(ip(src, dst, 6, header + payload), padded=padded)


def udp(src, sport, dst, dport, payload=b""):
    return ethernet(ip(src, dst, 17, struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload))


def icmp(src, dst, kind, code):
    return ethernet(ip(src, dst, 1, bytes((kind, code)) + bytes(30)))


def ip(src, dst, protocol, body, *, fragment=0):
    src, dst = ipaddress.ip_address(src), ipaddress.ip_address(dst)
    if src.version == 6:
        return struct.pack(">IHBB", 6 << 28, len(body), protocol, 64) + src.packed + dst.packed + body
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, fragment, 64, protocol, 0)
    return head + src.packed + dst.packed + body


def ethernet(packet, *, tags=(), padded=False):
    kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    frame = bytes(12) + b"".join(struct.pack(">HH", tag, 7) for tag in tags) + struct.pack(">H", kind) + packet
    return frame.ljust(60, b"\0") if padded else frame


def pcap(packets: Iterable[tuple[float, bytes]], *, order="<", nanoseconds=False, link_type=1, snap=65535) -> bytes:
    """Return a capture of frames at times in seconds."""
    magic, unit = (0xA1B23C4D, 1_000_000_000) if nanoseconds else (0xA1B2C3D4, 1_000_000)
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap, link_type)]
    for time, frame in packets:
        whole, fraction = divmod(round(time * unit), unit)
        parts.append(struct.pack(order + "IIII", whole, fraction, len(frame[:snap]), len(frame)) + frame[:snap])
    return b"".join(parts)


def pcapng(packets, *, order="<", resolution=6, link_type=1) -> bytes:
    """Return a pcapng section of one interface, whose time has so many decimal places, or with 0x80 binary ones."""
    options = struct.pack(order + "HHB3xHH", 9, 1, resolution, 0, 0)
    blocks = [
        block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)),
        block(order, 1, struct.pack(order + "HHI", link_type, 0, 0) + options),
    ]
    unit = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    for time, frame in packets:
        ticks = round(time * unit)
        head = struct.pack(order + "IIIII", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
        blocks.append(block(order, 6, head + frame + bytes(-len(frame) % 4)))
    return b"".join(blocks)


def block(order, kind, body):
    size = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + size + body + size


def conversation(sport=40000, start=100.0, *, request=b"x" * 100, answers=3, step=0.01):
    """Return a TCP conversation from A to B port 80, from handshake to the last ACK, as (time, frame)."""
    there, back = (A, sport, B, 80), (B, 80, A, sport)
    frames = [tcp(*there, SYN), tcp(*back, SYN | ACK), tcp(*there, ACK), tcp(*there, ACK | PSH, request)]
    frames += [tcp(*back, ACK, b"y" * 1000) for _ in range(answers)]
    frames += [tcp(*there, FIN | ACK), tcp(*back, FIN | ACK), tcp(*there, ACK)]
    return [(start + step * j, frame) for j, frame in enumerate(frames)]
