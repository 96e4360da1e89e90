"""Authentication and authorisation: roles as dependencies of routes.

A route declares who may use it by a dependency::

    @router.post("/incidents/{incident_id}")
    def close(incident_id: str, actor: Annotated[Actor, Depends(analyst)]) -> ...

Programs send a token with each request. Browsers log in with a token once and then have a session; a change must carry
the session's CSRF secret and come from a page of this server. Until a token has been created, everyone on this
machine is an admin, and others are refused.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData

from deepidea.errors import DeepIDEAError
from deepidea.store import audit
from deepidea.store.access import ROLES, Role, find_session, find_token, has_tokens, local_secret
from deepidea.store.audit import Action
from deepidea.store.store import Store

COOKIE = "deepidea"
CSRF_HEADER, CSRF_FIELD = "X-CSRF-Token", "csrf"
_SAFE = ("GET", "HEAD", "OPTIONS")
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_OF_PROXIES = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


class AccessError(DeepIDEAError):
    """A refused request; ``status`` is that of the answer."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


@dataclass(frozen=True, slots=True)
class Actor:
    """The user or program behind a request.

    Parameters
    ----------
    name
        Of the token; ``local`` while no login is needed.
    role
    address
        IP address of the client.
    way
        Means of authentication.
    csrf
        Secret for the forms of a page, masked anew for each request; empty for programs, which need none.
    """

    name: str
    role: Role
    address: str
    way: Literal["local", "session", "token"]
    csrf: str = ""

    def may(self, role: Role) -> bool:
        """Whether the actor has this role or a higher one."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Needs:
    """Dependency of a route that requires a role; its value is the :class:`Actor`."""

    def __init__(self, role: Role) -> None:
        self.role = role

    async def __call__(self, request: Request) -> Actor:
        """Return the actor, or raise :class:`AccessError`."""
        actor = await _actor_of(request)
        if actor is None:
            raise AccessError(401, "no valid token or session; log in", {"WWW-Authenticate": "Bearer"})
        request.state.actor = actor
        if request.method not in _SAFE and actor.way != "token":
            await _refuse_foreign(request, actor)
        if not actor.may(self.role):
            detail = {"method": request.method, "needs": self.role}
            await run_in_threadpool(record, request, actor, "access.refused", request.url.path, detail)
            raise AccessError(403, f"role {self.role} required, {actor.name} is {actor.role}")
        return actor


class NeedsUnlessOpen(Needs):
    """Dependency of metrics: a role, unless ``open_metrics`` lets everyone read them."""

    async def __call__(self, request: Request) -> Actor:
        """Return the actor, or raise :class:`AccessError`."""
        if request.app.state.settings.open_metrics:
            return Actor("anyone", self.role, address_of(request), "token")
        return await super().__call__(request)


viewer, analyst, admin = (Needs(role) for role in ROLES)


def record(
    request: Request, actor: Actor, action: Action, subject: str, detail: Mapping[str, Any] | None = None
) -> None:
    """Write an action, or an attempt, to the audit log."""
    _store(request).execute(audit.write, actor.name, action, subject, detail=detail, address=actor.address)


def public() -> None:
    """Mark a route as open to everyone; a route without any declaration is a defect."""


open_to_all = Depends(public)


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def address_of(request: Request) -> str:
    """Return the IP address of a request's client."""
    return request.client.host if request.client else ""


def is_loopback(address: str) -> bool:
    """Whether an address is a loopback address.

    Examples
    --------
    >>> [is_loopback(text) for text in ("127.0.0.9", "::1", "::ffff:127.0.0.1", "192.0.2.7", "localhost")]
    [True, True, True, False, False]
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


async def _actor_of(request: Request) -> Actor | None:
    # A token in the header decides alone; else, once a token exists, the session; before, the address of the client.
    if request.headers.get("Authorization"):
        return await run_in_threadpool(_program, request)
    if not await run_in_threadpool(_needs_login, request.app, _store(request)):
        return await run_in_threadpool(_local, request)
    secret = request.cookies.get(cookie_name(request))
    session = await run_in_threadpool(find_session, _store(request), secret) if secret else None
    if session is None:
        return None
    return Actor(session.token.name, session.token.role, address_of(request), "session", masked(session.csrf))


def _program(request: Request) -> Actor | None:
    """Return the actor of a request's token, None where it is not valid."""
    kind, _, secret = request.headers["Authorization"].partition(" ")
    token = find_token(_store(request), secret.strip()) if kind.lower() == "bearer" else None
    if token is not None:
        return Actor(token.name, token.role, address_of(request), "token")
    limit, address = request.app.state.refused_tokens, address_of(request)
    if not limit.attempt(address):  # so that guessing cannot fill the log
        _store(request).execute(audit.write, "?", "token.refused", request.url.path, address=address)
    return None


def _local(request: Request) -> Actor:
    """Return the local admin; :class:`AccessError` where the request comes from elsewhere or through a proxy."""
    if not is_loopback(address_of(request)) or any(name in request.headers for name in _OF_PROXIES):
        raise AccessError(
            403,
            "without tokens only requests from this machine are allowed, not from elsewhere or through a proxy; "
            "create a token: deepidea tokens add NAME --role admin",
        )
    return Actor("local", "admin", address_of(request), "local", masked(local_secret(_store(request))))


def _needs_login(app: FastAPI, store: Store) -> bool:
    """Whether a token was ever created; true for good, even when all are revoked."""
    if not getattr(app.state, "needs_login", False):
        app.state.needs_login = store.query(has_tokens)
    return bool(app.state.needs_login)


async def is_admin(request: Request) -> bool:
    """Whether the actor is an admin; for decisions before a request's body is read."""
    try:
        actor = await _actor_of(request)
    except AccessError:
        return False
    return actor is not None and actor.may("admin")


def cookie_name(request: Request) -> str:
    """Return the name of the session cookie: over https with the prefix that binds it to https and this host."""
    return f"__Host-{COOKIE}" if request.app.state.settings.is_https else COOKIE


async def _refuse_foreign(request: Request, actor: Actor) -> None:
    """Refuse a change that another site makes a browser send (CSRF)."""
    refuse_other_origin(request)
    given = request.headers.get(CSRF_HEADER) or (await _form_of(request)).get(CSRF_FIELD)
    if not isinstance(given, str) or not hmac.compare_digest(unmasked(given), unmasked(actor.csrf)):
        raise AccessError(403, "the page's CSRF secret is missing or old; reload the page")


def refuse_other_origin(request: Request) -> None:
    """Refuse a request unless its headers show that a page of this server made it.

    Browsers send ``Origin`` (RFC 6454) with every change, and ``Sec-Fetch-Site`` (W3C, Fetch Metadata) over https and
    on loopback.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if (site, origin) == (None, None):
        raise AccessError(403, "the request has no Origin header; programs send a token instead")
    if site not in (None, "same-origin") or (origin is not None and not _is_own(request, origin)):
        raise AccessError(403, "the request comes from another site's page")


def _is_own(request: Request, origin: str) -> bool:
    parts = urlsplit(origin)
    schemes = ("https",) if request.app.state.settings.is_https else ("http", "https")
    return parts.scheme in schemes and parts.netloc.lower() == request.headers.get("Host", "").lower()


async def _form_of(request: Request) -> FormData:
    if not request.headers.get("Content-Type", "").startswith(_FORMS):
        return FormData()
    return await request.form()


def masked(secret: str) -> str:
    """Return a secret under a new one-time pad.

    The size of a compressed page reveals whether a guess repeats a secret in it (the BREACH attack); a secret that is
    different in each response cannot be guessed letter by letter.

    Examples
    --------
    >>> unmasked(masked("once")) == unmasked("once"), masked("once") == masked("once")
    (True, False)
    """
    data = secret.encode()
    pad = secrets.token_bytes(len(data))
    return f"{pad.hex()}.{bytes(a ^ b for a, b in zip(pad, data, strict=True)).hex()}"


def unmasked(text: str) -> bytes:
    """Return the bytes of a secret, masked or plain."""
    pad, dot, rest = text.partition(".")
    if not dot:
        return text.encode()
    try:
        return bytes(a ^ b for a, b in zip(bytes.fromhex(pad), bytes.fromhex(rest), strict=True))
    except ValueError:
        return b""
