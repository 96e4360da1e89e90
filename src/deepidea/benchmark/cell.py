"""One cell of a benchmark: a system trained and tested once, its record on the disk, and the process that makes it.

Every cell is measured in a process of its own, so that its time and its memory are its own, and so that a system that
crashes takes no other with it: ``python -m deepidea.benchmark.cell FOLDER DATA PROTOCOL SYSTEM SEED``. The process ends
when its standard input does, which is when the process that started it has ended.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from deepidea.benchmark.provenance import about_this_run
from deepidea.benchmark.systems import Fitted, Predictions, find_system, make_system
from deepidea.benchmark.tasks import Experiment, load_experiment
from deepidea.errors import DataError, DeepIDEAError, FileFormatError
from deepidea.evaluation.contracts import from_json_values, rounded, to_json_values
from deepidea.evaluation.evaluate import refuse_unknown_classes, shorten_lists, subset_rows
from deepidea.evaluation.metrics import Ints, Scores, evaluate
from deepidea.evaluation.references import codes_of
from deepidea.flows.atomic import replacing
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.flows.labelled import LabelledFlows
from deepidea.flows.taxonomy import BENIGN
from deepidea.model.decision import Decision

FORMAT = 1
DECISIONS = {"own": "its own decision", "plain": "most probable class", "corrected": "corrected for the prior"}
CURVE_POINTS = 200
_MOST_REASON = 2000

Record = dict[str, Any]
T = TypeVar("T")
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cell:
    """Names what is measured: a data set, a protocol that splits it, one system, one seed.

    Examples
    --------
    >>> Cell("kdd99", "auto", "deepidea:attack_weight=3", 0).path(Path("out")).as_posix()
    'out/kdd99/auto/deepidea@attack_weight=3/seed-0.json'
    """

    data: str
    protocol: str
    system: str
    seed: int

    @classmethod
    def of(cls, record: Record) -> Cell:
        """Return the cell that a record is of."""
        return cls(record["data"], record["protocol"], record["system"], record["seed"])

    def __str__(self) -> str:
        return f"{self.data}, {self.protocol}: {self.system}, seed {self.seed}"

    def path(self, folder: Path) -> Path:
        """Return the place of its record under a folder of results; different cells never share a path."""
        # percent-encoding is injective, so different cells never share a path
        parts = (file_name(part) for part in (self.data, self.protocol, self.system))
        return folder.joinpath(*parts, f"seed-{self.seed}.json")

    def begin_record(self, status: str, **more: Any) -> Record:
        """Return the head of its record."""
        info = find_system(self.system)
        return {"format": FORMAT, "status": status, **asdict(self), "title": info.title, "group": info.group, **more}


def file_name(text: str) -> str:
    """Return a name as any file system takes it; no two names give the same."""
    return quote(text, safe="=,").replace("%3A", "@").replace(".", "%2E" if set(text) == {"."} else ".")


# --- records -----------------------------------------------------------------------------------------------------
# A record is a mapping, so that files of earlier versions stay readable; these types name what must be in it.


# Unknown fields are allowed: a later version may add some, and its records stay comparable.
class _Head(msgspec.Struct, tag_field="status"):
    format: Literal[1]
    data: str
    protocol: str
    system: str
    seed: int
    title: str
    group: str


class _OwnScores(msgspec.Struct):
    cba: float
    per_class: dict[str, Any]
    confusion: dict[str, Any]


class _Decisions(msgspec.Struct):
    own: _OwnScores


class _Measured(_Head, tag="measured"):
    decisions: _Decisions
    times: dict[str, float | None]


class _Cut(_Head, tag="cut"):
    reason: str


class _Failed(_Head, tag="failed"):
    reason: str


def write_record(path: Path, record: Record) -> None:
    """Write a record whole or not at all: JSON, a line for each of its entries, numbers with six figures."""
    lines = (f"{json.dumps(key)}: {json.dumps(rounded(value), allow_nan=False)}" for key, value in record.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def read_record(path: Path) -> Record:
    """Return a record.

    Raises
    ------
    FileFormatError
        It is damaged, or of another format.
    """
    record = read_json(path)
    from_json_values(record, _Measured | _Cut | _Failed, str(path), "run that cell again", FileFormatError)  # type: ignore[arg-type]
    return _in_present_names(record)


def _in_present_names(record: Record) -> Record:
    """Return a record with the keys of an earlier release renamed."""
    times = record.get("times", {})
    if "judge_s" in times:
        times["predict_s"] = times.pop("judge_s")
    return {"experiment" if name == "told" else name: value for name, value in record.items()}


def read_json(path: Path) -> Any:
    """Return the JSON values of a file; FileFormatError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileFormatError(f"cannot read {path}: {error}; measure it again") from error


def read_all(folder: Path, pattern: str, read: Callable[[Path], T]) -> tuple[list[T], dict[str, str]]:
    """Return the records under a folder, in order of their paths, and the faults of those that cannot be read."""
    records: list[T] = []
    faults: dict[str, str] = {}
    for path in sorted(folder.glob(pattern)):
        try:
            records.append(read(path))
        except FileFormatError as error:
            faults[path.relative_to(folder).as_posix()] = str(error)
    return records, faults


# --- measuring ---------------------------------------------------------------------------------------------------


def measure(cell: Cell) -> Record:
    """Train a cell's system, test it, and return the record.

    Raises
    ------
    DeepIDEAError
        The flows cannot be split so, the test has a class that training lacks, or the system refuses the flows.
    """
    times: dict[str, float] = {}
    system = make_system(cell.system)
    with _timed(times, "load_s"):
        experiment = load_experiment(cell.data, cell.protocol, seed=cell.seed)
    # before the training, which may take hours
    _refuse_unfit(experiment)
    with _timed(times, "fit_s"):
        fitted = system.fit(experiment.train, cell.seed)
    with _timed(times, "predict_s"):
        predictions = fitted.predict(experiment.test.features)
    return cell.begin_record(
        "measured",
        experiment=shorten_lists(experiment.facts),
        parameters=shorten_lists(fitted.parameters),
        classes=list(fitted.classes),
        **score_predictions(experiment, fitted, predictions),
        times={**times, "cpu_s": _cpu_seconds()},
        peak_memory_mib=_peak_memory_mib(),
        run=about_this_run(),
    )


@contextmanager
def _timed(times: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    times[name] = time.perf_counter() - started


def _refuse_unfit(experiment: Experiment) -> None:
    if not len(experiment.test):
        raise DataError(f"cannot test on {experiment.test.source}: it has no flows")
    trained = set(experiment.train.classes.unique())
    refuse_unknown_classes(experiment.test.classes, tuple(c for c in experiment.train.class_order if c in trained))


def _cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _peak_memory_mib() -> float:
    """Return the most memory that this process had at once."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage starts from the memory of the process that started this one
        peaks = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        if peaks:
            return int(peaks[0]) / 1024
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


# --- scoring -----------------------------------------------------------------------------------------------------


def score_predictions(experiment: Experiment, fitted: Fitted, predictions: Predictions) -> Record:
    """Return the scores of predictions under each decision, the curves of the system's own, and counts.

    Parameters
    ----------
    experiment : Experiment
    fitted : Fitted
    predictions : Predictions
        Of the test flows.

    Returns
    -------
    dict
        "rows": counts of training rows, and of all, distinct and unseen test rows. "decisions": see :func:`decide`;
        each holds :meth:`Scores.to_dict`, and under "subsets" the class-balanced accuracy on distinct and unseen rows.
        "labels": of each native label its rows, how many got its class, how many were called any attack, how the attack
        score ranks it against benign flows ("auroc", None for benign labels), and whether training has it. "anomaly":
        where the system states how unlike benign flows are, how that ranks attacks against them, and in "labels" each
        of them ("anomaly_auroc"). "curve", "reliability", "attack_reliability": of its own decision.
    """
    test, classes = experiment.test, fitted.classes
    if len(predictions.predicted) != len(test):
        raise DataError(f"the system returned {len(predictions.predicted)} verdicts on {len(test)} flows")
    truth = codes_of(test.classes, classes)
    known = np.unique(row_fingerprints(experiment.train.features, test.schema))
    subsets = subset_rows(truth, row_fingerprints(test.features, test.schema), known)
    verdicts = decide(predictions, fitted.decision)
    stated = None if predictions.probabilities is None else fitted.decision.by_class(predictions.probabilities)
    score = _unit_score(predictions)
    scores = {name: evaluate(truth, predicted, stated, score, classes) for name, predicted in verdicts.items()}
    # without probabilities the score is a rank, and must not be read as one
    uncalibrated = {} if stated is not None else {"attack_calibration_error": None, "attack_brier": None}
    decisions = {
        name: {**of.to_dict(), **uncalibrated, "subsets": _subset_cba(truth, verdicts[name], subsets, classes)}
        for name, of in scores.items()
    }
    counts = {name: None if at is None else len(at) for name, at in subsets.items()}
    return {
        "rows": {"training": len(experiment.train), "all": len(test), **counts},
        "decisions": decisions,
        **_ranked_by_anomaly(truth, predictions, classes),
        "labels": _by_label(test, predictions, truth, score, set(experiment.train.labels.unique())),
        **_curves(scores["own"], stated is not None),
    }


def decide(predictions: Predictions, decision: Decision) -> dict[str, Ints]:
    """Return the verdicts of predictions under each decision, as places of classes, ``(n_flows,)``.

    "own" is the system's. "plain" names the most probable class, and is its own again where a system has no
    probabilities. "corrected" divides the probability of each output by its prior among the training flows, adds the
    outputs of a class up, and names the largest; it is left out where there are no probabilities.

    Examples
    --------
    >>> predictions = Predictions(np.array([0]), np.array([[0.9, 0.1]], np.float32), np.array([0.1]))
    >>> {name: codes.tolist() for name, codes in decide(predictions, Decision((0.99, 0.01))).items()}
    {'own': [0], 'plain': [0], 'corrected': [1]}
    """
    own, stated = predictions.predicted, predictions.probabilities
    if stated is None:
        return {"own": own, "plain": own}
    # "Corrected" must mean the same for every system: full correction of the stated probabilities, without a
    # temperature.
    balanced = replace(decision, temperature=1.0, tau=1.0)
    plain, corrected = decision.by_class(stated), balanced.by_class(balanced.corrected(stated))
    return {"own": own, "plain": plain.argmax(axis=1), "corrected": corrected.argmax(axis=1)}


def _unit_score(predictions: Predictions) -> Floats:
    """Return the attack score in 0..1: a margin, which may be any number, becomes its rank."""
    score = predictions.attack_score
    if predictions.probabilities is not None:
        return np.clip(score, 0.0, 1.0)  # sums of float32 shares may pass 1 by a rounding error
    if np.isnan(score).any():
        raise DataError(f"the system's attack score is NaN for {np.isnan(score).sum():,} flows")
    # Equal margins get one rank, or the order of rows would decide between them.
    distinct, place = np.unique(score, return_inverse=True)
    return np.asarray(place / max(1, distinct.size - 1), np.float64)


def _subset_cba(
    truth: Ints, predicted: Ints, subsets: Mapping[str, Ints | None], classes: tuple[str, ...]
) -> dict[str, float | None]:
    return {
        name: None if rows is None or not len(rows) else evaluate(truth[rows], predicted[rows], None, None, classes).cba
        for name, rows in subsets.items()
    }


def _ranked_by_anomaly(truth: Ints, predictions: Predictions, classes: tuple[str, ...]) -> Record:
    if predictions.anomaly is None:
        return {}
    scores = evaluate(truth, predictions.predicted, None, predictions.anomaly, classes).to_dict()
    return {"anomaly": {name: scores[name] for name in ("roc_auc", "pr_auc", "recall_at_fpr")}}


def _by_label(test: LabelledFlows, predictions: Predictions, truth: Ints, score: Floats, trained: set[str]) -> Record:
    is_benign = (test.classes == BENIGN).to_numpy()
    right, alarm = predictions.predicted == truth, predictions.predicted != 0  # benign is the first class
    ranked = {"auroc": score} | ({} if predictions.anomaly is None else {"anomaly_auroc": predictions.anomaly})
    above = {name: _share_below(by, by[is_benign]) for name, by in ranked.items()}
    table = pl.DataFrame({"label": test.labels, "benign": is_benign, "right": right, "alarms": alarm, **above})
    sums = (pl.len().alias("rows"), pl.col("right", "alarms").sum(), pl.col(list(above)).mean(), pl.col("benign").any())
    return {
        of["label"]: {
            **{name: of[name] for name in ("rows", "right", "alarms")},
            **{name: None if of["benign"] else of[name] for name in above},
            "in_training": of["label"] in trained,
        }
        for of in table.group_by("label").agg(sums).sort("label").iter_rows(named=True)
    }


def _share_below(score: Floats, benign: Floats) -> Floats:
    """Return the share of benign flows that score below each flow, equals counting half; its mean is an AUROC.

    Examples
    --------
    >>> _share_below(np.array([0.1, 0.5, 0.9]), np.array([0.1, 0.5])).tolist()
    [0.25, 0.75, 1.0]
    """
    # the mean of both sides counts equal scores as half
    ordered = np.sort(benign)
    places = np.searchsorted(ordered, score, "left") + np.searchsorted(ordered, score, "right")
    return np.asarray(places / max(1, 2 * ordered.size), np.float64)


def _curves(scores: Scores, with_probabilities: bool) -> Record:
    curve = scores.curve and rounded(to_json_values(scores.curve.thinned(CURVE_POINTS)), digits=4)
    return {
        "curve": curve and {name: curve[name] for name in ("recall", "precision", "false_positive_rate")},
        "reliability": to_json_values(scores.reliability),
        "attack_reliability": to_json_values(scores.attack_reliability) if with_probabilities else None,
    }


# --- the process of a cell ---------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Measure the cell of the command line and write its record; a fault becomes a record too."""
    folder, data, protocol, system, seed = sys.argv[1:] if arguments is None else arguments
    cell = Cell(data, protocol, system, int(seed))
    path = cell.path(Path(folder))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Whatever ends the process by an exception, its record says why; a kill is noticed by the parent.
    sys.excepthook = partial(_record_failure, cell, path)
    write_record(path, measure(cell))


def _end_with_parent() -> None:
    # the parent holds the other end of the pipe; a read ends when it is gone, whatever ended it
    while os.read(0, 1):
        pass
    os._exit(1)


def _record_failure(
    cell: Cell, path: Path, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    reason = str(error) if isinstance(error, DeepIDEAError) else f"{kind.__name__}: {error}"
    write_record(path, cell.begin_record("failed", reason=reason[:_MOST_REASON], run=about_this_run()))
    sys.__excepthook__(kind, error, trace)


if __name__ == "__main__":
    main()
