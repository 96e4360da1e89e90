"""An evaluation as one HTML page that a sceptical reader can open anywhere: no server, no network, no second file.

The page carries its own plotting script and forbids every request by its content security policy, which also names
the hashes of its two scripts: a class name that tries to be a script is text. The tables need no JavaScript. Equal
evaluations are equal bytes.

`trust_notes` is the reading of the numbers in plain sentences; the command line may tell the same.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepidea.errors import MissingExtraError
from deepidea.evaluation.evaluate import Evaluation
from deepidea.evaluation.metrics import (
    SCORE_BINS,
    Interval,
    Reliability,
    Scores,
    alert_precision,
    decimal,
    wilson_interval,
)
from deepidea.flows.atomic import replacing
from deepidea.flows.taxonomy import BENIGN

FEW_ROWS = 50
SUBSET_TITLES = {"all": "All rows", "distinct": "Distinct rows", "unseen": "Unseen vectors"}

Figure = dict[str, Any]
Cells = Sequence[str]


def write_report(evaluation: Evaluation, path: str | Path, *, title: str | None = None) -> None:
    """Write an evaluation as one self-contained HTML file (about 5 MB, nearly all of it the plotting script).

    Parameters
    ----------
    evaluation : Evaluation
    path : path
    title : str, optional
        Heading; by default the source of the flows.

    Raises
    ------
    MissingExtraError
        plotly is not installed.
    StorageError
        The file cannot be written; what stood there stays.
    """
    page = render_report(evaluation, title=title)
    with replacing(path) as partial:
        partial.write_bytes(page.encode("utf-8", "replace"))


def render_report(evaluation: Evaluation, *, title: str | None = None) -> str:
    """Return the page that `write_report` writes."""
    heading = title or f"Detector on {evaluation.data['source']}"
    plotly, figures = _plotly_script(), _figures(evaluation)
    return _PAGE.format(
        policy=_policy(plotly, _SCRIPT),
        title=html.escape(heading),
        style=_STYLE,
        body="\n".join(_sections(evaluation, heading)),
        figures=_json_in_script(figures),
        plotly=plotly,
        script=_SCRIPT,
    )


def _plotly_script() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError(
            "a report needs plotly, however: it is not installed; run: pip install 'deepidea[train]'"
        ) from error
    return str(get_plotlyjs()).replace("\r", "").replace("</script", "<\\/script")


def _policy(*scripts: str) -> str:
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _json_in_script(value: Any) -> str:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --- numbers and names as a reader wants them --------------------------------------------------------------------


def _name(text: object) -> str:
    return f"<bdi>{html.escape(str(text))}</bdi>"


def _decimals(share: float) -> int:
    """Return decimals of a percentage that keep two figures of the distance to 0 % or 100 %."""
    distance = min(share, 1 - share) * 100
    return 0 if distance <= 0 else min(4, max(1, math.ceil(-math.log10(distance)) + 1))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share * 100:.{_decimals(share)}f} %"


def _span(interval: Interval | None) -> str:
    """Spell an interval; both ends get the decimals of the finer one."""
    if interval is None:
        return ""
    digits = max(_decimals(interval.low), _decimals(interval.high))
    low, high = (f"{end * 100:.{0 if end in (0, 1) else digits}f}" for end in (interval.low, interval.high))
    return f"{low} – {high} %"


def _fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _count(number: int) -> str:
    return f"{number:,}"


def _one_in(precision: float) -> str:
    """Spell a share of true alerts the way it is felt: how many are opened for one that is true."""
    return f"{_percent(precision)} of alerts" if precision > 0.5 else f"1 alert in {_rounded(1 / precision)}"


def _rounded(number: float) -> str:
    """Spell a number above 1 with two figures or so: 3.4, 47, 1,200."""
    if number < 10:
        return f"{number:.1f}".removesuffix(".0")
    step = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return _count(round(number / step) * step)


# --- how far to trust it -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrustNote:
    """One reading of the numbers: a heading of a few words, and plain sentences."""

    heading: str
    text: str


def trust_notes(evaluation: Evaluation) -> list[TrustNote]:
    """Say in plain sentences how far an evaluation can be trusted; plain text, names unescaped."""
    notes = {
        "In use": _note_on_alerts(evaluation.scores),
        "Memory": _note_on_memory(evaluation),
        "Small classes": _note_on_small_classes(evaluation.scores),
        "Repeats and contradictions": _note_on_repeats(evaluation),
        "A single rule": _note_on_baselines(evaluation),
        "Probabilities": _note_on_calibration(evaluation.scores),
        "Low false-positive rates": _note_on_resolution(evaluation.scores),
        "Elsewhere": "Nothing here tells how it does on another network, with another flow meter, on kinds of attack "
        "that these rows do not hold, or next year.",
    }
    return [TrustNote(heading, text) for heading, text in notes.items() if text]


def _note_on_alerts(scores: Scores, prevalence: float = 1e-4) -> str:
    detection, alarm = scores.detection_rate, scores.false_alarm_rate
    limits = scores.precision_at_prevalence_interval[decimal(prevalence)]
    if detection is None or alarm is None or limits is None:
        return "These rows hold no attack or nothing else, so what an alert is worth cannot be told."
    caught = (
        f"It caught {_percent(detection)} of the attack flows and raised an alarm on {_percent(alarm)} of the benign."
    )
    precision, where = alert_precision(detection, alarm, prevalence), "Where 1 flow in 10,000 is an attack, "
    if not precision:
        return f"{caught} It would raise no true alert."
    if alarm == 0:
        most = scores.false_alarm_rate_interval
        upper = _percent(most.high if most else None)
        return f"{caught} With so many benign rows the true rate may still be {upper}. {where}as few as " + (
            f"{_one_in(limits.low)} may then be true."
        )
    per_million = f"a million benign flows cost about {_rounded(max(1.0, alarm * 1e6))} false alarms"
    return f"{caught} {where}{_one_in(precision)} would be true ({_span(limits)}), and {per_million}."


def _note_on_memory(evaluation: Evaluation) -> str:
    data, unseen = evaluation.data, evaluation.subsets.get("unseen")
    if data["twins_in_training"] is None:
        return (
            "The detector does not carry the fingerprints of its training rows, so how much of these scores is memory "
            "cannot be told."
        )
    share = _percent(data["twins_in_training"] / data["rows"])
    twins = f"{share} of the rows have an exact twin among the training rows."
    if unseen is None:
        return f"{twins} No other rows are left: these scores measure memory, and nothing else."
    whole = evaluation.scores
    rates = f"the detection rate {_percent(unseen.detection_rate)} instead of {_percent(whole.detection_rate)}"
    fewer = (
        sum(of.support > 0 for of in unseen.per_class.values()),
        sum(of.support > 0 for of in whole.per_class.values()),
    )
    hint = "" if fewer[0] == fewer[1] else f" (over the {fewer[0]} classes that are left)"
    cba = f"class-balanced accuracy is {_percent(unseen.cba)} instead of {_percent(whole.cba)}{hint}"
    return f"{twins} On the {_count(unseen.n_rows)} rows that have none, {cba}, {rates}."


def _note_on_small_classes(scores: Scores) -> str:
    small = {name: of for name, of in scores.per_class.items() if 0 < of.support < FEW_ROWS}
    absent = [name for name, of in scores.per_class.items() if of.support == 0]
    told = [f"{name} ({of.support} rows: recall {_span(of.recall_interval)})" for name, of in small.items()]
    few = f"Fewer than {FEW_ROWS} rows, hence wide intervals: {_listed(told)}." if told else ""
    none = f"No rows at all, hence nothing known: {_listed(absent)}." if absent else ""
    return f"{few} {none}".strip()


def _listed(items: Sequence[str], most: int = 6) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def _note_on_repeats(evaluation: Evaluation) -> str:
    data = evaluation.data
    repeats = contradictions = ""
    if data["duplicate_rows"]:
        share = _percent(data["duplicate_rows"] / data["rows"])
        repeats = (
            f"{share} of the rows repeat an earlier one. Intervals take rows for independent, so they are too narrow."
        )
    if data["contradictory_rows"]:
        share = _percent(data["contradictory_rows"] / data["rows"])
        contradictions = (
            f"{_count(data['contradictory_rows'])} rows ({share}) equal a row of another class in every feature; "
            f"whatever the detector, it gets at least {_count(data['unavoidable_errors'])} of them wrong."
        )
    return f"{repeats} {contradictions}".strip()


def _note_on_baselines(evaluation: Evaluation) -> str:
    rules = [(name, scores) for name, scores in evaluation.baselines.items() if name.startswith("one rule")]
    if not rules:
        return "No reference was given, so whether one comparison on one feature would do as well cannot be told."
    name, rule = rules[0]
    ours, its = _attack_balance(evaluation.scores), _attack_balance(rule)
    if ours is None or its is None:
        return ""
    rates = f"catches {_percent(rule.detection_rate)} of the attacks and alarms on {_percent(rule.false_alarm_rate)}"
    verdict = (
        "That is about as good as the detector: these rows are easy, or give the answer away."
        if its > ours - 0.05
        else f"Averaged over attack and benign it is right on {_percent(its)}, the detector on {_percent(ours)}."
    )
    found = f"The best single comparison on training rows, {name.removeprefix('one rule: ')},"
    return f"{found} {rates} of the benign. {verdict}"


def _attack_balance(scores: Scores) -> float | None:
    if scores.detection_rate is None or scores.false_alarm_rate is None:
        return None
    return (scores.detection_rate + 1 - scores.false_alarm_rate) / 2


def _note_on_calibration(scores: Scores) -> str:
    if scores.calibration_error is None or scores.attack_calibration_error is None:
        return ""
    off = f"{scores.calibration_error * 100:.1f} points for the class and {scores.attack_calibration_error * 100:.1f} "
    worse = max(scores.calibration_error, scores.attack_calibration_error)
    advice = (
        "Use them to rank, not as probabilities." if worse > 0.05 else "They hold at the attack share of these rows."
    )
    return f"On average the stated probabilities are off by {off}for attack. {advice}"


def _note_on_resolution(scores: Scores) -> str:
    kept = "Recall at a false-positive rate takes the threshold from these very rows; carried over, it will drift."
    told = [f"At {rate}, {at.reason}." for rate, at in scores.recall_at_fpr.items() if at.reason and at.recall == 0]
    unresolved = [rate for rate, at in scores.recall_at_fpr.items() if at.recall is None]
    if unresolved and scores.benign_rows:
        told.append(f"{_count(scores.benign_rows)} benign rows cannot resolve a rate of {', '.join(unresolved)}.")
    return " ".join([*told, kept])


# --- the page, top to bottom -------------------------------------------------------------------------------------


def _sections(evaluation: Evaluation, heading: str) -> Iterable[str]:
    yield f"<header><p class=kind>Evaluation of a network intrusion detector</p><h1>{_name(heading)}</h1>"
    yield f"{_data_line(evaluation)}{_model_line(evaluation.model)}{_tiles(evaluation.scores)}</header>"
    yield _section("How far to trust this", _notes_list(evaluation))
    yield _section("Scores", _scores_table(evaluation), _SCORES_NOTE)
    yield _section("What an alert is worth", _alerts_table(evaluation.scores), _ALERTS_NOTE)
    yield _section("Classes", _figure("recall", _recall_height(evaluation.scores)) + _class_table(evaluation.scores))
    yield _section("Confusion", _confusion_table(evaluation.scores), _CONFUSION_NOTE)
    curves = _figure("precision_recall", 380) + _figure("roc", 380)
    yield _section("Ranking by attack score", f"<div class=pair>{curves}</div>", _RANKING_NOTE)
    yield _section(
        "Stated against observed", f"<div class=narrow>{_figure('reliability', 460)}</div>", _RELIABILITY_NOTE
    )
    yield _section("Attack scores by class", _figure("scores", _strip_height(evaluation.scores)), _STRIP_NOTE)
    yield _section("The detector", _model_table(evaluation.model))
    yield f"<footer><p>{_FOOTER}</p></footer>"


def _section(title: str, content: str, note: str = "") -> str:
    told = f"<p class=note>{note}</p>" if note else ""
    return f"<section><h2>{title}</h2>{told}{content}</section>"


def _figure(key: str, height: int) -> str:
    return f'<div class=figure id="figure-{key}" style="height:{height}px"></div>'


def _table(head: Cells, rows: Iterable[Cells], kind: str = "") -> str:
    heads = "".join(f"<th scope=col>{cell}</th>" for cell in head)
    body = "".join(
        f"<tr><th scope=row>{first}</th>{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>" for first, *rest in rows
    )
    table = f"<table class='{kind}'><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class=scroll tabindex=0>{table}</div>"


def _with_span(value: str, interval: Interval | None) -> str:
    return f"{value}<small>{_span(interval)}</small>" if interval else value


def _data_line(evaluation: Evaluation) -> str:
    data, scores = evaluation.data, evaluation.scores
    facts = [
        ("Flows", _name(data["source"])),
        ("Rows", _count(data["rows"])),
        ("Attack share", _percent(scores.attack_rows / scores.n_rows)),
        ("Distinct rows", _count(data["distinct_rows"])),
        ("Unseen vectors", "not known" if data["unseen_rows"] is None else _count(data["unseen_rows"])),
    ]
    return _facts_line(facts)


def _facts_line(facts: Iterable[tuple[str, str]]) -> str:
    """Set facts side by side; names and values are HTML already."""
    return "<dl class=facts>" + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts) + "</dl>"


def _model_line(model: Mapping[str, Any], most: int = 6) -> str:
    plain = [(key, value) for key, value in model.items() if isinstance(value, str | int | float) and key != "schema"]
    classes = ("Classes", _name(", ".join(model["classes"]) if len(model["classes"]) <= 8 else len(model["classes"])))
    told = [(_name(key.replace("_", " ").capitalize()), _name(value)) for key, value in plain[:most]]
    return _facts_line([("Schema", _name(model["schema"])), classes, *told])


def _tiles(scores: Scores) -> str:
    tiles = [
        ("Attacks caught", _percent(scores.detection_rate), _span(scores.detection_rate_interval)),
        ("Benign flows alarmed on", _percent(scores.false_alarm_rate), _span(scores.false_alarm_rate_interval)),
        ("Class-balanced accuracy", _percent(scores.cba), _span(scores.cba_interval)),
        ("PR-AUC", _fixed(scores.pr_auc), f"chance is {_fixed(scores.attack_rows / scores.n_rows)}"),
    ]
    cells = (f"<div><span>{name}</span><b>{value}</b><small>{span}</small></div>" for name, value, span in tiles)
    return f"<div class=tiles>{''.join(cells)}</div>"


def _notes_list(evaluation: Evaluation) -> str:
    notes = trust_notes(evaluation)
    items = (f"<div><dt>{note.heading}</dt><dd>{html.escape(note.text)}</dd></div>" for note in notes)
    return f"<dl class=notes>{''.join(items)}</dl>"


def _scores_table(evaluation: Evaluation) -> str:
    subsets = {SUBSET_TITLES.get(name, name): scores for name, scores in evaluation.subsets.items()}
    columns = {**subsets, **evaluation.baselines}
    cells = {name: _score_cells(scores) if scores else {} for name, scores in columns.items()}
    names = list(_score_cells(evaluation.scores))
    heads = ["", *(_name(title) for title in columns)]
    return _table(heads, ([name, *(column.get(name, "–") for column in cells.values())] for name in names))


def _score_cells(scores: Scores) -> dict[str, str]:
    at = {
        f"Recall at FPR {rate}": _with_span(_percent(point.recall), point.recall_interval)
        if scores.reliability
        else "–"
        for rate, point in scores.recall_at_fpr.items()  # a rule has two scores, so no threshold to choose
    }
    return {
        "Rows": _count(scores.n_rows),
        "Class-balanced accuracy": _with_span(_percent(scores.cba), scores.cba_interval),
        "Macro-F1": _percent(scores.macro_f1),
        "Accuracy": _percent(scores.accuracy),
        "Detection rate": _with_span(_percent(scores.detection_rate), scores.detection_rate_interval),
        "False-alarm rate": _with_span(_percent(scores.false_alarm_rate), scores.false_alarm_rate_interval),
        "PR-AUC": _fixed(scores.pr_auc),
        "ROC-AUC": _fixed(scores.roc_auc),
        **at,
        "Calibration error, class": _fixed(scores.calibration_error),
        "Calibration error, attack": _fixed(scores.attack_calibration_error if scores.reliability else None),
        "Brier score": _fixed(scores.brier),
    }


def _alerts_table(scores: Scores) -> str:
    head = ["Flows that are attacks", "Alerts that are true", "95 % interval", "False alarms per true one"]
    return _table(head, (_alert_cells(scores, rate) for rate in scores.precision_at_prevalence))


def _alert_cells(scores: Scores, rate: str) -> Cells:
    precision = scores.precision_at_prevalence[rate]
    false_per_true = "–" if not precision else _rounded((1 - precision) / precision) if precision < 1 else "0"
    span = _span(scores.precision_at_prevalence_interval[rate])
    return [f"1 in {_count(round(1 / float(rate)))}", _percent(precision), span or "–", false_per_true]


def _class_table(scores: Scores) -> str:
    head = ["Class", "Rows", "Verdicts", "Recall", "Precision", "F1"]
    return _table(head, (_class_cells(scores, name) for name in scores.classes))


def _class_cells(scores: Scores, name: str) -> Cells:
    of = scores.per_class[name]
    few = " <span class=tag>few rows</span>" if of.support < FEW_ROWS else ""
    return [
        f"<i class={'benign' if name == BENIGN else 'attack'}></i>{_name(name)}{few}",
        _count(of.support),
        _count(of.predicted),
        _with_span(_percent(of.recall), of.recall_interval),
        _with_span(_percent(of.precision), of.precision_interval),
        _with_span(_percent(of.f1), of.f1_interval),
    ]


def _confusion_table(scores: Scores) -> str:
    many = len(scores.classes) > 8
    heads = "".join(f"<th scope=col>{_name(name)}</th>" for name in scores.classes)
    counts = scores.confusion.tolist()
    rows = "".join(_confusion_row(name, row, many) for name, row in zip(scores.classes, counts, strict=True))
    corner = "<th scope=col class=corner>Truth ↓&ensp;Verdict →</th>"
    table = f"<thead><tr>{corner}{heads}</tr></thead><tbody>{rows}</tbody>"
    return f"<div class=scroll tabindex=0><table class='confusion{' many' if many else ''}'>{table}</table></div>"


def _confusion_row(name: str, counts: Sequence[int], many: bool) -> str:
    total = sum(counts)
    cells = "".join(_confusion_cell(count, total, many) for count in counts)
    return f"<tr><th scope=row>{_name(name)}</th>{cells}</tr>"


def _confusion_cell(count: int, total: int, many: bool) -> str:
    if count == 0:
        return "<td class=none>·</td>"
    share = count / total
    deep = " deep" if share > 0.55 else ""
    told = (f"{share * 100:.0f}" if share >= 0.005 else "<1") if many else _percent(share)
    return f"<td class='heat{deep}' style='--share:{share:.3f}'>{html.escape(told)}<small>{_count(count)}</small></td>"


def _model_table(model: Mapping[str, Any]) -> str:
    return _table(["Recorded in its file", ""], ([_name(key), _name(value)] for key, value in _flat(model)), "plain")


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key} › ")
        else:
            told = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{before}{key}", told


# --- plots -------------------------------------------------------------------------------------------------------
# Plain plotly.js figures. A colour "@name" is looked up in the page's style, so plots follow its light or dark theme.


def _figures(evaluation: Evaluation) -> dict[str, Figure]:
    scores = evaluation.scores
    subsets = {SUBSET_TITLES.get(name, name): of for name, of in evaluation.subsets.items() if of and of.curve}
    return {
        "recall": _recall_figure(scores),
        "precision_recall": _precision_recall_figure(subsets, scores),
        "roc": _roc_figure(subsets, scores),
        "reliability": _reliability_figure(scores),
        "scores": _strip_figure(scores),
    }


def _layout(x: Figure, y: Figure, **more: Any) -> Figure:
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


def _plot_text(name: str, most: int = 28) -> str:
    """Return a name as plotly text, which knows some mark-up of its own."""
    return html.escape(name if len(name) <= most else name[: most - 1] + "…", quote=False)


def _class_axis(classes: Sequence[str]) -> Figure:
    places = list(range(len(classes)))
    return {
        "tickvals": places,
        "ticktext": [_plot_text(name) for name in classes],
        "range": [len(classes) - 0.5, -0.5],
        "showgrid": False,
        "ticks": "",
    }


def _floats(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _recall_height(scores: Scores) -> int:
    return 90 + 34 * len(scores.classes)


def _recall_figure(scores: Scores) -> Figure:
    at = [place for place, name in enumerate(scores.classes) if scores.per_class[name].support]
    shown = [scores.per_class[scores.classes[place]] for place in at]
    spans = [of.recall_interval or Interval(0, 1) for of in shown]
    recalls = [of.recall or 0.0 for of in shown]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": _floats(recalls),
        "y": at,
        "width": 0.56,
        "marker": {"color": ["@benign" if scores.classes[place] == BENIGN else "@attack" for place in at]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": _floats(span.high - recall for span, recall in zip(spans, recalls, strict=True)),
            "arrayminus": _floats(recall - span.low for span, recall in zip(spans, recalls, strict=True)),
            "color": "@ink",
            "thickness": 1.2,
            "width": 4,
        },
        "hovertext": [
            f"{_percent(of.recall)} of {_count(of.support)} rows ({_span(of.recall_interval)})" for of in shown
        ],
        "hoverinfo": "text",
        "showlegend": False,
    }
    x = {"range": [0, 1.02], "tickformat": ".0%", "title": "recall, with 95 % interval"}
    return {"data": [bars], "layout": _layout(x, _class_axis(scores.classes), margin={"l": 8, "r": 16, "t": 8, "b": 8})}


_LINES = {
    "All rows": {"color": "@ink", "width": 2},
    "Distinct rows": {"color": "@muted", "width": 2, "dash": "dash"},
    "Unseen vectors": {"color": "@accent", "width": 2.5},
}


def _line(name: str, x: Iterable[float], y: Iterable[float], line: Figure, hover: str) -> Figure:
    points = {"x": _floats(x), "y": _floats(y)}
    return {"type": "scatter", "mode": "lines", "name": name, "line": line, "hovertemplate": hover, **points}


def _decision_marker(x: float, y: float) -> Figure:
    marker = {"symbol": "diamond", "size": 11, "color": "@attack", "line": {"color": "@page", "width": 1.5}}
    name = "The decision, all rows"
    return {"type": "scatter", "mode": "markers", "name": name, "x": [x], "y": [y], "marker": marker}


def _precision_recall_figure(subsets: Mapping[str, Scores], scores: Scores) -> Figure:
    hover = "recall %{x:.3f}<br>precision %{y:.3f}"
    lines = [
        _line(name, of.curve.recall, of.curve.precision, _LINES[name], hover)
        for name, of in subsets.items()
        if of.curve
    ]
    benign = scores.classes.index(BENIGN)
    alarms = scores.n_rows - int(scores.confusion[:, benign].sum())
    if scores.detection_rate is not None and alarms:
        lines.append(_decision_marker(scores.detection_rate, scores.detection_rate * scores.attack_rows / alarms))
    x = {"range": [0, 1.02], "title": "recall of attacks"}
    y = {"range": [0, 1.03], "title": "precision"}
    return {"data": lines, "layout": _layout(x, y)}


_RATE_TICKS = {
    "tickvals": [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1],
    "ticktext": ["0.0001 %", "0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %"],
}


def _roc_figure(subsets: Mapping[str, Scores], scores: Scores) -> Figure:
    lowest = 0.5 / max([1, *(of.benign_rows for of in subsets.values())])
    hover = "false-positive rate %{x:.2g}<br>recall %{y:.3f}"
    lines = [
        _line(name, np.maximum(of.curve.false_positive_rate, lowest), of.curve.recall, _LINES[name], hover)
        for name, of in subsets.items()
        if of.curve
    ]
    if scores.detection_rate is not None and scores.false_alarm_rate is not None:
        lines.append(_decision_marker(max(scores.false_alarm_rate, lowest), scores.detection_rate))
    title = "false-positive rate (left edge: none)"
    x = {"type": "log", "range": [math.log10(lowest), 0], "title": title, **_RATE_TICKS}
    y = {"range": [0, 1.03], "title": "recall of attacks"}
    return {"data": lines, "layout": _layout(x, y)}


def _reliability_figure(scores: Scores) -> Figure:
    diagonal = {"color": "@muted", "width": 1, "dash": "dot"}
    traces = [{**_line("As stated", [0, 1], [0, 1], diagonal, ""), "hoverinfo": "skip"}]
    stated = {"Verdict's class": (scores.reliability, "@ink"), "Attack score": (scores.attack_reliability, "@attack")}
    traces += [_reliability_trace(name, of, colour) for name, (of, colour) in stated.items() if of]
    x = {"range": [-0.02, 1.02], "tickformat": ".0%", "title": "stated probability (mean of bin)"}
    y = {"range": [-0.02, 1.04], "tickformat": ".0%", "title": "came true"}
    return {"data": traces, "layout": _layout(x, y)}


def _reliability_trace(name: str, of: Reliability, colour: str) -> Figure:
    trues = np.rint(of.observed * of.rows).astype(int).tolist()
    spans = [wilson_interval(*pair) or Interval(0, 1) for pair in zip(trues, of.rows.tolist(), strict=True)]
    observed = of.observed.tolist()
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": _floats(of.stated),
        "y": _floats(observed),
        "line": {"color": colour, "width": 0.7},
        "marker": {"color": colour, "size": 8},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": _floats(span.high - share for span, share in zip(spans, observed, strict=True)),
            "arrayminus": _floats(share - span.low for span, share in zip(spans, observed, strict=True)),
            "color": colour,
            "thickness": 1,
            "width": 3,
        },
        "hovertext": [f"{_count(rows)} rows" for rows in of.rows.tolist()],
        "hovertemplate": "stated %{x:.3f}<br>came true %{y:.3f}<br>%{hovertext}",
    }


def _strip_height(scores: Scores) -> int:
    return 110 + 30 * len(scores.classes)


def _strip_figure(scores: Scores) -> Figure:
    strip: Figure = {"type": "heatmap", "z": [], "xgap": 1, "ygap": 6, "zmin": -4, "zmax": 0, "hoverongaps": False}
    strip["colorscale"] = [[0, "@faint"], [1, "@accent"]]
    ticks = {"tickvals": [-4, -3, -2, -1, 0], "ticktext": ["0.01 %", "0.1 %", "1 %", "10 %", "100 %"]}
    strip["colorbar"] = {
        **ticks,
        "title": {"text": "of class", "font": {"size": 13}},
        "thickness": 10,
        "outlinewidth": 0,
    }
    if scores.score_histogram is not None:
        shares = [_shares(row) for row in scores.score_histogram.tolist()]
        strip["z"] = [[round(math.log10(share), 3) if share else None for share in row] for row in shares]
        strip["text"] = [[_percent(share) for share in row] for row in shares]
        strip["x"] = [round((step + 0.5) / SCORE_BINS, 4) for step in range(SCORE_BINS)]
    strip["hovertemplate"] = "score %{x:.2f}: %{text} of the class<extra></extra>"
    x = {"range": [0, 1], "title": "attack score", "showgrid": False, "ticks": ""}
    return {"data": [strip], "layout": _layout(x, _class_axis(scores.classes), margin={"l": 8, "r": 8, "t": 8, "b": 8})}


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


# --- words, style, script ----------------------------------------------------------------------------------------

_SCORES_NOTE = (
    "Distinct rows: the first of each feature vector and class. Unseen vectors: rows whose features no training row "
    "has. The references at the right saw one feature or none; they are scored on all rows. A dash is a number that "
    "the rows cannot give. Small print: 95 % intervals."
)
_ALERTS_NOTE = (
    "By Bayes from the detection and false-alarm rates on all rows. The attack share of a test file is chosen by who "
    "made it; the share on a network is far lower, and it decides how many alerts are true."
)
_CONFUSION_NOTE = "Each row adds up to 100 %: where the flows of that class went, in percent. Small print: counts."
_RANKING_NOTE = (
    "What each threshold of the attack score would do. Precision holds for the attack share of these rows only; the "
    "curve at the right does not depend on it."
)
_RELIABILITY_NOTE = (
    "Up to 15 bins of about equal mass. On the diagonal, what is said to be 90 % sure comes true nine times in ten; "
    "below it the detector is too sure of itself."
)
_STRIP_NOTE = "Share of each class per step of 0.02; the colour scale is logarithmic, so that rare misses show."
_FOOTER = (
    "Intervals: Wilson's for shares; for F1 that of TP / (TP + FP + FN), carried over; for class-balanced accuracy the "
    "mean of independent shares with Wilson limits (MOVER). PR-AUC is average precision with attack as positive. "
    "Class-balanced accuracy is the mean recall over the classes that have rows."
)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<noscript><p>Plots need JavaScript; the tables do not.</p></noscript>
<script type="application/json" id="figures">{figures}</script>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""

_STYLE = """
:root { --page: #ffffff; --panel: #f5f7f9; --ink: #1c2733; --muted: #5d6b79; --rule: #dde3e8; --faint: #e3efee;
  --benign: #2f6fb3; --attack: #c8500f; --accent: #0f766e; --on-accent: #ffffff; --clear: rgba(0,0,0,0); }
@media (prefers-color-scheme: dark) { :root:not(.print) { --page: #11161b; --panel: #192028; --ink: #e4e9ee;
  --muted: #98a5b2; --rule: #2c3742; --faint: #1b2e2e; --benign: #66a5e6; --attack: #f18d4f; --accent: #3fb8ab;
  --on-accent: #06201d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 16px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 6px; }
section { margin-top: 44px; }
.kind { margin: 0 0 4px; color: var(--muted); }
.note, footer { color: var(--muted); font-size: .9rem; max-width: 76ch; margin: 0 0 14px; }
footer { margin-top: 44px; border-top: 1px solid var(--rule); padding-top: 12px; }
dl, dd { margin: 0; }
.facts { display: flex; flex-wrap: wrap; gap: 10px 32px; margin-bottom: 12px; }
.tiles { margin-top: 24px; }
.facts dt { color: var(--muted); font-size: .8rem; }
.facts dd { overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; }
.tiles div { background: var(--panel); border-radius: 8px; padding: 14px 16px; }
.tiles span, .tiles small { display: block; color: var(--muted); font-size: .85rem; }
.tiles b { display: block; font-size: 1.7rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.notes div { display: grid; grid-template-columns: 13rem 1fr; gap: 2px 20px; padding: 10px 0;
  border-top: 1px solid var(--rule); }
.notes div:last-child { border-bottom: 1px solid var(--rule); }
.notes dt { font-weight: 600; }
.notes dd { max-width: 76ch; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th { font-weight: 500; }
thead th { color: var(--muted); font-size: .85rem; vertical-align: bottom; }
th:first-child { text-align: left; padding-left: 0; position: sticky; left: 0; background: var(--page); }
tbody th { min-width: 7rem; overflow-wrap: anywhere; }
td { white-space: nowrap; }
td small { display: block; color: var(--muted); font-size: .78rem; white-space: nowrap; }
.plain th { width: 34%; overflow-wrap: anywhere; }
.plain td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.plain thead th { text-align: left; }
.tag { color: var(--attack); border: 1px solid currentColor; border-radius: 4px; padding: 0 5px; font-size: .75rem;
  white-space: nowrap; }
i.benign, i.attack { display: inline-block; width: .6em; height: .6em; border-radius: 2px; margin-right: .5em; }
i.benign { background: var(--benign); } i.attack { background: var(--attack); }
.confusion { width: auto; border-collapse: separate; border-spacing: 3px; }
.confusion th, .confusion td { border: 0; }
.confusion td { text-align: center; min-width: 92px; border-radius: 5px; vertical-align: middle; }
.confusion thead th { text-align: center; max-width: 12rem; overflow-wrap: anywhere; }
.confusion .corner { text-align: left; white-space: nowrap; }
.confusion tbody th { vertical-align: middle; max-width: 16rem; }
.confusion .none { color: var(--muted); background: var(--panel); }
.confusion .heat { background: color-mix(in srgb, var(--accent) calc(8% + 92% * var(--share)), var(--page)); }
.confusion .deep, .confusion .deep small { color: var(--on-accent); }
.many { font-size: .75rem; border-spacing: 2px; }
.many td { min-width: 30px; padding: 2px 3px; border-radius: 3px; } .many td small { font-size: .65rem; }
.many tbody th { padding: 2px 6px 2px 0; white-space: nowrap; }
.many th bdi { display: inline-block; max-width: 10rem; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.many thead th bdi { writing-mode: vertical-rl; transform: rotate(180deg); max-width: none; max-height: 10rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 20px; }
.figure { min-width: 0; margin-bottom: 14px; }
.narrow { max-width: 600px; }
@media screen and (max-width: 760px) { main { padding: 20px 14px 32px; } h1 { font-size: 1.4rem; }
  .tiles { grid-template-columns: 1fr 1fr; } .tiles b { font-size: 1.35rem; } .pair { grid-template-columns: 1fr; }
  .notes div { grid-template-columns: 1fr; } th, td { padding: 6px 8px; } }
:root.print main { max-width: 670px; padding: 0; }
@media print { @page { margin: 14mm; } main { max-width: none; padding: 0; } body { font-size: 12px; }
  .tiles { grid-template-columns: repeat(4, 1fr); } .tiles b { font-size: 1.4rem; }
  .scroll { overflow: visible; } section { margin-top: 24px; } h2, .note { break-after: avoid; break-inside: avoid; }
  th:first-child { position: static; background: none; }
  .figure, tr, .notes div, .tiles { break-inside: avoid; } * { print-color-adjust: exact; } }
"""

_SCRIPT = """
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const colour = name => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const painted = (value, key) => {
    if (Array.isArray(value)) return value.map(item => painted(item, key));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, painted(item, name)]));
    const named = typeof value === "string" && value.startsWith("@") && /color(scale)?$/.test(key || "");
    return named ? colour(value.slice(1)) : value;
  };
  const draw = () => {
    for (const [key, figure] of Object.entries(figures)) {
      const { data, layout } = painted(figure);
      Plotly.react("figure-" + key, data, layout, { displayModeBar: false, responsive: true });
    }
  };
  const print = printing => { root.classList.toggle("print", printing); draw(); };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
})();
"""
