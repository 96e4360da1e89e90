"""The tables of a benchmark, made once: the page and Markdown documents show the same entries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from deepidea.benchmark.comparison import (
    OURS,
    RULES,
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
    rule_title,
)
from deepidea.benchmark.findings import cannot_decide, spell_p
from deepidea.benchmark.significance import MIN_SEEDS, PairedTest, can_decide, paired_test, pooled_test
from deepidea.benchmark.systems import SYSTEMS
from deepidea.benchmark.tau_sweep import MEASURES, Measure, TauSweep

_CLASS_TITLES = {"u2r": "U2R", "r2l": "R2L", "dos": "DoS", "ddos": "DDoS"}
NONE = "–"


@dataclass(frozen=True, slots=True)
class Entry:
    """One cell of a table: plain text, small print below or behind it, and whether it stands out."""

    text: str
    small: str = ""
    strong: bool = False

    def to_markdown(self) -> str:
        """Return the entry as Markdown."""
        text = escape_markdown(self.text)
        text = f"**{text}**" if self.strong else text
        return f"{text} ({escape_markdown(self.small)})" if self.small else text


def escape_markdown(text: str) -> str:
    r"""Return text that Markdown shows as it is, in a table too.

    Examples
    --------
    >>> print(escape_markdown("a|b <c> *d*"))
    a\|b &lt;c&gt; \*d\*
    """
    escaped = re.sub(r"([\\`*_\[\]|])", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@dataclass(frozen=True, slots=True)
class Table:
    """A table: the first entry of each line is its name. `small_below` puts small print below, else behind."""

    head: Sequence[str]
    lines: Sequence[Sequence[Entry]]
    caption: str = ""
    small_below: bool = False

    def to_markdown(self) -> str:
        """Return the table, with its caption below, as Markdown."""
        rule = ["---", *["---:"] * (len(self.head) - 1)]
        lines = [[escape_markdown(title) for title in self.head], *([e.to_markdown() for e in at] for at in self.lines)]
        head, *body = ("| " + " | ".join(line) + " |" for line in lines)
        table = "\n".join([head, "|" + "|".join(rule) + "|", *body])
        return table + (f"\n\n{escape_markdown(self.caption)}" if self.caption else "")


def class_title(name: str) -> str:
    """Return a class as tables spell it."""
    return _CLASS_TITLES.get(name, name.replace("_", " "))


def spell_seconds(seconds: float) -> str:
    """Return a time as text, with two figures or so.

    Examples
    --------
    >>> [spell_seconds(s) for s in (0.0123, 4.21, 75, 7300)]
    ['0.01 s', '4.2 s', '75 s', '122 min']
    """
    if seconds < 10:
        return f"{seconds:.{2 if seconds < 1 else 1}f} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def _system(row: Row) -> Entry:
    return Entry(row.title, strong=row.system == OURS)


def _in_percent(spread: Spread | None) -> Entry:
    return Entry(str(spread) if spread else NONE)


def _signed(difference: float) -> str:
    return f"{100 * difference:+.1f}".replace("-", "−")


# --- ranks -------------------------------------------------------------------------------------------------------


def rank_table(task: BenchmarkTask) -> Table:
    """Return the systems by class-balanced accuracy under their own decision, and under the two common ones."""
    places = {rule: {rank.row.system: rank for rank in rank_rows(task, rule)} for rule in RULES}
    head = ["System", *(f"CBA, {rule_title(rule)}" for rule in RULES), "CBA, unseen vectors", "False alarms"]
    head += ["PR-AUC", *(["CBA in the paper"] if task.published else []), "Training"]
    order = [rank.row for rank in places["own"].values()]
    absent = [row for row in task.rows if not row.records]
    lines = [[_system(row), *_placed(row, places), *_further(task, row)] for row in order]
    lines += [[_system(row), Entry("not measured"), *[Entry(NONE)] * (len(head) - 2)] for row in absent]
    return Table(head, lines, _RANK_CAPTION)


_RANK_CAPTION = (
    "Class-balanced accuracy (CBA) in percent, mean ± standard deviation over seeds; behind it the place under that "
    "decision. In bold the first. Unseen vectors, false alarms (benign flows called an attack) and PR-AUC are of the "
    "system's own decision; training on one thread."
)


def _placed(row: Row, places: dict[Rule, dict[str, Rank]]) -> Iterable[Entry]:
    for rule in RULES:
        rank = places[rule].get(row.system)
        yield Entry(str(rank.cba), f"#{rank.place}", rank.place == 1) if rank else Entry(NONE)


def _further(task: BenchmarkTask, row: Row) -> Iterable[Entry]:
    yield _in_percent(row.spread("own", lambda scores: scores.get("subsets", {}).get("unseen")))
    yield _in_percent(row.spread("own", lambda scores: scores.get("false_alarm_rate")))
    area = row.spread("own", lambda scores: scores.get("pr_auc"))
    yield Entry(f"{area.mean:.3f}" if area else NONE)
    if task.published:
        published = task.published_row(row)
        yield Entry(f"{published.cba:.1f}" if published else NONE)
    yield Entry(spell_seconds(row.training_s.mean) if row.training_s else NONE)


# --- class by class, as in the paper -----------------------------------------------------------------------------


def class_table(task: BenchmarkTask) -> Table:
    """Return precision and recall of each class as in the paper's tables, with the paper's numbers behind."""
    head = ["System", *(f"{class_title(name)} P / R" for name in task.classes), "CBA"]
    lines = [[_system(row), *_class_entries(task, row)] for row in task.measured if row.spread("own")]
    return Table(head, lines, _class_caption(task), small_below=True)


def _class_entries(task: BenchmarkTask, row: Row) -> Iterable[Entry]:
    published, table = task.published_row(row), task.published
    for name in task.classes:
        ours = " / ".join(_class_share(row, name, score) for score in ("precision", "recall"))
        theirs = published.precision_recall[table.classes.index(name)] if published and table else None
        yield Entry(ours, f"{theirs[0]:g} / {theirs[1]:g}" if theirs else "")
    stated = f"{published.cba:g}" + ("*" if published.contradicts_itself else "") if published else ""
    yield Entry(str(row.spread("own") or NONE), stated)


def _class_share(row: Row, name: str, score: str) -> str:
    share = row.spread("own", lambda scores: scores["per_class"].get(name, {}).get(score))
    return f"{100 * share.mean:.1f}" if share else NONE


def _class_caption(task: BenchmarkTask) -> str:
    caption = (
        "Precision / recall of each class and class-balanced accuracy in percent, mean over seeds, by each system's "
        "own decision. A dash is the precision of a class that was never named."
    )
    if task.published is None:
        return caption
    stars = "".join(
        f" * {name}: the recalls of the published row average {row.mean_recall:.1f}, not {row.cba:g}."
        for name, row in task.published.rows.items()
        if row.contradicts_itself
    )
    source = f"Small: table {task.published.number} of the paper, as published; other preparation of the data."
    return f"{caption} {source}{stars}"


# --- the same decision for all -----------------------------------------------------------------------------------


def rule_table(task: BenchmarkTask) -> Table:
    """Return which system is first under each decision, and DeepIDEA's place."""
    head = ["Decision", "First", "CBA of the first", "CBA of DeepIDEA", "Place", "Behind the first"]
    return Table(head, [line for rule in RULES if (line := _rule_line(task, rule))], _RULE_CAPTION)


_RULE_CAPTION = (
    "Most probable class: the largest probability wins. Corrected for the prior: each output's probability is divided "
    "by its share of the training flows first, which is what class-balanced accuracy asks for. A system without "
    "probabilities takes no part in the last. Differences in points."
)


def _rule_line(task: BenchmarkTask, rule: Rule) -> list[Entry] | None:
    ranks = rank_rows(task, rule)
    if not ranks:
        return None
    first, ours = ranks[0], our_rank(ranks)
    line = [Entry(rule_title(rule)), Entry(first.row.title), Entry(str(first.cba))]
    if ours is None:
        return [*line, *[Entry(NONE)] * 3]
    gap = 100 * (first.cba.mean - ours.cba.mean)
    place = f"{ours.place} of {len(ranks)}"
    return [*line, Entry(str(ours.cba)), Entry(place), Entry(f"{gap:.1f}" if gap else "0")]


def ahead_table(task: BenchmarkTask) -> Table | None:
    """Return every baseline above DeepIDEA where both decide by the same rule, and by how much.

    None where DeepIDEA was not measured.
    """
    ours, stack = task.row(OURS), task.row(STACK)
    if ours is None:
        return None
    head = ["Decision", "Baseline above DeepIDEA", "CBA", "Above DeepIDEA by", "t-test"]
    head += [f"Above {stack.title} by"] if stack else []
    lines = [line for rule in _COMMON_RULES for line in _ahead_lines(task, rule, ours, stack)]
    return Table(head, lines, _AHEAD_CAPTION)


STACK = "deepidea-forests"
_COMMON_RULES: tuple[Rule, ...] = ("plain", "corrected")
_AHEAD_CAPTION = (
    "Every baseline with a higher mean, best first; points of class-balanced accuracy. The p-value is of the paired "
    "t-test over the seeds that both have, two-sided, not adjusted. DeepIDEA with forests corrects before it averages, "
    "so it is the same under either rule."
)


def _ahead_lines(task: BenchmarkTask, rule: Rule, ours: Row, stack: Row | None) -> Iterable[list[Entry]]:
    ahead, own = baselines_ahead(task, rule), ours.spread(rule)
    if not ahead and own:
        yield [Entry(rule_title(rule)), Entry("none"), *[Entry(NONE)] * (4 if stack else 3)]
    for rank in ahead:
        line = [Entry(rule_title(rule)), Entry(rank.row.title), Entry(str(rank.cba)), _gap(rank, own)]
        line.append(_t_entry(paired_test(rank.row, ours, rule)))
        yield line + ([_gap(rank, stack.spread(rule))] if stack else [])


def _gap(rank: Rank, other: Spread | None) -> Entry:
    return Entry(_signed(rank.cba.mean - other.mean) if other else NONE)


# --- tests over seeds --------------------------------------------------------------------------------------------


def difference_table(task: BenchmarkTask) -> Table | None:
    """Return the difference of every row to the best baseline with its tests; None where there is no baseline."""
    best = best_baseline(task)
    if best is None:
        return None
    head = ["System", f"CBA less that of {best.row.title}", "Seeds", "t-test", "Sign-flip test", "Kind"]
    rows = [rank.row for rank in rank_rows(task, "own") if rank.row is not best.row]
    lines = [[_system(row), *_test_entries(paired_test(row, best.row))] for row in rows]
    return Table(head, lines, _TEST_CAPTION) if lines else None


_TEST_CAPTION = (
    "Difference in points of class-balanced accuracy, each under its own decision, over the seeds that both have; "
    "two-sided p-values, not adjusted for the number of rows. The t-test takes the differences between seeds as "
    "normally distributed, which so few cannot show. The sign-flip test (exact) does not, but its smallest p-value at "
    "n seeds is 2 to the power 1 − n, so it cannot decide at 5 % below six seeds. On an official split the test flows "
    "are the same for every seed: a small p-value says that other seeds would not reverse the order, not that other "
    "traffic would not."
)


def _test_entries(test: PairedTest | None) -> list[Entry]:
    if test is None:
        return [Entry("no common seed"), *[Entry(NONE)] * 4]
    entries = [Entry(_signed(test.difference)), Entry(str(test.n_seeds)), _t_entry(test)]
    return [*entries, _flip_entry(test.sign_flip_p, test.n_seeds), Entry(NONE if test.t_p is None else test.kind)]


def _t_entry(test: PairedTest | None) -> Entry:
    if test is not None and test.t_p is not None:
        return Entry(spell_p(test.t_p))
    # Enough seeds and no p-value: all differences are equal, so there is nothing to test.
    return Entry(cannot_decide(test.n_seeds) if test is not None and test.n_seeds < MIN_SEEDS else NONE)


def _flip_entry(p: float | None, n: int, unit: str = "seed") -> Entry:
    return Entry(spell_p(p) if p is not None else NONE if can_decide(n) else cannot_decide(n, unit))


def pooled_table(comparison: Comparison) -> Table | None:
    """Return DeepIDEA against each baseline over all data sets; None where no baseline shares two with it.

    One task a data set, the first that is split as in papers: other splits of the same flows are no further evidence.
    """
    # Folders are read in order, so the first split of a data set is that of the main benchmark.
    split = [task for task in comparison.tasks if task.is_split_as_in_papers]
    # Reversed, so that of several splits of a data set the first one wins.
    tasks = list({task.data.partition("@")[0]: task for task in reversed(split)}.values())
    names = dict.fromkeys(row.system for task in tasks for row in task.measured if row.is_baseline)
    lines = [line for name in names if (line := _pooled_line(tasks, name))]
    head = ["Baseline", "Data sets", "Pairs"]
    head += [f"{part}, {rule_title(rule)}" for rule in ("own", "plain") for part in ("Difference", "Sign-flip test")]
    return Table(head, lines, _POOLED_CAPTION) if lines else None


_POOLED_CAPTION = (
    "Class-balanced accuracy of DeepIDEA less the baseline's in points, mean over data sets of equal weight, and the "
    "exact sign-flip test over all pairs of seed and data set: two-sided, not adjusted, no assumption of normality. A "
    "small p-value says that other seeds would not reverse the mean over these data sets, not that others would agree."
)


def _pooled_line(tasks: Sequence[BenchmarkTask], name: str) -> list[Entry] | None:
    own, plain = (pooled_test(tasks, OURS, name, rule) for rule in ("own", "plain"))
    if own is None or plain is None:
        return None
    line = [Entry(SYSTEMS[name].title if name in SYSTEMS else name), Entry(str(own.n_data)), Entry(str(own.n_pairs))]
    for test in (own, plain):
        line += [Entry(_signed(test.difference)), _flip_entry(test.p, test.n_pairs, "pair")]
    return line


# --- strength of the prior correction ----------------------------------------------------------------------------


def tau_table(task: BenchmarkTask) -> Table | None:
    """Return the accuracy of systems on training folds at each tau; None where no sweep was measured."""
    if not task.taus:
        return None
    taus = sorted({tau for sweep in task.taus for tau in sweep.by_tau})
    lines = [_tau_line(sweep, measure, taus) for sweep in task.taus for measure in MEASURES]
    return Table(["System", "Tested on", *(f"tau {tau:g}" for tau in taus)], lines, _tau_caption(task))


def _tau_line(sweep: TauSweep, measure: Measure, taus: Sequence[float]) -> list[Entry]:
    best = sweep.best(measure)
    entries = (
        Entry(f"{sweep.mean(tau, measure):.1f}", strong=tau == best) if tau in sweep.by_tau else Entry(NONE)
        for tau in taus
    )
    return [Entry(sweep.title, strong=sweep.system == OURS), Entry(MEASURES[measure]), *entries]


def _tau_caption(task: BenchmarkTask) -> str:
    own = "; ".join(f"{s.title}: temperature {s.temperature:g}, tau {s.own_tau:g}" for s in task.taus)
    draws = max(len(of.mixed) for sweep in task.taus for of in sweep.by_tau.values())
    return (
        "Class-balanced accuracy in percent on training flows alone, in two folds that leave half of the attack types "
        f"of each class out; mean over {draws} draws of the types, the highest of a line in bold. One training a fold: "
        f"tau is only the decision. Each system at the temperature of its own decision ({own})."
    )


# --- labels that training lacks ----------------------------------------------------------------------------------


def new_label_table(task: BenchmarkTask, rows: Sequence[Row], most: int = 20) -> Table | None:
    """Return detection of the attack labels that training lacks; None where it has all of them."""
    labels: dict[str, dict[str, Any]] = task.sample.get("labels", {})
    counts: dict[str, int] = {label: of["rows"] for label, of in labels.items() if not of["in_training"]}
    if not counts or not rows:
        return None
    shown = sorted(counts, key=lambda label: -counts[label])[:most]
    head = ["Label", "Flows", *(row.title for row in rows)]
    lines = [
        [Entry(label), Entry(f"{counts[label]:,}"), *(_alarm_entry(row, label) for row in rows)] for label in shown
    ]
    left = f" {len(counts) - most} rarer ones are not shown." if len(counts) > most else ""
    return Table(head, lines, _NEW_LABEL_CAPTION + left)


_NEW_LABEL_CAPTION = (
    "Native labels that occur in the test and not in training (first seed): the share of their flows that was called "
    "any attack, behind it the share that was given the right class; percent."
)


def _alarm_entry(row: Row, label: str) -> Entry:
    of = row.records[0].get("labels", {}).get(label)
    if not of:
        return Entry(NONE)
    return Entry(f"{100 * of['alarms'] / of['rows']:.1f}", f"{100 * of['right'] / of['rows']:.1f}")


# --- cells without figures ---------------------------------------------------------------------------------------


def unmeasured_table(comparison: Comparison) -> Table | None:
    """Return what was cut, failed, is damaged or missing, with the reason; seeds of one reason share a line."""
    absent = "other systems have this seed; this one was not run with it"
    seeds: dict[tuple[str, str, str], list[int]] = {}
    for r in comparison.unmeasured:
        seeds.setdefault((f"{r['data']}, {r['protocol']}: {r['system']}", r["status"], r["reason"]), []).append(
            r["seed"]
        )
    for cell in comparison.missing:
        seeds.setdefault((f"{cell.data}, {cell.protocol}: {cell.system}", "missing", absent), []).append(cell.seed)
    lines = [
        [Entry(what), Entry(status), Entry(", ".join(map(str, sorted(which)))), Entry(reason)]
        for (what, status, reason), which in seeds.items()
    ]
    lines += [[Entry(name), Entry("damaged"), Entry(NONE), Entry(fault)] for name, fault in comparison.damaged.items()]
    return Table(["Cell", "Status", "Seeds", "Reason"], lines) if lines else None
