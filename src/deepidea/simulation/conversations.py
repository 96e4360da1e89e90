"""Conversations as the packets that a point of capture between two hosts sees, made from what the hosts say.

Packets are made as they are asked for, in order of time, so that a conversation of any length takes no memory.

TCP here has what a meter of flows can see: handshake, segments of the agreed size, slow start and a window that halves,
acknowledgements of every second segment or after a delay, segments lost before or behind the point of capture and sent
again after three doubled acknowledgements or a timeout, time stamps, endings by FIN or RST. The sides take turns: who
speaks has heard all that the other said before. Blocks of selective acknowledgements are not written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple, Protocol

from deepidea.simulation.frames import (
    ACK,
    FIN,
    ICMP,
    ICMP6,
    PSH,
    RST,
    SYN,
    TCP,
    UDP,
    TcpFramer,
    UdpFramer,
    arp_frame,
    echo_frame,
    tcp_options,
)
from deepidea.simulation.hosts import Host, Route

__all__ = [
    "CLIENT",
    "SERVER",
    "Body",
    "Conversation",
    "Ending",
    "Message",
    "Outcome",
    "Packet",
    "arp_conversation",
    "ping_conversation",
    "tcp_attempt",
    "tcp_conversation",
    "udp_conversation",
]

CLIENT, SERVER = 0, 1
_TICK_S = 1e-6  # two packets of one host are at least so far apart
_LEAST_TIMEOUT_S = 0.2
_MOST_DOUBLED = 16  # segments that are followed through a loss
_REPLY_S = 2e-5  # what a host needs to answer by itself
_RETRIES_S = (1.0, 3.0, 7.0, 15.0)  # after the first SYN
_WIDEST_WINDOW = 120  # segments in flight


class Body(Protocol):
    """Content of a message: ``bytes``, or something long that is made slice by slice."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...


class Packet(NamedTuple):
    """A frame at the point of capture, at a time in seconds of the simulation."""

    time_s: float
    frame: bytes
    retransmitted: bool = False


class Message(NamedTuple):
    """What one side says at once, `pause_s` after it heard the last message or said its own.

    Examples
    --------
    >>> Message(CLIENT, b"hello").pause_s
    0.0
    """

    way: int
    body: Body
    pause_s: float = 0.0


class Ending(NamedTuple):
    """How a conversation ends: one side says FIN or RST, or it is left open."""

    kind: Literal["fin", "rst", "open"] = "fin"
    way: int = CLIENT
    pause_s: float = 0.0


CLOSED_BY_CLIENT = Ending()


@dataclass(frozen=True, slots=True)
class Conversation:
    """Who talks to whom, what it is called, and its packets in order of time.

    Ports are None where the transport has none; `protocol` is None where there is no IP, as for ARP.
    """

    src_ip: str
    src_port: int | None
    dst_ip: str
    dst_port: int | None
    protocol: int | None
    label: str
    packets: Iterator[Packet]


# --- TCP -------------------------------------------------------------------------------------------------------------


class _Side:
    """One end of a TCP conversation: what it has sent and heard, and when its last packet passed."""

    __slots__ = (
        "acks",
        "clock",
        "delay_s",
        "due_s",
        "echo",
        "flight",
        "framer",
        "heard",
        "host",
        "limit",
        "line_s",
        "mss",
        "raw_window",
        "ready_s",
        "seq",
        "tap_s",
        "threshold",
        "times",
        "unacked",
        "window",
    )

    def __init__(self, host: Host, framer: TcpFramer, rng: Random) -> None:
        self.host, self.framer = host, framer
        self.seq, self.heard = rng.getrandbits(32), 0
        self.clock, self.echo = rng.getrandbits(31), 0
        self.window: float = host.stack.first_window  # segments
        self.threshold = 64.0
        self.limit = _WIDEST_WINDOW
        self.flight, self.unacked = 0, 0
        self.acks: deque[tuple[float, int, int]] = deque()  # when heard, segments covered, the other's clock
        self.ready_s = self.tap_s = self.line_s = self.due_s = 0.0
        self.delay_s = host.stack.delay_s * rng.uniform(0.5, 1.0)
        self.times, self.mss = False, 536
        self.raw_window = host.stack.window >> (host.stack.scale or 0)

    def pass_tap(self, sent_s: float, rng: Random) -> float:
        """Return when a packet sent now passes the point of capture: never before the one sent earlier."""
        self.tap_s = max(sent_s + self.host.wait(rng), self.tap_s + _TICK_S)
        return self.tap_s

    def stamp(self, tap_s: float) -> int:
        return (self.clock + int(tap_s * 1000)) & 0xFFFFFFFF

    def frame(self, tap_s: float, flags: int, payload: bytes = b"", *, seq: int | None = None) -> bytes:
        options = b""
        if self.times:
            options = tcp_options(times=(self.stamp(tap_s), self.echo))
        number = self.seq if seq is None else seq
        return self.framer.frame(number, self.heard, flags, self.raw_window, payload, options=options)

    def first_frame(self, tap_s: float, flags: int, other: _Side | None, *, v6: bool) -> bytes:
        """Return SYN, or SYN and ACK to the other side's SYN; its own options are those that both have."""
        stack, theirs = self.host.stack, other.host.stack if other else self.host.stack
        options = tcp_options(
            mss=self.host.mss(v6=v6),
            sack=stack.sack and theirs.sack,
            times=(self.stamp(tap_s), self.echo) if stack.times and theirs.times else None,
            scale=stack.scale if theirs.scale is not None else None,
        )
        return self.framer.frame(self.seq, self.heard, flags, stack.syn_window, options=options)


class _Tcp:
    """A TCP conversation while its packets are made."""

    def __init__(self, route: Route, ports: tuple[int, int], start_s: float, rng: Random) -> None:
        there, back = route.envelopes(rng)
        self.client = _Side(route.src, TcpFramer(there, *ports), rng)
        self.server = _Side(route.dst, TcpFramer(back, *reversed(ports)), rng)
        self.client.ready_s = start_s
        self.rng, self.loss, self.v6 = rng, route.loss, route.v6
        self.byte_s = 1.0 / route.bytes_per_s
        self.pending: deque[Packet] = deque()  # acknowledgements that pass later than the last data
        self.speaker = self.client
        self.pace = rng.uniform(0.0, 0.3)  # how unevenly a sender sends

    def sides(self, way: int) -> tuple[_Side, _Side]:
        return (self.client, self.server) if way == CLIENT else (self.server, self.client)

    # --- beginning

    def ask(self, retries: int = 0) -> Iterator[Packet]:
        """Say SYN, and again as long as nobody answers."""
        me, other = self.client, self.server
        for wait_s in (0.0, *_RETRIES_S[:retries]):
            tap_s = me.pass_tap(me.ready_s + wait_s, self.rng)
            yield Packet(tap_s, me.first_frame(tap_s, SYN, None, v6=self.v6), wait_s > 0)
        other.heard, other.echo = me.seq + 1, me.stamp(me.tap_s)
        other.ready_s = tap_s + other.host.wait(self.rng)

    def answer(self, retries: int = 0) -> Iterator[Packet]:
        """Say SYN and ACK, and again as long as the third packet does not come."""
        me, other = self.server, self.client
        for wait_s in (0.0, *_RETRIES_S[:retries]):
            tap_s = me.pass_tap(me.ready_s + wait_s, self.rng)
            yield Packet(tap_s, me.first_frame(tap_s, SYN | ACK, other, v6=self.v6), wait_s > 0)
        self._agree(tap_s)

    def _agree(self, tap_s: float) -> None:
        me, other = self.server, self.client
        other.heard, other.echo = me.seq + 1, me.stamp(tap_s)
        other.ready_s = tap_s + other.host.wait(self.rng)
        other.seq += 1
        me.seq += 1
        stacks = me.host.stack, other.host.stack
        times = all(stack.times for stack in stacks)
        mss = min(side.host.mss(v6=self.v6) for side in (me, other)) - (12 if times else 0)
        scaled = all(stack.scale is not None for stack in stacks)
        for side, peer in ((me, other), (other, me)):
            side.times, side.mss = times, mss
            side.raw_window = _told_window(side.host, scaled, self.rng)
            told_bytes = side.raw_window << (side.host.stack.scale or 0 if scaled else 0)
            peer.limit = max(2, min(_WIDEST_WINDOW, told_bytes // mss))
            first_room = side.host.stack.syn_window // mss  # until it is heard from again
            peer.window = min(peer.window, peer.limit, max(2, first_room))

    def confirm(self) -> Iterator[Packet]:
        """Say the third packet of the handshake."""
        me, other = self.client, self.server
        tap_s = me.pass_tap(me.ready_s, self.rng)
        yield Packet(tap_s, me.frame(tap_s, ACK))
        other.ready_s, other.echo = tap_s + other.host.wait(self.rng), me.stamp(tap_s)

    def reset(self, way: int, pause_s: float = 0.0, *, acknowledge: bool = True) -> Iterator[Packet]:
        """Say RST."""
        me, other = self.sides(way)
        tap_s = me.pass_tap(me.ready_s + pause_s, self.rng)
        self._settle(other, me, tap_s)
        yield from self.flush(tap_s)
        heard = me.heard if acknowledge else 0
        yield Packet(tap_s, me.framer.frame(me.seq, heard, RST | ACK if acknowledge else RST, 0))

    # --- data

    def flush(self, until_s: float = float("inf")) -> Iterator[Packet]:
        while self.pending and self.pending[0].time_s <= until_s:
            yield self.pending.popleft()

    def say(self, message: Message) -> Iterator[Packet]:
        """Send a message, all of it, and let the other side acknowledge."""
        me, other = self.sides(message.way)
        now_s = me.ready_s + message.pause_s
        yield from self._turn(me, other, now_s)
        body, size, sent = message.body, len(message.body), 0
        while sent < size:
            now_s = self._clear_to_send(me, now_s)
            piece = body[sent : sent + me.mss]
            sent += len(piece)
            if self.loss and self.rng.random() < self.loss:
                now_s, sent = yield from self._lose(me, other, now_s, piece, body, sent)
                continue
            yield from self._pass(me, other, now_s, piece, PSH if sent == size else 0)
            self._hear(me, other)
        me.ready_s = now_s

    def _turn(self, me: _Side, other: _Side, now_s: float) -> Iterator[Packet]:
        """Let the other side speak now: an ACK that it held back goes alone if its time has come, or rides along."""
        if self.speaker is me:
            return
        self.speaker = me
        self._settle(me, other, now_s)
        me.unacked, other.flight = 0, 0  # what it says next acknowledges all
        other.window = min(other.window + len(other.acks), other.limit)
        other.acks.clear()
        yield from self.flush()

    def _settle(self, me: _Side, other: _Side, until_s: float) -> None:
        """Send an ACK that was held back, if its time comes first."""
        if me.unacked and me.due_s <= until_s:
            self._acknowledge(me, other, me.due_s)

    def _clear_to_send(self, me: _Side, now_s: float) -> float:
        """Return when the window and the line let the next segment go."""
        while me.acks and (me.acks[0][0] <= now_s or me.flight >= int(me.window)):
            heard_s, covered, me.echo = me.acks.popleft()
            now_s = max(now_s, heard_s)
            me.flight -= covered
            grown = covered if me.window < me.threshold else covered / me.window
            me.window = min(me.window + grown, me.limit)
        return max(now_s, me.line_s)

    def _pass(self, me: _Side, other: _Side, now_s: float, piece: bytes, flags: int) -> Iterator[Packet]:
        """Let a segment pass the point of capture, behind the acknowledgements that pass before it."""
        tap_s = self._depart(me, now_s, len(piece))
        self._settle(other, me, tap_s)
        while self.pending and self.pending[0].time_s <= tap_s:
            yield self.pending.popleft()
        yield Packet(tap_s, me.frame(tap_s, ACK | flags, piece))
        me.seq += len(piece)

    def _depart(self, me: _Side, now_s: float, n_bytes: int) -> float:
        line_s = (n_bytes + 66) * self.byte_s
        me.line_s = now_s + line_s * (1 + self.pace * self.rng.random())
        me.flight += 1
        return me.pass_tap(now_s, self.rng)

    def _hear(self, me: _Side, other: _Side) -> None:
        """Let the other side hear the segment that just passed: every second one is acknowledged at once."""
        arrival_s = self._arrive(me, other)
        self._settle(other, me, arrival_s)
        other.heard, other.echo = me.seq, me.stamp(me.tap_s)
        other.unacked += 1
        if other.unacked >= 2:
            self._acknowledge(other, me, arrival_s + _REPLY_S)
        else:
            other.due_s = arrival_s + other.delay_s

    def _arrive(self, me: _Side, other: _Side) -> float:
        other.ready_s = max(me.tap_s + other.host.wait(self.rng), other.ready_s)
        return other.ready_s

    def _acknowledge(self, me: _Side, other: _Side, at_s: float) -> None:
        tap_s = me.pass_tap(at_s, self.rng)
        self.pending.append(Packet(tap_s, me.frame(tap_s, ACK)))
        other.acks.append((tap_s + other.host.wait(self.rng), me.unacked, me.stamp(tap_s)))
        me.unacked = 0

    def _lose(
        self, me: _Side, other: _Side, now_s: float, piece: bytes, body: Body, sent: int
    ) -> Generator[Packet, None, tuple[float, int]]:
        """Lose a segment; return when the sender goes on and how much of the body is through then."""
        lost, lost_seq, lost_s = piece, me.seq, now_s
        flags = PSH if sent == len(body) else 0
        if self.rng.random() < 0.5:  # behind the point of capture: there it is seen all the same
            yield from self._pass(me, other, now_s, lost, flags)
        else:
            self._depart(me, now_s, len(lost))
            me.seq += len(lost)
        doubled_s: list[float] = []
        while sent < len(body) and me.flight < int(me.window) and len(doubled_s) < _MOST_DOUBLED:
            now_s = max(now_s, me.line_s)
            piece = body[sent : sent + me.mss]
            sent += len(piece)
            yield from self._pass(me, other, now_s, piece, PSH if sent == len(body) else 0)
            self._acknowledge(other, me, self._arrive(me, other) + _REPLY_S)
            doubled_s.append(me.acks[-1][0])
        resend_s = doubled_s[2] if len(doubled_s) > 2 else lost_s + self._timeout_s()
        yield from self._resend(me, other, max(resend_s, now_s, me.line_s), lost, lost_seq, flags)
        return me.ready_s, sent

    def _timeout_s(self) -> float:
        return _LEAST_TIMEOUT_S + 2 * (self.client.host.distance_s + self.server.host.distance_s)

    def _resend(
        self, me: _Side, other: _Side, now_s: float, lost: bytes, lost_seq: int, flags: int
    ) -> Iterator[Packet]:
        """Send a lost segment again; its acknowledgement covers all that was sent since."""
        tap_s = self._depart(me, now_s, len(lost))
        self._settle(other, me, tap_s)
        yield from self.flush(tap_s)
        yield Packet(tap_s, me.frame(tap_s, ACK | flags, lost, seq=lost_seq), True)
        arrival_s = self._arrive(me, other)
        other.heard, other.echo = me.seq, me.stamp(tap_s)
        self._acknowledge(other, me, arrival_s + _REPLY_S)
        me.ready_s, _, me.echo = me.acks[-1]
        me.acks.clear()
        me.flight = 0
        me.window = me.threshold = max(2.0, me.window / 2)

    # --- end

    def close(self, ending: Ending) -> Iterator[Packet]:
        """End the conversation."""
        me, other = self.sides(ending.way)
        if ending.kind == "open":
            self._settle(self.client, self.server, float("inf"))
            self._settle(self.server, self.client, float("inf"))
        else:
            yield from self._turn(me, other, me.ready_s + ending.pause_s)
        if ending.kind == "fin":
            yield from self._finish(me, other, me.ready_s + ending.pause_s)
        elif ending.kind == "rst":
            yield from self.reset(ending.way, ending.pause_s)
        yield from self.flush()

    def _finish(self, me: _Side, other: _Side, now_s: float) -> Iterator[Packet]:
        tap_s = me.pass_tap(now_s, self.rng)
        self._settle(other, me, tap_s)
        yield from self.flush(tap_s)
        yield Packet(tap_s, me.frame(tap_s, FIN | ACK))
        yield from self.flush()
        me.seq += 1
        other.heard, other.echo = me.seq, me.stamp(tap_s)
        arrival_s = self._arrive(me, other) + _REPLY_S
        if self.rng.random() < 0.5:
            tap_s = other.pass_tap(arrival_s, self.rng)
            yield Packet(tap_s, other.frame(tap_s, ACK))
            arrival_s += self.rng.expovariate(1000.0)
        tap_s = other.pass_tap(arrival_s, self.rng)
        yield Packet(tap_s, other.frame(tap_s, FIN | ACK))
        other.seq += 1
        me.heard, me.echo = other.seq, other.stamp(tap_s)
        tap_s = me.pass_tap(self._arrive(other, me), self.rng)
        yield Packet(tap_s, me.frame(tap_s, ACK))


def _told_window(host: Host, scaled: bool, rng: Random) -> int:
    """Return what stands in the window field: a buffer that grows with use, in units of the scale."""
    told = int(host.stack.window * rng.choice((0.97, 1.0, 1.0, 1.0, 1.5, 2.0)))
    return min(told >> (host.stack.scale or 0) if scaled else told, 0xFFFF)


def tcp_conversation(
    start_s: float,
    route: Route,
    dst_port: int,
    script: Iterable[Message],
    *,
    label: str,
    rng: Random,
    ending: Ending = CLOSED_BY_CLIENT,
) -> Conversation:
    r"""Return a TCP conversation that is set up, says its messages in order and ends.

    Parameters
    ----------
    start_s
        When the client sends its SYN.
    route
        From the client to the server.
    dst_port
        The server's.
    script
        Messages; drawn from as the conversation goes on.
    label
        What it is called.
    rng
        Chance; this conversation's own.
    ending
        How it ends, and when: counted from the last message.

    Examples
    --------
    >>> import ipaddress
    >>> from deepidea.simulation.hosts import STACKS
    >>> pc, server = (
    ...     Host(name, bytes([2, 0, 0, 0, 0, at]), ipaddress.IPv4Address(f"10.0.0.{at}"), None, STACKS[0])
    ...     for at, name in ((1, "pc"), (2, "server"))
    ... )
    >>> script = [Message(CLIENT, b"GET / HTTP/1.0\r\n\r\n"), Message(SERVER, bytes(4000))]
    >>> talk = tcp_conversation(0.0, Route(pc, server), 80, script, label="benign", rng=Random(1))
    >>> [len(packet.frame) for packet in talk.packets][:7]
    [74, 74, 66, 84, 1514, 1514, 1170]
    """
    ports = (route.src.next_port(rng), dst_port)
    return _conversation(route, ports, TCP, label, _talk(_Tcp(route, ports, start_s, rng), script, ending))


def _talk(tcp: _Tcp, script: Iterable[Message], ending: Ending) -> Iterator[Packet]:
    first_lost = tcp.loss and tcp.rng.random() < tcp.loss
    yield from tcp.ask(1 if first_lost else 0)
    yield from tcp.answer()
    yield from tcp.confirm()
    for message in script:
        yield from tcp.say(message)
    yield from tcp.close(ending)


Outcome = Literal["closed", "silent", "reset", "ignored"]


def tcp_attempt(
    start_s: float,
    route: Route,
    dst_port: int,
    *,
    outcome: Outcome,
    label: str,
    rng: Random,
    retries: int = 0,
    src_port: int | None = None,
) -> Conversation:
    """Return a TCP conversation that comes to nothing.

    Parameters
    ----------
    outcome
        ``closed``: the port refuses with RST. ``silent``: nothing answers. ``reset``: the client refuses the answer, as
        a scanner does. ``ignored``: the answer is never confirmed, as in a flood.
    retries
        How often the SYN (``silent``) or the answer (``ignored``) is said again.
    src_port
        The client's; by default its next one.

    Examples
    --------
    >>> from deepidea.simulation.lab import build_lab
    >>> lab = build_lab(seed=0, hosts=8, duration_s=60.0)
    >>> route = lab.route(*lab.clients, Random(0))
    >>> talk = tcp_attempt(0.0, route, 81, outcome="silent", label="benign", rng=Random(0), retries=2)
    >>> [round(packet.time_s) for packet in talk.packets]
    [0, 1, 3]
    """
    ports = (src_port or route.src.next_port(rng), dst_port)
    tcp = _Tcp(route, ports, start_s, rng)
    return _conversation(route, ports, TCP, label, _fail(tcp, outcome, retries))


def _fail(tcp: _Tcp, outcome: Outcome, retries: int) -> Iterator[Packet]:
    yield from tcp.ask(retries if outcome == "silent" else 0)
    if outcome == "closed":
        tcp.server.seq = 0
        yield from tcp.reset(SERVER)
    elif outcome in ("reset", "ignored"):
        yield from tcp.answer(retries if outcome == "ignored" else 0)
    if outcome == "reset":
        yield from tcp.reset(CLIENT, acknowledge=False)


def _conversation(
    route: Route, ports: tuple[int | None, int | None], protocol: int, label: str, packets: Iterator[Packet]
) -> Conversation:
    src, dst = route.addresses
    return Conversation(src, ports[0], dst, ports[1], protocol, label, packets)


# --- what has no TCP -------------------------------------------------------------------------------------------------


def udp_conversation(
    start_s: float,
    route: Route,
    dst_port: int,
    script: Iterable[Message],
    *,
    label: str,
    rng: Random,
    src_port: int | None = None,
) -> Conversation:
    """Return a UDP conversation: each message is one datagram, in turns.

    Examples
    --------
    >>> from deepidea.simulation.lab import build_lab
    >>> lab = build_lab(seed=0, hosts=8, duration_s=60.0)
    >>> route = lab.route(*lab.clients, Random(0))
    >>> script = [Message(CLIENT, b"what?"), Message(SERVER, b"that")]
    >>> talk = udp_conversation(0.0, route, 53, script, label="benign", rng=Random(0))
    >>> talk.dst_port, len(list(talk.packets))
    (53, 2)
    """
    ports = (src_port or route.src.next_port(rng), dst_port)
    return _conversation(route, ports, UDP, label, _exchange(start_s, route, ports, script, rng))


def _exchange(
    start_s: float, route: Route, ports: tuple[int, int], script: Iterable[Message], rng: Random
) -> Iterator[Packet]:
    there, back = route.envelopes(rng)
    framers = UdpFramer(there, *ports), UdpFramer(back, *reversed(ports))
    hosts, now_s, tap_s = (route.src, route.dst), [start_s, start_s], start_s
    for way, body, pause_s in script:
        sent_s = now_s[way] + pause_s
        tap_s = max(sent_s + hosts[way].wait(rng), tap_s + _TICK_S)
        yield Packet(tap_s, framers[way].frame(body[:]))
        now_s[way], now_s[1 - way] = sent_s, tap_s + hosts[1 - way].wait(rng)


def ping_conversation(
    start_s: float, route: Route, *, label: str, rng: Random, count: int = 4, interval_s: float = 1.0, size: int = 56
) -> Conversation:
    """Return echo requests with their replies.

    Examples
    --------
    >>> from deepidea.simulation.lab import build_lab
    >>> lab = build_lab(seed=0, hosts=8, duration_s=60.0)
    >>> route = lab.route(*lab.clients, Random(0))
    >>> len(list(ping_conversation(0.0, route, label="benign", rng=Random(0), count=3).packets))
    6
    """
    packets = _ping(start_s, route, rng, count, interval_s, size)
    return _conversation(route, (None, None), ICMP6 if route.v6 else ICMP, label, packets)


def _ping(start_s: float, route: Route, rng: Random, count: int, interval_s: float, size: int) -> Iterator[Packet]:
    there, back = route.envelopes(rng)
    ident, payload = rng.getrandbits(16), bytes(at % 256 for at in range(size))
    for sequence in range(1, count + 1):
        tap_s = start_s + (sequence - 1) * interval_s + route.src.wait(rng)
        yield Packet(tap_s, echo_frame(there, reply=False, ident=ident, sequence=sequence, payload=payload))
        tap_s += 2 * route.dst.wait(rng)
        yield Packet(tap_s, echo_frame(back, reply=True, ident=ident, sequence=sequence, payload=payload))


def arp_conversation(start_s: float, src: Host, dst: Host, *, rng: Random, vlan: int | None = None) -> Conversation:
    """Return a question for the station of an address, and its answer.

    Examples
    --------
    >>> from deepidea.simulation.lab import build_lab
    >>> lab = build_lab(seed=0, hosts=8, duration_s=60.0)
    >>> [len(packet.frame) for packet in arp_conversation(0.0, *lab.clients, rng=Random(0)).packets]
    [60, 60]
    """
    return Conversation(str(src.ipv4), None, str(dst.ipv4), None, None, "", _arp(start_s, src, dst, rng, vlan))


def _arp(start_s: float, src: Host, dst: Host, rng: Random, vlan: int | None) -> Iterator[Packet]:
    tap_s = start_s + src.wait(rng)
    yield Packet(tap_s, arp_frame(src.mac, src.ipv4.packed, None, dst.ipv4.packed, vlan=vlan))
    tap_s += 2 * dst.wait(rng)
    yield Packet(tap_s, arp_frame(dst.mac, dst.ipv4.packed, src.mac, src.ipv4.packed, vlan=vlan))
