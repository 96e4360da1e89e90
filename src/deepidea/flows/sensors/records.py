"""Rules for the text cells of sensor records, the same for every sensor.

A sensor's module (`zeek`, `suricata`) maps its fields to columns of the `conn` schema; this one checks and converts
the cells. Every record ends as a flow, as a record of something else, or as one that breaks a rule; all are counted
and none ends the run.
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

__all__ = ["FLOW_COLUMNS", "Parsed", "RecordParser", "build_flows", "join_parsed", "json_table"]

_PORTS, _COUNTS = ("src_port", "dst_port"), ("fwd_packets", "bwd_packets", "fwd_bytes", "bwd_bytes")
FLOW_COLUMNS: dict[str, Any] = IDENTITY | {
    "duration_s": pl.Float64(),
    "service": pl.String(),
    **dict.fromkeys(_COUNTS, pl.Int64()),
    "state": pl.String(),
    "tcp_flags": pl.String(),
}
"""Columns and types of every sensor's flows; null where a sensor has no value."""

NOT_JSON = "not JSON"
LATEST_S, LONGEST_S = 1 << 33, 1 << 31  # no time is later than 2242, no flow longer than 68 years
_ADDRESS = r"^[0-9a-fA-F:.]{2,45}$"


@dataclass(frozen=True, slots=True)
class Parsed:
    """Result of parsing some records.

    Parameters
    ----------
    flows
        `FLOW_COLUMNS`, in the order of the records.
    skipped
        Records that break a rule, by reason.
    not_flows
        Records of something else, by kind: ``dns``, ``alert``.

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
    """Parses the lines of one log in order; lines above may change how those below are read."""

    def parse(self, block: bytes) -> Parsed:
        """Return the flows of a block of whole lines."""


def join_parsed(parts: Sequence[Parsed]) -> Parsed:
    """Return several parts as one, in their order, in the columns that all tables with rows have.

    Examples
    --------
    >>> dict(join_parsed([Parsed(skipped={"not JSON": 1}), Parsed(skipped={"not JSON": 2})]).skipped)
    {'not JSON': 3}
    """
    if len(parts) == 1:
        return parts[0]
    tables = [part.flows for part in parts if part.flows.height] or [Parsed().flows]
    names = [name for name in tables[0].columns if all(name in table.columns for table in tables)]
    skipped, not_flows = Counter[str](), Counter[str]()
    for part in parts:
        skipped.update(part.skipped)
        not_flows.update(part.not_flows)
    return Parsed(pl.concat([table.select(names) for table in tables]), dict(skipped), dict(not_flows))


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
    A block with a bad line is halved until the line is alone, so that one parser decides for all of them.

    Examples
    --------
    >>> table, bad = json_table([b'{"a": 1}', b'{"a": ', b'{"b": 2}'], {"a": pl.String})
    >>> table["a"].to_list(), bad
    (['1', None], 1)
    >>> json_table([bytes.fromhex("1f8b0800")], {"a": pl.String})[1]
    1
    """
    try:
        # the empty first line keeps polars from unpacking lines that begin like a compressed file
        table = pl.read_ndjson(b"\n".join([b"", *lines]), schema=dict(schema), ignore_errors=True)
    except (PolarsError, PanicException):  # the latter is no Exception
        table = None
    if table is not None and table.height == len(lines):
        return table, 0
    if len(lines) == 1:
        return pl.DataFrame(schema=dict(schema)), 1
    # polars does not say which line was bad: halving finds each in log2(n) steps, and the rest is still parsed at once.
    half = len(lines) // 2
    (first, bad), (second, more) = json_table(lines[:half], schema), json_table(lines[half:], schema)
    return pl.concat([first, second]), bad + more


def build_flows(records: pl.DataFrame) -> Parsed:
    """Return the flows of records, and count those that break a rule.

    Parameters
    ----------
    records
        One row a record: ``start`` (Datetime) and ``duration_s`` (Float64), null where unreadable; every other column
        of `FLOW_COLUMNS` but ``end`` as text, null where there is no value. Columns may be absent.

    Examples
    --------
    >>> import datetime
    >>> now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    >>> texts = {"src_ip": "10.0.0.1", "dst_ip": "10.0.0.2", "protocol": "TCP", "src_port": ["1", "70000"]}
    >>> parsed = build_flows(pl.DataFrame({"start": [now, now], "duration_s": [0.5, 1.0], **texts}))
    >>> parsed.flows["protocol"].to_list(), parsed.skipped
    (['tcp'], {'src_port is not a port': 1})
    """
    typed = _typed(records)
    given = {name: records[name].is_not_null() for name in (*_PORTS, *_COUNTS) if name in records.columns}
    reasons = typed.select(_reason(given)).to_series()
    if reasons.null_count() == len(reasons):
        return Parsed(typed)
    counts = reasons.drop_nulls().value_counts().sort("reason")
    return Parsed(typed.filter(reasons.is_null()), dict(counts.iter_rows()))


def _typed(records: pl.DataFrame) -> pl.DataFrame:
    """Return `FLOW_COLUMNS`; what cannot be read is null."""
    absent = [pl.lit(None, pl.String).alias(name) for name in FLOW_COLUMNS if name not in records.columns]
    table = records.with_columns(absent)
    start, duration = pl.col("start"), pl.col("duration_s")
    # Clipped first: a duration that no type holds must become a reason, not an overflow.
    length = pl.duration(microseconds=(duration.fill_nan(None).clip(0, LONGEST_S) * 1e6).round().cast(pl.Int64))
    return table.with_columns(
        *(pl.col(name).cast(FLOW_COLUMNS[name], strict=False) for name in (*_PORTS, *_COUNTS)),
        start.cast(FLOW_COLUMNS["start"]),
        end=(start + length).cast(FLOW_COLUMNS["end"]),
        protocol=_protocol(pl.col("protocol").str.to_lowercase()),
        service=service_names(table["service"]),
    ).select(pl.col(name).cast(dtype) for name, dtype in FLOW_COLUMNS.items())


def _protocol(name: pl.Expr) -> pl.Expr:
    """Return the transport's name; Zeek writes ``icmp`` for ICMPv6, too."""
    v6 = (name == "icmp") & pl.col("src_ip").str.contains(":", literal=True)
    return pl.when(v6).then(pl.lit("ipv6-icmp")).otherwise(name)


def _reason(given: Mapping[str, pl.Series]) -> pl.Expr:
    """Return the first rule that a record breaks, null where it breaks none.

    A cell breaks its rule where it has a value in the record, and none in range after conversion.
    """
    # The order below is the order of reasons: a record that breaks several rules counts for the first.
    in_range = {name: pl.col(name).is_between(0, 65_535) for name in _PORTS} | {n: pl.col(n) >= 0 for n in _COUNTS}
    kinds = dict.fromkeys(_PORTS, "a port") | dict.fromkeys(_COUNTS, "a count")
    broken: list[tuple[str, pl.Expr]] = [
        ("start is not a time", pl.col("start").is_null()),
        *(
            (f"{name} is not an address", ~pl.col(name).str.contains(_ADDRESS).fill_null(False))
            for name in ("src_ip", "dst_ip")
        ),
        ("protocol is missing", pl.col("protocol").fill_null("").str.len_bytes() == 0),
        ("duration_s is not a duration", ~pl.col("duration_s").is_between(0, LONGEST_S).fill_null(False)),
        *(
            (f"{name} is not {kinds[name]}", pl.lit(has) & ~in_range[name].fill_null(False))
            for name, has in given.items()
        ),
    ]
    return pl.coalesce(pl.when(bad).then(pl.lit(reason)) for reason, bad in broken).alias("reason")
