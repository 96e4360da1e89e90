"""An evaluation as one HTML page that a sceptical reader can open anywhere: no server, no network, no second file.

The page carries its own plotting script and forbids every request by its content security policy, which also names
the hashes of its two scripts: a class name that tries to be a script is text. The tables need no JavaScript. Equal
evaluations are equal bytes.

`trust_notes` is the reading of the numbers in plain sentences; the command line may tell the same.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepidea.evaluation import page
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
from deepidea.evaluation.page import Cells, Figure
from deepidea.flows.taxonomy import BENIGN

FEW_ROWS = 50
SUBSET_TITLES = {"all": "All rows", "distinct": "Distinct rows", "unseen": "Unseen vectors"}


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
    page.write_page(render_report(evaluation, title=title), path)


def render_report(evaluation: Evaluation, *, title: str | None = None) -> str:
    """Return the page that `write_report` writes."""
    heading = title or f"Detector on {evaluation.data['source']}"
    return page.render_page(heading, "\n".join(_sections(evaluation, heading)), _figures(evaluation))


def _one_in(precision: float) -> str:
    """Spell a share of true alerts the way it is felt: how many are opened for one that is true."""
    return f"{page.percent(precision)} of alerts" if precision > 0.5 else f"1 alert in {page.rounded(1 / precision)}"


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
    alarmed = page.percent(alarm)
    caught = f"It caught {page.percent(detection)} of the attack flows and raised an alarm on {alarmed} of the benign."
    precision, where = alert_precision(detection, alarm, prevalence), "Where 1 flow in 10,000 is an attack, "
    if not precision:
        return f"{caught} It would raise no true alert."
    if alarm == 0:
        most = scores.false_alarm_rate_interval
        upper = page.percent(most.high if most else None)
        return f"{caught} With so many benign rows the true rate may still be {upper}. {where}as few as " + (
            f"{_one_in(limits.low)} may then be true."
        )
    per_million = f"a million benign flows cost about {page.rounded(max(1.0, alarm * 1e6))} false alarms"
    return f"{caught} {where}{_one_in(precision)} would be true ({page.span(limits)}), and {per_million}."


def _note_on_memory(evaluation: Evaluation) -> str:
    data, unseen = evaluation.data, evaluation.subsets.get("unseen")
    if data["twins_in_training"] is None:
        return (
            "The detector does not carry the fingerprints of its training rows, so how much of these scores is memory "
            "cannot be told."
        )
    share = page.percent(data["twins_in_training"] / data["rows"])
    twins = f"{share} of the rows have an exact twin among the training rows."
    if unseen is None:
        return f"{twins} No other rows are left: these scores measure memory, and nothing else."
    whole = evaluation.scores
    rates = f"the detection rate {page.percent(unseen.detection_rate)} instead of {page.percent(whole.detection_rate)}"
    fewer = (
        sum(of.support > 0 for of in unseen.per_class.values()),
        sum(of.support > 0 for of in whole.per_class.values()),
    )
    hint = "" if fewer[0] == fewer[1] else f" (over the {fewer[0]} classes that are left)"
    cba = f"class-balanced accuracy is {page.percent(unseen.cba)} instead of {page.percent(whole.cba)}{hint}"
    return f"{twins} On the {page.thousands(unseen.n_rows)} rows that have none, {cba}, {rates}."


def _note_on_small_classes(scores: Scores) -> str:
    small = {name: of for name, of in scores.per_class.items() if 0 < of.support < FEW_ROWS}
    absent = [name for name, of in scores.per_class.items() if of.support == 0]
    told = [f"{name} ({of.support} rows: recall {page.span(of.recall_interval)})" for name, of in small.items()]
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
        share = page.percent(data["duplicate_rows"] / data["rows"])
        repeats = (
            f"{share} of the rows repeat an earlier one. Intervals take rows for independent, so they are too narrow."
        )
    if data["contradictory_rows"]:
        share = page.percent(data["contradictory_rows"] / data["rows"])
        contradictions = (
            f"{page.thousands(data['contradictory_rows'])} rows ({share}) equal a row of another class in every "
            f"feature; whatever the detector, it gets at least {page.thousands(data['unavoidable_errors'])} of them "
            "wrong."
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
    caught, alarmed = page.percent(rule.detection_rate), page.percent(rule.false_alarm_rate)
    verdict = (
        "That is about as good as the detector: these rows are easy, or give the answer away."
        if its > ours - 0.05
        else f"Averaged over attack and benign it is right on {page.percent(its)}, the detector on "
        f"{page.percent(ours)}."
    )
    found = f"The best single comparison on training rows, {name.removeprefix('one rule: ')},"
    return f"{found} catches {caught} of the attacks and alarms on {alarmed} of the benign. {verdict}"


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
        told.append(
            f"{page.thousands(scores.benign_rows)} benign rows cannot resolve a rate of {', '.join(unresolved)}."
        )
    return " ".join([*told, kept])


# --- the page, top to bottom -------------------------------------------------------------------------------------


def _sections(evaluation: Evaluation, heading: str) -> Iterable[str]:
    yield f"<header><p class=kind>Evaluation of a network intrusion detector</p><h1>{page.isolated(heading)}</h1>"
    yield f"{_data_line(evaluation)}{_model_line(evaluation.model)}{_tiles(evaluation.scores)}</header>"
    yield page.section("How far to trust this", _notes_list(evaluation))
    yield page.section("Scores", _scores_table(evaluation), _SCORES_NOTE)
    yield page.section("What an alert is worth", _alerts_table(evaluation.scores), _ALERTS_NOTE)
    yield page.section(
        "Classes", page.figure("recall", _recall_height(evaluation.scores)) + _class_table(evaluation.scores)
    )
    yield page.section(
        "Confusion",
        page.confusion_table(evaluation.scores.classes, evaluation.scores.confusion.tolist()),
        _CONFUSION_NOTE,
    )
    curves = page.figure("precision_recall", 380) + page.figure("roc", 380)
    yield page.section("Ranking by attack score", f"<div class=pair>{curves}</div>", _RANKING_NOTE)
    yield page.section(
        "Stated against observed", f"<div class=narrow>{page.figure('reliability', 460)}</div>", _RELIABILITY_NOTE
    )
    yield page.section("Attack scores by class", page.figure("scores", _strip_height(evaluation.scores)), _STRIP_NOTE)
    yield page.section("The detector", _model_table(evaluation.model))
    yield f"<footer><p>{_FOOTER}</p></footer>"


def _data_line(evaluation: Evaluation) -> str:
    data, scores = evaluation.data, evaluation.scores
    facts = [
        ("Flows", page.isolated(data["source"])),
        ("Rows", page.thousands(data["rows"])),
        ("Attack share", page.percent(scores.attack_rows / scores.n_rows)),
        ("Distinct rows", page.thousands(data["distinct_rows"])),
        ("Unseen vectors", "not known" if data["unseen_rows"] is None else page.thousands(data["unseen_rows"])),
    ]
    return page.facts_line(facts)


def _model_line(model: Mapping[str, Any], most: int = 6) -> str:
    plain = [(key, value) for key, value in model.items() if isinstance(value, str | int | float) and key != "schema"]
    classes = (
        "Classes",
        page.isolated(", ".join(model["classes"]) if len(model["classes"]) <= 8 else len(model["classes"])),
    )
    told = [(page.isolated(key.replace("_", " ").capitalize()), page.isolated(value)) for key, value in plain[:most]]
    return page.facts_line([("Schema", page.isolated(model["schema"])), classes, *told])


def _tiles(scores: Scores) -> str:
    tiles = [
        ("Attacks caught", page.percent(scores.detection_rate), page.span(scores.detection_rate_interval)),
        ("Benign flows alarmed on", page.percent(scores.false_alarm_rate), page.span(scores.false_alarm_rate_interval)),
        ("Class-balanced accuracy", page.percent(scores.cba), page.span(scores.cba_interval)),
        ("PR-AUC", page.fixed(scores.pr_auc), f"chance is {page.fixed(scores.attack_rows / scores.n_rows)}"),
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
    heads = ["", *(page.isolated(title) for title in columns)]
    return page.table(heads, ([name, *(column.get(name, "–") for column in cells.values())] for name in names))


def _score_cells(scores: Scores) -> dict[str, str]:
    at = {
        f"Recall at FPR {rate}": page.with_span(page.percent(point.recall), point.recall_interval)
        if scores.reliability
        else "–"
        for rate, point in scores.recall_at_fpr.items()  # a rule has two scores, so no threshold to choose
    }
    return {
        "Rows": page.thousands(scores.n_rows),
        "Class-balanced accuracy": page.with_span(page.percent(scores.cba), scores.cba_interval),
        "Macro-F1": page.percent(scores.macro_f1),
        "Accuracy": page.percent(scores.accuracy),
        "Detection rate": page.with_span(page.percent(scores.detection_rate), scores.detection_rate_interval),
        "False-alarm rate": page.with_span(page.percent(scores.false_alarm_rate), scores.false_alarm_rate_interval),
        "PR-AUC": page.fixed(scores.pr_auc),
        "ROC-AUC": page.fixed(scores.roc_auc),
        **at,
        "Calibration error, class": page.fixed(scores.calibration_error),
        "Calibration error, attack": page.fixed(scores.attack_calibration_error if scores.reliability else None),
        "Brier score": page.fixed(scores.brier),
    }


def _alerts_table(scores: Scores) -> str:
    head = ["Flows that are attacks", "Alerts that are true", "95 % interval", "False alarms per true one"]
    return page.table(head, (_alert_cells(scores, rate) for rate in scores.precision_at_prevalence))


def _alert_cells(scores: Scores, rate: str) -> Cells:
    precision = scores.precision_at_prevalence[rate]
    false_per_true = "–" if not precision else page.rounded((1 - precision) / precision) if precision < 1 else "0"
    span = page.span(scores.precision_at_prevalence_interval[rate])
    return [f"1 in {page.thousands(round(1 / float(rate)))}", page.percent(precision), span or "–", false_per_true]


def _class_table(scores: Scores) -> str:
    head = ["Class", "Rows", "Verdicts", "Recall", "Precision", "F1"]
    return page.table(head, (_class_cells(scores, name) for name in scores.classes))


def _class_cells(scores: Scores, name: str) -> Cells:
    of = scores.per_class[name]
    few = " <span class=tag>few rows</span>" if of.support < FEW_ROWS else ""
    return [
        f"<i class={'benign' if name == BENIGN else 'attack'}></i>{page.isolated(name)}{few}",
        page.thousands(of.support),
        page.thousands(of.predicted),
        page.with_span(page.percent(of.recall), of.recall_interval),
        page.with_span(page.percent(of.precision), of.precision_interval),
        page.with_span(page.percent(of.f1), of.f1_interval),
    ]


def _model_table(model: Mapping[str, Any]) -> str:
    return page.table(
        ["Recorded in its file", ""],
        ([page.isolated(key), page.isolated(value)] for key, value in _flat(model)),
        "plain",
    )


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
        "x": page.floats(recalls),
        "y": at,
        "width": 0.56,
        "marker": {"color": ["@benign" if scores.classes[place] == BENIGN else "@attack" for place in at]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": page.floats(span.high - recall for span, recall in zip(spans, recalls, strict=True)),
            "arrayminus": page.floats(recall - span.low for span, recall in zip(spans, recalls, strict=True)),
            "color": "@ink",
            "thickness": 1.2,
            "width": 4,
        },
        "hovertext": [
            f"{page.percent(of.recall)} of {page.thousands(of.support)} rows ({page.span(of.recall_interval)})"
            for of in shown
        ],
        "hoverinfo": "text",
        "showlegend": False,
    }
    x = {"range": [0, 1.02], "tickformat": ".0%", "title": "recall, with 95 % interval"}
    return {
        "data": [bars],
        "layout": page.layout(x, page.class_axis(scores.classes), margin={"l": 8, "r": 16, "t": 8, "b": 8}),
    }


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
        page.line(name, of.curve.recall, of.curve.precision, _LINES[name], hover)
        for name, of in subsets.items()
        if of.curve
    ]
    benign = scores.classes.index(BENIGN)
    alarms = scores.n_rows - int(scores.confusion[:, benign].sum())
    if scores.detection_rate is not None and alarms:
        lines.append(_decision_marker(scores.detection_rate, scores.detection_rate * scores.attack_rows / alarms))
    x = {"range": [0, 1.02], "title": "recall of attacks"}
    y = {"range": [0, 1.03], "title": "precision"}
    return {"data": lines, "layout": page.layout(x, y)}


_RATE_TICKS = {
    "tickvals": [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1],
    "ticktext": ["0.0001 %", "0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %"],
}


def _roc_figure(subsets: Mapping[str, Scores], scores: Scores) -> Figure:
    lowest = 0.5 / max([1, *(of.benign_rows for of in subsets.values())])
    hover = "false-positive rate %{x:.2g}<br>recall %{y:.3f}"
    lines = [
        page.line(name, np.maximum(of.curve.false_positive_rate, lowest), of.curve.recall, _LINES[name], hover)
        for name, of in subsets.items()
        if of.curve
    ]
    if scores.detection_rate is not None and scores.false_alarm_rate is not None:
        lines.append(_decision_marker(max(scores.false_alarm_rate, lowest), scores.detection_rate))
    title = "false-positive rate (left edge: none)"
    x = {"type": "log", "range": [math.log10(lowest), 0], "title": title, **_RATE_TICKS}
    y = {"range": [0, 1.03], "title": "recall of attacks"}
    return {"data": lines, "layout": page.layout(x, y)}


def _reliability_figure(scores: Scores) -> Figure:
    diagonal = {"color": "@muted", "width": 1, "dash": "dot"}
    traces = [{**page.line("As stated", [0, 1], [0, 1], diagonal, ""), "hoverinfo": "skip"}]
    stated = {"Verdict's class": (scores.reliability, "@ink"), "Attack score": (scores.attack_reliability, "@attack")}
    traces += [_reliability_trace(name, of, colour) for name, (of, colour) in stated.items() if of]
    x = {"range": [-0.02, 1.02], "tickformat": ".0%", "title": "stated probability (mean of bin)"}
    y = {"range": [-0.02, 1.04], "tickformat": ".0%", "title": "came true"}
    return {"data": traces, "layout": page.layout(x, y)}


def _reliability_trace(name: str, of: Reliability, colour: str) -> Figure:
    trues = np.rint(of.observed * of.rows).astype(int).tolist()
    spans = [wilson_interval(*pair) or Interval(0, 1) for pair in zip(trues, of.rows.tolist(), strict=True)]
    observed = of.observed.tolist()
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": page.floats(of.stated),
        "y": page.floats(observed),
        "line": {"color": colour, "width": 0.7},
        "marker": {"color": colour, "size": 8},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": page.floats(span.high - share for span, share in zip(spans, observed, strict=True)),
            "arrayminus": page.floats(share - span.low for span, share in zip(spans, observed, strict=True)),
            "color": colour,
            "thickness": 1,
            "width": 3,
        },
        "hovertext": [f"{page.thousands(rows)} rows" for rows in of.rows.tolist()],
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
        strip["text"] = [[page.percent(share) for share in row] for row in shares]
        strip["x"] = [round((step + 0.5) / SCORE_BINS, 4) for step in range(SCORE_BINS)]
    strip["hovertemplate"] = "score %{x:.2f}: %{text} of the class<extra></extra>"
    x = {"range": [0, 1], "title": "attack score", "showgrid": False, "ticks": ""}
    return {
        "data": [strip],
        "layout": page.layout(x, page.class_axis(scores.classes), margin={"l": 8, "r": 8, "t": 8, "b": 8}),
    }


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
