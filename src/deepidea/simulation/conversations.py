"""Conversations between two hosts as packets at a capture point between them, generated lazily in order of time.

TCP has what a flow meter can observe: handshake, negotiated segment size, congestion control, delayed acknowledgements,
losses with retransmissions, timestamps, endings by FIN or RST. The sides take turns: a side that sends has received all
that the other sent before. SACK blocks are not written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple, Protocol

from deepidea.simulation import frames
from deepidea.simulation.frames import (
    ACK,
    FIN,
    PSH,
    RST,
    SYN,
    Framer,
    arp_frame,
    echo_frame,
    tcp_options,
    unreachable_frame,
)
from deepidea.simulation.hosts import Host, Route

CLIENT, SERVER = 0, 1
_TICK_S = 1e-6  # least time between two packets of one host
_LEAST_TIMEOUT_S = 0.2  # of retransmissions; RFC 6298 asks for 1 s, the stacks in use take 0.2 s
_MOST_DUPLICATES = 16  # segments that are sent after a lost one before it is retransmitted
_REPLY_S = 2e-5  # processing time of a packet that the stack sends by itself
_RETRIES_S = (1.0, 3.0, 7.0, 15.0)  # after the first SYN: the timeout doubles (RFC 6298, 5.5)
_MOST_IN_FLIGHT = 120  # segments


class Body(Protocol):
    """Content of a message: ``bytes``, or something long that is made slice by slice."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...


class Packet(NamedTuple):
    """A frame at the capture point, with its time in seconds of the simulation."""

    time_s: float
    frame: bytes
    retransmitted: bool = False


class Message(NamedTuple):
    """What one side sends at once, `pause_s` after it received the last message or sent its own."""

    sender: int
    body: Body
    pause_s: float = 0.0


class Ending(NamedTuple):
    """How a conversation ends: one side sends FIN or RST, or it is left open."""

    kind: Literal["fin", "rst", "open"] = "fin"
    sender: int = CLIENT
    pause_s: float = 0.0


CLOSED_BY_CLIENT = Ending()


@dataclass(frozen=True, slots=True)
class Conversation:
    """Who talks to whom, the label, and the packets in order of time.

    The label is ``benign`` or the name of an attack's instance. Ports are None where the transport has none;
    `protocol` is None where there is no IP, as for ARP.
    """

    src_ip: str
    src_port: int | None
    dst_ip: str
    dst_port: int | None
    protocol: int | None
    label: str
    packets: Iterator[Packet]


# --- TCP -------------------------------------------------------------------------------------------------------------
#
# State of an endpoint, named as in RFC 9293 (3.3.1), 5681 (2) and 7323 (3.2) where they have a name for it:
#   snd_nxt, rcv_nxt     next sequence number to send, and to receive (the ACK field of every packet sent)
#   cwnd, ssthresh       congestion window and slow start threshold, in segments of at most mss bytes
#   in_flight, acks      segments sent and not acknowledged; acknowledgements on their way back to this sender
#   unacked, ack_due_s   segments received and not acknowledged, at most one; when its delayed ACK is due
#   ts_clock, ts_recent  offset of the timestamp clock; the value to echo
# Three times of an endpoint move forward only: ready_s, when its application may act next; line_free_s, when its line
# has sent the last segment; tap_s, when its last packet passed the capture point.
#
# A conversation is a walk through the states of RFC 9293, figure 5, from both ends:
#   send_syn      CLOSED -> SYN-SENT       | send_syn_ack  LISTEN -> SYN-RECEIVED
#   confirm       SYN-SENT -> ESTABLISHED  | (its arrival) SYN-RECEIVED -> ESTABLISHED
#   send          data from one side, acknowledged by the other
#   close         FIN-WAIT-1 -> FIN-WAIT-2 -> TIME-WAIT | CLOSE-WAIT -> LAST-ACK -> CLOSED, or RST, or neither
#
# Packets of the sender are yielded at once, in order. Acknowledgements pass later, so they wait in `pending` until the
# sender's next packet passes after them: that is what keeps the two directions in order of time at the capture point.


class _Endpoint:
    """One end of a TCP conversation."""

    def __init__(self, host: Host, framer: Framer, rng: Random) -> None:
        self.host, self.framer = host, framer
        self.snd_nxt, self.rcv_nxt = rng.getrandbits(32), 0
        self.ts_clock, self.ts_recent = rng.getrandbits(31), 0
        self.cwnd: float = host.stack.first_window
        self.ssthresh = 64.0
        self.cwnd_limit = _MOST_IN_FLIGHT  # the other's receive window in segments
        self.in_flight, self.unacked = 0, 0
        self.acks: deque[tuple[float, int, int]] = deque()  # time of arrival, segments acknowledged, timestamp
        self.ready_s = self.tap_s = self.line_free_s = self.ack_due_s = 0.0
        self.delay_s = host.stack.delay_s * rng.uniform(0.5, 1.0)
        self.timestamps, self.mss = False, 536  # RFC 9293, 3.7.1: the default without an option
        self.window_field = host.stack.window >> (host.stack.scale or 0)

    def pass_tap(self, sent_s: float, rng: Random) -> float:
        """Return when a packet sent now passes the capture point: never before the one sent earlier."""
        self.tap_s = max(sent_s + self.host.delay(rng), self.tap_s + _TICK_S)
        return self.tap_s

    def timestamp(self, tap_s: float) -> int:
        return (self.ts_clock + int(tap_s * 1000)) & 0xFFFFFFFF

    def frame(self, tap_s: float, flags: int, payload: bytes = b"", *, seq: int | None = None) -> bytes:
        options = tcp_options(times=(self.timestamp(tap_s), self.ts_recent)) if self.timestamps else b""
        number = self.snd_nxt if seq is None else seq
        return self.framer.tcp(number, self.rcv_nxt, flags, self.window_field, payload, options=options)

    def syn_frame(self, tap_s: float, flags: int, other: _Endpoint | None, *, v6: bool) -> bytes:
        """Return a SYN, or the SYN-ACK to another's SYN, which has the options that both support."""
        stack, theirs = self.host.stack, other.host.stack if other else self.host.stack
        options = tcp_options(
            mss=self.host.mss(v6=v6),
            sack=stack.sack and theirs.sack,
            times=(self.timestamp(tap_s), self.ts_recent) if stack.times and theirs.times else None,
            scale=stack.scale if theirs.scale is not None else None,
        )
        return self.framer.tcp(self.snd_nxt, self.rcv_nxt, flags, stack.syn_window, options=options)


class _Tcp:
    """A TCP conversation while its packets are generated."""

    def __init__(self, route: Route, ports: tuple[int, int], start_s: float, rng: Random) -> None:
        there, back = route.envelopes(rng)
        self.client = _Endpoint(route.src, Framer(there, *ports), rng)
        self.server = _Endpoint(route.dst, Framer(back, *reversed(ports)), rng)
        self.client.ready_s = start_s
        self.rng, self.loss, self.v6 = rng, route.loss, route.v6
        self.byte_s = 1.0 / route.bytes_per_s
        self.pending: deque[Packet] = deque()  # acknowledgements that pass after the last packet yielded
        self.turn = self.client
        self.unevenness = rng.uniform(0.0, 0.3)  # of the gaps between segments

    def _ends(self, sender: int) -> tuple[_Endpoint, _Endpoint]:
        return (self.client, self.server) if sender == CLIENT else (self.server, self.client)

    # --- handshake (RFC 9293, 3.5)

    def send_syn(self, retries: int = 0) -> Iterator[Packet]:
        """Send SYN, and again as often as no answer comes."""
        me, other = self.client, self.server
        for wait_s in (0.0, *_RETRIES_S[:retries]):
            tap_s = me.pass_tap(me.ready_s + wait_s, self.rng)
            yield Packet(tap_s, me.syn_frame(tap_s, SYN, None, v6=self.v6), wait_s > 0)
        other.rcv_nxt, other.ts_recent = me.snd_nxt + 1, me.timestamp(me.tap_s)
        other.ready_s = tap_s + other.host.delay(self.rng)

    def send_syn_ack(self, retries: int = 0) -> Iterator[Packet]:
        """Send SYN-ACK, and again as often as the third packet does not come."""
        me, other = self.server, self.client
        for wait_s in (0.0, *_RETRIES_S[:retries]):
            tap_s = me.pass_tap(me.ready_s + wait_s, self.rng)
            yield Packet(tap_s, me.syn_frame(tap_s, SYN | ACK, other, v6=self.v6), wait_s > 0)
        other.rcv_nxt, other.ts_recent = me.snd_nxt + 1, me.timestamp(tap_s)
        other.ready_s = tap_s + other.host.delay(self.rng)
        other.snd_nxt += 1
        me.snd_nxt += 1
        self._negotiate()

    def _negotiate(self) -> None:
        """Apply the options of both SYN packets: timestamps, segment size, window scale, and the limits that follow."""
        ends = self.server, self.client
        timestamps = all(end.host.stack.times for end in ends)
        mss = min(end.host.mss(v6=self.v6) for end in ends) - (12 if timestamps else 0)  # RFC 6691: less the options
        scaled = all(end.host.stack.scale is not None for end in ends)
        for end, peer in (ends, ends[::-1]):
            stack = end.host.stack
            end.timestamps, end.mss = timestamps, mss
            end.window_field = _window_field(end.host, scaled, self.rng)
            window_bytes = end.window_field << (stack.scale or 0 if scaled else 0)
            peer.cwnd_limit = max(2, min(_MOST_IN_FLIGHT, window_bytes // mss))
            first_limit = max(2, stack.syn_window // mss)  # holds until the first packet with a scaled window
            peer.cwnd = min(peer.cwnd, peer.cwnd_limit, first_limit)

    def confirm(self) -> Iterator[Packet]:
        """Send the third packet of the handshake."""
        me, other = self.client, self.server
        tap_s = me.pass_tap(me.ready_s, self.rng)
        yield Packet(tap_s, me.frame(tap_s, ACK))
        other.ready_s, other.ts_recent = tap_s + other.host.delay(self.rng), me.timestamp(tap_s)

    def reset(self, sender: int, pause_s: float = 0.0, *, acknowledge: bool = True) -> Iterator[Packet]:
        """Send RST (RFC 9293, 3.5.2)."""
        me, other = self._ends(sender)
        tap_s = me.pass_tap(me.ready_s + pause_s, self.rng)
        self._send_due_ack(other, me, tap_s)
        yield from self._passed(tap_s)
        number = me.rcv_nxt if acknowledge else 0
        yield Packet(tap_s, me.framer.tcp(me.snd_nxt, number, RST | ACK if acknowledge else RST, 0))

    # --- data

    def _passed(self, until_s: float = float("inf")) -> Iterator[Packet]:
        """Yield the pending acknowledgements that pass the capture point until a time."""
        while self.pending and self.pending[0].time_s <= until_s:
            yield self.pending.popleft()

    def send(self, message: Message) -> Iterator[Packet]:
        """Send a whole message, and let the other side acknowledge."""
        me, other = self._ends(message.sender)
        now_s = me.ready_s + message.pause_s
        yield from self._take_turn(me, other, now_s)
        body, size, sent = message.body, len(message.body), 0
        while sent < size:
            now_s = self._wait_for_window(me, now_s)
            segment = body[sent : sent + me.mss]
            sent += len(segment)
            if self.loss and self.rng.random() < self.loss:
                now_s, sent = yield from self._lose(me, other, now_s, segment, body, sent)
                continue
            yield from self._transmit(me, other, now_s, segment, PSH if sent == size else 0)
            self._receive(me, other)
        me.ready_s = now_s

    def _take_turn(self, me: _Endpoint, other: _Endpoint, now_s: float) -> Iterator[Packet]:
        """Let a side send now: its delayed ACK goes alone if it is due, else its first segment carries it."""
        if self.turn is me:
            return
        self.turn = me
        self._send_due_ack(me, other, now_s)
        me.unacked, other.in_flight = 0, 0
        other.cwnd = min(other.cwnd + len(other.acks), other.cwnd_limit)
        other.acks.clear()
        yield from self._passed()

    def _send_due_ack(self, me: _Endpoint, other: _Endpoint, until_s: float) -> None:
        """Send a delayed ACK if it is due until a time."""
        if me.unacked and me.ack_due_s <= until_s:
            self._acknowledge(me, other, me.ack_due_s)

    def _wait_for_window(self, me: _Endpoint, now_s: float) -> float:
        """Return when the next segment may go: cwnd has room (RFC 5681, 3.1) and the line is free.

        Each segment acknowledged adds one to cwnd in slow start, 1 / cwnd in congestion avoidance.
        """
        while me.acks and (me.acks[0][0] <= now_s or me.in_flight >= int(me.cwnd)):
            arrived_s, covered, me.ts_recent = me.acks.popleft()
            now_s = max(now_s, arrived_s)
            me.in_flight -= covered
            grown = covered if me.cwnd < me.ssthresh else covered / me.cwnd
            me.cwnd = min(me.cwnd + grown, me.cwnd_limit)
        return max(now_s, me.line_free_s)

    def _transmit(self, me: _Endpoint, other: _Endpoint, now_s: float, segment: bytes, flags: int) -> Iterator[Packet]:
        """Yield a segment, and before it the acknowledgements that pass the capture point earlier."""
        tap_s = self._depart(me, now_s, len(segment))
        self._send_due_ack(other, me, tap_s)
        yield from self._passed(tap_s)
        yield Packet(tap_s, me.frame(tap_s, ACK | flags, segment))
        me.snd_nxt += len(segment)

    def _depart(self, me: _Endpoint, now_s: float, n_bytes: int) -> float:
        """Occupy the line with a segment; return when it passes the capture point."""
        line_s = (n_bytes + 66) * self.byte_s
        me.line_free_s = now_s + line_s * (1 + self.unevenness * self.rng.random())
        me.in_flight += 1
        return me.pass_tap(now_s, self.rng)

    def _receive(self, me: _Endpoint, other: _Endpoint) -> None:
        """Deliver the segment that just passed: every second one is acknowledged at once (RFC 9293, 3.8.6.3)."""
        arrival_s = self._arrive(me, other)
        self._send_due_ack(other, me, arrival_s)
        other.rcv_nxt, other.ts_recent = me.snd_nxt, me.timestamp(me.tap_s)
        other.unacked += 1
        if other.unacked >= 2:
            self._acknowledge(other, me, arrival_s + _REPLY_S)
        else:
            other.ack_due_s = arrival_s + other.delay_s

    def _arrive(self, me: _Endpoint, other: _Endpoint) -> float:
        other.ready_s = max(me.tap_s + other.host.delay(self.rng), other.ready_s)
        return other.ready_s

    def _acknowledge(self, me: _Endpoint, other: _Endpoint, at_s: float) -> None:
        tap_s = me.pass_tap(at_s, self.rng)
        self.pending.append(Packet(tap_s, me.frame(tap_s, ACK)))
        other.acks.append((tap_s + other.host.delay(self.rng), me.unacked, me.timestamp(tap_s)))
        me.unacked = 0

    def _lose(
        self, me: _Endpoint, other: _Endpoint, now_s: float, segment: bytes, body: Body, sent: int
    ) -> Generator[Packet, None, tuple[float, int]]:
        """Lose a segment and retransmit it; return when the sender goes on, and how much of the body it has sent.

        Segments behind the gap cause duplicate ACKs; the third triggers a fast retransmit (RFC 5681, 3.2), else the
        timer does (RFC 6298). Half of the losses are behind the capture point, which then sees the segment twice.
        """
        lost, lost_seq, lost_s = segment, me.snd_nxt, now_s
        flags = PSH if sent == len(body) else 0
        if self.rng.random() < 0.5:
            yield from self._transmit(me, other, now_s, lost, flags)
        else:
            self._depart(me, now_s, len(lost))
            me.snd_nxt += len(lost)
        duplicates_s: list[float] = []
        while sent < len(body) and me.in_flight < int(me.cwnd) and len(duplicates_s) < _MOST_DUPLICATES:
            now_s = max(now_s, me.line_free_s)
            segment = body[sent : sent + me.mss]
            sent += len(segment)
            yield from self._transmit(me, other, now_s, segment, PSH if sent == len(body) else 0)
            self._acknowledge(other, me, self._arrive(me, other) + _REPLY_S)
            duplicates_s.append(me.acks[-1][0])
        timeout_s = _LEAST_TIMEOUT_S + 2 * (self.client.host.distance_s + self.server.host.distance_s)
        resend_s = duplicates_s[2] if len(duplicates_s) > 2 else lost_s + timeout_s
        yield from self._retransmit(me, other, max(resend_s, now_s, me.line_free_s), lost, lost_seq, flags)
        return me.ready_s, sent

    def _retransmit(
        self, me: _Endpoint, other: _Endpoint, now_s: float, lost: bytes, lost_seq: int, flags: int
    ) -> Iterator[Packet]:
        """Send a lost segment again; its ACK covers all that was sent since, and cwnd halves (RFC 5681, equation 4)."""
        tap_s = self._depart(me, now_s, len(lost))
        self._send_due_ack(other, me, tap_s)
        yield from self._passed(tap_s)
        yield Packet(tap_s, me.frame(tap_s, ACK | flags, lost, seq=lost_seq), True)
        arrival_s = self._arrive(me, other)
        other.rcv_nxt, other.ts_recent = me.snd_nxt, me.timestamp(tap_s)
        self._acknowledge(other, me, arrival_s + _REPLY_S)
        me.ready_s, _, me.ts_recent = me.acks[-1]
        me.acks.clear()
        me.in_flight = 0
        me.cwnd = me.ssthresh = max(2.0, me.cwnd / 2)

    # --- end

    def close(self, ending: Ending) -> Iterator[Packet]:
        """End the conversation."""
        me, other = self._ends(ending.sender)
        if ending.kind == "open":
            self._send_due_ack(self.client, self.server, float("inf"))
            self._send_due_ack(self.server, self.client, float("inf"))
        else:
            yield from self._take_turn(me, other, me.ready_s + ending.pause_s)
        if ending.kind == "fin":
            yield from self._finish(me, other, me.ready_s + ending.pause_s)
        elif ending.kind == "rst":
            yield from self.reset(ending.sender, ending.pause_s)
        yield from self._passed()

    def _finish(self, me: _Endpoint, other: _Endpoint, now_s: float) -> Iterator[Packet]:
        """Exchange FIN and ACK both ways (RFC 9293, 3.6); half of the time the other's ACK rides on its FIN."""
        tap_s = me.pass_tap(now_s, self.rng)
        self._send_due_ack(other, me, tap_s)
        yield from self._passed(tap_s)
        yield Packet(tap_s, me.frame(tap_s, FIN | ACK))
        yield from self._passed()
        me.snd_nxt += 1
        other.rcv_nxt, other.ts_recent = me.snd_nxt, me.timestamp(tap_s)
        arrival_s = self._arrive(me, other) + _REPLY_S
        if self.rng.random() < 0.5:
            tap_s = other.pass_tap(arrival_s, self.rng)
            yield Packet(tap_s, other.frame(tap_s, ACK))
            arrival_s += self.rng.expovariate(1000.0)
        tap_s = other.pass_tap(arrival_s, self.rng)
        yield Packet(tap_s, other.frame(tap_s, FIN | ACK))
        other.snd_nxt += 1
        me.rcv_nxt, me.ts_recent = other.snd_nxt, other.timestamp(tap_s)
        tap_s = me.pass_tap(self._arrive(other, me), self.rng)
        yield Packet(tap_s, me.frame(tap_s, ACK))


def _window_field(host: Host, scaled: bool, rng: Random) -> int:
    """Return the window field (RFC 7323, 2): the receive buffer, which stacks grow with use, in units of the scale."""
    window = int(host.stack.window * rng.choice((0.97, 1.0, 1.0, 1.0, 1.5, 2.0)))
    return min(window >> (host.stack.scale or 0) if scaled else window, 0xFFFF)


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
    r"""Return a TCP conversation that is set up, sends its messages in order and ends.

    Parameters
    ----------
    start_s
        When the client sends its SYN.
    route
        From the client to the server.
    dst_port
        The server's.
    script
        Messages; consumed while packets are generated.
    label
        Of the ground truth.
    rng
        Of this conversation alone.
    ending
        Its kind, and its time after the last message.

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
    return _conversation(route, ports, frames.TCP, label, _dialogue(_Tcp(route, ports, start_s, rng), script, ending))


def _dialogue(tcp: _Tcp, script: Iterable[Message], ending: Ending) -> Iterator[Packet]:
    first_lost = tcp.loss and tcp.rng.random() < tcp.loss
    yield from tcp.send_syn(1 if first_lost else 0)
    yield from tcp.send_syn_ack()
    yield from tcp.confirm()
    for message in script:
        yield from tcp.send(message)
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
    """Return a TCP conversation that is never established.

    Parameters
    ----------
    outcome
        ``closed``: the server answers SYN with RST. ``silent``: no answer. ``reset``: the client answers SYN-ACK with
        RST, as a half-open scan does. ``ignored``: SYN-ACK is never confirmed, as in a SYN flood.
    retries
        How often SYN (``silent``) or SYN-ACK (``ignored``) is sent again.
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
    return _conversation(route, ports, frames.TCP, label, _fail(tcp, outcome, retries))


def _fail(tcp: _Tcp, outcome: Outcome, retries: int) -> Iterator[Packet]:
    yield from tcp.send_syn(retries if outcome == "silent" else 0)
    if outcome == "closed":
        tcp.server.snd_nxt = 0  # RFC 9293, 3.5.2: the RST to a SYN has sequence number 0
        yield from tcp.reset(SERVER)
    elif outcome in ("reset", "ignored"):
        yield from tcp.send_syn_ack(retries if outcome == "ignored" else 0)
    if outcome == "reset":
        yield from tcp.reset(CLIENT, acknowledge=False)


def tcp_probe(
    start_s: float,
    route: Route,
    dst_port: int,
    flags: int,
    *,
    refused: bool,
    label: str,
    rng: Random,
    src_port: int | None = None,
) -> Conversation:
    """Return a packet of no connection, as FIN and ACK scans send, and the RST to it if it is refused.

    Examples
    --------
    >>> from deepidea.simulation.lab import build_lab
    >>> lab = build_lab(seed=0, hosts=8, duration_s=60.0)
    >>> route = lab.route(*lab.clients[:2], Random(0))
    >>> talk = tcp_probe(0.0, route, 81, FIN, refused=True, label="benign", rng=Random(0))
    >>> len(list(talk.packets))
    2
    """
    ports = (src_port or route.src.next_port(rng), dst_port)
    tcp = _Tcp(route, ports, start_s, rng)
    return _conversation(route, ports, frames.TCP, label, _probe(tcp, flags, refused))


def _probe(tcp: _Tcp, flags: int, refused: bool) -> Iterator[Packet]:
    me, other = tcp.client, tcp.server
    tap_s = me.pass_tap(me.ready_s, tcp.rng)
    acknowledged = tcp.rng.getrandbits(32) if flags & ACK else 0
    yield Packet(tap_s, me.framer.tcp(me.snd_nxt, acknowledged, flags, me.host.stack.syn_window))
    if refused:  # RFC 9293, 3.5.2: with the number that was acknowledged, else acknowledging the probe
        other.ready_s = tap_s + other.host.delay(tcp.rng)
        other.snd_nxt, other.rcv_nxt = acknowledged, me.snd_nxt + bool(flags & FIN)
        yield from tcp.reset(SERVER, acknowledge=not flags & ACK)


def _conversation(
    route: Route, ports: tuple[int | None, int | None], protocol: int, label: str, packets: Iterator[Packet]
) -> Conversation:
    src, dst = route.addresses
    return Conversation(src, ports[0], dst, ports[1], protocol, label, packets)


# --- UDP, ICMP, ARP --------------------------------------------------------------------------------------------------


def udp_conversation(
    start_s: float,
    route: Route,
    dst_port: int,
    script: Iterable[Message],
    *,
    label: str,
    rng: Random,
    src_port: int | None = None,
    clocked: bool = False,
) -> Conversation:
    """Return a UDP conversation: each message is one datagram.

    Both sides wait for each other, unless they are `clocked`: pauses then count from the last datagram of either side.
    """
    ports = (src_port or route.src.next_port(rng), dst_port)
    return _conversation(route, ports, frames.UDP, label, _datagrams(start_s, route, ports, script, rng, clocked))


def _datagrams(
    start_s: float, route: Route, ports: tuple[int, int], script: Iterable[Message], rng: Random, clocked: bool = False
) -> Iterator[Packet]:
    there, back = route.envelopes(rng)
    framers = Framer(there, *ports), Framer(back, *reversed(ports))
    hosts, ready_s, tap_s = (route.src, route.dst), [start_s, start_s], start_s
    for sender, body, pause_s in script:
        sent_s = ready_s[sender] + pause_s
        tap_s = max(sent_s + hosts[sender].delay(rng), tap_s + _TICK_S)
        yield Packet(tap_s, framers[sender].udp(body[:]))
        ready_s[sender] = sent_s
        ready_s[1 - sender] = sent_s if clocked else tap_s + hosts[1 - sender].delay(rng)


class Echo(NamedTuple):
    """Payloads of an echo request and its reply, which is None where none comes, `pause_s` after the last request."""

    request: bytes
    reply: bytes | None
    pause_s: float = 1.0


def echo_conversation(start_s: float, route: Route, echoes: Iterable[Echo], *, label: str, rng: Random) -> Conversation:
    """Return ICMP echo requests with their replies; the first is sent at once.

    Examples
    --------
    >>> from deepidea.simulation.lab import build_lab
    >>> lab = build_lab(seed=0, hosts=8, duration_s=60.0)
    >>> echoes = [Echo(bytes(56), bytes(56)), Echo(bytes(56), None)]
    >>> talk = echo_conversation(0.0, lab.route(*lab.clients[:2], Random(0)), echoes, label="benign", rng=Random(0))
    >>> [round(packet.time_s) for packet in talk.packets]
    [0, 0, 1]
    """
    protocol = frames.ICMP6 if route.v6 else frames.ICMP
    return _conversation(route, (None, None), protocol, label, _echo(start_s, route, echoes, rng))


def _echo(start_s: float, route: Route, echoes: Iterable[Echo], rng: Random) -> Iterator[Packet]:
    there, back = route.envelopes(rng)
    ident, sent_s, tap_s = rng.getrandbits(16), start_s, start_s
    waiting: deque[Packet] = deque()  # replies that pass after the last request
    for sequence, (request, reply, pause_s) in enumerate(echoes, 1):
        sent_s += pause_s if sequence > 1 else 0.0
        tap_s = max(sent_s + route.src.delay(rng), tap_s + _TICK_S)
        while waiting and waiting[0].time_s <= tap_s:
            yield waiting.popleft()
        about = {"ident": ident, "sequence": sequence & 0xFFFF}
        yield Packet(tap_s, echo_frame(there, reply=False, payload=request, **about))
        if reply is not None:
            reply_s = max(tap_s + 2 * route.dst.delay(rng), waiting[-1].time_s + _TICK_S if waiting else 0.0)
            waiting.append(Packet(reply_s, echo_frame(back, reply=True, payload=reply, **about)))
    yield from waiting


def ping_conversation(
    start_s: float,
    route: Route,
    *,
    label: str,
    rng: Random,
    count: int = 4,
    interval_s: float = 1.0,
    size: int = 56,
    answered: bool = True,
) -> Conversation:
    """Return echo requests of one size, with their replies where they are answered."""
    payload = bytes(at % 256 for at in range(size))
    echo = Echo(payload, payload if answered else None, interval_s)
    return echo_conversation(start_s, route, (echo for _ in range(count)), label=label, rng=rng)


def refused_datagram(
    start_s: float, route: Route, dst_port: int, payload: bytes, *, label: str, rng: Random
) -> tuple[Conversation, Conversation]:
    """Return a datagram to a closed port, and the ICMP error by which the server refuses it."""
    ports = (route.src.next_port(rng), dst_port)
    [probe] = _datagrams(start_s, route, ports, [Message(CLIENT, payload)], rng)
    begin = 14 if route.vlan is None else 18  # of the IP header
    quoted = probe.frame[begin : begin + (48 if route.v6 else 28)]
    error_s = probe.time_s + 2 * route.dst.delay(rng)
    error = Packet(error_s, unreachable_frame(route.envelopes(rng)[1], quoted))
    protocol = frames.ICMP6 if route.v6 else frames.ICMP
    sent = _conversation(route, ports, frames.UDP, label, iter([probe]))
    return sent, _conversation(route.back(), (None, None), protocol, label, iter([error]))


def arp_conversation(start_s: float, src: Host, dst: Host, *, rng: Random, vlan: int | None = None) -> Conversation:
    """Return an ARP request and its reply."""
    return Conversation(str(src.ipv4), None, str(dst.ipv4), None, None, "", _arp(start_s, src, dst, rng, vlan))


def _arp(start_s: float, src: Host, dst: Host, rng: Random, vlan: int | None) -> Iterator[Packet]:
    tap_s = start_s + src.delay(rng)
    yield Packet(tap_s, arp_frame(src.mac, src.ipv4.packed, None, dst.ipv4.packed, vlan=vlan))
    tap_s += 2 * dst.delay(rng)
    yield Packet(tap_s, arp_frame(dst.mac, dst.ipv4.packed, src.mac, src.ipv4.packed, vlan=vlan))
