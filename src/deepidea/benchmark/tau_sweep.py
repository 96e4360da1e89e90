"""The strength of the prior correction, chosen on training flows alone: one training a fold, then every tau.

Tau is part of the decision ``argmax(p / prior^tau)`` and not of the training, so the probabilities of one fitted system
serve all of its values. The folds leave attack types out (`deepidea.benchmark.unseen_types`), because on held-out
rows of known types a system looks calibrated and on new types it is not. A sweep is kept beside the records of a
benchmark, ``DATA/tau/SYSTEM.json``; the report shows it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from deepidea.benchmark.cell import file_name, read_all, read_json, write_record
from deepidea.benchmark.provenance import about_this_run
from deepidea.benchmark.runner import choose_systems
from deepidea.benchmark.systems import Predictions, find_system, make_system
from deepidea.benchmark.tasks import TAXONOMY
from deepidea.benchmark.unseen_types import TypeFold, distinct_flows, iter_type_folds, summarise_recalls, type_recalls
from deepidea.errors import DataError, FileFormatError
from deepidea.evaluation.contracts import from_json_values
from deepidea.evaluation.protocol import flows_to_train
from deepidea.flows.labelled import LabelledFlows
from deepidea.model.decision import Decision

FORMAT = 1
TAUS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
FOLDER = "tau"

Measure = Literal["known", "unseen", "mixed"]
MEASURES: Mapping[Measure, str] = {
    "known": "types that training shows",
    "unseen": "types left out of training",
    "mixed": "both",
}


_Values = Annotated[tuple[float, ...], msgspec.Meta(min_length=1)]


class Accuracies(msgspec.Struct, frozen=True):
    """Class-balanced accuracy in percent by :data:`MEASURES`, an entry for each repeat."""

    known: _Values
    unseen: _Values
    mixed: _Values


class TauSweep(msgspec.Struct, frozen=True, kw_only=True):
    """The accuracy of a system at each tau on training folds; its file has more entries, for people.

    Attributes
    ----------
    data, system, title : str
    temperature : float
        Of the system's own decision, at which all taus were tried.
    own_tau : float
        Of the system's own decision; 0 where it names its most probable class.
    by_tau : mapping of float to Accuracies
    format : int
        Of the file.
    """

    data: str
    system: str
    title: str
    temperature: float
    own_tau: float
    by_tau: Annotated[dict[float, Accuracies], msgspec.Meta(min_length=1)]
    format: Literal[1]

    def mean(self, tau: float, measure: Measure) -> float:
        """Return a measure's mean over repeats, in percent."""
        return statistics.fmean(getattr(self.by_tau[tau], measure))

    def sd(self, tau: float, measure: Measure) -> float:
        """Return its standard deviation over repeats, 0 for a single one."""
        values = getattr(self.by_tau[tau], measure)
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def best(self, measure: Measure = "mixed") -> float:
        """Return the tau with the highest mean, the smallest of equals."""
        # max keeps the first of equals: the weakest correction that does as well.
        return max(sorted(self.by_tau), key=lambda tau: self.mean(tau, measure))


def sweep_path(folder: Path, data: str, system: str) -> Path:
    """Return the file of a system's sweep under a folder of benchmark records.

    Examples
    --------
    >>> sweep_path(Path("out"), "kdd99", "mlp-ce").as_posix()
    'out/kdd99/tau/mlp-ce.json'
    """
    return folder / file_name(data) / FOLDER / f"{file_name(system)}.json"


# --- measuring ---------------------------------------------------------------------------------------------------


def training_flows(data: str) -> LabelledFlows:
    """Return the distinct training flows of a data set under the classes of papers; no test flow is among them.

    Where no publisher states a split it is the stratified one of seed 0.
    """
    name, _, taxonomy = data.partition("@")
    return distinct_flows(flows_to_train(name, taxonomy=taxonomy or TAXONOMY.get(name)).flows)


def iter_sweeps(data: Sequence[str], systems: Sequence[str], folder: Path, *, n_repeats: int = 3) -> Iterator[TauSweep]:
    """Yield the sweep of every system on every data set; one that the folder has is not measured again.

    Parameters
    ----------
    data, systems : sequence of str
        Systems and groups as in :func:`~deepidea.benchmark.runner.choose_systems`.
    folder, n_repeats
        As in :func:`sweep_tau`, also for the errors.
    """
    for name in dict.fromkeys(data):
        flows = None
        for system in choose_systems(systems):
            path = sweep_path(folder, name, system)
            if path.exists():
                yield read_sweep(path)
                continue
            # Loaded only where a sweep is missing: a second run over finished results takes no time.
            flows = training_flows(name) if flows is None else flows
            yield sweep_tau(name, system, folder, n_repeats=n_repeats, flows=flows)


def sweep_tau(
    data: str, system: str, folder: Path, *, n_repeats: int = 3, flows: LabelledFlows | None = None
) -> TauSweep:
    """Measure a system at every tau, and write the result under a folder of benchmark records.

    Parameters
    ----------
    data : str
        Name of a registered data set, with a taxonomy behind an at sign or without.
    system : str
        As in `deepidea.benchmark.systems`; it must state probabilities and a prior.
    folder : path
        See :func:`sweep_path`.
    n_repeats : int
        How often the types are assigned to folds anew; two trainings each.
    flows : LabelledFlows, optional
        :func:`training_flows` of the data set; loaded where absent.

    Raises
    ------
    DataError
        The system has no probabilities, or corrects for the prior before it states them.
    LabelError
        No attack class has two types.
    """
    if n_repeats < 1:
        raise DataError(f"n_repeats must be at least 1, got {n_repeats}")
    flows = training_flows(data) if flows is None else flows
    repeats: list[Mapping[str, Any]] = []
    for seed in range(n_repeats):
        # Tau belongs to the decision, so one training a fold serves all of its values.
        folds = [_try_taus(fold, system, seed) for fold in iter_type_folds(flows, seed=seed)]
        decision = folds[0][0]
        repeats.append(summarise_recalls([recalls for _, recalls in folds]))
    record = {
        "format": FORMAT,
        "data": data,
        "system": system,
        "title": find_system(system).title,
        "temperature": decision.temperature,
        "own_tau": decision.tau,
        "flows": len(flows),
        "label_rows": dict(sorted(flows.labels.value_counts().iter_rows())),
        "by_tau": {tau: {measure: [of[tau][measure] for of in repeats] for measure in MEASURES} for tau in repeats[0]},
        "run": about_this_run(),
    }
    path = sweep_path(folder, data, system)
    write_record(path, record)
    return read_sweep(path)


def _try_taus(fold: TypeFold, system: str, seed: int) -> tuple[Decision, dict[str, Any]]:
    """Train on a fold; return the system's own decision, and the recalls at each tau."""
    fitted = make_system(system).fit(fold.train, seed)
    predictions = fitted.predict(fold.test.features)
    _refuse_uncorrectable(system, fitted.decision, predictions)
    names = np.array(fitted.classes)
    own, stated, unlike = predictions.predicted, predictions.probabilities, predictions.unlike_benign
    plain = decide_at(stated, replace(fitted.decision, temperature=1.0), 0.0, unlike)
    recalls = {f"{tau:g}": type_recalls(names[decide_at(stated, fitted.decision, tau, unlike)], fold) for tau in TAUS}
    # trees state a decision at tau 1 that they do not take: their verdicts count
    own_tau = 0.0 if np.array_equal(own, plain) else fitted.decision.tau
    return replace(fitted.decision, tau=own_tau), recalls


def _refuse_uncorrectable(system: str, decision: Decision, predictions: Predictions) -> None:
    if predictions.probabilities is None:
        raise DataError(f"cannot sweep tau of {system}: it has no probabilities; choose another system")
    if len(set(decision.prior)) == 1:
        raise DataError(
            f"cannot sweep tau of {system}: its probabilities are of balanced classes, so no tau changes its verdicts; "
            "choose another system"
        )


def decide_at(
    stated: npt.NDArray[np.float32] | None,
    decision: Decision,
    tau: float,
    unlike_benign: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int64]:
    """Return the class of each flow when stated probabilities are tempered and corrected with a tau.

    Parameters
    ----------
    stated : array, float32, (n_flows, n_outputs)
        At temperature 1.
    decision : Decision
        Its temperature and prior count, its own tau does not.
    tau : float
    unlike_benign : array, bool, (n_flows,), optional
        Flows that are not called benign.

    Examples
    --------
    >>> stated = np.array([[0.9, 0.1]], np.float32)
    >>> [decide_at(stated, Decision((0.99, 0.01)), tau).tolist() for tau in (0.0, 1.0)]
    [[0], [1]]
    """
    # a softmax at temperature T is the one at 1, to the power 1/T and normalised again
    tempered = np.asarray(stated, np.float64) ** (1 / decision.temperature)
    tempered /= tempered.sum(axis=1, keepdims=True)
    balanced = decision.by_class(replace(decision, tau=tau).corrected(tempered.astype(np.float32))).copy()
    if unlike_benign is not None:
        balanced[unlike_benign, 0] = -1  # below every attack, one without weight too
    return np.asarray(balanced.argmax(axis=1), np.int64)


# --- records -----------------------------------------------------------------------------------------------------


def read_sweep(path: Path) -> TauSweep:
    """Return a sweep that :func:`sweep_tau` wrote.

    Raises
    ------
    FileFormatError
        It is damaged, or of another format.
    """
    return from_json_values(read_json(path), TauSweep, str(path), "measure it again", FileFormatError)


def read_sweeps(folder: Path) -> tuple[list[TauSweep], dict[str, str]]:
    """Return all sweeps under a folder of benchmark records, and the faults of those that cannot be read."""
    return read_all(folder, f"*/{FOLDER}/*.json", read_sweep)
