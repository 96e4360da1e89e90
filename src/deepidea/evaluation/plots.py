"""What the project's plots share: plain plotly figures, whose layout and names are the same everywhere.

A colour "@name" is looked up in the page's style, so plots follow its light or dark theme.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

Figure = dict[str, Any]


def layout(x: Figure, y: Figure, **more: Any) -> Figure:
    """Return the layout that all plots share; `x` and `y` are what is special to the axes."""
    font = {"family": "system-ui, sans-serif", "size": 13, "color": "@ink"}
    title = {"text": "", "font": {"size": 13, "color": "@muted"}, "standoff": 8}
    axis = {"gridcolor": "@rule", "linecolor": "@rule", "zeroline": False, "automargin": True, "fixedrange": True}
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "@clear"}
    return {
        "font": font,
        "paper_bgcolor": "@clear",
        "plot_bgcolor": "@clear",
        "margin": {"l": 8, "r": 16, "t": 40, "b": 8},
        "legend": legend,
        "hoverlabel": {"bgcolor": "@panel", "bordercolor": "@rule", "font": font},
        "xaxis": {**axis, **x, "title": {**title, "text": x.get("title", "")}},
        "yaxis": {**axis, **y, "title": {**title, "text": y.get("title", "")}},
        **more,
    }


def plot_text(name: str, most: int = 28) -> str:
    """Return a name as plotly text, which knows some mark-up of its own."""
    return html.escape(name if len(name) <= most else name[: most - 1] + "…", quote=False)


def class_axis(classes: Sequence[str]) -> Figure:
    """Return an axis of names from top to bottom, at the places 0, 1, 2, ..."""
    places = list(range(len(classes)))
    return {
        "tickvals": places,
        "ticktext": [plot_text(name) for name in classes],
        "range": [len(classes) - 0.5, -0.5],
        "showgrid": False,
        "ticks": "",
    }


def floats(values: Iterable[float]) -> list[float]:
    """Return numbers with six figures, enough for any screen."""
    return [float(f"{value:.6g}") for value in values]


def line(name: str, x: Iterable[float], y: Iterable[float], line: Figure, hover: str) -> Figure:
    """Return a trace of one line."""
    points = {"x": floats(x), "y": floats(y)}
    return {"type": "scatter", "mode": "lines", "name": name, "line": line, "hovertemplate": hover, **points}


def diagonal(name: str) -> Figure:
    """Return a dotted trace where y is x."""
    return {**line(name, [0, 1], [0, 1], {"color": "@muted", "width": 1, "dash": "dot"}, ""), "hoverinfo": "skip"}


def marked_line(
    name: str,
    x: Iterable[float],
    y: Iterable[float],
    colour: str,
    hover: str,
    *,
    size: float | Sequence[float] = 7,
    spread: Iterable[float] | None = None,
) -> Figure:
    """Return a trace of one line with a point at each place, and error bars of a spread where it is given."""
    made = line(name, x, y, {"color": colour, "width": 2}, hover)
    bars = {} if spread is None else {"error_y": error_bars(spread, colour)}
    return {**made, "mode": "lines+markers", "marker": {"color": colour, "size": size}, **bars}


def error_bars(spread: Iterable[float], colour: str) -> Figure:
    """Return symmetric error bars."""
    return {"type": "data", "array": floats(spread), "color": colour, "thickness": 1, "width": 2}
