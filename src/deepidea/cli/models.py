"""The commands `deepidea models ...`: detectors kept in a store, and which of them is active."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepidea.cli.alert_cells import time_cell
from deepidea.cli.comparison import show_comparison
from deepidea.cli.model_card import show_card
from deepidea.cli.options import (
    Analyst,
    AsJson,
    Benign,
    Label,
    Note,
    StoreUrl,
    TaxonomyName,
    analyst_or_login,
    audited,
    known_store,
    new_or_known_store,
    one_name,
    option,
)
from deepidea.cli.terminal import say, show_table, write_json

if TYPE_CHECKING:
    from deepidea.model.detector import Detector

ModelId = Annotated[str, typer.Argument(help="Model id or its beginning, from `deepidea models list`.")]


def models_add(
    file: Annotated[Path, typer.Argument(help="Detector file.")],
    name: Annotated[str, option("Name of the model; by default the file's.")] = "",
    analyst: Analyst = None,
    store: StoreUrl = "",
) -> None:
    """Check a detector file and add it to the store."""
    from deepidea.store import models as stored

    new = stored.read_model(file, name=name)  # before a store is made
    with audited(new_or_known_store(store), analyst_or_login(analyst)) as (service, actor, connection):
        added = service.add_model(new, actor=actor)
        active = stored.active(connection)
    step = f"activate {added.model_id}" if active is None else f"compare {active.model_id} {added.model_id} DATA"
    say(f"added {added.model_id}: {added.name}, detector {added.model}; next: deepidea models {step}")


def models_list(store: StoreUrl = "") -> None:
    """List the models of the store, latest first."""
    from deepidea.store import models as stored

    with known_store(store) as opened:
        show_models(opened.query(stored.all_models))


def show_models(models: Iterable[Any]) -> None:
    """Print models of a store."""
    show_table(("", "id", "name", "detector", "MiB", "added", "by", "compared"), map(_model, models), empty="no models")


def _model(of: Any) -> tuple[str, ...]:
    compared = "" if of.comparison is None else f"{of.comparison['verdict']} than {of.comparison['old_id']}"
    size, added = f"{of.n_bytes / 2**20:.1f}", f"{of.added:%Y-%m-%d %H:%M}"
    return "active" if of.active else "", of.model_id, of.name, of.model, size, added, of.added_by, compared


def models_show(model: ModelId, store: StoreUrl = "") -> None:
    """Show a model's card, its comparison, and when it was active."""
    from deepidea.detection.models import detector_of
    from deepidea.store import models as stored

    with known_store(store) as opened:
        found = opened.query(stored.find, model)
        detector = detector_of(opened, found.model_id)
        history = [of for of in opened.query(stored.activations) if of.model_id == found.model_id]
    show_models([found])
    show_card(detector)
    if found.comparison is not None:
        show_comparison(found.comparison)
    if history:
        show_activations(history)


def models_compare(
    old: Annotated[str, typer.Argument(help="The old one: a detector file, or a model of the store.")],
    new: Annotated[str, typer.Argument(help="The new one.")],
    data: Annotated[list[str], typer.Argument(help="Name of a data set, or files of labelled flows.")],
    labelled: Annotated[
        list[Path] | None, option("Flows labelled by analysts, from `deepidea feedback export`.")
    ] = None,
    label: Label = None,
    benign: Benign = None,
    taxonomy: TaxonomyName = None,
    as_json: AsJson = False,
    store: StoreUrl = "",
    judged: Annotated[list[Path] | None, option("Former name of --labelled.", hidden=True)] = None,
) -> None:
    """Compare two detectors on flows that neither was trained on; the store keeps the result if it has both."""
    from deepidea.evaluation.continued_training import compare_on

    (before, old_id), (after, new_id) = (_detector(of, store) for of in (old, new))
    comparison = compare_on(
        before,
        after,
        one_name(data),
        analyst_files=[*(labelled or ()), *(judged or ())],
        label=label,
        benign=benign,
        taxonomy=taxonomy,
    ).to_dict()
    if as_json:
        write_json(comparison)
    else:
        show_comparison(comparison)
    # two files and no --store: there is no store to keep it in
    if store or not (Path(old).is_file() and Path(new).is_file()):
        _store_comparison(comparison, old_id, new_id, store)


def _detector(model: str, store: str) -> tuple[Detector, str]:
    """Return a detector of a file or of the store, and its id in a store."""
    from deepidea.detection.models import detector_of
    from deepidea.model.detector import Detector
    from deepidea.store import models as stored

    if Path(model).is_file():
        return Detector.load(model), stored.model_id_of(Path(model).read_bytes())
    with known_store(store) as opened:
        found = opened.query(stored.find, model)
        return detector_of(opened, found.model_id), found.model_id


def _store_comparison(comparison: dict[str, Any], old_id: str, new_id: str, store: str) -> None:
    """Keep a comparison in the store, if it has both models."""
    from deepidea.store import models as stored

    with audited(known_store(store)) as (service, actor, connection):
        if {old_id, new_id} <= {of.model_id for of in stored.all_models(connection)}:
            service.set_comparison(comparison, old_id=old_id, new_id=new_id, actor=actor)
            say(f"kept in the store; next: deepidea models activate {new_id}")
        else:
            say("not kept: the store does not have both models; deepidea models add adds one")


def models_activate(
    model: ModelId,
    note: Note = "",
    force: Annotated[bool, option("Activate without a comparison that finds it no worse.", "--force")] = False,
    analyst: Analyst = None,
    store: StoreUrl = "",
) -> None:
    """Make a model the active one, which `deepidea detect` runs by default; running ones switch to it."""
    from deepidea.store import models as stored

    with audited(known_store(store), analyst_or_login(analyst)) as (service, actor, connection):
        model_id = stored.find(connection, model).model_id
        done = service.activate(model_id, actor=actor, note=note, force=force)
    say(f"{done.model_id} is active" + (", forced" if done.kind == "forced" else ""))


def models_rollback(note: Note = "", analyst: Analyst = None, store: StoreUrl = "") -> None:
    """Make the previously active model the active one again."""
    with audited(known_store(store), analyst_or_login(analyst)) as (service, actor, _):
        done = service.rollback(actor=actor, note=note)
    say(f"{done.model_id} is active again")


def models_history(store: StoreUrl = "") -> None:
    """List which model was activated when, by whom and why."""
    from deepidea.store import models as stored

    with known_store(store) as opened:
        show_activations(opened.query(stored.activations))


def show_activations(activations: Iterable[Any]) -> None:
    """Print which model was activated when, newest first."""
    rows = ((time_cell(of.time), of.model_id, of.kind.replace("_", " "), of.analyst, of.note) for of in activations)
    show_table(("time", "model", "how", "by", "note"), rows, empty="no model was activated yet")


def models_remove(model: ModelId, store: StoreUrl = "") -> None:
    """Delete a model from the store; the active one cannot be deleted."""
    from deepidea.store import models as stored

    with audited(known_store(store)) as (service, actor, connection):
        model_id = stored.find(connection, model).model_id
        service.remove_model(model_id, actor=actor)
    say(f"removed {model_id}")
