"""Benign traffic of people and of the services for them: web, names, mail, shells, files.

Some of it resembles attacks on purpose: failed logins, crowds of visitors, large uploads, slow clients, long DNS names.
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
    tcp_attempt,
    tcp_conversation,
    udp_conversation,
)
from deepidea.simulation.draws import arrivals, geometric, lognormal, pareto, periodic, spawn
from deepidea.simulation.hosts import Host, Route
from deepidea.simulation.lab import BENIGN, Activity, Lab, recurring
from deepidea.simulation.payloads import Bulk, http_request, http_response, ssh_packet
from deepidea.simulation.scripts import (
    Exchange,
    any_ending,
    browsing,
    dns_script,
    ftp_script,
    http_script,
    mail_script,
    quic_script,
    ssh_login,
    tls_script,
    typing,
)

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


def names(lab: Lab, rng: Random) -> Iterator[Activity]:
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
    if encrypted and not dst.inside and rng.random() < lab.quic:
        route = lab.route(src, dst, rng)
        script = quic_script(browsing(rng, mean_requests), 1 / route.bytes_per_s, rng)
        return udp_conversation(at_s, route, 443, script, label=BENIGN, rng=rng)
    script = (tls_script if encrypted else http_script)(dst.name, browsing(rng, mean_requests), rng)
    route, ending = lab.route(src, dst, rng), any_ending(rng)
    return tcp_conversation(at_s, route, 443 if encrypted else 80, script, label=BENIGN, rng=rng, ending=ending)


def _page(lab: Lab, host: Host, at_s: float, rng: Random) -> Activity:
    site = lab.site(rng)
    if rng.random() < 0.6:
        yield at_s, _resolve(lab, host, site.name, at_s, spawn(rng))
    at_s += _RESOLVING_S + rng.expovariate(50.0)
    if lab.v6_broken and host.ipv6 is not None and site.ipv6 is not None:
        yield at_s, _try_ipv6(lab, host, site, at_s, spawn(rng))
        at_s += 0.25
    for _ in range(geometric(rng, rng.choice((1.5, 2.2, 6.0)))):
        yield at_s, _fetch(lab, host, site, at_s, spawn(rng))
        at_s += rng.expovariate(5.0)
        site = site if rng.random() < 0.5 else lab.site(rng)


def _try_ipv6(lab: Lab, host: Host, site: Host, at_s: float, rng: Random) -> Conversation:
    """Try IPv6 first, which fails: the browser takes IPv4 after 250 ms (RFC 8305)."""
    route = Route(host, site, True, lab.vlan)
    return tcp_attempt(at_s, route, 443, outcome="silent", label=BENIGN, rng=rng, retries=rng.randrange(2))


def _browse(lab: Lab, host: Host, at_s: float, rng: Random) -> Activity:
    """Read a few pages."""
    for _ in range(geometric(rng, 5)):
        yield at_s, _page(lab, host, at_s, spawn(rng))
        at_s += pareto(rng, 3.0, tail=1.2, most=120.0)


def web(lab: Lab, rng: Random) -> Iterator[Activity]:
    """People who read pages."""
    for host in lab.clients:
        own = spawn(rng)
        times = arrivals(own, own.uniform(30, 120) / lab.busy, lab.duration_s)
        yield recurring(times, own, partial(_browse, lab, host))


def visits(lab: Lab, rng: Random) -> Iterator[Activity]:
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


# --- mail, shells, files ---------------------------------------------------------------------------------------------


def mail(lab: Lab, rng: Random) -> Iterator[Activity]:
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
        times = periodic(own, own.choice((60, 60, 120, 180)), lab.duration_s, jitter=own.choice((0.01, 0.3)))
        yield recurring(times, own, partial(fetch, host))


def shells(lab: Lab, rng: Random) -> Iterator[Activity]:
    """People on the shell server, some of whom mistype their password; programs that log in, some with a wrong key."""

    def log_in(every_s: float, talk: Callable[[Lab, Host, float, Random], Conversation], rng: Random) -> Activity:
        for at_s in arrivals(rng, every_s, lab.duration_s, sigma=1.5):
            src = rng.choice(lab.clients if rng.random() < 0.7 else lab.visitors)
            yield at_s, talk(lab, src, at_s, spawn(rng))

    yield log_in(70.0 / lab.busy, _interactive_shell, spawn(rng))
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


def backups(lab: Lab, rng: Random) -> Iterator[Activity]:
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


def partners(lab: Lab, rng: Random) -> Iterator[Activity]:
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
