"""Web addresses that alerts are posted to."""

from __future__ import annotations

import http.client
import json
from base64 import b64encode
from collections.abc import Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

from deepidea.detection.addresses import destination, public
from deepidea.detection.sinks.connections import has_ended, tls_context
from deepidea.detection.sinks.sink import TIMEOUT_S, sink_errors
from deepidea.errors import DataError, SinkError

_OURS = ("ca", "timeout_s")  # options that are not sent


class WebhookSink:
    """A web address that takes a batch of alerts as one POST of a JSON array; CEF lines are strings in it.

    An answer of 200 to 299 means received; every other one, a redirection too, is a :class:`SinkError`.

    Parameters
    ----------
    address
        ``https://user:password@host/path``. Its options ``ca``, certificates that the server's is checked against,
        and ``timeout_s`` are not sent; all others are.
    format
        Of the alerts.

    Examples
    --------
    >>> WebhookSink("https://me:secret@SIEM.example/hook?key=7&timeout_s=3").name
    'https://siem.example/hook?key=7'
    """

    def __init__(self, address: str, *, format: str = "eve") -> None:
        parts = urlsplit(address)
        if not parts.hostname:
            raise DataError(f"a webhook must name a host, got {public(address)!r}")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        sent = "&".join(option for option in parts.query.split("&") if option.partition("=")[0] not in _OURS)
        self.format = format
        self._parts = parts._replace(path=parts.path or "/", query=sent)
        self._target = f"{self._parts.path}?{sent}" if sent else self._parts.path
        self.name = destination(parts._replace(path="")) + self._target
        self._ca, self._timeout_s = options.get("ca"), float(options.get("timeout_s", TIMEOUT_S))
        self._connection: http.client.HTTPConnection | None = None

    def send(self, lines: Sequence[str]) -> None:
        """Post lines."""
        if not lines:
            return
        with sink_errors(self.name, http.client.HTTPException):
            try:
                self._post(_json_array(lines, as_text=self.format == "cef"))
            # After a failure the connection may hold half an answer: the next batch would read it as its own.
            except BaseException:
                self.close()
                raise

    def _post(self, body: bytes) -> None:
        connection = self._connected()
        connection.request("POST", self._target, body, self._headers())
        answer = connection.getresponse()
        answer.read()  # or the connection could not be used for the next batch
        if not 200 <= answer.status <= 299:
            raise SinkError(f"webhook {self.name} answered {answer.status} {answer.reason}, not 2xx")

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "deepidea"}
        if self._parts.username is not None:
            headers["Authorization"] = _basic(self._parts.username, self._parts.password or "")
        return headers

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is not None and self._connection.sock is not None and has_ended(self._connection.sock):
            self.close()
        if self._connection is None:
            host, port = self._parts.hostname or "", self._parts.port
            self._connection = (
                http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=tls_context(self._ca))
                if self._parts.scheme == "https"
                else http.client.HTTPConnection(host, port, timeout=self._timeout_s)
            )
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
