"""The command `deepidea evaluate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from rich.markup import escape

from deepidea.cli.options import Benign, Inputs, Label, ModelFile, TaxonomyName, one_name, option
from deepidea.cli.terminal import out, percent, show_table


def evaluate(
    model: ModelFile,
    data: Inputs,
    json_file: Annotated[Path | None, option("Write the scores as JSON.", "--json")] = None,
    report: Annotated[Path | None, option("Write an HTML report.")] = None,
    keep: Annotated[bool, option("Store the scores in the detector file, for the web page.", "--keep")] = False,
    label: Label = None,
    benign: Benign = None,
    taxonomy: TaxonomyName = None,
) -> None:
    """Measure a detector on labelled flows: on all, on distinct ones, and on those unlike any of training."""
    from deepidea.evaluation.evaluate import evaluate_detector
    from deepidea.evaluation.protocol import flows_to_test
    from deepidea.evaluation.report import trust_notes, write_report
    from deepidea.evaluation.summary import EVALUATION_ENTRY, summarise_evaluation
    from deepidea.flows.atomic import replacing
    from deepidea.model.detector import Detector

    detector = Detector.load(model)
    options = {"taxonomy": taxonomy, "label": label, "benign": benign}
    flows = flows_to_test(one_name(data), detector.schema, detector.card.get("data", {}), **options)
    evaluation = evaluate_detector(detector, flows)
    if json_file is not None:
        with replacing(json_file) as partial:
            partial.write_text(json.dumps(evaluation.to_dict(), indent=1) + "\n")
    if report is not None:
        write_report(evaluation, report)
    if keep:
        detector.with_card(**{EVALUATION_ENTRY: summarise_evaluation(evaluation)}).save(model)
    show_evaluation(evaluation, trust_notes(evaluation))


def show_evaluation(evaluation: Any, notes: Any) -> None:
    """Print the scores of a detector, subset by subset and class by class, and how far to trust them."""
    out.print(f"[bold]{escape(str(evaluation.data['source']))}[/]  {evaluation.data['rows']:,} flows")
    columns = {name: of for name, of in evaluation.subsets.items() if of is not None} | dict(evaluation.baselines)
    rows = [("flows", *(f"{scores.n_rows:,}" for scores in columns.values()))]
    rows += [(title, *(percent(value(of)) for of in columns.values())) for title, value in _SCORES.items()]
    show_table(("percent", *(escape(_short(name)) for name in columns)), rows)
    classes = ("class", "flows", "precision", "recall", "95 %", "F1")
    show_table(classes, (_class(name, of) for name, of in evaluation.scores.per_class.items()))
    for note in notes:
        out.print(f"[bold]{escape(note.heading)}[/] {escape(note.text)}", soft_wrap=True)


_SCORES: dict[str, Callable[[Any], float | None]] = {
    "class-balanced accuracy": lambda s: s.cba,
    "macro F1": lambda s: s.macro_f1,
    "accuracy": lambda s: s.accuracy,
    "detection rate": lambda s: s.detection_rate,
    "false-alarm rate": lambda s: s.false_alarm_rate,
    "PR-AUC": lambda s: s.pr_auc,
    "recall at FPR 1e-2": lambda s: s.recall_at_fpr["0.01"].recall,
    "recall at FPR 1e-3": lambda s: s.recall_at_fpr["0.001"].recall,
    "recall at FPR 1e-4": lambda s: s.recall_at_fpr["0.0001"].recall,
    "precision at prevalence 1e-4": lambda s: s.precision_at_prevalence["0.0001"],
    "calibration error": lambda s: s.calibration_error,
}


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _class(name: str, of: Any) -> tuple[str, ...]:
    interval = of.recall_interval
    span = "-" if interval is None else f"{percent(interval.low)}-{percent(interval.high)}"
    return name, f"{of.support:,}", percent(of.precision), percent(of.recall), span, percent(of.f1)
