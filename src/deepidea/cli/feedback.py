"""Commands on what analysts say of alerts and incidents: judge, list, export."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from deepidea.cli.model_tables import show_exported, show_feedback
from deepidea.cli.options import Analyst, FileFormat, Limit, Note, StoreUrl, named_analyst
from deepidea.cli.terminal import say


class Subject(StrEnum):
    """What is judged."""

    incident = "incident"
    alert = "alert"


class Verdict(StrEnum):
    """What may be said of it."""

    true_positive = "true_positive"
    false_positive = "false_positive"
    unsure = "unsure"


def feedback_list(
    subject_id: Annotated[str | None, typer.Argument(help="Incident or alert; all where absent.")] = None,
    store: StoreUrl = "",
    limit: Limit = 50,
) -> None:
    """List what analysts said, the newest first: earlier verdicts, which no longer hold, too."""
    from deepidea.detection.runner import open_known_store

    with open_known_store(store) as opened:
        show_feedback(opened.feedback(subject_id=subject_id, limit=limit))


def feedback_add(
    subject_id: Annotated[str, typer.Argument(help="Incident, or how its id begins; or the whole id of an alert.")],
    verdict: Annotated[Verdict, typer.Option(help="What it is; `unsure` trains nothing.")],
    subject: Annotated[Subject, typer.Option(help="What is judged.")] = Subject.incident,
    class_name: Annotated[
        str | None, typer.Option("--class", help="Of a true positive: the right class where the predicted is wrong.")
    ] = None,
    note: Note = "",
    analyst: Analyst = None,
    store: StoreUrl = "",
) -> None:
    """Say what an incident is, with all its alerts, or one alert; the latest verdict holds."""
    from deepidea.detection.runner import open_known_store

    who = named_analyst(analyst)
    with open_known_store(store) as opened:
        wanted = opened.find_incident(subject_id) if subject is Subject.incident else subject_id
        said = opened.judge(subject.value, wanted, verdict.value, class_name=class_name, note=note, analyst=who)
    say(f"{said.subject} {said.subject_id}: {said.verdict}, says {said.analyst}")


def feedback_export(
    output: Annotated[str, typer.Option("--output", "-o", help="Flows: .parquet, .csv or .jsonl; - for stdout.")],
    format: FileFormat = None,
    per_incident: Annotated[
        int | None, typer.Option(min=1, help="Most flows of an incident, the same ones every time.")
    ] = None,
    store: StoreUrl = "",
) -> None:
    """Write judged alerts as labelled flows: what `deepidea train --extra` takes."""
    from deepidea.detection.feedback_export import export_feedback
    from deepidea.detection.runner import open_known_store

    with open_known_store(store) as opened:
        counts = export_feedback(opened, output, format=format.value if format else None, per_incident=per_incident)
    show_exported(counts, output)
