"""What a page asks of a store: series, counts, hosts, incidents searched and in order; how engines stand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import polars as pl
import pytest

from deepidea.detection.engine import Engine
from deepidea.detection.rates import flows_by_minute
from deepidea.errors import DataError, SourceError
from deepidea.store.allow_rules import AllowRule
from deepidea.store.engines import SILENT_S, EngineState
from deepidea.store.incidents import IncidentOrder
from tests.detection.making import NOON, alerts_of, sweep
from tests.detection.test_engine import Tables, detector, flows  # noqa: F401 - fixtures
from tests.stores import Store

ORDERS = get_args(IncidentOrder)


def put(store: Store, alerts: pl.DataFrame, source: str = "s") -> None:
    store.commit_batch(source, None, alerts, n_flows=alerts.height, flow_minutes=flows_by_minute(alerts))


@pytest.fixture
def filled(store: Store) -> Store:
    rows = [
        {
            "src_ip": f"192.0.2.{k % 23}",
            "dst_ip": f"198.51.100.{k % 7}",
            "dst_port": 1000 + k % 11,
            "at_s": 700.0 * (k % 40) + k,
            "class": ("port_scan", "botnet", "web_attack")[k % 3],
            "score": (0.95, 0.99, 0.5)[k % 3],
        }
        for k in range(200)
    ]
    put(store, alerts_of(rows))
    return store


# --- series ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_s", [60, 600, 3600])
def test_series_add_up_to_what_is_stored(filled: Store, step_s: int) -> None:
    rows = filled.alerts(limit=1000).rows
    step = pl.col("time").dt.truncate(f"{step_s}s")
    wanted = rows.group_by(step, "class").agg(n=pl.len().cast(pl.Int64))
    assert filled.alert_series(step_s=step_s).equals(wanted.sort("time", "class"))
    told = filled.flow_series(step_s=step_s)
    assert told["n_flows"].sum() == told["n_alerts"].sum() == 200
    assert told["time"].to_list() == sorted(set(wanted["time"]))


def test_series_keep_to_their_window_and_source(filled: Store) -> None:
    put(filled, sweep(5), "other")
    late = NOON + timedelta(hours=1)
    assert (
        filled.alert_series(late, late + timedelta(hours=1))["time"]
        .is_between(late, late + timedelta(hours=1), closed="left")
        .all()
    )
    assert filled.flow_series(source="other")["n_flows"].to_list() == [5]
    assert filled.flow_series(until=NOON).is_empty()
    with pytest.raises(DataError, match="whole minutes"):
        filled.alert_series(step_s=90)


def test_alerts_suppressed_are_in_flows_and_not_in_the_series(filled: Store) -> None:
    filled.add_rule(AllowRule(class_name="botnet"))
    assert set(filled.alert_series()["class"]) == {"port_scan", "web_attack"}
    assert filled.flow_series()["n_alerts"].sum() == 200


def test_a_batch_sent_twice_counts_its_alerts_once(store: Store) -> None:
    for _ in range(2):
        put(store, sweep(30))
    assert store.flow_series().select("n_flows", "n_alerts").row(0) == (60, 30)


def test_newest_time_is_where_data_lie(store: Store) -> None:
    assert store.newest_time() is None
    put(store, alerts_of([{"at_s": 100.0}]))
    assert store.newest_time() == NOON + timedelta(seconds=100)
    day = round((NOON + timedelta(days=1)).timestamp() * 1e6)
    store.commit_batch("s", None, sweep(0), n_flows=1, flow_minutes={day: 1})
    assert store.newest_time() == NOON + timedelta(days=1)


# --- incidents -------------------------------------------------------------------------------------------------------


def test_counts_by_severity_and_hosts_agree_with_incidents(filled: Store) -> None:
    some = filled.incidents(limit=3).rows["incident_id"].to_list()
    filled.set_incident_state(some[0], "closed")
    rows = filled.incidents(limit=1000).rows
    counts = filled.severity_counts()
    assert sum(n for _, _, n, _ in counts) == rows.height == filled.count_incidents()
    assert [n for _, status, n, _ in counts if status == "closed"] == [1]
    hosts, _ = filled.hosts(limit=1000)
    wanted = rows.group_by("host", "role").agg(pl.len(), pl.col("n_alerts").sum(), pl.col("severity").min())
    names = ("host", "role", "n_incidents", "n_alerts", "severity")
    assert {tuple(getattr(host, name) for name in names) for host in hosts} == set(wanted.rows())
    assert [host.severity for host in hosts] == sorted(host.severity for host in hosts)


def pages(store: Store, **filters: Any) -> Iterator[pl.DataFrame]:
    after = None
    while True:
        page = store.incidents(after=after, limit=7, **filters)
        yield page.rows
        if page.next is None:
            return
        after = page.next


KEYS = {
    "latest": [("last", True)],
    "severity": [("severity", False)],
    "alerts": [("n_alerts", True)],
    "score": [("score", True)],
    "host": [("host", False)],
}


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_pages_through_all_once(filled: Store, order: Any) -> None:
    rows = pl.concat(pages(filled, order=order))
    names = [*KEYS[order], ("last", True), ("incident_id", True)]
    wanted = filled.incidents(limit=1000).rows.sort([n for n, _ in names], descending=[d for _, d in names])
    assert rows["incident_id"].to_list() == wanted["incident_id"].to_list()
    assert rows.height == rows["incident_id"].n_unique() > 20


def test_a_cursor_of_another_order_is_refused(filled: Store) -> None:
    after = filled.incidents(order="alerts", limit=3).next
    for order, text in (("latest", after), ("severity", "x"), ("alerts", "WzFd"), ("alerts", "é")):
        with pytest.raises(DataError, match="after"):
            filled.incidents(order=order, after=text)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="order must be one of latest"):
        filled.incidents(order="size")  # type: ignore[arg-type]


def test_search_finds_words_of_an_incident_in_any_case(filled: Store) -> None:
    first = filled.incidents(limit=1).rows["incident_id"].item()
    filled.set_incident_state(first, "acknowledged", note="Ticket 100% of_it")
    for text in ("TICKET", "100%", "of_it", "ticket 100", first[:14].upper()):
        assert filled.incidents(search=text).rows["incident_id"].to_list() == [first]
    assert filled.count_incidents(search="ticket%it") == filled.count_incidents(search="of-it") == 0
    assert set(filled.incidents(search="BotNet").rows["class"]) == {"botnet"}
    assert filled.count_incidents(search="  ") == filled.count_incidents()


def test_search_finds_whole_addresses_and_ports_of_either_end(filled: Store) -> None:
    rows = filled.incidents(limit=1000).rows
    for term, column in (("198.51.100.3", "hosts"), ("1004", "ports")):
        wanted = {row["incident_id"] for row in rows.iter_rows(named=True) if f'"{term}"' in row[column]}
        assert set(filled.incidents(search=term, limit=1000).rows["incident_id"]) == wanted != set()
        assert filled.count_incidents(search=f"{term} botnet") == len(
            wanted & set(rows.filter(pl.col("class") == "botnet")["incident_id"])
        )
    assert filled.count_incidents(search="198.51.100.33") == filled.count_incidents(search="99999") == 0


def test_filters_and_counts_agree(filled: Store) -> None:
    late = NOON + timedelta(hours=2)
    for filters in ({"severity": 2}, {"since": late}, {"status": "open", "search": "192.0.2.1"}, {"status": "closed"}):
        assert filled.count_incidents(**filters) == filled.incidents(limit=1000, **filters).rows.height  # type: ignore[arg-type]


# --- engines ---------------------------------------------------------------------------------------------------------


def test_an_engine_reports_its_state(detector: Any, flows: Any, store: Store) -> None:  # noqa: F811
    seen: list[EngineState] = []
    engine = Engine(
        Tables(flows), detector, store, name="m.idea", sink_errors=lambda: {"syslog": "refused"},
        on_batch=lambda _: seen.extend(store.engines()),
    )  # fmt: skip
    progress = engine.run(threading.Event())
    (state,) = store.engines()
    assert seen[0].is_running
    assert seen[0].status == "live"
    assert (state.status, state.is_running) == ("ended", False)
    assert (state.n_flows, state.n_alerts, state.n_skipped) == (600, progress.n_alerts, 12)
    assert (state.detector, state.schema, dict(state.sink_errors)) == ("m.idea", "custom", {"syslog": "refused"})
    assert 0 <= state.latency_p50_s <= state.latency_p99_s
    assert state.flows_per_s > 0
    assert store.flow_series()["n_flows"].sum() == 600


def test_an_engine_that_fails_says_of_what(detector: Any, flows: Any, sqlite_store: Store) -> None:  # noqa: F811
    with pytest.raises(SourceError):
        Engine(Tables(flows, fails_after=2), detector, sqlite_store).run(threading.Event())
    (state,) = sqlite_store.engines()
    assert state.status == "failed"
    assert state.error is not None
    assert "went away" in state.error


def test_an_engine_that_is_silent_is_not_running() -> None:
    state = EngineState("s", NOON, NOON, "live")
    assert state.is_running_at(NOON + timedelta(seconds=SILENT_S - 1))
    assert not state.is_running_at(NOON + timedelta(seconds=SILENT_S))
    assert not EngineState("s", datetime.now(UTC), NOON, "ended").is_running


def test_states_come_back_as_they_were(sqlite_store: Store) -> None:
    state = EngineState("s", NOON, NOON - timedelta(hours=1), "live", n_flows=3, bounds={"score": None}, fpr=1e-4)
    sqlite_store.tell_engine(state)
    assert sqlite_store.engines() == [state]
