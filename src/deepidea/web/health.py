"""Whether the server lives and can work, and its figures for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool

import deepidea
from deepidea.detection.alerts import SEVERITIES
from deepidea.detection.store import Store
from deepidea.errors import StoreError
from deepidea.web.access import open_to_all, viewer
from deepidea.web.engines import Engines

router = APIRouter()
MOST_REASONS = 30  # of one source that are told one by one: their words come from records


@router.get("/healthz", dependencies=[open_to_all], include_in_schema=False)
def healthz() -> Response:
    """Say that the process lives."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", dependencies=[open_to_all], include_in_schema=False)
def readyz(request: Request) -> Response:
    """Say whether the store answers and what should be watched is watched."""
    faults = list(request.app.state.engines.faults.values())
    try:
        request.app.state.store.has_tokens()
    except StoreError:
        faults.append("the store does not answer")
    told = {"ready": not faults, "n_faults": len(faults)}  # what exactly is for those who are logged in
    return JSONResponse(told, 503 if faults else 200)


@router.get("/metrics", dependencies=[open_to_all], include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Tell the server's figures; they name sources and sinks, so that a token is needed unless the server is told."""
    if not request.app.state.settings.open_metrics:
        await viewer(request)
    text = await run_in_threadpool(generate_latest, request.app.state.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def count_requests(app: FastAPI) -> None:
    """Count and time requests by route, and make the figures of the store known."""
    registry = CollectorRegistry()
    labels = ("method", "route", "status")
    told = Counter("deepidea_http_requests", "Requests answered.", labels, registry=registry)
    took = Histogram("deepidea_http_request_seconds", "Time to an answer's first byte.", ("route",), registry=registry)
    app.state.registry = registry
    registry.register(StoreFigures(app.state.store, app.state.engines))

    @app.middleware("http")
    async def count(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        began = time.perf_counter()
        response = await answer(request)
        route = getattr(request.scope.get("route"), "path", "none")
        told.labels(request.method if request.method in _METHODS else "other", route, response.status_code).inc()
        took.labels(route).observe(time.perf_counter() - began)
        return response


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


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
        up.add_metric((), 1)
        yield from (up, *found, self._faults())

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

    def _faults(self) -> Metric:
        family = GaugeMetricFamily(
            "deepidea_engine_up", "Whether a source of this process is watched.", labels=("source",)
        )
        for state in self.engines.running:
            family.add_metric((state.source,), 0 if state.fault else 1)
        return family


def _bounded(reasons: dict[str, int]) -> dict[str, int]:
    """Return counts by reason, the rare ones of many together."""
    if len(reasons) <= MOST_REASONS:
        return reasons
    ordered = sorted(reasons.items(), key=lambda pair: -pair[1])
    return {**dict(ordered[:MOST_REASONS]), "other reasons": sum(n for _, n in ordered[MOST_REASONS:])}
