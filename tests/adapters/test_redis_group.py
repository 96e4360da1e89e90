"""A Redis stream that readers partition, on a real server: each flow once, partitions handed over, losses told."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from deepidea.adapters.redis_group import RedisGroupSource, RedisPublisher
from deepidea.cli.detect import status_line
from deepidea.detection.engine import Progress
from deepidea.detection.publish import publish
from deepidea.detection.publishers import open_publisher
from deepidea.detection.sinks.registry import open_sink
from deepidea.detection.sources.partitions import HeldPartitions
from deepidea.detection.sources.registry import open_source, source_of
from deepidea.detection.sources.source import FlowBatch, Position
from deepidea.errors import DataError, MissingExtraError, SinkError, SourceError
from deepidea.flows.context import HostContext
from tests.adapters.redis_server import free_port, running_redis
from tests.adapters.sharing import Reading, wait_for
from tests.detection.servers import eventually
from tests.flows.sensor_lines import eve_flow

redis = pytest.importorskip("redis", reason="redis is not installed: pip install 'deepidea[redis]'")
N = 200


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(tmp_path_factory.mktemp("redis")) as where:
        yield where


@pytest.fixture
def server(address: str) -> Iterator[Any]:
    with redis.Redis.from_url(address) as client:
        client.flushall()
        yield client


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "eve.json"
    path.write_bytes(b"".join(map(eve_flow, range(N))))
    return path


def put(log: Path, address: str, **options: Any) -> int:
    publisher = RedisPublisher(f"{address}?stream=flows&partitions=4")
    return publish(open_source(str(log), batch_flows=50), publisher, threading.Event(), **options).n_flows


def more(log: Path, first: int, last: int) -> None:
    with log.open("ab") as file:
        file.write(b"".join(map(eve_flow, range(first, last))))


def sharing(address: str, query: str = "session_s=0.5") -> RedisGroupSource:
    return RedisGroupSource(f"{address}?stream=flows&group=g&{query}", batch_flows=40)


def whole(log: Path) -> pl.DataFrame:
    [batch] = open_source(str(log)).batches(None, threading.Event())
    return batch.flows


def told(*readings: Reading) -> pl.DataFrame:
    return pl.concat([table for reading in readings for table in reading.flows]).sort("start", "src_port")


def test_what_is_published_comes_out_with_its_context(address: str, server: Any, log: Path) -> None:
    assert put(log, address) == N
    with Reading(sharing(address), {}) as reading:
        wait_for(reading, n=N)
    expected = HostContext().add(whole(log)).sort("start", "src_port")
    assert_frame_equal(told(reading), expected)
    assert len(reading.stored) == 4


def test_a_publisher_goes_on_where_it_stopped(address: str, server: Any, log: Path) -> None:
    assert put(log, address) == N
    more(log, N, N + 5)
    assert [put(log, address), put(log, address)] == [5, 0]
    entries = [json.loads(e[b"eve"]) for n in range(4) for _, e in server.xrange(f"flows:{n}")]
    kept = [e["src_flows_per_s_100"] for e in sorted(entries, key=lambda e: (e["start"], e["src_port"]))]
    expected = HostContext().add(whole(log)).sort("start", "src_port")
    assert kept == expected["src_flows_per_s_100"].to_list()


def test_shares_are_dealt_evenly_and_taken_over(address: str, server: Any, log: Path) -> None:
    stored: dict[str, Position] = {}
    with Reading(sharing(address, "partitions=4&session_s=1"), stored) as first:
        eventually(lambda: len(first.held.numbers) == 4)
        with Reading(sharing(address, "session_s=120"), stored) as second:
            eventually(lambda: (len(first.held.numbers), len(second.held.numbers)) == (2, 2))
            put(log, address)
            wait_for(first, second, n=N)
            assert min(first.n_flows, second.n_flows) > 0
            second.stop.set()
            eventually(lambda: len(first.held.numbers) == 4)  # handed over, not waited for until its session ends
        more(log, N, 2 * N)
        put(log, address)
        wait_for(first, second, n=2 * N)
    assert_frame_equal(told(first, second).select(whole(log).columns), whole(log).sort("start", "src_port"))
    assert first.held.n_refused == second.held.n_refused == 0


def test_of_two_that_read_the_same_one_is_refused_and_catches_up(address: str, server: Any, log: Path) -> None:
    put(log, address)
    stored: dict[str, Position] = {}
    with Reading(sharing(address), stored) as reading:
        wait_for(reading, n=N)
        name = sorted(stored)[1]
        stored[name] = {"id": "0-0", "read": 0}  # as if another process stood there
        more(log, N, 2 * N)
        put(log, address)
        eventually(lambda: told(reading).unique(["start", "src_port"]).height == 2 * N)
    assert reading.held.n_refused > 0
    counts = told(reading).group_by("start", "src_port").len()
    assert (counts.height, counts["len"].max()) == (2 * N, 2)


def test_a_lease_that_dies_of_a_fault_ends_the_reading(
    address: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check a process would silently hold nothing for ever."""
    put(log, address)
    monkeypatch.setattr("deepidea.adapters.redis_group._Lease._beat", lambda *_: 1 / 0)
    with Reading(sharing(address), {}) as reading:
        eventually(lambda: reading.error is not None)
    assert "ZeroDivisionError" in str(reading.error)


def test_a_stream_made_anew_is_read_from_its_beginning(address: str, server: Any, log: Path) -> None:
    """Its ids are older than the position: XREAD alone would wait for newer ones for ever."""
    put(log, address)
    stored: dict[str, Position] = {}
    with Reading(sharing(address), stored) as first:
        wait_for(first, n=N)
    for number in range(4):
        lines = [fields for _, fields in server.xrange(f"flows:{number}")]
        server.delete(f"flows:{number}")
        for at, fields in enumerate(lines):
            server.xadd(f"flows:{number}", fields, id=f"1-{at + 1}")
    with Reading(sharing(address), stored) as second:
        wait_for(second, n=N)
    assert (first.n_flows, second.n_flows) == (N, N)


def test_what_was_trimmed_unread_is_reported(address: str, server: Any, log: Path) -> None:
    put(log, address)
    stored: dict[str, Position] = {}
    with Reading(sharing(address), stored) as first:
        wait_for(first, n=N)
    more(log, N, 2 * N)
    put(log, address)
    left = 0
    for number in range(4):
        server.xtrim(f"flows:{number}", maxlen=5, approximate=False)
        left += server.xlen(f"flows:{number}")
    with Reading(sharing(address), stored) as second:
        wait_for(second, n=left)
    assert (second.n_flows, second.n_dropped) == (left, N - left)


def test_poison_is_counted_and_sensors_records_are_taken(address: str, server: Any) -> None:
    for number, event in enumerate(
        (b"poison", eve_flow(1).strip(), b'{"event_type":"dns"}', b'{"flow":"conn","start":1}')
    ):
        server.xadd(f"flows:{number}", {"any": event})
    with Reading(sharing(address, "partitions=4"), {}) as reading:
        eventually(lambda: len(reading.batches) == 4)
    assert reading.n_flows == 1
    assert sorted(reason for batch in reading.batches for reason in batch.skipped) == [
        "not JSON",
        "not a flow: a column is missing or out of range",
    ]


def test_a_partition_more_is_seen(address: str, server: Any, log: Path) -> None:
    with Reading(sharing(address, "partitions=4"), {}) as reading:
        eventually(lambda: len(reading.held.numbers) == 4)
        server.set("flows:partitions", 6)
        eventually(lambda: len(reading.held.numbers) == 6)
    with pytest.raises(DataError, match="flows in 4 partitions: it has 6"):
        put(log, address)


def test_a_server_that_goes_and_comes_is_waited_for(tmp_path: Path, log: Path) -> None:
    with running_redis(tmp_path) as where:
        reading = Reading(sharing(where, "partitions=4"), {})
        with reading:
            eventually(lambda: len(reading.held.numbers) == 4)
            with redis.Redis.from_url(where) as client:
                client.config_set("maxclients", 1)
                client.client_kill_filter(_type="normal", skipme=True)
                eventually(lambda: reading.held.trouble is not None)
                client.config_set("maxclients", 100)
            put(log, where)
            wait_for(reading, n=N)
        assert (reading.error, reading.n_flows) == (None, N)
        assert reading.held.n_retries > 0


def test_a_server_that_is_not_there_or_lets_nobody_in_is_reported(tmp_path: Path, address: str, server: Any) -> None:
    with Reading(sharing(f"redis://:secret@127.0.0.1:{free_port()}", "patience_s=0.3"), {}) as away:
        away.thread.join(60)
    server.acl_setuser("default", passwords="+right", enabled=True, keys="*", commands=["+@all"], reset_passwords=True)
    try:
        with Reading(sharing(address.replace("://", "://:wrong-secret@")), {}) as shut_out:
            shut_out.thread.join(60)
    finally:
        server.acl_setuser("default", enabled=True, nopass=True, keys="*", commands=["+@all"], reset_passwords=True)
    for reading in (away, shut_out):
        assert isinstance(reading.error, SourceError)
        assert "cannot reach Redis" in str(reading.error)
        assert "secret" not in str(reading.error) + reading.source.name


@pytest.mark.parametrize("query", ["stream=a", "group=g", "stream=a&group=g&partitions=0", "stream=a&group=g&x=1"])
def test_an_address_that_cannot_be_is_reported(address: str, query: str) -> None:
    with pytest.raises(DataError, match=r"option \w+.* of redis://"):
        RedisGroupSource(f"{address}?{query}")


def test_addresses_are_distinguished() -> None:
    assert source_of("redis://h/0?stream=a&group=g").name == "redis-group"
    assert source_of("redis://h/0?stream=a").name == "redis"
    with pytest.raises(DataError, match=r"'http://h/'; .* kafka://"):
        open_publisher("http://h/")


@pytest.mark.parametrize(
    ("one", "other"),
    [("redis://h/0?stream=a", "redis://me:secret@H:6379?stream=a&maxlen=9"), ("kafka://a,b/t", "kafka://B:9092,a/t")],
)
def test_two_spellings_of_a_stream_are_one_publisher(one: str, other: str) -> None:
    assert open_publisher(one).name == open_publisher(other).name


class Failing(RedisPublisher):
    """A publisher whose server fails, before or after it took what came."""

    def __init__(self, address: str, failures: int, *, reaches: bool) -> None:
        super().__init__(address)
        self.failures, self.reaches = failures, reaches

    def publish(self, *given: Any) -> None:
        if self.failures and not self.reaches:
            self.failures -= 1
            raise SourceError("away")
        super().publish(*given)
        if self.failures:
            self.failures -= 1
            raise SourceError("away")


@pytest.mark.parametrize("reaches", [True, False])
def test_a_publisher_puts_each_flow_in_once_whenever_its_server_fails(
    address: str, server: Any, log: Path, reaches: bool
) -> None:
    failing = Failing(f"{address}?stream=flows&partitions=4", 2, reaches=reaches)
    done = publish(open_source(str(log), batch_flows=50), failing, threading.Event())
    assert (done.n_flows, done.n_retries) == (N, 2)
    assert sum(server.xlen(f"flows:{number}") for number in range(4)) == N


def test_a_live_source_is_published_without_a_position(address: str, server: Any, log: Path) -> None:
    class Live:
        name, schema, replayable = "live", "conn", False

        def batches(self, after: Position | None, stop: threading.Event) -> Iterator[FlowBatch]:
            assert after is None
            yield FlowBatch(whole(log))

    for _ in range(2):
        publish(Live(), RedisPublisher(f"{address}?stream=flows&partitions=4"), threading.Event())
    assert sum(server.xlen(f"flows:{number}") for number in range(4)) == 2 * N


def test_one_who_keeps_no_positions_reads_all_of_it(address: str, server: Any, log: Path) -> None:
    put(log, address)
    stop, found = threading.Event(), list[FlowBatch]()
    for batch in sharing(address).batches(None, stop):
        found.append(batch)
        if sum(part.flows.height for part in found) == N:
            stop.set()
    assert {part.position for part in found} == {None}
    with pytest.raises(DataError, match="processes share it"):
        publish(sharing(address), RedisPublisher(f"{address}?stream=other"), threading.Event())


def test_publish_says_what_it_did(address: str, server: Any, log: Path, command: Any) -> None:
    with log.open("ab") as file:
        file.write(b"broken\n")
    done = command("publish", log, f"{address}?stream=flows", "--no-context")
    assert done.code == 0, done.err
    assert f"published {N} flows to {address}?stream=flows" in done.err
    assert "not JSON" in done.err
    assert command("publish", log, "http://127.0.0.1/").code == 3
    assert command("publish", log, f"redis://127.0.0.1:{free_port()}/0?stream=flows").code == 5


def test_the_status_line_says_which_shares_are_read_and_what_is_the_matter() -> None:
    held = HeldPartitions("s", {}.get)
    assert "partitions: none yet" in status_line("s", Progress(held=held), []).plain
    held.assign(3)
    held.assign(1)
    held.n_retries, held.trouble = 2, "s: away"
    line = status_line("s", Progress(held=held), []).plain
    assert "partitions: 1, 3  |  2 retries of the stream  |  s: away" in line


def test_without_redis_the_line_to_install_is_named(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    for use in (
        lambda: list(sharing("redis://127.0.0.1").batches(None, threading.Event())),
        lambda: put(log, "redis://127.0.0.1"),
        lambda: open_sink("redis://127.0.0.1?stream=a").send(["{}"]),
    ):
        with pytest.raises(MissingExtraError, match=r"pip install 'deepidea\[redis\]'"):
            use()


def test_alerts_go_to_a_stream(address: str, server: Any) -> None:
    sink = open_sink(f"{address}?stream=alerts&maxlen=100")
    sink.send(['{"a":1}', '{"b":2}'])
    assert [fields for _, fields in server.xrange("alerts")] == [{b"eve": b'{"a":1}'}, {b"eve": b'{"b":2}'}]
    sink.close()
    gone = open_sink(f"redis://:secret@127.0.0.1:{free_port()}/0?stream=alerts&timeout_s=1")
    with pytest.raises(SinkError, match=r"redis://127\.0\.0\.1:\d+/0\?stream=alerts: ") as refused:
        gone.send(["{}"])
    assert "secret" not in str(refused.value)
