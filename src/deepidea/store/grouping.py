"""Group alerts into incidents: runs of alerts of one class and one host without a long gap.

No two neighbouring alerts of an incident are more than a gap apart. Incidents therefore depend on the set of alerts
alone, not on their order or batches, and a late alert may merge two incidents. The size of an incident is bounded
(:data:`MOST_LISTED`): a scan of a million ports is one incident of a few kilobytes.

Hosts that face the Internet are scanned, and their passwords guessed, without a pause. Findings of either with role
``target`` are therefore grouped by UTC day, which is part of the key: one incident a target, class and day.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import polars as pl

from deepidea.flows.attack_classes import attack_class_of
from deepidea.store.alert_columns import FINDING_COLUMNS

__all__ = [
    "BEST_FINDING",
    "INCIDENT_COLUMNS",
    "MOST_LISTED",
    "GroupedAlerts",
    "Listing",
    "group_alerts",
    "is_daily",
    "listing_of",
]

GAP_S = 600.0
DAY_S = 86_400.0
MOST_BEHAVIOURS = 32  # that an incident lists
MOST_LISTED = 1024
"""Most ports, and most hosts, that an incident lists. Of more, it lists those with the smallest BLAKE2b hashes, with
exact counts, and estimates the number of distinct values to about 3 % (k minimum values: Beyer et al., SIGMOD 2007).
The choice depends on the values alone, so it is the same in any order of arrival."""

BEST_FINDING: Mapping[str, pl.DataType] = {
    "behaviours": pl.String(),
    "behaviour": pl.String(),
    "sentence": pl.String(),
    "finding": pl.String(),
    "finding_score": pl.Float64(),
    "found_us": pl.Int64(),
}
"""What an incident keeps of its findings: see :data:`INCIDENT_COLUMNS`."""

INCIDENT_COLUMNS: Mapping[str, pl.DataType] = {
    "incident_id": pl.String(),
    "incident_key": pl.String(),
    "role": pl.String(),
    "host": pl.String(),
    "class": pl.String(),
    "first_us": pl.Int64(),
    "last_us": pl.Int64(),
    "n_alerts": pl.Int64(),
    "severity": pl.Int16(),
    "score": pl.Float64(),
    "n_ports": pl.Int64(),
    "n_hosts": pl.Int64(),
    "ports": pl.String(),
    "hosts": pl.String(),
    **BEST_FINDING,
}
"""Columns of the stored incident table.

``incident_id``
    32 hexadecimal digits: time of the first alert in milliseconds, and 80 bits of BLAKE2b of key and first time.
``incident_key``
    Hash of role, host and class, which all its alerts share, and of the day where findings are grouped by it.
``role``, ``host``
    The host that alerts are grouped by: ``source`` or ``target`` of the flows (:mod:`deepidea.flows.attack_classes`).
``first_us``, ``last_us``
    Times of the first and the last alert, in microseconds since 1970.
``severity``, ``score``
    The most urgent severity (least number) and the highest score.
``n_ports``, ``n_hosts``
    Distinct destination ports and peers; an estimate beyond :data:`MOST_LISTED`.
``ports``, ``hosts``
    JSON: values and their numbers of alerts, see :func:`listing_of`.
``behaviours``
    JSON list of the behaviours of its findings, in order, at most :data:`MOST_BEHAVIOURS`; null without findings.
``behaviour``, ``sentence``, ``finding``, ``finding_score``, ``found_us``
    The finding with the highest score, the latest of several, with its score and time
    (:data:`deepidea.store.alert_columns.FINDING_COLUMNS`).
"""

_WIDEST = float(1 << 64)
# Grouping works on parts: a part is a stored incident or one new alert, and a member is a port or peer of a part.
_MEMBERS = {"part": pl.UInt32(), "kind": pl.String(), "value": pl.String(), "n": pl.Int64()}
_KEPT = pl.Struct({"values": pl.List(pl.String), "counts": pl.List(pl.Int64)})
_EMPTY = '{"values":[],"counts":[]}'
_OF_PART = ("incident_key", "role", "host", "class")


@dataclass(frozen=True, slots=True)
class GroupedAlerts:
    """Result of :func:`group_alerts`.

    Parameters
    ----------
    incidents
        New and changed incidents (:data:`INCIDENT_COLUMNS`).
    replaced
        ``old_id``, ``new_id`` of incidents that were merged into another, or got an earlier first alert.
    """

    incidents: pl.DataFrame
    replaced: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Listing:
    """Ports or hosts of an incident.

    Parameters
    ----------
    top
        The most frequent of the listed values, with their numbers of alerts.
    n_more
        Number of other values; an estimate unless ``exact``.
    exact
        Whether all values are listed.
    """

    top: dict[str, int]
    n_more: int
    exact: bool


def listing_of(kept: str, n_distinct: int, *, most: int = 10) -> Listing:
    """Return the most frequent ports or hosts of an incident.

    Examples
    --------
    >>> listing_of('{"values":["80","22","443"],"counts":[1,7,2]}', 3, most=2)
    Listing(top={'22': 7, '443': 2}, n_more=1, exact=True)
    """
    known = json.loads(kept)
    pairs = sorted(zip(known["values"], known["counts"], strict=True), key=lambda pair: (-pair[1], pair[0]))[:most]
    return Listing(dict(pairs), n_distinct - len(pairs), len(known["values"]) <= MOST_LISTED)


def with_keys(alerts: pl.DataFrame) -> pl.DataFrame:
    """Return alerts with ``incident_role``, ``host``, ``peer``, ``is_daily`` and ``incident_key``.

    Alerts that have these already are returned as they are.
    """
    if "incident_key" in alerts.columns:
        return alerts
    alerts = _with_hosts(alerts)
    day = pl.when("is_daily").then(pl.col("time").dt.strftime("\x1f%Y-%m-%d")).otherwise(pl.lit(""))
    parts = [pl.col(name).fill_null("") for name in ("incident_role", "host", "class")]
    alerts = alerts.with_columns(incident_key=pl.concat_str(parts, separator="\x1f") + day)
    written = alerts["incident_key"].unique()
    keys = pl.Series(list(map(_digest, written)), dtype=pl.String)
    return alerts.with_columns(pl.col("incident_key").replace_strict(written, keys))


def _with_hosts(alerts: pl.DataFrame) -> pl.DataFrame:
    """Return alerts with ``incident_role``, the finding's or else the class's, and the hosts at both ends by it."""
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in FINDING_COLUMNS.items() if name not in alerts.columns]
    roles = {name: attack_class_of(name).role for name in alerts["class"].unique().drop_nulls()}
    of_class = pl.col("class").replace_strict(roles, default="source", return_dtype=pl.String)
    alerts = alerts.with_columns(absent).with_columns(incident_role=pl.coalesce("role", of_class))
    by_source = pl.col("incident_role") == "source"
    return alerts.with_columns(
        host=pl.when(by_source).then("src_ip").otherwise("dst_ip").fill_null("unknown"),
        peer=pl.when(by_source).then("dst_ip").otherwise("src_ip"),
        is_daily=_daily(alerts["class"], pl.col("incident_role")),
    )


def _daily(classes: pl.Series, role: pl.Expr) -> pl.Expr:
    daily = [name for name in classes.unique().drop_nulls() if is_daily("target", name)]
    return ((role == "target") & pl.col("class").is_in(daily)).fill_null(False)


def is_daily(role: str | None, class_name: str) -> bool:
    """Return whether incidents of a role and class are one a day: scans and logins by target, of findings alone."""
    return role == "target" and attack_class_of(class_name).behaviour in ("scan", "login")


def group_alerts(alerts: pl.DataFrame, known: pl.DataFrame, *, gap_s: float = GAP_S) -> GroupedAlerts:
    """Merge alerts into incidents.

    Parameters
    ----------
    alerts
        New alerts without suppressed ones (:data:`deepidea.store.alert_columns.ALERT_COLUMNS`), ``(n_alerts, ...)``.
    known
        Stored incidents (:data:`INCIDENT_COLUMNS`): at least those of the alerts' keys within a gap of an alert.
    gap_s
        Longest time between two alerts of an incident, in seconds.

    Notes
    -----
    About 10 us an alert in batches of thousands; the cost of an incident is bounded by :data:`MOST_LISTED`.

    Examples
    --------
    >>> none = pl.DataFrame(schema=INCIDENT_COLUMNS)
    >>> sweep = {"src_ip": "192.0.2.7", "dst_ip": "198.51.100.1", "class": "port_scan", "severity": 3, "score": 0.99}
    >>> rows = [{**sweep, "dst_port": port, "time": 1_000_000 * port} for port in range(1, 1001)]
    >>> alerts = pl.DataFrame(rows).with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")))
    >>> group_alerts(alerts, none).incidents.select("host", "class", "n_alerts", "n_ports", "n_hosts").rows()
    [('192.0.2.7', 'port_scan', 1000, 1000, 1)]
    """
    keyed = with_keys(alerts)
    new = _parts_of_alerts(keyed)
    rows = pl.concat([_listed(known).select(new.columns), new])
    members = pl.concat([_known_members(known), _members_of_alerts(keyed, offset=known.height)])
    part_of = _runs(rows, gap_s)
    incidents = _merged(rows, members, part_of)
    return GroupedAlerts(incidents, _replaced(known, incidents))


def _listed(known: pl.DataFrame) -> pl.DataFrame:
    return known.with_columns(pl.col("behaviours").str.json_decode(pl.List(pl.String)))


def _parts_of_alerts(keyed: pl.DataFrame) -> pl.DataFrame:
    """Return each alert as an incident of one alert, without lists of ports and hosts."""
    when, raised = pl.col("time").dt.timestamp("us"), pl.col("behaviour").is_not_null()
    score = pl.col("score").cast(pl.Float64)
    return keyed.select(
        "incident_key",
        "host",
        "class",
        role=pl.col("incident_role"),
        first_us=when,
        last_us=when,
        n_alerts=pl.lit(1, pl.Int64),
        severity=pl.col("severity").cast(pl.Int16),
        score=score,
        behaviours=pl.when(raised).then(pl.concat_list("behaviour")),
        behaviour=pl.col("behaviour"),
        sentence=pl.col("sentence"),
        finding=pl.col("finding"),
        finding_score=pl.when(raised).then(score),
        found_us=pl.when(raised).then(when),
    )


def _members_of_alerts(keyed: pl.DataFrame, *, offset: int) -> pl.DataFrame:
    part = (pl.int_range(pl.len()) + offset).cast(pl.UInt32)
    one = pl.lit(1, pl.Int64)
    ports = keyed.select(part=part, kind=pl.lit("ports"), value=pl.col("dst_port").cast(pl.String), n=one)
    hosts = keyed.select(part=part, kind=pl.lit("hosts"), value=pl.col("peer"), n=one)
    return pl.concat([ports, hosts]).drop_nulls("value")


def _known_members(known: pl.DataFrame) -> pl.DataFrame:
    if known.is_empty():
        return pl.DataFrame(schema=_MEMBERS)
    parts = pl.int_range(pl.len()).cast(pl.UInt32)
    tables = [
        known.select(part=parts, kind=pl.lit(kind), kept=pl.col(kind).str.json_decode(_KEPT))
        .unnest("kept")
        .explode("values", "counts")
        .select("part", "kind", value="values", n="counts")
        for kind in ("ports", "hosts")
    ]
    return pl.concat(tables).drop_nulls("value")


def _runs(rows: pl.DataFrame, gap_s: float) -> pl.DataFrame:
    """Return the run of each part: ``part``, ``run``.

    A run ends where a part begins more than a gap after every earlier part of its key has ended. The latest end so far
    is a running maximum, as a long incident may outlast later, shorter ones.
    """
    day_us, gap_us = (pl.lit(round(seconds * 1e6), pl.Int64) for seconds in (DAY_S, gap_s))
    gap_us = pl.when(_daily(rows["class"], pl.col("role"))).then(day_us).otherwise(gap_us)
    ordered = rows.select("incident_key", "first_us", "last_us", gap_us=gap_us).with_row_index("part")
    ordered = ordered.sort("incident_key", "first_us", "part")
    so_far = pl.col("last_us").cum_max().over("incident_key").shift(1)
    other_key = pl.col("incident_key") != pl.col("incident_key").shift(1)
    begins = (other_key | (pl.col("first_us") > so_far + pl.col("gap_us"))).fill_null(True)
    return ordered.select("part", run=begins.cum_sum().cast(pl.UInt32))


def _merged(rows: pl.DataFrame, members: pl.DataFrame, part_of: pl.DataFrame) -> pl.DataFrame:
    with_run = rows.with_row_index("part").join(part_of, on="part")
    runs = with_run.group_by("run").agg(
        *(pl.col(name).first() for name in _OF_PART),
        pl.col("first_us").min(),
        pl.col("last_us").max(),
        pl.col("n_alerts").sum(),
        pl.col("severity").min(),
        pl.col("score").max(),
        pl.col("behaviours").explode().drop_nulls().unique().sort().head(MOST_BEHAVIOURS),
    )
    runs = runs.with_columns(_behaviours_json(runs)).join(_best_findings(with_run), on="run", how="left")
    kept = _least_hashes(members.join(part_of, on="part"))
    for kind in ("ports", "hosts"):
        runs = runs.join(_as_json(kept.filter(pl.col("kind") == kind), kind), on="run", how="left")
    runs = runs.with_columns(pl.col("ports", "hosts").fill_null(_EMPTY), pl.col("n_ports", "n_hosts").fill_null(0))
    return runs.with_columns(_ids(runs)).sort("incident_id").select(*INCIDENT_COLUMNS)


def _best_findings(with_run: pl.DataFrame) -> pl.DataFrame:
    """Return ``run`` and its finding with the highest score, the latest of several; the texts settle what is left."""
    order = ["finding_score", "found_us", "behaviour", "sentence", "finding"]
    found = with_run.filter(pl.col("behaviour").is_not_null()).select("run", *order)
    return found.sort(order).group_by("run", maintain_order=True).last()


def _behaviours_json(runs: pl.DataFrame) -> pl.Series:
    texts = [json.dumps(names) if names else None for names in runs["behaviours"].to_list()]
    return pl.Series("behaviours", texts, pl.String)


def _least_hashes(members: pl.DataFrame) -> pl.DataFrame:
    """Return ``run``, ``kind``, ``value``, ``n``, ``hash``: up to one more than is listed, for the estimate."""
    counted = members.group_by("run", "kind", "value").agg(pl.col("n").sum())
    values = counted["value"].unique()
    hashed = pl.DataFrame({"value": values, "hash": pl.Series([_hash(value) for value in values], dtype=pl.UInt64)})
    ordered = counted.join(hashed, on="value").sort("run", "kind", "hash", "value")
    return ordered.filter(pl.int_range(pl.len()).over("run", "kind") <= MOST_LISTED)


@lru_cache(maxsize=65_536)
def _hash(value: str) -> int:
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest())


def _as_json(kept: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Return ``run``, its values of a kind as JSON, and their number."""
    lists = kept.group_by("run", maintain_order=True).agg(
        values=pl.col("value"), counts=pl.col("n"), n=pl.len(), widest=pl.col("hash").last()
    )
    density = (pl.col("widest").cast(pl.Float64) + 1.0) / _WIDEST
    # k - 1 over the k-th smallest of k hashes that are uniform in 0..1; k is one more than is listed
    estimate = (MOST_LISTED / density).round().cast(pl.Int64)
    return lists.select(
        "run",
        pl.struct("values", "counts").struct.json_encode().alias(kind),
        pl.when(pl.col("n") > MOST_LISTED).then(estimate).otherwise(pl.col("n").cast(pl.Int64)).alias(f"n_{kind}"),
    )


def _ids(runs: pl.DataFrame) -> pl.Series:
    rows = runs.select("incident_key", "first_us").iter_rows()
    return pl.Series("incident_id", [incident_id_of(key, first) for key, first in rows], pl.String)


def incident_id_of(key: str, first_us: int) -> str:
    """Return the id of an incident from its key and the time of its first alert."""
    return f"{min(max(first_us // 1000, 0), (1 << 48) - 1):012x}{_digest(f'{key} {first_us}')}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def _replaced(known: pl.DataFrame, incidents: pl.DataFrame) -> pl.DataFrame:
    """Return the old and the new id of each known incident whose id has changed.

    An id is made of key and first time: it changes when an earlier alert arrives or an earlier incident is merged in.
    """
    old = known.select("incident_key", "first_us", old_id="incident_id").sort("incident_key", "first_us")
    new = incidents.select("incident_key", "last_us", start="first_us", new_id="incident_id")
    pairs = old.join(new, on="incident_key").filter(pl.col("first_us").is_between("start", "last_us"))
    return pairs.filter(pl.col("old_id") != pl.col("new_id")).select("old_id", "new_id")
