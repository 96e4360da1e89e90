"""Queries and changes of a store for page, API and command line, one transaction each.

Queries return records of the store and of :mod:`deepidea.web.views`. A change and its audit entry are one transaction.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, Unpack

import polars as pl
import sqlalchemy as sa

from deepidea.detection.drift import stored_drift
from deepidea.detection.feedback_export import export_feedback
from deepidea.detection.sinks.formats.rendering import render
from deepidea.errors import DataError, DeepIDEAError
from deepidea.flows.writing import Format, format_of
from deepidea.model.detector import Detector
from deepidea.store import (
    access,
    alerts,
    audit,
    deliveries,
    engines,
    feedback,
    hosts,
    incidents,
    models,
    retention,
    rules,
    series,
    sources,
)
from deepidea.store.access import Role, Token
from deepidea.store.alert_columns import ALERT_COLUMNS, SEVERITIES
from deepidea.store.alerts import Alert, AlertFilters, alert_of, probabilities_of, severity_name
from deepidea.store.allow_rules import AllowRule, rule_from
from deepidea.store.audit import Action, AuditEntry
from deepidea.store.drift import Against
from deepidea.store.feedback import Feedback, Subject, Verdict, check_verdict
from deepidea.store.hosts import Host
from deepidea.store.incidents import Activity, FullIncident, Incident, IncidentFilters, IncidentOrder, IncidentStatus
from deepidea.store.labelled_alerts import LabelledCounts
from deepidea.store.models import Activation, NewModel, StoredModel
from deepidea.store.rules import Rule
from deepidea.store.statements import Page
from deepidea.store.store import Store
from deepidea.web import views
from deepidea.web.explaining import Explainers, feature_values
from deepidea.web.model_cards import Cards
from deepidea.web.status import health_of, sinks_of, sources_of
from deepidea.web.suggesting import suggestions_for
from deepidea.web.windows import FINE_STEPS_S, Window, step_of, window_of

MOST_ROWS = 500
MOST_IN_BULK = 500
MOST_CLASSES = 12  # lines of a plot; the others are one
MOST_OF_HOST = 10  # other incidents of a host beside one
OTHER = "other classes"
CLASSES_EVERY_S = 10.0  # the list of classes is read again after this: it takes a pass over the counts of all minutes


class Actor(Protocol):
    """Who makes a change, for the audit log."""

    @property
    def name(self) -> str:
        """Name of the token, or of the login on the command line."""

    @property
    def address(self) -> str:
        """IP address of the client; ``command line`` there."""


class NotThereError(DataError):
    """The requested subject is not in the store (HTTP 404)."""

    status = 404


class ChangedError(DeepIDEAError):
    """Someone else has changed it meanwhile (HTTP 409)."""

    status = 409


class AnalystService:
    """Queries and changes for page, API and command line.

    Methods that read are one read transaction, or join the one that the thread has open (:meth:`Store.read`).

    Parameters
    ----------
    store : Store
        The caller closes it.
    detector : Detector, optional
        Running from a file: it explains its alerts, and is listed among the models.
    detector_name : str
        Name of its file.
    sink_errors : callable, optional
        Returns the last errors of the sinks of this process that reject alerts, by sink.

    Examples
    --------
    >>> import tempfile
    >>> from deepidea.store.store import open_store
    >>> store = open_store(f"sqlite:///{tempfile.mkdtemp()}/alerts.db")
    >>> service = AnalystService(store)
    >>> service.incidents().items, service.overview("24h").n_open
    ((), 0)
    >>> store.close()
    """

    def __init__(
        self,
        store: Store,
        *,
        detector: Detector | None = None,
        detector_name: str = "",
        sink_errors: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.store = store
        self._sink_errors = sink_errors
        self._class_names: tuple[float, tuple[str, ...]] = (0.0, ())
        self._cards = Cards(store, detector, detector_name)
        self._explainers = Explainers(self._cards)

    # --- windows -----------------------------------------------------------------------------------------------------

    def window(self, name: str = "24h", *, since: datetime | None = None, until: datetime | None = None) -> Window:
        """Return a time window by its name or bounds; see :func:`deepidea.web.windows.window_of`."""
        oldest, newest = self.store.query(series.extent)
        return window_of(name, since=since, until=until, newest=newest, oldest=oldest)

    def _window(self, window: Window | str) -> Window:
        return window if isinstance(window, Window) else self.window(window)

    def _times(
        self, window: Window | str | None, since: datetime | None, until: datetime | None
    ) -> tuple[datetime | None, datetime | None]:
        if window is None:
            return since, until
        span = _span(self._window(window))
        return span["since"], span["until"]

    # --- overview ----------------------------------------------------------------------------------------------------

    def overview(self, window: Window | str = "24h") -> views.Overview:
        """Return an overview of the network."""
        with self.store.read() as connection:
            window = self._window(window)
            span = _span(window)
            severities = _severities(incidents.severity_counts(connection, **span))
            alert_lines, flow_lines = self.alert_series(window), self.flow_series(window)
            since, until = span["since"], span["until"]
            urgent = incidents.find(connection, status="open", order="severity", limit=10, since=since, until=until)
            page = hosts.find(connection, limit=10, since=since, until=until)
            status = self.sources()
            light = self.drift_light()
        return views.Overview(
            window=window,
            severities=severities,
            n_incidents=sum(row.n_incidents for row in severities),
            n_open=sum(row.n_open for row in severities),
            n_alerts=sum(sum(line) for line in alert_lines.lines.values()),
            n_flows=sum(flow_lines.lines["flows"]),
            alerts=alert_lines,
            flows=flow_lines,
            hosts=page.items,
            incidents=urgent.items,
            sources=status.sources,
            drift=light,
            health=status.health,
            health_message=status.message,
        )

    def alert_series(self, window: Window | str = "24h") -> views.Series:
        """Return alerts over time by class, the most frequent first; beyond a dozen, the rest is one line."""
        window = self._window(window)
        rows = self.store.query(series.alerts, window.since, window.until, step_s=window.step_s)
        ranked = sorted(rows, key=lambda name: (-sum(rows[name].values()), name))
        if len(ranked) > MOST_CLASSES:
            rows[OTHER] = _summed([rows[name] for name in ranked[MOST_CLASSES - 1 :]])
            ranked = [*ranked[: MOST_CLASSES - 1], OTHER]
        return views.series_of(window.step_s, window.times, rows, ranked)

    def flow_series(self, window: Window | str = "24h", *, source: str | None = None) -> views.Series:
        """Return flows and the alerts among them over time, of one source or of all."""
        window = self._window(window)
        rows = self.store.query(series.flows, window.since, window.until, step_s=window.step_s, source=source)
        return views.series_of(window.step_s, window.times, rows, ("flows", "alerts"))

    # --- incidents ---------------------------------------------------------------------------------------------------

    def incidents(
        self,
        *,
        order: IncidentOrder = "latest",
        limit: int = 50,
        after: str | None = None,
        window: Window | str | None = None,
        **filters: Unpack[IncidentFilters],
    ) -> views.IncidentPage:
        """Return a page of incidents; filters as of :func:`deepidea.store.incidents.find`.

        ``window`` replaces ``since`` and ``until``.
        """
        with self.store.read() as connection:
            filters["since"], filters["until"] = self._times(window, filters.get("since"), filters.get("until"))
            page = incidents.find(connection, order=order, limit=min(limit, MOST_ROWS), after=after, **filters)
            return views.IncidentPage(page.items, page.next, incidents.count(connection, **filters))

    def count_urgent(self) -> int:
        """Return the number of open incidents of severity critical or high."""
        return self.store.query(incidents.count, status="open", severity=2)

    def incident(self, incident_id: str, *, why: bool = True) -> views.IncidentView | None:
        """Return an incident in full, None where the store has none.

        Parameters
        ----------
        incident_id : str
        why : bool
            Whether to explain the strongest alert: milliseconds, and at first the loading of its detector.
        """
        with self.store.read() as connection:
            full = incidents.get_full(connection, incident_id)
            return None if full is None else self._view(connection, full, why=why)

    def incident_with_alerts(
        self, incident_id: str, *, limit: int, after: str | None = None
    ) -> tuple[views.IncidentView, Page[Alert]] | None:
        """Return an incident in full and a page of its alerts, the latest first."""
        with self.store.read() as connection:
            full = incidents.get_full(connection, incident_id)
            if full is None:
                return None
            page = alerts.of_known_incident(
                connection, *full.extent, full.incident.verdict, limit=min(limit, MOST_ROWS), after=after
            )
            return self._view(connection, full, why=True), page

    def _view(self, connection: sa.Connection, full: FullIncident, *, why: bool) -> views.IncidentView:
        shown = full.incident
        found = alerts.strongest(connection, *full.extent)
        reasons = self._explainers.why(found[0]) if why and found is not None else None
        step_s = step_of(shown.last - shown.first + timedelta(microseconds=1), steps_s=FINE_STEPS_S)
        activity = incidents.activity(connection, *full.extent, step_s=step_s)
        others = incidents.latest_of_host(connection, shown.host, MOST_OF_HOST + 1)
        findings, n_findings = ([], 0) if shown.behaviour is None else alerts.strongest_findings(
            connection, *full.extent, limit=views.MOST_FINDINGS)  # fmt: skip
        return views.IncidentView(
            incident=shown,
            hosts=views.listed_of(full.hosts, shown.n_hosts),
            ports=views.listed_of(full.ports, shown.n_ports),
            series=_activity_series(shown, activity, step_s),
            strongest=None if found is None else alert_of(found[0], found[1] or shown.verdict),
            why=reasons,
            unusual=_unusual(found[0] if found else None, reasons),
            history=self._history(connection, "incident", shown.incident_id),
            log=audit.find(connection, subject=shown.incident_id, limit=50).items,
            suggestions=suggestions_for(connection, full),
            same_host=tuple(one for one in others if one.incident_id != shown.incident_id)[:MOST_OF_HOST],
            sources=_counted(activity.by_source),
            findings=tuple(findings),
            n_findings=n_findings,
        )

    def class_names(self) -> tuple[str, ...]:
        """Return the classes of alerts and models, for filters and labels; read again every few seconds."""
        until, names = self._class_names
        if time.monotonic() >= until:
            names = tuple(sorted({*self.store.query(alerts.classes), *self._cards.classes()}))
            self._class_names = (time.monotonic() + CLASSES_EVERY_S, names)
        return names

    def _history(self, connection: sa.Connection, subject: Subject, subject_id: str) -> tuple[Feedback, ...]:
        return feedback.find(connection, subject=subject, subject_id=subject_id, limit=MOST_ROWS).items

    # --- alerts ------------------------------------------------------------------------------------------------------

    def alerts(
        self,
        *,
        limit: int = 50,
        after: str | None = None,
        incident: str | None = None,
        suppressed: bool | None = False,
        **filters: Unpack[AlertFilters],
    ) -> Page[Alert]:
        """Return a page of alerts, the latest first; filters as of :func:`deepidea.store.alerts.find`."""
        return self.store.query(
            alerts.find,
            limit=min(limit, MOST_ROWS),
            after=after,
            incident=incident,
            suppressed=suppressed,
            **filters,
        )

    def alert(self, alert_id: str) -> views.AlertView | None:
        """Return an alert in full, None where the store has none."""
        with self.store.read() as connection:
            found = alerts.get_row(connection, alert_id)
            if found is None:
                return None
            row, verdict = found
            incident_id = feedback.incidents_of(connection, [alert_id]).get(alert_id)
            if verdict is None and incident_id is not None:
                verdict = feedback.newest(connection, "incident", [incident_id]).get(incident_id)
            return views.AlertView(
                alert=alert_of(row, verdict),
                incident_id=incident_id,
                probabilities=probabilities_of(row["probabilities"]),
                features=feature_values(self._cards.detector(row["model"] or ""), row["features"]),
                history=self._history(connection, "alert", alert_id),
            )

    def eve(self, alert_id: str) -> str | None:
        """Return an alert in Suricata's format, one JSON object (EVE); None where the store has none."""
        found = self.store.query(alerts.get_row, alert_id)
        if found is None:
            return None
        row = {name: found[0][name] for name in ALERT_COLUMNS}
        return render(pl.DataFrame([row], schema=pl.Schema(ALERT_COLUMNS)), "eve")[0]

    def why(self, alert_id: str) -> views.WhyView | None:
        """Return the explanation of an alert, None where the store has no such alert."""
        with self.store.read() as connection:
            found = alerts.get_row(connection, alert_id)
            return None if found is None else self._explainers.why(found[0])

    # --- hosts -------------------------------------------------------------------------------------------------------

    def hosts(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        search: str = "",
        limit: int = 50,
        after: str | None = None,
        window: Window | str | None = None,
    ) -> Page[Host]:
        """Return a page of hosts with incidents, the most urgent first; ``window`` replaces the two times."""
        with self.store.read() as connection:
            since, until = self._times(window, since, until)
            limit = min(limit, MOST_ROWS)
            return hosts.find(connection, since=since, until=until, search=search, limit=limit, after=after)

    def host(
        self, host: str, *, window: Window | str = "all", limit: int = 20, after: str | None = None
    ) -> views.HostView:
        """Return a host with a page of its incidents and its alerts within a window; ``known`` is False without any."""
        with self.store.read() as connection:
            window = self._window(window)
            summary = hosts.summary(connection, host)
            page = self.incidents(host=host, limit=limit, after=after)
            counts = hosts.series(connection, host, window.since, window.until, step_s=window.step_s)
        return views.HostView(
            host=host,
            known=bool(summary.n_as_source or summary.n_as_target or page.total),
            first=summary.first,
            last=summary.last,
            n_alerts=summary.n_as_source + summary.n_as_target,
            n_as_source=summary.n_as_source,
            n_as_target=summary.n_as_target,
            peers=_counted(summary.peers),
            ports=_counted(summary.ports),
            classes=_counted(summary.classes),
            incidents=page,
            series=views.series_of(window.step_s, window.times, {"alerts": counts}, ("alerts",)),
            window=window,
        )

    # --- sources, models, drift --------------------------------------------------------------------------------------

    def sources(self) -> views.SourcesView:
        """Return the status of sources, sinks and the store."""
        with self.store.read() as connection:
            states = engines.latest(connection)
            of_sources = sources_of(sources.counters(connection), states, now=datetime.now(UTC))
            of_sinks = sinks_of(deliveries.counters(connection), states, self._sink_errors())
        return views.SourcesView(of_sources, of_sinks, self.store.url, *health_of(of_sources, of_sinks))

    def models(self) -> views.ModelsView:
        """Return the models of the store, those that run from files, and the history of activations."""
        with self.store.read():
            return self._cards.models()

    def model(self, model_id: str | None = None) -> views.ModelView | None:
        """Return a model in full, by id or fingerprint; by default the active one, else a running one."""
        with self.store.read():
            return self._cards.view(model_id, self.drift_light)

    def model_file(self, model_id: str) -> bytes:
        """Return the bytes of a stored model's file."""
        with self.store.read() as connection:
            _stored_model(connection, model_id)
            return models.file(connection, model_id)

    def drift(
        self,
        *,
        model: str | None = None,
        source: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        against: Against | None = None,
    ) -> views.DriftView:
        """Return the drift of recent flows from those of training; see ``stored_drift``."""
        report = self.store.query(stored_drift, model=model, source=source, since=since, until=until, against=against)
        return views.drift_view(report)

    def drift_light(self, model: str | None = None) -> views.DriftLight:
        """Return traffic light and sentence of a drift report."""
        report = self.store.query(stored_drift, model=model)
        return views.DriftLight(report.light, report.sentence)

    # --- rules, verdicts, audit, tokens ------------------------------------------------------------------------------

    def rules(self) -> list[Rule]:
        """Return the allow rules, expired ones too, with the number of alerts that each suppresses."""
        return self.store.query(rules.find)

    def verdicts(
        self, *, subject: Subject | None = None, analyst: str | None = None, limit: int = 50, after: str | None = None
    ) -> Page[Feedback]:
        """Return a page of verdicts, the newest first."""
        limit = min(limit, MOST_ROWS)
        return self.store.query(feedback.find, subject=subject, analyst=analyst, limit=limit, after=after)

    def audit(self, *, limit: int = 50, after: str | None = None) -> Page[AuditEntry]:
        """Return a page of the audit log, the newest first."""
        return self.store.query(audit.find, limit=min(limit, MOST_ROWS), after=after)

    def tokens(self) -> list[Token]:
        """Return the tokens, invalid ones too."""
        return self.store.query(access.tokens)

    # --- changes -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _change(
        self, actor: Actor, action: Action, subject: str = "", /, **detail: Any
    ) -> Iterator[tuple[sa.Connection, dict[str, Any]]]:
        """Open a write transaction that ends with an audit entry; the block may add to its detail."""
        with self.store.write() as connection:
            yield connection, detail
            audit.write(connection, actor.name, action, subject, detail=detail, address=actor.address)

    def set_status(
        self,
        incident_ids: Sequence[str],
        status: IncidentStatus,
        *,
        actor: Actor,
        note: str | None = None,
        versions: Mapping[str, int] | None = None,
    ) -> tuple[Incident, ...]:
        """Set the status of incidents, of all or of none.

        Parameters
        ----------
        incident_ids : sequence of str
        status : {"open", "acknowledged", "closed", "false_alarm"}
        actor : Actor
        note : str, optional
            Replaces the note of each.
        versions : mapping of incident id to int, optional
            ``version`` of incidents as the client has seen them.

        Raises
        ------
        NotThereError
            An incident is not in the store.
        ChangedError
            Status or note of one has changed since that version.
        DataError
            The status is unknown, no or too many incidents are named, or the note is too long.
        """
        given = list(dict.fromkeys(incident_ids))
        _check_bulk(given)
        _check_note(note)
        with self.store.write() as connection:
            found = [_known_incident(connection, one, (versions or {}).get(one)) for one in given]
            return tuple(
                self._set_state(connection, one, status, one.note if note is None else note, actor) for one in found
            )

    def change_incident(
        self,
        incident_id: str,
        *,
        actor: Actor,
        status: IncidentStatus | None = None,
        note: str | None = None,
        version: int | None = None,
    ) -> Incident:
        """Set status, note or both of an incident. Errors as of :meth:`set_status`."""
        _check_note(note)
        with self.store.write() as connection:
            found = _known_incident(connection, incident_id, version)
            if status is None and note is None:
                return found
            return self._set_state(
                connection, found, status or found.status, found.note if note is None else note, actor
            )

    def _set_state(
        self, connection: sa.Connection, before: Incident, status: IncidentStatus, note: str, actor: Actor
    ) -> Incident:
        incidents.set_state(connection, before.incident_id, status, note=note)
        noted = {"note": note[:1000]} if note != before.note else {}
        action: Action = "incident.note" if status == before.status and noted else "incident.status"
        detail = {"from": before.status, "to": status, **noted}
        audit.write(connection, actor.name, action, before.incident_id, detail=detail, address=actor.address)
        return _known_incident(connection, before.incident_id, None)

    def add_verdict(
        self,
        subject: Subject,
        subject_id: str,
        verdict: Verdict,
        *,
        actor: Actor,
        class_name: str | None = None,
        note: str = "",
    ) -> Feedback:
        """Store the actor's verdict on an alert or an incident.

        Raises
        ------
        NotThereError
            The subject is not in the store.
        DataError
            The verdict is invalid (:func:`deepidea.store.feedback.check_verdict`).
        """
        check_verdict(verdict, actor.name, class_name, note)
        about = {"subject": subject, "verdict": verdict, "class": class_name}
        with self._change(actor, "verdict.add", subject_id, **about) as (connection, _):
            try:
                return feedback.put(
                    connection, subject, subject_id, verdict, class_name=class_name, note=note, analyst=actor.name
                )
            except DataError as error:
                raise NotThereError(str(error)) from error

    def add_rule(self, entry: Mapping[str, Any] | AllowRule, *, actor: Actor) -> tuple[Rule, int]:
        """Add an allow rule and apply it to the stored alerts; return it, and how many alerts changed.

        An entry has the fields of :class:`deepidea.store.allow_rules.AllowRule`; empty ones are ignored.
        """
        rule = _rule_of(entry)
        about = {"rule": str(rule), "note": rule.note[:500]}
        with self._change(actor, "rule.add", rule.rule_id, **about) as (connection, detail):
            detail["n_alerts"] = n_changed = rules.add(connection, rule)
            return next(one for one in rules.find(connection) if one.rule_id == rule.rule_id), n_changed

    def preview_rule(self, entry: Mapping[str, Any] | AllowRule, *, incident_id: str | None = None) -> views.Suggestion:
        """Count the alerts that an allow rule would suppress, and those of other incidents among them, if one is given.

        Cost: it reads every stored alert that the rule may match.
        """
        rule = _rule_of(entry)
        n_alerts, n_own = self.store.query(rules.count_matches, rule, incident=incident_id)
        given = {name: value for name, value in rule.criteria.items() if value is not None}
        fields = {"class_name" if name == "class" else name: value for name, value in given.items()}
        return views.Suggestion(fields, str(rule), n_alerts, 0 if incident_id is None else n_alerts - n_own)

    def remove_rule(self, rule_id: str, *, actor: Actor) -> int:
        """Remove an allow rule and release the alerts that it suppressed; return how many alerts changed."""
        with self._change(actor, "rule.remove", rule_id) as (connection, detail):
            rule = next((one for one in rules.all_rules(connection) if one.rule_id == rule_id), None)
            if rule is None:
                raise NotThereError(f"no allow rule {rule_id!r} is in the store; list the rules")
            detail["rule"] = str(rule)
            detail["n_alerts"] = n_changed = rules.remove(connection, rule_id)
            return n_changed

    def add_model(self, new: NewModel, *, actor: Actor) -> views.ModelRow:
        """Add a detector file that ``models.read_model`` has audited."""
        with self._change(actor, "model.add", models.model_id_of(new.data), name=new.name) as (connection, _):
            stored = models.add(connection, new, analyst=actor.name)
            return self._cards.row(stored.model_id)

    def activate(self, model_id: str, *, actor: Actor, note: str = "", force: bool = False) -> Activation:
        """Activate a stored model; see ``models.activate``."""
        with self._change(actor, "model.activate", model_id, note=note[:500], force=force) as (connection, _):
            _stored_model(connection, model_id)
            return models.activate(connection, model_id, analyst=actor.name, note=note, force=force)

    def activation_fault(self, model_id: str) -> str:
        """Return why a model can be activated by force only, empty where it can without."""
        return self.store.query(models.activation_fault, model_id) or ""

    def rollback(self, *, actor: Actor, note: str = "") -> Activation:
        """Activate the model before the active one; see ``models.rollback``."""
        with self._change(actor, "model.rollback", note=note[:500]) as (connection, detail):
            done = models.rollback(connection, analyst=actor.name, note=note)
            detail["model_id"] = done.model_id
            return done

    def set_comparison(self, comparison: Mapping[str, Any], *, old_id: str, new_id: str, actor: Actor) -> None:
        """Store the comparison of two stored models; see ``models.set_comparison``."""
        about = {"old_id": old_id, "verdict": comparison.get("verdict")}
        with self._change(actor, "model.compare", new_id, **about) as (connection, _):
            models.set_comparison(connection, comparison, old_id=old_id, new_id=new_id)

    def remove_model(self, model_id: str, *, actor: Actor) -> None:
        """Delete a stored model's file; see ``models.remove``."""
        with self._change(actor, "model.remove", model_id) as (connection, _):
            _stored_model(connection, model_id)
            models.remove(connection, model_id)

    def export_feedback(
        self,
        path: str | Path,
        *,
        actor: Actor,
        format: Format | None = None,
        per_incident: int | None = None,
    ) -> LabelledCounts:
        """Write the flows that analysts labelled to a file; see :func:`export_feedback`."""
        counts = export_feedback(self.store, path, format=format, per_incident=per_incident)
        with self._change(actor, "verdict.export", format=format_of(str(path), format)[0], n_flows=counts.n_flows):
            return counts

    def purge(self, older_than: datetime, *, actor: Actor) -> int:
        """Delete alerts from before a time, and incidents whose last alert is; return how many alerts were deleted."""
        with self._change(actor, "store.purge", older_than=older_than.isoformat()) as (connection, detail):
            n_deleted: int = retention.purge(connection, older_than).n_alerts
            detail["n_alerts"] = n_deleted
            return n_deleted

    def add_token(
        self, name: str, role: Role, *, actor: Actor, expires: datetime | None = None, first: Role | None = "admin"
    ) -> views.NewToken:
        """Create a token; its secret is returned this once. See ``access.add_token``.

        Raises
        ------
        DataError
            It is the first one, and not of role ``first``: from the first token on a login is needed, and without an
            admin no further token could be created through the page.
        """
        with self.store.write() as connection:
            if first is not None and role != first and not access.has_tokens(connection):
                raise DataError(f"the first token must be of role {first}, got {role}; create one of that role first")
            token, secret = access.add_token(connection, name, role, expires=expires)
            detail = {"name": name, "role": role}
            audit.write(connection, actor.name, "token.add", token.token_id, detail=detail, address=actor.address)
        return views.NewToken(token, secret)

    def revoke_token(self, token_id: str, *, actor: Actor) -> None:
        """Revoke a token and end its sessions."""
        with self._change(actor, "token.revoke", token_id) as (connection, detail):
            if token_id not in {one.token_id for one in access.tokens(connection)}:
                raise NotThereError(f"no token {token_id!r} is in the store; list the tokens")
            detail["name"] = access.revoke_token(connection, token_id).name


# --- helpers ---------------------------------------------------------------------------------------------------------


def _span(window: Window) -> IncidentFilters:
    """Return a window as filters; one that ends now has no end, so that new alerts count at once."""
    return {"since": window.since, "until": window.until if window.anchor == "given" else None}


def _severities(counts: Sequence[tuple[int, IncidentStatus, int, int]]) -> tuple[views.SeverityCount, ...]:
    totals: dict[int, list[int]] = {severity: [0, 0, 0] for severity in SEVERITIES}
    for severity, status, n_incidents, n_alerts in counts:
        of = totals.setdefault(severity, [0, 0, 0])
        of[0] += n_incidents
        of[1] += n_incidents if status == "open" else 0
        of[2] += n_alerts
    return tuple(views.SeverityCount(s, severity_name(s), *numbers) for s, numbers in sorted(totals.items()))


def _activity_series(incident: Incident, activity: Activity, step_s: int) -> views.Series:
    window = Window("given", "", incident.first, incident.last + timedelta(microseconds=1), step_s)
    return views.series_of(step_s, window.times, {"alerts": activity.by_time}, ("alerts",))


def _summed(lines: Sequence[Mapping[datetime, int]]) -> dict[datetime, int]:
    summed: dict[datetime, int] = {}
    for line in lines:
        for at, n in line.items():
            summed[at] = summed.get(at, 0) + n
    return summed


def _counted(counts: Mapping[str, int]) -> tuple[views.Counted, ...]:
    return tuple(views.Counted(value, n) for value, n in counts.items())


def _unusual(strongest: Mapping[str, Any] | None, why: views.WhyView | None) -> str:
    """Return a note on an alert that is unlike all training flows; empty for any other."""
    if strongest is None or not strongest["unknown"]:
        return ""
    sentence = "Unlike anything seen in training, benign flows and known attacks alike"
    outside = [reason for reason in (why.reasons if why is not None else ()) if (reason.beyond or 0) > 0][:3]
    if not outside:
        return sentence
    return f"{sentence}: " + ", ".join(f"{reason.title} {reason.value}" for reason in outside)


def _rule_of(entry: Mapping[str, Any] | AllowRule) -> AllowRule:
    """Return the rule of an entry; its ``class_name`` is ``class`` in rule files."""
    if isinstance(entry, AllowRule):
        return entry
    return rule_from({"class" if name == "class_name" else name: value for name, value in entry.items()})


def _known_incident(connection: sa.Connection, incident_id: str, version: int | None) -> Incident:
    found = incidents.get(connection, incident_id)
    if found is None:
        raise NotThereError(f"no incident {incident_id!r} is in the store")
    if version is not None and version != found.version:
        raise ChangedError(
            f"incident {incident_id} was changed by someone else and is now {found.status}; load it again"
        )
    return found


def _stored_model(connection: sa.Connection, model_id: str) -> StoredModel:
    try:
        return models.get(connection, model_id)
    except DataError as error:
        raise NotThereError(str(error)) from error


def _check_bulk(ids: Sequence[str]) -> None:
    if not 1 <= len(ids) <= MOST_IN_BULK:
        raise DataError(f"name 1 to {MOST_IN_BULK} incidents at once, got {len(ids)}")


def _check_note(note: str | None) -> None:
    if note is not None and len(note) > views.LONGEST_NOTE:
        raise DataError(f"a note may have {views.LONGEST_NOTE:,} characters at most, got {len(note):,}; shorten it")
