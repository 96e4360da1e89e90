"""Syslog servers that alerts are sent to."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

from deepidea.detection.addresses import destination, public
from deepidea.detection.sinks.connections import has_ended, tls_context
from deepidea.detection.sinks.sink import TIMEOUT_S, sink_errors, sink_options
from deepidea.errors import DataError

UDP_BYTES = 65_000  # a datagram over this cannot be sent; receivers may cut far earlier (RFC 5424 section 6.1: 2,048)
_PRIORITY = 10 * 8 + 4  # security and authorisation, warning: RFC 5424 section 6.2.1
PORTS = {"udp": 514, "tcp": 601, "tls": 6514}  # RFC 5426, 6587, 5425


class SyslogSink:
    """A syslog server: RFC 5424 messages over UDP (RFC 5426), or over TCP or TLS with octet counting (RFC 6587, 5425).

    Parameters
    ----------
    address
        ``syslog+udp://host:514``, ``syslog+tcp://host:601`` or ``syslog+tls://host:6514``; options ``timeout_s`` and,
        with TLS, ``ca``: certificates that the server's is checked against, in place of the system's.
    format
        Of the messages.

    Notes
    -----
    Syslog has no acknowledgement: what the server's machine accepted and then lost is lost. TCP reports an ended
    connection only at the write after the next, so the batch sent while a server ends may be lost; a check of the
    connection before each batch keeps this rare. Use a webhook or a file where that matters.

    Examples
    --------
    >>> SyslogSink("syslog+tcp://siem.example").name
    'syslog+tcp://siem.example:601'
    """

    def __init__(self, address: str, *, format: str = "cef") -> None:
        parts = urlsplit(address)
        self._transport = parts.scheme.partition("+")[2]
        options = sink_options(parts, *(("ca",) if self._transport == "tls" else ()), "timeout_s")
        if not parts.hostname:
            raise DataError(f"a syslog sink must name a host, got {public(address)!r}")
        self._address = (parts.hostname, parts.port or PORTS[self._transport])
        self.format, self.name = format, destination(parts, port=PORTS[self._transport])
        self._ca, self._timeout_s = options.get("ca"), float(options.get("timeout_s", TIMEOUT_S))
        self._socket: socket.socket | None = None

    def send(self, lines: Sequence[str]) -> None:
        """Send each line as a message."""
        messages = [self._message(line) for line in lines]
        with sink_errors(self.name):
            try:
                connection = self._connected()
                if self._transport == "udp":  # one message a datagram (RFC 5426 section 3.1)
                    for message in messages:
                        connection.send(message[:UDP_BYTES])
                else:  # octet counting: MSG-LEN SP SYSLOG-MSG (RFC 6587 section 3.4.1, RFC 5425 section 4.3)
                    connection.sendall(b"".join(b"%d %s" % (len(message), message) for message in messages))
            except OSError:
                self.close()
                raise

    def _message(self, line: str) -> bytes:
        # RFC 5424 section 6: <PRI>VERSION TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA MSG
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        # HOSTNAME is printable ASCII of at most 255 characters, or "-" (RFC 5424, 6.2.4).
        host = "".join(c for c in socket.gethostname() if 33 <= ord(c) <= 126)[:255] or "-"
        return f"<{_PRIORITY}>1 {now} {host} deepidea {os.getpid()} alert - {line}".encode()

    def _connected(self) -> socket.socket:
        # TCP takes a write to a connection that the other side has closed, and reports it at the next one: that alert
        # would be lost.
        if self._socket is not None and self._transport != "udp" and has_ended(self._socket):
            self.close()
        if self._socket is None:
            self._socket = self._connect()
        return self._socket

    def _connect(self) -> socket.socket:
        if self._transport == "udp":
            family, kind, number, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
            made = socket.socket(family, kind, number)
            made.connect(address)  # the send after one to a closed port then raises
            return made
        made = socket.create_connection(self._address, timeout=self._timeout_s)
        if self._transport == "tcp":
            return made
        try:
            return tls_context(self._ca).wrap_socket(made, server_hostname=self._address[0])
        except OSError:
            made.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
