"""Counts of drift in a store: a batch's added to those of its hour, and read back for a report.

Counts are kept with the bins that they were counted by: a reader needs no detector file.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import datetime

import numpy as np
import sqlalchemy as sa

from deepidea.detection.drift import (
    NO_REFERENCE,
    NO_SITE,
    Against,
    Baseline,
    BinnedFlows,
    Counts,
    DriftReport,
    drift_report,
    layout_of,
    unknown_drift,
)
from deepidea.detection.health import EngineState
from deepidea.detection.store_reading import time_of, us
from deepidea.detection.store_schema import DRIFT_COUNTS, ENGINES, META
from deepidea.detection.store_writing import upsert

HOUR_US = 3_600_000_000
LATEST_HOURS = 24  # that a report is of, where nobody asks for others
_LAYOUT_BYTES = 8
_UNUSABLE = "the counts of the store were made by other bins; they count from now on"


def count_drift(connection: sa.Connection, source: str, binned: Sequence[BinnedFlows]) -> None:
    """Add a batch's counts to those of their hours; counts by other bins, of an earlier file, start anew."""
    rows = []
    for told in binned:
        key = {"source": source, "model": _key(told.baseline.model, told.baseline.against), "hour_us": told.hour_us}
        here = [DRIFT_COUNTS.c[name] == value for name, value in key.items()]
        known = connection.execute(sa.select(DRIFT_COUNTS.c.n_flows, DRIFT_COUNTS.c.counts).where(*here)).first()
        before = None if known is None else _unpack(known[1], told.layout)
        n_flows, counts = told.n_flows, told.counts
        if known is None or before is None:
            upsert(connection, META, [{"key": f"drift:{key['model']}", "value": told.baseline.to_json()}])
        else:
            n_flows, counts = n_flows + known[0], counts + before
        packed = told.layout + zlib.compress(counts.astype("<u4").tobytes(), 1)
        rows.append({**key, "n_flows": n_flows, "counts": packed})
    upsert(connection, DRIFT_COUNTS, rows)


def _key(model: str, against: Against) -> str:
    return model if against == "training" else f"{model}/{against}"


def _unpack(data: bytes, layout: bytes) -> Counts | None:
    """Return counts, None where they were counted by other bins."""
    if data[:_LAYOUT_BYTES] != layout:
        return None
    return np.frombuffer(zlib.decompress(data[_LAYOUT_BYTES:]), "<u4").astype(np.uint32)


def read_drift(
    connection: sa.Connection,
    *,
    model: str | None,
    source: str | None,
    since: datetime | None,
    until: datetime | None,
    against: Against | None,
) -> DriftReport:
    """Return how the flows of some hours compare, of the model that scored last where none is named."""
    states = _states(connection, source)
    model = model or (states[0].model if states else _latest_model(connection, source))
    if model is None:
        return unknown_drift("nothing has been watched with this store yet", against=against or "training")
    asked: tuple[Against, ...] = ("site", "training") if against is None else (against,)
    for kind in asked:
        text = connection.execute(sa.select(META.c.value).where(META.c.key == f"drift:{_key(model, kind)}")).scalar()
        if text is not None:
            return _report(connection, Baseline.from_json(text), source, since, until)
    return unknown_drift(_why_nothing(states, model, asked[-1]), model=model, against=asked[-1])


def _states(connection: sa.Connection, source: str | None) -> list[EngineState]:
    """Return how engines stood, the latest first."""
    wanted = [ENGINES.c.source == source] if source is not None else []
    rows = connection.execute(sa.select(ENGINES).where(*wanted).order_by(ENGINES.c.updated_us.desc())).all()
    return [EngineState.from_json(name, time_of(at), text) for name, at, text in rows]


def _latest_model(connection: sa.Connection, source: str | None) -> str | None:
    wanted = [DRIFT_COUNTS.c.source == source] if source is not None else []
    query = sa.select(DRIFT_COUNTS.c.model).where(*wanted).order_by(DRIFT_COUNTS.c.hour_us.desc()).limit(1)
    found = connection.execute(query).scalar()
    return None if found is None else found.partition("/")[0]


def _why_nothing(states: Sequence[EngineState], model: str, against: Against) -> str:
    own = [state for state in states if state.model == model]
    if not own:
        return f"no flows of model {model} were counted: it did not watch, or its file keeps no reference"
    if against == "site":
        return NO_SITE
    return NO_REFERENCE if not own[0].has_reference else "no flows came yet"


def _report(
    connection: sa.Connection,
    baseline: Baseline,
    source: str | None,
    since: datetime | None,
    until: datetime | None,
) -> DriftReport:
    columns, layout = DRIFT_COUNTS.c, layout_of(baseline)
    wanted = [columns.model == _key(baseline.model, baseline.against)]
    wanted += [columns.source == source] if source is not None else []
    wanted += [columns.hour_us < us(until)] if until is not None else []
    first = None if since is None else us(since) // HOUR_US * HOUR_US
    if first is None:
        newest = connection.execute(sa.select(sa.func.max(columns.hour_us)).where(*wanted)).scalar()
        first = 0 if newest is None else newest - (LATEST_HOURS - 1) * HOUR_US
    query = sa.select(columns.hour_us, columns.n_flows, columns.counts).where(*wanted, columns.hour_us >= first)
    flows: dict[int, int] = {}
    counts: dict[int, Counts] = {}
    rows = connection.execute(query.order_by(columns.hour_us)).all()
    for hour, n, data in rows:
        told = _unpack(data, layout)
        if told is not None:
            flows[hour] = flows.get(hour, 0) + n
            counts[hour] = counts[hour] + told if hour in counts else told
    if rows and not flows:
        return unknown_drift(_UNUSABLE, model=baseline.model, against=baseline.against)
    if not flows:
        return unknown_drift("no flows fell into these hours", model=baseline.model, against=baseline.against)
    return drift_report(baseline, list(flows), list(flows.values()), np.stack(list(counts.values())))
