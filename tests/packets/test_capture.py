"""Captures of every form give the same packets; damaged ones give what is whole, and count the rest."""

import contextlib
import gzip
import io
import json
import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.errors import FileFormatError, SourceError
from deepidea.packets.capture import iter_capture
from tests.packets.forging import block, conversation, pcap, pcapng

FRAMES = conversation()
FORMS = {
    "micro": pcap(FRAMES),
    "nano": pcap(FRAMES, nanoseconds=True),
    "big-endian": pcap(FRAMES, order=">"),
    "gzip": gzip.compress(pcap(FRAMES)),
    "two gzip members": gzip.compress(pcap(FRAMES)[:500]) + gzip.compress(pcap(FRAMES)[500:]),
    "pcapng": pcapng(FRAMES),
    "pcapng big-endian": pcapng(FRAMES, order=">"),
    "pcapng nano": pcapng(FRAMES, resolution=9),
    "pcapng millis": pcapng(FRAMES, resolution=3),
    "pcapng binary": pcapng(FRAMES, resolution=0x80 | 20),
    "pcapng two sections": pcapng(FRAMES[:3]) + pcapng(FRAMES[3:], order=">"),
}


def packets(data, skipped=None):
    read = []
    for found in iter_capture(io.BytesIO(data), skipped):
        for at, size, time in zip(found.offsets, found.captured, found.times_us, strict=True):
            read.append((int(time), found.data[at : at + size].tobytes()))
    return read


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_packets(form):
    skipped = Counter()
    found = packets(FORMS[form], skipped)
    assert not skipped
    assert [frame for _, frame in found] == [frame for _, frame in FRAMES]
    tolerance = 1 if "binary" in form else 0
    assert all(abs(t - round(s * 1e6)) <= tolerance for (t, _), (s, _) in zip(found, FRAMES, strict=True))


class Dribble(io.RawIOBase):
    """A pipe that hands over a few bytes at a time."""

    def __init__(self, data, step):
        self.data, self.step = data, step

    def read1(self, _n):
        head, self.data = self.data[: self.step], self.data[self.step :]
        return head


@pytest.mark.parametrize("form", ["micro", "gzip", "pcapng two sections"])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_stream_may_come_in_any_pieces(form, step):
    read = [len(b) for b in iter_capture(Dribble(FORMS[form], step))]
    assert sum(read) == len(FRAMES)


@pytest.mark.parametrize("form", FORMS)
def test_a_capture_that_is_cut_off_gives_what_is_whole(form):
    whole = packets(FORMS[form])
    for cut in range(40, len(FORMS[form]), 97):
        skipped = Counter()
        try:
            found = packets(FORMS[form][:cut], skipped)
        except FileFormatError:
            continue  # not even a header
        assert found == whole[: len(found)]
        assert found == whole or skipped or "pcapng" in form or "gzip" in form or cut in _record_ends()


def _record_ends():
    ends, at = set(), 24
    for _, frame in FRAMES:
        ends.add(at)
        at += 16 + len(frame)
    return ends


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b", b"hello, world", b"\xd4\xc3\xb2\xa1\x02"])
def test_what_is_no_capture_is_refused(data):
    with pytest.raises(FileFormatError, match="pcap"):
        packets(data)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(SourceError, match="No such file"):
        next(iter_capture(tmp_path / "none.pcap"))


def test_an_absurd_length_ends_the_capture_and_is_counted():
    skipped = Counter()
    data = pcap(FRAMES[:2]) + struct.pack("<IIII", 0, 0, 1 << 31, 0) + pcap(FRAMES[2:])[24:]
    assert len(packets(data, skipped)) == 2
    assert skipped == {"corrupt record, rest of the capture unread": 1}


def test_blocks_of_other_kinds_are_passed():
    data = pcapng(FRAMES[:1])
    data += block("<", 4, bytes(8)) + block("<", 5, bytes(20)) + block("<", 0xBAD, bytes(12))
    data += block("<", 3, struct.pack("<I", 60) + bytes(60))  # a simple packet has no time of its own
    found = packets(data)
    assert [t for t, _ in found] == [100_000_000, 100_000_000]


def test_a_packet_of_an_unknown_interface_is_counted():
    skipped = Counter()
    data = pcapng(FRAMES[:1]) + block("<", 6, struct.pack("<IIIII", 9, 0, 0, 4, 4) + bytes(4))
    assert len(packets(data, skipped)) == 1
    assert skipped == {"packet block that breaks the format": 1}


@given(st.sampled_from(sorted(FORMS)), st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=8))
def test_damage_never_crashes_the_reader(form, changes):
    data = bytearray(FORMS[form])
    for at, value in changes:
        data[at % len(data)] = value
    with contextlib.suppress(FileFormatError):
        packets(bytes(data), Counter())


@pytest.mark.parametrize("form", FORMS)
def test_a_capture_goes_on_behind_any_block(form, tmp_path, monkeypatch):
    monkeypatch.setattr("deepidea.packets.capture.BLOCK_BYTES", 100)
    path = tmp_path / "capture"
    path.write_bytes(FORMS[form])
    whole = list(iter_capture(path))
    assert len({found.place["offset"] for found in whole}) == len(whole) > 1
    for number, at in enumerate(whole):
        place = json.loads(json.dumps(at.place))
        assert _times(iter_capture(path, after=place)) == _times(whole[number + 1 :])
        assert _times(iter_capture(path, until=place["offset"])) == _times(whole[: number + 1])


def _times(blocks):
    return [time for found in blocks for time in found.times_us.tolist()]
