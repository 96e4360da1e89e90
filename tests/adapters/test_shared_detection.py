"""Processes of detect on one stream and one PostgreSQL store: killed, paused and stopped, they tell what one tells."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from benchmarks.shared_stream import Group, address_of, alone, await_flows, contents, counted, feeding, takeover
from benchmarks.shared_stream import write_inputs as write_site

from deepidea.adapters.redis_group import RedisGroupSource, RedisPublisher
from deepidea.detection.alerting import thresholds_of
from deepidea.detection.engine import Engine
from deepidea.detection.publish import publish
from deepidea.detection.sources.partitions import HeldPartitions
from deepidea.detection.sources.registry import open_source
from deepidea.detection.sources.source import FlowBatch, Partition
from deepidea.errors import StalePositionError
from deepidea.model.detector import Detector
from tests.adapters.redis_server import running_redis
from tests.detection.making import alerts_of
from tests.detection.servers import eventually
from tests.stores import Store, open_store

redis = pytest.importorskip("redis", reason="redis is not installed: pip install 'deepidea[redis]'")
N = 4_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder of a detector with context and the log of a site, and what one process tells of it."""
    folder = tmp_path_factory.mktemp("site")
    write_site(folder, N)
    return folder, alone(folder)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(tmp_path_factory.mktemp("redis")) as where:
        yield where


@pytest.fixture
def server(address: str) -> str:
    with redis.Redis.from_url(address) as client:
        client.flushall()
    return address


@pytest.fixture
def url(postgres_socket: str) -> Iterator[str]:
    from tests.detection.postgres import fresh_database

    with fresh_database(postgres_socket) as where:
        yield where


# --- the store -------------------------------------------------------------------------------------------------------


def test_a_batch_is_stored_only_where_the_store_stands_at_its_beginning(store: Store) -> None:
    first, second = Partition("s#0", 1, None), Partition("s#0", 1, {"id": "1"})
    store.commit_batch("s", {"id": "1"}, alerts_of([{"at_s": 0}]), n_flows=5, partition=first)
    for late in (first, Partition("s#0", 2, {"id": "0"})):
        with pytest.raises(StalePositionError, match="another process reads it"):
            store.commit_batch("s", {"id": "9"}, alerts_of([{"at_s": 9}]), n_flows=7, partition=late)
    store.commit_batch("s", {"id": "2"}, alerts_of([{"at_s": 1}]), n_flows=3, partition=second)
    [told] = store.counters()
    assert (told.name, told.n_flows, told.n_alerts) == ("s#0", 8, 2)
    assert set(store.alerts().rows["source"]) == {"s"}
    assert store.position("s#0") == {"id": "2"}


def test_of_many_that_read_the_same_each_batch_is_stored_once(store_url: str) -> None:
    def work(seed: int) -> None:
        rng = random.Random(seed)
        with open_store(store_url) as store:
            while (at := (store.position("s#0") or {"n": 0})["n"]) < 20:
                after: Mapping[str, Any] | None = {"n": at} if at else None
                n = rng.randint(1, 3)
                try:
                    store.commit_batch(
                        "s", {"n": at + n}, alerts_of([]), n_flows=n, partition=Partition("s#0", 1, after)
                    )
                except StalePositionError:
                    continue

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    with open_store(store_url) as store:
        [told] = store.counters()
        assert store.position("s#0") == {"n": told.n_flows}


# --- the engine ------------------------------------------------------------------------------------------------------


class Parted:
    """A source of two partitions whose second batch of each somebody else stores first."""

    name, schema, replayable, is_partitioned = "parted", "conn", True, True

    def __init__(self, flows: pl.DataFrame, store: Store) -> None:
        self.flows, self.store = flows, store

    def batches_of_partitions(self, held: HeldPartitions, stop: threading.Event) -> Iterator[FlowBatch]:
        for number in (0, 1):
            held.assign(number)
        for step in range(3):
            for number in (0, 1):
                held.await_stored({number}, 5)
                if step == 1:
                    thief = Partition(f"parted#{number}", 1, {"n": 1})
                    self.store.commit_batch("parted", {"n": 9}, alerts_of([]), n_flows=0, partition=thief)
                yield FlowBatch(self.flows, {"n": step + 1}, partition=held.advance(number, {"n": step + 1}))


def test_what_another_process_stored_is_not_counted_here(site: tuple[Path, Any], sqlite_store: Store) -> None:
    folder, _ = site
    [batch, *_] = open_source(str(folder / "conn.log"), batch_flows=100).batches(None, threading.Event())
    engine = Engine(Parted(batch.flows, sqlite_store), Detector.load(folder / "model.idea"), sqlite_store)
    progress = engine.run(threading.Event())
    assert progress.n_flows == counted(sqlite_store) == 200
    assert progress.held is not None
    assert progress.held.n_refused == 200
    assert sqlite_store.position("parted#0") == {"n": 9}


@pytest.mark.parametrize("context", [True, False])
def test_one_reader_after_another_tells_what_one_tells(
    site: tuple[Path, Any], server: str, sqlite_store: Store, context: bool
) -> None:
    """Without context in the stream, a single partition and what was before it give the same windows."""
    folder, whole = site
    query = f"stream=flows&partitions={4 if context else 1}"
    publish(
        open_source(str(folder / "conn.log")), RedisPublisher(f"{server}?{query}"), threading.Event(), context=context
    )
    detector = Detector.load(folder / "model.idea")
    for partition in (0.3, 0.7, 1.0):
        stop = threading.Event()
        source = RedisGroupSource(f"{server}?{query}&group=g&session_s=1", batch_flows=200)
        reader = Engine(
            source,
            detector,
            sqlite_store,
            thresholds=thresholds_of(detector, None),
            on_batch=lambda _, n=partition * N, s=stop: counted(sqlite_store) >= n and s.set(),
        )
        reader.run(stop)
    assert contents(sqlite_store) == whole


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kills_change_nothing(site: tuple[Path, Any], server: str, url: str) -> None:
    told = takeover(site[0], server, url, N, kills=4, seed=1)
    assert told["equal"] == {"alerts": True, "incidents": True, "counters": True}
    assert told["alerts"] > 100


@pytest.mark.slow
def test_a_process_that_is_paused_loses_its_share_and_writes_nothing_late(
    site: tuple[Path, Any], server: str, url: str
) -> None:
    folder, whole = site
    with (
        open_store(url) as store,
        Group(folder, address_of(server, session_s=1), url) as group,
        feeding(folder / "conn.log", RedisPublisher(f"{server}?stream=flows&partitions=8"), 4) as source,
    ):
        group.start()
        group.start()
        source.let_go.release()
        await_flows(store, N // 4, group)
        paused = group.processes[0]
        source.let_go.release()
        paused.send_signal(signal.SIGSTOP)
        source.let_go.release()
        await_flows(store, 3 * N // 4, group)  # without the paused one
        paused.send_signal(signal.SIGCONT)
        source.let_go.release()
        await_flows(store, N, group)
        time.sleep(0.5)
        assert group.stop() == [0, 0]
        assert contents(store) == whole


@pytest.mark.slow
def test_a_process_that_is_stopped_hands_over_at_once(site: tuple[Path, Any], server: str, url: str) -> None:
    folder, whole = site
    publish(
        open_source(str(folder / "conn.log")), RedisPublisher(f"{server}?stream=flows&partitions=8"), threading.Event()
    )
    with (
        open_store(url) as store,
        Group(folder, address_of(server, session_s=120), url) as group,
        redis.Redis.from_url(server) as client,
    ):
        group.start()
        group.start()
        owners = [f"flows:owner:site:{number}" for number in range(8)]
        eventually(lambda: len(set(client.mget(owners)) - {None}) == 2)
        leaving = group.processes.pop()
        leaving.terminate()
        assert leaving.wait(60) == 0
        eventually(lambda: len(set(client.mget(owners))) == 1)  # half of a session
        await_flows(store, N, group)
        assert group.stop() == [0]
        assert contents(store) == whole


@pytest.mark.slow
def test_partitions_of_a_killed_process_are_taken_over(site: tuple[Path, Any], url: str) -> None:
    cluster = pytest.importorskip("tests.adapters.kafka_cluster")
    from deepidea.adapters.kafka import KafkaPublisher

    folder, whole = site
    with cluster.running_cluster() as brokers, open_store(url) as store:
        cluster.kafka.Producer({"bootstrap.servers": brokers, "log_level": 2}).list_topics("flows", timeout=10)
        address = f"kafka://{brokers}/flows"
        with Group(folder, f"{address}?group=site&session_s=3", url) as group:
            group.start()
            group.start()
            with feeding(folder / "conn.log", KafkaPublisher(address), 4) as source:
                source.let_go.release()
                await_flows(store, N // 4, group)
                source.let_go.release()
                group.kill(random.Random(0))
                await_flows(store, N // 2, group)
            await_flows(store, N, group)
            assert group.stop() == [0, 0]
        assert contents(store) == whole
