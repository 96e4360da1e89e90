"""Whatever bytes a sensor's log holds, nothing is raised and every record is accounted for."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.flows.conn import STATES
from deepidea.flows.sensors.records import FLOW_COLUMNS, RecordParser
from deepidea.flows.sensors.suricata import EveParser
from deepidea.flows.sensors.zeek import ZeekParser
from tests.flows.sensor_lines import eve_dns, eve_flow, zeek_header, zeek_json, zeek_row

KINDS = {
    "zeek": (ZeekParser, zeek_header() + b"".join(zeek_row(n) for n in range(8))),
    "zeek-json": (ZeekParser, b"".join(zeek_json(n) for n in range(8))),
    "eve": (EveParser, b"".join(eve_flow(n) + eve_dns(n) for n in range(5))),
}


def records(block: bytes, *, comments: bool) -> int:
    lines = [line for line in block.replace(b"\r\n", b"\n").split(b"\n") if line.strip()]
    return sum(not (comments and line.lstrip().startswith(b"#")) for line in lines)


def check(parser: RecordParser, block: bytes) -> None:
    parsed = parser.parse(block)
    assert parsed.records == records(block, comments=isinstance(parser, ZeekParser))
    assert dict(parsed.flows.schema) == FLOW_COLUMNS
    assert (
        parsed.flows.select("start", "end", "src_ip", "dst_ip", "protocol", "duration_s")
        .null_count()
        .sum_horizontal()
        .item()
        == 0
    )
    assert set(parsed.flows["state"]) <= {*STATES, None} or isinstance(parser, ZeekParser)


def mutated(block: bytes, seed: int) -> bytes:
    """Return a block with some of its bytes changed, taken out, doubled or moved."""
    rng, data = random.Random(seed), bytearray(block)
    for _ in range(rng.randint(1, 12)):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        piece = rng.choice(
            [b"", b"\n", b"\t", b"-", b'"', b"{", b"\\", b"\xff", b"\0", b"null", b"1e999", rng.randbytes(3)]
        )
        kind = rng.randrange(3)
        if kind == 0:
            data[at : at + rng.randrange(4)] = piece
        elif kind == 1:
            del data[at : min(end, at + 40)]
        else:
            data[at:at] = data[at : min(end, at + 300)]
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(block=st.binary(max_size=400))
def test_random_bytes(kind: str, block: bytes) -> None:
    make, real = KINDS[kind]
    check(make(), block)
    check(make(), real + block + b"\n" + real)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150)
@given(seed=st.integers(0, 1 << 32))
def test_real_lines_gone_wrong(kind: str, seed: int) -> None:
    make, real = KINDS[kind]
    check(make(), mutated(real, seed))
