"""The desk: everything that the page and the API can show and change, as one object over a store.

What it returns are the records of :mod:`deepidea.web.views`. Each change takes whoever makes it, and the change and its
line in the audit log are one transaction: there is never one without the other.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, Unpack

import polars as pl

from deepidea.detection.drift import stored_drift
from deepidea.detection.feedback_export import export_feedback
from deepidea.detection.sinks.formats.rendering import render
from deepidea.errors import DataError, DeepIDEAError
from deepidea.model.detector import Detector
from deepidea.store.access import Role
from deepidea.store.alert_columns import ALERT_COLUMNS, SEVERITIES
from deepidea.store.allow_rules import AllowRule, rule_from
from deepidea.store.drift import Against
from deepidea.store.judgement import Feedback, Judgement, Subject, Verdict
from deepidea.store.store import AlertFilters, IncidentFilters, IncidentOrder, IncidentStatus, Store
from deepidea.web import views
from deepidea.web.explaining import Explainers, feature_values
from deepidea.web.model_cards import Cards
from deepidea.web.status import health_of, sinks_of, sources_of
from deepidea.web.suggesting import suggestions_for
from deepidea.web.windows import FINE_STEPS_S, Window, step_of, window_of

MOST_ROWS = 500
MOST_IN_BULK = 500
MOST_CLASSES = 12  # lines of a plot; the rest are one
OTHER = "other classes"
CLASSES_EVERY_S = 10.0  # looked for anew: they are read off the counts of every minute


class Actor(Protocol):
    """Who makes a change: a name, and the address that the request comes from."""

    @property
    def name(self) -> str:
        """Of the token."""

    @property
    def address(self) -> str:
        """Where the request comes from."""


class NotThereError(DataError):
    """What is asked for is not in the store (HTTP 404)."""

    status = 404


class ChangedError(DeepIDEAError):
    """Somebody else has changed it meanwhile (HTTP 409)."""

    status = 409


class Desk:
    """What the page and the API show and change.

    Parameters
    ----------
    store : Store
        Stays the caller's, who closes it.
    detector : Detector, optional
        That runs from a file: it explains its alerts, and is shown among the models.
    detector_name : str
        What its file is called.
    sink_errors : callable, optional
        Returns the last errors of the sinks of this process that reject alerts, by sink.

    Examples
    --------
    >>> import tempfile
    >>> from deepidea.store.store import open_store
    >>> store = open_store(f"sqlite:///{tempfile.mkdtemp()}/alerts.db")
    >>> desk = Desk(store)
    >>> desk.incidents().items, desk.overview("24h").n_open
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
        """Return the stretch of time that a name, or two times, stand for.

        It ends now, or where the newest data of the store are older than the whole window, there.
        """
        return window_of(
            name, since=since, until=until, newest=self.store.newest_time(), oldest=self.store.oldest_time()
        )

    # --- at a glance -------------------------------------------------------------------------------------------------

    def overview(self, window: Window | str = "24h") -> views.Overview:
        """Return the state of the network at a glance."""
        window = self._window(window)
        span = _span(window)
        severities = self._severities(span)
        alerts, flows = self.alert_series(window), self.flow_series(window)
        since, until = span["since"], span["until"]
        urgent = self.incidents(status="open", order="severity", limit=10, since=since, until=until)
        hosts = self.hosts(limit=10, since=since, until=until).items
        standing = self.sources()
        return views.Overview(
            window=window,
            severities=severities,
            n_incidents=sum(row.n_incidents for row in severities),
            n_open=sum(row.n_open for row in severities),
            n_alerts=sum(sum(line) for line in alerts.lines.values()),
            n_flows=sum(flows.lines["flows"]),
            alerts=alerts,
            flows=flows,
            hosts=hosts,
            incidents=urgent.items,
            sources=standing.sources,
            drift=self.drift_light(),
            health=standing.health,
            health_says=standing.says,
        )

    def _window(self, window: Window | str) -> Window:
        return window if isinstance(window, Window) else self.window(window)

    def _times(
        self, window: Window | str | None, since: datetime | None, until: datetime | None
    ) -> tuple[datetime | None, datetime | None]:
        if window is None:
            return since, until
        span = _span(self._window(window))
        return span["since"], span["until"]

    def _severities(self, span: IncidentFilters) -> tuple[views.SeverityCount, ...]:
        told: dict[int, list[int]] = {severity: [0, 0, 0] for severity in SEVERITIES}
        for severity, status, n_incidents, n_alerts in self.store.severity_counts(**span).iter_rows():
            of = told.setdefault(severity, [0, 0, 0])
            of[0] += n_incidents
            of[1] += n_incidents if status == "open" else 0
            of[2] += n_alerts
        return tuple(views.SeverityCount(s, views.severity_name(s), *counts) for s, counts in sorted(told.items()))

    def alert_series(self, window: Window | str = "24h") -> views.Series:
        """Return told alerts over time, a line a class: the most frequent first, beyond a dozen together."""
        window = self._window(window)
        table = self.store.alert_series(window.since, window.until, step_s=window.step_s)
        rows: dict[str, dict[datetime, int]] = {}
        for at, name, n in table.iter_rows():
            rows.setdefault(name, {})[at] = n
        ranked = sorted(rows, key=lambda name: (-sum(rows[name].values()), name))
        if len(ranked) > MOST_CLASSES:
            rows[OTHER] = _summed([rows[name] for name in ranked[MOST_CLASSES - 1 :]])
            ranked = [*ranked[: MOST_CLASSES - 1], OTHER]
        return views.series_of(window.step_s, window.times, rows, ranked)

    def flow_series(self, window: Window | str = "24h", *, source: str | None = None) -> views.Series:
        """Return flows and the alerts among them over time, of one source or of all."""
        window = self._window(window)
        table = self.store.flow_series(window.since, window.until, step_s=window.step_s, source=source)
        rows = {
            "flows": dict(zip(table["time"], table["n_flows"], strict=True)),
            "alerts": dict(zip(table["time"], table["n_alerts"], strict=True)),
        }
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
        """Return a page of incidents; filters as of :meth:`deepidea.store.store.Store.incidents`.

        A window stands for ``since`` and ``until``.
        """
        filters["since"], filters["until"] = self._times(window, filters.get("since"), filters.get("until"))
        page = self.store.incidents(order=order, limit=min(limit, MOST_ROWS), after=after, **filters)
        rows = self._incident_rows(page.rows.iter_rows(named=True))
        return views.IncidentPage(rows, page.next, self.store.count_incidents(**filters))

    def count_urgent(self) -> int:
        """Return how many incidents are open that are critical or high."""
        return self.store.count_incidents(status="open", severity=2)

    def _incident_rows(self, rows: Any) -> tuple[views.IncidentRow, ...]:
        told = list(rows)
        verdicts = self.store.verdicts_of([row["incident_id"] for row in told])
        return tuple(views.incident_row(row, verdicts.get(row["incident_id"])) for row in told)

    def rows_of(self, incidents: pl.DataFrame) -> tuple[views.IncidentRow, ...]:
        """Return rows of ``Store.incidents`` as lists show them."""
        return self._incident_rows(incidents.iter_rows(named=True))

    def incident_row(self, incident_id: str) -> views.IncidentRow | None:
        """Return an incident as lists show it, also under an earlier id of it; None where it is not."""
        row = self.store.incident(incident_id)
        return None if row is None else self._incident_rows([row])[0]

    def incident(self, incident_id: str, *, why: bool = True) -> views.IncidentView | None:
        """Return all that is known of an incident; None where it is not, or is no more.

        Parameters
        ----------
        incident_id : str
        why : bool
            Whether to explain the strongest alert, which takes milliseconds, and the first time its detector is loaded.
        """
        row = self.store.incident(incident_id)
        if row is None:
            return None
        current = row["incident_id"]
        strongest = self.store.strongest_alert(current)
        shown = self._incident_rows([row])[0]
        told = self._explainers.why(strongest) if why and strongest is not None else None
        return views.IncidentView(
            incident=shown,
            hosts=views.listed_of(row["hosts"], row["n_hosts"]),
            ports=views.listed_of(row["ports"], row["n_ports"]),
            series=self._incident_series(shown),
            strongest=None if strongest is None else self._alert_rows([strongest])[0],
            why=told,
            unusual=_unusual(strongest, told),
            history=self._history("incident", current),
            log=tuple(_audit_view(entry) for entry in self.store.audit_of(current)),
            suggestions=suggestions_for(self.store, row),
            same_host=tuple(one for one in self.incidents(host=row["host"], limit=11).items
                            if one.incident_id != current)[:10],
            sources=_counted(self.store.incident_sources(current)),
        )  # fmt: skip

    def class_names(self) -> tuple[str, ...]:
        """Return the classes that filters and verdicts can name: those of alerts and models, as of seconds ago."""
        until, names = self._class_names
        if time.monotonic() >= until:
            names = tuple(sorted({*self.store.alert_classes(), *self._cards.classes()}))
            self._class_names = (time.monotonic() + CLASSES_EVERY_S, names)
        return names

    def _incident_series(self, row: views.IncidentRow) -> views.Series:
        end = row.last + timedelta(microseconds=1)
        step_s = step_of(end - row.first, steps_s=FINE_STEPS_S)
        counts = self.store.incident_series(row.incident_id, step_s=step_s)
        window = Window("given", "", row.first, end, step_s)
        return views.series_of(step_s, window.times, {"alerts": counts}, ("alerts",))

    def _history(self, subject: Subject, subject_id: str) -> tuple[views.Said, ...]:
        said = self.store.feedback(subject=subject, subject_id=subject_id, limit=MOST_ROWS)
        return tuple(views.said_of(one) for one in said)

    # --- alerts ------------------------------------------------------------------------------------------------------

    def alerts(
        self,
        *,
        limit: int = 50,
        after: str | None = None,
        incident: str | None = None,
        suppressed: bool | None = False,
        **filters: Unpack[AlertFilters],
    ) -> views.AlertPage:
        """Return a page of alerts, the latest first; filters as of :meth:`deepidea.store.store.Store.alerts`."""
        limit = min(limit, MOST_ROWS)
        page = self.store.alerts(limit=limit, after=after, incident=incident, suppressed=suppressed, **filters)
        return views.AlertPage(self._alert_rows(page.rows.iter_rows(named=True)), page.next)

    def _alert_rows(self, rows: Any) -> tuple[views.AlertRow, ...]:
        told = list(rows)
        verdicts = self.store.verdicts_on_alerts([row["alert_id"] for row in told])
        return tuple(views.alert_row(row, verdicts.get(row["alert_id"])) for row in told)

    def alert(self, alert_id: str) -> views.AlertView | None:
        """Return all that is known of an alert; None where it is not."""
        row = self.store.alert(alert_id)
        if row is None:
            return None
        return views.AlertView(
            alert=self._alert_rows([row])[0],
            incident_id=self.store.incident_of(alert_id),
            probabilities=views.probabilities_of(row["probabilities"]),
            features=feature_values(self._cards.detector(row["model"] or ""), row["features"]),
            history=self._history("alert", alert_id),
        )

    def eve(self, alert_id: str) -> str | None:
        """Return an alert as Suricata would tell it, one JSON object (EVE); None where it is not."""
        row = self.store.alert(alert_id)
        if row is None:
            return None
        table = pl.DataFrame([{name: row[name] for name in ALERT_COLUMNS}], schema=pl.Schema(ALERT_COLUMNS))
        return render(table, "eve")[0]

    def why(self, alert_id: str) -> views.WhyView | None:
        """Return why an alert was raised; None where the alert is not."""
        row = self.store.alert(alert_id)
        return None if row is None else self._explainers.why(row)

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
    ) -> views.HostPage:
        """Return a page of hosts that have incidents, the most urgent first; a window stands for the two times."""
        since, until = self._times(window, since, until)
        rows, following = self.store.hosts(
            since=since, until=until, search=search, limit=min(limit, MOST_ROWS), after=after
        )
        named = (views.HostRow(**row, severity_name=views.severity_name(row["severity"])) for row in rows)
        return views.HostPage(tuple(named), following)

    def host(
        self, host: str, *, window: Window | str = "all", limit: int = 20, after: str | None = None
    ) -> views.HostView:
        """Return what is known of a host; of one that no alert names, that it is not known.

        Its incidents are a page; the series of alerts is that of the window.
        """
        window = self._window(window)
        told = self.store.host(host)
        incidents = self.incidents(host=host, limit=limit, after=after)
        counts = self.store.host_series(host, window.since, window.until, step_s=window.step_s)
        return views.HostView(
            host=host,
            known=bool(told.n_as_source or told.n_as_target or incidents.total),
            first=told.first,
            last=told.last,
            n_alerts=told.n_as_source + told.n_as_target,
            n_as_source=told.n_as_source,
            n_as_target=told.n_as_target,
            peers=_counted(told.peers),
            ports=_counted(told.ports),
            classes=_counted(told.classes),
            incidents=incidents,
            series=views.series_of(window.step_s, window.times, {"alerts": counts}, ("alerts",)),
            window=window,
        )

    # --- sources, models, drift --------------------------------------------------------------------------------------

    def sources(self) -> views.SourcesView:
        """Return how sources, sinks and the store stand."""
        engines = self.store.engines()
        sources = sources_of(self.store.counters(), engines, now=datetime.now(UTC))
        sinks = sinks_of(self.store.sink_counters(), engines, self._sink_errors())
        return views.SourcesView(sources, sinks, self.store.url, *health_of(sources, sinks))

    def models(self) -> views.ModelsView:
        """Return the models of the store, those that run from files, and what was active when."""
        return self._cards.models()

    def model(self, model_id: str | None = None) -> views.ModelView | None:
        """Return all that is known of a model: by its id, or by its detector's fingerprint.

        Where none is named, of the active one, else of the one that runs; None where there is none.
        """
        return self._cards.view(model_id, self.drift_light)

    def model_file(self, model_id: str) -> tuple[str, bytes]:
        """Return name and bytes of a stored model's file."""
        row = self._stored_model(model_id)
        return row.name or f"{row.model_id}.idea", self.store.model_file(model_id)

    def drift(
        self,
        *,
        model: str | None = None,
        source: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        against: Against | None = None,
    ) -> views.DriftView:
        """Return whether the flows of today are like those of training; see ``Store.drift``."""
        with self.store.read() as connection:
            report = stored_drift(connection, model=model, source=source, since=since, until=until, against=against)
        return views.drift_view(report)

    def drift_light(self, model: str | None = None) -> views.DriftLight:
        """Return the light and the sentence of a drift report."""
        with self.store.read() as connection:
            report = stored_drift(connection, model=model)
        return views.DriftLight(report.light, report.sentence)

    # --- rules, verdicts, audit, tokens ------------------------------------------------------------------------------

    def rules(self) -> tuple[views.RuleView, ...]:
        """Return the allow rules, ended ones too, with how many stored alerts each keeps quiet."""
        counts, now = self.store.quiet_counts(), datetime.now(UTC)
        return tuple(_rule_view(rule, counts.get(rule.rule_id, 0), now) for rule in self.store.rules())

    def verdicts(
        self,
        *,
        subject: Subject | None = None,
        analyst: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> views.SaidPage:
        """Return a page of verdicts, the newest first."""
        found, following = self.store.feedback_page(
            subject=subject, analyst=analyst, limit=min(limit, MOST_ROWS), after=_number(after)
        )
        return views.SaidPage(tuple(map(views.said_of, found)), _text(following))

    def audit(self, *, limit: int = 50, after: str | None = None) -> views.AuditPage:
        """Return a page of the audit log, the newest first."""
        entries, following = self.store.audit_log(limit=min(limit, MOST_ROWS), after=_number(after))
        return views.AuditPage(tuple(map(_audit_view, entries)), _text(following))

    def tokens(self) -> tuple[views.TokenView, ...]:
        """Return the tokens, those that are not valid any more too."""
        return tuple(map(_token_view, self.store.tokens()))

    # --- changes -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _changing(self, actor: Actor, action: str, subject: str = "", /, **detail: Any) -> Iterator[dict[str, Any]]:
        """Make a change and its line in the audit log one transaction; yield the line's detail, to be added to."""
        with self.store.together():
            yield detail
            self.store.audit(actor.name, action, subject, detail=detail, address=actor.address)

    def set_status(
        self,
        incident_ids: Sequence[str],
        status: IncidentStatus,
        *,
        actor: Actor,
        note: str | None = None,
        versions: Mapping[str, int] | None = None,
    ) -> tuple[views.IncidentRow, ...]:
        """Give incidents a status, all or none of them.

        Parameters
        ----------
        incident_ids : sequence of str
        status : {"open", "acknowledged", "closed", "false_alarm"}
        actor : Actor
        note : str, optional
            In place of the note that each has; where absent that stays.
        versions : mapping of incident id to int, optional
            ``version`` of incidents as the actor saw them.

        Raises
        ------
        NotThereError
            An incident is not in the store, or is no more.
        ChangedError
            Somebody has changed status or note of one since that version.
        DataError
            There is no such status, no or too many incidents are named, or the note is too long.
        """
        given = list(dict.fromkeys(incident_ids))
        _check_bulk(given)
        _check_note(note)
        with self.store.together():
            rows = [self._known_incident(one, (versions or {}).get(one)) for one in given]
            for row in rows:
                self._put_state(row, status, row["note"] if note is None else note, actor)
        return self._incident_rows(self._known_incident(row["incident_id"], None) for row in rows)

    def note(self, incident_id: str, text: str, *, actor: Actor, version: int | None = None) -> views.IncidentRow:
        """Write a note on an incident, in place of the one that it has; its status stays. Errors as of set_status."""
        return self.change_incident(incident_id, actor=actor, note=text, version=version)

    def change_incident(
        self,
        incident_id: str,
        *,
        actor: Actor,
        status: IncidentStatus | None = None,
        note: str | None = None,
        version: int | None = None,
    ) -> views.IncidentRow:
        """Give an incident a status, a note, or both; what is absent stays. Errors as of :meth:`set_status`."""
        _check_note(note)
        with self.store.together():
            row = self._known_incident(incident_id, version)
            if status is not None or note is not None:
                self._put_state(row, status or row["status"], row["note"] if note is None else note, actor)
        return self._incident_rows([self._known_incident(row["incident_id"], None)])[0]

    def _known_incident(self, incident_id: str, version: int | None) -> dict[str, Any]:
        row = self.store.incident(incident_id)
        if row is None:
            raise NotThereError(f"an incident must be in the store, however: {incident_id!r} is not")
        at = 0 if row["changed"] is None else views.version_of(row["changed"])
        if version is not None and version != at:
            raise ChangedError(
                f"an incident must be as it was when it was looked at, however: {incident_id} is now {row['status']}, "
                "changed by somebody else; load it anew"
            )
        return row

    def _put_state(self, row: Mapping[str, Any], status: IncidentStatus, note: str, actor: Actor) -> None:
        incident_id = row["incident_id"]
        self.store.set_incident_state(incident_id, status, note=note)
        noted = {"note": note[:1000]} if note != row["note"] else {}
        detail = {"from": row["status"], "to": status, **noted}
        action = "incident.note" if status == row["status"] and noted else "incident.status"
        self.store.audit(actor.name, action, incident_id, detail=detail, address=actor.address)

    def judge(
        self,
        subject: Subject,
        subject_id: str,
        verdict: Verdict,
        *,
        actor: Actor,
        class_name: str | None = None,
        note: str = "",
    ) -> views.Said:
        """Keep the actor's verdict on an alert or an incident.

        Raises
        ------
        NotThereError
            The subject is not in the store.
        DataError
            The verdict breaks a rule of :class:`deepidea.store.judgement.Judgement`.
        """
        Judgement(verdict, actor.name, class_name, note)
        detail = {"subject": subject, "verdict": verdict, "class": class_name}
        with self._changing(actor, "verdict.add", subject_id, **detail):
            found = self.store.incident(subject_id) if subject == "incident" else self.store.alert(subject_id)
            if found is None:
                raise NotThereError(f"an {subject} must be in the store to be judged, however: {subject_id!r} is not")
            said: Feedback = self.store.judge(
                subject, subject_id, verdict, class_name=class_name, note=note, analyst=actor.name
            )
        return views.said_of(said)

    def allow(self, entry: Mapping[str, Any] | AllowRule, *, actor: Actor) -> tuple[views.RuleView, int]:
        """Keep an allow rule and apply it to what is stored; return it, and how many alerts that changed.

        Fields of an entry are those of :class:`deepidea.store.allow_rules.AllowRule`; empty ones count as absent.

        Raises
        ------
        DataError
            The rule cannot be read.
        """
        rule = entry if isinstance(entry, AllowRule) else rule_from(_named_as_files_do(entry))
        with self._changing(actor, "rule.add", rule.rule_id, rule=str(rule), note=rule.note[:500]) as detail:
            detail["n_alerts"] = n_changed = self.store.add_rule(rule)
        return _rule_view(rule, self.store.quiet_counts().get(rule.rule_id, 0), datetime.now(UTC)), n_changed

    def preview_rule(self, entry: Mapping[str, Any] | AllowRule, *, incident_id: str | None = None) -> views.Suggestion:
        """Return what an allow rule would keep quiet, without adding it.

        Of an incident's id, also how much of it does not belong to that incident. It looks at every stored alert that
        the rule may be about.

        Raises
        ------
        DataError
            The rule cannot be read.
        """
        rule = entry if isinstance(entry, AllowRule) else rule_from(_named_as_files_do(entry))
        n_alerts, n_own = self.store.count_ruled(rule, incident=incident_id)
        given = {name: value for name, value in rule.criteria.items() if value is not None}
        fields = {"class_name" if name == "class" else name: value for name, value in given.items()}
        return views.Suggestion(fields, str(rule), n_alerts, 0 if incident_id is None else n_alerts - n_own)

    def disallow(self, rule_id: str, *, actor: Actor) -> int:
        """Remove an allow rule and let go what it kept quiet; return how many alerts that changed.

        Raises
        ------
        NotThereError
            There is no such rule.
        """
        with self._changing(actor, "rule.remove", rule_id) as detail:
            rule = next((one for one in self.store.rules() if one.rule_id == rule_id), None)
            if rule is None:
                raise NotThereError(f"an allow rule must be in the store, however: {rule_id!r} is not")
            detail["rule"] = str(rule)
            detail["n_alerts"] = n_changed = self.store.remove_rule(rule_id)
        return n_changed

    def add_model(self, file: bytes | Path, *, actor: Actor, name: str = "") -> views.ModelRow:
        """Keep a detector file, after an audit of it; see ``Store.add_model`` for errors."""
        stored = self.store.add_model(file, name=name, analyst=actor.name)  # audits, which takes too long for a lock
        self.store.audit(actor.name, "model.add", stored.model_id, detail={"name": stored.name}, address=actor.address)
        return self._cards.row(stored.model_id)

    def activate(self, model_id: str, *, actor: Actor, note: str = "", force: bool = False) -> views.ActivationView:
        """Make a stored model the active one; see ``Store.activate``."""
        self._stored_model(model_id)
        with self._changing(actor, "model.activate", model_id, note=note[:500], force=force):
            done = self.store.activate(model_id, analyst=actor.name, note=note, force=force)
        return self._cards.activation(done)

    def activation_fault(self, model_id: str) -> str:
        """Return why a model may be activated by force alone; empty where it may as it is."""
        return self.store.activation_fault(model_id) or ""

    def rollback(self, *, actor: Actor, note: str = "") -> views.ActivationView:
        """Go back to the model that was active before the present one; see ``Store.rollback``."""
        with self._changing(actor, "model.rollback", note=note[:500]) as detail:
            done = self.store.rollback(analyst=actor.name, note=note)
            detail["model_id"] = done.model_id
        return self._cards.activation(done)

    def remove_model(self, model_id: str, *, actor: Actor) -> None:
        """Let a stored model's file go; see ``Store.remove_model``."""
        self._stored_model(model_id)
        with self._changing(actor, "model.remove", model_id):
            self.store.remove_model(model_id)

    def _stored_model(self, model_id: str) -> Any:
        found = next((one for one in self.store.models() if one.model_id == model_id), None)
        if found is None:
            raise NotThereError(f"a model must be in the store, however: {model_id!r} is not")
        return found

    def export_feedback(
        self,
        path: Path,
        *,
        actor: Actor,
        format: Literal["parquet", "csv", "jsonl"],
        per_incident: int | None = None,
    ) -> int:
        """Write the flows that analysts judged to a file; return how many. Who took them is in the audit log.

        Raises
        ------
        DataError
            Nothing has been judged to be something.
        """
        counts = export_feedback(self.store, path, format=format, per_incident=per_incident)
        detail = {"format": format, "n_flows": counts.n_flows}
        self.store.audit(actor.name, "verdict.export", detail=detail, address=actor.address)
        return counts.n_flows

    def purge(self, older_than: datetime, *, actor: Actor) -> int:
        """Delete alerts from before a time, and incidents whose last alert is; return how many alerts went."""
        with self._changing(actor, "store.purge", older_than=older_than.isoformat()) as detail:
            detail["n_alerts"] = n_gone = self.store.purge(older_than).n_alerts
        return n_gone

    def add_token(self, name: str, role: Role, *, actor: Actor, expires: datetime | None = None) -> views.NewToken:
        """Make a token; its secret is told this once. See ``Store.add_token``.

        Raises
        ------
        DataError
            It is the first one and not an admin's: from the first token on everyone needs one, and nobody could make
            another.
        """
        with self.store.together():
            if role != "admin" and not self.store.has_tokens():
                raise DataError(f"the first token must be an admin's, however: it is a {role}'s; make an admin's first")
            token, secret = self.store.add_token(name, role, expires=expires)
            detail = {"name": name, "role": role}
            self.store.audit(actor.name, "token.add", token.token_id, detail=detail, address=actor.address)
        return views.NewToken(_token_view(token), secret)

    def revoke_token(self, token_id: str, *, actor: Actor) -> None:
        """End a token and the sessions that it opened."""
        with self._changing(actor, "token.revoke", token_id) as detail:
            found = next((one for one in self.store.tokens() if one.token_id == token_id), None)
            if found is None:
                raise NotThereError(f"a token must be in the store, however: {token_id!r} is not")
            detail["name"] = found.name
            self.store.revoke_token(token_id)


# --- parts of the above ----------------------------------------------------------------------------------------------


def _span(window: Window) -> IncidentFilters:
    """Return a window as filters; what is told while somebody looks belongs to one that ends now."""
    return {"since": window.since, "until": window.until if window.anchor == "given" else None}


def _summed(lines: Sequence[Mapping[datetime, int]]) -> dict[datetime, int]:
    summed: dict[datetime, int] = {}
    for line in lines:
        for at, n in line.items():
            summed[at] = summed.get(at, 0) + n
    return summed


def _counted(counts: Mapping[str, int]) -> tuple[views.Counted, ...]:
    return tuple(views.Counted(value, n) for value, n in counts.items())


def _unusual(strongest: Mapping[str, Any] | None, why: views.WhyView | None) -> str:
    """Return what makes an alert unlike anything seen in training, in words; empty where nothing does."""
    if strongest is None or not strongest["unknown"]:
        return ""
    told = "Unlike anything seen in training, benign flows and known attacks alike"
    outside = [reason for reason in (why.reasons if why is not None else ()) if (reason.beyond or 0) > 0][:3]
    if not outside:
        return told
    return f"{told}: " + ", ".join(f"{reason.title} {reason.value}" for reason in outside)


def _named_as_files_do(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a rule by the names that a file gives them: ``class`` is no name in Python."""
    return {"class" if name == "class_name" else name: value for name, value in entry.items()}


def _rule_view(rule: AllowRule, n_alerts: int, now: datetime) -> views.RuleView:
    given = ("says", "active", "n_alerts")
    plain = {name: getattr(rule, name) for name in views.RuleView.__slots__ if name not in given}
    return views.RuleView(**plain, says=str(rule), active=rule.is_active(now), n_alerts=n_alerts)


def _audit_view(entry: Any) -> views.AuditView:
    return views.AuditView(**{name: getattr(entry, name) for name in views.AuditView.__slots__})


def _token_view(token: Any) -> views.TokenView:
    told = {name: getattr(token, name) for name in views.TokenView.__slots__ if name != "valid"}
    return views.TokenView(**told, valid=token.is_valid(datetime.now(UTC)))


def _check_bulk(ids: Sequence[str]) -> None:
    if not 1 <= len(ids) <= MOST_IN_BULK:
        raise DataError(f"1 to {MOST_IN_BULK} incidents must be named at once, however: {len(ids)} are")


def _check_note(note: str | None) -> None:
    if note is not None and len(note) > views.LONGEST_NOTE:
        raise DataError(
            f"a note must have at most {views.LONGEST_NOTE:,} characters, however: it has {len(note):,}; shorten it"
        )


def _number(after: str | None) -> int | None:
    if after is None:
        return None
    if not (after.isascii() and after.isdecimal() and len(after) <= 18):
        raise DataError(f"after must be what a page names as its next, however: it is {after[:200]!r}")
    return int(after)


def _text(following: int | None) -> str | None:
    return None if following is None else str(following)
