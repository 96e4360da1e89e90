"""What `deepidea evaluate` shows: scores, subset by subset and class by class, and how far to trust them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.markup import escape
from rich.table import Table

from deepidea.cli.terminal import out, percent


def show_evaluation(evaluation: Any, notes: Any) -> None:
    """Print the scores of a detector, subset by subset and class by class, and how far to trust them."""
    out.print(f"[bold]{escape(str(evaluation.data['source']))}[/]  {evaluation.data['rows']:,} flows")
    subsets = {name: scores for name, scores in evaluation.subsets.items() if scores is not None}
    columns = {**subsets, **evaluation.baselines}
    table = Table("percent", *(escape(_short(name)) for name in columns), box=None, header_style="bold", pad_edge=False)
    table.add_row("flows", *(f"{scores.n_rows:,}" for scores in columns.values()))
    for title, value in _SCORES.items():
        table.add_row(title, *(percent(value(scores)) for scores in columns.values()))
    out.print(table)
    _show_classes(evaluation.scores)
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


def _show_classes(scores: Any) -> None:
    columns = ("class", "flows", "precision", "recall", "95 %", "F1")
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for name, of in scores.per_class.items():
        span = (
            "-"
            if of.recall_interval is None
            else f"{percent(of.recall_interval.low)}-{percent(of.recall_interval.high)}"
        )
        shares = (percent(of.precision), percent(of.recall), span, percent(of.f1))
        table.add_row(escape(name), f"{of.support:,}", *shares)
    out.print(table)
