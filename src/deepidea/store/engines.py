"""State of the engine of each source, as of its last heartbeat."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Literal

import sqlalchemy as sa

from deepidea.store.statements import time_of, upsert, us
from deepidea.store.tables import ENGINES

EngineStatus = Literal["live", "ended", "failed"]
SILENT_S = 15.0  # an engine that is live by its own account and has written nothing for so long is not running
RATE_OVER_S = 10.0


@dataclass(frozen=True, slots=True)
class EngineState:
    """State of an engine as of its last heartbeat.

    Parameters
    ----------
    source : str
    updated, began : datetime
        Time of the heartbeat, and of the start.
    status : {"live", "ended", "failed"}
        By its own account; :attr:`is_running` also needs a recent heartbeat.
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
        Why it failed.
    sink_errors : mapping of sink to str
        Last errors of the sinks that reject alerts.

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
        """Whether it runs now: live by its own account, as of lately."""
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
        values = {name: value for name, value in json.loads(text).items() if name in cls.__dataclass_fields__}
        began = datetime.fromtimestamp(values.pop("began"), UTC)
        return cls(source, updated, began, **values)


def put(connection: sa.Connection, state: EngineState) -> None:
    """Keep the state of a source's engine, in place of its last one."""
    row = {"source": state.source, "updated_us": us(state.updated), "state": state.to_json()}
    upsert(connection, ENGINES, [row])


def latest(connection: sa.Connection, *wanted: sa.ColumnElement[bool]) -> list[EngineState]:
    """Return the last state of the engine of each source, the newest first."""
    rows = connection.execute(sa.select(ENGINES).where(*wanted).order_by(ENGINES.c.updated_us.desc(), ENGINES.c.source))
    return [EngineState.from_json(source, time_of(at), text) for source, at, text in rows]
