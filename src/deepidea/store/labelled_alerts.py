"""The alerts that analysts have judged, page by page, each with the verdict that holds for it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl
import sqlalchemy as sa

from deepidea.store.grouping import incident_id_of
from deepidea.store.judgement import Feedback, Subject
from deepidea.store.reading import Condition, lead, read_alerts, read_in_time
from deepidea.store.tables import ALERTS, FEEDBACK, INCIDENTS
from deepidea.store.writing import slices

PAGE_ROWS = 8_192
_WALKED = 20_000  # times of alerts looked at together
_MARK = FEEDBACK.c
_HASH_AT = 13  # of an alert's id, behind the time: by it, a share of an incident is drawn

Transactions = Callable[[], contextlib.AbstractContextManager[sa.Connection]]


@dataclass(slots=True)
class JudgedCounts:
    """What a pass over judged alerts came to.

    Attributes
    ----------
    n_flows : int
        Alerts given out.
    labels, verdicts : Counter
        These by label, and by verdict.
    n_unsure : int
        Left out: nobody was sure of them.
    n_capped : int
        Left out: beyond the most of an incident.
    n_purged, n_purged_incidents : int
        Judged and gone: retention took the alerts, or an incident with all it held.
    n_without_features : int
        Left out: nothing is kept of what the model saw.
    n_later : int
        Given out, though their flow ended after their incident was judged: nobody has looked at them.
    """

    n_flows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    n_unsure: int = 0
    n_capped: int = 0
    n_purged: int = 0
    n_purged_incidents: int = 0
    n_without_features: int = 0
    n_later: int = 0


def judged_pages(
    transaction: Transactions, gap_s: float, *, per_incident: int | None, counts: JudgedCounts
) -> Iterator[pl.DataFrame]:
    """Yield alerts that were judged to be something, and count those that are left out.

    Yields
    ------
    DataFrame
        Columns of an alert table, ``source``, ``incident_id``, and of the verdict ``truth``, ``verdict``, ``analyst``,
        ``note``, ``judged_at``.

    Notes
    -----
    Each page is a transaction of its own, so that a detection that writes waits for none of it.
    """
    with transaction() as connection:
        singly, by_incident = all_holding(connection, "alert"), all_holding(connection, "incident")
    for page in _judged_singly(transaction, singly, counts):
        yield from _told(page, counts)
    taken: dict[str, list[Extent]] = {}
    for said in by_incident:
        with transaction() as connection:
            extent = extent_of(connection, said.subject_id, gap_s)
        if extent is None:
            counts.n_purged_incidents += 1
            continue
        wanted = extent.condition(taken.setdefault(extent.key, []))
        taken[extent.key].append(extent)
        for page in _of_incident(transaction, said, extent, wanted, per_incident, counts):
            yield from _told(page, counts)


def _judged_singly(transaction: Transactions, said: list[Feedback], counts: JudgedCounts) -> Iterator[pl.DataFrame]:
    """Yield alerts with a verdict of their own; how sure it is does not matter yet."""
    sure = {one.subject_id: one for one in said if one.verdict != "unsure"}
    with transaction() as connection:
        unsure = [one.subject_id for one in said if one.verdict == "unsure"]
        counts.n_unsure += sum(_count(connection, ALERTS.c.alert_id.in_(some)) for some in slices(unsure))
    ids = sorted(sure)
    for start in range(0, len(ids), PAGE_ROWS // 4):
        some = ids[start : start + PAGE_ROWS // 4]
        with transaction() as connection:
            page = read_alerts(
                connection, [ALERTS.c.alert_id.in_(some)], incident=None, limit=len(some), after=None
            ).rows
            parents = incidents_of(connection, some)
        counts.n_purged += len(some) - page.height
        incident = pl.col("alert_id").replace_strict(parents, default=None, return_dtype=pl.String)
        yield _beside(page.with_columns(incident_id=incident), [sure[one] for one in page["alert_id"]])


def _of_incident(
    transaction: Transactions,
    said: Feedback,
    extent: Extent,
    wanted: Condition,
    per_incident: int | None,
    counts: JudgedCounts,
) -> Iterator[pl.DataFrame]:
    """Yield the alerts of a judged incident that have no verdict of their own."""
    with transaction() as connection:
        if extent.n_told is not None:
            whole = extent.condition(()) & ALERTS.c.suppressed_by.is_(None)
            counts.n_purged += max(extent.n_told - _count(connection, whole), 0)
        alone = sa.select(FEEDBACK.c.subject_id).where(FEEDBACK.c.subject == "alert")
        wanted = wanted & ALERTS.c.alert_id.not_in(alone)
        if said.verdict == "unsure":
            counts.n_unsure += _count(connection, wanted)
            return
        drawn = wanted if per_incident is None else _draw(connection, wanted, per_incident)
        if drawn is not wanted:
            counts.n_capped += _count(connection, wanted) - _count(connection, drawn)
    after: tuple[int, str] | None = None
    while True:
        with transaction() as connection:
            page, after = read_in_time(connection, drawn, limit=PAGE_ROWS, after=after)
        rows = page.with_columns(incident_id=pl.lit(said.subject_id))
        counts.n_later += rows.filter(pl.col("time") > said.time).height
        yield _beside(rows, [said] * rows.height)
        if after is None:
            return


def _draw(connection: sa.Connection, wanted: Condition, most: int) -> Condition:
    """Return a condition that the most alerts meet whose ids have the least hashes: the same ones every time."""
    drawn_by = sa.func.substr(ALERTS.c.alert_id, _HASH_AT)
    first_left_out = sa.select(drawn_by).where(wanted).order_by(drawn_by).offset(most).limit(1)
    bound = connection.execute(first_left_out).scalar()
    return wanted if bound is None else wanted & (drawn_by < bound)


def _count(connection: sa.Connection, wanted: Condition) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(ALERTS).where(wanted)).scalar_one()


def _beside(alerts: pl.DataFrame, said: list[Feedback]) -> pl.DataFrame:
    """Return alerts with the verdict on each of them."""
    truth = [one.label(predicted) for one, predicted in zip(said, alerts["class"], strict=True)]
    columns: dict[str, Any] = {
        "truth": pl.Series(truth, dtype=pl.String),
        "verdict": pl.Series([one.verdict for one in said], dtype=pl.String),
        "analyst": pl.Series([one.analyst for one in said], dtype=pl.String),
        "note": pl.Series([one.note for one in said], dtype=pl.String),
        "judged_at": pl.Series([one.time for one in said], dtype=pl.Datetime("us", "UTC")),
    }
    return alerts.with_columns(**columns)


def _told(page: pl.DataFrame, counts: JudgedCounts) -> Iterator[pl.DataFrame]:
    """Yield what of a page has features, where that is anything, and count all of it."""
    kept = page.filter(pl.col("features").is_not_null())
    counts.n_without_features += page.height - kept.height
    counts.n_flows += kept.height
    counts.labels.update(dict(kept["truth"].value_counts().iter_rows()))
    counts.verdicts.update(dict(kept["verdict"].value_counts().iter_rows()))
    if kept.height:
        yield kept


# --- what holds -------------------------------------------------------------------------------------------------------


def feedback_of(row: dict[str, Any]) -> Feedback:
    """Return a row of the table as a record."""
    when = datetime.fromtimestamp(row.pop("time_us") / 1e6, UTC)
    return Feedback(class_name=row.pop("class"), time=when, **row)


def holding(connection: sa.Connection, subject: Subject, ids: Sequence[str]) -> dict[str, Feedback]:
    """Return the latest verdict on each of some subjects that has one."""
    found: dict[str, Feedback] = {}
    for some in slices(ids):
        query = sa.select(FEEDBACK).where(_MARK.subject == subject, _MARK.subject_id.in_(some))
        for row in connection.execute(query.order_by(_MARK.feedback_id)).mappings():
            found[row["subject_id"]] = feedback_of(dict(row))
    return found


def all_holding(connection: sa.Connection, subject: Subject) -> list[Feedback]:
    """Return the latest verdict on each subject of a kind, the newest first."""
    newest = sa.select(sa.func.max(_MARK.feedback_id)).where(_MARK.subject == subject).group_by(_MARK.subject_id)
    query = sa.select(FEEDBACK).where(_MARK.feedback_id.in_(newest)).order_by(_MARK.feedback_id.desc())
    return [feedback_of(dict(row)) for row in connection.execute(query).mappings()]


def incidents_of(connection: sa.Connection, alert_ids: Sequence[str]) -> dict[str, str]:
    """Return the incident that each alert is in; alerts that allow rules keep quiet are in none."""
    columns = INCIDENTS.c
    within = (columns.incident_key == ALERTS.c.incident_key) & ALERTS.c.time_us.between(
        columns.first_us, columns.last_us
    )
    joined = sa.select(ALERTS.c.alert_id, columns.incident_id).join_from(ALERTS, INCIDENTS, within)
    found: dict[str, str] = {}
    for some in slices(alert_ids):
        told = ALERTS.c.alert_id.in_(some) & ALERTS.c.suppressed_by.is_(None)
        found.update(tuple(row) for row in connection.execute(joined.where(told)))
    return found


# --- which alerts a verdict on an incident is about ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Extent:
    """Which alerts an incident is made of: those of a key from its first time to its last, in microseconds.

    ``n_told`` is how many it counts, None where allow rules keep all of it quiet, so that nothing counts.
    """

    key: str
    first_us: int
    last_us: int
    n_told: int | None

    def condition(self, taken: Collection[Extent]) -> Condition:
        """Return what its alerts are, without those that are in an extent that goes before."""
        columns = ALERTS.c
        mine = (columns.incident_key == self.key) & columns.time_us.between(self.first_us, self.last_us)
        over = [one for one in taken if one.first_us <= self.last_us and one.last_us >= self.first_us]
        return sa.and_(mine, *(~columns.time_us.between(one.first_us, one.last_us) for one in over))


def extent_of(connection: sa.Connection, incident_id: str, gap_s: float) -> Extent | None:
    """Return which alerts a judged incident is about, None where its beginning is gone.

    Whoever calls an incident a false alarm often adds an allow rule next, and with it the incident is no more, or
    begins later under another id. Its id then still tells when its first alert came, and the stored alerts, quiet ones
    too, tell how far it went.
    """
    columns = INCIDENTS.c
    query = sa.select(columns.incident_key, columns.first_us, columns.last_us, columns.n_alerts)
    found = connection.execute(query.where(columns.incident_id == lead(connection, incident_id))).first()
    if found is not None:
        return Extent(*found)
    beginning = _first_alert(connection, incident_id)
    if beginning is None:
        return None
    key, first_us = beginning
    return Extent(key, first_us, _last_of_run(connection, key, first_us, round(gap_s * 1e6)), None)


def _first_alert(connection: sa.Connection, incident_id: str) -> tuple[str, int] | None:
    """Return key and time of the alert that an incident's id was made of."""
    try:
        first_ms = int(incident_id[:12], 16)
    except ValueError:
        return None
    columns = ALERTS.c
    near = columns.time_us.between(first_ms * 1000, first_ms * 1000 + 999)
    for key, when in connection.execute(sa.select(columns.incident_key, columns.time_us).where(near).distinct()):
        if incident_id_of(key, when) == incident_id:
            return key, when
    return None


def _last_of_run(connection: sa.Connection, key: str, first_us: int, gap_us: int) -> int:
    last = first_us
    for times in _times_after(connection, key, first_us):
        ordered = pl.Series([last, *times])
        wide = (ordered.diff() > gap_us).arg_true()
        if len(wide):
            return int(ordered[int(wide[0]) - 1])
        last = int(ordered[-1])
    return last


def _times_after(connection: sa.Connection, key: str, first_us: int) -> Iterator[list[int]]:
    columns = ALERTS.c
    after = first_us
    while True:
        mine = (columns.incident_key == key) & (columns.time_us > after)
        query = sa.select(columns.time_us).where(mine).distinct().order_by(columns.time_us).limit(_WALKED)
        times = list(connection.execute(query).scalars())
        if not times:
            return
        yield times
        after = times[-1]
