"""Login with a token, and logout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from deepidea.store import audit
from deepidea.store.access import LASTS_S, Token, close_session, find_token, open_session
from deepidea.store.audit import Action
from deepidea.store.store import Store
from deepidea.web.access import Actor, address_of, cookie_name, open_to_all, record, refuse_other_origin, viewer
from deepidea.web.rendering import render

router = APIRouter(include_in_schema=False)
START = "/"
MOST_TARGET = 2_000


@router.get("/login", dependencies=[open_to_all])
def login_page(request: Request, next: str = START) -> Response:
    """Show the form."""
    return render(request, "login.html", next=own_page(next), fault="")


@router.post("/login", dependencies=[open_to_all])
async def log_in(
    request: Request,
    token: Annotated[str, Form(max_length=200)],
    next: Annotated[str, Form(max_length=MOST_TARGET)] = START,
) -> Response:
    """Open a session for a valid token."""
    refuse_other_origin(request)
    limit, address, target = request.app.state.login_limit, address_of(request), own_page(next)
    wait_s = limit.attempt(address)  # counted before the check, so that parallel attempts count
    if wait_s > 0:
        detail = f"too many failed logins; try again in {round(wait_s / 60) or 1} minutes"
        return _refused(request, target, 429, detail, {"Retry-After": str(int(wait_s) + 1)})
    found = await run_in_threadpool(find_token, request.app.state.store, token.strip())
    if found is None:
        await run_in_threadpool(_record, request, "?", "login.refused")
        return _refused(request, target, 401, "unknown or expired token", {})
    limit.forgive(address)
    return await run_in_threadpool(_with_session, request, found, target)


def _record(request: Request, name: str, action: Action) -> None:
    request.app.state.store.execute(audit.write, name, action, address=address_of(request))


def _refused(request: Request, target: str, status: int, detail: str, headers: Mapping[str, str]) -> Response:
    answer = render(request, "login.html", next=target, fault=detail, status_code=status)
    answer.headers.update(headers)
    return answer


def _with_session(request: Request, token: Token, target: str) -> Response:
    store: Store = request.app.state.store
    with store.write() as connection:
        if old := request.cookies.get(cookie_name(request)):
            close_session(connection, old)
        session, secret = open_session(connection, token)
        audit.write(connection, session.token.name, "login", address=address_of(request))
    answer = RedirectResponse(target, 303)
    answer.set_cookie(
        cookie_name(request),
        secret,
        max_age=round(LASTS_S),
        path="/",
        secure=request.app.state.settings.is_https,
        httponly=True,
        samesite="strict",  # for links from other sites see deepidea.web.app
    )
    return answer


@router.post("/logout")
def log_out(request: Request, actor: Annotated[Actor, Depends(viewer)]) -> Response:
    """End the session of a browser."""
    if secret := request.cookies.get(cookie_name(request)):
        request.app.state.store.execute(close_session, secret)
    record(request, actor, "logout", "")
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(
        cookie_name(request), secure=request.app.state.settings.is_https, httponly=True, samesite="strict"
    )
    answer.headers["Clear-Site-Data"] = '"cache", "storage"'
    return answer


def own_page(target: str) -> str:
    r"""Return the target of a redirect: a path of this server, whatever was requested.

    Examples
    --------
    >>> [own_page(text) for text in ("/incidents?q=a", "//elsewhere.example", "https://elsewhere.example", "/\\x")]
    ['/incidents?q=a', '/', '/', '/']
    """
    plain = target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    return target if plain and len(target) <= MOST_TARGET else START
