"""A benchmark as one HTML page, and the same tables as Markdown.

The page leads with the answer in words, then shows each contest: standings, classes beside the paper's numbers, the
same decision for all, tests over seeds, plots. What has no figures is listed with its reason.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepidea.benchmark.comparison import (
    OURS,
    PAPER,
    Answer,
    Comparison,
    Contest,
    Row,
    Rule,
    answers,
    points,
    rule_title,
    standings,
    told_in_full,
)
from deepidea.benchmark.tables import (
    NONE,
    Table,
    ahead_table,
    class_table,
    class_title,
    difference_table,
    escape_markdown,
    new_label_table,
    rule_table,
    spell_seconds,
    standing_table,
    tau_table,
    unmeasured_table,
)
from deepidea.benchmark.tau_sweep import TauSweep
from deepidea.benchmark.transfer import journeys, tell_journey, travel_tables
from deepidea.evaluation import page
from deepidea.evaluation.page import Figure
from deepidea.flows.atomic import replacing

__all__ = ["answers", "render_benchmark", "render_markdown", "write_benchmark_markdown", "write_benchmark_report"]


def write_benchmark_report(comparison: Comparison, path: str | Path) -> None:
    """Write a comparison as one self-contained HTML page.

    Raises
    ------
    MissingExtraError
        plotly or scipy is not installed.
    StorageError
        The file cannot be written; what stood there stays.
    """
    page.write_page(render_benchmark(comparison), path)


def write_benchmark_markdown(comparison: Comparison, path: str | Path) -> None:
    """Write the words and tables of a comparison as Markdown; raises as :func:`write_benchmark_report`."""
    with replacing(path) as partial:
        partial.write_text(render_markdown(comparison), encoding="utf-8")


# --- Markdown ----------------------------------------------------------------------------------------------------


def render_markdown(comparison: Comparison) -> str:
    """Return what :func:`write_benchmark_markdown` writes."""
    parts = ["# Benchmark", *_travel_markdown(comparison)]
    in_words = {answer.heading: answer for answer in answers(comparison)}
    for contest in comparison.contests:
        answer = in_words.get(contest.title)
        parts += _answer_markdown(answer) if answer else [f"## {escape_markdown(contest.title)}"]
        for title, table in _tables(contest):
            parts += [f"### {title}", table.to_markdown()]
    unmeasured = unmeasured_table(comparison)
    parts += ["## What has no figures", unmeasured.to_markdown()] if unmeasured else []
    parts += ["## Measured with", "\n".join(f"- {escape_markdown(told)}" for told in _machines(comparison))]
    return "\n\n".join(parts) + "\n"


def _travel_markdown(comparison: Comparison) -> Iterable[str]:
    for place, journey in enumerate(journeys(comparison)):
        yield from [] if place else ["## How far a number travels"]
        yield f"### {escape_markdown(journey.title)}"
        yield escape_markdown(tell_journey(journey))
        yield from (table.to_markdown() for table in travel_tables(journey))


def _answer_markdown(answer: Answer) -> Iterable[str]:
    yield f"## {escape_markdown(answer.heading)}"
    yield f"**{escape_markdown(answer.lead)}**"
    if answer.more:
        yield "\n".join(f"- {escape_markdown(sentence)}" for sentence in answer.more)


def _tables(contest: Contest) -> Iterable[tuple[str, Table]]:
    yield "Standing", standing_table(contest)
    yield "Class by class", class_table(contest)
    yield "The same decision for all", rule_table(contest)
    ahead = ahead_table(contest)
    if ahead:
        yield "Baselines above DeepIDEA by the same decision", ahead
    tests = difference_table(contest)
    if tests:
        yield "Against the best baseline", tests
    new = new_label_table(contest, _chosen(contest)[:4])
    if new:
        yield "Attacks that training never showed", new
    taus = tau_table(contest)
    if taus:
        yield "Strength of the prior correction, on training flows", taus


def _machines(comparison: Comparison) -> list[str]:
    """Return the machines and versions, each once, whatever the day."""
    told = dict.fromkeys(
        f"{run.get('processor')}, {run.get('cores')} cores; Python {run.get('python')}, "
        + ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
        for run in comparison.runs
    )
    return list(told)


# --- the page, top to bottom -------------------------------------------------------------------------------------


def render_benchmark(comparison: Comparison) -> str:
    """Return the page that :func:`write_benchmark_report` writes."""
    figures = {
        f"{place}-{key}": figure
        for place, contest in enumerate(comparison.contests)
        if contest in told_in_full(comparison)
        for key, figure in _figures(contest).items()
    }
    title = "Benchmark of network intrusion detectors"
    return page.render_page(title, "\n".join(_sections(comparison, title)), figures, style=_STYLE)


def _sections(comparison: Comparison, title: str) -> Iterable[str]:
    yield f"<header><p class=kind>DeepIDEA</p><h1>{title}</h1>{_overview(comparison)}</header>"
    yield page.section("The answer", _answer_list(comparison), _ANSWER_NOTE)
    yield _contents(comparison)
    yield _travel_section(comparison)
    in_full = told_in_full(comparison)
    for place, contest in enumerate(comparison.contests):
        yield from _contest_section(contest, place, folded=contest not in in_full)
    unmeasured = unmeasured_table(comparison)
    if unmeasured:
        reasons = f"<div class=reasons>{unmeasured.to_html()}</div>"
        yield f"<section id=unmeasured><h2>What has no figures</h2>{reasons}</section>"
    machines = "".join(f"<li>{html.escape(told)}</li>" for told in _machines(comparison))
    yield f"<section id=measured><h2>Measured with</h2><ul>{machines}</ul></section><footer><p>{_FOOTER}</p></footer>"


def _contest_section(contest: Contest, place: int, *, folded: bool) -> Iterable[str]:
    title = page.isolated(contest.title)
    if folded:
        yield f"<details id=contest-{place}><summary>{title}</summary>{_contest_line(contest)}"
        yield "".join(_part(name, table.to_html()) for name, table in _tables(contest))
        yield "</details>"
    else:
        yield f"<section id=contest-{place}><h2 class=contest>{title}</h2>{_contest_line(contest)}"
        yield from _contest_parts(contest, place)
        yield "</section>"


def _travel_section(comparison: Comparison) -> str:
    found = journeys(comparison)
    if not found:
        return ""
    parts = (
        f"<h3>{page.isolated(journey.title)}</h3><p>{_sentence(tell_journey(journey))}</p>"
        + "".join(table.to_html() for table in travel_tables(journey))
        for journey in found
    )
    note = f"<p class=note>{_TRAVEL_NOTE}</p>"
    return f"<section id=travel><h2>How far a number travels</h2>{note}{''.join(parts)}</section>"


def _answer_list(comparison: Comparison) -> str:
    told = (
        f"<div><dt>{page.isolated(answer.heading)}</dt><dd>{_answer_text(answer)}</dd></div>"
        for answer in answers(comparison)
    )
    return f"<dl class=notes>{''.join(told)}</dl>" if comparison.contests else "<p>Nothing was measured.</p>"


def _answer_text(answer: Answer) -> str:
    more = "".join(f"<li>{_sentence(sentence)}</li>" for sentence in answer.more)
    return f"<strong>{_sentence(answer.lead)}</strong>" + (f"<ul>{more}</ul>" if more else "")


def _sentence(text: str) -> str:
    """Return a sentence as HTML that keeps a number and its unit on one line."""
    return html.escape(text).replace(" ± ", "&nbsp;±&nbsp;").replace(" %", "&nbsp;%").replace(" = ", "&nbsp;=&nbsp;")


def _overview(comparison: Comparison) -> str:
    systems = {row.system for contest in comparison.contests for row in contest.measured}
    n_records = sum(len(row.records) for contest in comparison.contests for row in (*contest.rows, *contest.sweeps))
    dates = sorted({str(run.get("date")) for run in comparison.runs})
    facts = [
        ("Contests", page.thousands(len(comparison.contests))),
        ("Systems", page.thousands(len(systems))),
        ("Trainings", page.thousands(n_records)),
        ("Without figures", page.thousands(len(comparison.unmeasured) + len(comparison.damaged))),
        ("Measured", html.escape(" to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else NONE)),
    ]
    return page.facts_line(facts)


def _contents(comparison: Comparison) -> str:
    links = ["<li><a href='#travel'>How far a number travels</a></li>"] if journeys(comparison) else []
    links += [
        f"<li><a href='#contest-{at}'>{page.isolated(c.title)}</a></li>"
        for at, c in enumerate(comparison.contests)
        if c in told_in_full(comparison)
    ]
    if unmeasured_table(comparison):
        links.append("<li><a href='#unmeasured'>What has no figures</a></li>")
    links.append("<li><a href='#measured'>Measured with</a></li>")
    return f"<nav aria-label=Contents><h2>Contents</h2><ol>{''.join(links)}</ol></nav>"


def _contest_line(contest: Contest) -> str:
    told, rows = contest.sample["told"], contest.sample.get("rows", {})
    facts = [
        ("Training flows", _count(rows.get("training"))),
        ("Test flows", _count(rows.get("all"))),
        ("Distinct", _count(rows.get("distinct"))),
        ("Vectors unseen in training", _count(rows.get("unseen"))),
        ("Taxonomy", page.isolated(told.get("taxonomy", NONE))),
        ("Files", page.isolated(", ".join(_file_names(told)) or NONE)),
    ]
    return page.facts_line(facts)


def _count(number: object) -> str:
    return page.thousands(number) if isinstance(number, int) else NONE


def _file_names(told: Mapping[str, Any]) -> list[str]:
    files = told.get("files")
    names = [str(file.get("name")) for file in files if isinstance(file, Mapping)] if isinstance(files, list) else []
    return names if len(names) <= 3 else [names[0], f"{len(names) - 1} more"]


def _contest_parts(contest: Contest, place: int) -> Iterable[str]:
    tables = dict(_tables(contest))
    yield _part("Standing", tables["Standing"].to_html())
    yield _part("Class by class", tables["Class by class"].to_html())
    yield _part("Recall by class", _place(place, "recall", 380), _RECALL_NOTE)
    yield _part("The same decision for all", tables["The same decision for all"].to_html())
    for title in (
        "Baselines above DeepIDEA by the same decision",
        "Against the best baseline",
        "Attacks that training never showed",
    ):
        if title in tables:
            yield _part(title, tables[title].to_html())
    yield _part("Where the flows of a class go", _confusions(contest), _CONFUSION_NOTE)
    curves = _place(place, "curve", 400) + _place(place, "reliability", 400)
    yield _part("Ranking and probabilities", f"<div class=pair>{curves}</div>", _CURVE_NOTE)
    yield from _sweep_parts(contest, place)
    yield _part("Time against accuracy", _place(place, "time", 460), _TIME_NOTE)


def _part(title: str, content: str, note: str = "") -> str:
    return f"<h3>{title}</h3>" + (f"<p class=note>{note}</p>" if note else "") + content


def _place(place: int, key: str, height: int) -> str:
    return page.figure(f"{place}-{key}", height)


def _confusions(contest: Contest) -> str:
    titles = [class_title(name) for name in contest.classes]
    return "".join(
        f"<h4>{page.isolated(row.title)}</h4>{page.confusion_table(titles, contest.confusion(row))}"
        for row in _chosen(contest)[:2]
    )


def _sweep_parts(contest: Contest, place: int) -> Iterable[str]:
    figures, taus = _figures(contest), tau_table(contest)
    if taus:
        plot = f"<div class=narrow>{_place(place, 'tau-held-out', 400)}</div>"
        yield _part("Strength of the prior correction, on training flows", plot + taus.to_html(), _HELD_OUT_NOTE)
    for key, title, note in (
        ("attack_weight", "Weight of the attack-sharing term", _LAMBDA_NOTE),
        ("tau", "Strength of the prior correction", _TAU_NOTE),
    ):
        if key in figures:
            yield _part(title, f"<div class=narrow>{_place(place, key, 380)}</div>", note)


# --- plots -------------------------------------------------------------------------------------------------------

_COLOURS = ("@accent", "@attack", "@benign", "@muted", "@ink")
_GROUP_COLOURS = {
    "deepidea": "@accent",
    "paper": "@benign",
    "trees": "@attack",
    "losses": "@ink",
    "beyond": "@muted",
    "reference": "@muted",
}


def _chosen(contest: Contest) -> list[Row]:
    """Return the rows that plots show: DeepIDEA, the best two baselines, the paper's recipe, the one rule."""
    baselines = [standing.row for standing in standings(contest, "own") if standing.row.is_baseline]
    wanted = [contest.row(OURS), *baselines[:1], contest.row(PAPER), *baselines[1:2], contest.row("one-rule")]
    return list({row.system: row for row in wanted if row}.values())


def _figures(contest: Contest) -> dict[str, Figure]:
    chosen = _chosen(contest)
    figures = {
        "recall": _recall_figure(contest, chosen),
        "curve": _curve_figure(chosen),
        "reliability": _reliability_figure(chosen),
        "time": _time_figure(contest),
    }
    if contest.taus:
        figures["tau-held-out"] = _tau_figure(contest.taus)
    for name, title in (("attack_weight", "lambda; 0 is cross-entropy"), ("tau", "tau; 0 is no correction")):
        lines = _sweep_lines(contest, name)
        if lines:
            figures[name] = _sweep_figure(lines, title)
    return figures


def _recall_figure(contest: Contest, rows: Sequence[Row]) -> Figure:
    bars = [_recall_bars(contest, row, colour) for row, colour in zip(rows, _COLOURS, strict=False)]
    y = {"range": [0, 1.03], "tickformat": ".0%", "title": "recall"}
    return {"data": bars, "layout": page.layout({"showgrid": False}, y, barmode="group", bargap=0.25)}


def _recall_bars(contest: Contest, row: Row, colour: str) -> Figure:
    spreads = [row.spread("own", _recall_of(name)) for name in contest.classes]
    return {
        "type": "bar",
        "name": page.plot_text(row.title),
        "x": [page.plot_text(class_title(name)) for name in contest.classes],
        "y": [spread and page.floats([spread.mean])[0] for spread in spreads],
        "error_y": {
            "type": "data",
            "array": page.floats(spread.sd if spread else 0.0 for spread in spreads),
            "color": "@ink",
            "thickness": 1,
            "width": 2,
        },
        "marker": {"color": colour},
        "hovertemplate": "%{x}: %{y:.1%}",
    }


def _recall_of(name: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda scores: scores["per_class"].get(name, {}).get("recall")


def _curve_figure(rows: Sequence[Row]) -> Figure:
    lines = [
        page.line(
            page.plot_text(row.title), curve["recall"], curve["precision"], {"color": colour, "width": 2}, _CURVE_HOVER
        )
        for row, colour in zip(rows, _COLOURS, strict=False)
        if (curve := row.records[0].get("curve"))
    ]
    lowest = min((min(line["y"]) for line in lines), default=0.0)
    x, y = {"range": [0, 1.02], "title": "recall of attacks"}, {"range": [0.9 * lowest, 1.02], "title": "precision"}
    return {"data": lines, "layout": page.layout(x, y)}


_CURVE_HOVER = "recall %{x:.3f}<br>precision %{y:.3f}"


def _reliability_figure(rows: Sequence[Row]) -> Figure:
    diagonal = {"color": "@muted", "width": 1, "dash": "dot"}
    traces: list[Figure] = [{**page.line("As stated", [0, 1], [0, 1], diagonal, ""), "hoverinfo": "skip"}]
    for row, colour in zip(rows, _COLOURS, strict=False):
        bins = row.records[0].get("attack_reliability")
        if bins:
            line = page.line(
                page.plot_text(row.title), bins["stated"], bins["observed"], {"color": colour, "width": 1}, ""
            )
            hover = "stated %{x:.3f}<br>came true %{y:.3f}"
            traces.append(
                {**line, "mode": "lines+markers", "marker": {"color": colour, "size": 7}, "hovertemplate": hover}
            )
    x = {"range": [-0.02, 1.02], "tickformat": ".0%", "title": "stated probability of attack"}
    y = {"range": [-0.02, 1.04], "tickformat": ".0%", "title": "were attacks"}
    return {"data": traces, "layout": page.layout(x, y)}


def _time_figure(contest: Contest) -> Figure:
    rows = [standing.row for standing in standings(contest, "own")]
    at = {row.system: _time_and_score(row) for row in rows}
    seconds, scores = (_padded([point[axis] for point in at.values()]) for axis in (0, 1))
    sides = _label_sides(rows, at, seconds, scores)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    x = {"type": "log", "title": "seconds of training, one thread", "dtick": 1, "range": seconds}
    y = {"title": "class-balanced accuracy, own decision", "tickformat": ".0%", "range": scores}
    return {"data": [_time_trace(name, of, at, sides) for name, of in groups.items()], "layout": page.layout(x, y)}


def _time_and_score(row: Row) -> tuple[float, float]:
    """Return the logarithm of the training seconds, and the accuracy."""
    seconds, cba = row.spread_of_records(lambda record: record["times"].get("fit_s")), row.spread("own")
    return math.log10(max(1e-3, seconds.mean if seconds else 0.0)), cba.mean if cba else 0.0


def _padded(values: Sequence[float]) -> list[float]:
    margin = 0.1 * (max(values) - min(values)) or 0.1
    return page.floats([min(values) - margin, max(values) + margin])


_PLOT_PIXELS = (940, 350)
_SIDES = {
    "top center": (0.0, 14.0),
    "bottom center": (0.0, -14.0),
    "middle right": (1.0, 0.0),
    "middle left": (-1.0, 0.0),
}


def _label_sides(
    rows: Sequence[Row], at: Mapping[str, tuple[float, float]], seconds: Sequence[float], scores: Sequence[float]
) -> dict[str, str]:
    """Choose for each name a side of its point where it covers no other; a name without room is left to hovering."""
    spots = {
        row.system: tuple(
            (value - low) / (high - low) * pixels
            for value, (low, high), pixels in zip(at[row.system], (seconds, scores), _PLOT_PIXELS, strict=True)
        )
        for row in rows
    }
    taken = [(x, y, 7.0, 7.0) for x, y in spots.values()]
    sides = {}
    for row in rows:
        x, y = spots[row.system]
        half = 3.2 * len(row.title)
        for side, (across, up) in _SIDES.items():
            box = (x + across * (half + 10), y + up, half, 6.0)
            inside = half <= box[0] <= _PLOT_PIXELS[0] - half
            if inside and all(_are_apart(box, other) for other in taken):
                sides[row.system] = side
                taken.append(box)
                break
    return sides


def _are_apart(one: Sequence[float], other: Sequence[float]) -> bool:
    return any(abs(one[axis] - other[axis]) >= one[axis + 2] + other[axis + 2] for axis in (0, 1))


def _time_trace(
    group: str, rows: Sequence[Row], at: Mapping[str, tuple[float, float]], sides: Mapping[str, str]
) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": page.plot_text(group),
        "x": page.floats(10 ** at[row.system][0] for row in rows),
        "y": page.floats(at[row.system][1] for row in rows),
        "text": [page.plot_text(row.title) if row.system in sides else "" for row in rows],
        "textposition": [sides.get(row.system, "top center") for row in rows],
        "textfont": {"size": 11, "color": "@muted"},
        "marker": {"color": _GROUP_COLOURS.get(group, "@ink"), "size": 11 if group == "deepidea" else 8},
        "hovertext": [_time_hover(row) for row in rows],
        "hoverinfo": "text",
    }


def _time_hover(row: Row) -> str:
    seconds, cba = row.spread_of_records(lambda record: record["times"].get("fit_s")), row.spread("own")
    told = f"{points(cba)} % in {spell_seconds(seconds.mean)}" if cba and seconds else ""
    return f"{page.plot_text(row.title)}: {told}"


Line = tuple[str, list[tuple[float, Row]]]


def _sweep_lines(contest: Contest, name: str) -> list[Line]:
    """Return, for each system that was swept over a parameter, its rows by value; its own row is among them."""
    lines: dict[str, dict[float, Row]] = {}
    for row in contest.sweeps:
        if row.swept and row.swept[0] == name:
            lines.setdefault(row.system.partition(":")[0], {})[row.swept[1]] = row
    for system, at in lines.items():
        base = contest.row(system)
        value = base.records[0]["parameters"].get(name) if base else None
        if base and isinstance(value, int | float):
            at.setdefault(float(value), base)
    return [(system, sorted(lines[system].items())) for system in sorted(lines)]


def _sweep_figure(lines: Sequence[Line], title: str) -> Figure:
    values = sorted({value for _, rows in lines for value, _ in rows})
    traces = [
        _sweep_trace(rows, rule, "@benign" if system == PAPER else "@accent")
        for system, rows in lines
        for rule in ("own", "plain")
    ]
    x = {"type": "category", "categoryarray": [f"{v:g}" for v in values], "title": title}
    y = {"title": "class-balanced accuracy", "tickformat": ".0%"}
    return {"data": traces, "layout": page.layout(x, {**y, "rangemode": "normal"})}


def _sweep_trace(rows: Sequence[tuple[float, Row]], rule: Rule, colour: str) -> Figure:
    spreads = [(f"{value:g}", spread) for value, row in rows if (spread := row.spread(rule))]
    title = rows[0][1].title.partition(" (")[0]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"{page.plot_text(title)}, {rule_title(rule)}",
        "x": [value for value, _ in spreads],
        "y": page.floats(spread.mean for _, spread in spreads),
        "error_y": {"type": "data", "array": page.floats(s.sd for _, s in spreads), "color": colour, "thickness": 1},
        "line": {"color": colour, "width": 2, "dash": "solid" if rule == "own" else "dot"},
        "marker": {"color": colour, "size": 7},
        "hovertemplate": "%{x}: %{y:.1%}",
    }


def _tau_figure(sweeps: Sequence[TauSweep]) -> Figure:
    """Return the held-out accuracy over tau: a line for each system, DeepIDEA's own tau marked."""
    lines = [_tau_line(sweep, colour) for sweep, colour in zip(sweeps, _tau_colours(sweeps), strict=True)]
    x = {"title": "tau; 0 is the most probable class, 1 the full correction", "dtick": 0.25}
    y = {"title": "held-out class-balanced accuracy", "tickformat": ".0%", "rangemode": "normal"}
    return {"data": lines, "layout": page.layout(x, y)}


def _tau_colours(sweeps: Sequence[TauSweep]) -> list[str]:
    others = iter(_COLOURS[1:] * (len(sweeps) // len(_COLOURS) + 1))
    return ["@accent" if sweep.system == OURS else next(others) for sweep in sweeps]


def _tau_line(sweep: TauSweep, colour: str) -> Figure:
    taus = sorted(sweep.by_tau)
    shares = [sweep.mean(tau, "mixed") / 100 for tau in taus]
    line = page.line(page.plot_text(sweep.title), taus, shares, {"color": colour, "width": 2}, "tau %{x}: %{y:.1%}")
    sizes = [12 if tau == sweep.own_tau else 6 for tau in taus]
    deviations = page.floats(sweep.sd(tau, "mixed") / 100 for tau in taus)
    spread = {"type": "data", "array": deviations, "color": colour, "thickness": 1, "width": 2}
    return {**line, "mode": "lines+markers", "marker": {"color": colour, "size": sizes}, "error_y": spread}


# --- words and style ---------------------------------------------------------------------------------------------

_ANSWER_NOTE = (
    "Class-balanced accuracy is the mean of the recalls of the classes. All systems get the same training flows, and "
    "nothing of the test flows reaches any of them."
)
_RECALL_NOTE = "Bars: DeepIDEA, the best two baselines, the paper's recipe and the one rule; ticks: standard deviation."
_CONFUSION_NOTE = (
    "Rows are the truth and add up to 100 %; by each system's own decision, all seeds added up. Small print: counts."
)
_CURVE_NOTE = (
    "Of the first seed. Left: what each threshold of the attack score would do. Right: below the diagonal a system is "
    "too sure that a flow is an attack, above it too sure that it is none; one without probabilities has no line."
)
_LAMBDA_NOTE = "The same training with other weights of the second term of the loss."
_TAU_NOTE = "The same training with other strengths of the correction by the prior of the classes."
_HELD_OUT_NOTE = (
    "What a stronger or weaker correction would have done on flows that training may see: attack types are held back, "
    "so that the choice is made for what is new. Large points: the tau of each system's own decision. Line: mean over "
    "classes of known and left-out types; ticks: standard deviation over deals of the types."
)
_TRAVEL_NOTE = (
    "A random split asks about flows like those that were trained on. Each further line takes a likeness away: exact "
    "repeats, the same minutes, the same hosts, the same day, the same kind of attack, the same network."
)
_TIME_NOTE = (
    "Up and to the left is better; means over seeds. A point without room for its name tells it under the mouse."
)
_FOOTER = (
    "Paper: Dong and others, Cyber Intrusion Detection by Using Deep Neural Networks with Attack-sharing Loss, IEEE "
    "DataCom 2019, tables V to VII. Its preparation of the data is not public, so its numbers stand here for "
    "orientation and not for a test."
)
_STYLE = """
h2.contest { font-size: 1.45rem; border-top: 2px solid var(--rule); padding-top: 22px; margin-bottom: 10px; }
h3 { font-size: 1.08rem; margin: 34px 0 6px; }
h4 { font-size: .95rem; font-weight: 600; margin: 16px 0 6px; }
nav { margin-top: 32px; background: var(--panel); border-radius: 8px; padding: 14px 20px; }
nav h2 { font-size: .95rem; } nav ol { margin: 0; padding-left: 1.3em; } a { color: var(--accent); }
.figures { font-size: .88rem; } .figures th, .figures td { padding: 6px 8px; }
.figures tr:has(th strong) { background: var(--faint); }
.figures tbody th:first-child { padding-left: 6px; } .figures thead th:first-child { padding-left: 6px; }
.figures tr:has(th strong) th:first-child { background: var(--faint); }
.figures thead th { max-width: 8rem; }
.notes dd ul { margin: 6px 0 0; padding-left: 1.2em; } .notes dd strong { font-weight: 600; }
.inline td small { display: inline-block; min-width: 1.9em; margin-left: .4em; text-align: left; }
details { border-top: 1px solid var(--rule); padding: 10px 0; } summary { cursor: pointer; font-weight: 600; }
tbody th small { display: block; color: var(--muted); font-size: .78rem; font-weight: 400; }
.reasons td { white-space: normal; text-align: left; overflow-wrap: anywhere; } .reasons th { text-align: left; }
"""
