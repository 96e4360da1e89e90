"""What training shows: flows, and a line each epoch; what a training that goes on begins with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from deepidea.cli.terminal import duration, say


@contextlib.contextmanager
def epoch_progress() -> Iterator[Callable[[Any], None]]:
    """Yield a callback of epochs that prints a line each, with the time left."""
    say("epoch       loss  validation CBA      time      left")

    def show(epoch: Any) -> None:
        cba = "       -" if epoch.validation_cba != epoch.validation_cba else f"{100 * epoch.validation_cba:7.2f} %"
        say(
            f"{epoch.number:2d}/{epoch.n_epochs:<3d} {epoch.loss:10.4f}  {cba:>14s}  "
            f"{duration(epoch.elapsed_s):>8s}  {duration(epoch.left_s):>8s}"
        )

    yield show


def show_training_flows(contract: Mapping[str, Any]) -> None:
    """Tell which flows are trained on, and which are on neither side of the split."""
    classes = ", ".join(f"{name} {count:,}" for name, count in contract["class_rows"].items())
    say(f"training on {contract['rows']:,} flows of {contract['source']}: {classes}")
    for reason, rows in contract.get("split", {}).get("left_out", {}).items():
        counts = ", ".join(f"{name} {count:,}" for name, count in rows.items())
        say(f"neither trained on nor tested ({reason.replace('_', ' ')}): {counts}")


def show_refused(refused: Mapping[str, str]) -> None:
    """Tell which columns of a table are no features, and why."""
    for column, reason in refused.items():
        say(f"not a feature: {column}: {reason}")


def show_gathered(gathered: Any) -> None:
    """Tell what training goes on from, and which flows join in."""
    if gathered.start is not None:
        about = gathered.card["continued_from"]
        say(f"going on from {about['name']} (detector {about['model']})")
    if gathered.extra is not None:
        told = gathered.extra.contract()
        classes = ", ".join(f"{name} {n:,}" for name, n in told["class_rows"].items())
        say(f"and on {told['rows']:,} judged flows: {classes}")
        for origin, n in told["left_out"].items():
            say(f"left out, {n:,} judged flows that schema {gathered.extra.flows.schema.name} cannot tell: {origin}")
