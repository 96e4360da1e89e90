"""The records of a benchmark side by side: means over seeds, and ranks under each decision.

A *task* is one data set split in one way. Its rows are systems, each with a record for each seed. Three decisions turn
the same probabilities into verdicts (:data:`~deepidea.benchmark.cell.DECISIONS`); a system that leads by its own
decision may owe that to the decision, so systems are ranked under each.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from deepidea.benchmark.cell import DECISIONS, Cell, Record
from deepidea.benchmark.published import PublishedRow, PublishedTable, published_table
from deepidea.benchmark.runner import iter_missing, read_records
from deepidea.benchmark.systems import SYSTEMS
from deepidea.benchmark.tau_sweep import TauSweep, read_sweeps
from deepidea.flows.datasets.specs import DATASET_SPECS

OURS = "deepidea"
PAPER = "deepidea-paper"
REFERENCES = ("majority", "one-rule")
_BASELINE_GROUPS = ("paper", "reference", "trees", "losses")
_SWEPT = ("attack_weight", "tau")
_SPLIT_AS_IN_PAPERS = ("official", "stratified")

Rule = Literal["own", "plain", "corrected"]
RULES: tuple[Rule, ...] = ("own", "plain", "corrected")


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation over seeds; the deviation is 0 for a single seed."""

    mean: float
    sd: float
    n_seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return the spread of values, None where there are none.

        Examples
        --------
        >>> Spread.of([0.5, 0.7, 0.6]).mean, round(Spread.of([0.5, 0.7]).sd, 3), Spread.of([])
        (0.6, 0.141, None)
        """
        if not values:
            return None
        return cls(math.fsum(values) / len(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))

    def __str__(self) -> str:
        """Return it in percent: ``56.4 ± 0.5``, without a deviation where there is one seed."""
        return f"{100 * self.mean:.1f}" + (f" ± {100 * self.sd:.1f}" if self.n_seeds > 1 else "")


def _cba(scores: Record) -> Any:
    return scores["cba"]


@dataclass(frozen=True, slots=True)
class Row:
    """A system in a task, with its measured records in the order of their seeds; a reference may have none."""

    system: str
    records: tuple[Record, ...]

    @property
    def title(self) -> str:
        """Its title in tables: with its changed parameters, where there are some."""
        row, _, changes = self.system.partition(":")
        return self._registered("title", row) + (f" ({changes.replace(',', ', ')})" if changes else "")

    @property
    def group(self) -> str:
        """Its group in the registry."""
        return self._registered("group", "")

    def _registered(self, field: str, default: str) -> str:
        """Return a field of its registry entry; a system that is registered no more has it in its records."""
        row = self.system.partition(":")[0]
        if row in SYSTEMS:
            return str(getattr(SYSTEMS[row], field))
        return str(self.records[0][field]) if self.records else default

    @property
    def is_baseline(self) -> bool:
        """Whether DeepIDEA is compared with it: neither DeepIDEA nor built on it."""
        return self.group in _BASELINE_GROUPS and self.system.partition(":")[0] != PAPER

    def by_seed(self, rule: Rule, value: Callable[[Record], Any] = _cba) -> dict[int, float]:
        """Return a score under a decision, seed by seed, where there is one."""
        # A margin has no probabilities, so a record may lack the corrected decision.
        found = {r["seed"]: value(r["decisions"][rule]) for r in self.records if rule in r["decisions"]}
        return {seed: float(score) for seed, score in found.items() if score is not None}

    def spread(self, rule: Rule, value: Callable[[Record], Any] = _cba) -> Spread | None:
        """Return a score's spread over seeds."""
        return Spread.of(list(self.by_seed(rule, value).values()))

    @property
    def training_s(self) -> Spread | None:
        """Seconds of training."""
        seconds = (record["times"].get("fit_s") for record in self.records)
        return Spread.of([float(value) for value in seconds if value is not None])

    @property
    def swept(self) -> tuple[str, float] | None:
        """The one parameter that was changed to draw a curve over it, and its value."""
        name, equals, value = self.system.partition(":")[2].partition("=")
        try:
            return (name, float(value)) if equals and name in _SWEPT else None
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class BenchmarkTask:
    """A data set split by a protocol, with the systems that were measured on it.

    Attributes
    ----------
    rows : tuple of Row
        For the tables, in the registry's order; the two references are always among them.
    sweeps : tuple of Row
        Systems with one changed parameter, for the curves.
    taus : tuple of TauSweep
        Accuracy on training folds at each strength of the prior correction.
    """

    data: str
    protocol: str
    rows: tuple[Row, ...]
    sweeps: tuple[Row, ...]
    taus: tuple[TauSweep, ...] = ()

    @property
    def measured(self) -> list[Row]:
        """Rows that have a record."""
        return [row for row in self.rows if row.records]

    @property
    def sample(self) -> Record:
        """A record, for what all of them have in common."""
        return next(row.records[0] for row in (*self.rows, *self.sweeps) if row.records)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a record keeps of the flows: source, taxonomy, files, split, rows by class."""
        facts: Mapping[str, Any] = self.sample["experiment"]
        return facts

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the paper's table, else as a system has them, benign first."""
        return list(self.published.classes) if self.published else self._classes

    @property
    def _classes(self) -> list[str]:
        return [str(name) for name in self.sample["classes"]]

    @property
    def title(self) -> str:
        """The data set and its split."""
        name = self.split_name
        split = f"{name} split" if name in _SPLIT_AS_IN_PAPERS else f"protocol {name}"
        return f"{data_title(self.data)}, {split}"

    @property
    def split_name(self) -> str:
        """The protocol; for "auto" the split that it stood for."""
        split = self.facts.get("split")
        kind = split.get("kind") if isinstance(split, Mapping) else None
        return str(kind) if self.protocol == "auto" and kind else self.protocol

    @property
    def is_split_as_in_papers(self) -> bool:
        """Whether the publisher's split or a random one was taken."""
        return self.split_name in _SPLIT_AS_IN_PAPERS

    @property
    def published(self) -> PublishedTable | None:
        """The paper's table on it, where its classes are these."""
        table = published_table(self.data, self.protocol)
        return table if table and set(table.classes) == set(self._classes) else None

    def confusion(self, row: Row) -> list[list[int]]:
        """Return a row's counts by its own decision, truth by verdict in the order of the classes, summed over seeds.

        Systems have orders of their own, so counts are found by name.
        """
        tables = [_named_counts(record["decisions"]["own"]["confusion"]) for record in row.records]
        return [[sum(t.get((truth, named), 0) for t in tables) for named in self.classes] for truth in self.classes]

    def row(self, system: str) -> Row | None:
        """Return a measured row by name."""
        return next((row for row in self.measured if row.system == system), None)

    def published_row(self, row: Row) -> PublishedRow | None:
        """Return the paper's row of a system."""
        info = SYSTEMS.get(row.system)
        return self.published.rows.get(info.paper_row) if self.published and info and info.paper_row else None


def _named_counts(confusion: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    names, lines = confusion["classes"], confusion["counts"]
    return {
        (truth, named): count
        for truth, counts in zip(names, lines, strict=True)
        for named, count in zip(names, counts, strict=True)
    }


def data_title(data: str) -> str:
    """Return a data set's title, with its taxonomy where one was named.

    Examples
    --------
    >>> data_title("kdd99@native")
    'KDD Cup 1999, taxonomy native'
    """
    name, _, taxonomy = data.partition("@")
    title = DATASET_SPECS[name].title if name in DATASET_SPECS else name
    return title + (f", taxonomy {taxonomy}" if taxonomy else "")


def rule_title(rule: str) -> str:
    """Return the name of a decision in tables."""
    return DECISIONS[rule]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All tasks of a folder of records, and the cells without figures: cut or failed, damaged, missing."""

    tasks: tuple[BenchmarkTask, ...]
    unmeasured: tuple[Record, ...] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[Cell, ...] = ()
    runs: tuple[Mapping[str, Any], ...] = ()

    @property
    def main_tasks(self) -> list[BenchmarkTask]:
        """Tasks that a report shows in full, with words and plots.

        Of a data set with several protocols these are the ones split as in papers, where there are some: the others
        are lines of one table, `deepidea.benchmark.transfer`.
        """
        as_papers = {task.data for task in self.tasks if task.is_split_as_in_papers}
        return [task for task in self.tasks if task.data not in as_papers or task.is_split_as_in_papers]


def read_comparison(*folders: Path) -> Comparison:
    """Read folders of records, and the sweeps over tau beside them.

    A cell that several folders hold counts once, with its record in the first of them.

    Raises
    ------
    DataError
        A folder holds no record.
    """
    records: dict[Cell, Record] = {}
    damaged: dict[str, str] = {}
    taus: list[TauSweep] = []
    for folder in folders:
        found, faults = read_records(folder)
        sweeps, of_sweeps = read_sweeps(folder)
        damaged |= faults | of_sweeps
        taus += sweeps
        for record in found:
            records.setdefault(Cell.of(record), record)
    return compare(list(records.values()), damaged, taus)


def compare(
    records: Sequence[Record], damaged: Mapping[str, str] | None = None, taus: Sequence[TauSweep] = ()
) -> Comparison:
    """Return the comparison of records.

    Examples
    --------
    >>> compare([]).tasks
    ()
    """
    measured = [record for record in records if record["status"] == "measured"]
    names = dict.fromkeys((record["data"], record["protocol"]) for record in measured)
    return Comparison(
        tuple(_task(data, protocol, measured, taus) for data, protocol in names),
        tuple(record for record in records if record["status"] != "measured"),
        damaged or {},
        tuple(iter_missing(records)),
        tuple({repr(run): run for record in records if (run := record.get("run"))}.values()),
    )


def _task(data: str, protocol: str, measured: Iterable[Record], taus: Sequence[TauSweep]) -> BenchmarkTask:
    # the references come first, as rows without records where they were not measured
    systems: dict[str, list[Record]] = {name: [] for name in REFERENCES}
    for record in measured:
        if (record["data"], record["protocol"]) == (data, protocol):
            systems.setdefault(record["system"], []).append(record)
    rows = [Row(name, tuple(sorted(of, key=lambda r: r["seed"]))) for name, of in systems.items()]
    task = BenchmarkTask(data, protocol, tuple(r for r in rows if not r.swept), tuple(r for r in rows if r.swept))
    own_taus = tuple(sweep for sweep in taus if task.is_split_as_in_papers and sweep.data == data)
    return replace(task, taus=own_taus)


# --- ranks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rank:
    """A row's place by mean class-balanced accuracy under a decision; equal means share the better place."""

    place: int
    row: Row
    cba: Spread


def rank_rows(task: BenchmarkTask, rule: Rule) -> list[Rank]:
    """Return the rows that a decision applies to, best first."""
    scored = [(row, cba) for row in task.measured if (cba := row.spread(rule))]
    # the first place of an equal mean, so that ties share the better one
    means = sorted((cba.mean for _, cba in scored), reverse=True)
    return sorted((Rank(means.index(cba.mean) + 1, row, cba) for row, cba in scored), key=lambda rank: rank.place)


def our_rank(ranks: Iterable[Rank]) -> Rank | None:
    """Return DeepIDEA's rank, None where it was not measured."""
    return next((rank for rank in ranks if rank.row.system == OURS), None)


def best_baseline(task: BenchmarkTask, rule: Rule = "own") -> Rank | None:
    """Return the best baseline."""
    return next((rank for rank in rank_rows(task, rule) if rank.row.is_baseline), None)


def baselines_ahead(task: BenchmarkTask, rule: Rule) -> list[Rank]:
    """Return the baselines whose mean is above DeepIDEA's, best first; none where it was not measured."""
    ranks = rank_rows(task, rule)
    ours = our_rank(ranks)
    return [rank for rank in ranks if ours and rank.row.is_baseline and rank.cba.mean > ours.cba.mean]
