"""Kafka and Redis as sources, sinks and publishers: registered here, imported when an address of theirs is opened."""

from __future__ import annotations

import re

from deepidea.detection.publishers import register_publisher
from deepidea.detection.sinks.registry import register_sink
from deepidea.detection.sources.registry import SourceInfo, begins_with, register_source


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
    register_sink("deepidea.adapters.kafka:KafkaSink", "kafka", "kafkas")
    register_sink("deepidea.adapters.redis_sink:RedisSink", "redis", "rediss")
    register_publisher("deepidea.adapters.kafka:KafkaPublisher", "kafka", "kafkas")
    register_publisher("deepidea.adapters.redis_group:RedisPublisher", "redis", "rediss")


_is_redis = begins_with("redis://", "rediss://")
_SOURCES = (
    SourceInfo(
        "redis-group",
        "a Redis stream that processes share",
        "redis://localhost:6379/0?stream=flows&group=site",
        "deepidea.adapters.redis_group:RedisGroupSource",
        lambda address: _is_redis(address) and bool(re.search(r"[?&]group=", address)),
        live=True,
        replayable=True,
    ),
    SourceInfo(
        "kafka",
        "a Kafka topic that processes share",
        "kafka://localhost:9092/flows?group=site",
        "deepidea.adapters.kafka:KafkaSource",
        begins_with("kafka://", "kafkas://"),
        live=True,
        replayable=True,
    ),
    SourceInfo(
        "redis",
        "EVE from Redis",
        "redis://localhost:6379/0?list=suricata",
        "deepidea.adapters.redis:RedisSource",
        _is_redis,
        live=True,
        replayable=True,
    ),
)
