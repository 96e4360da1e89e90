"""Password brute force: the same login again and again, by one tool against one service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

from deepidea.simulation.conversations import CLIENT, SERVER, Ending, Message, tcp_conversation
from deepidea.simulation.draws import lognormal, paced, spawn
from deepidea.simulation.episodes import Episode
from deepidea.simulation.lab import Activity
from deepidea.simulation.scripts import ftp_script, http_login, jittered, rdp_login, smb_login, ssh_login

Script = Callable[..., Iterator[Message]]


@dataclass(frozen=True, slots=True)
class Login:
    """A service with passwords: its server by role, its port, and how many tries tools make in one connection."""

    server: str
    port: int
    script: Script
    tries: Sequence[int] = (1,)


SSH = Login("shell", 22, ssh_login, (1, 1, 3, 6))
FTP = Login("files", 21, ftp_script, (1, 1, 2, 4))
RDP = Login("shell", 3389, rdp_login)
SMB = Login("files", 445, smb_login, (1, 1, 2))
HTTP = Login("web", 80, http_login, (1, 1, 5, 20))


def guess_passwords(login: Login, episode: Episode) -> Activity:
    """Try passwords at a steady pace.

    A tool repeats itself: the script of each connection is drawn from one seed, so that sizes and pauses are the same
    but for a spread of the pauses. Some tools open several connections at once, and some servers drop a share of them
    early. One episode in ten ends with a success.
    """
    rng, tries = episode.rng, episode.count("tries")
    per_connection = min(rng.choice(login.tries), tries)
    count, tool, spread = -(-tries // per_connection), rng.getrandbits(64), rng.choice((0.01, 0.05, 0.2))
    waits_s, succeeds = [lognormal(rng, 0.05, 1.0, most=1.0)] * per_connection, rng.random() < 0.1
    every_s, at_once = 60 * per_connection / episode.strength["per_minute"], rng.choice((1, 1, 1, 4, 16))
    dropped = rng.choice((0.0, 0.0, 0.0, 0.2))
    ending = Ending(rng.choice(("fin", "fin", "rst")), rng.choice((CLIENT, SERVER)), 0.005)
    for at, at_s in enumerate(_starts(episode, every_s, count, at_once)):
        own, last = spawn(rng), at == count - 1
        script = jittered(login.script(Random(tool), waits_s, succeeds=succeeds and last), own, spread)
        if own.random() < dropped and not last:
            script = islice(script, own.randrange(3))
        route = episode.route(episode.sources[at % len(episode.sources)], episode.targets[0], own)
        yield at_s, tcp_conversation(at_s, route, login.port, script, label=episode.label, rng=own, ending=ending)


def _starts(episode: Episode, every_s: float, count: int, at_once: int) -> Iterator[float]:
    """Yield the times of connections: one after the other, or so many at once and then a pause."""
    rng, jitter = episode.rng, episode.rng.choice((0.0, 0.1, 0.5))
    batches = paced(rng, episode.begin_s, every_s * at_once, -(-count // at_once), jitter=jitter)
    each_s = min(0.001, every_s / 2)
    yield from islice((batch_s + at * each_s for batch_s in batches for at in range(at_once)), count)
