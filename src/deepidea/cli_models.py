"""The commands on what analysts say and on the models of a store; ``cli`` adds them to its own."""

from __future__ import annotations

import getpass
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepidea.console.card import show_card
from deepidea.console.models import show_activations, show_comparison, show_exported, show_feedback, show_models
from deepidea.console.terminal import say
from deepidea.errors import DataError

if TYPE_CHECKING:
    from deepidea.model.detector import Detector

feedback_app = typer.Typer(help="What analysts say of alerts and incidents: judge, list, export.", no_args_is_help=True)
models_app = typer.Typer(help="Models of the store: compare, activate, roll back.", no_args_is_help=True)


class Subject(StrEnum):
    """What is judged."""

    incident = "incident"
    alert = "alert"


class Verdict(StrEnum):
    """What may be said of it."""

    true_positive = "true_positive"
    false_positive = "false_positive"
    unsure = "unsure"


class TableFormat(StrEnum):
    """Formats of tables."""

    parquet = "parquet"
    csv = "csv"
    jsonl = "jsonl"


StoreUrl = Annotated[
    str, typer.Option(help="sqlite:///path or postgresql://user@host/database; absent, a file in your data folder.")
]
Analyst = Annotated[str | None, typer.Option(help="Who says so; the name of the login where absent.")]
Note = Annotated[str, typer.Option(help="Why.")]
ModelId = Annotated[str, typer.Argument(help="Model, or how its id begins, see `deepidea models list`.")]


def add_commands(app: typer.Typer) -> None:
    """Add the two groups of commands to an application."""
    app.add_typer(feedback_app, name="feedback")
    app.add_typer(models_app, name="models")


@feedback_app.command("list")
def feedback_list(
    subject_id: Annotated[str | None, typer.Argument(help="Incident or alert; all where absent.")] = None,
    store: StoreUrl = "",
    limit: Annotated[int, typer.Option(min=1, help="Most rows.")] = 50,
) -> None:
    """List what analysts said, the newest first: earlier verdicts, which no longer hold, too."""
    from deepidea.detection.watch import open_known_store

    with open_known_store(store) as opened:
        show_feedback(opened.feedback(subject_id=subject_id, limit=limit))


@feedback_app.command("add")
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
    from deepidea.detection.watch import open_known_store

    who = _who(analyst)
    with open_known_store(store) as opened:
        wanted = opened.find_incident(subject_id) if subject is Subject.incident else subject_id
        said = opened.judge(subject.value, wanted, verdict.value, class_name=class_name, note=note, analyst=who)
    say(f"{said.subject} {said.subject_id}: {said.verdict}, says {said.analyst}")


@feedback_app.command("export")
def feedback_export(
    output: Annotated[str, typer.Option("--output", "-o", help="Flows: .parquet, .csv or .jsonl; - for stdout.")],
    format: Annotated[TableFormat | None, typer.Option(help="Format, where the name does not tell.")] = None,
    per_incident: Annotated[
        int | None, typer.Option(min=1, help="Most flows of an incident, the same ones every time.")
    ] = None,
    store: StoreUrl = "",
) -> None:
    """Write judged alerts as labelled flows: what `deepidea train --extra` takes."""
    from deepidea.detection.feedback_export import export_feedback
    from deepidea.detection.watch import open_known_store

    with open_known_store(store) as opened:
        counts = export_feedback(opened, output, format=format.value if format else None, per_incident=per_incident)
    show_exported(counts, output)


@models_app.command("add")
def models_add(
    file: Annotated[Path, typer.Argument(help="Detector file.")],
    name: Annotated[str, typer.Option(help="What to call it; the file's name where absent.")] = "",
    analyst: Analyst = None,
    store: StoreUrl = "",
) -> None:
    """Keep a detector file in the store, after an audit."""
    from deepidea.detection.store import open_store
    from deepidea.detection.watch import default_store

    who = _who(analyst)
    with open_store(store or default_store()) as opened:
        added = opened.add_model(file, name=name, analyst=who)
        active = opened.active_model()
    line = f"activate {added.model_id}" if active is None else f"compare {active.model_id} {added.model_id} DATA"
    say(f"{added.model_id}: {added.name}, detector {added.model}; next: deepidea models {line}")


@models_app.command("list")
def models_list(store: StoreUrl = "") -> None:
    """List the models of the store, the latest added first."""
    from deepidea.detection.watch import open_known_store

    with open_known_store(store) as opened:
        show_models(opened.models())


@models_app.command("show")
def models_show(model: ModelId, store: StoreUrl = "") -> None:
    """Print a model's card, how it compares, and when it was active."""
    from deepidea.detection.models import detector_of
    from deepidea.detection.watch import open_known_store

    with open_known_store(store) as opened:
        found = opened.find_model(model)
        detector = detector_of(opened, found.model_id)
        history = [one for one in opened.activations() if one.model_id == found.model_id]
    show_models([found])
    show_card(detector)
    if found.comparison is not None:
        show_comparison(found.comparison)
    if history:
        show_activations(history)


@models_app.command("compare")
def models_compare(
    old: Annotated[str, typer.Argument(help="The model before: a detector file, or a model of the store.")],
    new: Annotated[str, typer.Argument(help="The one after it.")],
    data: Annotated[list[str], typer.Argument(help="Name of a data set, or files of labelled flows.")],
    judged: Annotated[list[Path] | None, typer.Option(help="Judged flows, see `deepidea feedback export`.")] = None,
    label: Annotated[str | None, typer.Option(help="Label column of a table.")] = None,
    benign: Annotated[str | None, typer.Option(help="Value of the label column that means benign.")] = None,
    taxonomy: Annotated[str | None, typer.Option(help="Which labels are which class.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    store: StoreUrl = "",
) -> None:
    """Compare two models on flows that neither was trained on; the store keeps it where it has both."""
    from deepidea.evaluation.continuing import compare_on

    (before, old_id), (after, new_id) = (_detector(one, store) for one in (old, new))
    name = data[0] if len(data) == 1 else data
    compared = compare_on(before, after, name, judged=judged or (), label=label, benign=benign, taxonomy=taxonomy)
    told = compared.to_dict()
    if as_json:
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
    else:
        show_comparison(told)
    if store or not (Path(old).is_file() and Path(new).is_file()):
        _keep_comparison(told, old_id, new_id, store)


@models_app.command("activate")
def models_activate(
    model: ModelId,
    note: Note = "",
    force: Annotated[
        bool, typer.Option("--force", help="Do it though no comparison says that it is no worse; the history tells.")
    ] = False,
    analyst: Analyst = None,
    store: StoreUrl = "",
) -> None:
    """Make a model the active one: `deepidea detect` without a file runs it, and one that runs follows."""
    from deepidea.detection.watch import open_known_store

    who = _who(analyst)
    with open_known_store(store) as opened:
        done = opened.activate(opened.find_model(model).model_id, analyst=who, note=note, force=force)
    say(f"{done.model_id} is active" + (", by force" if done.kind == "forced" else ""))


@models_app.command("rollback")
def models_rollback(note: Note = "", analyst: Analyst = None, store: StoreUrl = "") -> None:
    """Go back to the model that was active before the present one; again, to the one before that."""
    from deepidea.detection.watch import open_known_store

    who = _who(analyst)
    with open_known_store(store) as opened:
        done = opened.rollback(analyst=who, note=note)
    say(f"{done.model_id} is active again")


@models_app.command("history")
def models_history(store: StoreUrl = "") -> None:
    """List which model was made the active one when, by whom and why."""
    from deepidea.detection.watch import open_known_store

    with open_known_store(store) as opened:
        show_activations(opened.activations())


@models_app.command("remove")
def models_remove(model: ModelId, store: StoreUrl = "") -> None:
    """Let a model's file go; the active one stays."""
    from deepidea.detection.watch import open_known_store

    with open_known_store(store) as opened:
        found = opened.find_model(model)
        opened.remove_model(found.model_id)
    say(f"removed {found.model_id}")


def _who(analyst: str | None) -> str:
    """Return who acts: the one that is named, else the login."""
    if analyst is not None:
        return analyst
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # a container may know no name for its user
        raise DataError("somebody must be named, however: the system knows no login name; give --analyst") from error


def _detector(model: str, store: str) -> tuple[Detector, str]:
    """Return a detector of a file or of the store, and the id that it has there, or would have."""
    from deepidea.detection.models import detector_of, model_id_of
    from deepidea.detection.watch import open_known_store
    from deepidea.model.detector import Detector

    if Path(model).is_file():
        return Detector.load(model), model_id_of(Path(model).read_bytes())
    with open_known_store(store) as opened:
        found = opened.find_model(model)
        return detector_of(opened, found.model_id), found.model_id


def _keep_comparison(told: dict[str, Any], old_id: str, new_id: str, store: str) -> None:
    """Keep a comparison in the store, where it has both models."""
    from deepidea.detection.watch import open_known_store

    with open_known_store(store) as opened:
        if {old_id, new_id} <= {one.model_id for one in opened.models()}:
            opened.set_comparison(told, old_id=old_id, new_id=new_id)
            say(f"kept in the store; next: deepidea models activate {new_id}")
        else:
            say("not kept: the store does not have both models; see deepidea models add")
