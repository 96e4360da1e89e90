"""How two detectors compare, printed by `deepidea train --continue` and `deepidea models`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Column

from deepidea.cli.terminal import out, percent, say, show_table

_STYLES = {"better": "bold green", "no worse": "bold", "worse": "bold red"}
_RATES = {
    "class-balanced accuracy": "cba",
    "detection rate": "detection_rate",
    "false-alarm rate": "false_alarm_rate",
    "area under ROC": "roc_auc",
}


def show_comparison(comparison: Any) -> None:
    """Print a new detector beside an old one, or why they cannot be compared."""
    if isinstance(comparison, str):
        say(f"not compared with the detector before: {comparison}")
        return
    facts = comparison if isinstance(comparison, Mapping) else comparison.to_dict()
    left_out = f", {facts['n_left_out']:,} left out that either was trained on" if facts["n_left_out"] else ""
    out.print(f"[bold]{escape(facts['source'])}[/]  {facts['n_flows']:,} flows{left_out}", soft_wrap=True)
    whole = {name: Column(name, no_wrap=True) for name in ("percent", "difference", "95 %")}  # ids may be cut
    show_table((whole["percent"], facts["old"], facts["new"], whole["difference"], whole["95 %"]), _rows(facts))
    _show_labelled(facts.get("labelled"))
    verdict = facts["verdict"]
    out.print(f"[{_STYLES.get(verdict, 'bold')}]{escape(verdict)}[/]: {escape(facts['reason'])}", soft_wrap=True)


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    sides = [facts[side] for side in ("before", "after")]
    for title, name in _RATES.items():
        yield title, *(percent(side[name]) for side in sides), *_difference(facts.get(name))
    for name, n in facts["class_rows"].items():
        yield f"recall of {name} ({n:,})", *(percent(side["recall"].get(name)) for side in sides), "", ""


def _difference(difference: Any) -> tuple[str, str]:
    if not isinstance(difference, Mapping):
        return "", ""
    low, high = (f"{100 * difference[end]:+.2f}" for end in ("low", "high"))
    return f"{100 * difference['value']:+.2f}", f"{low} to {high}"


def _show_labelled(labelled: Any) -> None:
    if labelled is None:
        return
    if not labelled["n_flows"]:
        say(f"no flows labelled by analysts to compare on: all {labelled['n_left_out']:,} were trained on")
        return
    out.print(
        f"flows labelled by analysts that neither was trained on: {labelled['n_flows']:,}; attack or benign right: "
        f"{percent(labelled['old'])} % before, {percent(labelled['new'])} % after"
    )
