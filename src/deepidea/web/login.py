"""Logging in with a token, and out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from deepidea.web.access import Actor, address_of, cookie_name, open_to_all, refuse_other_origin, viewer
from deepidea.web.rendering import render

router = APIRouter(include_in_schema=False)
START = "/"


@router.get("/login", dependencies=[open_to_all])
def login_page(request: Request, next: str = START) -> Response:
    """Show the form."""
    return render(request, "login.html", next=_own_page(next), fault="")


@router.post("/login", dependencies=[open_to_all])
async def log_in(
    request: Request, token: Annotated[str, Form(max_length=200)], next: Annotated[str, Form(max_length=2000)] = START
) -> Response:
    """Open a session for a valid token."""
    refuse_other_origin(request)
    store, limit, address = request.app.state.store, request.app.state.login_limit, address_of(request)
    wait_s = limit.wait_s(address)
    if wait_s > 0:
        told = f"too many logins failed; try again in {round(wait_s / 60) or 1} minutes"
        answer: Response = render(request, "login.html", next=_own_page(next), fault=told, status_code=429)
        answer.headers["Retry-After"] = str(int(wait_s) + 1)
        return answer
    found = await run_in_threadpool(store.find_token, token.strip())
    if found is None:
        limit.failed(address)
        await run_in_threadpool(store.audit, "?", "login refused", address=address)
        told = "there is no such token, or it has ended"
        return render(request, "login.html", next=_own_page(next), fault=told, status_code=401)
    return await run_in_threadpool(_with_session, request, found, _own_page(next))


def _with_session(request: Request, token: object, target: str) -> Response:
    store, settings = request.app.state.store, request.app.state.settings
    old = request.cookies.get(cookie_name(request))
    if old:
        store.close_session(old)
    session, secret = store.open_session(token, lasts_s=settings.session_s)
    store.audit(session.token.name, "login", address=address_of(request))
    answer = RedirectResponse(target, 303)
    answer.set_cookie(
        cookie_name(request),
        secret,
        max_age=round(settings.session_s),
        path="/",
        secure=settings.secure_cookies,
        httponly=True,
        samesite="lax",  # links from mail and from a SIEM lead in; changes carry a secret besides
    )
    return answer


@router.post("/logout")
def log_out(request: Request, actor: Annotated[Actor, Depends(viewer)]) -> Response:
    """End the session of a browser."""
    secret = request.cookies.get(cookie_name(request))
    if secret:
        request.app.state.store.close_session(secret)
    request.app.state.store.audit(actor.name, "logout", address=actor.address)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(cookie_name(request), secure=request.app.state.settings.secure_cookies, httponly=True)
    return answer


def _own_page(target: str) -> str:
    r"""Return a path of this server, whatever was asked for.

    Examples
    --------
    >>> [_own_page(text) for text in ("/incidents?q=a", "//elsewhere.example", "https://elsewhere.example", "/\\x")]
    ['/incidents?q=a', '/', '/', '/']
    """
    plain = target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    return target if plain else START
