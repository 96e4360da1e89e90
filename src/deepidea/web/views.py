"""Records of page and API: frozen, of plain values and times.

Nothing in them is markup. Text from the network or from users is not escaped: templates escape it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from deepidea.detection.drift import DriftReport, FeatureDrift
from deepidea.model.explain import Explanation
from deepidea.store.access import Token
from deepidea.store.alerts import Alert, SeverityName, finite
from deepidea.store.audit import AuditEntry
from deepidea.store.feedback import Feedback
from deepidea.store.grouping import listing_of
from deepidea.store.hosts import Host
from deepidea.store.incidents import Incident
from deepidea.store.models import Activation
from deepidea.web.windows import Window

Health = Literal["ok", "degraded", "stopped"]
LONGEST_NOTE = 10_000
MOST_FINDINGS = 6  # of an incident
MOST_SHOWN = 20  # hosts and ports of an incident, by alerts


# --- small parts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counted:
    """A value, such as a host, a port or a class, and its number of alerts."""

    value: str
    n: int


@dataclass(frozen=True, slots=True)
class Listed:
    """Hosts or ports: the most frequent, the total, and whether that is exact or an estimate."""

    top: tuple[Counted, ...]
    total: int
    n_more: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Series:
    """Counts over time: ``times`` are the beginnings of steps, each of ``lines`` has one number a step."""

    step_s: int
    times: tuple[datetime, ...]
    lines: dict[str, tuple[int, ...]]


# --- incidents -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IncidentPage:
    """A page of incidents, their total, and ``after`` of the following page, None at the end."""

    items: tuple[Incident, ...]
    next: str | None
    total: int


@dataclass(frozen=True, slots=True)
class Suggestion:
    """An allow rule that would suppress an incident.

    Parameters
    ----------
    rule
        Fields by name, for a form or :meth:`AnalystService.add_rule`.
    description
        What it matches, in words.
    n_alerts
        Stored alerts that it would suppress.
    n_other
        Alerts of other incidents among them.
    """

    rule: dict[str, str]
    description: str
    n_alerts: int
    n_other: int


@dataclass(frozen=True, slots=True)
class IncidentView:
    """An incident in full.

    Parameters
    ----------
    incident
    hosts, ports
        Peers, and destination ports.
    series
        Alerts over time, one line ``alerts``.
    strongest
        The alert with the highest score; None where retention deleted all.
    why
        Explanation of that alert.
    unusual
        Note on an alert that is unlike benign flows and known attacks alike; else empty.
    history
        Verdicts on the incident, the newest first.
    log
        Its entries in the audit log.
    suggestions
        Allow rules, the narrowest first.
    same_host
        Other incidents of the host, the latest first.
    sources
        Sources with their numbers of alerts.
    findings, n_findings
        The strongest findings, one per window and at least one of each behaviour, and their total number.
    """

    incident: Incident
    hosts: Listed
    ports: Listed
    series: Series
    strongest: Alert | None
    why: WhyView | None
    unusual: str
    history: tuple[Feedback, ...]
    log: tuple[AuditEntry, ...]
    suggestions: tuple[Suggestion, ...]
    same_host: tuple[Incident, ...]
    sources: tuple[Counted, ...]
    findings: tuple[Alert, ...]
    n_findings: int


# --- alerts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FeatureValue:
    """A feature of a flow: name, title, value with its unit, and raw value."""

    name: str
    title: str
    value: str
    raw: int | float | str | None


@dataclass(frozen=True, slots=True)
class AlertView:
    """An alert in full: incident, ``probabilities`` by class, features, verdicts."""

    alert: Alert
    incident_id: str | None
    probabilities: dict[str, float]
    features: tuple[FeatureValue, ...]
    history: tuple[Feedback, ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """Attribution of a verdict to one feature; see :class:`deepidea.model.explain.Reason`."""

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
    """Explanation of an alert, or, where ``available`` is False, the ``fault`` that prevents one.

    Other fields: :class:`deepidea.model.explain.Explanation`.
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
    """Incidents of one severity, the open ones among them, and their alerts."""

    severity: int
    severity_name: SeverityName
    n_incidents: int
    n_open: int
    n_alerts: int


@dataclass(frozen=True, slots=True)
class Overview:
    """Overview of the network.

    Parameters
    ----------
    window
    severities
        All four, the most urgent first.
    n_incidents, n_open, n_alerts, n_flows
        In the window.
    alerts
        A line a class, without suppressed alerts.
    flows
        Lines ``flows`` and ``alerts``, with suppressed alerts.
    hosts
        The most urgent ones.
    incidents
        Open ones, the most urgent first.
    sources
    drift
    health, health_message
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
    hosts: tuple[Host, ...]
    incidents: tuple[Incident, ...]
    sources: tuple[SourceView, ...]
    drift: DriftLight
    health: Health
    health_message: str


@dataclass(frozen=True, slots=True)
class HostView:
    """A host: its incidents, and the peers, destination ports and classes of its alerts."""

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


# --- sources, sinks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceView:
    """A source: its total counters, and the state of its engine, if it has one.

    Parameters
    ----------
    health, message
        State, and a sentence about it.
    lag_p50_s, lag_p99_s
        Delay from receiving a flow to storing its alert.
    skipped, dropped
        Records left out, and flows or packets lost, by reason.
    """

    name: str
    health: Health
    message: str
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
    """A sink: alerts delivered, waiting, in dead letters and lost, and its last error while it rejects alerts."""

    name: str
    health: Health
    message: str
    n_delivered: int
    n_waiting: int
    n_dead: int
    n_lost: int
    error: str | None


@dataclass(frozen=True, slots=True)
class SourcesView:
    """All sources and sinks, and their store."""

    sources: tuple[SourceView, ...]
    sinks: tuple[SinkView, ...]
    store: str
    health: Health
    message: str


# --- models ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DriftLight:
    """Result of a drift check: a traffic light and a sentence."""

    light: Literal["green", "amber", "red", "unknown"]
    sentence: str


@dataclass(frozen=True, slots=True)
class DriftHour:
    """Drift of one hour: PSI of the score, mean PSI of the features, share of shifted features."""

    time: datetime
    n_flows: int
    score: float | None
    mean: float | None
    share_shifted: float | None


@dataclass(frozen=True, slots=True)
class DriftView:
    """A drift report: :class:`deepidea.detection.drift.DriftReport`."""

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
    """Comparison of a model with another on the same data: verdict, reason, and all figures."""

    old_id: str
    new_id: str
    verdict: Literal["better", "no worse", "worse"]
    reason: str
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model in a list; ``model`` is its fingerprint, which alerts have.

    ``stored`` is False of a detector that runs from a file and is not in the store.
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
class ModelsView:
    """The models, the history of activations, and whether a rollback is possible."""

    items: tuple[ModelRow, ...]
    activations: tuple[Activation, ...]
    can_roll_back: bool
    next: str | None = None


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model in full.

    Parameters
    ----------
    row
    card
        The detector file's card, long lists cut.
    classes, schema, n_features
    thresholds
        Bounds of measures and their guarantee; None before calibration.
    training
        The card's entry about training: ``epochs`` (one object each), ``seconds``, ...
    evaluation, evaluation_fault
        Summary of the evaluation in the file (``deepidea evaluate --keep``), or None and how to add one.
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
class NewToken:
    """A new token, and its secret, which is shown this once."""

    token: Token
    secret: str


# --- conversions -----------------------------------------------------------------------------------------------------


def listed_of(kept: str, n_distinct: int) -> Listed:
    """Return the stored list of hosts or ports of an incident as a record."""
    listing = listing_of(kept, n_distinct, most=MOST_SHOWN)
    top = tuple(Counted(value, n) for value, n in listing.top.items())
    return Listed(top, n_distinct, listing.n_more, listing.exact)


def why_of(alert_id: str, explanation: Explanation) -> WhyView:
    """Return an explanation as a record."""
    reasons = tuple(_reason(entry) for entry in explanation.to_dict()["reasons"])
    names = [name for name in WhyView.__slots__ if hasattr(explanation, name) and name != "reasons"]
    plain = {name: getattr(explanation, name) for name in names}
    return WhyView(alert_id, True, **plain, reasons=reasons)


def _reason(entry: Mapping[str, Any]) -> Reason:
    values = {name: entry[name] for name in Reason.__slots__}
    return Reason(**{**values, "beyond": finite(values["beyond"]), "surprise": finite(values["surprise"])})


def drift_view(report: DriftReport) -> DriftView:
    """Return a drift report as a record."""
    hours = tuple(DriftHour(**row) for row in report.hours.iter_rows(named=True))
    plain = {name: getattr(report, name) for name in DriftView.__slots__ if name != "hours"}
    return DriftView(**plain, hours=hours)


def series_of(
    step_s: int, times: Sequence[datetime], rows: Mapping[str, Mapping[datetime, int]], names: Sequence[str]
) -> Series:
    """Return counts as a record, with zeros for steps without any."""
    return Series(step_s, tuple(times), {name: tuple(rows.get(name, {}).get(at, 0) for at in times) for name in names})
