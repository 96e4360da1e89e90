"""What `deepidea drift` shows: a light, what it means, and what has changed most."""

from __future__ import annotations

from typing import Any

from rich.table import Column, Table
from rich.text import Text

from deepidea.cli.terminal import out, say

_STYLES = {"green": "bold green", "amber": "bold yellow", "red": "bold red", "unknown": "bold"}
_MOST_SHOWN = 12


def show_drift(report: Any) -> None:
    """Print whether flows are like those of training, and the features that are least so."""
    out.print(Text.assemble((report.light, _STYLES[report.light]), f"  {report.sentence}"), soft_wrap=True)
    if report.light == "unknown":
        return
    window = f"{report.since:%Y-%m-%d %H:%M} to {report.until:%Y-%m-%d %H:%M} UTC"
    out.print(f"{report.reason}; {report.n_flows:,} flows looked at, {window}", markup=False, soft_wrap=True)
    table = Table(
        "feature", "PSI", "KS", "is", Column("what has changed most", overflow="fold"), box=None, pad_edge=False
    )
    for feature in (report.score, *report.features[:_MOST_SHOWN]):
        table.add_row(feature.name, f"{feature.psi:.3f}", f"{feature.ks:.2f}", feature.status, feature.change)
    out.print(table)
    if len(report.features) > _MOST_SHOWN:
        say(f"{len(report.features) - _MOST_SHOWN} more features have changed less; --json has all")
    say(report.rule)
