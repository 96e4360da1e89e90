"""Benign traffic of machines: agents, monitors, sensors, jobs, clocks, updates, services that are gone.

Much of it is as regular as a beacon, and some of it fails as often as a scan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from random import Random

from deepidea.simulation.conversations import (
    CLIENT,
    SERVER,
    Conversation,
    Ending,
    Message,
    Outcome,
    arp_conversation,
    ping_conversation,
    refused_datagram,
    tcp_attempt,
    tcp_conversation,
    udp_conversation,
)
from deepidea.simulation.draws import arrivals, geometric, log_uniform, lognormal, periodic, spawn
from deepidea.simulation.hosts import Host
from deepidea.simulation.lab import BENIGN, Activity, Lab, recurring
from deepidea.simulation.payloads import Bulk, ntp_packet
from deepidea.simulation.probes import probe_port
from deepidea.simulation.scripts import Exchange, any_ending, dns_script, http_script, jittered, ssh_login, tls_script

Talk = Callable[[Random], Iterator[Message]]

_KNOWN_PORTS = (21, 22, 23, 25, 80, 135, 139, 443, 445, 3389, 5900, 8080)
_SNMP, _MQTT, _COAP, _SYSLOG = 161, 8883, 5683, 514


def timed(
    lab: Lab,
    src: Host,
    dst: Host,
    port: int,
    talk: Talk,
    every_s: float,
    rng: Random,
    *,
    jitter: float = 0.01,
    varied: float = 0.0,
) -> Activity:
    """Yield what a program says by its timer: the same each time, but for a share of `varied` of the times."""
    program, ending, route = rng.getrandbits(64), any_ending(rng, idle_s=0.3), lab.route(src, dst, rng)
    for at_s in periodic(rng, every_s, lab.duration_s, jitter=jitter):
        own = spawn(rng)
        script = jittered(talk(spawn(own) if own.random() < varied else Random(program)), own, 0.15)
        yield at_s, tcp_conversation(at_s, route, port, script, label=BENIGN, rng=own, ending=ending)


# --- agents, sensors, programs that poll -----------------------------------------------------------------------------


def agents(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Programs that call home by a timer: licences, telemetry, chat, and updates, some of which are large."""

    def call(name: str, usual_bytes: float, shape: Random) -> Iterator[Message]:
        large = shape.random() < 0.03
        answer = int(lognormal(shape, 1_500_000 if large else 300, 0.5, most=4_000_000))
        return tls_script(name, [Exchange(int(lognormal(shape, usual_bytes, 0.1)), answer)], shape)

    for host in lab.clients:
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            vendor, own = lab.site(rng), spawn(rng)
            talk = partial(call, vendor.name, lognormal(own, 350, 0.6))
            jitter, varied = own.choice((0.002, 0.02, 0.1, 0.3)), own.choice((0.0, 0.1, 0.5, 1.0))
            every_s = own.choice((12, 20, 30, 60, 60, 120, 300))
            yield timed(lab, host, vendor, 443, talk, every_s, own, jitter=jitter, varied=varied)


def sensors(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Devices that report to a cloud every so many seconds: by short connections, one long one, or datagrams."""

    def report(name: str, shape: Random) -> Iterator[Message]:
        return tls_script(name, [Exchange(shape.randrange(90, 600), shape.choice((31, 60, 180)))], shape)

    clouds = rng.sample(lab.sites, 3)
    for host in (*lab.devices, *lab.clients[::5]):
        own, cloud = spawn(rng), rng.choice(clouds)
        every_s, kind = own.choice((10, 30, 30, 60, 60, 300)), own.randrange(4)
        if kind < 2:
            talk = (_stay_connected, _send_readings)[kind](lab, host, cloud, every_s, own)
            yield iter([(0.0, talk)])
        else:
            yield timed(lab, host, cloud, 443, partial(report, cloud.name), every_s, own, jitter=0.01)


def _stay_connected(lab: Lab, host: Host, cloud: Host, every_s: float, rng: Random) -> Conversation:
    """Keep one connection alive, as MQTT does."""

    def script() -> Iterator[Message]:
        yield from tls_script(cloud.name, [Exchange(160, 60, every_s * rng.random())], rng)
        while True:
            yield Message(CLIENT, Bulk(31), every_s)
            yield Message(SERVER, Bulk(31), 0.02)

    route, ending = lab.route(host, cloud, rng), Ending("open")
    return tcp_conversation(0.0, route, _MQTT, script(), label=BENIGN, rng=rng, ending=ending)


def _send_readings(lab: Lab, host: Host, cloud: Host, every_s: float, rng: Random) -> Conversation:
    """Send readings of one size, each of which is acknowledged (CoAP)."""
    size = rng.randrange(40, 300)

    def script() -> Iterator[Message]:
        while True:
            yield Message(CLIENT, Bulk(size), every_s)
            yield Message(SERVER, Bulk(24), 0.02)

    return udp_conversation(0.0, lab.route(host, cloud, rng), _COAP, script(), label=BENIGN, rng=rng)


def jobs(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Jobs by the clock: builds that poll a repository, databases that are checked, files that are copied."""

    def poll(shape: Random) -> Iterator[Message]:
        return http_script("ci.lab.example", [Exchange(300, shape.randrange(200, 5000))], shape)

    def copy(shape: Random) -> Iterator[Message]:
        yield from ssh_login(shape, [0.01], succeeds=True)
        yield Message(CLIENT, Bulk(int(lognormal(shape, 20_000, 1.5, most=2_000_000))), 0.05)

    for src in (*lab.servers.values(), *lab.clients[::4]):
        own = spawn(rng)
        talk, role, port = own.choice(((poll, "shell", 8080), (poll, "web", 80), (copy, "files", 22)))
        dst = lab.servers[role]
        if src is not dst and own.random() < 0.6:
            every_s, varied = own.choice((5, 15, 30, 60, 60, 300)), own.choice((0.0, 0.3))
            yield timed(lab, src, dst, port, talk, every_s, own, jitter=own.choice((0.0, 0.02)), varied=varied)


def updates(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Software updates: many requests and some large downloads from one site."""

    def update(host: Host, at_s: float, rng: Random) -> Activity:
        site = lab.sites[rng.randrange(6)]
        for _ in range(geometric(rng, 5)):
            own = spawn(rng)
            sizes = (int(lognormal(own, 60_000, 1.8, most=4_000_000)) for _ in range(geometric(own, 2)))
            script = tls_script(site.name, [Exchange(own.randrange(300, 700), size, 0.01) for size in sizes], own)
            route, ending = lab.route(host, site, own), any_ending(own)
            yield at_s, tcp_conversation(at_s, route, 443, script, label=BENIGN, rng=own, ending=ending)
            at_s += own.expovariate(2.0)

    own = spawn(rng)
    times = arrivals(own, 2500.0 / len(lab.inside), lab.duration_s)
    yield recurring(times, own, update, hosts=lab.inside)


# --- monitors --------------------------------------------------------------------------------------------------------


def checks(lab: Lab, rng: Random) -> Iterator[Activity]:
    """The monitor polls hosts by ping, SNMP and connections, some of them down; in some sites it takes inventories."""
    monitor, every_s = lab.servers["monitor"], rng.choice((10.0, 30.0, 30.0, 60.0))
    everybody = [host for host in lab.inside if host is not monitor]
    watched = [host for host in (everybody if rng.random() < 0.5 else lab.servers.values()) if host is not monitor]
    absent = [host for host in map(lab.at, lab.address_numbers(rng, 40)) if host.name.startswith("absent")]
    down = absent[: rng.randrange(1 + len(everybody) // 4)]
    for host in (*watched, *down):
        yield _check(lab, monitor, host, every_s, spawn(rng), answers=host not in down)

    def take_inventory(at_s: float, rng: Random) -> Activity:
        for host in rng.sample(everybody, min(6, len(everybody))):
            for port in rng.sample(_KNOWN_PORTS, 6):
                yield at_s, probe_port(lab, monitor, host, port, at_s, BENIGN, spawn(rng))
                at_s += lognormal(rng, 0.08, 0.8, most=2.0)

    if rng.random() < 0.3:
        own = spawn(rng)
        yield recurring(arrivals(own, 600.0, lab.duration_s), own, take_inventory)


def _check(lab: Lab, monitor: Host, host: Host, every_s: float, rng: Random, *, answers: bool) -> Activity:
    """Ping a host, read its counters if it has some, and open each of its ports, by the clock."""
    has_counters = host.open_ports and rng.random() < 0.5
    for at_s in periodic(rng, every_s, lab.duration_s, jitter=0.01):
        route = lab.route(monitor, host, rng, v6=False)
        yield at_s, ping_conversation(at_s, route, label=BENIGN, rng=spawn(rng), count=1, answered=answers)
        if has_counters:
            yield at_s, _read_counters(lab, monitor, host, at_s, spawn(rng))
        for port in sorted(host.open_ports):
            yield at_s, probe_port(lab, monitor, host, port, at_s, BENIGN, spawn(rng))


def _read_counters(lab: Lab, src: Host, dst: Host, at_s: float, rng: Random) -> Conversation:
    script = [part for _ in range(3) for part in (Message(CLIENT, bytes(43), 0.001), Message(SERVER, bytes(60), 0.002))]
    return udp_conversation(at_s, lab.route(src, dst, rng, v6=False), _SNMP, script, label=BENIGN, rng=rng)


def logs(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Hosts send their log to a server, which no longer listens in some sites and refuses."""
    server, listens = lab.servers["monitor"], rng.random() < 0.6

    def lines(rng: Random) -> Iterator[Message]:
        while True:
            yield Message(CLIENT, Bulk(rng.randrange(80, 300)), rng.expovariate(0.3))

    def refused(host: Host, rng: Random) -> Activity:
        for at_s in arrivals(rng, 15.0, lab.duration_s):
            route = lab.route(host, server, rng, v6=False)
            for talk in refused_datagram(at_s, route, _SYSLOG, bytes(120), label=BENIGN, rng=spawn(rng)):
                yield at_s, talk

    for host in lab.inside:
        own = spawn(rng)
        if host is not server and own.random() < 0.3:
            route, script = lab.route(host, server, own, v6=False), lines(own)
            talk = udp_conversation(0.0, route, _SYSLOG, script, label=BENIGN, rng=own, src_port=_SYSLOG)
            yield iter([(0.0, talk)]) if listens else refused(host, own)


# --- services that are gone ------------------------------------------------------------------------------------------


def stale(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Programs that look for services which are gone, inside and outside, at random times."""

    def look(host: Host, target: Host, port: int, at_s: float, rng: Random) -> Conversation:
        return _failing(lab, host, target, port, at_s, rng, closed=rng.random() < 0.5, retries=rng.randrange(3))

    for host in lab.clients:
        own = spawn(rng)
        target = own.choice((*lab.inside, *lab.sites))
        port = own.choice((80, 139, 443, 445, 3306, 5432, 8443, 9100))
        if target.ipv4 != host.ipv4 and port not in target.open_ports:
            times = arrivals(own, 45.0, lab.duration_s, sigma=1.6)
            yield recurring(times, own, partial(look, host, target, port))


def retries(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Clients that go on trying a printer that is off, a share that was moved, a site that is down."""

    def retry(host: Host, target: Host, port: int, rng: Random) -> Activity:
        closed, n_retries = rng.random() < 0.3, rng.choice((0, 1, 2, 2))
        every_s, jitter = log_uniform(rng, 2.0, 60.0), rng.choice((0.0, 0.05, 0.4))
        for at_s in periodic(rng, every_s, lab.duration_s, jitter=jitter):
            yield at_s, _failing(lab, host, target, port, at_s, spawn(rng), closed=closed, retries=n_retries)

    printer = lab.absent(lab.address_numbers(rng, 1)[0])
    if any(host.ipv4 == printer.ipv4 for host in lab.inside):
        return
    for host in lab.clients:
        own = spawn(rng)
        if own.random() < 0.25:
            target, port = own.choice(((printer, 9100), (printer, 445), (printer, 631), (lab.site(own), 8443)))
            yield retry(host, target, port, own)


def _failing(
    lab: Lab, src: Host, dst: Host, port: int, at_s: float, rng: Random, *, closed: bool, retries: int
) -> Conversation:
    outcome: Outcome = "closed" if closed else "silent"
    return tcp_attempt(at_s, lab.route(src, dst, rng), port, outcome=outcome, label=BENIGN, rng=rng, retries=retries)


# --- names, clocks, stations -----------------------------------------------------------------------------------------


def forwarding(lab: Lab, rng: Random) -> Iterator[Activity]:
    """The resolver sends all its queries to one outside, through few sockets."""
    resolver, upstream = lab.servers["resolver"], lab.sites[0]

    def queries(every_s: float, rng: Random) -> Iterator[Message]:
        while True:
            first, *rest = dns_script(lab.site(rng).name, rng.choice(("A", "A", "AAAA", "PTR")), rng, cached=0.3)
            yield first._replace(pause_s=rng.expovariate(1 / every_s))
            yield from rest

    for _ in range(rng.randrange(1, 4)):
        own = spawn(rng)
        route, script = lab.route(resolver, upstream, own), queries(log_uniform(own, 0.2, 5.0), own)
        yield iter([(0.0, udp_conversation(0.0, route, 53, script, label=BENIGN, rng=own))])


def clocks(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Hosts ask a server for the time (NTP)."""

    def ask(host: Host, rng: Random) -> Activity:
        server = rng.choice(lab.sites)
        for at_s in periodic(rng, 64.0, lab.duration_s, jitter=0.02):
            route, own = lab.route(host, server, rng), spawn(rng)
            request, reply = ntp_packet(at_s, server=False), ntp_packet(at_s, server=True)
            script = Message(CLIENT, request), Message(SERVER, reply, 3e-5)
            port = 123 if own.random() < 0.5 else None
            yield at_s, udp_conversation(at_s, route, 123, script, label=BENIGN, rng=own, src_port=port)

    for host in lab.inside:
        yield ask(host, spawn(rng))


def pings(lab: Lab, rng: Random) -> Iterator[Activity]:
    """People who test whether a host is there."""

    def ping(at_s: float, rng: Random) -> Conversation:
        host = rng.choice(lab.clients)
        route = lab.route(host, rng.choice((lab.servers["web"], lab.site(rng))), rng)
        return ping_conversation(at_s, route, label=BENIGN, rng=rng, count=rng.choice((1, 4, 4, 10)))

    own = spawn(rng)
    yield recurring(arrivals(own, 25.0, lab.duration_s), own, ping)


def stations(lab: Lab, rng: Random) -> Iterator[Activity]:
    """ARP requests."""

    def ask(host: Host, rng: Random) -> Activity:
        for at_s in arrivals(rng, 20.0, lab.duration_s):
            other = rng.choice((lab.gateway, *lab.inside))
            if other is not host:
                yield at_s, arp_conversation(at_s, host, other, rng=spawn(rng), vlan=lab.vlan)

    for host in lab.inside:
        yield ask(host, spawn(rng))
