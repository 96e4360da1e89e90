"""A TCP conversation is one that two hosts could have had: numbers, turns, losses, order, endings."""

from __future__ import annotations

import ipaddress
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.simulation.conversations import (
    CLIENT,
    SERVER,
    Ending,
    Message,
    ping_conversation,
    tcp_attempt,
    tcp_conversation,
    udp_conversation,
)
from deepidea.simulation.frames import ACK, FIN, RST, SYN
from deepidea.simulation.hosts import STACKS, Host, Route
from tests.packets.wire import take_apart


@st.composite
def routes(draw):
    hosts = []
    for last in (1, 2):
        distance_s = draw(st.sampled_from([5e-5, 3e-4, 0.01, 0.15]))
        hosts.append(
            Host(
                f"h{last}",
                bytes([2, 0, 0, 0, 0, last]),
                ipaddress.IPv4Address(f"10.0.0.{last}"),
                ipaddress.IPv6Address(f"2001:db8::{last}"),
                draw(st.sampled_from(STACKS)),
                distance_s=distance_s,
                jitter_s=distance_s * draw(st.sampled_from([0.01, 0.5])),
                bytes_per_s=draw(st.sampled_from([2e4, 1e6, 1e8])),
                mtu_loss=draw(st.sampled_from([0, 100])),
            )
        )
    return Route(*hosts, draw(st.booleans()), None, draw(st.sampled_from([0.0, 0.01, 0.2])))


MESSAGES = st.lists(
    st.builds(
        Message,
        st.sampled_from([CLIENT, SERVER]),
        st.integers(1, 60_000).map(lambda size: Random(size).randbytes(size)),
        st.sampled_from([0.0, 0.001, 0.03, 2.0]),
    ),
    max_size=5,
)
ENDINGS = st.builds(Ending, st.sampled_from(["fin", "rst", "open"]), st.sampled_from([0, 1]), st.sampled_from([0, 0.5]))


def both_ways(packets, route):
    """Return packets taken apart, with the way they went and whether they are marked as sent again."""
    client = (route.src.ipv6 if route.v6 else route.src.ipv4).packed
    seen = [take_apart(0, packet.frame) for packet in packets]
    return [(SERVER if s.src != client else CLIENT, s, p.retransmitted) for s, p in zip(seen, packets, strict=True)]


@settings(max_examples=60)
@given(routes(), MESSAGES, ENDINGS, st.integers(0, 2**32))
def test_what_is_reported_passes_in_order_and_whole(route, script, ending, seed):
    talk = tcp_conversation(1.0, route, 80, script, label="x", rng=Random(seed), ending=ending)
    packets = list(talk.packets)
    assert all(one.time_s <= other.time_s for one, other in pairwise(packets))
    passed = both_ways(packets, route)
    for way in (CLIENT, SERVER):
        said = b"".join(message.body for message in script if message.sender == way)
        assert reassembled([(s, again) for to, s, again in passed if to == way]) == said


def reassembled(passed):
    """Return the stream of one direction; segments that are not marked go on where the last one ended, or behind."""
    start = next((s.transport.seq for s, _ in passed if s.transport.flags & SYN), 0) + 1
    stream, filled, highest = bytearray(), set(), 0
    for seen, again in passed:
        at = (seen.transport.seq - start) % 2**32
        if not seen.payload:
            continue
        assert again or at >= highest
        highest = max(highest, at + len(seen.payload))
        stream.extend(bytes(highest - len(stream)))
        stream[at : at + len(seen.payload)] = seen.payload
        filled.update(range(at, at + len(seen.payload)))
    assert filled == set(range(highest))
    return bytes(stream)


@settings(max_examples=60)
@given(routes(), MESSAGES, st.integers(0, 2**32))
def test_without_losses_numbers_go_on_where_they_stood(route, script, seed):
    route = Route(route.src, route.dst, route.v6)
    packets = list(tcp_conversation(0.0, route, 80, script, label="x", rng=Random(seed)).packets)
    next_seq: dict[int, int] = {}
    for way, seen, again in both_ways(packets, route):
        tcp = seen.transport
        assert not again
        assert tcp.seq == next_seq.setdefault(way, tcp.seq)
        next_seq[way] = (tcp.seq + len(seen.payload) + bool(tcp.flags & (SYN | FIN))) % 2**32
        assert not tcp.flags & ACK or (next_seq[1 - way] - tcp.ack) % 2**32 < 2**20, "nothing unsaid is acknowledged"
    assert tcp.ack == next_seq[1 - way]


@given(routes(), MESSAGES, ENDINGS, st.integers(0, 2**32))
@settings(max_examples=40)
def test_acknowledgements_never_go_back_and_windows_are_kept(route, script, ending, seed):
    talk = tcp_conversation(0.0, route, 80, script, label="x", rng=Random(seed), ending=ending)
    stacks = route.src.stack, route.dst.stack
    scaled = all(stack.scale is not None for stack in stacks)
    acked: dict[int, int] = {}
    room: dict[int, int] = {}
    for way, seen, _ in both_ways(list(talk.packets), route):
        tcp = seen.transport
        if not tcp.flags & ACK:
            continue
        assert (tcp.ack - acked.get(way, tcp.ack)) % 2**32 < 2**31
        acked[way], room[way] = tcp.ack, tcp.win << (stacks[way].scale if scaled and not tcp.flags & SYN else 0)
        if seen.payload and 1 - way in acked:
            ahead = (tcp.seq + len(seen.payload) - acked[1 - way]) % 2**32
            assert ahead <= max(room[1 - way], 2 * 1460) or ahead > 2**31  # the latter: sent again, and heard since


@given(routes(), MESSAGES, st.integers(0, 2**32))
@settings(max_examples=20)
def test_handshake_comes_first_and_fin_last(route, script, seed):
    talk = tcp_conversation(0.0, route, 80, script, label="x", rng=Random(seed))
    flags = [seen.transport.flags for _, seen, again in both_ways(list(talk.packets), route) if not again]
    assert flags[:3] == [SYN, SYN | ACK, ACK]
    assert [each & FIN for each in flags].count(FIN) == 2
    assert flags[-1] == ACK


HOSTS = [
    Host(f"h{at}", bytes([2, 0, 0, 0, 0, at]), ipaddress.IPv4Address(f"10.0.0.{at}"), None, STACKS[0]) for at in (1, 2)
]
OUTCOMES = [
    ("closed", 0, [SYN, RST | ACK]),
    ("silent", 2, [SYN, SYN, SYN]),
    ("reset", 0, [SYN, SYN | ACK, RST]),
    ("ignored", 1, [SYN, SYN | ACK, SYN | ACK]),
]


@pytest.mark.parametrize(("outcome", "retries", "expected"), OUTCOMES)
def test_what_comes_to_nothing(outcome, retries, expected):
    talk = tcp_attempt(0.0, Route(*HOSTS), 81, outcome=outcome, label="x", rng=Random(0), retries=retries)
    passed = both_ways(list(talk.packets), Route(*HOSTS))
    assert [seen.transport.flags for _, seen, _ in passed] == expected
    if outcome == "closed":
        assert passed[1][1].transport.ack == passed[0][1].transport.seq + 1


def test_lost_segments_are_sent_again():
    route = Route(*HOSTS, loss=0.05)
    talk = tcp_conversation(0.0, route, 80, [Message(SERVER, bytes(400_000))], label="x", rng=Random(3))
    packets = list(talk.packets)
    again = sum(packet.retransmitted for packet in packets)
    assert 5 < again < 40
    acks = [seen.transport.ack for way, seen, _ in both_ways(packets, route) if way == CLIENT]
    assert len(acks) - len(set(acks)) >= again, "doubled acknowledgements ask for them"


def test_datagrams_and_pings_take_turns():
    script = [Message(CLIENT, b"q"), Message(SERVER, b"a", 0.01), Message(CLIENT, b"r"), Message(SERVER, b"b")]
    for talk in (
        udp_conversation(0.0, Route(*HOSTS), 53, script, label="x", rng=Random(0)),
        ping_conversation(0.0, Route(*HOSTS), label="x", rng=Random(0), count=2),
    ):
        packets = list(talk.packets)
        assert [way for way, *_ in both_ways(packets, Route(*HOSTS))] == [CLIENT, SERVER, CLIENT, SERVER]
        assert all(one.time_s < other.time_s for one, other in pairwise(packets))


@given(st.sampled_from(STACKS), st.integers(0, 1000))
def test_a_port_comes_again_late(stack, seed):
    host, rng = Host("h", bytes(6), ipaddress.IPv4Address(seed), None, stack), Random(seed)
    ports = [host.next_port(rng) for _ in range(400)]
    assert len(set(ports)) == 400
    assert all(stack.ports[0] <= port <= stack.ports[1] for port in ports)
