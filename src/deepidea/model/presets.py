"""Named recipes, and the one call that turns labelled flows into a detector."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

import deepidea
from deepidea.errors import ArtifactError, DataError, LabelError, MissingExtraError
from deepidea.flows.labelled import LabelledFlows
from deepidea.flows.shards import ShardedFlows
from deepidea.flows.taxonomy import format_counts

if TYPE_CHECKING:
    from deepidea.model.detector import Detector
    from deepidea.model.estimators import DeepIDEAClassifier
    from deepidea.model.training import Epoch
    from deepidea.model.workers import Workers

# Dong et al. 2019, sections III and IV. Every departure that the paper forces is marked.
_PAPER: dict[str, Any] = {
    "labels": False,
    "loss": "attack-sharing",
    "attack_weight": 10.0,
    "hidden": (100,) * 10,
    "dropout": 0.2,
    "learning_rate": 1e-4,
    "batch_size": 128,
    "n_epochs": 10,
    "schedule": "constant",
    "min_steps": 0,
    # NOTE[DIFF]: the preprocessing is not described; numbers are logarithms with z-scores, text is one-hot. Scaling to
    # 0..1 ends ten epochs at a higher loss and a lower held-out CBA: benchmarks/paper_choices.py.
    "scaling": "log-z-score",
    "duplicates": "weigh",
    "balance": 0.0,
    # the paper takes the most probable class
    "temperature": 1.0,
    "tau": 0.0,
    # NOTE[DIFF]: "cross-validation to avoid over-fitting" names no scheme; a tenth of the distinct rows is held out to
    # show progress, and nothing is chosen by it.
    "validation_fraction": 0.1,
    "novelty": "none",
    "novelty_rate": 0.0,
}

# Chosen on training folds that leave out whole attack types: docs/accuracy.md says what was tried.
_DEFAULT: dict[str, Any] = {
    "labels": False,
    "loss": "attack-sharing",
    "attack_weight": 1.0,
    "hidden": (128, 128),
    "dropout": 0.1,
    "learning_rate": 1e-3,
    "batch_size": 256,
    "n_epochs": 10,
    "schedule": "one-cycle",
    "min_steps": 1000,
    "scaling": "log-z-score",
    "duplicates": "drop",
    "balance": 0.5,
    "temperature": 1.0,
    "tau": 1.0,
    "validation_fraction": 0.1,
    "novelty": "mahalanobis",
    "novelty_rate": 0.03,
}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"default": _DEFAULT, "paper": _PAPER})


def make_classifier(preset: str = "default", **changes: Any) -> tuple[DeepIDEAClassifier, bool]:
    """Return an untrained classifier of a preset, and whether it is to be trained on native labels.

    Parameters
    ----------
    preset : str
        A name out of :data:`PRESETS`.
    **changes
        Parameters that differ from the preset.

    Raises
    ------
    MissingExtraError
        Where torch or scikit-learn is not installed.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, however: preset={preset!r}")
    try:
        from deepidea.model.estimators import DeepIDEAClassifier
    except ImportError as error:
        raise MissingExtraError(
            f"training needs torch and scikit-learn, however: {error}; install them with: pip install 'deepidea[train]'"
        ) from error
    parameters = {**PRESETS[preset], **changes}
    labels = bool(parameters.pop("labels"))
    return DeepIDEAClassifier(**parameters), labels


def train_detector(
    flows: LabelledFlows,
    *,
    preset: str = "default",
    card: Mapping[str, Any] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    extra: LabelledFlows | None = None,
    extra_weight: float | None = None,
    start: Detector | None = None,
    workers: Workers | None = None,
    checkpoint: Path | None = None,
    **changes: Any,
) -> Detector:
    """Train a detector on labelled flows, anew or going on from another one.

    Parameters
    ----------
    flows : LabelledFlows
        Classes ``benign`` and at least one attack, two rows or more of each.
    preset : {"default", "paper"}
    card : mapping, optional
        Further JSON values for the detector file: where the flows come from, how they were split.
    on_epoch : callable, optional
        Gets an :class:`deepidea.model.training.Epoch` as each epoch ends.
    extra : LabelledFlows, optional
        Flows to train on besides, such as what analysts judged; they are never held out. Their schema is that of
        ``flows``, or with ``start`` the detector's.
    extra_weight : float, optional
        How many training flows each of them counts as; :func:`choose_extra_weight` where absent.
    start : Detector, optional
        To go on from: its weights, encoder, classes, labels, loss and parameters, those of its card, unless changed;
        ``preset`` does not count then. The learning rate is :data:`CONTINUED_RATE` of its own: a rate that once
        carried random weights to where they are would carry these away again. Temperature, prior and what is usual are
        fitted anew.
    workers, checkpoint
        Processes that train together, and a file to go on from: see ``DeepIDEAClassifier.fit``.
    **changes
        Parameters of ``DeepIDEAClassifier`` that differ from the preset. ``n_epochs`` is then kept to, however few
        steps that is, unless ``min_steps`` is given too.

    Raises
    ------
    DataError
        Where ``attack_weight`` is given with a loss that has no such term.
    LabelError
        Where the classes cannot train a detector, or with ``start`` are not exactly its own.
    ArtifactError
        Where ``start`` lacks what training goes on with.
    MissingExtraError
        Where torch or scikit-learn is not installed.

    Notes
    -----
    An interruption (Ctrl-C) after the first epoch ends training early with the best epoch so far; the card's
    ``training.interrupted`` says so.

    Examples
    --------
    >>> from deepidea.flows.labelled import labelled_flows_from_table
    >>> from deepidea.flows.simulate import simulate_flows
    >>> flows, _ = labelled_flows_from_table(simulate_flows(n_flows=500), "label", "benign")
    >>> detector = train_detector(flows, random_state=0, min_steps=100)
    >>> detector.classes[0], detector.card["training"]["preset"]
    ('benign', 'default')
    """
    everything = flows if extra is None else _joined(flows, extra)
    if "n_epochs" in changes:
        changes = {"min_steps": 0, **changes}
    schema, given = flows.schema, changes
    if start is None:
        _refuse_classes(everything)
    else:
        _refuse_other_classes(everything, start)
        preset, recorded = recorded_parameters(start)
        changes, schema = {**recorded, **changes}, start.schema
    classifier, with_labels = make_classifier(preset, schema=schema, **changes)
    _refuse_unheeded(given, classifier.loss)
    if start is not None and with_labels:
        _refuse_other_labels(everything, start)
    weight = _weight_of_extra(flows, extra, extra_weight, classifier.duplicates)
    started = time.perf_counter()
    shared = {"workers": workers, "checkpoint": checkpoint}
    _fit(classifier, flows, everything, weight, with_labels, start, on_epoch, **shared)
    told = _tell_training(classifier, preset, with_labels, time.perf_counter() - started)
    if extra is not None:
        told |= {"extra_rows": len(extra), "extra_weight": weight}
    return classifier.to_detector(created_with=f"deepidea {deepidea.__version__}", training=told, **(card or {}))


def train_on_shards(
    flows: ShardedFlows,
    *,
    preset: str = "default",
    card: Mapping[str, Any] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    workers: Workers | None = None,
    checkpoint: Path | None = None,
    **changes: Any,
) -> Detector:
    """Train a detector on flows that do not fit into memory.

    Parameters
    ----------
    flows : ShardedFlows
    preset, card, on_epoch, workers, checkpoint, **changes
        As for :func:`train_detector`.

    Raises
    ------
    DataError
        A parameter does not go with the loss, or the detector is to tell labels apart: those of a table are its
        classes.
    """
    if "n_epochs" in changes:
        changes = {"min_steps": 0, **changes}
    classifier, with_labels = make_classifier(preset, schema=flows.schema, **changes)
    _refuse_unheeded(changes, classifier.loss)
    if with_labels:
        raise DataError("shards must be trained on by class, however: labels=True; leave it out")
    started = time.perf_counter()
    classifier.fit_shards(flows, on_epoch=on_epoch, workers=workers, checkpoint=checkpoint)
    told = _tell_training(classifier, preset, with_labels, time.perf_counter() - started)
    return classifier.to_detector(created_with=f"deepidea {deepidea.__version__}", training=told, **(card or {}))


CONTINUED_RATE = 0.1
"""Share of a detector's learning rate that continued training begins with."""


def recorded_parameters(detector: Detector) -> tuple[str, dict[str, Any]]:
    """Return the preset of a detector, and the parameters with which its training goes on.

    Raises
    ------
    ArtifactError
        Its card does not tell how it was trained.
    """
    told = detector.card.get("training")
    told = told if isinstance(told, dict) else {}
    preset, parameters = told.get("preset"), told.get("parameters")
    if not isinstance(preset, str) or preset not in PRESETS or not isinstance(parameters, dict):
        raise ArtifactError(
            "a detector to go on from must tell how it was trained, however: its card names no preset and parameters; "
            "train anew, without --continue"
        )
    known = {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items() if k in PRESETS[preset]}
    rate = known.get("learning_rate", PRESETS[preset]["learning_rate"])
    if not isinstance(rate, int | float):
        raise ArtifactError(f"the learning rate of a card must be a number, however: it is {str(rate)[:40]!r}")
    return preset, {**known, "learning_rate": CONTINUED_RATE * rate, "labels": bool(told.get("labels"))}


def choose_extra_weight(n_flows: int, n_extra: int) -> float:
    """Return how many training flows an extra one counts as where nobody says: judged flows are few, and lately seen.

    Together they count as a tenth of the training flows; each counts as one at least, and as a hundred at most.

    Examples
    --------
    >>> choose_extra_weight(100_000, 1_000), choose_extra_weight(100_000, 3), choose_extra_weight(1_000, 5_000)
    (10.0, 100.0, 1.0)
    """
    return float(min(max(0.1 * n_flows / max(n_extra, 1), 1.0), 100.0))


def _weight_of_extra(flows: LabelledFlows, extra: LabelledFlows | None, given: float | None, duplicates: str) -> float:
    if given is not None and not 0 < given < float("inf"):
        raise DataError(f"the weight of extra flows must be above 0, however: {given}; leave the file out instead")
    if extra is None or given is not None:
        return given or 1.0
    tables = [one.features for one in (flows, extra)]
    return choose_extra_weight(*(t.unique().height if duplicates == "drop" else t.height for t in tables))


def _joined(flows: LabelledFlows, extra: LabelledFlows) -> LabelledFlows:
    table = pl.concat([flows.features, extra.features.select(flows.schema.features)], how="vertical_relaxed")
    labels, classes = (
        pl.concat([getattr(one, name).rename(name).cast(pl.String) for one in (flows, extra)])
        for name in ("labels", "classes")
    )
    order = tuple(dict.fromkeys((*flows.class_order, *extra.class_order)))
    return LabelledFlows(table, labels, classes, flows.schema, order, f"{flows.source} and {extra.source}")


def _fit(
    classifier: DeepIDEAClassifier,
    flows: LabelledFlows,
    everything: LabelledFlows,
    weight: float,
    with_labels: bool,
    start: Detector | None,
    on_epoch: Callable[[Epoch], None] | None,
    **shared: Any,
) -> None:
    labels = everything.labels if with_labels else None
    options: dict[str, Any] = {"labels": labels, "on_epoch": on_epoch, **shared}
    if labels is not None and labels.null_count():
        raise LabelError(
            f"extra flows must tell which label of their class they are of, however: {labels.null_count():,} do not; "
            "name it in their column label, or train without --labels"
        )
    if start is not None:
        from deepidea.model.starting import Start  # needs torch

        options["start"] = begin = Start.of(start, _recorded_loss(start))
        classifier.set_params(hidden=begin.hidden)
    if len(everything) > len(flows):
        options["extra"] = is_extra = np.arange(len(everything)) >= len(flows)
        options["sample_weight"] = np.where(is_extra, weight, 1.0)
    classifier.fit(everything.features, everything.classes, **options)


def _recorded_loss(start: Detector) -> Any:
    from deepidea.model.losses import LOSSES  # needs torch

    loss = start.card["training"]["parameters"].get("loss")
    if loss not in LOSSES:
        raise ArtifactError(f"a detector to go on from must name its loss, however: its card says {str(loss)[:40]!r}")
    return loss


def _refuse_other_classes(flows: LabelledFlows, start: Detector) -> None:
    unknown = flows.classes.filter(~flows.classes.is_in(list(start.classes)))
    if len(unknown):
        raise LabelError(
            f"continued training must stay within the detector's classes ({', '.join(start.classes)}), however: there "
            f"are flows of {format_counts(unknown)}; leave them out, or train anew, without --continue"
        )
    missing = sorted(set(start.classes) - set(flows.classes.unique()))
    if missing:
        raise LabelError(
            f"continued training needs flows of every class of the detector, however: there are none of "
            f"{', '.join(missing)}, which it would unlearn; give what it was trained on, and new flows as --extra"
        )


def _refuse_other_labels(flows: LabelledFlows, start: Detector) -> None:
    named = flows.labels.filter((flows.classes != start.benign) & flows.labels.is_not_null())
    unknown = named.filter(~named.is_in(list(start.labels)))
    missing = sorted(set(start.labels) - {start.benign} - set(named))
    if len(unknown) or missing:
        told = f"there are flows of {format_counts(unknown)}" if len(unknown) else f"there are none of {missing}"
        raise LabelError(
            f"continued training must be on exactly the detector's labels ({', '.join(start.labels)}), however: "
            f"{told}; train anew, without --continue"
        )


def _refuse_unheeded(changes: Mapping[str, Any], loss: str) -> None:
    from deepidea.model.losses import LOSSES  # needs torch

    heeding = [name for name, info in LOSSES.items() if info.heeds_attack_weight]
    if "attack_weight" in changes and loss in LOSSES and loss not in heeding:
        raise DataError(
            f"attack_weight must be given with a loss that has it ({', '.join(heeding)}), however: loss={loss}; "
            "leave it out"
        )


def _refuse_classes(flows: LabelledFlows) -> None:
    counts = flows.classes.value_counts()
    if len(counts) < 2 or "benign" not in flows.class_order:
        raise LabelError(
            f"training needs benign flows and flows of an attack, however: {flows.source or 'the table'} holds "
            f"{format_counts(flows.classes)}; add flows, or choose another taxonomy"
        )
    single = counts.filter(pl.col("count") < 2)[flows.classes.name].sort().to_list()
    if single:
        raise LabelError(
            f"a class must have at least two training flows, however: {', '.join(single)} has one in {flows.source}; "
            "drop it, merge it into another class, add flows, or hold none out for testing (--split none)"
        )


def _tell_training(classifier: DeepIDEAClassifier, preset: str, labels: bool, seconds: float) -> dict[str, Any]:
    parameters = {name: value for name, value in classifier.get_params().items() if name in PRESETS[preset]}
    epochs = [{"loss": e.loss, "validation_cba": _number(e.validation_cba)} for e in classifier.epochs_]
    return {
        "preset": preset,
        "labels": labels,
        "parameters": {k: list(v) if isinstance(v, tuple) else v for k, v in parameters.items()},
        "random_state": classifier.random_state,
        "n_threads": classifier.n_threads_,
        "seconds": round(seconds, 3),
        "epochs": epochs,
        "interrupted": len(epochs) < classifier.epochs_[0].n_epochs,
        "distinct_rows": len(classifier.fingerprints_),
    }


def _number(value: float) -> float | None:
    return None if value != value else value  # JSON knows no NaN
