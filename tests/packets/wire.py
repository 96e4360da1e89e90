"""Frames taken apart by another library, and their checksums added up the plain way."""

from __future__ import annotations

from typing import Any, NamedTuple

import dpkt
import numpy as np


class Seen(NamedTuple):
    """One packet of IP as it was read; `flags`, `seq`, `ack` and `options` are those of TCP."""

    time_us: int
    src: bytes
    src_port: int | None
    dst: bytes
    dst_port: int | None
    protocol: int
    ttl: int
    transport: Any
    payload: bytes

    @property
    def ends(self) -> tuple[Any, ...]:
        """Both ends, in one order for both directions."""
        return (*sorted([(self.src, self.src_port or 0), (self.dst, self.dst_port or 0)]), self.protocol)


def take_apart(time_us: int, frame: bytes) -> Seen | None:
    """Return a packet, None for one without IP; its checksums must be right."""
    assert len(frame) >= 60
    ethernet = dpkt.ethernet.Ethernet(frame)
    ip = ethernet.data
    if not isinstance(ip, dpkt.ip.IP | dpkt.ip6.IP6):
        assert isinstance(ip, dpkt.arp.ARP)
        return None
    v4 = isinstance(ip, dpkt.ip.IP)
    head = frame.index(bytes(ip)[:8])
    size = ip.len - 20 if v4 else ip.plen
    protocol = ip.p if v4 else ip.nxt
    start = head + (20 if v4 else 40)
    message = frame[start : start + size]
    assert len(message) == size
    assert not any(frame[start + size :]), "what fills a frame is zero"
    _verify(frame[head:start], ip, protocol, message, v4=v4)
    transport = ip.data
    ports = (transport.sport, transport.dport) if protocol in (6, 17) else (None, None)
    payload = {6: lambda: message[transport.off * 4 :], 17: lambda: message[8:]}.get(protocol, lambda: message)()
    return Seen(time_us, ip.src, ports[0], ip.dst, ports[1], protocol, ip.ttl if v4 else ip.hlim, transport, payload)


def _verify(header: bytes, ip: Any, protocol: int, message: bytes, *, v4: bool) -> None:
    if v4:
        assert plain_sum(header) == 0xFFFF
    pseudo = ip.src + ip.dst + len(message).to_bytes(4, "big") + protocol.to_bytes(4, "big")
    assert plain_sum(message if protocol == 1 else pseudo + message) == 0xFFFF
    if protocol == 17:
        assert int.from_bytes(message[6:8], "big") != 0
        assert int.from_bytes(message[4:6], "big") == len(message)


def plain_sum(data: bytes) -> int:
    """Return the ones' complement sum of 16-bit words, carries added back in."""
    total = int(np.frombuffer(data + bytes(len(data) % 2), ">u2").sum(dtype=np.int64))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
