"""Flows from exporters of NetFlow and IPFIX, over UDP."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from urllib.parse import urlsplit

from deepidea.detection.sources.source import BATCH_FLOWS, LINGER_S, FlowBatch, Position
from deepidea.errors import DataError, SourceError
from deepidea.flows.sensors.biflow import BiflowMerger, conn_table
from deepidea.flows.sensors.netflow import FlowRecord, NetFlowDecoder

__all__ = ["NetFlowSource"]

DEFAULT_PORT = 2055
RECEIVE_BUFFER_BYTES = 32 << 20  # the kernel gives as much of it as net.core.rmem_max allows
MOST_HEARD = 4_096  # exporters whose silence is timed; of more, the one heard longest ago counts as silent
_LARGEST_DATAGRAM = 65_535
_RXQ_OVFL = 40 if sys.platform == "linux" else None  # SO_RXQ_OVFL, which Python does not name
_COUNTER = struct.Struct("@I")


class NetFlowSource:
    """Receives NetFlow v5, v9 and IPFIX, and merges the records of both directions into flows of the `conn` schema.

    Parameters
    ----------
    address
        ``netflow://0.0.0.0:2055``, ``netflow://[::1]:2055``, or the same with ``ipfix``; without a host,
        ``netflow://:2055``, it listens to IPv6 and IPv4. Port 2055 where none is named.
    exporters
        Addresses of the exporters to take records of; of all where empty. UDP senders are not authenticated: name
        the exporters, or filter by a firewall.
    timeout_s, gap_s
        As in `BiflowMerger`. Records that wait for a silent exporter are flows after twice `timeout_s`.
    receive_buffer_bytes
        Size asked of the kernel's receive buffer.

    Attributes
    ----------
    port : int
        Port that it listens to; of an address with port 0, known after the first batch.
    sampled : dict
        Exporters that sample packets, with one in how many; their counts are not scaled.

    Notes
    -----
    Lost datagrams are counted in ``dropped``: those that overflowed the receive buffer (Linux), and gaps in the
    exporters' sequence numbers. It cannot be replayed. One core takes about 60,000 records a second.

    Raises
    ------
    DataError
        The address is none of these, or an exporter is no IP address.

    Examples
    --------
    >>> NetFlowSource("ipfix://127.0.0.1").name
    'netflow://127.0.0.1:2055'
    """

    schema = "conn"
    replayable = False

    def __init__(
        self,
        address: str,
        *,
        exporters: Collection[str] = (),
        timeout_s: float = 30.0,
        gap_s: float = 5.0,
        receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES,
    ) -> None:
        self._host, self.port = _host_and_port(address)
        self.name = f"netflow://{f'[{self._host}]' if ':' in self._host else self._host}:{self.port}"
        self._exporters = frozenset(_exporter(name) for name in exporters)
        self._silence_s = max(1.0, 2 * timeout_s)
        self._receive_buffer_bytes = receive_buffer_bytes
        self._decoder = NetFlowDecoder()
        self._merger = BiflowMerger(timeout_s=timeout_s, gap_s=gap_s)
        self._heard: dict[str, float] = {}
        self._kernel_drops = 0

    @property
    def sampled(self) -> dict[str, int]:
        """Exporters that sample packets, with one in how many."""
        return dict(self._decoder.sampled)

    def batches(self, after: Position | None, stop: threading.Event) -> Iterator[FlowBatch]:
        """Yield flows as they come, at least every 0.2 s, until `stop` is set; `after` has no meaning here.

        Raises
        ------
        SourceError
            The address is not this machine's, taken, or not allowed.
        """
        del after
        with contextlib.closing(self._open()) as listener:
            while not stop.is_set():
                yield from self._in_batches(self._listen(listener))
            # What the kernel holds was received, and what waits for its other direction will not get it any more.
            yield from self._in_batches([*self._drain(listener), *self._merger.flush()])

    def _open(self) -> socket.socket:
        try:
            listener = _bind(self._host, self.port)
        except OSError as error:
            raise SourceError(f"cannot listen at {self.name}: {error.strerror or error}; choose another one") from error
        # Exporters send in bursts, and UDP has no way to slow them down: what does not fit is lost.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes)
        if _RXQ_OVFL is not None:
            listener.setsockopt(socket.SOL_SOCKET, _RXQ_OVFL, 1)
        self.port = listener.getsockname()[1]
        self._kernel_drops = 0
        return listener

    def _listen(self, listener: socket.socket) -> list[FlowRecord]:
        """Return what comes within the time of a batch."""
        flows: list[FlowRecord] = []
        until = time.monotonic() + LINGER_S
        while len(flows) < BATCH_FLOWS and (left_s := until - time.monotonic()) > 0:
            listener.settimeout(left_s)
            with contextlib.suppress(TimeoutError):
                flows += self._receive(listener)
        return flows + self._silent()

    def _drain(self, listener: socket.socket) -> list[FlowRecord]:
        """Return what the kernel holds already."""
        listener.setblocking(False)
        flows: list[FlowRecord] = []
        with contextlib.suppress(BlockingIOError):
            while len(flows) < BATCH_FLOWS:
                flows += self._receive(listener)
        return flows

    def _receive(self, listener: socket.socket) -> list[FlowRecord]:
        datagram, control, _, sender = listener.recvmsg(_LARGEST_DATAGRAM, socket.CMSG_SPACE(_COUNTER.size))
        self._count_drops(control)
        exporter = _exporter(sender[0])
        if self._exporters and exporter not in self._exporters:
            self._decoder.skipped["datagram of an exporter that is not listened to"] += 1
            return []
        records = self._decoder.decode(datagram, exporter)
        if records:
            self._heard.pop(exporter, None)  # so that the dict is in order of time
            self._heard[exporter] = time.monotonic()
        return self._merger.add(records)

    def _count_drops(self, control: list[tuple[int, int, bytes]]) -> None:
        """Count datagrams that overflowed the receive buffer: the kernel sends a running total of 32 bits."""
        for level, kind, data in control:
            if (level, kind) == (socket.SOL_SOCKET, _RXQ_OVFL) and len(data) == _COUNTER.size:
                (total,) = _COUNTER.unpack(data)
                # The kernel attaches its total to each datagram that it delivers, once there are drops.
                lost = (total - self._kernel_drops) % (1 << 32)
                self._kernel_drops = total
                if lost:
                    self._decoder.dropped["datagrams dropped by the kernel"] += lost

    def _silent(self) -> list[FlowRecord]:
        """Return the flows of exporters that have been silent for long.

        A record waits for its other direction until the exporter's clock is past its timeout. That clock is read from
        datagrams only, so a silent exporter's records would wait for ever.
        """
        flows: list[FlowRecord] = []
        before = time.monotonic() - self._silence_s
        while self._heard:
            exporter, heard = next(iter(self._heard.items()))
            if heard > before and len(self._heard) <= MOST_HEARD:
                break
            del self._heard[exporter]
            flows += self._merger.flush(exporter)
        return flows

    def _in_batches(self, flows: list[FlowRecord]) -> Iterator[FlowBatch]:
        """Yield flows in batches of a bounded size, one that is empty where there are none."""
        for at in range(0, max(len(flows), 1), BATCH_FLOWS):
            yield self._batch(flows[at : at + BATCH_FLOWS])

    def _batch(self, flows: list[FlowRecord]) -> FlowBatch:
        # Counts are those since the last batch; the engine adds them up.
        evicted, self._merger.evicted = self._merger.evicted, 0
        skipped = self._decoder.skipped + Counter({"record no longer waited for: too many wait": evicted})
        dropped = self._decoder.dropped
        self._decoder.skipped, self._decoder.dropped = Counter(), Counter()
        return FlowBatch(conn_table(flows), None, dict(skipped), dict(dropped))


def _host_and_port(address: str) -> tuple[str, int]:
    """Return the host of an address in one spelling, empty for all of them, and the port."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
        known = parts.scheme in ("netflow", "ipfix") and not (parts.path.strip("/") or parts.query or parts.fragment)
        if host:
            host = str(ipaddress.ip_address(host))
    except ValueError:
        known, host, port = False, "", None
    if not known:
        raise DataError(f"a NetFlow address must be netflow://ADDRESS:PORT or netflow://:PORT, got {address!r}")
    return host, DEFAULT_PORT if port is None else port


def _exporter(address: str) -> str:
    """Return an address in one spelling; IPv4 that came over an IPv6 socket is IPv4."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError as error:
        raise DataError(f"an exporter must be an IP address, got {address!r}") from error
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET if host and ":" not in host else socket.AF_INET6
    # One IPv6 socket for both families: IPv4 exporters then appear as ::ffff:a.b.c.d, which `_exporter` turns back.
    both = not host and socket.has_dualstack_ipv6()
    listener = socket.socket(family if host or both else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        if both:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host or ("::" if both else "0.0.0.0"), port))
    except OSError:
        listener.close()
        raise
    return listener
