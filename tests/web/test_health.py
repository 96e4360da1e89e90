from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deepidea.detection.engine import Progress
from deepidea.store.tables import VERSION
from deepidea.web import health
from deepidea.web.engines import Engines, Running
from deepidea.web.settings import ServeConfig
from tests.stores import Store
from tests.web.running import Served, running

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ASKED = re.compile(r"\bdeepidea_\w+")


def figures(server: Served) -> dict[tuple[str, ...], float]:
    """Return each figure by its name and the values of its labels, in alphabetical order of their names."""
    text = httpx.get(f"{server.url}/metrics").text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_figures_are_those_of_the_store(stocked: Store) -> None:
    stocked.register_sink("file:alerts.json", from_start=True)
    stocked.mark_delivered("file:alerts.json", 20, n_delivered=18, n_dead=2)
    with running(stocked) as server:
        told = figures(server)
    assert told["deepidea_flows_total", "eth0"] == 500
    assert told["deepidea_alerts_total", "eth0"] == 30
    assert (told["deepidea_skipped_total", "odd", "eth0"], told["deepidea_dropped_total", "kernel", "eth0"]) == (2, 1)
    assert told["deepidea_sink_delivered_total", "file:alerts.json"] == 18
    assert told["deepidea_sink_dead_total", "file:alerts.json"] == 2
    assert told["deepidea_sink_waiting", "file:alerts.json"] == 10
    assert sum(told["deepidea_incidents_open", name] for name in ("critical", "high", "medium", "low")) == 1
    assert told["deepidea_store_up",] == 1


def test_figures_of_this_process_are_those_of_its_engines(stocked: Store) -> None:
    progress = Progress(n_queued=3, n_store_retries=4, latencies_s=[0.1] * 98 + [7.0] * 2, batch_flows=[10] * 100)
    engines = Engines([Running("eth0", progress), Running("eth1", ended=True, fault="gone"), Running("conn.log")])
    with running(stocked, engines=engines) as server:
        told = figures(server)
    assert [told["deepidea_engine_up", name] for name in ("eth0", "eth1", "conn.log")] == [1, 0, 1]
    assert told["deepidea_engine_queued_batches", "eth0"] == 3
    assert told["deepidea_engine_store_retries_total", "eth0"] == 4
    assert [told["deepidea_engine_delay_seconds", q, "eth0"] for q in ("0.5", "0.99")] == [0.1, 7.0]


def test_errors_of_live_updates_are_counted(served: Served) -> None:
    served.app.state.live.n_faults = 2
    assert figures(served)["deepidea_live_faults_total",] == 2


def test_requests_are_counted_by_route_and_not_by_address(served: Served) -> None:
    for path in ("/healthz", "/healthz", "/static/a.js", "/static/b.js", "/c", "/d"):
        httpx.get(served.url + path)
    httpx.request("BREW", f"{served.url}/healthz")
    told = {key: n for key, n in figures(served).items() if key[0] == "deepidea_http_requests_total"}
    assert {key[1:]: n for key, n in told.items()} == {
        ("GET", "/healthz", "200"): 2,
        ("GET", "/static/{name}", "404"): 2,
        ("GET", "none", "404"): 2,
        ("other", "/healthz", "405"): 1,
    }


def test_reasons_without_end_make_no_series_without_end(stocked: Store) -> None:
    stocked.commit_batch("eth0", None, stocked.alerts(limit=1).rows.clear().drop("source"), n_flows=0,
                         skipped={f"reason {k}": k for k in range(1, 500)})  # fmt: skip
    with running(stocked) as server:
        told = {key[1]: n for key, n in figures(server).items() if key[0] == "deepidea_skipped_total"}
    assert len(told) == health.MOST_REASONS + 1
    assert sum(told.values()) == sum(range(500)) + 2


def test_figures_take_a_token_unless_the_server_is_opened(
    stocked: Store, client_of: Callable[..., httpx.Client]
) -> None:
    client = client_of("viewer")
    assert client.get("/metrics").status_code == 200
    assert httpx.get(client.base_url.join("/metrics")).status_code == 401
    with running(stocked, settings=ServeConfig(open_metrics=True)) as server:
        assert httpx.get(f"{server.url}/metrics").status_code == 200
        assert httpx.get(f"{server.url}/api/v1/me").status_code == 401


def test_whether_it_is_ready_is_reported_to_everyone_and_why_not_without_names(stocked: Store) -> None:
    stocked.add_token("ann", "admin")
    engines = Engines([Running("eth0")])
    with running(stocked, engines=engines) as server:
        assert httpx.get(f"{server.url}/readyz").json() == {"status": "ok", "ready": True, "reasons": []}
        engines.running[0].fault = "the cable of eth0 is out"
        answer = httpx.get(f"{server.url}/readyz")
        assert (answer.status_code, "eth0" in answer.text, len(answer.json()["reasons"])) == (503, False, 1)
        with stocked.write() as connection:
            connection.execute(VERSION.update().values(version_num="0099"))
        assert len(httpx.get(f"{server.url}/readyz").json()["reasons"]) == 2
        assert httpx.get(f"{server.url}/healthz").text == "ok\n"


def test_a_store_that_is_away_is_reported_in_the_figures(stocked: Store, tmp_path: Path) -> None:
    engines = Engines([Running("eth0")])
    with running(stocked, engines=engines, settings=ServeConfig(open_metrics=True)) as server:
        stocked.close()
        for path in tmp_path.glob("page.db*"):
            path.unlink()
        (tmp_path / "page.db").mkdir()
        told = figures(server)
        assert (told["deepidea_store_up",], told["deepidea_engine_up", "eth0"]) == (0, 1)
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        assert httpx.get(f"{server.url}/").status_code == 503


@pytest.mark.parametrize("name", ["grafana-dashboard.json", "deepidea-alerts.yml"])
def test_each_figure_that_the_examples_ask_for_is_reported(stocked: Store, name: str) -> None:
    stocked.register_sink("file:alerts.json")
    progress = Progress(latencies_s=[0.1], batch_flows=[10])
    with running(stocked, engines=Engines([Running("eth0", progress)])) as server:
        httpx.get(f"{server.url}/healthz")
        told = {key[0] for key in figures(server)}
    asked = set(ASKED.findall((DEPLOY / name).read_text()))
    assert len(asked) >= 4
    assert asked <= told
    shown = {one for one in told if not one.endswith(("_created", "_count", "_sum"))}
    assert name != "grafana-dashboard.json" or shown <= asked  # and nothing is told that it does not show


def test_panels_of_the_dashboard_are_whole() -> None:
    panels = json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(
        target["expr"].count("(") == target["expr"].count(")") for panel in panels for target in panel["targets"]
    )
