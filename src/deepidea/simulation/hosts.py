"""Hosts and the routes between them: addresses, TCP/IP stack, distance from the capture point."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from math import log
from random import Random

from deepidea.simulation.frames import Envelope


@dataclass(frozen=True, slots=True)
class Stack:
    """The TCP/IP stack of an operating system as it appears on the wire."""

    name: str
    ttl: int  # initial
    syn_window: int  # bytes; later packets announce about `window`
    window: int
    scale: int | None  # binary exponent of the window; None for no window scaling
    mss: int  # over IPv4 on Ethernet
    times: bool  # uses TCP timestamps
    sack: bool  # permits selective acknowledgements
    first_window: int  # initial congestion window in segments
    delay_s: float  # of delayed acknowledgements
    ports: tuple[int, int]  # first and last ephemeral port


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

    Examples
    --------
    >>> host = Host("pc", b"123456", ipaddress.ip_address("10.0.0.9"), None, STACKS[0])
    >>> host.mss(v6=False), host.next_port(Random(0)) >= 32768
    (1460, True)
    """

    name: str  # also in DNS
    mac: bytes  # at the capture point: the router's for hosts outside
    ipv4: ipaddress.IPv4Address
    ipv6: ipaddress.IPv6Address | None
    stack: Stack
    inside: bool = True
    hops: int = 0  # routers between it and the capture point
    distance_s: float = 0.0002  # one-way delay to the capture point, without queues
    jitter_s: float = 0.00003  # mean queueing delay on that way
    bytes_per_s: float = 1.25e7  # of its line
    mtu_loss: int = 0  # bytes of each segment that tunnels on its way take
    open_ports: frozenset[int] = frozenset()  # TCP
    silent: float = 0.0  # share of the closed ports that drop packets instead of refusing
    router: Host | None = None  # whose address it shares (NAT); it gives the ports
    _port: int = 0

    def next_port(self, rng: Random) -> int:
        """Return an ephemeral port; one is reused only after nearly all others."""
        if self.router is not None:
            return self.router.next_port(rng)
        low, high = self.stack.ports
        before = self._port or low + int(self.ipv4) * 7919 % (high - low)
        self._port = low + (before - low + rng.randrange(1, 8)) % (high - low + 1)
        return self._port

    def mss(self, *, v6: bool) -> int:
        """Return the maximum segment size that it announces."""
        return self.stack.mss - self.mtu_loss - (20 if v6 else 0)

    def delay(self, rng: Random) -> float:
        """Return the time of one packet between it and the capture point."""
        return self.distance_s - self.jitter_s * log(1.0 - rng.random())


@dataclass(frozen=True, slots=True)
class Route:
    """The path between a client and a server."""

    src: Host
    dst: Host
    v6: bool = False
    vlan: int | None = None  # 802.1Q identifier, None for untagged frames
    loss: float = 0.0  # share of data segments that are lost
    ttl: int | None = None  # of the client's packets, where its program sets it

    @property
    def addresses(self) -> tuple[str, str]:
        """Source and destination address."""
        return str(self._ip(self.src)), str(self._ip(self.dst))

    @property
    def bytes_per_s(self) -> float:
        """Bandwidth of the narrower line."""
        return min(self.src.bytes_per_s, self.dst.bytes_per_s)

    def envelopes(self, rng: Random) -> tuple[Envelope, Envelope]:
        """Return the headers of the packets from client to server and back."""
        return self._envelope(self.src, self.dst, rng, self.ttl), self._envelope(self.dst, self.src, rng, None)

    def back(self) -> Route:
        """Return the path from the server to the client."""
        return Route(self.dst, self.src, self.v6, self.vlan, self.loss)

    def _envelope(self, src: Host, dst: Host, rng: Random, ttl: int | None) -> Envelope:
        ips = self._ip(src).packed, self._ip(dst).packed
        ttl = src.stack.ttl - src.hops if ttl is None else ttl
        return Envelope(src.mac, dst.mac, *ips, ttl=ttl, vlan=self.vlan, ident=rng.getrandbits(20))

    def _ip(self, host: Host) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return host.ipv6 if self.v6 and host.ipv6 is not None else host.ipv4
