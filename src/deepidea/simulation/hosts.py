"""Hosts as a capture shows them: addresses, the habits of an operating system's stack, how far away they are."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from math import log
from random import Random

from deepidea.simulation.frames import Envelope

__all__ = ["STACKS", "Host", "Route", "Stack"]


@dataclass(frozen=True, slots=True)
class Stack:
    """How an operating system's TCP/IP shows on the wire.

    Parameters
    ----------
    name
        For people.
    ttl
        Of the packets that it sends.
    syn_window, window
        Receive window told in SYN packets, and about what it tells later, both in bytes.
    scale
        Binary exponent of the window, None where it has none.
    mss
        Largest segment that it takes over IPv4 on an Ethernet.
    times
        Whether it puts time stamps on every segment.
    sack
        Whether it says that it takes selective acknowledgements.
    first_window
        Segments that it sends before the first acknowledgement.
    delay_s
        How long it holds an acknowledgement back.
    ports
        From where it takes the ports of what it opens.
    """

    name: str
    ttl: int
    syn_window: int
    window: int
    scale: int | None
    mss: int
    times: bool
    sack: bool
    first_window: int
    delay_s: float
    ports: tuple[int, int]


STACKS = (
    Stack("linux", 64, 64240, 64256, 7, 1460, True, True, 10, 0.04, (32768, 60999)),
    Stack("linux-tuned", 64, 65535, 131072, 9, 1460, True, True, 10, 0.04, (15000, 60999)),
    Stack("windows", 128, 64240, 262656, 8, 1460, False, True, 10, 0.05, (49152, 65535)),
    Stack("windows-old", 128, 8192, 65536, 2, 1460, False, True, 4, 0.2, (49152, 65535)),
    Stack("macos", 64, 65535, 131712, 6, 1460, True, True, 10, 0.1, (49152, 65535)),
    Stack("bsd", 64, 65535, 65700, 6, 1460, True, True, 10, 0.1, (10000, 65535)),
    Stack("appliance", 255, 4128, 16384, None, 1460, False, False, 2, 0.2, (1024, 65535)),
    Stack("embedded", 64, 5840, 5840, None, 1460, False, False, 3, 0.2, (1024, 4999)),
)
"""Attackers, victims and everybody else draw from the same ones."""


@dataclass(slots=True, eq=False)
class Host:
    """A host, inside the site or outside.

    Parameters
    ----------
    name
        For people and for DNS.
    mac
        As the capture sees it: of a host outside, the router's.
    ipv4, ipv6
        Its addresses; not every host has the second.
    stack
        Its operating system.
    inside
        Whether it belongs to the site.
    hops
        Routers between it and the point of capture.
    distance_s
        One way to the point of capture, without queues.
    jitter_s
        Mean wait in queues on that way.
    bytes_per_s
        Its line.
    mtu_loss
        Bytes that tunnels on its way take from each segment.
    open_ports
        TCP ports that answer.
    silent
        Share of its other ports that a filter keeps silent; the rest is refused.

    Examples
    --------
    >>> host = Host("pc", b"123456", ipaddress.ip_address("10.0.0.9"), None, STACKS[0])
    >>> host.mss(v6=False), host.next_port(Random(0)) >= 32768
    (1460, True)
    """

    name: str
    mac: bytes
    ipv4: ipaddress.IPv4Address
    ipv6: ipaddress.IPv6Address | None
    stack: Stack
    inside: bool = True
    hops: int = 0
    distance_s: float = 0.0002
    jitter_s: float = 0.00003
    bytes_per_s: float = 1.25e7
    mtu_loss: int = 0
    open_ports: frozenset[int] = frozenset()
    silent: float = 0.0
    _port: int = 0

    def next_port(self, rng: Random) -> int:
        """Return a port for something that it opens; one comes again only after nearly all others."""
        low, high = self.stack.ports
        before = self._port or low + int(self.ipv4) * 7919 % (high - low)
        self._port = low + (before - low + rng.randrange(1, 8)) % (high - low + 1)
        return self._port

    def mss(self, *, v6: bool) -> int:
        """Return the largest segment that it takes."""
        return self.stack.mss - self.mtu_loss - (20 if v6 else 0)

    def wait(self, rng: Random) -> float:
        """Return the time of one packet between it and the point of capture."""
        return self.distance_s - self.jitter_s * log(1.0 - rng.random())


@dataclass(frozen=True, slots=True)
class Route:
    """The way between two hosts that talk.

    Parameters
    ----------
    src, dst
        Who opens, and who answers.
    v6
        Whether over IPv6.
    vlan
        Tag of the frames, None for none.
    loss
        Share of data segments that get lost.
    """

    src: Host
    dst: Host
    v6: bool = False
    vlan: int | None = None
    loss: float = 0.0

    @property
    def addresses(self) -> tuple[str, str]:
        """Both addresses as text."""
        src, dst = (self._ip(host) for host in (self.src, self.dst))
        return str(src), str(dst)

    @property
    def bytes_per_s(self) -> float:
        """The narrower line."""
        return min(self.src.bytes_per_s, self.dst.bytes_per_s)

    def envelopes(self, rng: Random) -> tuple[Envelope, Envelope]:
        """Return what the packets there and those back have in common."""
        return self._envelope(self.src, self.dst, rng), self._envelope(self.dst, self.src, rng)

    def _envelope(self, src: Host, dst: Host, rng: Random) -> Envelope:
        ips = self._ip(src).packed, self._ip(dst).packed
        ttl = src.stack.ttl - src.hops
        return Envelope(src.mac, dst.mac, *ips, ttl=ttl, vlan=self.vlan, ident=rng.getrandbits(20))

    def _ip(self, host: Host) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return host.ipv6 if self.v6 and host.ipv6 is not None else host.ipv4
