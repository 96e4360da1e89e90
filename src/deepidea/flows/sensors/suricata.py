"""Suricata's EVE output, JSON lines, of which the events of type ``flow`` are flows and the others are not.

Source: https://docs.suricata.io/en/latest/output/eve/eve-json-format.html.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import polars as pl

from deepidea.flows.conn import conn_state
from deepidea.flows.sensors.records import NOT_JSON, Parsed, join_parsed, json_table, settle

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
NO_TYPE = "event_type is not told"
_STATES = {"new": "S0", "established": "S1", "closed": "SF", "bypassed": "S1", "local_bypassed": "S1"}
_TIME = "%Y-%m-%dT%H:%M:%S%.f%z"


class EveParser:
    r"""Makes flows of EVE lines.

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
        """Return what whole lines came to; blank ones are no records."""
        lines = [line for line in block.split(b"\n") if line and not line.isspace()]
        flows, others, unclear = list[bytes](), Counter[str](), list[bytes]()
        for line in lines:
            if _IS_FLOW in line:
                flows.append(line)
            elif (typed := _IS_TYPED.search(line)) and typed[1] != b"flow":
                others[typed[1].decode("ascii", "replace")] += 1
            else:
                (flows if typed else unclear).append(line)
        return join_parsed([Parsed(not_flows=others), *_judged(unclear), *_judged(flows)])


def _judged(lines: Sequence[bytes]) -> list[Parsed]:
    """Return the flows among lines that may be some."""
    if not lines:
        return []
    table, bad = json_table(lines, _SCHEMA)
    kinds = table["event_type"]
    untold = kinds.null_count()
    others = kinds.filter(kinds.is_not_null() & (kinds != "flow")).value_counts()
    skipped = {reason: count for reason, count in ((NOT_JSON, bad), (NO_TYPE, untold)) if count}
    return [Parsed(skipped=skipped, not_flows=dict(others.iter_rows())), _settled(table.filter(kinds == "flow"))]


def _settled(table: pl.DataFrame) -> Parsed:
    table = table.unnest("flow").unnest("tcp").with_columns(start=_time("start"), end=_time("end"))
    ports = {"src_port": ("src_port", "icmp_type"), "dst_port": ("dest_port", "icmp_code")}
    columns = {
        "start": pl.col("start"),
        "duration_s": (pl.col("end") - pl.col("start")).dt.total_microseconds() / 1e6,
        "src_ip": pl.col("src_ip"),
        "dst_ip": pl.col("dest_ip"),
        **{name: pl.coalesce(*sources) for name, sources in ports.items()},
        "protocol": pl.col("proto"),
        "service": pl.col("app_proto"),
        "community_id": pl.col("community_id"),
        "fwd_packets": pl.col("pkts_toserver"),
        "bwd_packets": pl.col("pkts_toclient"),
        "fwd_bytes": pl.col("bytes_toserver"),
        "bwd_bytes": pl.col("bytes_toclient"),
        "state": _state(),
        "tcp_flags": pl.col("tcp_flags"),
    }
    return settle(table.select(expression.alias(name) for name, expression in columns.items()))


def _time(name: str) -> pl.Expr:
    return pl.col(name).str.to_datetime(_TIME, time_unit="us", strict=False).dt.convert_time_zone("UTC")


def _state() -> pl.Expr:
    """Return how a flow ended: from its flags where TCP tells them, else from Suricata's own word."""
    protocol = pl.col("proto").str.to_lowercase()
    fwd, bwd = (
        pl.col(name).str.to_integer(base=16, strict=False).cast(pl.Int64) for name in ("tcp_flags_ts", "tcp_flags_tc")
    )
    packets = (pl.col(name).cast(pl.Int64, strict=False) for name in ("pkts_toserver", "pkts_toclient"))
    worked_out = conn_state(protocol, fwd, bwd, *packets)
    told = pl.col("state").replace_strict(_STATES, default="OTH", return_dtype=pl.String)
    return pl.when((protocol == "tcp") & pl.col("tcp_flags_ts").is_null()).then(told).otherwise(worked_out)
