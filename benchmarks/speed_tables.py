"""Tables of speed, memory and crash tests, for docs/."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.markdown import about, table
from benchmarks.result_files import read_result


def speed_table() -> str:
    """Return training, scoring, memory and start-up in one table."""
    training, scoring, startup, explained = (
        read_result(name) for name in ("training_speed", "scoring_speed", "startup", "explain_speed")
    )
    verdicts = read_result("evaluation_speed")["verdicts"]
    median, memory = training["median"], scoring["peak_memory_mib"]
    largest, start = max(memory, key=int), startup["median_seconds"]
    trained = f"{training['flows']:,} flows x {training['epochs']} epochs"
    rows = [
        [f"training, paper preset, {trained}", f"{median['ours_seconds']:.0f} s"],
        ["the same by a plain torch loop", f"{median['plain_seconds']:.0f} s"],
        ["final loss, ours / plain", f"{median['ours_loss']:.4f} / {median['plain_loss']:.4f}"],
        [
            f"scoring Parquet to Parquet, {scoring['features']} features",
            f"{scoring['median_flows_per_second']:,.0f} flows/s",
        ],
        ["the same without `anomaly` and `unknown`", f"{scoring['without_anomaly']:,.0f} flows/s"],
        [f"peak memory of scoring {int(largest):,} flows", f"{memory[largest]:.0f} MiB"],
        [f"all figures of an evaluation of {verdicts['flows']:,} flows", f"{verdicts['ours_s']:.1f} s"],
        ["explanation of one flow, median", f"{explained['default']['median_ms']:.1f} ms"],
        ["`deepidea --help`", f"{start['deepidea --help']:.2f} s"],
    ]
    return f"{table(['what', 'measured'], rows)}\n\n{about(scoring['run'])}"


def context_table() -> str:
    """Return the speed of host context, by kind of traffic."""
    found = read_result("context_speed")
    kinds = {"office": "an office", "scan": "a scan", "flood": "a flood from changing sources"}
    rows = [[f"{title}, flows/s of one core", f"{found[kind]['median']:,.0f}"] for kind, title in kinds.items()]
    rings, run = found["filled_rings"], found["run"]
    rows.append([f"memory of {rings['hosts']:,} busy sources and as many destinations", f"{rings['mib']:.0f} MiB"])
    return f"{table(['what', 'measured'], rows)}\n\n{about(run)}"


def shared_table() -> str:
    """Return what several processes on one stream do."""
    found = read_result("shared_stream")
    speed, taken, context, run = found["speed"], found["takeover"], found["context"], found["run"]
    rows = [
        *([f"{name}, flows/s of each run", ", ".join(map("{:,}".format, speed[name]))] for name in ("one", "two")),
        ["two against one, by medians", f"{speed['median_ratio']:.2f}x"],
        [f"parts of the store that {taken['kills']} kills of one of two processes changed", _changed(taken["equal"])],
        [
            f"context counted per partition, keyed by pair; source; destination: alerts lost, added (of "
            f"{context['alerts']:,})",
            "; ".join(
                f"{context[key]['alerts_lost']:,}, {context[key]['alerts_more']:,}"
                for key in ("pair", "source", "destination")
            ),
        ],
    ]
    return f"{table(['processes', 'measured'], rows)}\n\n{about(run)}"


def detection_table() -> str:
    """Return what watching a network costs, from its result files."""
    meter, found = read_result("meter_speed"), read_result("detection_speed")
    run = meter["run"]
    scan, crashes, soak = read_result("scan_memory"), read_result("crashes"), found["soak"]
    rows = [
        ["packets to flows with every feature, one core", f"{meter['median_packets_per_second']:,.0f} packets/s"],
        *(
            [["the same against NFStream, in the same run", f"{meter['nfstream']['times_faster']:.1f}x"]]
            if "nfstream" in meter
            else []
        ),
        ["first use of the meter on a machine: compiling", f"{meter['first_run_s']:.1f} s"],
    ]
    for name, what in (("zeek_text", "Zeek lines"), ("eve_flows", "EVE lines")):
        for way_found, way in ((found[name], "by thresholds"), (found[f"{name}_by_score"], "by score alone")):
            share = f"{100 * way_found['alerts'] / way_found['flows']:.0f} % of flows alert"
            rate = f"{way_found['median_flows_per_second']:,.0f} flows/s"
            rows.append([f"{what} to stored alerts, one core; {way}, {share}", rate])
    steady = found["latency"]
    rows += [
        [
            f"flow end to stored alert at {steady['flows_per_second']:,} flows/s, half within",
            f"{steady['p50_s']:.2f} s",
        ],
        ["the same, 99 % within", f"{steady['p99_s']:.2f} s"],
        [f"peak memory in a scan of {scan['targets']:,} targets", f"{scan['peak_memory_mib']:,.0f} MiB"],
        ["incidents of that scan", f"{scan['incidents']:,}"],
        [f"stores that {crashes['kills']} kills changed", _changed(crashes["equal"])],
        [f"memory over a day's {soak['flows']:,} flows, in {soak['seconds']:.0f} s", _span(soak["memory_mib"])],
        ["flows of that day not accounted for", f"{soak['uncounted']:,}"],
    ]
    return f"{table(['what', 'measured'], rows)}\n\n{about(run)}"


def page_table() -> str:
    """Return how long the pages of a large store take, and the delay of live alerts."""
    found, run = read_result("page_speed"), read_result("page_speed")["run"]
    rows = [[what, f"{of['median_ms']:.0f} ms", f"{of['p95_ms']:.0f} ms"] for what, of in found["pages"].items()]
    live = found["live"]
    watched = f"{live['browsers']} open pages, {live['flows_per_second']:,} flows/s: flow end to alert on the page"
    rows.append([watched, f"{live['p50_s']:.2f} s", f"99 %: {live['p99_s']:.2f} s"])
    head = [f"{found['alerts']:,} alerts, {found['incidents']:,} incidents, SQLite", "median", "95 % within"]
    return f"{table(head, rows)}\n\n{about(run)}"


def spark_table() -> str:
    """Return how scoring on Spark does beside one core without it."""
    found, run = read_result("spark_speed"), read_result("spark_speed")["run"]
    memory = max(found["executors_1_mib"], found["executors_2_mib"])
    rows = [
        ["one core without Spark, flows a second", f"{found['alone_flows_per_second']:,}"],
        ["one executor", f"{found['executors_1_flows_per_second']:,} ({found['one_against_alone']:.2f}x)"],
        ["two executors", f"{found['executors_2_flows_per_second']:,} ({found['two_against_one']:.2f}x of one)"],
        ["memory of an executor, at most", f"{memory:,} MiB"],
        [
            "one executor, through Spark's reader and writer",
            f"{found['spark_io_flows_per_second']:,} ({found['spark_io_against_alone']:.2f}x)",
        ],
        ["the same, a mere copy of the table", f"{found['spark_copy_flows_per_second']:,}"],
        ["the same, memory of the executor", f"{found['spark_io_mib']:,} MiB"],
    ]
    head = [f"{found['flows']:,} flows of {found['features']} features, {found['gib']:.1f} GiB", "measured"]
    note = (
        f"Through Spark's reader and writer: {found['spark_io_flows']:,} flows. {run['cores']} cores, "
        f"{run['processor']}; load average before the run {found['load_before']:.1f}; {run['date']}."
    )
    return f"{table(head, rows)}\n\n{note}"


def workers_table() -> str:
    """Return how two processes train beside one, by batch and network."""
    found, run = read_result("workers_speed"), read_result("workers_speed")["run"]
    rows = [
        [
            f"{of['batch_size']:,} rows, 2 x {of['width']} units",
            *(f"{of[name]['seconds']:.1f} s" for name in ("one", "two")),
            f"{of['speed_up']:.2f}x",
            *(f"{of[name]['loss']:.4f}" for name in ("one", "two")),
        ]
        for of in found["runs"]
    ]
    head = [f"{found['flows']:,} flows, {found['epochs']} epochs", "one", "two", "faster", "loss of one", "of two"]
    return f"{table(head, rows)}\n\n{about(run)}"


def shard_table() -> str:
    """Return what training in shards takes beside training in memory."""
    found, run = read_result("shard_memory"), read_result("shard_memory")["run"]
    rows = [
        [
            f"{of['flows']:,} flows in " + (f"{of['shards']} shards" if where == "in_shards" else "memory"),
            f"{of[where]['peak_mib']:,} MiB",
            f"{of[where]['seconds']:.0f} s",
            f"{100 * of[where]['cba']:.1f} %",
        ]
        for of in found["runs"]
        for where in ("in_memory", "in_shards")
    ]
    head = [f"{found['features']} features, {found['epochs']} epochs", "peak memory", "time", "CBA on fresh flows"]
    return f"{table(head, rows)}\n\n{about(run)}"


def _changed(equal: dict[str, bool]) -> str:
    return "none" if all(equal.values()) else ", ".join(name for name, held in equal.items() if not held)


def _span(memory_mib: list[int]) -> str:
    half = memory_mib[len(memory_mib) // 2 :]
    return f"{memory_mib[0]} MiB, then {min(half)} to {max(half)} MiB in its second half"


TABLES: dict[str, Callable[[], str]] = {
    "speed": speed_table,
    "context_speed": context_table,
    "detection": detection_table,
    "shared_stream": shared_table,
    "page_speed": page_table,
    "spark_speed": spark_table,
    "workers_speed": workers_table,
    "shard_memory": shard_table,
}
