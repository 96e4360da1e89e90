"""Fill the tables of README.md and docs/ from the result files.

A table stands between ``<!-- results:NAME -->`` and ``<!-- /results:NAME -->``; what is between them is replaced by
what the function of that name in :data:`TABLES` says. ``--check`` changes nothing and fails where a document differs.

Usage: python -m benchmarks.write_docs [--check]
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks import scale_tables
from benchmarks.recipe_search import PLAIN, RATES, TEMPERATURES, decision_name
from benchmarks.result_files import RESULTS, read_result
from deepidea.evaluation.benchmark_tables import (
    Table,
    ahead_table,
    class_table,
    escape_markdown,
    rule_table,
    standing_table,
    tau_table,
)
from deepidea.evaluation.benchmark_travel import Figures, Leg, Ranking, journeys, tell_journey, travel_tables
from deepidea.evaluation.comparison import Comparison, Contest, answers, read_comparison
from deepidea.evaluation.systems import SYSTEMS
from deepidea.model.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"(<!-- results:([\w-]+) -->\n).*?(<!-- /results:\2 -->)", re.DOTALL)
CLASS_TITLES = {"u2r": "U2R", "r2l": "R2L", "dos": "DoS", "ddos": "DDoS"}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table, numbers to the right.

    Examples
    --------
    >>> print(table(["a", "b"], [["x", "1"]]))
    | a | b |
    |---|---:|
    | x | 1 |
    """
    titles = list(head)
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *map(list, rows)]
    return "\n".join(
        "|" + "|".join(f" {c} " if set(c) - set("-:") or c == "-" else c for c in line) + "|" for line in lines
    )


def spread(values: Iterable[float | None]) -> str:
    """Return mean and standard deviation over seeds of shares, in percent."""
    percents = [100 * value for value in values if value is not None]
    deviation = f" ± {statistics.stdev(percents):.1f}" if len(percents) > 1 else ""
    return f"{statistics.mean(percents):.1f}{deviation}" if percents else "-"


PRESET_ROWS = {"`paper` preset": "deepidea-paper", "`default` preset": "deepidea"}


def accuracy_table(data: str) -> str:
    """Return the accuracy of both presets on a data set, by the benchmark's records, each with its own decision."""
    folder = RESULTS / "benchmark" / data / "auto"
    found = {
        preset: [json.loads(path.read_text()) for path in sorted((folder / system).glob("seed-*.json"))]
        for preset, system in PRESET_ROWS.items()
    }
    own = {preset: [record["decisions"]["own"] for record in records] for preset, records in found.items()}
    first = own["`default` preset"][0]
    rows = [["**class-balanced accuracy**", *(f"**{spread(s['cba'] for s in runs)}**" for runs in own.values())]]
    for name in ("distinct", "unseen"):
        rows.append([f"CBA on {name} vectors", *(spread(s["subsets"][name] for s in runs) for runs in own.values())])
    for c in first["per_class"]:
        title = CLASS_TITLES.get(c, c.replace("_", " "))
        rows.append([f"recall {title}", *(spread(s["per_class"][c]["recall"] for s in runs) for runs in own.values())])
    for score, title in (("false_alarm_rate", "false-alarm rate"), ("macro_f1", "macro F1"), ("pr_auc", "PR-AUC")):
        rows.append([title, *(spread(s[score] for s in runs) for runs in own.values())])
    seeds = ", ".join(f"{preset} {len(runs)}" for preset, runs in own.items())
    head = ["percent, mean ± sd over seeds", *own]
    return table(head, rows) + f"\n\nSeeds: {seeds}; {first['n_rows']:,} test flows (first seed)."


def speed_table() -> str:
    """Return training, scoring, memory and start-up in one table."""
    training, scoring, startup = (read_result(n) for n in ("training_speed", "scoring_speed", "startup"))
    judged = read_result("evaluation_speed")
    verdicts, prints = judged["verdicts"], judged["fingerprints"]
    median, memory = training["median"], scoring["peak_memory_mib"]
    largest = max(memory, key=int)
    start = startup["median_seconds"]
    rows = [
        [
            f"training, paper preset, {training['flows']:,} flows x {training['epochs']} epochs",
            f"{median['ours_seconds']:.0f} s",
        ],
        ["the same by a plain torch loop, in the same run", f"{median['plain_seconds']:.0f} s"],
        ["ratio (median of the runs)", f"{median['ratio']:.1f}x"],
        ["final loss, ours / plain", f"{median['ours_loss']:.4f} / {median['plain_loss']:.4f}"],
        [
            f"scoring Parquet to Parquet, {scoring['features']} features",
            f"{scoring['median_flows_per_second']:,.0f} flows/s",
        ],
        ["the same without `anomaly` and `unknown`", f"{scoring['without_anomaly']:,.0f} flows/s"],
        [f"peak memory of scoring {int(largest):,} flows", f"{memory[largest]:.0f} MiB"],
        [f"every figure of an evaluation of {verdicts['flows']:,} flows", f"{verdicts['ours_s']:.1f} s"],
        ["a few of these figures by scikit-learn, in the same run", f"{verdicts['theirs_s']:.1f} s"],
        [f"fingerprints of {prints['rows']:,} flows of {prints['features']} features", f"{prints['ours_s']:.2f} s"],
        ["hashes of the same by pandas, in the same run", f"{prints['theirs_s']:.2f} s"],
        ["`deepidea --help`", f"{start['deepidea --help']:.2f} s"],
        ["`import deepidea`, beyond Python's own start", f"{start[_IMPORT] - start['python -c pass']:.3f} s"],
    ]
    run = scoring["run"]
    return table(["what", "measured"], rows) + f"\n\n{run['cores']} cores, {run['processor']}; {run['date']}."


def context_table() -> str:
    """Return the speed of counting what hosts did lately, by kind of traffic."""
    found = read_result("context_speed")
    kinds = {"office": "an office", "scan": "a scan", "flood": "a flood from ever other sources"}
    rows = [[f"{title}, flows a second of one core", f"{found[kind]['median']:,.0f}"] for kind, title in kinds.items()]
    rings, run = found["filled_rings"], found["run"]
    rows.append([f"memory of {rings['hosts']:,} busy sources and as many destinations", f"{rings['mib']:.0f} MiB"])
    return table(["what", "measured"], rows) + f"\n\n{run['cores']} cores, {run['processor']}; {run['date']}."


def explain_table() -> str:
    """Return what an explanation costs, by preset."""
    found = read_result("explain_speed")
    presets, run = {name: found[name] for name in ("default", "paper")}, found["run"]
    figures = {
        "one flow explained, median": ("median_ms", "{:.1f} ms"),
        "the same, 95 % within": ("p95_ms", "{:.1f} ms"),
        "making an explainer, once a detector": ("explainer_ms", "{:.1f} ms"),
        "what pushes miss of the log-odds, at most": ("worst_residual", "{:.1%}"),
        f"telling what {found['training_flows']:,} training flows look like": ("reference_s", "{:.1f} s"),
        "the same in the manifest, unpacked": ("reference_bytes", "{:,} bytes"),
    }
    told = {what: [shape.format(of[key]) for of in presets.values()] for what, (key, shape) in figures.items()}
    rows = [[what, *(text.replace("%", " %") for text in texts)] for what, texts in told.items()]
    head = [f"{found['features']} features", *(f"`{name}` preset" for name in presets)]
    return f"{table(head, rows)}\n\n{run['cores']} cores, {run['processor']}; {run['date']}."


_IMPORT = "python -c 'import deepidea'"
_OWN = decision_name(PRESETS["default"]["temperature"], PRESETS["default"]["novelty_rate"])
Summaries = list[dict[str, Any]]


def recipe_decisions() -> str:
    """Return what each decision makes of the default preset's network on training folds, over the data sets."""
    of = _search_results()["default"]
    rows = [
        [f"temperature {t:g}", *(_mixed_and_false(of, decision_name(t, rate)) for rate in RATES)] for t in TEMPERATURES
    ]
    rows.append(["plain argmax", _mixed_and_false(of, PLAIN), *("" for _ in RATES[1:])])
    return table(["decision", *(f"rate {rate:g}" for rate in RATES)], rows)


def recipe_table() -> str:
    """Return the recipe search: each candidate on training folds, mean over the data sets, and each data set alone."""
    results = _search_results()
    networks = {name: of for name, of in results.items() if PLAIN in of[0]}
    ordered = sorted(networks, key=lambda name: -_mean_percent(networks[name], _OWN, "mixed"))
    rows = [_candidate_row(name, networks[name], _OWN) for name in ordered]
    for name, of in results.items():
        rows += [_candidate_row(f"{name}, {kind}", of, kind) for kind in of[0] if name not in networks]
    return table(["candidate", "mixed", "known", "left out", "false alarms", *SEARCHED], rows)


def naming_table() -> str:
    """Return what each rule of naming attacks makes of those that the preset finds, on training folds."""
    of = [read_result(f"naming_search/{data}")["summary"] for data in SEARCHED]
    rows = [_candidate_row(rule, of, rule) for rule in of[0]]
    return table(["named by", "mixed", "known", "left out", "false alarms", *SEARCHED], rows)


SEARCHED = ("kdd99", "nsl-kdd", "cicids17")


def _search_results() -> dict[str, Summaries]:
    """Return the summaries of each candidate that was tried on every data set, in the order of the data sets."""
    found: dict[str, Summaries] = {}
    for data in SEARCHED:
        for path in sorted((RESULTS / "recipe_search" / data).glob("*.json")):
            record = json.loads(path.read_text())
            found.setdefault(record["candidate"], []).append(record["summary"])
    return {name: of for name, of in found.items() if len(of) == len(SEARCHED)}


def _candidate_row(name: str, of: Summaries, decision: str) -> list[str]:
    measures = [
        f"{_mean_percent(of, decision, measure):.1f}" for measure in ("mixed", "known", "unseen", "false_alarms")
    ]
    return [name, *measures, *(f"{summary[decision]['mixed']:.1f}" for summary in of)]


def _mixed_and_false(of: Summaries, decision: str) -> str:
    return f"{_mean_percent(of, decision, 'mixed'):.1f} ({_mean_percent(of, decision, 'false_alarms'):.1f})"


def _mean_percent(of: Summaries, decision: str, measure: str) -> float:
    return statistics.mean(float(summary[decision][measure]) for summary in of)


def choices_table() -> str:
    """Return what the open choices of the paper preset did on training rows."""
    rows = [
        [
            run["choice"],
            f"{run['training_loss']:.4f}",
            f"{run['loss_without_dropout']:.4f}",
            f"{100 * run['held_out_cba']:.1f}",
        ]
        for run in read_result("paper_choices")["runs"]
    ]
    return table(["choice", "training loss", "loss without dropout", "held-out CBA, percent"], rows)


_DEALT_AS_THE_PAPER = ("auto", "official", "stratified")


@cache
def benchmark_contests() -> dict[str, Contest]:
    """Return what `make bench-accuracy` measured on each data set, dealt by its first protocol; none before it ran."""
    folder = RESULTS / "benchmark"
    if not any(folder.glob("*/*/*/seed-*.json")):
        return {}
    contests = reversed(read_comparison(folder).contests)
    return {contest.data: contest for contest in contests if contest.protocol in _DEALT_AS_THE_PAPER}


@cache
def every_dealing() -> Comparison:
    """Return what `make bench-accuracy` and `make bench-protocols` measured; nothing before they ran."""
    folders = [RESULTS / name for name in ("benchmark", "protocols") if any((RESULTS / name).rglob("seed-*.json"))]
    return read_comparison(*folders) if folders else Comparison((), (), {}, (), ())


def benchmark_table(data: str, make: Callable[[Contest], Table | None]) -> str:
    """Return a table of the benchmark on a data set."""
    contest = benchmark_contests().get(data) or next(
        (c for c in every_dealing().contests if c.data == data and c.protocol in _DEALT_AS_THE_PAPER), None
    )
    made = make(contest) if contest else None
    return made.to_markdown() if made else "Not measured yet: `make bench-accuracy` fills this table."


def travel_text() -> str:
    """Return, for each data set that several protocols deal, what became of the figures, in words and tables."""
    told = []
    for journey in journeys(every_dealing()):
        tables = [table.to_markdown() for table in travel_tables(journey)]
        told += [f"### {escape_markdown(journey.title)}", escape_markdown(tell_journey(journey)), *tables]
    return "\n\n".join(told) or "Not measured yet: `make bench-protocols` fills this section."


def new_attacks_table() -> str:
    """Return what systems find of days and attack labels that training lacks, at how many false alarms."""
    return _new_attacks([(name, SYSTEMS[name].title, _found_and_false) for name in NEW_ATTACKS_OF])


def new_attacks_ranking() -> str:
    """Return how systems rank the same attacks above benign flows, whatever they decide."""
    columns = [(name, SYSTEMS[name].title, lambda figures: _ranked(figures.by_score)) for name in NEW_ATTACKS_OF]
    ours = ("deepidea", "DeepIDEA, by `anomaly`", lambda figures: _ranked(figures.by_anomaly))
    return _new_attacks([*columns, ours])


NEW_ATTACKS_OF = ("mlp-ce", "random-forest", "lightgbm", "deepidea", "deepidea-forests")
Column = tuple[str, str, Callable[[Figures], str]]  # system, title, what stands in a cell


def _new_attacks(columns: Sequence[Column]) -> str:
    journey = next((one for one in journeys(every_dealing()) if one.data == "cicids17-improved@family"), None)
    legs = [leg for leg in journey.legs if leg.contests[0].dealing.startswith(_NEW)] if journey else []
    if not legs:
        return "Not measured yet: `make bench-protocols` fills this table."
    rows = [[_what_lacks(leg), *(_cell(leg.figures(name), tell) for name, _, tell in columns)] for leg in legs]
    return table(["training lacks", *(title for _, title, _ in columns)], rows)


_NEW = ("by-day-", "leave-out-")


def _what_lacks(leg: Leg) -> str:
    return leg.title.removeprefix("another day: ")


def _cell(figures: Figures | None, tell: Callable[[Figures], str]) -> str:
    return tell(figures) if figures else "–"


def _found_and_false(figures: Figures) -> str:
    if figures.recall is None or figures.false_alarms is None:
        return "–"
    return f"{100 * figures.recall:.1f} ({100 * figures.false_alarms:.1f})"


def _ranked(ranking: Ranking) -> str:
    if ranking.auroc is None:
        return "–"
    return f"{ranking.auroc:.3f}" + ("" if ranking.recall is None else f" ({100 * ranking.recall:.1f})")


def no_figures(data: str) -> str:
    """Return why a data set has no figures under the paper's classes, as its records say."""
    unmeasured = [record for record in every_dealing().unmeasured if record["data"] == data]
    reasons = dict.fromkeys(record["reason"] for record in unmeasured)
    return "\n".join(f"> {escape_markdown(reason)}" for reason in reasons) or "Not measured yet."


def native_table() -> str:
    """Return how systems tell the native labels of CICIDS2017 apart, mean over five folds."""
    by_system: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((RESULTS / "native").glob("*/fold-*-of-5/*/seed-0.json")):
        record = json.loads(path.read_text())
        by_system.setdefault(record["title"], []).append(record["decisions"])
    if not by_system:
        return "Not measured yet."
    ways = {"own": "its own decision", "plain": "most probable label", "corrected": "corrected for the prior"}
    rows = [
        [title, *(_over_folds([told[way]["cba"] for told in folds if way in told]) for way in ways), str(len(folds))]
        for title, folds in by_system.items()
    ]
    return table(["balanced accuracy, percent", *ways.values(), "folds"], sorted(rows))


def _over_folds(shares: list[float]) -> str:
    return (
        f"{100 * statistics.mean(shares):.1f} ± {100 * statistics.stdev(shares) if len(shares) > 1 else 0:.1f}"
        if shares
        else ""
    )


def benchmark_answers() -> str:
    """Return what the benchmark found, in words."""
    found = answers(Comparison(tuple(benchmark_contests().values()), (), {}, (), ()))
    told = (f"**{escape_markdown(answer.heading)}.** {escape_markdown(answer.text)}" for answer in found)
    return "\n\n".join(told) or "Nothing is measured yet: `make bench-accuracy` fills this page."


_WAYS = {
    "plain MLP: max-softmax": "plain MLP, one minus the largest probability",
    "plain MLP: energy": "plain MLP, energy",
    "plain MLP: 1 - p_benign": "plain MLP, 1 - p_benign",
    "contrastive head: distance": "contrastive benign head, distance from benign",
    "DeepIDEA: max-softmax": "DeepIDEA, one minus the largest probability",
    "DeepIDEA: energy": "DeepIDEA, energy",
    "DeepIDEA: 1 - p_benign": "DeepIDEA, `score`",
    "DeepIDEA: anomaly": "**DeepIDEA, `anomaly`**",
}


def zero_day_table() -> str:
    """Return how each way ranks left-out attack types, mean over the types of a data set."""
    found = read_result("zero_day")["data"]
    head = ["left-out types against benign flows", *(f"{d}: {what}" for d in found for what in _RANKED.values())]
    rows = [
        [title, *(f"{found[d]['summary']['all'][way][key]:.3f}" for d in found for key in _RANKED)]
        for way, title in _WAYS.items()
    ]
    halves = "; ".join(
        f"{data}: {part['DeepIDEA: anomaly']['auroc']:.3f} over the {part['types']} types of {kind}"
        for data, of in found.items()
        for kind, part in of["summary"].items()
        if kind != "all"
    )
    return f"{table(head, rows)}\n\nAUROC of `anomaly`: {halves}."


_RANKED = {"auroc": "AUROC", "recall_at_0.01": "recall at 1e-2", "recall_at_0.001": "recall at 1e-3"}


def zero_day_types_table() -> str:
    """Return the figures of each left-out type; of several seeds the mean."""
    rows = []
    for data, of in read_result("zero_day")["data"].items():
        for name in sorted({run["type"] for run in of["runs"]}):
            runs = [run for run in of["runs"] if run["type"] == name]
            told = [_mean_of(runs, way, key) for way, key in _SHOWN]
            told += [_mean(r["marked"]["left_out"][mark] for r in runs if r["marked"]) for mark in _MARKS]
            rows.append([data, name, f"{runs[0]['flows']:,}", *(f"{value:.3f}" for value in told)])
    ways = ["AUROC plain MLP, max-softmax", "AUROC `score`", "AUROC `anomaly`"]
    return table(["data set", "left out", "flows", *ways, *_RECALLS, "called an attack", "`unknown`"], rows)


_RECALLS = ("recall at 1e-2", "recall at 1e-3")
_SHOWN = [("plain MLP: max-softmax", "auroc"), ("DeepIDEA: 1 - p_benign", "auroc")] + [
    ("DeepIDEA: anomaly", key) for key in _RANKED
]
_MARKS = ("any attack", "unknown")


def _mean_of(runs: list[dict[str, Any]], way: str, key: str) -> float:
    return _mean(run["methods"][way][key] for run in runs if way in run["methods"])


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else float("nan")


def shared_table() -> str:
    """Return what several processes on one stream do, from the result file."""
    found = read_result("shared_stream")
    speed, taken, context, run = found["speed"], found["takeover"], found["context"], found["run"]
    rows = [
        *(
            [
                f"{name} process{'es' * (name == 'two')}, flows a second of each run",
                ", ".join(map("{:,}".format, rates)),
            ]
            for name, rates in (("one", speed["one"]), ("two", speed["two"]))
        ),
        ["two against one, by medians", f"{speed['median_ratio']:.2f}x"],
        [f"parts of the store that {taken['kills']} kills of one of two processes changed", _changed(taken["equal"])],
        *(
            [
                f"keyed by {key}, windows counted in each of {speed['partitions']} shares: flows with other windows",
                f"{100 * context[key]['other_windows']:.0f} %",
            ]
            for key in ("pair", "source", "destination")
        ),
        *(
            [
                f"the same keyed by {key}, of {context['alerts']:,} alerts of {context['flows']:,} flows: lost, added",
                f"{context[key]['alerts_lost']:,}, {context[key]['alerts_more']:,}",
            ]
            for key in ("pair", "source", "destination")
        ),
    ]
    return f"{table(['what', 'measured'], rows)}\n\n{run['cores']} cores, {run['processor']}; {run['date']}."


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
        for told, way in ((found[name], "by thresholds"), (found[f"{name}_by_score"], "by score alone")):
            share = f"{100 * told['alerts'] / told['flows']:.0f} % of flows alert"
            rate = f"{told['median_flows_per_second']:,.0f} flows/s"
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
    return f"{table(['what', 'measured'], rows)}\n\n{run['cores']} cores, {run['processor']}; {run['date']}."


READINGS = {
    "newest_time": "time of the newest flow",
    "alert_series_day": "alerts by class, a day in steps of 10 min",
    "alert_series_weeks": "alerts by class, four weeks in steps of an hour",
    "flow_series_weeks": "flows and alerts, four weeks in steps of an hour",
    "severity_counts": "incidents by severity and status",
    "top_hosts": "hosts with the most urgent incidents",
    "incidents_latest": "100 incidents, the latest",
    "incidents_by_severity": "100 open incidents, the most urgent",
    "incidents_by_alerts_page_2": "100 incidents by alerts, second page",
    "search_host": "incidents of a host, searched",
    "search_other_end": "incidents by the address of the other end",
    "search_port": "incidents by a port",
    "search_note": "incidents by a word of a note",
    "search_nothing": "incidents by an address that none has",
    "alerts_of_host": "100 alerts of a host",
}


def page_table() -> str:
    """Return what the page of a large store takes, what it weighs, and how it does with many who look on."""
    found, run = read_result("page_speed"), read_result("page_speed")["run"]
    rows = [[what, f"{of['median_ms']:.0f} ms", f"{of['p95_ms']:.0f} ms"] for what, of in found["pages"].items()]
    head = [f"{found['alerts']:,} alerts, {found['incidents']:,} incidents, SQLite", "median", "95 % within"]
    live, weight = found["live"], found["weight"]
    looked = f"{live['browsers']} open pages, {live['flows_per_second']:,} flows/s watched by the server"
    more = [
        [
            "first page without plotly's script",
            f"{weight['bytes'] / 1000:.0f} kB ({weight['packed_bytes'] / 1000:.0f} packed)",
        ],
        [f"{looked}: alerts", f"{live['alerts']:,}"],
        ["alerts that a page missed, at most", f"{live['most_missed']:,}"],
        ["from a flow's end to its alert on the page, median", f"{live['p50_s']:.2f} s"],
        ["the same, 99 % within", f"{live['p99_s']:.2f} s"],
    ]
    return (
        f"{table(head, rows)}\n\n{table(['what', 'measured'], more)}\n\n"
        f"{run['cores']} cores, {run['processor']}; {run['date']}."
    )


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
    told = (
        f"Through Spark's reader and writer: {found['spark_io_flows']:,} flows. {run['cores']} cores, "
        f"{run['processor']}; load average before the run {found['load_before']:.1f}; {run['date']}."
    )
    return f"{table(head, rows)}\n\n{told}"


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
    return f"{table(head, rows)}\n\n{run['cores']} cores, {run['processor']}; {run['date']}."


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
    return f"{table(head, rows)}\n\n{run['cores']} cores, {run['processor']}; {run['date']}."


def store_table() -> str:
    """Return how long a page's questions to a large store take."""
    found = read_result("filled_store")
    run = found["run"]
    rows = [[what, f"{found['readings'][name]['p95_ms']:.0f} ms"] for name, what in READINGS.items()]
    sizes = f"{found['alerts']:,} alerts, {found['incidents']:,} incidents, {found['days']} days"
    head = [f"{sizes}; 95 % within", "SQLite"]
    return f"{table(head, rows)}\n\n{run['cores']} cores, {run['processor']}; {run['date']}."


def _changed(equal: dict[str, bool]) -> str:
    return "none" if all(equal.values()) else ", ".join(name for name, held in equal.items() if not held)


def _span(memory_mib: list[int]) -> str:
    half = memory_mib[len(memory_mib) // 2 :]
    return f"{memory_mib[0]} MiB, then {min(half)} to {max(half)} MiB in its second half"


_TAXONOMY = {"cicids18": "cicids18@family"}  # its sample has no attack among the paper's classes

TABLES: dict[str, Callable[[], str]] = {
    "shared_stream": shared_table,
    "detection": detection_table,
    "store": store_table,
    "native": native_table,
    "benchmark-answers": benchmark_answers,
    **{
        f"{name}-{data}": partial(benchmark_table, _TAXONOMY.get(data, data), make)
        for data in ("kdd99", "nsl-kdd", "cicids17", "cicids18")
        for name, make in (
            ("standing", standing_table),
            ("paper", class_table),
            ("rules", rule_table),
            ("ahead", ahead_table),
        )
    },
    **{f"tau-{data}": partial(benchmark_table, data, tau_table) for data in ("kdd99", "nsl-kdd", "cicids17")},
    "travel": travel_text,
    "new-attacks": new_attacks_table,
    "new-attacks-ranking": new_attacks_ranking,
    "no-figures-cicids18": partial(no_figures, "cicids18"),
    "kdd99": lambda: accuracy_table("kdd99"),
    "nsl-kdd": lambda: accuracy_table("nsl-kdd"),
    "cicids17": lambda: accuracy_table("cicids17"),
    "speed": speed_table,
    "context_speed": context_table,
    "explain_speed": explain_table,
    "page_speed": page_table,
    "spark_speed": spark_table,
    "workers_speed": workers_table,
    "shard_memory": shard_table,
    "recipe_decisions": recipe_decisions,
    "recipe_search": recipe_table,
    "naming_search": naming_table,
    "paper_choices": choices_table,
    "zero_day": zero_day_table,
    "zero_day_types": zero_day_types_table,
    **{name: partial(make, table) for name, make in scale_tables.TABLES.items()},
}


def filled(text: str) -> str:
    """Return a document with its tables filled."""
    return _BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def documents() -> list[Path]:
    """Return the documents that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> None:
    """Fill the documents, or check them."""
    stale = [path for path in documents() if filled(path.read_text()) != path.read_text()]
    if "--check" in sys.argv:
        sys.exit(f"run make docs: {', '.join(p.name for p in stale)} differ from the result files" if stale else 0)
    for path in stale:
        path.write_text(filled(path.read_text()))
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
