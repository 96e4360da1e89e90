"""What a billion, ten billion and a hundred billion flows a day need, worked out from measured rates.

Rates and sizes come from the committed result files; what is not measured is an assumption, and an option. A day is
simulated (:mod:`benchmarks.scale_model`), calm and with a flood at its busiest hour, for ever more processes, until the
verdicts of the calm day come in time and what the flood left waiting is gone within an hour. Where one store cannot
keep up whatever the number of processes, the flows are split among several installations, cells, each with a broker and
a store of its own.

Before that the model is asked for what was measured: one process and two that empty a stream on two cores.

Usage: python -m benchmarks.scale [--flows-a-day 1e9 1e10 1e11] [--peak 2] [--alert-share 1e-4] [--price-core-hour 0.04]
       (--help lists all; with any of them the result file is left alone unless --write is given)
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from benchmarks.result_files import RESULTS, read_result, write_result
from benchmarks.scale_model import (
    Costs,
    Day,
    Fleet,
    Flood,
    Load,
    fewest,
    flow_through,
    pair_weights,
    simulate,
    split,
)

SIZES = (1e9, 1e10, 1e11)
ALERT_SHARES = (1e-5, 1e-4, 1e-3, 1e-2)
MOST_CELLS = 4_096
DRAIN_S = 3_600.0
DAYS_A_MONTH = 30.4
MIB, GB = 2**20, 1e9
Loss = Literal["none", "once", "doubling"]


@dataclass(frozen=True, slots=True)
class Assumed:
    """What no benchmark measures; each is an option of the command.

    Parameters
    ----------
    peak
        Busiest minute against the mean of a day. A network of one time zone has about twice its mean in the afternoon.
    alert_share
        Alerts a flow, false ones in the main: 1e-4 is the default budget of ``deepidea calibrate``.
    flood
        Flows of a flood against those of the busiest minute: 0.5 is half as many on top.
    flood_s
        How long it lasts; a flow of it is an alert as often as in ``benchmarks.scan_memory``.
    delay_bound_s
        Within what 99 % of the verdicts of a calm day must stand in the store.
    most_busy
        No process, broker or store may be busier than this at the busiest minute of a calm day: flows as a fluid wait
        for nothing below 1, real ones do.
    broker_gb
        Memory of a broker that queued flows may fill.
    efficiency
        What each of several processes does of one alone; 0 takes it from one and two processes, as measured.
    flows_a_pair
        Flows of a day for each pair of hosts, which makes the number of pairs.
    zipf
        Exponent by which the flows of pairs fall from the heaviest on.
    jitter
        Deviation of the logarithm of a process's rate from minute to minute.
    round_trip_ms
        To the store and back, for each statement of a transaction.
    alerts_an_incident
    keep_days
        After which ``deepidea store purge`` is run; nothing goes by itself.
    packets_a_flow
        0 takes it from the capture of ``benchmarks.meter_speed``.
    store_cores
        Of a store's server.
    price_core_hour, price_gb_month, price_store_gb_month, price_gb_wire
        Dollars: a core with 4 GB of memory; a gigabyte of object storage, of the store's disk, and between zones.
    step_s
        Of the simulation.
    """

    peak: float = 2.0
    alert_share: float = 1e-4
    flood: float = 0.5
    flood_s: float = 600.0
    delay_bound_s: float = 30.0
    most_busy: float = 0.8
    broker_gb: float = 16.0
    efficiency: float = 0.0
    flows_a_pair: float = 1_000.0
    zipf: float = 0.8
    jitter: float = 0.1
    round_trip_ms: float = 0.2
    alerts_an_incident: float = 10.0
    keep_days: float = 28.0
    packets_a_flow: float = 0.0
    store_cores: float = 2.0
    price_core_hour: float = 0.04
    price_gb_month: float = 0.02
    price_store_gb_month: float = 0.10
    price_gb_wire: float = 0.01
    step_s: float = 20.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{one.name} must be at least 0, got {value}")
        for name in ("peak", "delay_bound_s", "most_busy", "flows_a_pair", "alerts_an_incident", "step_s"):
            if not getattr(self, name):
                raise ValueError(f"{name} must be above 0, got 0")


# --- what was measured -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measured:
    """Result files by name."""

    of: dict[str, dict[str, Any]]

    @classmethod
    def read(cls) -> Measured:
        """Read the result files that the plan stands on."""
        names = (
            "meter_speed detection_speed shared_stream spark_speed scan_memory record_sizes stage_costs context_speed"
        )
        return cls({name: read_result(name) for name in names.split()})

    def costs(self, assumed: Assumed) -> Costs:
        """Return what each stage takes."""
        stage, one = self.of["stage_costs"], statistics.median(self.of["shared_stream"]["speed"]["one"])
        stream, store = stage["stream"], stage["store"]["postgresql"]
        waits_ms = store["statements"] * assumed.round_trip_ms + stage["sync_ms"]
        return Costs(
            publish_s=stream["publish_us"] / 1e6,
            broker_s=(stream["redis_in_us"] + stream["redis_out_us"]) / 1e6,
            detect_s=1 / one - self.alert_s() * self.stream_alert_share(),
            detect_alert_s=self.alert_s(),
            batch_s=(store["batch_ms"] + waits_ms) / 1e3,
            some_alerts_s=store["some_alerts_ms"] / 1e3,
            alert_s=store["alert_us"] / 1e6,
            sink_s=1 / stage["sink_alerts_per_second"],
            store_server_s=stream["postgresql_us"] / 1e6,
            floor_s=self.of["detection_speed"]["latency"]["p50_s"],
        )

    def alert_s(self) -> float:
        """Return what an alert takes in a process, by its rates with few alerts and with many."""
        few, many = (self.of["detection_speed"][name] for name in ("zeek_text", "zeek_text_by_score"))
        more = (many["alerts"] - few["alerts"]) / few["flows"]
        return float((1 / many["median_flows_per_second"] - 1 / few["median_flows_per_second"]) / more)

    def stream_alert_share(self) -> float:
        """Return the alerts a flow where the processes of a stream were measured."""
        parts = self.of["shared_stream"]["takeover"]
        return float(parts["alerts"] / parts["flows"])

    def efficiency(self, assumed: Assumed) -> float:
        """Return what each of several processes does of one alone."""
        return assumed.efficiency or self.of["shared_stream"]["speed"]["median_ratio"] / 2

    def packets_a_flow(self, assumed: Assumed) -> float:
        """Return the packets of a flow."""
        meter = self.of["meter_speed"]
        return assumed.packets_a_flow or meter["packets"] / meter["flows"]

    def queued_bytes(self) -> float:
        """Return what a flow takes in the broker."""
        return float(self.of["stage_costs"]["stream"]["redis_bytes"])

    def flood_alerts(self) -> float:
        """Return how many alerts a flow of a flood leads to."""
        scan = self.of["scan_memory"]
        return float(scan["alerts"] / scan["flows"])


def validation(measured: Measured) -> dict[str, Any]:
    """Return what the model says of processes that empty a stream on the cores of one machine, beside what they did.

    Its costs are processor times of another run, so that the figures it predicts are not among its inputs.
    """
    stream, share = measured.of["stage_costs"]["stream"], measured.stream_alert_share()
    speed, cores = measured.of["shared_stream"]["speed"], measured.of["shared_stream"]["run"]["cores"]
    detect_s = stream["detect_us"] / 1e6 - share * measured.alert_s()
    costs = measured.costs(Assumed(round_trip_ms=0.0))
    costs = replace(costs, detect_s=detect_s, broker_s=stream["redis_out_us"] / 1e6, publish_s=0.0)
    parts: dict[str, Any] = {"cores": cores, "flows": speed["flows"]}
    for name, n in (("one", 1), ("two", 2)):
        fleet = Fleet(n, speed["partitions"] // n, cores=cores)
        model = emptied_at(speed["flows"], fleet, costs, alert_share=share)
        parts[name] = _compared(round(model), statistics.median(speed[name]))
    model_ratio, ratio = (parts["two"][kind] / parts["one"][kind] for kind in ("model", "measured"))
    return parts | {"ratio": _compared(round(model_ratio, 3), round(ratio, 3))}


def _compared(model: float, measured: float) -> dict[str, float]:
    return {"model": model, "measured": measured, "error": round(model / measured - 1, 3)}


def emptied_at(n_flows: float, fleet: Fleet, costs: Costs, *, alert_share: float, step_s: float = 0.02) -> float:
    """Return the flows a second at which processes empty a stream that holds so many."""
    n_steps = round(2 * n_flows * (costs.detect_s + alert_share * costs.detect_alert_s) / step_s) + 10
    flows = np.zeros((n_steps, fleet.processes))
    flows[0] = n_flows / fleet.processes
    day = flow_through(flows, flows * alert_share, fleet, replace(costs, sink_s=0.0), step_s=step_s)
    done = np.cumsum(day.scored)
    return float(n_flows / np.interp(n_flows * (1 - 1e-9), done, (np.arange(n_steps) + 1) * step_s))


# --- a plan ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Planner:
    """Finds how much a load needs.

    Processes of a cell lose nothing by being several, or what two were measured to lose, however many there are, or
    that with each doubling.
    """

    measured: Measured
    assumed: Assumed
    loss: Loss = "once"

    def load(self, flows_a_day: float, *, flooded: bool = False) -> Load:
        """Return a day."""
        a = self.assumed
        pairs = max(round(flows_a_day / a.flows_a_pair), 1)
        day = Load(flows_a_day, a.peak, alert_share=a.alert_share, jitter=a.jitter, n_pairs=pairs, zipf=a.zipf)
        rate = a.flood * a.peak * day.mean_per_s
        flood = Flood(day.peak_s, a.flood_s, rate, self.measured.flood_alerts())
        return replace(day, floods=(flood,)) if flooded and rate else day

    def fleet(self, n_processes: int) -> Fleet:
        """Return so many processes; one alone does what one does."""
        doublings = {"none": 0.0, "once": min(n_processes - 1, 1), "doubling": math.log2(n_processes)}[self.loss]
        return Fleet(n_processes, efficiency=self.measured.efficiency(self.assumed) ** doublings)

    def days(self, flows_a_day: float, n_cells: int, n_processes: int) -> tuple[Day, Day]:
        """Return a calm day and one with a flood, of one of the cells."""
        fleet, costs = self.fleet(n_processes), self.measured.costs(self.assumed)
        loads = (split(self.load(flows_a_day, flooded=flooded), n_cells) for flooded in (False, True))
        calm, flooded = (simulate(load, fleet, costs, step_s=self.assumed.step_s) for load in loads)
        return calm, flooded

    def holds(self, flows_a_day: float, n_cells: int, n_processes: int) -> bool:
        """Return whether verdicts come in time with room to spare, and what a flood left waiting is gone in time."""
        limits = self.limits(flows_a_day)
        if flows_a_day / n_cells > min(limits["store"], limits["broker"]):  # no need to look
            return False
        calm, flooded = self.days(flows_a_day, n_cells, n_processes)
        if max(float(of.max()) for of in (calm.process, calm.broker, calm.store)) > self.assumed.most_busy:
            return False
        if float(flooded.queued.max()) * self.measured.queued_bytes() > self.assumed.broker_gb * GB:
            return False
        flood_ends_s = self.load(flows_a_day).peak_s + self.assumed.flood_s
        return calm.delay_s(0.99) <= self.assumed.delay_bound_s and flooded.drained_s(flood_ends_s) <= DRAIN_S

    def ample(self, flows_a_day: float, n_cells: int) -> int:
        """Return so many processes for a cell that they are not what is short."""
        peak = self.load(flows_a_day).mean_per_s * self.assumed.peak * (1 + self.assumed.flood)
        each = self.fleet(2).efficiency / self.measured.costs(self.assumed).detect_s
        return 4 + math.ceil(3 * peak / n_cells / each)

    def smallest(self, flows_a_day: float) -> tuple[int, int] | None:
        """Return the fewest cells, and the fewest processes of each, that hold; None where there is no end to them."""
        cells = fewest(lambda k: self.holds(flows_a_day, k, self.ample(flows_a_day, k)), MOST_CELLS)
        if cells is None:
            return None
        processes = fewest(lambda n: self.holds(flows_a_day, cells, n), self.ample(flows_a_day, cells))
        return (cells, processes or self.ample(flows_a_day, cells))

    def limits(self, flows_a_day: float, *, flooded: bool = False) -> dict[str, float]:
        """Return the flows a day beyond which each stage of one cell is short at the busiest minute, or in a flood."""
        a, costs = self.assumed, self.measured.costs(self.assumed)
        times = 1 + a.flood * flooded
        share = (a.alert_share + a.flood * flooded * self.measured.flood_alerts()) / times
        of_pair = self.fleet(2).efficiency / (costs.detect_s + a.alert_share * costs.detect_alert_s)
        heaviest = pair_weights(self.load(flows_a_day).n_pairs, a.zipf)[0][0]
        per_s = {
            "store": costs.batch_flows / costs.store_s(costs.batch_flows * share, 1.0),
            "broker": 1 / costs.broker_s,
            "heaviest pair": of_pair / heaviest * times,
            "sink": 1 / max(costs.sink_s * share, 1e-12),
        }
        return {name: float(f"{rate * 86_400 / (a.peak * times):.3g}") for name, rate in per_s.items()}


def plan(planner: Planner, flows_a_day: float) -> dict[str, Any]:
    """Return what so many flows a day need."""
    found = planner.smallest(flows_a_day)
    parts: dict[str, Any] = {"flows_a_day": flows_a_day}
    for name, in_flood in (("limits", False), ("flood_limits", True)):
        parts[name] = planner.limits(flows_a_day, flooded=in_flood)
        waited_for = [stage for stage in parts[name] if stage != "sink"]  # no verdict waits for that
        parts[f"{name}_first"] = min(waited_for, key=parts[name].__getitem__)
    if found is None:
        return parts | {"cells": None}
    cells, processes = found
    calm, flooded = planner.days(flows_a_day, cells, processes)
    load = planner.load(flows_a_day, flooded=True)
    return {
        **parts,
        "cells": cells,
        "processes": cells * processes,
        **_rates(planner, load, calm, flooded, cells),
        **_resources(planner, load, flooded, cells, processes),
        "without_a_stream": _without_a_stream(planner, load),
        "spark_executors": _spark(planner, flows_a_day),
    }


def _rates(planner: Planner, load: Load, calm: Day, flooded: Day, cells: int) -> dict[str, Any]:
    ends_s = load.peak_s + planner.assumed.flood_s
    drained = flooded.drained_s(ends_s)
    return {
        "mean_per_s": round(load.mean_per_s),
        "peak_per_s": round(float(calm.arrived.max()) * cells / calm.step_s),
        "flood_per_s": round(float(flooded.arrived.max()) * cells / flooded.step_s),
        "alerts_a_day": round(float(calm.alerts.sum()) * cells),
        "flood_alerts": round(float(flooded.alerts.sum() - calm.alerts.sum()) * cells),
        "calm": _told(calm),
        "flooded": {**_told(flooded), "drained_s": round(drained)},
    }


def _told(day: Day) -> dict[str, float | None]:
    busy = {name: round(float(getattr(day, name).max()), 3) for name in ("process", "broker", "store")}
    mean = {f"mean_{name}": round(float(getattr(day, name).mean()), 3) for name in ("broker", "store")}
    delays = {
        name: _seconds(day.delay_s(share)) for name, share in (("p50_s", 0.5), ("p99_s", 0.99), ("longest_s", 1.0))
    }
    return {**delays, **busy, **mean, "left": round(float(day.waiting()[-1]))}


def _seconds(delay_s: float) -> float | None:
    """Return a delay, None where there were flows that the day did not see the end of."""
    return round(delay_s, 2) if math.isfinite(delay_s) else None


def _resources(planner: Planner, load: Load, flooded: Day, cells: int, processes: int) -> dict[str, Any]:
    measured, assumed, costs = planner.measured, planner.assumed, planner.measured.costs(planner.assumed)
    sizes, stage = measured.of["record_sizes"], measured.of["stage_costs"]
    line, store = sizes["flow_bytes"]["stream_line_context"], sizes["store_bytes"]["postgresql"]
    busiest = float(flooded.arrived.max()) * cells / flooded.step_s
    publishers = math.ceil(busiest * costs.publish_s)
    cores = publishers + cells * (processes + 1 + assumed.store_cores)
    memory = [of["mib"] for of in stage["memory"]]
    queue, unpublished = (float(of.max()) * cells for of in (flooded.queued, flooded.unpublished))
    alerts = load.flows_a_day * assumed.alert_share
    grows = alerts * (store["alert"] + store["incident"] / assumed.alerts_an_incident)
    flood = assumed.flood * assumed.peak * load.mean_per_s * assumed.flood_s * measured.flood_alerts()
    parquet = load.flows_a_day * (sizes["flow_bytes"]["parquet_flow"] + sizes["flow_bytes"]["parquet_verdict"])
    packets = load.mean_per_s * assumed.peak * measured.packets_a_flow(assumed)
    return {
        "publishers": publishers,
        "cores": math.ceil(cores),
        "meter_cores": math.ceil(packets / measured.of["meter_speed"]["median_packets_per_second"]),
        "memory_gb": round((publishers * max(memory) + cells * processes * min(memory)) * MIB / GB, 1),
        "wire_mean_mb_s": round(2 * line * load.mean_per_s / 1e6, 1),
        "wire_peak_mb_s": round(2 * line * busiest / 1e6, 1),
        "wire_tb_a_day": round(2 * line * load.flows_a_day / 1e12, 2),
        "netflow_mb_s": round(sizes["flow_bytes"]["netflow_v9"] * load.mean_per_s * assumed.peak / 1e6, 1),
        "queue_flows": round(queue),
        "queue_gb": round(queue * measured.queued_bytes() / GB, 2),
        "unpublished_flows": round(unpublished),
        "untold_alerts": round(float(flooded.untold.max()) * cells),
        "told_within_s": round(float(flooded.untold.max()) * costs.sink_s),
        "store_gb_a_day": round(grows / GB, 2),
        "store_gb_kept": round(grows * assumed.keep_days / GB, 1),
        "flood_gb": round(flood * store["alert"] / GB, 2),
        "parquet_gb_a_day": round(parquet / GB, 1),
        "cost": _cost(assumed, load, cores, grows, parquet, 2 * line),
    }


def _cost(assumed: Assumed, load: Load, cores: float, store: float, parquet: float, wire: float) -> dict[str, float]:
    """Return dollars a day, once as many days are kept as shall be, and of each billion flows."""
    kept = assumed.keep_days / DAYS_A_MONTH / GB
    parts = {
        "cores": cores * 24 * assumed.price_core_hour,
        "store": store * kept * assumed.price_store_gb_month,
        "parquet": parquet * kept * assumed.price_gb_month,
        "wire": load.flows_a_day * wire / GB * assumed.price_gb_wire,
    }
    total = sum(parts.values())
    shown = {name: round(value, 2) for name, value in (parts | {"a_day": total}).items()}
    return shown | {"a_billion": round(total / load.flows_a_day * 1e9, 2)}


def _without_a_stream(planner: Planner, load: Load) -> dict[str, Any]:
    """Return the processes that read their sensors' files themselves, windows counted, into stores of their own."""
    speeds, windows = (planner.measured.of[name] for name in ("detection_speed", "context_speed"))
    rate = 1 / (1 / speeds["zeek_text"]["median_flows_per_second"] + 1 / windows["office"]["median"])
    busiest = load.mean_per_s * planner.assumed.peak
    flood = busiest * planner.assumed.flood
    cores = math.ceil((busiest + flood) / rate + flood * planner.measured.flood_alerts() * planner.measured.alert_s())
    return {
        "flows_per_second": round(rate),
        "cores": cores,
        "cost_a_day": round(cores * 24 * planner.assumed.price_core_hour, 2),
    }


def _spark(planner: Planner, flows_a_day: float) -> int:
    """Return the executors that score a day's Parquet within a day, each as fast as one of two."""
    each = float(planner.measured.of["spark_speed"]["executors_2_flows_per_second"]) / 2
    return math.ceil(flows_a_day / 86_400 / each)


def by_alert_share(planner: Planner, sizes: Sequence[float]) -> list[dict[str, Any]]:
    """Return what alerts do to the store: their number, the store's time at the peak, its growth, and the cells."""
    rows = []
    store = planner.measured.of["record_sizes"]["store_bytes"]["postgresql"]
    for share in ALERT_SHARES:
        calm = Planner(planner.measured, replace(planner.assumed, alert_share=share, flood=0.0))
        for size in sizes:
            found = calm.smallest(size)
            per_alert = store["alert"] + store["incident"] / planner.assumed.alerts_an_incident
            rows.append(
                {
                    "alert_share": share,
                    "flows_a_day": size,
                    "alerts_a_day": round(size * share),
                    "incidents_a_day": round(size * share / planner.assumed.alerts_an_incident),
                    "store_busy": round(size / calm.limits(size)["store"], 3),
                    "store_gb_a_day": round(size * share * per_alert / GB, 2),
                    "cells": found and found[0],
                    "processes": found and found[0] * found[1],
                }
            )
    return rows


def by_loss(planner: Planner, sizes: Sequence[float]) -> list[dict[str, Any]]:
    """Return cells and processes by what processes of a cell lose by being several."""
    rows = []
    for size in sizes:
        found = {loss: replace(planner, loss=loss).smallest(size) for loss in get_args(Loss)}
        parts = {loss: (n and {"cells": n[0], "processes": n[0] * n[1]}) for loss, n in found.items()}
        rows.append({"flows_a_day": size, **parts})
    return rows


def work_out(assumed: Assumed, sizes: Sequence[float] = SIZES) -> dict[str, Any]:
    """Return plans, what they change with, and how the model does beside what was measured."""
    measured = Measured.read()
    planner = Planner(measured, assumed)
    costs = measured.costs(assumed)
    pair = planner.fleet(2).efficiency / costs.detect_s
    return {
        "assumed": asdict(assumed),
        "costs_us": {name: round(1e6 * value, 2) for name, value in asdict(costs).items() if name.endswith("_s")},
        "efficiency": round(measured.efficiency(assumed), 3),
        "packets_a_flow": round(measured.packets_a_flow(assumed), 1),
        "flood_alert_share": round(measured.flood_alerts(), 3),
        "validation": validation(measured),
        "most_of_a_pair_per_s": round(pair),
        "most_alerts_per_s": round(1 / costs.alert_s),
        "plans": [plan(planner, size) for size in sizes],
        "by_alert_share": by_alert_share(planner, sizes),
        "by_loss": by_loss(planner, sizes),
    }


# --- the command -----------------------------------------------------------------------------------------------------


def show(figures: dict[str, Any]) -> None:
    """Print the plans as a table."""
    rows = ["cells", "processes", "publishers", "cores", "meter_cores", "memory_gb", "wire_mean_mb_s", "wire_peak_mb_s"]
    rows += [
        "queue_flows",
        "queue_gb",
        "store_gb_a_day",
        "store_gb_kept",
        "flood_gb",
        "parquet_gb_a_day",
        "limits_first",
        "flood_limits_first",
    ]
    plans = figures["plans"]
    for name in ("flows_a_day", "mean_per_s", "peak_per_s", "flood_per_s", "alerts_a_day", "flood_alerts", *rows):
        print(f"{name:18s}" + "".join(f"{_cell(of.get(name)):>18s}" for of in plans))
    for day in ("calm", "flooded"):
        for name in ("p50_s", "p99_s", "longest_s", "process", "broker", "store"):
            print(f"{day + ' ' + name:18s}" + "".join(f"{_cell(of.get(day, {}).get(name)):>18s}" for of in plans))
    for name in ("cores", "store", "parquet", "wire", "a_day", "a_billion"):
        print(f"{'$ ' + name:18s}" + "".join(f"{_cell(of.get('cost', {}).get(name)):>18s}" for of in plans))
    print("model against measured:", figures["validation"])


def _cell(value: object) -> str:
    return (
        f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value or "-")
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Work out the plans, print them and write the result file."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flows-a-day", type=float, nargs="+", default=list(SIZES))
    parser.add_argument("--write", action="store_true", help="write the result file in spite of options")
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.json")
    for one in fields(Assumed):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=float, default=one.default)
    options = parser.parse_args(given)
    try:
        assumed = Assumed(**{one.name: getattr(options, one.name) for one in fields(Assumed)})
        figures = work_out(assumed, options.flows_a_day)
    except ValueError as error:
        parser.error(str(error))
    show(figures)
    if options.write or not given:
        write_result(options.out, figures)


if __name__ == "__main__":
    main()
