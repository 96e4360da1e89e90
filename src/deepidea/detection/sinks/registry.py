"""Every sink by the scheme of its address.

A new sink is a class with the members of `Sink` in a module of its own and an entry in `_own`; a room above registers
its own by a function that imports the class, which may need what is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType

from deepidea.detection.addresses import public
from deepidea.detection.sinks.sink import Sink
from deepidea.errors import DataError

__all__ = ["SINKS", "open_sink", "open_sinks", "register_sink"]

OpenSink = Callable[..., Sink]
"""Takes an address, and as ``format`` a name in ``FORMATS`` where the sink's own is not wanted."""


def _own(scheme: str) -> OpenSink:
    from deepidea.detection.sinks.file import file_sink
    from deepidea.detection.sinks.stdout import stdout_sink
    from deepidea.detection.sinks.syslog import SyslogSink
    from deepidea.detection.sinks.webhook import WebhookSink

    own: dict[str, OpenSink] = {"stdout": stdout_sink, "file": file_sink, "syslog": SyslogSink}
    return own.get(scheme.partition("+")[0], WebhookSink)


_OWN = ("stdout", "file", "syslog+udp", "syslog+tcp", "syslog+tls", "http", "https")
_registry: dict[str, Callable[[], OpenSink]] = {scheme: partial(_own, scheme) for scheme in _OWN}
SINKS: Mapping[str, Callable[[], OpenSink]] = MappingProxyType(_registry)
"""What imports and returns a sink, by the scheme of its address."""


def register_sink(load: Callable[[], OpenSink], *schemes: str) -> None:
    """Add a sink for schemes of addresses; one that is registered already is replaced."""
    _registry.update(dict.fromkeys(schemes, load))


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
    try:
        return SINKS[scheme]()(address, **options)
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
