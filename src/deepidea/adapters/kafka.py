"""Kafka: a topic that several processes read together, a topic that flows are put into, and one for alerts.

Kafka's group protocol assigns partitions; the position to go on from is in the store. Offsets are committed to Kafka
only so that its own tools can show how far a group is behind.

Source: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md and INTRODUCTION.md.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from deepidea.detection.addresses import Reads, StreamAddress, at_least, read_address
from deepidea.detection.publish import position_from
from deepidea.detection.sources.partitions import HeldPartitions, read_alone
from deepidea.detection.sources.source import BATCH_FLOWS, LINGER_S, FlowBatch, Position
from deepidea.errors import DataError, MissingExtraError, SinkError, SourceError
from deepidea.flows.flow_lines import StreamParser
from deepidea.flows.sensors.records import Parsed

__all__ = ["CONFIG_VARIABLE", "KafkaPublisher", "KafkaSink", "KafkaSource"]

CONFIG_VARIABLE = "DEEPIDEA_KAFKA_CONFIG"
"""Environment variable that names a file of librdkafka's properties, for what an address should not hold."""

SESSION_S = 10.0
PATIENCE_S = 300.0  # for brokers that went away
FIRST_PATIENCE_S = 10.0  # for brokers that were never there
SETTLE_S = 10.0  # for what was read to be stored before a partition is handed over
LOST = "deleted from the topic before they were read"
_ASK_S = 10.0
_COMMIT_EVERY_S = 1.0
_LONGEST_POSITION = 4_000  # bytes; a broker keeps 4,096 beside an offset
_OPTIONS: Mapping[str, Reads] = {
    "group": str,
    "config": str,
    "mechanism": str,
    "ca": str,
    "session_s": at_least(float, 1),
    "patience_s": at_least(float, 0),
    "read_back": at_least(int, 0),  # of earlier releases; host context is in the store now
}
_CONNECTING = ("config", "mechanism", "ca")


def _client_module() -> Any:
    try:
        import confluent_kafka
    except ImportError as error:
        raise MissingExtraError(
            f"Kafka needs confluent-kafka ({error}); install it with: pip install 'deepidea[kafka]'"
        ) from error
    return confluent_kafka


def _topic_of(address: StreamAddress) -> str:
    topic = address.parts.path.strip("/")
    if not topic or "/" in topic or not address.parts.netloc:
        raise DataError(
            f"a Kafka address must be kafka://host:9092/TOPIC, got {address.place}, which does not name one topic"
        )
    return topic


def _settings(address: StreamAddress) -> dict[str, Any]:
    """Return librdkafka's properties for the brokers of an address: who they are, and how to prove who we are."""
    user, _, hosts = address.parts.netloc.rpartition("@")
    tls = address.parts.scheme == "kafkas"
    made: dict[str, Any] = {"bootstrap.servers": hosts, "log_level": 2, "client.id": "deepidea"}
    if user:
        name, _, password = user.partition(":")
        made |= {"sasl.username": unquote(name), "sasl.password": unquote(password)}
        made["sasl.mechanism"] = address.options.get("mechanism", "PLAIN")
    # librdkafka has one setting for both: whether it encrypts, and whether it logs in.
    if user or tls:
        made["security.protocol"] = ("sasl_" if user else "") + ("ssl" if tls else "plaintext")
    if "ca" in address.options:
        made["ssl.ca.location"] = address.options["ca"]
    path = address.options.get("config") or os.environ.get(CONFIG_VARIABLE)
    return made | (_properties(Path(path)) if path else {})


def _properties(path: Path) -> dict[str, str]:
    """Return the ``name=value`` lines of a file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read Kafka properties from {path}: {error}") from error
    rows = [line.strip().partition("=") for line in lines if line.strip() and not line.strip().startswith("#")]
    wrong = [number for number, row in enumerate(rows, 1) if not row[1]]
    if wrong:
        raise DataError(f"cannot read Kafka properties from {path}, line {wrong[0]}: it is not name=value; correct it")
    return {name.strip(): value.strip() for name, _, value in rows}


@dataclass(slots=True)
class _Place:
    """Where a partition is read: the next offset, and what was lost before it."""

    next: int
    lost: int = 0


class KafkaSource:
    """Flows of a Kafka topic, shared with the other processes of a group.

    Parameters
    ----------
    address
        ``kafka://host:9092,host2:9092/TOPIC?group=site``; ``kafkas://`` with TLS. Options: ``session_s``, after how
        long of silence a process loses its partitions; ``patience_s``, how long brokers that went away are waited for;
        ``ca``, a file of certificates; ``mechanism`` of SASL; ``config``, a file of librdkafka's properties, also named
        by ``$DEEPIDEA_KAFKA_CONFIG``.
    batch_flows
        Most flows of a batch.

    Raises
    ------
    DataError
        The address says what cannot be.

    Examples
    --------
    >>> KafkaSource("kafkas://me:secret@broker:9093/flows?group=site").name
    'kafkas://broker:9093/flows?group=site'
    """

    schema = "conn"
    replayable = True
    is_partitioned = True

    def __init__(self, address: str, *, batch_flows: int = BATCH_FLOWS) -> None:
        self._address = read_address(address, _OPTIONS, ("group",))
        self._topic = _topic_of(self._address)
        options = self._address.options
        self.name = f"{self._address.place}?group={options['group']}"
        self._patience_s = options.get("patience_s", PATIENCE_S)
        self._batch_flows = batch_flows

    def batches(self, after: Position | None, stop: threading.Event) -> Iterator[FlowBatch]:  # noqa: ARG002
        """Yield all flows, without positions: see :func:`deepidea.detection.sources.partitions.read_alone`."""
        return read_alone(self, stop)

    def batches_of_partitions(self, held: HeldPartitions, stop: threading.Event) -> Iterator[FlowBatch]:
        """Yield batches: see :class:`deepidea.detection.sources.partitions.PartitionedSource`."""
        kafka, state = _client_module(), _Brokers(self.name, held, self._patience_s)
        consumer = _made(kafka.Consumer, self._consumer_settings(state), self.name)
        reader = _Reader(kafka, consumer, self._topic, held)
        try:
            yield from state.await_topic(consumer, self._topic, stop)
            consumer.subscribe([self._topic], on_assign=reader.assigned, on_revoke=reader.revoked, on_lost=reader.lost)
            while not stop.is_set():
                yield from self._round(reader, state)
            # Before the consumer leaves the group: what was read is stored, so the next owner does not read it again.
            held.await_stored(set(reader.places), SETTLE_S)
            reader.commit()
        except kafka.KafkaException as error:
            raise SourceError(_no_answer(self.name, error)) from error
        finally:
            consumer.close()

    def _consumer_settings(self, state: _Brokers) -> dict[str, Any]:
        session_s = self._address.options.get("session_s", SESSION_S)
        ours = {
            "group.id": self._address.options["group"],
            # Kafka may not decide what is read: positions are in the store, committed together with the alerts.
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            # Only the partitions that move are taken away; under an eager strategy all members stop at each change of
            # the group.
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": round(1000 * session_s),
            "heartbeat.interval.ms": round(1000 * session_s / 5),
            # A batch that is slow to store must not cost the membership: the client's own thread keeps the session.
            "max.poll.interval.ms": round(1000 * max(session_s, 300)),
            "topic.metadata.refresh.interval.ms": 30_000,
            "error_cb": state.note,
        }
        return {**ours, **_settings(self._address)}

    def _round(self, reader: _Reader, state: _Brokers) -> Iterator[FlowBatch]:
        """Yield what has come: a batch of each partition, or one of nothing."""
        reader.again()
        of: dict[int, list[Any]] = {}
        for message in reader.consumer.consume(self._batch_flows, LINGER_S):
            if message.error():
                state.note(message.error())
            else:
                of.setdefault(message.partition(), []).append(message)
        state.check(answered=bool(of))
        for number, messages in of.items():
            yield from reader.batches_of(number, messages)
        if not of:
            yield FlowBatch(Parsed().flows)
        reader.commit(every_s=_COMMIT_EVERY_S)


class _Reader:
    """The partitions that are ours, as Kafka gives and takes them; all in the thread that polls."""

    def __init__(self, kafka: Any, consumer: Any, topic: str, held: HeldPartitions) -> None:
        self.consumer, self.places = consumer, dict[int, _Place]()
        self._kafka, self._topic, self._held = kafka, topic, held
        self._parser = StreamParser()
        self._committed: dict[int, int] = {}
        self._committed_at = 0.0

    # --- what the protocol of the group calls ------------------------------------------------------------------------

    def assigned(self, consumer: Any, partitions: Sequence[Any]) -> None:
        """Begin partitions where the store stands."""
        consumer.incremental_assign([self._begun(partition.partition) for partition in partitions])

    def revoked(self, consumer: Any, partitions: Sequence[Any]) -> None:
        """Hand partitions over, once what was read of them is stored."""
        numbers = {partition.partition for partition in partitions}
        # Called within consume(): the group waits for this, so that the next owner finds in the store all that was read
        # here.
        self._held.await_stored(numbers, SETTLE_S)
        with contextlib.suppress(self._kafka.KafkaException):  # who takes them asks the store
            self.commit()
        self._drop(numbers)
        consumer.incremental_unassign(partitions)

    def lost(self, consumer: Any, partitions: Sequence[Any]) -> None:
        """Let partitions go that another process reads already."""
        self._drop({partition.partition for partition in partitions})
        consumer.incremental_unassign(partitions)

    def _drop(self, numbers: set[int]) -> None:
        for number in numbers:
            self._held.release(number)
            self.places.pop(number, None)
            self._committed.pop(number, None)

    def _begun(self, number: int) -> Any:
        """Return where to read a partition from: where the store stands."""
        after = self._held.assign(number)
        where = self._kafka.TopicPartition(self._topic, number)
        low, high = self._ends(where)
        # The store's position, not Kafka's: both may differ after a crash, and only the store knows which flows were
        # counted.
        begins = low if after is None else _offset(after)
        begins = low if begins > high else begins  # beyond the end: the topic was made anew
        self.places[number] = _Place(max(begins, low), max(low - begins, 0))
        where.offset = self.places[number].next
        return where

    def _ends(self, where: Any) -> tuple[int, int]:
        """Return the first offset that is left of a partition and the one behind the last, if the brokers answer."""
        try:
            low, high = self.consumer.get_watermark_offsets(where, timeout=_ASK_S, cached=False)
        except self._kafka.KafkaException:  # what is not there any more is skipped all the same, and not counted
            return 0, 1 << 62
        return int(low), int(high)

    def again(self) -> None:
        """Go back to where the store stands with partitions of which a batch was refused."""
        for number in self._held.take_refused():
            self._held.release(number)
            if number in self.places:
                self.consumer.seek(self._begun(number))

    # --- what comes -------------------------------------------------------------------------------------------------

    def batches_of(self, number: int, messages: Sequence[Any]) -> Iterator[FlowBatch]:
        """Yield a batch of the new messages of a partition."""
        place = self.places.get(number)
        # After a seek the client may still deliver what it had fetched before; and a partition may have gone since.
        messages = [message for message in messages if place and message.offset() >= place.next]
        if place is not None and messages:
            yield self._new_batch(number, place, messages)

    def _new_batch(self, number: int, place: _Place, messages: Sequence[Any]) -> FlowBatch:
        lost = place.lost + self._deleted(number, place.next, messages[0].offset())
        place.next, place.lost = messages[-1].offset() + 1, 0
        parsed, position = self._parser.parse([message.value() or b"" for message in messages]), {"offset": place.next}
        partition = self._held.advance(number, position)
        dropped = {LOST: lost} if lost else {}
        return FlowBatch(
            parsed.flows, position, parsed.skipped, dropped, not_flows=parsed.not_flows, partition=partition
        )

    def _deleted(self, number: int, expected: int, found: int) -> int:
        """Return how many messages were deleted before an offset; ends of transactions leave gaps, too."""
        if found <= expected:
            return 0
        where = self._kafka.TopicPartition(self._topic, number)
        # A gap of offsets is a loss only where it lies before the first message left: transactions use up offsets, too.
        low, _ = self._ends(where)
        return int(max(min(low, found) - expected, 0))

    def commit(self, *, every_s: float = 0.0) -> None:
        """Tell Kafka how far the store is, for its tools alone."""
        if time.monotonic() - self._committed_at < every_s:
            return
        self._committed_at = time.monotonic()
        stored = {n: _offset(at) for n, at in self._held.positions().items() if at is not None and n in self.places}
        new = {number: offset for number, offset in stored.items() if self._committed.get(number) != offset}
        if new:
            self._committed |= new
            offsets = [self._kafka.TopicPartition(self._topic, number, offset) for number, offset in new.items()]
            self.consumer.commit(offsets=offsets, asynchronous=True)


def _offset(position: Position) -> int:
    try:
        return int(position["offset"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"cannot go on from {dict(position)}: it is no position in a Kafka topic") from error


class _Brokers:
    """Whether the brokers answer, and for how long they have not."""

    def __init__(self, name: str, held: HeldPartitions, patience_s: float) -> None:
        self._name, self._held, self._patience_s = name, held, patience_s
        self._away_since: float | None = None
        self._fatal: Any = None

    def note(self, error: Any) -> None:
        """Take note of an error of the client."""
        code = error.name()
        if error.fatal() or code in _HOPELESS:
            self._fatal = error
        elif code in _AWAY:
            self._away_since = self._away_since or time.monotonic()
            self._held.n_retries += 1
            self._held.trouble = f"{self._name}: {error.str()}"

    def check(self, *, answered: bool) -> None:
        """Raise what waiting will not help, and what was waited for too long."""
        if answered:
            self._away_since, self._held.trouble = None, None
        too_long = self._away_since is not None and time.monotonic() - self._away_since > self._patience_s
        if self._fatal is not None or too_long:
            raise SourceError(_no_answer(self._name, self._fatal or self._held.trouble))

    def await_topic(self, consumer: Any, topic: str, stop: threading.Event) -> Iterator[FlowBatch]:
        """Wait for the brokers a while, yielding batches of nothing; raise where they or the topic are not there."""
        kafka, began = _client_module(), time.monotonic()
        while not stop.is_set():
            try:
                found = consumer.list_topics(topic, timeout=1.0).topics[topic]
            except kafka.KafkaException as error:
                consumer.poll(0)  # so that the client reports why
                self.check(answered=False)
                if time.monotonic() - began > min(self._patience_s, FIRST_PATIENCE_S):
                    raise SourceError(_no_answer(self._name, self._held.trouble or error)) from error
                yield FlowBatch(Parsed().flows)
                continue
            if found.error is not None:
                raise SourceError(
                    f"cannot read topic of {self._name}: {found.error.str()}; create it with "
                    "kafka-topics.sh --create, or check the permissions"
                )
            self._away_since, self._held.trouble = None, None
            return


_AWAY = {"_ALL_BROKERS_DOWN", "_TRANSPORT", "_RESOLVE", "_TIMED_OUT", "COORDINATOR_NOT_AVAILABLE"}
_HOPELESS = {
    "_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED",
    "UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_SSL",
}  # fmt: skip


def _no_answer(name: str, reason: Any) -> str:
    return f"cannot reach Kafka brokers of {name}: {reason}; check that they run there and let this client in"


def _made(kind: Any, settings: Mapping[str, Any], name: str) -> Any:
    """Return a client; an error about its settings names no secret values."""
    try:
        return kind(dict(settings))
    except (_client_module().KafkaException, TypeError, ValueError) as error:
        reason = getattr(error, "args", [error])[0]
        text = reason.str() if hasattr(reason, "str") else str(reason)
        for key, value in settings.items():
            # librdkafka may repeat values in its errors.
            if "password" in key or "secret" in key or "key" in key.split("."):
                text = text.replace(str(value), "...")
        raise DataError(f"cannot use the Kafka settings of {name}: {text}; correct them") from error


# --- putting in ------------------------------------------------------------------------------------------------------


class _Producing:
    """A topic that is written to: where it is, its producer once there is one, and the client's last complaint."""

    def __init__(self, address: str, known: Mapping[str, Reads]) -> None:
        self._address = read_address(address, known)
        self._topic = _topic_of(self._address)
        self.name = f"{self._address.parts.scheme}://{_brokers(self._address)}/{self._topic}"
        self._producer: Any = None
        self._trouble = ""

    def _note(self, error: Any) -> None:
        self._trouble = error.str()

    def close(self) -> None:
        """Close the connection and drop what was not acknowledged: the caller sends it again."""
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(1)
            self._producer = None


class KafkaSink(_Producing):
    """A topic for alerts: one message each, with its source address as key, acknowledged by every replica.

    Parameters
    ----------
    address
        ``kafka://host:9092/TOPIC``, ``kafkas://...`` with TLS; options ``timeout_s``, ``ca``, ``mechanism`` and
        ``config``.
    format
        Of the messages.

    Examples
    --------
    >>> KafkaSink("kafka://me:secret@broker:9092/alerts").name
    'kafka://broker:9092/alerts'
    """

    def __init__(self, address: str, *, format: str = "eve") -> None:
        known = {name: _OPTIONS[name] for name in _CONNECTING} | {"timeout_s": at_least(float, 0.1)}
        super().__init__(address, known)
        self.format, self._timeout_s = format, self._address.options.get("timeout_s", 10.0)

    def send(self, lines: Sequence[str]) -> None:
        """Send lines, and wait until they are acknowledged.

        Raises
        ------
        SinkError
            Some were not acknowledged.
        """
        if not lines:
            return
        kafka, errors, n_taken = _client_module(), list[str](), 0
        producer = self._open(kafka)

        def count(error: Any, _message: Any) -> None:
            nonlocal n_taken
            n_taken += not error
            if error:
                errors.append(error.str())

        try:
            for line in lines:
                producer.produce(self._topic, line.encode(), key=_key_of(line), on_delivery=count)
                # Serves the callbacks of earlier messages, and lets a full queue drain.
                producer.poll(0)
            # A second more than the client itself tries, so that each message has had its callback.
            producer.flush(self._timeout_s + 1)
        except (kafka.KafkaException, BufferError) as error:
            errors.append(str(error.args[0].str() if hasattr(error.args[0], "str") else error))
        if n_taken < len(lines):
            reason = self._trouble or next(iter(errors), "no acknowledgement came")
            self.close()
            raise SinkError(f"cannot send alerts to {self.name}: {reason}")

    def _open(self, kafka: Any) -> Any:
        if self._producer is None:
            self._trouble = ""
            # With idempotence a retry of the client repeats no message; acknowledged by all replicas in sync, it
            # survives a broker.
            ours = {"enable.idempotence": True, "acks": "all", "message.timeout.ms": round(1000 * self._timeout_s)}
            ours |= {"error_cb": self._note}
            self._producer = _made(kafka.Producer, {**ours, **_settings(self._address)}, self.name)
        return self._producer


def _brokers(address: StreamAddress) -> str:
    """Return the brokers of an address in one spelling: in small letters, with their ports, in order."""
    hosts = address.parts.netloc.rpartition("@")[2].lower().split(",")
    return ",".join(sorted(host if re.search(r":\d+$", host) else f"{host}:9092" for host in hosts))


_IN_CEF = re.compile(r"(?:^|[ |])src=(\S+)")
_PATHS = (("src_ip",), ("source", "ip"), ("src_endpoint", "ip"))


def _key_of(line: str) -> str | None:
    """Return the source address of an alert in any format, as key: alerts of a host keep their order."""
    if not line.startswith("{"):
        found = _IN_CEF.search(line)
        return found[1] if found else None
    alert = json.loads(line)
    for path in _PATHS:
        value: Any = alert
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            return str(value)
    return None


class KafkaPublisher(_Producing):
    """Puts flows into a topic with their pair of hosts as key: a batch is one transaction.

    The source's position follows in a commit of its own, as metadata of the offset of the group
    ``deepidea-publish-...``. A process that dies between the two publishes its last batch again.

    Parameters
    ----------
    address
        ``kafka://host:9092/TOPIC``, ``kafkas://...`` with TLS; options ``ca``, ``mechanism``, ``config``.

    Examples
    --------
    >>> KafkaPublisher("kafka://broker:9092/flows").name
    'kafka://broker:9092/flows'
    """

    def __init__(self, address: str) -> None:
        super().__init__(address, {name: _OPTIONS[name] for name in _CONNECTING})
        self._consumer: Any = None

    def open(self, source: str) -> Position | None:
        """Connect, and return the position of the source of this name; an earlier publisher of it is fenced off."""
        kafka = _client_module()
        self.close()
        # The name of the transaction is the fence: a second producer under it makes the first one's transactions fail.
        group = f"deepidea-publish-{hashlib.blake2b(f'{self._topic} {source}'.encode(), digest_size=8).hexdigest()}"
        shared = {**_settings(self._address), "error_cb": self._note}
        # As Java's clients partition, so that flows of a pair of hosts stay together whoever else writes to the topic.
        ours = {"transactional.id": group, "compression.type": "lz4", "linger.ms": 20, "partitioner": "murmur2_random"}
        self._producer = _made(kafka.Producer, {**ours, **shared}, self.name)
        self._consumer = _made(kafka.Consumer, {"group.id": group, "enable.auto.commit": False, **shared}, self.name)
        with self._errors(kafka):
            self._producer.init_transactions(_ASK_S)
            [kept] = self._consumer.committed([kafka.TopicPartition(self._topic, 0)], timeout=_ASK_S)
        return position_from(_unpacked(kept.metadata))

    def publish(self, source: str, keys: Sequence[str], lines: Sequence[bytes], position: str | None) -> None:
        """Put lines into the partitions of their keys, all or none; then commit the position behind them.

        Raises
        ------
        SourceError
            The brokers do not take them; opening again returns the position that they have.
        DataError
            The position is too long for Kafka.
        """
        kafka = _client_module()
        packed = None if position is None else _packed(position, source)
        with self._errors(kafka):
            self._producer.begin_transaction()
            for key, line in zip(keys, lines, strict=True):
                self._producer.produce(self._topic, line, key=key)
            self._producer.commit_transaction(3 * _ASK_S)
            if packed is not None:
                offset = kafka.TopicPartition(self._topic, 0, 0, metadata=packed)
                self._consumer.commit(offsets=[offset], asynchronous=False)

    @contextlib.contextmanager
    def _errors(self, kafka: Any) -> Iterator[None]:
        self._trouble = ""
        try:
            yield
        except (kafka.KafkaException, BufferError) as error:
            reason = self._trouble or error.args[0]
            raise SourceError(f"cannot publish flows to {self.name}: {reason}") from error

    def close(self) -> None:
        """Close the connections."""
        super().close()
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def _packed(position: str, source: str) -> str:
    text = base64.b64encode(zlib.compress(position.encode())).decode()
    if len(text) > _LONGEST_POSITION:
        raise DataError(
            f"cannot keep the position of {source} in Kafka: {len(text)} bytes, and offset metadata hold "
            f"{_LONGEST_POSITION}; publish fewer logs from one source"
        )
    return text


def _unpacked(text: str | None) -> str | None:
    return zlib.decompress(base64.b64decode(text)).decode() if text else None
