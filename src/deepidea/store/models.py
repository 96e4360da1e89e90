"""Models in a store: detector files, how they compare, and which one was the active one when."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast, get_args

import sqlalchemy as sa

from deepidea.errors import ArtifactError, DataError
from deepidea.store.stored_model import MOST_BYTES, Activation, HowActivated, StoredModel, model_id_of, open_detector
from deepidea.store.tables import ACTIVATIONS, MODELS

_FILE = MODELS.c.file
_TOLD = [column for column in MODELS.columns if column is not _FILE]
_VERDICTS = ("better", "no worse", "worse")


class StoredModels:
    """The part of a :class:`~deepidea.store.store.Store` that keeps models."""

    def _transaction(self, *, writes: bool = False) -> contextlib.AbstractContextManager[sa.Connection]:
        raise NotImplementedError

    def add_model(self, file: str | Path | bytes, *, name: str = "", analyst: str) -> StoredModel:
        """Keep a detector file; one that is kept already stays as it is.

        Parameters
        ----------
        file
            Its path, or its bytes; audited before they are kept.
        name
            What people call it; the file's name where absent.
        analyst
            Who adds it.

        Raises
        ------
        ArtifactError
            It is no detector file that can be used.
        DataError
            It is larger than :data:`~deepidea.store.stored_model.MOST_BYTES`.
        """
        data = file if isinstance(file, bytes) else _read(Path(file))
        if len(data) > MOST_BYTES:
            raise DataError(
                f"a store takes detector files of {MOST_BYTES >> 20} MiB at most, however: this one has "
                f"{len(data) / 2**20:.0f} MiB; run it as a file: deepidea detect --model"
            )
        row = {
            "model_id": model_id_of(data),
            "model": open_detector(data).fingerprint,
            "name": name or ("" if isinstance(file, bytes) else Path(file).name),
            "file": data,
            "added_us": time.time_ns() // 1000,
            "added_by": analyst,
            "comparison": None,
        }
        with self._transaction(writes=True) as connection:
            if not _rows(connection, MODELS.c.model_id == row["model_id"]):
                connection.execute(MODELS.insert().values(row))
            return _known(connection, str(row["model_id"]))

    def models(self) -> list[StoredModel]:
        """Return the models, the latest added first."""
        with self._transaction() as connection:
            return _rows(connection)

    def find_model(self, beginning: str) -> StoredModel:
        """Return the model whose id begins so, or whose detector's fingerprint does; DataError where not just one."""
        with self._transaction() as connection:
            begins = [column.startswith(beginning, autoescape=True) for column in (MODELS.c.model_id, MODELS.c.model)]
            found = _rows(connection, begins[0]) or _rows(connection, begins[1])
        if len(found) != 1:
            what = f"{', '.join(one.model_id for one in found)} do" if found else "none does"
            raise DataError(
                f"one model must have an id that begins {beginning!r}, however: {what}; see deepidea models list"
            )
        return found[0]

    def model_file(self, model_id: str) -> bytes:
        """Return the bytes of a model's file, as they are kept; whoever builds them must audit them.

        Raises
        ------
        DataError
            There is no such model.
        """
        with self._transaction() as connection:
            data = connection.execute(sa.select(_FILE).where(MODELS.c.model_id == model_id)).scalar()
        if data is None:
            raise DataError(_unknown(model_id))
        return bytes(data)

    def set_comparison(self, comparison: Mapping[str, Any], *, old_id: str, new_id: str) -> None:
        """Keep how a model compares with another, in place of what was kept of it.

        Parameters
        ----------
        comparison
            What :meth:`deepidea.evaluation.model_comparison.ModelComparison.to_dict` tells.
        old_id, new_id
            The two models.

        Raises
        ------
        DataError
            It is of other detectors, or has no verdict.
        """
        with self._transaction(writes=True) as connection:
            models = [_known(connection, one) for one in (old_id, new_id)]
            told = [comparison.get("old"), comparison.get("new")]
            if told != [one.model for one in models] or comparison.get("verdict") not in _VERDICTS:
                raise DataError(
                    f"a comparison must be of detectors {models[0].model} and {models[1].model} and have a verdict, "
                    f"however: it is of {told} and says {comparison.get('verdict')!r}"
                )
            text = json.dumps({"old_id": old_id, "new_id": new_id, **comparison})
            connection.execute(MODELS.update().where(MODELS.c.model_id == new_id).values(comparison=text))

    def activate(self, model_id: str, *, analyst: str, note: str = "", force: bool = False) -> Activation:
        """Make a model the active one: what ``deepidea detect`` without a file runs, one that is running too.

        Parameters
        ----------
        model_id
            Of :meth:`models`.
        analyst, note
            Who does it, and why.
        force
            Whether to do it though no comparison says that it is no worse than the active one; the history then says
            so. The first model needs none.

        Raises
        ------
        DataError
            There is no such model, it is active already, or the comparison is missing, stale or bad.
        """
        with self._transaction(writes=True) as connection:
            model = _known(connection, model_id)
            active = _active_id(connection)
            if model.active:
                raise DataError(f"a model to activate must not be the active one, however: {model_id} is")
            fault = None if active is None else _fault(model, active)
            if fault is not None and not force:
                raise DataError(fault)
            return _put(connection, model_id, "activated" if fault is None else "forced", analyst, note)

    def activation_fault(self, model_id: str) -> str | None:
        """Return why a model may not take the place of the active one unless it is forced to, None where it may.

        Raises
        ------
        DataError
            There is no such model.
        """
        with self._transaction() as connection:
            model, active = _known(connection, model_id), _active_id(connection)
            return None if active is None or model.active else _fault(model, active)

    def rollback(self, *, analyst: str, note: str = "") -> Activation:
        """Make the model active that was so before the present one; again, the one before that.

        Raises
        ------
        DataError
            There was none before that is still kept.
        """
        with self._transaction(writes=True) as connection:
            kept = {one.model_id for one in _rows(connection)}
            before = [one for one in _line(_history(connection))[:-1] if one in kept]
            if not before:
                raise DataError("a model must have been active before, however: none was that is still kept")
            return _put(connection, before[-1], "rolled_back", analyst, note)

    def active_model(self) -> StoredModel | None:
        """Return the active model, None where none was ever activated."""
        with self._transaction() as connection:
            active = _active_id(connection)
            return None if active is None else next(iter(_rows(connection, MODELS.c.model_id == active)), None)

    def activations(self) -> list[Activation]:
        """Return the history of what was active, the newest first."""
        with self._transaction() as connection:
            return _history(connection)[::-1]

    def remove_model(self, model_id: str) -> None:
        """Let a model's file go; the history keeps its id.

        Raises
        ------
        DataError
            There is no such model, or it is the active one.
        """
        with self._transaction(writes=True) as connection:
            if _known(connection, model_id).active:
                raise DataError(
                    f"a model to remove must not be the active one, however: {model_id} is; activate another first"
                )
            connection.execute(MODELS.delete().where(MODELS.c.model_id == model_id))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"a detector file must be readable, however: {path}: {error.strerror}") from error


def _unknown(model_id: str) -> str:
    return f"a model must be in the store, however: {model_id!r} is not; see deepidea models list"


def _known(connection: sa.Connection, model_id: str) -> StoredModel:
    found = _rows(connection, MODELS.c.model_id == model_id)
    if not found:
        raise DataError(_unknown(model_id))
    return found[0]


def _rows(connection: sa.Connection, *wanted: sa.ColumnElement[bool]) -> list[StoredModel]:
    active = _active_id(connection)
    query = sa.select(*_TOLD, sa.func.length(_FILE).label("n_bytes")).where(*wanted)
    return [
        StoredModel(
            **{key: row[key] for key in ("model_id", "model", "name", "added_by", "n_bytes")},
            added=_time(row["added_us"]),
            comparison=None if row["comparison"] is None else json.loads(row["comparison"]),
            active=row["model_id"] == active,
        )
        for row in connection.execute(query.order_by(MODELS.c.added_us.desc(), MODELS.c.model_id)).mappings()
    ]


def _time(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1e6, UTC)


def _active_id(connection: sa.Connection) -> str | None:
    newest = sa.select(ACTIVATIONS.c.model_id).order_by(ACTIVATIONS.c.activation_id.desc()).limit(1)
    return connection.execute(newest).scalar()


def _fault(model: StoredModel, active: str) -> str | None:
    """Return why a model may not take the place of the active one, None where it may."""
    advice = f"run: deepidea models compare {active} {model.model_id} DATA, or activate it with --force"
    rule = f"a model must have been compared with the active one, {active}, and be no worse"
    told = model.comparison
    if told is None:
        return f"{rule}, however: {model.model_id} has not been; {advice}"
    if told["old_id"] != active:
        return f"{rule}, however: {model.model_id} was compared with {told['old_id']}; {advice}"
    if told["verdict"] == "worse":
        return f"{rule}, however: it is worse: {told['reason']}; train it better, or activate it with --force"
    return None


def _put(connection: sa.Connection, model_id: str, kind: HowActivated, analyst: str, note: str) -> Activation:
    if not analyst.strip():
        raise DataError("an activation must name who does it, however: the name is empty")
    when = time.time_ns() // 1000
    row = {"model_id": model_id, "analyst": analyst, "note": f"{kind}\n{note}", "time_us": when}
    row = {key: value.replace("\0", "\ufffd") if isinstance(value, str) else value for key, value in row.items()}
    key = connection.execute(ACTIVATIONS.insert().values(row)).inserted_primary_key
    assert key is not None  # for the type checker: one row was inserted
    return _activation({**row, "activation_id": key[0]})


def _history(connection: sa.Connection) -> list[Activation]:
    """Return the activations, the oldest first."""
    rows = connection.execute(sa.select(ACTIVATIONS).order_by(ACTIVATIONS.c.activation_id)).mappings()
    return [_activation(dict(row)) for row in rows]


def _activation(row: Mapping[str, Any]) -> Activation:
    kind, _, note = row["note"].partition("\n")  # the first line is ours, what follows is somebody's
    known = kind in get_args(HowActivated)
    return Activation(
        activation_id=row["activation_id"],
        model_id=row["model_id"],
        kind=cast("HowActivated", kind if known else "activated"),
        analyst=row["analyst"],
        note=note if known else row["note"],
        time=_time(row["time_us"]),
    )


def _line(history: Sequence[Activation]) -> list[str]:
    """Return the models that led to the active one, each behind the one that it replaced.

    Examples
    --------
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
