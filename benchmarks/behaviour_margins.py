"""How near benign captures of real networks come to each behaviour: the `benign` of its entry in the registry.

For each behaviour, the highest value that its first count reaches in the field's benign captures where all its other
thresholds are met. Each capture is watched by itself; they have clocks and addresses of their own.

Usage: python -m benchmarks.behaviour_margins (needs `field/benign-captures` in $DEEPIDEA_DATA)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl

from benchmarks.result_files import RESULTS, write_result
from deepidea.detection.behaviour.registry import BEHAVIOURS, Behaviour
from deepidea.detection.behaviour.windows import BehaviourWindows
from deepidea.errors import DeepIDEAError
from deepidea.packets.meter import meter_capture

FEW_KEYS = 1024  # hosts and services of one small capture


def main() -> None:
    """Measure every behaviour over all captures, and write the figures."""
    captures = sorted(Path(os.environ["DEEPIDEA_DATA"], "field", "benign-captures").iterdir())
    highest = {one.name: 0.0 for one in BEHAVIOURS if not one.follows}
    n_flows = n_captures = 0
    for flows in tables(captures):
        n_flows, n_captures = n_flows + flows.height, n_captures + 1
        windows = BehaviourWindows(max_keys=FEW_KEYS).add(flows)
        for one in BEHAVIOURS:
            if not one.follows:
                highest[one.name] = max(highest[one.name], reached(one, windows))
    figures = {"captures": n_captures, "flows": n_flows, "benign": highest}
    print(figures)
    write_result(RESULTS / "behaviour_margins.json", figures)


def tables(captures: list[Path]) -> Iterator[pl.DataFrame]:
    """Yield the flows of each capture that has any."""
    for path in captures:
        try:
            flows = pl.concat(list(meter_capture(path)))
        except DeepIDEAError as error:
            print(f"{path.name} is left out: {error}")
            continue
        if flows.height:
            yield flows


def reached(one: Behaviour, windows: pl.DataFrame) -> float:
    """Return the highest first count of flows that meet the other thresholds; 0 where none does."""
    first = next(iter(one.least))
    others = {name: value for name, value in one.least.items() if name != first}
    near = windows.filter(replace(one, least={first: 0.0, **others}).shown)
    highest = near.select(one.counts[first].max().cast(pl.Float64)).item() if near.height else None
    return highest or 0.0


if __name__ == "__main__":
    main()
