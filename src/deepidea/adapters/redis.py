"""Suricata's events from Redis: a list, of which nothing taken is lost, or a stream, which can be gone back to.

Source: https://docs.suricata.io/en/latest/output/eve/eve-json-output.html and https://redis.io/docs/latest/commands.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit, urlunsplit

from deepidea.detection.sources.source import BATCH_FLOWS, LINGER_S, FlowBatch, Position
from deepidea.errors import DataError, MissingExtraError, SourceError
from deepidea.flows.sensors.suricata import EveParser

__all__ = ["RedisSource", "event_of", "open_client"]

DEFAULT_KEY = "suricata"  # Suricata's own
KEPT_SUFFIX = ":deepidea"
FIELD = b"eve"  # of a stream's entry
_TIMEOUT_S = 5.0
_ENDS = {"left": "RIGHT", "right": "LEFT"}  # the end that is read, by the end that is written to


class RedisSource:
    """EVE events from a Redis list or stream.

    Of a list, events go to another one, ``<list>:deepidea``, while they are dealt with, and from there when the next
    batch is asked for; what a crash left there comes first after a restart. So an event may come twice, none is lost,
    and one process reads a list. Of a stream, the position is that of the last entry; nothing in Redis is changed.

    Parameters
    ----------
    address
        ``redis://host:port/0?list=suricata``, ``rediss://...`` with TLS, ``...?stream=suricata``. With
        ``push=right``, a list that is written to on the right (Suricata's ``mode: rpush``; ``lpush`` is its default).
    batch_flows
        Most events of a batch.

    Raises
    ------
    DataError
        The address says what cannot be.

    Examples
    --------
    >>> source = RedisSource("redis://reader:secret@localhost:6379/0?stream=suricata")
    >>> source.name, source.replayable
    ('redis://localhost:6379/0?stream=suricata', True)
    """

    schema = "conn"

    def __init__(self, address: str, *, batch_flows: int = BATCH_FLOWS) -> None:
        parts = urlsplit(address)
        options = _options(parts.query, address)
        self.replayable = "stream" in options
        self._key = options.get("stream") or options.get("list") or DEFAULT_KEY
        self._end = _ENDS[options.get("push", "left")]
        self._url = urlunsplit((*parts[:3], "", ""))
        self._batch_flows = batch_flows
        self.name = urlunsplit((parts[0], parts[1].rpartition("@")[2], *parts[2:4], ""))

    def batches(self, after: Position | None, stop: threading.Event) -> Iterator[FlowBatch]:
        """Yield batches: see :meth:`deepidea.detection.sources.source.Source.batches`."""
        taken = self._from_stream(after, stop) if self.replayable else self._from_list(stop)
        parser = EveParser()
        with contextlib.closing(taken):
            for events, position, lost in taken:
                parsed = parser.parse(b"\n".join(event.replace(b"\n", b" ") for event in events))
                dropped = {"trimmed from the stream before they were read": lost} if lost else {}
                yield FlowBatch(parsed.flows, position, parsed.skipped, dropped, not_flows=parsed.not_flows)

    def _from_list(self, stop: threading.Event) -> _Taken:
        with _connected(self._url, self.name) as client:
            kept = self._key + KEPT_SUFFIX
            left = client.lrange(kept, 0, -1)[::-1]
            yield from ((left[at : at + self._batch_flows], None, 0) for at in range(0, len(left), self._batch_flows))
            while True:
                client.delete(kept)
                if stop.is_set():
                    return
                yield self._move(client, kept), None, 0

    def _move(self, client: Any, kept: str) -> list[bytes]:
        """Take events from the list into the one where they are kept until they are dealt with."""
        first = client.blmove(self._key, kept, LINGER_S, self._end, "LEFT")
        if first is None:
            return []
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(min(client.llen(self._key), self._batch_flows - 1)):
                pipeline.lmove(self._key, kept, self._end, "LEFT")
            more = pipeline.execute()
        return [first, *(event for event in more if event is not None)]

    def _from_stream(self, after: Position | None, stop: threading.Event) -> _Taken:
        last, read = _place(after)
        with _connected(self._url, self.name) as client:
            read = self._trimmed(client) if read is None else read
            while not stop.is_set():
                lost = max(self._trimmed(client) - read, 0)
                found = client.xread({self._key: last}, count=self._batch_flows, block=int(LINGER_S * 1000))
                entries = found[0][1] if found else []
                read += lost + len(entries)
                last = entries[-1][0].decode() if entries else last
                yield [event_of(fields) for _, fields in entries], {"id": last, "read": read}, lost

    def _trimmed(self, client: Any) -> int:
        """Return how many entries the stream has lost at its beginning since it is there; Redis tells from 7.0 on."""
        if not client.exists(self._key):
            return 0
        told = client.xinfo_stream(self._key)
        return int(told.get("entries-added", told["length"])) - int(told["length"])


class _Taken(Protocol):
    """Events, the position behind them, and how many were lost before them."""

    def __iter__(self) -> Iterator[tuple[Sequence[bytes], Position | None, int]]: ...
    def close(self) -> None: ...


def _options(query: str, address: str) -> dict[str, str]:
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    wrong = [name for name in options if name not in ("list", "stream", "push")]
    if wrong or {"list", "stream"} <= set(options) or options.get("push", "left") not in _ENDS:
        place = address.rpartition("@")[2]
        raise DataError(
            "a Redis address must end in ?list=NAME, ?list=NAME&push=right or ?stream=NAME, however: "
            f"{place!r} does not; correct it"
        )
    return options


def _place(after: Position | None) -> tuple[str, int | None]:
    """Return the last entry that was dealt with and how many had been added by then, None where that is not known."""
    if after is None:
        return "0-0", None
    try:
        return str(after["id"]), int(after["read"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"a position must come from a Redis stream, however: {after!r} does not") from error


def event_of(fields: Mapping[bytes, bytes]) -> bytes:
    """Return the event of a stream's entry: Suricata's field, else the first."""
    return fields.get(FIELD) or next(iter(fields.values()), b"{}") or b"{}"


def open_client(url: str, **options: Any) -> Any:
    """Return a client that gives up after some seconds, and tries nothing again by itself.

    Raises
    ------
    MissingExtraError
        The extra ``redis`` is not installed.
    """
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise MissingExtraError(
            f"Redis needs redis, however: {error}; install it with: pip install 'deepidea[redis]'"
        ) from error
    given = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S, "retry": Retry(NoBackoff(), 0)}
    return redis.Redis.from_url(url, **{**given, **options})


@contextlib.contextmanager
def _connected(url: str, name: str) -> Iterator[Any]:
    client = open_client(url)
    import redis

    try:
        with client:
            yield client
    except (redis.RedisError, ValueError) as error:
        raise SourceError(f"a Redis server must answer, however: {name}: {error}; see that it runs there") from error
