"""Access to the page and the API: tokens, and sessions of browsers."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

import sqlalchemy as sa

from deepidea.errors import DataError
from deepidea.store.audit import MOST_NAME
from deepidea.store.statements import time_of, us
from deepidea.store.store import Store
from deepidea.store.tables import META, SESSIONS, TOKENS

Role = Literal["viewer", "analyst", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what those before it may."""

PREFIX = "dit_"
_SECRET_BYTES = 32
USED_EVERY_US = 60_000_000  # the last use is recorded to the minute: a write a minute, not a request
LASTS_S, IDLE_S = 12 * 3600.0, 2 * 3600.0  # of a session: in all, and without a request


@dataclass(frozen=True, slots=True)
class Token:
    """A stored token, without its secret.

    Parameters
    ----------
    token_id
        Its id in commands and in the audit log.
    name
        Name of its holder.
    role
    created, expires, revoked, used
        Times, or None.
    valid
        Whether it gave access when it was read from the store.
    """

    token_id: str
    name: str
    role: Role
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    used: datetime | None = None
    valid: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """A login of a browser: its token, and the secret that its forms must carry."""

    token: Token
    csrf: str
    created: datetime
    expires: datetime


def digest(secret: str) -> str:
    """Return the stored hash of a secret.

    SHA-256, not a slow password hash: 256 random bits cannot be guessed however fast a guess is.
    """
    return hashlib.sha256(secret.encode()).hexdigest()


# --- tokens ----------------------------------------------------------------------------------------------------------


def add_token(
    connection: sa.Connection, name: str, role: Role, *, expires: datetime | None = None
) -> tuple[Token, str]:
    """Create a token; return it and its secret, which is not stored and cannot be shown again.

    Raises
    ------
    DataError
        The name is empty, too long or taken by a valid token, the role is unknown, or the end is past.
    """
    _check(name, role, expires)
    secret, now = PREFIX + secrets.token_urlsafe(_SECRET_BYTES), _now()
    token_id = digest(secret)[:12]
    if any(token.valid for token, _ in _tokens(connection, TOKENS.c.name == name)):
        raise DataError(f"the name {name!r} belongs to a valid token; revoke that one first, or choose another name")
    row = {"token_id": token_id, "name": name, "role": role, "hash": digest(secret), "created_us": now}
    connection.execute(TOKENS.insert().values(**row, expires_us=None if expires is None else us(expires)))
    return Token(token_id, name, role, time_of(now), expires, valid=True), secret


def tokens(connection: sa.Connection) -> list[Token]:
    """Return all tokens, revoked ones too, the oldest first."""
    return [token for token, _ in _tokens(connection)]


def has_tokens(connection: sa.Connection) -> bool:
    """Whether a token was ever created, so that everyone needs one."""
    return connection.execute(sa.select(TOKENS.c.token_id).limit(1)).first() is not None


def revoke_token(connection: sa.Connection, token_id: str) -> Token:
    """Revoke a token and close its sessions; return it.

    Raises
    ------
    DataError
        There is no such token, or it is invalid already.
    """
    found = [token for token, _ in _tokens(connection, TOKENS.c.token_id == token_id) if token.valid]
    if not found:
        raise DataError(f"no valid token {token_id!r} is in the store; list the tokens")
    connection.execute(TOKENS.update().where(TOKENS.c.token_id == token_id).values(revoked_us=_now()))
    connection.execute(SESSIONS.delete().where(SESSIONS.c.token_id == token_id))
    return found[0]


def find_token(store: Store, secret: str) -> Token | None:
    """Return the valid token of a secret, None without one; record its use."""
    wanted = digest(secret)
    found = store.query(_tokens, TOKENS.c.hash == wanted)
    kept = found[0][1] if found else digest("")  # compare in either case: timing shows nothing
    if not hmac.compare_digest(kept, wanted) or not found or not found[0][0].valid:
        return None
    token, now = found[0][0], _now()
    if token.used is None or now - us(token.used) > USED_EVERY_US:
        with store.write() as connection:
            connection.execute(TOKENS.update().where(TOKENS.c.token_id == token.token_id).values(used_us=now))
    return token


# --- sessions of browsers --------------------------------------------------------------------------------------------


def open_session(
    connection: sa.Connection, token: Token, *, lasts_s: float = LASTS_S, idle_s: float = IDLE_S
) -> tuple[Session, str]:
    """Open a session for a browser; return it and the secret of its cookie. Expired sessions are deleted.

    Parameters
    ----------
    connection
    token : Token
    lasts_s, idle_s
        Longest duration, and longest time without a request, in seconds.
    """
    secret, csrf, now = secrets.token_urlsafe(_SECRET_BYTES), secrets.token_urlsafe(_SECRET_BYTES), _now()
    ends = now + round(min(lasts_s, idle_s) * 1e6)
    row = {"hash": digest(secret), "token_id": token.token_id, "csrf": csrf, "created_us": now, "expires_us": ends}
    connection.execute(SESSIONS.delete().where(SESSIONS.c.expires_us <= now))
    connection.execute(SESSIONS.insert().values(row))
    return Session(token, csrf, time_of(now), time_of(ends)), secret


def find_session(store: Store, secret: str, *, lasts_s: float = LASTS_S, idle_s: float = IDLE_S) -> Session | None:
    """Return the session of a cookie, None where it has expired or its token has become invalid.

    Each request extends it to ``idle_s`` from now, at most to ``lasts_s`` after its opening.
    """
    now, columns = _now(), SESSIONS.c
    with store.read() as connection:
        row = connection.execute(sa.select(SESSIONS).where(columns.hash == digest(secret))).mappings().first()
        latest = 0 if row is None else row["created_us"] + round(lasts_s * 1e6)
        if row is None or min(row["expires_us"], latest) <= now:
            return None
        found = _tokens(connection, TOKENS.c.token_id == row["token_id"])
    if not found or not found[0][0].valid:
        return None
    ends = min(now + round(idle_s * 1e6), latest)
    if ends - row["expires_us"] > min(USED_EVERY_US, idle_s * 1e6 / 10):
        with store.write() as connection:
            connection.execute(SESSIONS.update().where(columns.hash == row["hash"]).values(expires_us=ends))
    return Session(found[0][0], row["csrf"], time_of(row["created_us"]), time_of(ends))


def close_session(connection: sa.Connection, secret: str) -> None:
    """Close the session of a cookie, if there is one."""
    connection.execute(SESSIONS.delete().where(SESSIONS.c.hash == digest(secret)))


def local_secret(store: Store) -> str:
    """Return the secret that forms carry while no login is needed; it is made once."""
    wanted = sa.select(META.c.value).where(META.c.key == "local_csrf")
    with store.read() as connection:
        value = connection.execute(wanted).scalar()
    if value is None:
        with store.write() as connection:
            value = connection.execute(wanted).scalar()
            if value is None:
                value = secrets.token_urlsafe(_SECRET_BYTES)
                connection.execute(META.insert().values(key="local_csrf", value=value))
    return str(value)


def _check(name: str, role: str, expires: datetime | None) -> None:
    if not name.strip() or len(name) > MOST_NAME or not name.isprintable():
        raise DataError(f"a token's name must be 1 to {MOST_NAME} printable characters, got {name[:200]!r}")
    if role not in ROLES:
        raise DataError(f"role must be one of {', '.join(ROLES)}, got {role!r}")
    if expires is not None and expires <= time_of(_now()):
        raise DataError(f"a token must end in the future, got {expires:%Y-%m-%d %H:%M:%S} UTC")


def _tokens(connection: sa.Connection, *wanted: sa.ColumnElement[bool]) -> list[tuple[Token, str]]:
    rows = connection.execute(sa.select(TOKENS).where(*wanted).order_by(TOKENS.c.created_us)).mappings()
    return [(_token(row), str(row["hash"])) for row in rows]


def _token(row: sa.RowMapping) -> Token:
    expires, revoked, used = (
        None if row[name] is None else time_of(row[name]) for name in ("expires_us", "revoked_us", "used_us")
    )
    valid = revoked is None and (expires is None or time_of(_now()) < expires)
    return Token(
        row["token_id"], row["name"], row["role"], time_of(row["created_us"]), expires, revoked, used, valid=valid
    )


def _now() -> int:
    return time.time_ns() // 1000
