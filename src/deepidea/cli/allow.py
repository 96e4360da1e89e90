"""The commands `deepidea allow ...`: rules that suppress alerts of known, wanted traffic."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from deepidea.cli.alert_cells import time_cell
from deepidea.cli.options import Note, StoreUrl, audited, known_store, new_or_known_store, option
from deepidea.cli.terminal import say, show_table

MATCH = "What the rule matches; all that are given must match"


def allow_list(store: StoreUrl = "") -> None:
    """List the allow rules of a store."""
    from deepidea.store.rules import all_rules

    with known_store(store) as opened:
        rules = opened.query(all_rules)
    rows = ((r.rule_id, str(r), time_cell(r.expires, "never"), r.origin or "by hand", r.note) for r in rules)
    show_table(("rule", "suppresses", "expires", "origin", "note"), rows, empty="no allow rules")


def allow_add(
    src: Annotated[str | None, option("Source address or CIDR block.", panel=MATCH)] = None,
    dst: Annotated[str | None, option("Destination address or CIDR block.", panel=MATCH)] = None,
    host: Annotated[str | None, option("Address or CIDR block of either end.", panel=MATCH)] = None,
    peer: Annotated[str | None, option("With --host: address or CIDR block of the other end.", panel=MATCH)] = None,
    port: Annotated[str | None, option("Destination port, or a range: 8000-8100.", panel=MATCH)] = None,
    class_name: Annotated[str | None, option("Class of the alert.", "--class", panel=MATCH)] = None,
    expires: Annotated[datetime | None, option("When the rule ends, UTC.")] = None,
    note: Note = "",
    store: StoreUrl = "",
) -> None:
    """Suppress matching alerts, stored and new."""
    from deepidea.store.allow_rules import AllowRule

    rule = AllowRule(src, dst, host, peer, port, class_name, expires, note)
    with audited(new_or_known_store(store)) as (service, actor, _):
        _, n_changed = service.add_rule(rule, actor=actor)
    say(f"added rule {rule.rule_id}: {rule}; {n_changed:,} stored alerts suppressed")


def allow_remove(
    rule_id: Annotated[str, typer.Argument(help="Rule id from `deepidea allow list`.")], store: StoreUrl = ""
) -> None:
    """Remove an allow rule and restore the alerts that it suppressed."""
    with audited(known_store(store)) as (service, actor, _):
        n_changed = service.remove_rule(rule_id, actor=actor)
    say(f"removed rule {rule_id}; {n_changed:,} stored alerts restored")
