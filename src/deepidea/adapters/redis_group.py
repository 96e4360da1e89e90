"""A stream in Redis that several processes read together: one Redis stream a partition, owners by lease.

A consumer group of Redis deals the entries of one stream to whoever asks, so that the flows of a host would go to
every process. Here a stream ``flows`` is cut into ``flows:0``, ``flows:1``, ..., and each has one reader at a time, who
holds a key that Redis lets go when it is not renewed. Where to go on stands in the store, not in Redis.

Source: https://redis.io/docs/latest/commands (XADD, XREAD, XREVRANGE, SET, EVAL).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deepidea.adapters.redis import FIELD, connected, event_of, open_client, stream_states
from deepidea.detection.addresses import Reads, StreamAddress, at_least, destination, read_address
from deepidea.detection.publish import position_from
from deepidea.detection.sources.partitions import HeldPartitions, read_alone
from deepidea.detection.sources.source import BATCH_FLOWS, LINGER_S, FlowBatch, Position
from deepidea.errors import DataError, SourceError
from deepidea.flows.flow_lines import StreamParser
from deepidea.flows.sensors.records import Parsed

__all__ = ["RedisGroupSource", "RedisPublisher"]

SESSION_S = 10.0
PATIENCE_S = 300.0  # for a server that went away
FIRST_PATIENCE_S = 10.0  # for one that was never there
SETTLE_S = 10.0  # for what was read to be stored before a partition is handed over
PARTITIONS = 8
KEPT_FLOWS = 1_000_000  # of all partitions together, until the oldest are trimmed
LOST = "trimmed from the stream before they were read"
_LONGEST_BEAT_S = 1.0  # what a process hands back is seen by the others within so long
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_OPTIONS: Mapping[str, Reads] = {
    "stream": str,
    "group": str,
    "partitions": at_least(int, 1),
    "session_s": at_least(float, 0.2),
    "patience_s": at_least(float, 0),
    "read_back": at_least(int, 0),  # of earlier releases; host context is in the store now
    "maxlen": at_least(int, 1),
}

# One script, run by Redis as a whole: no other process sees a state in between, and the clock is the server's, the same
# for all. A member counts as alive for a session after its last beat. What is due to each is n / members, and one more
# to those of the lowest ranks, so that the sum is n and nobody must agree on anything. Each looks for free partitions
# from its rank on, so that two that start together do not reach for the same ones.
_BEAT = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local members, lease, me, ttl = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local n = tonumber(redis.call('GET', KEYS[2]) or ARGV[4])
redis.call('ZADD', members, now, me)
redis.call('ZREMRANGEBYSCORE', members, '-inf', now - ttl)
local all = redis.call('ZRANGE', members, 0, -1)
table.sort(all)
local rank = 0
for i, name in ipairs(all) do if name == me then rank = i - 1 end end
local due = math.floor(n / #all)
if rank < n % #all then due = due + 1 end
local mine = {}
for p = 0, n - 1 do
  if redis.call('GET', lease .. p) == me then
    redis.call('PEXPIRE', lease .. p, ttl)
    mine[#mine + 1] = p
  end
end
for i = 0, n - 1 do
  local p = (i + rank) % n
  if #mine >= due then break end
  if redis.call('SET', lease .. p, me, 'NX', 'PX', ttl) then mine[#mine + 1] = p end
end
return {due, mine}
"""
"""Says that a process lives, renews what it owns, takes what is free up to what is its due; gives both back."""

# Only while the key still is ours: between the last beat and now another process may have taken the partition.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class RedisGroupSource:
    """Flows of a stream in Redis, shared with the other processes of a group.

    Parameters
    ----------
    address
        ``redis://host:port/0?stream=flows&group=site``, ``rediss://...`` with TLS. Options: ``partitions``, how many
        partitions the stream gets when it is new (Redis keeps the number in ``flows:partitions``); ``session_s``, after
        how long of silence a process loses its partitions; ``patience_s``, how long to wait for a server that is away.
    batch_flows
        Most flows of a batch.

    Raises
    ------
    DataError
        The address says what cannot be.

    Examples
    --------
    >>> source = RedisGroupSource("redis://me:secret@localhost/0?stream=flows&group=site&session_s=5")
    >>> source.name, source.is_partitioned
    ('redis://localhost/0?stream=flows&group=site', True)
    """

    schema = "conn"
    replayable = True
    is_partitioned = True

    def __init__(self, address: str, *, batch_flows: int = BATCH_FLOWS) -> None:
        known = {name: reads for name, reads in _OPTIONS.items() if name != "maxlen"}
        self._address = read_address(address, known, ("stream", "group"))
        options = self._address.options
        self._key, self._group = options["stream"], options["group"]
        self.name = f"{self._address.place}?stream={self._key}&group={self._group}"
        self._session_s = options.get("session_s", SESSION_S)
        self._patience_s = options.get("patience_s", PATIENCE_S)
        self._batch_flows = batch_flows

    def batches(self, after: Position | None, stop: threading.Event) -> Iterator[FlowBatch]:  # noqa: ARG002
        """Yield all flows, without positions: see :func:`deepidea.detection.sources.partitions.read_alone`."""
        return read_alone(self, stop)

    def batches_of_partitions(self, held: HeldPartitions, stop: threading.Event) -> Iterator[FlowBatch]:
        """Yield batches: see :class:`deepidea.detection.sources.partitions.PartitionedSource`."""
        with connected(self._address.server, self.name) as server:
            client = _Lasting(server, self.name, held, self._patience_s)
            n_partitions = yield from client.asking(stop, self._count_partitions)
            if n_partitions is None:
                return
            lease = _Lease(self._address, self._key, self._group, n_partitions, self._session_s)
            with lease:
                yield from self._read(client, lease, held, stop)

    def _count_partitions(self, client: Any) -> int | None:
        """Return how many partitions there are, None where nobody has said so yet."""
        wanted = self._address.options.get("partitions")
        return count_partitions(client, self._key, wanted)

    def _read(
        self, client: _Lasting, lease: _Lease, held: HeldPartitions, stop: threading.Event
    ) -> Iterator[FlowBatch]:
        places: dict[int, Position] = {}
        parser = StreamParser()
        try:
            while not stop.is_set():
                yield from self._change_partitions(client, lease, held, places, stop)
                lease.check()
                # One request for all partitions; while Redis is away, batches of nothing keep the engine going.
                found = yield from client.asking(stop, lambda redis: self._entries(redis, places))
                for number, (entries, lost) in (found or {}).items():
                    parsed = parser.parse([event_of(fields) for _, fields in entries])
                    # The place moves on before the batch is handed out: the next request must not return the same
                    # entries.
                    places[number] = _behind(places[number], entries, lost)
                    partition = held.advance(number, places[number])
                    dropped = {LOST: lost} if lost else {}
                    yield FlowBatch(
                        parsed.flows,
                        places[number],
                        parsed.skipped,
                        dropped,
                        not_flows=parsed.not_flows,
                        partition=partition,
                    )
                if not found:
                    yield FlowBatch(Parsed().flows)
                if not places:
                    # Without a partition nothing blocks in Redis: a pause, until the leases say otherwise.
                    stop.wait(min(LINGER_S, self._session_s / 10))
        finally:
            held.await_stored(set(places), SETTLE_S)
            for number in places:
                held.release(number)

    def _change_partitions(
        self, client: _Lasting, lease: _Lease, held: HeldPartitions, places: dict[int, Position], stop: threading.Event
    ) -> Iterator[FlowBatch]:
        """Let go what is not ours, or was refused; hand back what is too many; take what is new."""
        owned = lease.owned
        # Lost or refused: nothing of it can be stored any more, so there is nothing to wait for.
        for number in held.take_refused() | (set(places) - owned):
            places.pop(number, None)
            held.release(number)
        # More members have come. What was read of a surplus partition is stored first, so that its next owner begins
        # behind it.
        surplus = sorted(places, reverse=True)[: max(len(owned) - lease.due, 0)]
        if surplus:
            held.await_stored(set(surplus), SETTLE_S)
            for number in surplus:
                del places[number]
                held.release(number)
            lease.release(surplus)
        # `owned` is read again: waiting above may have taken longer than a lease.
        for number in sorted(lease.owned - set(places) - set(surplus)):
            after = held.assign(number)
            place = yield from client.asking(stop, lambda redis, n=number, a=after: self._place(redis, n, a))
            if place is None:
                held.release(number)
                return
            places[number] = place

    def _place(self, client: Any, number: int, after: Position | None) -> Position:
        """Return where to go on with a partition."""
        [state] = stream_states(client, [self._stream(number)])
        return state.place(after)

    def _entries(self, client: Any, places: dict[int, Position]) -> dict[int, tuple[list[Any], int]]:
        """Return what is new in each partition, and how many entries were lost before it."""
        if not places:
            return {}
        keys = {number: self._stream(number) for number in places}
        # Asked before reading: what is trimmed between the two is found missing by the next round.
        states = dict(zip(keys, stream_states(client, list(keys.values())), strict=True))
        places.update({number: states[number].place(place) for number, place in places.items()})
        lost = {number: states[number].lost_since(place["read"]) for number, place in places.items()}
        of = {key.encode(): number for number, key in keys.items()}
        wanted = {key: places[number]["id"] for key, number in of.items()}
        found = client.xread(wanted, count=self._batch_flows, block=round(1000 * min(LINGER_S, self._session_s / 10)))
        entries = {of[key]: found for key, found in found or []}
        return {n: (entries.get(n, []), lost[n]) for n in places if lost[n] or n in entries}

    def _stream(self, number: int) -> str:
        return f"{self._key}:{number}"


def _behind(place: Position, entries: Sequence[Any], lost: int) -> Position:
    last = entries[-1][0].decode() if entries else place["id"]
    return {"id": last, "read": place["read"] + lost + len(entries)}


def count_partitions(client: Any, key: str, wanted: int | None) -> int | None:
    """Return how many partitions a stream is cut into, as Redis keeps it; where it does not, keep what is wanted."""
    if wanted is not None:
        client.set(f"{key}:partitions", wanted, nx=True)
    stored = client.get(f"{key}:partitions")
    if stored is None:
        return None
    if not stored.isdigit() or (wanted is not None and int(stored) != wanted):
        raise DataError(
            f"cannot read {key} in {wanted} partitions: it has {stored.decode()}; "
            "leave partitions out, or begin another stream"
        )
    return int(stored)


# Leases. A partition's owner is a key with a time to live, the session. A process that lives renews its keys five
# times a session (_BEAT, one script, so that all processes see one order). It takes free partitions up to its part:
# n_partitions over the live members, the rest to those whose rank is lowest. Surplus partitions are released only once
# their flows are stored. A process that was paused longer than the session may still think that it owns a partition:
# `owned` is empty once the last renewal is a session old, and the store refuses a batch that does not begin at its
# position (the fence).
class _Lease:
    """Renews, in a thread of its own, what a process owns of a stream."""

    def __init__(self, address: StreamAddress, key: str, group: str, n_partitions: int, session_s: float) -> None:
        self._address, self._n_partitions, self._session_s = address, n_partitions, session_s
        self._counted = f"{key}:partitions"
        self._members, self._lease = f"{key}:members:{group}", f"{key}:owner:{group}:"
        # Random as well: a process number comes back, and a key left by the process before must not pass for ours.
        self._me = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._owned: set[int] = set()
        self._renewed_s = 0.0
        self._fault: Exception | None = None
        self.due = 0
        self._thread = threading.Thread(target=self._run, name="deepidea-lease", daemon=True)

    def __enter__(self) -> _Lease:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def owned(self) -> set[int]:
        """HeldPartitions that are ours; none when the lease ran out unrenewed."""
        with self._lock:
            # A server that does not answer renews nothing: the lease ends here by our own clock, even before the next
            # beat fails.
            return set(self._owned) if time.monotonic() - self._renewed_s < self._session_s else set()

    def check(self) -> None:
        """Raise what ended the thread that renews the lease, where something did."""
        if self._fault is not None:
            raise SourceError(f"cannot renew leases of {self._lease}*: {self._fault!r}; start again") from self._fault

    def release(self, numbers: Sequence[int]) -> None:
        """Hand partitions back, so that another process takes them at once."""
        # Under the lock, or a beat in between would renew what is being released. A failure is harmless: the key times
        # out.
        with self._lock, contextlib.suppress(*_failures()), open_client(self._address.server) as client:
            for number in numbers:
                client.eval(_RELEASE, 1, f"{self._lease}{number}", self._me)
                self._owned.discard(number)

    def _run(self) -> None:
        try:
            self._renew()
        except Exception as error:  # noqa: BLE001  # raised by `check` in the thread that reads
            self._fault = error

    def _renew(self) -> None:
        with open_client(self._address.server) as client:
            while not self._ended.is_set():
                with contextlib.suppress(*_failures()):  # reported by the loop that reads
                    self._beat(client)
                self._ended.wait(min(self._session_s / 5, _LONGEST_BEAT_S))
            with contextlib.suppress(*_failures()):
                client.zrem(self._members, self._me)
        self.release(sorted(self._owned))

    def _beat(self, client: Any) -> None:
        began = time.monotonic()
        with self._lock:
            reply = client.eval(
                _BEAT, 2, self._members, self._counted, self._lease, self._me, round(1000 * self._session_s),
                self._n_partitions,
            )  # fmt: skip
            # From before the request: the server may have set the time to live any time since, and the lease must not
            # last longer here than there.
            self.due, self._owned, self._renewed_s = int(reply[0]), set(map(int, reply[1])), began


def _failures() -> tuple[type[Exception], ...]:
    import redis

    return (redis.RedisError,)


class _Lasting:
    """A client that is asked again while its server is away."""

    def __init__(self, client: Any, name: str, held: HeldPartitions, patience_s: float) -> None:
        self._client, self._name, self._held, self._patience_s = client, name, held, patience_s
        self._was_there = False

    def asking(self, stop: threading.Event, ask: Any) -> Any:
        """Return what is answered; until there is an answer, yield batches of nothing. None once ``stop`` is set."""
        import redis

        began, pause = time.monotonic(), _FIRST_PAUSE_S
        while not stop.is_set():
            try:
                answer = ask(self._client)
                # A server that was there before is worth more patience than an address that may be wrong.
                self._was_there, self._held.trouble = True, None
                if answer is not None:
                    return answer
                began = time.monotonic()
            except (redis.ConnectionError, redis.TimeoutError) as error:
                self._note(error, time.monotonic() - began)
            yield FlowBatch(Parsed().flows)
            stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        return None

    def _note(self, error: Exception, waited_s: float) -> None:
        """Take note of a failure; raise it where waiting will not help."""
        import redis

        patience_s = self._patience_s if self._was_there else min(self._patience_s, FIRST_PATIENCE_S)
        if isinstance(error, redis.AuthenticationError) or waited_s >= patience_s:
            raise error
        self._held.n_retries += 1
        self._held.trouble = f"{self._name}: {error}"


class RedisPublisher:
    """Puts flows into the partitions of a stream, by pairs of hosts, and the source's position, in one transaction.

    Parameters
    ----------
    address
        ``redis://host:port/0?stream=flows``; options: ``partitions``, of a new stream, 8; ``maxlen``, about how many
        flows all partitions keep together, 1,000,000.

    Examples
    --------
    >>> RedisPublisher("redis://:secret@localhost/0?stream=flows&partitions=4").name
    'redis://localhost:6379/0?stream=flows'
    """

    def __init__(self, address: str) -> None:
        known = {name: _OPTIONS[name] for name in ("stream", "partitions", "maxlen")}
        self._address = read_address(address, known, ("stream",))
        self._key = self._address.options["stream"]
        self.name = f"{destination(self._address.parts, port=6379, path='/0')}?stream={self._key}"
        self._n_partitions = 0
        self._client: Any = None

    def open(self, source: str) -> Position | None:
        """Connect, and return the position of the source of this name."""
        with self._errors():
            self.close()
            self._client = open_client(self._address.server)
            wanted = self._address.options.get("partitions")
            known = count_partitions(self._client, self._key, wanted)
            self._n_partitions = known or count_partitions(self._client, self._key, PARTITIONS) or PARTITIONS
            return position_from(self._client.hget(f"{self._key}:published", source))

    def publish(self, source: str, keys: Sequence[str], lines: Sequence[bytes], position: str | None) -> None:
        """Put lines into the partitions of their keys, and the position behind them: all, or nothing.

        Raises
        ------
        SourceError
            The server does not take them; opening again returns the position that it has.
        """
        keep = max(self._address.options.get("maxlen", KEPT_FLOWS) // self._n_partitions, 1)
        with self._errors(), self._client.pipeline(transaction=True) as pipeline:
            for key, line in zip(keys, lines, strict=True):
                number = zlib.crc32(key.encode()) % self._n_partitions
                # Approximate: Redis then drops whole nodes of its tree, which costs next to nothing; the stream is a
                # little longer.
                pipeline.xadd(f"{self._key}:{number}", {FIELD: line}, maxlen=keep, approximate=True)
            if position is not None:
                pipeline.hset(f"{self._key}:published", source, position)
            pipeline.execute()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        client = self._client or open_client(self._address.server)
        import redis

        try:
            yield
        except redis.RedisError as error:
            raise SourceError(f"cannot publish flows to {self.name}: {error}") from error
        finally:
            if client is not self._client:
                client.close()

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
