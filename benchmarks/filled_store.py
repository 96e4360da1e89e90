"""A store as it stands after weeks of watching, written quickly, and how long it takes to read.

A million alerts in ten thousand incidents over four weeks, with what people said of some of them, flows by the minute,
and the state of an engine. Alerts and incidents are written by the functions that a batch is written by; only the
features of an alert are the same few for all. ``--full-lists`` gives every incident as many ports and hosts as one may
list, which is the worst that a search can meet.

Usage: python -m benchmarks.filled_store [--url sqlite:///filled.db] [--alerts 1000000] [--incidents 10000]
       [--full-lists] [--measure]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import sqlalchemy as sa

from benchmarks.result_files import RESULTS, write_result
from deepidea.store import alerts as stored_alerts
from deepidea.store import batches, engines, hosts, incidents, series
from deepidea.store.alert_columns import ALERT_COLUMNS
from deepidea.store.engines import EngineState
from deepidea.store.grouping import MOST_LISTED
from deepidea.store.ingest import add_to_incidents, count_alerts, insert_alerts
from deepidea.store.statements import add_up, upsert
from deepidea.store.store import Store, open_store
from deepidea.store.tables import FLOW_COUNTS, INCIDENT_STATES, INCIDENTS

BEGINS = datetime(2026, 5, 4, tzinfo=UTC)
DAYS = 28
CLASSES = ("port_scan", "brute_force", "dos", "botnet", "web_attack", "infiltration")
SEVERITIES = (3, 2, 2, 1, 2, 1)
STATUSES = ("open", "acknowledged", "closed", "false_alarm")
AT_ONCE = 50_000
SOURCE = "interface:eth0"
REPEATS = 40


def make_alerts(n_alerts: int, n_incidents: int, seed: int = 0) -> pl.DataFrame:
    """Return alerts in order of time: each incident is a burst of one class about one host."""
    rng = np.random.default_rng(seed)
    share = rng.pareto(1.2, n_incidents) + 0.05
    sizes = np.maximum(1, np.floor(share / share.sum() * n_alerts)).astype(np.int64)
    sizes[np.argmax(sizes)] += n_alerts - sizes.sum()
    kind = np.repeat(rng.choice(len(CLASSES), n_incidents, p=[0.4, 0.2, 0.15, 0.1, 0.1, 0.05]), sizes)
    host = np.repeat(rng.permutation(n_incidents) % 65_536, sizes)
    begin = np.repeat(rng.uniform(0, DAYS * 86_400 - 7200, n_incidents), sizes)
    order = np.arange(len(kind)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    step = np.repeat(np.minimum(60.0, 3600.0 / sizes), sizes)
    when = (BEGINS.timestamp() + begin + order * step) * 1e6
    one, other = _addresses("10.{}.{}.{}", host), _addresses("192.168.{}.{}", rng.integers(0, 4096, len(kind)))
    flooded = pl.Series(kind == CLASSES.index("dos"))  # its incidents are those of the target
    columns = {
        "time": pl.Series(when.astype(np.int64)).cast(pl.Datetime("us", "UTC")),
        "src_ip": one.zip_with(~flooded, other),
        "src_port": rng.integers(1024, 65_536, len(kind)),
        "dst_ip": other.zip_with(~flooded, one),
        "dst_port": np.where(kind == 0, rng.integers(1, 65_536, len(kind)), rng.choice([22, 80, 443, 445], len(kind))),
        "class": pl.Series(CLASSES).gather(kind),
        "score": rng.beta(20, 1, len(kind)),
        "severity": pl.Series(SEVERITIES).gather(kind),
    }
    table = pl.DataFrame(columns).sort("time", maintain_order=True)
    ids = [f"{at // 1000:012x}{k:020x}" for k, at in enumerate(table["time"].dt.timestamp("us").to_list())]
    same: dict[str, Any] = {
        "alert_id": pl.Series(ids), "start": pl.col("time"), "end": pl.col("time"), "protocol": pl.lit("tcp"),
        "fwd_packets": pl.lit(3), "bwd_packets": pl.lit(2), "fwd_bytes": pl.lit(180), "bwd_bytes": pl.lit(120),
        "probabilities": pl.lit('{"benign":0.01,"attack":0.99}'), "model": pl.lit("5eed5eed5eed5eed"),
        "features": pl.lit('{"dst_port":22,"protocol":"tcp","duration_s":1.5,"fwd_packets":3.0,"bwd_packets":2.0}'),
    }  # fmt: skip
    table = table.with_columns(**same)
    absent = {name: pl.lit(None, dtype) for name, dtype in ALERT_COLUMNS.items() if name not in table.columns}
    return table.with_columns(**absent).select(*ALERT_COLUMNS).cast(pl.Schema(ALERT_COLUMNS))


def _addresses(form: str, numbers: Any) -> pl.Series:
    """Return addresses of numbers, the last bytes first filled."""
    n_bytes = form.count("{}")
    distinct, places = np.unique(numbers, return_inverse=True)
    texts = [form.format(*int(number).to_bytes(n_bytes)) for number in distinct.tolist()]
    return pl.Series(texts).gather(places)


def fill_store(
    url: str,
    *,
    n_alerts: int = 1_000_000,
    n_incidents: int = 10_000,
    full_lists: bool = False,
    features: pl.Series | None = None,
) -> None:
    """Fill an empty store; features, where given, go round among the alerts."""
    alerts = make_alerts(n_alerts, n_incidents)
    if features is not None:
        alerts = alerts.with_columns(features=features.gather([k % len(features) for k in range(alerts.height)]))
    with open_store(url) as store:
        for part in alerts.iter_slices(AT_ONCE):
            with store.write() as connection:
                new = insert_alerts(connection, part, SOURCE)
                add_to_incidents(connection, new)
                count_alerts(connection, new)
        with store.write() as connection:
            _count_flows(connection, alerts)
            _say(connection)
            if full_lists:
                _fill_lists(connection)
        store.execute(batches.commit, SOURCE, None, alerts.clear(), n_flows=100 * n_alerts)
        now = datetime.now(UTC)
        state = {"n_flows": 100 * n_alerts, "n_alerts": n_alerts, "flows_per_s": 5000.0, "model": "5eed5eed5eed5eed"}
        store.execute(engines.put, EngineState(SOURCE, now, now - timedelta(days=DAYS), "live", schema="conn", **state))  # type: ignore[arg-type]


def _count_flows(connection: sa.Connection, alerts: pl.DataFrame) -> None:
    """Count flows of every minute, day and night, and the alerts among them."""
    minute = alerts["time"].dt.truncate("1m").dt.timestamp("us")
    of_alerts = dict(zip(*np.unique(minute.to_numpy(), return_counts=True), strict=True))
    first = round(BEGINS.timestamp() * 1e6)
    rows = []
    for k in range(DAYS * 1440):
        at = first + k * 60_000_000
        n_alerts = int(of_alerts.get(at, 0))
        n_flows = round(30_000 + 20_000 * np.sin(2 * np.pi * k / 1440)) + n_alerts
        rows.append({"source": SOURCE, "minute_us": at, "n_flows": n_flows, "n_alerts": n_alerts})
    add_up(connection, FLOW_COUNTS, rows)


def _say(connection: sa.Connection) -> None:
    """Let people have said something of half of the incidents."""
    rng = np.random.default_rng(1)
    ids = connection.execute(sa.select(INCIDENTS.c.incident_id).order_by(INCIDENTS.c.incident_id)).scalars().all()
    rows = [
        {
            "incident_id": name,
            "status": str(rng.choice(STATUSES)),
            "note": f"ticket {k}",
            "changed_us": time.time_ns() // 1000,
        }
        for k, name in enumerate(ids)
        if k % 2
    ]
    upsert(connection, INCIDENT_STATES, rows)


def _fill_lists(connection: sa.Connection) -> None:
    """Let every incident list as many ports and hosts as it may."""
    ones = [1] * MOST_LISTED
    texts = []
    for k in range(64):
        ports = {"values": [str(1 + (k * 997 + j * 61) % 65_535) for j in range(MOST_LISTED)], "counts": ones}
        hosts = {"values": [f"192.168.{(k + j) % 256}.{j % 256}" for j in range(MOST_LISTED)], "counts": ones}
        texts.append((json.dumps(ports, separators=(",", ":")), json.dumps(hosts, separators=(",", ":"))))
    ids = connection.execute(sa.select(INCIDENTS.c.incident_id)).scalars().all()
    change = INCIDENTS.update().where(INCIDENTS.c.incident_id == sa.bindparam("wanted"))
    values = {"ports": sa.bindparam("p"), "hosts": sa.bindparam("h"), "n_ports": MOST_LISTED, "n_hosts": MOST_LISTED}
    rows = [{"wanted": name, "p": texts[k % 64][0], "h": texts[k % 64][1]} for k, name in enumerate(ids)]
    connection.execute(change.values(**values), rows)


def readings(store: Store) -> dict[str, Callable[[], Any]]:
    """Return what a page asks, by name."""
    newest = store.query(series.extent)[1] or BEGINS
    day = newest - timedelta(days=1)
    host = store.query(incidents.find, limit=200).items[-1].host
    alert = store.query(stored_alerts.find, limit=1).items[0]
    second = store.query(incidents.find, order="alerts").next
    found: dict[str, dict[str, Any]] = {
        "incidents_latest": {},
        "incidents_by_severity": {"order": "severity", "status": "open"},
        "incidents_by_alerts_page_2": {"order": "alerts", "after": second},
        "incidents_by_score": {"order": "score"},
        "incidents_by_host": {"order": "host"},
        "search_host": {"search": host},
        "search_other_end": {"search": alert.dst_ip},
        "search_port": {"search": "4444"},
        "search_common_port": {"search": "443"},
        "search_note": {"search": "ticket 77"},
        "search_nothing": {"search": "203.0.113.99"},
        "search_word_nowhere": {"search": "nonsense"},
    }
    return {
        "newest_time": partial(store.query, series.extent),
        "alert_series_day": partial(store.query, series.alerts, day, step_s=600),
        "alert_series_weeks": partial(store.query, series.alerts, step_s=3600),
        "flow_series_day": partial(store.query, series.flows, day, step_s=600),
        "flow_series_weeks": partial(store.query, series.flows, step_s=3600),
        "severity_counts": partial(store.query, incidents.severity_counts),
        "top_hosts": partial(store.query, hosts.find, limit=20),
        "top_hosts_day": partial(store.query, hosts.find, since=day, limit=20),
        "engines": partial(store.query, engines.latest),
        **{name: partial(store.query, incidents.find, **asked) for name, asked in found.items()},
        "count_search": partial(store.query, incidents.count, search="4444", severity=2),
        "alerts_of_host": partial(store.query, stored_alerts.find, host=host),
    }


def measure(url: str) -> dict[str, Any]:
    """Return the milliseconds of every reading: median and 95th percentile."""
    figures = {}
    with open_store(url) as store:
        for name, read in readings(store).items():
            taken = []
            for _ in range(REPEATS):
                began = time.perf_counter()
                read()
                taken.append(1000 * (time.perf_counter() - began))
            p50, p95 = (round(float(np.quantile(taken, share)), 1) for share in (0.5, 0.95))
            figures[name] = {"median_ms": p50, "p95_ms": p95}
            print(f"{name:28s} {p50:8.1f} {p95:8.1f} ms", flush=True)
    return figures


def main() -> None:
    """Fill a store; with --measure, of a temporary one unless named, read it and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="")
    parser.add_argument("--alerts", type=int, default=1_000_000)
    parser.add_argument("--incidents", type=int, default=10_000)
    parser.add_argument("--full-lists", action="store_true")
    parser.add_argument("--measure", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.url or f"sqlite:///{folder}/filled.db"
        began = time.perf_counter()
        full = options.full_lists or options.measure or not options.url
        fill_store(url, n_alerts=options.alerts, n_incidents=options.incidents, full_lists=full)
        seconds = round(time.perf_counter() - began, 1)
        print(f"filled {url} in {seconds} s", flush=True)
        if options.measure or not options.url:
            sizes = {"alerts": options.alerts, "incidents": options.incidents, "days": DAYS, "filled_in_s": seconds}
            write_result(RESULTS / "filled_store.json", {**sizes, "readings": measure(url)})


if __name__ == "__main__":
    main()
