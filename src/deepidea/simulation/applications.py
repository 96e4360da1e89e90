"""Benign traffic of the simulated site: what its people, servers and visitors do.

Some of it looks like attacks on purpose: agents that call home by a timer, checks that open port after port, logins
that fail, services that are gone, crowds that come at once, large uploads, slow visitors, long names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from deepidea.simulation.chance import arrivals, child, count, heavy, jittered, skewed
from deepidea.simulation.conversations import (
    CLIENT,
    SERVER,
    Conversation,
    Ending,
    Message,
    Outcome,
    arp_conversation,
    ping_conversation,
    tcp_attempt,
    tcp_conversation,
    udp_conversation,
)
from deepidea.simulation.hosts import Host
from deepidea.simulation.lab import Activity, Lab
from deepidea.simulation.payloads import Bulk, http_request, http_response, ntp_packet, ssh_packet
from deepidea.simulation.scripts import (
    Exchange,
    any_ending,
    browsing,
    dns_script,
    ftp_script,
    http_script,
    mail_script,
    ssh_login,
    tls_script,
    typing,
)

__all__ = ["APPLICATIONS", "BENIGN", "connect_to_port"]

BENIGN = "benign"
_KNOWN_PORTS = (21, 22, 23, 25, 80, 135, 139, 443, 445, 3389, 5900, 8080)
_NAMING_S = 0.02  # between the name of a server and its first connection


# --- names -----------------------------------------------------------------------------------------------------------


def _look_up(lab: Lab, host: Host, name: str, at_s: float, rng: Random) -> Activity:
    """Ask for a name, mostly both kinds of address, and let the resolver ask on where it does not know."""
    for kind in ("A", "AAAA") if rng.random() < 0.5 else ("A",):
        own = child(rng)
        route = lab.route(host, lab.servers["resolver"], own)
        script = dns_script(name, kind, own)
        yield at_s, udp_conversation(at_s, route, 53, script, label=BENIGN, rng=own)
    if rng.random() < 0.35:
        own = child(rng)
        route = lab.route(lab.servers["resolver"], lab.site(own), own)
        script = dns_script(name, "A", own, cached=0.0)
        yield at_s + 0.001, udp_conversation(at_s + 0.001, route, 53, script, label=BENIGN, rng=own)


def _names(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Mail filters and virus scanners ask for long names; servers ask for the names of addresses."""

    def asking(host: Host, every_s: float, rng: Random) -> Activity:
        for at_s in arrivals(rng, every_s, lab.duration_s, spread=1.5):
            own = child(rng)
            long = f"{own.getrandbits(150):038x}.{own.getrandbits(60):x}.rep.{lab.site(own).name}"
            name, kind = own.choice(((long, "TXT"), (long, "A"), (f"{own.randrange(256)}.18.198.in-addr.arpa", "PTR")))
            route = lab.route(host, lab.servers["resolver"], own)
            script = dns_script(name, kind, own)
            yield at_s, udp_conversation(at_s, route, 53, script, label=BENIGN, rng=own)

    yield asking(lab.servers["mail"], 1.5, child(rng))
    yield asking(lab.servers["monitor"], 6.0, child(rng))
    for host in lab.clients[::3]:
        yield asking(host, 12.0, child(rng))


# --- web -------------------------------------------------------------------------------------------------------------


def _fetch(lab: Lab, src: Host, dst: Host, at_s: float, rng: Random, mean_requests: float = 2.5) -> Conversation:
    """Fetch parts of a page from one server."""
    sealed_up = rng.random() < 0.88
    script = (tls_script if sealed_up else http_script)(dst.name, browsing(rng, mean_requests), rng)
    route, ending = lab.route(src, dst, rng), any_ending(rng)
    return tcp_conversation(at_s, route, 443 if sealed_up else 80, script, label=BENIGN, rng=rng, ending=ending)


def _page(lab: Lab, host: Host, at_s: float, rng: Random) -> Activity:
    site = lab.site(rng)
    if rng.random() < 0.6:
        yield at_s, _look_up(lab, host, site.name, at_s, child(rng))
    at_s += _NAMING_S + rng.expovariate(50.0)
    for _ in range(count(rng, 2.2)):
        yield at_s, _fetch(lab, host, site, at_s, child(rng))
        at_s += rng.expovariate(5.0)
        site = site if rng.random() < 0.5 else lab.site(rng)


def _sitting(lab: Lab, host: Host, at_s: float, rng: Random) -> Activity:
    """One person reads a few pages."""
    for _ in range(count(rng, 5)):
        yield at_s, _page(lab, host, at_s, child(rng))
        at_s += heavy(rng, 3.0, tail=1.2, most=120.0)


def _web(lab: Lab, rng: Random) -> Iterator[Activity]:
    def reading(host: Host, rng: Random) -> Activity:
        for at_s in arrivals(rng, rng.uniform(30, 120), lab.duration_s):
            yield at_s, _sitting(lab, host, at_s, child(rng))

    for host in lab.clients:
        yield reading(host, child(rng))


def _visits(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Visitors of the site's own web server: steadily, in crowds, and some over very slow lines."""

    def visit(at_s: float, rng: Random) -> Activity:
        visitor = rng.choice(lab.visitors)
        for _ in range(count(rng, 1.8)):
            if rng.random() < 0.05:
                yield at_s, _slow_visit(lab, visitor, at_s, child(rng))
            else:
                yield at_s, _fetch(lab, visitor, lab.servers["web"], at_s, child(rng), 3.0)
            at_s += heavy(rng, 0.2, tail=1.0, most=60.0)

    def coming(every_s: float, since_s: float, until_s: float, rng: Random) -> Activity:
        for at_s in arrivals(rng, every_s, until_s, since_s=since_s, spread=1.5):
            yield at_s, visit(at_s, child(rng))

    yield coming(0.7, 0.0, lab.duration_s, child(rng))
    for at_s in arrivals(rng, 200.0, lab.duration_s):
        yield coming(0.08, at_s, min(at_s + rng.uniform(5, 15), lab.duration_s), child(rng))


def _slow_visit(lab: Lab, visitor: Host, at_s: float, rng: Random) -> Conversation:
    """Somebody whose request comes in pieces: a form sent over a line that keeps failing."""
    server = lab.servers["web"]

    def script() -> Iterator[Message]:
        yield Message(CLIENT, http_request("www.lab.example", "/form", "Mozilla/5.0", method="POST", length=4000)[:-4])
        for _ in range(count(rng, 8)):
            yield Message(CLIENT, rng.randbytes(rng.randrange(10, 400)), heavy(rng, 0.8, tail=1.0, most=20.0))
        yield Message(SERVER, http_response(300), 0.05)

    return tcp_conversation(at_s, lab.route(visitor, server, rng), 80, script(), label=BENIGN, rng=rng)


def _video(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Films: a chunk every few seconds, much at first to fill the buffer."""

    def watch(host: Host, at_s: float, rng: Random) -> Conversation:
        chunk_s, n_chunks, quality = rng.choice((4.0, 5.0, 6.0)), count(rng, 12), rng.choice((3e4, 5e4, 8e4))

        def chunks() -> Iterator[Exchange]:
            for at in range(n_chunks):
                size = int(skewed(rng, quality * chunk_s, 0.3, most=1_500_000))
                yield Exchange(rng.randrange(350, 900), size, 0.05 if at < 3 else chunk_s * rng.uniform(0.7, 1.0))

        site = lab.site(rng)
        script, ending = tls_script(site.name, chunks(), rng), any_ending(rng)
        return tcp_conversation(at_s, lab.route(host, site, rng), 443, script, label=BENIGN, rng=rng, ending=ending)

    def watching(rng: Random) -> Activity:
        for at_s in arrivals(rng, 1500.0 / len(lab.clients), lab.duration_s):
            yield at_s, watch(rng.choice(lab.clients), at_s, child(rng))

    yield watching(child(rng))


# --- machines that talk by themselves --------------------------------------------------------------------------------


def _agents(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Agents that call home by a timer: licences, telemetry, chat, looking for updates, which now and then come."""

    def calling(host: Host, vendor: Host, rng: Random) -> Activity:
        jitter, size = rng.choice((0.02, 0.1, 0.3)), int(skewed(rng, 350, 0.6))
        for at_s in jittered(rng, rng.choice((12, 20, 30, 60, 120)), lab.duration_s, jitter=jitter):
            own = child(rng)
            much = own.random() < 0.03
            answer = int(skewed(own, 1_500_000 if much else 300, 0.5, most=4_000_000))
            script = tls_script(vendor.name, [Exchange(int(skewed(own, size, 0.1)), answer)], own)
            ending = any_ending(own, idle_s=0.3)
            route = lab.route(host, vendor, own)
            yield at_s, tcp_conversation(at_s, route, 443, script, label=BENIGN, rng=own, ending=ending)

    for host in lab.clients:
        if rng.random() < 0.6:
            yield calling(host, lab.site(rng), child(rng))


def connect_to_port(lab: Lab, src: Host, dst: Host, port: int, at_s: float, label: str, rng: Random) -> Conversation:
    """Open a port to see whether it is open, and close it at once.

    Examples
    --------
    >>> from deepidea.simulation.lab import build_lab
    >>> lab = build_lab(seed=0, hosts=8, duration_s=60.0)
    >>> talk = connect_to_port(lab, lab.clients[0], lab.servers["web"], 80, 0.0, BENIGN, Random(0))
    >>> len(list(talk.packets)) >= 4
    True
    """
    route = lab.route(src, dst, rng)
    if port not in dst.open_ports:
        silent = rng.random() < dst.silent
        retries = rng.randrange(2) if silent else 0
        outcome: Outcome = "silent" if silent else "closed"
        return tcp_attempt(at_s, route, port, outcome=outcome, label=label, rng=rng, retries=retries)
    ending = Ending(rng.choice(("fin", "rst")), CLIENT, 0.0005)
    return tcp_conversation(at_s, route, port, (), label=label, rng=rng, ending=ending)


def _checks(lab: Lab, rng: Random) -> Iterator[Activity]:
    """The monitor opens the ports of the servers by a timer, and now and then takes stock of every host."""
    monitor = lab.servers["monitor"]

    def timed(host: Host, rng: Random) -> Activity:
        for at_s in jittered(rng, 30.0, lab.duration_s, jitter=0.01):
            yield at_s, ping_conversation(at_s, lab.route(monitor, host, rng), label=BENIGN, rng=child(rng), count=1)
            for port in sorted(host.open_ports):
                yield at_s, connect_to_port(lab, monitor, host, port, at_s, BENIGN, child(rng))

    def take_stock(at_s: float, rng: Random) -> Activity:
        for host in rng.sample(lab.inside, min(6, len(lab.inside))):
            for port in rng.sample(_KNOWN_PORTS, 6):
                if host is not monitor:
                    yield at_s, connect_to_port(lab, monitor, host, port, at_s, BENIGN, child(rng))
                at_s += skewed(rng, 0.08, 0.8, most=2.0)

    def stocktaking(rng: Random) -> Activity:
        for at_s in arrivals(rng, 240.0, lab.duration_s):
            yield at_s, take_stock(at_s, child(rng))

    for host in lab.servers.values():
        if host is not monitor:
            yield timed(host, child(rng))
    yield stocktaking(child(rng))


def _stale(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Programs that look for services which are gone, inside and outside."""

    def looking(host: Host, rng: Random) -> Activity:
        target = rng.choice((*lab.inside, *lab.sites))
        port = rng.choice((80, 139, 443, 445, 3306, 5432, 8443, 9100))
        for at_s in arrivals(rng, 45.0, lab.duration_s, spread=1.6):
            own = child(rng)
            outcome: Outcome = "closed" if own.random() < 0.5 else "silent"
            retries = own.randrange(3) if outcome == "silent" else 0
            route = lab.route(host, target, own)
            if target is not host and port not in target.open_ports:
                yield at_s, tcp_attempt(at_s, route, port, outcome=outcome, label=BENIGN, rng=own, retries=retries)

    for host in lab.clients:
        yield looking(host, child(rng))


def _clocks(lab: Lab, rng: Random) -> Iterator[Activity]:
    def asking(host: Host, rng: Random) -> Activity:
        server = rng.choice(lab.sites)
        for at_s in jittered(rng, 64.0, lab.duration_s, jitter=0.02):
            route = lab.route(host, server, rng)
            script = (
                Message(CLIENT, ntp_packet(at_s, server=False)),
                Message(SERVER, ntp_packet(at_s, server=True), 3e-5),
            )
            own = child(rng)
            port = 123 if own.random() < 0.5 else None
            yield at_s, udp_conversation(at_s, route, 123, script, label=BENIGN, rng=own, src_port=port)

    for host in lab.inside:
        yield asking(host, child(rng))


def _pings(lab: Lab, rng: Random) -> Iterator[Activity]:
    def pinging(rng: Random) -> Activity:
        for at_s in arrivals(rng, 25.0, lab.duration_s):
            own = child(rng)
            host = own.choice(lab.clients)
            route = lab.route(host, own.choice((lab.servers["web"], lab.site(own))), own)
            yield at_s, ping_conversation(at_s, route, label=BENIGN, rng=own, count=own.choice((1, 4, 4, 10)))

    yield pinging(child(rng))


def _stations(lab: Lab, rng: Random) -> Iterator[Activity]:
    def asking(host: Host, rng: Random) -> Activity:
        for at_s in arrivals(rng, 20.0, lab.duration_s):
            other = rng.choice((lab.gateway, *lab.inside))
            if other is not host:
                yield at_s, arp_conversation(at_s, host, other, rng=child(rng), vlan=lab.vlan)

    for host in lab.inside:
        yield asking(host, child(rng))


# --- mail, shells, files ---------------------------------------------------------------------------------------------


def _mail(lab: Lab, rng: Random) -> Iterator[Activity]:
    server = lab.servers["mail"]

    def handing_over(every_s: float, incoming: bool, rng: Random) -> Activity:
        for at_s in arrivals(rng, every_s, lab.duration_s, spread=1.5):
            own = child(rng)
            ends = (lab.site(own), server) if incoming else (server, lab.site(own))
            script = mail_script(own, sender=ends[0].name, receiver=ends[1].name)
            ending = any_ending(own, idle_s=0.5)
            route = lab.route(*ends, own)
            yield at_s, tcp_conversation(at_s, route, 25, script, label=BENIGN, rng=own, ending=ending)

    def looking(host: Host, rng: Random) -> Activity:
        for at_s in jittered(rng, rng.choice((60, 120, 180)), lab.duration_s, jitter=0.3):
            own = child(rng)
            new = own.random() < 0.25
            mails = [Exchange(70, 120), Exchange(60, int(skewed(own, 15_000, 1.5, most=3e6)) if new else 90)]
            script, ending = tls_script("mail.lab.example", mails, own), any_ending(own)
            route = lab.route(host, server, own)
            yield at_s, tcp_conversation(at_s, route, 993, script, label=BENIGN, rng=own, ending=ending)

    yield handing_over(7.0, True, child(rng))
    yield handing_over(20.0, False, child(rng))
    for host in lab.clients:
        yield looking(host, child(rng))


def _shells(lab: Lab, rng: Random) -> Iterator[Activity]:
    """People at work on the shell server, some of whom mistype; programs that log in, some with a wrong key."""

    def coming(every_s: float, talk: Callable[[Lab, Host, float, Random], Conversation], rng: Random) -> Activity:
        for at_s in arrivals(rng, every_s, lab.duration_s, spread=1.5):
            src = rng.choice(lab.clients if rng.random() < 0.7 else lab.visitors)
            yield at_s, talk(lab, src, at_s, child(rng))

    yield coming(70.0, _sit_at_shell, child(rng))
    yield coming(6.0, _run_by_shell, child(rng))


def _sit_at_shell(lab: Lab, src: Host, at_s: float, rng: Random) -> Conversation:
    waits_s = [skewed(rng, 2.5, 0.6, most=20.0) for _ in range(rng.choices((1, 2, 3), (75, 18, 7))[0])]
    right = rng.random() < 0.93
    duration_s = heavy(rng, 25.0, tail=1.0, most=lab.duration_s)

    def script() -> Iterator[Message]:
        yield from ssh_login(rng, waits_s, succeeds=right)
        if right:
            yield from typing(rng, duration_s)

    route, ending = lab.route(src, lab.servers["shell"], rng), Ending("fin", CLIENT if right else SERVER, 0.01)
    return tcp_conversation(at_s, route, 22, script(), label=BENIGN, rng=rng, ending=ending)


def _run_by_shell(lab: Lab, src: Host, at_s: float, rng: Random) -> Conversation:
    right, server = rng.random() < 0.85, lab.servers[rng.choice(("shell", "web", "files"))]

    def script() -> Iterator[Message]:
        yield from ssh_login(rng, [skewed(rng, 0.02, 0.8)], succeeds=right)
        for _ in range(count(rng, 4) if right else 0):
            size = int(skewed(rng, 900, 1.6, most=400_000))
            yield Message(rng.choice((CLIENT, SERVER)), ssh_packet(size), skewed(rng, 0.05, 1.0, most=5.0))

    route, ending = lab.route(src, server, rng), any_ending(rng, idle_s=0.1)
    return tcp_conversation(at_s, route, 22, script(), label=BENIGN, rng=rng, ending=ending)


def _backups(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Large uploads: by SSH to the file server, sealed to a store outside; and what people share with others."""

    def back_up(host: Host, at_s: float, rng: Random) -> Conversation:
        outside = rng.random() < 0.6
        parts = [Exchange(int(skewed(rng, 400_000, 1.2, most=6_000_000)), 180, skewed(rng, 0.1, 1.0, most=10.0))]
        parts += [Exchange(int(skewed(rng, 150_000, 1.2, most=3_000_000)), 180, 0.01) for _ in range(rng.randrange(6))]
        dst = lab.site(rng) if outside else lab.servers["files"]

        def inside() -> Iterator[Message]:
            yield from ssh_login(rng, [0.02], succeeds=True)
            yield from (Message(CLIENT, ssh_packet(part.request_bytes), 0.01) for part in parts)

        script = tls_script(dst.name, parts, rng) if outside else inside()
        route, ending = lab.route(host, dst, rng), any_ending(rng, idle_s=0.5)
        port = 443 if outside else 22
        return tcp_conversation(at_s, route, port, script, label=BENIGN, rng=rng, ending=ending)

    def coming(rng: Random) -> Activity:
        for at_s in arrivals(rng, 500.0 / len(lab.clients), lab.duration_s):
            yield at_s, back_up(rng.choice(lab.clients), at_s, child(rng))

    yield coming(child(rng))


def _partners(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Partners who fetch and leave files by FTP, mostly programs, some with an old password."""
    files = lab.servers["files"]

    def call(src: Host, at_s: float, rng: Random) -> Activity:
        right = rng.random() < 0.8
        waits_s = [skewed(rng, 0.05, 1.2, most=10.0) for _ in range(rng.choices((1, 2, 3), (80, 14, 6))[0])]
        route, own = lab.route(src, files, rng), child(rng)
        script = ftp_script(own, waits_s, succeeds=right)
        yield at_s, tcp_conversation(at_s, route, 21, script, label=BENIGN, rng=own)
        if right:
            own, later_s = child(rng), at_s + sum(waits_s) + 2 * len(waits_s)
            size, way = int(skewed(own, 60_000, 1.6, most=5_000_000)), own.choice((CLIENT, SERVER))
            ending = Ending("fin", way, 0.001)
            data = [Message(way, Bulk(size), 0.01)]
            port = own.randrange(50_000, 51_000)
            yield later_s, tcp_conversation(later_s, route, port, data, label=BENIGN, rng=own, ending=ending)

    def coming(rng: Random) -> Activity:
        for at_s in arrivals(rng, 16.0, lab.duration_s, spread=1.5):
            yield at_s, call(rng.choice((*lab.visitors[:12], *lab.clients)), at_s, child(rng))

    yield coming(child(rng))


APPLICATIONS: dict[str, Callable[[Lab, Random], Iterator[Activity]]] = {
    "web": _web,
    "visits": _visits,
    "names": _names,
    "video": _video,
    "mail": _mail,
    "shells": _shells,
    "backups": _backups,
    "partners": _partners,
    "agents": _agents,
    "checks": _checks,
    "stale": _stale,
    "clocks": _clocks,
    "pings": _pings,
    "stations": _stations,
}
"""Activities of each kind of benign traffic."""
