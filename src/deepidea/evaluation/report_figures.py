"""The plots of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from deepidea.evaluation import plots
from deepidea.evaluation.metrics import SCORE_BINS, Interval, Reliability, Scores, wilson_interval
from deepidea.evaluation.page import percent, span, thousands
from deepidea.evaluation.plots import Figure
from deepidea.flows.taxonomy import BENIGN

_NARROW = {"l": 8, "r": 16, "t": 8, "b": 8}


def evaluation_figures(scores: Scores, subsets: Mapping[str, Scores]) -> dict[str, Figure]:
    """Return the plots of scores on all rows, with the curves of subsets by title."""
    drawn = {name: of for name, of in subsets.items() if of.curve}
    return {
        "recall": _recall_figure(scores),
        "precision_recall": _precision_recall_figure(drawn, scores),
        "roc": _roc_figure(drawn, scores),
        "reliability": _reliability_figure(scores),
        "scores": _strip_figure(scores),
    }


def _limits(values: Iterable[float], spans: Sequence[Interval], **style: Any) -> Figure:
    """Return asymmetric error bars from values to the ends of their intervals."""
    pairs = list(zip(values, spans, strict=True))
    return {
        "type": "data",
        "symmetric": False,
        "array": plots.floats(of.high - value for value, of in pairs),
        "arrayminus": plots.floats(value - of.low for value, of in pairs),
        **style,
    }


def _recall_figure(scores: Scores) -> Figure:
    at = [place for place, name in enumerate(scores.classes) if scores.per_class[name].support]
    shown = [scores.per_class[scores.classes[place]] for place in at]
    recalls = [of.recall or 0.0 for of in shown]
    spans = [of.recall_interval or Interval(0, 1) for of in shown]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": plots.floats(recalls),
        "y": at,
        "width": 0.56,
        "marker": {"color": ["@benign" if scores.classes[place] == BENIGN else "@attack" for place in at]},
        "error_x": _limits(recalls, spans, color="@ink", thickness=1.2, width=4),
        "hovertext": [
            f"{percent(of.recall)} of {thousands(of.support)} rows ({span(of.recall_interval)})" for of in shown
        ],
        "hoverinfo": "text",
        "showlegend": False,
    }
    x = {"range": [0, 1.02], "tickformat": ".0%", "title": "recall, with 95 % interval"}
    return {"data": [bars], "layout": plots.layout(x, plots.class_axis(scores.classes), margin=_NARROW)}


_LINES = {
    "All rows": {"color": "@ink", "width": 2},
    "Distinct rows": {"color": "@muted", "width": 2, "dash": "dash"},
    "Unseen vectors": {"color": "@accent", "width": 2.5},
}


def _decision_marker(x: float, y: float) -> Figure:
    marker = {"symbol": "diamond", "size": 11, "color": "@attack", "line": {"color": "@page", "width": 1.5}}
    name = "The decision, all rows"
    return {"type": "scatter", "mode": "markers", "name": name, "x": [x], "y": [y], "marker": marker}


def _precision_recall_figure(subsets: Mapping[str, Scores], scores: Scores) -> Figure:
    hover = "recall %{x:.3f}<br>precision %{y:.3f}"
    lines = [
        plots.line(name, of.curve.recall, of.curve.precision, _LINES[name], hover)
        for name, of in subsets.items()
        if of.curve
    ]
    benign = scores.classes.index(BENIGN)
    alarms = scores.n_rows - int(scores.confusion[:, benign].sum())
    if scores.detection_rate is not None and alarms:
        lines.append(_decision_marker(scores.detection_rate, scores.detection_rate * scores.attack_rows / alarms))
    x = {"range": [0, 1.02], "title": "recall of attacks"}
    y = {"range": [0, 1.03], "title": "precision"}
    return {"data": lines, "layout": plots.layout(x, y)}


_RATE_TICKS = {
    "tickvals": [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1],
    "ticktext": ["0.0001 %", "0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %"],
}


def _roc_figure(subsets: Mapping[str, Scores], scores: Scores) -> Figure:
    # a logarithmic axis has no zero: half a false alarm of the largest subset stands for none
    lowest = 0.5 / max([1, *(of.benign_rows for of in subsets.values())])
    hover = "false-positive rate %{x:.2g}<br>recall %{y:.3f}"
    lines = [
        plots.line(name, np.maximum(of.curve.false_positive_rate, lowest), of.curve.recall, _LINES[name], hover)
        for name, of in subsets.items()
        if of.curve
    ]
    if scores.detection_rate is not None and scores.false_alarm_rate is not None:
        lines.append(_decision_marker(max(scores.false_alarm_rate, lowest), scores.detection_rate))
    title = "false-positive rate (left edge: none)"
    x = {"type": "log", "range": [math.log10(lowest), 0], "title": title, **_RATE_TICKS}
    y = {"range": [0, 1.03], "title": "recall of attacks"}
    return {"data": lines, "layout": plots.layout(x, y)}


def _reliability_figure(scores: Scores) -> Figure:
    traces = [plots.diagonal("As stated")]
    stated = {"Verdict's class": (scores.reliability, "@ink"), "Attack score": (scores.attack_reliability, "@attack")}
    traces += [_reliability_trace(name, of, colour) for name, (of, colour) in stated.items() if of]
    x = {"range": [-0.02, 1.02], "tickformat": ".0%", "title": "stated probability (mean of bin)"}
    y = {"range": [-0.02, 1.04], "tickformat": ".0%", "title": "observed share"}
    return {"data": traces, "layout": plots.layout(x, y)}


def _reliability_trace(name: str, of: Reliability, colour: str) -> Figure:
    # shares back to counts, for Wilson's interval of each bin
    trues = np.rint(of.observed * of.rows).astype(int).tolist()
    spans = [wilson_interval(*pair) or Interval(0, 1) for pair in zip(trues, of.rows.tolist(), strict=True)]
    hover = "stated %{x:.3f}<br>observed %{y:.3f}<br>%{hovertext}"
    return {
        **plots.line(name, of.stated, of.observed, {"color": colour, "width": 0.7}, hover),
        "mode": "lines+markers",
        "marker": {"color": colour, "size": 8},
        "error_y": _limits(of.observed.tolist(), spans, color=colour, thickness=1, width=3),
        "hovertext": [f"{thousands(rows)} rows" for rows in of.rows.tolist()],
    }


def _strip_figure(scores: Scores) -> Figure:
    strip: Figure = {"type": "heatmap", "z": [], "xgap": 1, "ygap": 6, "zmin": -4, "zmax": 0, "hoverongaps": False}
    strip["colorscale"] = [[0, "@faint"], [1, "@accent"]]
    ticks = {"tickvals": [-4, -3, -2, -1, 0], "ticktext": ["0.01 %", "0.1 %", "1 %", "10 %", "100 %"]}
    title = {"text": "of class", "font": {"size": 13}}
    strip["colorbar"] = {**ticks, "title": title, "thickness": 10, "outlinewidth": 0}
    if scores.score_histogram is not None:
        shares = [_shares(row) for row in scores.score_histogram.tolist()]
        # Shares of a class in steps of the score range over four orders of magnitude; colours are of their logarithms.
        strip["z"] = [[round(math.log10(share), 3) if share else None for share in row] for row in shares]
        strip["text"] = [[percent(share) for share in row] for row in shares]
        strip["x"] = [round((step + 0.5) / SCORE_BINS, 4) for step in range(SCORE_BINS)]
    strip["hovertemplate"] = "score %{x:.2f}: %{text} of the class<extra></extra>"
    x = {"range": [0, 1], "title": "attack score", "showgrid": False, "ticks": ""}
    layout = plots.layout(x, plots.class_axis(scores.classes), margin={**_NARROW, "r": 8})
    return {"data": [strip], "layout": layout}


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]
