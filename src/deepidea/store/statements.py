"""Statements and values that all subjects of a store share: upserts, counters, times, page cursors."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from deepidea.errors import DataError
from deepidea.store.tables import INCIDENT_ALIASES

IN_ONE_GO = 4_000  # values in one IN (...)
MOST_NUMBER = 1 << 62  # of a cursor: databases take 64 bits

T = TypeVar("T")
Row = Mapping[str, Any] | sa.RowMapping
"""A row by the names of its columns."""
Condition = sa.ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list; ``next`` is the ``after`` of the following page, None on the last one."""

    items: tuple[T, ...]
    next: str | None = None


def page_of(found: Sequence[T], limit: int, key: Any) -> Page[T]:
    """Return a page of rows that were read with one more than the limit; ``key`` makes an item's cursor."""
    items = tuple(found[:limit])
    return Page(items, key(items[-1]) if len(found) > limit else None)


def upsert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; each replaces the one with its primary key."""
    if rows:
        made = _insert(connection, table)
        keys = [column.name for column in table.primary_key]
        changed = {name: made.excluded[name] for name in rows[0] if name not in keys}
        connection.execute(made.on_conflict_do_update(index_elements=keys, set_=changed), list(rows))


def add_up(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; counters (``n``, ``n_...``) are added to those of the same primary key, other columns replaced."""
    if rows:
        made = _insert(connection, table)
        keys = [column.name for column in table.primary_key]
        changed = {
            name: table.c[name] + made.excluded[name] if name == "n" or name.startswith("n_") else made.excluded[name]
            for name in rows[0]
            if name not in keys
        }
        connection.execute(made.on_conflict_do_update(index_elements=keys, set_=changed), list(rows))


def _insert(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def slices(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield values in slices that a database takes at once."""
    for start in range(0, len(values), IN_ONE_GO):
        yield values[start : start + IN_ONE_GO]


def gap_of(connection: sa.Connection) -> float:
    """Return the longest time between two alerts of an incident, in seconds, that the store was opened with."""
    gap_s: float = connection.get_execution_options()["incident_gap_s"]
    return gap_s


def us(when: datetime) -> int:
    """Return a time in microseconds since 1970."""
    return round(when.timestamp() * 1e6)


def time_of(stored_us: int) -> datetime:
    """Return the time of microseconds since 1970."""
    return datetime.fromtimestamp(stored_us / 1e6, UTC)


def between(column: sa.ColumnElement[int], since: datetime | None, until: datetime | None) -> list[Condition]:
    """Return conditions for a time in microseconds; ``until`` is exclusive, None sets no bound."""
    lower = [] if since is None else [column >= us(since)]
    return lower if until is None else [*lower, column < us(until)]


def step_of(column: sa.ColumnElement[int], step_s: int) -> sa.ColumnElement[int]:
    """Return the beginning of the step that holds a time, both in microseconds."""
    step: sa.ColumnElement[int] = sa.literal_column(str(step_s * 1_000_000))  # in the text: a GROUP BY repeats it
    return column - column % step


def plain_text(text: str) -> str:
    """Return a text without NUL, which PostgreSQL cannot hold."""
    return text.replace("\0", "\ufffd")


def current_id(incident_id: str) -> sa.ColumnElement[str]:
    """Return the present id of an incident as an expression."""
    query = sa.select(INCIDENT_ALIASES.c.new_id).where(INCIDENT_ALIASES.c.old_id == incident_id)
    return sa.func.coalesce(query.scalar_subquery(), incident_id)


def check_limit(limit: int) -> None:
    """Raise :class:`DataError` where a page has no rows."""
    if limit < 1:
        raise DataError(f"limit must be at least 1, got {limit}")


def encode_cursor(values: Sequence[Any]) -> str:
    """Return the sort key of a page's last row as one URL-safe word.

    Pages continue behind that key instead of skipping rows (OFFSET): a page costs the same however far back it is, and
    rows that arrive meanwhile neither repeat nor hide others.
    """
    return base64.urlsafe_b64encode(json.dumps(values, separators=(",", ":")).encode()).decode().rstrip("=")


def decode_cursor(after: str, kinds: Sequence[Any]) -> list[Any]:
    """Return the values of :func:`encode_cursor`; :class:`DataError` where they are not of these kinds."""
    try:
        values = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
    except (binascii.Error, ValueError):
        values = None
    if not isinstance(values, list) or len(values) != len(kinds) or not all(map(_is_kind, values, kinds)):
        raise DataError(f"after must be the next of a page in the same order, got {after[:200]!r}")
    return values


def _is_kind(value: Any, kind: Any) -> bool:
    if not isinstance(value, kind) or isinstance(value, bool):
        return False
    return not isinstance(value, int) or abs(value) < MOST_NUMBER


def decode_number(after: str | None) -> int | None:
    """Return the number in a page's ``next``; :class:`DataError` where it is none."""
    if after is None:
        return None
    if not (after.isascii() and after.isdecimal() and len(after) <= 18):
        raise DataError(f"after must be the next of a page, got {after[:200]!r}")
    return int(after)
