"""How well results transfer: the same systems on one data set, split by one protocol after another.

A score from a random split holds for flows like those of training. Each further protocol takes one likeness away: exact
repeats, the same minutes, the same hosts, the same day, the same kind of attack, the same network. Steps stand in that
order.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepidea.benchmark.cell import Record
from deepidea.benchmark.comparison import OURS, BenchmarkTask, Comparison, Row, Spread, data_title
from deepidea.benchmark.systems import SYSTEMS
from deepidea.benchmark.tables import NONE, Entry, Table
from deepidea.evaluation.capture_splits import WEEKDAYS

AT_RATE = "0.01"
"""The share of benign flows that rankings are compared at, as records spell it."""
_LEAVE_OUT, _TO, _DAY = "leave-out-", "to-", "by-day-"
_ORDER = ("stratified-keep", "stratified", "fold-", "official", "by-time", "by-host-pair", _DAY, _LEAVE_OUT, _TO)
_TITLES = {
    "stratified-keep": "at random, repeats kept",
    "stratified": "at random, repeats dropped",
    "official": "publisher's files",
    "by-time": "end of each day",
    "by-host-pair": "other pairs of hosts",
}


@dataclass(frozen=True, slots=True)
class Ranking:
    """How a score ranks attacks above benign flows; None where that is not known.

    Attributes
    ----------
    auroc : float or None
        Area under the ROC curve.
    recall : float or None
        Share of attacks above the benign flow that only :data:`AT_RATE` of them pass.
    """

    auroc: float | None = None
    recall: float | None = None


@dataclass(frozen=True, slots=True)
class StepScores:
    """Scores of a system at one step, as shares; None where there is none.

    Attributes
    ----------
    cba : Spread
        Over seeds, or over left-out labels.
    recall, false_alarms : float or None
        Of attacks against benign flows: share called any attack, share of benign flows called one.
    by_score, by_anomaly : Ranking
        Of attacks against benign flows, by the attack score and by how unlike benign flows the system finds them.

    Where a label is left out, recall and rankings are of that label alone.
    """

    cba: Spread
    recall: float | None
    false_alarms: float | None
    by_score: Ranking
    by_anomaly: Ranking


@dataclass(frozen=True, slots=True)
class TransferStep:
    """One way to split: a task, or several where labels are left out in turn."""

    title: str
    tasks: tuple[BenchmarkTask, ...]

    @property
    def asks(self) -> str:
        """What the systems tell apart, and how many of the classes the test has."""
        task = self.tasks[0]
        if task.facts.get("view") == "attack or benign":
            return "attack or benign"
        known, tested = (len(task.facts.get(key, task.classes)) for key in ("class_rows", "test_class_rows"))
        return f"{known} classes" if tested == known else f"{tested} of {known} classes"

    @property
    def test_flows(self) -> tuple[int, int]:
        """Benign and attack flows of the test, first seed; the flows of all labels that are left out in turn."""
        counts = self.tasks[0].facts.get("test_class_rows", {})
        benign = counts.get("benign", 0)
        if self.tasks[0].protocol.startswith(_LEAVE_OUT):
            return benign, sum(of["rows"] for task in self.tasks for of in _left_out(task.sample).values())
        return benign, sum(counts.values()) - benign

    def scores(self, system: str) -> StepScores | None:
        """Return a system's scores; None where it was not measured on all of the tasks."""
        rows = [task.row(system) for task in self.tasks]
        found = [_scores(task, row) for task, row in zip(self.tasks, rows, strict=True) if row]
        # A mean over fewer labels than another system's would not compare with it.
        return None if len(found) < len(rows) else found[0] if len(found) == 1 else _mean_scores(found)


@dataclass(frozen=True, slots=True)
class Transfer:
    """A data set that several protocols split; steps in the order in which likeness is taken away."""

    data: str
    steps: tuple[TransferStep, ...]

    @property
    def title(self) -> str:
        """The data set, and its taxonomy where one was named."""
        return data_title(self.data)

    @property
    def systems(self) -> list[str]:
        """Systems that two steps or more have, in the registry's order."""
        # A system of one step alone shows no transfer.
        measured = [{row.system for row in step.tasks[0].measured} for step in self.steps]
        return [name for name in SYSTEMS if sum(name in names for names in measured) > 1]


def transfers(comparison: Comparison) -> list[Transfer]:
    """Return the data sets that were split in more than one way.

    Examples
    --------
    >>> from deepidea.benchmark.comparison import compare
    >>> transfers(compare([]))
    []
    """
    by_data: dict[str, list[BenchmarkTask]] = {}
    for task in comparison.tasks:
        by_data.setdefault(task.data, []).append(task)
    found = (Transfer(data, tuple(_steps(tasks))) for data, tasks in by_data.items())
    return [transfer for transfer in found if len(transfer.steps) > 1 and transfer.systems]


def _steps(tasks: Sequence[BenchmarkTask]) -> Iterable[TransferStep]:
    named = {task.split_name: task for task in tasks}
    # labels left out in turn are one step, the mean over them; a label that the test lacks says nothing
    left_out = tuple(t for name, t in named.items() if name.startswith(_LEAVE_OUT) and _left_out(t.sample))
    steps = {name: TransferStep(_title(name), (t,)) for name, t in named.items() if not name.startswith(_LEAVE_OUT)}
    if left_out:
        mean = f", mean of {len(left_out)}" if len(left_out) > 1 else ""
        steps[_LEAVE_OUT] = TransferStep(f"an attack label left out{mean}", left_out)
    return [steps[name] for name in sorted(steps, key=_order)]


def _order(name: str) -> tuple[int, int, str]:
    # From most to least alike: at random, then other times, hosts, days, attacks, networks.
    places = [at for at, key in enumerate(_ORDER) if name == key or (key[-1] == "-" and name.startswith(key))]
    day = name.removeprefix(_DAY)
    return places[0] if places else len(_ORDER), WEEKDAYS.index(day) if day in WEEKDAYS else 0, name


def _title(name: str) -> str:
    if name.startswith(_TO):
        return f"another data set: {name.removeprefix(_TO)}"
    return f"another day: {name.removeprefix(_DAY).capitalize()}" if name.startswith(_DAY) else _TITLES.get(name, name)


# --- scores ------------------------------------------------------------------------------------------------------


def _scores(task: BenchmarkTask, row: Row) -> StepScores:
    if task.protocol.startswith(_LEAVE_OUT):
        return _left_out_scores(row)
    own: list[Record] = [record["decisions"]["own"] for record in row.records]
    return StepScores(
        row.spread("own") or Spread(0.0, 0.0, 0),
        _mean(of.get("detection_rate") for of in own),
        _mean(of.get("false_alarm_rate") for of in own),
        _ranking(own),
        _ranking([record.get("anomaly", {}) for record in row.records]),
    )


def _ranking(scores: Sequence[Mapping[str, Any]]) -> Ranking:
    recalls = (of.get("recall_at_fpr", {}).get(AT_RATE) for of in scores)
    return Ranking(_mean(of.get("roc_auc") for of in scores), _mean(recalls))


def _left_out_scores(row: Row) -> StepScores:
    """Return scores of the left-out label against benign flows; known attacks of the test do not count."""
    labels = [of for record in row.records for of in _left_out(record).values()]
    alarms = _mean(record["decisions"]["own"].get("false_alarm_rate") for record in row.records) or 0.0
    # the detection of each label counts once, however many flows it has
    recalls = [of["alarms"] / of["rows"] for of in labels]
    # Attack or benign: the mean of the label's recall and of the share of benign flows without an alarm.
    cba = Spread.of([(recall + 1 - alarms) / 2 for recall in recalls]) or Spread(0.0, 0.0, 0)
    by_score, by_anomaly = (Ranking(_mean(of.get(name) for of in labels)) for name in ("auroc", "anomaly_auroc"))
    return StepScores(cba, statistics.fmean(recalls), alarms, by_score, by_anomaly)


def _left_out(record: Record) -> dict[str, dict[str, Any]]:
    return {name: of for name, of in record.get("labels", {}).items() if not of["in_training"]}


def _mean_scores(scores: Sequence[StepScores]) -> StepScores:
    rankings = (
        Ranking(_mean(one.auroc for one in of), _mean(one.recall for one in of))
        for of in ([s.by_score for s in scores], [s.by_anomaly for s in scores])
    )
    cba = Spread.of([of.cba.mean for of in scores]) or Spread(0.0, 0.0, 0)
    return StepScores(cba, _mean(of.recall for of in scores), _mean(of.false_alarms for of in scores), *rankings)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


# --- tables ------------------------------------------------------------------------------------------------------


def transfer_tables(transfer: Transfer) -> list[Table]:
    """Return the tables of a data set: decisions, rankings, left-out labels where there are some."""
    left_out = left_out_table(transfer)
    return [transfer_table(transfer), ranking_table(transfer), *([left_out] if left_out else [])]


def transfer_table(transfer: Transfer) -> Table:
    """Return, for each protocol, the scores of each system."""
    lines = [_line(step, transfer.systems) for step in transfer.steps]
    head = ["Split", *(SYSTEMS[name].title for name in transfer.systems)]
    return Table(head, lines, _transfer_caption(transfer), small_below=True)


def _line(step: TransferStep, systems: Sequence[str]) -> list[Entry]:
    benign, attacks = step.test_flows
    scores = [step.scores(name) for name in systems]
    best = max((of.cba.mean for of in scores if of), default=0.0)
    return [Entry(step.title, f"{step.asks}; {benign:,} + {attacks:,} flows"), *(_entry(of, best) for of in scores)]


def _entry(scores: StepScores | None, best: float) -> Entry:
    if scores is None:
        return Entry(NONE)
    small = f"{_percent(scores.recall)} / {_percent(scores.false_alarms)} / {_area(scores.by_score)}"
    return Entry(str(scores.cba), small, scores.cba.mean == best)


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}"


def _area(ranking: Ranking) -> str:
    return NONE if ranking.auroc is None else f"{ranking.auroc:.3f}"


def _transfer_caption(transfer: Transfer) -> str:
    rows = (task.row(OURS) for step in transfer.steps for task in step.tasks)
    seeds = sorted({spread.n_seeds for row in rows if row and (spread := row.spread("own"))})
    several = any(len(step.tasks) > 1 for step in transfer.steps)
    return (
        "Class-balanced accuracy by each system's own decision, percent, the highest of a line in bold; small: recall "
        "of attacks (called any attack) and false alarms, percent, and area under the ROC curve of the attack score; "
        "beside a split, what it asks for and the test flows, benign + attacks. "
        f"{_spell_seeds(seeds)} The average of CBA is over the classes that a line asks for, so CBA of two lines "
        "compares only where they ask for the same; the small figures always ask for attack or benign."
        + (_LEFT_OUT_NOTE if several else "")
    )


_LEFT_OUT_NOTE = (
    " Where labels are left out in turn: mean and standard deviation over the labels; recall and area are of the "
    "left-out label's flows alone, against the benign ones."
)


def _spell_seeds(seeds: Sequence[int]) -> str:
    if list(seeds) == [1]:
        return "One seed."
    return f"Mean ± standard deviation over seeds ({' or '.join(map(str, seeds))}); without a deviation it is one seed."


def ranking_table(transfer: Transfer) -> Table:
    """Return how each system ranks attacks above benign flows, whatever it decides."""
    scores = {name: [step.scores(name) for step in transfer.steps] for name in transfer.systems}
    columns = {
        SYSTEMS[name].title: [of.by_score if of else Ranking() for of in found] for name, found in scores.items()
    }
    for name, found in scores.items():
        by_anomaly = [of.by_anomaly if of else Ranking() for of in found]
        if any(ranking.auroc is not None for ranking in by_anomaly):
            columns[f"{SYSTEMS[name].title}, by anomaly"] = by_anomaly
    lines = [
        [Entry(step.title), *_ranking_entries(rankings)]
        for step, *rankings in zip(transfer.steps, *columns.values(), strict=True)
    ]
    return Table(["Split", *columns], lines, _RANKING_CAPTION, small_below=True)


_RANKING_CAPTION = (
    "Area under the ROC curve of attacks against benign flows, by each system's attack score, whatever it decides, the "
    "highest of a line in bold; small: percent of the attacks that rank above all but one in a hundred of the benign "
    "flows. Where labels are left out in turn: the area of the left-out label's flows, mean over the labels. "
    "Anomaly is how unlike benign flows DeepIDEA finds them, the other column to rank by. Mean over seeds."
)


def _ranking_entries(rankings: Sequence[Ranking]) -> list[Entry]:
    best = max((ranking.auroc for ranking in rankings if ranking.auroc is not None), default=-1.0)
    return [Entry(_area(r), "" if r.recall is None else _percent(r.recall), r.auroc == best) for r in rankings]


def left_out_table(transfer: Transfer) -> Table | None:
    """Return the detection of each label that was left out of training; None where none was."""
    tasks = [task for step in transfer.steps for task in step.tasks if task.protocol.startswith(_LEAVE_OUT)]
    if not tasks:
        return None
    systems = [name for name in transfer.systems if any(task.row(name) for task in tasks)]
    lines = [_left_out_line(task, systems) for task in tasks]
    return Table(["Left out", "Flows", *(SYSTEMS[name].title for name in systems)], lines, _LEFT_OUT_CAPTION)


_LEFT_OUT_CAPTION = (
    "Attack labels that training does not show, one at a time: the share of the label's flows that was called any "
    "attack by the system's own decision, percent; behind it the area under the ROC curve of these flows against "
    "benign ones."
)


def _left_out_line(task: BenchmarkTask, systems: Sequence[str]) -> list[Entry]:
    labels = _left_out(task.sample)
    rows = sum(of["rows"] for of in labels.values())
    scores = [_left_out_scores(row) if (row := task.row(name)) else None for name in systems]
    entries = (
        Entry(_percent(of.recall), "" if of.by_score.auroc is None else _area(of.by_score)) if of else Entry(NONE)
        for of in scores
    )
    return [Entry(", ".join(labels)), Entry(f"{rows:,}"), *entries]


# --- in words ----------------------------------------------------------------------------------------------------


def describe_transfer(transfer: Transfer) -> str:
    """Return DeepIDEA's recall and false alarms at the first step and at the worst ones, in sentences."""
    found = [(step, of) for step in transfer.steps if (of := step.scores(OURS)) and of.recall is not None]
    if len(found) < 2:
        return "DeepIDEA was not measured under two protocols."
    (first, start), *rest = found
    low, worst = min(rest, key=lambda at: at[1].recall or 0.0)
    # The first line counts, too: false alarms may be most where splits are easiest.
    loud, loudest = max(found, key=lambda at: at[1].false_alarms or 0.0)
    area = f" (area under the ROC curve of its score: {_area(worst.by_score)})" if worst.by_score.auroc else ""
    return (
        f"DeepIDEA finds {_percent(start.recall)} % of attacks at {_percent(start.false_alarms)} % false alarms in the "
        f"first line ({first.title}). Its recall is lowest, {_percent(worst.recall)} %, for “{low.title}”{area}. "
        f"Its false alarms are most, {_percent(loudest.false_alarms)} %, for “{loud.title}”."
    )
