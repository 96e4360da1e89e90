"""Data leaving the site: tunnels through DNS and ping, and uploads by TLS, FTP and SCP."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from deepidea.simulation.conversations import (
    CLIENT,
    SERVER,
    Conversation,
    Echo,
    Ending,
    Message,
    echo_conversation,
    tcp_conversation,
    udp_conversation,
)
from deepidea.simulation.draws import lognormal, spawn
from deepidea.simulation.episodes import Episode
from deepidea.simulation.hosts import Host
from deepidea.simulation.lab import Activity
from deepidea.simulation.payloads import Bulk, dns_query, dns_response, ssh_packet
from deepidea.simulation.scripts import Exchange, any_ending, ftp_script, ssh_login, tls_script

_LABEL_BYTES = 31  # of data in hexadecimal digits in a label of a DNS name, which has at most 63 (RFC 1035, 2.3.4)


def tunnel_by_dns(episode: Episode) -> Activity:
    """Send data in the names of DNS queries, directly or through the resolver; the responses bring data back."""
    rng, lab, far = episode.rng, episode.lab, episode.targets[0]
    per_query, kind = rng.choice((30, 60, 90, 105)), rng.choice(("TXT", "TXT", "NULL", "A"))
    n_queries = max(1, round(episode.strength["bytes"] / per_query))
    n_sockets = min(episode.count("sockets"), n_queries)
    direct, pause_s = rng.random() < 0.4, episode.strength["seconds"] / n_queries
    legs = ((episode.sources[0], far),) if direct else ((episode.sources[0], lab.servers["resolver"]),)
    legs = legs if direct else (*legs, (lab.servers["resolver"], far))
    for at, at_s in enumerate(episode.times(n_sockets)):
        share, seed = (n_queries + at) // n_sockets, rng.getrandbits(64)
        for ends in legs:  # the resolver passes the same queries on
            own = Random(seed)
            script, route = _queries(far.name, kind, per_query, share, pause_s, own), episode.route(*ends, own)
            yield at_s, udp_conversation(at_s, route, 53, script, label=episode.label, rng=own)


def _queries(domain: str, kind: str, n_bytes: int, count: int, pause_s: float, rng: Random) -> Iterator[Message]:
    for at in range(count):
        ident, data = rng.getrandbits(16), rng.randbytes(n_bytes).hex()
        parts = [data[begin : begin + 2 * _LABEL_BYTES] for begin in range(0, len(data), 2 * _LABEL_BYTES)]
        name = ".".join((*parts, domain))
        answer = rng.randbytes(4 if kind == "A" else rng.randrange(20, 250))
        yield Message(CLIENT, dns_query(ident, name, kind), pause_s * rng.uniform(0.5, 1.5) if at else 0.0)
        yield Message(SERVER, dns_response(ident, name, kind, (answer,)), lognormal(rng, 0.03, 0.6, most=2.0))


def tunnel_by_ping(episode: Episode) -> Activity:
    """Send data in echo requests; the replies bring other data back."""
    rng = episode.rng
    size = rng.choice((128, 256, 500, 1000, 1300))
    count = max(2, round(episode.strength["bytes"] / size))
    pause_s, back = episode.strength["seconds"] / count, rng.uniform(0.2, 0.95)  # how much comes back

    def echoes() -> Iterator[Echo]:
        for _ in range(count):
            yield Echo(rng.randbytes(size), rng.randbytes(max(104, int(back * size))), pause_s * rng.uniform(0.2, 1.8))

    route = episode.route(episode.sources[0], episode.targets[0], rng)
    yield episode.begin_s, echo_conversation(episode.begin_s, route, echoes(), label=episode.label, rng=spawn(rng))


def _parts(total: int, rng: Random) -> list[int]:
    """Return the sizes of one to four connections that carry a total."""
    cuts = sorted(rng.randrange(total) for _ in range(rng.randrange(4)))
    return [end - begin for begin, end in zip([0, *cuts], [*cuts, total], strict=True) if end > begin]


def upload_by_tls(episode: Episode) -> Activity:
    """Send files by TLS, in a few connections."""
    rng, at_s, store = episode.rng, episode.begin_s, episode.targets[0]
    for size in _parts(episode.count("bytes"), rng):
        own = spawn(rng)
        script, ending = tls_script(store.name, [Exchange(size, 160)], own), any_ending(own, idle_s=0.5)
        yield at_s, _transfer(episode, store, 443, script, at_s, own, ending)
        at_s += rng.uniform(0.5, 8.0)


def upload_by_scp(episode: Episode) -> Activity:
    """Send files by SSH to a host outside."""
    rng, at_s, store = episode.rng, episode.begin_s, episode.targets[0]
    for size in _parts(episode.count("bytes"), rng):
        own = spawn(rng)
        yield at_s, _transfer(episode, store, 22, _scp(size, own), at_s, own, Ending())
        at_s += rng.uniform(1.0, 10.0)


def _scp(size: int, rng: Random) -> Iterator[Message]:
    yield from ssh_login(rng, [0.05], succeeds=True)
    yield Message(CLIENT, ssh_packet(size), 0.05)
    yield Message(SERVER, ssh_packet(52), 0.01)


def upload_by_ftp(episode: Episode) -> Activity:
    """Send files by FTP: a control connection and passive data connections."""
    rng, at_s, store = episode.rng, episode.begin_s, episode.targets[0]
    own = spawn(rng)
    yield at_s, _transfer(episode, store, 21, ftp_script(own, [0.05], succeeds=True), at_s, own, Ending())
    for size in _parts(episode.count("bytes"), rng):
        own, at_s = spawn(rng), at_s + rng.uniform(0.5, 4.0)
        script = [Message(CLIENT, Bulk(size), 0.01)]
        yield at_s, _transfer(episode, store, own.randrange(40_000, 60_000), script, at_s, own, Ending())


def _transfer(
    episode: Episode, store: Host, port: int, script: Iterator[Message] | list[Message], at_s: float, rng: Random,
    ending: Ending,
) -> Conversation:  # fmt: skip
    route = episode.route(episode.sources[0], store, rng)
    return tcp_conversation(at_s, route, port, script, label=episode.label, rng=rng, ending=ending)
