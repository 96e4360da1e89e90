"""Figures of the pages, as plotly takes them, and beside each the table that says the same in numbers.

Colours are names of the page's style ("@c1"), which the page's script looks up: so a plot follows the theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from deepidea.evaluation.page import Figure, floats, layout, line, plot_text
from deepidea.web.rendering import number, share, short

__all__ = ["Plot", "Table", "by_class", "counts_plot", "curves_plot", "drift_plot", "rates_plot", "spans_plot", "step_told"]

N_COLOURS = 7  # classes that get one of their own; the others share the eighth
STEPS_S = (60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400, 7 * 86_400, 30 * 86_400)
MOST_BARS = 96
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


def step_of(since: datetime, until: datetime) -> int:
    """Return the seconds of a bar so that a time has :data:`MOST_BARS` of them at most.

    Examples
    --------
    >>> noon = datetime(2026, 5, 4, 12, tzinfo=UTC)
    >>> step_of(noon - timedelta(hours=1), noon), step_of(noon - timedelta(days=7), noon)
    (60, 10800)
    """
    span = (until - since).total_seconds()
    return next((step for step in STEPS_S if span / step <= MOST_BARS), STEPS_S[-1])


def step_told(step_s: int) -> str:
    """Spell the time of a bar.

    Examples
    --------
    >>> step_told(60), step_told(900), step_told(10_800), step_told(604_800)
    ('1 minute', '15 minutes', '3 hours', '7 days')
    """
    for seconds, name in ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if step_s >= seconds:
            n = step_s // seconds
            return f"{n} {name}{'' if n == 1 else 's'}"
    return "less than a second"


def by_class(
    series: pl.DataFrame, step_s: int, since: datetime | None = None, until: datetime | None = None
) -> Plot:
    """Return alerts over time as bars, stacked by class.

    Parameters
    ----------
    series : DataFrame
        ``time`` (a bar's beginning), ``class``, ``n``.
    step_s
    since, until
        Ends of the time axis; those of the alerts where absent.
    """
    totals = series.group_by("class").agg(pl.col("n").sum()).sort(["n", "class"], descending=[True, False])
    names = totals["class"].to_list()
    shown = names if len(names) <= N_COLOURS + 1 else names[:N_COLOURS]
    named = series.with_columns(pl.when(pl.col("class").is_in(shown)).then("class").otherwise(pl.lit(OTHERS)).alias("class"))
    summed = named.group_by("class", "time").agg(pl.col("n").sum()).sort("time")
    listed = [*shown, *([OTHERS] if len(shown) < len(names) else [])]
    traces = [_bars(name, summed.filter(pl.col("class") == name), step_s, k) for k, name in enumerate(listed)]
    rows = [[name, number(summed.filter(pl.col("class") == name)["n"].sum())] for name in listed]
    return Plot({"data": traces, "layout": _time_layout(since, until, barmode="stack")}, Table(("Class", "Alerts"), rows))


def _bars(name: str, rows: pl.DataFrame, step_s: int, k: int) -> Figure:
    middle = timedelta(seconds=step_s / 2)
    return {
        "type": "bar",
        "name": plot_text(name),
        "x": [_iso(time + middle) for time in rows["time"]],
        "y": rows["n"].to_list(),
        "width": [step_s * 1000 * 0.92] * rows.height,
        "marker": {"color": f"@c{min(k, N_COLOURS) + 1}"},
        "hovertemplate": "%{y:,}",
    }


def _iso(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]


def _time_layout(since: datetime | None, until: datetime | None, **more: Any) -> Figure:
    known = since is not None and until is not None
    ends = {"range": [_iso(since), _iso(until)]} if known else {}  # type: ignore[arg-type]  # known says so
    axis = {"type": "date", "hoverformat": "%Y-%m-%d %H:%M", "showgrid": False, "ticks": "outside", "tickcolor": "@rule",
            "nticks": 8, **ends}  # fmt: skip
    small = {"margin": {"l": 4, "r": 6, "t": 30, "b": 4}, "hovermode": "x unified", "bargap": 0}
    made = layout(axis, {"rangemode": "tozero", "tickformat": "~s", "nticks": 5}, **{**small, **more})
    made["font"]["size"] = 12
    return made


def counts_plot(times: Sequence[datetime], step_s: int, since: datetime, until: datetime) -> Plot:
    """Return the times of things, all of one kind, as bars."""
    frame = pl.DataFrame({"time": times}, schema={"time": pl.Datetime("us", "UTC")})
    counted = frame.group_by(pl.col("time").dt.truncate(f"{step_s}s")).agg(n=pl.len()).sort("time")
    return series_plot(counted, step_s, since, until)


def series_plot(series: pl.DataFrame, step_s: int, since: datetime, until: datetime, colour: str = "@attack") -> Plot:
    """Return counts over time, ``time`` and ``n``, as bars of one colour."""
    bars = {**_bars("alerts", series, step_s, 0), "marker": {"color": colour}}
    edge = timedelta(seconds=step_s)
    made = _time_layout(since - edge, until + edge, showlegend=False)
    made["margin"]["t"] = 6
    rows = [[f"{time:%Y-%m-%d %H:%M:%S}", number(n)] for time, n in series.select("time", "n").iter_rows()]
    return Plot({"data": [bars], "layout": made}, Table(("From (UTC)", "Alerts"), rows))


def rates_plot(series: pl.DataFrame, step_s: int, since: datetime | None = None, until: datetime | None = None) -> Plot:
    """Return flows a second over time as a line; ``time`` and ``n_flows``."""
    middle = timedelta(seconds=step_s / 2)
    rates = (series["n_flows"] / step_s).to_list()
    trace = {
        "type": "scatter",
        "mode": "lines+markers" if len(rates) < 40 else "lines",
        "x": [_iso(time + middle) for time in series["time"]],
        "y": floats(rates),
        "fill": "tozeroy",
        "line": {"color": "@benign", "width": 1.5},
        "marker": {"size": 4, "color": "@benign"},
        "hovertemplate": "%{y:,.3s} flows/s<extra></extra>",
    }
    made = _time_layout(since, until, showlegend=False)
    made["margin"]["t"] = 6
    rows = [[f"{time:%Y-%m-%d %H:%M}", short(rate)] for time, rate in zip(series["time"], rates, strict=True)]
    return Plot({"data": [trace], "layout": made}, Table(("From (UTC)", "Flows/s"), rows))


def spans_plot(spans: Sequence[tuple[str, int, datetime, datetime]]) -> Plot:
    """Return things that last as lines in time: name, severity, first and last."""
    data = []
    for name, severity, first, last in spans:
        colour = f"@{ {1: 'critical', 2: 'high', 3: 'medium'}.get(severity, 'low') }".replace(" ", "")
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": plot_text(name), "showlegend": False,
            "x": [_iso(first), _iso(last)], "y": [plot_text(name)] * 2, "line": {"color": colour, "width": 7},
            "marker": {"size": 9, "color": colour}, "hovertemplate": "%{x}<extra>%{y}</extra>",
        })  # fmt: skip
    made = _time_layout(None, None)
    made["yaxis"] |= {"type": "category", "autorange": "reversed", "tickformat": ""}
    made |= {"hovermode": "closest"}
    made["margin"]["t"] = 6
    rows = [[name, f"{first:%Y-%m-%d %H:%M:%S}", f"{last:%Y-%m-%d %H:%M:%S}"] for name, _, first, last in spans]
    return Plot({"data": data, "layout": made}, Table(("Class", "First (UTC)", "Last (UTC)"), rows))


def drift_plot(hours: pl.DataFrame) -> Plot:
    """Return drift by the hour: PSI of the score and its mean over features; ``time``, ``score``, ``mean``."""
    limits = [_level(0.1, "@warn"), _level(0.25, "@bad")]
    lines = [
        {"type": "scatter", "mode": "lines+markers", "name": told, "x": [_iso(time) for time in hours["time"]],
         "y": [None if value is None else float(f"{value:.4g}") for value in hours[name]],
         "line": {"color": colour, "width": 2}, "marker": {"size": 5}, "hovertemplate": "%{y:.3f}"}
        for name, told, colour in (("score", "score", "@c2"), ("mean", "mean of features", "@c3"))
    ]  # fmt: skip
    made = _time_layout(None, None, shapes=limits)
    made["yaxis"] |= {"title": {**made["yaxis"]["title"], "text": "PSI"}, "tickformat": ""}
    rows = [
        [f"{time:%Y-%m-%d %H:%M}", number(score, 3), number(mean, 3)]
        for time, score, mean in hours.select("time", "score", "mean").iter_rows()
    ]
    return Plot({"data": lines, "layout": made}, Table(("Hour (UTC)", "PSI of the score", "Mean PSI of features"), rows))


def _level(at: float, colour: str) -> Figure:
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": at, "y1": at,
            "line": {"color": colour, "width": 1, "dash": "dot"}}  # fmt: skip


def curves_plot(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_title: str,
    y_title: str,
    *,
    shares: bool = True,
    told: Sequence[tuple[str, float]] = (),
    diagonal: bool = False,
) -> Plot:
    """Return lines by name.

    Parameters
    ----------
    curves
        x and y of each.
    x_title, y_title
    shares
        Whether both axes are shares, 0..1.
    told
        What the table says: a name and a number each; else the last y of each curve.
    diagonal
        Whether to draw where y is x.
    """
    data = [
        line(plot_text(name), x, y, {"color": f"@c{min(k, N_COLOURS) + 1}", "width": 2}, "%{x:.3~f}, %{y:.3~f}")
        for k, (name, (x, y)) in enumerate(curves.items())
    ]
    if diagonal:
        data.append({**line("exact", [0, 1], [0, 1], {"color": "@rule", "dash": "dot"}, ""), "hoverinfo": "skip"})
    axis = {"range": [-0.01, 1.01], "tickformat": ".0%"} if shares else {}
    made = layout({"title": x_title, **axis}, {"title": y_title, **axis})
    made["font"]["size"] = 12
    made["margin"] = {"l": 4, "r": 8, "t": 34, "b": 4}
    known = told or [(name, y[-1]) for name, (_, y) in curves.items() if y]
    spelt = share if shares else lambda value: number(value, 4)
    return Plot({"data": data, "layout": made}, Table(("Curve", y_title), [[name, spelt(value)] for name, value in known]))
