"""What a comparison shows, in sentences: for the command line, the report and the documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepidea.benchmark.comparison import (
    OURS,
    PAPER,
    REFERENCES,
    BenchmarkTask,
    Comparison,
    Rank,
    Row,
    Rule,
    Spread,
    baselines_ahead,
    best_baseline,
    our_rank,
    rank_rows,
)
from deepidea.benchmark.significance import ALPHA, MIN_SEEDS, PairedTest, paired_test


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """A task in plain text: a heading, the sentence that matters most, and those that qualify it."""

    heading: str
    lead: str
    more: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All sentences in a row."""
        return " ".join((self.lead, *self.more))


def summarise_tasks(comparison: Comparison) -> list[TaskSummary]:
    """Return, for each main task, where DeepIDEA ranks and how much of that is its decision."""
    return [summarise_task(task) for task in comparison.main_tasks]


def summarise_task(task: BenchmarkTask) -> TaskSummary:
    """Return the summary of a task."""
    lead, *more = _sentences(task)
    return TaskSummary(task.title, lead, tuple(more))


def _sentences(task: BenchmarkTask) -> Iterable[str]:
    row, best = task.row(OURS), best_baseline(task)
    cba = row.spread("own") if row else None
    if row is None or cba is None:
        yield "DeepIDEA was not measured here."
        if best:
            yield f"The best of {len(task.measured)} systems is {best.row.title} with {best.cba} %."
        return
    seeds = "1 seed" if cba.n_seeds == 1 else f"mean ± standard deviation of {cba.n_seeds} seeds"
    against = _against(row, cba, best) if best else "."
    yield f"DeepIDEA reaches {cba} % class-balanced accuracy ({seeds}){against}"
    yield from _under_rule(task, "plain", "Where every system names its most probable class")
    yield from _under_rule(task, "corrected", "Where every system gets the prior correction")
    yield from _references(task)


def _against(row: Row, cba: Spread, best: Rank) -> str:
    test = paired_test(row, best.row)
    if test is None:
        return f"; it shares no seed with the best baseline, {best.row.title}."
    gap = 100 * (cba.mean - best.cba.mean)  # of the means printed here; the test is over the seeds that both have
    where = "level with" if abs(gap) < 0.05 else f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}"
    known = f"the best baseline, each under its own decision: {best.row.title}, {best.cba} %"
    return f": {where} {known} ({certainty(test)})."


def certainty(test: PairedTest) -> str:
    """Return whether a difference is decided at 5 %, and by which test.

    Examples
    --------
    >>> certainty(PairedTest(0.02, 5, "paired", 0.012, None))
    'paired t-test over 5 seeds: p = 0.012'
    >>> certainty(PairedTest(0.02, 5, "paired", 0.3, None))
    'paired t-test over 5 seeds: p = 0.3, undecided at 5 %'
    >>> certainty(PairedTest(0.02, 1, "paired", None, None))
    '1 seed cannot decide at 5 %'
    """
    if test.t_p is None:
        return cannot_decide(test.n_seeds) if test.n_seeds < MIN_SEEDS else "the same for every seed"
    doubt = "" if test.decided else f", undecided at {ALPHA:.0%}".replace("%", " %")
    return f"{test.kind} t-test over {test.n_seeds} seeds: {spell_p(test.t_p)}{doubt}"


def cannot_decide(n: int, unit: str = "seed") -> str:
    """Return that so few seeds or pairs cannot decide.

    Examples
    --------
    >>> cannot_decide(5), cannot_decide(1)
    ('5 seeds cannot decide at 5 %', '1 seed cannot decide at 5 %')
    """
    return f"{n} {unit}{'' if n == 1 else 's'} cannot decide at 5 %"


def spell_p(value: float) -> str:
    """Return a p-value as text.

    Examples
    --------
    >>> spell_p(0.03217), spell_p(1e-9)
    ('p = 0.032', 'p < 0.0001')
    """
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def _under_rule(task: BenchmarkTask, rule: Rule, where: str) -> Iterable[str]:
    ranks = rank_rows(task, rule)
    ours = our_rank(ranks)
    if ours is None or len(ranks) < 2:
        return
    if ours.place > 1:
        first = ranks[0]
        gap = 100 * (first.cba.mean - ours.cba.mean)
        yield (
            f"{where}, DeepIDEA is {_ordinal(ours.place)} of {len(ranks)}, {gap:.1f} points below {first.row.title} "
            f"({ours.cba} % against {first.cba} %{_doubt(ours, first, rule)}){_among_baselines(task, ranks, rule)}."
        )
    else:
        second = next(rank for rank in ranks if rank.row.system != OURS)
        lead = 100 * (ours.cba.mean - second.cba.mean)
        yield (
            f"{where}, DeepIDEA is first of {len(ranks)} with {ours.cba} %, {lead:.1f} points above "
            f"{second.row.title}{_doubt(ours, second, rule)}."
        )


def _doubt(ours: Rank, other: Rank, rule: Rule) -> str:
    """Return why a difference is not decided; nothing where it is, or where seeds change nothing."""
    test = paired_test(ours.row, other.row, rule)
    if test is None or test.decided or (test.t_p is None and test.n_seeds >= MIN_SEEDS):
        return ""
    return f"; {cannot_decide(test.n_seeds) if test.t_p is None else f'{spell_p(test.t_p)}, undecided at 5 %'}"


def _among_baselines(task: BenchmarkTask, ranks: Sequence[Rank], rule: Rule) -> str:
    """Return how many baselines are ahead, where the first system is none."""
    ours, ahead = our_rank(ranks), baselines_ahead(task, rule)
    # Where a baseline is first, the sentence before has said so.
    if ranks[0].row.is_baseline or ours is None:
        return ""
    if not ahead:
        return "; no baseline is above it"
    gap = 100 * (ahead[0].cba.mean - ours.cba.mean)
    many = "1 baseline is" if len(ahead) == 1 else f"{len(ahead)} baselines are"
    return f"; {many} above it, {ahead[0].row.title} by {gap:.1f} points"


def _ordinal(place: int) -> str:
    """Return a place as text.

    Examples
    --------
    >>> [_ordinal(place) for place in (1, 2, 3, 4, 11, 12, 21)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '21st']
    """
    ending = {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th") if place % 100 not in (11, 12, 13) else "th"
    return f"{place}{ending}"


def _references(task: BenchmarkTask) -> Iterable[str]:
    """Yield the scores of the references without a model, and of the published row."""
    for name, what in zip(
        REFERENCES, ("Always naming the majority class", "One comparison on one feature"), strict=True
    ):
        row = task.row(name)
        if row and (cba := row.spread("own")):
            yield f"{what} gives {cba} %."
    paper = task.row(PAPER)
    if task.published:
        ours = paper.spread("own") if paper else None
        measured = f"; the paper's recipe gives {ours} % here" if ours else ""
        yield f"The paper states {task.published.rows['DeepIDEA'].cba:.1f} %{measured}."
