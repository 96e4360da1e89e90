"""Frames hold what was put in, with checksums that a plain sum confirms."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.simulation.frames import ACK, Envelope, Framer, arp_frame, echo_frame, tcp_options
from tests.packets.wire import take_apart

V6 = st.booleans()
PORT = st.integers(0, 65535)
WORD = st.integers(0, 2**32 - 1)
MACS = bytes([2, 0, 0, 0, 0, 1]), bytes([2, 0, 0, 0, 0, 2])


@st.composite
def envelopes(draw):
    size = 16 if draw(V6) else 4
    src, dst = draw(st.binary(min_size=size, max_size=size)), draw(st.binary(min_size=size, max_size=size))
    ttl, vlan = draw(st.integers(0, 255)), draw(st.none() | st.integers(1, 4094))
    return Envelope(*MACS, src, dst, ttl=ttl, vlan=vlan, ident=draw(st.integers(0, 2**20 - 1)))


@given(envelopes(), PORT, PORT, WORD, WORD, PORT, st.binary(max_size=99), st.none() | st.tuples(WORD, WORD))
def test_tcp_holds_what_was_put_in(envelope, src_port, dst_port, seq, ack, window, payload, times):
    options = tcp_options(times=times, mss=1400, scale=7)
    frame = Framer(envelope, src_port, dst_port).tcp(seq, ack, ACK, window, payload, options=options)
    seen = take_apart(0, frame)
    tcp = seen.transport
    assert (seen.src, seen.src_port, seen.dst, seen.dst_port) == (envelope.src_ip, src_port, envelope.dst_ip, dst_port)
    assert (tcp.seq, tcp.ack, tcp.flags, tcp.win, tcp.opts, seen.payload) == (seq, ack, ACK, window, options, payload)
    parsed = dict(dpkt.tcp.parse_opts(options))
    assert parsed[dpkt.tcp.TCP_OPT_MSS] == (1400).to_bytes(2, "big")
    assert (dpkt.tcp.TCP_OPT_TIMESTAMP in parsed) == (times is not None)


@given(envelopes(), PORT, PORT, st.binary(max_size=99))
def test_udp_holds_what_was_put_in(envelope, src_port, dst_port, payload):
    seen = take_apart(0, Framer(envelope, src_port, dst_port).udp(payload))
    assert (seen.src_port, seen.dst_port, seen.payload) == (src_port, dst_port, payload)


@given(envelopes(), st.booleans(), PORT, PORT, st.binary(max_size=99))
def test_pings_are_right(envelope, reply, ident, sequence, payload):
    seen = take_apart(0, echo_frame(envelope, reply=reply, ident=ident, sequence=sequence, payload=payload))
    kinds = (128, 129) if envelope.v6 else (8, 0)
    assert seen.payload[0] == kinds[reply]
    assert seen.payload[4:] == ident.to_bytes(2, "big") + sequence.to_bytes(2, "big") + payload


def test_each_ipv4_packet_has_a_number_of_its_own():
    envelope = Envelope(*MACS, bytes(4), bytes(4), ttl=64, vlan=None, ident=0xFFFF)
    frames = [Framer(envelope, 1, 2).udp(b"") for _ in range(3)]
    assert [int.from_bytes(frame[18:20], "big") for frame in frames] == [0, 1, 2]


@pytest.mark.parametrize("vlan", [None, 7])
def test_arp_asks_all_and_answers_one(vlan):
    question, answer = (arp_frame(MACS[0], bytes(4), to, bytes(4), vlan=vlan) for to in (None, MACS[1]))
    assert dpkt.ethernet.Ethernet(question).dst == b"\xff" * 6
    assert [dpkt.ethernet.Ethernet(frame).data.op for frame in (question, answer)] == [1, 2]
