"""What hosts say is read by another library as what it is meant to be."""

from __future__ import annotations

from random import Random

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.simulation.payloads import (
    Bulk,
    client_hello,
    dns_query,
    dns_response,
    http_request,
    http_response,
    ntp_packet,
    server_hello,
    tls_data,
)


@given(st.integers(1, 60_000), st.binary(max_size=50), st.booleans(), st.integers(0, 70_000), st.integers(0, 70_000))
def test_slices_are_those_of_the_whole(size, head, records, begin, end):
    body = Bulk(size, b"" if records else head, records=records)
    whole = body[:]
    assert len(whole) == len(body)
    assert body[begin:end] == whole[begin:end]


@given(st.integers(30, 100_000).filter(lambda size: size % 16_389 > 5))
def test_sealed_data_are_records_without_gaps(size):
    data, at = tls_data(size)[:], 0
    while at < len(data):
        assert data[at : at + 3] == b"\x17\x03\x03"
        at += 5 + int.from_bytes(data[at + 3 : at + 5], "big")
    assert at == size


def test_a_handshake_is_one():
    hello = dpkt.ssl.TLSRecord(client_hello("www.example", Random(0)))
    assert (hello.type, hello.length) == (22, len(hello.data))
    assert dpkt.ssl.TLSHandshake(hello.data).type == 1
    records, _ = dpkt.ssl.tls_multi_factory(server_hello(Random(0), certificate=900))
    assert [record.type for record in records] == [22, 20, 23]


@pytest.mark.parametrize("kind", ["A", "AAAA", "TXT", "PTR"])
def test_names_are_asked_for_and_answered(kind):
    size = {"A": 4, "AAAA": 16}.get(kind, 3)
    data = b"\x02hi" if kind != "PTR" else b"\x01a\x00"
    question = dpkt.dns.DNS(dns_query(7, "www.example", kind))
    answer = dpkt.dns.DNS(dns_response(7, "www.example", kind, (bytes(size) if size > 3 else data,)))
    assert (question.id, answer.id, question.qd[0].name) == (7, 7, "www.example")
    assert (question.qr, answer.qr, len(answer.an)) == (0, 1, 1)


def test_web_and_clock_are_understood():
    request = dpkt.http.Request(http_request("www.example", "/a", "test"))
    assert (request.method, request.uri, request.headers["host"]) == ("GET", "/a", "www.example")
    response = dpkt.http.Response(http_response(300)[:])
    assert (response.status, len(response.body)) == ("200", 300)
    assert dpkt.ntp.NTP(ntp_packet(1.5, server=True)).mode == dpkt.ntp.SERVER
