"""Tables of a store, and the numbered migrations that make them: one schema for SQLite and PostgreSQL.

Times are microseconds since 1970 (``_us``), in UTC. What only people and programs outside look into is JSON text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import polars as pl
import sqlalchemy as sa

from deepidea.errors import StoreError
from deepidea.store.alert_columns import ALERT_COLUMNS
from deepidea.store.grouping import INCIDENT_COLUMNS

__all__ = ["MIGRATIONS", "metadata", "migrate", "version_of"]

metadata = sa.MetaData()
TIMES: Mapping[str, str] = MappingProxyType({"time": "time_us", "start": "start_us", "end": "end_us"})

_TYPES: Mapping[type[pl.DataType], Callable[[], Any]] = MappingProxyType(
    {
        pl.String: sa.Text,
        pl.Float64: sa.Double,
        pl.Boolean: sa.Boolean,
        pl.Int16: sa.SmallInteger,
        pl.Int32: sa.Integer,
        pl.Int64: sa.BigInteger,
        pl.Datetime: sa.BigInteger,
    }
)


def _columns(columns: Mapping[str, pl.DataType], key: str) -> list[sa.Column[object]]:
    """Return the columns of a table for those of a frame."""
    return [
        sa.Column(TIMES.get(name, name), _TYPES[type(dtype)](), primary_key=name == key)
        for name, dtype in columns.items()
    ]


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


META = sa.Table(
    "meta", metadata, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
"""``version`` of the schema, ``next_seq`` of alerts, ``rules_version``, which goes up when allow rules change."""

ALERTS = sa.Table(
    "alerts",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    *_columns({name: dtype for name, dtype in ALERT_COLUMNS.items() if name != "features"}, ""),
    sa.Column("evidence", sa.BigInteger),
    sa.Column("evidence_row", sa.SmallInteger),
    sa.Column("incident_key", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
)
"""``seq`` is the order in which alerts are told to sinks; negative while an allow rule holds one back untold.
Its features are row ``evidence_row`` of ``evidence``."""

EVIDENCE = sa.Table(
    "evidence",
    metadata,
    sa.Column("evidence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("newest_us", sa.BigInteger, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
"""Features of alerts that came together, a JSON object a line, packed with zlib: names repeat."""

INCIDENTS = sa.Table("incidents", metadata, *_columns(INCIDENT_COLUMNS, "incident_id"))
INCIDENT_STATES = sa.Table(
    "incident_states",
    metadata,
    sa.Column("incident_id", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("changed_us", sa.BigInteger, nullable=False),
)
INCIDENT_ALIASES = sa.Table(
    "incident_aliases",
    metadata,
    sa.Column("old_id", sa.Text, primary_key=True),
    sa.Column("new_id", sa.Text, nullable=False),
)
ALLOW_RULES = sa.Table(
    "allow_rules",
    metadata,
    sa.Column("rule_id", sa.Text, primary_key=True),
    *(sa.Column(name, sa.Text) for name in ("src", "dst", "host", "peer", "port", "class")),
    sa.Column("expires_us", sa.BigInteger),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("in_force", sa.Boolean, nullable=False),
)
"""``in_force`` until the rule has ended and what it kept quiet has been released."""

SOURCES = sa.Table(
    "sources",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("position", sa.Text),
    *(_number(name) for name in ("n_flows", "n_alerts", "n_duplicates", "n_suppressed", "updated_us")),
)
SOURCE_MEMORY = sa.Table(
    "source_memory",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("part", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
"""What a source and everything behind it must remember beside its position: see :mod:`deepidea.store.memory`."""

LOSSES = sa.Table(
    "losses",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("reason", sa.Text, primary_key=True),
    _number("n"),
)
"""Records ``skipped`` and flows or packets ``dropped``, by reason."""

DELIVERIES = sa.Table(
    "deliveries",
    metadata,
    sa.Column("sink", sa.Text, primary_key=True),
    *(_number(name) for name in ("last_seq", "n_delivered", "n_dead", "n_lost")),
)
"""How far each sink has got; ``n_lost`` are alerts that retention took before they were told."""

ALERT_COUNTS = sa.Table(
    "alert_counts",
    metadata,
    sa.Column("minute_us", sa.BigInteger, primary_key=True),
    sa.Column("class", sa.Text, primary_key=True),
    sa.Column("severity", sa.SmallInteger, primary_key=True),
    _number("n"),
)
"""Alerts that no allow rule keeps quiet, by the minute in which they fall: what a plot of a million of them takes."""

FLOW_COUNTS = sa.Table(
    "flow_counts",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("minute_us", sa.BigInteger, primary_key=True),
    *(_number(name) for name in ("n_flows", "n_alerts")),
)
"""Flows and alerts, quiet ones among them, of each source by the minute in which they fall."""

ENGINES = sa.Table(
    "engines",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("updated_us", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
)
"""How the engine of each source stood when it last told, as JSON: rate, delay, queue, detector, ended or not."""

DRIFT_COUNTS = sa.Table(
    "drift_counts",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("hour_us", sa.BigInteger, primary_key=True),
    sa.Column("n_flows", sa.BigInteger, nullable=False),
    sa.Column("counts", sa.LargeBinary, nullable=False),
)
"""How flows of an hour fall into the bins of their detector's reference, packed with zlib."""

FEEDBACK = sa.Table(
    "feedback",
    metadata,
    sa.Column("feedback_id", sa.BigInteger, primary_key=True),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("subject", "subject_id", "verdict")),
    sa.Column("class", sa.Text),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("note", "analyst")),
    sa.Column("time_us", sa.BigInteger, nullable=False),
)
"""What analysts judged of an ``alert`` or an ``incident``; the latest verdict of a subject holds, earlier ones stay."""

MODELS = sa.Table(
    "models",
    metadata,
    sa.Column("model_id", sa.Text, primary_key=True),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("model", "name")),
    sa.Column("file", sa.LargeBinary, nullable=False),
    sa.Column("added_us", sa.BigInteger, nullable=False),
    sa.Column("added_by", sa.Text, nullable=False),
    sa.Column("comparison", sa.Text),
)
"""Detector files: ``model_id`` is the beginning of the file's SHA-256, ``model`` what alerts name it by."""

ACTIVATIONS = sa.Table(
    "activations",
    metadata,
    sa.Column("activation_id", sa.BigInteger, primary_key=True),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("model_id", "analyst", "note")),
    sa.Column("time_us", sa.BigInteger, nullable=False),
)
"""Which model was made the active one, when and by whom; the latest one is active."""

TOKENS = sa.Table(
    "tokens",
    metadata,
    sa.Column("token_id", sa.Text, primary_key=True),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("name", "role", "hash")),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.BigInteger) for name in ("expires_us", "revoked_us", "used_us")),
)
SESSIONS = sa.Table(
    "sessions",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("token_id", "csrf")),
    *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("created_us", "expires_us")),
)
AUDIT = sa.Table(
    "audit",
    metadata,
    sa.Column("audit_id", sa.BigInteger, primary_key=True),
    sa.Column("time_us", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("actor", "action", "subject", "detail", "address")),
)
"""Who changed what through the page or its API, refused logins among it."""

_FIRST = """
CREATE TABLE alerts (
  seq {key} PRIMARY KEY, alert_id TEXT NOT NULL UNIQUE, time_us BIGINT NOT NULL, start_us BIGINT, end_us BIGINT,
  src_ip TEXT, src_port INTEGER, dst_ip TEXT, dst_port INTEGER, protocol TEXT, community_id TEXT,
  class TEXT NOT NULL, label TEXT, score DOUBLE PRECISION, anomaly DOUBLE PRECISION, unknown BOOLEAN,
  severity SMALLINT NOT NULL, fwd_packets BIGINT, bwd_packets BIGINT, fwd_bytes BIGINT, bwd_bytes BIGINT,
  probabilities TEXT, model TEXT, suppressed_by TEXT, evidence BIGINT, evidence_row SMALLINT,
  incident_key TEXT NOT NULL, source TEXT NOT NULL
);
CREATE TABLE evidence (evidence {key} PRIMARY KEY, newest_us BIGINT NOT NULL, data {bytes} NOT NULL);
CREATE INDEX alerts_by_time ON alerts (time_us);
CREATE INDEX alerts_by_incident ON alerts (incident_key, time_us);
CREATE INDEX alerts_owed ON alerts (suppressed_by, seq);
CREATE TABLE incidents (
  incident_id TEXT PRIMARY KEY, incident_key TEXT NOT NULL, role TEXT NOT NULL, host TEXT NOT NULL, class TEXT NOT NULL,
  first_us BIGINT NOT NULL, last_us BIGINT NOT NULL, n_alerts BIGINT NOT NULL, severity SMALLINT NOT NULL,
  score DOUBLE PRECISION, n_ports BIGINT NOT NULL, n_hosts BIGINT NOT NULL, ports TEXT NOT NULL, hosts TEXT NOT NULL
);
CREATE INDEX incidents_by_key ON incidents (incident_key, last_us);
CREATE INDEX incidents_by_time ON incidents (last_us);
CREATE TABLE incident_states (
  incident_id TEXT PRIMARY KEY, status TEXT NOT NULL, note TEXT NOT NULL, changed_us BIGINT NOT NULL
);
CREATE TABLE incident_aliases (old_id TEXT PRIMARY KEY, new_id TEXT NOT NULL);
CREATE TABLE allow_rules (
  rule_id TEXT PRIMARY KEY, src TEXT, dst TEXT, host TEXT, peer TEXT, port TEXT, class TEXT, expires_us BIGINT,
  note TEXT NOT NULL, origin TEXT NOT NULL, in_force BOOLEAN NOT NULL
);
CREATE TABLE sources (
  name TEXT PRIMARY KEY, position TEXT, n_flows BIGINT NOT NULL DEFAULT 0, n_alerts BIGINT NOT NULL DEFAULT 0,
  n_duplicates BIGINT NOT NULL DEFAULT 0, n_suppressed BIGINT NOT NULL DEFAULT 0, updated_us BIGINT NOT NULL DEFAULT 0
);
CREATE TABLE losses (
  source TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL, n BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (source, kind, reason)
);
CREATE TABLE deliveries (
  sink TEXT PRIMARY KEY, last_seq BIGINT NOT NULL DEFAULT 0, n_delivered BIGINT NOT NULL DEFAULT 0,
  n_dead BIGINT NOT NULL DEFAULT 0, n_lost BIGINT NOT NULL DEFAULT 0
);
INSERT INTO meta (key, value) VALUES ('next_seq', '1'), ('rules_version', '1')
"""

_SECOND = """
CREATE TABLE alert_counts (
  minute_us BIGINT NOT NULL, class TEXT NOT NULL, severity SMALLINT NOT NULL, n BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (minute_us, class, severity)
);
INSERT INTO alert_counts (minute_us, class, severity, n)
  SELECT time_us / 60000000 * 60000000, class, severity, COUNT(*) FROM alerts WHERE suppressed_by IS NULL
  GROUP BY time_us / 60000000 * 60000000, class, severity;
CREATE TABLE flow_counts (
  source TEXT NOT NULL, minute_us BIGINT NOT NULL, n_flows BIGINT NOT NULL DEFAULT 0,
  n_alerts BIGINT NOT NULL DEFAULT 0, PRIMARY KEY (source, minute_us)
);
CREATE TABLE engines (source TEXT PRIMARY KEY, updated_us BIGINT NOT NULL, state TEXT NOT NULL);
CREATE TABLE drift_counts (
  source TEXT NOT NULL, model TEXT NOT NULL, hour_us BIGINT NOT NULL, n_flows BIGINT NOT NULL, counts {bytes} NOT NULL,
  PRIMARY KEY (source, model, hour_us)
);
CREATE TABLE feedback (
  feedback_id {serial} PRIMARY KEY, subject TEXT NOT NULL, subject_id TEXT NOT NULL, verdict TEXT NOT NULL, class TEXT,
  note TEXT NOT NULL, analyst TEXT NOT NULL, time_us BIGINT NOT NULL
);
CREATE INDEX feedback_by_subject ON feedback (subject, subject_id);
CREATE TABLE models (
  model_id TEXT PRIMARY KEY, model TEXT NOT NULL, name TEXT NOT NULL, file {bytes} NOT NULL, added_us BIGINT NOT NULL,
  added_by TEXT NOT NULL, comparison TEXT
);
CREATE TABLE activations (
  activation_id {serial} PRIMARY KEY, model_id TEXT NOT NULL, analyst TEXT NOT NULL, note TEXT NOT NULL,
  time_us BIGINT NOT NULL
);
CREATE TABLE tokens (
  token_id TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, hash TEXT NOT NULL UNIQUE,
  created_us BIGINT NOT NULL, expires_us BIGINT, revoked_us BIGINT, used_us BIGINT
);
CREATE TABLE sessions (
  hash TEXT PRIMARY KEY, token_id TEXT NOT NULL, csrf TEXT NOT NULL, created_us BIGINT NOT NULL,
  expires_us BIGINT NOT NULL
);
CREATE TABLE audit (
  audit_id {serial} PRIMARY KEY, time_us BIGINT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
  subject TEXT NOT NULL, detail TEXT NOT NULL, address TEXT NOT NULL
);
CREATE INDEX incidents_by_host ON incidents (host, last_us);
CREATE INDEX alerts_by_src ON alerts (src_ip, incident_key, time_us);
CREATE INDEX alerts_by_dst ON alerts (dst_ip, incident_key, time_us);
CREATE INDEX alerts_by_port ON alerts (dst_port, incident_key, time_us)
"""

_THIRD = """
CREATE TABLE source_memory (
  source TEXT NOT NULL, part TEXT NOT NULL, seq BIGINT NOT NULL, data {bytes} NOT NULL, PRIMARY KEY (source, part, seq)
)
"""

MIGRATIONS: list[str] = [_FIRST, _SECOND, _THIRD]
"""What makes version n out of version n - 1, in order. Never change one that has been published; add another."""


def version_of(connection: sa.Connection) -> int:
    """Return the version of the store that a connection is to, 0 where there is none yet.

    Raises
    ------
    StoreError
        The database holds tables of something else.
    """
    names = sa.inspect(connection).get_table_names()
    if META.name not in names:
        if ALERTS.name in names or INCIDENTS.name in names:
            raise StoreError(
                "a database must be empty or a store, however: it holds a table of another program named as ours; "
                "choose another database"
            )
        return 0
    value = connection.execute(sa.select(META.c.value).where(META.c.key == "version")).scalar()
    if value is None or not value.isdecimal():
        raise StoreError(f"a store must tell its version, however: it says {value!r}; choose another database")
    return int(value)


def migrate(connection: sa.Connection) -> None:
    """Bring a store to the newest version, in the caller's transaction, which must keep other writers out.

    Raises
    ------
    StoreError
        A newer release wrote the store, or it is none.
    """
    version = version_of(connection)
    if version > len(MIGRATIONS):
        raise StoreError(
            f"a store must be of version {len(MIGRATIONS)} or older, however: it is of version {version}; "
            "a newer release wrote it: use that one"
        )
    if version == 0:
        connection.exec_driver_sql("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        connection.execute(META.insert().values(key="version", value="0"))
    for text in MIGRATIONS[version:]:
        _run(connection, text)
    if version < len(MIGRATIONS):
        connection.execute(META.update().where(META.c.key == "version").values(value=str(len(MIGRATIONS))))


def _run(connection: sa.Connection, text: str) -> None:
    sqlite = {"key": "INTEGER", "serial": "INTEGER", "bytes": "BLOB"}  # SQLite's own row numbers are INTEGER ones
    server = {"key": "BIGINT", "serial": "BIGINT GENERATED BY DEFAULT AS IDENTITY", "bytes": "BYTEA"}
    types = sqlite if connection.dialect.name == "sqlite" else server
    for statement in text.format(**types).split(";"):
        if statement.strip():
            connection.exec_driver_sql(statement)
