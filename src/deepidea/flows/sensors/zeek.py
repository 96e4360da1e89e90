r"""Zeek's conn.log, as tab-separated text or as JSON lines, a block of lines at a time.

Lines that begin with ``#`` define how those below are read. They may come again, as where logs are joined or Zeek was
restarted. Columns that the `conn` schema does not know are ignored; known ones may be missing.

Source: https://docs.zeek.org/en/current/log-formats.html and logs/conn.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import polars as pl

from deepidea.flows.sensors.records import LATEST_S, NOT_JSON, Parsed, build_flows, join_parsed, json_table

__all__ = ["ZeekParser"]

FIELDS: dict[str, str] = {
    "start": "ts",
    "duration_s": "duration",
    "src_ip": "id.orig_h",
    "src_port": "id.orig_p",
    "dst_ip": "id.resp_h",
    "dst_port": "id.resp_p",
    "protocol": "proto",
    "service": "service",
    "fwd_packets": "orig_pkts",
    "bwd_packets": "resp_pkts",
    "fwd_bytes": "orig_ip_bytes",
    "bwd_bytes": "resp_ip_bytes",
    "state": "conn_state",
    "community_id": "community_id",
}
"""Columns of a flow, and the fields of conn.log that they come from."""

NO_FIELDS, WRONG_WIDTH = "no #fields line above it", "other number of cells than #fields"
NOT_NAMED = "no ts, addresses and proto in the #fields above it"
_NEEDED = {FIELDS[name] for name in ("start", "src_ip", "dst_ip", "protocol")}
_CONN = "conn"
_JSON_SCHEMA = dict.fromkeys((*FIELDS.values(), "_path"), pl.String())
_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")


@dataclass(frozen=True, slots=True)
class _Header:
    """What the ``#`` lines above define."""

    separator: bytes = b"\t"
    unset: str = "-"
    empty: str = "(empty)"
    path: str = _CONN
    fields: tuple[str, ...] = ()


class ZeekParser:
    r"""Parses the lines of one conn.log.

    Examples
    --------
    >>> log = b'''#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tservice\tduration\torig_pkts
    ... 1700000000.5\t10.0.0.1\t50000\t10.0.0.2\t53\tudp\tdns\t0.25\t1
    ... 1700000001.0\t10.0.0.1\t50001\t10.0.0.2\t99999\ttcp\t-\t-\t2
    ... '''
    >>> parsed = ZeekParser().parse(log)
    >>> parsed.flows.select("src_ip", "dst_port", "protocol", "service", "duration_s").rows()
    [('10.0.0.1', 53, 'udp', 'dns', 0.25)]
    >>> parsed.skipped
    {'dst_port is not a port': 1}
    >>> ZeekParser().parse(b'{"ts": 1700000000.5, "id.orig_h": "::1", "id.resp_h": "::1", "proto": "tcp"}\n').records
    1
    """

    def __init__(self) -> None:
        self._header = _Header()

    def parse(self, block: bytes) -> Parsed:
        """Return the flows of whole lines; blank ones and those that begin with ``#`` are no records."""
        lines = [line for line in block.replace(b"\r\n", b"\n").split(b"\n") if line and not line.isspace()]
        # Runs of one kind are parsed at once; a # line in the middle changes what those behind it mean.
        parts = [part for mark, run in groupby(lines, _mark) for part in self._parts(mark, list(run))]
        return join_parsed(parts or [Parsed()])

    def _parts(self, mark: bytes, lines: list[bytes]) -> Iterator[Parsed]:
        if mark == b"#":
            for line in lines:
                self._header = _updated(self._header, line.lstrip())
        elif mark == b"{":
            yield _from_json(lines)
        else:
            yield self._from_cells(lines)

    def _from_cells(self, lines: list[bytes]) -> Parsed:
        head = self._header
        if head.path != _CONN:
            return Parsed(not_flows={head.path: len(lines)})
        if not head.fields:
            return Parsed(skipped={NO_FIELDS: len(lines)})
        if not _NEEDED.issubset(head.fields):
            return Parsed(skipped={NOT_NAMED: len(lines)})
        rows = [row for line in lines if (row := _fitted(line, head)) is not None]
        parts = [Parsed(skipped={WRONG_WIDTH: len(lines) - len(rows)})] if len(rows) < len(lines) else []
        if rows:
            parts.append(_flows_of(_text_of(rows, head)))
        return join_parsed(parts)


def _mark(line: bytes) -> bytes:
    """Return the kind of a line, by its first character."""
    first = line.lstrip()[:1]
    return first if first in (b"#", b"{") else b""


def _updated(head: _Header, line: bytes) -> _Header:
    """Return the header after a ``#`` line; one that cannot be read changes nothing."""
    name, _, rest = line.partition(b" " if line.startswith(b"#separator ") else head.separator)
    text = rest.decode("utf-8", "replace")
    if name == b"#separator":
        separator = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), rest.strip(b" "))
        # One ASCII byte: others may be part of a character of UTF-8, and a line end would cut the lines themselves.
        # A header begins anew with it: the log before may have had other fields.
        return _Header(separator) if len(separator) == 1 and separator < b"\x80" and separator not in b"\r\n" else head
    if name == b"#fields":
        return replace(head, fields=tuple(text.split(head.separator.decode())))
    field = {b"#path": "path", b"#unset_field": "unset", b"#empty_field": "empty"}.get(name)
    return head if field is None else replace(head, **{field: text})  # type: ignore[arg-type]


def _fitted(line: bytes, head: _Header) -> bytes | None:
    """Return a line with as many cells as there are fields, None where it has others.

    In the labelled logs of the Stratosphere laboratory, three spaces instead of a tab precede the last columns.
    """
    extra = len(head.fields) - 1 - line.count(head.separator)
    if extra > 0:
        line = line.replace(b"   ", head.separator)
        extra = len(head.fields) - 1 - line.count(head.separator)
    return line if extra == 0 else None


def _text_of(rows: Sequence[bytes], head: _Header) -> pl.DataFrame:
    """Return the cells of known fields as text, null where they are unset."""
    wanted = {head.fields.index(field): name for name, field in FIELDS.items() if field in head.fields}
    width = [f"{index}" for index in range(len(head.fields))]
    table = pl.read_csv(
        b"\n".join(rows),
        has_header=False,
        schema=dict.fromkeys(width, pl.String()),
        columns=sorted(wanted),
        separator=head.separator.decode(),
        # Zeek escapes separators within cells and quotes nothing.
        quote_char=None,
        null_values=[head.unset, head.empty],
        encoding="utf8-lossy",
    )
    return table.rename({f"{index}": name for index, name in wanted.items()})


def _from_json(lines: Sequence[bytes]) -> Parsed:
    table, bad = json_table(lines, _JSON_SCHEMA)
    parts = [Parsed(skipped={NOT_JSON: bad})] if bad else []
    if table["_path"].null_count() < len(table):  # there where several logs share one stream
        paths = table["_path"].fill_null(_CONN)
        others = paths.filter(paths != _CONN).value_counts().sort("_path")
        parts.append(Parsed(not_flows=dict(others.iter_rows())))
        table = table.filter(paths == _CONN)
    texts = table.select(pl.col(field).alias(name) for name, field in FIELDS.items())
    return join_parsed([*parts, _flows_of(texts)])


def _flows_of(texts: pl.DataFrame) -> Parsed:
    """Return the flows of texts; a single packet has no duration in Zeek, which is 0."""
    absent = [pl.lit(None, pl.String).alias(name) for name in ("start", "duration_s") if name not in texts.columns]
    texts = texts.with_columns(absent)
    length = pl.col("duration_s").cast(pl.Float64, strict=False)
    return build_flows(
        texts.with_columns(
            start=_times(texts["start"]), duration_s=pl.when(pl.col("duration_s").is_null()).then(0.0).otherwise(length)
        )
    )


def _times(texts: pl.Series) -> pl.Series:
    """Return times, in seconds since 1970 or, where Zeek is configured so, in ISO 8601; null where they are neither."""
    seconds = texts.cast(pl.Float64, strict=False)
    seconds = seconds.to_frame("s").select(pl.when(pl.col("s").is_between(0, LATEST_S)).then("s")).to_series()
    times = (seconds * 1e6).round().cast(pl.Int64).cast(pl.Datetime("us", "UTC"))
    if times.null_count() == texts.null_count():
        return times
    in_words = texts.str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", time_zone="UTC", strict=False)
    return times.fill_null(in_words)
