"""The table of behaviours in the documents, from the registry itself."""

from __future__ import annotations

from collections.abc import Callable

from deepidea.detection.behaviour.registry import BEHAVIOURS


def behaviours() -> str:
    """Return a row for each behaviour: name, window, thresholds, and what benign captures reach."""
    rows = ["| behaviour | window | from | benign |", "|---|---|---|---:|"]
    for one in BEHAVIOURS:
        from_ = ", ".join(
            f"{name.removeprefix('most_')}{'≤' if name.startswith('most_') else '≥'}{value:,.15g}"
            for name, value in one.thresholds.items()
        )
        benign = "" if one.benign is None else f"{one.benign:,.0f}"
        rows.append(f"| `{one.name}` | {one.window} | {from_} | {benign} |")
    return "\n".join(rows)


TABLES: dict[str, Callable[[], str]] = {"behaviours": behaviours}
