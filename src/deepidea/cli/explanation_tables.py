"""What `deepidea explain` shows: a headline, and what drove the verdict beside what benign flows are like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from deepidea.cli.alert_tables import SEVERITIES, shown_endpoint, shown_time
from deepidea.cli.terminal import out, print_wide

_BAR_CELLS = 12
_EIGHTHS = " ▏▎▍▌▋▊▉"
_STYLES = {"attack": "red", "benign": "green", "none": "dim"}


def show_explained_alert(alert: Mapping[str, Any], explanation: Any) -> None:
    """Print why an alert was raised."""
    who = (
        f"{shown_endpoint(alert['src_ip'], alert['src_port'])} to {shown_endpoint(alert['dst_ip'], alert['dst_port'])}"
    )
    told = [shown_time(alert["time"]), f"{who} ({alert['protocol'] or '?'})", SEVERITIES[alert["severity"]]]
    show_explanation(explanation, f"alert {alert['alert_id']}", told)


def show_explained_rows(explained: Iterable[tuple[int, Any]]) -> None:
    """Print why each flow of a file got its verdict."""
    for place, (row, explanation) in enumerate(explained):
        if place:
            out.print()
        show_explanation(explanation, f"row {row:,}")


def show_explanation(explanation: Any, name: str, told: Sequence[str] = ()) -> None:
    """Print a headline, what it is about, and the reasons."""
    out.print(Text(explanation.headline, "bold"), soft_wrap=True)
    about = [*told, f"class {explanation.class_name}", f"score {explanation.score:.4f}"]
    if explanation.anomaly is not None:
        about.append(f"anomaly {explanation.anomaly:.4f}" + (", unknown" if explanation.unknown else ""))
    out.print(Text(f"{name}: {', '.join(about)}", "dim"), soft_wrap=True)
    if explanation.basis == "anomaly":
        _show_outside(explanation)
    else:
        _show_pushes(explanation)
    out.print(Text(_footer(explanation), "dim"), soft_wrap=True)


def _show_pushes(explanation: Any) -> None:
    most = max((abs(reason.push) for reason in explanation.reasons), default=0.0) or 1.0
    whole = _towards_attack(explanation)
    titles = ("feature", "value", Column("push", no_wrap=True), Column("", justify="right", no_wrap=True))
    table = Table(*titles, "benign flows", box=None, pad_edge=False)
    for reason in explanation.reasons:
        bar = Text(_bar(abs(reason.push) / most), _STYLES[reason.direction])
        table.add_row(reason.title, _value(reason), bar, _signed_percent(reason.push / whole), _range(reason))
    print_wide(table)
    kinds = [f"{kind} {_signed_percent(push / whole)}" for kind, push in explanation.kinds.items() if push]
    if len(kinds) > 1:
        out.print(Text(f"By kind: {', '.join(kinds)}"), soft_wrap=True)


def _show_outside(explanation: Any) -> None:
    most = max((reason.beyond for reason in explanation.reasons), default=0.0) or 1.0
    table = Table("feature", "value", Column("outside", no_wrap=True), "benign flows", box=None, pad_edge=False)
    for reason in explanation.reasons:
        bar = Text(_bar(reason.beyond / most) if reason.beyond > 0 else "", "yellow")
        table.add_row(reason.title, _value(reason), bar, _range(reason))
    print_wide(table)


def _value(reason: Any) -> Text:
    return Text(reason.value, "bold" if reason.beyond > 0 else "")


def _range(reason: Any) -> Text:
    """Return the benign range, without what the title of the column says."""
    told = reason.benign_range.replace(" of benign flows", "").replace(" in benign flows", "")
    return Text(told, "yellow" if reason.beyond > 0 else "")


def _signed_percent(share: float) -> str:
    rounded = round(100 * share)
    return f"{rounded:+d} %" if rounded else "0 %"


def _towards_attack(explanation: Any) -> float:
    """Return the sum that shares are of, as any reason that pushes towards attack tells it."""
    known = (reason.push / reason.share for reason in explanation.reasons if reason.share > 0)
    return next(known, None) or sum(abs(reason.push) for reason in explanation.reasons) or 1.0


def _bar(share: float) -> str:
    """Return a bar of a part of the widest one, to an eighth of a cell.

    Examples
    --------
    >>> _bar(1.0), _bar(0.25), _bar(0.0)
    ('████████████', '███', '▏')
    """
    eighths = max(round(8 * _BAR_CELLS * share), 1)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).strip()


def _footer(explanation: Any) -> str:
    if explanation.range_of == "none":
        against = "a flow of training's medians; no benign range is known: the detector file is of an older release"
    else:
        whose = "the site" if explanation.range_of == "site" else "training"
        against = f"{explanation.n_benign:,} benign flows of {whose}"
    if explanation.basis == "anomaly":
        return (
            "The score alone would not have raised this alert; it is told for being unlike benign flows. "
            f"The features furthest outside come first. Compared with {against}."
        )
    return (
        f"Push: share of all that speaks for attack; below 0, what speaks for benign. Compared with {against}. "
        f"Log-odds against benign {explanation.log_odds:+.1f}, of benign flows {explanation.benign_log_odds:+.1f}."
    )
