"""Capture from a live interface through a ring buffer shared with the kernel (Linux, AF_PACKET, TPACKET_V3).

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
_LINK_TYPES = {1: 1, 772: 1, 65534: 101, 512: 12, 778: 101, 776: 101}  # ARPHRD number to LINKTYPE number
_LOOPBACK = 772
_MOST_FRAME = 1 << 16
_DRAIN_TIMEOUTS = 4  # block time-outs after which the kernel has handed over every partly filled block

# The ring is n_blocks blocks of block_bytes. Each begins with a block descriptor (struct tpacket_block_desc):
#   8 block_status: TP_STATUS_KERNEL (0) while the kernel fills the block, TP_STATUS_USER (1) while we may read it
#  12 num_pkts, 16 offset_to_first_pkt
# and holds a chain of packets, each behind a struct tpacket3_hdr:
#   0 tp_next_offset, 4 tp_sec, 8 tp_nsec, 12 tp_snaplen (captured), 16 tp_len (on the wire), 24 tp_mac (link header)
#  48 struct sockaddr_ll, in which 10 sll_pkttype
# The kernel fills blocks in order and hands one over when it is full or its time-out has passed; we return it by
# clearing the status. When every block is ours, the kernel drops packets and counts them.


class LiveCapture:
    """Capture the packets of an interface; a context manager that closes it.

    Parameters
    ----------
    interface : str
        Its name, as ``ip link`` shows it.
    block_bytes, n_blocks : int
        Size of the ring, which buffers packets until they are read; 32 MiB by default.
    block_timeout_ms : int
        Time after which the kernel hands over a block that is not full.
    promiscuous : bool
        Whether to capture packets addressed to other hosts.

    Raises
    ------
    SourceError
        The interface does not exist, permission is missing, or the system is not Linux.
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
            raise SourceError("live capture needs Linux; pipe `tcpdump -w -` into - instead")
        self.interface, self.block_bytes, self.n_blocks = interface, block_bytes, n_blocks
        self._block_timeout_s = block_timeout_ms / 1000
        self.dropped = 0
        # The block that the kernel fills next: it goes round the ring in order.
        self._next = 0
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except PermissionError as error:
            raise SourceError(
                f"cannot capture from {interface}: {error.strerror}; run as root, give the interpreter the capability "
                "cap_net_raw, or pipe `tcpdump -w -` into -"
            ) from error
        try:
            self._open_ring(block_timeout_ms, promiscuous)
        except OSError as error:
            self._socket.close()
            raise SourceError(f"cannot capture from {interface}: {error.strerror or error}") from error

    def _open_ring(self, block_timeout_ms: int, promiscuous: bool) -> None:
        ring = self._socket
        ring.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
        frames = self.block_bytes * self.n_blocks // _MOST_FRAME
        sizes = (self.block_bytes, self.n_blocks, _MOST_FRAME, frames, block_timeout_ms, 0, 0)
        ring.setsockopt(_SOL_PACKET, _PACKET_RX_RING, struct.pack("IIIIIII", *sizes))
        self._memory = mmap.mmap(ring.fileno(), self.block_bytes * self.n_blocks)
        self._view = np.frombuffer(self._memory, np.uint8)
        # Bound last: the socket was made for protocol 0, which receives nothing, so no packet of another interface gets
        # into the ring.
        ring.bind((self.interface, _ETH_P_ALL))
        if promiscuous:
            index = socket.if_nametoindex(self.interface)
            with contextlib.suppress(OSError):  # loopback and some tunnels lack this mode
                ring.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, struct.pack("iHH8s", index, _PROMISCUOUS, 0, bytes(8)))
        hardware = ring.getsockname()[3]
        self.link_type = _LINK_TYPES.get(hardware, 1)
        self._skip_sent = hardware == _LOOPBACK  # loopback shows every packet twice: as it leaves and as it arrives

    def read(self, timeout_s: float) -> PacketBlock | None:
        """Return the packets of the next block, or None after a time without one.

        Raises
        ------
        SourceError
            The interface is gone or down.
        """
        start = self._next * self.block_bytes
        if not self._status(start) & _STATUS_USER:
            # The status is read again after the wait: poll may wake for a block that is not the next one, or for
            # nothing.
            poll = select.poll()
            poll.register(self._socket, select.POLLIN | select.POLLERR)
            events = poll.poll(timeout_s * 1000)
            if any(event & select.POLLERR for _, event in events):
                self._raise_socket_error()
            if not self._status(start) & _STATUS_USER:
                return None
        # Copied, then handed back at once: a meter that keeps a view would keep the kernel from filling the block.
        block = self._copy(start)
        self._view[start + 8 : start + 12].view(np.uint32)[0] = 0  # back to the kernel
        self._next = (self._next + 1) % self.n_blocks
        return block

    def drain(self) -> Iterator[PacketBlock]:
        """Yield the blocks of packets that came before this call, for a reader that stops.

        Raises
        ------
        SourceError
            The interface is gone or down.
        """
        now_us = time.time_ns() // 1000
        for _ in range(self.n_blocks):  # blocks behind these hold later packets: under any load, this ends
            block = self.read(_DRAIN_TIMEOUTS * self._block_timeout_s)
            if block is None:
                return
            yield block
            if len(block) and block.times_us[-1] > now_us:
                return

    def _status(self, start: int) -> int:
        return int(self._view[start + 8 : start + 12].view(np.uint32)[0])

    def _raise_socket_error(self) -> None:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise SourceError(f"cannot go on capturing from {self.interface}: {os.strerror(code)}")

    def _copy(self, start: int) -> PacketBlock:
        data = self._view[start : start + self.block_bytes].copy()
        n = int(data[12:16].view(np.uint32)[0])
        found = np.zeros((n, 4), np.int64)
        n = _scan_ring(data, int(data[16:20].view(np.uint32)[0]), self._skip_sent, found)
        offsets, captured, lengths, times_us = (np.ascontiguousarray(found[:n, j]) for j in range(4))
        return PacketBlock(data, offsets, captured, lengths, times_us, np.full(n, self.link_type, np.int64))

    def count_drops(self) -> int:
        """Return how many packets the kernel dropped since the last call; the sum is in ``dropped``."""
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 12)  # reading resets them
        dropped = int(struct.unpack("III", statistics)[1])
        self.dropped += dropped
        return dropped

    def close(self) -> None:
        """Stop capturing and free the ring."""
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
    """Follow the chain of packets; write offset, captured bytes, length on the wire and time in us, return how many."""
    at, n = first, 0
    for _ in range(len(found)):
        # 48 bytes of header and 20 of the address behind it.
        if at + 68 > len(data):
            return n
        captured = _u32(data, at + 12)
        start = at + (np.int64(data[at + 24]) | np.int64(data[at + 25]) << 8)  # of the link header
        if start + captured > len(data):
            return n
        if not (skip_sent and data[at + 58] == 4):  # PACKET_OUTGOING
            found[n, 0] = start
            found[n, 1] = captured
            found[n, 2] = _u32(data, at + 16)
            found[n, 3] = _u32(data, at + 4) * 1_000_000 + _u32(data, at + 8) // 1000
            n += 1
        at += _u32(data, at)
    return n
