"""Denial of service: floods of SYN packets, connections, datagrams and pings; web connections held open slowly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from deepidea.simulation.conversations import (
    CLIENT,
    SERVER,
    Conversation,
    Echo,
    Ending,
    Message,
    Outcome,
    echo_conversation,
    tcp_attempt,
    tcp_conversation,
    udp_conversation,
)
from deepidea.simulation.draws import spawn
from deepidea.simulation.episodes import Episode
from deepidea.simulation.hosts import Host, Route
from deepidea.simulation.lab import Activity, any_stranger
from deepidea.simulation.payloads import Bulk, http_request, http_response

_WEB_PORTS, _UDP = (80, 443), (9, 53, 80, 123, 27015)


def _steps(episode: Episode) -> Iterator[tuple[float, Random]]:
    """Yield the time of each connection of a flood, and a generator for it."""
    count = max(1, round(episode.strength["flows_per_s"] * episode.strength["seconds"]))
    return ((at_s, spawn(episode.rng)) for at_s in episode.times(count))


def flood_with_syn(episode: Episode) -> Activity:
    """Send SYN packets, mostly with invented addresses; some of their owners answer the SYN-ACK with RST."""
    rng = episode.rng
    invented, port = rng.random() < 0.7, rng.choice(_WEB_PORTS)
    # The half-open connection stays in SYN-RECEIVED, or is dropped by the server's backlog, or reset by the owner.
    weights = rng.choice(((65, 20, 15), (10, 85, 5), (95, 5, 0)))
    for at_s, own in _steps(episode):
        outcome: Outcome = own.choices(("ignored", "silent", "reset"), weights)[0]
        src = any_stranger(episode.lab, own) if invented else own.choice(episode.sources)
        route = episode.route(src, episode.targets[0], own)
        yield at_s, _half_open(at_s, route, port, outcome, episode.label, own)


def _half_open(at_s: float, route: Route, port: int, outcome: Outcome, label: str, rng: Random) -> Conversation:
    retries = rng.randrange(3) if outcome == "ignored" else 0
    src_port = rng.randrange(1024, 65_536)
    return tcp_attempt(at_s, route, port, outcome=outcome, label=label, rng=rng, retries=retries, src_port=src_port)


def flood_with_connections(episode: Episode) -> Activity:
    """Open connections faster than the server can serve them: empty ones, or each with the same request."""
    rng = episode.rng
    port, request = rng.choice(_WEB_PORTS), http_request("www.lab.example", "/", "Mozilla/5.0")
    asks, overload = rng.random() < 0.5, rng.choice((0.0, 0.2, 0.6))  # share that the server no longer answers
    ending = Ending(rng.choice(("fin", "rst", "open")), rng.choice((CLIENT, SERVER)), rng.choice((0.001, 0.5, 3.0)))
    for at_s, own in _steps(episode):
        route = episode.route(own.choice(episode.sources), episode.targets[0], own)
        if own.random() < overload:
            yield at_s, tcp_attempt(at_s, route, port, outcome="silent", label=episode.label, rng=own)
            continue
        script = [Message(CLIENT, request), Message(SERVER, http_response(200), 0.05)] if asks else []
        yield at_s, tcp_conversation(at_s, route, port, script, label=episode.label, rng=own, ending=ending)


def _senders(episode: Episode) -> list[Host]:
    """Return the hosts that a flood comes from, now and then with invented addresses."""
    if episode.rng.random() < 0.75:
        return list(episode.sources)
    n_packets = max(1, round(episode.strength["packets_per_s"] * episode.strength["seconds"]))
    return [any_stranger(episode.lab, episode.rng) for _ in range(min(episode.rng.randrange(20, 200), n_packets))]


def flood_with_datagrams(episode: Episode) -> Activity:
    """Send datagrams of one size: to one port of the target, or to many."""
    rng = episode.rng
    payload = rng.randbytes(rng.choice((1, 16, 32, 64, 512, 1400)))
    each = episode.strength["packets_per_s"] * episode.strength["seconds"] / len(episode.sources)
    n_ports = rng.randrange(50, 600) if rng.random() < 0.3 else 1
    ports = rng.sample(range(1, 1 << 16), min(n_ports, max(1, int(each / 200)))) if n_ports > 1 else [rng.choice(_UDP)]
    streams = [(src, port) for src in _senders(episode) for port in ports]
    per_s = episode.strength["packets_per_s"] / len(streams)
    starts = sorted(rng.uniform(0.0, 1 / per_s) for _ in streams)
    for after_s, (src, port) in zip(starts, streams, strict=True):
        at_s = episode.begin_s + after_s
        yield at_s, _stream(episode, src, port, payload, per_s, at_s, spawn(rng))


def _stream(
    episode: Episode, src: Host, port: int, payload: bytes, per_s: float, at_s: float, rng: Random
) -> Conversation:
    count = max(1, round(per_s * episode.strength["seconds"]))
    script = (Message(CLIENT, payload, rng.uniform(0.5, 1.5) / per_s) for _ in range(count))
    route = episode.route(src, episode.targets[0], rng)
    return udp_conversation(at_s, route, port, script, label=episode.label, rng=rng)


def flood_with_pings(episode: Episode) -> Activity:
    """Send echo requests as fast as possible; the target may answer."""
    rng, senders = episode.rng, _senders(episode)
    per_s = episode.strength["packets_per_s"] / len(senders)
    payload, answered = rng.randbytes(rng.choice((8, 56, 1000, 1400))), rng.random() < 0.6
    echo, count = Echo(payload, payload if answered else None, 1 / per_s), round(per_s * episode.strength["seconds"])
    for src in senders:
        own = spawn(rng)
        route, echoes = episode.route(src, episode.targets[0], own), (echo for _ in range(max(1, count)))
        yield episode.begin_s, echo_conversation(episode.begin_s, route, echoes, label=episode.label, rng=own)


# --- slow HTTP -------------------------------------------------------------------------------------------------------


def hold_by_requests(episode: Episode) -> Activity:
    """Send requests that never end (slowloris): they occupy the web server until it closes them."""
    rng, every_s = episode.rng, episode.rng.uniform(3, 15)
    regular, server_closes = rng.random() < 0.6, rng.random() < 0.5

    def endless_request(until_s: float, own: Random) -> Iterator[Message]:
        # A head ends with an empty line (RFC 9112, 2.1), which is cut off here; header after header keeps it open.
        yield Message(CLIENT, http_request("www.lab.example", "/?" + "q" * own.randrange(6), "Mozilla/5.0")[:-2])
        held_s = 0.0
        while held_s < until_s:
            pause_s = every_s if regular else every_s * own.uniform(0.5, 1.5)
            held_s += pause_s
            yield Message(CLIENT, b"X-a: %d\r\n" % own.randrange(1, 5000), pause_s)
        if server_closes:
            yield Message(SERVER, http_response(0, "408 Request Timeout"), 0.01)

    yield from _held(episode, endless_request)


def hold_by_reading(episode: Episode) -> Activity:
    """Read large responses as slowly as the server allows (slow read)."""
    every_s = episode.rng.uniform(2, 10)

    def slow_response(until_s: float, own: Random) -> Iterator[Message]:
        yield Message(CLIENT, http_request("www.lab.example", "/large.bin", "Mozilla/5.0"))
        held_s = 0.0
        while held_s < until_s:
            yield Message(SERVER, Bulk(own.choice((32, 64, 256))), every_s)  # as much as the window takes
            held_s += every_s

    yield from _held(episode, slow_response)


def _held(episode: Episode, script: Callable[[float, Random], Iterator[Message]]) -> Activity:
    """Open the connections within the first part of the time, and hold them for the rest."""
    rng, seconds, count = episode.rng, episode.strength["seconds"], episode.count("connections")
    opening_s = seconds * rng.uniform(0.02, 0.5)
    ending = Ending(rng.choice(("fin", "fin", "rst")), SERVER, 0.001)
    for at in range(count):
        own = spawn(rng)
        at_s = episode.begin_s + opening_s * at / count
        route = episode.route(own.choice(episode.sources), episode.targets[0], own)
        messages = script((seconds - opening_s) * own.uniform(0.7, 1.0), own)
        yield at_s, tcp_conversation(at_s, route, 80, messages, label=episode.label, rng=own, ending=ending)
