"""What the page and the API show: frozen records of plain values and times, made from rows of a store.

Nothing in them is markup. Texts that come from the network or from people stand in them as they are: whoever shows them
must escape them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from deepidea.detection.drift import DriftReport, FeatureDrift
from deepidea.model.explain import Explanation
from deepidea.store.alert_columns import SEVERITIES
from deepidea.store.grouping import listing_of
from deepidea.store.judgement import Feedback
from deepidea.web.labels import headline
from deepidea.web.windows import Window

SeverityName = Literal["critical", "high", "medium", "low"]
Status = Literal["open", "acknowledged", "closed", "false_alarm"]
Health = Literal["ok", "degraded", "stopped"]
LONGEST_NOTE = 10_000
MOST_SHOWN = 20  # hosts and ports of an incident, by alerts


# --- small parts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counted:
    """A value, such as a host, a port or a class, and how many alerts it has."""

    value: str
    n: int


@dataclass(frozen=True, slots=True)
class Listed:
    """Hosts or ports: the most frequent, how many there are in all, and whether that is exact or an estimate."""

    top: tuple[Counted, ...]
    total: int
    n_more: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Said:
    """A verdict of an analyst on an alert or an incident, or on the incident of an alert."""

    feedback_id: int
    subject: Literal["alert", "incident"]
    subject_id: str
    verdict: Literal["true_positive", "false_positive", "unsure"]
    class_name: str | None
    note: str
    analyst: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Series:
    """Counts over time: ``times`` are beginnings of steps, and each entry of ``lines`` has one number a step."""

    step_s: int
    times: tuple[datetime, ...]
    lines: dict[str, tuple[int, ...]]


# --- incidents -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IncidentRow:
    """An incident in a list.

    Parameters
    ----------
    headline : str
        One sentence in plain English.
    severity, severity_name
        1 (critical) to 4 (low), and its name.
    host, role
        Whose incident it is, and whether that host is the ``source`` or the ``target``.
    version : int
        Changes whenever somebody changes status or note; give it back to be told of a change by someone else.
    """

    incident_id: str
    headline: str
    class_name: str
    severity: int
    severity_name: SeverityName
    status: Status
    note: str
    changed: datetime | None
    version: int
    host: str
    role: Literal["source", "target"]
    first: datetime
    last: datetime
    duration_s: float
    n_alerts: int
    n_hosts: int
    n_ports: int
    score: float | None
    verdict: Said | None


@dataclass(frozen=True, slots=True)
class IncidentPage:
    """A page of incidents, how many there are in all pages, and what to ask for ``after`` these, None at the end."""

    items: tuple[IncidentRow, ...]
    next: str | None
    total: int


@dataclass(frozen=True, slots=True)
class Suggestion:
    """An allow rule that would keep an incident quiet.

    Parameters
    ----------
    rule
        Fields by name, as a form or :meth:`Desk.allow` takes them.
    says
        What it keeps quiet, in words.
    n_alerts
        Stored alerts that it would keep quiet.
    n_other
        Of these, such as do not belong to the incident.
    """

    rule: dict[str, str]
    says: str
    n_alerts: int
    n_other: int


@dataclass(frozen=True, slots=True)
class IncidentView:
    """All that is known of an incident.

    Parameters
    ----------
    incident
        What lists show.
    hosts, ports
        At the other end, and asked for.
    series
        Alerts over time, one line ``alerts``.
    strongest
        The alert with the highest score; None where retention took all.
    why
        Of that alert.
    unusual
        What makes it unlike benign flows and known attacks alike, in words; empty where nothing does.
    history
        Verdicts on the incident, the newest first.
    log
        What was done to it, by whom and when.
    suggestions
        Allow rules, the narrowest first.
    same_host
        Other incidents of the same host, the latest first.
    sources
        That told of it.
    """

    incident: IncidentRow
    hosts: Listed
    ports: Listed
    series: Series
    strongest: AlertRow | None
    why: WhyView | None
    unusual: str
    history: tuple[Said, ...]
    log: tuple[AuditView, ...]
    suggestions: tuple[Suggestion, ...]
    same_host: tuple[IncidentRow, ...]
    sources: tuple[Counted, ...]


# --- alerts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AlertRow:
    """An alert in a list: its flow, the verdict of the detector, and that of an analyst."""

    alert_id: str
    time: datetime
    start: datetime | None
    end: datetime | None
    src_ip: str | None
    src_port: int | None
    dst_ip: str | None
    dst_port: int | None
    protocol: str | None
    community_id: str | None
    class_name: str
    label: str | None
    score: float
    anomaly: float | None
    unknown: bool | None
    severity: int
    severity_name: SeverityName
    fwd_packets: int | None
    bwd_packets: int | None
    fwd_bytes: int | None
    bwd_bytes: int | None
    model: str
    source: str
    suppressed_by: str | None
    verdict: Said | None


@dataclass(frozen=True, slots=True)
class AlertPage:
    """A page of alerts, and what to ask for ``after`` these; None at the end."""

    items: tuple[AlertRow, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class FeatureValue:
    """What the detector saw: a feature, its title, its value in human form and as it is."""

    name: str
    title: str
    value: str
    raw: int | float | str | None


@dataclass(frozen=True, slots=True)
class AlertView:
    """All that is known of an alert: ``probabilities`` by class, features, verdicts on it, its incident."""

    alert: AlertRow
    incident_id: str | None
    probabilities: dict[str, float]
    features: tuple[FeatureValue, ...]
    history: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """What one feature has to do with a verdict; see :class:`deepidea.model.explain.Reason`."""

    name: str
    title: str
    value: str
    raw: int | float | str | None
    push: float
    share: float
    direction: Literal["attack", "benign", "none"]
    benign_range: str
    beyond: float | None
    surprise: float | None


@dataclass(frozen=True, slots=True)
class WhyView:
    """Why an alert was raised, or, where ``available`` is False, the ``fault`` that keeps it from being told.

    The other entries are those of :class:`deepidea.model.explain.Explanation`.
    """

    alert_id: str
    available: bool
    fault: str = ""
    headline: str = ""
    class_name: str = ""
    score: float | None = None
    anomaly: float | None = None
    unknown: bool | None = None
    basis: Literal["score", "anomaly"] = "score"
    log_odds: float | None = None
    benign_log_odds: float | None = None
    reasons: tuple[Reason, ...] = ()
    other_push: float = 0.0
    kinds: dict[str, float] | None = None
    residual: float | None = None
    range_of: Literal["site", "training", "none"] = "none"
    n_benign: int = 0


# --- at a glance -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SeverityCount:
    """Incidents of one severity, those among them that are open, and their alerts."""

    severity: int
    severity_name: SeverityName
    n_incidents: int
    n_open: int
    n_alerts: int


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host in a list: its worst severity, incidents, alerts, and when the last one was."""

    host: str
    role: Literal["source", "target"]
    severity: int
    severity_name: SeverityName
    n_incidents: int
    n_alerts: int
    last: datetime


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of the network at a glance.

    Parameters
    ----------
    window
    severities
        All four, the most urgent first.
    n_incidents, n_open, n_alerts, n_flows
        In the window; flows where engines count them.
    alerts
        A line a class, told ones alone.
    flows
        Lines ``flows`` and ``alerts``, these with quiet ones.
    hosts
        The most urgent ones.
    incidents
        Open ones, the most urgent first.
    sources
    drift
        The light and the sentence.
    health, health_says
        Of all sources and sinks together.
    """

    window: Window
    severities: tuple[SeverityCount, ...]
    n_incidents: int
    n_open: int
    n_alerts: int
    n_flows: int
    alerts: Series
    flows: Series
    hosts: tuple[HostRow, ...]
    incidents: tuple[IncidentRow, ...]
    sources: tuple[SourceView, ...]
    drift: DriftLight
    health: Health
    health_says: str


@dataclass(frozen=True, slots=True)
class HostView:
    """A host: its incidents as source and as target, whom it met and what was asked for in its alerts."""

    host: str
    known: bool
    first: datetime | None
    last: datetime | None
    n_alerts: int
    n_as_source: int
    n_as_target: int
    peers: tuple[Counted, ...]
    ports: tuple[Counted, ...]
    classes: tuple[Counted, ...]
    incidents: IncidentPage
    series: Series
    window: Window


@dataclass(frozen=True, slots=True)
class HostPage:
    """Hosts of incidents, the most urgent first."""

    items: tuple[HostRow, ...]
    next: str | None = None


# --- sources, sinks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceView:
    """A source: what came of it since its beginning, and how its engine stands, where one told.

    Parameters
    ----------
    health, says
        For people.
    lag_p50_s, lag_p99_s
        From a flow's end being known to its alert being stored.
    skipped, dropped
        Records left out, and flows or packets lost, by reason.
    """

    name: str
    health: Health
    says: str
    n_flows: int
    n_alerts: int
    n_suppressed: int
    n_duplicates: int
    n_lost: int
    skipped: dict[str, int]
    dropped: dict[str, int]
    updated: datetime | None
    began: datetime | None
    flows_per_s: float | None
    lag_p50_s: float | None
    lag_p99_s: float | None
    n_queued: int
    n_store_retries: int
    model: str
    detector: str
    schema: str
    bounds: dict[str, float | None]
    fpr: float | None
    error: str | None


@dataclass(frozen=True, slots=True)
class SinkView:
    """A sink: what it got, what it is owed, what went to dead letters, and what it said last where it takes nothing."""

    name: str
    health: Health
    says: str
    n_delivered: int
    n_waiting: int
    n_dead: int
    n_lost: int
    error: str | None


@dataclass(frozen=True, slots=True)
class SourcesView:
    """All sources and sinks, and the store that they fill."""

    sources: tuple[SourceView, ...]
    sinks: tuple[SinkView, ...]
    store: str
    health: Health
    says: str


# --- models ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DriftLight:
    """Whether the flows of today are like those of training, in a word and a sentence."""

    light: Literal["green", "amber", "red", "unknown"]
    sentence: str


@dataclass(frozen=True, slots=True)
class DriftHour:
    """Drift of one hour: PSI of the score, mean PSI of the features, share of those that have shifted."""

    time: datetime
    n_flows: int
    score: float | None
    mean: float | None
    share_shifted: float | None


@dataclass(frozen=True, slots=True)
class DriftView:
    """Whether the flows of today are like those of training: :class:`deepidea.detection.drift.DriftReport`."""

    light: Literal["green", "amber", "red", "unknown"]
    sentence: str
    reason: str
    rule: str
    model: str
    against: Literal["training", "site"]
    n_flows: int
    since: datetime | None
    until: datetime | None
    score: FeatureDrift | None
    features: tuple[FeatureDrift, ...]
    hours: tuple[DriftHour, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """How a model compares with another on the same data: the verdict, why, and the whole comparison."""

    old_id: str
    new_id: str
    verdict: Literal["better", "no worse", "worse"]
    reason: str
    told: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model in a list; ``model`` is the fingerprint by which alerts name it.

    ``stored`` is False of a detector that runs from a file and is not among the models of the store.
    """

    model_id: str
    model: str
    name: str
    added: datetime | None
    added_by: str
    n_bytes: int
    active: bool
    stored: bool
    in_use: bool
    comparison: Compared | None


@dataclass(frozen=True, slots=True)
class ActivationView:
    """A line of the history of activations."""

    activation_id: int
    model_id: str
    kind: Literal["activated", "forced", "rolled_back"]
    analyst: str
    note: str
    time: datetime


@dataclass(frozen=True, slots=True)
class ModelsView:
    """The models, the history of activations, and whether one can be gone back to."""

    items: tuple[ModelRow, ...]
    activations: tuple[ActivationView, ...]
    can_roll_back: bool
    next: str | None = None


@dataclass(frozen=True, slots=True)
class ModelView:
    """All that is known of a model.

    Parameters
    ----------
    row
    card
        The detector file's card, with long lists in brief.
    classes, schema, n_features
    thresholds
        Bounds of measures, what they promise, and when they were set; None where nobody calibrated it.
    training
        ``epochs`` (one object each), ``seconds`` and what else the card tells of training.
    evaluation
        Compact form of an evaluation that the file keeps, see ``deepidea evaluate --keep``; None where it keeps none,
        and ``evaluation_fault`` then says how to get one.
    """

    row: ModelRow
    card: dict[str, Any]
    classes: tuple[str, ...]
    schema: str
    n_features: int
    has_reference: bool
    thresholds: dict[str, Any] | None
    training: dict[str, Any]
    evaluation: dict[str, Any] | None
    evaluation_fault: str
    drift: DriftLight


# --- administration --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RuleView:
    """An allow rule, whether it still holds, and how many stored alerts it keeps quiet."""

    rule_id: str
    says: str
    src: str | None
    dst: str | None
    host: str | None
    peer: str | None
    port: str | None
    class_name: str | None
    expires: datetime | None
    note: str
    origin: str
    active: bool
    n_alerts: int


@dataclass(frozen=True, slots=True)
class AuditView:
    """A line of the audit log."""

    audit_id: int
    time: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    address: str


@dataclass(frozen=True, slots=True)
class AuditPage:
    """A page of the audit log, the newest first."""

    items: tuple[AuditView, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token, never with its secret."""

    token_id: str
    name: str
    role: Literal["viewer", "analyst", "admin"]
    created: datetime
    expires: datetime | None
    revoked: datetime | None
    used: datetime | None
    valid: bool


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made, and its secret, which is told this once."""

    token: TokenView
    secret: str


@dataclass(frozen=True, slots=True)
class SaidPage:
    """A page of verdicts, the newest first."""

    items: tuple[Said, ...]
    next: str | None


# --- made from rows --------------------------------------------------------------------------------------------------


def severity_name(severity: int) -> SeverityName:
    """Return the name of a severity."""
    name: Any = SEVERITIES.get(severity, "low")
    return name  # type: ignore[no-any-return]


def version_of(changed: datetime) -> int:
    """Return the version of an incident that was changed at a time: the time in microseconds since 1970."""
    return round(changed.timestamp() * 1e6)


def said_of(feedback: Feedback) -> Said:
    """Return a verdict as it is shown."""
    return Said(**{name: getattr(feedback, name) for name in Said.__slots__})


def listed_of(kept: str, n_distinct: int) -> Listed:
    """Return the hosts or ports that an incident keeps, as they are shown."""
    listing = listing_of(kept, n_distinct, most=MOST_SHOWN)
    top = tuple(Counted(value, n) for value, n in listing.top.items())
    return Listed(top, n_distinct, listing.n_more, listing.exact)


def incident_row(row: Mapping[str, Any], verdict: Feedback | None) -> IncidentRow:
    """Return a row of :meth:`deepidea.store.store.Store.incidents` as it is shown."""
    plain = ("incident_id", "note", "changed", "host", "role", "first", "last", "n_alerts", "n_hosts", "n_ports")
    listings: dict[str, Any] = {name: listing_of(row[name], row[f"n_{name}"], most=1) for name in ("hosts", "ports")}
    about: dict[str, Any] = {name: row[name] for name in ("n_alerts", "first", "last", "n_hosts", "n_ports")}
    changed = row["changed"]
    return IncidentRow(
        **{name: row[name] for name in plain},
        headline=headline(row["class"], row["role"], row["host"], **listings, **about),
        class_name=row["class"],
        severity=row["severity"],
        severity_name=severity_name(row["severity"]),
        status=row["status"],
        version=0 if changed is None else version_of(changed),
        duration_s=(row["last"] - row["first"]).total_seconds(),
        score=finite(row["score"]),
        verdict=None if verdict is None else said_of(verdict),
    )


def alert_row(row: Mapping[str, Any], verdict: Feedback | None) -> AlertRow:
    """Return a row of :meth:`deepidea.store.store.Store.alerts` as it is shown."""
    given = ("class_name", "severity_name", "verdict", "model", "score", "anomaly")
    return AlertRow(
        **{name: row[name] for name in AlertRow.__slots__ if name not in given},
        class_name=row["class"],
        severity_name=severity_name(row["severity"]),
        score=finite(row["score"]) or 0.0,
        anomaly=finite(row["anomaly"]),
        model=row["model"] or "",
        verdict=None if verdict is None else said_of(verdict),
    )


def finite(value: float | None) -> float | None:
    """Return a number that JSON knows, None for any other."""
    return value if value is not None and math.isfinite(value) else None


def probabilities_of(text: str | None) -> dict[str, float]:
    """Return probabilities by class, the likeliest first."""
    told = json.loads(text) if text else {}
    return dict(sorted(((k, v) for k, v in told.items() if v is not None), key=lambda pair: -pair[1]))


def why_of(alert_id: str, told: Explanation) -> WhyView:
    """Return an explanation as it is shown."""
    reasons = tuple(_reason(entry) for entry in told.to_dict()["reasons"])
    plain = {name: getattr(told, name) for name in WhyView.__slots__ if hasattr(told, name) and name != "reasons"}
    return WhyView(alert_id, True, **plain, reasons=reasons)


def _reason(entry: Mapping[str, Any]) -> Reason:
    values = {name: entry[name] for name in Reason.__slots__}
    return Reason(**{**values, "beyond": finite(values["beyond"]), "surprise": finite(values["surprise"])})


def drift_view(report: DriftReport) -> DriftView:
    """Return a drift report as it is shown."""
    hours = tuple(DriftHour(**row) for row in report.hours.iter_rows(named=True))
    plain = {name: getattr(report, name) for name in DriftView.__slots__ if name != "hours"}
    return DriftView(**plain, hours=hours)


def series_of(
    step_s: int, times: Sequence[datetime], rows: Mapping[str, Mapping[datetime, int]], names: Sequence[str]
) -> Series:
    """Return counts with a zero for each step that has none."""
    return Series(step_s, tuple(times), {name: tuple(rows.get(name, {}).get(at, 0) for at in times) for name in names})
