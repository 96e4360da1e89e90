"""Benign traffic of a directory: Kerberos, LDAP and SMB when people log in, many at once in the morning."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random

from deepidea.simulation.conversations import CLIENT, SERVER, Conversation, Message, tcp_conversation, udp_conversation
from deepidea.simulation.draws import arrivals, geometric, lognormal, spawn
from deepidea.simulation.hosts import Host
from deepidea.simulation.lab import BENIGN, Activity, Lab, recurring
from deepidea.simulation.payloads import Bulk
from deepidea.simulation.scripts import any_ending, rdp_login, smb_login

_KERBEROS, _LDAP, _SMB, _RDP = 88, 389, 445, 3389


def logins(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Tickets, directory queries and shares: now and then all day, from all clients within minutes in the morning."""
    own, every_s = spawn(rng), 600.0 / lab.busy / len(lab.clients)
    yield recurring(arrivals(own, every_s, lab.duration_s), own, partial(_log_in, lab), hosts=lab.clients)
    if 7 <= lab.hour < 9.5 or rng.random() < 0.15:
        own, since_s = spawn(rng), 0.3 * lab.duration_s * rng.random()
        at = sorted(since_s + lab.duration_s * 0.3 * own.betavariate(2, 3) for _ in lab.clients)
        hosts = own.sample(lab.clients, len(lab.clients))
        yield ((at_s, _log_in(lab, host, at_s, spawn(own))) for at_s, host in zip(at, hosts, strict=True))


def _log_in(lab: Lab, host: Host, at_s: float, rng: Random) -> Activity:
    """Get tickets, sometimes after a mistyped password, read policies, open shares."""
    directory, files, tool = lab.servers["resolver"], lab.servers["files"], rng.getrandbits(64)
    for _ in range(geometric(rng, 4)):  # one ticket for each service
        yield at_s, _ticket(lab, host, directory, at_s, spawn(rng), Random(tool))
        at_s += lognormal(rng, 0.05, 1.2, most=30.0)
    for _ in range(geometric(rng, 2)):
        own = spawn(rng)
        route, ending = lab.route(host, directory, own), any_ending(own, idle_s=1.0)
        yield at_s, tcp_conversation(at_s, route, _LDAP, _search(own), label=BENIGN, rng=own, ending=ending)
        at_s += lognormal(rng, 0.1, 1.0, most=10.0)
    for server in (directory, files):
        own = spawn(rng)
        script, ending = smb_login(own, [0.01], succeeds=own.random() < 0.97), any_ending(own, idle_s=5.0)
        route = lab.route(host, server, own)
        yield at_s, tcp_conversation(at_s, route, _SMB, script, label=BENIGN, rng=own, ending=ending)
        at_s += lognormal(rng, 0.2, 1.0, most=10.0)


def _ticket(lab: Lab, host: Host, directory: Host, at_s: float, rng: Random, shape: Random) -> Conversation:
    """Ask for a ticket (RFC 4120): AS or TGS exchange, over TCP or UDP."""
    request, answer = shape.randrange(220, 320) if rng.random() < 0.3 else 1500, shape.randrange(1400, 1700)
    route, script = (
        lab.route(host, directory, rng),
        [Message(CLIENT, Bulk(request)), Message(SERVER, Bulk(answer), 2e-3)],
    )
    if shape.random() < 0.2:
        short = [Message(CLIENT, Bulk(min(request, 1400))), Message(SERVER, Bulk(180), 2e-3)]
        return udp_conversation(at_s, route, _KERBEROS, short, label=BENIGN, rng=rng)
    return tcp_conversation(at_s, route, _KERBEROS, script, label=BENIGN, rng=rng)


def _search(rng: Random) -> Iterator[Message]:
    yield Message(CLIENT, Bulk(rng.randrange(40, 90)), 0.001)
    yield Message(SERVER, Bulk(22), 0.001)
    for _ in range(geometric(rng, 4)):
        yield Message(CLIENT, Bulk(rng.randrange(80, 400)), lognormal(rng, 0.01, 1.0, most=5.0))
        yield Message(SERVER, Bulk(int(lognormal(rng, 900, 1.2, most=60_000))), 0.003)


def desktops(lab: Lab, rng: Random) -> Iterator[Activity]:
    """People at remote desktops, some of whom mistype their password a few times."""

    def work(host: Host, at_s: float, rng: Random) -> Activity:
        for last in (*(False for _ in range(rng.choice((0, 0, 0, 1, 2)))), True):
            own = spawn(rng)
            route, ending = lab.route(host, lab.servers["shell"], own), any_ending(own, idle_s=20.0)
            script = rdp_login(own, [0.01], succeeds=last)
            yield at_s, tcp_conversation(at_s, route, _RDP, script, label=BENIGN, rng=own, ending=ending)
            at_s += lognormal(rng, 8.0, 0.5)

    own, hosts = spawn(rng), (*lab.clients, *lab.visitors[:3])
    yield recurring(arrivals(own, 200.0 / lab.busy, lab.duration_s), own, work, hosts=hosts)
