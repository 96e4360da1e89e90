"""What a store holds at a glance: counts over time, by severity and by host, from tables that are small whatever it is.

Series come from counts by the minute, which are written as batches come, never from alerts themselves.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import sqlalchemy as sa

from deepidea.errors import DataError
from deepidea.store.reading import Condition, us
from deepidea.store.tables import ALERT_COUNTS, ALERTS, FLOW_COUNTS, INCIDENT_STATES, INCIDENTS

TIME = pl.Datetime("us", "UTC")


def read_alert_series(
    connection: sa.Connection, since: datetime | None, until: datetime | None, step_s: int
) -> pl.DataFrame:
    """Return alerts that no rule keeps quiet: ``time`` (a step's beginning), ``class``, ``n``, in order of both."""
    columns, step = ALERT_COUNTS.c, _step(ALERT_COUNTS.c.minute_us, step_s)
    query = sa.select(step, columns["class"], sa.func.sum(columns.n)).where(*_within(columns.minute_us, since, until))
    rows = connection.execute(query.group_by(step, columns["class"])).all()
    table = _frame(rows, {"us": pl.Int64(), "class": pl.String(), "n": pl.Int64()})
    return _timed(table.filter(pl.col("n") > 0)).sort("time", "class")


def read_flow_series(
    connection: sa.Connection, since: datetime | None, until: datetime | None, step_s: int, source: str | None
) -> pl.DataFrame:
    """Return flows, and alerts that came of them, quiet or not: ``time``, ``n_flows``, ``n_alerts``, in order."""
    columns, step = FLOW_COUNTS.c, _step(FLOW_COUNTS.c.minute_us, step_s)
    sums = (sa.func.sum(columns.n_flows), sa.func.sum(columns.n_alerts))
    wanted = [*_within(columns.minute_us, since, until), *([columns.source == source] if source is not None else [])]
    rows = connection.execute(sa.select(step, *sums).where(*wanted).group_by(step)).all()
    return _timed(_frame(rows, dict.fromkeys(("us", "n_flows", "n_alerts"), pl.Int64()))).sort("time")


def read_severity_counts(connection: sa.Connection, wanted: list[Condition]) -> pl.DataFrame:
    """Return incidents by ``severity`` and ``status``: ``n_incidents``, ``n_alerts``, the most urgent first."""
    columns = INCIDENTS.c
    status = sa.func.coalesce(INCIDENT_STATES.c.status, "open")
    joined = INCIDENTS.outerjoin(INCIDENT_STATES, INCIDENT_STATES.c.incident_id == columns.incident_id)
    query = sa.select(columns.severity, status, sa.func.count(), sa.func.sum(columns.n_alerts)).select_from(joined)
    rows = connection.execute(query.where(*wanted).group_by(columns.severity, status)).all()
    types = {"severity": pl.Int16(), "status": pl.String(), "n_incidents": pl.Int64(), "n_alerts": pl.Int64()}
    return _frame(rows, types).sort("severity", "status")


def read_newest_time(connection: sa.Connection) -> datetime | None:
    """Return the time of the latest alert, or of the minute in which the latest flow fell; None where there is none."""
    latest = (sa.select(sa.func.max(ALERTS.c.time_us)), sa.select(sa.func.max(FLOW_COUNTS.c.minute_us)))
    known = [told for query in latest if (told := connection.execute(query).scalar()) is not None]
    return datetime.fromtimestamp(max(known) / 1e6, UTC) if known else None


def _within(column: sa.Column[Any], since: datetime | None, until: datetime | None) -> list[Condition]:
    given = ([column >= us(since)] if since is not None else [], [column < us(until)] if until is not None else [])
    return [*given[0], *given[1]]


def _step(column: sa.Column[Any], step_s: int) -> sa.ColumnElement[int]:
    if step_s < 60 or step_s % 60:
        raise DataError(f"step_s must be whole minutes, which is how counts are kept, however: step_s={step_s}")
    step: sa.ColumnElement[int] = sa.literal_column(str(step_s * 1_000_000))
    return column - column % step


def _frame(rows: Any, types: dict[str, pl.DataType]) -> pl.DataFrame:
    return pl.DataFrame([tuple(row) for row in rows], schema=pl.Schema(types), orient="row", infer_schema_length=None)


def _timed(table: pl.DataFrame, name: str = "time") -> pl.DataFrame:
    """Return a table with its microseconds as times, in the same place."""
    return table.with_columns(pl.from_epoch("us", time_unit="us").cast(TIME)).rename({"us": name})
