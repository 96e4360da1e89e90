"""Events: whoever listens is told at once, whoever is slow harms nobody, whoever was away goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from datetime import UTC, datetime

import httpx
import pytest
import sqlalchemy as sa

from deepidea.errors import StoreError
from deepidea.store import changes
from deepidea.store.engines import EngineState
from deepidea.web.live import MOST_KEPT, MOST_LISTENERS, MOST_QUEUED, Live, TooManyListenersError
from tests.detection.making import sweep
from tests.web.conftest import XSS
from tests.web.listening import listening
from tests.web.running import running


def test_a_new_alert_is_reported(filled, server):
    with listening(server) as reader:
        time.sleep(0.4)  # the poller is at its pace
        filled.commit_batch("eth0", None, sweep(5, src_ip="192.0.2.200"), n_flows=5)
        assert reader.until("alerts") == {"total": 5, "classes": {"port_scan": 5}}
        told = reader.until("incident")
        assert (told["incident"]["host"], told["new"], told["replaces"]) == ("192.0.2.200", True, [])


def test_a_status_that_one_sets_is_reported_to_another(service, server, client, ann):
    row = service.incidents(limit=1).items[0]
    with listening(server) as reader:
        service.set_status([row.incident_id], "closed", actor=ann, note=XSS)
        told = reader.until("incident")
        assert (told["incident"]["status"], told["incident"]["note"], told["new"]) == ("closed", XSS, False)
        change = reader.until("change")
        assert (change["actor"], change["action"], change["subject"]) == ("ann", "incident.status", row.incident_id)
        assert "address" not in change


def test_verdicts_rules_and_engines_are_reported(service, filled, server, ann):
    row = service.incidents(limit=1).items[0]
    with listening(server) as reader:
        service.add_verdict("incident", row.incident_id, "true_positive", actor=ann)
        assert reader.until("incident")["incident"]["verdict"]["verdict"] == "true_positive"
        service.add_rule({"src": "10.0.0.0/8"}, actor=ann)
        reader.until("rules")
        now = datetime.now(UTC)
        filled.tell_engine(EngineState("wlan0", now, now, "live", n_flows=10, flows_per_s=5.0))
        while "wlan0" not in [one["name"] for one in reader.until("sources")["sources"]]:
            pass
        service.add_token("bob", "admin", actor=ann)
        service.change_incident(row.incident_id, note="end", actor=ann)
        kinds = []
        while (event := reader.next())[0] != "change" or event[1]["action"] != "incident.note":
            kinds.append(event)
        assert "token.add" not in json.dumps(kinds)


def test_whoever_was_cut_off_goes_on_behind_the_last_event(service, server, ann):
    ids = [row.incident_id for row in service.incidents(limit=5).items]
    with listening(server) as reader:
        service.change_incident(ids[0], note="0", actor=ann)
        reader.until("change")
        last = reader.last_id
        for number, one in enumerate(ids[1:], 1):
            service.change_incident(one, note=str(number), actor=ann)
        while reader.until("change")["subject"] != ids[-1]:
            pass
    with listening(server, **{"Last-Event-ID": last}) as again:
        noted = [again.until("incident")["incident"]["note"] for _ in ids[1:]]
        assert sorted(noted) == ["1", "2", "3", "4"]
    with listening(server, **{"Last-Event-ID": "0000-7"}) as foreign:
        assert foreign.next()[0] == "reset"


def test_a_stream_ends_when_its_token_is_revoked(filled, service, ann):
    made = service.add_token("bob", "admin", actor=ann)
    with (
        running(filled) as served,
        listening(served.url, Authorization=f"Bearer {made.secret}") as reader,
    ):
        service.revoke_token(made.token.token_id, actor=ann)
        assert "no longer valid" in reader.until("bye")["why"]
        with pytest.raises(StopIteration):
            reader.next()


def test_a_stream_takes_a_valid_token(filled, service, ann):
    service.add_token("bob", "admin", actor=ann)
    with running(filled) as made:
        address = made.url
        answer = httpx.get(f"{address}/api/v1/events", headers={"Authorization": "Bearer dit_wrong"})
        assert (answer.status_code, answer.headers["Content-Type"]) == (401, "application/problem+json")


def test_a_server_ends_though_somebody_listens(filled, monkeypatch):
    monkeypatch.setattr("deepidea.web.server.STOPS_WITHIN_S", 3600)  # before what is still open is cut off
    with contextlib.ExitStack() as stack:
        with running(filled) as made:
            address = made.url
            reader = stack.enter_context(listening(address))
        with pytest.raises(StopIteration):
            reader.until("never")


def test_a_hundred_listeners_are_reported(filled):
    told: list[str] = []

    async def listen(address: str, ready: asyncio.Barrier) -> None:
        async with asyncio.timeout(60):
            reading, writing = await asyncio.open_connection(*address.removeprefix("http://").split(":"))
            writing.write(b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            await reading.readuntil(b"event: hello")
            await ready.wait()
            await reading.readuntil(b'"host":"192.0.2.201"')
            told.append(address)
            writing.close()
            await writing.wait_closed()

    async def all_of_them(address: str) -> None:
        ready = asyncio.Barrier(101)
        tasks = [asyncio.create_task(listen(address, ready)) for _ in range(100)]
        await ready.wait()
        await asyncio.to_thread(filled.commit_batch, "e", None, sweep(5, src_ip="192.0.2.201"), n_flows=5)
        await asyncio.gather(*tasks)

    with running(filled) as made:
        address = made.url
        app = made.app
        asyncio.run(all_of_them(address))
        assert len(told) == 100
        ends = time.monotonic() + 60
        while app.state.live.n_listeners and time.monotonic() < ends:
            time.sleep(0.05)
        assert app.state.live.n_listeners == 0


# --- without a socket ------------------------------------------------------------------------------------------------


def run(scene):
    """Run a coroutine, bounded in time."""
    return asyncio.run(asyncio.wait_for(scene, 10))


async def first(stream, n):
    return [(await anext(stream)).decode() for _ in range(n)]


def test_a_slow_listener_gets_a_reset_and_holds_little(service):
    async def scene():
        live = Live(service)
        slow, quick = await live.stream(), await live.stream()
        await first(slow, 2)
        await first(quick, 2)
        for number in range(3 * MOST_QUEUED):
            live.publish("alerts", {"total": number})
            assert f'"total":{number}' in (await anext(quick)).decode()
        waiting = [len(one.waiting) for one in live._listeners]
        assert max(waiting) <= MOST_QUEUED
        assert "event: reset" in (await anext(slow)).decode()
        assert f'"total":{2 * MOST_QUEUED}' in (await anext(slow)).decode()
        await slow.aclose()
        await quick.aclose()
        assert live.n_listeners == 0

    run(scene())


def test_what_is_kept_for_the_absent_is_bounded(service):
    async def scene():
        live = Live(service)
        known = live.last_id
        for number in range(MOST_KEPT + 1):
            live.publish("alerts", {"total": number})
        stream = await live.stream(known)
        assert "event: reset" in (await first(stream, 3))[-1]
        await stream.aclose()
        recent = await live.stream(live.last_id.partition("-")[0] + f"-{MOST_KEPT}")
        assert f'"total":{MOST_KEPT}' in (await first(recent, 3))[-1]
        await recent.aclose()

    run(scene())


def test_there_is_a_limit_on_listeners(service):
    async def scene():
        live = Live(service)
        streams = [await live.stream() for _ in range(MOST_LISTENERS)]
        for stream in streams:
            await anext(stream)
        with pytest.raises(TooManyListenersError):
            await live.stream()
        for stream in streams:
            await stream.aclose()

    run(scene())


def test_silence_is_broken_by_a_heartbeat_that_looks_at_rights(service):
    async def scene():
        asked: list[bool] = []

        async def may() -> bool:
            asked.append(True)
            return len(asked) < 3

        live = Live(service, heartbeat_s=0.02)
        stream = await live.stream(may=may)
        chunks = [chunk.decode() async for chunk in stream]
        assert chunks[2:4] == [": still here\n\n"] * 2
        assert "event: bye" in chunks[-1]

    run(scene())


def test_a_store_that_is_away_is_reported_and_followed_again(service, filled, monkeypatch):
    away = threading.Event()
    real = changes.since

    def since(connection, marks):
        if away.is_set():
            raise StoreError("gone")
        return real(connection, marks)

    async def scene():
        monkeypatch.setattr(changes, "since", since)
        live = Live(service, poll_s=0.02)
        async with live.running():
            stream = await live.stream()
            await first(stream, 2)
            await asyncio.sleep(0.1)
            away.set()
            while "event: store" not in (told := (await anext(stream)).decode()):
                pass
            assert '"up":false' in told
            filled.commit_batch("eth0", None, sweep(3, src_ip="192.0.2.202"), n_flows=3)
            away.clear()
            seen = [told]
            while '"host":"192.0.2.202"' not in seen[-1]:
                seen.append((await anext(stream)).decode())
            assert any('"up":true' in one for one in seen)
            await stream.aclose()

    run(scene())


def test_an_unexpected_error_is_logged_and_counted_and_live_updates_go_on(service, filled, monkeypatch, caplog):
    real, broken = changes.by_id, threading.Event()

    def by_id(connection, ids):
        if broken.is_set():
            broken.clear()
            raise ValueError("a row that cannot be shown")
        return real(connection, ids)

    async def scene():
        monkeypatch.setattr(changes, "by_id", by_id)
        live = Live(service, poll_s=0.02)
        async with live.running():
            stream = await live.stream()
            await first(stream, 2)
            await asyncio.sleep(0.1)
            broken.set()
            while "event: reset" not in (await anext(stream)).decode():
                pass
            await asyncio.sleep(0.3)
            filled.commit_batch("eth0", None, sweep(3, src_ip="192.0.2.203"), n_flows=3)
            while '"host":"192.0.2.203"' not in (await anext(stream)).decode():
                pass
            assert live.n_faults == 1
            await stream.aclose()

    monkeypatch.setattr("deepidea.web.live.IDLE_POLL_S", 0.05)
    run(scene())
    assert "a row that cannot be shown" in caplog.text


def test_looking_where_nothing_has_changed_reads_through_no_table_of_alerts(filled):
    marks, asked = filled.marks(), []
    with filled.read() as connection:
        engine = connection.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *told: asked.append(told[2:4]))
    filled.changes(marks)
    plans = []
    with filled.read() as connection:
        for statement, values in [one for one in asked if one[0].startswith("SELECT")]:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
            plans += [row[3] for row in plan]
    assert any(step.startswith("SEARCH alerts") for step in plans), plans
    assert not [step for step in plans if step.startswith(("SCAN alerts", "SCAN incidents"))]
