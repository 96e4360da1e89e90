"""Datagrams to records: three versions tell the same, and no bytes do harm."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.flows.sensors.biflow import BiflowMerger, conn_table
from deepidea.flows.sensors.netflow import FlowRecord, NetFlowDecoder
from tests.flows import datagrams as forged
from tests.flows.datagrams import IPFIX_FIELDS, UNIX_S, V9_FIELDS, a_set, ipfix, ipfix_row, row, template, v9, v9_row

US = 1_000_000
V9_TEMPLATE = a_set(0, template(256, V9_FIELDS))
IPFIX_TEMPLATE = a_set(2, template(256, IPFIX_FIELDS))
EXAMPLES = [
    forged.v5([{}, {"src": "10.0.0.2", "dst": "10.0.0.1", "sport": 443, "dport": 40_000}]),
    v9(V9_TEMPLATE, a_set(256, v9_row(), v9_row(dport=80))),
    v9(a_set(1, b"\x01\x01\0\x04\0\x04\0\x01\0\x04\0\x22\0\x04"), a_set(257, bytes(4), b"\0\0\0\x64")),
    ipfix(IPFIX_TEMPLATE, a_set(256, ipfix_row())),
    ipfix(a_set(2, template(300, ((8, 4), (12, 4), (82, 65_535), (4, 1)))), a_set(300, bytes(8), b"\x03abc\x06")),
    ipfix(a_set(3, b"\x01\x01\0\x02\0\x01\0\x8f\0\x04\0\xa0\0\x08"), a_set(257, bytes(4), bytes(8))),
]


def decode(*datagrams: bytes, decoder: NetFlowDecoder | None = None) -> list[FlowRecord]:
    decoder = decoder or NetFlowDecoder()
    return [record for datagram in datagrams for record in decoder.decode(datagram, "192.0.2.1")]


def test_the_three_versions_tell_the_same() -> None:
    [v5_record] = decode(forged.v5([{}]))
    [v9_record] = decode(v9(V9_TEMPLATE, a_set(256, v9_row())))
    [ipfix_record] = decode(ipfix(IPFIX_TEMPLATE, a_set(256, ipfix_row())))
    assert v5_record == v9_record == ipfix_record
    assert (v5_record.start_us, v5_record.end_us) == ((UNIX_S - 2) * US, UNIX_S * US - US // 2)


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=200), max_size=5), st.sampled_from([b"", b"\0\x05", b"\0\x09", b"\0\x0a"]))
def test_random_bytes_are_skipped_and_counted(blobs: list[bytes], version: bytes) -> None:
    decoder = NetFlowDecoder(max_exporters=2, max_templates=3)
    for blob in blobs:
        records = decoder.decode(version + blob, "192.0.2.1")
        assert conn_table(BiflowMerger().add(records)).height <= len(records)
    assert all(count > 0 for count in decoder.skipped.values())


@settings(max_examples=600)
@given(st.data())
def test_mutated_datagrams_do_no_harm(data: st.DataObject) -> None:
    decoder, merger = NetFlowDecoder(max_exporters=2, max_templates=3), BiflowMerger()
    for _ in range(data.draw(st.integers(1, 4))):
        datagram = bytearray(data.draw(st.sampled_from(EXAMPLES)))
        for at in data.draw(st.lists(st.integers(0, len(datagram) - 1), max_size=6)):
            datagram[at] = data.draw(st.integers(0, 255))
        kept = bytes(datagram[: data.draw(st.integers(0, len(datagram)))] if data.draw(st.booleans()) else datagram)
        conn_table(merger.add(decoder.decode(kept, "192.0.2.1")))
    conn_table(merger.flush())


@given(st.integers(0, 2**32 - 1), st.integers(0, 86_400_000), st.integers(0, 86_400_000))
def test_uptime_wraps_around(uptime: int, ago: int, lasted: int) -> None:
    first, last = (uptime - ago - lasted) % 2**32, (uptime - ago) % 2**32
    [record] = decode(forged.v5([{"first": first, "last": last}], uptime_ms=uptime))
    assert record.end_us == UNIX_S * US - 1000 * ago
    assert record.end_us - record.start_us == 1000 * lasted


def test_cut_off_seconds_do_not_change_who_began_first() -> None:
    later = v9(a_set(256, v9_row()), number=1, uptime_ms=61_999)  # 1.999 s on, and still the next second
    first, second = decode(v9(V9_TEMPLATE, a_set(256, v9_row())), later.replace(*_seconds(UNIX_S + 1)))
    assert first.start_us == second.start_us


def _seconds(unix_s: int) -> tuple[bytes, bytes]:
    return UNIX_S.to_bytes(4, "big"), unix_s.to_bytes(4, "big")


def test_data_before_its_template_is_counted_and_forgotten() -> None:
    decoder = NetFlowDecoder()
    data = a_set(256, v9_row())
    assert decode(v9(data), decoder=decoder) == []
    assert decoder.skipped == {"data set before its template": 1}
    assert len(decode(v9(V9_TEMPLATE, number=1), v9(data, number=2), decoder=decoder)) == 1


def test_templates_belong_to_an_exporter_and_its_domain() -> None:
    decoder = NetFlowDecoder()
    decode(ipfix(IPFIX_TEMPLATE), decoder=decoder)
    assert decode(ipfix(a_set(256, ipfix_row()), domain=2), decoder=decoder) == []
    assert decoder.decode(ipfix(a_set(256, ipfix_row())), "192.0.2.2") == []
    assert len(decode(ipfix(a_set(256, ipfix_row())), decoder=decoder)) == 1


def test_templates_and_exporters_are_bounded_and_the_oldest_go() -> None:
    decoder = NetFlowDecoder(max_exporters=2, max_templates=2)
    decode(ipfix(a_set(2, *(template(256 + i, IPFIX_FIELDS) for i in range(5)))), decoder=decoder)
    assert decode(ipfix(a_set(256, ipfix_row())), decoder=decoder) == []
    assert len(decode(ipfix(a_set(260, ipfix_row())), decoder=decoder)) == 1
    for domain in range(2, 5):
        decode(ipfix(IPFIX_TEMPLATE, domain=domain), decoder=decoder)
    assert decoder.skipped["template evicted: too many templates"] == 3
    assert decoder.skipped["exporter evicted: too many exporters"] == 2


def test_variable_lengths_and_enterprise_fields_are_stepped_over() -> None:
    fields = ((8, 4), (95, 65_535), (12, 4), (7, 3, 9), (4, 1), *IPFIX_FIELDS[2:6], (1001, 65_535, 29_305))
    ms = 1000 * UNIX_S
    for text in (b"", b"\x04name"[1:], bytes(300)):
        length = bytes((len(text),)) if len(text) < 255 else b"\xff" + len(text).to_bytes(2, "big")
        head, rest = row(fields[:1], "10.0.0.1"), row(fields[2:5], "10.0.0.2", b"xyz", 17)
        counts = row(IPFIX_FIELDS[2:6], 2, 120, ms - 9, ms)
        record_bytes = head + length + text + rest + counts + b"\x02zz"
        got = decode(ipfix(a_set(2, template(300, fields)), a_set(300, record_bytes, record_bytes)))
        assert [(r.protocol, r.fwd_packets, r.fwd_bytes, r.src_port) for r in got] == [(17, 2, 120, 0)] * 2


def test_both_directions_of_one_record() -> None:
    fields = (*IPFIX_FIELDS, (1, 8, 29_305), (2, 8, 29_305), (6, 1, 29_305), (239, 1))
    bodies = [ipfix_row() + row(fields[10:], 9000, 7, 0x04, direction) for direction in (1, 2)]
    one, other = decode(ipfix(a_set(2, template(300, fields)), a_set(300, *bodies)))
    assert (one.fwd_packets, one.fwd_bytes, one.bwd_packets, one.bwd_bytes, one.tcp_flags) == (3, 180, 7, 9000, 0x1F)
    assert (other.src, other.src_port, other.fwd_bytes, other.bwd_bytes) == (one.dst, 443, 9000, 180)


def test_options_report_sampling_and_start_up_and_make_no_flows() -> None:
    decoder = NetFlowDecoder()
    fields = (*IPFIX_FIELDS[:4], (22, 4), (21, 4), *IPFIX_FIELDS[6:])
    options = a_set(3, b"\x01\x01\0\x03\0\x01", *(forged._field(n, size) for n, size in ((143, 4), (160, 8), (305, 4))))
    about = a_set(257, row(((143, 4), (160, 8), (305, 4)), 1, 1000 * UNIX_S - 60_000, 100))
    flow = row(fields, "10.0.0.1", "10.0.0.2", 3, 180, 58_000, 59_500, 40_000, 443, 0x1B, 6)
    [record] = decode(ipfix(options, a_set(2, template(300, fields)), about, a_set(300, flow)), decoder=decoder)
    assert record.start_us == (UNIX_S - 2) * US
    assert decoder.sampled == {"192.0.2.1": 100}
    assert not decoder.skipped


@pytest.mark.parametrize(("numbers", "lost"), [((0, 2, 4), 0), ((0, 5), 3), ((4, 2), 0), ((2**32 - 2, 0), 0)])
def test_gaps_in_the_sequence_are_counted_as_dropped(numbers: tuple[int, ...], lost: int) -> None:
    decoder = NetFlowDecoder()
    decode(*(forged.v5([{}, {}], number=number) for number in numbers), decoder=decoder)
    assert decoder.dropped.total() == lost


@pytest.mark.parametrize(("numbers", "lost"), [((7, 8, 9), 0), ((7, 10), 2), ((7, 9, 8, 10), 1)])
def test_version_9_numbers_datagrams(numbers: tuple[int, ...], lost: int) -> None:
    decoder = NetFlowDecoder()
    decode(*(v9(V9_TEMPLATE, number=number) for number in numbers), decoder=decoder)
    assert decoder.dropped.total() == lost


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"first": 59_501}, "record with impossible times"), ({"packets": 0}, "record without packets")],
)
def test_records_that_cannot_be_are_counted(change: dict[str, int], reason: str) -> None:
    decoder = NetFlowDecoder()
    assert len(decode(forged.v5([change, {}]), decoder=decoder)) == 1
    assert decoder.skipped == {reason: 1}


def test_icmp_has_type_and_code_for_ports() -> None:
    [record] = decode(forged.v5([{"protocol": 1, "sport": 0, "dport": 8 << 8, "flags": 0}]))
    assert (record.src_port, record.dst_port, record.tcp_flags) == (8, 0, None)
    other = dataclasses.replace(record, protocol=47)
    assert conn_table(BiflowMerger().add([other])).height == 0


def test_a_template_can_be_taken_back() -> None:
    decoder = NetFlowDecoder()
    decode(ipfix(IPFIX_TEMPLATE), ipfix(a_set(2, template(256, ()))), decoder=decoder)
    assert decode(ipfix(a_set(256, ipfix_row())), decoder=decoder) == []
