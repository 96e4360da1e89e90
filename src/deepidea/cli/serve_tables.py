"""What the commands of the operator's page print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.table import Table

from deepidea.cli.terminal import out, say


def show_address(url: str, store: str, *, needs_login: bool) -> None:
    """Tell where the page is, and who gets in."""
    say(f"serving {store}")
    say(f"the page: {url}")
    if needs_login:
        say("log in with a token; `deepidea tokens add` makes one")
    else:
        say("no token exists, so that everyone on this machine is an admin; `deepidea tokens add` makes the first one")


def show_secret(token: Any, secret: str) -> None:
    """Print a new token's secret, alone on the standard output so that a script can take it."""
    say(f"token {token.token_id} of {token.name} ({token.role}); it is told this once:")
    out.print(secret, markup=False, soft_wrap=True)


def show_tokens(tokens: Sequence[Any]) -> None:
    """Print tokens."""
    if not tokens:
        say("no tokens")
        return
    table = Table("token", "name", "role", "made", "last used", "ends", box=None, pad_edge=False)
    for token in tokens:
        ends = "revoked" if token.revoked else _time(token.expires, "never")
        table.add_row(token.token_id, token.name, token.role, _time(token.created), _time(token.used, "never"), ends)
    out.print(table)


def show_audit(entries: Sequence[Any]) -> None:
    """Print entries of the audit log."""
    if not entries:
        say("nothing was changed yet")
        return
    table = Table("time", "who", "from", "what", "subject", "detail", box=None, pad_edge=False)
    for entry in entries:
        detail = json.dumps(entry.detail) if entry.detail else ""
        row = (_time(entry.time), entry.actor, entry.address, entry.action, entry.subject, detail)
        table.add_row(*(ascii(text)[1:-1] if not text.isprintable() else text for text in row))
    out.print(table)


def _time(when: datetime | None, absent: str = "") -> str:
    return absent if when is None else f"{when:%Y-%m-%d %H:%M:%S}"
