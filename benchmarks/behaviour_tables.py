"""The table of behaviours in the documents, from the registry itself, and how many simulated attacks they find."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.result_files import read_result
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


def recall() -> str:
    """Return which simulated attacks are found, and what benign look-alikes raise, in words."""
    found = read_result("behaviour_recall")
    kinds = found["instances"]
    missed = ", ".join(f"`{kind}` {n}/{of}" for kind, (n, of) in kinds.items() if n < of)
    false = sum(found["false_incidents"].values())
    return (
        f"Of {len(kinds)} kinds of [simulated attacks](simulate.md#traffic), weak ones too, all are found but for: "
        f"{missed}. {found['benign_flows']:,} benign flows of the same sites raised {false} false incidents "
        "(`benchmarks/behaviour_recall.py`). Thresholds were set with the same simulator: real networks differ."
    )


def field() -> str:
    """Return what is found in captures and logs of real networks, in words."""
    found = read_result("field_captures")
    benign, edge = found["benign"], found["edge_day"]
    missed = ", ".join(f"`{cell['name']}`" for cell in found["cells"] if not cell["right"])
    return (
        f"In captures and logs of real networks, {found['found']} of {found['attacks']} attacks make an incident of a "
        f"right class (missed: {missed}), {benign['flows']:,} benign flows make {benign['incidents']} incidents, and a "
        f"day of one host on the open Internet, {edge['flows']:,} flows, {edge['incidents']}, {edge['critical']} of "
        "them critical (`benchmarks/field_captures.py`). Thresholds stand above what these benign flows reach."
    )


TABLES: dict[str, Callable[[], str]] = {"behaviours": behaviours, "behaviour-recall": recall, "behaviour-field": field}
