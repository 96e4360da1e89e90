"""How the engine of a source stands, told to the store about once a second, for whoever looks from another process."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

EngineStatus = Literal["live", "ended", "failed"]

TELL_EVERY_S = 1.0
RATE_OVER_S = 10.0
SILENT_S = 15.0  # an engine that says it is live and has told nothing for so long is not running
_NEWEST_BATCHES = 100  # that delays are told of: of a live source about the last 20 s


@dataclass(frozen=True, slots=True)
class EngineState:
    """How an engine stood when it last told.

    Parameters
    ----------
    source : str
    updated, began : datetime
        When it told this, and when it began.
    status : {"live", "ended", "failed"}
        What it said of itself; :attr:`is_running` also looks at the time.
    n_flows, n_alerts : int
        Since it began.
    flows_per_s : float
        Over about the last :data:`RATE_OVER_S` seconds.
    latency_p50_s, latency_p99_s : float
        Delay from a flow's end being known to its batch being stored, of the newest batches.
    n_queued : int
        Batches read and not worked on yet.
    n_store_retries : int
    n_skipped, n_dropped : int
        Records that could not be read, flows and packets that were lost.
    model, detector, schema : str
        Fingerprint, name and schema of the detector.
    has_reference : bool
        Whether the detector knows what flows of training looked like, which drift is judged by.
    bounds : mapping of measure to float
        Thresholds of alerts; empty where nobody set any. Infinite is None.
    fpr : float, optional
        Rate of false alarms that the thresholds were set for.
    error : str, optional
        What it failed of.
    sink_errors : mapping of sink to str
        What the sinks that take nothing said last.

    Examples
    --------
    >>> now = datetime(2026, 5, 4, 12, tzinfo=UTC)
    >>> EngineState("eth0", updated=now, began=now, status="live").is_running_at(now)
    True
    """

    source: str
    updated: datetime
    began: datetime
    status: EngineStatus
    n_flows: int = 0
    n_alerts: int = 0
    flows_per_s: float = 0.0
    latency_p50_s: float = 0.0
    latency_p99_s: float = 0.0
    n_queued: int = 0
    n_store_retries: int = 0
    n_skipped: int = 0
    n_dropped: int = 0
    model: str = ""
    detector: str = ""
    schema: str = ""
    has_reference: bool = False
    bounds: Mapping[str, float | None] = field(default_factory=dict)
    fpr: float | None = None
    error: str | None = None
    sink_errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_running(self) -> bool:
        """Whether it is at work now: it said so, and lately."""
        return self.is_running_at(datetime.now(UTC))

    def is_running_at(self, now: datetime) -> bool:
        """Return whether it is at work at a time."""
        return self.status == "live" and (now - self.updated).total_seconds() < SILENT_S

    def to_json(self) -> str:
        """Return what the store keeps, without source and time, which have columns of their own."""
        values = {name: value for name, value in asdict(self).items() if name not in ("source", "updated")}
        return json.dumps({**values, "began": self.began.timestamp()})

    @classmethod
    def from_json(cls, source: str, updated: datetime, text: str) -> EngineState:
        """Rebuild from :meth:`to_json`; entries that a newer release added do not matter."""
        told = {name: value for name, value in json.loads(text).items() if name in cls.__dataclass_fields__}
        began = datetime.fromtimestamp(told.pop("began"), UTC)
        return cls(source, updated, began, **told)


class HasProgress(Protocol):
    """What an engine counts: see :class:`deepidea.detection.engine.Progress`."""

    n_flows: int
    n_alerts: int
    n_queued: int
    n_store_retries: int
    skipped: Any
    dropped: Any

    def latency_s(self, share: float, *, newest: int | None = None) -> float:
        """Return the latency that this share of the flows did not exceed."""


class HealthTeller:
    """Makes the states of one engine: when one is due, and at what rate flows came lately.

    Parameters
    ----------
    source : str
    about : mapping
        What stays: ``model``, ``detector``, ``schema``, ``bounds``, ``fpr``.
    """

    def __init__(self, source: str, about: Mapping[str, Any]) -> None:
        self.source, self.about = source, dict(about)
        self._began = datetime.now(UTC)
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._told_s = -math.inf

    @property
    def is_due(self) -> bool:
        """Whether the last state was told long enough ago."""
        return time.monotonic() - self._told_s >= TELL_EVERY_S

    def state(
        self,
        progress: HasProgress,
        status: EngineStatus = "live",
        *,
        error: str | None = None,
        sink_errors: Mapping[str, str] | None = None,
    ) -> EngineState:
        """Return how the engine stands now."""
        self._told_s = time.monotonic()
        p50, p99 = (progress.latency_s(share, newest=_NEWEST_BATCHES) for share in (0.5, 0.99))
        return EngineState(
            self.source,
            datetime.now(UTC),
            self._began,
            status,
            n_flows=progress.n_flows,
            n_alerts=progress.n_alerts,
            flows_per_s=self._rate(progress.n_flows),
            latency_p50_s=p50,
            latency_p99_s=p99,
            n_queued=progress.n_queued,
            n_store_retries=progress.n_store_retries,
            n_skipped=sum(progress.skipped.values()),
            n_dropped=sum(progress.dropped.values()),
            error=error,
            sink_errors=dict(sink_errors or {}),
            **self.about,
        )

    def _rate(self, n_flows: int) -> float:
        now = time.monotonic()
        self._seen.append((now, n_flows))
        while len(self._seen) > 2 and now - self._seen[1][0] >= RATE_OVER_S:
            self._seen.popleft()
        since, before = self._seen[0]
        return (n_flows - before) / max(now - since, 1e-9)


def told_bounds(bounds: Mapping[str, float]) -> dict[str, float | None]:
    """Return thresholds as JSON knows them: infinite is None."""
    return {name: bound if math.isfinite(bound) else None for name, bound in bounds.items()}


def errors_of(statuses: Sequence[Any]) -> dict[str, str]:
    """Return the last errors of those sinks whose alerts wait."""
    return {status.sink: status.last_error for status in statuses if status.last_error}
