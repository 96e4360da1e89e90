"""Feedback: verdicts of analysts on alerts and incidents."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa

from deepidea.errors import DataError
from deepidea.flows.taxonomy import BENIGN
from deepidea.store.statements import (
    Page,
    Row,
    check_limit,
    current_id,
    decode_number,
    page_of,
    plain_text,
    slices,
    time_of,
)
from deepidea.store.tables import ALERTS, FEEDBACK, INCIDENTS

Subject = Literal["alert", "incident"]
Verdict = Literal["true_positive", "false_positive", "unsure"]
LONGEST = {"class_name": 200, "note": 10_000, "analyst": 200}  # characters


@dataclass(frozen=True, slots=True)
class Feedback:
    """A stored verdict of an analyst.

    Parameters
    ----------
    subject, subject_id
        What it is about.
    verdict
        ``true_positive``: it is an attack; ``false_positive``: it is benign; ``unsure``.
    class_name
        Of a true positive: the right class where the detector's is wrong.
    note
        Free text; escape it for display.

    Examples
    --------
    >>> about = {"note": "", "analyst": "ann", "time": datetime(2026, 5, 4)}
    >>> Feedback(1, "alert", "id", "true_positive", "botnet", **about).label("port_scan")
    'botnet'
    >>> [Feedback(1, "alert", "id", one, None, **about).label("dos") for one in get_args(Verdict)]
    ['dos', 'benign', None]
    """

    feedback_id: int
    subject: Subject
    subject_id: str
    verdict: Verdict
    class_name: str | None
    note: str
    analyst: str
    time: datetime

    def label(self, predicted: str) -> str | None:
        """Return the label of a flow of a predicted class by this verdict, None where it is unsure."""
        if self.verdict == "unsure":
            return None
        return BENIGN if self.verdict == "false_positive" else self.class_name or predicted


def check_verdict(verdict: str, analyst: str, class_name: str | None = None, note: str = "") -> None:
    """Raise :class:`DataError` where a verdict is unknown, anonymous or too long, or has a class that cannot be."""
    if verdict not in get_args(Verdict):
        raise DataError(f"verdict must be one of {', '.join(get_args(Verdict))}, got {verdict!r}")
    if not analyst.strip():
        raise DataError("a verdict needs the name of its analyst, got an empty one")
    if class_name is not None and verdict != "true_positive":
        raise DataError(f"class {class_name!r} needs verdict true_positive, got {verdict}; leave the class out")
    if class_name is not None and (not class_name.strip() or class_name == BENIGN):
        raise DataError(
            f"the class of a true positive must be an attack, got {class_name!r}; label benign flows false_positive"
        )
    for (name, most), text in zip(LONGEST.items(), (class_name, note, analyst), strict=True):
        if len(text or "") > most:
            raise DataError(f"{name} may have {most:,} characters at most, got {len(text or ''):,}; shorten it")


def feedback_of(row: Row) -> Feedback:
    """Return a row of the table as a record."""
    values: dict[str, Any] = {str(name): value for name, value in row.items()}
    return Feedback(class_name=values.pop("class"), time=time_of(values.pop("time_us")), **values)


def verdict_of(row: Row) -> Feedback | None:
    """Return the ``verdict_`` columns of a joined row as a record, None where they are null."""
    if row["verdict_feedback_id"] is None:
        return None
    return feedback_of({column.name: row[f"verdict_{column.name}"] for column in FEEDBACK.columns})


def newest_id(subject: Subject, subject_id: sa.ColumnElement[str]) -> sa.ScalarSelect[int]:
    """Return the number of the latest verdict on a subject as an expression, null without one."""
    inner = FEEDBACK.alias()
    mine = (inner.c.subject == subject) & (inner.c.subject_id == subject_id)
    return sa.select(sa.func.max(inner.c.feedback_id)).where(mine).scalar_subquery()


def put(
    connection: sa.Connection,
    subject: Subject,
    subject_id: str,
    verdict: Verdict,
    *,
    class_name: str | None = None,
    note: str = "",
    analyst: str,
) -> Feedback:
    """Store an analyst's verdict on an alert or an incident; the latest one of a subject is valid.

    A verdict on an incident applies to its alerts, later ones too, except those with their own verdict.

    Parameters
    ----------
    connection
    subject, subject_id
        What is labelled; an incident also by an earlier id.
    verdict, class_name, note, analyst
        See :class:`Feedback` and :func:`check_verdict`.

    Raises
    ------
    DataError
        The store has no such subject, or the verdict is invalid.
    """
    check_verdict(verdict, analyst, class_name, note)
    row = {
        "subject": subject,
        "subject_id": _known_subject(connection, subject, subject_id),
        "verdict": verdict,
        "class": class_name,
        "note": plain_text(note),
        "analyst": plain_text(analyst),
        "time_us": time.time_ns() // 1000,
    }
    key = connection.execute(FEEDBACK.insert().values(row)).inserted_primary_key
    assert key is not None  # for the type checker: one row was inserted
    return feedback_of({**row, "feedback_id": key[0]})


def _known_subject(connection: sa.Connection, subject: Subject, subject_id: str) -> str:
    """Return the present id of a subject."""
    if subject not in get_args(Subject):
        raise DataError(f"subject must be alert or incident, got {subject!r}")
    of_incident = INCIDENTS.c.incident_id, INCIDENTS.c.incident_id == current_id(subject_id)
    of_alert = ALERTS.c.alert_id, ALERTS.c.alert_id == subject_id
    column, wanted = of_incident if subject == "incident" else of_alert
    found = connection.execute(sa.select(column).where(wanted)).scalar()
    if found is None:
        raise DataError(f"no {subject} {subject_id!r} is in the store")
    return str(found)


def find(
    connection: sa.Connection,
    *,
    subject: Subject | None = None,
    subject_id: str | None = None,
    analyst: str | None = None,
    limit: int = 100,
    after: str | None = None,
) -> Page[Feedback]:
    """Return a page of verdicts, the newest first."""
    check_limit(limit)
    columns, last = FEEDBACK.c, decode_number(after)
    wanted = [columns.subject == subject] if subject is not None else []
    wanted += [columns.analyst == analyst] if analyst is not None else []
    wanted += [columns.feedback_id < last] if last is not None else []
    wanted += [columns.subject_id.in_([sa.literal(subject_id), current_id(subject_id)])] if subject_id else []
    query = sa.select(FEEDBACK).where(*wanted).order_by(columns.feedback_id.desc()).limit(limit + 1)
    found = [feedback_of(row) for row in connection.execute(query).mappings()]
    return page_of(found, limit, lambda one: str(one.feedback_id))


def newest(connection: sa.Connection, subject: Subject, ids: Sequence[str]) -> dict[str, Feedback]:
    """Return the latest verdict on each of some subjects that has one."""
    columns = FEEDBACK.c
    found: dict[str, Feedback] = {}
    for some in slices(ids):
        query = sa.select(FEEDBACK).where(columns.subject == subject, columns.subject_id.in_(some))
        for row in connection.execute(query.order_by(columns.feedback_id)).mappings():
            found[row["subject_id"]] = feedback_of(row)
    return found


def all_newest(connection: sa.Connection, subject: Subject) -> list[Feedback]:
    """Return the latest verdict on each subject of a kind, the newest first."""
    columns = FEEDBACK.c
    latest = sa.select(sa.func.max(columns.feedback_id)).where(columns.subject == subject).group_by(columns.subject_id)
    query = sa.select(FEEDBACK).where(columns.feedback_id.in_(latest)).order_by(columns.feedback_id.desc())
    return [feedback_of(row) for row in connection.execute(query).mappings()]


def incidents_of(connection: sa.Connection, alert_ids: Sequence[str]) -> dict[str, str]:
    """Return the incident of each alert; suppressed alerts have none."""
    columns = INCIDENTS.c
    within = (columns.incident_key == ALERTS.c.incident_key) & ALERTS.c.time_us.between(
        columns.first_us, columns.last_us
    )
    joined = sa.select(ALERTS.c.alert_id, columns.incident_id).join_from(ALERTS, INCIDENTS, within)
    found: dict[str, str] = {}
    for some in slices(alert_ids):
        wanted = ALERTS.c.alert_id.in_(some) & ALERTS.c.suppressed_by.is_(None)
        found.update(tuple(row) for row in connection.execute(joined.where(wanted)))
    return found


def verdicts_on_alerts(connection: sa.Connection, alert_ids: Sequence[str]) -> dict[str, Feedback]:
    """Return the valid verdict of each alert that has one: its own, else its incident's."""
    own = newest(connection, "alert", alert_ids)
    parents = incidents_of(connection, [one for one in alert_ids if one not in own])
    of_parents = newest(connection, "incident", sorted(set(parents.values())))
    return {**{alert: of_parents[parent] for alert, parent in parents.items() if parent in of_parents}, **own}
