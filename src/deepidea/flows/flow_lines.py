"""Flows as lines of JSON, to be carried through a stream: what comes out is what went in, to the last bit.

A line is one object, ``{"flow":"conn",...}``, with the columns of :data:`FLOW_COLUMNS` that are told, times in
microseconds since 1970, and what the flow's hosts did lately where that was counted before the stream was cut
(:data:`deepidea.flows.context.CONTEXT_COLUMNS`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from itertools import groupby

import polars as pl

from deepidea.flows.context import CONTEXT_COLUMNS
from deepidea.flows.sensors.records import FLOW_COLUMNS, LONGEST_S, NOT_JSON, Parsed, json_table
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
    """Tell whether flows carry what their hosts did lately."""
    return _CONTEXT[0] in flows.columns


def flow_lines(flows: pl.DataFrame) -> list[bytes]:
    """Return a line for each flow of the `conn` schema; columns that it does not know are left out.

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
    told = [pl.col(name).cast(FLOW_COLUMNS.get(name, pl.Float64())) for name in names]
    as_numbers = [pl.col(name).dt.timestamp("us") for name in _TIMES]
    text = flows.select(pl.lit("conn").alias("flow"), *told).with_columns(as_numbers).write_ndjson()
    return text.encode().splitlines()


def pair_keys(flows: pl.DataFrame) -> pl.Series:
    """Return the two hosts of each flow as one text, the same in both directions, String (n_flows,).

    Examples
    --------
    >>> pair_keys(pl.DataFrame({"src_ip": ["10.0.0.2", "10.0.0.1"], "dst_ip": ["10.0.0.1", "10.0.0.2"]})).to_list()
    ['10.0.0.1 10.0.0.2', '10.0.0.1 10.0.0.2']
    """
    hosts = (pl.col("src_ip").fill_null(""), pl.col("dst_ip").fill_null(""))
    first, second = pl.min_horizontal(*hosts), pl.max_horizontal(*hosts)
    return flows.select(pl.concat_str(first, second, separator=" ").alias("pair")).to_series()


def partition_of(keys: pl.Series, n_partitions: int) -> pl.Series:
    """Return the number of the share that each key is dealt to, by CRC-32, Int32 (n_keys,).

    Examples
    --------
    >>> partition_of(pl.Series(["10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.3"]), 4).to_list()
    [0, 2]
    """
    partitions = {key: zlib.crc32(key.encode()) % n_partitions for key in keys.unique().to_list()}
    return keys.replace_strict(partitions, return_dtype=pl.Int32)


class StreamParser:
    r"""Makes flows of the messages of a stream: lines of ours, Suricata's events, or Zeek's records in JSON.

    Examples
    --------
    >>> parsed = StreamParser().parse([b'{"event_type":"dns"}', b"poison", b'{"flow":"conn","start":1}'])
    >>> parsed.not_flows, dict(parsed.skipped)
    ({'dns': 1}, {'not JSON': 1, 'not a flow: a column is missing or out of range': 1})
    """

    def __init__(self) -> None:
        self._eve, self._zeek = EveParser(), ZeekParser()

    def parse(self, messages: Sequence[bytes]) -> Parsed:
        """Return what messages came to, in their order; each is one record, whatever line breaks it holds."""
        parts = [part for kind, run in groupby(messages, _kind) for part in self._parsed(kind, list(run))]
        return _joined(parts) if parts else Parsed()

    def _parsed(self, kind: str, messages: list[bytes]) -> Iterator[Parsed]:
        lines = [message.replace(b"\n", b" ").replace(b"\r", b" ") for message in messages]
        if kind == "eve":
            yield self._eve.parse(b"\n".join(lines))
        elif kind == "zeek":
            yield self._zeek.parse(b"\n".join(lines))
        elif kind != "poison":
            yield _own(lines, _CONTEXT if kind == "conn+context" else ())
        else:
            yield Parsed(skipped={NOT_JSON: len(lines)})


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
    flows = whole.select(*(_moment(name) if name in _TIMES else pl.col(name) for name in names[1:]))
    return Parsed(flows, skipped)


def _moment(name: str) -> pl.Expr:
    return pl.from_epoch(name, time_unit="us").dt.replace_time_zone("UTC").alias(name)


def _is_whole() -> pl.Expr:
    """Tell which flows are whole: a cell that could not be read is null by now."""
    needed = [pl.col(name).is_not_null() for name in ("start", "end", "src_ip", "dst_ip", "protocol")]
    lasted = pl.col("duration_s").is_between(0, LONGEST_S).fill_null(True)
    ports = [pl.col(name).is_between(0, 65_535).fill_null(True) for name in ("src_port", "dst_port")]
    counts = [(pl.col(f"{way}_{what}") >= 0).fill_null(True) for way in ("fwd", "bwd") for what in ("packets", "bytes")]
    return pl.all_horizontal(*needed, lasted, *ports, *counts)


def _joined(parts: Sequence[Parsed]) -> Parsed:
    """Return what parts came to together; context is kept where every flow carries it."""
    carrying = [has_context(part.flows) for part in parts if part.flows.height]
    skipped: dict[str, int] = {}
    not_flows: dict[str, int] = {}
    for part in parts:
        for counts, told in ((skipped, part.skipped), (not_flows, part.not_flows)):
            for reason, n in told.items():
                counts[reason] = counts.get(reason, 0) + n
    if not carrying:
        return Parsed(Parsed().flows, skipped, not_flows)
    names = [*FLOW_COLUMNS, *(_CONTEXT if all(carrying) else ())]
    flows = pl.concat([part.flows.select(names) for part in parts if part.flows.height])
    return Parsed(flows, skipped, not_flows)
