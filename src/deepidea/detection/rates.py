"""Flows by the minute of their end, as batches are counted."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["flow_times_us", "flows_by_minute"]

_MINUTE_US = 60_000_000


def flows_by_minute(flows: pl.DataFrame, *, now: datetime | None = None) -> dict[int, int]:
    """Return how many flows fall into each minute, by the minute's first microsecond since 1970.

    A flow falls where its end does, else its start; one without times where ``now`` does, the clock's where absent.

    Examples
    --------
    >>> ends = [datetime(1970, 1, 1, 0, 0, 59), datetime(1970, 1, 1, 0, 1), None]
    >>> flows_by_minute(pl.DataFrame({"end": ends}), now=datetime(1970, 1, 1, 0, 1, 30))
    {0: 1, 60000000: 2}
    """
    minutes = flow_times_us(flows, now) // _MINUTE_US * _MINUTE_US
    values, counts = np.unique(minutes, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def flow_times_us(flows: pl.DataFrame, now: datetime | None = None) -> NDArray[np.int64]:
    """Return when each flow ended, else began, else now, in microseconds since 1970, int64 ``(n_flows,)``."""
    moment = pl.lit(round((now or datetime.now(UTC)).timestamp() * 1e6), pl.Int64)
    known = [pl.col(name).dt.timestamp("us") for name in ("end", "start") if name in flows.columns]
    return flows.select(us=pl.coalesce(*known, moment.repeat_by(pl.len()).explode())).to_series().to_numpy()
