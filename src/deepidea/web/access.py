"""Who asks, and whether they may: roles as dependencies of routes.

A route says who may use it by what it depends on::

    @router.post("/incidents/{incident_id}")
    def judge(incident_id: str, actor: Annotated[Actor, Depends(analyst)]) -> ...

Programs send a token with each request. Browsers log in with a token once and then have a session; what they change
must carry the session's secret and come from a page of this server, so that no other site can make them do it. While
the store has no token at all, whoever reaches the server, which then listens on loopback alone, is an admin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData

from deepidea.detection.store import Store
from deepidea.detection.store_access import ROLES, Role, Session
from deepidea.errors import DeepIDEAError

COOKIE = "deepidea"
CSRF_HEADER, CSRF_FIELD = "X-CSRF-Token", "csrf"
_SAFE = ("GET", "HEAD", "OPTIONS")
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class AccessError(DeepIDEAError):
    """A request that may not do what it asks for; ``status`` is the answer's."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks.

    Parameters
    ----------
    name
        Of the token; ``local`` while nobody has to log in.
    role
    address
        Where the request comes from.
    way
        How they got in.
    csrf
        What a page's forms must carry; empty for programs, which need none.
    """

    name: str
    role: Role
    address: str
    way: Literal["local", "session", "token"]
    csrf: str = ""

    def may(self, role: Role) -> bool:
        """Whether the role of the actor is this one or above it."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Needs:
    """The dependency of a route that a role is needed for; gives the :class:`Actor`.

    Parameters
    ----------
    role
    """

    def __init__(self, role: Role) -> None:
        self.role = role

    async def __call__(self, request: Request) -> Actor:
        """Return who asks, or raise :class:`AccessError`."""
        actor = await _actor_of(request)
        if actor is None:
            raise AccessError(401, "a request must carry a valid token or session, however: this one does not; log in",
                              {"WWW-Authenticate": "Bearer"})  # fmt: skip
        request.state.actor = actor
        if request.method not in _SAFE and actor.way != "token":
            await _refuse_foreign(request, actor)
        if not actor.may(self.role):
            refused = {"method": request.method, "needs": self.role}
            store = _store(request)
            await run_in_threadpool(
                store.audit, actor.name, "refused", request.url.path, detail=refused, address=actor.address
            )
            raise AccessError(403, f"this takes the role {self.role}, however: {actor.name} is {actor.role}")
        return actor


viewer, analyst, admin = (Needs(role) for role in ROLES)


def public() -> None:
    """Let everyone use a route; its dependency says so, since a route that says nothing is a defect."""


def roles_of(app: FastAPI) -> dict[tuple[str, str], Role | None | Literal["undeclared"]]:
    """Return who may use each route, by method and path; None where all may."""
    found: dict[tuple[str, str], Role | None | Literal["undeclared"]] = {}
    for route in app.routes:
        if isinstance(route, APIRoute):
            calls = [dependency.call for dependency in _flat(route.dependant)]
            declared = [call.role for call in calls if isinstance(call, Needs)]
            role = max(declared, key=ROLES.index) if declared else None if public in calls else "undeclared"
            found.update({(method, route.path): role for method in route.methods})
    return found


def _flat(dependant: Any) -> list[Any]:
    return [inner for part in dependant.dependencies for inner in (part, *_flat(part))]


open_to_all = Depends(public)


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def address_of(request: Request) -> str:
    """Return the address that a request comes from."""
    return request.client.host if request.client else ""


async def _actor_of(request: Request) -> Actor | None:
    store, address = _store(request), address_of(request)
    kind, _, secret = request.headers.get("Authorization", "").partition(" ")
    if kind:
        token = await run_in_threadpool(store.find_token, secret.strip()) if kind.lower() == "bearer" else None
        return None if token is None else Actor(token.name, token.role, address, "token")
    if not await run_in_threadpool(_needs_login, request.app, store):
        return Actor("local", "admin", address, "local", await run_in_threadpool(store.local_secret))
    session = await session_of(request)
    return None if session is None else Actor(session.token.name, session.token.role, address, "session", session.csrf)


def _needs_login(app: FastAPI, store: Store) -> bool:
    """Whether a token exists; once one does, that stays so."""
    if not getattr(app.state, "needs_login", False):
        app.state.needs_login = store.has_tokens()
    return bool(app.state.needs_login)


async def session_of(request: Request) -> Session | None:
    """Return the session of a browser's cookie, None without one."""
    secret = request.cookies.get(cookie_name(request))
    return None if not secret else await run_in_threadpool(_store(request).find_session, secret)


def cookie_name(request: Request) -> str:
    """Return the name of the cookie: with a prefix that keeps browsers to https and this host, where it is secure."""
    return f"__Host-{COOKIE}" if request.app.state.settings.secure_cookies else COOKIE


async def _refuse_foreign(request: Request, actor: Actor) -> None:
    """Refuse a change that another site's page makes a browser ask for."""
    refuse_other_origin(request)
    given = request.headers.get(CSRF_HEADER) or (await _form_of(request)).get(CSRF_FIELD)
    if not isinstance(given, str) or not _equal(given, actor.csrf):
        raise AccessError(
            403, "a change must carry the page's secret, however: it is missing or old; load the page anew"
        )


def refuse_other_origin(request: Request) -> None:
    """Refuse a request that a page of another origin made, as the browser tells."""
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    own = request.headers.get("Host", "").lower()
    if site not in (None, "same-origin", "none") or (origin is not None and urlsplit(origin).netloc.lower() != own):
        raise AccessError(403, "a change must come from a page of this server, however: another site's page sent it")


async def _form_of(request: Request) -> FormData:
    if not request.headers.get("Content-Type", "").startswith(_FORMS):
        return FormData()
    return await request.form()


def _equal(given: str, wanted: str) -> bool:
    import hmac

    return hmac.compare_digest(given.encode(), wanted.encode())
