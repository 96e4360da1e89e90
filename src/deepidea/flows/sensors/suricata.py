"""Suricata's EVE output: JSON lines, of which the events of type ``flow`` are flows.

Source: https://docs.suricata.io/en/latest/output/eve/eve-json-format.html.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import polars as pl

from deepidea.flows.conn import conn_state
from deepidea.flows.sensors.records import NOT_JSON, Parsed, build_flows, join_parsed, json_table

__all__ = ["EveParser"]

_TEXT = pl.String()
_FLOW = ("pkts_toserver", "pkts_toclient", "bytes_toserver", "bytes_toclient", "start", "end", "state")
_TCP = ("tcp_flags", "tcp_flags_ts", "tcp_flags_tc")
_TOP = ("event_type", "src_ip", "src_port", "dest_ip", "dest_port", "proto", "app_proto", "community_id")
_SCHEMA = {
    **dict.fromkeys((*_TOP, "icmp_type", "icmp_code"), _TEXT),
    "flow": pl.Struct(dict.fromkeys(_FLOW, _TEXT)),
    "tcp": pl.Struct(dict.fromkeys(_TCP, _TEXT)),
}
_IS_FLOW, _IS_TYPED = b'"event_type":"flow"', re.compile(rb'"event_type"\s*:\s*"([\w-]{1,40})"')
NO_TYPE = "event_type is missing"
_STATES = {"new": "S0", "established": "S1", "closed": "SF", "bypassed": "S1", "local_bypassed": "S1"}
_TIME = "%Y-%m-%dT%H:%M:%S%.f%z"


class EveParser:
    r"""Parses EVE lines.

    Lines are sorted into flows and others by their bytes, so that the others, often most of a log, are never parsed.

    Examples
    --------
    >>> eve = b'''{"event_type":"flow","src_ip":"10.0.0.1","src_port":5,"dest_ip":"10.0.0.2","dest_port":53,
    ... "proto":"UDP","app_proto":"dns","flow":{"pkts_toserver":1,"pkts_toclient":1,"bytes_toserver":70,
    ... "bytes_toclient":90,"start":"2026-01-01T00:00:00.000000+0000","end":"2026-01-01T00:00:00.250000+0000"}}
    ... '''.replace(b",\n", b",")
    >>> parsed = EveParser().parse(eve + b'{"event_type":"dns"}\n{"event_type":')
    >>> parsed.flows.select("protocol", "service", "state", "duration_s").rows()
    [('udp', 'dns', 'SF', 0.25)]
    >>> parsed.not_flows, parsed.skipped
    ({'dns': 1}, {'not JSON': 1})
    """

    def parse(self, block: bytes) -> Parsed:
        """Return the flows of whole lines; blank ones are no records."""
        lines = [line for line in block.split(b"\n") if line and not line.isspace()]
        flows, others, untyped = list[bytes](), Counter[str](), list[bytes]()
        for line in lines:
            # Most of an EVE file is no flow: the type is found in the raw bytes, and only flows are parsed as JSON.
            if _IS_FLOW in line:
                flows.append(line)
            elif (typed := _IS_TYPED.search(line)) and typed[1] != b"flow":
                others[typed[1].decode("ascii", "replace")] += 1
            else:
                (flows if typed else untyped).append(line)
        return join_parsed([Parsed(not_flows=others), *_parsed(untyped), *_parsed(flows)])


def _parsed(lines: Sequence[bytes]) -> list[Parsed]:
    if not lines:
        return []
    table, bad = json_table(lines, _SCHEMA)
    kinds = table["event_type"]
    others = kinds.filter(kinds.is_not_null() & (kinds != "flow")).value_counts()
    skipped = {reason: count for reason, count in ((NOT_JSON, bad), (NO_TYPE, kinds.null_count())) if count}
    return [Parsed(skipped=skipped, not_flows=dict(others.iter_rows())), _flows_of(table.filter(kinds == "flow"))]


def _flows_of(table: pl.DataFrame) -> Parsed:
    table = table.unnest("flow").unnest("tcp").with_columns(start=_time("start"), end=_time("end"))
    # Suricata's client is the opener: to the server is forward.
    sources = {
        "src_ip": "src_ip",
        "dst_ip": "dest_ip",
        "protocol": "proto",
        "service": "app_proto",
        "community_id": "community_id",
        "fwd_packets": "pkts_toserver",
        "bwd_packets": "pkts_toclient",
        "fwd_bytes": "bytes_toserver",
        "bwd_bytes": "bytes_toclient",
        "tcp_flags": "tcp_flags",
    }
    return build_flows(
        table.select(
            "start",
            # From its own two times: the field `age` holds whole seconds.
            (pl.col("end") - pl.col("start")).dt.total_microseconds().truediv(1e6).alias("duration_s"),
            # ICMP has a type and a code in place of ports, as in Zeek.
            pl.coalesce("src_port", "icmp_type").alias("src_port"),
            pl.coalesce("dest_port", "icmp_code").alias("dst_port"),
            _state().alias("state"),
            *(pl.col(field).alias(name) for name, field in sources.items()),
        )
    )


def _time(name: str) -> pl.Expr:
    return pl.col(name).str.to_datetime(_TIME, time_unit="us", strict=False).dt.convert_time_zone("UTC")


def _state() -> pl.Expr:
    """Return how a flow ended: from its TCP flags where there are any, else from Suricata's own state."""
    protocol = pl.col("proto").str.to_lowercase()
    fwd, bwd = (
        pl.col(name).str.to_integer(base=16, strict=False).cast(pl.Int64) for name in ("tcp_flags_ts", "tcp_flags_tc")
    )
    packets = (pl.col(name).cast(pl.Int64, strict=False) for name in ("pkts_toserver", "pkts_toclient"))
    own = pl.col("state").replace_strict(_STATES, default="OTH", return_dtype=pl.String)
    without_flags = (protocol == "tcp") & pl.col("tcp_flags_ts").is_null()
    return pl.when(without_flags).then(own).otherwise(conn_state(protocol, fwd, bwd, *packets))
