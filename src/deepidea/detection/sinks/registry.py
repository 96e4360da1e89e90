"""Every sink by the scheme of its address.

A new sink is a class with the members of `Sink` in a module of its own and an entry in `SINKS`; a room above registers
its own by name, so that it is imported when an address of it is opened: it may need what is not installed.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from deepidea.detection.addresses import public
from deepidea.detection.sinks.sink import Sink
from deepidea.errors import DataError

__all__ = ["SINKS", "open_sink", "open_sinks", "register_sink"]

_HOME = "deepidea.detection.sinks"
_registry = {
    "stdout": f"{_HOME}.stdout:StdoutSink",
    "file": f"{_HOME}.file:file_sink",
    **dict.fromkeys(("syslog+udp", "syslog+tcp", "syslog+tls"), f"{_HOME}.syslog:SyslogSink"),
    **dict.fromkeys(("http", "https"), f"{_HOME}.webhook:WebhookSink"),
}
SINKS: Mapping[str, str] = MappingProxyType(_registry)
"""What makes a sink of an address, ``module:name``, by its scheme; ``format`` names another format than its own."""


def register_sink(home: str, *schemes: str) -> None:
    """Add a sink for schemes of addresses; one that is registered already is replaced."""
    _registry.update(dict.fromkeys(schemes, home))


def open_sink(address: str, *, format: str | None = None) -> Sink:
    """Return a sink for an address; nothing is opened before the first alert is sent.

    Parameters
    ----------
    address
        ``stdout``; ``file:///path?rotate_mb=100&keep=5``; ``syslog+udp://host:514``, ``syslog+tcp://host:601``,
        ``syslog+tls://host:6514?ca=/path/ca.pem``; ``http://host/path`` or ``https://host/path?ca=/path/ca.pem``;
        ``kafka://host:9092/TOPIC``, ``redis://host:6379/0?stream=NAME``, both after
        :func:`deepidea.adapters.registration.register_adapters`.
        ``timeout_s`` is an option of all that have a server; ``ca`` names the certificates that a server's is checked
        against, in place of the system's. Other options of a webhook's address are sent to it.
    format
        Format of the lines; absent, CEF for syslog and EVE for the others.

    Raises
    ------
    DataError
        No sink has such an address, or an option of it cannot be read.

    Examples
    --------
    >>> open_sink("syslog+udp://127.0.0.1").format, open_sink("stdout").format
    ('cef', 'eve')
    """
    from deepidea.detection.sinks.formats.rendering import require_format

    scheme = address.partition("://")[0].lower()
    if scheme not in SINKS or ("://" in address) == (scheme == "stdout"):
        raise DataError(f"unknown sink {public(address)!r}; a sink is one of {', '.join(SINKS)}: see docs/alerts.md")
    options = {} if format is None else {"format": require_format(format)}
    make: Callable[..., Sink] = pkgutil.resolve_name(SINKS[scheme])
    try:
        return make(address, **options)
    except ValueError as error:  # a port or number that is none
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read the sink's address {public(address)!r}: {error}") from error


def open_sinks(addresses: Iterable[str], *, format: str | None = None) -> list[Sink]:
    """Return a sink for each destination: two spellings of one address are one sink.

    Examples
    --------
    >>> [sink.name for sink in open_sinks(["file:///tmp/a", "file://localhost/tmp/./a"])]
    ['file:///tmp/a']
    """
    sinks: dict[str, Sink] = {}
    for address in addresses:
        sink = open_sink(address, format=format)
        sinks.setdefault(sink.name, sink)
    return list(sinks.values())
