"""The simulated site: its hosts and servers, and the hosts outside.

All addresses and names are reserved ones: the site is 10.x.y.0/24, hosts outside are in 198.18.0.0/15 (RFC 2544), IPv6
is 2001:db8::/32 (RFC 3849), names end in ``example`` (RFC 2606).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from deepidea.simulation.conversations import Conversation
from deepidea.simulation.draws import lognormal, spawn
from deepidea.simulation.hosts import STACKS, Host, Route, Stack

Activity = Iterator[tuple[float, "Conversation | Activity"]]
"""Conversations and nested activities of somebody, each with the second of its start, in order of time."""

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
_WORDS = (
    ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jetty")
    + ("kelp", "larch", "maple", "north", "ocean", "pine", "quartz", "river", "stone", "tidal")
)  # fmt: skip
_KINDS = ("news", "shop", "mail", "cdn", "bank", "maps", "play", "docs", "api", "forum")


@dataclass(frozen=True, slots=True)
class Lab:
    """The hosts of a simulation, and its duration.

    Examples
    --------
    >>> lab = build_lab(seed=0, hosts=20, duration_s=60.0)
    >>> len(lab.inside), len(lab.clients), sorted(lab.servers)
    (20, 14, ['files', 'mail', 'monitor', 'resolver', 'shell', 'web'])
    """

    duration_s: float
    clients: tuple[Host, ...]  # workstations of the site
    servers: dict[str, Host]  # of the site, by role
    sites: tuple[Host, ...]  # servers outside, the most visited first
    visitors: tuple[Host, ...]  # hosts outside that use the site's servers, attackers among them
    gateway: Host
    vlan: int | None = None  # 802.1Q identifier of all frames, None for untagged ones

    @property
    def inside(self) -> tuple[Host, ...]:
        """Every host of the site."""
        return (*self.servers.values(), *self.clients)

    def route(self, src: Host, dst: Host, rng: Random, *, v4_only: bool = False) -> Route:
        """Return a route between two hosts; some are IPv6, where both have it."""
        both = src.ipv6 is not None and dst.ipv6 is not None
        v6 = both and not v4_only and rng.random() < _IPV6_SHARE
        usual = 0.0004 if src.inside and dst.inside else 0.003
        return Route(src, dst, v6, self.vlan, lognormal(rng, usual, 0.8, most=0.05))

    def site(self, rng: Random) -> Host:
        """Return a server outside; early ones in the list are the most likely."""
        return self.sites[min(int(len(self.sites) * rng.random() ** 2.2), len(self.sites) - 1)]


def recurring(
    times: Iterable[float],
    rng: Random,
    start: Callable[..., Conversation | Activity],
    *,
    hosts: Sequence[Host] | None = None,
) -> Activity:
    """Yield what `start` returns for each time and a generator of its own, with `hosts` for one of them before both."""
    for at_s in times:
        host = () if hosts is None else (rng.choice(hosts),)
        yield at_s, start(*host, at_s, spawn(rng))


def build_lab(*, seed: int, hosts: int, duration_s: float, vlan: int | None = None) -> Lab:
    """Return the lab for a seed.

    Raises
    ------
    ValueError
        `hosts` is out of range.
    """
    if not LEAST_HOSTS <= hosts <= MOST_HOSTS:
        raise ValueError(f"hosts must be in {LEAST_HOSTS}..{MOST_HOSTS}, got {hosts}")
    rng = Random(f"lab {seed}")
    net = int(ipaddress.IPv4Address("10.0.0.0")) + (rng.randrange(1 << 16) << 8)
    gateway = Host("gateway", _mac(rng), ipaddress.IPv4Address(net + 1), None, STACKS[6])
    last_bytes = rng.sample(range(2, 254), hosts)
    servers = {name: _inside(name, net + last_bytes.pop(), rng, frozenset(ports)) for name, ports in _SERVERS.items()}
    clients = tuple(_inside(f"pc{at}", net + last, rng, frozenset()) for at, last in enumerate(last_bytes, 1))
    outside = rng.sample(range(1 << 17), _N_SITES + _N_VISITORS)
    sites = tuple(_outside(_name(at), at_ip, gateway, rng) for at, at_ip in enumerate(outside[:_N_SITES]))
    visitors = tuple(stranger(at_ip, gateway, rng, slow=True) for at_ip in outside[_N_SITES:])
    return Lab(duration_s, clients, servers, sites, visitors, gateway, vlan)


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
    host.bytes_per_s = lognormal(rng, 4e6, 0.7, most=1.25e8)
    return host


def stranger(number: int, gateway: Host, rng: Random, *, slow: bool = False) -> Host:
    """Return a host outside, whose address is the one of a number below 2**17."""
    distance_s = lognormal(rng, 0.015, 0.8, most=0.15)
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
        bytes_per_s=lognormal(rng, 1e6, 1.0, most=1.25e7) if slow else 1.25e7,
        mtu_loss=rng.choice((0, 0, 0, 0, 8, 60, 100)),
    )


def _name(at: int) -> str:
    return f"{_KINDS[at * 7 % len(_KINDS)]}.{_WORDS[at % len(_WORDS)]}-{_WORDS[at * 3 // 7 % len(_WORDS)]}.example"
