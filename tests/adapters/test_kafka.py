"""Kafka on librdkafka's mock brokers: what is put in comes out once, whoever reads; alerts are acknowledged."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from deepidea.adapters.kafka import KafkaPublisher, KafkaSink, KafkaSource
from deepidea.detection.publish import publish
from deepidea.detection.sinks.registry import open_sink
from deepidea.detection.sources.partitions import HeldPartitions
from deepidea.detection.sources.registry import open_source
from deepidea.detection.sources.source import Position
from deepidea.errors import DataError, MissingExtraError, SinkError, SourceError
from deepidea.flows.context import HostContext
from tests.adapters.redis_server import free_port
from tests.adapters.sharing import Reading, wait_for
from tests.detection.servers import eventually
from tests.flows.sensor_lines import eve_flow

cluster = pytest.importorskip("tests.adapters.kafka_cluster")
N = 200


@pytest.fixture(scope="module")
def brokers() -> Iterator[str]:
    with cluster.running_cluster() as address:
        yield address


@pytest.fixture
def topic(brokers: str) -> str:
    name = f"t{uuid4().hex}"
    producer = cluster.kafka.Producer({"bootstrap.servers": brokers, "log_level": 2})
    producer.list_topics(name, timeout=10)  # which makes it
    return f"kafka://{brokers}/{name}"


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "eve.json"
    path.write_bytes(b"".join(map(eve_flow, range(N))))
    return str(path)


def shared(topic: str) -> str:
    """Return the address of a group of its own: a member that left lingers in one, for as long as a session."""
    return f"{topic}?group={topic.rpartition('/')[2]}&session_s=3"


def put(log: str, topic: str) -> int:
    return publish(open_source(log), KafkaPublisher(topic), threading.Event()).n_flows


def test_what_is_published_comes_out_with_its_context(topic: str, log: str) -> None:
    assert put(log, topic) == N
    with Reading(KafkaSource(shared(topic)), {}) as reading:
        wait_for(reading, n=N)
    [whole] = open_source(log).batches(None, threading.Event())
    found = pl.concat(reading.flows).sort("start", "src_port")
    assert_frame_equal(found, HostContext().add(whole.flows).sort("start", "src_port"))
    assert len(reading.stored) == 4


def test_flows_of_two_hosts_are_in_one_partition(brokers: str, topic: str, log: str) -> None:
    put(log, topic)
    found = cluster.messages_of(brokers, topic.rpartition("/")[2], N)
    of: dict[bytes, set[int]] = {}
    for message in found:
        of.setdefault(message.key(), set()).add(message.partition())
    assert len(found) == N
    assert all(len(partitions) == 1 for partitions in of.values())
    assert len(set.union(*of.values())) == 4


def test_a_publisher_goes_on_where_it_stopped(topic: str, log: str) -> None:
    assert put(log, topic) == N
    with Path(log).open("ab") as file:
        file.write(eve_flow(N))
    assert put(log, topic) == 1
    found = cluster.messages_of(topic.split("/")[2], topic.rpartition("/")[2], N + 1)
    assert len(found) == N + 1


def test_positions_are_the_stores_and_poison_is_counted(brokers: str, topic: str, log: str) -> None:
    put(log, topic)
    producer = cluster.kafka.Producer({"bootstrap.servers": brokers, "log_level": 2})
    for text in (b"poison", None, eve_flow(1)):
        producer.produce(topic.rpartition("/")[2], text, partition=0)
    producer.flush(5)
    stored: dict[str, Position] = {}
    with Reading(KafkaSource(shared(topic)), stored) as first:
        wait_for(first, n=N + 1)
    with Reading(KafkaSource(shared(topic)), stored) as second:
        eventually(lambda: len(second.held.numbers) == 4)
        time.sleep(0.5)  # a message of the first reading would come now
    assert (first.n_flows, second.n_flows) == (N + 1, 0)
    assert sum(sum(batch.skipped.values()) for batch in first.batches) == 2


@pytest.mark.slow
def test_two_share_and_one_takes_over(topic: str, log: str) -> None:
    stored: dict[str, Position] = {}
    address = shared(topic)
    with Reading(KafkaSource(address), stored) as first, Reading(KafkaSource(address), stored) as second:
        deadline = time.monotonic() + 60
        while {len(first.held.numbers), len(second.held.numbers)} != {2} and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(first.held.numbers) == len(second.held.numbers) == 2
        put(log, topic)
        wait_for(first, second, n=N)
        assert first.n_flows + second.n_flows == N
        assert min(first.n_flows, second.n_flows) > 0
        first.stop.set()
        with Path(log).open("ab") as file:
            file.write(b"".join(map(eve_flow, range(N, 2 * N))))
        put(log, topic)
        wait_for(first, second, n=2 * N)
    assert first.n_flows + second.n_flows == 2 * N


def test_a_share_that_was_refused_is_read_from_where_the_store_stands(topic: str, log: str) -> None:
    put(log, topic)
    stored: dict[str, Position] = {}
    with Reading(KafkaSource(shared(topic)), stored) as reading:
        wait_for(reading, n=N)
        name = min(stored)
        stored[name] = {"offset": stored[name]["offset"] - 3}  # as if another process stood there
        with Path(log).open("ab") as file:
            file.write(b"".join(map(eve_flow, range(N, 2 * N))))
        put(log, topic)
        wait_for(reading, n=2 * N + 2)
    assert reading.held.n_refused > 0
    assert reading.n_flows in (2 * N + 2, 2 * N + 3)  # the end of a transaction is no message


def test_alerts_are_acknowledged_under_their_source_as_key(brokers: str, topic: str) -> None:
    sink = open_sink(topic)
    lines = [json.dumps({"src_ip": f"10.0.0.{n}"}) for n in range(9)]
    sink.send(lines)
    sink.send([])
    sink.close()
    found = cluster.messages_of(brokers, topic.rpartition("/")[2], 9)
    assert sorted(message.value().decode() for message in found) == sorted(lines)
    assert {message.key().decode() for message in found} == {f"10.0.0.{n}" for n in range(9)}


def test_an_alert_that_is_too_large_is_refused_and_the_next_is_taken(topic: str) -> None:
    sink = KafkaSink(topic)
    with pytest.raises(SinkError, match=r"kafka://.*: .*too large"):
        sink.send(["x" * 2_000_000])
    sink.send(["{}"])
    sink.close()


def test_brokers_that_are_not_there_are_reported_without_a_password() -> None:
    nowhere = f"kafka://me:secret@127.0.0.1:{free_port()}/flows"
    with pytest.raises(SinkError) as refused:
        KafkaSink(f"{nowhere}?timeout_s=0.5").send(["{}"])
    source = KafkaSource(f"{nowhere}?group=g&patience_s=0.5")
    with pytest.raises(SourceError, match="cannot reach Kafka") as told:
        list(source.batches_of_partitions(HeldPartitions("x", {}.get), threading.Event()))
    assert "secret" not in source.name + str(told.value) + str(refused.value)


def test_a_topic_that_is_not_there_is_reported(brokers: str) -> None:
    source = KafkaSource(f"kafka://{brokers}/absent?group=g")
    with pytest.raises(SourceError, match=r"absent.*kafka-topics\.sh"):
        list(source.batches_of_partitions(HeldPartitions("x", {}.get), threading.Event()))


@pytest.mark.parametrize("address", ["kafka://h:1/t", "kafka://h:1/?group=g", "kafka://h:1/t?group=g&session_s=0"])
def test_an_address_that_cannot_be_is_reported(address: str) -> None:
    with pytest.raises(DataError, match=r"address|option"):
        KafkaSource(address)


def test_properties_come_from_a_file_and_their_values_are_not_shown(tmp_path: Path, topic: str) -> None:
    path = tmp_path / "kafka.properties"
    path.write_text("# ours\nsasl.password = hush\nno.such.property=hush\n")
    with pytest.raises(DataError, match=r"no\.such\.property") as told:
        KafkaSink(f"{topic}?config={path}").send(["{}"])
    assert "hush" not in str(told.value)
    path.write_text("no equals sign\n")
    with pytest.raises(DataError, match="line 1: it is not name=value"):
        KafkaSink(f"{topic}?config={path}").send(["{}"])


def test_without_the_client_the_line_to_install_is_named(monkeypatch: pytest.MonkeyPatch, topic: str) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'deepidea\[kafka\]'"):
        open_sink(topic).send(["{}"])
