"""Simulated captures: a site's traffic with attacks in it, and the ground truth of every conversation.

They are for trying things out and for tests. No number measured on them says anything about a real network: what
tells the classes apart is what is written down in `deepidea.simulation.applications` and `deepidea.simulation.attacks`.
"""

from __future__ import annotations

import csv
import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from deepidea.flows.atomic import replacing
from deepidea.packets.writing import WHOLE_PACKETS, PcapWriter, writing_pcap
from deepidea.simulation.applications import APPLICATIONS, BENIGN
from deepidea.simulation.attacks import ATTACKS
from deepidea.simulation.conversations import Conversation, Packet
from deepidea.simulation.lab import Activity, Lab, build_lab

__all__ = ["LABEL_COLUMNS", "Simulated", "choose_attacks", "simulate_capture"]

LABEL_COLUMNS = (
    "start",
    "end",
    "src_ip",
    "src_port",
    "dst_ip",
    "dst_port",
    "protocol",
    "label",
    "class",
    "packets",
)
"""Columns of a file of labels, one conversation a row: who opened it is ``src``; ports are empty for ICMP."""

FIRST_SECOND = datetime(2024, 1, 15, 9, tzinfo=UTC)
_TOLD_EVERY = 5_000  # packets
_MOST_MINUTES = 24 * 60


def choose_attacks(names: Iterable[str]) -> tuple[str, ...]:
    """Return the attacks of a choice in which ``all`` and ``none`` may stand for all and none of them.

    Examples
    --------
    >>> choose_attacks(["beacon"]), choose_attacks(["none"]), len(choose_attacks(["beacon", "all"]))
    (('beacon',), (), 9)
    """
    named = set(names)
    return tuple(ATTACKS) if "all" in named else tuple(label for label in ATTACKS if label in named)


@dataclass(slots=True)
class Simulated:
    """What a simulation wrote.

    Attributes
    ----------
    packets
        In the capture.
    without_label
        Of these, packets that belong to no conversation: ARP.
    conversations
        By label.
    """

    packets: int = 0
    without_label: int = 0
    conversations: Counter[str] = field(default_factory=Counter)


def simulate_capture(
    path: str | Path,
    labels_path: str | Path,
    *,
    seed: int = 0,
    minutes: float = 10.0,
    hosts: int = 20,
    attacks: Collection[str] = tuple(ATTACKS),
    start: datetime = FIRST_SECOND,
    vlan: int | None = None,
    snaplen: int = WHOLE_PACKETS,
    nanoseconds: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Simulated:
    """Write a capture of a simulated site, and what each of its conversations is.

    The same arguments give the same bytes. Packets are in order of time and made as they are written; memory holds
    the conversations under way. Both files appear when they are whole.

    Parameters
    ----------
    path
        Capture to write: pcap, Ethernet.
    labels_path
        Ground truth to write: CSV of `LABEL_COLUMNS`, in the order in which conversations ended. Times are UTC and
        those of a conversation's first and last packet. A conversation that goes on when the capture ends has the
        packets that are in it.
    seed
        Of chance.
    minutes
        How long the capture goes on, at most a day.
    hosts
        Hosts of the site, six of them servers.
    attacks
        Labels of the attacks that take place.
    start
        Time of the beginning.
    vlan
        802.1Q identifier of all frames, 1 to 4094; None for untagged ones.
    snaplen
        Bytes kept of each packet. Checksums cannot be verified on packets that are cut.
    nanoseconds
        Whether times are written to the nanosecond.
    progress
        Called with the packets written so far.

    Returns
    -------
    Simulated
        What was written.

    Raises
    ------
    ValueError
        An argument is out of its range, or an attack is not known.
    StorageError
        The system refuses to write.

    Notes
    -----
    Some 60,000 packets a second on one core. Ten minutes of twenty hosts are 200,000 to 400,000, by the seed.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> done = simulate_capture(folder / "lab.pcap", folder / "lab.csv", minutes=0.1, hosts=8, attacks=["port_scan"])
    >>> sorted(done.conversations)
    ['benign', 'port_scan']
    """
    _refuse_bad(minutes, attacks, vlan)
    lab = build_lab(seed=seed, hosts=hosts, duration_s=60.0 * minutes, vlan=vlan)
    start_ns = round((start - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 1000
    with (
        writing_pcap(path, nanoseconds=nanoseconds, snaplen=snaplen) as capture,
        replacing(labels_path) as partial,
        open(partial, "w", newline="", encoding="utf-8") as labels,
    ):
        rows = csv.writer(labels, lineterminator="\n")
        rows.writerow(LABEL_COLUMNS)
        return _write(_in_order(_activities(lab, seed, attacks), lab.duration_s), start_ns, capture, rows, progress)


def _refuse_bad(minutes: float, attacks: Collection[str], vlan: int | None) -> None:
    if not 0 < minutes <= _MOST_MINUTES:
        raise ValueError(f"minutes must be above 0 and at most {_MOST_MINUTES}, however: minutes={minutes}")
    unknown = [label for label in attacks if label not in ATTACKS]
    if unknown:
        raise ValueError(f"attacks must be of {', '.join(ATTACKS)}, however: {unknown[0]!r} is none of them")
    if vlan is not None and not 1 <= vlan <= 4094:
        raise ValueError(f"vlan must be in 1..4094, however: vlan={vlan}")


def _activities(lab: Lab, seed: int, attacks: Collection[str]) -> Iterator[Activity]:
    """Yield all that goes on; each kind has chance of its own, so that an attack more changes no other."""
    for name, benign in APPLICATIONS.items():
        yield from benign(lab, Random(f"{name} {seed}"))
    for label, attack in ATTACKS.items():
        if label in attacks:
            yield from attack.activities(lab, label, Random(f"{label} {seed}"))


class _Passing(NamedTuple):
    """A packet, its conversation, the conversation's number, and whether there are no more."""

    packet: Packet
    conversation: Conversation
    number: int
    last: bool


def _in_order(activities: Iterable[Activity], until_s: float) -> Iterator[_Passing]:
    """Merge activities and the conversations that they start into packets in order of time.

    The heap has one entry for each activity and conversation under way, at the time of its next item.
    """
    heap: list[tuple[float, int, Iterator[Any], Any, Conversation | None]] = []
    number = 0
    for activity in activities:
        number += 1
        _push(heap, number, activity, None)
    while heap and heap[0][0] < until_s:
        _, at, items, item, owner = heap[0]
        following = next(items, None)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (following[0], at, items, following, owner))
        if owner is not None:
            yield _Passing(item, owner, at, following is None)
        else:
            number += 1
            begun = item[1]
            _push(heap, number, *((begun.packets, begun) if isinstance(begun, Conversation) else (begun, None)))


def _push(heap: list[Any], number: int, items: Iterator[Any], owner: Conversation | None) -> None:
    first = next(items, None)
    if first is not None:
        heapq.heappush(heap, (first[0], number, items, first, owner))


@dataclass(slots=True)
class _Row:
    """A conversation under way."""

    conversation: Conversation
    start_us: int
    end_us: int = 0
    packets: int = 0

    def told(self) -> tuple[object, ...]:
        talk = self.conversation
        ends = (talk.src_ip, _told(talk.src_port), talk.dst_ip, _told(talk.dst_port), talk.protocol)
        class_name = BENIGN if talk.label == BENIGN else ATTACKS[talk.label].class_name
        return (_iso(self.start_us), _iso(self.end_us), *ends, talk.label, class_name, self.packets)


def _told(port: int | None) -> int | str:
    return "" if port is None else port


def _iso(time_us: int) -> str:
    seconds, rest_us = divmod(time_us, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_us:06d}Z"


def _write(
    passing: Iterable[_Passing],
    start_ns: int,
    capture: PcapWriter,
    rows: Any,
    progress: Callable[[int], None] | None,
) -> Simulated:
    """Write packets as they pass, and each conversation when it ends or the capture does."""
    done, open_rows = Simulated(), dict[int, _Row]()
    for packet, conversation, number, last in passing:
        time_ns = start_ns + int(packet.time_s * 1e9)
        capture.write(time_ns, packet.frame)
        done.packets += 1
        if progress is not None and done.packets % _TOLD_EVERY == 0:
            progress(done.packets)
        if conversation.protocol is None:
            done.without_label += 1
            continue
        row = open_rows.get(number)
        if row is None:
            row = open_rows[number] = _Row(conversation, time_ns // 1000)
        row.end_us = time_ns // 1000
        row.packets += 1
        if last:
            _tell(open_rows.pop(number), rows, done)
    for row in open_rows.values():
        _tell(row, rows, done)
    return done


def _tell(row: _Row, rows: Any, done: Simulated) -> None:
    rows.writerow(row.told())
    done.conversations[row.conversation.label] += 1
