"""Engine heartbeat: the state of a source's engine, written to the store about once a second for other processes."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from deepidea.store.engines import RATE_OVER_S, EngineState, EngineStatus

if TYPE_CHECKING:
    from deepidea.detection.engine import Progress

HEARTBEAT_S = 1.0
_NEWEST_BATCHES = 100  # that latencies are of: about the last 20 s of a live source


class Heartbeat:
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
        self._written_s = -math.inf

    @property
    def is_due(self) -> bool:
        """Whether the next heartbeat is due."""
        return time.monotonic() - self._written_s >= HEARTBEAT_S

    def state(
        self,
        progress: Progress,
        status: EngineStatus = "live",
        *,
        error: str | None = None,
        sink_errors: Mapping[str, str] | None = None,
    ) -> EngineState:
        """Return how the engine stands now."""
        self._written_s = time.monotonic()
        p50, p99 = (progress.latency_s(fraction, newest=_NEWEST_BATCHES) for fraction in (0.5, 0.99))
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
        # The oldest kept is just beyond the time that the rate is over, so that the rate is one over that time at
        # least.
        while len(self._seen) > 2 and now - self._seen[1][0] >= RATE_OVER_S:
            self._seen.popleft()
        since, before = self._seen[0]
        return (n_flows - before) / max(now - since, 1e-9)


def json_bounds(bounds: Mapping[str, float]) -> dict[str, float | None]:
    """Return thresholds as JSON knows them: infinite is None."""
    return {name: bound if math.isfinite(bound) else None for name, bound in bounds.items()}


def errors_of(statuses: Sequence[Any]) -> dict[str, str]:
    """Return the last errors of those sinks whose alerts wait."""
    return {status.sink: status.last_error for status in statuses if status.last_error}
