"""Benign traffic of the simulated site: what its people, servers and visitors do.

Some of it resembles attacks on purpose: agents that call home periodically, checks that open port after port, failed
logins, services that are gone, crowds of visitors, large uploads, slow clients, long DNS names.
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
    tcp_attempt,
    tcp_conversation,
    udp_conversation,
)
from deepidea.simulation.draws import arrivals, geometric, lognormal, pareto, periodic, spawn
from deepidea.simulation.hosts import Host
from deepidea.simulation.lab import Activity, Lab, recurring
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

BENIGN = "benign"
_KNOWN_PORTS = (21, 22, 23, 25, 80, 135, 139, 443, 445, 3389, 5900, 8080)
_RESOLVING_S = 0.02  # between a DNS query and the first connection


# --- DNS -------------------------------------------------------------------------------------------------------------


def _query(
    lab: Lab, src: Host, dst: Host, name: str, kind: str, at_s: float, rng: Random, cached: float = 0.6
) -> Conversation:
    route, script = lab.route(src, dst, rng), dns_script(name, kind, rng, cached=cached)
    return udp_conversation(at_s, route, 53, script, label=BENIGN, rng=rng)


def _resolve(lab: Lab, host: Host, name: str, at_s: float, rng: Random) -> Activity:
    """Query the resolver for one or both kinds of address; it queries a server outside if it does not know."""
    resolver = lab.servers["resolver"]
    for kind in ("A", "AAAA") if rng.random() < 0.5 else ("A",):
        yield at_s, _query(lab, host, resolver, name, kind, at_s, spawn(rng))
    if rng.random() < 0.35:
        at_s, own = at_s + 0.001, spawn(rng)
        yield at_s, _query(lab, resolver, lab.site(own), name, "A", at_s, own, cached=0.0)


def _names(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Reputation queries of mail filters and virus scanners with long names; reverse lookups of servers."""

    def query(host: Host, at_s: float, rng: Random) -> Conversation:
        long = f"{rng.getrandbits(150):038x}.{rng.getrandbits(60):x}.rep.{lab.site(rng).name}"
        reverse = f"{rng.randrange(256)}.18.198.in-addr.arpa"
        name, kind = rng.choice(((long, "TXT"), (long, "A"), (reverse, "PTR")))
        return _query(lab, host, lab.servers["resolver"], name, kind, at_s, rng)

    servers = (lab.servers["mail"], 1.5), (lab.servers["monitor"], 6.0)
    for host, every_s in (*servers, *((host, 12.0) for host in lab.clients[::3])):
        own = spawn(rng)
        yield recurring(arrivals(own, every_s, lab.duration_s, sigma=1.5), own, partial(query, host))


# --- web -------------------------------------------------------------------------------------------------------------


def _fetch(lab: Lab, src: Host, dst: Host, at_s: float, rng: Random, mean_requests: float = 2.5) -> Conversation:
    """Fetch parts of a page from one server."""
    encrypted = rng.random() < 0.88
    script = (tls_script if encrypted else http_script)(dst.name, browsing(rng, mean_requests), rng)
    route, ending = lab.route(src, dst, rng), any_ending(rng)
    return tcp_conversation(at_s, route, 443 if encrypted else 80, script, label=BENIGN, rng=rng, ending=ending)


def _page(lab: Lab, host: Host, at_s: float, rng: Random) -> Activity:
    site = lab.site(rng)
    if rng.random() < 0.6:
        yield at_s, _resolve(lab, host, site.name, at_s, spawn(rng))
    at_s += _RESOLVING_S + rng.expovariate(50.0)
    for _ in range(geometric(rng, 2.2)):
        yield at_s, _fetch(lab, host, site, at_s, spawn(rng))
        at_s += rng.expovariate(5.0)
        site = site if rng.random() < 0.5 else lab.site(rng)


def _browse(lab: Lab, host: Host, at_s: float, rng: Random) -> Activity:
    """Read a few pages."""
    for _ in range(geometric(rng, 5)):
        yield at_s, _page(lab, host, at_s, spawn(rng))
        at_s += pareto(rng, 3.0, tail=1.2, most=120.0)


def _web(lab: Lab, rng: Random) -> Iterator[Activity]:
    for host in lab.clients:
        own = spawn(rng)
        yield recurring(arrivals(own, own.uniform(30, 120), lab.duration_s), own, partial(_browse, lab, host))


def _visits(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Visitors of the site's own web server: steadily, in crowds, and some over very slow lines."""

    def visit(at_s: float, rng: Random) -> Activity:
        visitor = rng.choice(lab.visitors)
        for _ in range(geometric(rng, 1.8)):
            if rng.random() < 0.05:
                yield at_s, _slow_visit(lab, visitor, at_s, spawn(rng))
            else:
                yield at_s, _fetch(lab, visitor, lab.servers["web"], at_s, spawn(rng), 3.0)
            at_s += pareto(rng, 0.2, tail=1.0, most=60.0)

    def crowd(every_s: float, since_s: float, until_s: float, rng: Random) -> Activity:
        return recurring(arrivals(rng, every_s, until_s, since_s=since_s, sigma=1.5), rng, visit)

    yield crowd(0.7, 0.0, lab.duration_s, spawn(rng))
    for at_s in arrivals(rng, 200.0, lab.duration_s):
        yield crowd(0.08, at_s, min(at_s + rng.uniform(5, 15), lab.duration_s), spawn(rng))


def _slow_visit(lab: Lab, visitor: Host, at_s: float, rng: Random) -> Conversation:
    """Send a form piece by piece over a bad line."""

    def script() -> Iterator[Message]:
        yield Message(CLIENT, http_request("www.lab.example", "/form", "Mozilla/5.0", method="POST", length=4000)[:-4])
        for _ in range(geometric(rng, 8)):  # the head lacks its empty line: the rest comes in pieces
            yield Message(CLIENT, rng.randbytes(rng.randrange(10, 400)), pareto(rng, 0.8, tail=1.0, most=20.0))
        yield Message(SERVER, http_response(300), 0.05)

    route = lab.route(visitor, lab.servers["web"], rng)
    return tcp_conversation(at_s, route, 80, script(), label=BENIGN, rng=rng)


def _video(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Films: a chunk every few seconds, the first ones faster to fill the buffer."""

    def watch(host: Host, at_s: float, rng: Random) -> Conversation:
        chunk_s, n_chunks, quality = rng.choice((4.0, 5.0, 6.0)), geometric(rng, 12), rng.choice((3e4, 5e4, 8e4))

        def chunks() -> Iterator[Exchange]:
            for at in range(n_chunks):
                size = int(lognormal(rng, quality * chunk_s, 0.3, most=1_500_000))
                yield Exchange(rng.randrange(350, 900), size, 0.05 if at < 3 else chunk_s * rng.uniform(0.7, 1.0))

        site = lab.site(rng)
        script, ending = tls_script(site.name, chunks(), rng), any_ending(rng)
        return tcp_conversation(at_s, lab.route(host, site, rng), 443, script, label=BENIGN, rng=rng, ending=ending)

    own = spawn(rng)
    yield recurring(arrivals(own, 1500.0 / len(lab.clients), lab.duration_s), own, watch, hosts=lab.clients)


# --- machines --------------------------------------------------------------------------------------------------------


def _agents(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Agents that call home periodically: licences, telemetry, chat, and updates, some of which are large."""

    def call(host: Host, vendor: Host, size: int, at_s: float, rng: Random) -> Conversation:
        large = rng.random() < 0.03
        answer = int(lognormal(rng, 1_500_000 if large else 300, 0.5, most=4_000_000))
        script = tls_script(vendor.name, [Exchange(int(lognormal(rng, size, 0.1)), answer)], rng)
        ending = any_ending(rng, idle_s=0.3)
        return tcp_conversation(at_s, lab.route(host, vendor, rng), 443, script, label=BENIGN, rng=rng, ending=ending)

    for host in lab.clients:
        if rng.random() < 0.6:
            vendor, own = lab.site(rng), spawn(rng)
            jitter, size = own.choice((0.02, 0.1, 0.3)), int(lognormal(own, 350, 0.6))
            times = periodic(own, own.choice((12, 20, 30, 60, 120)), lab.duration_s, jitter=jitter)
            yield recurring(times, own, partial(call, host, vendor, size))


def probe_port(lab: Lab, src: Host, dst: Host, port: int, at_s: float, label: str, rng: Random) -> Conversation:
    """Connect to a port to test whether it is open, and close at once."""
    route = lab.route(src, dst, rng)
    if port not in dst.open_ports:
        silent = rng.random() < dst.silent
        retries = rng.randrange(2) if silent else 0
        outcome: Outcome = "silent" if silent else "closed"
        return tcp_attempt(at_s, route, port, outcome=outcome, label=label, rng=rng, retries=retries)
    ending = Ending(rng.choice(("fin", "rst")), CLIENT, 0.0005)
    return tcp_conversation(at_s, route, port, (), label=label, rng=rng, ending=ending)


def _checks(lab: Lab, rng: Random) -> Iterator[Activity]:
    """The monitor checks the ports of the servers periodically, and sometimes takes an inventory of all hosts."""
    monitor = lab.servers["monitor"]

    def check(host: Host, rng: Random) -> Activity:
        for at_s in periodic(rng, 30.0, lab.duration_s, jitter=0.01):
            yield at_s, ping_conversation(at_s, lab.route(monitor, host, rng), label=BENIGN, rng=spawn(rng), count=1)
            for port in sorted(host.open_ports):
                yield at_s, probe_port(lab, monitor, host, port, at_s, BENIGN, spawn(rng))

    def take_inventory(at_s: float, rng: Random) -> Activity:
        for host in rng.sample(lab.inside, min(6, len(lab.inside))):
            for port in rng.sample(_KNOWN_PORTS, 6):
                if host is not monitor:
                    yield at_s, probe_port(lab, monitor, host, port, at_s, BENIGN, spawn(rng))
                at_s += lognormal(rng, 0.08, 0.8, most=2.0)

    for host in lab.servers.values():
        if host is not monitor:
            yield check(host, spawn(rng))
    own = spawn(rng)
    yield recurring(arrivals(own, 240.0, lab.duration_s), own, take_inventory)


def _stale(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Programs that look for services which are gone, inside and outside."""

    def look(host: Host, target: Host, port: int, at_s: float, rng: Random) -> Conversation:
        outcome: Outcome = "closed" if rng.random() < 0.5 else "silent"
        retries = rng.randrange(3) if outcome == "silent" else 0
        route = lab.route(host, target, rng)
        return tcp_attempt(at_s, route, port, outcome=outcome, label=BENIGN, rng=rng, retries=retries)

    for host in lab.clients:
        own = spawn(rng)
        target = own.choice((*lab.inside, *lab.sites))
        port = own.choice((80, 139, 443, 445, 3306, 5432, 8443, 9100))
        if target is not host and port not in target.open_ports:
            times = arrivals(own, 45.0, lab.duration_s, sigma=1.6)
            yield recurring(times, own, partial(look, host, target, port))


def _clocks(lab: Lab, rng: Random) -> Iterator[Activity]:
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


def _pings(lab: Lab, rng: Random) -> Iterator[Activity]:
    def ping(at_s: float, rng: Random) -> Conversation:
        host = rng.choice(lab.clients)
        route = lab.route(host, rng.choice((lab.servers["web"], lab.site(rng))), rng)
        return ping_conversation(at_s, route, label=BENIGN, rng=rng, count=rng.choice((1, 4, 4, 10)))

    own = spawn(rng)
    yield recurring(arrivals(own, 25.0, lab.duration_s), own, ping)


def _stations(lab: Lab, rng: Random) -> Iterator[Activity]:
    """ARP requests."""

    def ask(host: Host, rng: Random) -> Activity:
        for at_s in arrivals(rng, 20.0, lab.duration_s):
            other = rng.choice((lab.gateway, *lab.inside))
            if other is not host:
                yield at_s, arp_conversation(at_s, host, other, rng=spawn(rng), vlan=lab.vlan)

    for host in lab.inside:
        yield ask(host, spawn(rng))


# --- mail, shells, files ---------------------------------------------------------------------------------------------


def _mail(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Mail delivered by SMTP in both directions, and fetched by IMAP over TLS."""
    server = lab.servers["mail"]

    def deliver(incoming: bool, at_s: float, rng: Random) -> Conversation:
        ends = (lab.site(rng), server) if incoming else (server, lab.site(rng))
        script = mail_script(rng, sender=ends[0].name, receiver=ends[1].name)
        ending = any_ending(rng, idle_s=0.5)
        return tcp_conversation(at_s, lab.route(*ends, rng), 25, script, label=BENIGN, rng=rng, ending=ending)

    def fetch(host: Host, at_s: float, rng: Random) -> Conversation:
        new = rng.random() < 0.25
        mails = [Exchange(70, 120), Exchange(60, int(lognormal(rng, 15_000, 1.5, most=3e6)) if new else 90)]
        script, ending = tls_script("mail.lab.example", mails, rng), any_ending(rng)
        return tcp_conversation(at_s, lab.route(host, server, rng), 993, script, label=BENIGN, rng=rng, ending=ending)

    for every_s, incoming in ((7.0, True), (20.0, False)):
        own = spawn(rng)
        yield recurring(arrivals(own, every_s, lab.duration_s, sigma=1.5), own, partial(deliver, incoming))
    for host in lab.clients:
        own = spawn(rng)
        times = periodic(own, own.choice((60, 120, 180)), lab.duration_s, jitter=0.3)
        yield recurring(times, own, partial(fetch, host))


def _shells(lab: Lab, rng: Random) -> Iterator[Activity]:
    """People on the shell server, some of whom mistype their password; programs that log in, some with a wrong key."""

    def log_in(every_s: float, talk: Callable[[Lab, Host, float, Random], Conversation], rng: Random) -> Activity:
        for at_s in arrivals(rng, every_s, lab.duration_s, sigma=1.5):
            src = rng.choice(lab.clients if rng.random() < 0.7 else lab.visitors)
            yield at_s, talk(lab, src, at_s, spawn(rng))

    yield log_in(70.0, _interactive_shell, spawn(rng))
    yield log_in(6.0, _remote_commands, spawn(rng))


def _interactive_shell(lab: Lab, src: Host, at_s: float, rng: Random) -> Conversation:
    waits_s = [lognormal(rng, 2.5, 0.6, most=20.0) for _ in range(rng.choices((1, 2, 3), (75, 18, 7))[0])]
    succeeds = rng.random() < 0.93
    duration_s = pareto(rng, 25.0, tail=1.0, most=lab.duration_s)

    def script() -> Iterator[Message]:
        yield from ssh_login(rng, waits_s, succeeds=succeeds)
        if succeeds:
            yield from typing(rng, duration_s)

    route, ending = lab.route(src, lab.servers["shell"], rng), Ending("fin", CLIENT if succeeds else SERVER, 0.01)
    return tcp_conversation(at_s, route, 22, script(), label=BENIGN, rng=rng, ending=ending)


def _remote_commands(lab: Lab, src: Host, at_s: float, rng: Random) -> Conversation:
    succeeds, server = rng.random() < 0.85, lab.servers[rng.choice(("shell", "web", "files"))]

    def script() -> Iterator[Message]:
        yield from ssh_login(rng, [lognormal(rng, 0.02, 0.8)], succeeds=succeeds)
        for _ in range(geometric(rng, 4) if succeeds else 0):
            size = int(lognormal(rng, 900, 1.6, most=400_000))
            yield Message(rng.choice((CLIENT, SERVER)), ssh_packet(size), lognormal(rng, 0.05, 1.0, most=5.0))

    route, ending = lab.route(src, server, rng), any_ending(rng, idle_s=0.1)
    return tcp_conversation(at_s, route, 22, script(), label=BENIGN, rng=rng, ending=ending)


def _backups(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Large uploads: by SSH to the file server, by TLS to a store outside."""

    def back_up(host: Host, at_s: float, rng: Random) -> Conversation:
        outside = rng.random() < 0.6
        parts = [Exchange(int(lognormal(rng, 4e5, 1.2, most=6_000_000)), 180, lognormal(rng, 0.1, 1.0, most=10.0))]
        parts += [Exchange(int(lognormal(rng, 1.5e5, 1.2, most=3_000_000)), 180, 0.01) for _ in range(rng.randrange(6))]
        dst = lab.site(rng) if outside else lab.servers["files"]

        def by_ssh() -> Iterator[Message]:
            yield from ssh_login(rng, [0.02], succeeds=True)
            yield from (Message(CLIENT, ssh_packet(part.request_bytes), 0.01) for part in parts)

        port, script = (443, tls_script(dst.name, parts, rng)) if outside else (22, by_ssh())
        route, ending = lab.route(host, dst, rng), any_ending(rng, idle_s=0.5)
        return tcp_conversation(at_s, route, port, script, label=BENIGN, rng=rng, ending=ending)

    own = spawn(rng)
    yield recurring(arrivals(own, 500.0 / len(lab.clients), lab.duration_s), own, back_up, hosts=lab.clients)


def _partners(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Partners who exchange files by FTP, mostly with programs, some with an old password."""
    files = lab.servers["files"]

    def call(src: Host, at_s: float, rng: Random) -> Activity:
        succeeds = rng.random() < 0.8
        waits_s = [lognormal(rng, 0.05, 1.2, most=10.0) for _ in range(rng.choices((1, 2, 3), (80, 14, 6))[0])]
        route, own = lab.route(src, files, rng), spawn(rng)
        script = ftp_script(own, waits_s, succeeds=succeeds)
        yield at_s, tcp_conversation(at_s, route, 21, script, label=BENIGN, rng=own)
        if succeeds:
            own, at_s = spawn(rng), at_s + sum(waits_s) + 2 * len(waits_s)
            size, sender = int(lognormal(own, 60_000, 1.6, most=5_000_000)), own.choice((CLIENT, SERVER))
            data, ending = [Message(sender, Bulk(size), 0.01)], Ending("fin", sender, 0.001)
            port = own.randrange(50_000, 51_000)
            yield at_s, tcp_conversation(at_s, route, port, data, label=BENIGN, rng=own, ending=ending)  # passive mode

    own, hosts = spawn(rng), (*lab.visitors[:12], *lab.clients)
    yield recurring(arrivals(own, 16.0, lab.duration_s, sigma=1.5), own, call, hosts=hosts)


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
"""Activities of each kind of benign traffic. The names seed its random draws: a new name gives other captures."""
