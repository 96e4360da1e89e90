"""Scans: many ports of a host, one port of many hosts, fast and slow, by TCP, UDP and ICMP; background scanning."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from deepidea.simulation.conversations import (
    CLIENT,
    SERVER,
    Conversation,
    Echo,
    Message,
    Outcome,
    echo_conversation,
    refused_datagram,
    tcp_attempt,
    tcp_probe,
    udp_conversation,
)
from deepidea.simulation.draws import paced, spawn
from deepidea.simulation.episodes import Episode
from deepidea.simulation.frames import ACK, FIN, PSH, SYN, URG
from deepidea.simulation.hosts import Host
from deepidea.simulation.lab import Activity, any_stranger
from deepidea.simulation.probes import probe_port

_COMMON_PORTS = (
    (7, 9, 13, 21, 22, 23, 25, 37, 53, 79, 80, 81, 88, 106, 110, 111, 113, 119, 135, 139, 143, 144, 179, 199, 389, 427)
    + (443, 444, 445, 465, 513, 514, 515, 543, 544, 548, 554, 587, 631, 646, 873, 990, 993, 995, 1025, 1433, 1720, 1723)
    + (1900, 2000, 2049, 2121, 3000, 3128, 3306, 3389, 3986, 5000, 5009, 5051, 5060, 5357, 5432, 5631, 5666, 5800, 5900)
    + (6000, 6001, 6646, 7070, 8000, 8008, 8009, 8080, 8081, 8443, 8888, 9100, 9999, 10000, 32768, 49152, 49153, 49154)
)
_SERVICE_PORTS = (21, 22, 23, 80, 443, 445, 1433, 3306, 3389, 5432, 5900, 6379, 8080)  # of sweeps and worms
_UDP_PORTS = (53, 67, 69, 111, 123, 137, 161, 389, 500, 514, 520, 623, 1194, 1434, 1900, 3702, 4500, 5060, 5353, 11211)
_STEALTHY_FLAGS = (FIN, FIN | PSH | URG, 0, ACK, SYN | ACK)
_OPEN_OUTSIDE, _SILENT_OUTSIDE = 0.03, 0.85  # shares of the addresses outside, for one port


def some_ports(rng: Random, count: int, common: tuple[int, ...] = _COMMON_PORTS) -> list[int]:
    """Return distinct ports, the common ones first, in ascending or random order.

    Examples
    --------
    >>> len(set(some_ports(Random(0), 1000)))
    1000
    """
    ports = rng.sample(common, min(count, len(common)))
    known = frozenset(common)
    others = (port for port in rng.sample(range(1, 1 << 16), min(count + len(known), 65_535)) if port not in known)
    ports += [next(others) for _ in range(min(count, 65_535) - len(ports))]
    return sorted(ports) if rng.random() < 0.4 else ports


def scan_ports(episode: Episode) -> Activity:
    """Probe ports of a host or a few: half-open or by whole connections, from one socket or from many."""
    rng, ports = episode.rng, some_ports(episode.rng, episode.count("ports"))
    probes = [(host, port) for host in episode.targets for port in ports]
    if rng.random() < 0.5:
        rng.shuffle(probes)
    whole, src_port, retries = rng.random() < 0.3, rng.choice((None, rng.randrange(32_768, 65_536))), rng.randrange(3)
    for at_s, (host, port) in zip(episode.times(len(probes)), probes, strict=True):
        own = spawn(rng)
        src = own.choice(episode.sources)
        if whole:
            yield at_s, probe_port(episode.lab, src, host, port, at_s, episode.label, own)
        else:
            yield at_s, _half_open(episode, src, host, port, at_s, own, src_port=src_port, retries=retries)


def _half_open(
    episode: Episode,
    src: Host,
    dst: Host,
    port: int,
    at_s: float,
    rng: Random,
    *,
    src_port: int | None = None,
    retries: int = 1,
) -> Conversation:
    route, silent = episode.route(src, dst, rng), rng.random() < dst.silent
    outcome: Outcome = "reset" if port in dst.open_ports else "silent" if silent else "closed"
    return tcp_attempt(
        at_s, route, port, outcome=outcome, label=episode.label, rng=rng, retries=retries, src_port=src_port
    )


def scan_slowly(episode: Episode) -> Activity:
    """Open and close one port now and then."""
    rng, ports = episode.rng, some_ports(episode.rng, episode.count("ports"))
    jitter = rng.choice((0.02, 0.3, 0.8))
    times = paced(rng, episode.begin_s, episode.strength["period_s"], len(ports), jitter=jitter)
    for at_s, port in zip(times, ports, strict=True):
        own = spawn(rng)
        src, dst = own.choice(episode.sources), own.choice(episode.targets)
        yield at_s, probe_port(episode.lab, src, dst, port, at_s, episode.label, own)


def _swept(episode: Episode, port: int | None = None) -> Iterator[Host]:
    """Yield the hosts that a sweep goes through: addresses of the site, present or not, or outside."""
    rng, lab, n_hosts = episode.rng, episode.lab, episode.count("hosts")
    own = {host.ipv4 for host in episode.sources}
    outwards = n_hosts > 250 or (episode.sources[0].inside and rng.random() < 0.4)
    if not outwards:
        numbers = lab.address_numbers(rng, n_hosts + len(own))
        yield from [host for host in map(lab.at, numbers) if host.ipv4 not in own][:n_hosts]
        return
    for _ in range(n_hosts):
        host = any_stranger(lab, rng)
        host.silent = _SILENT_OUTSIDE
        host.open_ports = frozenset({port} if port is not None and rng.random() < _OPEN_OUTSIDE else ())
        yield host


def sweep_port(episode: Episode) -> Activity:
    """Probe one port of many hosts, as worms do."""
    rng = episode.rng
    port, retries, whole = rng.choice(_SERVICE_PORTS), rng.randrange(3), rng.random() < 0.5
    hosts = list(_swept(episode, port))
    for at_s, host in zip(episode.times(len(hosts)), hosts, strict=True):
        own = spawn(rng)
        src = own.choice(episode.sources)
        if whole and port in host.open_ports:
            yield at_s, probe_port(episode.lab, src, host, port, at_s, episode.label, own)
        else:
            yield at_s, _half_open(episode, src, host, port, at_s, own, retries=retries)


def sweep_by_ping(episode: Episode) -> Activity:
    """Send one or two echo requests to each of many hosts."""
    rng = episode.rng
    size, count = rng.choice((0, 8, 32, 56)), rng.choice((1, 1, 2))
    hosts = list(_swept(episode))
    for at_s, host in zip(episode.times(len(hosts)), hosts, strict=True):
        own = spawn(rng)
        route = episode.route(own.choice(episode.sources), host, own)
        echo = Echo(bytes(size), bytes(size) if own.random() >= host.silent else None, 0.5)
        yield at_s, echo_conversation(at_s, route, [echo] * count, label=episode.label, rng=own)


def scan_by_udp(episode: Episode) -> Activity:
    """Send datagrams to many ports; closed ports refuse some of them by ICMP, a few open ones answer."""
    rng, payload = episode.rng, bytes(episode.rng.choice((0, 0, 8, 40)))
    ports, refusals_per_s, refused_s = some_ports(rng, episode.count("ports"), _UDP_PORTS), rng.choice((1, 1, 50)), 0.0
    [target] = episode.targets[:1]
    for at_s, port in zip(episode.times(len(ports)), ports, strict=True):
        own = spawn(rng)
        route = episode.route(own.choice(episode.sources), target, own)
        if own.random() >= target.silent and at_s - refused_s >= 1 / refusals_per_s:  # stacks limit ICMP errors
            refused_s = at_s
            sent, error = refused_datagram(at_s, route, port, payload, label=episode.label, rng=own)
            yield at_s, sent
            yield at_s, error
        else:
            script = [Message(CLIENT, payload)] + [Message(SERVER, bytes(60), 0.001)] * (own.random() < 0.02)
            yield at_s, udp_conversation(at_s, route, port, script, label=episode.label, rng=own)


def scan_stealthily(episode: Episode) -> Activity:
    """Send packets that belong to no connection: FIN, Xmas, null, ACK or SYN-ACK scans (RFC 9293, 3.10.7.1)."""
    rng, flags = episode.rng, episode.rng.choice(_STEALTHY_FLAGS)
    ports = some_ports(rng, episode.count("ports"))
    for at_s, port in zip(episode.times(len(ports)), ports, strict=True):
        own = spawn(rng)
        src, dst = own.choice(episode.sources), episode.targets[0]
        ignored = own.random() < dst.silent or (port in dst.open_ports and not flags & ACK)
        route = episode.route(src, dst, own)
        yield at_s, tcp_probe(at_s, route, port, flags, refused=not ignored, label=episode.label, rng=own)


def scan_in_background(episode: Episode) -> Activity:
    """Probe a port or two of an exposed server from ever new hosts of the Internet, for long."""
    rng = episode.rng
    times = paced(rng, episode.begin_s, 60 / episode.strength["per_minute"], episode.count("probes"), jitter=1.0)
    for at_s in times:
        yield at_s, _visit_of_scanner(episode, at_s, spawn(rng))


def _visit_of_scanner(episode: Episode, at_s: float, rng: Random) -> Activity:
    src, dst = any_stranger(episode.lab, rng), rng.choice(episode.targets)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        own, port = spawn(rng), rng.choice((*_SERVICE_PORTS, rng.choice(_COMMON_PORTS), rng.randrange(1, 1 << 16)))
        if own.random() < 0.15:
            route = episode.route(src, dst, own)
            script = [Message(CLIENT, bytes(own.randrange(12, 60)))]
            yield at_s, udp_conversation(at_s, route, own.choice(_UDP_PORTS), script, label=episode.label, rng=own)
        elif own.random() < 0.3:
            yield at_s, probe_port(episode.lab, src, dst, port, at_s, episode.label, own)
        else:
            yield at_s, _half_open(episode, src, dst, port, at_s, own, retries=own.randrange(2))
        at_s += rng.expovariate(1.0)
