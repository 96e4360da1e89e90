"""Tables and sentences of docs/scale.md, from what :mod:`benchmarks.scale` worked out and what it stands on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from benchmarks.markdown import about, table
from benchmarks.result_files import read_result

Told = dict[str, Any]


def _size(flows: float) -> str:
    return f"1e{len(f'{flows:.0f}') - 1}" if f"{flows:.0f}".strip("0") == "1" else f"{flows:.2g}"


def _flows(number: float) -> str:
    """Return a number in brief.

    Examples
    --------
    >>> _flows(0), _flows(1e10), _flows(5.6e7), _flows(1e-4)
    ('0', '1e10', '5.6e7', '1e-4')
    """
    return "0" if not number else re.sub(r"e\+?(-?)0*", r"e\1", f"{number:.1e}").replace(".0e", "e")


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "over a day"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _bytes(number: float) -> str:
    for unit in ("kB", "MB", "GB", "TB"):
        number /= 1000
        if number < 1000 or unit == "TB":
            break
    return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.2g} {unit}"


def _money(dollars: float) -> str:
    return f"${dollars:,.0f}" if dollars >= 100 else f"${dollars:,.2f}"


_ROWS: dict[str, Callable[[Told], str]] = {
    "flows a second, mean": lambda of: f"{of['mean_per_s']:,}",
    "the same in the busiest minute; in a flood": lambda of: f"{of['peak_per_s']:,}; {of['flood_per_s']:,}",
    "**cells**: brokers, stores": lambda of: f"**{of['cells']:,}**",
    "**processes that detect**, all cells": lambda of: f"**{of['processes']:,}**",
    "publishers": lambda of: f"{of['publishers']:,}",
    "**cores**, brokers and stores included": lambda of: f"**{of['cores']:,}**",
    "cores more where packets are metered, too": lambda of: f"{of['meter_cores']:,}",
    "memory of publishers and processes": lambda of: _bytes(1e9 * of["memory_gb"]),
    "a calm day: half of the verdicts within; 99 % within": lambda of: (
        f"{of['calm']['p50_s']:.1f} s; {of['calm']['p99_s']:.1f} s"
    ),
    "busiest process; broker; store": lambda of: "; ".join(
        f"{100 * of['calm'][name]:.0f} %" for name in ("process", "broker", "store")
    ),
    "a day with a flood: 99 % within; longest": lambda of: (
        f"{_span(of['flooded']['p99_s'])}; {_span(of['flooded']['longest_s'])}"
    ),
    "all caught up after the flood within": lambda of: _span(of["flooded"]["drained_s"]),
    "most that waits in the brokers": lambda of: f"{_flows(of['queue_flows'])} flows, {_bytes(1e9 * of['queue_gb'])}",
    "most alerts that wait for sinks; a sink takes that in": lambda of: (
        f"{_flows(of['untold_alerts'])}; {_span(of['told_within_s'])}"
    ),
    "on the wire, mean; in a flood, a second": lambda of: (
        f"{_bytes(1e6 * of['wire_mean_mb_s'])}; {_bytes(1e6 * of['wire_peak_mb_s'])}"
    ),
    "on the wire, a day": lambda of: _bytes(1e12 * of["wire_tb_a_day"]),
    "alerts a day; of the flood": lambda of: f"{_flows(of['alerts_a_day'])}; {_flows(of['flood_alerts'])}",
    "stores grow by, a day": lambda of: _bytes(1e9 * of["store_gb_a_day"]),
    "stores hold, without floods": lambda of: _bytes(1e9 * of["store_gb_kept"]),
    "the flood adds": lambda of: _bytes(1e9 * of["flood_gb"]),
    "flows and verdicts in Parquet, a day": lambda of: _bytes(1e9 * of["parquet_gb_a_day"]),
    "**cost a day**": lambda of: f"**{_money(of['cost']['a_day'])}**",
    "of which cores; wire; Parquet; stores": lambda of: "; ".join(
        _money(of["cost"][name]) for name in ("cores", "wire", "parquet", "store")
    ),
    "cost of 1e9 flows": lambda of: _money(of["cost"]["a_billion"]),
}


def plans() -> str:
    """Return what each size needs."""
    found = read_result("scale")
    head = ["flows a day", *(_size(of["flows_a_day"]) for of in found["plans"])]
    rows = [[title, *(tell(of) for of in found["plans"])] for title, tell in _ROWS.items()]
    return table(head, rows)


def limits() -> str:
    """Return how much one cell carries, by stage."""
    found = read_result("scale")
    titles = {
        "broker": "one Redis process",
        "store": "one PostgreSQL, one writer at a time",
        "sink": "one sink, a file",
        "heaviest pair": "one process, which has the heaviest pair of hosts",
    }
    of = found["plans"][len(found["plans"]) // 2]
    order = sorted(titles, key=lambda name: of["limits"][name])
    rows = [[titles[name], _flows(of["limits"][name]), _flows(of["flood_limits"][name])] for name in order]
    head = ["flows a day at which it is busy all the time", "in the busiest minute", "in a flood at that minute"]
    return table(head, rows)


def first() -> str:
    """Return which stage is short first, in words."""
    found = read_result("scale")
    titles = {"broker": "the broker", "store": "the store", "sink": "the sink", "heaviest pair": "the heaviest pair"}
    calm = {titles[of["limits_first"]] for of in found["plans"]}
    flood = {titles[of["flood_limits_first"]] for of in found["plans"]}
    alerts, most, pair = (found[name] for name in ("flood_alert_share", "most_alerts_per_s", "most_of_a_pair_per_s"))
    return (
        f"On a calm day the first bottleneck is **{' or '.join(sorted(calm))}**, in a flood "
        f"**{' or '.join(sorted(flood))}**. In a flood {100 * alerts:.1f} % of the flows are alerts, of which one "
        f"store takes {most:,} a second at most. One pair of hosts, whose flows stay together, may send {pair:,} flows "
        "a second; what it sends beyond waits, and with it whatever shares its process."
    )


def alternatives() -> str:
    """Return the same flows without a stream, and on Spark."""
    found = read_result("scale")
    rows = []
    for of in found["plans"]:
        alone = of["without_a_stream"]
        rows.append(
            [
                _size(of["flows_a_day"]),
                f"{of['cores']:,}",
                f"{alone['cores']:,}",
                _money(alone["cost_a_day"]),
                f"{of['spark_executors']:,}",
            ]
        )
    rate = found["plans"][0]["without_a_stream"]["flows_per_second"]
    head = [
        "flows a day",
        "cores by a stream",
        f"cores without, {rate:,} flows/s each",
        "their cost a day",
        "executors of Spark, a day's table within a day",
    ]
    return table(head, rows)


def by_alerts() -> str:
    """Return what alerts a flow do to the store."""
    rows = [
        [
            _flows(of["alert_share"]),
            _size(of["flows_a_day"]),
            f"{_flows(of['alerts_a_day'])}; {_flows(of['incidents_a_day'])}",
            f"{100 * of['store_busy']:,.0f} %",
            _bytes(1e9 * of["store_gb_a_day"]),
            "none holds" if of["cells"] is None else f"{of['cells']:,}",
        ]
        for of in read_result("scale")["by_alert_share"]
    ]
    head = ["alerts a flow", "flows a day", "alerts; incidents a day", "one store at the peak, busy", "growth a day"]
    return table([*head, "cells, no flood"], rows)


def by_loss() -> str:
    """Return the processes by what several of them lose."""
    found = read_result("scale")
    rows = [
        [_size(of["flows_a_day"]), *(_cells(of[loss]) for loss in ("none", "once", "doubling"))]
        for of in found["by_loss"]
    ]
    each = f"each does {100 * found['efficiency']:.0f} % of one alone, as of two measured"
    return table(["flows a day: processes, cells", "nothing is lost", each, "every doubling loses as much"], rows)


def _cells(of: Told | None) -> str:
    return "none holds" if of is None else f"{of['processes']:,} in {of['cells']:,}"


def checked() -> str:
    """Return the model beside what was measured."""
    found = read_result("scale")["validation"]
    rows = [
        [
            title,
            f"{of['model']:,}",
            f"{of['measured']:,.0f}" if of["measured"] > 10 else f"{of['measured']:.2f}",
            f"{100 * of['error']:+.1f} %",
        ]
        for title, of in (
            (f"flows a second, {name} process{'es' * (name == 'two')}", found[name]) for name in ("one", "two")
        )
    ]
    ratio = found["ratio"]
    rows.append(
        ["two against one", f"{ratio['model']:.2f}", f"{ratio['measured']:.2f}", f"{100 * ratio['error']:+.1f} %"]
    )
    return table(
        [f"{found['flows']:,} flows, {found['cores']} cores with the servers on them", "model", "measured", "error"],
        rows,
    )


def stages() -> str:
    """Return what each stage takes."""
    found, stage = read_result("scale")["costs_us"], read_result("stage_costs")
    rows = [
        ["a flow: publisher, with windows of hosts", f"{found['publish_s']:.1f} µs"],
        ["a flow: Redis, in and out", f"{found['broker_s']:.1f} µs"],
        ["a flow: process that detects, alerts aside", f"{found['detect_s']:.1f} µs"],
        ["an alert: the same", f"{found['detect_alert_s']:.0f} µs"],
    ]
    for kind, title in (("postgresql", "PostgreSQL"), ("sqlite", "SQLite")):
        of = stage["store"][kind]
        more = f"{of['some_alerts_ms']:.1f} ms; {of['alert_us']:.0f} µs"
        rows.append([f"a transaction of {title} without alerts", f"{of['batch_ms']:.1f} ms"])
        rows.append(["more where there are alerts; and for each alert", more])
    statements, waits = stage["store"]["postgresql"]["statements"], stage["stream"]["redis_bytes"]
    rows += [
        ["statements of a transaction, each once to the server and back", f"{statements:.0f}"],
        ["a write reaches the disk within", f"{stage['sync_ms']:.1f} ms"],
        ["alerts from the store to a file", f"{stage['sink_alerts_per_second']:,} a second"],
        ["memory of a flow that waits in Redis", f"{waits:,.0f} bytes"],
    ]
    for of in stage["memory"]:
        about_it = f"a process that knows {of['hosts']:,} hosts, {of['incidents']:,} incidents in its store"
        rows.append([f"memory of {about_it}", f"{of['mib']:,} MiB"])
    return f"{table(['processor time, rate or memory', 'measured'], rows)}\n\n{about(stage['run'])}"


_FORMS = {
    "netflow_v9": "NetFlow v9, both directions",
    "ipfix": "IPFIX, both directions",
    "zeek_text": "line of Zeek's conn.log",
    "zeek_json": "the same in JSON",
    "eve_flows": "flow event of Suricata",
    "stream_line_context": "line of a stream, with windows of hosts",
    "stream_line": "the same without windows (`--no-context`)",
    "stream_line_context_packed": "with windows, packed a thousand together (the project does not)",
    "parquet_flow": "row of Parquet: flow",
    "parquet_flow_context": "the same with windows",
    "parquet_verdict": "row of Parquet: verdict",
}


def sizes() -> str:
    """Return bytes of a flow, an alert, an incident in each form."""
    found = read_result("record_sizes")
    rows = [[f"a flow: {title}", f"{found['flow_bytes'][name]:,.0f}"] for name, title in _FORMS.items()]
    for kind, title in (("sqlite", "SQLite"), ("postgresql", "PostgreSQL")):
        rows += [
            [f"an {what} in {title}", f"{found['store_bytes'][kind][what]:,.0f}"] for what in ("alert", "incident")
        ]
    return f"{table(['form', 'bytes'], rows)}\n\n{about(found['run'])}"


def assumptions() -> str:
    """Return what is assumed, by option."""
    found = read_result("scale")
    told = found["assumed"]
    worked_out = {"efficiency": found["efficiency"], "packets_a_flow": found["packets_a_flow"]}
    rows = [
        [
            f"`--{name.replace('_', '-')}` {why}",
            f"{worked_out.get(name, told[name]):g}" + " (measured)" * (name in worked_out),
        ]
        for name, why in _WHY.items()
    ]
    return table(["assumption", "value"], rows)


_WHY = {
    "peak": "busiest minute against the mean: offices of one time zone have about that; the world as a whole less",
    "alert_share": "alerts a flow: the budget of `deepidea calibrate` where nobody sets another",
    "flood": "flows of a flood against those of the busiest minute, on top of them",
    "flood_s": "seconds that it lasts, at the busiest hour; spread over all processes and cells",
    "delay_bound_s": "seconds within which 99 % of the verdicts of a calm day stand in the store",
    "most_busy": "no process, broker or store is busier on a calm day: a fluid waits for nothing, real flows do",
    "broker_gb": "GB of a broker that queued flows may fill",
    "efficiency": "what each of several processes does of one alone",
    "flows_a_pair": "flows a day of each pair of hosts, on average",
    "zipf": "exponent by which pairs fall from the heaviest on: 0 is all alike",
    "jitter": "deviation of the logarithm of a process's rate, drawn each minute",
    "round_trip_ms": "ms to the store and back, for each statement: machines of one room",
    "alerts_an_incident": "alerts of an incident",
    "keep_days": "days after which `deepidea store purge` is run; nothing goes by itself",
    "packets_a_flow": "packets of a flow, for meters alone: those of a simulated capture",
    "store_cores": "cores of each store's server",
    "price_core_hour": "dollars of a core with 4 GB for an hour",
    "price_gb_month": "dollars of a GB of object storage for a month",
    "price_store_gb_month": "dollars of a GB of the store's disk for a month",
    "price_gb_wire": "dollars of a GB between zones; in and out of the broker are both counted; 0 within one zone",
    "step_s": "seconds of a step of the simulation",
}

TABLES: dict[str, Callable[[], str]] = {
    "scale": plans,
    "scale-limits": limits,
    "scale-first": first,
    "scale-alternatives": alternatives,
    "scale-alerts": by_alerts,
    "scale-loss": by_loss,
    "scale-checked": checked,
    "scale-stages": stages,
    "scale-sizes": sizes,
    "scale-assumptions": assumptions,
}
