"""plotly figures of the pages, each with a table of its numbers.

Colours are names in the page's style sheet ("@c1"), which the page's script looks up, so that plots follow the theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from deepidea.evaluation.plots import Figure, class_axis, floats, layout, line, plot_text
from deepidea.web.rendering import number, share, short
from deepidea.web.views import DriftHour, Series

__all__ = [
    "Plot",
    "Table",
    "bars_plot",
    "by_class",
    "counts_plot",
    "curves_plot",
    "drift_plot",
    "rates_plot",
]

N_COLOURS = 7  # classes with their own colour; the others share the eighth
OTHERS = "all others"


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers of a plot: names of the columns, and rows that begin with what they are of."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure and its numbers."""

    figure: Figure
    table: Table


def by_class(series: Series) -> Plot:
    """Return alerts over time as bars, stacked by class, those with the most alerts at the bottom."""
    totals = sorted(((sum(line), name) for name, line in series.lines.items()), key=lambda pair: (-pair[0], pair[1]))
    names = [name for n, name in totals if n]
    shown = names if len(names) <= N_COLOURS + 1 else names[:N_COLOURS]
    lines = {name: series.lines[name] for name in shown}
    if len(shown) < len(names):
        rest = [series.lines[name] for name in names[N_COLOURS:]]
        lines[OTHERS] = tuple(map(sum, zip(*rest, strict=True)))
    colour = {name: f"@c{k + 1}" for k, name in enumerate(sorted(shown))} | {OTHERS: f"@c{N_COLOURS + 1}"}
    traces = [_bars(name, series, line, colour[name]) for name, line in lines.items()]
    rows = [[name, number(sum(line))] for name, line in lines.items()]
    return Plot({"data": traces, "layout": _over_time(series, barmode="stack")}, Table(("Class", "Alerts"), rows))


def _bars(name: str, series: Series, counts: Sequence[int], colour: str) -> Figure:
    """Return the bars of one line; empty steps have none, which keeps a page small."""
    middle = timedelta(seconds=series.step_s / 2)
    bars = [(time, n) for time, n in zip(series.times, counts, strict=True) if n]
    return {
        "type": "bar",
        "name": plot_text(name),
        "x": [_iso(time + middle) for time, _ in bars],
        "y": [n for _, n in bars],
        "width": series.step_s * 1000 * 0.92,
        "marker": {"color": colour},
        "hovertemplate": "%{y:,}",
    }


def _iso(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]


def _over_time(series: Series, *, of_rates: bool = False, **more: Any) -> Figure:
    """Return a layout whose time axis is that of a series."""
    edge = timedelta(seconds=series.step_s)
    ends = {"range": [_iso(series.times[0]), _iso(series.times[-1] + edge)]} if series.times else {}
    axis = {"type": "date", "hoverformat": "%Y-%m-%d %H:%M", "showgrid": False, "ticks": "outside",
            "tickcolor": "@rule", "nticks": 8, **ends}  # fmt: skip
    highest = max((sum(at) for at in zip(*series.lines.values(), strict=True)), default=0)
    steps = {"dtick": 1} if highest < 5 and not of_rates else {"nticks": 5}  # counts of 1 would get a tick at "500m"
    made = layout(axis, {"rangemode": "tozero", "tickformat": "~s", "ticks": "", **steps}, **more)
    made["font"]["size"] = 12
    top = 30 if more.get("showlegend", True) else 6
    return made | {"margin": {"l": 4, "r": 6, "t": top, "b": 4}, "hovermode": "x unified", "bargap": 0}


def counts_plot(series: Series, name: str, colour: str = "@attack") -> Plot:
    """Return one line of counts over time as bars."""
    counts = series.lines[name]
    rows = [[f"{at:%Y-%m-%d %H:%M}", number(n)] for at, n in zip(series.times, counts, strict=True) if n]
    figure = {"data": [_bars(name, series, counts, colour)], "layout": _over_time(series, showlegend=False)}
    return Plot(figure, Table(("From (UTC)", name.capitalize()), rows))


def rates_plot(series: Series, name: str = "flows") -> Plot:
    """Return counts over time as a line of rates a second."""
    middle = timedelta(seconds=series.step_s / 2)
    rates = [n / series.step_s for n in series.lines[name]]
    trace = {
        "type": "scatter",
        "mode": "lines",
        "x": [_iso(time + middle) for time in series.times],
        "y": floats(rates),
        "fill": "tozeroy",
        "line": {"color": "@benign", "width": 1.5, "shape": "hvh"},
        "hovertemplate": "%{y:,.3s} flows/s<extra></extra>",
    }
    pairs = zip(series.times, rates, strict=True)
    rows = [[f"{time:%Y-%m-%d %H:%M}", short(rate)] for time, rate in pairs if rate]
    made = _over_time(series, of_rates=True, showlegend=False)
    made["yaxis"]["tickformat"] = "~s" if max(rates, default=0) >= 1000 else ",.2~f"  # "500m" is read as millions
    return Plot({"data": [trace], "layout": made}, Table(("From (UTC)", "Flows/s"), rows))


def drift_plot(hours: Sequence[DriftHour]) -> Plot:
    """Return drift by the hour: PSI of the score, and its mean over features."""
    limits = [_level(0.1, "@warn"), _level(0.25, "@bad")]
    lines = [
        {"type": "scatter", "mode": "lines+markers", "name": title, "x": [_iso(hour.time) for hour in hours],
         "y": [_rounded(getattr(hour, name)) for hour in hours],
         "line": {"color": colour, "width": 2}, "marker": {"size": 5}, "hovertemplate": "%{y:.3f}"}
        for name, title, colour in (("score", "score", "@c2"), ("mean", "mean of features", "@c3"))
    ]  # fmt: skip
    made = _over_time(Series(3600, (), {}), of_rates=True, shapes=limits)
    made["yaxis"] |= {"title": {**made["yaxis"]["title"], "text": "PSI"}, "tickformat": ""}
    rows = [[f"{hour.time:%Y-%m-%d %H:%M}", number(hour.score, 3), number(hour.mean, 3)] for hour in hours]
    head = ("Hour (UTC)", "PSI of the score", "Mean PSI of features")
    return Plot({"data": lines, "layout": made}, Table(head, rows))


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _level(at: float, colour: str) -> Figure:
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": at, "y1": at,
            "line": {"color": colour, "width": 1, "dash": "dot"}}  # fmt: skip


def curves_plot(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_title: str,
    y_title: str,
    *,
    y_named: str = "",
    shares: bool = True,
    table: Sequence[tuple[str, float]] = (),
    diagonal: bool = False,
) -> Plot:
    """Return lines by name.

    Parameters
    ----------
    curves
        x and y of each.
    x_title, y_title
    y_named
        Title of the axis, where it differs from the table's column.
    shares
        Whether both axes are shares, 0..1.
    table
        Rows of the table, a name and a number each; else the last y of each curve.
    diagonal
        Whether to draw where y is x.
    """
    data = [
        line(plot_text(name), x, y, {"color": f"@c{min(k, N_COLOURS) + 1}", "width": 2}, "%{x:.3~f}, %{y:.3~f}")
        for k, (name, (x, y)) in enumerate(curves.items())
    ]
    if diagonal:
        data.append(
            {
                **line("exact", [0, 1], [0, 1], {"color": "@rule", "dash": "dot"}, ""),
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    axis = {"range": [-0.01, 1.01], "tickformat": ".0%"} if shares else {}
    made = layout({"title": x_title, **axis}, {"title": y_named or y_title, **axis})
    made["font"]["size"] = 12
    made["margin"] = {"l": 4, "r": 8, "t": 34, "b": 4}
    known = table or [(name, y[-1]) for name, (_, y) in curves.items() if y]
    spelt = share if shares else lambda value: number(value, 4)
    rows = [[name, spelt(value)] for name, value in known]
    return Plot({"data": data, "layout": made}, Table(("Curve", y_title), rows))


def bars_plot(values: Sequence[tuple[str, float]]) -> Plot:
    """Return shares by name as horizontal bars."""
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": floats(value for _, value in values),
        "y": list(range(len(values))),
        "marker": {"color": "@c1"},
        "text": [share(value) for _, value in values],
        "textposition": "auto",
        "hoverinfo": "skip",
    }
    made = layout({"range": [0, 1.02], "tickformat": ".0%"}, class_axis([name for name, _ in values]))
    made["font"]["size"] = 12
    made |= {"margin": {"l": 4, "r": 8, "t": 6, "b": 4}, "showlegend": False, "bargap": 0.35}
    return Plot({"data": [bars], "layout": made}, Table(("Class", "Recall"), [[n, share(v)] for n, v in values]))
