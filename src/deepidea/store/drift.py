"""Drift counts: hourly histograms of sampled flows over a detector's bins, stored with those bins."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from deepidea.store.statements import upsert, us
from deepidea.store.tables import DRIFT_COUNTS, META

Against = Literal["training", "site"]
Counts = NDArray[np.uint32]

HOUR_US = 3_600_000_000
LATEST_HOURS = 24  # default extent of a report
_LAYOUT_BYTES = 8


@dataclass(frozen=True, slots=True, eq=False)
class BinnedFlows:
    """Histogram of an hour's sampled flows over the slots of a baseline.

    Parameters
    ----------
    model : str
        Fingerprint of the detector.
    against : {"training", "site"}
        Whether the bins come from training flows, or from the site's calibration.
    baseline : str
        The bins, as JSON.
    layout : bytes
        Hash of the bins: counts of another layout cannot be added.
    hour_us : int
        The hour's beginning, in microseconds since 1970.
    n_flows : int
    counts : array, uint32, (n_slots,)
    """

    model: str
    against: Against
    baseline: str
    layout: bytes
    hour_us: int
    n_flows: int
    counts: Counts


@dataclass(frozen=True, slots=True, eq=False)
class HourCounts:
    """Counts of each hour, over all sources: ``hours_us`` ascending, ``counts`` of ``(n_hours, n_slots)``.

    ``n_unusable`` rows were counted over other bins.
    """

    hours_us: list[int]
    n_flows: list[int]
    counts: Counts
    n_unusable: int


def count_drift(connection: sa.Connection, source: str, binned: Sequence[BinnedFlows]) -> None:
    """Add a batch's counts to those of their hours; counts over other bins, of an earlier file, are replaced."""
    rows = []
    for flows in binned:
        key = {"source": source, "model": _key(flows.model, flows.against), "hour_us": flows.hour_us}
        here = [DRIFT_COUNTS.c[name] == value for name, value in key.items()]
        known = connection.execute(sa.select(DRIFT_COUNTS.c.n_flows, DRIFT_COUNTS.c.counts).where(*here)).first()
        before = None if known is None else _unpack(known[1], flows.layout)
        n_flows, counts = flows.n_flows, flows.counts
        if known is None or before is None:
            upsert(connection, META, [{"key": f"drift:{key['model']}", "value": flows.baseline}])
        else:
            n_flows, counts = n_flows + known[0], counts + before
        packed = flows.layout + zlib.compress(counts.astype("<u4").tobytes(), 1)
        rows.append({**key, "n_flows": n_flows, "counts": packed})
    upsert(connection, DRIFT_COUNTS, rows)


def _key(model: str, against: Against) -> str:
    return model if against == "training" else f"{model}/{against}"


def _unpack(data: bytes, layout: bytes) -> Counts | None:
    """Return counts, None where they were counted over other bins."""
    if data[:_LAYOUT_BYTES] != layout:
        return None
    return np.frombuffer(zlib.decompress(data[_LAYOUT_BYTES:]), "<u4").astype(np.uint32)


def latest_model(connection: sa.Connection, source: str | None = None) -> str | None:
    """Return the fingerprint of the latest counted detector, None without counts."""
    wanted = [DRIFT_COUNTS.c.source == source] if source is not None else []
    query = sa.select(DRIFT_COUNTS.c.model).where(*wanted).order_by(DRIFT_COUNTS.c.hour_us.desc()).limit(1)
    found = connection.execute(query).scalar()
    return None if found is None else found.partition("/")[0]


def baselines(connection: sa.Connection, model: str) -> dict[Against, str]:
    """Return the bins of a model's counts as JSON, by their origin."""
    keys: dict[str, Against] = {f"drift:{_key(model, kind)}": kind for kind in ("training", "site")}
    rows = connection.execute(sa.select(META.c.key, META.c.value).where(META.c.key.in_(keys)))
    return {keys[key]: text for key, text in rows}


def hour_counts(
    connection: sa.Connection,
    model: str,
    against: Against,
    layout: bytes,
    *,
    source: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> HourCounts:
    """Return counts by hour; without ``since``, of the newest :data:`LATEST_HOURS`."""
    columns = DRIFT_COUNTS.c
    wanted = [columns.model == _key(model, against)]
    wanted += [columns.source == source] if source is not None else []
    wanted += [columns.hour_us < us(until)] if until is not None else []
    first = None if since is None else us(since) // HOUR_US * HOUR_US
    if first is None:
        newest = connection.execute(sa.select(sa.func.max(columns.hour_us)).where(*wanted)).scalar()
        first = 0 if newest is None else newest - (LATEST_HOURS - 1) * HOUR_US
    query = sa.select(columns.hour_us, columns.n_flows, columns.counts).where(*wanted, columns.hour_us >= first)
    flows: dict[int, int] = {}
    counts: dict[int, Counts] = {}
    n_unusable = 0
    for hour, n, data in connection.execute(query.order_by(columns.hour_us)):
        unpacked = _unpack(data, layout)
        if unpacked is None:
            n_unusable += 1
            continue
        flows[hour] = flows.get(hour, 0) + n
        counts[hour] = counts[hour] + unpacked if hour in counts else unpacked
    stacked = np.stack(list(counts.values())) if counts else np.zeros((0, 0), np.uint32)
    return HourCounts(list(flows), list(flows.values()), stacked, n_unusable)
