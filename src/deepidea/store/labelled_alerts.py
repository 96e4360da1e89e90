"""Alerts that analysts have labelled, page by page, each with its valid verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import sqlalchemy as sa

from deepidea.store.alerts import in_order_of_time, table, within
from deepidea.store.feedback import Feedback, all_newest, incidents_of
from deepidea.store.grouping import DAY_S, incident_id_of, is_daily
from deepidea.store.statements import Condition, current_id, gap_of, slices
from deepidea.store.store import Store
from deepidea.store.tables import ALERTS, FEEDBACK, INCIDENTS

PAGE_ROWS = 8_192
_WALKED = 20_000  # times of alerts read together
_FLOW = ("start_us", "src_ip", "src_port", "dst_ip", "dst_port", "protocol")  # and the time: those of one flow
_HASH_AT = 13  # position in an alert's id, after the time: samples of an incident are drawn by it


@dataclass(slots=True)
class LabelledCounts:
    """Result of a pass over labelled alerts.

    Attributes
    ----------
    n_flows : int
        Alerts yielded.
    labels, verdicts : Counter
        Yielded alerts by label, and by verdict.
    n_unsure : int
        Left out: verdict unsure.
    n_capped : int
        Left out: over the limit per incident.
    n_repeated : int
        Left out: findings whose flow raised another alert of their incident, which is yielded.
    n_purged, n_purged_incidents : int
        Labelled, then deleted by retention: alerts, and incidents with all their alerts.
    n_without_features : int
        Left out: without features.
    n_later : int
        Yielded, though their flow ended after their incident was labelled.
    """

    n_flows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    n_unsure: int = 0
    n_capped: int = 0
    n_repeated: int = 0
    n_purged: int = 0
    n_purged_incidents: int = 0
    n_without_features: int = 0
    n_later: int = 0


def labelled_pages(
    store: Store, *, per_incident: int | None = None, counts: LabelledCounts | None = None
) -> Iterator[pl.DataFrame]:
    """Yield alerts with a label, and count those that are left out.

    Yields
    ------
    DataFrame
        Columns of an alert table, ``source``, ``incident_id``, and of the verdict ``truth``, ``verdict``, ``analyst``,
        ``note``, ``labelled_at``.

    Notes
    -----
    Each page is read in its own transaction, so that writers never wait for the whole pass.
    """
    counts = LabelledCounts() if counts is None else counts
    with store.read() as connection:
        singly, by_incident = all_newest(connection, "alert"), all_newest(connection, "incident")
    for page in _labelled_singly(store, singly, counts):
        yield from _counted(page, counts)
    taken: dict[str, list[Extent]] = {}
    for feedback in by_incident:
        with store.read() as connection:
            extent = extent_of(connection, feedback.subject_id)
        if extent is None:
            counts.n_purged_incidents += 1
            continue
        wanted = extent.condition(taken.setdefault(extent.key, []))
        taken[extent.key].append(extent)
        for page in _of_incident(store, feedback, extent, wanted, per_incident, counts):
            yield from _counted(page, counts)


def _labelled_singly(store: Store, verdicts: list[Feedback], counts: LabelledCounts) -> Iterator[pl.DataFrame]:
    """Yield alerts that were labelled individually."""
    sure = {one.subject_id: one for one in verdicts if one.verdict != "unsure"}
    with store.read() as connection:
        unsure = [one.subject_id for one in verdicts if one.verdict == "unsure"]
        counts.n_unsure += sum(_count(connection, ALERTS.c.alert_id.in_(some)) for some in slices(unsure))
    ids = sorted(sure)
    for start in range(0, len(ids), PAGE_ROWS // 4):
        some = ids[start : start + PAGE_ROWS // 4]
        with store.read() as connection:
            page = table(connection, wanted=[ALERTS.c.alert_id.in_(some)], limit=len(some))
            parents = incidents_of(connection, some)
        counts.n_purged += len(some) - page.height
        incident = pl.col("alert_id").replace_strict(parents, default=None, return_dtype=pl.String)
        yield _with_verdicts(page.with_columns(incident_id=incident), [sure[one] for one in page["alert_id"]])


def _of_incident(
    store: Store,
    feedback: Feedback,
    extent: Extent,
    wanted: Condition,
    per_incident: int | None,
    counts: LabelledCounts,
) -> Iterator[pl.DataFrame]:
    """Yield the alerts of a labelled incident that were not labelled individually."""
    with store.read() as connection:
        if extent.n_counted is not None:
            whole = extent.condition(()) & ALERTS.c.suppressed_by.is_(None)
            counts.n_purged += max(extent.n_counted - _count(connection, whole), 0)
        alone = sa.select(FEEDBACK.c.subject_id).where(FEEDBACK.c.subject == "alert")
        wanted = wanted & ALERTS.c.alert_id.not_in(alone)
        if feedback.verdict == "unsure":
            counts.n_unsure += _count(connection, wanted)
            return
        repeated = _is_repeated()
        counts.n_repeated += _count(connection, wanted & repeated)
        wanted = wanted & ~repeated
        drawn = wanted if per_incident is None else _draw(connection, wanted, per_incident)
        if drawn is not wanted:
            counts.n_capped += _count(connection, wanted) - _count(connection, drawn)
    after: tuple[int, str] | None = None
    while True:
        with store.read() as connection:
            page, after = in_order_of_time(connection, drawn, limit=PAGE_ROWS, after=after)
        rows = page.with_columns(incident_id=pl.lit(feedback.subject_id))
        counts.n_later += rows.filter(pl.col("time") > feedback.time).height
        yield _with_verdicts(rows, [feedback] * rows.height)
        if after is None:
            return


def _is_repeated() -> Condition:
    """Return whether an alert is of a finding whose flow raised another alert of its incident, too."""
    mine, other = ALERTS.c, ALERTS.alias("other").c
    same = [mine[name].is_not_distinct_from(other[name]) for name in _FLOW]
    preferred = other.behaviour.is_(None) | (other.alert_id < mine.alert_id)
    others = sa.select(1).where(
        other.incident_key == mine.incident_key, other.time_us == mine.time_us, *same, preferred
    )
    return mine.behaviour.is_not(None) & sa.exists(others.where(other.alert_id != mine.alert_id).correlate(ALERTS))


def _draw(connection: sa.Connection, wanted: Condition, most: int) -> Condition:
    """Return a condition for the alerts whose ids have the smallest hashes: the same sample in every pass."""
    drawn_by = sa.func.substr(ALERTS.c.alert_id, _HASH_AT)
    first_left_out = sa.select(drawn_by).where(wanted).order_by(drawn_by).offset(most).limit(1)
    bound = connection.execute(first_left_out).scalar()
    return wanted if bound is None else wanted & (drawn_by < bound)


def _count(connection: sa.Connection, wanted: Condition) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(ALERTS).where(wanted)).scalar_one()


def _with_verdicts(alerts: pl.DataFrame, verdicts: list[Feedback]) -> pl.DataFrame:
    """Return alerts with their verdicts as columns."""
    truth = [one.label(predicted) for one, predicted in zip(verdicts, alerts["class"], strict=True)]
    columns: dict[str, Any] = {
        "truth": pl.Series(truth, dtype=pl.String),
        "verdict": pl.Series([one.verdict for one in verdicts], dtype=pl.String),
        "analyst": pl.Series([one.analyst for one in verdicts], dtype=pl.String),
        "note": pl.Series([one.note for one in verdicts], dtype=pl.String),
        "labelled_at": pl.Series([one.time for one in verdicts], dtype=pl.Datetime("us", "UTC")),
    }
    return alerts.with_columns(**columns)


def _counted(page: pl.DataFrame, counts: LabelledCounts) -> Iterator[pl.DataFrame]:
    """Yield the alerts of a page that have features, if any, and count them all."""
    kept = page.filter(pl.col("features").is_not_null())
    counts.n_without_features += page.height - kept.height
    counts.n_flows += kept.height
    counts.labels.update(dict(kept["truth"].value_counts().iter_rows()))
    counts.verdicts.update(dict(kept["verdict"].value_counts().iter_rows()))
    if kept.height:
        yield kept


# --- alerts of a labelled incident -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Extent:
    """Extent of an incident: the alerts of a key between two times, in microseconds.

    ``n_counted`` is its number of alerts, None where allow rules suppress them all.
    """

    key: str
    first_us: int
    last_us: int
    n_counted: int | None

    def condition(self, taken: Collection[Extent]) -> Condition:
        """Return a condition for its alerts, without those in earlier extents."""
        over = [one for one in taken if one.first_us <= self.last_us and one.last_us >= self.first_us]
        columns = ALERTS.c
        return sa.and_(
            *within(self.key, self.first_us, self.last_us),
            *(~columns.time_us.between(one.first_us, one.last_us) for one in over),
        )


def extent_of(connection: sa.Connection, incident_id: str) -> Extent | None:
    """Return the extent of a labelled incident, None where its first alert has been deleted."""
    # An analyst often adds an allow rule after a false positive: the incident then vanishes, or begins later under
    # another id. The old id still holds the time of its first alert, and the stored alerts, suppressed ones included,
    # show where the run ends.
    columns = INCIDENTS.c
    query = sa.select(columns.incident_key, columns.first_us, columns.last_us, columns.n_alerts)
    found = connection.execute(query.where(columns.incident_id == current_id(incident_id))).first()
    if found is not None:
        return Extent(*found)
    beginning = _first_alert(connection, incident_id)
    if beginning is None:
        return None
    key, first_us, daily = beginning
    gap_s = DAY_S if daily else gap_of(connection)
    return Extent(key, first_us, _last_of_run(connection, key, first_us, round(gap_s * 1e6)), None)


def _first_alert(connection: sa.Connection, incident_id: str) -> tuple[str, int, bool] | None:
    """Return key and time of the alert that an incident's id was made from, and whether the incident is of a day."""
    try:
        first_ms = int(incident_id[:12], 16)
    except ValueError:
        return None
    columns = ALERTS.c
    near = columns.time_us.between(first_ms * 1000, first_ms * 1000 + 999)
    wanted = sa.select(columns.incident_key, columns.time_us, columns.role, columns["class"])
    for key, when, role, class_name in connection.execute(wanted.where(near).distinct()):
        if incident_id_of(key, when) == incident_id:
            return key, when, is_daily(role, class_name)
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
