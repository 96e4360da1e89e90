"""A Redis stream for alerts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepidea.adapters.redis import FIELD, open_client
from deepidea.detection.addresses import Reads, at_least, destination, read_address
from deepidea.errors import SinkError

__all__ = ["RedisSink"]

KEPT_ALERTS = 1_000_000


class RedisSink:
    """A Redis stream for alerts: one entry an alert, in the field ``eve``; a batch in one transaction.

    Parameters
    ----------
    address
        ``redis://host:port/0?stream=alerts``, ``rediss://...`` with TLS; options ``maxlen``, about how many alerts are
        kept, 1,000,000, and ``timeout_s``.
    format
        Of the entries.

    Examples
    --------
    >>> RedisSink("redis://:secret@localhost/0?stream=alerts").name
    'redis://localhost:6379/0?stream=alerts'
    """

    def __init__(self, address: str, *, format: str = "eve") -> None:
        known: dict[str, Reads] = {"stream": str, "maxlen": at_least(int, 1), "timeout_s": at_least(float, 0.1)}
        self._address = read_address(address, known, ("stream",))
        self.format = format
        self._key = self._address.options["stream"]
        self.name = f"{destination(self._address.parts, port=6379, path='/0')}?stream={self._key}"
        self._client: Any = None

    def send(self, lines: Sequence[str]) -> None:
        """Append lines.

        Raises
        ------
        SinkError
            The server did not take them.
        """
        client = self._open()
        import redis

        keep = self._address.options.get("maxlen", KEPT_ALERTS)
        try:
            # All lines or none: the delivery sends a batch that failed again as a whole.
            # An approximate length lets Redis drop whole nodes; the exact one would cut an entry at each line.
            with client.pipeline(transaction=True) as pipeline:
                for line in lines:
                    pipeline.xadd(self._key, {FIELD: line}, maxlen=keep, approximate=True)
                pipeline.execute()
        except redis.RedisError as error:
            self.close()
            raise SinkError(f"cannot send alerts to {self.name}: {error}") from error

    def _open(self) -> Any:
        if self._client is None:
            timeout_s = self._address.options.get("timeout_s")
            options = {} if timeout_s is None else {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
            self._client = open_client(self._address.server, **options)
        return self._client

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
