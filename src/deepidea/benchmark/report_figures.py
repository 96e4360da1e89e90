"""The plots of a benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from deepidea.benchmark.comparison import OURS, PAPER, BenchmarkTask, Row, Rule, rank_rows, rule_title
from deepidea.benchmark.tables import class_title, spell_seconds
from deepidea.benchmark.tau_sweep import TauSweep
from deepidea.evaluation import plots
from deepidea.evaluation.plots import Figure, plot_text

_COLOURS = ("@accent", "@attack", "@benign", "@muted", "@ink")
_GROUP_COLOURS = {
    "deepidea": "@accent",
    "paper": "@benign",
    "trees": "@attack",
    "losses": "@ink",
    "beyond": "@muted",
    "reference": "@muted",
}


def shown_rows(task: BenchmarkTask) -> list[Row]:
    """Return the rows that plots show: DeepIDEA, the best two baselines, the paper's recipe, the one rule."""
    baselines = [rank.row for rank in rank_rows(task, "own") if rank.row.is_baseline]
    wanted = [task.row(OURS), *baselines[:1], task.row(PAPER), *baselines[1:2], task.row("one-rule")]
    return list({row.system: row for row in wanted if row}.values())


def task_figures(task: BenchmarkTask) -> dict[str, Figure]:
    """Return the plots of a task by key; sweeps only where they were measured."""
    shown = dict(zip(_COLOURS, shown_rows(task), strict=False))
    figures = {
        "recall": _recall_figure(task, shown),
        "curve": _curve_figure(shown),
        "reliability": _reliability_figure(shown),
        "time": _time_figure(task),
    }
    if task.taus:
        figures["tau-held-out"] = _tau_figure(task.taus)
    for name, title in (("attack_weight", "lambda; 0 is cross-entropy"), ("tau", "tau; 0 is no correction")):
        lines = _sweep_lines(task, name)
        if lines:
            figures[name] = _sweep_figure(lines, title)
    return figures


def _recall_figure(task: BenchmarkTask, shown: Mapping[str, Row]) -> Figure:
    bars = [_recall_bars(task, row, colour) for colour, row in shown.items()]
    y = {"range": [0, 1.03], "tickformat": ".0%", "title": "recall"}
    return {"data": bars, "layout": plots.layout({"showgrid": False}, y, barmode="group", bargap=0.25)}


def _recall_bars(task: BenchmarkTask, row: Row, colour: str) -> Figure:
    spreads = [
        row.spread("own", lambda scores, name=name: scores["per_class"].get(name, {}).get("recall"))  # type: ignore[misc]
        for name in task.classes
    ]
    return {
        "type": "bar",
        "name": plot_text(row.title),
        "x": [plot_text(class_title(name)) for name in task.classes],
        "y": [spread and plots.floats([spread.mean])[0] for spread in spreads],
        "error_y": plots.error_bars((spread.sd if spread else 0.0 for spread in spreads), "@ink"),
        "marker": {"color": colour},
        "hovertemplate": "%{x}: %{y:.1%}",
    }


def _curve_figure(shown: Mapping[str, Row]) -> Figure:
    hover = "recall %{x:.3f}<br>precision %{y:.3f}"
    lines = [
        plots.line(plot_text(row.title), curve["recall"], curve["precision"], {"color": colour, "width": 2}, hover)
        for colour, row in shown.items()
        if (curve := row.records[0].get("curve"))
    ]
    lowest = min((min(line["y"]) for line in lines), default=0.0)
    x, y = {"range": [0, 1.02], "title": "recall of attacks"}, {"range": [0.9 * lowest, 1.02], "title": "precision"}
    return {"data": lines, "layout": plots.layout(x, y)}


def _reliability_figure(shown: Mapping[str, Row]) -> Figure:
    hover = "stated %{x:.3f}<br>observed %{y:.3f}"
    lines = [
        plots.marked_line(plot_text(row.title), bins["stated"], bins["observed"], colour, hover)
        for colour, row in shown.items()
        if (bins := row.records[0].get("attack_reliability"))
    ]
    x = {"range": [-0.02, 1.02], "tickformat": ".0%", "title": "stated probability of attack"}
    y = {"range": [-0.02, 1.04], "tickformat": ".0%", "title": "were attacks"}
    return {"data": [plots.diagonal("As stated"), *lines], "layout": plots.layout(x, y)}


# --- time against accuracy ---------------------------------------------------------------------------------------

Points = Mapping[str, tuple[float, float]]  # by system: logarithm of the training seconds, and the accuracy
_PLOT_PIXELS = (940, 350)
_SIDES = {
    "top center": (0.0, 14.0),
    "bottom center": (0.0, -14.0),
    "middle right": (1.0, 0.0),
    "middle left": (-1.0, 0.0),
}


def _time_figure(task: BenchmarkTask) -> Figure:
    rows = [rank.row for rank in rank_rows(task, "own")]
    at = {row.system: _time_and_score(row) for row in rows}
    seconds, scores = (_padded([point[axis] for point in at.values()]) for axis in (0, 1))
    sides = _label_sides(rows, at, seconds, scores)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    x = {"type": "log", "title": "seconds of training, one thread", "dtick": 1, "range": seconds}
    y = {"title": "class-balanced accuracy, own decision", "tickformat": ".0%", "range": scores}
    return {"data": [_time_trace(name, of, at, sides) for name, of in groups.items()], "layout": plots.layout(x, y)}


def _time_and_score(row: Row) -> tuple[float, float]:
    seconds, cba = row.training_s, row.spread("own")
    return math.log10(max(1e-3, seconds.mean if seconds else 0.0)), cba.mean if cba else 0.0


def _padded(values: Sequence[float]) -> list[float]:
    margin = 0.1 * (max(values) - min(values)) or 0.1
    return plots.floats([min(values) - margin, max(values) + margin])


def _label_sides(rows: Sequence[Row], at: Points, seconds: Sequence[float], scores: Sequence[float]) -> dict[str, str]:
    """Choose for each name a side of its point where it covers no other; a name without room shows on hover only."""
    spots = {
        row.system: tuple(
            (value - low) / (high - low) * pixels
            for value, (low, high), pixels in zip(at[row.system], (seconds, scores), _PLOT_PIXELS, strict=True)
        )
        for row in rows
    }
    # Boxes that are taken: centre x and y, half width, half height, in pixels. The better row chooses first.
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


def _time_trace(group: str, rows: Sequence[Row], at: Points, sides: Mapping[str, str]) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": plot_text(group),
        "x": plots.floats(10 ** at[row.system][0] for row in rows),
        "y": plots.floats(at[row.system][1] for row in rows),
        "text": [plot_text(row.title) if row.system in sides else "" for row in rows],
        "textposition": [sides.get(row.system, "top center") for row in rows],
        "textfont": {"size": 11, "color": "@muted"},
        "marker": {"color": _GROUP_COLOURS.get(group, "@ink"), "size": 11 if group == "deepidea" else 8},
        "hovertext": [_time_hover(row) for row in rows],
        "hoverinfo": "text",
    }


def _time_hover(row: Row) -> str:
    cba, seconds = row.spread("own"), row.training_s
    scores = f"{cba} % in {spell_seconds(seconds.mean)}" if cba and seconds else ""
    return f"{plot_text(row.title)}: {scores}"


# --- sweeps ------------------------------------------------------------------------------------------------------

Line = tuple[str, list[tuple[float, Row]]]


def _sweep_lines(task: BenchmarkTask, name: str) -> list[Line]:
    """Return, for each system that was swept over a parameter, its rows by value; its own row is among them."""
    lines: dict[str, dict[float, Row]] = {}
    for row in task.sweeps:
        if row.swept and row.swept[0] == name:
            lines.setdefault(row.system.partition(":")[0], {})[row.swept[1]] = row
    for system, at in lines.items():
        base = task.row(system)
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
    y = {"title": "class-balanced accuracy", "tickformat": ".0%", "rangemode": "normal"}
    return {"data": traces, "layout": plots.layout(x, y)}


def _sweep_trace(rows: Sequence[tuple[float, Row]], rule: Rule, colour: str) -> Figure:
    found = [(value, spread) for value, row in rows if (spread := row.spread(rule))]
    name = f"{plot_text(rows[0][1].title.partition(' (')[0])}, {rule_title(rule)}"
    means, sds = [spread.mean for _, spread in found], [spread.sd for _, spread in found]
    trace = plots.marked_line(name, [v for v, _ in found], means, colour, "%{x}: %{y:.1%}", spread=sds)
    trace["line"]["dash"] = "solid" if rule == "own" else "dot"
    return {**trace, "x": [f"{value:g}" for value, _ in found]}  # names of categories


def _tau_figure(sweeps: Sequence[TauSweep]) -> Figure:
    """Return the held-out accuracy over tau: a line for each system, its own tau marked."""
    others = iter(_COLOURS[1:] * (len(sweeps) // len(_COLOURS) + 1))
    lines = [_tau_line(sweep, "@accent" if sweep.system == OURS else next(others)) for sweep in sweeps]
    x = {"title": "tau; 0 is the most probable class, 1 the full correction", "dtick": 0.25}
    y = {"title": "held-out class-balanced accuracy", "tickformat": ".0%", "rangemode": "normal"}
    return {"data": lines, "layout": plots.layout(x, y)}


def _tau_line(sweep: TauSweep, colour: str) -> Figure:
    taus = sorted(sweep.by_tau)
    means, sds = ([of(tau, "mixed") / 100 for tau in taus] for of in (sweep.mean, sweep.sd))
    sizes = [12 if tau == sweep.own_tau else 6 for tau in taus]
    return plots.marked_line(plot_text(sweep.title), taus, means, colour, "tau %{x}: %{y:.1%}", size=sizes, spread=sds)
