"""Kafka and Redis as sources, sinks and publishers: registered here, imported when an address of theirs is opened."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from deepidea.detection.publishers import Publisher, register_publisher
from deepidea.detection.sinks.registry import OpenSink, register_sink
from deepidea.detection.sources.registry import SourceInfo, begins_with, register_source

if TYPE_CHECKING:
    from deepidea.adapters.kafka import KafkaSource
    from deepidea.adapters.redis import RedisSource
    from deepidea.adapters.redis_group import RedisGroupSource


def register_adapters() -> None:
    """Let `open_source`, `open_sink` and `open_publisher` take ``kafka://`` and ``redis://``; again, it does nothing.

    The command line calls it. It imports neither client.

    Examples
    --------
    >>> from deepidea.detection.sinks.registry import open_sink
    >>> register_adapters()
    >>> open_sink("redis://localhost/0?stream=alerts").name
    'redis://localhost:6379/0?stream=alerts'
    """
    for source in _SOURCES:
        register_source(source)
    register_sink(_kafka_sink, "kafka", "kafkas")
    register_sink(_redis_sink, "redis", "rediss")
    register_publisher(_kafka_publisher, "kafka", "kafkas")
    register_publisher(_redis_publisher, "redis", "rediss")


def _redis_group_source() -> type[RedisGroupSource]:
    from deepidea.adapters.redis_group import RedisGroupSource

    return RedisGroupSource


def _kafka_source() -> type[KafkaSource]:
    from deepidea.adapters.kafka import KafkaSource

    return KafkaSource


def _redis_source() -> type[RedisSource]:
    from deepidea.adapters.redis import RedisSource

    return RedisSource


def _kafka_sink() -> OpenSink:
    from deepidea.adapters.kafka import KafkaSink

    return KafkaSink


def _redis_sink() -> OpenSink:
    from deepidea.adapters.redis_sink import RedisSink

    return RedisSink


def _kafka_publisher() -> type[Publisher]:
    from deepidea.adapters.kafka import KafkaPublisher

    return KafkaPublisher


def _redis_publisher() -> type[Publisher]:
    from deepidea.adapters.redis_group import RedisPublisher

    return RedisPublisher


_is_redis = begins_with("redis://", "rediss://")
_SOURCES = (
    SourceInfo(
        "redis-group",
        "a Redis stream that processes share",
        "redis://localhost:6379/0?stream=flows&group=site",
        _redis_group_source,
        lambda address: _is_redis(address) and bool(re.search(r"[?&]group=", address)),
        live=True,
        replayable=True,
    ),
    SourceInfo(
        "kafka",
        "a Kafka topic that processes share",
        "kafka://localhost:9092/flows?group=site",
        _kafka_source,
        begins_with("kafka://", "kafkas://"),
        live=True,
        replayable=True,
    ),
    SourceInfo(
        "redis",
        "EVE from Redis",
        "redis://localhost:6379/0?list=suricata",
        _redis_source,
        _is_redis,
        live=True,
        replayable=True,
    ),
)
