"""Convert flows from one schema to another, so that a detector trained on CICFlowMeter's features can score NetFlow.

A table of `cicflow` has all that `conn` has, so it can be projected onto it, and a detector trained on the projection
scores flows of Zeek, Suricata and NetFlow. Nothing is guessed: what a table does not hold is null in the projection,
or an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from deepidea.errors import SchemaError
from deepidea.flows.context import CONTEXT_COLUMNS, add_context
from deepidea.flows.identity import IDENTITY, transport_name, transport_number
from deepidea.flows.labelled import FILE_COLUMN, LabelledFlows
from deepidea.flows.schema import Schema, get_schema

__all__ = ["PROJECTIONS", "as_schema", "project_flows", "to_conn"]

_NEEDED = (
    "protocol",
    "duration_us",
    *(f"{way}_{what}" for way in ("fwd", "bwd") for what in ("packets", "bytes", "header_bytes")),
)
PROJECTIONS: Mapping[str, tuple[str, ...]] = {
    "cicflow": ("conn", "conn+context", "cicflow+context"),
    "conn": ("conn+context",),
}
"""Schemas that flows of a schema can be converted to, beside its own."""

_TCP, _UDP = 6, 17
_TCP_HEADER_BYTES = (20, 60)  # of one packet, least and most
_UDP_HEADER_BYTES = 8
_FLAG_BITS = {"fin": 0x01, "syn": 0x02, "rst": 0x04, "psh": 0x08, "ack": 0x10, "urg": 0x20, "ece": 0x40, "cwr": 0x80}


def to_conn(table: pl.DataFrame, *, tcp_flags: bool = False) -> pl.DataFrame:
    """Return a `cicflow` table in the columns of the `conn` schema, row for row.

    Exact are packets, times, the protocol's name, and bytes of UDP and of TCP over IP without options: CICFlowMeter
    counts payload and transport headers, to which 20 bytes a packet are added where ``src_ip`` is IPv4 or absent, and
    40 where it is IPv6. Null are bytes of ICMP and of other protocols, whose headers CICFlowMeter counts as nothing,
    bytes of TCP where its count of header bytes is not 20 to 60 a packet (it overflows in long flows), and durations
    below zero. Frames that were padded to 60 bytes count their padding in the files of the first CICFlowMeter.

    Parameters
    ----------
    table
        Flows under any spelling of `cicflow`: CICIDS2017 with its protocol column, its corrected version,
        CSE-CIC-IDS2018, or metered captures.
    tcp_flags
        Whether to add the flags seen, from the counts of packets with each. The corrected CICFlowMeter counts them,
        the original does not. A detector trained with flags cannot score Zeek's conn.log, which has none.

    Returns
    -------
    polars.DataFrame
        Features of `conn` without ``service`` and ``state``. Addresses, ports, times and columns that `cicflow` does
        not know are kept, ``flow_id`` as ``uid``.

    Raises
    ------
    SchemaError
        A column that the projection needs is absent. The files of CICIDS2017 without addresses have no protocol.

    Examples
    --------
    >>> flows = pl.DataFrame({"Protocol": [6, 17], "Flow Duration": [1_500_000, 20_000],
    ...     "Tot Fwd Pkts": [4, 1], "Tot Bwd Pkts": [3, 1], "TotLen Fwd Pkts": [100, 30], "TotLen Bwd Pkts": [900, 60],
    ...     "Fwd Header Len": [128, 8], "Bwd Header Len": [96, 8]})
    >>> to_conn(flows).select("protocol", "duration_s", "fwd_bytes", "bwd_bytes").rows()
    [('tcp', 1.5, 308, 1056), ('udp', 0.02, 58, 88)]
    """
    raw = _headers(table, "cicflow")
    missing = [name for name in _NEEDED if name not in raw]
    if missing:
        raise SchemaError(
            f"cannot project the table onto conn: {', '.join(missing)} is missing; use files that have the column "
            f"(needed: {', '.join(_NEEDED)})"
        )
    # Under canonical names from here on, whatever the tool called them.
    known = table.select(pl.col(header).alias(name) for name, header in raw.items())
    features = known.select(
        # CICFlowMeter writes negative durations where packets came out of order: unknown, not negative.
        (pl.when(_number(known, "duration_us") >= 0).then(_number(known, "duration_us")) / 1_000_000).alias(
            "duration_s"
        ),
        _in_words(known["protocol"]),
        *(_number(known, name) for name in ("fwd_packets", "bwd_packets")),
        *(_ip_bytes(known, way) for way in ("fwd", "bwd")),
        *([_flags(known)] if tcp_flags else []),
    )
    return pl.concat([_identity(table, known), features, _others(table)], how="horizontal")


def _headers(table: pl.DataFrame, schema: str) -> dict[str, str]:
    """Return the header of each column of a schema that a table has, the first of two."""
    names = get_schema(schema).canonical_names(table.columns)
    return {name: header for header, name in reversed(names.items())}


def _number(table: pl.DataFrame, name: str) -> pl.Expr:
    """Return a column as numbers wide enough for sums."""
    return pl.col(name) if table.schema[name].is_float() else pl.col(name).cast(pl.Int64)


def _in_words(protocols: pl.Series) -> pl.Series:
    words = protocols.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False).cast(pl.String)
    words = words.fill_null(protocols.cast(pl.String))  # names stay as they are
    known = words.drop_nulls().unique().to_list()
    return words.replace({word: transport_name(word) for word in known if transport_number(word) is not None})


def _ip_bytes(table: pl.DataFrame, way: str) -> pl.Expr:
    """Return bytes at the IP level of one way: payload, transport headers and IP headers."""
    # header bytes of CICFlowMeter are of the transport; those of TCP overflow 16 bits in long flows, of UDP they are 8
    packets, payload, header = (_number(table, f"{way}_{what}") for what in ("packets", "bytes", "header_bytes"))
    least, most = _TCP_HEADER_BYTES
    transport = (
        pl.when(packets == 0)
        .then(0)
        .when(_is(table, _UDP))
        .then(packets * _UDP_HEADER_BYTES)
        .when(_is(table, _TCP) & (header >= least * packets) & (header <= most * packets))
        .then(header)
    )
    return (payload + transport + packets * _ip_header_bytes(table)).alias(f"{way}_bytes")


def _is(table: pl.DataFrame, number: int) -> pl.Series:
    return _in_words(table["protocol"]) == transport_name(number)


def _ip_header_bytes(table: pl.DataFrame) -> pl.Expr:
    if "src_ip" not in table.columns:
        return pl.lit(20)
    v6 = pl.col("src_ip").cast(pl.String).str.contains(":", literal=True)
    return pl.when(v6).then(40).otherwise(20)


def _flags(table: pl.DataFrame) -> pl.Expr:
    bits = (pl.when(pl.col(f"{flag}_flag_count") > 0).then(bit).otherwise(0) for flag, bit in _FLAG_BITS.items())
    seen = pl.sum_horizontal(bits)
    words = seen.replace_strict(range(256), [f"{value:02x}" for value in range(256)], return_dtype=pl.String)
    return pl.when(_is(table, _TCP)).then(words).alias("tcp_flags")


def _identity(table: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Return the columns that identify a flow, but for those that `IDENTITY` has under another name."""
    names = {"uid": "flow_id", **{name: name for name in ("timestamp", "src_ip", "src_port", "dst_ip", "dst_port")}}
    twice = {"uid"} if "community_id" in table.columns else set()
    twice |= {"timestamp"} if "start" in table.columns else set()
    return known.select(
        pl.col(name).alias(alias) for alias, name in names.items() if name in known.columns and alias not in twice
    )


def _others(table: pl.DataFrame) -> pl.DataFrame:
    """Return the columns that `cicflow` does not know: labels, and `IDENTITY`."""
    known = get_schema("cicflow").canonical_names(table.columns)
    conn = get_schema("conn").canonical_names(table.columns)
    return table.select(name for name in table.columns if name not in known and (name in IDENTITY or name not in conn))


def as_schema(table: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Return a table converted to a schema where that is possible, else as it is, for `Schema.conform` to check.

    A table of `cicflow` is projected where `conn` is wanted, and columns of context are added where the schema has
    them and the table does not.

    Parameters
    ----------
    table
        Flows under any spelling.
    schema
        Schema that is wanted.

    Raises
    ------
    SchemaError
        A context is wanted and the table has no addresses or times: see `deepidea.flows.context`.

    Examples
    --------
    >>> table = pl.DataFrame({"fwd_packets": [1]})
    >>> as_schema(table, get_schema("kdd99")) is table
    True
    """
    base, _, more = schema.name.partition("+")
    # A table that has both spellings is taken as it is: what it says itself is not computed again.
    own = base == "conn" and "duration_s" in get_schema("conn").canonical_names(table.columns).values()
    if base == "conn" and not own and set(_NEEDED) <= set(_headers(table, "cicflow")):
        table = to_conn(table)
    return _with_context(table, base) if more == "context" else table


def _with_context(table: pl.DataFrame, base: str) -> pl.DataFrame:
    names = [column.name for column in CONTEXT_COLUMNS]
    if set(names) <= set(table.columns):
        return table
    canonical = _headers(table, base) | {name: name for name in IDENTITY if name in table.columns}
    context = add_context(table.select(pl.col(header).alias(name) for name, header in canonical.items()))
    return table.with_columns(context.select(names))


def project_flows(flows: LabelledFlows, name: str) -> LabelledFlows:
    """Return labelled flows in another schema; labels, classes and order stay.

    Parameters
    ----------
    flows
        Labelled flows.
    name
        Name of the schema: one of `PROJECTIONS`, or the flows' own.

    Raises
    ------
    SchemaError
        Flows of this schema cannot be converted to that one.
    """
    if flows.schema.name == name:
        return flows
    if name not in PROJECTIONS.get(flows.schema.name, ()):
        known = ", ".join((flows.schema.name, *PROJECTIONS.get(flows.schema.name, ())))
        raise SchemaError(
            f"cannot convert flows of schema {flows.schema.name} ({flows.source}) to {name}; choose one of: {known}"
        )
    wanted = get_schema(name, use_port=flows.schema.use_port)
    table = as_schema(flows.table, wanted)
    schema = wanted.restrict(list(wanted.canonical_names(table.columns).values()))
    conformed = schema.conform(table)
    if FILE_COLUMN in table.columns:
        conformed = conformed.with_columns(table[FILE_COLUMN])
    return replace(flows, table=conformed, schema=schema)
