"""The tables of a benchmark, made once and written twice: as HTML for the page, as Markdown for documents."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from deepidea.benchmark.comparison import (
    OURS,
    RULES,
    Comparison,
    Contest,
    PairedTest,
    Row,
    Rule,
    Spread,
    Standing,
    baselines_ahead,
    best_baseline,
    paired_test,
    points,
    rule_title,
    spell_p,
    standings,
)
from deepidea.benchmark.tau_sweep import MEASURES, Measure, TauSweep
from deepidea.evaluation import page

_CLASS_TITLES = {"u2r": "U2R", "r2l": "R2L", "dos": "DoS", "ddos": "DDoS"}
NONE = "–"


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands in one place of a table: plain text, something small below or behind it, and whether it leads."""

    text: str
    small: str = ""
    strong: bool = False

    def to_html(self) -> str:
        """Return the entry as HTML."""
        text = html.escape(self.text)
        text = f"<strong>{text}</strong>" if self.strong else text
        return f"{text}<small>{html.escape(self.small)}</small>" if self.small else text

    def to_markdown(self) -> str:
        """Return the entry as Markdown; what would be mark-up is not."""
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
    """A table: the first entry of each line is its name; numbers stand to the right."""

    head: Sequence[str]
    lines: Sequence[Sequence[Entry]]
    caption: str = ""
    small_below: bool = False

    def to_html(self) -> str:
        """Return the table, with its caption above, as HTML."""
        caption = f"<p class=note>{html.escape(self.caption)}</p>" if self.caption else ""
        head = [html.escape(title) for title in self.head]
        kind = "figures" if self.small_below else "figures inline"
        return caption + page.table(head, ([entry.to_html() for entry in line] for line in self.lines), kind)

    def to_markdown(self) -> str:
        """Return the table, with its caption below, as Markdown."""
        rule = ["---", *["---:"] * (len(self.head) - 1)]
        lines = [[escape_markdown(title) for title in self.head], *([e.to_markdown() for e in at] for at in self.lines)]
        head, *body = ("| " + " | ".join(line) + " |" for line in lines)
        table = "\n".join([head, "|" + "|".join(rule) + "|", *body])
        return table + (f"\n\n{escape_markdown(self.caption)}" if self.caption else "")


def class_title(name: str) -> str:
    """Return a class as tables call it."""
    return _CLASS_TITLES.get(name, name.replace("_", " "))


# --- who stands where --------------------------------------------------------------------------------------------


def standing_table(contest: Contest) -> Table:
    """Return the systems by class-balanced accuracy under their own decision, and under the two common ones."""
    places = {rule: {s.row.system: s for s in standings(contest, rule)} for rule in RULES}
    head = ["System", *(f"CBA, {rule_title(rule)}" for rule in RULES), "CBA, unseen vectors", "False alarms"]
    head += ["PR-AUC", *(["CBA in the paper"] if contest.published else []), "Training"]
    order = [standing.row for standing in places["own"].values()]
    absent = [row for row in contest.rows if not row.records]
    lines = [[_named(row), *_placed(row, places), *_further(contest, row)] for row in order]
    lines += [[_named(row), Entry("not measured"), *[Entry(NONE)] * (len(head) - 2)] for row in absent]
    return Table(head, lines, _STANDING_CAPTION)


_STANDING_CAPTION = (
    "Class-balanced accuracy (CBA) in percent, mean ± standard deviation over seeds; behind it the place under that "
    "rule. In bold the first. Unseen vectors, false alarms (benign flows called an attack) and PR-AUC are of the "
    "system's own decision; training on one thread."
)


def _named(row: Row) -> Entry:
    return Entry(row.title, strong=row.system == OURS)


def _placed(row: Row, places: dict[Rule, dict[str, Any]]) -> Iterable[Entry]:
    for rule in RULES:
        standing = places[rule].get(row.system)
        yield Entry(points(standing.cba), f"#{standing.place}", standing.place == 1) if standing else Entry(NONE)


def _further(contest: Contest, row: Row) -> Iterable[Entry]:
    yield _percent_entry(row.spread("own", lambda scores: scores.get("subsets", {}).get("unseen")))
    yield _percent_entry(row.spread("own", lambda scores: scores.get("false_alarm_rate")))
    area = row.spread("own", lambda scores: scores.get("pr_auc"))
    yield Entry(f"{area.mean:.3f}" if area else NONE)
    if contest.published:
        published = contest.published_row(row)
        yield Entry(f"{published.cba:.1f}" if published else NONE)
    seconds = row.spread_of_records(lambda record: record["times"].get("fit_s"))
    yield Entry(spell_seconds(seconds.mean) if seconds else NONE)


def _percent_entry(spread: Spread | None) -> Entry:
    return Entry(points(spread) if spread else NONE)


def spell_seconds(seconds: float) -> str:
    """Spell a time with two figures or so.

    Examples
    --------
    >>> [spell_seconds(s) for s in (0.0123, 4.21, 75, 7300)]
    ['0.01 s', '4.2 s', '75 s', '122 min']
    """
    if seconds < 10:
        return f"{seconds:.{2 if seconds < 1 else 1}f} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


# --- class by class, as in the paper -----------------------------------------------------------------------------


def class_table(contest: Contest) -> Table:
    """Return precision and recall of each class as the paper's tables have them, with the paper's numbers behind."""
    rows = [standing.row for standing in standings(contest, "own")]
    registry = [row for row in contest.measured if row in rows]
    head = ["System", *(f"{class_title(name)} P / R" for name in contest.classes), "CBA"]
    lines = [[_named(row), *_class_entries(contest, row)] for row in registry]
    return Table(head, lines, _class_caption(contest), small_below=True)


def _class_entries(contest: Contest, row: Row) -> Iterable[Entry]:
    published, table = contest.published_row(row), contest.published
    for name in contest.classes:
        shares = (row.spread("own", _of_class(name, score)) for score in ("precision", "recall"))
        precision, recall = (f"{100 * share.mean:.1f}" if share else NONE for share in shares)
        theirs = published.precision_recall[table.classes.index(name)] if published and table else None
        yield Entry(f"{precision} / {recall}", f"{theirs[0]:g} / {theirs[1]:g}" if theirs else "")
    cba = row.spread("own")
    yield Entry(points(cba) if cba else NONE, _published_cba(published) if published else "")


def _of_class(name: str, score: str) -> Callable[[dict[str, Any]], Any]:
    return lambda scores: scores["per_class"].get(name, {}).get(score)


def _published_cba(published: Any) -> str:
    return f"{published.cba:g}" + ("*" if published.contradicts_itself else "")


def _class_caption(contest: Contest) -> str:
    told = (
        "Precision / recall of each class and class-balanced accuracy in percent, mean over seeds, by each system's "
        "own decision. A dash is the precision of a class that was never named."
    )
    if contest.published is None:
        return told
    odd = [name for name, row in contest.published.rows.items() if row.contradicts_itself]
    rows = contest.published.rows
    stars = "".join(
        f" * {name}: the recalls of the published row average {rows[name].mean_recall:.1f}, not {rows[name].cba:g}."
        for name in odd
    )
    source = f"Small: table {contest.published.number} of the paper, as published; other preparation of the data."
    return f"{told} {source}{stars}"


# --- against the best baseline -----------------------------------------------------------------------------------


def rule_table(contest: Contest) -> Table:
    """Return who is first under each decision, and where DeepIDEA stands."""
    head = ["Decision", "First", "CBA of the first", "CBA of DeepIDEA", "Place", "Behind the first"]
    return Table(head, [line for rule in RULES if (line := _rule_line(contest, rule))], _RULE_CAPTION)


_RULE_CAPTION = (
    "Most probable class: the largest probability wins. Corrected for the prior: each output's probability is divided "
    "by its share of the training flows first, which is what class-balanced accuracy asks for. A system without "
    "probabilities takes no part in the last. Differences in points."
)


def _rule_line(contest: Contest, rule: Rule) -> list[Entry] | None:
    placed = standings(contest, rule)
    ours = next((standing for standing in placed if standing.row.system == OURS), None)
    if not placed:
        return None
    first = placed[0]
    told = [Entry(rule_title(rule)), Entry(first.row.title), Entry(points(first.cba))]
    if ours is None:
        return [*told, *[Entry(NONE)] * 3]
    gap = 100 * (first.cba.mean - ours.cba.mean)
    return [
        *told,
        Entry(points(ours.cba)),
        Entry(f"{ours.place} of {len(placed)}"),
        Entry(f"{gap:.1f}" if gap else "0"),
    ]


def ahead_table(contest: Contest) -> Table | None:
    """Return every baseline that is above DeepIDEA where both decide by the same rule, and by how much.

    None where DeepIDEA was not measured.
    """
    ours, stack = contest.row(OURS), contest.row(STACK)
    if ours is None:
        return None
    head = ["Decision", "Baseline above DeepIDEA", "CBA", "Above DeepIDEA by", "t-test"]
    head += [f"Above {stack.title} by"] if stack else []
    lines = [line for rule in _COMMON_RULES for line in _ahead_lines(contest, rule, ours, stack)]
    return Table(head, lines, _AHEAD_CAPTION)


STACK = "deepidea-forests"
_COMMON_RULES: tuple[Rule, ...] = ("plain", "corrected")
_AHEAD_CAPTION = (
    "Every baseline with a higher mean, best first; points of class-balanced accuracy. The p-value is of the paired "
    "test over the seeds that both have, two-sided, not adjusted. DeepIDEA with forests corrects before it averages, "
    "so it is the same under either rule."
)


def _ahead_lines(contest: Contest, rule: Rule, ours: Row, stack: Row | None) -> Iterable[list[Entry]]:
    ahead = baselines_ahead(contest, rule)
    beside = [stack.spread(rule) if stack else None, ours.spread(rule)]
    if not ahead and beside[1]:
        yield [Entry(rule_title(rule)), Entry("none"), *[Entry(NONE)] * (4 if stack else 3)]
    for standing in ahead:
        test = paired_test(standing.row, ours, rule)
        p = test.t_p if test else None
        told = [Entry(rule_title(rule)), Entry(standing.row.title), Entry(points(standing.cba))]
        told += [Entry(_spell_gap(standing, beside[1])), Entry(NONE if p is None else spell_p(p))]
        yield told + ([Entry(_spell_gap(standing, beside[0]))] if stack else [])


def _spell_gap(standing: Standing, other: Spread | None) -> str:
    return f"{100 * (standing.cba.mean - other.mean):+.1f}".replace("-", "−") if other else NONE


def tau_table(contest: Contest) -> Table | None:
    """Return what systems come to on training folds at each tau; None where no sweep was measured."""
    if not contest.taus:
        return None
    taus = sorted({tau for sweep in contest.taus for tau in sweep.by_tau})
    lines = [_tau_line(sweep, measure, taus) for sweep in contest.taus for measure in MEASURES]
    return Table(["System", "Judged on", *(f"tau {tau:g}" for tau in taus)], lines, _tau_caption(contest))


def _tau_line(sweep: TauSweep, measure: Measure, taus: Sequence[float]) -> list[Entry]:
    best = sweep.best(measure)
    entries = (
        Entry(f"{sweep.mean(tau, measure):.1f}", strong=tau == best) if tau in sweep.by_tau else Entry(NONE)
        for tau in taus
    )
    return [Entry(sweep.title, strong=sweep.system == OURS), Entry(MEASURES[measure]), *entries]


def _tau_caption(contest: Contest) -> str:
    own = "; ".join(f"{s.title}: temperature {s.temperature:g}, tau {s.own_tau:g}" for s in contest.taus)
    deals = max(len(values) for sweep in contest.taus for of in sweep.by_tau.values() for values in of.values())
    return (
        "Class-balanced accuracy in percent on training flows alone, in two folds that leave half of the attack types "
        f"of each class out; mean over {deals} deals of the types, the highest of a line in bold. One training a fold: "
        f"tau is only the decision. Each system at the temperature of its own decision ({own})."
    )


def difference_table(contest: Contest) -> Table | None:
    """Return the difference of every row to the best baseline with its tests; None where there is no baseline."""
    best = best_baseline(contest)
    if best is None:
        return None
    head = ["System", f"CBA less that of {best.row.title}", "Seeds", "t-test", "Wilcoxon", "Kind"]
    rows = [standing.row for standing in standings(contest, "own") if standing.row is not best.row]
    lines = [[_named(row), *_test_entries(paired_test(row, best.row))] for row in rows]
    return Table(head, lines, _TEST_CAPTION) if lines else None


_TEST_CAPTION = (
    "Difference in points of class-balanced accuracy, each under its own decision, over the seeds that both have; "
    "two-sided p-values, not adjusted for the number of rows. Seeds change what a system draws and, under a split that "
    "is drawn, the split; on an official split the test flows are the same every time, so a small p-value tells that "
    "another seed would not turn the order round, and not that other traffic would not. With five seeds Wilcoxon's "
    "test cannot go below 0.062."
)


def _test_entries(test: PairedTest | None) -> list[Entry]:
    if test is None:
        return [Entry("no common seed"), *[Entry(NONE)] * 4]
    p_values = (Entry(spell_p(p) if p is not None else NONE) for p in (test.t_p, test.wilcoxon_p))
    difference = f"{100 * test.difference:+.1f}".replace("-", "−")
    return [Entry(difference), Entry(str(test.n_seeds)), *p_values, Entry(NONE if test.t_p is None else test.kind)]


# --- what training never showed ----------------------------------------------------------------------------------


def new_label_table(contest: Contest, rows: Sequence[Row], most: int = 20) -> Table | None:
    """Return how the attack labels fared that training does not show; None where it shows all of them."""
    told: dict[str, int] = {
        label: of["rows"] for label, of in contest.sample.get("labels", {}).items() if not of["in_training"]
    }
    if not told or not rows:
        return None
    labels = sorted(told, key=lambda label: -told[label])[:most]
    head = ["Label", "Flows", *(row.title for row in rows)]
    lines = [[Entry(label), Entry(f"{told[label]:,}"), *(_alarm_entry(row, label) for row in rows)] for label in labels]
    left = f" {len(told) - most} rarer ones are not shown." if len(told) > most else ""
    return Table(head, lines, _NEW_LABEL_CAPTION + left)


_NEW_LABEL_CAPTION = (
    "Native labels that occur in the test and not in training (first seed): the share of their flows that was called "
    "any attack, behind it the share that was given the right class; percent."
)


def _alarm_entry(row: Row, label: str) -> Entry:
    of = row.records[0].get("labels", {}).get(label)
    return (
        Entry(f"{100 * of['alarms'] / of['rows']:.1f}", f"{100 * of['right'] / of['rows']:.1f}") if of else Entry(NONE)
    )


# --- what has no figures -----------------------------------------------------------------------------------------


def unmeasured_table(comparison: Comparison) -> Table | None:
    """Return what was cut, what failed, which record is damaged, and what is not there, with the reason.

    Seeds of a system that share their fate share a line.
    """
    absent = "other systems have this seed; this one was not run with it"
    fates = [
        (r["data"], r["protocol"], r["system"], r["status"], r["reason"], r["seed"]) for r in comparison.unmeasured
    ]
    fates += [(c.data, c.protocol, c.system, "missing", absent, c.seed) for c in comparison.missing]
    seeds: dict[tuple[str, ...], list[int]] = {}
    for *fate, seed in fates:
        seeds.setdefault(tuple(fate), []).append(seed)
    lines = [_fate_line(*fate, seeds=which) for fate, which in seeds.items()]
    lines += [[Entry(name), Entry("damaged"), Entry(NONE), Entry(fault)] for name, fault in comparison.damaged.items()]
    return Table(["What", "What became of it", "Seeds", "Why"], lines) if lines else None


def _fate_line(data: str, protocol: str, system: str, status: str, reason: str, *, seeds: Sequence[int]) -> list[Entry]:
    told = Entry(f"{data}, {protocol}: {system}")
    return [told, Entry(status), Entry(", ".join(map(str, sorted(seeds)))), Entry(reason)]
