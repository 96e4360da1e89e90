"""Made lines of sensors, alike for every tool: the same conversations as Zeek and Suricata would tell of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

FIELDS = ["ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "service", "duration"]
FIELDS += ["orig_bytes", "resp_bytes", "conn_state", "local_orig", "history", "orig_pkts", "orig_ip_bytes"]
FIELDS += ["resp_pkts", "resp_ip_bytes", "tunnel_parents"]
START = 1_700_000_000.0


def zeek_record(n: int) -> dict[str, object]:
    """Return the n-th conversation as Zeek's fields."""
    udp = n % 3 == 0
    return {
        "ts": START + n / 4,
        "uid": f"C{n:08d}",
        "id.orig_h": f"10.0.{n // 250 % 250}.{n % 250}",
        "id.orig_p": 1024 + n % 60_000,
        "id.resp_h": "192.0.2.7",
        "id.resp_p": 53 if udp else 443,
        "proto": "udp" if udp else "tcp",
        "service": "dns" if udp else "ssl",
        "duration": round(0.001 + n % 7 / 8, 6),
        "conn_state": "SF",
        "orig_pkts": 1 + n % 9,
        "orig_ip_bytes": 60 + n % 900,
        "resp_pkts": 1 + n % 5,
        "resp_ip_bytes": 80 + n % 1400,
    }


def zeek_header(separator: str = "\t", path: str = "conn", fields: list[str] = FIELDS) -> bytes:
    """Return the ``#`` lines above the records."""
    escaped = "".join(f"\\x{byte:02x}" for byte in separator.encode())
    named = {"set_separator": ",", "empty_field": "(empty)", "unset_field": "-", "path": path}
    lines = [f"#separator {escaped}", *(f"#{name}{separator}{value}" for name, value in named.items())]
    return "\n".join([*lines, separator.join(["#fields", *fields]), ""]).encode()


def zeek_row(n: int, separator: str = "\t", fields: list[str] = FIELDS) -> bytes:
    """Return the n-th conversation as a row, with its newline."""
    record = zeek_record(n)
    return (separator.join(str(record.get(field, "-")) for field in fields) + "\n").encode()


def zeek_json(n: int) -> bytes:
    """Return the n-th conversation as JSON, with its newline."""
    return json.dumps(zeek_record(n), separators=(",", ":")).encode() + b"\n"


def _eve_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f+0000")


def eve_flow(n: int, **changes: object) -> bytes:
    """Return the n-th conversation as a flow event, with its newline."""
    zeek = zeek_record(n)
    start, duration = START + n / 4, round(0.001 + n % 7 / 8, 6)
    flow = {
        "pkts_toserver": zeek["orig_pkts"],
        "pkts_toclient": zeek["resp_pkts"],
        "bytes_toserver": zeek["orig_ip_bytes"],
        "bytes_toclient": zeek["resp_ip_bytes"],
        "start": _eve_time(start),
        "end": _eve_time(start + duration),
        "state": "closed",
    }
    event = {
        "timestamp": _eve_time(start + 60),
        "flow_id": n,
        "event_type": "flow",
        "src_ip": zeek["id.orig_h"],
        "src_port": zeek["id.orig_p"],
        "dest_ip": zeek["id.resp_h"],
        "dest_port": zeek["id.resp_p"],
        "proto": str(zeek["proto"]).upper(),
        "app_proto": "dns" if zeek["service"] == "dns" else "tls",
        "flow": flow,
    }
    if zeek["proto"] == "tcp":
        event["tcp"] = {"tcp_flags": "1b", "tcp_flags_ts": "1b", "tcp_flags_tc": "1b"}
    return json.dumps(event | changes, separators=(",", ":")).encode() + b"\n"


def eve_dns(n: int) -> bytes:
    """Return an event that is no flow."""
    event = {"timestamp": _eve_time(START + n), "event_type": "dns", "src_ip": "10.0.0.1", "dns": {"id": n}}
    return json.dumps(event).encode() + b"\n"
