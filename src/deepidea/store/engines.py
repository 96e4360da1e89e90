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
SILENT_S = 15.0  # an engine without a heartbeat for so long is not running
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
        As last written; :attr:`is_running` also needs a recent heartbeat.
    n_flows, n_alerts : int
        Since its start.
    flows_per_s : float
        Over about the last :data:`RATE_OVER_S` seconds.
    latency_p50_s, latency_p99_s : float
        Delay from receiving a flow to storing its batch, over the newest batches.
    n_queued : int
        Batches that were read and not processed yet.
    n_store_retries : int
    n_skipped, n_dropped : int
        Records that could not be read, flows and packets that were lost.
    model, detector, schema : str
        Fingerprint, name and schema of the detector.
    has_reference : bool
        Whether the detector file has the reference of its training flows, which drift needs.
    bounds : mapping of measure to float
        Thresholds of alerts; empty before calibration. Infinite is None.
    fpr : float, optional
        False positive rate that the thresholds were set for.
    error : str, optional
        Reason of failure.
    sink_errors : mapping of sink to str
        Last error of each sink that rejects alerts.

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
        """Whether it runs now: live, with a recent heartbeat."""
        return self.is_running_at(datetime.now(UTC))

    def is_running_at(self, now: datetime) -> bool:
        """Return whether it runs at a time."""
        return self.status == "live" and (now - self.updated).total_seconds() < SILENT_S

    def to_json(self) -> str:
        """Return the stored JSON, without source and time, which have their own columns."""
        values = {name: value for name, value in asdict(self).items() if name not in ("source", "updated")}
        return json.dumps({**values, "began": self.began.timestamp()})

    @classmethod
    def from_json(cls, source: str, updated: datetime, text: str) -> EngineState:
        """Rebuild from :meth:`to_json`; unknown entries of newer releases are ignored."""
        values = {name: value for name, value in json.loads(text).items() if name in cls.__dataclass_fields__}
        began = datetime.fromtimestamp(values.pop("began"), UTC)
        return cls(source, updated, began, **values)


def put(connection: sa.Connection, state: EngineState) -> None:
    """Store the state of a source's engine, in place of its last one."""
    row = {"source": state.source, "updated_us": us(state.updated), "state": state.to_json()}
    upsert(connection, ENGINES, [row])


def latest(connection: sa.Connection, *wanted: sa.ColumnElement[bool]) -> list[EngineState]:
    """Return the last state of the engine of each source, the newest first."""
    rows = connection.execute(sa.select(ENGINES).where(*wanted).order_by(ENGINES.c.updated_us.desc(), ENGINES.c.source))
    return [EngineState.from_json(source, time_of(at), text) for source, at, text in rows]
