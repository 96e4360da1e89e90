"""Commands on detectors: a file's model card, and the models of a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepidea.cli.card import show_card
from deepidea.cli.model_tables import show_activations, show_comparison, show_models
from deepidea.cli.options import Analyst, AsJson, Benign, Label, ModelFile, Note, StoreUrl, named_analyst, one_name
from deepidea.cli.terminal import say, write_json

if TYPE_CHECKING:
    from deepidea.model.detector import Detector

ModelId = Annotated[str, typer.Argument(help="Model, or how its id begins, see `deepidea models list`.")]


def inspect(
    model: ModelFile,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole manifest as JSON.")] = False,
) -> None:
    """Print a detector's model card: what it reads, how it decides, what it was trained on."""
    from deepidea.model.detector import Detector

    detector = Detector.load(model)
    if as_json:
        write_json(detector.manifest)
    else:
        show_card(detector)


def models_add(
    file: Annotated[Path, typer.Argument(help="Detector file.")],
    name: Annotated[str, typer.Option(help="What to call it; the file's name where absent.")] = "",
    analyst: Analyst = None,
    store: StoreUrl = "",
) -> None:
    """Keep a detector file in the store, after an audit."""
    from deepidea.detection.runner import default_store
    from deepidea.store.store import open_store

    who = named_analyst(analyst)
    with open_store(store or default_store()) as opened:
        added = opened.add_model(file, name=name, analyst=who)
        active = opened.active_model()
    line = f"activate {added.model_id}" if active is None else f"compare {active.model_id} {added.model_id} DATA"
    say(f"{added.model_id}: {added.name}, detector {added.model}; next: deepidea models {line}")


def models_list(store: StoreUrl = "") -> None:
    """List the models of the store, the latest added first."""
    from deepidea.detection.runner import open_known_store

    with open_known_store(store) as opened:
        show_models(opened.models())


def models_show(model: ModelId, store: StoreUrl = "") -> None:
    """Print a model's card, how it compares, and when it was active."""
    from deepidea.detection.models import detector_of
    from deepidea.detection.runner import open_known_store

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


def models_compare(
    old: Annotated[str, typer.Argument(help="The model before: a detector file, or a model of the store.")],
    new: Annotated[str, typer.Argument(help="The one after it.")],
    data: Annotated[list[str], typer.Argument(help="Name of a data set, or files of labelled flows.")],
    judged: Annotated[list[Path] | None, typer.Option(help="Judged flows, see `deepidea feedback export`.")] = None,
    label: Label = None,
    benign: Benign = None,
    taxonomy: Annotated[str | None, typer.Option(help="Which labels are which class.")] = None,
    as_json: AsJson = False,
    store: StoreUrl = "",
) -> None:
    """Compare two models on flows that neither was trained on; the store keeps it where it has both."""
    from deepidea.evaluation.continued_training import compare_on

    (before, old_id), (after, new_id) = (_detector(one, store) for one in (old, new))
    compared = compare_on(
        before, after, one_name(data), judged=judged or (), label=label, benign=benign, taxonomy=taxonomy
    )
    told = compared.to_dict()
    if as_json:
        write_json(told)
    else:
        show_comparison(told)
    if store or not (Path(old).is_file() and Path(new).is_file()):
        _keep_comparison(told, old_id, new_id, store)


def _detector(model: str, store: str) -> tuple[Detector, str]:
    """Return a detector of a file or of the store, and the id that it has there, or would have."""
    from deepidea.detection.models import detector_of
    from deepidea.detection.runner import open_known_store
    from deepidea.model.detector import Detector
    from deepidea.store.stored_model import model_id_of

    if Path(model).is_file():
        return Detector.load(model), model_id_of(Path(model).read_bytes())
    with open_known_store(store) as opened:
        found = opened.find_model(model)
        return detector_of(opened, found.model_id), found.model_id


def _keep_comparison(told: dict[str, Any], old_id: str, new_id: str, store: str) -> None:
    """Keep a comparison in the store, where it has both models."""
    from deepidea.detection.runner import open_known_store

    with open_known_store(store) as opened:
        if {old_id, new_id} <= {one.model_id for one in opened.models()}:
            opened.set_comparison(told, old_id=old_id, new_id=new_id)
            say(f"kept in the store; next: deepidea models activate {new_id}")
        else:
            say("not kept: the store does not have both models; see deepidea models add")


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
    from deepidea.detection.runner import open_known_store

    who = named_analyst(analyst)
    with open_known_store(store) as opened:
        done = opened.activate(opened.find_model(model).model_id, analyst=who, note=note, force=force)
    say(f"{done.model_id} is active" + (", by force" if done.kind == "forced" else ""))


def models_rollback(note: Note = "", analyst: Analyst = None, store: StoreUrl = "") -> None:
    """Go back to the model that was active before the present one; again, to the one before that."""
    from deepidea.detection.runner import open_known_store

    who = named_analyst(analyst)
    with open_known_store(store) as opened:
        done = opened.rollback(analyst=who, note=note)
    say(f"{done.model_id} is active again")


def models_history(store: StoreUrl = "") -> None:
    """List which model was made the active one when, by whom and why."""
    from deepidea.detection.runner import open_known_store

    with open_known_store(store) as opened:
        show_activations(opened.activations())


def models_remove(model: ModelId, store: StoreUrl = "") -> None:
    """Let a model's file go; the active one stays."""
    from deepidea.detection.runner import open_known_store

    with open_known_store(store) as opened:
        found = opened.find_model(model)
        opened.remove_model(found.model_id)
    say(f"removed {found.model_id}")
