"""Whether the server lives and can work, and its figures for Prometheus.

Metrics are named as Prometheus wants it (https://prometheus.io/docs/practices/naming/). Labels are sources, sinks,
declared routes and, up to a number, reasons: what comes from outside cannot make series without end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

import deepidea
from deepidea.detection.engine import Progress
from deepidea.errors import StoreError
from deepidea.store.alert_columns import SEVERITIES
from deepidea.store.store import Store
from deepidea.web.access import NeedsUnlessOpen, open_to_all
from deepidea.web.engines import Engines
from deepidea.web.security import App, Message, Receive, Scope, Send

log = logging.getLogger("deepidea.web")
router = APIRouter()
MOST_REASONS = 30  # of one source that are told one by one: their words come from records
NEWEST_BATCHES = 1_000  # that delays are told of


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
        request.app.state.store.check()
    except StoreError as error:
        log.warning("%s", error)
        faults.append("the store is unavailable, or another release has changed its tables")
    reasons = [*faults, *([f"sinks that reject alerts: {rejecting}"] if rejecting else [])]
    status = "unavailable" if faults else "degraded" if reasons else "ok"
    return JSONResponse({"status": status, "ready": not faults, "reasons": reasons}, 503 if faults else 200)


@router.get("/metrics", dependencies=[Depends(NeedsUnlessOpen("viewer"))], include_in_schema=False)
def metrics(request: Request) -> Response:
    """Tell the server's figures; they name sources and sinks, so that a token is needed unless the server is told."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


class RequestFigures:
    """Counts and times requests, by route as it was declared: an address that stands for none is ``none``."""

    def __init__(self, app: App, *, registry: CollectorRegistry) -> None:
        self.app = app
        labels = ("method", "route", "status")
        self.told = Counter("deepidea_http_requests", "Requests answered.", labels, registry=registry)
        self.took = Histogram(
            "deepidea_http_request_seconds", "Time to an answer's beginning.", ("route",), registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        began = time.perf_counter()

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self.told.labels(method, route, message["status"]).inc()
                self.took.labels(route).observe(time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, noted if scope["type"] == "http" else send)


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def count_requests(app: FastAPI) -> None:
    """Count and time requests by route, and make the figures of the store known."""
    app.state.registry = CollectorRegistry()
    app.add_middleware(RequestFigures, registry=app.state.registry)
    app.state.registry.register(StoreFigures(app.state.store, app.state.engines))


class StoreFigures(Collector):
    """Figures read from the store when they are asked for, so that they are those of all processes that fill it."""

    def __init__(self, store: Store, engines: Engines) -> None:
        self.store, self.engines = store, engines

    def describe(self) -> list[Metric]:
        """Tell no names beforehand: a store that is away must not keep the server from starting."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the figures."""
        info = GaugeMetricFamily("deepidea_build_info", "Version of the program.", labels=("version",))
        info.add_metric((deepidea.__version__,), 1)
        yield info
        up = GaugeMetricFamily("deepidea_store_up", "Whether the store answers.")
        try:
            found = [*self._sources(), *self._sinks(), self._incidents()]
        except StoreError:
            up.add_metric((), 0)
            yield up
            return
        finally:
            yield from self._engines()
        up.add_metric((), 1)
        yield from (up, *found)

    def _sources(self) -> Iterator[Metric]:
        rows = self.store.counters()
        for name, told in (
            ("flows", "Flows judged."),
            ("alerts", "Alerts stored."),
            ("suppressed", "Alerts that an allow rule kept quiet."),
            ("duplicates", "Alerts that were stored already."),
        ):
            family = CounterMetricFamily(f"deepidea_{name}", told, labels=("source",))
            for row in rows:
                family.add_metric((row.name,), getattr(row, f"n_{name}"))
            yield family
        for kind, told in (("skipped", "Records left out."), ("dropped", "Flows and packets lost.")):
            family = CounterMetricFamily(f"deepidea_{kind}", told, labels=("source", "reason"))
            for row in rows:
                for reason, n in _bounded(getattr(row, kind)).items():
                    family.add_metric((row.name, reason), n)
            yield family
        updated = GaugeMetricFamily("deepidea_source_updated_seconds", "When a source last told.", labels=("source",))
        for row in rows:
            updated.add_metric((row.name,), row.updated.timestamp())
        yield updated

    def _sinks(self) -> Iterator[Metric]:
        rows = self.store.sink_counters()
        waiting = GaugeMetricFamily("deepidea_sink_waiting", "Alerts that a sink has not got yet.", labels=("sink",))
        for row in rows:
            waiting.add_metric((row.sink,), row.n_waiting)
        yield waiting
        for name, told in (
            ("delivered", "Alerts that a sink got."),
            ("dead", "Alerts written to dead letters."),
            ("lost", "Alerts that retention took before a sink got them."),
        ):
            family = CounterMetricFamily(f"deepidea_sink_{name}", told, labels=("sink",))
            for row in rows:
                family.add_metric((row.sink,), getattr(row, f"n_{name}"))
            yield family

    def _incidents(self) -> Metric:
        family = GaugeMetricFamily("deepidea_incidents_open", "Incidents that are open.", labels=("severity",))
        counts = self.store.open_incidents()
        for severity, name in SEVERITIES.items():
            family.add_metric((name,), counts.get(severity, 0))
        return family

    def _engines(self) -> Iterator[Metric]:
        """Yield how the detections of this process stand; those of others tell the store alone."""
        up, queued, lag, retried = (
            GaugeMetricFamily("deepidea_engine_up", "Whether a source of this process is watched.", labels=("source",)),
            GaugeMetricFamily("deepidea_engine_queued_batches", "Batches read, not yet judged.", labels=("source",)),
            GaugeMetricFamily(
                "deepidea_engine_delay_seconds",
                "Time from a flow's end to its alert in the store, of the newest batches.",
                labels=("source", "quantile"),
            ),
            CounterMetricFamily("deepidea_engine_store_retries", "Batches stored again.", labels=("source",)),
        )
        for state in list(self.engines.running):
            up.add_metric((state.source,), 0 if state.ended else 1)
            if (at := state.progress) is not None:
                queued.add_metric((state.source,), at.n_queued)
                retried.add_metric((state.source,), at.n_store_retries)
                for quantile, seconds in _delays(at).items():
                    lag.add_metric((state.source, quantile), seconds)
        yield from (up, queued, lag, retried)


def _delays(progress: Progress) -> dict[str, float]:
    """Return quantiles of the delays of the newest batches, in seconds; nothing before the first."""
    newest = sorted(progress.latencies_s[-NEWEST_BATCHES:])
    if not newest:
        return {}
    return {name: newest[min(round(float(name) * len(newest)), len(newest) - 1)] for name in ("0.5", "0.99")}


def _bounded(reasons: dict[str, int]) -> dict[str, int]:
    """Return counts by reason, the rare ones of many together."""
    if len(reasons) <= MOST_REASONS:
        return reasons
    ordered = sorted(reasons.items(), key=lambda pair: -pair[1])
    return {**dict(ordered[:MOST_REASONS]), "other reasons": sum(n for _, n in ordered[MOST_REASONS:])}
