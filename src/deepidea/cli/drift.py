"""The command `deepidea drift`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from rich.table import Column
from rich.text import Text

from deepidea.cli.options import AsJson, StoreUrl, known_store, option
from deepidea.cli.terminal import out, say, show_table, write_json

_STYLES = {"green": "bold green", "amber": "bold yellow", "red": "bold red", "unknown": "bold"}
_MOST_SHOWN = 12


Reference = Literal["training", "site"]
"""Flows that drift is measured against; the values of ``Against``."""


def drift(
    store: StoreUrl = "",
    model: Annotated[Path | None, option("Detector file; by default the last one that scored.", "--model", "-m")] = (
        None
    ),
    source: Annotated[str | None, option("Only flows of this source, as `deepidea store status` names it.")] = None,
    against: Annotated[
        Reference | None, option("Flows to compare with; by default the site's if the detector was calibrated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the flows of the last 24 hours with those that the detector was trained on."""
    from deepidea.detection.drift import stored_drift
    from deepidea.detection.engine import fingerprint
    from deepidea.model.detector import Detector

    named = None if model is None else fingerprint(Detector.load(model))
    reference: Any = against
    with known_store(store) as opened, opened.read() as connection:
        report = stored_drift(connection, model=named, source=source, against=reference)
    if as_json:
        write_json(report.to_dict())
    else:
        show_drift(report)


def show_drift(report: Any) -> None:
    """Print whether flows are like those of training, and the features that have changed most."""
    out.print(Text.assemble((report.light, _STYLES[report.light]), f"  {report.sentence}"), soft_wrap=True)
    if report.light == "unknown":
        return
    window = f"{report.since:%Y-%m-%d %H:%M} to {report.until:%Y-%m-%d %H:%M} UTC"
    out.print(f"{report.reason}; {report.n_flows:,} flows, {window}", markup=False, soft_wrap=True)
    shown = (report.score, *report.features[:_MOST_SHOWN])
    rows = ((of.name, f"{of.psi:.3f}", f"{of.ks:.2f}", of.status, of.change) for of in shown)
    show_table(("feature", "PSI", "KS", "is", Column("what has changed most", overflow="fold")), rows)
    if len(report.features) > _MOST_SHOWN:
        say(f"{len(report.features) - _MOST_SHOWN} more features have changed less; --json lists all")
    say(report.rule)
