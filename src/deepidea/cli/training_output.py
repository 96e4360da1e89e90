"""Output of a training: its flows, and a line each epoch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from deepidea.cli.terminal import counted, duration, percent, say


@contextlib.contextmanager
def epoch_progress() -> Iterator[Callable[[Any], None]]:
    """Yield a callback that prints a line for each epoch, with the time left."""
    say("epoch       loss  validation CBA      time      left")

    def show(epoch: Any) -> None:
        cba = "-" if math.isnan(epoch.validation_cba) else f"{percent(epoch.validation_cba)} %"
        say(
            f"{epoch.number:2d}/{epoch.n_epochs:<3d} {epoch.loss:10.4f}  {cba:>14s}  "
            f"{duration(epoch.elapsed_s):>8s}  {duration(epoch.left_s):>8s}"
        )

    yield show


def show_training_flows(contract: Mapping[str, Any], refused: Mapping[str, str]) -> None:
    """Print which columns are no features, which flows are trained on, and which are on neither side of the split."""
    for column, reason in refused.items():
        say(f"not a feature: {column}: {reason}")
    say(f"training on {contract['rows']:,} flows of {contract['source']}: {counted(contract['class_rows'])}")
    for reason, rows in contract.get("split", {}).get("left_out", {}).items():
        say(f"neither trained on nor tested ({reason.replace('_', ' ')}): {counted(rows)}")


def show_gathered(gathered: Any) -> None:
    """Print which detector training continues from, and which labelled alerts are added."""
    if gathered.start is not None:
        start = gathered.card["continued_from"]
        say(f"continuing from {start['name']} (detector {start['model']})")
    if gathered.extra is not None:
        extra = gathered.extra.contract()
        say(f"adding {extra['rows']:,} labelled alerts: {counted(extra['class_rows'])}")
        for origin, n in extra["left_out"].items():
            say(f"left out {n:,} labelled alerts without features of {gathered.extra.flows.schema.name}: {origin}")
