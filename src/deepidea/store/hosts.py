"""Hosts of a store: those of incidents, and what alerts have about one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from deepidea.store.alerts import Condition, SeverityName, severity_name
from deepidea.store.statements import Page, check_limit, decode_cursor, encode_cursor, page_of, time_of, us
from deepidea.store.tables import ALERTS, INCIDENTS

MOST_PEERS = 50
_ENDS = (ALERTS.c.src_ip, ALERTS.c.dst_ip)


@dataclass(frozen=True, slots=True)
class Host:
    """A host that has incidents in one role: its worst severity, incidents, alerts, and the time of the last one."""

    host: str
    role: Literal["source", "target"]
    severity: int
    severity_name: SeverityName
    n_incidents: int
    n_alerts: int
    last: datetime


@dataclass(frozen=True, slots=True)
class HostSummary:
    """Alerts of a host: times, alerts by end, and the most frequent peers, destination ports and classes."""

    n_as_source: int
    n_as_target: int
    first: datetime | None
    last: datetime | None
    peers: dict[str, int]
    ports: dict[str, int]
    classes: dict[str, int]


def find(
    connection: sa.Connection,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    search: str = "",
    limit: int = 100,
    after: str | None = None,
) -> Page[Host]:
    """Return a page of hosts of incidents, the most urgent first, then those with the most alerts."""
    check_limit(limit)
    columns = INCIDENTS.c
    worst, n_alerts = sa.func.min(columns.severity), sa.func.sum(columns.n_alerts)
    given = [columns.last_us >= us(since)] if since is not None else []
    given += [columns.last_us < us(until)] if until is not None else []
    given += [columns.host.icontains(search, autoescape=True)] if search else []
    query = sa.select(columns.host, columns.role, worst, sa.func.count(), n_alerts, sa.func.max(columns.last_us))
    query = query.where(*given).group_by(columns.host, columns.role)
    if after is not None:
        query = query.having(_behind(after, worst, n_alerts, columns.host, columns.role))
    rows = connection.execute(query.order_by(worst, n_alerts.desc(), columns.host, columns.role).limit(limit + 1))
    hosts = [
        Host(host, role, severity, severity_name(severity), n, int(n_of_all), time_of(last_us))
        for host, role, severity, n, n_of_all, last_us in rows
    ]
    return page_of(hosts, limit, lambda last: encode_cursor([last.severity, last.n_alerts, last.host, last.role]))


def _behind(after: str, worst: Any, n_alerts: Any, host: Any, role: Any) -> Condition:
    severity, n, name, end = decode_cursor(after, (int, int, str, str))
    same = (worst == severity) & (n_alerts == n)
    later: Condition = (
        (worst > severity)
        | ((worst == severity) & (n_alerts < n))
        | (same & (host > name))
        | (same & (host == name) & (role > end))
    )
    return later


def summary(connection: sa.Connection, host: str) -> HostSummary:
    """Return the alerts of a host in brief.

    Cost: it reads every alert of the host, about a second for a million.
    """
    ends = [_end_of(connection, own, other, host) for own, other in (_ENDS, _ENDS[::-1])]
    times = [at for end in ends for at in (end.first, end.last) if at is not None]
    return HostSummary(
        n_as_source=ends[0].n,
        n_as_target=ends[1].n,
        first=min(times, default=None),
        last=max(times, default=None),
        peers=_added(ends[0].peers, ends[1].peers),
        ports=_added(ends[0].ports, ends[1].ports),
        classes=_added(ends[0].classes, ends[1].classes),
    )


@dataclass(frozen=True, slots=True)
class _End:
    n: int
    first: datetime | None
    last: datetime | None
    peers: dict[str, int]
    ports: dict[str, int]
    classes: dict[str, int]


def _end_of(connection: sa.Connection, own: Any, other: Any, host: str) -> _End:
    """Return the alerts of a host at one of their ends in brief."""
    wanted = [own == host, ALERTS.c.suppressed_by.is_(None)]
    totals = (sa.func.count(), sa.func.min(ALERTS.c.time_us), sa.func.max(ALERTS.c.time_us))
    n, first, last = connection.execute(sa.select(*totals).where(*wanted)).one()
    counts = [_counts(connection, column, wanted) for column in (other, ALERTS.c.dst_port, ALERTS.c["class"])]
    times = [None if at is None else time_of(at) for at in (first, last)]
    return _End(n, times[0], times[1], *counts)


def _counts(connection: sa.Connection, column: Any, wanted: Sequence[Condition]) -> dict[str, int]:
    n = sa.func.count()
    query = sa.select(column, n).where(*wanted, column.is_not(None)).group_by(column).order_by(n.desc(), column)
    return {str(value): count for value, count in connection.execute(query.limit(MOST_PEERS))}


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    summed = {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}
    return dict(sorted(summed.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_PEERS])


def series(
    connection: sa.Connection, host: str, since: datetime, until: datetime, *, step_s: int
) -> dict[datetime, int]:
    """Return a host's alerts over time, whichever end it is: by the beginning of each step that has any."""
    step: sa.ColumnElement[int] = sa.literal_column(str(step_s * 1_000_000))
    begin = ALERTS.c.time_us - ALERTS.c.time_us % step
    found: dict[datetime, int] = {}
    for own in _ENDS:
        wanted = (own == host, ALERTS.c.suppressed_by.is_(None), ALERTS.c.time_us.between(us(since), us(until) - 1))
        for at, n in connection.execute(sa.select(begin, sa.func.count()).where(*wanted).group_by(begin)):
            found[time_of(at)] = found.get(time_of(at), 0) + n
    return found
