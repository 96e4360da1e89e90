"""Benign traffic of games, calls, films and file sharing: many datagrams, many peers, failing ones among them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random

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
from deepidea.simulation.draws import arrivals, geometric, log_uniform, lognormal, spawn
from deepidea.simulation.hosts import Host
from deepidea.simulation.lab import BENIGN, Activity, Lab, any_stranger, recurring
from deepidea.simulation.payloads import Bulk
from deepidea.simulation.scripts import Exchange, any_ending, tls_script

_RTP_PAUSE_S, _RTP_BYTES = 0.02, (172, 132, 72)  # G.711, Opus, G.729 in datagrams of 20 ms, with RTP header (RFC 3551)


def _stream(
    rng: Random, seconds: float, both: tuple[float, float], sizes: tuple[tuple[int, int], tuple[int, int]]
) -> Iterator[Message]:
    """Yield datagrams of both sides at once: packets a second, least and most bytes of each; for `clocked` ones."""
    next_s, now_s = [rng.random() / rate for rate in both], 0.0
    while min(next_s) < seconds:
        side = CLIENT if next_s[CLIENT] <= next_s[SERVER] else SERVER
        yield Message(side, Bulk(rng.randint(*sizes[side])), next_s[side] - now_s)
        now_s = next_s[side]
        next_s[side] += rng.uniform(0.9, 1.1) / both[side]


def films(lab: Lab, rng: Random) -> Iterator[Activity]:
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
    every_s = 1500.0 / lab.busy / len(lab.clients)
    yield recurring(arrivals(own, every_s, lab.duration_s), own, watch, hosts=lab.clients)


def games(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Games: a list of hundreds of servers is queried, then one is played on by datagrams."""

    def play(host: Host, at_s: float, rng: Random) -> Activity:
        port = rng.choice((3074, 7777, 9987, 27015, 28960))
        for _ in range(int(log_uniform(rng, 20, 400)) if rng.random() < 0.4 else 0):
            yield at_s, _query_server(lab, host, port, at_s, spawn(rng))
            at_s += rng.expovariate(40.0)
        seconds, rates = lognormal(rng, 60.0, 0.8, most=600.0), (rng.uniform(10, 60), rng.uniform(10, 40))
        own, server = spawn(rng), any_stranger(lab, rng)
        script = _stream(own, seconds, rates, ((30, 110), (60, 500)))
        yield (
            at_s,
            udp_conversation(at_s, lab.route(host, server, own), port, script, label=BENIGN, rng=own, clocked=True),
        )

    own, players = spawn(rng), lab.clients[: 1 + len(lab.clients) // 4]
    yield recurring(arrivals(own, 400.0, lab.duration_s), own, play, hosts=players)


def _query_server(lab: Lab, host: Host, port: int, at_s: float, rng: Random) -> Conversation:
    """Ask a game server for its name and players; a third of those in a list are gone."""
    script = [Message(CLIENT, bytes(25))] + [Message(SERVER, bytes(rng.randrange(80, 300)), 0.01)] * (
        rng.random() < 0.7
    )
    route = lab.route(host, any_stranger(lab, rng), rng, v6=False)
    return udp_conversation(at_s, route, port, script, label=BENIGN, rng=rng)


def calls(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Telephone and video calls (RTP): to a server outside or from desk to desk, set up by SIP or TLS."""

    def talk(host: Host, at_s: float, rng: Random) -> Activity:
        far = rng.choice((rng.choice(lab.sites), rng.choice(lab.clients), any_stranger(lab, rng)))
        if far.ipv4 == host.ipv4:
            return
        own, port = spawn(rng), 2 * rng.randrange(8000, 16000)
        yield at_s, _set_up(lab, host, far, at_s, spawn(own))
        seconds = lognormal(rng, 30.0, 0.9, most=300.0)
        route, speech = lab.route(host, far, own, v6=False), rng.choice(_RTP_BYTES)
        rates, sizes = (1 / _RTP_PAUSE_S,) * 2, ((speech, speech),) * 2
        voice = _stream(own, seconds, rates, sizes)
        yield at_s + 0.3, udp_conversation(at_s + 0.3, route, port, voice, label=BENIGN, rng=own, clocked=True)
        if rng.random() < 0.3:
            own = spawn(rng)
            video = _stream(own, seconds, (rng.uniform(30, 90), rng.uniform(30, 90)), ((500, 1200), (500, 1200)))
            yield at_s + 0.3, udp_conversation(at_s + 0.3, route, port + 2, video, label=BENIGN, rng=own, clocked=True)

    own, hosts = spawn(rng), (*lab.clients, *(host for host in lab.devices if host.name.startswith("phone")))
    yield recurring(arrivals(own, 240.0 / lab.busy, lab.duration_s), own, talk, hosts=hosts)


def _set_up(lab: Lab, host: Host, far: Host, at_s: float, rng: Random) -> Conversation:
    script = [Message(CLIENT, Bulk(900)), Message(SERVER, Bulk(350), 0.02), Message(SERVER, Bulk(800), 0.2)]
    return udp_conversation(at_s, lab.route(host, far, rng, v6=False), 5060, script, label=BENIGN, rng=rng)


def sharing(lab: Lab, rng: Random) -> Iterator[Activity]:
    """File sharing between peers: hundreds of peers are asked by datagrams and connections; many are gone."""

    def session(host: Host, at_s: float, rng: Random) -> Activity:
        end_s, every_s = at_s + lognormal(rng, 120.0, 0.8), log_uniform(rng, 0.1, 1.5)
        sockets = spawn(rng)
        port = sockets.randrange(10_000, 60_000)
        for now_s in arrivals(rng, every_s, end_s, since_s=at_s, sigma=1.2):
            own = spawn(rng)
            peer = any_stranger(lab, own)
            talk = _ask_peer if own.random() < 0.6 else _connect_to_peer
            yield now_s, talk(lab, host, peer, port, now_s, own)

    own, sharers = spawn(rng), lab.clients[-1 - len(lab.clients) // 6 :]
    yield recurring(arrivals(own, 400.0, lab.duration_s), own, session, hosts=sharers)


def _ask_peer(lab: Lab, host: Host, peer: Host, port: int, at_s: float, rng: Random) -> Conversation:
    """Look something up in the distributed hash table (BEP 5), from one socket."""
    script = [Message(CLIENT, bytes(rng.choice((65, 104))))]
    if rng.random() < 0.55:
        script.append(Message(SERVER, bytes(rng.randrange(60, 310)), 0.01))
    route = lab.route(host, peer, rng, v6=False)
    return udp_conversation(at_s, route, rng.choice((6881, 51413, 16881)), script, label=BENIGN, rng=rng, src_port=port)


def _connect_to_peer(lab: Lab, host: Host, peer: Host, _: int, at_s: float, rng: Random) -> Conversation:
    route, port = lab.route(host, peer, rng, v6=False), rng.randrange(1024, 1 << 16)
    if rng.random() < 0.55:
        outcome: Outcome = "silent" if rng.random() < 0.7 else "closed"
        retries = rng.randrange(3) if outcome == "silent" else 0
        return tcp_attempt(at_s, route, port, outcome=outcome, label=BENIGN, rng=rng, retries=retries)
    script = [Message(CLIENT, Bulk(68)), Message(SERVER, Bulk(68), 0.01)]
    for _ in range(rng.choice((0, 0, 1, 4))):
        side = rng.choice((CLIENT, SERVER, SERVER))
        script.append(Message(side, Bulk(int(lognormal(rng, 60_000, 1.2, most=600_000))), 0.3))
    ending = Ending(rng.choice(("fin", "rst")), rng.choice((CLIENT, SERVER)), rng.expovariate(0.1))
    return tcp_conversation(at_s, route, port, script, label=BENIGN, rng=rng, ending=ending)


def syncing(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Photos and documents go to a popular cloud, in bursts of uploads, beside small polls."""

    def sync(cloud: Host, host: Host, at_s: float, rng: Random) -> Activity:
        for _ in range(geometric(rng, 3)):
            own = spawn(rng)
            sizes = (int(lognormal(own, 200_000, 1.5, most=12_000_000)) for _ in range(geometric(own, 2)))
            script = tls_script(cloud.name, [Exchange(size, 200, 0.05) for size in sizes], own)
            route, ending = lab.route(host, cloud, own), any_ending(own)
            yield at_s, tcp_conversation(at_s, route, 443, script, label=BENIGN, rng=own, ending=ending)
            at_s += own.expovariate(0.2)

    own = spawn(rng)
    times = arrivals(own, 900.0 / lab.busy / len(lab.clients), lab.duration_s, sigma=1.6)
    yield recurring(times, own, partial(sync, rng.choice(lab.sites[:6])), hosts=lab.clients)
