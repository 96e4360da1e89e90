"""The REST API, ``/api/v1``: everything that the pages show and do, for programs.

Routes are plain functions, which the server runs in threads, so a slow one delays no other. Only the event stream is a
coroutine.
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
    """An invalid field."""

    where: list[str | int]
    what: str


class Problem(BaseModel):
    """An error, in the form of RFC 9457; ``detail`` has what failed and why."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    faults: list[Fault] = []


class Me(BaseModel):
    """The client: name, means of authentication, and roles."""

    name: str
    role: Literal["viewer", "analyst", "admin"]
    way: Literal["local", "session", "token"]
    address: str
    roles: list[Literal["viewer", "analyst", "admin"]]


class RuleAdded(BaseModel):
    """A new allow rule, and the number of stored alerts that it changed."""

    rule: Rule
    n_changed: int


class NChanged(BaseModel):
    """Number of stored alerts that a change reached."""

    n_changed: int


class Items(BaseModel, Generic[T]):
    """A list; ``next`` is the ``after`` of the following page, null on the last one."""

    items: list[T]
    next: str | None = None


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


REFUSED: dict[int | str, dict[str, Any]] = {
    400: _problem("The body is not JSON, or the request names a host that is not this server's."),
    401: _problem("No valid token or session."),
    403: _problem("The role is too low, or a browser's change lacks the page's secret."),
    405: _problem("The path has no such method."),
    422: _problem("The request is invalid by this document or by a rule of the store."),
    503: _problem("The store is unavailable, or the server is at its limit of streams."),
}
ABSENT: dict[int | str, dict[str, Any]] = {404: _problem("No such id.")}
CHANGED: dict[int | str, dict[str, Any]] = {409: _problem("Changed by someone else meanwhile.")}


class ReadRoute(APIRoute):
    """Run a GET endpoint in one read transaction: all of its answer is of one moment."""

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
    """Return the service of the application; it is made at the first call."""
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
    """Publish live events as long as the application runs."""
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


# --- access ----------------------------------------------------------------------------------------------------------


@router.get("/me", tags=["access"])
def me(actor: Viewer) -> Me:
    """Return the client's name and roles."""
    roles = [role for role in ("viewer", "analyst", "admin") if actor.may(role)]
    about = {name: getattr(actor, name) for name in ("name", "role", "way", "address")}
    return Me(**about, roles=roles)  # type: ignore[arg-type]


@router.get("/openapi.json", tags=["access"], dependencies=[Depends(viewer)], include_in_schema=False)
def openapi(request: Request) -> JSONResponse:
    """Return the OpenAPI document."""
    return JSONResponse(document(request.app))


# --- overview --------------------------------------------------------------------------------------------------------


@router.get("/overview", tags=["overview"], dependencies=[Depends(viewer)])
def overview(service: Service, query: Annotated[asked.SpanQuery, Query()]) -> views.Overview:
    """Return an overview of the network."""
    return service.overview(_window(service, query))


@router.get("/series/alerts", tags=["overview"], dependencies=[Depends(viewer)])
def alert_series(service: Service, query: Annotated[asked.SpanQuery, Query()]) -> views.Series:
    """Count alerts over time, a line a class."""
    return service.alert_series(_window(service, query))


@router.get("/series/flows", tags=["overview"], dependencies=[Depends(viewer)])
def flow_series(service: Service, query: Annotated[asked.FlowQuery, Query()]) -> views.Series:
    """Count flows over time, and the alerts among them, suppressed ones included."""
    return service.flow_series(_window(service, query), source=query.source)


# --- incidents -------------------------------------------------------------------------------------------------------


@router.get("/incidents", tags=["incidents"], dependencies=[Depends(viewer)])
def incidents(service: Service, query: Annotated[asked.IncidentQuery, Query()]) -> views.IncidentPage:
    """List incidents."""
    return service.incidents(**query.model_dump())


@router.post("/incidents/status", tags=["incidents"], responses={**ABSENT, **CHANGED})
def set_status(service: Service, actor: Analyst, change: asked.BulkChange) -> Items[Incident]:
    """Set the status of several incidents, of all or of none."""
    rows = service.set_status(
        change.incident_ids, change.status, actor=actor, note=change.note, versions=change.versions
    )
    return Items(items=list(rows))


@router.get("/incidents/{incident_id}", tags=["incidents"], dependencies=[Depends(viewer)], responses=ABSENT)
def incident(service: Service, incident_id: asked.IncidentId) -> views.IncidentView:
    """Return an incident in full, with the explanation of its strongest alert."""
    return _there(service.incident(incident_id), "incident", incident_id)


@router.patch("/incidents/{incident_id}", tags=["incidents"], responses={**ABSENT, **CHANGED})
def change_incident(
    service: Service, actor: Analyst, incident_id: asked.IncidentId, change: asked.IncidentChange
) -> Incident:
    """Set status, note, or both of an incident."""
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
    """Return an alert in full."""
    return _there(service.alert(alert_id), "alert", alert_id)


@router.get("/alerts/{alert_id}/eve", tags=["alerts"], dependencies=[Depends(viewer)], responses=ABSENT)
def eve(service: Service, alert_id: asked.AlertId) -> dict[str, Any]:
    """Return an alert in Suricata's format (EVE)."""
    text = _there(service.eve(alert_id), "alert", alert_id)
    return Response(text, media_type="application/json")  # type: ignore[return-value]


@router.get("/alerts/{alert_id}/why", tags=["alerts"], dependencies=[Depends(viewer)], responses=ABSENT)
def why(service: Service, alert_id: asked.AlertId) -> views.WhyView:
    """Explain an alert: the features behind its verdict."""
    return _there(service.why(alert_id), "alert", alert_id)


# --- verdicts --------------------------------------------------------------------------------------------------------


@router.get("/verdicts", tags=["verdicts"], dependencies=[Depends(viewer)])
def verdicts(service: Service, query: Annotated[asked.VerdictQuery, Query()]) -> Page[Feedback]:
    """List verdicts of analysts, the newest first."""
    return service.verdicts(**query.model_dump())


@router.post("/verdicts", tags=["verdicts"], status_code=201, responses=ABSENT)
def add_verdict(service: Service, actor: Analyst, label: asked.NewVerdict) -> Feedback:
    """Label an alert or an incident. The latest label is valid; the detector's verdict stays."""
    return service.add_verdict(**label.model_dump(), actor=actor)


@router.get(
    "/verdicts/export",
    tags=["verdicts"],
    response_class=FileResponse,
    responses={200: {"description": "Labelled flows.", "content": {kind: {} for kind in _EXPORTED.values()}}},
)
def export(service: Service, actor: Analyst, query: Annotated[asked.ExportQuery, Query()]) -> FileResponse:
    """Export the flows that analysts labelled, as training data.

    They are written to a temporary file first, in bounded memory, and sent from there.
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
    """List allow rules, expired ones too."""
    return Items(items=list(service.rules()))


@router.post("/rules", tags=["rules"], status_code=201)
def add_rule(service: Service, actor: Analyst, rule: asked.NewRule) -> RuleAdded:
    """Add an allow rule and apply it to the stored alerts, about 5 s a million."""
    added, n_changed = service.add_rule(rule.model_dump(), actor=actor)
    return RuleAdded(rule=added, n_changed=n_changed)


@router.post("/rules/preview", tags=["rules"])
def preview_rule(service: Service, _: Analyst, rule: asked.NewRule) -> views.Suggestion:
    """Count the alerts that an allow rule would suppress, without adding it."""
    return service.preview_rule(rule.model_dump())


@router.delete("/rules/{rule_id}", tags=["rules"], responses=ABSENT)
def remove_rule(service: Service, actor: Analyst, rule_id: asked.RuleId) -> NChanged:
    """Remove an allow rule and restore the alerts that it suppressed."""
    return NChanged(n_changed=service.remove_rule(rule_id, actor=actor))


# --- hosts -----------------------------------------------------------------------------------------------------------


@router.get("/hosts", tags=["hosts"], dependencies=[Depends(viewer)])
def hosts(service: Service, query: Annotated[asked.HostQuery, Query()]) -> Page[Host]:
    """List hosts that have incidents, the most urgent first."""
    return service.hosts(**query.model_dump())


@router.get("/hosts/{host}", tags=["hosts"], dependencies=[Depends(viewer)], responses=ABSENT)
def host(service: Service, host: asked.HostName) -> views.HostView:
    """Return a host in full: incidents, peers, destination ports."""
    found = service.host(host)
    return _there(found if found.known else None, "host", host)


# --- sources, drift --------------------------------------------------------------------------------------------------


@router.get("/sources", tags=["sources"], dependencies=[Depends(viewer)])
def sources(service: Service) -> views.SourcesView:
    """Return the state of sources and sinks: rates, delays, losses by reason, waiting alerts."""
    return service.sources()


@router.get("/drift", tags=["models"], dependencies=[Depends(viewer)])
def drift(service: Service, query: Annotated[asked.DriftQuery, Query()]) -> views.DriftView:
    """Compare recent flows with those of the model's training, or of its calibration."""
    return service.drift(**query.model_dump())


# --- models ----------------------------------------------------------------------------------------------------------


@router.get("/models", tags=["models"], dependencies=[Depends(viewer)])
def models(service: Service) -> views.ModelsView:
    """List models and their activations."""
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
    """Check a detector file and add it to the store, without activating it."""
    return service.add_model(read_model(file, name=query.name), actor=actor)


@router.post("/models/rollback", tags=["models"])
def roll_back(service: Service, actor: Admin, wanted: asked.RollBack) -> Activation:
    """Activate the model before the active one."""
    return service.rollback(actor=actor, note=wanted.note)


@router.get("/models/{model_id}", tags=["models"], dependencies=[Depends(viewer)], responses=ABSENT)
def model(service: Service, model_id: asked.ModelId) -> views.ModelView:
    """Return a model in full: card, thresholds, evaluation, drift."""
    return _there(service.model(model_id), "model", model_id)


@router.delete("/models/{model_id}", tags=["models"], status_code=204, responses=ABSENT)
def remove_model(service: Service, actor: Admin, model_id: asked.ModelId) -> None:
    """Delete a model's file; the history keeps its id."""
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
def activate(service: Service, actor: Admin, model_id: asked.ModelId, wanted: asked.Activate) -> Activation:
    """Activate a model; running detections switch to it within seconds.

    A comparison must have found it no worse than the active one, unless `force` is set; the history records that.
    """
    return service.activate(model_id, actor=actor, note=wanted.note, force=wanted.force)


# --- administration --------------------------------------------------------------------------------------------------


@router.get("/audit", tags=["administration"], dependencies=[Depends(admin)])
def audit(service: Service, query: Annotated[asked.PageQuery, Query()]) -> Page[AuditEntry]:
    """List the audit log, the newest first."""
    return service.audit(limit=query.limit, after=query.after)


@router.get("/tokens", tags=["administration"], dependencies=[Depends(admin)])
def tokens(service: Service) -> Items[Token]:
    """List tokens, without their secrets."""
    return Items(items=list(service.tokens()))


@router.post("/tokens", tags=["administration"], status_code=201)
def add_token(service: Service, actor: Admin, wanted: asked.NewTokenRequest) -> views.NewToken:
    """Create a token; only this answer has its secret."""
    return service.add_token(wanted.name, wanted.role, actor=actor, expires=wanted.expires)


@router.delete("/tokens/{token_id}", tags=["administration"], status_code=204, responses=ABSENT)
def revoke_token(service: Service, actor: Admin, token_id: asked.TokenId) -> None:
    """Revoke a token and end its sessions."""
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
    """Stream changes as server-sent events."""
    live: Live = request.app.state.live

    chunks = await live.stream(last_event_id or query.after, may=lambda: _may_go_on(request, actor))
    return StreamingResponse(
        chunks, media_type=STREAM, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )


async def _may_go_on(request: Request, actor: Actor) -> bool:
    """Return whether a client still has access; an open page does not extend its session."""
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

_ABOUT = f"""Everything that the pages show and do, for programs.

**Access.** Send a token of `deepidea tokens add`: `Authorization: Bearer dit_...`. Until a token has been created, the
server listens on loopback only and needs none. Each operation names the role that it requires (`x-role`): a viewer
reads, an analyst labels, an admin manages the server; each role includes those before it.

**Pages.** A list has `items` and `next`: send `next` as `after` to get the following page. It is null at the end.

**Errors** are problem details (RFC 9457): `detail` has the rule and the offending value.

**Concurrent changes.** Send the `version` of an incident with a change: if someone else has changed it since, the
answer is 409.

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
        "token": {"type": "http", "scheme": "bearer", "description": "A token of `deepidea tokens add`."},
        "session": {"type": "apiKey", "in": "cookie", "name": "deepidea", "description": "A browser's session."},
        "csrf": {
            "type": "apiKey",
            "in": "header",
            "name": "X-CSRF-Token",
            "description": "For changes in a session.",
        },
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
