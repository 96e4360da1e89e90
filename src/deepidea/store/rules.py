"""Allow rules of a store: added, applied to the stored alerts, and removed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

import polars as pl
import sqlalchemy as sa

from deepidea.store.alerts import Condition, of_incident, table_of
from deepidea.store.allow_rules import AllowRule, suppress
from deepidea.store.ingest import add_to_incidents, count_alerts, take_seqs
from deepidea.store.statements import slices, time_of, upsert, us
from deepidea.store.tables import ALERTS, ALLOW_RULES, DELIVERIES, INCIDENTS, META

PAGE_ROWS = 50_000  # alerts matched together

_MATCHED = (
    "seq", "alert_id", "time_us", "src_ip", "dst_ip", "dst_port", "class", "severity", "suppressed_by", "incident_key",
)  # fmt: skip
_GROUPED = ("seq", "alert_id", "time_us", "src_ip", "dst_ip", "dst_port", "class", "severity", "score", "suppressed_by")


@dataclass(frozen=True, slots=True)
class Rule:
    """An allow rule as it is shown: its criteria in words, whether it is active, and how many alerts it suppresses."""

    rule_id: str
    says: str
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
    """Return the allow rules, expired ones too, with the alerts that each suppresses."""
    query = sa.select(ALERTS.c.suppressed_by, sa.func.count()).where(ALERTS.c.suppressed_by.is_not(None))
    counts: dict[str, int] = {rule: n for rule, n in connection.execute(query.group_by(ALERTS.c.suppressed_by))}  # noqa: C416
    now = datetime.now(UTC)
    given = ("says", "active", "n_alerts")
    return [
        Rule(
            **{name: getattr(rule, name) for name in Rule.__slots__ if name not in given},
            says=str(rule),
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
"""Rules in force by store, and the version that they are of: a batch reads them only where they have changed."""


def current(connection: sa.Connection, now: datetime) -> list[AllowRule]:
    """Return the rules in force; where one has just expired, release its alerts first."""
    version, known = rules_version(connection), _current.get(connection.engine)
    rules = known[1] if known and known[0] == version else all_rules(connection, ALLOW_RULES.c.in_force)
    if any(not rule.is_active(now) for rule in rules):
        apply(connection, now=now)
        version, rules = 0, [rule for rule in rules if rule.is_active(now)]
    _current[connection.engine] = (version, rules)
    return rules


def add(connection: sa.Connection, rule: AllowRule) -> int:
    """Keep an allow rule and apply it to what is stored; return how many alerts that changed."""
    _put(connection, [rule])
    return apply(connection)


def remove(connection: sa.Connection, rule_id: str) -> int:
    """Remove an allow rule and release the alerts that it suppressed; return how many alerts that changed."""
    connection.execute(ALLOW_RULES.delete().where(ALLOW_RULES.c.rule_id == rule_id))
    return apply(connection)


def sync(connection: sa.Connection, rules: Iterable[AllowRule], *, origin: str) -> int:
    """Make the rules of one origin, a file, those given; return how many alerts that changed.

    Rules of other origins stay. Where nothing has changed, no alert is read.
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
    """Keep rules, each in place of the one of its criteria."""
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
    """Return a number that goes up whenever rules change."""
    return int(connection.execute(sa.select(META.c.value).where(META.c.key == "rules_version")).scalar_one())


def count_matches(connection: sa.Connection, rule: AllowRule, *, incident: str | None = None) -> tuple[int, int]:
    """Return how many alerts a rule would suppress, and how many of these are of an incident."""
    wanted, own = _may_apply(rule), of_incident(connection, incident)
    names = ("alert_id", "src_ip", "dst_ip", "dst_port", "class")
    n_alerts, n_own, after = 0, 0, ""
    while not (
        page := _page(connection, names, sa.and_(*wanted, ALERTS.c.alert_id > after), ALERTS.c.alert_id)
    ).is_empty():
        after = page["alert_id"][-1]
        matched = suppress(page, [replace(rule, expires=None)], now=datetime.now(UTC))
        ids = matched.filter(pl.col("suppressed_by").is_not_null())["alert_id"].to_list()
        n_alerts += len(ids)
        for some in slices(ids if incident is not None else []):
            query = sa.select(sa.func.count()).select_from(ALERTS).where(ALERTS.c.alert_id.in_(some), *own)
            n_own += connection.execute(query).scalar_one()
    return n_alerts, n_own


def _may_apply(rule: AllowRule) -> list[Condition]:
    """Return conditions that all alerts meet to which a rule applies, as far as SQL can match them."""
    wanted: list[Condition] = [ALERTS.c.suppressed_by.is_(None)]
    wanted += [ALERTS.c["class"] == rule.class_name] if rule.class_name is not None else []
    for block, column in ((rule.src, ALERTS.c.src_ip), (rule.dst, ALERTS.c.dst_ip)):
        if block is not None and block.endswith("/32"):
            wanted.append((column == block[:-3]) | column.contains(":"))  # IPv6 writes the same address in many ways
    return wanted


def apply(connection: sa.Connection, *, now: datetime | None = None) -> int:
    """Suppress exactly the stored alerts that the active rules match; return how many alerts that changed.

    A batch does it when a rule has expired; call this where no batches come. Cost: one pass over the stored alerts'
    addresses, about 5 s a million.
    """
    now = now or datetime.now(UTC)
    rules = all_rules(connection)
    in_force = sorted(rule.rule_id for rule in rules if rule.is_active(now))
    connection.execute(ALLOW_RULES.update().values(in_force=ALLOW_RULES.c.rule_id.in_(in_force)))
    next_version = str(rules_version(connection) + 1)
    connection.execute(META.update().where(META.c.key == "rules_version").values(value=next_version))
    delivered = connection.execute(sa.select(sa.func.min(DELIVERIES.c.last_seq))).scalar() or 0
    n_changed, keys, after = 0, set[str](), ""
    while not (page := _page(connection, _MATCHED, ALERTS.c.alert_id > after, ALERTS.c.alert_id)).is_empty():
        changed = _changed(page, rules, now)
        _rewrite(connection, changed, delivered)
        count_alerts(connection, changed)
        count_alerts(connection, changed.with_columns(suppressed_by="was"), -1)
        keys |= set(changed["incident_key"])
        n_changed, after = n_changed + changed.height, page["alert_id"][-1]
    _group_again(connection, sorted(keys))
    return n_changed


def _page(connection: sa.Connection, names: Sequence[str], where: Any, *order: Any) -> pl.DataFrame:
    query = sa.select(*(ALERTS.c[name] for name in names)).where(where).order_by(*order).limit(PAGE_ROWS)
    return table_of(connection.execute(query).all(), names)


def _changed(page: pl.DataFrame, rules: Sequence[AllowRule], now: datetime) -> pl.DataFrame:
    """Return the rows that another rule suppresses now, or none; ``was`` is the one so far."""
    anew = suppress(page.rename({"suppressed_by": "was"}), rules, now=now)
    return anew.filter(pl.col("was").ne_missing(pl.col("suppressed_by")))


def _rewrite(connection: sa.Connection, changed: pl.DataFrame, delivered: int) -> None:
    """Write which rule suppresses alerts; hold back those that a sink has not got yet, release those of no rule."""
    free = pl.col("suppressed_by").is_null()
    freed = free & (pl.col("seq") < 0)
    first = take_seqs(connection, changed.select(freed.sum()).item())
    held = pl.when(~free & (pl.col("seq") > delivered)).then(-pl.col("seq")).otherwise("seq")
    seq = pl.when(freed).then(freed.cum_sum().cast(pl.Int64) + (first - 1)).otherwise(held)
    rows = changed.select(old_seq="seq", new_seq=seq, rule="suppressed_by").rows(named=True)
    if rows:
        anew: dict[str, Any] = {"seq": sa.bindparam("new_seq"), "suppressed_by": sa.bindparam("rule")}
        connection.execute(ALERTS.update().where(ALERTS.c.seq == sa.bindparam("old_seq")).values(anew), rows)


def _group_again(connection: sa.Connection, keys: Sequence[str]) -> None:
    """Make the incidents of some keys anew from the stored alerts."""
    for some in slices(keys):
        connection.execute(INCIDENTS.delete().where(INCIDENTS.c.incident_key.in_(some)))
        after = ""
        mine = ALERTS.c.incident_key.in_(some) & ALERTS.c.suppressed_by.is_(None)
        while not (
            page := _page(connection, _GROUPED, mine & (ALERTS.c.alert_id > after), ALERTS.c.alert_id)
        ).is_empty():
            add_to_incidents(connection, page)
            after = page["alert_id"][-1]
