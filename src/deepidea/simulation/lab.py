"""The simulated site: its hosts and servers, and who is outside.

The site is 10.x.y.0/24, with addresses of RFC 3849 for IPv6; everybody outside has one of 198.18.0.0/15, the range for
benchmarks of networks (RFC 2544), and a name under ``example`` (RFC 2606). None of these is anybody's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from deepidea.simulation.chance import skewed
from deepidea.simulation.conversations import Conversation
from deepidea.simulation.hosts import STACKS, Host, Route, Stack

__all__ = ["LEAST_HOSTS", "MOST_HOSTS", "Activity", "Lab", "build_lab", "stranger"]

Activity = Iterator[tuple[float, "Conversation | Activity"]]
"""What somebody does: conversations, and activities within it, each with the second of its start, in order of time."""

_STACK_WEIGHTS = (22, 6, 34, 8, 16, 6, 4, 4)  # of STACKS
_SERVERS = {  # open ports
    "web": (80, 443, 22),
    "mail": (25, 143, 587, 993),
    "files": (21, 22, 445, 873),
    "shell": (22, 8080),
    "resolver": (53,),
    "monitor": (22, 3000),
}
LEAST_HOSTS, MOST_HOSTS = len(_SERVERS) + 2, 200
_N_SITES, _N_VISITORS = 60, 80
_OUTSIDE = int(ipaddress.IPv4Address("198.18.0.0"))
_IPV6_SHARE = 0.12
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jetty") + (
    "kelp",
    "larch",
    "maple",
    "north",
    "ocean",
    "pine",
    "quartz",
    "river",
    "stone",
    "tidal",
)
_KINDS = ("news", "shop", "mail", "cdn", "bank", "maps", "play", "docs", "api", "forum")


@dataclass(frozen=True, slots=True)
class Lab:
    """The hosts of a simulation, and for how long it goes on.

    Parameters
    ----------
    duration_s
        Seconds.
    clients
        Hosts that people use, inside.
    servers
        The site's servers by what they do.
    sites
        Servers outside, the most visited first.
    visitors
        Hosts outside that come to the site's servers; attackers from outside are among them.
    gateway
        The router.
    vlan
        Tag of all frames, None for none.

    Examples
    --------
    >>> lab = build_lab(seed=0, hosts=20, duration_s=60.0)
    >>> len(lab.inside), len(lab.clients), sorted(lab.servers)
    (20, 14, ['files', 'mail', 'monitor', 'resolver', 'shell', 'web'])
    """

    duration_s: float
    clients: tuple[Host, ...]
    servers: dict[str, Host]
    sites: tuple[Host, ...]
    visitors: tuple[Host, ...]
    gateway: Host
    vlan: int | None = None

    @property
    def inside(self) -> tuple[Host, ...]:
        """Every host of the site."""
        return (*self.servers.values(), *self.clients)

    def route(self, src: Host, dst: Host, rng: Random, *, v4_only: bool = False) -> Route:
        """Return a way between two hosts; now and then it is IPv6, where both have it."""
        both = src.ipv6 is not None and dst.ipv6 is not None
        v6 = both and not v4_only and rng.random() < _IPV6_SHARE
        usual = 0.0004 if src.inside and dst.inside else 0.003
        return Route(src, dst, v6, self.vlan, skewed(rng, usual, 0.8, most=0.05))

    def site(self, rng: Random) -> Host:
        """Return a server outside, those first in the list the most often."""
        return self.sites[min(int(len(self.sites) * rng.random() ** 2.2), len(self.sites) - 1)]


def build_lab(*, seed: int, hosts: int, duration_s: float, vlan: int | None = None) -> Lab:
    """Return the lab of a seed.

    Raises
    ------
    ValueError
        Fewer hosts than the site has servers and two more, or more than its network takes.
    """
    if not LEAST_HOSTS <= hosts <= MOST_HOSTS:
        raise ValueError(f"hosts must be in {LEAST_HOSTS}..{MOST_HOSTS}, however: hosts={hosts}")
    rng = Random(f"lab {seed}")
    net = int(ipaddress.IPv4Address("10.0.0.0")) + (rng.randrange(1 << 16) << 8)
    gateway = _gateway(net, rng)
    last_bytes = rng.sample(range(2, 254), hosts)
    servers = {name: _inside(name, net + last_bytes.pop(), rng, frozenset(ports)) for name, ports in _SERVERS.items()}
    clients = tuple(_inside(f"pc{at}", net + last, rng, frozenset()) for at, last in enumerate(last_bytes, 1))
    outside = rng.sample(range(1 << 17), _N_SITES + _N_VISITORS)
    sites = tuple(_outside(_name(at), at_ip, gateway, rng) for at, at_ip in enumerate(outside[:_N_SITES]))
    visitors = tuple(stranger(at_ip, gateway, rng, slow=True) for at_ip in outside[_N_SITES:])
    return Lab(duration_s, clients, servers, sites, visitors, gateway, vlan)


def _gateway(net: int, rng: Random) -> Host:
    return Host("gateway", _mac(rng), ipaddress.IPv4Address(net + 1), None, STACKS[6])


def _mac(rng: Random) -> bytes:
    return bytes([2]) + rng.randbytes(5)  # locally administered


def _inside(name: str, address: int, rng: Random, ports: frozenset[int]) -> Host:
    ipv6 = ipaddress.IPv6Address((0x20010DB8 << 96) + address) if rng.random() < 0.7 else None
    stack = STACKS[rng.choice((0, 0, 1, 5))] if ports else _stack(rng)
    return Host(
        name,
        _mac(rng),
        ipaddress.IPv4Address(address),
        ipv6,
        stack,
        distance_s=rng.uniform(5e-5, 4e-4),
        jitter_s=rng.uniform(1e-5, 6e-5),
        bytes_per_s=rng.choice((1.25e7, 1.25e8)),
        open_ports=ports,
        silent=rng.choice((0.0, 0.1, 0.5, 1.0)),
    )


def _stack(rng: Random) -> Stack:
    return rng.choices(STACKS, _STACK_WEIGHTS)[0]


def _outside(name: str, number: int, gateway: Host, rng: Random) -> Host:
    host = stranger(number, gateway, rng)
    host.name, host.open_ports = name, frozenset({53, 80, 443})
    host.stack = STACKS[rng.choice((0, 0, 0, 1, 5))]
    host.bytes_per_s = skewed(rng, 4e6, 0.7, most=1.25e8)
    return host


def stranger(number: int, gateway: Host, rng: Random, *, slow: bool = False) -> Host:
    """Return a host outside with the address of a number below 2**17."""
    distance_s = skewed(rng, 0.015, 0.8, most=0.15)
    return Host(
        f"host{number}",
        gateway.mac,
        ipaddress.IPv4Address(_OUTSIDE + number),
        ipaddress.IPv6Address((0x20010DB8 << 96) + (1 << 64) + number) if rng.random() < 0.5 else None,
        _stack(rng),
        inside=False,
        hops=round(rng.triangular(5, 13)),
        distance_s=distance_s,
        jitter_s=distance_s * rng.uniform(0.01, 0.08),
        bytes_per_s=skewed(rng, 1e6, 1.0, most=1.25e7) if slow else 1.25e7,
        mtu_loss=rng.choice((0, 0, 0, 0, 8, 60, 100)),
    )


def _name(at: int) -> str:
    return f"{_KINDS[at * 7 % len(_KINDS)]}.{_WORDS[at % len(_WORDS)]}-{_WORDS[at * 3 // 7 % len(_WORDS)]}.example"
