"""Tables and sentences of what the benchmark's records say: README.md, docs/benchmark.md."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

from benchmarks.markdown import table
from benchmarks.result_files import RESULTS
from deepidea.benchmark.comparison import Comparison, Contest, answers, read_comparison
from deepidea.benchmark.systems import SYSTEMS
from deepidea.benchmark.tables import (
    Table,
    ahead_table,
    class_table,
    escape_markdown,
    rule_table,
    standing_table,
    tau_table,
)
from deepidea.benchmark.transfer import Figures, Leg, Ranking, journeys, tell_journey, travel_tables

CLASS_TITLES = {"u2r": "U2R", "r2l": "R2L", "dos": "DoS", "ddos": "DDoS"}


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


_TAXONOMY = {"cicids18": "cicids18@family"}  # its sample has no attack among the paper's classes

TABLES: dict[str, Callable[[], str]] = {
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
    **{data: partial(accuracy_table, data) for data in ("kdd99", "nsl-kdd", "cicids17")},
}
