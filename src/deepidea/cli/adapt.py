"""The command `deepidea adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from deepidea.cli.options import (
    Exporters,
    Seconds,
    SourceOptions,
    option,
    options_of_source,
    require_writable,
)
from deepidea.cli.terminal import flow_progress, percent, say, show_losses, show_table, stopping

Training = Literal["auto", "yes", "no"]
"""Whether the network trains on with the flows of the site."""


_SHOWN = 5
_TRAIN: dict[Training, bool | None] = {"auto": None, "yes": True, "no": False}


def adapt(
    model: Annotated[
        str, typer.Argument(help="Detector file; leave it out for the starter detector.", metavar="MODEL")
    ],
    output: Annotated[Path, option("Detector file to write, adapted to the network.", "--output", "-o")],
    source: Annotated[
        str, typer.Argument(help="Benign flows of the network to monitor; any kind of source.", metavar="SOURCE")
    ] = "",
    fpr: Annotated[float, option("Share of benign flows that may raise an alert.")] = 1e-3,
    train: Annotated[
        Training,
        option("Train the network on; auto: from 2,000 flows on, with torch, where numbers are encoded in steps."),
    ] = "auto",
    exporter: Exporters = None,
    options: SourceOptions = None,
    seconds: Seconds = None,
) -> None:
    """Refit a detector to 50 or more benign flows of your own network."""
    from deepidea.detection.adapt import adapt as adapt_detector
    from deepidea.detection.runner import open_source_for
    from deepidea.detection.starter import load_starter
    from deepidea.model.detector import Detector

    require_writable(output)
    detector = Detector.load(model) if source else load_starter()
    flows = open_source_for(detector, source or model, **options_of_source(options, exporters=exporter))
    with stopping(seconds) as stop, flow_progress("reading") as progress:
        done = adapt_detector(detector, flows, fpr, train=_TRAIN[train], stop=stop, progress=progress)
    done.detector.save(output)
    show_adaptation(done)
    show_losses(done.skipped, {})
    say(f"wrote {output}; alerts of single flows go by it: deepidea detect SOURCE --model {output} --flow-alerts")


def show_adaptation(done: Any) -> None:
    """Print what was fitted and set aside, the threshold, and the recall on training's held-out attacks."""
    fitted = "anomaly refitted" if done.not_trained else "network trained on, anomaly refitted"
    say(f"{fitted} to {done.n_flows - done.n_set_aside:,} benign flows")
    if done.not_trained:
        say(f"the network was not trained on: {done.not_trained}")
    if done.n_set_aside:
        _show_set_aside(done)
    for name, bound in done.thresholds.bounds.items():
        say(f"{name} above {bound:.6g} raises an alert")
    say(done.thresholds.guarantee)
    if done.recalls:
        columns = ["attacks held out of training", "flows", "found by calibrate", "found by adapt"]
        show_table(
            columns, [[r.name, f"{r.n_flows:,}", percent(r.calibrated), percent(r.adapted)] for r in done.recalls]
        )


def _show_set_aside(done: Any) -> None:
    share = done.n_set_aside / done.n_flows
    say(
        f"set aside {done.n_set_aside:,} flows that resemble attacks of training; if they are benign, false alarms are "
        f"up to {percent(share)} of the flows more:"
    )
    known = [name for name in ("start", "src_ip", "src_port", "dst_ip", "dst_port") if name in done.set_aside.columns]
    for row in done.set_aside.head(_SHOWN).select("looks_like", *known).rows():
        say("  like " + " ".join(str(cell) for cell in row))
