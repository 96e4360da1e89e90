"""Insert alerts, merge them into incidents, and count them and the flows that they came from by the minute."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import sqlalchemy as sa

from deepidea.store.grouping import DAY_S, INCIDENT_COLUMNS, group_alerts, with_keys
from deepidea.store.statements import add_up, gap_of, slices, upsert
from deepidea.store.tables import (
    ALERT_COUNTS,
    ALERTS,
    DRIFT_COUNTS,
    EVIDENCE,
    FEEDBACK,
    FLOW_COUNTS,
    INCIDENT_ALIASES,
    INCIDENT_STATES,
    INCIDENTS,
    META,
    TIMES,
)

MINUTE_US = 60_000_000
PACKED_TOGETHER = 128  # features of so many alerts: more is smaller, fewer is quicker to read

_ROWS = [column.name for column in ALERTS.columns]


def take_seqs(connection: sa.Connection, n: int) -> int:
    """Reserve n consecutive alert numbers and return the first."""
    value = connection.execute(sa.select(META.c.value).where(META.c.key == "next_seq")).scalar_one()
    if n:
        connection.execute(META.update().where(META.c.key == "next_seq").values(value=str(int(value) + n)))
    return int(value)


def insert_alerts(connection: sa.Connection, alerts: pl.DataFrame, source: str) -> pl.DataFrame:
    """Insert the alerts that are not stored yet, and return them with their incident keys."""
    alerts = with_keys(alerts.unique("alert_id", keep="first", maintain_order=True))
    if alerts.is_empty():
        return alerts
    first = take_seqs(connection, alerts.height)
    number = pl.int_range(pl.len(), dtype=pl.Int64) + first
    # seq is the delivery order; a suppressed alert has it negated, so no sink gets it until a rule's end releases it
    held = pl.col("suppressed_by").is_not_null()
    rows = alerts.with_columns(
        *(pl.col(name).dt.timestamp("us").alias(column) for name, column in TIMES.items()),
        seq=pl.when(held).then(-number).otherwise(number),
        source=pl.lit(source),
        evidence=number - (number - first) % PACKED_TOGETHER,
        evidence_row=(number - first) % PACKED_TOGETHER,
    )
    _write_rows(connection, rows.select(_ROWS))
    new = _only_new(connection, alerts, first)
    _pack_features(connection, rows, new)
    return new


def _pack_features(connection: sa.Connection, rows: pl.DataFrame, new: pl.DataFrame) -> None:
    """Write the features of new alerts, compressed in groups.

    A group without a new alert is left out. A group with some is written whole, as rows are addressed by their place.
    """
    if new.height < rows.height:
        is_new = pl.col("alert_id").is_in(new["alert_id"].implode())
        rows = rows.filter(is_new.any().over("evidence"))
    together = rows.group_by("evidence", maintain_order=True).agg(
        newest_us=pl.col("time_us").max(), text=pl.col("features").fill_null("{}").str.join("\n")
    )
    packed = [
        {"evidence": number, "newest_us": newest, "data": zlib.compress(text.encode(), 1)}
        for number, newest, text in together.iter_rows()
    ]
    if packed:
        connection.execute(EVIDENCE.insert(), packed)


def _write_rows(connection: sa.Connection, rows: pl.DataFrame) -> None:
    """Insert rows by the driver: SQLAlchemy's statement building would take longer than the insert."""
    if connection.dialect.name == "sqlite":
        places = ", ".join("?" * rows.width)
        connection.exec_driver_sql(
            f"INSERT INTO alerts ({', '.join(rows.columns)}) VALUES ({places}) ON CONFLICT DO NOTHING", rows.rows()
        )
        return
    _copy_rows(connection, rows)


def _copy_rows(connection: sa.Connection, rows: pl.DataFrame) -> None:
    names = ", ".join(rows.columns)
    connection.exec_driver_sql("CREATE TEMPORARY TABLE IF NOT EXISTS incoming (LIKE alerts) ON COMMIT DELETE ROWS")
    driver: Any = connection.connection.driver_connection
    rows = rows.with_columns(pl.col(pl.String).str.replace_all("\0", "\ufffd", literal=True))  # PostgreSQL knows no NUL
    with driver.cursor() as cursor, cursor.copy(f"COPY incoming ({names}) FROM STDIN (FORMAT csv)") as copy:
        copy.write(rows.write_csv(include_header=False, quote_style="non_numeric"))
    connection.exec_driver_sql(f"INSERT INTO alerts ({names}) SELECT {names} FROM incoming ON CONFLICT DO NOTHING")


def _only_new(connection: sa.Connection, alerts: pl.DataFrame, first: int) -> pl.DataFrame:
    new = (ALERTS.c.seq >= first) | (ALERTS.c.seq <= -first)
    if connection.execute(sa.select(sa.func.count()).select_from(ALERTS).where(new)).scalar_one() == alerts.height:
        return alerts
    ids = connection.execute(sa.select(ALERTS.c.alert_id).where(new)).scalars().all()
    return alerts.filter(pl.col("alert_id").is_in(pl.Series(ids, dtype=pl.String).implode()))


def add_to_incidents(connection: sa.Connection, alerts: pl.DataFrame) -> None:
    """Merge new alerts that no rule suppresses into incidents.

    Only stored incidents of the same keys within a gap of the alerts are read: no other can change. Merging deletes the
    incidents that were replaced and redirects their ids, so links and analysts' labels survive.
    """
    alerts = with_keys(alerts.filter(pl.col("suppressed_by").is_null()))
    if alerts.is_empty():
        return
    gap_s = gap_of(connection)
    known = _incidents_near(connection, alerts, gap_s)
    grouped = group_alerts(alerts, known, gap_s=gap_s)
    for ids in slices(grouped.replaced["old_id"].to_list()):
        connection.execute(INCIDENTS.delete().where(INCIDENTS.c.incident_id.in_(ids)))
    upsert(connection, INCIDENTS, grouped.incidents.rows(named=True))
    _redirect(connection, grouped.replaced.rows())


def _incidents_near(connection: sa.Connection, alerts: pl.DataFrame, gap_s: float) -> pl.DataFrame:
    wanted = [INCIDENTS.c[name] for name in INCIDENT_COLUMNS]
    rows: list[Any] = []
    for part in alerts.partition_by("is_daily"):
        near = _near(part["time"], DAY_S if part["is_daily"][0] else gap_s)
        for some in slices(part["incident_key"].unique().to_list()):
            query = sa.select(*wanted).where(INCIDENTS.c.incident_key.in_(some), near)
            rows += [tuple(row) for row in connection.execute(query)]
    return pl.DataFrame(rows, schema=pl.Schema(INCIDENT_COLUMNS), orient="row")


def _near(when: pl.Series, gap_s: float) -> sa.ColumnElement[bool]:
    times, gap_us = when.dt.timestamp("us"), round(gap_s * 1e6)
    early, late = int(times.min()) - gap_us, int(times.max()) + gap_us  # type: ignore[arg-type]
    return (INCIDENTS.c.last_us >= early) & (INCIDENTS.c.first_us <= late)


def _redirect(connection: sa.Connection, replaced: Sequence[tuple[str, str]]) -> None:
    """Redirect old ids, with their states and verdicts, to the incidents that hold their alerts now."""
    for old, new in replaced:
        # aliases point at present ids, never at other aliases: one lookup resolves any old id
        connection.execute(INCIDENT_ALIASES.update().where(INCIDENT_ALIASES.c.new_id == old).values(new_id=new))
        connection.execute(INCIDENT_ALIASES.delete().where(INCIDENT_ALIASES.c.old_id == new))
        states = INCIDENT_STATES
        both = connection.execute(sa.select(states).where(states.c.incident_id.in_([old, new]))).mappings().all()
        if both:
            latest = max(both, key=lambda state: state["changed_us"])
            upsert(connection, states, [{**latest, "incident_id": new}])
            connection.execute(states.delete().where(states.c.incident_id == old))
        verdicts = (FEEDBACK.c.subject == "incident") & (FEEDBACK.c.subject_id == old)
        connection.execute(FEEDBACK.update().where(verdicts).values(subject_id=new))
    upsert(connection, INCIDENT_ALIASES, [{"old_id": old, "new_id": new} for old, new in replaced])


def count_alerts(connection: sa.Connection, alerts: pl.DataFrame, sign: int = 1) -> None:
    """Add alerts that no rule suppresses to the counts of their minutes, or with a sign of -1 subtract them."""
    counted = alerts.filter(pl.col("suppressed_by").is_null())
    minute = pl.col("time").dt.truncate("1m").dt.timestamp("us").alias("minute_us")
    counts = counted.group_by(minute, "class", "severity").agg(n=pl.len().cast(pl.Int64) * sign)
    add_up(connection, ALERT_COUNTS, counts.sort("minute_us", "class", "severity").rows(named=True))


def count_flows(connection: sa.Connection, source: str, minutes: Mapping[int, int], alerts: pl.DataFrame) -> None:
    """Add a batch's flows and new alerts, suppressed ones included, to the counts of their minutes."""
    when = alerts.select(pl.col("time").dt.truncate("1m").dt.timestamp("us")).to_series()
    of_alerts = Counter(when.to_list())
    rows = [
        {"source": source, "minute_us": minute, "n_flows": minutes.get(minute, 0), "n_alerts": of_alerts[minute]}
        for minute in sorted(minutes.keys() | of_alerts.keys())
    ]
    add_up(connection, FLOW_COUNTS, rows)


def purge_counts(connection: sa.Connection, limit_us: int) -> None:
    """Delete counts of alerts and flows from before a time.

    The limit falls within a minute, of which some alerts remain: they are counted again.
    """
    counts, columns = ALERT_COUNTS, ALERTS.c
    minute = limit_us - limit_us % MINUTE_US
    connection.execute(counts.delete().where(counts.c.minute_us <= minute))
    left = columns.time_us.between(minute, minute + MINUTE_US - 1) & columns.suppressed_by.is_(None)
    kinds = (columns["class"], columns.severity)
    again = sa.select(sa.literal(minute), *kinds, sa.func.count()).where(left).group_by(*kinds)
    connection.execute(counts.insert().from_select(["minute_us", "class", "severity", "n"], again))
    connection.execute(FLOW_COUNTS.delete().where(FLOW_COUNTS.c.minute_us < minute))
    connection.execute(DRIFT_COUNTS.delete().where(DRIFT_COUNTS.c.hour_us + 60 * MINUTE_US <= limit_us))
