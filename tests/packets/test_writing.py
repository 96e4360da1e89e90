"""Captures are what any reader of pcap expects, and whole or not there."""

from __future__ import annotations

import io

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.errors import StorageError
from deepidea.packets.writing import PcapWriter, writing_pcap

PACKETS = st.lists(st.tuples(st.integers(0, 2**32 * 10**9 - 1), st.binary(max_size=200)), max_size=5)


@given(PACKETS, st.booleans(), st.integers(1, 300))
def test_what_was_written_is_read_back(packets, nanoseconds, snaplen):
    file = io.BytesIO()
    writer = PcapWriter(file, nanoseconds=nanoseconds, snaplen=snaplen)
    for time_ns, frame in packets:
        writer.write(time_ns, frame)
    reader = dpkt.pcap.UniversalReader(io.BytesIO(file.getvalue()))
    assert reader.datalink() == dpkt.pcap.DLT_EN10MB
    read = list(reader)
    assert [data for _, data in read] == [frame[:snaplen] for _, frame in packets]
    unit_ns = 1 if nanoseconds else 1000
    assert [float(at) for at, _ in read] == pytest.approx(
        [time_ns // unit_ns * unit_ns / 1e9 for time_ns, _ in packets], abs=1e-6
    )


def test_a_cut_packet_tells_how_long_it_was():
    file = io.BytesIO()
    PcapWriter(file, snaplen=64).write(0, bytes(1514))
    assert [int.from_bytes(file.getvalue()[at : at + 4], "little") for at in (32, 36)] == [64, 1514]


def test_an_error_leaves_what_stood_there(tmp_path):
    path = tmp_path / "lab.pcap"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), writing_pcap(path) as capture:
        capture.write(0, bytes(1 // 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="No such file"), writing_pcap(tmp_path / "absent" / "lab.pcap"):
        pass


def test_no_bytes_at_all_are_refused():
    with pytest.raises(ValueError, match="snaplen must be at least 1"):
        PcapWriter(io.BytesIO(), snaplen=0)
