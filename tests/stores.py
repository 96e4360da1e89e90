"""A store for tests, which calls functions of its room by one name each and returns frames that are easy to compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from deepidea.detection.drift import stored_drift
from deepidea.store import (
    access,
    alerts,
    audit,
    batches,
    changes,
    deliveries,
    engines,
    feedback,
    hosts,
    incidents,
    labelled_alerts,
    memory,
    migrating,
    models,
    retention,
    rules,
    series,
    sources,
)
from deepidea.store import store as opening
from deepidea.store.grouping import BEST_FINDING, GAP_S, INCIDENT_COLUMNS

QUERIES: dict[str, Callable[..., Any]] = {
    "position": sources.position,
    "resume": sources.resume,
    "counters": sources.counters,
    "find_alert": alerts.find_row,
    "count_incidents": incidents.count,
    "find_incident": incidents.find_id,
    "severity_counts": incidents.severity_counts,
    "open_incidents": incidents.open_by_severity,
    "rules": rules.all_rules,
    "count_ruled": rules.count_matches,
    "undelivered": deliveries.undelivered,
    "sink_counters": deliveries.counters,
    "verdicts_on_alerts": feedback.verdicts_on_alerts,
    "models": models.all_models,
    "find_model": models.find,
    "model_file": models.file,
    "activation_fault": models.activation_fault,
    "active_model": models.active,
    "activations": models.activations,
    "tokens": access.tokens,
    "has_tokens": access.has_tokens,
    "check": migrating.check_current,
    "marks": changes.marks,
    "host": hosts.summary,
    "host_series": hosts.series,
    "alert_classes": alerts.classes,
    "drift": stored_drift,
}
CHANGES: dict[str, Callable[..., Any]] = {
    "commit_batch": batches.commit,
    "rename_source": memory.rename_source,
    "tell_engine": engines.put,
    "set_incident_state": incidents.set_state,
    "add_rule": rules.add,
    "remove_rule": rules.remove,
    "sync_rules": rules.sync,
    "apply_to_store": rules.apply,
    "register_sink": deliveries.register,
    "mark_delivered": deliveries.mark_delivered,
    "purge": retention.purge,
    "judge": feedback.put,
    "set_comparison": models.set_comparison,
    "activate": models.activate,
    "rollback": models.rollback,
    "remove_model": models.remove,
    "add_token": access.add_token,
    "revoke_token": access.revoke_token,
    "open_session": access.open_session,
    "close_session": access.close_session,
    "audit": audit.write,
}
OF_STORE: dict[str, Callable[..., Any]] = {
    "find_token": access.find_token,
    "find_session": access.find_session,
    "local_secret": access.local_secret,
    "judged_alerts": labelled_alerts.labelled_pages,
}
STATE = {"status": pl.String(), "note": pl.String(), "changed": pl.Datetime("us", "UTC")}
TIMES = {"first": pl.Datetime("us", "UTC"), "last": pl.Datetime("us", "UTC")}
INCIDENT_SCHEMA = {name.removesuffix("_us"): TIMES.get(name.removesuffix("_us"), dtype)
                   for name, dtype in INCIDENT_COLUMNS.items() if name not in BEST_FINDING} | STATE  # fmt: skip


@dataclass(frozen=True, slots=True)
class Frames:
    """A page as a frame."""

    rows: pl.DataFrame
    next: str | None


def row_of(full: incidents.FullIncident) -> dict[str, Any]:
    """Return an incident as a row of :data:`INCIDENT_SCHEMA`."""
    values = asdict(full.incident)
    values |= {"class": full.incident.class_name, "incident_key": full.incident_key}
    values |= {"ports": full.ports, "hosts": full.hosts}
    return {name: values[name] for name in INCIDENT_SCHEMA}


class Store(opening.Store):
    """A store whose methods are the functions of its room, see `QUERIES` and `CHANGES`."""

    def __getattr__(self, name: str) -> Any:
        if name in QUERIES:
            return partial(self.query, QUERIES[name])
        if name in CHANGES:
            return partial(self.execute, CHANGES[name])
        if name in OF_STORE:
            return partial(OF_STORE[name], self)
        raise AttributeError(name)

    def alerts(self, *, limit: int = 100, **asked: Any) -> Frames:
        rows = self.query(alerts.find_table, limit=limit, **asked)
        following = self.query(alerts.find, limit=limit, **asked).next
        return Frames(rows, following)

    def alert(self, alert_id: str) -> dict[str, Any] | None:
        found = self.query(alerts.get_row, alert_id)
        return None if found is None else found[0]

    def incidents(self, **asked: Any) -> Frames:
        page = self.query(incidents.find_full, **asked)
        return Frames(pl.DataFrame(list(map(row_of, page.items)), schema=pl.Schema(INCIDENT_SCHEMA)), page.next)

    def incident(self, incident_id: str) -> dict[str, Any] | None:
        full = self.query(incidents.get_full, incident_id)
        return None if full is None else row_of(full)

    def incident_of(self, alert_id: str) -> str | None:
        return self.query(feedback.incidents_of, [alert_id]).get(alert_id)

    def engines(self) -> list[engines.EngineState]:
        return sorted(self.query(engines.latest), key=lambda state: state.source)

    def feedback(self, *, limit: int = 500, **asked: Any) -> list[feedback.Feedback]:
        return list(self.query(feedback.find, limit=limit, **asked).items)

    def verdicts_of(self, ids: list[str]) -> dict[str, feedback.Feedback]:
        return self.query(feedback.newest, "incident", ids)

    def feedback_page(self, **asked: Any) -> tuple[list[feedback.Feedback], str | None]:
        page = self.query(feedback.find, **asked)
        return list(page.items), page.next

    def audit_log(self, **asked: Any) -> tuple[list[audit.AuditEntry], str | None]:
        page = self.query(audit.find, **asked)
        return list(page.items), page.next

    def hosts(self, **asked: Any) -> tuple[list[hosts.Host], str | None]:
        page = self.query(hosts.find, **asked)
        return list(page.items), page.next

    def changes(self, before: changes.Marks) -> Any:
        return self.query(changes.since, before)

    def add_model(self, file: str | Path | bytes, *, name: str = "", analyst: str) -> models.StoredModel:
        return self.execute(models.add, models.read_model(file, name=name), analyst=analyst)

    def newest_time(self) -> datetime | None:
        return self.query(series.extent)[1]

    def oldest_time(self) -> datetime | None:
        return self.query(series.extent)[0]

    def alert_series(self, *asked: Any, **named: Any) -> pl.DataFrame:
        lines = self.query(series.alerts, *asked, **named)
        rows = [(at, name, n) for name, counts in lines.items() for at, n in counts.items()]
        schema = {"time": pl.Datetime("us", "UTC"), "class": pl.String(), "n": pl.Int64()}
        return pl.DataFrame(rows, schema=pl.Schema(schema), orient="row").sort("time", "class")

    def flow_series(self, *asked: Any, **named: Any) -> pl.DataFrame:
        lines = self.query(series.flows, *asked, **named)
        rows = [(at, n, lines["alerts"][at]) for at, n in lines["flows"].items()]
        schema = {"time": pl.Datetime("us", "UTC"), "n_flows": pl.Int64(), "n_alerts": pl.Int64()}
        return pl.DataFrame(rows, schema=pl.Schema(schema), orient="row")


def open_store(url: str, *, incident_gap_s: float = GAP_S) -> Store:
    """Open a store as :func:`deepidea.store.store.open_store` does."""
    store = Store(opening._engine(url), incident_gap_s=incident_gap_s)
    try:
        store.migrate()
    except BaseException:
        store.close()
        raise
    return store
