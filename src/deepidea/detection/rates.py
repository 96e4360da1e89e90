"""Flows and alerts by the minute: counted as batches come, and where the share of alerts among flows changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deepidea.errors import MissingExtraError

__all__ = ["RateChange", "alert_rate_changes", "flows_by_minute"]

FALSE_CHANGE = 0.002  # ADWIN's delta
LEAST_FLOWS = 50  # of one rate: quieter minutes are taken together
LEAST_RATES = 10  # before and after a change
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


@dataclass(frozen=True, slots=True)
class RateChange:
    """A time at which the share of alerts among flows changed, and that share since the change before and after it."""

    at: datetime
    before: float
    after: float


def alert_rate_changes(counts: pl.DataFrame) -> list[RateChange]:
    """Return when the share of alerts among flows changed, in order of time.

    Parameters
    ----------
    counts : DataFrame
        ``time``, ``n_flows``, ``n_alerts``, in order of time, such as :meth:`Store.flow_series` gives by the minute.

    Raises
    ------
    MissingExtraError
        river is not installed.

    Notes
    -----
    ADWIN (Bifet and Gavalda, SDM 2007) keeps a window as long as its halves have one mean, at a confidence of
    1 - :data:`FALSE_CHANGE`. Rates are divided by their 99th percentile and held below 1: ADWIN takes numbers of 0 to
    1, and a single busy minute must not make all others alike. Minutes are taken together until they hold
    :data:`LEAST_FLOWS` flows. The place of a change is where the two sides differ most.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> noon = datetime(2026, 5, 4, 12, tzinfo=UTC)
    >>> minutes = pl.datetime_range(noon, noon.replace(hour=13, minute=59), "1m", eager=True)
    >>> counts = pl.DataFrame({"time": minutes, "n_flows": [100] * 120, "n_alerts": [1] * 60 + [20] * 60})
    >>> [(f"{change.at:%H:%M}", change.before, change.after) for change in alert_rate_changes(counts)]
    [('13:00', 0.01, 0.2)]
    """
    pooled = _pooled(counts)
    flows, alerts = (pooled[name].to_numpy().astype(np.float64) for name in ("n_flows", "n_alerts"))
    starts = [0, *_change_points(alerts / flows, flows)] if len(flows) else [0]
    rates = [
        alerts[a:b].sum() / flows[a:b].sum() for a, b in zip(starts, [*starts[1:], len(flows)], strict=True) if b > a
    ]
    times = pooled["time"].to_list()
    return [
        RateChange(times[start], float(before), float(after))
        for start, before, after in zip(starts[1:], rates, rates[1:], strict=False)
    ]


def _pooled(counts: pl.DataFrame) -> pl.DataFrame:
    """Return neighbouring minutes together until they hold flows enough for a rate; a rest joins the last of them."""
    number, group, held = [], 0, 0
    for n_flows in counts["n_flows"]:
        number.append(group)
        held += n_flows
        if held >= LEAST_FLOWS:
            group, held = group + 1, 0
    numbered = counts.with_columns(group=pl.Series(number, dtype=pl.Int64).clip(upper_bound=max(group - 1, 0)))
    sums = numbered.group_by("group", maintain_order=True).agg(
        pl.col("time").first(), pl.col("n_flows", "n_alerts").sum()
    )
    return sums.filter(pl.col("n_flows") >= LEAST_FLOWS)


def _change_points(rates: NDArray[np.float64], flows: NDArray[np.float64]) -> list[int]:
    """Return the places at which another mean begins."""
    scale = float(np.quantile(rates, 0.99)) or float(rates.max()) or 1.0
    watched, found, detector = np.minimum(rates / scale, 1.0), [0], _adwin()
    for i, value in enumerate(watched.tolist()):
        detector.update(value)
        if detector.drift_detected:
            place = _split(rates[found[-1] : i + 1], flows[found[-1] : i + 1])
            if place is not None:
                found.append(found[-1] + place)
    return found[1:]


def _split(rates: NDArray[np.float64], flows: NDArray[np.float64]) -> int | None:
    """Return where the two sides differ most, by the squared difference of their means; None where they are short."""
    n = len(rates)
    if n < 2 * LEAST_RATES:
        return None
    before = np.arange(1, n)
    sums, weights = np.cumsum(rates * flows), np.cumsum(flows)
    left = sums[:-1] / weights[:-1]
    right = (sums[-1] - sums[:-1]) / (weights[-1] - weights[:-1])
    gain = before * (n - before) * (left - right) ** 2
    inner = slice(LEAST_RATES - 1, n - 1)  # what has just changed may be short yet
    return int(np.argmax(gain[inner])) + LEAST_RATES


def _adwin() -> Any:
    try:
        from river.drift import ADWIN
    except ImportError as error:
        raise MissingExtraError(
            f"changes of the alert rate need river, however: {error}; install it with: pip install 'deepidea[serve]'"
        ) from error
    made: Any = ADWIN
    return made(delta=FALSE_CHANGE, clock=1)
