"""What the records of a benchmark say when they are laid side by side: means, standings, tests, and it in words.

A *contest* is one data set dealt by one protocol. Its rows are systems, each with a record for each seed. Three rules
turn the same probabilities into verdicts (:data:`~deepidea.benchmark.cell.DECISIONS`); a system that wins by
its own rule may owe that to the rule, so standings are told under each.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from deepidea.benchmark.cell import DECISIONS, Cell, Record
from deepidea.benchmark.published import PublishedRow, PublishedTable, published_table
from deepidea.benchmark.runner import iter_missing, read_records
from deepidea.benchmark.systems import SYSTEMS
from deepidea.benchmark.tau_sweep import TauSweep, read_sweeps
from deepidea.errors import MissingExtraError
from deepidea.flows.datasets.specs import DATASET_SPECS

OURS = "deepidea"
PAPER = "deepidea-paper"
REFERENCES = ("majority", "one-rule")
FEWEST_SEEDS = 5
_BASELINE_GROUPS = ("paper", "reference", "trees", "losses")
_SWEPT = ("attack_weight", "tau")
_SURE = 0.05
_AS_PAPERS_DEAL = ("official", "stratified")

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


@dataclass(frozen=True, slots=True)
class Row:
    """A system in a contest, with its measured records in the order of their seeds; a reference may have none."""

    system: str
    records: tuple[Record, ...]

    @property
    def title(self) -> str:
        """How tables call it: with its changed parameters, where there are some."""
        row, _, changes = self.system.partition(":")
        title = SYSTEMS[row].title if row in SYSTEMS else str(self.records[0]["title"] if self.records else row)
        return f"{title} ({changes.replace(',', ', ')})" if changes else title

    @property
    def group(self) -> str:
        """Its group in the registry."""
        row = self.system.partition(":")[0]
        return SYSTEMS[row].group if row in SYSTEMS else str(self.records[0]["group"] if self.records else "")

    @property
    def is_baseline(self) -> bool:
        """Whether it is something that DeepIDEA has to beat: neither DeepIDEA nor one of its offspring."""
        return self.group in _BASELINE_GROUPS and self.system.partition(":")[0] != PAPER

    def by_seed(self, rule: Rule, value: Callable[[Record], Any] = lambda scores: scores["cba"]) -> dict[int, float]:
        """Return a score under a rule, seed by seed, where there is one."""
        told = {r["seed"]: value(r["decisions"][rule]) for r in self.records if rule in r["decisions"]}
        return {seed: float(score) for seed, score in told.items() if score is not None}

    def spread(self, rule: Rule, value: Callable[[Record], Any] = lambda scores: scores["cba"]) -> Spread | None:
        """Return a score's spread over seeds."""
        return Spread.of(list(self.by_seed(rule, value).values()))

    def spread_of_records(self, value: Callable[[Record], Any]) -> Spread | None:
        """Return the spread of what a record tells beside its decisions, such as a time."""
        return Spread.of([float(told) for record in self.records if (told := value(record)) is not None])

    @property
    def swept(self) -> tuple[str, float] | None:
        """The one parameter that was changed to draw a curve over it, and its value."""
        name, equals, value = self.system.partition(":")[2].partition("=")
        try:
            return (name, float(value)) if equals and name in _SWEPT else None
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Contest:
    """A data set dealt by a protocol: the systems that were measured on it.

    Attributes
    ----------
    rows : tuple of Row
        For the tables, in the registry's order; the two references are always among them.
    sweeps : tuple of Row
        Systems with one changed parameter, for the curves.
    taus : tuple of TauSweep
        What systems come to on training folds with each strength of the prior correction.
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
        """A record, for what all of them tell alike."""
        return next(row.records[0] for row in (*self.rows, *self.sweeps) if row.records)

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the paper's table, else as a system has them, benign first."""
        return list(self.published.classes) if self.published else self._classes

    @property
    def _classes(self) -> list[str]:
        return [str(name) for name in self.sample["classes"]]

    @property
    def title(self) -> str:
        """Return the data set and the way it was dealt."""
        return f"{data_title(self.data)}, {_spell_dealing(self.dealing)}"

    @property
    def dealing(self) -> str:
        """Return the protocol, with what "auto" stood for."""
        split = self.sample["told"].get("split")
        kind = split.get("kind") if isinstance(split, Mapping) else None
        return str(kind) if self.protocol == "auto" and kind else self.protocol

    @property
    def published(self) -> PublishedTable | None:
        """The paper's table on it, where its classes are these."""
        table = published_table(self.data, self.protocol)
        return table if table and set(table.classes) == set(self._classes) else None

    def confusion(self, row: Row) -> list[list[int]]:
        """Return a row's counts by its own decision, truth by verdict in the order of the classes, all seeds added up.

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


def _spell_dealing(dealing: str) -> str:
    return f"{dealing} split" if dealing in ("official", "stratified") else f"dealt {dealing}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """All contests of a folder of records, and what has no figures: cut or failed, damaged, not there."""

    contests: tuple[Contest, ...]
    unmeasured: tuple[Record, ...]
    damaged: Mapping[str, str]
    missing: tuple[Cell, ...]
    runs: tuple[Mapping[str, Any], ...]


def read_comparison(*folders: Path) -> Comparison:
    """Read folders of records, and the sweeps over tau that stand beside them.

    A cell that several folders hold counts once, as the first of them has it.

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
            records.setdefault(Cell(record["data"], record["protocol"], record["system"], record["seed"]), record)
    return compare(list(records.values()), damaged, taus)


def compare(
    records: Sequence[Record], damaged: Mapping[str, str] | None = None, taus: Sequence[TauSweep] = ()
) -> Comparison:
    """Lay records side by side.

    Examples
    --------
    >>> compare([]).contests
    ()
    """
    measured = [record for record in records if record["status"] == "measured"]
    contests = dict.fromkeys((record["data"], record["protocol"]) for record in measured)
    return Comparison(
        tuple(_with_taus(_contest(data, protocol, measured), taus) for data, protocol in contests),
        tuple(record for record in records if record["status"] != "measured"),
        damaged or {},
        tuple(iter_missing(records)),
        tuple({repr(run): run for record in records if (run := record.get("run"))}.values()),
    )


def _contest(data: str, protocol: str, measured: Iterable[Record]) -> Contest:
    systems: dict[str, list[Record]] = {name: [] for name in REFERENCES}
    for record in measured:
        if (record["data"], record["protocol"]) == (data, protocol):
            systems.setdefault(record["system"], []).append(record)
    rows = [Row(name, tuple(sorted(of, key=lambda r: r["seed"]))) for name, of in systems.items()]
    return Contest(data, protocol, tuple(r for r in rows if not r.swept), tuple(r for r in rows if r.swept))


def _with_taus(contest: Contest, taus: Sequence[TauSweep]) -> Contest:
    """Give a contest the sweeps of its data set, where it is dealt as the flows of the sweeps are."""
    ours = contest.dealing in _AS_PAPERS_DEAL
    return replace(contest, taus=tuple(sweep for sweep in taus if ours and sweep.data == contest.data))


# --- standings ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """A row's place by mean class-balanced accuracy under a rule; equal means share the better place."""

    place: int
    row: Row
    cba: Spread


def standings(contest: Contest, rule: Rule) -> list[Standing]:
    """Return the rows that a rule applies to, best first."""
    scored = [(row, cba) for row in contest.measured if (cba := row.spread(rule))]
    means = sorted((cba.mean for _, cba in scored), reverse=True)
    placed = (Standing(means.index(cba.mean) + 1, row, cba) for row, cba in scored)
    return sorted(placed, key=lambda standing: standing.place)


def best_baseline(contest: Contest, rule: Rule = "own") -> Standing | None:
    """Return the best row that is neither DeepIDEA nor one of its offspring."""
    return next((standing for standing in standings(contest, rule) if standing.row.is_baseline), None)


# --- tests over seeds --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A row against another over the seeds that both have.

    Attributes
    ----------
    difference : float
        Mean of the row's class-balanced accuracy less the other's.
    n_seeds : int
    kind : {"paired", "one-sample"}
        One-sample where one of the two is the same for every seed.
    t_p, wilcoxon_p : float or None
        Two-sided; None below five seeds, or where the difference is the same for every seed.
    """

    difference: float
    n_seeds: int
    kind: Literal["paired", "one-sample"]
    t_p: float | None
    wilcoxon_p: float | None


def paired_test(row: Row, other: Row, rule: Rule = "own") -> PairedTest | None:
    """Test a row against another; None where they share no seed.

    A row that several seeds left the same stands for all seeds. One run alone does not: another seed may change it.

    Raises
    ------
    MissingExtraError
        scipy is not installed.
    """
    ours, theirs = row.by_seed(rule), other.by_seed(rule)
    constant = _is_constant(ours), _is_constant(theirs)
    seeds = sorted(set(theirs if constant[0] else ours) if any(constant) else set(ours) & set(theirs))
    if not seeds:
        return None
    pairs = [(_at(ours, seed, constant[0]), _at(theirs, seed, constant[1])) for seed in seeds]
    differences = [a - b for a, b in pairs]
    t_p, wilcoxon_p = _p_values(differences)
    return PairedTest(
        math.fsum(differences) / len(seeds), len(seeds), "one-sample" if any(constant) else "paired", t_p, wilcoxon_p
    )


def _is_constant(values: Mapping[int, float]) -> bool:
    return len(values) > 1 and len(set(values.values())) == 1


def _at(values: Mapping[int, float], seed: int, constant: bool) -> float:
    return next(iter(values.values())) if constant else values[seed]


def _p_values(differences: Sequence[float]) -> tuple[float | None, float | None]:
    if len(differences) < FEWEST_SEEDS or max(differences) - min(differences) < 1e-12:
        return None, None
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtraError(
            "a test over seeds needs scipy, however: it is not installed; run: pip install 'deepidea[train]'"
        ) from error
    return float(stats.ttest_1samp(differences, 0.0).pvalue), float(stats.wilcoxon(differences).pvalue)


# --- in words ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What a contest says, in plain text: a heading, the sentence that matters most, and those that qualify it."""

    heading: str
    lead: str
    more: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All sentences in a row."""
        return " ".join((self.lead, *self.more))


def told_in_full(comparison: Comparison) -> list[Contest]:
    """Return the contests that a report tells in words and plots.

    Of a data set that several protocols deal these are the ones dealt as papers deal it, where there are some: the
    others are lines of one table, `deepidea.benchmark.transfer`.
    """
    as_papers = {contest.data for contest in comparison.contests if contest.dealing in _AS_PAPERS_DEAL}
    return [c for c in comparison.contests if c.data not in as_papers or c.dealing in _AS_PAPERS_DEAL]


def answers(comparison: Comparison) -> list[Answer]:
    """Say in plain text, of each contest told in full, where DeepIDEA stands and what that owes to its decision."""
    return [_answer(contest) for contest in told_in_full(comparison)]


def _answer(contest: Contest) -> Answer:
    lead, *more = _sentences(contest)
    return Answer(contest.title, lead, tuple(more))


def _sentences(contest: Contest) -> Iterable[str]:
    row, best = contest.row(OURS), best_baseline(contest)
    cba = row.spread("own") if row else None
    if row is None or cba is None:
        yield "DeepIDEA was not measured here."
        if best:
            yield f"The best of {len(contest.measured)} systems is {best.row.title} with {points(best.cba)} %."
        return
    yield f"DeepIDEA reaches {points(cba)} % class-balanced accuracy ({_seeds(cba.n_seeds)})" + (
        f"{_against(row, cba, best)}" if best else "."
    )
    for rule in ("plain", "corrected"):
        yield from _under_rule(contest, rule)
    yield from _beside(contest)


def points(spread: Spread) -> str:
    """Spell a spread in percent: ``56.4 ± 0.5``, without a deviation where there is one seed.

    Examples
    --------
    >>> points(Spread(0.5641, 0.0049, 5)), points(Spread(0.2, 0.0, 1))
    ('56.4 ± 0.5', '20.0')
    """
    return f"{100 * spread.mean:.1f}" + (f" ± {100 * spread.sd:.1f}" if spread.n_seeds > 1 else "")


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"mean ± standard deviation of {count} seeds"


def _against(row: Row, cba: Spread, best: Standing) -> str:
    test = paired_test(row, best.row)
    if test is None:
        return f"; it shares no seed with the best baseline, {best.row.title}."
    gap = 100 * (cba.mean - best.cba.mean)  # of the means told here; the test is over the seeds that both have
    where = "level with" if abs(gap) < 0.05 else f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}"
    known = f"the best baseline, each under its own decision: {best.row.title}, {points(best.cba)} %"
    return f": {where} {known}{_sureness(test)}."


def _sureness(test: PairedTest) -> str:
    if test.t_p is None:
        return "; too few seeds to test" if test.n_seeds < FEWEST_SEEDS else "; the same for every seed"
    doubt = "" if test.t_p < _SURE else ", so seeds alone may explain it"
    return f" ({test.kind} t-test over {test.n_seeds} seeds, {spell_p(test.t_p)}{doubt})"


def spell_p(value: float) -> str:
    """Spell a p-value.

    Examples
    --------
    >>> spell_p(0.03217), spell_p(1e-9)
    ('p = 0.032', 'p < 0.0001')
    """
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def _under_rule(contest: Contest, rule: Rule) -> Iterable[str]:
    placed = standings(contest, rule)
    ours = next((standing for standing in placed if standing.row.system == OURS), None)
    if ours is None or len(placed) < 2:
        return
    told = {"plain": "Where every system names its most probable class", "corrected": "Where the prior correction is "
            "given to every system"}[rule]  # fmt: skip
    if ours.place > 1:
        gap = 100 * (placed[0].cba.mean - ours.cba.mean)
        among = _among_baselines(placed, baselines_ahead(contest, rule))
        yield (
            f"{told}, DeepIDEA is {_ordinal(ours.place)} of {len(placed)}, {gap:.1f} points below "
            f"{placed[0].row.title} ({points(ours.cba)} % against {points(placed[0].cba)} %){among}."
        )
    else:
        second = next(standing for standing in placed if standing.row.system != OURS)
        lead = 100 * (ours.cba.mean - second.cba.mean)
        yield (
            f"{told}, DeepIDEA is first of {len(placed)} with {points(ours.cba)} %, {lead:.1f} points above "
            f"{second.row.title}."
        )


def _among_baselines(placed: Sequence[Standing], ahead: Sequence[Standing]) -> str:
    """Tell how DeepIDEA stands to the baselines alone, where the first is none."""
    if placed[0].row.is_baseline:
        return ""
    ours = next(standing for standing in placed if standing.row.system == OURS)
    if not ahead:
        return "; no baseline is above it"
    gap = 100 * (ahead[0].cba.mean - ours.cba.mean)
    many = "1 baseline is" if len(ahead) == 1 else f"{len(ahead)} baselines are"
    return f"; {many} above it, {ahead[0].row.title} by {gap:.1f} points"


def baselines_ahead(contest: Contest, rule: Rule) -> list[Standing]:
    """Return the baselines whose mean is above DeepIDEA's under a rule, best first; none where it was not measured."""
    placed = standings(contest, rule)
    ours = next((standing for standing in placed if standing.row.system == OURS), None)
    return [s for s in placed if ours and s.row.is_baseline and s.cba.mean > ours.cba.mean]


def _ordinal(place: int) -> str:
    """Spell a place.

    Examples
    --------
    >>> [_ordinal(place) for place in (1, 2, 3, 4, 11, 12, 21)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '21st']
    """
    ending = {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th") if place % 100 not in (11, 12, 13) else "th"
    return f"{place}{ending}"


def _beside(contest: Contest) -> Iterable[str]:
    """Yield what puts a figure in proportion: the references without a model, and the published row."""
    for name in REFERENCES:
        row = contest.row(name)
        cba = row.spread("own") if row else None
        if row and cba:
            what = "Always naming the majority class" if name == "majority" else "One comparison on one feature"
            yield f"{what} gives {points(cba)} %."
    paper = contest.row(PAPER)
    if contest.published:
        ours = paper.spread("own") if paper else None
        measured = f"; the paper's recipe gives {points(ours)} % here" if ours else ""
        yield f"The paper states {contest.published.rows['DeepIDEA'].cba:.1f} %{measured}."


def rule_title(rule: str) -> str:
    """Return what a decision is called in tables."""
    return DECISIONS[rule]
