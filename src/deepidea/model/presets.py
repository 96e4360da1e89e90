"""Named presets of parameters, and the functions that train a detector from labelled flows."""

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

# Dong et al. 2019, sections III and IV. Every departure is marked.
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
    "number_encoding": "scaled",
    "n_quantiles": 8,
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

# Chosen on training folds that leave out whole attack types, see docs/accuracy.md.
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
    "number_encoding": "scaled",
    "n_quantiles": 8,
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
    """Return an untrained classifier of a preset, and whether to train it on native labels.

    Parameters
    ----------
    preset : str
        A name from :data:`PRESETS`.
    **changes
        Parameters that differ from the preset.

    Raises
    ------
    MissingExtraError
        torch or scikit-learn is not installed.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    try:
        from deepidea.model.estimators import DeepIDEAClassifier
    except ImportError as error:
        raise MissingExtraError(
            f"cannot train without torch and scikit-learn: {error}; install them with: pip install 'deepidea[train]'"
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
    """Train a detector on labelled flows, anew or continuing from another one.

    Parameters
    ----------
    flows : LabelledFlows
        Classes ``benign`` and at least one attack, two rows or more of each.
    preset : {"default", "paper"}
    card : mapping, optional
        Further JSON values for the detector file: the source of the flows, how they were split.
    on_epoch : callable, optional
        Called with an :class:`deepidea.model.training.Epoch` after each epoch.
    extra : LabelledFlows, optional
        Additional flows, such as those labelled by analysts; never held out. Their schema is that of ``flows``, or with
        ``start`` the detector's.
    extra_weight : float, optional
        How many training flows each of them counts as; default: :func:`choose_extra_weight`.
    start : Detector, optional
        To continue from: its weights, encoder, classes, labels, loss and the parameters of its card, unless changed;
        ``preset`` is ignored. The learning rate is :data:`CONTINUED_RATE` of its own, since the full rate would move
        trained weights too far. Temperature, prior, novelty and reference are fitted anew.
    workers, checkpoint
        Processes that train together, and a file to resume from: see ``DeepIDEAClassifier.fit``.
    **changes
        Parameters of ``DeepIDEAClassifier`` that differ from the preset. ``n_epochs`` sets ``min_steps`` to 0, unless
        that is given too.

    Raises
    ------
    DataError
        ``attack_weight`` is given with a loss without such a term.
    LabelError
        The classes cannot train a detector, or with ``start`` are not exactly its own.
    ArtifactError
        ``start`` lacks a part that continued training needs.
    MissingExtraError
        torch or scikit-learn is not installed.

    Notes
    -----
    An interruption (Ctrl-C) after the first epoch ends training early with the best epoch so far; the card's
    ``training.interrupted`` is then true.

    Examples
    --------
    >>> from deepidea.flows.labelled import labelled_flows_from_table
    >>> from deepidea.flows.simulate import simulate_flows
    >>> flows, _ = labelled_flows_from_table(simulate_flows(n_flows=500), "label", "benign")
    >>> detector = train_detector(flows, random_state=0, min_steps=100)
    >>> detector.classes[0], detector.card["training"]["preset"]
    ('benign', 'default')
    """
    everything = flows if extra is None else _concat(flows, extra)
    if "n_epochs" in changes:  # an explicit number of epochs holds on a small table, too
        changes = {"min_steps": 0, **changes}
    schema, given = flows.schema, changes
    if start is None:
        _check_classes(everything)
    else:
        _check_same_classes(everything, start)
        preset, recorded = recorded_parameters(start)
        changes, schema = {**recorded, **changes}, start.schema
    classifier, with_labels = make_classifier(preset, schema=schema, **changes)
    _check_attack_weight(given, classifier.loss)
    if start is not None and with_labels:
        _check_same_labels(everything, start)
    weight = _weight_of_extra(flows, extra, extra_weight, classifier.duplicates)
    started = time.perf_counter()
    shared = {"workers": workers, "checkpoint": checkpoint}
    _fit(classifier, flows, everything, weight, with_labels, start, on_epoch, **shared)
    training = _training_card(classifier, preset, with_labels, time.perf_counter() - started)
    if extra is not None:
        training |= {"extra_rows": len(extra), "extra_weight": weight}
    return classifier.to_detector(created_with=f"deepidea {deepidea.__version__}", training=training, **(card or {}))


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
        ``attack_weight`` is given with a loss without such a term, or ``labels=True``: shards hold classes alone.
    """
    if "n_epochs" in changes:
        changes = {"min_steps": 0, **changes}
    classifier, with_labels = make_classifier(preset, schema=flows.schema, **changes)
    _check_attack_weight(changes, classifier.loss)
    if with_labels:
        raise DataError("cannot train on labels in shards, which hold classes alone; leave out labels=True")
    started = time.perf_counter()
    classifier.fit_shards(flows, on_epoch=on_epoch, workers=workers, checkpoint=checkpoint)
    training = _training_card(classifier, preset, with_labels, time.perf_counter() - started)
    return classifier.to_detector(created_with=f"deepidea {deepidea.__version__}", training=training, **(card or {}))


CONTINUED_RATE = 0.1
"""Share of a detector's learning rate that continued training begins with."""


def recorded_parameters(detector: Detector) -> tuple[str, dict[str, Any]]:
    """Return the preset of a detector, and the parameters for continued training.

    Raises
    ------
    ArtifactError
        Its card does not record how it was trained.
    """
    training = detector.card.get("training")
    training = training if isinstance(training, dict) else {}
    preset, parameters = training.get("preset"), training.get("parameters")
    if not isinstance(preset, str) or preset not in PRESETS or not isinstance(parameters, dict):
        raise ArtifactError(
            "cannot continue training: the detector's card has no preset and parameters; train without --continue"
        )
    known = {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items() if k in PRESETS[preset]}
    rate = known.get("learning_rate", PRESETS[preset]["learning_rate"])
    if not isinstance(rate, int | float):
        raise ArtifactError(f"cannot continue training: the card's learning rate is {str(rate)[:40]!r}, not a number")
    return preset, {**known, "learning_rate": CONTINUED_RATE * rate, "labels": bool(training.get("labels"))}


def choose_extra_weight(n_flows: int, n_extra: int) -> float:
    """Return how many training flows an extra one counts as by default.

    Together they count as a tenth of the training flows; each counts as at least 1 and at most 100.

    Examples
    --------
    >>> choose_extra_weight(100_000, 1_000), choose_extra_weight(100_000, 3), choose_extra_weight(1_000, 5_000)
    (10.0, 100.0, 1.0)
    """
    return float(min(max(0.1 * n_flows / max(n_extra, 1), 1.0), 100.0))


def _weight_of_extra(flows: LabelledFlows, extra: LabelledFlows | None, given: float | None, duplicates: str) -> float:
    if given is not None and not 0 < given < float("inf"):
        raise DataError(f"extra_weight must be finite and above 0, got {given}; to ignore extra flows, leave them out")
    if extra is None or given is not None:
        return given or 1.0
    tables = [one.features for one in (flows, extra)]
    return choose_extra_weight(*(t.unique().height if duplicates == "drop" else t.height for t in tables))


def _concat(flows: LabelledFlows, extra: LabelledFlows) -> LabelledFlows:
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
            f"{labels.null_count():,} extra flows lack a label; add it in their column label, or train without --labels"
        )
    if start is not None:
        from deepidea.model.losses import LOSSES  # needs torch
        from deepidea.model.warm_start import WarmStart

        loss = start.card["training"]["parameters"].get("loss")
        if loss not in LOSSES:
            raise ArtifactError(f"cannot continue training: the card's loss is {str(loss)[:40]!r}, which is unknown")
        options["start"] = begin = WarmStart.of(start, loss)
        encoder = begin.encoder
        of_encoder = {name: getattr(encoder, name) for name in ("scaling", "number_encoding", "n_quantiles")}
        classifier.set_params(hidden=begin.hidden, **of_encoder)
    if len(everything) > len(flows):
        options["extra"] = is_extra = np.arange(len(everything)) >= len(flows)
        options["sample_weight"] = np.where(is_extra, weight, 1.0)
    classifier.fit(everything.features, everything.classes, **options)


def _check_same_classes(flows: LabelledFlows, start: Detector) -> None:
    unknown = flows.classes.filter(~flows.classes.is_in(list(start.classes)))
    if len(unknown):
        raise LabelError(
            f"cannot continue training with flows of {format_counts(unknown)}: the detector's classes are "
            f"{', '.join(start.classes)}; leave them out, or train without --continue"
        )
    missing = sorted(set(start.classes) - set(flows.classes.unique()))
    if missing:
        raise LabelError(
            f"cannot continue training with no flows of {', '.join(missing)}, which the detector would unlearn; give "
            "its former training flows, and new ones as --extra"
        )


def _check_same_labels(flows: LabelledFlows, start: Detector) -> None:
    named = flows.labels.filter((flows.classes != start.benign) & flows.labels.is_not_null())
    unknown = named.filter(~named.is_in(list(start.labels)))
    missing = sorted(set(start.labels) - {start.benign} - set(named))
    if len(unknown) or missing:
        fact = f"flows of {format_counts(unknown)}" if len(unknown) else f"no flows of {missing}"
        raise LabelError(
            f"cannot continue training with {fact}: labels must be exactly the detector's labels "
            f"({', '.join(start.labels)}); train without --continue"
        )


def _check_attack_weight(changes: Mapping[str, Any], loss: str) -> None:
    from deepidea.model.losses import LOSSES  # needs torch

    users = [name for name, info in LOSSES.items() if info.uses_attack_weight]
    if "attack_weight" in changes and loss in LOSSES and loss not in users:
        raise DataError(f"attack_weight has no effect with loss={loss}; leave it out, or use {' or '.join(users)}")


def _check_classes(flows: LabelledFlows) -> None:
    counts = flows.classes.value_counts()
    if len(counts) < 2 or "benign" not in flows.class_order:
        raise LabelError(
            f"cannot train on {flows.source or 'the table'}: it holds {format_counts(flows.classes)}, training needs "
            "benign flows and flows of an attack; add flows, or choose another taxonomy"
        )
    single = counts.filter(pl.col("count") < 2)[flows.classes.name].sort().to_list()
    if single:
        raise LabelError(
            f"cannot train on one flow of a class, {flows.source} has one of {', '.join(single)}; drop it, merge it "
            "into another class, add flows, or hold none out for testing (--split none)"
        )


def _training_card(classifier: DeepIDEAClassifier, preset: str, labels: bool, seconds: float) -> dict[str, Any]:
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
