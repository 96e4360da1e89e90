"""Allow rules of a store: add and remove them, and apply them to the stored alerts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

import polars as pl
import sqlalchemy as sa

from deepidea.store.alert_columns import FINDING_COLUMNS
from deepidea.store.alerts import of_incident, table_of
from deepidea.store.allow_rules import AllowRule, suppress
from deepidea.store.ingest import add_to_incidents, count_alerts, take_seqs
from deepidea.store.statements import Condition, slices, time_of, upsert, us
from deepidea.store.tables import ALERTS, ALLOW_RULES, DELIVERIES, INCIDENTS, META

PAGE_ROWS = 50_000  # alerts matched together

_MATCHED = (
    "seq", "alert_id", "time_us", "src_ip", "dst_ip", "dst_port", "class", "severity", "suppressed_by", "incident_key",
)  # fmt: skip
_GROUPED = (
    "seq", "alert_id", "time_us", "src_ip", "dst_ip", "dst_port", "class", "severity", "score", "suppressed_by",
    *FINDING_COLUMNS,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """An allow rule for display: criteria in words, whether it is active, and the number of alerts it suppresses."""

    rule_id: str
    description: str
    src: str | None
    dst: str | None
    host: str | None
    peer: str | None
    port: str | None
    class_name: str | None
    expires: datetime | None
    note: str
    origin: str
    active: bool
    n_alerts: int


def find(connection: sa.Connection) -> list[Rule]:
    """Return the allow rules, expired ones too, with the number of alerts that each suppresses."""
    query = sa.select(ALERTS.c.suppressed_by, sa.func.count()).where(ALERTS.c.suppressed_by.is_not(None))
    counts: dict[str, int] = {rule: n for rule, n in connection.execute(query.group_by(ALERTS.c.suppressed_by))}  # noqa: C416
    now = datetime.now(UTC)
    given = ("description", "active", "n_alerts")
    return [
        Rule(
            **{name: getattr(rule, name) for name in Rule.__slots__ if name not in given},
            description=str(rule),
            active=rule.is_active(now),
            n_alerts=counts.get(rule.rule_id, 0),
        )
        for rule in all_rules(connection)
    ]


def all_rules(connection: sa.Connection, *wanted: Condition) -> list[AllowRule]:
    """Return the stored allow rules, expired ones too."""
    rows = connection.execute(sa.select(ALLOW_RULES).where(*wanted).order_by(ALLOW_RULES.c.rule_id)).mappings()
    return [_rule_of(dict(row)) for row in rows]


def _rule_of(row: dict[str, Any]) -> AllowRule:
    expires = row.pop("expires_us")
    del row["rule_id"], row["in_force"]
    return AllowRule(class_name=row.pop("class"), expires=None if expires is None else time_of(expires), **row)


_current: WeakKeyDictionary[sa.Engine, tuple[int, list[AllowRule]]] = WeakKeyDictionary()
"""Cache of the rules in force and their version, by store: a batch reads rules only after a change."""


def current(connection: sa.Connection, now: datetime) -> list[AllowRule]:
    """Return the rules in force; if one has expired since the last batch, release its alerts first."""
    version, known = rules_version(connection), _current.get(connection.engine)
    rules = known[1] if known and known[0] == version else all_rules(connection, ALLOW_RULES.c.in_force)
    if any(not rule.is_active(now) for rule in rules):
        apply(connection, now=now)
        # the new version may be rolled back with this transaction: 0 makes the next batch read the rules again
        version, rules = 0, [rule for rule in rules if rule.is_active(now)]
    _current[connection.engine] = (version, rules)
    return rules


def add(connection: sa.Connection, rule: AllowRule) -> int:
    """Add an allow rule and apply it to the stored alerts; return how many alerts changed."""
    _put(connection, [rule])
    return apply(connection)


def remove(connection: sa.Connection, rule_id: str) -> int:
    """Remove an allow rule and release the alerts that it suppressed; return how many alerts changed."""
    connection.execute(ALLOW_RULES.delete().where(ALLOW_RULES.c.rule_id == rule_id))
    return apply(connection)


def sync(connection: sa.Connection, rules: Iterable[AllowRule], *, origin: str) -> int:
    """Replace the rules of one origin, a file; return how many alerts changed.

    Rules of other origins stay. If the rules are the same, no alert is read.
    """
    given = {rule.rule_id: rule for rule in rules}
    known = {rule.rule_id: rule for rule in all_rules(connection)}
    gone = [rule_id for rule_id, rule in known.items() if rule.origin == origin and rule_id not in given]
    if not gone and all(known.get(rule_id) == rule for rule_id, rule in given.items()):
        return 0
    connection.execute(ALLOW_RULES.delete().where(ALLOW_RULES.c.rule_id.in_(gone)))
    _put(connection, given.values())
    return apply(connection)


def _put(connection: sa.Connection, rules: Iterable[AllowRule]) -> None:
    """Write rules; each replaces the one with its criteria."""
    rows = [
        {
            "rule_id": rule.rule_id,
            **rule.criteria,
            "expires_us": None if rule.expires is None else us(rule.expires),
            "note": rule.note,
            "origin": rule.origin,
            "in_force": True,
        }
        for rule in rules
    ]
    upsert(connection, ALLOW_RULES, rows)


def rules_version(connection: sa.Connection) -> int:
    """Return a number that increases whenever rules change."""
    return int(connection.execute(sa.select(META.c.value).where(META.c.key == "rules_version")).scalar_one())


def count_matches(connection: sa.Connection, rule: AllowRule, *, incident: str | None = None) -> tuple[int, int]:
    """Return how many alerts a rule would suppress, and how many of them belong to an incident."""
    wanted, own = _may_apply(rule), of_incident(connection, incident)
    names = ("alert_id", "src_ip", "dst_ip", "dst_port", "class")
    n_alerts, n_own = 0, 0
    for page in _pages(connection, names, *wanted):
        matched = suppress(page, [replace(rule, expires=None)], now=datetime.now(UTC))
        ids = matched.filter(pl.col("suppressed_by").is_not_null())["alert_id"].to_list()
        n_alerts += len(ids)
        for some in slices(ids if incident is not None else []):
            query = sa.select(sa.func.count()).select_from(ALERTS).where(ALERTS.c.alert_id.in_(some), *own)
            n_own += connection.execute(query).scalar_one()
    return n_alerts, n_own


def _may_apply(rule: AllowRule) -> list[Condition]:
    """Return SQL conditions that every match of a rule meets; other alerts may meet them, too."""
    wanted: list[Condition] = [ALERTS.c.suppressed_by.is_(None)]
    wanted += [ALERTS.c["class"] == rule.class_name] if rule.class_name is not None else []
    for block, column in ((rule.src, ALERTS.c.src_ip), (rule.dst, ALERTS.c.dst_ip)):
        if block is not None and block.endswith("/32"):
            wanted.append((column == block[:-3]) | column.contains(":"))  # an IPv6 address has many spellings
    return wanted


def apply(connection: sa.Connection, *, now: datetime | None = None) -> int:
    """Suppress exactly the stored alerts that the active rules match; return how many alerts changed.

    Batches call it when a rule has expired; call it where no batches arrive. Cost: one pass over the stored alerts,
    about 5 s a million.
    """
    now = now or datetime.now(UTC)
    rules = all_rules(connection)
    in_force = sorted(rule.rule_id for rule in rules if rule.is_active(now))
    connection.execute(ALLOW_RULES.update().values(in_force=ALLOW_RULES.c.rule_id.in_(in_force)))
    next_version = str(rules_version(connection) + 1)
    connection.execute(META.update().where(META.c.key == "rules_version").values(value=next_version))
    delivered = connection.execute(sa.select(sa.func.min(DELIVERIES.c.last_seq))).scalar() or 0
    n_changed, keys = 0, set[str]()
    for page in _pages(connection, _MATCHED):
        changed = _changed(page, rules, now)
        _rewrite(connection, changed, delivered)
        count_alerts(connection, changed)
        count_alerts(connection, changed.with_columns(suppressed_by="was"), -1)
        keys |= set(changed["incident_key"])
        n_changed += changed.height
    _group_again(connection, sorted(keys))
    return n_changed


def _pages(connection: sa.Connection, names: Sequence[str], *wanted: Condition) -> Iterator[pl.DataFrame]:
    """Yield alerts page by page in the order of their ids, which do not change while alerts are rewritten."""
    query, after = sa.select(*(ALERTS.c[name] for name in names)).where(*wanted), ""
    while True:
        following = query.where(ALERTS.c.alert_id > after).order_by(ALERTS.c.alert_id).limit(PAGE_ROWS)
        page = table_of(connection.execute(following).all(), names)
        if page.is_empty():
            return
        yield page
        after = page["alert_id"][-1]


def _changed(page: pl.DataFrame, rules: Sequence[AllowRule], now: datetime) -> pl.DataFrame:
    """Return the rows whose suppressing rule changes; ``was`` is the old one."""
    updated = suppress(page.rename({"suppressed_by": "was"}), rules, now=now)
    return updated.filter(pl.col("was").ne_missing(pl.col("suppressed_by")))


def _rewrite(connection: sa.Connection, changed: pl.DataFrame, delivered: int) -> None:
    """Write which rule suppresses each alert, and change its place in the order of delivery.

    An alert that every sink has received keeps its number. One that a sink still waits for is held back by negating its
    number. A released alert gets a new number behind all others, so that sinks which are past its old one receive it.
    """
    free = pl.col("suppressed_by").is_null()
    freed = free & (pl.col("seq") < 0)
    first = take_seqs(connection, changed.select(freed.sum()).item())
    held = pl.when(~free & (pl.col("seq") > delivered)).then(-pl.col("seq")).otherwise("seq")
    seq = pl.when(freed).then(freed.cum_sum().cast(pl.Int64) + (first - 1)).otherwise(held)
    rows = changed.select(old_seq="seq", new_seq=seq, rule="suppressed_by").rows(named=True)
    if rows:
        values: dict[str, Any] = {"seq": sa.bindparam("new_seq"), "suppressed_by": sa.bindparam("rule")}
        connection.execute(ALERTS.update().where(ALERTS.c.seq == sa.bindparam("old_seq")).values(values), rows)


def _group_again(connection: sa.Connection, keys: Sequence[str]) -> None:
    """Rebuild the incidents of some keys from the stored alerts."""
    for some in slices(keys):
        connection.execute(INCIDENTS.delete().where(INCIDENTS.c.incident_key.in_(some)))
        for page in _pages(connection, _GROUPED, ALERTS.c.incident_key.in_(some), ALERTS.c.suppressed_by.is_(None)):
            add_to_incidents(connection, page)
