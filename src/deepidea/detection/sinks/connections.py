"""Connections of sinks to servers."""

from __future__ import annotations

import socket
import ssl


def has_ended(connection: socket.socket) -> bool:
    """Return whether the other side has closed a connection on which it never sends unasked."""
    # An ended connection reads as b"" (FIN) or as an error (RST); without this look, TCP would accept one more write.
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


def tls_context(ca: str | None) -> ssl.SSLContext:
    """Return a client's context that checks certificates against a file, the system's where none is named."""
    return ssl.create_default_context(cafile=ca)
