"""Tables and sentences of docs/scale.md, from the results of :mod:`benchmarks.scale`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from benchmarks.markdown import table
from benchmarks.result_files import read_result

Plan = dict[str, Any]


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


_ROWS: dict[str, Callable[[Plan], str]] = {
    "flows a second, mean": lambda of: f"{of['mean_per_s']:,}",
    "in the busiest minute; in a flood": lambda of: f"{of['peak_per_s']:,}; {of['flood_per_s']:,}",
    "**cells**: brokers, stores": lambda of: f"**{of['cells']:,}**",
    "**processes that detect**, all cells": lambda of: f"**{of['processes']:,}**",
    "**cores**, brokers and stores included": lambda of: f"**{of['cores']:,}**",
    "memory of publishers and processes": lambda of: _bytes(1e9 * of["memory_gb"]),
    "a day with a flood: 99 % within; longest": lambda of: (
        f"{_span(of['flooded']['p99_s'])}; {_span(of['flooded']['longest_s'])}"
    ),
    "backlog of the flood cleared within": lambda of: _span(of["flooded"]["drained_s"]),
    "largest backlog in the brokers": lambda of: f"{_flows(of['queue_flows'])} flows, {_bytes(1e9 * of['queue_gb'])}",
    "network traffic a day": lambda of: _bytes(1e12 * of["wire_tb_a_day"]),
    "alerts a day; of the flood": lambda of: f"{_flows(of['alerts_a_day'])}; {_flows(of['flood_alerts'])}",
    "stores grow by, a day": lambda of: _bytes(1e9 * of["store_gb_a_day"]),
    "flows and verdicts in Parquet, a day": lambda of: _bytes(1e9 * of["parquet_gb_a_day"]),
    "**cost a day**": lambda of: f"**{_money(of['cost']['a_day'])}**",
    "of which cores; network; Parquet; stores": lambda of: "; ".join(
        _money(of["cost"][name]) for name in ("cores", "wire", "parquet", "store")
    ),
}


def plans() -> str:
    """Return what each size needs."""
    found = read_result("scale")
    head = ["flows a day", *(_size(of["flows_a_day"]) for of in found["plans"])]
    rows = [[title, *(cell(of) for of in found["plans"])] for title, cell in _ROWS.items()]
    return table(head, rows)


def limits() -> str:
    """Return how much one cell carries, by stage."""
    found = read_result("scale")
    titles = {
        "broker": "one Redis process",
        "store": "one PostgreSQL, one writer at a time",
        "sink": "one sink, a file",
        "heaviest pair": "one process with the heaviest pair of hosts",
    }
    of = found["plans"][len(found["plans"]) // 2]
    order = sorted(titles, key=lambda name: of["limits"][name])
    rows = [[titles[name], _flows(of["limits"][name]), _flows(of["flood_limits"][name])] for name in order]
    head = ["flows a day at full load", "in the busiest minute", "in a flood at that minute"]
    return table(head, rows)


def first() -> str:
    """Return which stage is short first, in words."""
    found = read_result("scale")
    titles = {"broker": "the broker", "store": "the store", "sink": "the sink", "heaviest pair": "the heaviest pair"}
    calm = {titles[of["limits_first"]] for of in found["plans"]}
    flood = {titles[of["flood_limits_first"]] for of in found["plans"]}
    alerts, most, pair = (found[name] for name in ("flood_alert_share", "most_alerts_per_s", "most_of_a_pair_per_s"))
    return (
        f"The first bottleneck of a normal day is **{' or '.join(sorted(calm))}**, of a flood "
        f"**{' or '.join(sorted(flood))}**: {100 * alerts:.1f} % of a flood's flows are alerts, and one store takes at "
        f"most {most:,} a second. One pair of hosts, whose flows stay in one partition, can send {pair:,} flows a "
        "second without delay."
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


def assumptions() -> str:
    """Return what is assumed, by option."""
    found = read_result("scale")
    assumed = found["assumed"]
    worked_out = {"efficiency": found["efficiency"], "packets_a_flow": found["packets_a_flow"]}
    values = {name: f"{worked_out.get(name, assumed[name]):g}" + " (measured)" * (name in worked_out) for name in _WHY}
    return "\n".join(f"- `--{name.replace('_', '-')}` {values[name]}: {why}" for name, why in _WHY.items())


_WHY = {
    "peak": "busiest minute / mean",
    "alert_share": "alerts per flow: the default of `deepidea calibrate`",
    "flood": "flows of a flood / of the busiest minute",
    "flood_s": "seconds of the flood, spread over all cells",
    "delay_bound_s": "seconds to store 99 % of a normal day's verdicts",
    "most_busy": "highest load of any part on a normal day",
    "broker_gb": "GB of a broker for waiting flows",
    "efficiency": "output of each of several processes / of one alone",
    "flows_a_pair": "flows a day per pair of hosts, mean",
    "zipf": "exponent of the sizes of pairs",
    "jitter": "deviation of a process's log rate, per minute",
    "round_trip_ms": "ms to the store and back, per statement",
    "alerts_an_incident": "alerts per incident",
    "keep_days": "days until `deepidea store purge`",
    "packets_a_flow": "packets per flow, for metering",
    "store_cores": "cores of each store's server",
    "price_core_hour": "dollars per core with 4 GB and hour",
    "price_gb_month": "dollars per GB of object storage and month",
    "price_store_gb_month": "dollars per GB of the store's disk and month",
    "price_gb_wire": "dollars per GB between zones, into and out of the broker",
    "step_s": "seconds per step of the simulation",
}

TABLES: dict[str, Callable[[], str]] = {
    "scale": plans,
    "scale-limits": limits,
    "scale-first": first,
    "scale-alternatives": alternatives,
    "scale-checked": checked,
    "scale-assumptions": assumptions,
}
