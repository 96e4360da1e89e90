"""Sinks: where lines of alerts go: the standard output, files, syslog servers, webhooks, streams."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import os
import socket
import ssl
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import IO, Protocol
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from deepidea.detection.sinks.formats import FORMATS
from deepidea.errors import DataError, SinkError

__all__ = ["SINKS", "FileSink", "Sink", "StdoutSink", "SyslogSink", "WebhookSink", "open_sink"]

TIMEOUT_S = 10.0
UDP_BYTES = 65_000  # a datagram over this cannot be sent; receivers may cut far earlier (RFC 5424 section 6.1: 2,048)


class Sink(Protocol):
    """Where lines go. Its constructor opens nothing; the first :meth:`send` does."""

    name: str
    """What names it in a store and on screen: the address without a password."""

    format: str
    """Name of the format that it takes (:data:`deepidea.detection.sinks.formats.FORMATS`)."""

    def send(self, lines: Sequence[str]) -> None:
        """Hand over lines, all of them or none as far as can be known.

        Raises
        ------
        SinkError
            It did not take them; the caller keeps them and sends them again. Some may have arrived.
        """

    def close(self) -> None:
        """Let go of what is open; a later :meth:`send` opens it again."""


def open_sink(address: str, *, format: str | None = None) -> Sink:
    """Return a sink for an address.

    Parameters
    ----------
    address
        ``stdout``; ``file:///path?rotate_mb=100&keep=5``; ``syslog+udp://host:514``, ``syslog+tcp://host:601``,
        ``syslog+tls://host:6514?ca=/path/ca.pem``; ``http://host/path`` or ``https://host/path?ca=/path/ca.pem``;
        ``kafka://host:9092/TOPIC``; ``redis://host:6379/0?stream=NAME``.
        ``timeout_s`` is an option of all that have a server, ``ca`` names the certificates that a server's is checked
        against, in place of the system's. Other options of a webhook's address belong to it and are sent.
    format
        Format of the lines; absent, CEF for syslog and EVE for the others.

    Raises
    ------
    DataError
        No sink is known by that address, or an option of it cannot be read.

    Examples
    --------
    >>> open_sink("syslog+udp://127.0.0.1").format, open_sink("stdout").format
    ('cef', 'eve')
    """
    if "://" not in address and address != "stdout":
        raise DataError(f"a sink must be stdout or an address with ://, however: {address!r} is neither")
    parts = urlsplit(address if "://" in address else f"{address}://")
    if parts.scheme not in SINKS:
        raise DataError(f"a sink must be one of {', '.join(SINKS)}, however: {address!r} is none of them")
    if format is not None and format not in FORMATS:
        raise DataError(f"a format must be one of {', '.join(FORMATS)}, however: {format!r} is none of them")
    try:
        return SINKS[parts.scheme](parts, format)
    except ValueError as error:  # a port or number that is none
        if isinstance(error, DataError):
            raise
        raise DataError(f"the address of a sink must be readable, however: {address!r}: {error}") from error


def _options(parts: SplitResult, *known: str) -> dict[str, str]:
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = [name for name in options if name not in known]
    if unknown:
        raise DataError(
            f"{parts.scheme} has the options {', '.join(known) or 'none'}, however: {', '.join(unknown)} is asked for"
        )
    return options


def _public_name(parts: SplitResult) -> str:
    """Return an address without user and password."""
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + (f"?{parts.query}" if parts.query else "")


@contextlib.contextmanager
def _sink_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a closed stream, a name no host has
        if isinstance(error, SinkError):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SinkError(f"a sink must take alerts, however: {name}: {reason}") from error


class StdoutSink:
    """The standard output: one line an alert."""

    def __init__(self, *, format: str = "eve", stream: IO[str] | None = None) -> None:
        self.name, self.format = "stdout", format
        self._stream = stream

    def send(self, lines: Sequence[str]) -> None:
        """Write and flush lines."""
        stream = self._stream or sys.stdout
        with _sink_errors(self.name):
            stream.write("".join(f"{line}\n" for line in lines))
            stream.flush()

    def close(self) -> None:
        """Do nothing: the stream is not ours."""


class FileSink:
    """A file that lines are appended to, turned over when it is full.

    Parameters
    ----------
    path
        The file. Older ones lie beside it: ``path.1`` is the one before, and so on.
    rotate_mb
        Size in 10^6 bytes past which no line is added; one long line may be more. Never turned over where absent.
    keep
        How many older ones are kept.

    Notes
    -----
    A file holds whole lines: where a write breaks off, at a full disk or when the process dies, the part of a line is
    taken back, at once or before the next write. A file that someone else has moved away is made anew.

    Examples
    --------
    >>> import tempfile
    >>> sink = FileSink(Path(tempfile.mkdtemp()) / "alerts.json", rotate_mb=100)
    >>> sink.send(["{}", "{}"])
    >>> sink.close()
    >>> sink.path.read_text().splitlines()
    ['{}', '{}']
    """

    def __init__(
        self, path: str | Path, *, rotate_mb: float | None = None, keep: int = 5, format: str = "eve", name: str = ""
    ) -> None:
        if keep < 0 or (rotate_mb is not None and rotate_mb <= 0):
            raise DataError(f"rotate_mb must be above 0 and keep 0 or more, however: {rotate_mb} and {keep}")
        self.path, self.format, self.name = Path(path), format, name or f"file://{path}"
        self._most_bytes = None if rotate_mb is None else round(rotate_mb * 1e6)
        self._keep = keep
        self._file: IO[bytes] | None = None

    def send(self, lines: Sequence[str]) -> None:
        """Append lines, turning the file over before one that would not fit."""
        with _sink_errors(self.name):
            pending = bytearray()
            size = self._open().tell()
            for line in lines:
                data = line.encode() + b"\n"
                if self._most_bytes is not None and size and size + len(data) > self._most_bytes:
                    self._append(bytes(pending))
                    self._turn_over()
                    pending, size = bytearray(), 0
                pending += data
                size += len(data)
            self._append(bytes(pending))

    def _open(self) -> IO[bytes]:
        """Return the file, at its end, behind a whole line."""
        if self._file is not None and not self._is_ours(self._file):
            self.close()
        if self._file is None:
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
            cut_torn_line(self._file)
        self._file.seek(0, os.SEEK_END)
        return self._file

    def _is_ours(self, file: IO[bytes]) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def _append(self, data: bytes) -> None:
        if not data:
            return
        file = self._open()
        before, view = file.tell(), memoryview(data)
        try:
            while view:
                view = view[file.write(view) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise

    def _turn_over(self) -> None:
        self.close()
        for number in range(self._keep, 0, -1):
            older = self.path if number == 1 else self._numbered(number - 1)
            if older.exists():
                os.replace(older, self._numbered(number))
        if not self._keep:
            self.path.unlink(missing_ok=True)

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def cut_torn_line(file: IO[bytes]) -> None:
    """Cut off what stands behind the last line break of a file: a process died while it wrote."""
    end = file.seek(0, os.SEEK_END)
    start = end
    while start > 0:
        step = min(65_536, start)
        file.seek(start - step)
        at = file.read(step).rfind(b"\n")
        if at >= 0:
            start = start - step + at + 1
            break
        start -= step
    if start < end:
        file.truncate(start)


class SyslogSink:
    """A syslog server: RFC 5424 messages over UDP (RFC 5426), or over TCP or TLS with octet counting (RFC 6587, 5425).

    Parameters
    ----------
    host, port
        The server.
    transport
        ``udp``, ``tcp`` or ``tls``.
    ca
        File of certificates that the server's is checked against; the system's where absent.
    facility
        Number in RFC 5424 section 6.2.1; 10 is security and authorisation.

    Notes
    -----
    Syslog has no answer: what a server's machine accepted and then lost is lost. TCP tells of a connection that ended
    only with a write after it, so a batch at the time of a server's end may be lost; before a batch the connection is
    looked at, which keeps this rare. Use a webhook or a file where that matters.
    """

    _SEVERITY = 4  # warning

    def __init__(
        self,
        host: str,
        port: int,
        *,
        transport: str = "udp",
        ca: str | None = None,
        timeout_s: float = TIMEOUT_S,
        facility: int = 10,
        format: str = "cef",
        name: str = "",
    ) -> None:
        self.format, self.name = format, name or f"syslog+{transport}://{host}:{port}"
        self._address, self._transport, self._ca, self._timeout_s = (host, port), transport, ca, timeout_s
        self._priority = f"<{facility * 8 + self._SEVERITY}>1"
        self._socket: socket.socket | None = None

    def send(self, lines: Sequence[str]) -> None:
        """Send each line as a message."""
        messages = [self._message(line) for line in lines]
        with _sink_errors(self.name):
            try:
                connection = self._connected()
                if self._transport == "udp":
                    for message in messages:
                        connection.send(message[:UDP_BYTES])
                else:
                    connection.sendall(b"".join(b"%d %s" % (len(message), message) for message in messages))
            except OSError:
                self.close()
                raise

    def _message(self, line: str) -> bytes:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        host = "".join(c for c in socket.gethostname() if 33 <= ord(c) <= 126)[:255] or "-"
        return f"{self._priority} {now} {host} deepidea {os.getpid()} alert - {line}".encode()

    def _connected(self) -> socket.socket:
        if self._socket is not None and self._transport != "udp" and _has_ended(self._socket):
            self.close()
        if self._socket is None:
            self._socket = self._connect()
        return self._socket

    def _connect(self) -> socket.socket:
        if self._transport == "udp":
            family, kind, number, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
            made = socket.socket(family, kind, number)
            made.connect(address)  # so that a port that nobody listens on is told by the next send
            return made
        made = socket.create_connection(self._address, timeout=self._timeout_s)
        if self._transport == "tcp":
            return made
        try:
            return _tls_context(self._ca).wrap_socket(made, server_hostname=self._address[0])
        except OSError:
            made.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _has_ended(connection: socket.socket) -> bool:
    """Whether the other side has closed; it never sends anything of its own accord."""
    timeout_s = connection.gettimeout()
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(timeout_s)


def _tls_context(ca: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


class WebhookSink:
    """A web address that takes a batch of alerts as one POST of a JSON array; a line that is no JSON goes as a string.

    Any answer of 200 to 299 is taken as received; every other one, a redirection too, is a :class:`SinkError`.
    """

    def __init__(
        self, url: str, *, ca: str | None = None, timeout_s: float = TIMEOUT_S, format: str = "eve", name: str = ""
    ) -> None:
        parts = urlsplit(url)
        if not parts.hostname:
            raise DataError(f"a webhook must have a host, however: {url!r}")
        self.format, self.name = format, name or _public_name(parts)
        self._parts, self._ca, self._timeout_s = parts, ca, timeout_s
        self._connection: http.client.HTTPConnection | None = None

    def send(self, lines: Sequence[str]) -> None:
        """Post lines."""
        if not lines:
            return
        with _sink_errors(self.name):
            try:
                self._post(_json_array(lines, as_text=self.format == "cef"))
            except BaseException:
                self.close()
                raise

    def _post(self, body: bytes) -> None:
        connection = self._connected()
        target = (self._parts.path or "/") + (f"?{self._parts.query}" if self._parts.query else "")
        connection.request("POST", target, body, self._headers())
        answer = connection.getresponse()
        answer.read()
        if not 200 <= answer.status <= 299:
            raise SinkError(f"a webhook must answer 2xx, however: {self.name} answers {answer.status} {answer.reason}")

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "deepidea"}
        if self._parts.username is not None:
            headers["Authorization"] = _basic(self._parts.username, self._parts.password or "")
        return headers

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is not None and self._connection.sock is not None and _has_ended(self._connection.sock):
            self.close()
        if self._connection is None:
            host, port = self._parts.hostname or "", self._parts.port
            if self._parts.scheme == "https":
                context = _tls_context(self._ca)
                self._connection = http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
            else:
                self._connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        return self._connection

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()


def _json_array(lines: Sequence[str], *, as_text: bool) -> bytes:
    return ("[" + ",\n".join(json.dumps(line) if as_text else line for line in lines) + "]").encode()


# --- by address ------------------------------------------------------------------------------------------------------


def _stdout(parts: SplitResult, format: str | None) -> Sink:
    _options(parts)
    return StdoutSink(format=format or "eve")


def _file(parts: SplitResult, format: str | None) -> Sink:
    options = _options(parts, "rotate_mb", "keep")
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise DataError(f"a file must be file:///path, however: {parts.geturl()!r}")
    rotate_mb = float(options["rotate_mb"]) if "rotate_mb" in options else None
    keep = int(options.get("keep", 5))
    return FileSink(
        unquote(parts.path), rotate_mb=rotate_mb, keep=keep, format=format or "eve", name=_public_name(parts)
    )


def _syslog(parts: SplitResult, format: str | None) -> Sink:
    transport = parts.scheme.partition("+")[2]
    options = _options(parts, *(("ca",) if transport == "tls" else ()), "timeout_s")
    if not parts.hostname:
        raise DataError(f"a syslog server must have a host, however: {parts.geturl()!r}")
    return SyslogSink(
        parts.hostname,
        parts.port or {"udp": 514, "tcp": 601, "tls": 6514}[transport],
        transport=transport,
        ca=options.get("ca"),
        timeout_s=float(options.get("timeout_s", TIMEOUT_S)),
        format=format or "cef",
        name=_public_name(parts),
    )


def _webhook(parts: SplitResult, format: str | None) -> Sink:
    ours = dict(parse_qsl(parts.query, keep_blank_values=True))
    rest = "&".join(part for part in parts.query.split("&") if part.partition("=")[0] not in ("ca", "timeout_s"))
    return WebhookSink(
        parts._replace(query=rest).geturl(),
        ca=ours.get("ca"),
        timeout_s=float(ours.get("timeout_s", TIMEOUT_S)),
        format=format or "eve",
        name=_public_name(parts),
    )


def _at_home(home: str) -> Callable[[SplitResult, str | None], Sink]:
    """Return what makes a sink of a room above this one, ``module:Class``, which may need what is not installed."""
    module, _, name = home.partition(":")

    def make(parts: SplitResult, format: str | None) -> Sink:
        made: Sink = getattr(importlib.import_module(module), name)(parts.geturl(), format=format or "eve")
        return made

    return make


SINKS: Mapping[str, Callable[[SplitResult, str | None], Sink]] = MappingProxyType(
    {
        "stdout": _stdout,
        "file": _file,
        "syslog+udp": _syslog,
        "syslog+tcp": _syslog,
        "syslog+tls": _syslog,
        "http": _webhook,
        "https": _webhook,
        "kafka": _at_home("deepidea.adapters.kafka:KafkaSink"),
        "kafkas": _at_home("deepidea.adapters.kafka:KafkaSink"),
        "redis": _at_home("deepidea.adapters.redis_sink:RedisSink"),
        "rediss": _at_home("deepidea.adapters.redis_sink:RedisSink"),
    }
)
"""What makes a sink of a split address and a format, by the scheme of the address."""
