"""The web application: routes, middleware, static files, and answers to errors."""

from __future__ import annotations

import gzip
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
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
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import deepidea
from deepidea.errors import ArtifactError, DataError, DeepIDEAError, StoreError
from deepidea.model.detector import Detector
from deepidea.store.store import Store
from deepidea.web import api, health, login, pages
from deepidea.web.access import AccessError, is_admin, open_to_all
from deepidea.web.engines import Engines
from deepidea.web.rendering import KINDS, render, static_files
from deepidea.web.security import LimitedBodies, LoginLimit, SecurityHeaders
from deepidea.web.settings import ServeConfig

log = logging.getLogger("deepidea.web")
CACHE_FOREVER = "public, max-age=31536000, immutable"
MIN_COMPRESSED = 2048  # bytes of a file or page


def create_app(
    store: Store,
    *,
    settings: ServeConfig | None = None,
    engines: Engines | None = None,
    detector: Detector | None = None,
    detector_name: str = "",
    service: Any = None,
) -> FastAPI:
    """Return the application over a store.

    Parameters
    ----------
    store : Store
        Stays the caller's, who closes it.
    settings : ServeConfig, optional
    engines : Engines, optional
        Detections that run in this process.
    detector : Detector, optional
        Explains alerts whose detector is not in the store.
    detector_name : str
        Name of its file.
    service : AnalystService, optional
        Reads and changes for pages and API; made over the store where absent.

    Returns
    -------
    FastAPI
        Its ``state`` has ``store``, ``settings``, ``engines``, ``detector`` and ``service``.
    """
    settings = settings or ServeConfig()
    app = FastAPI(
        title="DeepIDEA",
        version=deepidea.__version__,
        summary="Alerts, incidents and the labels of analysts.",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        lifespan=api.running,
    )
    app.state.store, app.state.settings, app.state.engines = store, settings, engines or Engines()
    app.state.detector, app.state.detector_name, app.state.service = detector, detector_name, service
    app.state.login_limit, app.state.refused_tokens = LoginLimit(), LoginLimit()
    for router in (health.router, login.router, api.router, pages.router):
        app.include_router(router)
    app.add_api_route("/static/{name}", static_file, dependencies=[open_to_all], include_in_schema=False)
    _handle_errors(app)
    _add_middleware(app, settings)
    return app


def _add_middleware(app: FastAPI, settings: ServeConfig) -> None:
    """Add the middleware of all routes; the last one added sees a request first."""
    # Inside out: answers to faults are compressed and get the headers; sizes are checked for known hosts only.
    app.add_middleware(FaultAnswers)
    app.add_middleware(GZipMiddleware, minimum_size=MIN_COMPRESSED, compresslevel=5)
    app.add_middleware(LimitedBodies, may_upload=is_admin)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.allowed_hosts, www_redirect=False)
    app.add_middleware(SecurityHeaders, tls=settings.is_https)
    health.add_metrics(app)


# --- files of the pages ----------------------------------------------------------------------------------------------


def static_file(name: str, request: Request) -> Response:
    """Return a static file; its address contains a hash of its content, so that browsers can cache it."""
    found = static_files().get(name)
    if found is None:
        raise HTTPException(404, "no such file")
    data, tag = found
    cached = CACHE_FOREVER if request.query_params.get("v") == tag else "public, max-age=300"
    headers = {"Cache-Control": cached, "ETag": f'"{tag}"', "Vary": "Accept-Encoding"}
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    if len(data) > MIN_COMPRESSED and "gzip" in request.headers.get("Accept-Encoding", ""):
        data, headers["Content-Encoding"] = _packed(name), "gzip"
    return Response(data, media_type=KINDS[Path(name).suffix], headers=headers)


@lru_cache
def _packed(name: str) -> bytes:
    """Return a compressed file, once: plotly's script has megabytes."""
    return gzip.compress(static_files()[name][0], mtime=0)


# --- errors ----------------------------------------------------------------------------------------------------------


def _handle_errors(app: FastAPI) -> None:
    handlers: dict[type[Exception], Callable[[Request, Any], Awaitable[Response]]] = {
        AccessError: _refused, RequestValidationError: _invalid, DeepIDEAError: _library_error, HTTPException: _http,
    }  # fmt: skip
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


class FaultAnswers:
    """Answers unexpected errors without a traceback; the log has it, under a number that the answer names.

    It is the innermost middleware, so that its answers get the security headers, too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        began = False

        async def note_and_send(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self.app(scope, receive, note_and_send)
        except Exception as error:
            if scope["type"] != "http" or began:
                raise
            await _fault(Request(scope, receive), error)(scope, receive, send)


async def _http(request: Request, error: HTTPException) -> Response:
    return _error_answer(request, error.status_code, str(error.detail), headers=error.headers)


async def _refused(request: Request, error: AccessError) -> Response:
    """Answer a refusal; a browser without a session is sent to the login and back."""
    if error.status != 401 or _wants_json(request):
        return _error_answer(request, error.status, str(error), headers=error.headers)
    if request.headers.get("Sec-Fetch-Site") == "cross-site" and request.method == "GET":
        return _again(request)
    wanted = _asked_for(request) if request.method == "GET" else login.START
    return RedirectResponse(f"{request.url_for('login_page').path}?{urlencode({'next': wanted})}", 303)


def _again(request: Request) -> Response:
    """Make a browser that followed a link from another site repeat the request from this site, with its session.

    Browsers never send a ``SameSite=Strict`` cookie with a request from another site, links included (RFC 6265bis).
    """
    target = escape(_asked_for(request))
    return HTMLResponse(
        '<!doctype html><meta charset="utf-8"><title>DeepIDEA</title>'
        f'<meta http-equiv="refresh" content="0;url={target}"><a href="{target}">Go on</a>'
    )


def _asked_for(request: Request) -> str:
    """Return the path and query of a request, as they were sent."""
    query = request.scope["query_string"].decode("latin-1")
    path = (request.scope.get("raw_path") or b"/").decode("latin-1")
    return login.own_page(path + (f"?{query}" if query else ""))


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    faults = [{"where": list(fault["loc"]), "what": fault["msg"]} for fault in error.errors()]
    first = f"{'.'.join(str(part) for part in faults[0]['where'])}: {faults[0]['what']}" if faults else "it is not"
    return _error_answer(request, 422, f"invalid request: {first}", faults=faults)


async def _library_error(request: Request, error: DeepIDEAError) -> Response:
    """Answer an error of the library: 4xx for bad input, 503 for an unavailable store."""
    if isinstance(error, StoreError):
        log.warning("%s", error)
        return _error_answer(request, 503, "the store is unavailable; see the server's log")
    status = getattr(error, "status", 422 if isinstance(error, DataError | ArtifactError) else 409)
    return _error_answer(request, status, str(error))


def _fault(request: Request, error: Exception) -> Response:
    number = secrets.token_hex(4)
    log.error("fault %s in %s %s", number, request.method, request.url.path, exc_info=error)
    return _error_answer(request, 500, f"internal error {number}; see the server's log")


def _error_answer(
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
