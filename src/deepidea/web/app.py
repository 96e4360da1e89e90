"""The server's application, put together: routes, what surrounds them, and how errors are told."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware

import deepidea
from deepidea.detection.store import Store
from deepidea.errors import DataError, DeepIDEAError, StoreError
from deepidea.web import api, health, login, pages
from deepidea.web.access import AccessError, open_to_all
from deepidea.web.engines import Engines
from deepidea.web.rendering import KINDS, render, static_files
from deepidea.web.security import KnownHosts, LimitedBodies, LoginLimit, SecurityHeaders
from deepidea.web.settings import LOOPBACK, WebSettings

log = logging.getLogger("deepidea.web")
FOR_EVER = "public, max-age=31536000, immutable"


def create_app(store: Store, *, settings: WebSettings | None = None, engines: Engines | None = None) -> FastAPI:
    """Return the application over a store.

    Parameters
    ----------
    store : Store
        Stays the caller's, who closes it.
    settings : WebSettings, optional
    engines : Engines, optional
        Detections that run in this process.
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
    app.state.store, app.state.settings = store, settings
    app.state.engines = engines or Engines()
    app.state.login_limit = LoginLimit()
    for router in (health.router, login.router, api.router, pages.router):
        app.include_router(router)
    app.add_api_route("/static/{name}", static_file, dependencies=[open_to_all], include_in_schema=False)
    _tell_errors(app)
    app.add_middleware(GZipMiddleware, minimum_size=2048)
    app.add_middleware(LimitedBodies)
    app.add_middleware(KnownHosts, names=(*LOOPBACK, settings.host, *settings.host_names))
    app.add_middleware(SecurityHeaders, tls=settings.tls)
    health.count_requests(app)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with api.running(app), pages.running(app):
        yield


# --- files of the pages ----------------------------------------------------------------------------------------------


def static_file(name: str, request: Request) -> Response:
    """Return a file of the pages; its address names its content, so that browsers may keep it for ever."""
    found = static_files().get(name)
    if found is None:
        raise HTTPException(404)
    data, tag = found
    kept = FOR_EVER if request.query_params.get("v") == tag else "public, max-age=300"
    return Response(data, media_type=KINDS[Path(name).suffix], headers={"Cache-Control": kept, "ETag": f'"{tag}"'})


# --- errors ----------------------------------------------------------------------------------------------------------


def _tell_errors(app: FastAPI) -> None:
    def handler(answer: Callable[[Request, Any], Response]) -> Callable[[Request, Any], Awaitable[Response]]:
        async def handle(request: Request, error: Any) -> Response:
            return answer(request, error)

        return handle

    app.add_exception_handler(AccessError, handler(_refused))
    app.add_exception_handler(RequestValidationError, handler(_invalid))
    app.add_exception_handler(DeepIDEAError, handler(_ours))
    app.add_exception_handler(HTTPException, handler(lambda request, e: _told(request, e.status_code, str(e.detail))))
    app.add_exception_handler(Exception, handler(_fault))


def _refused(request: Request, error: AccessError) -> Response:
    if error.status == 401 and not _wants_json(request):
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(request.url_for("login_page").include_query_params(next=wanted).replace(
            scheme="", netloc=""), 303)  # fmt: skip
    return _told(request, error.status, str(error), headers=error.headers)


def _invalid(request: Request, error: RequestValidationError) -> Response:
    faults = [{"where": list(fault["loc"]), "what": fault["msg"]} for fault in error.errors()]
    first = f"{'.'.join(str(part) for part in faults[0]['where'])}: {faults[0]['what']}" if faults else "it is not"
    return _told(request, 422, f"a request must be as the API's document says, however: {first}", faults=faults)


def _ours(request: Request, error: DeepIDEAError) -> Response:
    """Tell an error of the library; what broke a rule is the asker's fault, a store that is away is not."""
    status = 503 if isinstance(error, StoreError) else 422 if isinstance(error, DataError) else 409
    if status == 503:
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
    return render(request, "error.html", status=status, title=title, detail=detail, status_code=status)


def _wants_json(request: Request) -> bool:
    return request.url.path.startswith(("/api/", "/metrics", "/healthz", "/readyz", "/static/"))
