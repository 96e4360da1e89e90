"""Episodes: the instances of an attack, each with its sources, targets, begin and strength.

A simulation draws them; `deepidea.simulation.one_attack` sets their strength.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random

from deepidea.simulation.draws import log_uniform, paced, spawn
from deepidea.simulation.hosts import Host, Route
from deepidea.simulation.lab import Activity, Lab

_EPISODE_EVERY_S = 300.0
_MOST_EPISODES = 12
_PACKETS_PER_S, _FLOWS_PER_S = 20.0, 4.0  # of the whole capture, most that one episode takes
_FLOW_COUNTS = ("ports", "hosts", "connections", "tries", "attempts", "beats", "sockets")
_LEAST_COUNT = 10  # what a slow attack is quickened for, where a capture is short
_LEAST_PERIOD_S = 3.0

Bounds = tuple[float, float]
Cast = Callable[[Lab, Random, int, int], tuple[tuple[Host, ...], tuple[Host, ...]]]
"""Chooses sources and targets of an episode: as many as asked for, where that makes sense."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One instance of an attack.

    Parameters
    ----------
    label
        Its name in the ground truth.
    sources, targets
        Who attacks whom. Attacks with invented sources or many targets choose more.
    strength
        By parameter of the attack.
    v6
        Whether it uses IPv6 where it can.
    """

    lab: Lab
    label: str
    begin_s: float
    sources: tuple[Host, ...]
    targets: tuple[Host, ...]
    strength: Mapping[str, float]
    rng: Random
    v6: bool

    def route(self, src: Host, dst: Host, rng: Random) -> Route:
        """Return a route between two hosts, of one IP version in the whole episode where both have it."""
        return self.lab.route(src, dst, rng, v6=self.v6)

    def count(self, name: str) -> int:
        """Return a parameter as a count of at least one."""
        return max(1, round(self.strength[name]))

    def times(self, count: int, *, jitter: float | None = None) -> Iterator[float]:
        """Yield times of `count` steps, spread over its seconds."""
        every_s = self.strength["seconds"] / count
        spread = self.rng.choice((0.05, 0.3, 0.9)) if jitter is None else jitter
        return paced(self.rng, self.begin_s, every_s, count, jitter=spread)


@dataclass(frozen=True, slots=True)
class Attack:
    """A kind of attack.

    Parameters
    ----------
    class_name
        Class of its label.
    run
        Conversations of an episode.
    cast
        Who attacks whom.
    strength
        Range of each parameter of its strength. ``seconds`` is the duration, ``period_s`` the time between two steps,
        ``per_minute`` and ``..._per_s`` are rates, the others are counts.
    counted
        The parameter that counts the steps, where the strength has a period or a rate.
    lasting
        Whether it goes on for most of a capture.
    packet_bytes
        Bytes of ``bytes`` that a packet carries, about.
    """

    class_name: str
    run: Callable[[Episode], Activity]
    cast: Cast
    strength: Mapping[str, Bounds]
    counted: str = ""
    lasting: bool = False
    packet_bytes: float = 1000

    def draw(self, rng: Random) -> dict[str, float]:
        """Return a strength; a range from 0 mostly gives small values."""
        return {
            name: log_uniform(rng, least, most) if least else most * rng.random() ** 3
            for name, (least, most) in self.strength.items()
        }

    def usual(self) -> dict[str, float]:
        """Return the strength in the middle of all ranges, with one source and one target."""
        middle = {name: (least * most) ** 0.5 for name, (least, most) in self.strength.items()}
        return {
            name: 1.0 if name in ("sources", "targets") else float(f"{value:.2g}") for name, value in middle.items()
        }


def kind_of(label: str) -> str:
    """Return the kind of an attack by the name of an instance; ``benign`` is its own.

    Examples
    --------
    >>> kind_of("port_scan-2"), kind_of("benign")
    ('port_scan', 'benign')
    """
    return label.partition("-")[0]


def draw_episodes(lab: Lab, kind: str, attack: Attack, rng: Random) -> Iterator[Episode]:
    """Yield at least two episodes, spread over the capture and cut to what fits into it."""
    n_episodes = min(max(2, round(lab.duration_s / _EPISODE_EVERY_S)), _MOST_EPISODES)
    n_episodes, slot_s = (rng.randrange(2, 5), 0.0) if attack.lasting else (n_episodes, lab.duration_s / n_episodes)
    for at in range(n_episodes):
        own = spawn(rng)
        room_s = 0.6 * slot_s or 0.9 * lab.duration_s
        begin_s = at * slot_s + own.uniform(0.02, 0.3) * (slot_s or 0.3 * lab.duration_s)
        strength = _fitted(attack, attack.draw(own), room_s, lab.duration_s)
        yield episode_of(lab, f"{kind}-{at + 1}", attack, begin_s, strength, own)


def episode_of(
    lab: Lab, label: str, attack: Attack, begin_s: float, strength: Mapping[str, float], rng: Random
) -> Episode:
    """Return an episode of a strength, with sources and targets."""
    n_sources, n_targets = (max(1, round(strength.get(name, 1))) for name in ("sources", "targets"))
    sources, targets = attack.cast(lab, rng, n_sources, n_targets)
    return Episode(lab, label, begin_s, sources, targets, strength, rng, rng.random() < lab.v6_share)


def _fitted(attack: Attack, strength: dict[str, float], room_s: float, capture_s: float) -> dict[str, float]:
    """Return a strength that fits into a time and leaves room for others: shorter and quicker rather than rarer."""
    n_packets, n_flows = _PACKETS_PER_S * capture_s, _FLOWS_PER_S * capture_s
    most = dict.fromkeys(_FLOW_COUNTS, n_flows / strength.get("targets", 1))
    fitted, counted = {name: min(value, most.get(name, value)) for name, value in strength.items()}, attack.counted
    if "seconds" in fitted:
        fitted["seconds"] = min(fitted["seconds"], room_s)
    if "flows_per_s" in fitted:
        fitted["flows_per_s"] = min(fitted["flows_per_s"], n_flows / fitted["seconds"])
    if "packets_per_s" in fitted:
        fitted["packets_per_s"] = min(fitted["packets_per_s"], n_packets / fitted["seconds"])
    if "bytes" in fitted:
        fitted["bytes"] = max(min(fitted["bytes"], n_packets * attack.packet_bytes), attack.strength["bytes"][0])
    if "period_s" in fitted:
        fitted["period_s"] = max(min(fitted["period_s"], room_s / _LEAST_COUNT), _LEAST_PERIOD_S)
        fitted[counted] = min(fitted[counted], max(2.0, room_s / fitted["period_s"]))
    if "per_minute" in fitted:
        fitted["per_minute"] = max(fitted["per_minute"], 60 * _LEAST_COUNT / room_s)
        fitted[counted] = min(fitted[counted], fitted["per_minute"] * room_s / 60)
    return {name: round(value, 3) if value < 10 else round(value) for name, value in fitted.items()}


# --- casts -----------------------------------------------------------------------------------------------------------


def attackers(lab: Lab, rng: Random, n_sources: int) -> tuple[Host, ...]:
    """Return hosts that attack together, at most one of them inside: a third of all single ones."""
    first = rng.choice(lab.clients if rng.random() < 0.35 else lab.visitors)
    others = rng.sample(lab.visitors, min(n_sources - 1, len(lab.visitors)))
    return tuple(dict.fromkeys((first, *others)))


def against_hosts(lab: Lab, rng: Random, n_sources: int, n_targets: int) -> tuple[tuple[Host, ...], tuple[Host, ...]]:
    """Anybody attacks hosts of the site."""
    sources = attackers(lab, rng, n_sources)
    taken = {host.ipv4 for host in sources}
    others = [host for host in lab.inside if host.ipv4 not in taken]
    return sources, tuple(rng.sample(others, min(n_targets, len(others))))


def against_server(role: str) -> Cast:
    """Return a cast in which anybody attacks one server of the site."""

    def cast(lab: Lab, rng: Random, n_sources: int, _: int) -> tuple[tuple[Host, ...], tuple[Host, ...]]:
        return attackers(lab, rng, n_sources), (lab.servers[role],)

    return cast


def from_client(lab: Lab, rng: Random, _: int, n_targets: int) -> tuple[tuple[Host, ...], tuple[Host, ...]]:
    """Return a client and hosts outside that hardly anybody visits."""
    far = [rng.choice((rng.choice(lab.sites[-25:]), rng.choice(lab.visitors))) for _ in range(n_targets)]
    return (rng.choice(lab.clients),), tuple(dict.fromkeys(far))


def either_way(lab: Lab, rng: Random, n_sources: int, _: int) -> tuple[tuple[Host, ...], tuple[Host, ...]]:
    """Hosts outside attack a server of the site, or an infected client attacks a host outside."""
    if n_sources == 1 and rng.random() < 0.4:
        return (rng.choice(lab.clients),), (rng.choice(lab.visitors),)
    return attackers(lab, rng, n_sources), (rng.choice(tuple(lab.servers.values())),)
