"""Tables of a store: the one definition of its schema, for SQLite and PostgreSQL.

Times are microseconds since 1970 (``_us``), in UTC. Values that no query filters by are JSON text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import polars as pl
import sqlalchemy as sa

from deepidea.store.alert_columns import ALERT_COLUMNS
from deepidea.store.grouping import BEST_FINDING, INCIDENT_COLUMNS

__all__ = ["VERSION", "metadata"]

metadata = sa.MetaData()
TIMES: Mapping[str, str] = MappingProxyType({"time": "time_us", "start": "start_us", "end": "end_us"})

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite's own row numbers are INTEGER
_TYPES: Mapping[type[pl.DataType], Any] = MappingProxyType(
    {
        pl.String: sa.Text,
        pl.Float64: sa.DOUBLE_PRECISION().with_variant(sa.REAL, "sqlite"),
        pl.Boolean: sa.Boolean,
        pl.Int16: sa.SmallInteger,
        pl.Int32: sa.Integer,
        pl.Int64: sa.BigInteger,
        pl.Datetime: sa.BigInteger,
    }
)


def _columns(columns: Mapping[str, pl.DataType], required: Collection[str]) -> list[sa.Column[object]]:
    """Return the columns of a table for those of a frame."""
    return [
        sa.Column(TIMES.get(name, name), _TYPES[type(dtype)], nullable=name not in required)
        for name, dtype in columns.items()
    ]


def _text(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def _time(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _number(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0")) for name in names]


def _serial(name: str) -> sa.Column[int]:
    return sa.Column(name, _KEY, sa.Identity(), primary_key=True)


VERSION = sa.Table("schema_version", sa.MetaData(), sa.Column("version_num", sa.String(32), nullable=False))
"""Revision of the schema, in Alembic's form."""

META = sa.Table(
    "meta", metadata, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
"""``next_seq`` of alerts; ``rules_version``, which increases when allow rules change."""

ALERTS = sa.Table(
    "alerts",
    metadata,
    sa.Column("seq", _KEY, primary_key=True, autoincrement=False),
    *_columns(
        {name: dtype for name, dtype in ALERT_COLUMNS.items() if name != "features"},
        required=("alert_id", "time", "class", "severity"),
    ),
    sa.Column("evidence", sa.BigInteger),
    sa.Column("evidence_row", sa.SmallInteger),
    *_text("incident_key", "source"),
    sa.UniqueConstraint("alert_id"),
    sa.Index("alerts_by_time", "time_us"),
    sa.Index("alerts_by_incident", "incident_key", "time_us"),
    sa.Index("alerts_owed", "suppressed_by", "seq"),
    sa.Index("alerts_by_src", "src_ip", "incident_key", "time_us"),
    sa.Index("alerts_by_dst", "dst_ip", "incident_key", "time_us"),
    sa.Index("alerts_by_port", "dst_port", "incident_key", "time_us"),
)
"""``seq`` is the order of delivery to sinks; negative while an allow rule holds back an alert that was not delivered.
Its features are row ``evidence_row`` of ``evidence``."""

EVIDENCE = sa.Table(
    "evidence",
    metadata,
    sa.Column("evidence", _KEY, primary_key=True, autoincrement=False),
    *_time("newest_us"),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
"""Features of a group of alerts, one JSON object a line, compressed with zlib: together, as names repeat."""

INCIDENTS = sa.Table(
    "incidents",
    metadata,
    *_columns(INCIDENT_COLUMNS, required=INCIDENT_COLUMNS.keys() - {"score", *BEST_FINDING}),
    sa.PrimaryKeyConstraint("incident_id"),
    sa.Index("incidents_by_key", "incident_key", "last_us"),
    sa.Index("incidents_by_time", "last_us"),
    sa.Index("incidents_by_host", "host", "last_us"),
)
INCIDENT_STATES = sa.Table(
    "incident_states",
    metadata,
    sa.Column("incident_id", sa.Text, primary_key=True),
    *_text("status", "note"),
    *_time("changed_us"),
)
INCIDENT_ALIASES = sa.Table(
    "incident_aliases",
    metadata,
    sa.Column("old_id", sa.Text, primary_key=True),
    *_text("new_id"),
)
ALLOW_RULES = sa.Table(
    "allow_rules",
    metadata,
    sa.Column("rule_id", sa.Text, primary_key=True),
    *(sa.Column(name, sa.Text) for name in ("src", "dst", "host", "peer", "port", "class")),
    sa.Column("expires_us", sa.BigInteger),
    *_text("note", "origin"),
    sa.Column("in_force", sa.Boolean, nullable=False),
)
"""``in_force`` until the rule has expired and its alerts have been released."""

SOURCES = sa.Table(
    "sources",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("position", sa.Text),
    *_number("n_flows", "n_alerts", "n_duplicates", "n_suppressed", "updated_us"),
)
SOURCE_MEMORY = sa.Table(
    "source_memory",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("part", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
"""State that is saved with a source's position: see :mod:`deepidea.store.memory`."""

LOSSES = sa.Table(
    "losses",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("reason", sa.Text, primary_key=True),
    *_number("n"),
)
"""Records ``skipped`` and flows or packets ``dropped``, by reason."""

DELIVERIES = sa.Table(
    "deliveries",
    metadata,
    sa.Column("sink", sa.Text, primary_key=True),
    *_number("last_seq", "n_delivered", "n_dead", "n_lost"),
)
"""How far each sink has got; ``n_lost`` are alerts that retention deleted before delivery."""

ALERT_COUNTS = sa.Table(
    "alert_counts",
    metadata,
    sa.Column("minute_us", sa.BigInteger, primary_key=True),
    sa.Column("class", sa.Text, primary_key=True),
    sa.Column("severity", sa.SmallInteger, primary_key=True),
    *_number("n"),
)
"""Alerts that no allow rule suppresses, by minute: plots read these few rows instead of the alerts."""

FLOW_COUNTS = sa.Table(
    "flow_counts",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("minute_us", sa.BigInteger, primary_key=True),
    *_number("n_flows", "n_alerts"),
)
"""Flows and alerts, suppressed ones included, of each source by minute."""

ENGINES = sa.Table(
    "engines",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    *_time("updated_us"),
    *_text("state"),
)
"""Last heartbeat of the engine of each source, as JSON: rate, delay, queue, detector, status."""

DRIFT_COUNTS = sa.Table(
    "drift_counts",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("hour_us", sa.BigInteger, primary_key=True),
    sa.Column("n_flows", sa.BigInteger, nullable=False),
    sa.Column("counts", sa.LargeBinary, nullable=False),
)
"""Histogram of an hour's flows over the bins of the detector's reference, compressed with zlib."""

FEEDBACK = sa.Table(
    "feedback",
    metadata,
    _serial("feedback_id"),
    *_text("subject", "subject_id", "verdict"),
    sa.Column("class", sa.Text),
    *_text("note", "analyst"),
    *_time("time_us"),
    sa.Index("feedback_by_subject", "subject", "subject_id"),
)
"""Verdicts of analysts on an ``alert`` or an ``incident``; the latest of a subject is valid, earlier ones are kept."""

MODELS = sa.Table(
    "models",
    metadata,
    sa.Column("model_id", sa.Text, primary_key=True),
    *_text("model", "name"),
    sa.Column("file", sa.LargeBinary, nullable=False),
    *_time("added_us"),
    *_text("added_by"),
    sa.Column("comparison", sa.Text),
)
"""Detector files: ``model_id`` is the beginning of the file's SHA-256, ``model`` the fingerprint in alerts."""

ACTIVATIONS = sa.Table(
    "activations",
    metadata,
    _serial("activation_id"),
    *_text("model_id", "analyst", "note"),
    *_time("time_us"),
)
"""Which model was activated, when and by whom; the latest one is active."""

TOKENS = sa.Table(
    "tokens",
    metadata,
    sa.Column("token_id", sa.Text, primary_key=True),
    *_text("name", "role", "hash"),
    *_time("created_us"),
    *(sa.Column(name, sa.BigInteger) for name in ("expires_us", "revoked_us", "used_us")),
    sa.UniqueConstraint("hash"),
)
SESSIONS = sa.Table(
    "sessions",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True),
    *_text("token_id", "csrf"),
    *_time("created_us", "expires_us"),
)
AUDIT = sa.Table(
    "audit",
    metadata,
    _serial("audit_id"),
    *_time("time_us"),
    *_text("actor", "action", "subject", "detail", "address"),
)
"""Who changed what through page, API or command line; refused logins, too."""
