"""Lines that come once and cannot be read again: the standard input, and a socket that Suricata writes to."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from deepidea.detection.sources.follow import LONGEST_LINE, beginning_of, split_lines
from deepidea.detection.sources.logs import PARSERS, sensor_of
from deepidea.detection.sources.registry import PCAP_MARKS
from deepidea.detection.sources.source import BATCH_FLOWS, LINGER_S, FlowBatch, Position
from deepidea.errors import FileFormatError, SourceError
from deepidea.flows.sensors.records import Parsed, RecordParser
from deepidea.flows.sensors.suricata import EveParser

__all__ = ["LineGatherer", "StdinSource", "UnixSource"]

READ_BYTES = 1 << 20


class LineGatherer:
    r"""Gathers lines until there are enough for a batch, or until the first has waited long enough.

    Parameters
    ----------
    most_lines
        Most lines of a block.

    Examples
    --------
    >>> lines = LineGatherer(2)
    >>> rest = lines.add(b"a\nb\nc\nd")
    >>> rest, lines.is_due, list(lines.take())
    (b'd', True, [b'a\nb\n', b'c\n'])
    """

    def __init__(self, most_lines: int) -> None:
        self._most_lines = most_lines
        self._parts: list[bytes] = []
        self._count, self._since = 0, 0.0

    def add(self, data: bytes) -> bytes:
        """Keep the whole lines of data and return the rest; a line longer than LONGEST_LINE is cut there."""
        lines, newline, rest = data.rpartition(b"\n")
        if len(rest) > LONGEST_LINE:
            # A stream without line breaks must not fill the memory; what is cut here is no record and will be counted
            # as skipped.
            lines, newline, rest = data, b"\n", b""
        if newline:
            self._since = self._since or time.monotonic()
            self._parts.append(lines + newline)
            self._count += lines.count(b"\n") + 1
        return rest

    @property
    def is_due(self) -> bool:
        """Whether there are lines enough for a batch, or the first has waited long enough."""
        waited = bool(self._parts) and time.monotonic() - self._since >= LINGER_S
        return waited or self._count >= self._most_lines

    def take(self) -> Iterator[bytes]:
        """Yield the gathered lines in blocks, and start over."""
        data, self._parts, self._count, self._since = b"".join(self._parts), [], 0, 0.0
        yield from split_lines(data, self._most_lines)


def _parsed(parser: RecordParser, lines: LineGatherer) -> Iterator[FlowBatch]:
    """Yield the gathered lines as batches; an empty one where there are none, so that the engine can stop."""
    for data in [*lines.take()] or [b""]:
        parsed = parser.parse(data)
        yield FlowBatch(parsed.flows, None, parsed.skipped, not_flows=parsed.not_flows)


class StdinSource:
    r"""Lines of Zeek's conn.log or Suricata's EVE on the standard input; the first record shows which.

    Parameters
    ----------
    address
        ``-``.
    stream
        Read this instead of the standard input.
    batch_flows
        Most flows of a batch.

    Examples
    --------
    >>> import io
    >>> source = StdinSource(stream=io.BytesIO(b'{"event_type":"dns"}\n'))
    >>> [dict(batch.not_flows) for batch in source.batches(None, threading.Event())]
    [{'dns': 1}]
    """

    name = "-"
    schema = "conn"
    replayable = False

    def __init__(self, address: str = "-", *, stream: IO[bytes] | None = None, batch_flows: int = BATCH_FLOWS) -> None:
        self.name = address
        self._stream, self._batch_flows = stream, batch_flows

    def batches(self, after: Position | None, stop: threading.Event) -> Iterator[FlowBatch]:  # noqa: ARG002
        """Yield batches: see :meth:`deepidea.detection.sources.source.Source.batches`."""
        parser: RecordParser | None = None
        lines, rest = LineGatherer(self._batch_flows), b""
        for data in _arriving(self._stream or sys.stdin.buffer, stop):
            rest += data
            parser = parser or _parser_of(rest, whole=False)
            rest = lines.add(rest) if parser else rest
            if parser and (lines.is_due or not data):
                yield from _parsed(parser, lines)
            elif not data:
                yield FlowBatch(Parsed().flows)
        parser = parser or _parser_of(rest, whole=True)
        if parser:
            lines.add(rest + b"\n" if rest and not stop.is_set() else b"")
            yield from _parsed(parser, lines)


def _parser_of(data: bytes, *, whole: bool) -> RecordParser | None:
    """Return the parser of these lines, None before their first record."""
    begins = beginning_of(data, whole=whole)
    if begins is None:  # the first record is not whole yet
        return None
    sensor = sensor_of(begins)
    if sensor is None and data.startswith(PCAP_MARKS):
        raise FileFormatError("the standard input is a packet capture, not conn.log or EVE; read it as pcap:-")
    if sensor is None:
        raise FileFormatError(
            f"the standard input is neither conn.log nor EVE: {begins[:60]!r}; for a table, name its file"
        )
    return PARSERS[sensor]()


def _arriving(stream: IO[bytes], stop: threading.Event) -> Iterator[bytes]:
    """Yield bytes as they come, and empty ones after LINGER_S without any."""
    try:
        number = stream.fileno()
    except OSError:  # a buffer in memory
        yield stream.read()
        return
    while not stop.is_set():
        # Read by descriptor, not through the buffered stream: select knows nothing of bytes that Python has already
        # buffered.
        if not select.select([number], [], [], LINGER_S)[0]:
            yield b""
        elif data := os.read(number, READ_BYTES):
            yield data
        else:
            return


class UnixSource:
    """EVE lines over a UNIX stream socket that Suricata connects to, with ``filetype: unix_stream``.

    Parameters
    ----------
    address
        ``unix:///run/suricata/deepidea.sock``. The socket is created with the first batch and removed at the end; a
        stale one is replaced.
    batch_flows
        Most flows of a batch.

    Examples
    --------
    >>> UnixSource("unix:///run/suricata/deepidea.sock").path
    PosixPath('/run/suricata/deepidea.sock')
    """

    schema = "conn"
    replayable = False

    def __init__(self, address: str, *, batch_flows: int = BATCH_FLOWS) -> None:
        self.name = address
        self.path = Path(address.removeprefix("unix://"))
        self._batch_flows = batch_flows

    def batches(self, after: Position | None, stop: threading.Event) -> Iterator[FlowBatch]:  # noqa: ARG002
        """Yield batches: see :meth:`deepidea.detection.sources.source.Source.batches`."""
        parser, lines, handed = EveParser(), LineGatherer(self._batch_flows), time.monotonic()
        with _Listener(self.path) as listener:
            while not stop.is_set():
                listener.receive(lines)
                if lines.is_due or time.monotonic() - handed >= LINGER_S:
                    yield from _parsed(parser, lines)
                    handed = time.monotonic()
            yield from _parsed(parser, lines)


class _Listener:
    """A listening socket and its connections, each with the unfinished line that came last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._selector = selectors.DefaultSelector()
        self._halves: dict[socket.socket, bytes] = {}
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> _Listener:
        try:
            _clear(self._path)
            self._server.bind(str(self._path))
            self._server.listen()
        except OSError as error:
            self._server.close()
            self._selector.close()
            if isinstance(error, SourceError):
                raise
            raise SourceError(
                f"cannot create socket {self._path}: {error.strerror or error}; check the folder and its permissions"
            ) from error
        self._server.setblocking(False)
        self._selector.register(self._server, selectors.EVENT_READ)
        return self

    def __exit__(self, *_error: object) -> None:
        for sock in (self._server, *self._halves):
            sock.close()
        self._selector.close()
        self._path.unlink(missing_ok=True)

    def receive(self, lines: LineGatherer) -> None:
        """Gather the lines that have come, waiting at most half of LINGER_S."""
        # Half of the linger: the lines that came first wait at most as long as a live source may hold them.
        for key, _ in self._selector.select(LINGER_S / 2):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)  # nothing else is registered
            if sock is self._server:
                self._accept()
            else:
                self._take_from(sock, lines)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):  # closed before it was accepted
            peer, _ = self._server.accept()
            peer.setblocking(False)
            self._halves[peer] = b""
            self._selector.register(peer, selectors.EVENT_READ)

    def _take_from(self, peer: socket.socket, lines: LineGatherer) -> None:
        try:
            data = peer.recv(READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            # A peer that broke off counts as one that ended: what it wrote of a last line is parsed, and skipped if it
            # is none.
            data = b""
        if data:
            self._halves[peer] = lines.add(self._halves[peer] + data)
            return
        self._selector.unregister(peer)
        peer.close()
        if half := self._halves.pop(peer):
            lines.add(half + b"\n")


def _clear(path: Path) -> None:
    """Remove a socket that no process listens to; raise where the path is anything else."""
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise SourceError(f"cannot create socket {path}: it exists and is no socket; choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            # The file of a socket outlives its process. Only a connection tells whether somebody still listens there.
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise SourceError(f"cannot listen at {path}: another process does; stop it first")
