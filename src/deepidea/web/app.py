"""The server's application, put together: routes, what surrounds them, and how errors are told."""

from __future__ import annotations

import contextlib
import gzip
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import lru_cache
from html import escape
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

import deepidea
from deepidea.errors import ArtifactError, DataError, DeepIDEAError, StoreError
from deepidea.model.detector import Detector
from deepidea.store.store import Store
from deepidea.web import api, health, login, pages
from deepidea.web.access import AccessError, is_admin, open_to_all
from deepidea.web.engines import Engines
from deepidea.web.rendering import KINDS, render, static_files
from deepidea.web.security import (
    App,
    LimitedBodies,
    LoginLimit,
    Message,
    Receive,
    Scope,
    SecurityHeaders,
    Send,
)
from deepidea.web.settings import WebSettings

log = logging.getLogger("deepidea.web")
FOR_EVER = "public, max-age=31536000, immutable"
WORTH_PACKING = 2048  # bytes of a file


def create_app(
    store: Store,
    *,
    settings: WebSettings | None = None,
    engines: Engines | None = None,
    detector: Detector | None = None,
    detector_name: str = "",
    desk: Any = None,
) -> FastAPI:
    """Return the application over a store.

    Parameters
    ----------
    store : Store
        Stays the caller's, who closes it.
    settings : WebSettings, optional
    engines : Engines, optional
        Detections that run in this process.
    detector : Detector, optional
        What explains alerts, where the store holds no detector of their kind.
    detector_name : str
        What its file is called.
    desk : Desk, optional
        What pages and API show and change; made over the store where absent.

    Returns
    -------
    FastAPI
        Its ``state`` has ``store``, ``settings``, ``engines``, ``detector`` and ``desk``.
    """
    settings = settings or WebSettings()
    app = FastAPI(
        title="DeepIDEA",
        version=deepidea.__version__,
        summary="Alerts, incidents and what analysts say of them.",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan,
    )
    app.state.store, app.state.settings, app.state.engines = store, settings, engines or Engines()
    app.state.detector, app.state.detector_name, app.state.desk = detector, detector_name, desk
    app.state.login_limit, app.state.refused_tokens = LoginLimit(), LoginLimit()
    for router in (health.router, login.router, api.router, pages.router):
        app.include_router(router)
    app.add_api_route("/static/{name}", static_file, dependencies=[open_to_all], include_in_schema=False)
    _tell_errors(app)
    _surround(app, settings)
    return app


def _surround(app: FastAPI, settings: WebSettings) -> None:
    """Put around the routes what every request passes; the last one added is the first to see it."""
    app.add_middleware(ToldFaults)
    app.add_middleware(GZipMiddleware, minimum_size=2048, compresslevel=5)
    app.add_middleware(LimitedBodies, may_upload=is_admin)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.allowed_hosts, www_redirect=False)
    app.add_middleware(SecurityHeaders, tls=settings.secure_cookies)
    health.count_requests(app)


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with api.running(app), pages.running(app):
        yield


# --- files of the pages ----------------------------------------------------------------------------------------------


def static_file(name: str, request: Request) -> Response:
    """Return a file of the pages; its address names its content, so that browsers may keep it for ever."""
    found = static_files().get(name)
    if found is None:
        raise HTTPException(404, "there is no such file")
    data, tag = found
    kept = FOR_EVER if request.query_params.get("v") == tag else "public, max-age=300"
    headers = {"Cache-Control": kept, "ETag": f'"{tag}"', "Vary": "Accept-Encoding"}
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    if len(data) > WORTH_PACKING and "gzip" in request.headers.get("Accept-Encoding", ""):
        data, headers["Content-Encoding"] = _packed(name), "gzip"
    return Response(data, media_type=KINDS[Path(name).suffix], headers=headers)


@lru_cache
def _packed(name: str) -> bytes:
    """Return a file compressed as far as it goes, once: plotly's script has megabytes."""
    return gzip.compress(static_files()[name][0], mtime=0)


# --- errors ----------------------------------------------------------------------------------------------------------


def _tell_errors(app: FastAPI) -> None:
    def handler(answer: Callable[[Request, Any], Response]) -> Callable[[Request, Any], Awaitable[Response]]:
        async def handle(request: Request, error: Any) -> Response:
            return answer(request, error)

        return handle

    app.add_exception_handler(AccessError, handler(_refused))
    app.add_exception_handler(RequestValidationError, handler(_invalid))
    app.add_exception_handler(DeepIDEAError, handler(_ours))
    app.add_exception_handler(HTTPException, handler(_http))


class ToldFaults:
    """Answers where the program fails, without a trace; the log has it, under a number that the answer names.

    It stands among what :func:`create_app` surrounds routes with, so that such an answer has the headers of any other.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        began = False

        async def noted(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            if scope["type"] != "http" or began:
                raise
            await _fault(Request(scope, receive), error)(scope, receive, send)


def _http(request: Request, error: HTTPException) -> Response:
    return _told(request, error.status_code, str(error.detail), headers=error.headers)


def _refused(request: Request, error: AccessError) -> Response:
    """Tell who may not; whoever only has to log in is led there, and back."""
    if error.status != 401 or _wants_json(request):
        return _told(request, error.status, str(error), headers=error.headers)
    if request.headers.get("Sec-Fetch-Site") == "cross-site" and request.method == "GET":
        return _again(request)
    wanted = _asked_for(request) if request.method == "GET" else login.START
    return RedirectResponse(f"{request.url_for('login_page').path}?{urlencode({'next': wanted})}", 303)


def _again(request: Request) -> Response:
    """Let a browser that followed a link from another site ask once more, now from this one and with its session.

    The cookie is never sent with what another site asks for (``SameSite=Strict``, RFC 6265bis), links included.
    """
    target = escape(_asked_for(request))
    return HTMLResponse(
        '<!doctype html><meta charset="utf-8"><title>DeepIDEA</title>'
        f'<meta http-equiv="refresh" content="0;url={target}"><a href="{target}">Go on</a>'
    )


def _asked_for(request: Request) -> str:
    """Return the address asked for, without host, as it was spelt."""
    query = request.scope["query_string"].decode("latin-1")
    path = (request.scope.get("raw_path") or b"/").decode("latin-1")
    return login.own_page(path + (f"?{query}" if query else ""))


def _invalid(request: Request, error: RequestValidationError) -> Response:
    faults = [{"where": list(fault["loc"]), "what": fault["msg"]} for fault in error.errors()]
    first = f"{'.'.join(str(part) for part in faults[0]['where'])}: {faults[0]['what']}" if faults else "it is not"
    return _told(request, 422, f"a request must be as the API's document says, however: {first}", faults=faults)


def _ours(request: Request, error: DeepIDEAError) -> Response:
    """Tell an error of the library; what broke a rule is the asker's fault, a store that is away is not."""
    known = 503 if isinstance(error, StoreError) else 422 if isinstance(error, DataError | ArtifactError) else 409
    status = getattr(error, "status", known)
    if isinstance(error, StoreError):
        log.warning("%s", error)
        return _told(request, 503, "the store must answer, however: it does not; the server's log tells more")
    return _told(request, status, str(error))


def _fault(request: Request, error: Exception) -> Response:
    number = secrets.token_hex(4)
    log.error("fault %s in %s %s", number, request.method, request.url.path, exc_info=error)
    return _told(request, 500, f"the server failed; its log tells more under {number}")


def _told(
    request: Request,
    status: int,
    detail: str,
    *,
    faults: list[dict[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    title = HTTPStatus(status).phrase
    if _wants_json(request):
        problem = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        extra = {"faults": faults} if faults else {}
        return JSONResponse({**problem, **extra}, status, dict(headers or {}), "application/problem+json")
    page = render(request, "error.html", status=status, title=title, detail=detail, status_code=status)
    page.headers.update(headers or {})
    return page


def _wants_json(request: Request) -> bool:
    return request.url.path.startswith(("/api/", "/metrics", "/healthz", "/readyz", "/static/"))
