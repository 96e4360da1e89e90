"""The command `deepidea calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deepidea.cli.options import (
    Exporters,
    Seconds,
    SourceOptions,
    option,
    options_of_source,
    require_writable,
)
from deepidea.cli.terminal import flow_progress, say, show_losses, stopping


def calibrate(
    model: Annotated[
        str, typer.Argument(help="Detector file; leave it out for the starter detector.", metavar="MODEL")
    ],
    output: Annotated[Path, option("Detector file to write, with thresholds.", "--output", "-o")],
    source: Annotated[
        str, typer.Argument(help="Benign flows of the network to monitor; any kind of source.", metavar="SOURCE")
    ] = "",
    fpr: Annotated[float, option("Share of benign flows that may raise an alert.")] = 1e-4,
    exporter: Exporters = None,
    options: SourceOptions = None,
    seconds: Seconds = None,
) -> None:
    """Set thresholds of single flows from benign flows of your own network, with a bound on false alarms."""
    from deepidea.detection.calibrate import calibrate as set_thresholds
    from deepidea.detection.runner import open_source_for
    from deepidea.detection.starter import load_starter
    from deepidea.model.detector import Detector

    require_writable(output)
    detector = Detector.load(model) if source else load_starter()
    flows = open_source_for(detector, source or model, **options_of_source(options, exporters=exporter))
    with stopping(seconds) as stop, flow_progress("scoring") as progress:
        done = set_thresholds(detector, flows, fpr, stop=stop, progress=progress)
    done.detector.save(output)
    show_calibration(done)
    show_losses(done.skipped, {})
    say(f"wrote {output}; alerts of single flows go by it: deepidea detect SOURCE --model {output} --flow-alerts")


def show_calibration(done: Any) -> None:
    """Print the thresholds, the flows that they are set by, and the bound on false alarms."""
    thresholds = done.thresholds
    for name, bound in thresholds.bounds.items():
        say(f"{name} above {bound:.6g} raises an alert")
    say(thresholds.guarantee)
    say(
        f"without thresholds, {done.n_predicted_attacks:,} of these {thresholds.n_flows:,} benign flows would have "
        "raised an alert"
    )
    if done.n_in_training:
        say(f"{done.n_in_training:,} of them equal a training flow in every feature; the bound needs new flows")
