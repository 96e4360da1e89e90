"""What the tables of README.md and docs/ are written with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table, numbers to the right.

    Examples
    --------
    >>> print(table(["a", "b"], [["x", "1"]]))
    | a | b |
    |---|---:|
    | x | 1 |
    """
    titles = list(head)
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *map(list, rows)]
    return "\n".join(
        "|" + "|".join(f" {c} " if set(c) - set("-:") or c == "-" else c for c in line) + "|" for line in lines
    )


def about(run: dict[str, Any]) -> str:
    """Return where and when something was measured."""
    return f"{run['cores']} cores, {run['processor']}; {run['date']}."
