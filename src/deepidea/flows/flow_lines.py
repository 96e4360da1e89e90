"""Flows as lines of JSON for a stream, without loss of a bit.

A line is one object, ``{"flow":"conn",...}``, with the columns of :data:`FLOW_COLUMNS` that have a value, times in
microseconds since 1970, and the columns of :data:`deepidea.flows.context.CONTEXT_COLUMNS` where the context was
computed before the stream was partitioned.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import groupby

import polars as pl

from deepidea.flows.context import CONTEXT_COLUMNS
from deepidea.flows.sensors.records import FLOW_COLUMNS, LONGEST_S, NOT_JSON, Parsed, join_parsed, json_table
from deepidea.flows.sensors.suricata import EveParser
from deepidea.flows.sensors.zeek import ZeekParser

__all__ = ["StreamParser", "flow_lines", "has_context", "pair_keys", "partition_of"]

BROKEN = "not a flow: a column is missing or out of range"
_MARK = b'{"flow":"conn",'
_TIMES = ("start", "end")
_CONTEXT = [column.name for column in CONTEXT_COLUMNS]
_CONTEXT_MARK = f'"{_CONTEXT[0]}":'.encode()
_TYPES = {
    "flow": pl.String(),
    **{name: pl.Int64() if name in _TIMES else dtype for name, dtype in FLOW_COLUMNS.items()},
    **dict.fromkeys(_CONTEXT, pl.Float64()),
}


def has_context(flows: pl.DataFrame) -> bool:
    """Whether flows have the columns of their hosts' context."""
    return _CONTEXT[0] in flows.columns


def flow_lines(flows: pl.DataFrame) -> list[bytes]:
    """Return one line a flow of the `conn` schema; other columns are left out.

    Examples
    --------
    >>> from deepidea.flows.sensors.suricata import EveParser
    >>> eve = b'{"event_type":"flow","src_ip":"::1","dest_ip":"::2","proto":"TCP","flow":{"start":'
    >>> eve += b'"2026-01-01T00:00:00.000000+0000","end":"2026-01-01T00:00:00.250000+0000"}}'
    >>> flows = EveParser().parse(eve).flows
    >>> StreamParser().parse(flow_lines(flows)).flows.equals(flows)
    True
    """
    names = [name for name in (*FLOW_COLUMNS, *_CONTEXT) if name in flows.columns]
    typed = [pl.col(name).cast(FLOW_COLUMNS.get(name, pl.Float64())) for name in names]
    as_numbers = [pl.col(name).dt.timestamp("us") for name in _TIMES]
    # Times as whole microseconds: as text they would need a format, and as floats they would lose the last digits.
    text = flows.select(pl.lit("conn").alias("flow"), *typed).with_columns(as_numbers).write_ndjson()
    return text.encode().splitlines()


def pair_keys(flows: pl.DataFrame) -> pl.Series:
    """Return the two hosts of each flow as one text, equal in both directions, String (n_flows,).

    Examples
    --------
    >>> pair_keys(pl.DataFrame({"src_ip": ["10.0.0.2", "10.0.0.1"], "dst_ip": ["10.0.0.1", "10.0.0.2"]})).to_list()
    ['10.0.0.1 10.0.0.2', '10.0.0.1 10.0.0.2']
    """
    hosts = (pl.col("src_ip").fill_null(""), pl.col("dst_ip").fill_null(""))
    first, second = pl.min_horizontal(*hosts), pl.max_horizontal(*hosts)
    return flows.select(pl.concat_str(first, second, separator=" ").alias("pair")).to_series()


def partition_of(keys: pl.Series, n_partitions: int) -> pl.Series:
    """Return the partition of each key, by CRC-32, Int32 (n_keys,).

    Examples
    --------
    >>> partition_of(pl.Series(["10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.3"]), 4).to_list()
    [0, 2]
    """
    # CRC-32 is the same in every version and language; Python's own hash differs from process to process.
    partitions = {key: zlib.crc32(key.encode()) % n_partitions for key in keys.unique().to_list()}
    return keys.replace_strict(partitions, return_dtype=pl.Int32)


class StreamParser:
    r"""Parses the messages of a stream: lines of `flow_lines`, Suricata's events, or Zeek's records in JSON.

    Examples
    --------
    >>> parsed = StreamParser().parse([b'{"event_type":"dns"}', b"poison", b'{"flow":"conn","start":1}'])
    >>> parsed.not_flows, dict(parsed.skipped)
    ({'dns': 1}, {'not JSON': 1, 'not a flow: a column is missing or out of range': 1})
    """

    def __init__(self) -> None:
        self._eve, self._zeek = EveParser(), ZeekParser()

    def parse(self, messages: Sequence[bytes]) -> Parsed:
        """Return the flows of messages, in their order; each is one record, even with line breaks in it."""
        # Runs of one kind, so that the order of messages is that of the flows.
        parts = [self._parse_run(kind, list(run)) for kind, run in groupby(messages, _kind)]
        return join_parsed([*parts, Parsed()])

    def _parse_run(self, kind: str, messages: list[bytes]) -> Parsed:
        if kind == "poison":
            return Parsed(skipped={NOT_JSON: len(messages)})
        # A message is a record: a line break within one is white space of its JSON.
        lines = [message.replace(b"\n", b" ").replace(b"\r", b" ") for message in messages]
        if kind in ("eve", "zeek"):
            return (self._eve if kind == "eve" else self._zeek).parse(b"\n".join(lines))
        return _own(lines, _CONTEXT if kind == "conn+context" else ())


def _kind(message: bytes) -> str:
    if message.startswith(_MARK):
        return "conn+context" if _CONTEXT_MARK in message else "conn"
    if not message.lstrip().startswith(b"{"):
        return "poison"
    return "zeek" if b'"id.orig_h"' in message or b'"_path"' in message else "eve"


def _own(lines: Sequence[bytes], context: Sequence[str]) -> Parsed:
    names = ("flow", *FLOW_COLUMNS, *context)
    table, bad = json_table(lines, {name: _TYPES[name] for name in names})
    whole = table.filter(_is_whole())
    skipped = {reason: n for reason, n in ((NOT_JSON, bad), (BROKEN, table.height - whole.height)) if n}
    return Parsed(whole.select(names[1:]).with_columns(pl.col(_TIMES).cast(pl.Datetime("us", "UTC"))), skipped)


def _is_whole() -> pl.Expr:
    """Return which flows are complete and in range; a cell that could not be read is null by now."""
    needed = [pl.col(name).is_not_null() for name in ("start", "end", "src_ip", "dst_ip", "protocol")]
    lasted = pl.col("duration_s").is_between(0, LONGEST_S).fill_null(True)
    ports = [pl.col(name).is_between(0, 65_535).fill_null(True) for name in ("src_port", "dst_port")]
    counts = [(pl.col(f"{way}_{what}") >= 0).fill_null(True) for way in ("fwd", "bwd") for what in ("packets", "bytes")]
    return pl.all_horizontal(*needed, lasted, *ports, *counts)
