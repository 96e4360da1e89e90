"""Attacks of the simulation. Who attacks is one of the hosts that also do what everybody does.

Each comes in episodes of its own strength, so that two parts of a capture show it differently; the slow ones go on
all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random

from deepidea.simulation.applications import connect_to_port
from deepidea.simulation.chance import arrivals, child, count, jittered, skewed
from deepidea.simulation.conversations import (
    CLIENT,
    SERVER,
    Conversation,
    Ending,
    Message,
    Outcome,
    tcp_attempt,
    tcp_conversation,
    udp_conversation,
)
from deepidea.simulation.hosts import Host, Route
from deepidea.simulation.lab import Activity, Lab, stranger
from deepidea.simulation.payloads import answer_name, ask_name, http_request, http_response
from deepidea.simulation.scripts import Exchange, any_ending, ftp_script, http_script, ssh_login, tls_script

__all__ = ["ATTACKS", "Attack"]

_EPISODE_EVERY_S = 300.0
_SCANNED_PORTS = (
    (7, 9, 13, 21, 22, 23, 25, 37, 53, 79, 80, 81, 88, 106, 110, 111, 113, 119, 135, 139, 143, 144, 179, 199, 389, 427)
    + (443, 444, 445, 465, 513, 514, 515, 543, 544, 548, 554, 587, 631, 646, 873, 990, 993, 995, 1025, 1433, 1720, 1723)
    + (1900, 2000, 2049, 2121, 3000, 3128, 3306, 3389, 3986, 5000, 5009, 5051, 5060, 5357, 5432, 5631, 5666, 5800, 5900)
    + (6000, 6001, 6646, 7070, 8000, 8008, 8009, 8080, 8081, 8443, 8888, 9100, 9999, 10000, 32768, 49152, 49153, 49154)
)


@dataclass(frozen=True, slots=True)
class Attack:
    """A kind of attack: its class, and who does what.

    Parameters
    ----------
    class_name
        Class that its label belongs to.
    activities
        From the lab and the attack's label.
    """

    class_name: str
    activities: Callable[[Lab, str, Random], Iterator[Activity]]


def _episodes(lab: Lab, rng: Random, longest_s: float) -> Iterator[tuple[float, float]]:
    """Yield begin and end of at least two episodes, spread over the capture."""
    n_episodes = max(2, round(lab.duration_s / _EPISODE_EVERY_S))
    slot_s = lab.duration_s / n_episodes
    for at in range(n_episodes):
        length_s = rng.uniform(0.6, 1.0) * min(longest_s, 0.4 * slot_s)
        begin_s = at * slot_s + rng.uniform(0.05, 0.35) * slot_s
        yield begin_s, begin_s + length_s


def _attackers(lab: Lab, rng: Random, most: int) -> list[Host]:
    """Return hosts that attack together, some inside and most outside."""
    return [rng.choice(lab.clients if rng.random() < 0.35 else lab.visitors) for _ in range(rng.randrange(2, most + 1))]


# --- scans -----------------------------------------------------------------------------------------------------------


def _scan(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """Half-open scans of a few hosts, many ports a second; silent ports are tried again."""

    def scanning(begin_s: float, end_s: float, rng: Random) -> Activity:
        sources, every_s = _attackers(lab, rng, 4), skewed(rng, 0.03, 0.5, most=0.2)
        targets = rng.sample([host for host in lab.inside if host not in sources], rng.randrange(2, 5))
        probes = [(host, port) for host in targets for port in _SCANNED_PORTS]
        rng.shuffle(probes)
        times = arrivals(rng, every_s, end_s, since_s=begin_s, spread=0.7)
        for at_s, (host, port) in zip(times, probes, strict=False):
            own = child(rng)
            yield at_s, _half_open(lab.route(own.choice(sources), host, own), port, at_s, label, own)

    for begin_s, end_s in _episodes(lab, rng, 25.0):
        yield scanning(begin_s, end_s, child(rng))


def _half_open(route: Route, port: int, at_s: float, label: str, rng: Random) -> Conversation:
    silent = rng.random() < max(route.dst.silent, 0.15)
    outcome: Outcome = "reset" if port in route.dst.open_ports else "silent" if silent else "closed"
    return tcp_attempt(at_s, route, port, outcome=outcome, label=label, rng=rng, retries=int(outcome == "silent"))


def _slow_scan(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """Now and then a port is opened and closed, now here, now there, all the time."""

    def scanning(sources: list[Host], every_s: float, rng: Random) -> Activity:
        for at_s in arrivals(rng, every_s, lab.duration_s, spread=0.5):
            own = child(rng)
            src, host, port = own.choice(sources), own.choice(lab.inside), own.choice(_SCANNED_PORTS)
            if host is not src:
                yield at_s, connect_to_port(lab, src, host, port, at_s, label, own)

    for every_s in (5.0, 9.0):
        yield scanning(_attackers(lab, rng, 3), every_s, child(rng))


# --- denial of service -----------------------------------------------------------------------------------------------


def _flood(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """SYN packets from invented addresses: answered for a while, some then refused by who really has the address."""
    server = lab.servers["web"]

    def flooding(begin_s: float, end_s: float, rng: Random) -> Activity:
        every_s, port = 1 / rng.uniform(25, 70), rng.choice((80, 443))
        for at_s in arrivals(rng, every_s, end_s, since_s=begin_s, spread=1.0):
            own = child(rng)
            src = stranger(own.randrange(1 << 17), lab.gateway, own)
            outcome: Outcome = own.choices(("ignored", "silent", "reset"), (65, 20, 15))[0]
            retries = own.randrange(3) if outcome == "ignored" else own.randrange(2)
            route = lab.route(src, server, own, v4_only=own.random() < 0.5)
            ports = {"src_port": own.randrange(1024, 65536), "retries": retries}
            yield at_s, tcp_attempt(at_s, route, port, outcome=outcome, label=label, rng=own, **ports)

    for begin_s, end_s in _episodes(lab, rng, 25.0):
        yield flooding(begin_s, end_s, child(rng))


def _slowloris(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """Requests that never end hold the web server's places; it gives up on them one by one."""
    server = lab.servers["web"]

    def hold(src: Host, at_s: float, every_s: float, patience_s: float, rng: Random) -> Conversation:
        def script() -> Iterator[Message]:
            yield Message(CLIENT, http_request("www.lab.example", "/?" + "q" * rng.randrange(6), "Mozilla/5.0")[:-2])
            held_s = 0.0
            while held_s < patience_s:
                pause_s = every_s * rng.uniform(0.5, 1.5)
                held_s += pause_s
                yield Message(CLIENT, b"X-a: %d\r\n" % rng.randrange(1, 5000), pause_s)
            if rng.random() < 0.5:
                yield Message(SERVER, http_response(0, "408 Request Timeout"), 0.01)

        ending = Ending("fin" if rng.random() < 0.7 else "rst", SERVER, 0.001)
        route = lab.route(src, server, rng)
        return tcp_conversation(at_s, route, 80, script(), label=label, rng=rng, ending=ending)

    def holding(begin_s: float, end_s: float, rng: Random) -> Activity:
        sources = _attackers(lab, rng, 6)
        every_s, patience_s = rng.uniform(3, 12), rng.choice((20.0, 30.0, 60.0))
        for at_s in arrivals(rng, rng.uniform(0.1, 0.4), end_s, since_s=begin_s, spread=1.0):
            own = child(rng)
            yield at_s, hold(own.choice(sources), at_s, every_s, patience_s * own.uniform(0.5, 1.1), own)

    for begin_s, end_s in _episodes(lab, rng, 50.0):
        yield holding(begin_s, end_s, child(rng))


# --- guessing passwords ----------------------------------------------------------------------------------------------


def _ssh_guessing(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """Logins by SSH, a few tries of a password in each, several at a time."""

    def guess(src: Host, at_s: float, tries: int, wait_s: float, rng: Random) -> Conversation:
        waits_s = [skewed(rng, wait_s, 0.6, most=8.0) for _ in range(rng.randrange(1, tries + 1))]
        script = ssh_login(rng, waits_s, succeeds=rng.random() < 0.01)
        ending = Ending(
            rng.choice(("fin", "fin", "rst")), rng.choice((CLIENT, SERVER)), skewed(rng, 0.01, 1.0, most=2.0)
        )
        route = lab.route(src, lab.servers["shell"], rng)
        return tcp_conversation(at_s, route, 22, script, label=label, rng=rng, ending=ending)

    def guessing(begin_s: float, end_s: float, rng: Random) -> Activity:
        sources = _attackers(lab, rng, 6)
        tries, wait_s = rng.choice((1, 3, 6)), skewed(rng, 0.1, 1.2, most=3.0)
        for at_s in arrivals(rng, rng.uniform(0.3, 1.2), end_s, since_s=begin_s, spread=0.8):
            yield at_s, guess(rng.choice(sources), at_s, tries, wait_s, child(rng))

    for begin_s, end_s in _episodes(lab, rng, 60.0):
        yield guessing(begin_s, end_s, child(rng))


def _ftp_guessing(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """Logins by FTP, a few tries in each."""

    def guess(src: Host, at_s: float, tries: int, wait_s: float, rng: Random) -> Conversation:
        waits_s = [skewed(rng, wait_s, 0.6, most=8.0) for _ in range(rng.randrange(1, tries + 1))]
        script = ftp_script(rng, waits_s, succeeds=rng.random() < 0.01)
        ending = any_ending(rng, idle_s=0.05)
        route = lab.route(src, lab.servers["files"], rng)
        return tcp_conversation(at_s, route, 21, script, label=label, rng=rng, ending=ending)

    def guessing(begin_s: float, end_s: float, rng: Random) -> Activity:
        sources = _attackers(lab, rng, 6)
        tries, wait_s = rng.choice((1, 2, 4)), skewed(rng, 0.05, 1.2, most=3.0)
        for at_s in arrivals(rng, rng.uniform(0.3, 1.0), end_s, since_s=begin_s, spread=0.8):
            yield at_s, guess(rng.choice(sources), at_s, tries, wait_s, child(rng))

    for begin_s, end_s in _episodes(lab, rng, 60.0):
        yield guessing(begin_s, end_s, child(rng))


# --- what an infected host does --------------------------------------------------------------------------------------


def _beacons(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """Infected hosts ask for orders by a timer; now and then there are some."""

    def call(src: Host, master: Host, sealed_up: bool, at_s: float, size: int, rng: Random) -> Conversation:
        ordered = rng.random() < 0.08
        answer = int(skewed(rng, 40_000 if ordered else 180, 0.7, most=800_000))
        exchanges = [Exchange(int(skewed(rng, size, 0.1)), answer)]
        if ordered:
            exchanges.append(Exchange(int(skewed(rng, 9_000, 1.0, most=200_000)), 120, skewed(rng, 1.0, 0.8, most=9.0)))
        script = (tls_script if sealed_up else http_script)(master.name, exchanges, rng)
        route, ending = lab.route(src, master, rng), any_ending(rng, idle_s=0.2)
        return tcp_conversation(at_s, route, 443 if sealed_up else 80, script, label=label, rng=rng, ending=ending)

    def calling(src: Host, masters: list[Host], rng: Random) -> Activity:
        sealed_up, size, jitter = rng.random() < 0.7, rng.randrange(150, 500), rng.choice((0.05, 0.2, 0.4))
        for at_s in jittered(rng, rng.choice((6, 10, 15, 25)), lab.duration_s, jitter=jitter):
            yield at_s, call(src, rng.choice(masters), sealed_up, at_s, size, child(rng))

    for host in rng.sample(lab.clients, max(2, len(lab.clients) // 4)):
        yield calling(host, rng.sample(lab.sites[-25:], 2), child(rng))


def _tunnel(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """Data leaves in the names that DNS is asked for, and orders come back in the answers."""

    def ask(src: Host, dst: Host, domain: str, at_s: float, rng: Random) -> Conversation:
        def script() -> Iterator[Message]:
            for _ in range(count(rng, 3)):
                ident, kind = rng.getrandbits(16), rng.choice(("TXT", "TXT", "NULL", "A"))
                parts = [f"{rng.getrandbits(bits):x}" for bits in rng.choice(((150,), (200, 200), (240, 240, 120)))]
                name = ".".join((*parts, domain))
                answer = rng.randbytes(4 if kind == "A" else rng.randrange(20, 250))
                yield Message(CLIENT, ask_name(ident, name, kind), skewed(rng, 0.05, 1.0, most=2.0))
                yield Message(SERVER, answer_name(ident, name, kind, (answer,)), skewed(rng, 0.03, 0.6, most=2.0))

        return udp_conversation(at_s, lab.route(src, dst, rng), 53, script(), label=label, rng=rng)

    def tunnelling(begin_s: float, end_s: float, rng: Random) -> Activity:
        src, far = rng.choice(lab.clients), rng.choice(lab.sites[-25:])
        resolver = lab.servers["resolver"]
        direct, every_s = rng.random() < 0.4, rng.uniform(0.2, 0.8)
        for at_s in arrivals(rng, every_s, end_s, since_s=begin_s, spread=1.3):
            ways: Iterable[tuple[Host, Host]] = ((src, far),) if direct else ((src, resolver), (resolver, far))
            for way in ways:
                yield at_s, ask(*way, far.name, at_s, child(rng))

    for begin_s, end_s in _episodes(lab, rng, 90.0):
        yield tunnelling(begin_s, end_s, child(rng))


def _upload(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """Files leave in sealed web requests to servers that hardly anybody visits."""

    def send(src: Host, far: Host, at_s: float, rng: Random) -> Conversation:
        parts = [
            Exchange(int(skewed(rng, 250_000, 1.1, most=4_000_000)), 160, skewed(rng, 0.3, 1.0, most=10.0))
            for _ in range(count(rng, 2))
        ]
        script, ending = tls_script(far.name, parts, rng), any_ending(rng, idle_s=0.5)
        return tcp_conversation(at_s, lab.route(src, far, rng), 443, script, label=label, rng=rng, ending=ending)

    def sending(begin_s: float, end_s: float, rng: Random) -> Activity:
        sources, stores = rng.sample(lab.clients, 2), rng.sample(lab.sites[-25:], 3)
        for at_s in arrivals(rng, rng.uniform(2.0, 6.0), end_s, since_s=begin_s, spread=0.8):
            yield at_s, send(rng.choice(sources), rng.choice(stores), at_s, child(rng))

    for begin_s, end_s in _episodes(lab, rng, 80.0):
        yield sending(begin_s, end_s, child(rng))


ATTACKS: dict[str, Attack] = {
    "port_scan": Attack("port_scan", _scan),
    "slow_port_scan": Attack("port_scan", _slow_scan),
    "syn_flood": Attack("dos", _flood),
    "slowloris": Attack("dos", _slowloris),
    "ssh_guessing": Attack("brute_force", _ssh_guessing),
    "ftp_guessing": Attack("brute_force", _ftp_guessing),
    "beacon": Attack("botnet", _beacons),
    "dns_tunnel": Attack("exfiltration", _tunnel),
    "https_upload": Attack("exfiltration", _upload),
}
"""Attacks by label."""
