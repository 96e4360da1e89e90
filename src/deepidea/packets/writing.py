"""Write captures in the classic pcap format (draft-ietf-opsawg-pcap), packet by packet."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from deepidea.flows.atomic import replacing

__all__ = ["LINK_ETHERNET", "PcapWriter", "writing_pcap"]

LINK_ETHERNET = 1
WHOLE_PACKETS = 262_144  # snapshot length of capture tools that cut nothing
_MICROSECONDS, _NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D
_FILE_HEADER = struct.Struct("<IHHiIII")
_RECORD_HEADER = struct.Struct("<IIII")
_BUFFER_BYTES = 1 << 20


class PcapWriter:
    """Writes packets to an open binary file, in little-endian byte order on every machine.

    Parameters
    ----------
    file
        Open for writing; holds nothing but the capture.
    nanoseconds
        Whether to write times in nanoseconds (another magic number) instead of microseconds.
    snaplen
        Most bytes kept of a packet; the record holds its length, too.

    Examples
    --------
    >>> import io
    >>> file = io.BytesIO()
    >>> PcapWriter(file).write(1_500_000, bytes(60))
    >>> len(file.getvalue())
    100
    """

    def __init__(self, file: BinaryIO, *, nanoseconds: bool = False, snaplen: int = WHOLE_PACKETS) -> None:
        if snaplen < 1:
            raise ValueError(f"snaplen must be at least 1, got {snaplen}")
        self._write = file.write
        self._snaplen = snaplen
        self._unit_ns = 1 if nanoseconds else 1000
        magic = _NANOSECONDS if nanoseconds else _MICROSECONDS
        self._write(_FILE_HEADER.pack(magic, 2, 4, 0, 0, snaplen, LINK_ETHERNET))

    def write(self, time_ns: int, frame: bytes) -> None:
        """Append a packet with its time since 1970."""
        seconds, rest_ns = divmod(time_ns, 1_000_000_000)
        # The record keeps the length on the wire beside what was captured of it.
        kept = frame[: self._snaplen]
        self._write(_RECORD_HEADER.pack(seconds, rest_ns // self._unit_ns, len(kept), len(frame)) + kept)


@contextlib.contextmanager
def writing_pcap(path: str | Path, *, nanoseconds: bool = False, snaplen: int = WHOLE_PACKETS) -> Iterator[PcapWriter]:
    """Yield a `PcapWriter` whose file appears at ``path`` when the block ends without an error.

    Raises
    ------
    StorageError
        The file cannot be written; an earlier file at ``path`` stays.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.pcap"
    >>> with writing_pcap(path) as capture:
    ...     capture.write(0, bytes(60))
    ...     capture.write(1000, bytes(60))
    >>> path.stat().st_size
    176
    """
    with replacing(path) as partial, open(partial, "wb", buffering=_BUFFER_BYTES) as file:
        yield PcapWriter(file, nanoseconds=nanoseconds, snaplen=snaplen)
