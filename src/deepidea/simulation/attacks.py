"""Attacks of the simulation. The attackers are hosts that also do what everybody does.

Attacks come in episodes of different strength, so that two parts of a capture differ; slow ones last all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import NamedTuple

from deepidea.simulation.applications import probe_port
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
from deepidea.simulation.draws import arrivals, geometric, lognormal, periodic, spawn
from deepidea.simulation.hosts import Host
from deepidea.simulation.lab import Activity, Lab, recurring, stranger
from deepidea.simulation.payloads import dns_query, dns_response, http_request, http_response
from deepidea.simulation.scripts import Exchange, any_ending, ftp_script, http_script, ssh_login, tls_script

_EPISODE_EVERY_S = 300.0
_SCANNED_PORTS = (
    (7, 9, 13, 21, 22, 23, 25, 37, 53, 79, 80, 81, 88, 106, 110, 111, 113, 119, 135, 139, 143, 144, 179, 199, 389, 427)
    + (443, 444, 445, 465, 513, 514, 515, 543, 544, 548, 554, 587, 631, 646, 873, 990, 993, 995, 1025, 1433, 1720, 1723)
    + (1900, 2000, 2049, 2121, 3000, 3128, 3306, 3389, 3986, 5000, 5009, 5051, 5060, 5357, 5432, 5631, 5666, 5800, 5900)
    + (6000, 6001, 6646, 7070, 8000, 8008, 8009, 8080, 8081, 8443, 8888, 9100, 9999, 10000, 32768, 49152, 49153, 49154)
)


@dataclass(frozen=True, slots=True)
class Attack:
    """A kind of attack.

    Parameters
    ----------
    class_name
        Class of its label.
    activities
        Of the lab, with the attack's label.
    """

    class_name: str
    activities: Callable[[Lab, str, Random], Iterator[Activity]]


def _in_episodes(
    lab: Lab, rng: Random, longest_s: float, episode: Callable[[float, float, Random], Activity]
) -> Iterator[Activity]:
    """Yield at least two episodes, spread over the capture, each from its begin and end."""
    n_episodes = max(2, round(lab.duration_s / _EPISODE_EVERY_S))
    slot_s = lab.duration_s / n_episodes
    for at in range(n_episodes):
        length_s = rng.uniform(0.6, 1.0) * min(longest_s, 0.4 * slot_s)
        begin_s = at * slot_s + rng.uniform(0.05, 0.35) * slot_s
        yield episode(begin_s, begin_s + length_s, spawn(rng))


def _attackers(lab: Lab, rng: Random, most: int) -> list[Host]:
    """Return hosts that attack together, some inside and most outside."""
    return [rng.choice(lab.clients if rng.random() < 0.35 else lab.visitors) for _ in range(rng.randrange(2, most + 1))]


# --- port scans ------------------------------------------------------------------------------------------------------


def _scan(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """Half-open scans of a few hosts, many ports a second; silent ports are probed twice."""

    def episode(begin_s: float, end_s: float, rng: Random) -> Activity:
        sources, every_s = _attackers(lab, rng, 4), lognormal(rng, 0.03, 0.5, most=0.2)
        targets = rng.sample([host for host in lab.inside if host not in sources], rng.randrange(2, 5))
        probes = [(host, port) for host in targets for port in _SCANNED_PORTS]
        rng.shuffle(probes)
        times = arrivals(rng, every_s, end_s, since_s=begin_s, sigma=0.7)
        for at_s, (host, port) in zip(times, probes, strict=False):
            own = spawn(rng)
            yield at_s, probe(own.choice(sources), host, port, at_s, own)

    def probe(src: Host, dst: Host, port: int, at_s: float, rng: Random) -> Conversation:
        route, silent = lab.route(src, dst, rng), rng.random() < max(dst.silent, 0.15)
        outcome: Outcome = "reset" if port in dst.open_ports else "silent" if silent else "closed"
        return tcp_attempt(at_s, route, port, outcome=outcome, label=label, rng=rng, retries=int(outcome == "silent"))

    return _in_episodes(lab, rng, 25.0, episode)


def _slow_scan(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """Single ports of random hosts are opened and closed, all the time."""

    def scan(sources: list[Host], every_s: float, rng: Random) -> Activity:
        for at_s in arrivals(rng, every_s, lab.duration_s, sigma=0.5):
            own = spawn(rng)
            src, host, port = own.choice(sources), own.choice(lab.inside), own.choice(_SCANNED_PORTS)
            if host is not src:
                yield at_s, probe_port(lab, src, host, port, at_s, label, own)

    for every_s in (5.0, 9.0):
        yield scan(_attackers(lab, rng, 3), every_s, spawn(rng))


# --- denial of service -----------------------------------------------------------------------------------------------


def _flood(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """SYN packets with spoofed addresses; some of the hosts that own them answer the SYN-ACK with RST."""

    def episode(begin_s: float, end_s: float, rng: Random) -> Activity:
        every_s, port = 1 / rng.uniform(25, 70), rng.choice((80, 443))
        return recurring(arrivals(rng, every_s, end_s, since_s=begin_s, sigma=1.0), rng, partial(send_syn, port))

    def send_syn(port: int, at_s: float, rng: Random) -> Conversation:
        src = stranger(rng.randrange(1 << 17), lab.gateway, rng)
        # The half-open connection stays in SYN-RECEIVED, or is dropped by the server's backlog, or reset by the owner.
        outcome: Outcome = rng.choices(("ignored", "silent", "reset"), (65, 20, 15))[0]
        retries = rng.randrange(3) if outcome == "ignored" else rng.randrange(2)
        route = lab.route(src, lab.servers["web"], rng, v4_only=rng.random() < 0.5)
        ports = {"src_port": rng.randrange(1024, 65536), "retries": retries}
        return tcp_attempt(at_s, route, port, outcome=outcome, label=label, rng=rng, **ports)

    return _in_episodes(lab, rng, 25.0, episode)


def _slowloris(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """Requests that never end occupy the web server's connections until it closes them."""

    def episode(begin_s: float, end_s: float, rng: Random) -> Activity:
        sources = _attackers(lab, rng, 6)
        every_s, timeout_s = rng.uniform(3, 12), rng.choice((20.0, 30.0, 60.0))
        times = arrivals(rng, rng.uniform(0.1, 0.4), end_s, since_s=begin_s, sigma=1.0)
        return recurring(times, rng, partial(hold, sources, every_s, timeout_s))

    def hold(sources: list[Host], every_s: float, timeout_s: float, at_s: float, rng: Random) -> Conversation:
        src, held_s = rng.choice(sources), timeout_s * rng.uniform(0.5, 1.1)
        ending = Ending("fin" if rng.random() < 0.7 else "rst", SERVER, 0.001)
        route, script = lab.route(src, lab.servers["web"], rng), endless_request(every_s, held_s, rng)
        return tcp_conversation(at_s, route, 80, script, label=label, rng=rng, ending=ending)

    def endless_request(every_s: float, until_s: float, rng: Random) -> Iterator[Message]:
        # A head ends with an empty line (RFC 9112, 2.1), which is cut off here; header after header keeps it open.
        yield Message(CLIENT, http_request("www.lab.example", "/?" + "q" * rng.randrange(6), "Mozilla/5.0")[:-2])
        held_s = 0.0
        while held_s < until_s:
            pause_s = every_s * rng.uniform(0.5, 1.5)
            held_s += pause_s
            yield Message(CLIENT, b"X-a: %d\r\n" % rng.randrange(1, 5000), pause_s)
        if rng.random() < 0.5:
            yield Message(SERVER, http_response(0, "408 Request Timeout"), 0.01)

    return _in_episodes(lab, rng, 50.0, episode)


# --- password brute force --------------------------------------------------------------------------------------------


class _Login(NamedTuple):
    """A service with passwords, and how attackers try them: most tries a conversation, pace, time between both."""

    server: str
    port: int
    script: Callable[..., Iterator[Message]]
    tries: Sequence[int]
    wait_s: float
    most_every_s: float


def _guess_passwords(login: _Login, lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """Several logins at a time, a few passwords in each."""

    def episode(begin_s: float, end_s: float, rng: Random) -> Activity:
        sources = _attackers(lab, rng, 6)
        tries, wait_s = rng.choice(login.tries), lognormal(rng, login.wait_s, 1.2, most=3.0)
        times = arrivals(rng, rng.uniform(0.3, login.most_every_s), end_s, since_s=begin_s, sigma=0.8)
        return recurring(times, rng, partial(guess, tries, wait_s), hosts=sources)

    def guess(tries: int, wait_s: float, src: Host, at_s: float, rng: Random) -> Conversation:
        waits_s = [lognormal(rng, wait_s, 0.6, most=8.0) for _ in range(rng.randrange(1, tries + 1))]
        script = login.script(rng, waits_s, succeeds=rng.random() < 0.01)
        ending = _ssh_ending(rng) if login.port == 22 else any_ending(rng, idle_s=0.05)
        route = lab.route(src, lab.servers[login.server], rng)
        return tcp_conversation(at_s, route, login.port, script, label=label, rng=rng, ending=ending)

    return _in_episodes(lab, rng, 60.0, episode)


def _ssh_ending(rng: Random) -> Ending:
    return Ending(rng.choice(("fin", "fin", "rst")), rng.choice((CLIENT, SERVER)), lognormal(rng, 0.01, 1.0, most=2.0))


_SSH = _Login("shell", 22, ssh_login, (1, 3, 6), 0.1, 1.2)
_FTP = _Login("files", 21, ftp_script, (1, 2, 4), 0.05, 1.0)


# --- infected hosts --------------------------------------------------------------------------------------------------


def _beacons(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """Infected hosts poll a command-and-control server periodically; a few responses are commands."""

    def poll(encrypted: bool, size: int, src: Host, server: Host, at_s: float, rng: Random) -> Conversation:
        command = rng.random() < 0.08
        answer = int(lognormal(rng, 40_000 if command else 180, 0.7, most=800_000))
        exchanges = [Exchange(int(lognormal(rng, size, 0.1)), answer)]
        if command:
            result, pause_s = int(lognormal(rng, 9_000, 1.0, most=200_000)), lognormal(rng, 1.0, 0.8, most=9.0)
            exchanges.append(Exchange(result, 120, pause_s))
        script = (tls_script if encrypted else http_script)(server.name, exchanges, rng)
        route, ending = lab.route(src, server, rng), any_ending(rng, idle_s=0.2)
        return tcp_conversation(at_s, route, 443 if encrypted else 80, script, label=label, rng=rng, ending=ending)

    for host in rng.sample(lab.clients, max(2, len(lab.clients) // 4)):  # servers among the least visited sites
        servers, own = rng.sample(lab.sites[-25:], 2), spawn(rng)
        encrypted, size, jitter = own.random() < 0.7, own.randrange(150, 500), own.choice((0.05, 0.2, 0.4))
        times = periodic(own, own.choice((6, 10, 15, 25)), lab.duration_s, jitter=jitter)
        yield recurring(times, own, partial(poll, encrypted, size, host), hosts=servers)


def _tunnel(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """Data leaves in the names of DNS queries, and commands come back in the responses."""

    def episode(begin_s: float, end_s: float, rng: Random) -> Activity:
        src, far = rng.choice(lab.clients), rng.choice(lab.sites[-25:])
        resolver = lab.servers["resolver"]
        direct, every_s = rng.random() < 0.4, rng.uniform(0.2, 0.8)
        for at_s in arrivals(rng, every_s, end_s, since_s=begin_s, sigma=1.3):
            for ends in ((src, far),) if direct else ((src, resolver), (resolver, far)):
                own = spawn(rng)
                route, script = lab.route(*ends, own), queries(far.name, own)
                yield at_s, udp_conversation(at_s, route, 53, script, label=label, rng=own)

    def queries(domain: str, rng: Random) -> Iterator[Message]:
        for _ in range(geometric(rng, 3)):
            ident, kind = rng.getrandbits(16), rng.choice(("TXT", "TXT", "NULL", "A"))
            # 38 to 148 hexadecimal digits in labels of at most 63 (RFC 1035, 2.3.4)
            parts = [f"{rng.getrandbits(bits):x}" for bits in rng.choice(((150,), (200, 200), (240, 240, 120)))]
            name = ".".join((*parts, domain))
            answer = rng.randbytes(4 if kind == "A" else rng.randrange(20, 250))
            yield Message(CLIENT, dns_query(ident, name, kind), lognormal(rng, 0.05, 1.0, most=2.0))
            yield Message(SERVER, dns_response(ident, name, kind, (answer,)), lognormal(rng, 0.03, 0.6, most=2.0))

    return _in_episodes(lab, rng, 90.0, episode)


def _upload(lab: Lab, label: str, rng: Random) -> Iterator[Activity]:
    """Files leave by TLS to servers that hardly anybody visits."""

    def episode(begin_s: float, end_s: float, rng: Random) -> Activity:
        sources, stores = rng.sample(lab.clients, 2), rng.sample(lab.sites[-25:], 3)
        for at_s in arrivals(rng, rng.uniform(2.0, 6.0), end_s, since_s=begin_s, sigma=0.8):
            yield at_s, send(rng.choice(sources), rng.choice(stores), at_s, spawn(rng))

    def send(src: Host, store: Host, at_s: float, rng: Random) -> Conversation:
        parts = [
            Exchange(int(lognormal(rng, 250_000, 1.1, most=4_000_000)), 160, lognormal(rng, 0.3, 1.0, most=10.0))
            for _ in range(geometric(rng, 2))
        ]
        script, ending = tls_script(store.name, parts, rng), any_ending(rng, idle_s=0.5)
        return tcp_conversation(at_s, lab.route(src, store, rng), 443, script, label=label, rng=rng, ending=ending)

    return _in_episodes(lab, rng, 80.0, episode)


ATTACKS: dict[str, Attack] = {
    "port_scan": Attack("port_scan", _scan),
    "slow_port_scan": Attack("port_scan", _slow_scan),
    "syn_flood": Attack("dos", _flood),
    "slowloris": Attack("dos", _slowloris),
    "ssh_guessing": Attack("brute_force", partial(_guess_passwords, _SSH)),
    "ftp_guessing": Attack("brute_force", partial(_guess_passwords, _FTP)),
    "beacon": Attack("botnet", _beacons),
    "dns_tunnel": Attack("exfiltration", _tunnel),
    "https_upload": Attack("exfiltration", _upload),
}
"""Attacks by label. The labels seed their random draws: a new name gives other captures."""
