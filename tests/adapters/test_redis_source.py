"""Events from a real Redis: none is lost, whenever the reader dies."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from deepidea.adapters.redis import RedisSource
from deepidea.detection.sources.registry import open_source
from deepidea.detection.sources.source import FlowBatch, Position
from deepidea.errors import DataError, MissingExtraError, SourceError
from deepidea.flows.sensors.suricata import EveParser
from tests.adapters.redis_server import free_port, running_redis
from tests.flows.sensor_lines import eve_dns, eve_flow

redis = pytest.importorskip("redis", reason="redis is not installed: pip install 'deepidea[redis]'")
N = 20
EVENTS = [eve_flow(n).strip() for n in range(N)]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(tmp_path_factory.mktemp("redis")) as where:
        yield where


@pytest.fixture
def server(address: str) -> Iterator[Any]:
    with redis.Redis.from_url(address) as client:
        client.flushall()
        yield client


def all_of(source: RedisSource, after: Position | None = None) -> list[FlowBatch]:
    """Return batches until nothing is left."""
    stop, found = threading.Event(), list[FlowBatch]()
    for batch in source.batches(after, stop):
        found.append(batch)
        if not (batch.flows.height or batch.not_flows or batch.skipped):
            stop.set()
    return found


def flows(batches: list[FlowBatch]) -> pl.DataFrame:
    return pl.concat([batch.flows for batch in batches])


def expected(*numbers: int) -> pl.DataFrame:
    return EveParser().parse(b"\n".join(EVENTS[n] for n in range(*numbers))).flows


@pytest.mark.parametrize("push", ["left", "right"])
def test_a_list_is_read_in_the_order_in_which_it_was_written(address: str, server: Any, push: str) -> None:
    (server.lpush if push == "left" else server.rpush)("suricata", *EVENTS, eve_dns(1), b"{")
    batches = all_of(RedisSource(f"{address}?list=suricata&push={push}", batch_flows=6))
    assert_frame_equal(flows(batches), expected(N))
    assert max(batch.flows.height for batch in batches) == 6
    assert sum((Counter(batch.not_flows) for batch in batches), Counter()) == {"dns": 1}
    assert sum((Counter(batch.skipped) for batch in batches), Counter()) == {"not JSON": 1}
    assert server.keys() == []


@pytest.mark.parametrize("dealt_with", [0, 1, 3])
def test_what_a_crash_left_of_a_list_comes_first(address: str, server: Any, dealt_with: int) -> None:
    server.lpush("suricata", *EVENTS)
    dying = RedisSource(address, batch_flows=4).batches(None, threading.Event())
    for _ in range(dealt_with + 1):
        next(dying)
    dying.close()  # type: ignore[attr-defined]
    assert server.llen("suricata:deepidea") == 4
    assert_frame_equal(flows(all_of(RedisSource(address, batch_flows=3))), expected(4 * dealt_with, N))
    assert server.keys() == []


def test_from_every_position_of_a_stream_exactly_the_rest_comes(address: str, server: Any) -> None:
    for event in EVENTS:
        server.xadd("eve", {"eve": event})
    source = RedisSource(f"{address}?stream=eve", batch_flows=3)
    batches = all_of(source)
    assert_frame_equal(flows(batches), expected(N))
    for n, batch in enumerate(batches):
        assert_frame_equal(flows(all_of(source, batch.position)), expected(min(3 * n + 3, N), N))


def test_what_was_trimmed_from_a_stream_is_reported(address: str, server: Any) -> None:
    source = RedisSource(f"{address}?stream=eve", batch_flows=5)
    for event in EVENTS[:10]:
        server.xadd("eve", {"eve": event})
    server.xtrim("eve", maxlen=8, approximate=False)
    first = next(iter(all_of(source)))
    assert not first.dropped  # what was gone before anyone read is nobody's loss
    for event in EVENTS[10:]:
        server.xadd("eve", {"eve": event})
    server.xtrim("eve", maxlen=6, approximate=False)
    rest = all_of(source, first.position)
    assert_frame_equal(flows(rest), expected(14, N))
    assert sum(sum(batch.dropped.values()) for batch in rest) == 7


def test_what_comes_later_comes(address: str, server: Any) -> None:
    for where in (f"{address}?list=a", f"{address}?stream=b"):
        stop, seen = threading.Event(), 0
        for batch in open_source(where).batches(None, stop):
            seen += batch.flows.height
            if seen == 2:
                stop.set()
            elif not batch.flows.height:
                server.lpush("a", EVENTS[seen])
                server.xadd("b", {"eve": EVENTS[seen]})
        assert seen == 2


def test_no_password_is_reported() -> None:
    source = RedisSource("redis://me:secret@127.0.0.1:1/0?list=a")
    assert source.name == "redis://127.0.0.1:1/0?list=a"
    with pytest.raises(SourceError, match="cannot reach Redis") as told:
        next(iter(source.batches(None, threading.Event())))
    assert "secret" not in str(told.value)


def test_what_cannot_be_is_reported(address: str, server: Any) -> None:
    for query in ("list=a&stream=b", "lists=a", "push=up"):
        with pytest.raises(DataError, match="a Redis address must end in"):
            RedisSource(f"{address}?{query}")
    with pytest.raises(DataError, match="no position in a Redis stream"):
        next(RedisSource(f"{address}?stream=a").batches({"rows": 1}, threading.Event()))
    server.set("text", "x")
    for query in ("list=text", "stream=text"):
        with pytest.raises(SourceError, match="wrong kind of value"):
            next(RedisSource(f"{address}?{query}").batches(None, threading.Event()))
    with pytest.raises(SourceError, match="cannot reach"):
        next(RedisSource(f"redis://127.0.0.1:{free_port()}").batches(None, threading.Event()))


def test_without_redis_the_line_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'deepidea\[redis\]'"):
        next(RedisSource("redis://127.0.0.1").batches(None, threading.Event()))
