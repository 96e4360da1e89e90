"""Accuracy tables of README.md and docs/benchmark.md, from the benchmark's records.

The tables of single classes, of p-values and of tau are left to ``deepidea benchmark report``.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from benchmarks.markdown import table
from benchmarks.result_files import RESULTS

Record = dict[str, Any]
NONE = "–"
DATA = {"kdd99": "KDD99", "nsl-kdd": "NSL-KDD", "cicids17": "CICIDS2017", "cicids18": "CSE-CIC-IDS2018"}
_TAXONOMY = {"cicids18": "cicids18@family"}  # its sample has no attack among the paper's classes
DECISIONS = {"own": "its own", "plain": "most probable class", "corrected": "corrected for the prior"}
SHOWN = ("mlp-ce", "random-forest", "lightgbm", "deepidea", "deepidea-forests")
_BOLD = "deepidea"


@cache
def _records() -> dict[tuple[str, str, str], list[Record]]:
    """Return the measured records of each data set, protocol and system, in the order of their seeds."""
    found: dict[tuple[str, str, str], list[Record]] = {}
    for folder in ("benchmark", "protocols"):
        for path in sorted((RESULTS / folder).glob("*/*/*/seed-*.json")):
            record = json.loads(path.read_text())
            if record["status"] == "measured" and "@" not in path.parent.name:  # "@": a changed parameter
                found.setdefault((record["data"], record["protocol"], record["system"]), []).append(record)
    return found


def _paper_split(data: str) -> dict[str, list[Record]]:
    """Return the records of each system on a data set's official split, or its stratified one."""
    name = _TAXONOMY.get(data, data)
    return {
        system: records
        for protocol in ("stratified", "auto")
        for (of, by, system), records in _records().items()
        if of == name and by == protocol and ":" not in system
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f}"


def _score(records: Sequence[Record], name: str, decision: str = "own") -> list[float]:
    return [record["decisions"][decision][name] for record in records if decision in record["decisions"]]


def spread(shares: Sequence[float]) -> str:
    """Return mean and standard deviation over seeds, in percent."""
    deviation = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{_percent(statistics.fmean(shares))}{deviation}"


def systems_table() -> str:
    """Return class-balanced accuracy, macro-F1 and false alarms of every system on the paper's classes."""
    splits = {data: _paper_split(data) for data in DATA if data not in _TAXONOMY}
    titles = {system: records[0]["title"] for split in splits.values() for system, records in split.items()}

    def mean_cba(system: str) -> float:
        return statistics.fmean(statistics.fmean(_score(of[system], "cba")) for of in splits.values())

    rows = [
        [f"**{titles[system]}**" if system == _BOLD else titles[system], *(_cell(of[system]) for of in splits.values())]
        for system in sorted(titles, key=mean_cba, reverse=True)
    ]
    return table(["system", *(DATA[data] for data in splits)], rows)


def _cell(records: list[Record]) -> str:
    f1, alarms = (_percent(_mean(_score(records, name))) for name in ("macro_f1", "false_alarm_rate"))
    return f"{spread(_score(records, 'cba'))} ({f1}/{alarms})"


def decisions_table() -> str:
    """Return DeepIDEA's place and the first system on each data set, under each decision."""
    rows = [[title, *(_place(data, decision) for decision in DECISIONS)] for data, title in DATA.items()]
    return table(["data set", *DECISIONS.values()], rows)


def _place(data: str, decision: str) -> str:
    """Return DeepIDEA's class-balanced accuracy and place, then the first system's."""
    split = _paper_split(data)
    scores = {system: _score(records, "cba", decision) for system, records in split.items()}
    means = {system: statistics.fmean(found) for system, found in scores.items() if found}
    ranked = sorted(means, key=lambda system: -means[system])
    first = f"{split[ranked[0]][0]['title']} {_percent(means[ranked[0]])}"
    return f"{_percent(means[_BOLD])}, {ranked.index(_BOLD) + 1} of {len(ranked)}; {first}"


# --- by protocol -----------------------------------------------------------------------------------------------------

_PROTOCOLS = {
    "stratified-keep": "random, repeats kept",
    "stratified": "random, repeats dropped",
    "auto": "official split",
    "by-time": "end of each day",
    "by-host-pair": "other pairs of hosts",
    "by-day-tuesday": "Tuesday not in training",
    "by-day-wednesday": "Wednesday not in training",
    "by-day-thursday": "Thursday not in training",
    "by-day-friday": "Friday not in training",
    "leave-out": "one attack label not in training, mean of {}",
    "to-cicids17": "tested on CICIDS2017",
    "to-cicids17-improved": "tested on CICIDS2017 corrected",
    "to-cicids18": "tested on CSE-CIC-IDS2018",
}
_SPLIT = {
    "kdd99": "KDD99",
    "nsl-kdd": "NSL-KDD",
    "cicids17": "CICIDS2017",
    "cicids17-improved@family": "CICIDS2017 corrected",
    "cicids18@family": "CSE-CIC-IDS2018",
}


_REPEATS = "cicids17"  # repeats change the figures of this one; the report has the lines of all


def protocols_table() -> str:
    """Return what a few systems reach under each protocol of each data set, with areas under the ROC curve."""
    lines = [(data, protocol) for data in _SPLIT for protocol in _PROTOCOLS]
    return _lines([line for line in lines if line[1] != "stratified-keep" or line[0] == _REPEATS], with_areas=True)


def readme_table() -> str:
    """Return the main lines: the usual split of each data set, later flows, unknown attacks, and another network."""
    improved = "cicids17-improved@family"
    usual = [(data, "auto") for data in ("kdd99", "nsl-kdd", "cicids17")]
    return _lines([*usual, *((improved, protocol) for protocol in ("by-time", "leave-out", "to-cicids18"))])


def _lines(lines: Sequence[tuple[str, str]], *, with_areas: bool = False) -> str:
    rows = []
    for data, protocol in lines:
        groups = {system: _groups(data, protocol, system) for system in SHOWN}
        if ours := groups[_BOLD]:
            title = _PROTOCOLS["stratified" if (data, protocol) == ("cicids17", "auto") else protocol]
            cells = [_figures(groups[system], with_areas=with_areas) for system in SHOWN]
            cells += [_anomaly(ours)] if with_areas else []
            rows.append([f"{_SPLIT[data]}, {title.format(len(ours))}", *cells])
    titles = [_paper_split("kdd99")[system][0]["title"] for system in SHOWN]
    return table(["trained on, split", *titles, *(["`anomaly`"] if with_areas else [])], rows)


def _groups(data: str, protocol: str, system: str) -> list[list[Record]]:
    """Return the records of a protocol; of left-out labels a group for each label."""
    return [
        records
        for (of, by, who), records in _records().items()
        if of == data and who == system and (by == protocol or (protocol == "leave-out" and by.startswith(protocol)))
    ]


def _figures(groups: list[list[Record]], *, with_areas: bool) -> str:
    """Return CBA, recall of attacks, false alarms and, where asked for, the area under the ROC curve."""
    figures = [_left_out(g) if g[0]["protocol"].startswith("leave-out") else _whole(g) for g in groups]
    if not figures:
        return NONE
    cba, recall, alarms, area = (_mean(column) for column in zip(*figures, strict=True))
    more = f"/{area:.3f}" if with_areas and area is not None else ""
    return f"{_percent(cba)} ({_percent(recall)}/{_percent(alarms)}{more})"


def _whole(records: list[Record]) -> tuple[float | None, ...]:
    return tuple(_mean(_score(records, name)) for name in ("cba", "detection_rate", "false_alarm_rate", "roc_auc"))


def _left_out(records: list[Record]) -> tuple[float | None, ...]:
    """Return the figures of the left-out label alone against benign flows."""
    labels = _labels(records)
    recall = statistics.fmean(label["alarms"] / label["rows"] for label in labels)
    alarms = _mean(_score(records, "false_alarm_rate")) or 0.0
    return (recall + 1 - alarms) / 2, recall, alarms, _mean([label.get("auroc") for label in labels])


def _labels(records: list[Record]) -> list[dict[str, Any]]:
    return [label for record in records for label in record["labels"].values() if not label["in_training"]]


def _anomaly(groups: list[list[Record]]) -> str:
    """Return the area under the ROC curve of `anomaly`."""
    left_out = groups[0][0]["protocol"].startswith("leave-out")
    areas = [
        _mean([label.get("anomaly_auroc") for label in _labels(records)])
        if left_out
        else _mean([record.get("anomaly", {}).get("roc_auc") for record in records])
        for records in groups
    ]
    area = _mean(areas)
    return NONE if area is None else f"{area:.3f}"


def native_table() -> str:
    """Return how systems separate the native labels of CICIDS2017, mean over five folds."""
    by_system: dict[str, list[Record]] = {}
    for path in sorted((RESULTS / "native").glob("*/fold-*-of-5/*/seed-0.json")):
        record = json.loads(path.read_text())
        by_system.setdefault(record["title"], []).append(record)
    rows = [
        [title, *(spread(_score(folds, "cba", decision)) for decision in DECISIONS)]
        for title, folds in sorted(by_system.items())
    ]
    return table(["CBA, percent", *DECISIONS.values()], rows)


TABLES: dict[str, Callable[[], str]] = {
    "accuracy": readme_table,
    "systems": systems_table,
    "decisions": decisions_table,
    "protocols": protocols_table,
    "native": native_table,
}
