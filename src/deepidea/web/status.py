"""Health of sources and sinks: a state and one sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from deepidea.store.alerts import finite
from deepidea.store.deliveries import SinkCounters
from deepidea.store.engines import SILENT_S, EngineState
from deepidea.store.headline import duration
from deepidea.store.sources import SourceCounters
from deepidea.web.views import Health, SinkView, SourceView

SLOW_S = 10.0  # a longer delay is a degraded state


def sources_of(
    counters: Sequence[SourceCounters], engines: Sequence[EngineState], *, now: datetime
) -> tuple[SourceView, ...]:
    """Return all sources that have counters or an engine, by name."""
    rows, states = {row.name: row for row in counters}, {state.source: state for state in engines}
    return tuple(_source(name, rows.get(name), states.get(name), now) for name in sorted({*rows, *states}))


def _source(name: str, row: SourceCounters | None, engine: EngineState | None, now: datetime) -> SourceView:
    health, message = _health(engine, now)
    skipped, dropped = (row.skipped, row.dropped) if row is not None else ({}, {})
    running = engine is not None and engine.is_running_at(now)
    lags = (engine.latency_p50_s, engine.latency_p99_s) if engine is not None else (None, None)
    return SourceView(
        name=name,
        health=health,
        message=message,
        n_flows=row.n_flows if row else 0,
        n_alerts=row.n_alerts if row else 0,
        n_suppressed=row.n_suppressed if row else 0,
        n_duplicates=row.n_duplicates if row else 0,
        n_lost=sum(skipped.values()) + sum(dropped.values()),
        skipped=dict(skipped),
        dropped=dict(dropped),
        updated=max((one.updated for one in (row, engine) if one is not None), default=None),
        began=engine.began if engine else None,
        flows_per_s=finite(engine.flows_per_s) if engine is not None and running else None,
        lag_p50_s=finite(lags[0]),
        lag_p99_s=finite(lags[1]),
        n_queued=engine.n_queued if engine else 0,
        n_store_retries=engine.n_store_retries if engine else 0,
        model=engine.model if engine else "",
        detector=engine.detector if engine else "",
        schema=engine.schema if engine else "",
        bounds=dict(engine.bounds) if engine else {},
        fpr=engine.fpr if engine else None,
        error=engine.error if engine else None,
    )


def _health(engine: EngineState | None, now: datetime) -> tuple[Health, str]:
    if engine is None:
        return "stopped", "not running"
    ago = duration((now - engine.updated).total_seconds())
    if engine.status == "failed":
        return "degraded", f"failed {ago} ago: {engine.error or 'no error message'}"
    if engine.status == "ended":
        return "stopped", f"ended {ago} ago"
    if not engine.is_running_at(now):
        return "degraded", f"no heartbeat for {ago} (limit {duration(SILENT_S)}): check its host"
    if engine.n_dropped:
        return "degraded", f"overloaded: {engine.n_dropped:,} flows or packets lost"
    if engine.latency_p99_s > SLOW_S:
        return "degraded", f"running {duration(engine.latency_p99_s)} late"
    return "ok", f"live, {engine.flows_per_s:,.0f} flows/s"


def sinks_of(
    counters: Sequence[SinkCounters], engines: Sequence[EngineState], own_errors: Mapping[str, str]
) -> tuple[SinkView, ...]:
    """Return all sinks, by name; errors come from the engines' states and from this process's deliveries."""
    errors = {sink: error for state in engines for sink, error in state.sink_errors.items()} | dict(own_errors)
    return tuple(_sink(row, errors.get(row.sink)) for row in counters)


def _sink(row: SinkCounters, error: str | None) -> SinkView:
    faults = [
        *([f"rejects alerts: {error}"] if error is not None and row.n_waiting else []),
        *([f"{row.n_dead:,} alerts in the dead-letter file"] if row.n_dead > 0 else []),
        *([f"{row.n_lost:,} alerts deleted before delivery"] if row.n_lost else []),
    ]
    waiting = f"{row.n_waiting:,} alerts waiting" if row.n_waiting else "all alerts delivered"
    message = "; ".join(faults) or waiting
    health: Health = "degraded" if faults else "ok"
    return SinkView(row.sink, health, message, row.n_delivered, row.n_waiting, row.n_dead, row.n_lost, error)


def health_of(sources: Sequence[SourceView], sinks: Sequence[SinkView]) -> tuple[Health, str]:
    """Return the overall health: degraded where anything is, stopped where no source runs."""
    all_of_them: list[SourceView | SinkView] = [*sources, *sinks]
    faults = [f"{one.name}: {one.message}" for one in all_of_them if one.health == "degraded"]
    if faults:
        return "degraded", faults[0] + (f", and {len(faults) - 1} more" if len(faults) > 1 else "")
    live = sum(one.health == "ok" for one in sources)
    if not live:
        return "stopped", "no source is running" if sources else "no source has run yet"
    return "ok", f"{live} source{'' if live == 1 else 's'} running"
