"""Who may use a store's page, and what was done there: tokens, sessions of browsers, and the audit log."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa

from deepidea.errors import DataError
from deepidea.store.migrating import check_current
from deepidea.store.tables import (
    AUDIT,
    INCIDENT_STATES,
    INCIDENTS,
    META,
    SESSIONS,
    TOKENS,
)

Role = Literal["viewer", "analyst", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what those before it may."""

PREFIX = "dit_"
_SECRET_BYTES = 32
USED_EVERY_US = 60_000_000  # how exactly the last use of a token or a session is kept: a write a minute, not a request
LASTS_S, IDLE_S = 12 * 3600.0, 2 * 3600.0  # of a session: in all, and without a request
MOST_NAME = 100
MOST_DETAIL = 4_000


@dataclass(frozen=True, slots=True)
class Token:
    """A token as the store knows it: never the secret itself.

    Parameters
    ----------
    token_id
        What commands and the audit log call it.
    name
        Whose it is.
    role
    created, expires, revoked, used
        Times; None where it has none.
    """

    token_id: str
    name: str
    role: Role
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    used: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether it opens anything at a time."""
        return self.revoked is None and (self.expires is None or now < self.expires)


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that has logged in: whose token it did so with, and the secret that its forms must carry."""

    token: Token
    csrf: str
    created: datetime
    expires: datetime


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


def digest(secret: str) -> str:
    """Return what is kept of a secret.

    SHA-256, not one of the slow hashes for passwords: these secrets are 256 random bits, which nobody can guess,
    however fast a guess is.
    """
    return hashlib.sha256(secret.encode()).hexdigest()


class StoredAccess:
    """The part of a :class:`~deepidea.store.store.Store` that knows who may do what."""

    def _transaction(self, *, writes: bool = False) -> contextlib.AbstractContextManager[sa.Connection]:
        raise NotImplementedError

    # --- tokens ------------------------------------------------------------------------------------------------------

    def add_token(self, name: str, role: Role, *, expires: datetime | None = None) -> tuple[Token, str]:
        """Make a token; return it and its secret, which is not kept and cannot be told again.

        Raises
        ------
        DataError
            The name is empty, too long or taken by a token that is still valid, there is no such role, or the end is
            past.
        """
        _check(name, role, expires)
        secret, now = PREFIX + secrets.token_urlsafe(_SECRET_BYTES), _now()
        token_id = digest(secret)[:12]
        row = {"token_id": token_id, "name": name, "role": role, "hash": digest(secret), "created_us": now}
        with self._transaction(writes=True) as connection:
            taken = _tokens(connection, TOKENS.c.name == name)
            if any(token.is_valid(_when(now)) for token, _ in taken):
                raise DataError(f"a token's name must be its own, however: {name!r} is taken; revoke that one first")
            connection.execute(TOKENS.insert().values(**row, expires_us=None if expires is None else _us(expires)))
        return Token(token_id, name, role, _when(now), expires), secret

    def tokens(self) -> list[Token]:
        """Return all tokens, revoked ones too, by time of making."""
        with self._transaction() as connection:
            return [token for token, _ in _tokens(connection)]

    def has_tokens(self) -> bool:
        """Whether a token was ever made, so that nobody gets in without one."""
        with self._transaction() as connection:
            return connection.execute(sa.select(TOKENS.c.token_id).limit(1)).first() is not None

    def revoke_token(self, token_id: str) -> None:
        """End a token, and the sessions that it opened.

        Raises
        ------
        DataError
            There is no such token, or it is not valid any more.
        """
        with self._transaction(writes=True) as connection:
            valid = {t.token_id: t for t, _ in _tokens(connection) if t.is_valid(_when(_now()))}
            if token_id not in valid:
                raise DataError(f"a token must be valid to be revoked, however: {token_id!r} is not; list the tokens")
            connection.execute(TOKENS.update().where(TOKENS.c.token_id == token_id).values(revoked_us=_now()))
            connection.execute(SESSIONS.delete().where(SESSIONS.c.token_id == token_id))

    def find_token(self, secret: str) -> Token | None:
        """Return the valid token of a secret, None where there is none; takes note that it was used."""
        wanted, now = digest(secret), _now()
        with self._transaction() as connection:
            found = _tokens(connection, TOKENS.c.hash == wanted)
        kept = found[0][1] if found else digest("")  # one comparison, whether there is one or not
        if not hmac.compare_digest(kept, wanted) or not found or not found[0][0].is_valid(_when(now)):
            return None
        token = found[0][0]
        if token.used is None or now - _us(token.used) > USED_EVERY_US:
            with self._transaction(writes=True) as connection:
                connection.execute(TOKENS.update().where(TOKENS.c.token_id == token.token_id).values(used_us=now))
        return token

    # --- sessions of browsers ----------------------------------------------------------------------------------------

    def open_session(self, token: Token, *, lasts_s: float = LASTS_S, idle_s: float = IDLE_S) -> tuple[Session, str]:
        """Open a session for a browser; return it and the secret of its cookie. Those that have ended go.

        Parameters
        ----------
        token : Token
        lasts_s, idle_s
            How long it lasts at most, and without a request, in seconds.
        """
        secret, csrf, now = secrets.token_urlsafe(_SECRET_BYTES), secrets.token_urlsafe(_SECRET_BYTES), _now()
        ends = now + round(min(lasts_s, idle_s) * 1e6)
        row = {"hash": digest(secret), "token_id": token.token_id, "csrf": csrf, "created_us": now, "expires_us": ends}
        with self._transaction(writes=True) as connection:
            connection.execute(SESSIONS.delete().where(SESSIONS.c.expires_us <= now))
            connection.execute(SESSIONS.insert().values(row))
        return Session(token, csrf, _when(now), _when(ends)), secret

    def find_session(self, secret: str, *, lasts_s: float = LASTS_S, idle_s: float = IDLE_S) -> Session | None:
        """Return the session of a cookie, None where it has ended or its token opens nothing any more.

        That it was asked for puts its end off, to ``idle_s`` from now, never beyond ``lasts_s`` from its opening.
        """
        now, columns = _now(), SESSIONS.c
        with self._transaction() as connection:
            row = connection.execute(sa.select(SESSIONS).where(columns.hash == digest(secret))).mappings().first()
            latest = 0 if row is None else row["created_us"] + round(lasts_s * 1e6)
            if row is None or min(row["expires_us"], latest) <= now:
                return None
            found = _tokens(connection, TOKENS.c.token_id == row["token_id"])
        if not found or not found[0][0].is_valid(_when(now)):
            return None
        ends = min(now + round(idle_s * 1e6), latest)
        if ends - row["expires_us"] > min(USED_EVERY_US, idle_s * 1e6 / 10):
            with self._transaction(writes=True) as connection:
                connection.execute(SESSIONS.update().where(columns.hash == row["hash"]).values(expires_us=ends))
        return Session(found[0][0], row["csrf"], _when(row["created_us"]), _when(ends))

    def close_session(self, secret: str) -> None:
        """End a session; what is none is left alone."""
        with self._transaction(writes=True) as connection:
            connection.execute(SESSIONS.delete().where(SESSIONS.c.hash == digest(secret)))

    def local_secret(self) -> str:
        """Return the secret that forms carry while nobody has to log in; made once."""
        where = META.c.key == "local_csrf"
        with self._transaction() as connection:
            value = connection.execute(sa.select(META.c.value).where(where)).scalar()
        if value is None:
            with self._transaction(writes=True) as connection:
                value = connection.execute(sa.select(META.c.value).where(where)).scalar()
                if value is None:
                    value = secrets.token_urlsafe(_SECRET_BYTES)
                    connection.execute(META.insert().values(key="local_csrf", value=value))
        return str(value)

    # --- what a server asks -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Find out whether the store answers and is of this program's version.

        Raises
        ------
        StoreError
            It does not, or another release has changed its tables meanwhile.
        """
        with self._transaction() as connection:
            check_current(connection)

    def open_incidents(self) -> dict[int, int]:
        """Return how many incidents are open, by severity."""
        status = sa.func.coalesce(INCIDENT_STATES.c.status, "open")
        of = INCIDENTS.outerjoin(INCIDENT_STATES, INCIDENT_STATES.c.incident_id == INCIDENTS.c.incident_id)
        query = sa.select(INCIDENTS.c.severity, sa.func.count()).select_from(of).where(status == "open")
        with self._transaction() as connection:
            rows = connection.execute(query.group_by(INCIDENTS.c.severity)).all()
        return {int(severity): int(n) for severity, n in rows}

    # --- audit log ---------------------------------------------------------------------------------------------------

    def audit(
        self, actor: str, action: str, subject: str = "", *, detail: Mapping[str, Any] | None = None, address: str = ""
    ) -> None:
        """Write down what someone did, or tried to."""
        text = json.dumps(dict(detail or {}), default=str)
        row = {
            "time_us": _now(),
            "actor": actor[:MOST_NAME],
            "action": action,
            "subject": subject[:MOST_DETAIL].replace("\0", "\ufffd"),  # PostgreSQL's text holds no such character
            "detail": text if len(text) <= MOST_DETAIL else json.dumps({"too_long": len(text)}),
            "address": address,
        }
        with self._transaction(writes=True) as connection:
            connection.execute(AUDIT.insert().values(row))

    def audit_log(self, *, limit: int = 100, after: int | None = None) -> tuple[list[AuditEntry], int | None]:
        """Return entries of the audit log, the newest first, and what to ask for ``after`` these, None at the end."""
        query = sa.select(AUDIT).order_by(AUDIT.c.audit_id.desc()).limit(limit + 1)
        if after is not None:
            query = query.where(AUDIT.c.audit_id < after)
        with self._transaction() as connection:
            rows = connection.execute(query).mappings().all()
        entries = [entry_of(row) for row in rows[:limit]]
        return entries, entries[-1].audit_id if len(rows) > limit else None


def entry_of(row: sa.RowMapping) -> AuditEntry:
    """Return a row of the audit log as a record."""
    told = {name: row[name] for name in ("audit_id", "actor", "action", "subject", "address")}
    return AuditEntry(**told, time=_when(row["time_us"]), detail=json.loads(row["detail"]))


def _check(name: str, role: str, expires: datetime | None) -> None:
    if not name.strip() or len(name) > MOST_NAME or not name.isprintable():
        raise DataError(f"a token's name must be 1 to {MOST_NAME} printable characters, however: it is {name[:200]!r}")
    if role not in ROLES:
        raise DataError(f"role must be one of {', '.join(ROLES)}, however: it is {role!r}")
    if expires is not None and expires <= _when(_now()):
        raise DataError(f"a token must end in the future, however: {expires:%Y-%m-%d %H:%M:%S} UTC is past")


def _tokens(connection: sa.Connection, *wanted: sa.ColumnElement[bool]) -> list[tuple[Token, str]]:
    rows = connection.execute(sa.select(TOKENS).where(*wanted).order_by(TOKENS.c.created_us)).mappings()
    return [(_token(row), str(row["hash"])) for row in rows]


def _token(row: sa.RowMapping) -> Token:
    times = (None if row[name] is None else _when(row[name]) for name in ("expires_us", "revoked_us", "used_us"))
    return Token(row["token_id"], row["name"], row["role"], _when(row["created_us"]), *times)


def _now() -> int:
    return time.time_ns() // 1000


def _us(when: datetime) -> int:
    return round(when.timestamp() * 1e6)


def _when(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1e6, UTC)
