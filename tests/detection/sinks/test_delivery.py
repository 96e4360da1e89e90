"""Delivery: at least once, in order, whatever the sink does; dead letters; counters."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepidea.detection.sinks.dead_letters import DeadLetters
from deepidea.detection.sinks.delivery import Delivery, Patience
from deepidea.detection.sinks.registry import open_sink
from deepidea.errors import SinkError, StorageError
from tests.detection.making import NOON, sweep
from tests.detection.servers import Receiver, Webhook, eventually, receiving
from tests.stores import Store, open_store

QUICK = Patience(first_wait_s=0.005, longest_wait_s=0.02, give_up_s=600)
GIVES_UP = Patience(first_wait_s=0.001, longest_wait_s=0.005, give_up_attempts=2)


def put(store: Store, n: int, first: int = 1) -> None:
    store.commit_batch("s", None, sweep(n, first=first), n_flows=n)


def ports(alerts: Sequence[dict[str, int]]) -> list[int]:
    return [alert["dest_port"] for alert in alerts]


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with receiving(Webhook()) as server:
        yield server


@pytest.fixture
def delivery(sqlite_store: Store, webhook: Webhook, tmp_path: Path) -> Iterator[Delivery]:
    sink = open_sink(f"http://127.0.0.1:{webhook.port}/")
    made = Delivery(sqlite_store, sink, tmp_path / "dead", patience=QUICK, batch_alerts=7, poll_s=0.01)
    yield made
    made.stop(0)


def test_alerts_arrive_in_order_and_are_counted(sqlite_store: Store, webhook: Webhook, delivery: Delivery) -> None:
    delivery.start()
    for batch in range(4):
        put(sqlite_store, 10, first=1 + 10 * batch)
        delivery.wake()
    assert delivery.stop(drain_s=10)
    assert ports(webhook.alerts) == list(range(1, 41))
    status = delivery.status()
    assert (status.n_delivered, status.n_waiting, status.n_dead, status.last_error) == (40, 0, 0, None)
    assert "40 delivered, 0 waiting" in str(status)


def test_a_sink_that_is_down_gets_everything_when_it_is_back(
    sqlite_store: Store, webhook: Webhook, delivery: Delivery
) -> None:
    webhook.down()
    delivery.start()
    put(sqlite_store, 20)
    eventually(lambda: delivery.status().last_error is not None)
    assert delivery.status().n_waiting == 20
    assert delivery.fault is not None
    webhook.up()
    eventually(lambda: len(webhook.alerts) >= 20)
    assert delivery.stop(5)
    assert delivery.fault is None
    assert ports(webhook.alerts) == list(range(1, 21))


def test_what_is_waiting_survives_a_restart(tmp_path: Path, webhook: Webhook) -> None:
    url, address = f"sqlite:///{tmp_path / 's.db'}", f"http://127.0.0.1:{webhook.port}/"
    webhook.status = 500
    with open_store(url) as store:
        delivery = Delivery(store, open_sink(address), tmp_path, patience=QUICK)
        delivery.start()
        put(store, 5)
        assert not delivery.stop(0.1)
    webhook.status = 200
    with open_store(url) as store:
        delivery = Delivery(store, open_sink(address), tmp_path, patience=QUICK)
        delivery.start()
        assert delivery.stop(5)
    assert ports(webhook.alerts) == [1, 2, 3, 4, 5]


def test_stopping_does_not_wait_for_a_sink_that_is_down(
    sqlite_store: Store, webhook: Webhook, delivery: Delivery
) -> None:
    webhook.down()
    delivery.start()
    put(sqlite_store, 3)
    began = time.monotonic()
    assert not delivery.stop(drain_s=60)
    assert time.monotonic() - began < 60
    webhook.up()


def counts(delivery: Delivery) -> tuple[int, int, int]:
    """Return how many alerts are delivered, waiting, and in dead letters."""
    status = delivery.status()
    return status.n_delivered, status.n_waiting, status.n_dead


def test_one_alert_that_is_refused_holds_up_no_other(sqlite_store: Store, webhook: Webhook, tmp_path: Path) -> None:
    webhook.poison = '"dest_port":4,'
    sink = open_sink(f"http://127.0.0.1:{webhook.port}/")
    delivery = Delivery(sqlite_store, sink, tmp_path / "dead", patience=GIVES_UP, batch_alerts=5, poll_s=0.01)
    delivery.start()
    put(sqlite_store, 12)
    eventually(lambda: len(webhook.alerts) == 11)
    eventually(lambda: counts(delivery) == (11, 0, 1))  # what was sent is marked a moment later
    # beside it may lie the one that is being written anew, which has a dot in front
    (letters,) = (path for path in (tmp_path / "dead").iterdir() if not path.name.startswith("."))
    letter = json.loads(letters.read_text())
    assert json.loads(letter["line"])["dest_port"] == 4
    assert "answered 400" in letter["error"]
    webhook.poison = ""
    eventually(lambda: delivery.status().n_dead == 0)
    assert delivery.stop(5)
    assert not letters.exists()
    assert sorted(ports(webhook.alerts)) == list(range(1, 13))


def test_dead_letters_are_delivered_when_the_sink_is_back(
    sqlite_store: Store, webhook: Webhook, tmp_path: Path
) -> None:
    webhook.down()
    sink = open_sink(f"http://127.0.0.1:{webhook.port}/")
    delivery = Delivery(sqlite_store, sink, tmp_path / "dead", patience=GIVES_UP, batch_alerts=10, poll_s=0.01)
    delivery.start()
    put(sqlite_store, 30)
    eventually(lambda: delivery.status().n_dead == 30)
    webhook.up()
    eventually(lambda: delivery.status().n_delivered == 30)
    assert delivery.stop(5)
    assert ports(webhook.alerts) == list(range(1, 31))
    assert list((tmp_path / "dead").iterdir()) == []


def test_syslog_over_tcp_gets_everything_across_an_outage(sqlite_store: Store, tmp_path: Path) -> None:
    with receiving(Receiver("tcp")) as server:
        sink = open_sink(f"syslog+tcp://127.0.0.1:{server.port}")
        delivery = Delivery(sqlite_store, sink, tmp_path, patience=QUICK, poll_s=0.01)
        delivery.start()
        put(sqlite_store, 10)
        eventually(lambda: len(server.messages) == 10)
        server.down()
        put(sqlite_store, 10, first=11)
        eventually(lambda: delivery.status().last_error is not None)
        server.up()
        eventually(lambda: len(server.messages) >= 20)
        assert delivery.stop(5)
    assert all(b"CEF:0|DeepIDEA|" in message for message in server.messages)


class Moody:
    """A sink that takes and refuses as a script says."""

    name, format = "moody", "eve"

    def __init__(self, moods: Sequence[bool]) -> None:
        self.moods, self.got = list(moods), Counter[int]()

    def send(self, lines: Sequence[str]) -> None:
        if self.moods and not self.moods.pop(0):
            raise SinkError("not now")
        self.got.update(json.loads(line)["dest_port"] for line in lines)

    def close(self) -> None:
        pass


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.booleans(), max_size=40), st.integers(1, 9), st.integers(1, 4))
def test_whatever_a_sink_does_each_alert_arrives_once(tmp_path_factory, moods, size, attempts) -> None:
    folder, sink = tmp_path_factory.mktemp("moody"), Moody(moods)
    patience = Patience(first_wait_s=0, longest_wait_s=0, give_up_attempts=attempts)
    with open_store(f"sqlite:///{folder / 's.db'}") as store:
        delivery = Delivery(store, sink, folder, patience=patience, batch_alerts=size)
        put(store, 12)
        for _ in range(200):
            may_refuse = bool(sink.moods)
            try:
                if not delivery.deliver_once() and not may_refuse:
                    break
            except SinkError as error:
                delivery._note(error)
        status = delivery.status()
    assert sink.got == Counter(range(1, 13))
    assert (status.n_delivered, status.n_waiting, status.n_dead) == (12, 0, 0)


def test_waiting_doubles_up_to_a_limit_and_is_never_the_same() -> None:
    patience = Patience(first_wait_s=1, longest_wait_s=30)
    for attempts, longest in ((1, 1), (2, 2), (4, 8), (6, 30), (5000, 30)):
        waits = [patience.wait_s(attempts) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest


def test_a_letter_that_a_crash_tore_takes_no_other_along(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path / "dead", "x")
    letters.add(["a"], ["one"], SinkError("no"))
    with letters.path.open("a") as file:
        file.write('{"alert_id": "b", "li')
    letters.add(["c"], ["two"], SinkError("no"))
    with letters.opened() as opened:
        assert [line for _, line in opened] == ["one", "two"]
    assert not letters.exist()


def test_dead_letters_that_find_no_room_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/x-\w+.jsonl: "):
        DeadLetters(tmp_path / "file", "x").add(["a"], ["one"], SinkError("no"))


def test_an_unexpected_error_is_logged_and_shown_and_alerts_stay_owed(
    sqlite_store: Store, webhook: Webhook, delivery: Delivery, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    def break_down(*_: object) -> list[str]:
        raise KeyError("severity")

    with monkeypatch.context() as broken:
        broken.setattr("deepidea.detection.sinks.delivery.render", break_down)
        delivery.start()
        put(sqlite_store, 3)
        eventually(lambda: delivery.status().last_error is not None)
    assert delivery.status().last_error == "unexpected KeyError: 'severity'"
    assert f"delivery to http://127.0.0.1:{webhook.port}/ failed" in caplog.text
    eventually(lambda: len(webhook.alerts) == 3)
    assert delivery.stop(5)


def test_what_retention_deleted_is_counted(sqlite_store: Store, delivery: Delivery) -> None:
    put(sqlite_store, 3)
    sqlite_store.purge(NOON.replace(year=2030))
    assert str(delivery.status()).endswith("0 delivered, 0 waiting, 3 lost to retention")
