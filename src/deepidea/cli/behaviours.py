"""The command `deepidea behaviours`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column

from deepidea.cli.options import option
from deepidea.cli.terminal import show_table


def behaviours(
    thresholds: Annotated[Path | None, option("File of your own thresholds, TOML.", "--thresholds")] = None,
    as_toml: Annotated[bool, option("Print all thresholds as such a file.", "--toml")] = False,
) -> None:
    """List what is looked for in what hosts do over time, from which evidence on, and how it is called."""
    from deepidea.detection.behaviour.registry import BEHAVIOURS, read_thresholds, with_thresholds

    own = read_thresholds(thresholds) if thresholds is not None else {}
    found = with_thresholds(BEHAVIOURS, own)
    if as_toml:
        for one in found:
            lines = (f"{name} = {value:.15g}" for name, value in one.thresholds.items())
            typer.echo("\n".join([f"[{one.name}]  # {one.title}", *lines, ""]))
        return
    rows = (
        (
            one.name,
            one.title,
            one.class_name,
            one.technique_uid or "",
            one.window,
            _in_words(one.thresholds),
            "" if one.benign is None else f"{one.benign:,.0f}",
        )
        for one in found
    )
    show_table(("name", "what", "class", "ATT&CK", "window", Column("from", overflow="fold"), "benign at most"), rows)


def _in_words(thresholds: dict[str, float]) -> str:
    least = (f"{name} ≥ {value:,.15g}" for name, value in thresholds.items() if not name.startswith("most_"))
    most = (f"{name[5:]} ≤ {value:,.15g}" for name, value in thresholds.items() if name.startswith("most_"))
    return ", ".join([*least, *most])
