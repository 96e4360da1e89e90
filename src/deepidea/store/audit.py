"""Audit log: who changed what, in the transaction of the change."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from deepidea.store.statements import Page, Row, check_limit, decode_number, page_of, plain_text, time_of
from deepidea.store.tables import AUDIT

MOST_NAME = 100
MOST_DETAIL = 4_000

Action = Literal[
    "access.refused",
    "incident.note",
    "incident.status",
    "login",
    "login.refused",
    "logout",
    "model.activate",
    "model.add",
    "model.compare",
    "model.remove",
    "model.rollback",
    "rule.add",
    "rule.remove",
    "store.purge",
    "token.add",
    "token.refused",
    "token.revoke",
    "verdict.add",
    "verdict.export",
]
"""Actions of the log, the same for the page, the API and the command line."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the audit log: when, who, did what, to what, how, and from which address."""

    audit_id: int
    time: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    address: str


def write(
    connection: sa.Connection,
    actor: str,
    action: Action,
    subject: str = "",
    *,
    detail: Mapping[str, Any] | None = None,
    address: str = "",
) -> None:
    """Write an entry."""
    text = json.dumps(dict(detail or {}), default=str)
    row = {
        "time_us": time.time_ns() // 1000,
        "actor": actor[:MOST_NAME],
        "action": action,
        "subject": plain_text(subject[:MOST_DETAIL]),
        "detail": text if len(text) <= MOST_DETAIL else json.dumps({"too_long": len(text)}),
        "address": address,
    }
    connection.execute(AUDIT.insert().values(row))


def find(
    connection: sa.Connection, *, subject: str | None = None, limit: int = 100, after: str | None = None
) -> Page[AuditEntry]:
    """Return a page of entries, the newest first."""
    check_limit(limit)
    last = decode_number(after)
    wanted = [AUDIT.c.subject == subject] if subject is not None else []
    wanted += [AUDIT.c.audit_id < last] if last is not None else []
    query = sa.select(AUDIT).where(*wanted).order_by(AUDIT.c.audit_id.desc()).limit(limit + 1)
    entries = [entry_of(row) for row in connection.execute(query).mappings()]
    return page_of(entries, limit, lambda entry: str(entry.audit_id))


def entry_of(row: Row) -> AuditEntry:
    """Return a row as a record."""
    plain = {name: row[name] for name in ("audit_id", "actor", "action", "subject", "address")}
    return AuditEntry(**plain, time=time_of(row["time_us"]), detail=json.loads(row["detail"]))
