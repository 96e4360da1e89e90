"""The words of ``state`` and ``service``, which every sensor's flows use."""

from __future__ import annotations

import itertools

import polars as pl
import pytest

from deepidea.flows.conn import SERVICES, STATES, conn_state, service_name, service_names

FLAGS = {"": 0, "S": 0x02, "SA": 0x12, "SAF": 0x13, "SF": 0x03, "SR": 0x06, "SAR": 0x16, "RA": 0x14, "A": 0x10}


def state_of(protocol: str, fwd: int | None, bwd: int | None, fwd_packets: int = 1, bwd_packets: int = 1) -> str:
    row = pl.DataFrame({"p": [protocol], "f": [fwd], "b": [bwd], "n": [fwd_packets], "m": [bwd_packets]})
    return str(row.cast({"f": pl.Int64, "b": pl.Int64}).select(conn_state(*map(pl.col, "pfbnm"))).item())


@pytest.mark.parametrize(
    ("fwd", "bwd", "state"),
    [
        ("S", "", "S0"),
        ("S", "RA", "REJ"),
        ("SA", "SA", "S1"),
        ("SAF", "SAF", "SF"),
        ("SAF", "SA", "S2"),
        ("SA", "SAF", "S3"),
        ("SAR", "SA", "RSTO"),
        ("SA", "SAR", "RSTR"),
        ("SR", "", "RSTOS0"),
        ("SF", "", "SH"),
        ("", "SAR", "RSTRH"),
        ("", "SAF", "SHR"),
        ("A", "A", "OTH"),
    ],
)
def test_flags_come_to_the_state_that_zeek_gives(fwd: str, bwd: str, state: str) -> None:
    assert state_of("tcp", FLAGS[fwd], FLAGS[bwd]) == state


def test_every_pair_of_flags_has_a_state_and_every_state_a_pair() -> None:
    pairs = list(itertools.product(range(0x20), repeat=2))
    table = pl.DataFrame(pairs, schema=["f", "b"], orient="row").with_columns(p=pl.lit("tcp"), n=1)
    states = table.select(s=conn_state(*map(pl.col, "pfbnn")))["s"]
    assert set(states) == set(STATES)


def test_what_has_no_flags_has_a_state_too() -> None:
    assert [state_of("udp", None, None, *packets) for packets in ((1, 1), (1, 0), (0, 1), (0, 0))] == [
        "SF",
        "S0",
        "SHR",
        "OTH",
    ]
    assert state_of("icmp", None, None) == "OTH"
    assert state_of("tcp", None, None) == "OTH"


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("TLS", "ssl"),
        ("ssl,quic", "quic"),
        ("smb,gssapi,ntlm", "smb"),
        ("-ssl,http", "http"),
        ("ssl", "ssl"),
        ("failed", None),
        ("-", None),
        ("", None),
        (None, None),
        ("modbus", "modbus"),
    ],
)
def test_services_have_one_name(raw: str | None, name: str | None) -> None:
    assert service_name(raw) == name
    assert service_names(pl.Series([raw, "dns"], dtype=pl.String)).to_list() == [name, "dns"]


def test_a_name_once_given_stays() -> None:
    assert all(service_name(name) == name for name in SERVICES.values())
