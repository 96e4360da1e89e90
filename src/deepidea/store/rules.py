"""Allow rules in a store: kept, applied to what is stored, and taken back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl
import sqlalchemy as sa

from deepidea.store.allow_rules import AllowRule, suppress
from deepidea.store.tables import ALERTS, ALLOW_RULES, DELIVERIES, INCIDENTS, META
from deepidea.store.writing import add_to_incidents, alerts_from, count_alerts, slices, take_seqs, upsert

PAGE_ROWS = 50_000  # alerts looked at together

_LOOKED_AT = (
    "seq", "alert_id", "time_us", "src_ip", "dst_ip", "dst_port", "class", "severity", "suppressed_by", "incident_key",
)  # fmt: skip
_GROUPED = ("seq", "alert_id", "time_us", "src_ip", "dst_ip", "dst_port", "class", "severity", "score", "suppressed_by")


def rules_in(connection: sa.Connection) -> list[AllowRule]:
    """Return the rules that are kept, ended ones too."""
    rows = connection.execute(sa.select(ALLOW_RULES).order_by(ALLOW_RULES.c.rule_id)).mappings()
    return [_rule_of(dict(row)) for row in rows]


def rules_in_force(connection: sa.Connection) -> list[AllowRule]:
    """Return the rules whose effect on what is stored stands."""
    rows = connection.execute(sa.select(ALLOW_RULES).where(ALLOW_RULES.c.in_force)).mappings()
    return [_rule_of(dict(row)) for row in rows]


def _rule_of(row: dict[str, Any]) -> AllowRule:
    expires = row.pop("expires_us")
    del row["rule_id"], row["in_force"]
    when = None if expires is None else datetime.fromtimestamp(expires / 1e6, UTC)
    return AllowRule(class_name=row.pop("class"), expires=when, **row)


def put_rules(connection: sa.Connection, rules: Iterable[AllowRule]) -> None:
    """Keep rules, each in place of the one of its criteria."""
    rows = [
        {
            "rule_id": rule.rule_id,
            **rule.criteria,
            "expires_us": None if rule.expires is None else round(rule.expires.timestamp() * 1e6),
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


def apply_rules(connection: sa.Connection, now: datetime, gap_s: float) -> int:
    """Make what is stored as if the rules of now had always been; return how many alerts that changed.

    Cost: one pass over the stored alerts' addresses, about 5 s a million.
    """
    rules = rules_in(connection)
    in_force = sorted(rule.rule_id for rule in rules if rule.is_active(now))
    connection.execute(ALLOW_RULES.update().values(in_force=ALLOW_RULES.c.rule_id.in_(in_force)))
    next_version = str(rules_version(connection) + 1)
    connection.execute(META.update().where(META.c.key == "rules_version").values(value=next_version))
    told = connection.execute(sa.select(sa.func.min(DELIVERIES.c.last_seq))).scalar() or 0
    n_changed, keys, after = 0, set[str](), ""
    while not (page := _page(connection, _LOOKED_AT, ALERTS.c.alert_id > after, ALERTS.c.alert_id)).is_empty():
        changed = _changed(page, rules, now)
        _rewrite(connection, changed, told)
        count_alerts(connection, changed)
        count_alerts(connection, changed.with_columns(suppressed_by="was"), -1)
        keys |= set(changed["incident_key"])
        n_changed, after = n_changed + changed.height, page["alert_id"][-1]
    _group_again(connection, sorted(keys), gap_s)
    return n_changed


def _page(connection: sa.Connection, names: Sequence[str], where: Any, *order: Any) -> pl.DataFrame:
    query = sa.select(*(ALERTS.c[name] for name in names)).where(where).order_by(*order).limit(PAGE_ROWS)
    return alerts_from(connection.execute(query).all(), names)


def _changed(page: pl.DataFrame, rules: Sequence[AllowRule], now: datetime) -> pl.DataFrame:
    """Return the rows that another rule keeps quiet now, or none; ``was`` is the one so far."""
    anew = suppress(page.rename({"suppressed_by": "was"}), rules, now=now)
    return anew.filter(pl.col("was").ne_missing(pl.col("suppressed_by")))


def _rewrite(connection: sa.Connection, changed: pl.DataFrame, told: int) -> None:
    """Write who keeps alerts quiet; hold back those that some sink has not got yet, let go those that are free."""
    free = pl.col("suppressed_by").is_null()
    freed = free & (pl.col("seq") < 0)
    first = take_seqs(connection, changed.select(freed.sum()).item())
    held = pl.when(~free & (pl.col("seq") > told)).then(-pl.col("seq")).otherwise("seq")
    seq = pl.when(freed).then(freed.cum_sum().cast(pl.Int64) + (first - 1)).otherwise(held)
    rows = changed.select(old_seq="seq", new_seq=seq, rule="suppressed_by").rows(named=True)
    if rows:
        anew: dict[str, Any] = {"seq": sa.bindparam("new_seq"), "suppressed_by": sa.bindparam("rule")}
        connection.execute(ALERTS.update().where(ALERTS.c.seq == sa.bindparam("old_seq")).values(anew), rows)


def _group_again(connection: sa.Connection, keys: Sequence[str], gap_s: float) -> None:
    """Make the incidents of some keys anew from the stored alerts."""
    for some in slices(keys):
        connection.execute(INCIDENTS.delete().where(INCIDENTS.c.incident_key.in_(some)))
        after = ""
        mine = ALERTS.c.incident_key.in_(some) & ALERTS.c.suppressed_by.is_(None)
        while not (
            page := _page(connection, _GROUPED, mine & (ALERTS.c.alert_id > after), ALERTS.c.alert_id)
        ).is_empty():
            add_to_incidents(connection, page, gap_s)
            after = page["alert_id"][-1]
