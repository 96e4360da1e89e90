"""Infected hosts: beacons to a command-and-control (C2) server, and retries to one that is gone."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from deepidea.simulation.conversations import (
    CLIENT,
    SERVER,
    Ending,
    Message,
    Outcome,
    tcp_attempt,
    tcp_conversation,
    udp_conversation,
)
from deepidea.simulation.draws import lognormal, paced, spawn
from deepidea.simulation.episodes import Episode
from deepidea.simulation.lab import Activity
from deepidea.simulation.payloads import Bulk
from deepidea.simulation.scripts import Exchange, http_script, jittered, tls_script

_CHANNELS = (("tls", 443), ("tls", 443), ("tls", 8443), ("http", 80), ("http", 8080), ("raw", 4444), ("udp", 1194))
_COMMANDS = (0.0, 0.03, 0.03, 0.3)  # shares of the answers that hold one
_IDLE_S = (0.01, 0.01, 0.5, 5.0, 20.0)  # until the connection of a poll is closed


def beacon(episode: Episode) -> Activity:
    """Poll a C2 server by a timer.

    An implant repeats itself: each poll is drawn from one seed and has the same sizes, but for those that get a command
    and return its output.
    """
    rng, src = episode.rng, episode.sources[0]
    program, (channel, port) = rng.getrandbits(64), rng.choice(_CHANNELS)
    commands, ending = rng.choice(_COMMANDS), Ending("fin", rng.choice((CLIENT, SERVER)), rng.choice(_IDLE_S))
    times = paced(
        rng, episode.begin_s, episode.strength["period_s"], episode.count("beats"), jitter=episode.strength["jitter"]
    )
    for at_s in times:
        own = spawn(rng)
        dst = own.choice(episode.targets)
        shape = spawn(own) if own.random() < commands else Random(program)
        script, route = jittered(_talk(channel, dst.name, shape), own, 0.1), episode.route(src, dst, own)
        if channel == "udp":
            yield at_s, udp_conversation(at_s, route, port, script, label=episode.label, rng=own)
        else:
            yield at_s, tcp_conversation(at_s, route, port, script, label=episode.label, rng=own, ending=ending)


def _talk(channel: str, name: str, shape: Random) -> Iterator[Message]:
    """Yield the messages of a poll."""
    request, answer = shape.randrange(120, 700), int(lognormal(shape, 220, 0.6, most=4000))
    if channel in ("tls", "http"):
        script = tls_script if channel == "tls" else http_script
        yield from script(name, [Exchange(request, answer)], shape)
    else:
        yield Message(CLIENT, Bulk(request))
        yield Message(SERVER, Bulk(answer), 0.02)


def retry_dead_server(episode: Episode) -> Activity:
    """Try to reach C2 servers that do not answer, or refuse, one after the other, for long."""
    rng, port = episode.rng, episode.rng.choice((80, 443, 443, 4444, 6667, 8080, 8443))
    retries, jitter = rng.choice((0, 1, 2, 2)), rng.choice((0.0, 0.05, 0.5))
    refuses = {host.ipv4: rng.random() < 0.3 for host in episode.targets}
    times = paced(rng, episode.begin_s, episode.strength["period_s"], episode.count("attempts"), jitter=jitter)
    for at, at_s in enumerate(times):
        own, dst = spawn(rng), episode.targets[at % len(episode.targets)]
        outcome: Outcome = "closed" if refuses[dst.ipv4] else "silent"
        route = episode.route(episode.sources[0], dst, own)
        yield at_s, tcp_attempt(at_s, route, port, outcome=outcome, label=episode.label, rng=own, retries=retries)
