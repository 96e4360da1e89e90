"""Feedback in a store: kept, followed where incidents merge, read by subject, and found for every alert."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import get_args

import polars as pl
import sqlalchemy as sa

from deepidea.errors import DataError
from deepidea.store.judgement import Feedback, Judgement, Subject, Verdict
from deepidea.store.labelled_alerts import JudgedCounts, feedback_of, holding, incidents_of, judged_pages
from deepidea.store.reading import lead
from deepidea.store.tables import ALERTS, FEEDBACK, INCIDENTS

_MARK = FEEDBACK.c


class StoredFeedback:
    """The part of a :class:`~deepidea.store.store.Store` that keeps what analysts say."""

    _gap_s: float

    def _transaction(self, *, writes: bool = False) -> contextlib.AbstractContextManager[sa.Connection]:
        raise NotImplementedError

    def judge(
        self,
        subject: Subject,
        subject_id: str,
        verdict: Verdict,
        *,
        class_name: str | None = None,
        note: str = "",
        analyst: str,
    ) -> Feedback:
        """Keep an analyst's verdict on an alert or an incident; the latest one of a subject holds.

        A verdict on an incident holds for its alerts, those that come later too, except where an alert has one of its
        own. The prediction stays as it is.

        Parameters
        ----------
        subject, subject_id
            What is judged; an incident also under an earlier id of it.
        verdict, class_name, note, analyst
            See :class:`~deepidea.store.judgement.Judgement`.

        Raises
        ------
        DataError
            The store has no such subject, or the verdict breaks a rule.
        """
        said = Judgement(verdict, analyst, class_name, note)
        with self._transaction(writes=True) as connection:
            current = _known_subject(connection, subject, subject_id)
            row = {
                "subject": subject,
                "subject_id": current,
                "verdict": said.verdict,
                "class": said.class_name,
                "note": _storable(note),
                "analyst": _storable(analyst),
                "time_us": time.time_ns() // 1000,
            }
            key = connection.execute(FEEDBACK.insert().values(row)).inserted_primary_key
            assert key is not None  # for the type checker: one row was inserted
            return feedback_of({**row, "feedback_id": key[0]})

    def feedback(
        self, *, subject: Subject | None = None, subject_id: str | None = None, limit: int | None = None
    ) -> list[Feedback]:
        """Return what was said, the newest first: of one subject, of one kind of them, or all."""
        wanted = [] if subject is None else [_MARK.subject == subject]
        with self._transaction() as connection:
            if subject_id is not None:
                wanted.append(_MARK.subject_id.in_([subject_id, lead(connection, subject_id)]))
            query = sa.select(FEEDBACK).where(*wanted).order_by(_MARK.feedback_id.desc()).limit(limit)
            return [feedback_of(dict(row)) for row in connection.execute(query).mappings()]

    def verdicts_of(self, incident_ids: Sequence[str]) -> dict[str, Feedback]:
        """Return the verdict that holds for each incident that has one, by id; one look-up for a page of them."""
        with self._transaction() as connection:
            return holding(connection, "incident", incident_ids)

    def verdicts_on_alerts(self, alert_ids: Sequence[str]) -> dict[str, Feedback]:
        """Return the verdict that holds for each alert that has one: its own, else its incident's."""
        with self._transaction() as connection:
            own = holding(connection, "alert", alert_ids)
            parents = incidents_of(connection, [one for one in alert_ids if one not in own])
            said = holding(connection, "incident", sorted(set(parents.values())))
        return {**{alert: said[parent] for alert, parent in parents.items() if parent in said}, **own}

    def judged_alerts(
        self, *, per_incident: int | None = None, counts: JudgedCounts | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield alerts that were judged to be something, page by page; see :func:`deepidea.store.labelled_alerts`."""
        return judged_pages(self._transaction, self._gap_s, per_incident=per_incident, counts=counts or JudgedCounts())


def _known_subject(connection: sa.Connection, subject: Subject, subject_id: str) -> str:
    """Return the id that a subject has now."""
    if subject not in get_args(Subject):
        raise DataError(f"what is judged must be an alert or an incident, however: it is {subject!r}")
    current = lead(connection, subject_id) if subject == "incident" else subject_id
    column = INCIDENTS.c.incident_id if subject == "incident" else ALERTS.c.alert_id
    if connection.execute(sa.select(column).where(column == current)).first() is None:
        raise DataError(f"an {subject} must be in the store to be judged, however: {subject_id!r} is not")
    return current


def _storable(text: str) -> str:
    return text.replace("\0", "\ufffd")  # NUL is text that not every store can hold
