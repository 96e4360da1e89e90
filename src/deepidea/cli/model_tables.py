"""What the commands on feedback and models show: verdicts of analysts, comparisons, the store's models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from deepidea.cli.terminal import out, percent, say

_STYLES = {"better": "bold green", "no worse": "bold", "worse": "bold red"}


def show_comparison(comparison: Any) -> None:
    """Print how a new detector stands beside an old one, or say why that cannot be told."""
    if isinstance(comparison, str):
        say(f"not compared with the detector before: {comparison}")
        return
    told = comparison if isinstance(comparison, Mapping) else comparison.to_dict()
    left_out = f", {told['n_left_out']:,} left out that either was trained on" if told["n_left_out"] else ""
    out.print(f"[bold]{escape(told['source'])}[/]  {told['n_flows']:,} flows{left_out}", soft_wrap=True)
    whole = {name: Column(name, no_wrap=True) for name in ("percent", "difference", "95 %")}  # the ids may be cut
    heads = (whole["percent"], told["old"], told["new"], whole["difference"], whole["95 %"])
    table = Table(*heads, box=None, header_style="bold")
    for title, name in _RATES.items():
        table.add_row(title, *(percent(told[side][name]) for side in ("before", "after")), *_change(told.get(name)))
    for name, n in told["class_rows"].items():
        shares = (percent(told[side]["recall"].get(name)) for side in ("before", "after"))
        table.add_row(escape(f"recall of {name} ({n:,})"), *shares, "", "")
    out.print(table)
    _show_judged(told.get("judged"))
    verdict = told["verdict"]
    out.print(f"[{_STYLES.get(verdict, 'bold')}]{escape(verdict)}[/]: {escape(told['reason'])}", soft_wrap=True)


_RATES = {
    "class-balanced accuracy": "cba",
    "detection rate": "detection_rate",
    "false-alarm rate": "false_alarm_rate",
    "area under ROC": "roc_auc",
}


def _change(difference: Any) -> tuple[str, str]:
    if not isinstance(difference, Mapping):
        return "", ""
    low, high = (f"{100 * difference[end]:+.2f}" for end in ("low", "high"))
    return f"{100 * difference['value']:+.2f}", f"{low} to {high}"


def _show_judged(judged: Any) -> None:
    if judged is None:
        return
    if not judged["n_flows"]:
        say(f"no judged flows to compare on: all {judged['n_left_out']:,} were trained on")
        return
    out.print(
        f"judged flows that neither was trained on: {judged['n_flows']:,}; right about attack or benign: "
        f"{percent(judged['old'])} % before, {percent(judged['new'])} % after"
    )


def show_feedback(rows: Sequence[Any]) -> None:
    """Print verdicts of analysts, as they come."""
    table = Table("time", "subject", "verdict", "class", "analyst", "note", box=None, header_style="bold")
    for one in rows:
        cells = (f"{one.subject} {one.subject_id}", one.verdict, one.class_name or "", one.analyst, one.note)
        table.add_row(f"{one.time:%Y-%m-%d %H:%M:%S}", *map(escape, cells))
    out.print(table)


def show_exported(counts: Any, output: Any) -> None:
    """Tell what an export of judged flows came to, and what it left out."""
    labels = ", ".join(f"{name} {n:,}" for name, n in counts.labels.most_common())
    say(f"wrote {counts.n_flows:,} judged flows into {output}: {labels}")
    for n, what in (
        (counts.n_unsure, "left out: nobody was sure of them"),
        (counts.n_capped, "left out: beyond --per-incident"),
        (counts.n_without_features, "left out: their features are gone"),
        (counts.n_purged, "were judged and are gone: retention took them"),
    ):
        if n:
            say(f"{n:,} alerts {what}")
    if counts.n_purged_incidents:
        say(f"{counts.n_purged_incidents:,} judged incidents are gone with all their alerts")
    if counts.n_later:
        say(f"{counts.n_later:,} of the flows ended after their incident was judged: nobody has looked at them")


def show_models(models: Sequence[Any]) -> None:
    """Print the models of a store."""
    table = Table("", "id", "name", "detector", "MiB", "added", "by", "compared", box=None, header_style="bold")
    for one in models:
        compared = "" if one.comparison is None else f"{one.comparison['verdict']} than {one.comparison['old_id']}"
        cells = (one.model_id, one.name, one.model, f"{one.n_bytes / 2**20:.1f}", f"{one.added:%Y-%m-%d %H:%M}")
        table.add_row("active" if one.active else "", *map(escape, (*cells, one.added_by, compared)))
    out.print(table)


def show_activations(rows: Sequence[Any]) -> None:
    """Print which model was made the active one when, the newest first."""
    table = Table("time", "model", "how", "by", "note", box=None, header_style="bold")
    for one in rows:
        how = one.kind.replace("_", " ")
        table.add_row(f"{one.time:%Y-%m-%d %H:%M:%S}", *map(escape, (one.model_id, how, one.analyst, one.note)))
    out.print(table)
