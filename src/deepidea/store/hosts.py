"""Hosts of a store: a list of those with incidents, and a summary of one host's alerts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from deepidea.store.alerts import SeverityName, severity_name
from deepidea.store.statements import (
    Condition,
    Page,
    between,
    check_limit,
    decode_cursor,
    encode_cursor,
    page_of,
    step_of,
    time_of,
    us,
)
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
    given = between(columns.last_us, since, until)
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
    """Return a summary of a host's alerts.

    Cost: every alert of the host is read, about a second for a million.
    """
    n_of_end, times, counts = list[int](), list[int](), [Counter[str](), Counter[str](), Counter[str]()]
    for own, other in (_ENDS, _ENDS[::-1]):
        wanted = [own == host, ALERTS.c.suppressed_by.is_(None)]
        totals = (sa.func.count(), sa.func.min(ALERTS.c.time_us), sa.func.max(ALERTS.c.time_us))
        n, *extent = connection.execute(sa.select(*totals).where(*wanted)).one()
        n_of_end.append(n)
        times += [at for at in extent if at is not None]
        for summed, column in zip(counts, (other, ALERTS.c.dst_port, ALERTS.c["class"]), strict=True):
            summed.update(_most_frequent(connection, column, wanted))
    first, last = (time_of(min(times)), time_of(max(times))) if times else (None, None)
    ranked = [dict(sorted(c.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_PEERS]) for c in counts]
    return HostSummary(n_of_end[0], n_of_end[1], first, last, *ranked)


def _most_frequent(connection: sa.Connection, column: Any, wanted: Sequence[Condition]) -> dict[str, int]:
    n = sa.func.count()
    query = sa.select(column, n).where(*wanted, column.is_not(None)).group_by(column).order_by(n.desc(), column)
    return {str(value): count for value, count in connection.execute(query.limit(MOST_PEERS))}


def series(
    connection: sa.Connection, host: str, since: datetime, until: datetime, *, step_s: int
) -> dict[datetime, int]:
    """Return a host's alerts over time, at either end, by the beginning of each step that has any."""
    begin = step_of(ALERTS.c.time_us, step_s)
    found: dict[datetime, int] = {}
    for own in _ENDS:
        wanted = (own == host, ALERTS.c.suppressed_by.is_(None), ALERTS.c.time_us.between(us(since), us(until) - 1))
        for at, n in connection.execute(sa.select(begin, sa.func.count()).where(*wanted).group_by(begin)):
            found[time_of(at)] = found.get(time_of(at), 0) + n
    return found
