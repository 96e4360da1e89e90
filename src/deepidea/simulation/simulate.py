"""Simulated captures: the traffic of a small site with attacks in it, and the ground truth of every conversation.

They are for demonstrations, tests and training. No result measured on them holds for a real network: the classes
differ in what `deepidea.simulation.applications` and `deepidea.simulation.attacks` define.
"""

from __future__ import annotations

import csv
import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TextIO

from deepidea.flows.atomic import replacing
from deepidea.packets.writing import WHOLE_PACKETS, PcapWriter, writing_pcap
from deepidea.simulation.applications import APPLICATIONS, is_present
from deepidea.simulation.attacks import ATTACKS
from deepidea.simulation.conversations import Conversation, Packet
from deepidea.simulation.episodes import Episode, draw_episodes, kind_of
from deepidea.simulation.instances import strength_text
from deepidea.simulation.lab import BENIGN, Activity, Lab, build_lab

__all__ = ["LABEL_COLUMNS", "Simulated", "choose_attacks", "simulate_capture"]

LABEL_COLUMNS = (
    *("start", "end", "src_ip", "src_port", "dst_ip", "dst_port", "protocol"),
    *("label", "class", "packets", "instance", "strength"),
)  # fmt: skip
"""Columns of the ground truth, one conversation a row: ``src`` opened it; ports are empty for ICMP. ``instance`` names
the attack that it belongs to and ``strength`` is the attack's; both are empty for benign ones."""

_FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000
_PROGRESS_EVERY = 5_000  # packets
_MOST_MINUTES = 24 * 60


def choose_attacks(names: Iterable[str]) -> tuple[str, ...]:
    """Return the attacks of these names, among which ``all`` and ``none`` may be.

    Examples
    --------
    >>> choose_attacks(["beacon"]), choose_attacks(["none"]), len(choose_attacks(["beacon", "all"]))
    (('beacon',), (), 25)
    """
    chosen = set(names)
    return tuple(ATTACKS) if "all" in chosen else tuple(label for label in ATTACKS if label in chosen)


@dataclass(slots=True)
class Simulated:
    """Counts of a simulation.

    Attributes
    ----------
    packets
        In the capture.
    without_label
        Of these, packets of no conversation: ARP.
    conversations
        By label.
    networks
        Of the site, IPv4 and IPv6.
    """

    packets: int = 0
    without_label: int = 0
    conversations: Counter[str] = field(default_factory=Counter)
    networks: tuple[str, ...] = ()


def simulate_capture(
    path: str | Path,
    labels_path: str | Path,
    *,
    seed: int = 0,
    minutes: float = 10.0,
    hosts: int = 20,
    attacks: Collection[str] = tuple(ATTACKS),
    start: datetime | None = None,
    vlan: int | None = None,
    snaplen: int = WHOLE_PACKETS,
    nanoseconds: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Simulated:
    """Write a capture of a simulated site, and the ground truth of its conversations.

    The same arguments give the same bytes. Packets are generated in order of time while they are written; memory holds
    the open conversations. Both files appear when they are complete.

    Parameters
    ----------
    path
        Capture to write: pcap, Ethernet.
    labels_path
        Ground truth to write: CSV of `LABEL_COLUMNS` in the order in which conversations end, with the UTC times of
        their first and last packet. A conversation that outlasts the capture counts as far as it is in it.
    seed
        Of all random draws.
    minutes
        Duration of the capture, at most a day.
    hosts
        Hosts of the site, six of them servers.
    attacks
        Labels of the attacks to simulate.
    start
        Time of the first second; by default drawn from the seed, mostly in office hours.
    vlan
        802.1Q identifier of all frames, 1 to 4094, or 0 for untagged ones; by default drawn, mostly 0.
    snaplen
        Most bytes kept of each packet. Checksums of cut packets cannot be verified.
    nanoseconds
        Whether to write times in nanoseconds.
    progress
        Called with the number of packets so far.

    Returns
    -------
    Simulated
        Counts.

    Raises
    ------
    ValueError
        An argument is out of its range, or an attack is unknown.
    StorageError
        A file cannot be written.

    Notes
    -----
    About 60,000 packets a second on one core. Ten minutes of twenty hosts are 200,000 to 400,000 packets.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> done = simulate_capture(folder / "lab.pcap", folder / "lab.csv", minutes=0.1, hosts=8, attacks=["port_scan"])
    >>> sorted(done.conversations)
    ['benign', 'port_scan']
    """
    _check_options(minutes, attacks, vlan)
    start = start or draw_start(seed)
    lab = build_lab(seed=seed, hosts=hosts, duration_s=60.0 * minutes, vlan=vlan, hour=start.hour + start.minute / 60)
    with (
        writing_pcap(path, nanoseconds=nanoseconds, snaplen=snaplen) as capture,
        replacing(labels_path) as partial,
        open(partial, "w", newline="", encoding="utf-8") as labels,
    ):
        episodes = _episodes(lab, seed, attacks)
        writer = CaptureWriter(capture, labels, start, {episode.label: episode for episode in episodes})
        done = writer.write(packets_in_order(_activities(lab, seed, episodes), lab.duration_s), progress)
    done.networks = lab.plan.networks
    return done


def draw_start(seed: int) -> datetime:
    """Return a time in 2024 with its microseconds, in two of three cases in office hours.

    Examples
    --------
    >>> draw_start(0) == draw_start(0), draw_start(0).year
    (True, 2024)
    """
    rng = Random(f"start {seed}")
    hour = rng.uniform(7.5, 18.0) if rng.random() < 2 / 3 else rng.uniform(0.0, 24.0)
    return _FIRST_DAY + timedelta(days=rng.randrange(366), microseconds=int(hour / 24 * _DAY_US))


def _check_options(minutes: float, attacks: Collection[str], vlan: int | None) -> None:
    if not 0 < minutes <= _MOST_MINUTES:
        raise ValueError(f"minutes must be above 0 and at most {_MOST_MINUTES}, got {minutes}")
    unknown = [label for label in attacks if label not in ATTACKS]
    if unknown:
        raise ValueError(f"unknown attack {unknown[0]!r}; choose from {', '.join(ATTACKS)}")
    if vlan is not None and not 0 <= vlan <= 4094:
        raise ValueError(f"vlan must be in 0..4094, got {vlan}")


def _episodes(lab: Lab, seed: int, attacks: Collection[str]) -> list[Episode]:
    """Return the instances of the attacks; each kind has a seed of its own, so that one more changes no other."""
    return [
        episode
        for label, attack in ATTACKS.items()
        if label in attacks
        for episode in draw_episodes(lab, label, attack, Random(f"{label} {seed}"))
    ]


def _activities(lab: Lab, seed: int, episodes: Iterable[Episode]) -> Iterator[Activity]:
    for name, application in APPLICATIONS.items():
        if is_present(name, seed):
            yield from application.activities(lab, Random(f"{name} {seed}"))
    for episode in episodes:
        yield ATTACKS[kind_of(episode.label)].run(episode)


class Passing(NamedTuple):
    """A packet, its conversation, the number of the conversation, and whether it is the last packet."""

    packet: Packet
    conversation: Conversation
    number: int
    last: bool


def packets_in_order(activities: Iterable[Activity], until_s: float) -> Iterator[Passing]:
    """Merge activities and the conversations that they start into packets in order of time.

    A heap has the next item of every open activity and conversation, each of which is an iterator in order of time.
    Numbers are unique, so equal times never compare the items.
    """
    heap: list[tuple[float, int, Iterator[Any], Any, Conversation | None]] = []
    number = 0
    for activity in activities:
        number += 1
        _push(heap, number, activity, None)
    while heap and heap[0][0] < until_s:
        _, at, items, item, owner = heap[0]  # items of an activity start conversations, of a conversation are packets
        following = next(items, None)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (following[0], at, items, following, owner))
        if owner is not None:
            yield Passing(item, owner, at, following is None)
        else:
            number += 1
            started = item[1]
            _push(heap, number, *((started.packets, started) if isinstance(started, Conversation) else (started, None)))


def _push(heap: list[Any], number: int, items: Iterator[Any], owner: Conversation | None) -> None:
    first = next(items, None)
    if first is not None:
        heapq.heappush(heap, (first[0], number, items, first, owner))


@dataclass(slots=True)
class _Row:
    """Ground truth of an open conversation."""

    conversation: Conversation
    start_us: int
    end_us: int = 0
    packets: int = 0

    def cells(self, episodes: Mapping[str, Episode]) -> tuple[Any, ...]:
        talk, kind = self.conversation, kind_of(self.conversation.label)
        ends = talk.src_ip, talk.src_port, talk.dst_ip, talk.dst_port, talk.protocol  # csv writes None as nothing
        times = _iso(self.start_us), _iso(self.end_us)
        if kind == BENIGN:
            return (*times, *ends, BENIGN, BENIGN, self.packets, None, None)
        instance, strength = talk.label, strength_text(episodes[talk.label].strength)
        return (*times, *ends, kind, ATTACKS[kind].class_name, self.packets, instance, strength)


def _iso(time_us: int) -> str:
    seconds, rest_us = divmod(time_us, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_us:06d}Z"


class CaptureWriter:
    """Writes packets in order, and each conversation when it or the capture ends."""

    def __init__(self, capture: PcapWriter, labels: TextIO, start: datetime, episodes: Mapping[str, Episode]) -> None:
        self._capture, self._episodes = capture, episodes
        self._start_ns = round((start - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 1000
        self._rows = csv.writer(labels, lineterminator="\n")
        self._rows.writerow(LABEL_COLUMNS)
        self._open: dict[int, _Row] = {}

    def write(self, passing: Iterable[Passing], progress: Callable[[int], None] | None = None) -> Simulated:
        """Write all packets, and return counts."""
        done, write, start_ns = Simulated(), self._capture.write, self._start_ns
        for packet, conversation, number, last in passing:
            time_ns = start_ns + int(packet.time_s * 1e9)
            write(time_ns, packet.frame)
            done.packets += 1
            if progress is not None and done.packets % _PROGRESS_EVERY == 0:
                progress(done.packets)
            if conversation.protocol is None:
                done.without_label += 1
            else:
                self._count(conversation, number, time_ns // 1000, last, done)
        for row in self._open.values():
            self._close(row, done)
        return done

    def _count(self, conversation: Conversation, number: int, time_us: int, last: bool, done: Simulated) -> None:
        row = self._open.get(number)
        if row is None:
            row = self._open[number] = _Row(conversation, time_us)
        row.end_us = time_us
        row.packets += 1
        if last:
            self._close(self._open.pop(number), done)

    def _close(self, row: _Row, done: Simulated) -> None:
        self._rows.writerow(row.cells(self._episodes))
        done.conversations[kind_of(row.conversation.label)] += 1
