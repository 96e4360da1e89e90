"""Writing captures: the classic pcap format, packet by packet, whole or not at all."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from deepidea.flows.atomic import replacing

__all__ = ["LINK_ETHERNET", "PcapWriter", "writing_pcap"]

LINK_ETHERNET = 1
WHOLE_PACKETS = 262_144  # the snapshot length that capture tools write when they cut nothing
_MICROSECONDS, _NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D
_FILE_HEADER = struct.Struct("<IHHiIII")
_RECORD_HEADER = struct.Struct("<IIII")
_BUFFER_BYTES = 1 << 20


class PcapWriter:
    """Writes packets to an open binary file.

    Parameters
    ----------
    file
        Open for writing; nothing but the capture goes into it.
    nanoseconds
        Whether times are kept to the nanosecond, which another magic number tells; else they are cut to the
        microsecond.
    snaplen
        Bytes of a packet that are kept; the record tells how long it was.

    Notes
    -----
    Source: draft-ietf-opsawg-pcap. Numbers are little-endian on every machine, so that the same packets are the same
    bytes.

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
            raise ValueError(f"snaplen must be positive, however: snaplen={snaplen}")
        self._write = file.write
        self._snaplen = snaplen
        self._unit_ns = 1 if nanoseconds else 1000
        magic = _NANOSECONDS if nanoseconds else _MICROSECONDS
        self._write(_FILE_HEADER.pack(magic, 2, 4, 0, 0, snaplen, LINK_ETHERNET))

    def write(self, time_ns: int, frame: bytes) -> None:
        """Append a packet that was seen at a time since 1970."""
        seconds, rest_ns = divmod(time_ns, 1_000_000_000)
        kept = frame[: self._snaplen]
        self._write(_RECORD_HEADER.pack(seconds, rest_ns // self._unit_ns, len(kept), len(frame)) + kept)


@contextlib.contextmanager
def writing_pcap(path: str | Path, *, nanoseconds: bool = False, snaplen: int = WHOLE_PACKETS) -> Iterator[PcapWriter]:
    """Yield a writer to a file that appears at ``path`` when the block ends well; see `PcapWriter`.

    Raises
    ------
    StorageError
        The system refuses to write. What stood at ``path`` before still stands.

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
