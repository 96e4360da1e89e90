"""The REST API, ``/api/v1``: all that the pages can show and do, for programs.

Routes are plain functions, which the server runs in threads: a slow one does not keep others waiting. The stream of
events alone is a coroutine.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import APIRouter, Body, Depends, FastAPI, Header, Query, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

import deepidea
from deepidea.store.access import Token, find_session
from deepidea.store.alerts import Alert
from deepidea.store.audit import AuditEntry
from deepidea.store.feedback import Feedback
from deepidea.store.hosts import Host
from deepidea.store.incidents import Incident
from deepidea.store.models import Activation, read_model
from deepidea.store.rules import Rule
from deepidea.store.statements import Page
from deepidea.web import requests as asked
from deepidea.web import views
from deepidea.web.access import AccessError, Actor, Needs, admin, analyst, cookie_name, viewer
from deepidea.web.live import EVENTS, Live
from deepidea.web.service import AnalystService, NotThereError
from deepidea.web.windows import Window

T = TypeVar("T")
PREFIX = "/api/v1"
PROBLEM = "application/problem+json"
STREAM = "text/event-stream"
_EXPORTED = {"parquet": "application/vnd.apache.parquet", "csv": "text/csv", "jsonl": "application/x-ndjson"}

Viewer = Annotated[Actor, Depends(viewer)]
Analyst = Annotated[Actor, Depends(analyst)]
Admin = Annotated[Actor, Depends(admin)]


class Fault(BaseModel):
    """A field that is not as it must be."""

    where: list[str | int]
    what: str


class Problem(BaseModel):
    """An error, in the form of RFC 9457: ``detail`` says what failed and why."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    faults: list[Fault] = []


class Me(BaseModel):
    """Who asks, by which way they got in, and the roles that theirs includes."""

    name: str
    role: Literal["viewer", "analyst", "admin"]
    way: Literal["local", "session", "token"]
    address: str
    roles: list[Literal["viewer", "analyst", "admin"]]


class RuleAdded(BaseModel):
    """An allow rule that was added, and how many stored alerts it changed."""

    rule: Rule
    n_changed: int


class NChanged(BaseModel):
    """How many stored alerts a change reached."""

    n_changed: int


class Items(BaseModel, Generic[T]):
    """A list; ``next`` is what to ask for ``after`` these items, null where they are the last ones."""

    items: list[T]
    next: str | None = None


def _problem(says: str) -> dict[str, Any]:
    return {"description": says, "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


REFUSED: dict[int | str, dict[str, Any]] = {
    400: _problem("The body is not JSON, or the request names a host that is not this server's."),
    401: _problem("No valid token or session."),
    403: _problem("The role does not suffice, or a browser's change lacks the page's secret."),
    405: _problem("The path does not know this method."),
    422: _problem("The request is not as this document says, or breaks a rule."),
    503: _problem("The store does not answer, or the server is full."),
}
ABSENT: dict[int | str, dict[str, Any]] = {404: _problem("There is none of this id.")}
CHANGED: dict[int | str, dict[str, Any]] = {409: _problem("Somebody else has changed it meanwhile.")}


class ReadRoute(APIRoute):
    """Run a GET endpoint in one read transaction, so that all it shows is of one moment."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        reads = {"service", "request"} & inspect.signature(endpoint).parameters.keys()
        if reads and set(options.get("methods") or ()) == {"GET"} and not inspect.iscoroutinefunction(endpoint):
            endpoint = _in_one_read(endpoint)
        super().__init__(path, endpoint, **options)


def _in_one_read(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(endpoint)
    def reading(**values: Any) -> Any:
        service = values.get("service") or service_of(values["request"])
        with service.store.read():
            return endpoint(**values)

    return reading


router = APIRouter(prefix=PREFIX, responses=REFUSED, route_class=ReadRoute)


def service_of(request: Request) -> AnalystService:
    """Return the service of the application, which it makes when it is first asked for one."""
    state = request.app.state
    if getattr(state, "service", None) is None:
        state.service = _make_service(state)
    service: AnalystService = state.service
    return service


def _make_service(state: Any) -> AnalystService:
    options = {name: getattr(state, name) for name in ("detector", "detector_name") if getattr(state, name, None)}
    return AnalystService(state.store, sink_errors=lambda: state.engines.sink_errors, **options)


Service = Annotated[AnalystService, Depends(service_of)]


@contextlib.asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[None]:
    """Follow the store for those who listen, as long as the application runs."""
    if getattr(app.state, "service", None) is None:
        app.state.service = _make_service(app.state)
    live = app.state.live = Live(app.state.service)
    async with live.running():
        yield


def _there(found: T | None, what: str, name: str) -> T:
    if found is None:
        raise NotThereError(f"no {what} {name!r} is in the store")
    return found


def _window(service: AnalystService, query: asked.SpanQuery) -> Window:
    return service.window(query.window, since=query.since, until=query.until)


# --- who asks --------------------------------------------------------------------------------------------------------


@router.get("/me", tags=["access"])
def me(actor: Viewer) -> Me:
    """Tell who asks."""
    roles = [role for role in ("viewer", "analyst", "admin") if actor.may(role)]
    about = {name: getattr(actor, name) for name in ("name", "role", "way", "address")}
    return Me(**about, roles=roles)  # type: ignore[arg-type]


@router.get("/openapi.json", tags=["access"], dependencies=[Depends(viewer)], include_in_schema=False)
def openapi(request: Request) -> JSONResponse:
    """Return the document of the API."""
    return JSONResponse(document(request.app))


# --- at a glance -----------------------------------------------------------------------------------------------------


@router.get("/overview", tags=["overview"], dependencies=[Depends(viewer)])
def overview(service: Service, query: Annotated[asked.SpanQuery, Query()]) -> views.Overview:
    """Tell the state of the network at a glance."""
    return service.overview(_window(service, query))


@router.get("/series/alerts", tags=["overview"], dependencies=[Depends(viewer)])
def alert_series(service: Service, query: Annotated[asked.SpanQuery, Query()]) -> views.Series:
    """Count alerts over time, a line a class."""
    return service.alert_series(_window(service, query))


@router.get("/series/flows", tags=["overview"], dependencies=[Depends(viewer)])
def flow_series(service: Service, query: Annotated[asked.FlowQuery, Query()]) -> views.Series:
    """Count flows over time, and the alerts among them, quiet or not."""
    return service.flow_series(_window(service, query), source=query.source)


# --- incidents -------------------------------------------------------------------------------------------------------


@router.get("/incidents", tags=["incidents"], dependencies=[Depends(viewer)])
def incidents(service: Service, query: Annotated[asked.IncidentQuery, Query()]) -> views.IncidentPage:
    """List incidents."""
    return service.incidents(**query.model_dump())


@router.post("/incidents/status", tags=["incidents"], responses={**ABSENT, **CHANGED})
def set_status(service: Service, actor: Analyst, change: asked.BulkChange) -> Items[Incident]:
    """Give many incidents a status, all or none of them."""
    rows = service.set_status(
        change.incident_ids, change.status, actor=actor, note=change.note, versions=change.versions
    )
    return Items(items=list(rows))


@router.get("/incidents/{incident_id}", tags=["incidents"], dependencies=[Depends(viewer)], responses=ABSENT)
def incident(service: Service, incident_id: asked.IncidentId) -> views.IncidentView:
    """Tell all that is known of an incident, with why its strongest alert was raised."""
    return _there(service.incident(incident_id), "incident", incident_id)


@router.patch("/incidents/{incident_id}", tags=["incidents"], responses={**ABSENT, **CHANGED})
def change_incident(
    service: Service, actor: Analyst, incident_id: asked.IncidentId, change: asked.IncidentChange
) -> Incident:
    """Change status, note, or both of an incident."""
    return service.change_incident(
        incident_id, actor=actor, status=change.status, note=change.note, version=change.version
    )


# --- alerts ----------------------------------------------------------------------------------------------------------


@router.get("/alerts", tags=["alerts"], dependencies=[Depends(viewer)])
def alerts(service: Service, query: Annotated[asked.AlertQuery, Query()]) -> Page[Alert]:
    """List alerts, the latest first."""
    suppressed = {"no": False, "only": True, "all": None}[query.suppressed]
    return service.alerts(**query.model_dump(exclude={"suppressed"}), suppressed=suppressed)


@router.get("/alerts/{alert_id}", tags=["alerts"], dependencies=[Depends(viewer)], responses=ABSENT)
def alert(service: Service, alert_id: asked.AlertId) -> views.AlertView:
    """Tell all that is known of an alert."""
    return _there(service.alert(alert_id), "alert", alert_id)


@router.get("/alerts/{alert_id}/eve", tags=["alerts"], dependencies=[Depends(viewer)], responses=ABSENT)
def eve(service: Service, alert_id: asked.AlertId) -> dict[str, Any]:
    """Return an alert as Suricata writes it (EVE)."""
    text = _there(service.eve(alert_id), "alert", alert_id)
    return Response(text, media_type="application/json")  # type: ignore[return-value]


@router.get("/alerts/{alert_id}/why", tags=["alerts"], dependencies=[Depends(viewer)], responses=ABSENT)
def why(service: Service, alert_id: asked.AlertId) -> views.WhyView:
    """Tell why an alert was raised: the features that drove the verdict."""
    return _there(service.why(alert_id), "alert", alert_id)


# --- verdicts --------------------------------------------------------------------------------------------------------


@router.get("/verdicts", tags=["verdicts"], dependencies=[Depends(viewer)])
def verdicts(service: Service, query: Annotated[asked.VerdictQuery, Query()]) -> Page[Feedback]:
    """List verdicts of analysts, the newest first."""
    return service.verdicts(**query.model_dump())


@router.post("/verdicts", tags=["verdicts"], status_code=201, responses=ABSENT)
def add_verdict(service: Service, actor: Analyst, said: asked.NewVerdict) -> Feedback:
    """Say what an alert or an incident is. It stands beside the detector's verdict, and the latest one holds."""
    about = said.model_dump(exclude={"subject", "subject_id", "verdict"})
    return service.add_verdict(said.subject, said.subject_id, said.verdict, actor=actor, **about)


@router.get(
    "/verdicts/export",
    tags=["verdicts"],
    response_class=FileResponse,
    responses={200: {"description": "Labelled flows.", "content": {kind: {} for kind in _EXPORTED.values()}}},
)
def export(service: Service, actor: Analyst, query: Annotated[asked.ExportQuery, Query()]) -> FileResponse:
    """Return the flows that analysts judged, as labelled data that a detector can be trained on.

    The whole is written to a temporary file first, in bounded memory, and sent from there.
    """
    folder = Path(tempfile.mkdtemp(prefix="deepidea-export-"))
    path = folder / f"feedback.{query.format}"
    try:
        service.export_feedback(path, actor=actor, format=query.format, per_incident=query.per_incident)
    except BaseException:
        shutil.rmtree(folder)
        raise
    gone = BackgroundTask(shutil.rmtree, folder)
    return FileResponse(path, media_type=_EXPORTED[query.format], filename=path.name, background=gone)


# --- allow rules -----------------------------------------------------------------------------------------------------


@router.get("/rules", tags=["rules"], dependencies=[Depends(viewer)])
def rules(service: Service) -> Items[Rule]:
    """List allow rules, those that have ended too."""
    return Items(items=list(service.rules()))


@router.post("/rules", tags=["rules"], status_code=201)
def add_rule(service: Service, actor: Analyst, rule: asked.NewRule) -> RuleAdded:
    """Keep alerts quiet, those that are stored too: each of them is looked at, which takes its time."""
    added, n_changed = service.add_rule(rule.model_dump(), actor=actor)
    return RuleAdded(rule=added, n_changed=n_changed)


@router.post("/rules/preview", tags=["rules"])
def preview_rule(service: Service, _: Analyst, rule: asked.NewRule) -> views.Suggestion:
    """Tell what an allow rule would keep quiet, without adding it."""
    return service.preview_rule(rule.model_dump())


@router.delete("/rules/{rule_id}", tags=["rules"], responses=ABSENT)
def remove_rule(service: Service, actor: Analyst, rule_id: asked.RuleId) -> NChanged:
    """Remove an allow rule, and let go what it kept quiet."""
    return NChanged(n_changed=service.remove_rule(rule_id, actor=actor))


# --- hosts -----------------------------------------------------------------------------------------------------------


@router.get("/hosts", tags=["hosts"], dependencies=[Depends(viewer)])
def hosts(service: Service, query: Annotated[asked.HostQuery, Query()]) -> Page[Host]:
    """List hosts that have incidents, the most urgent first."""
    return service.hosts(**query.model_dump())


@router.get("/hosts/{host}", tags=["hosts"], dependencies=[Depends(viewer)], responses=ABSENT)
def host(service: Service, host: asked.HostName) -> views.HostView:
    """Tell what is known of a host: incidents, peers, ports asked for."""
    found = service.host(host)
    return _there(found if found.known else None, "host", host)


# --- sources, drift --------------------------------------------------------------------------------------------------


@router.get("/sources", tags=["sources"], dependencies=[Depends(viewer)])
def sources(service: Service) -> views.SourcesView:
    """Tell how sources and sinks stand: rates, delays, losses by reason, what waits."""
    return service.sources()


@router.get("/drift", tags=["models"], dependencies=[Depends(viewer)])
def drift(service: Service, query: Annotated[asked.DriftQuery, Query()]) -> views.DriftView:
    """Tell whether the flows of today are like those that the model was trained on, or calibrated by."""
    return service.drift(**query.model_dump())


# --- models ----------------------------------------------------------------------------------------------------------


@router.get("/models", tags=["models"], dependencies=[Depends(viewer)])
def models(service: Service) -> views.ModelsView:
    """List models and what was active when."""
    return service.models()


@router.post(
    "/models", tags=["models"], status_code=201, responses={**CHANGED, 413: _problem("The file is too large.")}
)
def add_model(
    service: Service,
    actor: Admin,
    query: Annotated[asked.UploadQuery, Query()],
    file: Annotated[bytes, Body(media_type="application/octet-stream", description="A detector file.")],
) -> views.ModelRow:
    """Keep a detector file, after an audit of it. It is not active yet."""
    return service.add_model(read_model(file, name=query.name), actor=actor)


@router.post("/models/rollback", tags=["models"])
def roll_back(service: Service, actor: Admin, said: asked.RollBack) -> Activation:
    """Go back to the model that was active before the present one."""
    return service.rollback(actor=actor, note=said.note)


@router.get("/models/{model_id}", tags=["models"], dependencies=[Depends(viewer)], responses=ABSENT)
def model(service: Service, model_id: asked.ModelId) -> views.ModelView:
    """Tell all that is known of a model: its card, thresholds, evaluation, drift."""
    return _there(service.model(model_id), "model", model_id)


@router.delete("/models/{model_id}", tags=["models"], status_code=204, responses=ABSENT)
def remove_model(service: Service, actor: Admin, model_id: asked.ModelId) -> None:
    """Let a model's file go; the history keeps its id."""
    service.remove_model(model_id, actor=actor)


@router.get(
    "/models/{model_id}/file",
    tags=["models"],
    dependencies=[Depends(admin)],
    response_class=Response,
    responses={**ABSENT, 200: {"description": "The detector file.", "content": {"application/octet-stream": {}}}},
)
def model_file(service: Service, model_id: asked.ModelId) -> Response:
    """Return a model's file."""
    data = service.model_file(model_id)
    named = {"Content-Disposition": f'attachment; filename="{model_id}.idea"'}
    return Response(data, media_type="application/octet-stream", headers=named)


@router.post("/models/{model_id}/activate", tags=["models"], responses=ABSENT)
def activate(service: Service, actor: Admin, model_id: asked.ModelId, said: asked.Activate) -> Activation:
    """Make a model the active one; detections take it over within seconds.

    It must have been compared with the active one and be no worse, unless it is forced to; the history then says so.
    """
    return service.activate(model_id, actor=actor, note=said.note, force=said.force)


# --- administration --------------------------------------------------------------------------------------------------


@router.get("/audit", tags=["administration"], dependencies=[Depends(admin)])
def audit(service: Service, query: Annotated[asked.PageQuery, Query()]) -> Page[AuditEntry]:
    """List who did what, the newest first."""
    return service.audit(limit=query.limit, after=query.after)


@router.get("/tokens", tags=["administration"], dependencies=[Depends(admin)])
def tokens(service: Service) -> Items[Token]:
    """List tokens, never with their secrets."""
    return Items(items=list(service.tokens()))


@router.post("/tokens", tags=["administration"], status_code=201)
def add_token(service: Service, actor: Admin, wanted: asked.NewTokenRequest) -> views.NewToken:
    """Create a token; its secret is in this answer alone."""
    return service.add_token(wanted.name, wanted.role, actor=actor, expires=wanted.expires)


@router.delete("/tokens/{token_id}", tags=["administration"], status_code=204, responses=ABSENT)
def revoke_token(service: Service, actor: Admin, token_id: asked.TokenId) -> None:
    """End a token, and the sessions that it opened."""
    service.revoke_token(token_id, actor=actor)


@router.post("/store/purge", tags=["administration"])
def purge(service: Service, actor: Admin, wanted: asked.Purge) -> NChanged:
    """Delete alerts from before a time, and incidents whose last alert is."""
    return NChanged(n_changed=service.purge(wanted.older_than, actor=actor))


# --- events ----------------------------------------------------------------------------------------------------------


@router.get(
    "/events",
    tags=["events"],
    response_class=StreamingResponse,
    responses={200: {"description": "Server-sent events.", "content": {STREAM: {"schema": {"type": "string"}}}}},
)
async def events(
    request: Request,
    actor: Viewer,
    query: Annotated[asked.EventsQuery, Query()],
    last_event_id: Annotated[str | None, Header(max_length=40)] = None,
) -> StreamingResponse:
    """Tell what happens as it happens, as server-sent events."""
    live: Live = request.app.state.live

    chunks = await live.stream(last_event_id or query.after, may=lambda: _may_go_on(request, actor))
    return StreamingResponse(
        chunks, media_type=STREAM, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )


async def _may_go_on(request: Request, actor: Actor) -> bool:
    """Return whether somebody may still listen; that a page is open does not put off the end of its session."""
    if actor.way == "session":
        state, secret = request.app.state, request.cookies.get(cookie_name(request), "")
        look = partial(find_session, state.store, secret, idle_s=0.0)
        return await run_in_threadpool(look) is not None
    try:
        await viewer(request)
    except AccessError:
        return False
    return True


# --- the document ----------------------------------------------------------------------------------------------------

_ABOUT = f"""All that the pages can show and do, for programs.

**Access.** Send a token, which `deepidea tokens add` makes: `Authorization: Bearer dit_...`. While the store has no
token at all, the server listens on loopback alone and needs none. Each operation names the role that it takes
(`x-role`): a viewer looks, an analyst judges, an admin changes the server; each may do what those before it may.

**Pages.** A list answers `items` and `next`; give `next` back as `after` for what follows. It is null at the end.

**Errors** are problem details (RFC 9457): `detail` says which rule, and what is so instead.

**Changes by others.** Give the `version` of an incident that you saw with a change: where somebody else has changed it
since, the answer is 409.

**Events.** `/api/v1/events` is a stream of server-sent events: {", ".join(f"`{kind}`" for kind in EVENTS)}.
"""


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of the API's routes."""
    known: dict[str, Any] | None = getattr(app.state, "api_document", None)
    if known is None:
        known = app.state.api_document = _made_document()
    return known


def _made_document() -> dict[str, Any]:
    made = get_openapi(
        title="DeepIDEA",
        version=deepidea.__version__,
        description=_ABOUT,
        routes=router.routes,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    schemas = made["components"]["schemas"]
    schemas |= {"Problem": Problem.model_json_schema(ref_template="#/components/schemas/{model}")}
    schemas |= schemas["Problem"].pop("$defs")
    made["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "Of `deepidea tokens add`."},
        "session": {"type": "apiKey", "in": "cookie", "name": "deepidea", "description": "Of a browser."},
        "csrf": {"type": "apiKey", "in": "header", "name": "X-CSRF-Token", "description": "With a session's changes."},
    }
    for route in router.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                _declare(made["paths"][route.path][method.lower()], method, _role_of(route))
    return made


def _declare(operation: dict[str, Any], method: str, role: str) -> None:
    session: dict[str, list[str]] = {"session": []} if method == "GET" else {"session": [], "csrf": []}
    operation["security"] = [{"token": []}, session, {}]
    operation["x-role"] = role
    operation["operationId"] = operation["operationId"].partition("_api_v1")[0]


def _role_of(route: APIRoute) -> str:
    calls = [part.call for part in route.dependant.dependencies]
    return next(call.role for call in calls if isinstance(call, Needs))
