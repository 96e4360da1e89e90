"""DeepIDEA as a scikit-learn estimator, and as the maker of detectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from deepidea.errors import DataError, MissingExtraError
from deepidea.flows.fingerprint import collapse_duplicates, row_fingerprints
from deepidea.flows.schema import Column, Schema
from deepidea.flows.shards import FlowTable, ShardedFlows, ShardedTable, in_memory
from deepidea.model.batches import RowsInMemory, TrainingRows
from deepidea.model.checkpoint import Checkpoint, training_digest
from deepidea.model.decision import Decision, fit_temperature
from deepidea.model.detector import Detector
from deepidea.model.features import NUMBER_ENCODINGS, FlowEncoder, NumberEncoding, NumberScaling, RawFeatures
from deepidea.model.losses import LOSSES, LossName
from deepidea.model.networks import MLP
from deepidea.model.novelty import Ellipsoids, Layer, Novelty, NoveltyRule, fit_novelty, sample_sides
from deepidea.model.reference import Bins, Reference, fit_reference, sample_rows
from deepidea.model.sharding import encode_shards
from deepidea.model.threads import fastest_thread_count, torch_threads
from deepidea.model.training import Adam, Epoch, Schedule, speed_up, train_network, train_step
from deepidea.model.training_sample import TrainingSample, sample_training
from deepidea.model.warm_start import WarmStart
from deepidea.model.workers import Workers

MOST_HELD_OUT = 50_000  # rows of a class; more would not make the estimates noticeably better
Device = Literal["auto", "cpu", "cuda"]
Duplicates = Literal["weigh", "drop"]
OnEpoch = Callable[[Epoch], None]


class DeepIDEAClassifier(ClassifierMixin, BaseEstimator):
    """Feed-forward network with attack-sharing loss, calibration and prior-corrected decision.

    Takes polars tables (numbers and text) or numeric arrays; missing and infinite values are allowed. Repeated rows are
    collapsed first, so the result depends neither on the order of rows nor on whether a row of weight 3 is written once
    or three times.

    Parameters
    ----------
    attack_weight : float
        Lambda of the loss: the cost of calling an attack benign, beside that of confusing two classes. 0 is
        cross-entropy. Only the losses "attack-sharing" and "hierarchical" use it.
    loss : str
        A name from :data:`deepidea.model.losses.LOSSES`. The prior of the decision follows the loss, so that
        ``p / prior^tau`` means the same for all of them.
    benign : label, optional
        The class that is not an attack; default: the label ``"benign"`` if there is one, else the first sorted class.
    hidden : sequence of int
        Units of each hidden layer.
    dropout : float
        Share of units dropped in training, on the input and on every hidden layer.
    scaling : {"log-z-score", "min-max"}
        How numbers are scaled, see :class:`deepidea.model.features.FlowEncoder`.
    number_encoding : {"scaled", "thermometer", "piecewise-linear", "scaled+thermometer", "scaled+piecewise-linear"}
        What the network gets of a number: its scaled value, steps between quantiles of training, or both.
    n_quantiles : int
        Edges of a thermometer, or bins of a piecewise-linear encoding.
    duplicates : {"weigh", "drop"}
        Whether a feature vector counts as often as it occurs, or once.
    balance : float
        How far label weights are evened out: a label of n flows weighs n^(1 - balance), in training and in the prior of
        the decision. 0 leaves them, 1 makes them equal.
    class_weight : dict, "balanced" or None
        "balanced" is ``balance=1``. A dict gives factors on the loss of each class that the prior does not follow: they
        shift decisions, as costs do.
    learning_rate, weight_decay, batch_size, n_epochs, schedule
        Adam and its step size, see :func:`deepidea.model.training.train_network`.
    min_steps : int
        A small table gets more than ``n_epochs`` epochs, until this many steps are taken.
    temperature : float or "auto"
        Divides the logits; "auto" fits it on the held-out rows.
    tau : float
        Strength of the prior correction of the decision; 0 is plain argmax.
    validation_fraction : float
        Share of the distinct rows of each class held out for the validation score, the temperature and the novelty
        ranks.
    novelty : {"mahalanobis", "none"}
        Whether the detector reports flows unlike those of training, see :mod:`deepidea.model.novelty`. Needs held-out
        benign flows and attacks and a hidden layer; without them, and after :meth:`partial_fit`, it does not.
    novelty_rate : float
        At most this share of benign flows is not called benign because it is unlike benign flows; such a flow gets the
        likeliest attack class. 0 leaves the decision to the network, as scikit-learn expects of an estimator.
    random_state : int, RandomState or None
        An int makes a run on a CPU reproducible to the last bit.
    n_threads : int or "auto", optional
        Training threads; "auto" measures which number is fastest. Default: 1 with an int ``random_state``, since the
        number of threads changes the last bits of a sum, else "auto".
    device : {"auto", "cpu", "cuda"}
        "auto" uses CUDA if available.
    schema : Schema, optional
        What the columns of a table are; default: text is a category, anything else a number.

    Attributes
    ----------
    classes_ : array (n_classes,)
        Sorted labels.
    benign_ : label
    encoder_ : FlowEncoder
    network_ : MLP
    detector_ : Detector
        What :meth:`predict` scores with.
    decision_ : Decision
        Over the network's outputs: benign first, then the labels of one attack class after the other.
    ellipsoids_, novelty_ : Ellipsoids, Novelty, or None
    sample_ : TrainingSample
        Some of the training rows and of the attacks held out.
    reference_ : Reference, or None
        Summary of the training flows, each row counted as often as it was given; None without benign flows.
    epochs_ : list of Epoch
    n_threads_ : int
    fingerprints_ : array, uint64
        Sorted fingerprints of the distinct training vectors, held-out ones included.

    Examples
    --------
    >>> import numpy as np
    >>> from deepidea import DeepIDEAClassifier
    >>> x = np.array([[0.0], [0.1], [5.0], [5.1]] * 10)
    >>> y = np.array(["benign", "benign", "scan", "scan"] * 10)
    >>> classifier = DeepIDEAClassifier(random_state=0).fit(x, y)
    >>> classifier.predict([[0.05], [5.05]])
    array(['benign', 'scan'], dtype='<U6')
    """

    ellipsoids_: Ellipsoids | None
    reference_: Reference | None
    sample_: TrainingSample
    novelty_: Novelty | None

    def __init__(
        self,
        attack_weight: float = 1.0,
        *,
        loss: LossName = "attack-sharing",
        benign: Any = None,
        hidden: Sequence[int] = (128, 128),
        dropout: float = 0.1,
        scaling: NumberScaling = "log-z-score",
        number_encoding: NumberEncoding = "scaled",
        n_quantiles: int = 8,
        duplicates: Duplicates = "weigh",
        balance: float = 0.0,
        class_weight: Any = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        batch_size: int = 256,
        n_epochs: int = 10,
        schedule: Schedule = "one-cycle",
        min_steps: int = 1000,
        temperature: float | Literal["auto"] = 1.0,
        tau: float = 1.0,
        validation_fraction: float = 0.1,
        novelty: NoveltyRule = "mahalanobis",
        novelty_rate: float = 0.0,
        random_state: Any = None,
        n_threads: int | Literal["auto"] | None = None,
        device: Device = "auto",
        schema: Schema | None = None,
    ) -> None:
        self.attack_weight, self.loss, self.benign = attack_weight, loss, benign
        self.hidden, self.dropout, self.scaling = hidden, dropout, scaling
        self.number_encoding, self.n_quantiles = number_encoding, n_quantiles
        self.duplicates, self.balance, self.class_weight = duplicates, balance, class_weight
        self.learning_rate, self.weight_decay, self.batch_size = learning_rate, weight_decay, batch_size
        self.n_epochs, self.schedule, self.min_steps = n_epochs, schedule, min_steps
        self.temperature, self.tau, self.validation_fraction = temperature, tau, validation_fraction
        self.novelty, self.novelty_rate, self.random_state = novelty, novelty_rate, random_state
        self.n_threads, self.device, self.schema = n_threads, device, schema

    # --- fitting -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        labels: ArrayLike | None = None,
        extra: ArrayLike | None = None,
        start: WarmStart | None = None,
        on_epoch: OnEpoch | None = None,
        workers: Workers | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Train on flows; nothing of an earlier fit is kept.

        Parameters
        ----------
        X : DataFrame (n_flows, n_features) or array of float
        y : array (n_flows,)
            Class of each flow.
        sample_weight : array (n_flows,), optional
            How many flows each row stands for; a row of weight 0 is ignored.
        labels : array (n_flows,), optional
            Finer names of the attacks: the network then has one output per label, and the decision sums them by class.
        extra : array (n_flows,) of bool, optional
            Flows added on purpose: they are never held out, and their weight counts even with ``duplicates="drop"``.
        start : WarmStart, optional
            Encoder, outputs and weights to continue from, in place of fresh ones.
        on_epoch : callable, optional
            Called with an :class:`deepidea.model.training.Epoch` after each epoch.
        workers : Workers, optional
            The processes that train together; each calls this with the same arguments otherwise.
        checkpoint : Path, optional
            File with the state of training, written after each epoch; training resumes from it if it exists.
        """
        self._start_afresh()
        table, y = self._read_training(X, y, reset=True)
        self._name_outputs(y, labels, start)
        rows = self._collapse(table, self._codes(y, labels), _read_weight(sample_weight, len(table)), extra)
        return self._fit_rows(rows, start, on_epoch, workers=workers, checkpoint=checkpoint)

    def fit_shards(
        self,
        flows: ShardedFlows,
        *,
        on_epoch: OnEpoch | None = None,
        workers: Workers | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Train on flows that do not fit into memory, shard by shard.

        In memory are one shard, the rows with so many copies that every shard has them, the held-out rows, and the
        fingerprint of each row. Encoded rows are written beside the shards.

        Parameters
        ----------
        flows : ShardedFlows
            Their classes are the labels.
        on_epoch, workers, checkpoint
            As for :meth:`fit`.
        """
        self._start_afresh()
        self._set_schema((self.schema or flows.schema).restrict(flows.schema.features))
        classes = np.array(flows.class_order)
        self._name_outputs(classes, None, None)
        target = self._codes(classes, None)[flows.codes]
        no_extra = np.zeros(len(flows), np.bool_)
        counts = (flows.copies, np.ones(len(flows)))
        rows = self._weigh(flows.table, target, *counts, flows.fingerprints, no_extra)
        return self._fit_rows(rows, None, on_epoch, workers=workers, checkpoint=checkpoint)

    def _start_afresh(self) -> None:
        """Check the parameters and drop every fitted attribute; private ones are set anew, or are scikit-learn's."""
        self._check_parameters()
        for name in [name for name in vars(self) if name.endswith("_") and not name.startswith("_")]:
            delattr(self, name)

    def _fit_rows(self, rows: _Rows, start: WarmStart | None, on_epoch: OnEpoch | None, **shared: Any) -> Self:
        self._seed = check_random_state(self.random_state).randint(2**31 - 1)
        # Rows are distinct and ordered by fingerprint, so held-out rows depend on the flows alone, not on their order.
        held_out = _hold_out(rows, self.validation_fraction, self._seed) & ~rows.extra
        training, validation = rows.take(~held_out), rows.take(held_out).in_memory()
        self._start(training, start)
        self._prior_counts = self._count_classes(training)
        self._set_decision()
        self._train(training, validation, on_epoch, **shared)
        self._add_fingerprints(validation)  # held-out rows are not unseen: choices were made with them
        if self.temperature == "auto" and len(validation):
            logits = _run(self.network_, self.encoder_.transform(in_memory(validation.table)))
            self._set_decision(fit_temperature(logits, validation.target, validation.weight))
        self._fit_novelty(training, validation)
        self.sample_ = self._sample(training, validation)
        self.reference_ = self._summarise(rows, validation if len(validation) else training)
        self.detector_ = self.to_detector()
        return self

    def partial_fit(
        self,
        X: Any,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        labels: ArrayLike | None = None,
    ) -> Self:
        """Continue training with one epoch over more flows, at a constant learning rate.

        The first call without an earlier :meth:`fit` needs all ``classes`` and fits the encoder to its flows; later
        calls keep classes and encoder, and add to the prior. After a :meth:`fit` with ``labels``, labels from the same
        set are required.
        """
        first = not hasattr(self, "network_")
        self._check_parameters()
        table, y = self._read_training(X, y, reset=first)
        if first:
            if classes is None:
                raise ValueError("the first call of partial_fit needs all classes, got classes=None")
            self._set_classes(np.unique(np.asarray(classes)))
            self._set_outputs(self.classes_, None)
        rows = self._collapse(table, self._codes(y, labels), _read_weight(sample_weight, len(table)))
        if first:
            self._seed = check_random_state(self.random_state).randint(2**31 - 1)
            self._start(rows, None)
            self._prior_counts = np.zeros(len(self._output_labels))
        self._prior_counts = self._prior_counts + self._count_classes(rows)
        self._set_decision()
        self._train(rows, rows.take(np.zeros(len(rows), bool)), None, n_epochs=1)
        self.ellipsoids_ = self.novelty_ = None  # they were fitted to the hidden layer before this training
        if first:
            self.sample_ = self._sample(rows, rows.take(np.zeros(len(rows), bool)))
        known = getattr(self, "reference_", None)
        # the flows of the first fit stay the reference, as its encoder stays; scores are of the network as it is now
        self.reference_ = replace(known, score_bins=self._score_bins(rows)) if known else self._summarise(rows, rows)
        self.detector_ = self.to_detector()
        return self

    def _check_parameters(self) -> None:
        choices = {
            "duplicates": ("weigh", "drop"),
            "device": ("auto", "cpu", "cuda"),
            "novelty": ("mahalanobis", "none"),
            "loss": tuple(LOSSES),
            "number_encoding": NUMBER_ENCODINGS,
        }
        ranges: dict[str, tuple[str, Callable[[Any], bool]]] = {
            **dict.fromkeys(("n_epochs", "batch_size", "learning_rate"), ("above 0", lambda value: value > 0)),
            "balance": ("in [0, 1]", lambda value: 0 <= value <= 1),
            **dict.fromkeys(("validation_fraction", "novelty_rate"), ("in [0, 1)", lambda value: 0 <= value < 1)),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        for name, (range_text, holds) in ranges.items():
            if not holds(getattr(self, name)):
                raise ValueError(f"{name} must be {range_text}, got {getattr(self, name)!r}")

    def _read_training(self, X: Any, y: ArrayLike, *, reset: bool) -> tuple[pl.DataFrame, NDArray[Any]]:
        if isinstance(X, pl.DataFrame):
            table = self._read_table(X, reset=reset)
            labels = column_or_1d(y.to_numpy() if isinstance(y, pl.Series) else y)
        else:
            X, labels = validate_data(self, X, y, reset=reset, dtype=np.float32, ensure_all_finite=False)
            table = self._name_columns(X, reset=reset)
        check_classification_targets(labels)
        if len(labels) != len(table):
            raise ValueError(f"X and y differ in length: {len(table)} and {len(labels)} rows")
        return table, np.asarray(labels)

    def _read_features(self, X: Any) -> pl.DataFrame:
        check_is_fitted(self, "detector_")
        if isinstance(X, pl.DataFrame):
            return self._read_table(X, reset=False)
        return self._name_columns(validate_data(self, X, reset=False, dtype=np.float32, ensure_all_finite=False))

    def _read_table(self, table: pl.DataFrame, *, reset: bool) -> pl.DataFrame:
        if reset:
            self._set_schema((self.schema or schema_of(table)).restrict(table.columns))
        return self.schema_.conform(table)

    def _set_schema(self, schema: Schema) -> None:
        self.schema_ = schema
        self.feature_names_in_ = np.array(schema.features, dtype=object)
        self.n_features_in_ = len(schema.features)

    def _name_columns(self, matrix: NDArray[np.float32], *, reset: bool = False) -> pl.DataFrame:
        table = pl.from_numpy(matrix, schema=[f"x{j}" for j in range(matrix.shape[1])])
        if reset:
            self.schema_ = schema_of(table)
        return table

    def _name_outputs(self, y: NDArray[Any], labels: ArrayLike | None, start: WarmStart | None) -> None:
        if start is None:
            self._set_classes(np.unique(y))
            self._set_outputs(y, labels)
            return
        self._set_classes(np.unique(np.array(start.classes)))
        self._output_labels, self._class_of = start.labels, start.class_of

    def _start(self, training: _Rows, start: WarmStart | None) -> None:
        """Set the encoder and the network that training begins with."""
        if start is None:
            encoder = FlowEncoder(
                self.schema_,
                scaling=self.scaling,
                number_encoding=self.number_encoding,
                n_quantiles=self.n_quantiles,
            )
            self.encoder_ = encoder.fit(training.table, training.weight)
        else:
            self.encoder_ = start.encoder
        n_outputs, drawn = len(self._output_labels), {"dropout": self.dropout, "random_state": self._seed}
        self.network_ = MLP(self.encoder_.d_out, n_outputs, hidden=self.hidden, **drawn)
        self._offset = np.zeros(n_outputs)
        if start is not None:
            start.load_into(self.network_)
            self._offset, self.fingerprints_ = start.offset, start.fingerprints

    def _set_classes(self, classes: NDArray[Any]) -> None:
        if len(classes) < 2:
            raise ValueError(f"training needs at least two classes, got one class: {classes.tolist()}")
        self.classes_ = classes
        self.benign_ = self._find_benign(classes)
        place = int(np.flatnonzero(classes == self.benign_)[0])
        self._network_order = np.array([place, *(j for j in range(len(classes)) if j != place)])

    def _find_benign(self, classes: NDArray[Any]) -> Any:
        if self.benign is not None:
            if self.benign not in classes:
                raise ValueError(f"benign must be among the classes {classes.tolist()}, got {self.benign!r}")
            return self.benign
        return "benign" if "benign" in classes.tolist() else classes[0]

    def _set_outputs(self, y: NDArray[Any], labels: ArrayLike | None) -> None:
        """Define the network's outputs: (class in network order, label), sorted by class; benign is one output."""
        found = (
            pl.DataFrame({"class": self._class_codes(y), "label": self._fine_labels(y, labels)}).unique().sort(pl.all())
        )
        doubled = found.filter(pl.col("label").is_duplicated())["label"].unique().to_list()
        if doubled:
            raise ValueError(f"each label must belong to one class, but these belong to several: {doubled[:5]}")
        self._output_labels = tuple(found["label"].to_list())
        self._class_of = tuple(found["class"].to_list())

    def _class_codes(self, y: NDArray[Any]) -> NDArray[np.int64]:
        """Return each class's index in the network's order, benign 0."""
        places = np.searchsorted(self.classes_, y)
        if not (self.classes_[np.minimum(places, len(self.classes_) - 1)] == y).all():
            raise ValueError(
                f"unknown classes in y: it holds {np.unique(y).tolist()}, not all in {self.classes_.tolist()}"
            )
        return np.asarray(np.argsort(self._network_order)[places], np.int64)

    def _fine_labels(self, y: NDArray[Any], labels: ArrayLike | None) -> pl.Series:
        """Return the label of each flow's output: its own where labels are given, but one for all that is benign."""
        classes = pl.Series("label", [str(name) for name in self.classes_]).gather(np.searchsorted(self.classes_, y))
        if labels is None:
            return classes
        own = pl.Series("label", np.asarray(labels), dtype=pl.String)
        if len(own) != len(y) or own.null_count():
            raise ValueError(f"labels must name each of the {len(y)} flows, got {len(own) - own.null_count()} labels")
        return own.zip_with(pl.Series(np.asarray(y != self.benign_)), classes)

    def _codes(self, y: NDArray[Any], labels: ArrayLike | None) -> NDArray[np.int64]:
        """Return the network output of each flow."""
        self._class_codes(y)
        places = {label: place for place, label in enumerate(self._output_labels)}
        codes = self._fine_labels(y, labels).replace_strict(places, default=None, return_dtype=pl.Int64)
        if codes.null_count():
            raise ValueError(f"{codes.null_count()} labels are not among {list(self._output_labels)}")
        return codes.to_numpy()

    def _collapse(
        self,
        table: pl.DataFrame,
        target: NDArray[np.int64],
        weight: NDArray[np.float64],
        extra: ArrayLike | None = None,
    ) -> _Rows:
        fingerprints = row_fingerprints(table, self.schema_)
        rows, summed = collapse_duplicates(fingerprints, target, weight)
        is_extra = np.zeros(len(table), bool) if extra is None else np.asarray(extra, bool)
        own = np.where(is_extra, weight, 1.0)  # with duplicates="drop", copies of a row do not add up
        once, extra_rows = strongest_copies(fingerprints, target, own, is_extra, rows)
        return self._weigh(table[rows], target[rows], summed, once, fingerprints[rows], extra_rows)

    def _weigh(
        self,
        table: FlowTable,
        target: NDArray[np.int64],
        occurring: NDArray[np.float64],
        once: NDArray[np.float64],
        fingerprints: NDArray[np.uint64],
        is_extra: NDArray[np.bool_],
    ) -> _Rows:
        """Return distinct rows with their training weights; ``once`` are those where copies do not count."""
        # Three weights of a row: in the loss (balanced, times costs), in the prior (balanced; costs shift decisions, so
        # they must not cancel there), and in the reference (as often as it occurs).
        summed = once if self.duplicates == "drop" else occurring
        balance = 1.0 if self.class_weight == "balanced" else self.balance
        counts = np.bincount(target, summed, minlength=len(self._output_labels)).astype(np.float64)
        evened = summed * even_out(counts, balance)[target]
        weights = (evened * self._costs()[target], evened, occurring)
        return _Rows(table, target, *weights, fingerprints, is_extra)

    def _costs(self) -> NDArray[np.float64]:
        """Return the factor of a ``class_weight`` dict for each output's class."""
        costs = self.class_weight if isinstance(self.class_weight, dict) else {}
        of_class = [costs.get(label, 1.0) for label in self.classes_[self._network_order].tolist()]
        return np.array(of_class, np.float64)[list(self._class_of)]

    def _count_classes(self, rows: _Rows) -> NDArray[np.float64]:
        return np.bincount(rows.target, rows.prior_weight, minlength=len(self._output_labels)).astype(np.float64)

    def _counts(self) -> NDArray[np.float64]:
        """Return the training flows of each output, above 0 even without any yet."""
        return np.asarray(np.maximum(self._prior_counts, 1e-9 * self._prior_counts.sum()), np.float64)

    def _set_decision(self, fitted_temperature: float = 1.0) -> None:
        shares = LOSSES[self.loss].prior(self._counts())
        prior = tuple((shares / shares.sum()).tolist())
        temperature = fitted_temperature if self.temperature == "auto" else float(self.temperature)
        self.decision_ = Decision(prior, temperature, float(self.tau), self._class_of)

    def _train(
        self,
        rows: _Rows,
        validation: _Rows,
        on_epoch: OnEpoch | None,
        n_epochs: int | None = None,
        *,
        workers: Workers | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        device = _find_device(self.device)
        self._set_offset(np.zeros_like(self._offset))  # training sees the logits that the loss defines
        self.network_.to(device)
        encoded = rows.encoded(self.encoder_)
        info = LOSSES[self.loss]
        if workers is not None and not info.is_mean_reduction:
            raise DataError(
                f"loss={self.loss} is no mean over flows, so workers cannot share it; train without workers"
            )
        loss = info.build(self._counts(), self.attack_weight).to(device)
        steps = encoded.n_steps(self.batch_size)
        self.n_threads_ = self._choose_threads(encoded, loss, device)
        with torch_threads(self.n_threads_):
            self.epochs_ = train_network(
                self.network_,
                encoded,
                loss=loss,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                batch_size=self.batch_size,
                n_epochs=n_epochs or max(self.n_epochs, math.ceil(self.min_steps / steps)),
                schedule="constant" if n_epochs else self.schedule,
                random_state=self._seed,
                device=device,
                validate=self._validator(validation) if len(validation) else None,
                on_epoch=on_epoch,
                workers=workers,
                checkpoint=None if checkpoint is None else self._checkpoint(checkpoint, encoded),
            )
        self.network_.to("cpu").eval()
        self._set_offset(info.offset(self._counts()))
        self._add_fingerprints(rows)

    def _checkpoint(self, path: Path, rows: TrainingRows) -> Checkpoint:
        parameters = {name: value for name, value in self.get_params().items() if name not in ("schema", "n_threads")}
        return Checkpoint(
            path, training_digest(rows, [sorted(parameters.items(), key=lambda pair: pair[0]), self._seed])
        )

    def _set_offset(self, offset: NDArray[np.float64]) -> None:
        """Replace the offset of the logits, which is part of the last layer's bias (see ``LossInfo.offset``)."""
        _, bias = self.network_.weights_and_biases()[-1]
        with torch.no_grad():
            bias.add_(torch.from_numpy(offset - self._offset))
        self._offset = offset

    def _add_fingerprints(self, rows: _Rows) -> None:
        known = getattr(self, "fingerprints_", np.zeros(0, np.uint64))
        self.fingerprints_ = np.unique(np.concatenate([known, rows.fingerprints]))

    def _choose_threads(self, rows: TrainingRows, loss: torch.nn.Module, device: str) -> int:
        if isinstance(self.n_threads, int):
            return self.n_threads
        if device != "cpu" or (self.n_threads is None and isinstance(self.random_state, (int, np.integer))):
            return 1
        # measured on a network of the same size: the steps must not train the real one
        (x, target), drawn = next(rows.epoch(self.batch_size, np.random.default_rng(0)))
        network = MLP(x.shape[1], len(self._output_labels), hidden=self.hidden, dropout=self.dropout)
        probe = speed_up(network, device)
        optimiser = Adam(probe.parameters())
        data, batches = (torch.from_numpy(x), torch.from_numpy(target)), cycle(islice(drawn, 25))
        return fastest_thread_count(lambda: train_step(probe, data, next(batches), loss, optimiser, self.learning_rate))

    def _validator(self, validation: _Rows) -> Callable[[torch.nn.Module], float]:
        x = self.encoder_.transform(in_memory(validation.table))
        truth = np.array(self._class_of)[validation.target]
        # the offset becomes part of the last bias only after training
        offset = LOSSES[self.loss].offset(self._counts()).astype(np.float32)

        def validate(network: torch.nn.Module) -> float:
            hit = self.decision_.classify(_run(network, x) + offset) == truth
            return float(np.mean([hit[truth == code].mean() for code in np.unique(truth)]))

        return validate

    def _fit_novelty(self, training: _Rows, validation: _Rows) -> None:
        self.ellipsoids_ = self.novelty_ = None
        sides = [set((rows.target > 0).tolist()) for rows in (training, validation)]
        if self.novelty == "none" or not len(self.hidden) or sides != [{False, True}, {False, True}]:
            return
        trained, held_out = (
            (self.encoder_.transform(in_memory(part.table)), part.target > 0, part.weight)
            for rows in (training, validation)
            for part in [rows.take(sample_sides(rows.target > 0, self._seed))]
        )
        fitted = fit_novelty(self._layers(), self.decision_, trained, held_out, self.novelty_rate)
        self.ellipsoids_, self.novelty_ = fitted

    def _sample(self, training: _Rows, validation: _Rows) -> TrainingSample:
        def raw(chosen: NDArray[np.bool_], held_out: bool) -> RawFeatures:
            rows = validation if held_out else training
            return self.encoder_.raw(in_memory(rows.take(chosen).table))

        return sample_training(raw, training.target, validation.target, self._seed)

    def _summarise(self, rows: _Rows, scored: _Rows) -> Reference | None:
        """Return the reference of all rows, with the score bins of ``scored``."""
        return fit_reference(
            self.schema_,
            rows.table,
            rows.target == 0,
            rows.occurring,
            score_bins=self._score_bins(scored),
            log_odds=lambda table: self.decision_.log_odds(_run(self.network_, self.encoder_.transform(table))),
            seed=self._seed,
        )

    def _score_bins(self, rows: _Rows) -> Bins:
        drawn = sample_rows(rows.occurring, np.random.default_rng(self._seed))
        distinct, places = np.unique(drawn, return_inverse=True)
        p = self.decision_.probabilities(_run(self.network_, self.encoder_.transform(rows.table[distinct])))
        return Bins.of((1.0 - p[:, 0].astype(np.float64))[places])

    def _layers(self) -> list[Layer]:
        return [(w.detach().numpy(), b.detach().numpy()) for w, b in self.network_.weights_and_biases()]

    # --- using -------------------------------------------------------------------------------------------------------

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the class of each flow, after the prior correction: the verdict of the detector, bit for bit."""
        verdicts = self._read_features(X).pipe(self.detector_.score)
        places = {name: place for place, name in enumerate(self.detector_.classes)}
        codes = verdicts["class"].replace_strict(places, return_dtype=pl.Int64).to_numpy()
        predicted: NDArray[Any] = self.classes_[self._network_order[codes]]
        return predicted

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the calibrated probability of each class, ``(n_flows, n_classes)`` in the order of ``classes_``."""
        table = self._read_features(X)
        p = self.detector_.score(table).select(r"^p_.*$").to_numpy().astype(np.float64)
        ordered = p[:, np.argsort(self._network_order)]
        return np.asarray(ordered / ordered.sum(axis=1, keepdims=True), np.float64)

    def to_detector(self, **card: Any) -> Detector:
        """Return the detector, which scores flows without torch and can be saved to a file.

        Parameters
        ----------
        **card
            Entries of the detector's card, as JSON values.
        """
        from safetensors.torch import save

        from deepidea.model.graph import build_graph

        check_is_fitted(self, "network_")
        weights = {name: value.detach().contiguous() for name, value in self.network_.state_dict().items()}
        return Detector(
            self.encoder_,
            self.decision_,
            tuple(str(name) for name in self.classes_[self._network_order]),
            self._output_labels,
            build_graph(self.encoder_, self._layers(), self.ellipsoids_),
            weights=save(weights),
            training_fingerprints=self.fingerprints_,
            novelty=self.novelty_,
            reference=self.reference_,
            sample=self.sample_,
            card=card,
        )

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: missing and infinite values are allowed."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


@dataclass(frozen=True, slots=True)
class _Rows:
    """Distinct training rows: conformed features, output of the class, weight in the loss and in the prior.

    ``occurring`` is the number of given flows that each row stands for, ``extra`` whether it was added on purpose.
    """

    table: FlowTable
    target: NDArray[np.int64]
    weight: NDArray[np.float64]
    prior_weight: NDArray[np.float64]
    occurring: NDArray[np.float64]
    fingerprints: NDArray[np.uint64]
    extra: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.target)

    def take(self, mask: NDArray[np.bool_]) -> _Rows:
        weights = (self.weight[mask], self.prior_weight[mask], self.occurring[mask])
        return _Rows(self.table.filter(mask), self.target[mask], *weights, self.fingerprints[mask], self.extra[mask])

    def in_memory(self) -> _Rows:
        return replace(self, table=in_memory(self.table))

    def encoded(self, encoder: FlowEncoder) -> TrainingRows:
        """Return the rows as network inputs, in memory or in files beside their shards."""
        if isinstance(self.table, ShardedTable):
            return encode_shards(self.table, encoder, self.target, self.weight)
        return RowsInMemory(encoder.transform(self.table), self.target, self.weight)


def schema_of(table: pl.DataFrame) -> Schema:
    """Return a schema inferred from dtypes: text is a category, anything else a number."""
    text = (pl.String, pl.Categorical, pl.Enum)
    kinds = {name: "category" if dtype in text else "number" for name, dtype in table.schema.items()}
    return Schema("custom", tuple(Column(name, kind) for name, kind in kinds.items()))  # type: ignore[arg-type]


def strongest_copies(
    fingerprints: NDArray[np.uint64],
    target: NDArray[np.int64],
    weight: NDArray[np.float64],
    is_extra: NDArray[np.bool_],
    rows: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return for each distinct row the largest weight among its copies, and whether any copy is an extra one.

    Examples
    --------
    >>> import numpy as np
    >>> prints, target = np.array([7, 3, 7], dtype=np.uint64), np.zeros(3, np.int64)
    >>> strongest_copies(prints, target, np.array([1.0, 1.0, 9.0]), np.array([False, False, True]), np.array([1, 0]))
    (array([1., 9.]), array([False,  True]))
    """
    if not is_extra.any():
        return weight[rows], is_extra[rows]
    keys = {"print": fingerprints, "target": target}
    copies = pl.DataFrame({**keys, "weight": weight, "extra": is_extra}).group_by("print", "target").max()
    wanted = pl.DataFrame({name: values[rows] for name, values in keys.items()})
    found = wanted.join(copies, on=["print", "target"], how="left", maintain_order="left")
    return found["weight"].to_numpy(), found["extra"].to_numpy()


def even_out(counts: NDArray[np.float64], balance: float) -> NDArray[np.float64]:
    """Return the factors that turn total weights n into ones proportional to n^(1 - balance), of the same sum.

    Examples
    --------
    >>> import numpy as np
    >>> (np.array([90.0, 10.0]) * even_out(np.array([90.0, 10.0]), 0.5)).round(6)
    array([75., 25.])
    """
    # an output without flows keeps weight 0
    shares = np.where(counts > 0, np.maximum(counts, 1e-300) ** (1 - balance), 0)
    return np.asarray(shares / shares.sum() * counts.sum() / np.where(counts > 0, counts, 1), np.float64)


def _read_weight(sample_weight: ArrayLike | None, n_flows: int) -> NDArray[np.float64]:
    rows = np.empty((n_flows, 0))
    weight = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
    return np.asarray(weight, np.float64)


def _hold_out(rows: _Rows, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Choose the validation rows: this share of each class's distinct rows, at most :data:`MOST_HELD_OUT`."""
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(rows), bool)
    for code in np.unique(rows.target):
        members = rng.permutation(np.flatnonzero(rows.target == code))
        held_out[members[: min(round(fraction * len(members)), MOST_HELD_OUT)]] = True
    return held_out


def _find_device(device: Device) -> str:
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise MissingExtraError("cannot train with device='cuda': torch finds no CUDA; choose 'auto' or 'cpu'")
    return "cuda" if available and device != "cpu" else "cpu"


def _run(network: torch.nn.Module, x: NDArray[np.float32], block: int = 16_384) -> NDArray[np.float32]:
    """Return the network's logits, block by block, on the device it is on."""
    device = next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        parts = [network(torch.from_numpy(x[i : i + block]).to(device)).cpu() for i in range(0, max(len(x), 1), block)]
    logits: NDArray[np.float32] = torch.cat(parts).numpy()
    return logits
