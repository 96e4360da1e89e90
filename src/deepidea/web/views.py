"""What the page and the API show: frozen records of plain values and times, made from rows of a store.

Nothing in them is markup. Texts that come from the network or from people stand in them as they are: whoever shows them
must escape them.
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
class Series:
    """Counts over time: ``times`` are beginnings of steps, and each entry of ``lines`` has one number a step."""

    step_s: int
    times: tuple[datetime, ...]
    lines: dict[str, tuple[int, ...]]


# --- incidents -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IncidentPage:
    """A page of incidents, how many there are in all pages, and what to ask for ``after`` these, None at the end."""

    items: tuple[Incident, ...]
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
        With their alerts.
    findings, n_findings
        The strongest findings, at least one of each behaviour, and how many there are.
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
    """What the detector saw: a feature, its title, its value in human form and as it is."""

    name: str
    title: str
    value: str
    raw: int | float | str | None


@dataclass(frozen=True, slots=True)
class AlertView:
    """All that is known of an alert: ``probabilities`` by class, features, verdicts on it, its incident."""

    alert: Alert
    incident_id: str | None
    probabilities: dict[str, float]
    features: tuple[FeatureValue, ...]
    history: tuple[Feedback, ...]


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
    """Why an alert was raised, or, where ``available`` is False, the ``fault`` that prevents an explanation.

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
        A line a class, without suppressed ones.
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
    hosts: tuple[Host, ...]
    incidents: tuple[Incident, ...]
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


# --- sources, sinks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceView:
    """A source: its counters since its beginning, and the state of its engine, where there is one.

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
    """Comparison of a model with another on the same data: verdict, reason, and all figures."""

    old_id: str
    new_id: str
    verdict: Literal["better", "no worse", "worse"]
    reason: str
    figures: dict[str, Any]


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
class ModelsView:
    """The models, the history of activations, and whether one can be gone back to."""

    items: tuple[ModelRow, ...]
    activations: tuple[Activation, ...]
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
        ``epochs`` (one object each), ``seconds`` and what else the card has about training.
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
class NewToken:
    """A token that was just made, and its secret, which is shown this once."""

    token: Token
    secret: str


# --- made from rows --------------------------------------------------------------------------------------------------


def listed_of(kept: str, n_distinct: int) -> Listed:
    """Return the hosts or ports that an incident keeps, as they are shown."""
    listing = listing_of(kept, n_distinct, most=MOST_SHOWN)
    top = tuple(Counted(value, n) for value, n in listing.top.items())
    return Listed(top, n_distinct, listing.n_more, listing.exact)


def why_of(alert_id: str, explanation: Explanation) -> WhyView:
    """Return an explanation as it is shown."""
    reasons = tuple(_reason(entry) for entry in explanation.to_dict()["reasons"])
    names = [name for name in WhyView.__slots__ if hasattr(explanation, name) and name != "reasons"]
    plain = {name: getattr(explanation, name) for name in names}
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
