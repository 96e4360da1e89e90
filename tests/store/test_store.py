"""The store: the same on SQLite and PostgreSQL; whole batches or nothing; rules taken back; versions."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepidea.errors import DataError, MissingExtraError, StoreError
from deepidea.store.allow_rules import AllowRule
from deepidea.store.batches import Committed
from deepidea.store.grouping import group_alerts
from deepidea.store.tables import ALERT_COUNTS
from tests.detection.making import NOON, alerts_of, sweep
from tests.store.test_grouping import ALERT, NONE
from tests.stores import Store, open_store

ROOT = Path(__file__).resolve().parents[2]


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def stored(store: Store, **filters: Any) -> list[str]:
    return store.alerts(limit=10_000, **filters).rows["alert_id"].to_list()[::-1]


def put(store: Store, alerts: pl.DataFrame, source: str = "s") -> Committed:
    return store.commit_batch(source, None, alerts, n_flows=alerts.height)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_is_read_back_as_it_was(store: Store) -> None:
    alerts = sweep(20).with_columns(label=pl.lit('odd, "label"\n\\N'), anomaly=pl.lit(0.25), unknown=pl.lit(True))
    assert put(store, alerts) == Committed(20, 0, 0)
    back = store.alerts().rows.reverse()
    assert back.drop("source").equals(alerts)
    assert back["source"].unique().to_list() == ["s"]


def test_empty_text_and_null_stay_what_they_are(store: Store) -> None:
    alerts = alerts_of([{}, {"at_s": 1.0}]).with_columns(label=pl.Series(["", None], dtype=pl.String))
    put(store, alerts)
    assert store.alerts().rows["label"].to_list() == [None, ""]


def test_an_address_that_is_none_is_stored_all_the_same(store: Store) -> None:
    put(store, alerts_of([{"src_ip": 'a\0b",\n\\.', "protocol": "?"}, {"src_ip": None, "dst_ip": None}]))
    assert len(stored(store)) == 2
    assert set(store.incidents().rows["host"]) == {'a\ufffdb",\n\\.', "unknown"}


def test_the_same_alerts_again_change_nothing_and_are_counted(store: Store) -> None:
    put(store, sweep(30))
    before = store.incidents().rows
    assert put(store, pl.concat([sweep(40), sweep(5)]), "other") == Committed(10, 35, 0)
    after = store.incidents().rows
    assert (before["n_alerts"].item(), after["n_alerts"].item()) == (30, 40)
    assert [c.n_duplicates for c in store.counters()] == [35, 0]


def test_counters_add_up_and_the_position_goes_on(store: Store) -> None:
    assert store.position("eve.json") is None
    store.commit_batch("eve.json", {"inode": 7, "byte": 10}, sweep(3), n_flows=10, skipped={"torn": 2})
    store.commit_batch("eve.json", {"inode": 7, "byte": 30}, sweep(0), n_flows=5, skipped={"torn": 1}, dropped={"q": 4})
    store.commit_batch("eve.json", None, sweep(0), n_flows=1)
    (counters,) = store.counters()
    assert store.position("eve.json") == {"inode": 7, "byte": 30}
    assert (counters.n_flows, counters.n_alerts) == (16, 3)
    assert (counters.skipped, counters.dropped) == ({"torn": 3}, {"q": 4})


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ALERT, min_size=1, max_size=25), st.integers(1, 9))
def test_stored_incidents_are_those_of_the_set_of_alerts(tmp_path_factory: Any, rows: list[Any], size: int) -> None:
    alerts = alerts_of(rows).unique("alert_id", keep="first", maintain_order=True)
    with open_store(f"sqlite:///{tmp_path_factory.mktemp('store')}/s.db") as store:
        for part in alerts.iter_slices(size):
            put(store, part)
        found = store.incidents(limit=99).rows.sort("incident_id")
    whole = group_alerts(alerts, NONE).incidents
    assert found["incident_id"].to_list() == whole["incident_id"].to_list()
    assert found.select("n_alerts", "ports", "hosts").equals(whole.select("n_alerts", "ports", "hosts"))


def test_grouping_goes_on_after_a_restart(store_url: str) -> None:
    for batch in range(3):
        with open_store(store_url) as store:
            put(store, sweep(100, first=1 + 100 * batch))
    with open_store(store_url) as store:
        assert store.incidents().rows.select("n_alerts", "n_ports").rows() == [(300, 300)]


def test_a_batch_that_fails_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, sweep(5))

    def fail(*_: object) -> None:
        raise sa.exc.OperationalError("INSERT", {}, Exception("disk full"))

    monkeypatch.setattr("deepidea.store.sources.count", fail)
    with pytest.raises(StoreError, match="disk full"):
        store.commit_batch("s", {"line": 9}, sweep(9), n_flows=9)
    assert (len(stored(store)), store.position("s")) == (5, None)
    assert store.incidents().rows["n_alerts"].item() == 5


def test_writers_at_once_store_everything_once(store_url: str) -> None:
    def write(name: str) -> None:
        with open_store(store_url) as mine:
            for batch in range(8):
                mine.commit_batch(name, {"batch": batch}, sweep(25, first=1 + 20 * batch), n_flows=25)

    threads = [threading.Thread(target=write, args=(f"s{k}",)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    with open_store(store_url) as store:
        counters = store.counters()
        assert [c.n_flows for c in counters] == [200] * 3
        assert sum(c.n_alerts for c in counters) == len(stored(store)) == 165
        assert store.incidents().rows["n_alerts"].to_list() == [165]


KILLED = """
import sys
from tests.stores import open_store
from tests.detection.making import sweep
with open_store(sys.argv[1]) as store:
    store.register_sink("sink", from_start=True)
    at = (store.position("s") or {"next": 0})["next"]
    print("ready", flush=True)
    for batch in range(at, 40):
        alerts = sweep(50, first=1 + 50 * batch)
        store.commit_batch("s", {"next": batch + 1}, alerts, n_flows=60, skipped={"bad": 1}, dropped={"full": 2})
"""


def test_a_kill_at_any_moment_loses_nothing_and_doubles_nothing(store_url: str) -> None:
    chance = random.Random(7)
    for attempt in range(30):
        command = [sys.executable, "-c", KILLED, store_url]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env={**os.environ}) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            if attempt < 3:
                time.sleep(chance.uniform(0, 0.25))
                writer.send_signal(signal.SIGKILL)
            if writer.wait(60) == 0:
                break
    with open_store(store_url) as store:
        (counters,) = store.counters()
        assert (counters.n_flows, counters.n_alerts, counters.n_duplicates) == (2400, 2000, 0)
        assert (counters.skipped, counters.dropped) == ({"bad": 40}, {"full": 80})
        assert store.incidents().rows["n_alerts"].to_list() == [2000]
        assert store.undelivered("sink", limit=5000)["alert_id"].to_list() == sweep(2000)["alert_id"].to_list()


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(store: Store) -> Store:
    put(store, sweep(10, **{"class": "port_scan"}), "one")
    put(store, alerts_of([{"at_s": 60.0, "class": "botnet", "src_ip": "203.0.113.9", "dst_ip": "192.0.2.7"}]), "two")
    return store


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, 11),
        ({"since": later(30)}, 1),
        ({"until": later(0.05)}, 4),
        ({"host": "192.0.2.7"}, 11),
        ({"host": "203.0.113.9"}, 1),
        ({"class_name": "port_scan"}, 10),
        ({"severity": 2}, 1),
        ({"source": "one", "since": later(0.05)}, 6),
        ({"suppressed": True}, 0),
        ({"suppressed": None}, 11),
        ({"incident": "none"}, 0),
    ],
    ids=str,
)
def test_filters_of_alerts(mixed: Store, filters: dict[str, Any], expected: int) -> None:
    assert len(stored(mixed, **filters)) == expected


def test_filters_of_incidents(mixed: Store) -> None:
    assert mixed.incidents(since=later(30)).rows["class"].to_list() == ["botnet"]
    assert mixed.incidents(host="192.0.2.7", severity=3).rows["class"].to_list() == ["port_scan"]
    assert mixed.incidents(class_name="port_scan", severity=1).rows.is_empty()
    scan = mixed.incidents(class_name="port_scan").rows["incident_id"].item()
    assert len(stored(mixed, incident=scan)) == 10


def pages(ask: Any, **filters: Any) -> Iterator[pl.DataFrame]:
    after = None
    while True:
        page = ask(after=after, **filters)
        yield page.rows
        if page.next is None:
            return
        after = page.next


def test_pages_hold_every_row_once_the_latest_first(store: Store) -> None:
    put(store, alerts_of([{"src_ip": f"192.0.2.{k % 50}", "at_s": float(k % 17), "src_port": k} for k in range(100)]))
    alerts = pl.concat(pages(store.alerts, limit=7))
    incidents = pl.concat(pages(store.incidents, limit=7))
    assert (alerts.height, alerts["alert_id"].n_unique()) == (100, 100)
    assert alerts["time"].is_sorted(descending=True)
    assert (incidents["incident_id"].n_unique(), incidents.height) == (50, 50)
    assert incidents["last"].is_sorted(descending=True)


def test_a_page_that_cannot_be_is_refused(store: Store) -> None:
    with pytest.raises(DataError, match="got 0"):
        store.alerts(limit=0)
    with pytest.raises(DataError, match="after"):
        store.incidents(after="yesterday")


def test_what_people_say_of_an_incident_stays_when_it_grows_and_merges(store: Store) -> None:
    put(store, alerts_of([{"at_s": 1100.0}]))
    old = store.incidents().rows["incident_id"].item()
    store.set_incident_state(old, "acknowledged", note="ticket 12")
    put(store, alerts_of([{"at_s": 0.0}]))
    put(store, alerts_of([{"at_s": 550.0}]))
    (found,) = store.incidents(status="acknowledged").rows.rows(named=True)
    assert (found["n_alerts"], found["note"]) == (3, "ticket 12")
    assert found["incident_id"] != old
    assert store.incident(old) == store.incident(found["incident_id"])
    assert len(stored(store, incident=old)) == 3
    store.set_incident_state(old, "closed")
    assert store.incidents(status="open").rows.is_empty()


def test_states_that_are_none_are_refused(store: Store) -> None:
    with pytest.raises(DataError, match="status must be one of open, acknowledged"):
        store.set_incident_state("x", "done")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no incident 'x'"):
        store.set_incident_state("x", "closed")


# --- allow rules -----------------------------------------------------------------------------------------------------

SCANNER = AllowRule(src="192.0.2.7", note="scanner")


def everything(store: Store) -> tuple[Any, ...]:
    alerts = store.alerts(limit=10_000, suppressed=None).rows
    return alerts.rows(), store.incidents(limit=10_000).rows.drop("changed").rows()


@pytest.mark.parametrize("rule_first", [True, False])
def test_a_rule_suppresses_alerts_before_and_after_and_lets_them_go(store: Store, rule_first: bool) -> None:
    alerts = alerts_of([{"src_ip": f"192.0.2.{k % 10}", "src_port": k, "at_s": float(k)} for k in range(40)])
    if rule_first:
        store.add_rule(SCANNER)
        assert put(store, alerts) == Committed(40, 0, 4)
    else:
        put(store, alerts)
        assert store.add_rule(SCANNER) == 4
    assert store.alerts(suppressed=True).rows["suppressed_by"].to_list() == [SCANNER.rule_id] * 4
    assert (len(stored(store)), store.incidents().rows.height) == (36, 9)
    assert store.remove_rule(SCANNER.rule_id) == 4
    assert (len(stored(store)), store.incidents().rows.height) == (40, 10)


def test_what_is_stored_is_as_if_the_rule_had_always_been(store_url: str, tmp_path: Path) -> None:
    alerts = alerts_of([{"src_ip": f"192.0.2.{k % 4}", "dst_port": k % 3, "at_s": 40.0 * k} for k in range(60)])
    rule = AllowRule(src="192.0.2.1", port="1")
    with open_store(store_url) as store, open_store(f"sqlite:///{tmp_path}/other.db") as other:
        put(store, alerts)
        store.add_rule(rule)
        other.add_rule(rule)
        put(other, alerts)
        assert everything(store) == everything(other)


def test_a_rule_that_ends_lets_its_alerts_go_with_the_next_batch(store: Store) -> None:
    end = datetime.now(UTC) + timedelta(hours=1)
    store.add_rule(AllowRule(src="192.0.2.7", expires=end))
    put(store, sweep(5))
    assert stored(store) == []
    store.commit_batch("s", None, sweep(1, first=9), n_flows=1, now=end)
    assert len(stored(store)) == 6
    assert store.incidents().rows["n_alerts"].item() == 6


def test_a_file_of_rules_is_followed(store: Store) -> None:
    put(store, alerts_of([{"src_port": k, "dst_port": k} for k in range(6)]))
    store.add_rule(AllowRule(port="5"))
    first = [AllowRule(port="1", origin="f"), AllowRule(port="2", origin="f")]
    assert store.sync_rules(first, origin="f") == 2
    assert store.sync_rules(first, origin="f") == 0
    assert store.sync_rules([AllowRule(port="2", origin="f"), AllowRule(port="3", origin="f")], origin="f") == 2
    assert store.alerts(suppressed=True).rows["dst_port"].sort().to_list() == [2, 3, 5]


def test_alerts_that_are_let_go_reach_sinks_that_have_not_got_them(store: Store) -> None:
    store.register_sink("sink")
    put(store, alerts_of([{"dst_port": 1}]))
    store.add_rule(AllowRule(port="1-3"))
    put(store, alerts_of([{"dst_port": 2}, {"dst_port": 9}]))
    waiting = store.undelivered("sink")
    assert waiting["dst_port"].to_list() == [9]
    store.mark_delivered("sink", waiting["seq"][-1], n_delivered=1)
    store.remove_rule(AllowRule(port="1-3").rule_id)
    assert store.undelivered("sink")["dst_port"].sort().to_list() == [1, 2]


# --- sinks and retention ---------------------------------------------------------------------------------------------


def test_each_sink_is_owed_what_was_stored_since_it_is_known(store: Store) -> None:
    put(store, sweep(3))
    store.register_sink("new")
    store.register_sink("all", from_start=True)
    put(store, sweep(2, first=10))
    assert [(c.sink, c.n_waiting) for c in store.sink_counters()] == [("all", 5), ("new", 2)]
    some = store.undelivered("all", limit=4)
    store.mark_delivered("all", some["seq"][-1], n_delivered=3, n_dead=1)
    store.register_sink("all", from_start=True)
    (counters, _) = store.sink_counters()
    assert (counters.n_delivered, counters.n_dead, counters.n_waiting) == (3, 1, 1)
    with pytest.raises(DataError, match="'none' is not registered"):
        store.undelivered("none")


def test_retention_takes_what_is_old_and_counts_what_was_not_delivered(store: Store) -> None:
    store.register_sink("sink")
    put(store, alerts_of([{"at_s": 3600.0 * k} for k in range(10)]))
    store.mark_delivered("sink", store.undelivered("sink", limit=2)["seq"][-1], n_delivered=2)
    assert store.purge(later(3600.0 * 5)).n_alerts == 5
    (counters,) = store.sink_counters()
    assert (counters.n_waiting, counters.n_lost) == (5, 3)
    assert (len(stored(store)), store.incidents().rows.height) == (5, 5)
    assert store.counters()[0].n_alerts == 10


# --- opening ---------------------------------------------------------------------------------------------------------


def test_many_may_open_a_new_store_at_once(store_url: str) -> None:
    failures: list[Exception] = []

    def open_it() -> None:
        try:
            open_store(store_url).close()
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []


def test_minutes_count_what_is_reported_whatever_becomes_of_it(store: Store) -> None:
    def counted() -> dict[tuple[int, str, int], int]:
        with store._engine.connect() as connection:
            return {tuple(row)[:3]: row[3] for row in connection.execute(sa.select(ALERT_COUNTS)) if row[3]}

    def recounted() -> dict[tuple[int, str, int], int]:
        minute = pl.col("time").dt.truncate("1m").dt.timestamp("us")
        told = store.alerts(limit=1000).rows
        return {row[:3]: row[3] for row in told.group_by(minute, "class", "severity").len().rows()}

    put(store, sweep(300))
    rule = AllowRule(port="1-100")
    for change in (
        lambda: put(store, sweep(400)),
        lambda: store.add_rule(rule),
        lambda: store.remove_rule(rule.rule_id),
        lambda: store.purge(store.alerts(limit=1000).rows["time"].sort()[150]),
    ):
        change()
        assert counted() == recounted()


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, whatever its name says; " * 99)
    with pytest.raises(StoreError, match="not a database"):
        open_store(f"sqlite:///{tmp_path}/text.db")
    with pytest.raises(StoreError, match="unable to open"):
        open_store(f"sqlite:///{tmp_path}/absent/a.db")
    for url in ("mysql://host/db", "sqlite://", "nonsense"):
        with pytest.raises(StoreError, match="sqlite:///path or postgresql"):
            open_store(url)


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/other.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alerts (x)")
    engine.dispose()
    with pytest.raises(StoreError, match="another program"):
        open_store(f"sqlite:///{tmp_path}/other.db")


def test_without_its_driver_postgresql_names_the_line_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'deepidea\[postgres\]'"):
        open_store("postgresql://nobody@127.0.0.1:1/none")


def test_a_server_that_is_not_there_is_an_error_without_the_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match="port 1 failed") as caught:
        open_store("postgresql://nobody:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)


def test_ids_of_incidents_do_not_collide_across_neighbours(store: Store) -> None:
    put(store, alerts_of([{"at_s": 700.0 * k} for k in range(20)]))
    ids = store.incidents().rows.sort("first")["incident_id"].to_list()
    assert all(a < b for a, b in pairwise(ids))
