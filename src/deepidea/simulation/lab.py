"""The simulated site: its hosts and servers, and the hosts outside.

Addresses, numbers of hosts, lines, losses and the time of day differ from seed to seed. All addresses and names are
reserved ones (`deepidea.simulation.addresses`; RFC 2606).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from deepidea.simulation.addresses import AddressPlan, draw_plan, outside4, outside6
from deepidea.simulation.conversations import Conversation
from deepidea.simulation.draws import lognormal, spawn
from deepidea.simulation.hosts import STACKS, Host, Route, Stack

Activity = Iterator[tuple[float, "Conversation | Activity"]]
"""Conversations and nested activities of somebody, each with the second of its start, in order of time."""

BENIGN = "benign"
"""Label of everything that is no attack."""

_STACK_WEIGHTS = (22, 6, 34, 8, 16, 6, 4, 4)  # of STACKS
_SERVERS = {  # open ports; those behind the bar are open in half of the sites
    "web": ((80, 443, 22), (8080, 8443)),
    "mail": ((25, 143, 587, 993), (22, 80, 443)),
    "files": ((21, 22, 445, 873), (139, 2049, 5001)),
    "shell": ((22, 3389, 8080), (5900, 8000)),
    "resolver": ((53, 88, 135, 389, 445), (464, 636, 3268)),  # and directory
    "monitor": ((22, 3000), (443, 9090)),
}
_DEVICES = {"printer": (80, 515, 631, 9100), "camera": (80, 554), "phone": (80,), "sensor": ()}
LEAST_HOSTS, MOST_HOSTS = len(_SERVERS) + 2, 200
_N_OUTSIDE = 1 << 17
_WORDS = (
    ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jetty")
    + ("kelp", "larch", "maple", "north", "ocean", "pine", "quartz", "river", "stone", "tidal")
)  # fmt: skip
_KINDS = ("news", "shop", "mail", "cdn", "bank", "maps", "play", "docs", "api", "forum")


@dataclass(frozen=True, slots=True)
class Lab:
    """The hosts of a simulation, its duration and what differs from site to site.

    Examples
    --------
    >>> lab = build_lab(seed=0, hosts=20, duration_s=60.0)
    >>> len(lab.inside), len(lab.clients) + len(lab.devices), sorted(lab.servers)
    (20, 14, ['files', 'mail', 'monitor', 'resolver', 'shell', 'web'])
    """

    duration_s: float
    plan: AddressPlan
    clients: tuple[Host, ...]  # workstations of the site; some may share an address
    servers: dict[str, Host]  # of the site, by role
    devices: tuple[Host, ...]  # printers, cameras, telephones, sensors
    sites: tuple[Host, ...]  # servers outside, the most visited first
    visitors: tuple[Host, ...]  # hosts outside that use the site's servers, attackers among them
    gateway: Host
    vlan: int | None = None  # 802.1Q identifier of all frames, None for untagged ones
    hour: float = 9.0  # of the day when it begins
    busy: float = 1.0  # how much people do at that time, 1 in office hours
    v6_share: float = 0.12  # of the conversations between hosts that have both
    v6_broken: bool = False  # whether IPv6 to hosts outside fails
    quic: float = 0.0  # share of the encrypted requests to sites outside
    losses: float = 1.0  # factor on the share of lost segments

    @property
    def inside(self) -> tuple[Host, ...]:
        """Every host of the site."""
        return (*self.servers.values(), *self.clients, *self.devices)

    def absent(self, number: int) -> Host:
        """Return what would be at an address of the site by its number, where nothing answers."""
        address = self.plan.inside4(number)
        return Host(f"absent{number}", self.gateway.mac, address, None, STACKS[0], silent=1.0)

    def address_numbers(self, rng: Random, most: int) -> list[int]:
        """Return numbers of addresses of the site, present or not, as a sweep goes through them."""
        numbers = rng.sample(range(1, 255), min(most, 254))
        return sorted(numbers) if rng.random() < 0.6 else numbers

    def at(self, number: int) -> Host:
        """Return the host at an address of the site, or what is absent there."""
        address = self.plan.inside4(number)
        return next((host for host in (self.gateway, *self.inside) if host.ipv4 == address), self.absent(number))

    def route(self, src: Host, dst: Host, rng: Random, *, v6: bool | None = None) -> Route:
        """Return a route between two hosts; some are IPv6, or all or none as asked for, where both have it."""
        both = src.ipv6 is not None and dst.ipv6 is not None
        wanted = rng.random() < self.v6_share if v6 is None else v6
        v6 = both and wanted and (not self.v6_broken or src.inside == dst.inside)
        usual = self.losses * (0.0004 if src.inside and dst.inside else 0.003)
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


def build_lab(*, seed: int, hosts: int, duration_s: float, vlan: int | None = None, hour: float = 9.0) -> Lab:
    """Return the lab for a seed.

    Raises
    ------
    ValueError
        `hosts` is out of range.
    """
    if not LEAST_HOSTS <= hosts <= MOST_HOSTS:
        raise ValueError(f"hosts must be in {LEAST_HOSTS}..{MOST_HOSTS}, got {hosts}")
    rng = Random(f"lab {seed}")
    plan = draw_plan(rng)
    gateway = Host("gateway", _mac(rng), plan.inside4(1), None, STACKS[6])
    servers, devices, clients = _draw_inside(plan, hosts, rng)
    sites, visitors = _draw_outside(gateway, rng)
    tag = rng.randrange(1, 4095) if rng.random() < 0.2 else 0
    return Lab(
        duration_s, plan, clients, servers, devices, sites, visitors, gateway, (tag if vlan is None else vlan) or None,
        hour=hour, busy=_busy(hour), v6_share=rng.choice((0.02, 0.05, 0.15, 0.3)),
        v6_broken=rng.random() < 0.2, quic=rng.choice((0.0, 0.1, 0.4)), losses=lognormal(rng, 1.0, 0.8),
    )  # fmt: skip


def _draw_inside(
    plan: AddressPlan, n_hosts: int, rng: Random
) -> tuple[dict[str, Host], tuple[Host, ...], tuple[Host, ...]]:
    """Return servers, devices and clients of the site; in a quarter of the sites some clients share an address."""
    numbers = rng.sample(range(2, 254), n_hosts)
    servers = {name: _server(name, plan, numbers.pop(), rng) for name in _SERVERS}
    n_devices = rng.randrange(len(numbers) // 3 + 1) if len(numbers) > 4 else 0
    devices = tuple(_device(plan, numbers.pop(), rng) for _ in range(n_devices))
    clients = [_inside(f"pc{at}", plan, number, rng, ()) for at, number in enumerate(numbers, 1)]
    if rng.random() < 0.25:
        _share_address(clients[: len(clients) // 3])
    return servers, devices, tuple(clients)


def _draw_outside(gateway: Host, rng: Random) -> tuple[tuple[Host, ...], tuple[Host, ...]]:
    """Return the servers outside, and the hosts that visit the site; the site's uplink may take bytes of segments."""
    numbers, n_sites = rng.sample(range(_N_OUTSIDE), rng.randrange(100, 220)), rng.randrange(45, 90)
    sites = tuple(_outside(_name(at), number, gateway, rng) for at, number in enumerate(numbers[:n_sites]))
    visitors = tuple(stranger(number, gateway, rng, slow=True) for number in numbers[n_sites:])
    _share_address(visitors[: rng.randrange(8)])
    uplink_loss = rng.choice((0, 0, 0, 8, 40))
    for host in (*sites, *visitors):
        host.mtu_loss = max(host.mtu_loss, uplink_loss)
    return sites, visitors


def _busy(hour: float) -> float:
    """Return how much people do at an hour of the day: little at night, most in office hours."""
    return 1.0 if 8 <= hour < 18 else 0.5 if 6 <= hour < 23 else 0.25


def _share_address(hosts: Sequence[Host]) -> None:
    """Put hosts behind a router that translates their addresses to its own (NAT)."""
    if len(hosts) > 1:
        router = hosts[0]
        for host in hosts[1:]:
            host.router, host.mac, host.ipv4, host.ipv6 = router, router.mac, router.ipv4, None
            host.hops += 1
        router.ipv6 = None


def _mac(rng: Random) -> bytes:
    return bytes([2]) + rng.randbytes(5)  # locally administered


def _server(name: str, plan: AddressPlan, number: int, rng: Random) -> Host:
    always, often = _SERVERS[name]
    return _inside(name, plan, number, rng, (*always, *(port for port in often if rng.random() < 0.5)))


def _device(plan: AddressPlan, number: int, rng: Random) -> Host:
    kind = rng.choice(tuple(_DEVICES))
    host = _inside(f"{kind}{number}", plan, number, rng, _DEVICES[kind])
    host.ipv6, host.stack = None, STACKS[rng.choice((0, 6, 7, 7))]
    return host


def _inside(name: str, plan: AddressPlan, number: int, rng: Random, ports: tuple[int, ...]) -> Host:
    return Host(
        name,
        _mac(rng),
        plan.inside4(number),
        plan.inside6(number) if rng.random() < 0.7 else None,
        STACKS[rng.choice((0, 0, 1, 2, 5))] if ports else _stack(rng),
        distance_s=rng.uniform(5e-5, 4e-4),
        jitter_s=rng.uniform(1e-5, 6e-5),
        bytes_per_s=rng.choice((1.25e7, 1.25e8)),
        open_ports=frozenset(ports),
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
    """Return a host outside by its number below 2**17."""
    distance_s = lognormal(rng, 0.015, 0.8, most=0.15)
    return Host(
        f"host{number}",
        gateway.mac,
        outside4(number),
        outside6(number) if rng.random() < 0.5 else None,
        _stack(rng),
        inside=False,
        hops=round(rng.triangular(5, 13)),
        distance_s=distance_s,
        jitter_s=distance_s * rng.uniform(0.01, 0.08),
        bytes_per_s=lognormal(rng, 1e6, 1.0, most=1.25e7) if slow else 1.25e7,
        mtu_loss=rng.choice((0, 0, 0, 0, 8, 60, 100)),
    )


def any_stranger(lab: Lab, rng: Random) -> Host:
    """Return a host outside that nobody has talked to before, most likely."""
    return stranger(rng.randrange(_N_OUTSIDE), lab.gateway, rng)


def _name(at: int) -> str:
    return f"{_KINDS[at * 7 % len(_KINDS)]}.{_WORDS[at % len(_WORDS)]}-{_WORDS[at * 3 // 7 % len(_WORDS)]}.example"
