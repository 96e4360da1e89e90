"""The commands `deepidea tokens ...` and `deepidea audit`: access to the web page and its API."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer

from deepidea.cli.alert_cells import time_cell
from deepidea.cli.options import Limit, StoreUrl, audited, known_store, new_or_known_store, option
from deepidea.cli.terminal import out, say, show_table

RoleName = Literal["viewer", "analyst", "admin"]
"""Permissions of a token's owner; each includes those before it."""


def tokens_add(
    name: Annotated[str, typer.Argument(help="Owner: a person or a program.")],
    role: Annotated[RoleName, option("viewer reads, analyst labels, admin changes models and tokens.")],
    expires: Annotated[datetime | None, option("When the token ends, UTC.")] = None,
    store: StoreUrl = "",
) -> None:
    """Create an access token and print it once; with the first one, the page requires a login."""
    ends = None if expires is None else expires.replace(tzinfo=UTC)
    with audited(new_or_known_store(store)) as (service, actor, _):
        new = service.add_token(name, role, actor=actor, expires=ends, first=None)
    say(f"token {new.token.token_id} of {new.token.name} ({new.token.role}); it is not shown again:")
    out.print(new.secret, markup=False, soft_wrap=True)


def tokens_list(store: StoreUrl = "") -> None:
    """List access tokens: owner, role, last use."""
    from deepidea.store import access

    with known_store(store) as opened:
        tokens = opened.query(access.tokens)
    columns = ("token", "name", "role", "created", "last used", "ends")
    show_table(columns, map(_token, tokens), empty="no tokens")


def _token(of: Any) -> tuple[str, ...]:
    ends = "revoked" if of.revoked else time_cell(of.expires, "never")
    return of.token_id, of.name, of.role, time_cell(of.created), time_cell(of.used, "never"), ends


def tokens_revoke(
    token_id: Annotated[str, typer.Argument(help="Token id from `deepidea tokens list`.")], store: StoreUrl = ""
) -> None:
    """Revoke a token and end its sessions."""
    with audited(known_store(store)) as (service, actor, _):
        service.revoke_token(token_id, actor=actor)
    say(f"revoked {token_id}")


def audit(store: StoreUrl = "", limit: Limit = 50) -> None:
    """List changes made through the page, its API or the command line, newest first."""
    from deepidea.store import audit as log

    with known_store(store) as opened:
        entries = opened.query(log.find, limit=limit).items
    show_table(("time", "who", "from", "what", "subject", "detail"), map(_entry, entries), empty="no changes yet")


def _entry(of: Any) -> tuple[str, ...]:
    detail = json.dumps(of.detail) if of.detail else ""
    cells = (time_cell(of.time), of.actor, of.address, of.action, of.subject, detail)
    return tuple(cell if cell.isprintable() else ascii(cell)[1:-1] for cell in cells)
