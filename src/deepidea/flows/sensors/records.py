"""Records of flows that sensors write as text, made flows of the `conn` schema, or left out and counted.

A sensor's module (`zeek`, `suricata`) tells which of its fields is which column; what a
cell must be is the same for all of them and stands here. Every record ends as one of three: a flow, a record that
tells of something else, or one that breaks a rule; none is lost and none ends the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl
from polars.exceptions import PanicException, PolarsError

from deepidea.flows.conn import service_names
from deepidea.flows.identity import IDENTITY

__all__ = ["FLOW_COLUMNS", "Parsed", "RecordParser", "join_parsed", "json_table", "settle"]

FLOW_COLUMNS: dict[str, Any] = IDENTITY | {
    "duration_s": pl.Float64(),
    "service": pl.String(),
    "fwd_packets": pl.Int64(),
    "bwd_packets": pl.Int64(),
    "fwd_bytes": pl.Int64(),
    "bwd_bytes": pl.Int64(),
    "state": pl.String(),
    "tcp_flags": pl.String(),
}
"""Columns and types of every sensor's flows; null where a sensor does not tell."""

NOT_JSON = "not JSON"
LATEST_S, LONGEST_S = 1 << 33, 1 << 31  # no time is later than 2242, no flow longer than 68 years
_ADDRESS = r"^[0-9a-fA-F:.]{2,45}$"
_PORTS, _COUNTS = ("src_port", "dst_port"), ("fwd_packets", "bwd_packets", "fwd_bytes", "bwd_bytes")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What some records came to.

    Parameters
    ----------
    flows
        `FLOW_COLUMNS`, in the order of the records.
    skipped
        Records that broke a rule, by reason.
    not_flows
        Records that tell of something else, by what: ``dns``, ``alert``.

    Examples
    --------
    >>> Parsed(pl.DataFrame(schema=FLOW_COLUMNS), {"not JSON": 1}, {"dns": 2}).records
    3
    """

    flows: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=FLOW_COLUMNS))
    skipped: Mapping[str, int] = field(default_factory=dict)
    not_flows: Mapping[str, int] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """How many records there were in all."""
        return self.flows.height + sum(self.skipped.values()) + sum(self.not_flows.values())


class RecordParser(Protocol):
    """Makes flows of the lines of one log; lines above may tell how those below are read."""

    def parse(self, block: bytes) -> Parsed:
        """Return what a block of whole lines came to."""


def join_parsed(parts: Sequence[Parsed]) -> Parsed:
    """Return what several parts came to together, in their order.

    Examples
    --------
    >>> dict(join_parsed([Parsed(skipped={"not JSON": 1}), Parsed(skipped={"not JSON": 2})]).skipped)
    {'not JSON': 3}
    """
    if len(parts) == 1:
        return parts[0]
    tables = [part.flows for part in parts if part.flows.height]
    skipped, not_flows = Counter[str](), Counter[str]()
    for part in parts:
        skipped.update(part.skipped)
        not_flows.update(part.not_flows)
    return Parsed(pl.concat(tables) if tables else Parsed().flows, dict(skipped), dict(not_flows))


def json_table(lines: Sequence[bytes], schema: Mapping[str, Any]) -> tuple[pl.DataFrame, int]:
    r"""Return the JSON objects of lines as a table of texts, and how many lines are not JSON.

    Parameters
    ----------
    lines
        One object each, none blank.
    schema
        String columns, or structs of them. A value of another kind becomes its text, or null where it cannot.

    Notes
    -----
    A block with a bad line is halved until the line stands alone, so that one parser judges all of them.

    Examples
    --------
    >>> table, bad = json_table([b'{"a": 1}', b'{"a": ', b'{"b": 2}'], {"a": pl.String})
    >>> table["a"].to_list(), bad
    (['1', None], 1)
    >>> json_table([bytes.fromhex("1f8b0800")], {"a": pl.String})[1]
    1
    """
    try:
        # behind an empty line, or what begins like a compressed file would be unpacked
        table = pl.read_ndjson(b"\n".join([b"", *lines]), schema=dict(schema), ignore_errors=True)
    except (PolarsError, PanicException):  # the latter is no Exception, so that it is named
        table = None
    if table is not None and table.height == len(lines):
        return table, 0
    if len(lines) == 1:
        return pl.DataFrame(schema=dict(schema)), 1
    half = len(lines) // 2
    (first, bad), (second, more) = json_table(lines[:half], schema), json_table(lines[half:], schema)
    return pl.concat([first, second]), bad + more


def settle(records: pl.DataFrame) -> Parsed:
    """Return the flows of records, and count those that break a rule.

    Parameters
    ----------
    records
        One row a record: ``start`` (Datetime) and ``duration_s`` (Float64), null where they cannot be read; every other
        column of `FLOW_COLUMNS` but ``end`` as text, null where it is not told. Columns that are absent are not told.

    Examples
    --------
    >>> import datetime
    >>> now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    >>> texts = {"src_ip": "10.0.0.1", "dst_ip": "10.0.0.2", "protocol": "TCP", "src_port": ["1", "70000"]}
    >>> parsed = settle(pl.DataFrame({"start": [now, now], "duration_s": [0.5, 1.0]}).with_columns(
    ...     **{name: pl.lit(pl.Series(v)) if isinstance(v, list) else pl.lit(v) for name, v in texts.items()}))
    >>> parsed.flows["protocol"].to_list(), parsed.skipped
    (['tcp'], {'src_port is not a port': 1})
    """
    typed = _typed(records)
    given = {name: records[name].is_not_null() for name in (*_PORTS, *_COUNTS) if name in records.columns}
    reasons = typed.select(_reason(given)).to_series()
    if reasons.null_count() == len(reasons):
        return Parsed(typed)
    told = reasons.drop_nulls().value_counts().sort("reason")
    return Parsed(typed.filter(reasons.is_null()), dict(told.iter_rows()))


def _typed(records: pl.DataFrame) -> pl.DataFrame:
    """Return `FLOW_COLUMNS`; what cannot be read is null."""
    absent = [pl.lit(None, pl.String).alias(name) for name in FLOW_COLUMNS if name not in records.columns]
    table = records.with_columns(absent).with_columns(service=service_names(_text(records, "service")))
    start, duration = pl.col("start"), pl.col("duration_s")
    length = pl.duration(microseconds=(duration.fill_nan(None).clip(0, LONGEST_S) * 1e6).round().cast(pl.Int64))
    return table.with_columns(
        *(pl.col(name).cast(FLOW_COLUMNS[name], strict=False) for name in (*_PORTS, *_COUNTS)),
        start.cast(FLOW_COLUMNS["start"]),
        end=(start + length).cast(FLOW_COLUMNS["end"]),
        protocol=_protocol(pl.col("protocol").str.to_lowercase()),
    ).select(pl.col(name).cast(dtype) for name, dtype in FLOW_COLUMNS.items())


def _text(records: pl.DataFrame, name: str) -> pl.Series:
    return (
        records[name] if name in records.columns else pl.Series(name, [None], pl.String).new_from_index(0, len(records))
    )


def _protocol(name: pl.Expr) -> pl.Expr:
    """Return the transport's name; ICMP between addresses of IPv6 is another protocol, which Zeek does not tell."""
    sixth = (name == "icmp") & pl.col("src_ip").str.contains(":", literal=True)
    return pl.when(sixth).then(pl.lit("ipv6-icmp")).otherwise(name)


def _reason(given: Mapping[str, pl.Series]) -> pl.Expr:
    """Return the first rule that a record breaks, null where it keeps all of them."""
    duration = pl.col("duration_s")
    broken: list[tuple[str, pl.Expr]] = [
        ("start is not a time", pl.col("start").is_null()),
        *((f"{name} is not an address", ~_is_address(name)) for name in ("src_ip", "dst_ip")),
        ("protocol is not told", pl.col("protocol").fill_null("").str.len_bytes() == 0),
        ("duration_s is not a duration", ~duration.is_between(0, LONGEST_S).fill_null(False)),
        *((f"{n} is not a port", _not_read(n, given, pl.col(n).is_between(0, 65535))) for n in _PORTS),
        *((f"{n} is not a count", _not_read(n, given, pl.col(n) >= 0)) for n in _COUNTS),
    ]
    return pl.coalesce(pl.when(bad).then(pl.lit(reason)) for reason, bad in broken).alias("reason")


def _is_address(name: str) -> pl.Expr:
    return pl.col(name).str.contains(_ADDRESS).fill_null(False)


def _not_read(name: str, given: Mapping[str, pl.Series], holds: pl.Expr) -> pl.Expr:
    if name not in given:
        return pl.lit(False)
    return pl.lit(given[name]) & ~holds.fill_null(False)
