"""The command `deepidea explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepidea.cli.explanation_tables import show_explained_alert, show_explained_rows
from deepidea.cli.options import AsJson, StoreUrl
from deepidea.cli.terminal import write_json
from deepidea.errors import DataError

if TYPE_CHECKING:
    from deepidea.model.detector import Detector


def explain(
    model: Annotated[Path, typer.Argument(help="Detector file that made the alert, or is to judge the flows.")],
    alert: Annotated[
        str | None, typer.Argument(help="Stored alert, or how its id begins; `deepidea alerts` lists them.")
    ] = None,
    store: StoreUrl = "",
    flows: Annotated[Path | None, typer.Option(help="Explain flows of a file in place of an alert.")] = None,
    row: Annotated[
        list[int] | None, typer.Option(min=1, help="Row of the file, from 1; absent, the likeliest attacks.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Most features to tell of.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Tell why: the features that drove a verdict, and what benign flows are like."""
    from deepidea.model.detector import Detector

    if (alert is None) == (flows is None):
        raise DataError("either an alert or --flows must be given, however: both or neither are")
    detector = Detector.load(model)
    if flows is not None:
        _explain_file(detector, flows, row or [], top, as_json)
    else:
        _explain_stored(detector, str(alert), store, top, as_json)


def _explain_file(detector: Detector, flows: Path, rows: list[int], top: int, as_json: bool) -> None:
    from deepidea.detection.explain import explain_rows

    explained = explain_rows(detector, flows, rows, top=top)
    if as_json:
        write_json([{"row": number, **found.to_dict()} for number, found in explained], ensure_ascii=False)
    else:
        show_explained_rows(explained)


def _explain_stored(detector: Detector, beginning: str, store: str, top: int, as_json: bool) -> None:
    from deepidea.detection.explain import explain_alert
    from deepidea.detection.runner import open_known_store

    with open_known_store(store) as opened:
        found = opened.find_alert(beginning)
    explanation = explain_alert(detector, found, top=top)
    if as_json:
        write_json({"alert_id": found["alert_id"], **explanation.to_dict()}, ensure_ascii=False)
    else:
        show_explained_alert(found, explanation)
