"""Models of a store: detector files, their comparisons, and the history of the active one."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, cast, get_args

import sqlalchemy as sa

from deepidea.errors import ArtifactError, DataError
from deepidea.model.detector import Detector
from deepidea.store.statements import plain_text, time_of
from deepidea.store.tables import ACTIVATIONS, MODELS

MOST_BYTES = 256 << 20
"""Largest detector file: service and database hold it in memory whole."""
_ID_DIGITS = 16
_FILE = MODELS.c.file
_LISTED = [column for column in MODELS.columns if column is not _FILE]
_ACTIVE = sa.select(ACTIVATIONS.c.model_id).order_by(ACTIVATIONS.c.activation_id.desc()).limit(1).scalar_subquery()
_VERDICTS = ("better", "no worse", "worse")

HowActivated = Literal["activated", "forced", "rolled_back"]


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A stored detector file, without its bytes.

    Attributes
    ----------
    model_id : str
        Beginning of the file's SHA-256.
    model : str
        Fingerprint of the detector, recorded in its alerts; files that differ in thresholds alone share it.
    name, added, added_by
        File name, time and analyst of the addition.
    n_bytes : int
    comparison : dict, optional
        Latest comparison with an active model: ``old_id``, ``new_id``, and the result of
        :meth:`deepidea.evaluation.model_comparison.ModelComparison.to_dict`.
    active : bool
    """

    model_id: str
    model: str
    name: str
    added: datetime
    added_by: str
    n_bytes: int
    comparison: Mapping[str, Any] | None
    active: bool


@dataclass(frozen=True, slots=True)
class Activation:
    """An entry of the history: a model was activated, if ``forced`` despite its comparison, or rolled back to."""

    activation_id: int
    model_id: str
    kind: HowActivated
    analyst: str
    note: str
    time: datetime


def model_id_of(data: bytes) -> str:
    """Return the id of a detector file: the beginning of its SHA-256."""
    return hashlib.sha256(data).hexdigest()[:_ID_DIGITS]


def open_detector(data: bytes, *, n_threads: int | None = None) -> Detector:
    """Return the detector of a file's bytes, after the same audit as any file's.

    Raises
    ------
    ArtifactError
        The bytes are no detector file, or a damaged one.
    """
    with tempfile.TemporaryDirectory(prefix="deepidea-model-") as folder:
        path = Path(folder) / "model.idea"
        path.write_bytes(data)
        return Detector.load(path, n_threads=n_threads)


@dataclass(frozen=True, slots=True)
class NewModel:
    """An audited detector file that may be added: bytes, fingerprint and name."""

    data: bytes
    model: str
    name: str


def read_model(file: str | Path | bytes, *, name: str = "") -> NewModel:
    """Read and audit a detector file, before the write transaction: it takes up to seconds.

    Parameters
    ----------
    file
        Path or bytes.
    name
        Name for display; default: the file's.

    Raises
    ------
    ArtifactError
        It is no usable detector file.
    DataError
        It is larger than :data:`MOST_BYTES`.
    """
    data = file if isinstance(file, bytes) else _read(Path(file))
    if len(data) > MOST_BYTES:
        raise DataError(
            f"the detector file has {len(data) / 2**20:.0f} MiB, and a store takes {MOST_BYTES >> 20} MiB at most; "
            "run it as a file: deepidea detect --model"
        )
    return NewModel(data, open_detector(data).fingerprint, name or ("" if isinstance(file, bytes) else Path(file).name))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"cannot read detector file {path}: {error.strerror}") from error


def add(connection: sa.Connection, new: NewModel, *, analyst: str) -> StoredModel:
    """Add a detector file, unless it is stored already."""
    row = {
        "model_id": model_id_of(new.data),
        "model": new.model,
        "name": new.name,
        "file": new.data,
        "added_us": time.time_ns() // 1000,
        "added_by": analyst,
        "comparison": None,
    }
    if not all_models(connection, MODELS.c.model_id == row["model_id"]):
        connection.execute(MODELS.insert().values(row))
    return get(connection, str(row["model_id"]))


def all_models(connection: sa.Connection, *wanted: sa.ColumnElement[bool]) -> list[StoredModel]:
    """Return the models, the latest added first."""
    columns = [*_LISTED, sa.func.length(_FILE).label("n_bytes"), _ACTIVE.label("active_id")]
    query = sa.select(*columns).where(*wanted).order_by(MODELS.c.added_us.desc(), MODELS.c.model_id)
    return [
        StoredModel(
            **{key: row[key] for key in ("model_id", "model", "name", "added_by", "n_bytes")},
            added=time_of(row["added_us"]),
            comparison=None if row["comparison"] is None else _comparison_of(row["comparison"]),
            active=row["model_id"] == row["active_id"],
        )
        for row in connection.execute(query).mappings()
    ]


def _comparison_of(text: str) -> dict[str, Any]:
    """Return a stored comparison, with the key of an earlier release renamed."""
    return {"labelled" if name == "judged" else name: value for name, value in json.loads(text).items()}


def get(connection: sa.Connection, model_id: str) -> StoredModel:
    """Return a model; :class:`DataError` where the store has none of this id."""
    found = all_models(connection, MODELS.c.model_id == model_id)
    if not found:
        raise DataError(_unknown(model_id))
    return found[0]


def _unknown(model_id: str) -> str:
    return f"no model {model_id!r} is in the store; see deepidea models list"


def find(connection: sa.Connection, beginning: str) -> StoredModel:
    """Return the model whose id or fingerprint starts with a text; :class:`DataError` unless it is exactly one."""
    begins = [column.startswith(beginning, autoescape=True) for column in (MODELS.c.model_id, MODELS.c.model)]
    found = all_models(connection, begins[0]) or all_models(connection, begins[1])
    if len(found) != 1:
        what = f"{', '.join(one.model_id for one in found)} do" if found else "none does"
        raise DataError(f"no single model has an id that begins {beginning!r}: {what}; see deepidea models list")
    return found[0]


def file(connection: sa.Connection, model_id: str) -> bytes:
    """Return the bytes of a model's file; load them by :func:`open_detector`, which audits them.

    Raises
    ------
    DataError
        There is no such model.
    """
    data = connection.execute(sa.select(_FILE).where(MODELS.c.model_id == model_id)).scalar()
    if data is None:
        raise DataError(_unknown(model_id))
    return bytes(data)


def set_comparison(connection: sa.Connection, comparison: Mapping[str, Any], *, old_id: str, new_id: str) -> None:
    """Store the comparison of a model with another, in place of its last one.

    Parameters
    ----------
    comparison
        Result of :meth:`deepidea.evaluation.model_comparison.ModelComparison.to_dict`.
    old_id, new_id
        Ids of the compared models.

    Raises
    ------
    DataError
        It is of other detectors, or has no verdict.
    """
    models = [get(connection, one) for one in (old_id, new_id)]
    given = [comparison.get("old"), comparison.get("new")]
    if given != [one.model for one in models] or comparison.get("verdict") not in _VERDICTS:
        raise DataError(
            f"the comparison is of {given} with verdict {comparison.get('verdict')!r}, not of detectors "
            f"{models[0].model} and {models[1].model} with one of {', '.join(_VERDICTS)}"
        )
    text = json.dumps({"old_id": old_id, "new_id": new_id, **comparison})
    connection.execute(MODELS.update().where(MODELS.c.model_id == new_id).values(comparison=text))


def activate(
    connection: sa.Connection, model_id: str, *, analyst: str, note: str = "", force: bool = False
) -> Activation:
    """Activate a model: ``deepidea detect`` without ``--model`` scores with it, running processes too.

    Parameters
    ----------
    model_id
    analyst, note
        Name and reason, for the history.
    force
        Activate without a comparison that finds it no worse than the active one; recorded as ``forced``. The first
        model needs no comparison.

    Raises
    ------
    DataError
        There is no such model, it is active already, or the comparison is missing, stale or bad.
    """
    model = get(connection, model_id)
    current = connection.execute(sa.select(_ACTIVE)).scalar()
    if model.active:
        raise DataError(f"model {model_id} is active already")
    fault = None if current is None else _fault(model, current)
    if fault is not None and not force:
        raise DataError(fault)
    return _put(connection, model_id, "activated" if fault is None else "forced", analyst, note)


def activation_fault(connection: sa.Connection, model_id: str) -> str | None:
    """Return why a model can replace the active one by force only, None where it can without.

    Raises
    ------
    DataError
        There is no such model.
    """
    model, current = get(connection, model_id), connection.execute(sa.select(_ACTIVE)).scalar()
    return None if current is None or model.active else _fault(model, current)


def rollback(connection: sa.Connection, *, analyst: str, note: str = "") -> Activation:
    """Activate the model before the active one; a second rollback goes back one more.

    Raises
    ------
    DataError
        No earlier active model is still stored.
    """
    kept = {one.model_id for one in all_models(connection)}
    before = [one for one in _line(_history(connection))[:-1] if one in kept]
    if not before:
        raise DataError("cannot roll back: no earlier active model is still in the store")
    return _put(connection, before[-1], "rolled_back", analyst, note)


def active(connection: sa.Connection) -> StoredModel | None:
    """Return the active model, None before the first activation."""
    return next(iter(all_models(connection, MODELS.c.model_id == _ACTIVE)), None)


def activations(connection: sa.Connection) -> list[Activation]:
    """Return the history of activations, the newest first."""
    return _history(connection)[::-1]


def remove(connection: sa.Connection, model_id: str) -> None:
    """Delete a model's file; the history keeps its id.

    Raises
    ------
    DataError
        There is no such model, or it is the active one.
    """
    if get(connection, model_id).active:
        raise DataError(f"cannot remove model {model_id}: it is active; activate another first")
    connection.execute(MODELS.delete().where(MODELS.c.model_id == model_id))


def _fault(model: StoredModel, active: str) -> str | None:
    """Return why a model may not replace the active one, None where it may."""
    advice = f"run: deepidea models compare {active} {model.model_id} DATA, or activate it with --force"
    rule = f"cannot activate model {model.model_id} in place of {active}"
    comparison = model.comparison
    if comparison is None:
        return f"{rule}: they have not been compared; {advice}"
    if comparison["old_id"] != active:
        return f"{rule}: it was compared with {comparison['old_id']}; {advice}"
    if comparison["verdict"] == "worse":
        return f"{rule}: it is worse: {comparison['reason']}; train it better, or activate it with --force"
    return None


def _put(connection: sa.Connection, model_id: str, kind: HowActivated, analyst: str, note: str) -> Activation:
    if not analyst.strip():
        raise DataError("an activation needs the name of its analyst, got an empty one")
    when = time.time_ns() // 1000
    row = {"model_id": model_id, "analyst": plain_text(analyst), "note": plain_text(f"{kind}\n{note}"), "time_us": when}
    key = connection.execute(ACTIVATIONS.insert().values(row)).inserted_primary_key
    assert key is not None  # for the type checker: one row was inserted
    return _activation({**row, "activation_id": key[0]})


def _history(connection: sa.Connection) -> list[Activation]:
    """Return the activations, the oldest first."""
    rows = connection.execute(sa.select(ACTIVATIONS).order_by(ACTIVATIONS.c.activation_id)).mappings()
    return [_activation(dict(row)) for row in rows]


def _activation(row: Mapping[str, Any]) -> Activation:
    kind, _, note = row["note"].partition("\n")  # first line: the kind; the rest: the analyst's note
    known = kind in get_args(HowActivated)
    return Activation(
        activation_id=row["activation_id"],
        model_id=row["model_id"],
        kind=cast("HowActivated", kind if known else "activated"),
        analyst=row["analyst"],
        note=note if known else row["note"],
        time=time_of(row["time_us"]),
    )


def _line(history: Sequence[Activation]) -> list[str]:
    """Return the models that led to the active one, each after the one that it replaced.

    A rollback removes what came after its model, so that the next rollback goes further back and not forth.

    Examples
    --------
    >>> from datetime import UTC
    >>> when = datetime(2026, 5, 4, tzinfo=UTC)
    >>> done = [("a", "activated"), ("b", "activated"), ("a", "rolled_back"), ("c", "forced")]
    >>> _line([Activation(k, model, kind, "ann", "", when) for k, (model, kind) in enumerate(done)])
    ['a', 'c']
    """
    line: list[str] = []
    for one in history:
        if one.kind == "rolled_back":
            while line and line[-1] != one.model_id:
                line.pop()
        if not line or line[-1] != one.model_id:
            line.append(one.model_id)
    return line
