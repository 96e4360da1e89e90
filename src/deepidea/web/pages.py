"""The pages: each reads from the service, makes its plots, and renders a template; a change redirects to a page.

The address of a page holds its filters, so it can be shared. Only plots and live updates need JavaScript. After a
change, the next page shows its result or its error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from typing import Annotated, Any, Literal, cast
from urllib.parse import quote, unquote

from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request
from fastapi.responses import RedirectResponse, Response

import deepidea
from deepidea.errors import DataError
from deepidea.store.access import Role
from deepidea.store.feedback import Subject, Verdict
from deepidea.store.headline import duration
from deepidea.store.incidents import IncidentOrder, IncidentStatus, VerdictFilter
from deepidea.web import evaluated, plots
from deepidea.web.access import Actor, admin, analyst, viewer
from deepidea.web.advice import next_steps
from deepidea.web.api import Admin, Analyst, ReadRoute, service_of
from deepidea.web.login import own_page
from deepidea.web.plots import Plot
from deepidea.web.rendering import plural, query, render
from deepidea.web.service import AnalystService, ChangedError
from deepidea.web.views import Overview, SourceView
from deepidea.web.windows import WindowName

router = APIRouter(include_in_schema=False, route_class=ReadRoute)

PER_PAGE = 50
FLOWS_PER_PAGE = 25
FEATURES_SHOWN = 15
WATCH = "deepidea detect capture.pcap --model site.idea"
FLASH = "deepidea_flash"
MOST_FLASH = 600
RULE_LASTS = timedelta(days=90)
RULE_FIELDS = ("src", "dst", "host", "peer", "port", "class", "expires", "note", "incident")

Text = Annotated[str, Query(max_length=500)]


# --- frame of all pages ----------------------------------------------------------------------------------------------

_NAV = (
    ("/", "overview", "Overview"),
    ("/incidents", "incidents", "Incidents"),
    ("/hosts", "hosts", "Hosts"),
    ("/model", "model", "Model"),
    ("/sources", "sources", "Sources"),
    ("/rules", "rules", "Allow rules"),
)
_ADMIN = (("/audit", "audit", "Audit log"), ("/tokens", "tokens", "Tokens"))


def _show(request: Request, name: str, *, status_code: int = 200, **context: Any) -> Response:
    """Return a page in its frame: navigation, result of the last action, number of urgent incidents."""
    actor: Actor = request.state.actor
    flash = _read_flash(request)
    page = render(
        request,
        name,
        status_code=status_code,
        nav=_nav(request, _NAV),
        nav_admin=_nav(request, _ADMIN) if actor.may("admin") else [],
        urgent=service_of(request).count_urgent(),
        flash=flash,
        version=deepidea.__version__,
        **context,
    )
    if flash is not None:
        page.delete_cookie(FLASH)
    return page


def _nav(request: Request, entries: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    at = request.url.path
    return [
        {"href": href, "icon": icon, "name": name, "here": at == href or (href != "/" and at.startswith(f"{href}/"))}
        for href, icon, name in entries
    ]


def _after(target: str, done: Callable[[], str]) -> Response:
    """Make a change, and redirect to a page that shows its result or its error."""
    try:
        kind, text = "good", done()
    except (DataError, ChangedError) as error:
        kind, text = "bad", str(error)
    answer = RedirectResponse(own_page(target), 303)
    answer.set_cookie(FLASH, quote(f"{kind}:{text[:MOST_FLASH]}"), max_age=60, httponly=True, samesite="strict")
    return answer


def _read_flash(request: Request) -> dict[str, str] | None:
    kind, _, text = unquote(request.cookies.get(FLASH, "")).partition(":")
    return {"kind": kind, "text": text} if kind in ("good", "bad") and text else None


def _here(request: Request) -> str:
    """Return the requested address of a page."""
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def _figures(**drawn: Plot | None) -> dict[str, Any]:
    return {key: plot.figure for key, plot in drawn.items() if plot is not None}


# --- overview --------------------------------------------------------------------------------------------------------


@router.get("/", dependencies=[Depends(viewer)])
def overview(request: Request, window: WindowName = "24h") -> Response:
    """Show an overview of the network."""
    view = service_of(request).overview(window)
    alerts, flows = plots.by_class(view.alerts), plots.rates_plot(view.flows)
    losses = _losses(view.sources)
    return _show(
        request,
        "overview.html",
        view=view,
        window=window,
        params={"window": window},
        is_empty=not view.sources and not view.n_incidents,
        command=WATCH,
        alerts=alerts,
        flows=flows,
        figures_of=_figures(alerts=alerts, flows=flows),
        step=duration(view.alerts.step_s),
        flows_per_s=_flows_per_s(view),
        losses=losses[:8],
        n_lost=sum(loss["n"] for loss in losses),
        most_alerts=max([1, *(row.n_alerts for row in view.hosts)]),
    )


def _flows_per_s(view: Overview) -> float:
    return sum(source.flows_per_s or 0.0 for source in view.sources if source.health != "stopped")


def _losses(sources: Sequence[SourceView]) -> list[dict[str, Any]]:
    """Return skipped and dropped records by source and reason, the most first."""
    kinds: tuple[Literal["skipped", "dropped"], ...] = ("skipped", "dropped")
    losses = [
        {"source": source.name, "kind": kind, "reason": reason, "n": n}
        for source in sources
        for kind in kinds
        for reason, n in getattr(source, kind).items()
    ]
    return sorted(losses, key=lambda loss: (-loss["n"], loss["reason"]))


# --- incidents -------------------------------------------------------------------------------------------------------


@router.get("/incidents", dependencies=[Depends(viewer)])
def incidents(
    request: Request,
    q: Text = "",
    severity: Text = "",
    status: Text = "",
    class_name: Annotated[str, Query(alias="class", max_length=200)] = "",
    verdict: Text = "",
    host: Text = "",
    window: WindowName | None = None,
    order: Text = "",
    after: Text = "",
) -> Response:
    """List incidents that match filters, page by page."""
    given = {"q": q, "severity": severity, "status": status, "class": class_name, "verdict": verdict, "host": host}
    params = {**given, "window": window, "order": order, "after": after}
    view = service_of(request).incidents(
        search=q or None,
        **_by_severity(severity),
        status=cast(IncidentStatus, status) if status else None,
        class_name=class_name or None,
        verdict=cast(VerdictFilter, verdict) if verdict else None,
        host=host or None,
        window=window,
        order=cast(IncidentOrder, order or "latest"),
        limit=PER_PAGE,
        after=after or None,
    )
    classes = [("", "Any"), *((name, name) for name in service_of(request).class_names())]
    return _show(
        request,
        "incidents.html",
        view=view,
        params=params,
        class_options=classes,
        is_filtered=any((*given.values(), window)),
        first_page="/incidents" + query(params, after=None),
        older="/incidents" + query(params, after=view.next) if view.next else None,
        shown=plural(len(view.items), "incident"),
        here=_here(request),
        command=WATCH,
    )


def _by_severity(text: str) -> dict[str, Any]:
    """Return the filter of a severity: ``2`` matches high and more urgent, ``only-2`` high alone."""
    name, _, number = text.rpartition("-")
    known = name in ("", "only") and number in ("1", "2", "3", "4")
    return {"only" if name else "severity": int(number)} if known else {}


@router.get("/incidents/{incident_id}", dependencies=[Depends(viewer)])
def incident(request: Request, incident_id: str, flow: Text = "", after: Text = "") -> Response:
    """Show an incident in full; ``flow`` is the id of the alert that is expanded in its table."""
    service = service_of(request)
    found = service.incident_with_alerts(incident_id, limit=FLOWS_PER_PAGE, after=after or None)
    if found is None:
        raise HTTPException(404, "no such incident is in the store")
    view, alerts = found
    current = view.incident.incident_id
    if current != incident_id:
        return RedirectResponse(f"/incidents/{quote(current, safe='')}", 303)
    base, timeline = f"/incidents/{current}", plots.counts_plot(view.series, "alerts")
    opened = flow if any(row.alert_id == flow for row in alerts.items) else ""
    suggestion = view.suggestions[0] if view.suggestions else None
    return _show(
        request,
        "incident.html",
        view=view,
        alerts=alerts,
        opened=opened,
        opened_why=service.why(opened) if opened else None,
        opened_eve=_spread(service.eve(opened)) if opened else "",
        flow_links={row.alert_id: _flow_link(base, row.alert_id, opened, after) for row in alerts.items},
        next_steps=next_steps(view),
        timeline=timeline,
        figures_of=_figures(timeline=timeline),
        step=duration(view.series.step_s),
        last_form="clock" if view.incident.first.date() == view.incident.last.date() else "full",
        suggestion=suggestion,
        suggested=_suggested(current, {} if suggestion is None else suggestion.rule),
        class_names=service.class_names(),
        after=after,
        older=f"{base}{query({'after': alerts.next})}#h-flows" if alerts.next else None,
        first_page=f"{base}#h-flows",
        shown=plural(len(alerts.items), "flow"),
    )


def _spread(line: str | None) -> str:
    """Return a JSON line indented."""
    return "" if line is None else json.dumps(json.loads(line), indent=1, ensure_ascii=False)


def _flow_link(base: str, alert_id: str, opened: str, after: str) -> str:
    """Return the link that expands a flow, or collapses the expanded one."""
    if alert_id == opened:
        return f"{base}{query({'after': after})}#h-flows"
    return f"{base}{query({'after': after, 'flow': alert_id})}#flow"


@router.post("/incidents")
def set_statuses(
    request: Request,
    actor: Analyst,
    status: Annotated[str, Form()],
    id: Annotated[list[str] | None, Form()] = None,
    back: Annotated[str, Form()] = "/incidents",
) -> Response:
    """Set the status of several incidents."""
    ids = id or []

    def done() -> str:
        if not ids:
            raise DataError("no incident is selected; tick some first")
        service_of(request).set_status(ids, cast(IncidentStatus, status), actor=actor)
        return f"{plural(len(ids), 'incident')} {_PAST.get(status, status)}"

    return _after(back, done)


_PAST = {
    "acknowledged": "acknowledged",
    "closed": "closed",
    "open": "reopened",
    "false_alarm": "marked a false alarm",
}


@router.post("/incidents/{incident_id}/status")
def set_status(
    request: Request,
    actor: Analyst,
    incident_id: str,
    status: Annotated[str, Form()],
    version: Annotated[int | None, Form()] = None,
) -> Response:
    """Set the status of an incident, unless someone else has changed it meanwhile."""

    def done() -> str:
        versions = {} if version is None else {incident_id: version}
        service_of(request).set_status([incident_id], cast(IncidentStatus, status), actor=actor, versions=versions)
        return f"Incident {_PAST.get(status, status)}"

    return _after(_incident_page(incident_id), done)


@router.post("/incidents/{incident_id}/note")
def set_note(
    request: Request,
    actor: Analyst,
    incident_id: str,
    note: Annotated[str, Form()] = "",
    version: Annotated[int | None, Form()] = None,
) -> Response:
    """Set the note of an incident, unless someone else has changed it meanwhile."""

    def done() -> str:
        service_of(request).change_incident(incident_id, note=note, actor=actor, version=version)
        return "Note saved"

    return _after(_incident_page(incident_id), done)


@router.post("/incidents/{incident_id}/verdict")
def add_verdict(
    request: Request,
    actor: Analyst,
    incident_id: str,
    verdict: Annotated[str, Form()],
    class_name: Annotated[str, Form()] = "",
    note: Annotated[str, Form()] = "",
    alert: Annotated[str, Form()] = "",
) -> Response:
    """Label an incident, or one of its alerts."""

    def done() -> str:
        subject: Subject = "alert" if alert else "incident"
        named = class_name.strip() if verdict == "true_positive" else ""
        service_of(request).add_verdict(
            subject, alert or incident_id, cast(Verdict, verdict), actor=actor, class_name=named or None, note=note
        )
        return "Label saved" + ("" if verdict == "unsure" else "; the next training uses it")

    return _after(_incident_page(incident_id) + (query({"flow": alert}) + "#flow" if alert else ""), done)


def _incident_page(incident_id: str) -> str:
    return f"/incidents/{quote(incident_id, safe='')}"


# --- hosts -----------------------------------------------------------------------------------------------------------


@router.get("/hosts", dependencies=[Depends(viewer)])
def hosts(request: Request, q: Text = "", window: WindowName | None = None, after: Text = "") -> Response:
    """List hosts of incidents, the most urgent first."""
    params = {"q": q, "window": window, "after": after}
    view = service_of(request).hosts(search=q, window=window, limit=PER_PAGE, after=after or None)
    return _show(
        request,
        "hosts.html",
        view=view,
        params=params,
        most_alerts=max([1, *(row.n_alerts for row in view.items)]),
        older="/hosts" + query(params, after=view.next) if view.next else None,
        first_page="/hosts" + query(params, after=None),
        command=WATCH,
    )


@router.get("/hosts/{host:path}", dependencies=[Depends(viewer)])
def host(request: Request, host: str, window: WindowName = "all", after: Text = "") -> Response:
    """Show a host: incidents, peers, destination ports."""
    view = service_of(request).host(host, window=window, limit=FLOWS_PER_PAGE, after=after or None)
    base, activity = "/hosts/" + quote(host, safe=""), plots.counts_plot(view.series, next(iter(view.series.lines)))
    return _show(
        request,
        "host.html",
        view=view,
        window=window,
        after=after,
        here=base,
        worst=min((row.severity for row in view.incidents.items), default=None),
        activity=activity,
        figures_of=_figures(host=activity),
        step=duration(view.series.step_s),
        older=base + query({"window": window, "after": view.incidents.next}) if view.incidents.next else None,
        first_page=base + query({"window": window}),
    )


# --- sources and sinks -----------------------------------------------------------------------------------------------


@router.get("/sources", dependencies=[Depends(viewer)])
def sources(request: Request) -> Response:
    """Show sources, sinks and their health."""
    view = service_of(request).sources()
    return _show(request, "sources.html", view=view, losses=_losses(view.sources), command=WATCH)


# --- allow rules -----------------------------------------------------------------------------------------------------


def _rule_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Return all fields of a rule's form."""
    given = {"class": values.get("class_name"), **values}
    return {name: str(given.get(name) or "") for name in RULE_FIELDS}


def _suggested(incident_id: str, rule: Mapping[str, str]) -> dict[str, str]:
    """Return the initial form of an incident's rule, with an expiry and a note about its origin."""
    ends = datetime.now(UTC).date() + RULE_LASTS
    return _rule_of({**rule, "expires": ends.isoformat(), "note": f"From incident {incident_id[:12]}"})


def _rule_entry(rule: Mapping[str, str]) -> dict[str, str]:
    """Return the filled-in fields of a form, for the service."""
    return {name: value.strip() for name, value in rule.items() if value.strip() and name != "incident"}


@router.get("/rules", dependencies=[Depends(viewer)])
def rules(request: Request) -> Response:
    """List allow rules."""
    return _show(request, "rules.html", rules=service_of(request).rules())


@router.get("/rules/new", dependencies=[Depends(analyst)])
def new_rule(request: Request) -> Response:
    """Preview a rule: the alerts that it would suppress."""
    rule, preview, fault = _rule_of(request.query_params), None, ""
    entry = _rule_entry(rule)
    if entry:
        try:
            preview = service_of(request).preview_rule(entry, incident_id=rule["incident"] or None)
        except DataError as error:
            fault = str(error)
    return _show(request, "rule_new.html", rule=rule, preview=preview, fault=fault)


@router.post("/rules")
def add_rule(
    request: Request,
    actor: Analyst,
    src: Annotated[str, Form()] = "",
    dst: Annotated[str, Form()] = "",
    host: Annotated[str, Form()] = "",
    peer: Annotated[str, Form()] = "",
    port: Annotated[str, Form()] = "",
    class_name: Annotated[str, Form(alias="class")] = "",
    expires: Annotated[str, Form()] = "",
    note: Annotated[str, Form()] = "",
) -> Response:
    """Add an allow rule."""
    given = {"src": src, "dst": dst, "host": host, "peer": peer, "port": port, "class": class_name}
    entry = _rule_entry({**given, "expires": expires, "note": note})

    def done() -> str:
        _, n_alerts = service_of(request).add_rule(entry, actor=actor)
        return f"Rule added; {plural(n_alerts, 'stored alert')} suppressed"

    return _after("/rules", done)


@router.post("/rules/{rule_id}/remove")
def remove_rule(request: Request, actor: Analyst, rule_id: str) -> Response:
    """Remove an allow rule."""

    def done() -> str:
        n_alerts = service_of(request).remove_rule(rule_id, actor=actor)
        return f"Rule removed; {plural(n_alerts, 'alert')} restored"

    return _after("/rules", done)


# --- models ----------------------------------------------------------------------------------------------------------


@router.get("/model", dependencies=[Depends(viewer)])
def model(request: Request, features: Literal["", "all"] = "") -> Response:
    """Show the detector in use: card, evaluation, drift, and the stored models."""
    service = service_of(request)
    models, view, drift = service.models(), service.model(), service.drift()
    hours = [hour for hour in drift.hours if hour.score is not None]
    drift_plot = plots.drift_plot(drift.hours) if len(hours) > 1 else None
    shown = [] if view is None else evaluated.plots_of(view)
    return _show(
        request,
        "model.html",
        view=view,
        models=models,
        drift=drift,
        drift_plot=drift_plot,
        facts=[] if view is None else evaluated.facts_of(view),
        evaluation=None if view is None else evaluated.summary_of(view),
        shown_plots=shown,
        figures_of={**_figures(drift=drift_plot), **{each["key"]: each["plot"].figure for each in shown}},
        most_psi=max([0.5, *(feature.psi for feature in drift.features)]),
        n_features=len(drift.features) if features else FEATURES_SHOWN,
    )


@router.get("/models/rollback", dependencies=[Depends(admin)])
def confirm_rollback(request: Request) -> Response:
    """Confirm a rollback to the previous model."""
    view = {
        "title": "Roll back to the previous model?",
        "facts": [("Active now", _named_active(service_of(request)))],
        "refused": "",
        "action": "/models/rollback",
        "button": "Roll back",
    }
    return _show(request, "model_confirm.html", view=view)


def _named_active(service: AnalystService) -> str:
    return next((row.name or row.model_id for row in service.models().items if row.active), "none")


@router.post("/models/rollback")
def roll_back(request: Request, actor: Admin, note: Annotated[str, Form()] = "") -> Response:
    """Activate the model before the active one."""

    def done() -> str:
        service_of(request).rollback(actor=actor, note=note)
        return f"{_named_active(service_of(request))} is active again"

    return _after("/model#models", done)


@router.get("/models/{model_id}/activate", dependencies=[Depends(admin)])
def confirm_activation(request: Request, model_id: str) -> Response:
    """Confirm an activation; show why it is refused, if it is."""
    service = service_of(request)
    row = next((row for row in service.models().items if row.model_id == model_id), None)
    if row is None:
        raise HTTPException(404, "there is no such model")
    compared = row.comparison
    facts = [("To activate", f"{row.name or row.model_id} ({row.model_id})"), ("Active now", _named_active(service))]
    view = {
        "title": "Activate this model?",
        "facts": [*facts, *([("Compared", f"{compared.verdict}: {compared.reason}")] if compared is not None else [])],
        "refused": service.activation_fault(model_id),
        "action": f"/models/{quote(model_id, safe='')}/activate",
        "button": "Activate",
    }
    return _show(request, "model_confirm.html", view=view)


@router.post("/models/{model_id}/activate")
def activate(
    request: Request,
    actor: Admin,
    model_id: str,
    note: Annotated[str, Form()] = "",
    force: Annotated[str, Form()] = "",
) -> Response:
    """Activate a model."""

    def done() -> str:
        service_of(request).activate(model_id, actor=actor, note=note, force=force == "yes")
        return f"{_named_active(service_of(request))} is active; running detections switch to it within seconds"

    return _after("/model#models", done)


# --- administration --------------------------------------------------------------------------------------------------


@router.get("/audit", dependencies=[Depends(admin)])
def audit(request: Request, after: Text = "") -> Response:
    """Show the audit log: changes and refusals."""
    view = service_of(request).audit(limit=2 * PER_PAGE, after=after or None)
    older = f"/audit{query({'after': view.next})}" if view.next else None
    shown = plural(len(view.items), "entry", "entries")
    return _show(request, "audit.html", view=view, after=after, older=older, shown=shown)


@router.get("/tokens", dependencies=[Depends(admin)])
def tokens(request: Request) -> Response:
    """List tokens."""
    return _show(request, "tokens.html", tokens=service_of(request).tokens(), made=None)


@router.post("/tokens")
def add_token(
    request: Request,
    actor: Admin,
    name: Annotated[str, Form()],
    role: Annotated[str, Form()],
    expires: Annotated[str, Form()] = "",
) -> Response:
    """Create a token and show its secret once: in the answer itself, without a redirect."""
    try:
        made = service_of(request).add_token(name.strip(), cast(Role, role), actor=actor, expires=_end_of(expires))
    except DataError as error:
        fault = error
        return _after("/tokens", lambda: _raise(fault))
    return _show(request, "tokens.html", tokens=service_of(request).tokens(), made=made)


def _raise(error: DataError) -> str:
    raise error


def _end_of(day: str) -> datetime | None:
    """Return the end of the day in a form."""
    try:
        return datetime.combine(date.fromisoformat(day), clock.max, UTC) if day else None
    except ValueError:
        raise DataError(f"a token must end on a day such as 2027-01-31, got {day!r}") from None


@router.post("/tokens/{token_id}/revoke")
def revoke_token(request: Request, actor: Admin, token_id: str) -> Response:
    """Revoke a token and end its sessions."""

    def done() -> str:
        service_of(request).revoke_token(token_id, actor=actor)
        return "Token revoked, its sessions ended"

    return _after("/tokens", done)
