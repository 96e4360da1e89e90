"""A Kafka cluster of the test's own: librdkafka's mock brokers, on the loopback, as long as their owner lives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is missing: pip install 'deepidea[kafka]'")


@contextmanager
def running_cluster() -> Iterator[str]:
    """Yield the address of a cluster whose topics have four partitions and are made when they are asked for."""
    owner = kafka.Producer({"test.mock.num.brokers": 1, "log_level": 2})
    brokers = owner.list_topics(timeout=10).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    del owner


def messages_of(brokers: str, topic: str, n: int) -> list[Any]:
    """Return the first messages of a topic."""
    settings = {"bootstrap.servers": brokers, "group.id": "test", "auto.offset.reset": "earliest", "log_level": 2}
    consumer = kafka.Consumer({**settings, "enable.auto.commit": False})
    try:
        parts = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([kafka.TopicPartition(topic, number, 0) for number in parts])
        found: list[Any] = []
        for _ in range(100):
            found += [message for message in consumer.consume(n, 0.1) if not message.error()]
            if len(found) >= n:
                break
        return found
    finally:
        consumer.close()
