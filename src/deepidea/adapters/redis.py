"""Suricata's events from Redis: a list, of which nothing taken is lost, or a stream, which can be gone back to.

Source: https://docs.suricata.io/en/latest/output/eve/eve-json-output.html and https://redis.io/docs/latest/commands.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from deepidea.detection.sources.source import BATCH_FLOWS, LINGER_S, FlowBatch, Position
from deepidea.errors import DataError, MissingExtraError, SourceError
from deepidea.flows.sensors.suricata import EveParser

__all__ = ["RedisSource", "connected", "event_of", "open_client"]

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
        with connected(self._url, self.name) as client:
            kept = self._key + KEPT_SUFFIX
            # What a crash left behind, oldest first: events are pushed to the left of this list.
            left = client.lrange(kept, 0, -1)[::-1]
            yield from ((left[at : at + self._batch_flows], None, 0) for at in range(0, len(left), self._batch_flows))
            while True:
                client.delete(kept)
                if stop.is_set():
                    return
                yield self._move(client, kept), None, 0

    def _move(self, client: Any, kept: str) -> list[bytes]:
        """Take events from the list into the one where they are kept until they are dealt with."""
        # Blocks for the first alone; the others that are there already follow in one round trip.
        first = client.blmove(self._key, kept, LINGER_S, self._end, "LEFT")
        if first is None:
            return []
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(min(client.llen(self._key), self._batch_flows - 1)):
                pipeline.lmove(self._key, kept, self._end, "LEFT")
            more = pipeline.execute()
        return [first, *(event for event in more if event is not None)]

    def _from_stream(self, after: Position | None, stop: threading.Event) -> _Taken:
        with connected(self._url, self.name) as client:
            place = after
            while not stop.is_set():
                [state] = stream_states(client, [self._key])
                place = state.place(place)
                lost = state.lost_since(place["read"])
                found = client.xread({self._key: place["id"]}, count=self._batch_flows, block=int(LINGER_S * 1000))
                entries = found[0][1] if found else []
                last = entries[-1][0].decode() if entries else place["id"]
                # `read` counts entries since the stream began, lost ones too, so that it can be compared with what
                # Redis has trimmed.
                place = {"id": last, "read": place["read"] + lost + len(entries)}
                yield [event_of(fields) for _, fields in entries], place, lost


@dataclass(frozen=True, slots=True)
class StreamState:
    """What Redis knows of a stream: entries trimmed from its beginning, entries ever added, and the newest id."""

    trimmed: int = 0
    added: int = 0
    newest: str = "0-0"

    def place(self, after: Position | None) -> dict[str, Any]:
        """Return where to go on after a position; the beginning without one, or where it is of another stream.

        Ids of a stream only grow, so one whose newest id is older than the position has been made anew. Entries
        trimmed before the first read are not counted as lost.

        Raises
        ------
        DataError
            The position is not of a Redis stream.
        """
        if after is None:
            return {"id": "0-0", "read": self.trimmed}
        try:
            place = {"id": str(after["id"]), "read": int(after["read"])}
            is_other = _id_parts(self.newest) < _id_parts(str(after["id"])) and self.added > 0
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"cannot go on from {dict(after)}: it is no position in a Redis stream") from error
        return {"id": "0-0", "read": self.trimmed} if is_other else place

    def lost_since(self, read: int) -> int:
        """Return how many entries after so many were trimmed unread; none where the stream was made anew."""
        return max(self.trimmed - read, 0) if self.added >= read else 0


def _id_parts(text: str) -> tuple[int, int]:
    time_ms, _, number = text.partition("-")
    return int(time_ms), int(number or 0)


def stream_states(client: Any, keys: Sequence[str]) -> list[StreamState]:
    """Return the state of each stream; Redis counts what it trims from 7.0 on."""
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.xinfo_stream(key)
        return [_state_of(reply) for reply in pipeline.execute(raise_on_error=False)]


def _state_of(reply: Any) -> StreamState:
    if isinstance(reply, Exception):
        if "no such key" in str(reply):
            return StreamState()
        raise reply
    # Ever added less still there: what was trimmed. Before Redis 7 nothing counts them, and the difference is 0.
    added = int(reply.get("entries-added", reply["length"]))
    return StreamState(added - int(reply["length"]), added, reply["last-generated-id"].decode())


# Events, the position behind them, and how many were lost before them.
_Taken = Generator[tuple[Sequence[bytes], Position | None, int], None, None]


def _options(query: str, address: str) -> dict[str, str]:
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    wrong = [name for name in options if name not in ("list", "stream", "push")]
    if wrong or {"list", "stream"} <= set(options) or options.get("push", "left") not in _ENDS:
        place = address.rpartition("@")[2]
        raise DataError(
            "a Redis address must end in ?list=NAME, ?list=NAME&push=right or ?stream=NAME, got "
            f"{place!r} does not; correct it"
        )
    return options


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
            f"Redis needs the redis package ({error}); install it with: pip install 'deepidea[redis]'"
        ) from error
    given = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S, "retry": Retry(NoBackoff(), 0)}
    return redis.Redis.from_url(url, **{**given, **options})


@contextlib.contextmanager
def connected(url: str, name: str) -> Iterator[Any]:
    """Yield a client; errors of the server and of its answers are raised as :class:`SourceError`."""
    client = open_client(url)
    import redis

    try:
        with client:
            yield client
    except (redis.RedisError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise SourceError(f"cannot reach Redis at {name}: {error}; check that it runs there") from error
