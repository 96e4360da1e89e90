"""An evaluation as one HTML page that a sceptical reader can open anywhere: no server, no network, no second file.

Equal evaluations are equal bytes. :func:`trust_notes` reads the numbers in plain sentences; the command line prints
them too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepidea.evaluation.evaluate import Evaluation
from deepidea.evaluation.metrics import Scores, alert_precision, decimal
from deepidea.evaluation.page import percent, render_page, rounded, span, thousands, write_page
from deepidea.evaluation.report_figures import evaluation_figures

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
        jinja2 is not installed.
    StorageError
        The file cannot be written; the old one stays.
    """
    write_page(render_report(evaluation, title=title), path)


def render_report(evaluation: Evaluation, *, title: str | None = None) -> str:
    """Return the page that `write_report` writes."""
    subsets = {SUBSET_TITLES.get(name, name): scores for name, scores in evaluation.subsets.items()}
    return render_page(
        "evaluation.html",
        evaluation_figures(evaluation.scores, {name: of for name, of in subsets.items() if of}),
        heading=title or f"Detector on {evaluation.data['source']}",
        evaluation=evaluation,
        columns={**subsets, **evaluation.baselines},
        notes=trust_notes(evaluation),
        model=list(_flat(evaluation.model)),
        model_facts=_model_facts(evaluation.model),
        few_rows=FEW_ROWS,
    )


def _model_facts(model: Mapping[str, Any], most: int = 6) -> list[tuple[str, str]]:
    plain = [(key, value) for key, value in model.items() if isinstance(value, str | int | float) and key != "schema"]
    classes = ", ".join(model["classes"]) if len(model["classes"]) <= 8 else str(len(model["classes"]))
    return [
        ("Schema", str(model["schema"])),
        ("Classes", classes),
        *((key.replace("_", " ").capitalize(), str(value)) for key, value in plain[:most]),
    ]


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key} › ")
        else:
            yield f"{before}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# --- how far to trust it -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrustNote:
    """One reading of the numbers: a heading of a few words, and plain sentences."""

    heading: str
    text: str


def trust_notes(evaluation: Evaluation) -> list[TrustNote]:
    """Return how far an evaluation can be trusted, in plain sentences; plain text, names unescaped."""
    notes = {
        "In use": _note_on_alerts(evaluation.scores),
        "Memory": _note_on_memory(evaluation),
        "Small classes": _note_on_small_classes(evaluation.scores),
        "Repeats and contradictions": _note_on_repeats(evaluation.data),
        "A single rule": _note_on_baselines(evaluation),
        "Probabilities": _note_on_calibration(evaluation.scores),
        "Low false-positive rates": _note_on_resolution(evaluation.scores),
        "Elsewhere": "These scores do not carry over to another network, another flow meter, kinds of attack that "
        "these rows do not hold, or next year.",
    }
    return [TrustNote(heading, text) for heading, text in notes.items() if text]


def _note_on_alerts(scores: Scores, prevalence: float = 1e-4) -> str:
    detection, alarm = scores.detection_rate, scores.false_alarm_rate
    limits = scores.precision_at_prevalence_interval[decimal(prevalence)]
    if detection is None or alarm is None or limits is None:
        return "These rows hold no attack or nothing else, so the worth of an alert is unknown."
    caught = (
        f"It caught {percent(detection)} of the attack flows and raised an alarm on {percent(alarm)} of the benign."
    )
    precision, where = alert_precision(detection, alarm, prevalence), "Where 1 flow in 10,000 is an attack, "
    if not precision:
        return f"{caught} It would raise no true alert."
    # No false alarm seen is not none: the upper limit of the interval is what the rows can promise.
    if alarm == 0:
        most = scores.false_alarm_rate_interval
        upper = percent(most.high if most else None)
        return f"{caught} With so many benign rows the true rate may still be {upper}. {where}as few as " + (
            f"{_one_in(limits.low)} may then be true."
        )
    per_million = f"a million benign flows cost about {rounded(max(1.0, alarm * 1e6))} false alarms"
    return f"{caught} {where}{_one_in(precision)} would be true ({span(limits)}), and {per_million}."


def _one_in(precision: float) -> str:
    """Return a share of true alerts as alerts to open for one that is true."""
    return f"{percent(precision)} of alerts" if precision > 0.5 else f"1 alert in {rounded(1 / precision)}"


def _note_on_memory(evaluation: Evaluation) -> str:
    data, whole, unseen = evaluation.data, evaluation.scores, evaluation.subsets.get("unseen")
    if data["twins_in_training"] is None:
        return "The detector does not carry the fingerprints of its training rows: how much is memory is unknown."
    twins = f"{percent(data['twins_in_training'] / data['rows'])} of the rows have an exact twin in training."
    if unseen is None:
        return f"{twins} No other rows are left: these scores measure memory, and nothing else."
    rates = f"the detection rate {percent(unseen.detection_rate)} instead of {percent(whole.detection_rate)}"
    left, classes = (sum(of.support > 0 for of in scores.per_class.values()) for scores in (unseen, whole))
    hint = "" if left == classes else f" (over the {left} classes that are left)"
    cba = f"class-balanced accuracy is {percent(unseen.cba)} instead of {percent(whole.cba)}{hint}"
    return f"{twins} On the {thousands(unseen.n_rows)} rows that have none, {cba}, {rates}."


def _note_on_small_classes(scores: Scores) -> str:
    small = {name: of for name, of in scores.per_class.items() if 0 < of.support < FEW_ROWS}
    absent = [name for name, of in scores.per_class.items() if of.support == 0]
    spans = [f"{name} ({of.support} rows: recall {span(of.recall_interval)})" for name, of in small.items()]
    few = f"Fewer than {FEW_ROWS} rows, hence wide intervals: {_listed(spans)}." if spans else ""
    none = f"No rows at all, hence nothing known: {_listed(absent)}." if absent else ""
    return f"{few} {none}".strip()


def _listed(items: Sequence[str], most: int = 6) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _note_on_repeats(data: Mapping[str, Any]) -> str:
    notes, odd = [], data["contradictory_rows"]
    if data["duplicate_rows"]:
        share = percent(data["duplicate_rows"] / data["rows"])
        notes.append(
            f"{share} of the rows repeat an earlier one. Intervals count rows as independent: too narrow here."
        )
    if odd:
        notes.append(
            f"{thousands(odd)} rows ({percent(odd / data['rows'])}) equal a row of another class in every feature; any "
            f"detector gets at least {thousands(data['unavoidable_errors'])} of them wrong."
        )
    return " ".join(notes)


def _note_on_baselines(evaluation: Evaluation) -> str:
    rules = [(name, scores) for name, scores in evaluation.baselines.items() if name.startswith("one rule")]
    if not rules:
        return "No reference was given, so whether one comparison on one feature would do as well is unknown."
    name, rule = rules[0]
    ours, its = _attack_balance(evaluation.scores), _attack_balance(rule)
    if ours is None or its is None:
        return ""
    found = f"The best single comparison on training rows, {name.removeprefix('one rule: ')},"
    caught = (
        f"catches {percent(rule.detection_rate)} of the attacks and alarms on {percent(rule.false_alarm_rate)} of the"
    )
    # Five points: a rule of one comparison that comes so near says more about the rows than about the detector.
    if its > ours - 0.05:
        return (
            f"{found} {caught} benign. That is about as good as the detector: these rows are easy, or leak the answer."
        )
    balance = f"Averaged over attack and benign it is right on {percent(its)}, the detector on {percent(ours)}."
    return f"{found} {caught} benign. {balance}"


def _attack_balance(scores: Scores) -> float | None:
    if scores.detection_rate is None or scores.false_alarm_rate is None:
        return None
    return (scores.detection_rate + 1 - scores.false_alarm_rate) / 2


def _note_on_calibration(scores: Scores) -> str:
    errors = (scores.calibration_error, scores.attack_calibration_error)
    if errors[0] is None or errors[1] is None:
        return ""
    off = f"{errors[0] * 100:.1f} points for the class and {errors[1] * 100:.1f} for attack"
    holds = max(errors[0], errors[1]) <= 0.05
    advice = "They hold at the attack share of these rows." if holds else "Use them to rank, not as probabilities."
    return f"On average the stated probabilities are off by {off}. {advice}"


def _note_on_resolution(scores: Scores) -> str:
    notes = [f"At {rate}, {at.reason}." for rate, at in scores.recall_at_fpr.items() if at.reason and at.recall == 0]
    unresolved = ", ".join(rate for rate, at in scores.recall_at_fpr.items() if at.recall is None)
    if unresolved and scores.benign_rows:
        notes.append(f"{thousands(scores.benign_rows)} benign rows cannot resolve a rate of {unresolved}.")
    drift = "Recall at a false-positive rate takes the threshold from these very rows; on other rows it will drift."
    return " ".join([*notes, drift])
