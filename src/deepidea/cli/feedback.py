"""The commands `deepidea feedback ...`: analysts' labels of alerts and incidents."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from deepidea.cli.alert_cells import time_cell
from deepidea.cli.options import (
    Analyst,
    CommandLineActor,
    FileFormat,
    Limit,
    Note,
    StoreUrl,
    analyst_or_login,
    audited,
    known_store,
    login_or_uid,
    option,
)
from deepidea.cli.terminal import counted, say, show_table

Subject = Literal["incident", "alert"]
"""What gets a label."""


AnalystLabel = Literal["true_positive", "false_positive", "unsure"]
"""Labels that analysts give."""


def feedback_list(
    subject_id: Annotated[str | None, typer.Argument(help="Incident or alert; by default all.")] = None,
    store: StoreUrl = "",
    limit: Limit = 50,
) -> None:
    """List analysts' labels, newest first, replaced ones included."""
    from deepidea.store import feedback

    with known_store(store) as opened:
        found = opened.query(feedback.find, subject_id=subject_id, limit=limit).items
    rows = (
        (time_cell(of.time), f"{of.subject} {of.subject_id}", of.verdict, of.class_name or "", of.analyst, of.note)
        for of in found
    )
    show_table(("time", "subject", "label", "class", "analyst", "note"), rows, empty="no labels")


def feedback_add(
    subject_id: Annotated[str, typer.Argument(help="Incident id or its beginning; or the whole id of an alert.")],
    verdict: Annotated[AnalystLabel, option("The label; `unsure` is not trained on.")],
    subject: Annotated[Subject, option("What gets the label.")] = "incident",
    class_name: Annotated[
        str | None, option("For a true positive: the right class, if the predicted one is wrong.", "--class")
    ] = None,
    note: Note = "",
    analyst: Analyst = None,
    store: StoreUrl = "",
) -> None:
    """Label an incident with all its alerts, or one alert; the latest label counts."""
    from deepidea.store import incidents

    with audited(known_store(store), analyst_or_login(analyst)) as (service, actor, connection):
        wanted = incidents.find_id(connection, subject_id) if subject == "incident" else subject_id
        added = service.add_verdict(subject, wanted, verdict, actor=actor, class_name=class_name, note=note)
    say(f"{added.subject} {added.subject_id}: {added.verdict}, by {added.analyst}")


def feedback_export(
    output: Annotated[str, option("Flows to write: .parquet, .csv or .jsonl; - for stdout.", "--output", "-o")],
    format: FileFormat = None,
    per_incident: Annotated[int | None, option("Most flows of one incident, always the same ones.", min=1)] = None,
    store: StoreUrl = "",
) -> None:
    """Write labelled alerts as flows for `deepidea train --extra`."""
    from deepidea.web.service import AnalystService

    actor = CommandLineActor(login_or_uid())
    with known_store(store) as opened:  # the export reads page by page, and no transaction may hold writers up
        counts = AnalystService(opened).export_feedback(output, actor=actor, format=format, per_incident=per_incident)
    show_exported(counts, output)


def show_exported(counts: Any, output: str) -> None:
    """Print how many labelled flows were exported, and what was left out."""
    say(f"wrote {counts.n_flows:,} labelled flows into {output}: {counted(dict(counts.labels.most_common()))}")
    for n, fact in (
        (counts.n_unsure, "labelled alerts left out: their label is unsure"),
        (counts.n_capped, "labelled alerts left out: beyond --per-incident"),
        (counts.n_repeated, "labelled findings left out: their flow is exported already"),
        (counts.n_without_features, "labelled alerts left out: their features are deleted"),
        (counts.n_purged, "labelled alerts are deleted by retention"),
        (counts.n_purged_incidents, "labelled incidents are deleted with all their alerts"),
        (counts.n_later, "of the flows ended after their incident was labelled: no analyst saw them"),
    ):
        if n:
            say(f"{n:,} {fact}")
