"""Liveness, readiness, and metrics for Prometheus.

Metrics are named by Prometheus's rules (https://prometheus.io/docs/practices/naming/). Labels are sources, sinks,
declared routes and a bounded number of reasons, so that input from outside cannot create series without end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import deepidea
from deepidea.detection.engine import Progress
from deepidea.errors import StoreError
from deepidea.store import deliveries, incidents, sources
from deepidea.store.alert_columns import SEVERITIES
from deepidea.store.migrating import check_current
from deepidea.web.access import NeedsUnlessOpen, open_to_all
from deepidea.web.engines import Engines

log = logging.getLogger("deepidea.web")
router = APIRouter()
MOST_REASONS = 30  # series of one source: reasons quote records, which come from outside
NEWEST_BATCHES = 1_000  # whose delays are reported


@router.get("/healthz", dependencies=[open_to_all], include_in_schema=False)
def healthz() -> Response:
    """Return 200 as long as the process lives (liveness)."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", dependencies=[open_to_all], include_in_schema=False)
def readyz(request: Request) -> Response:
    """Return 200 where the store answers and all sources run, else 503 (readiness).

    A sink that rejects alerts makes the server ``degraded`` but leaves it ready: its alerts wait in the store. The
    answer is public, so that reasons name no source, sink or address; the log, the page and the API do.
    """
    engines: Engines = request.app.state.engines
    stopped, rejecting = len(engines.faults), len(engines.sink_errors)
    faults = [f"sources that failed: {stopped}"] if stopped else []
    try:
        request.app.state.store.query(check_current)
    except StoreError as error:
        log.warning("%s", error)
        faults.append("the store is unavailable, or another release has changed its tables")
    reasons = [*faults, *([f"sinks that reject alerts: {rejecting}"] if rejecting else [])]
    status = "unavailable" if faults else "degraded" if reasons else "ok"
    return JSONResponse({"status": status, "ready": not faults, "reasons": reasons}, 503 if faults else 200)


@router.get("/metrics", dependencies=[Depends(NeedsUnlessOpen("viewer"))], include_in_schema=False)
def metrics(request: Request) -> Response:
    """Return the metrics; they name sources and sinks, so a token is needed unless ``open_metrics`` is set."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


class RequestMetrics:
    """Counts and times requests by declared route; an address without a route counts as ``none``."""

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry) -> None:
        self.app = app
        labels = ("method", "route", "status")
        self.requests = Counter("deepidea_http_requests", "Requests answered.", labels, registry=registry)
        self.seconds = Histogram(
            "deepidea_http_request_seconds", "Time to first byte of the answer.", ("route",), registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        began = time.perf_counter()

        async def count_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self.requests.labels(method, route, message["status"]).inc()
                self.seconds.labels(route).observe(time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, count_and_send if scope["type"] == "http" else send)


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def add_metrics(app: FastAPI) -> None:
    """Register the metrics of requests, and those of the store and the engines."""
    app.state.registry = CollectorRegistry()
    app.add_middleware(RequestMetrics, registry=app.state.registry)
    app.state.registry.register(StoreMetrics(app.state))


Sample = tuple[Sequence[str], float]


def _gauge(name: str, text: str, labels: Sequence[str], samples: Iterable[Sample]) -> Metric:
    return _filled(GaugeMetricFamily(f"deepidea_{name}", text, labels=labels), samples)


def _counter(name: str, text: str, labels: Sequence[str], samples: Iterable[Sample]) -> Metric:
    return _filled(CounterMetricFamily(f"deepidea_{name}", text, labels=labels), samples)


def _filled(family: Any, samples: Iterable[Sample]) -> Metric:
    for labels, value in samples:
        family.add_metric(labels, value)
    made: Metric = family
    return made


_OF_SOURCES = (
    ("flows", "Flows scored."),
    ("alerts", "Alerts stored."),
    ("suppressed", "Alerts suppressed by an allow rule."),
    ("duplicates", "Alerts that were stored already."),
)
_BY_REASON = (("skipped", "Records left out."), ("dropped", "Flows and packets lost."))
_OF_SINKS = (
    ("delivered", "Alerts delivered."),
    ("dead", "Alerts written to dead letters."),
    ("lost", "Alerts deleted by retention before delivery."),
)


class StoreMetrics(Collector):
    """Reads the store at each scrape, so that the metrics cover all processes that fill it."""

    def __init__(self, state: Any) -> None:
        self.state, self.store, self.engines = state, state.store, state.engines

    def describe(self) -> list[Metric]:
        """Return no names in advance: the server must start while the store is unavailable."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield _gauge("build_info", "Version of the program.", ("version",), [((deepidea.__version__,), 1)])
        yield from self._engines()
        n_faults = self.state.live.n_faults if hasattr(self.state, "live") else 0
        yield _counter("live_faults", "Unexpected errors of live updates.", (), [((), n_faults)])
        try:
            found = [*self._sources(), *self._sinks(), self._incidents()]
        except StoreError:
            found = []
        yield _gauge("store_up", "Whether the store answers.", (), [((), 1 if found else 0)])
        yield from found

    def _sources(self) -> Iterator[Metric]:
        rows = self.store.query(sources.counters)
        for name, text in _OF_SOURCES:
            yield _counter(name, text, ("source",), [((row.name,), getattr(row, f"n_{name}")) for row in rows])
        for kind, text in _BY_REASON:
            samples = [((row.name, reason), n) for row in rows for reason, n in _bounded(getattr(row, kind)).items()]
            yield _counter(kind, text, ("source", "reason"), samples)
        times = [((row.name,), row.updated.timestamp()) for row in rows]
        yield _gauge("source_updated_seconds", "Time of a source's last update.", ("source",), times)

    def _sinks(self) -> Iterator[Metric]:
        rows = self.store.query(deliveries.counters)
        waiting = [((row.sink,), row.n_waiting) for row in rows]
        yield _gauge("sink_waiting", "Alerts that wait for delivery.", ("sink",), waiting)
        for name, text in _OF_SINKS:
            yield _counter(f"sink_{name}", text, ("sink",), [((row.sink,), getattr(row, f"n_{name}")) for row in rows])

    def _incidents(self) -> Metric:
        counts = self.store.query(incidents.open_by_severity)
        samples = [((name,), counts.get(severity, 0)) for severity, name in SEVERITIES.items()]
        return _gauge("incidents_open", "Open incidents.", ("severity",), samples)

    def _engines(self) -> Iterator[Metric]:
        """Yield the state of this process's detections; those of others report to the store only."""
        running = list(self.engines.running)
        ups = [((state.source,), 0 if state.ended else 1) for state in running]
        yield _gauge("engine_up", "Whether the detection of a source runs.", ("source",), ups)
        known = [(state.source, state.progress) for state in running if state.progress is not None]
        delays = [((source, quantile), s) for source, at in known for quantile, s in _delays(at).items()]
        yield _gauge("engine_queued_batches", "Batches that wait to be scored.", ("source",),
                     [((source,), at.n_queued) for source, at in known])  # fmt: skip
        yield _gauge("engine_delay_seconds", "Time from a flow's end to its alert in the store, newest batches.",
                     ("source", "quantile"), delays)  # fmt: skip
        yield _counter("engine_store_retries", "Batches stored again.", ("source",),
                       [((source,), at.n_store_retries) for source, at in known])  # fmt: skip


def _delays(progress: Progress) -> dict[str, float]:
    """Return quantiles of the delays of the newest batches, in seconds; nothing before the first."""
    newest = sorted(progress.latencies_s[-NEWEST_BATCHES:])
    if not newest:
        return {}
    return {name: newest[min(round(float(name) * len(newest)), len(newest) - 1)] for name in ("0.5", "0.99")}


def _bounded(reasons: dict[str, int]) -> dict[str, int]:
    """Return counts by reason; beyond :data:`MOST_REASONS` the rare ones count together."""
    ordered = sorted(reasons.items(), key=lambda pair: -pair[1])
    rest = sum(n for _, n in ordered[MOST_REASONS:])
    return {**dict(ordered[:MOST_REASONS]), **({"other reasons": rest} if rest else {})}
