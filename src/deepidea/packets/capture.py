"""Captures: pcap and pcapng files, streams of them, gzip or not, as blocks of packets in one piece of memory.

A block is found by a compiled scan over the bytes; no packet becomes an object of its own. What cannot be read is
counted by reason, and the rest of the file goes on where it can.

Sources: the pcap and pcapng drafts of the IETF opsawg (draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng) and the list
of link types at tcpdump.org.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from deepidea.errors import FileFormatError, SourceError

BLOCK_BYTES = 1 << 20  # what is read at once stays in the second cache while it is metered
BLOCK_PACKETS = 65_536
MOST_BYTES = 1 << 18  # of one packet; libpcap's own limit
_MOST_BLOCK = 1 << 24  # of one pcapng block
_MOST_INTERFACES = 256
_LATEST_US = 1 << 53  # the year 2255

_PCAP_MAGICS: dict[bytes, tuple[str, int]] = {  # byte order, and what a fraction of a second is divided by for us
    b"\xd4\xc3\xb2\xa1": ("<", 1),
    b"\xa1\xb2\xc3\xd4": (">", 1),
    b"\x4d\x3c\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1000),
}
_PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
_GZIP_MAGIC = b"\x1f\x8b"
_PCAP_HEADER = 24

# What stops a scan.
# _MORE: the bytes end within a record. _FULL: no room for more packets. _SPECIAL: a block that Python reads itself.
_MORE, _FULL, _CORRUPT, _SPECIAL = 0, 1, 2, 3


Place = Mapping[str, Any]
"""A place in a capture: ``offset`` in its unpacked bytes; of pcapng also the ``section`` that it lies in."""


@dataclass(frozen=True, slots=True, eq=False)
class PacketBlock:
    """Packets in the order of their capture.

    Parameters
    ----------
    data : array, uint8
        Bytes that hold all of them.
    offsets, captured, lengths : arrays, int64, (n_packets,)
        Where each begins, how many of its bytes are there, how many it had on the wire.
    times_us : array, int64, (n_packets,)
        Microseconds since 1970, rounded down.
    link_types : array, int64, (n_packets,)
        Numbers of tcpdump.org's list: 1 is Ethernet.
    place : mapping, optional
        Where the capture goes on behind them, as JSON values: for `iter_capture`.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    captured: NDArray[np.int64]
    lengths: NDArray[np.int64]
    times_us: NDArray[np.int64]
    link_types: NDArray[np.int64]
    place: Place | None = None

    def __len__(self) -> int:
        return len(self.offsets)


def iter_capture(
    source: str | Path | BinaryIO,
    skipped: Counter[str] | None = None,
    *,
    after: Place | None = None,
    until: int | None = None,
) -> Iterator[PacketBlock]:
    """Yield the packets of a capture, block by block.

    Parameters
    ----------
    source : path or binary stream
        pcap or pcapng, of either byte order, with micro- or nanoseconds, in gzip or not. A stream may be a pipe: what
        has arrived is handed over at once, and where its ``read1`` returns None, which says that nothing has come for
        a while, an empty block is.
    skipped : Counter, optional
        Gets what could not be read, by reason.
    after : mapping, optional
        Place of an earlier block of this capture: go on behind it.
    until : int, optional
        Offset of such a place: end there.

    Raises
    ------
    FileFormatError
        It does not begin like a capture.
    SourceError
        The file cannot be opened.

    Examples
    --------
    >>> import io, struct
    >>> header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    >>> record = struct.pack("<IIII", 10, 250000, 4, 60) + b"abcd"
    >>> [block] = iter_capture(io.BytesIO(header + record))
    >>> int(block.times_us[0]), int(block.captured[0]), int(block.lengths[0])
    (10250000, 4, 60)
    """
    skipped = Counter() if skipped is None else skipped
    if not isinstance(source, str | Path):
        yield from _iter_stream(source, "the stream", skipped, after, until)
        return
    try:
        stream = open(source, "rb")  # noqa: SIM115  # closed below, whatever happens in between
    except OSError as error:
        raise SourceError(f"cannot read {source}: {error.strerror}") from error
    with stream:
        yield from _iter_stream(stream, str(source), skipped, after, until)


def _iter_stream(
    stream: BinaryIO, name: str, skipped: Counter[str], after: Place | None, until: int | None
) -> Iterator[PacketBlock]:
    feed = _Feed(stream, skipped)
    # By content, not by name: captures are packed and renamed by many tools. Offsets are those of the unpacked bytes.
    if feed.peek(2) == _GZIP_MAGIC:
        feed = _Feed(_Gunzip(feed, skipped), skipped)
    feed.until = until
    magic = feed.peek(4)
    if magic in _PCAP_MAGICS:
        yield from _iter_pcap(feed, name, skipped, after)
    elif magic == _PCAPNG_MAGIC:
        yield from _iter_pcapng(feed, name, skipped, after)
    else:
        what = "it is empty" if not magic else f"it begins with {magic.hex(' ')}"
        raise FileFormatError(f"cannot read {name} as a pcap or pcapng capture: {what}")


class _Feed:
    """Bytes of a stream that were read and not yet used, and the offset of the first of them."""

    def __init__(self, stream: Any, skipped: Counter[str]) -> None:
        self.stream, self.skipped = stream, skipped
        self.data, self.ended, self.offset = b"", False, 0
        self.until: int | None = None

    def more(self) -> bool:
        """Read on; return whether anything came. If not, the stream has ended, or nothing has arrived yet."""
        # Not a byte behind `until`: what lies there was not metered before the restart, and must not be now.
        room = BLOCK_BYTES if self.until is None else min(BLOCK_BYTES, self.until - self.offset - len(self.data))
        part = b"" if room <= 0 else None if self.ended else _read_some(self.stream, room)
        self.ended = self.ended or part == b""
        if part:
            # The rest of a record is copied in front of what follows it, so that a scan sees each record in one piece.
            # It is at most one record, since all before it has been used.
            self.data = self.data + part if self.data else part
        return bool(part)

    def skip_to(self, offset: int) -> None:
        """Go on at an offset behind the present one; a plain file is not read in between."""
        ahead = offset - self.offset - len(self.data)
        # A packed stream or a pipe cannot seek; it is read through below.
        if ahead > 0 and hasattr(self.stream, "seek") and self.stream.seekable():
            self.stream.seek(ahead, io.SEEK_CUR)
            self.data, self.offset = b"", offset
        while self.offset < offset and (self.data or self.more() or not self.ended):
            self.use(min(len(self.data), offset - self.offset))

    def peek(self, n: int) -> bytes:
        """Return the next bytes without using them; fewer where the stream ends."""
        while len(self.data) < n and not self.ended:
            self.more()
        return self.data[:n]

    def use(self, n: int) -> None:
        """Drop bytes from the front."""
        self.data = self.data[n:]
        self.offset += n

    def read1(self, _n: int) -> bytes | None:
        """Give what is there, or what comes next; None where nothing has arrived yet."""
        if not self.data and not self.more() and not self.ended:
            return None
        data, self.data = self.data, b""
        self.offset += len(data)
        return data


def _read_some(stream: Any, most: int) -> bytes | None:
    """Read what has arrived, at least a byte; empty at the end, None where a stream says that nothing came."""
    # read1 returns what has arrived; read would wait until a whole block has.
    read = getattr(stream, "read1", None) or stream.read
    try:
        return cast("bytes | None", read(most))
    except OSError as error:
        raise SourceError(f"cannot read the capture to its end: {error}") from error


class _Gunzip:
    """Unpacks gzip members one after the other; a damaged end is counted, what came before it is kept."""

    def __init__(self, feed: _Feed, skipped: Counter[str]) -> None:
        self.feed, self.skipped = feed, skipped
        self.member = zlib.decompressobj(31)
        self.rest = b""

    def read1(self, n: int) -> bytes | None:
        while True:
            packed = self.rest or self.feed.read1(n)
            if packed is None:
                return None
            if not packed:
                if not self.member.eof:
                    self.skipped["gzip cut off"] += 1
                return b""
            try:
                if self.member.eof:
                    self.member = zlib.decompressobj(31)
                data = self.member.decompress(packed, n)
            except zlib.error:
                self.skipped["gzip damaged"] += 1
                self.feed.ended, self.feed.data, self.rest = True, b"", b""
                # An object that has ended: what is asked for later is not taken for a file that was cut off as well.
                self.member = _FINISHED
                return b""
            # Of the two, one is empty: unused bytes are of the next member, unconsumed ones did not fit into `n`
            # unpacked bytes.
            self.rest = self.member.unused_data or self.member.unconsumed_tail
            if data:
                return data


_FINISHED = zlib.decompressobj(31)
_FINISHED.decompress(gzip.compress(b""))


@dataclass(slots=True)
class _Scan:
    """Where a scan puts what it finds."""

    columns: NDArray[np.int64] = field(default_factory=lambda: np.zeros((BLOCK_PACKETS, 5), np.int64))

    def block(self, data: bytes, n: int, place: Place) -> PacketBlock:
        columns = self.columns[:n].T.copy()  # ascontiguousarray would return a view of a single packet's row
        offsets, captured, lengths, times_us, link_types = columns
        return PacketBlock(np.frombuffer(data, np.uint8), offsets, captured, lengths, times_us, link_types, place)


# --- pcap ------------------------------------------------------------------------------------------------------------


def _iter_pcap(feed: _Feed, name: str, skipped: Counter[str], after: Place | None) -> Iterator[PacketBlock]:
    header = feed.peek(_PCAP_HEADER)
    if len(header) < _PCAP_HEADER:
        raise FileFormatError(f"cannot read {name}: its pcap header ends after {len(header)} of 24 bytes")
    order, divisor = _PCAP_MAGICS[header[:4]]
    link_type = struct.unpack(order + "I", header[20:24])[0] & 0xFFFF  # the upper bits are about frame check sequences
    feed.use(_PCAP_HEADER)
    feed.skip_to(0 if after is None else int(after["offset"]))
    scan = _Scan()
    while True:
        # Packets that a full buffer or the end of the bytes cut off are found by the next scan, which begins behind the
        # last whole record.
        n, used, stop = _scan_pcap(_bytes(feed), order == "<", divisor, link_type, scan.columns)
        if n:
            yield scan.block(feed.data, n, {"offset": feed.offset + used})
        feed.use(used)
        if stop == _CORRUPT:
            skipped["corrupt record, rest of the capture unread"] += 1
            return
        if stop == _MORE and not feed.more():
            if not feed.ended:
                yield scan.block(b"", 0, {"offset": feed.offset})
                continue
            if feed.data:
                skipped["capture cut off in a record"] += 1
            return


def _bytes(feed: _Feed) -> NDArray[np.uint8]:
    return np.frombuffer(feed.data, np.uint8)


@njit(cache=True)
def _u32(data: NDArray[np.uint8], at: int, little: bool) -> int:
    a, b, c, d = np.int64(data[at]), np.int64(data[at + 1]), np.int64(data[at + 2]), np.int64(data[at + 3])
    if little:
        return a | (b << 8) | (c << 16) | (d << 24)
    return d | (c << 8) | (b << 16) | (a << 24)


@njit(cache=True)
def _scan_pcap(
    data: NDArray[np.uint8], little: bool, divisor: int, link_type: int, found: NDArray[np.int64]
) -> tuple[int, int, int]:
    """Find packets; return how many, how many bytes they took, and what stopped the scan.

    A record is 16 bytes of header (seconds, fraction, captured length, original length), then the captured bytes.
    """
    at, n, end = 0, 0, len(data)
    while at + 16 <= end:
        if n == len(found):
            return n, at, 1
        captured, length = _u32(data, at + 8, little), _u32(data, at + 12, little)
        # A length that no capture tool writes: the scan has lost its place, and pcap has no mark to find it again.
        if captured > MOST_BYTES:
            return n, at, 2
        if at + 16 + captured > end:
            return n, at, 0
        found[n, 0] = at + 16
        found[n, 1] = captured
        found[n, 2] = length
        found[n, 3] = _u32(data, at, little) * 1_000_000 + _u32(data, at + 4, little) // divisor
        found[n, 4] = link_type
        at += 16 + captured
        n += 1
    return n, at, 0


# --- pcapng ----------------------------------------------------------------------------------------------------------

_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_OPTION_END, _OPTION_RESOLUTION, _OPTION_OFFSET = 0, 9, 14


@dataclass(slots=True)
class _Section:
    """Byte order and interfaces of a pcapng section; of each: link type, snap length, resolution, offset in s."""

    little: bool = True
    interfaces: NDArray[np.int64] = field(default_factory=lambda: np.zeros((_MOST_INTERFACES, 4), np.int64))
    n_interfaces: int = 0
    last_us: int = 0

    @property
    def order(self) -> str:
        return "<" if self.little else ">"

    def place(self, offset: int) -> Place:
        """Return a place in this section: what `at` needs to read on there."""
        rows = self.interfaces[: self.n_interfaces].tolist()
        return {"offset": offset, "section": {"little": self.little, "interfaces": rows, "last_us": self.last_us}}

    @classmethod
    def at(cls, place: Place | None) -> _Section:
        """Return the section of a place; a new one without."""
        section = cls()
        if place is not None:
            known = place["section"]
            rows = np.array(known["interfaces"], np.int64).reshape(-1, 4)[:_MOST_INTERFACES]
            section.little, section.n_interfaces, section.last_us = bool(known["little"]), len(rows), known["last_us"]
            section.interfaces[: len(rows)] = rows
        return section


def _iter_pcapng(feed: _Feed, name: str, skipped: Counter[str], after: Place | None) -> Iterator[PacketBlock]:
    section, scan = _Section.at(after), _Scan()
    feed.skip_to(0 if after is None else int(after["offset"]))
    unread = np.zeros(1, np.int64)
    while True:
        n, used, stop = _scan_pcapng(
            _bytes(feed),
            section.little,
            section.interfaces,
            section.n_interfaces,
            section.last_us,
            unread,
            scan.columns,
        )
        if n:
            # A simple packet block has no time of its own: one at the start of the next scan takes that of this packet.
            section.last_us = int(scan.columns[n - 1, 3])
            yield scan.block(feed.data, n, section.place(feed.offset + used))
        _count_unread(unread, skipped)
        feed.use(used)
        if stop == _CORRUPT:
            skipped["corrupt block, rest of the capture unread"] += 1
            return
        if stop == _SPECIAL:
            stop = _read_special(feed, section, name, skipped)
        if stop == _CORRUPT:
            return
        # Nothing more: the end, unless the stream only says that nothing has come yet. Then an empty block is a sign of
        # life.
        if stop == _MORE and not feed.more():
            if not feed.ended:
                yield scan.block(b"", 0, section.place(feed.offset))
                continue
            if feed.data:
                skipped["capture cut off in a block"] += 1
            return


def _count_unread(unread: NDArray[np.int64], skipped: Counter[str]) -> None:
    if unread[0]:
        skipped["packet block that breaks the format"] += int(unread[0])
        unread[0] = 0


@njit(cache=True)
def _in_us(ticks: int, resolution: int) -> int:
    """Convert a time of a resolution as in if_tsresol: its upper bit selects a power of two instead of ten."""
    if resolution & 0x80:
        # Whole seconds apart from the fraction, so that ticks * 10^6 stays below 2^63; of more than 40 bits the lowest,
        # which are below a microsecond, are shifted out first.
        bits = resolution & 0x7F
        if bits > 40:
            return ((ticks >> (bits - 20)) * 1_000_000) >> 20
        whole = ticks >> bits
        return whole * 1_000_000 + (((ticks - (whole << bits)) * 1_000_000) >> bits)
    if resolution >= 6:
        return ticks // 10 ** (resolution - 6)
    return ticks * 10 ** (6 - resolution)


@njit(cache=True)
def _scan_pcapng(
    data: NDArray[np.uint8],
    little: bool,
    interfaces: NDArray[np.int64],
    n_interfaces: int,
    last_us: int,
    unread: NDArray[np.int64],
    found: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Find packets up to the next block that opens a section or an interface; as `_scan_pcap`."""
    at, n, end = 0, 0, len(data)
    while at + 12 <= end:
        if n == len(found):
            return n, at, 1
        kind, size = _u32(data, at, little), _u32(data, at + 4, little)
        # A section may change the byte order, and an interface the meaning of times, for the blocks behind it.
        if kind in (_SECTION, _INTERFACE):
            return n, at, 3
        # Every block is type, length, body, length again, padded to 32 bits: 12 bytes at least.
        if size < 12 or size % 4 or size > _MOST_BLOCK:
            return n, at, 2
        if at + size > end:
            return n, at, 0
        # Block layouts, offsets from its type: 6 enhanced packet (interface 8, time 12 and 16, captured 20, length 24,
        # data 28); 2 the obsolete packet block, whose interface has 16 bits; 3 simple packet (length 8, data 12), which
        # has no time and takes that of the packet before it.
        interface, captured, length, start, time = 0, -1, 0, 0, last_us
        if kind == _PACKET and size >= 32:
            interface = _u32(data, at + 8, little)
        elif kind == _OLD_PACKET and size >= 32:
            both = _u32(data, at + 8, little)
            interface = both & 0xFFFF if little else both >> 16
        if (kind in (_PACKET, _OLD_PACKET)) and size >= 32:
            captured, length, start = _u32(data, at + 20, little), _u32(data, at + 24, little), at + 28
            if interface < n_interfaces:
                ticks = (_u32(data, at + 12, little) << 32) | _u32(data, at + 16, little)
                time = _in_us(ticks, interfaces[interface, 2]) + interfaces[interface, 3] * 1_000_000
        elif kind == _SIMPLE_PACKET and size >= 16:
            length, start = _u32(data, at + 8, little), at + 12
            # It has no captured length: that follows from the length on the wire, the block's size and the snap length.
            captured = min(length, size - 16)
            if n_interfaces and interfaces[0, 1]:
                captured = min(captured, interfaces[0, 1])
        is_packet = kind in (_PACKET, _OLD_PACKET, _SIMPLE_PACKET)
        fits = 0 <= captured <= MOST_BYTES and start + captured + 4 <= at + size and interface < n_interfaces
        fits = fits and 0 <= time <= _LATEST_US
        if is_packet and fits:
            found[n, 0] = start
            found[n, 1] = captured
            found[n, 2] = length
            found[n, 3] = time
            found[n, 4] = interfaces[interface, 0]
            last_us = time
            n += 1
        # Its size is plausible, so the blocks behind it can be read; only this packet is lost, and counted.
        elif is_packet:
            unread[0] += 1
        at += size
    return n, at, 0


def _read_special(feed: _Feed, section: _Section, name: str, skipped: Counter[str]) -> int:
    """Read the section or interface block at the front; return what a scan would."""
    head = feed.peek(12)
    if len(head) < 12:
        return _MORE
    if head[:4] == _PCAPNG_MAGIC:
        orders = {b"\x4d\x3c\x2b\x1a": True, b"\x1a\x2b\x3c\x4d": False}
        if head[8:12] not in orders:
            raise FileFormatError(f"cannot read {name}: a pcapng section has byte-order magic {head[8:12].hex(' ')}")
        # The type of a section header reads the same in both byte orders; the magic behind the length tells which one
        # it is, so the length can be read only now.
        section.little = orders[head[8:12]]
        # Interfaces are numbered from 0 in each section.
        section.n_interfaces = 0
    size = struct.unpack(section.order + "I", head[4:8])[0]
    if size < 16 or size % 4 or size > _MOST_BLOCK:
        skipped["corrupt block, rest of the capture unread"] += 1
        return _CORRUPT
    block = feed.peek(size)
    if len(block) < size:
        skipped["capture cut off in a block"] += 1
        return _CORRUPT
    if head[:4] != _PCAPNG_MAGIC:
        _add_interface(section, block, skipped)
    feed.use(size)
    return _FULL  # go on with what is there


def _add_interface(section: _Section, block: bytes, skipped: Counter[str]) -> None:
    if section.n_interfaces == _MOST_INTERFACES or len(block) < 20:
        skipped["interface block that breaks the format"] += 1
        return
    link_type, _, snap = struct.unpack(section.order + "HHI", block[8:16])
    options = _options(block[16:-4], section.order)
    resolution = options.get(_OPTION_RESOLUTION, b"\x06")[:1] or b"\x06"
    offset = options.get(_OPTION_OFFSET, bytes(8))
    seconds = struct.unpack(section.order + "q", offset)[0] if len(offset) == 8 else 0
    # Finer units than femtoseconds, and powers of 2 beyond 2^60, would overflow 64 bits: they are taken for those.
    resolved = min(resolution[0], 15) if resolution[0] < 0x80 else 0x80 | min(resolution[0] & 0x7F, 60)
    row = (link_type, snap, resolved, seconds if abs(seconds) < 1 << 40 else 0)
    section.interfaces[section.n_interfaces] = row
    section.n_interfaces += 1


def _options(data: bytes, order: str) -> dict[int, bytes]:
    """Return the options of a block by code; what is cut off is left out."""
    options, at = {}, 0
    while at + 4 <= len(data):
        code, size = struct.unpack_from(order + "HH", data, at)
        if code == _OPTION_END or at + 4 + size > len(data):
            break
        options[code] = data[at + 4 : at + 4 + size]
        # Options are padded to 32 bits; the padding is not in their length.
        at += 4 + size + -size % 4
    return options
