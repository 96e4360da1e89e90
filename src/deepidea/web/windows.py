"""Time windows of page and API, and the steps of their plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from deepidea.errors import DataError

WindowName = Literal["1h", "24h", "7d", "30d", "all"]
Anchor = Literal["now", "newest", "given"]

LENGTHS: dict[str, timedelta | None] = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "all": None,
}
TITLES: dict[str, str] = {
    "1h": "Last hour",
    "24h": "Last 24 hours",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
    "all": "All time",
}
_PERIODS = {"1h": "the hour", "24h": "the 24 hours", "7d": "the 7 days", "30d": "the 30 days", "all": "everything"}
MOST_POINTS = 200
STEPS_S = (60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400, 604_800, 2_592_000)
FINE_STEPS_S = (1, 2, 5, 10, 15, 30, *STEPS_S)  # for counts of alerts themselves, not of whole minutes
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Window:
    """A period of time, cut into steps.

    Parameters
    ----------
    name : {"1h", "24h", "7d", "30d", "all", "given"}
    title : str
        Title for display.
    since, until : datetime
        Bounds, the latter exclusive.
    step_s : int
        Whole minutes: at most 200 steps, at least 60 from an hour on.
    anchor : {"now", "newest", "given"}
        End of the window: now; the newest data, where all data are older than the window (a replayed capture); or the
        requested times.
    note : str
        Explanation of an end that is not now; else empty.
    """

    name: str
    title: str
    since: datetime
    until: datetime
    step_s: int
    anchor: Anchor = "now"
    note: str = ""

    @property
    def times(self) -> list[datetime]:
        """Beginnings of the steps, the first at or before ``since``."""
        step = self.step_s
        first = int(self.since.timestamp()) // step * step
        last = int((self.until - timedelta(microseconds=1)).timestamp()) // step * step
        return [datetime.fromtimestamp(at, UTC) for at in range(first, last + 1, step)]


def window_of(
    name: str = "24h",
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    newest: datetime | None = None,
    oldest: datetime | None = None,
    now: datetime | None = None,
) -> Window:
    """Return a window by its name or bounds.

    Parameters
    ----------
    name : {"1h", "24h", "7d", "30d", "all"}
    since, until : datetime, optional
        Bounds in place of a name; by default the oldest data, and now.
    newest, oldest : datetime, optional
        Times of the store's data; None in an empty store.
    now : datetime, optional
        Default: the clock's.

    Raises
    ------
    DataError
        The name is unknown, or the window ends before it begins.

    Examples
    --------
    >>> now = datetime(2026, 5, 4, 12, tzinfo=UTC)
    >>> window = window_of("24h", newest=now, now=now)
    >>> window.anchor, window.step_s, len(window.times)
    ('now', 600, 144)
    >>> window_of("1h", newest=datetime(2017, 7, 7, 20, tzinfo=UTC), now=now).note
    'the latest data are from 2017-07-07 20:00 UTC; shown: the hour before'
    """
    now = now or datetime.now(UTC)
    if since is not None or until is not None:
        return _given(since, until, oldest, now)
    if name not in LENGTHS:
        raise DataError(f"window must be one of {', '.join(get_args(WindowName))}, got {name!r}")
    length = LENGTHS[name]
    end, anchor, note = now, "now", ""
    if newest is not None and newest < now - (length or timedelta(days=30)):
        end, anchor = newest + _MINUTE, "newest"
        note = f"the latest data are from {newest:%Y-%m-%d %H:%M} UTC; shown: {_PERIODS[name]} before"
    begin = end - length if length is not None else min(oldest or end - timedelta(hours=1), end - timedelta(hours=1))
    return Window(name, TITLES[name], begin, end, step_of(end - begin), "now" if anchor == "now" else "newest", note)


def _given(since: datetime | None, until: datetime | None, oldest: datetime | None, now: datetime) -> Window:
    end = _aware(until) if until is not None else now
    begin = _aware(since) if since is not None else min(oldest or end, end) - _MINUTE
    if begin >= end:
        raise DataError(f"a window must begin before it ends, got {begin.isoformat()} to {end.isoformat()}")
    return Window("given", "Chosen time", begin, end, step_of(end - begin), "given")


def _aware(when: datetime) -> datetime:
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def step_of(length: timedelta, *, steps_s: Sequence[int] = STEPS_S) -> int:
    """Return the shortest step, in seconds, with fewer than :data:`MOST_POINTS` points; beyond, whole months.

    Examples
    --------
    >>> [step_of(LENGTHS[name]) for name in ("1h", "24h", "7d", "30d")]
    [60, 600, 3600, 14400]
    """
    seconds = length.total_seconds()
    fitting = [step for step in steps_s if seconds / step < MOST_POINTS]
    return fitting[0] if fitting else (int(seconds / (MOST_POINTS - 1)) // steps_s[-1] + 1) * steps_s[-1]
