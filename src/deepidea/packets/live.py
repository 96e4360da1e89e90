"""Packets of a live interface: a ring of memory that the kernel fills (Linux, AF_PACKET, TPACKET_V3).

The kernel hands over blocks of packets; they are scanned in place by compiled code and copied once, as they are metered
after the block went back. What the kernel had to drop it counts, and so do we.

Source: the kernel's Documentation/networking/packet_mmap.rst and include/uapi/linux/if_packet.h.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from deepidea.errors import SourceError
from deepidea.packets.capture import PacketBlock

_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION = 263, 5, 6, 10
_TPACKET_V3 = 2
_ADD_MEMBERSHIP, _PROMISCUOUS = 1, 1
_STATUS_USER = 1
_LINK_TYPES = {1: 1, 772: 1, 65534: 101, 512: 12, 778: 101, 776: 101}  # ARPHRD to tcpdump.org's numbers
_LOOPBACK = 772
_MOST_FRAME = 1 << 16
_DRAIN_TIMEOUTS = 4  # after so many of a block's time-outs without one, no packet waits in a block that is not full


class LiveCapture:
    """Packets that pass an interface; a context that closes it.

    Parameters
    ----------
    interface : str
        Its name, as ``ip link`` shows it.
    block_bytes, n_blocks : int
        Of the ring: how much waits while nobody reads. The default holds 32 MiB.
    block_timeout_ms : int
        A block that is not full is handed over after so long.
    promiscuous : bool
        Whether to see what is meant for others.

    Raises
    ------
    SourceError
        No such interface, no permission, or a system that is not Linux.
    """

    def __init__(
        self,
        interface: str,
        *,
        block_bytes: int = 1 << 20,
        n_blocks: int = 32,
        block_timeout_ms: int = 50,
        promiscuous: bool = True,
    ) -> None:
        if not sys.platform.startswith("linux"):
            raise SourceError("a live interface needs Linux, however: this is not; read from `tcpdump -w -` instead")
        self.interface, self.block_bytes, self.n_blocks = interface, block_bytes, n_blocks
        self._block_timeout_s = block_timeout_ms / 1000
        self.dropped = 0
        self._next = 0
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except PermissionError as error:
            raise SourceError(
                f"a live interface needs the right to capture, however: {interface}: {error.strerror}; run as root, or "
                "give the interpreter the capability cap_net_raw, or read from `tcpdump -w -`"
            ) from error
        try:
            self._open_ring(block_timeout_ms, promiscuous)
        except OSError as error:
            self._socket.close()
            raise SourceError(
                f"an interface must be there and take a capture, however: {interface}: {error.strerror or error}"
            ) from error

    def _open_ring(self, block_timeout_ms: int, promiscuous: bool) -> None:
        ring = self._socket
        ring.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
        frames = self.block_bytes * self.n_blocks // _MOST_FRAME
        sizes = (self.block_bytes, self.n_blocks, _MOST_FRAME, frames, block_timeout_ms, 0, 0)
        ring.setsockopt(_SOL_PACKET, _PACKET_RX_RING, struct.pack("IIIIIII", *sizes))
        self._memory = mmap.mmap(ring.fileno(), self.block_bytes * self.n_blocks)
        self._view = np.frombuffer(self._memory, np.uint8)
        ring.bind((self.interface, _ETH_P_ALL))
        if promiscuous:
            index = socket.if_nametoindex(self.interface)
            with contextlib.suppress(OSError):  # loopback and some tunnels know no such mode
                ring.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, struct.pack("iHH8s", index, _PROMISCUOUS, 0, bytes(8)))
        hardware = ring.getsockname()[3]
        self.link_type = _LINK_TYPES.get(hardware, 1)
        self._skip_sent = hardware == _LOOPBACK  # which hands over every packet as it leaves and as it comes back

    def read(self, timeout_s: float) -> PacketBlock | None:
        """Return the packets of the next block, or None where none came in time.

        Raises
        ------
        SourceError
            The interface went away or down.
        """
        start = self._next * self.block_bytes
        if not self._status(start) & _STATUS_USER:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN | select.POLLERR)
            events = poll.poll(timeout_s * 1000)
            if any(event & select.POLLERR for _, event in events):
                self._refuse_error()
            if not self._status(start) & _STATUS_USER:
                return None
        block = self._copy(start)
        self._view[start + 8 : start + 12].view(np.uint32)[0] = 0  # back to the kernel
        self._next = (self._next + 1) % self.n_blocks
        return block

    def drain(self) -> Iterator[PacketBlock]:
        """Yield the blocks that hold what came before this call, for a reader that stops; it ends under any load.

        Raises
        ------
        SourceError
            The interface went away or down.
        """
        now_us = time.time_ns() // 1000
        for _ in range(self.n_blocks):  # the ring holds no more: what is behind them came later
            block = self.read(_DRAIN_TIMEOUTS * self._block_timeout_s)
            if block is None:
                return
            yield block
            if len(block) and block.times_us[-1] > now_us:
                return

    def _status(self, start: int) -> int:
        return int(self._view[start + 8 : start + 12].view(np.uint32)[0])

    def _refuse_error(self) -> None:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise SourceError(f"{self.interface} must stay up, however: {os.strerror(code)}")

    def _copy(self, start: int) -> PacketBlock:
        data = self._view[start : start + self.block_bytes].copy()
        n = int(data[12:16].view(np.uint32)[0])
        found = np.zeros((n, 4), np.int64)
        n = _scan_ring(data, int(data[16:20].view(np.uint32)[0]), self._skip_sent, found)
        offsets, captured, lengths, times_us = (np.ascontiguousarray(found[:n, j]) for j in range(4))
        return PacketBlock(data, offsets, captured, lengths, times_us, np.full(n, self.link_type, np.int64))

    def count_drops(self) -> int:
        """Return how many packets the kernel dropped since the last call; the sum is in ``dropped``."""
        told = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 12)
        dropped = int(struct.unpack("III", told)[1])
        self.dropped += dropped
        return dropped

    def close(self) -> None:
        """Give the ring back; nothing is captured from then on."""
        del self._view
        self._memory.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@njit(cache=True)
def _u32(data: NDArray[np.uint8], at: int) -> int:
    return (
        np.int64(data[at]) | np.int64(data[at + 1]) << 8 | np.int64(data[at + 2]) << 16 | np.int64(data[at + 3]) << 24
    )


@njit(cache=True)
def _scan_ring(data: NDArray[np.uint8], first: int, skip_sent: bool, found: NDArray[np.int64]) -> int:
    """Follow the frames of a block: offset, captured bytes, length on the wire, time in us."""
    at, n = first, 0
    for _ in range(len(found)):
        if at + 68 > len(data):
            return n
        captured = _u32(data, at + 12)
        start = at + (np.int64(data[at + 24]) | np.int64(data[at + 25]) << 8)  # where the link header begins
        if start + captured > len(data):
            return n
        if not (skip_sent and data[at + 58] == 4):  # sll_pkttype of the address behind the header: PACKET_OUTGOING
            found[n, 0] = start
            found[n, 1] = captured
            found[n, 2] = _u32(data, at + 16)
            found[n, 3] = _u32(data, at + 4) * 1_000_000 + _u32(data, at + 8) // 1000
            n += 1
        at += _u32(data, at)
    return n
