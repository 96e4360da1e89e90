"""What follows a scan or password guessing."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest

from deepidea.detection.behaviour.findings import BehaviourDetector

START = datetime(2026, 5, 4, 12, tzinfo=UTC)
SCANNER, SERVER = "203.0.113.7", "10.0.0.9"


def flows(*rows: dict[str, object]) -> pl.DataFrame:
    """Return flows of one second each, refused ones unless bytes are given."""
    plain = {"src_port": 40_000, "protocol": "tcp", "state": "REJ", "fwd_packets": 1, "bwd_packets": 1}
    plain |= {"fwd_bytes": 44, "bwd_bytes": 40, "lasted_s": 0.0}
    table = pl.DataFrame([{**plain, **row} for row in rows])
    start = pl.lit(START).cast(pl.Datetime("us", "UTC")) + pl.duration(
        microseconds=(pl.col("at_s") * 1e6).cast(pl.Int64)
    )
    lasted = pl.duration(microseconds=(pl.col("lasted_s") * 1e6).cast(pl.Int64))
    return table.with_columns(start=start, end=start + lasted, duration_s=pl.col("lasted_s"))


def scan(at_s: float = 0.0) -> list[dict[str, object]]:
    return [{"at_s": at_s + port / 100, "src_ip": SCANNER, "dst_ip": SERVER, "dst_port": port} for port in range(1, 30)]


def contact(at_s: float, host: str = SCANNER) -> dict[str, object]:
    sizes = {"state": "SF", "fwd_packets": 6, "bwd_packets": 6, "fwd_bytes": 900, "bwd_bytes": 4000}
    return {"at_s": at_s, "src_ip": SERVER, "dst_ip": host, "dst_port": 4444, **sizes}


def found(table: pl.DataFrame, *, rows: int | None = None) -> list[str]:
    finder = BehaviourDetector(max_keys=256)
    step = rows or table.height
    return [name for at in range(0, table.height, step) for name in finder.find(table[at : at + step])["behaviour"]]


def test_a_target_that_contacts_its_scanner_is_found():
    table = flows(*scan(), contact(60.0))
    raised = (
        BehaviourDetector(max_keys=256)
        .find(table)
        .filter(pl.col("behaviour") == "contact_after_scan")
        .row(0, named=True)
    )
    assert (raised["row"], raised["role"], raised["class"]) == (29, "source", "infiltration")
    assert raised["severity"] <= 2


@pytest.mark.parametrize("rows", [1, 7, 29])
def test_tables_may_be_cut_anywhere(rows):
    table = flows(*scan(), contact(60.0), *scan(120.0))
    assert sorted(found(table, rows=rows)) == sorted(found(table))


@pytest.mark.parametrize(
    "table",
    [flows(contact(0.0), *scan(10.0)), flows(*scan(), contact(60.0, "203.0.113.8")), flows(*scan(), contact(4000.0))],
    ids=["before", "another host", "an hour later"],
)
def test_other_contacts_are_not(table):
    assert "contact_after_scan" not in found(table)


def test_what_was_found_scanning_is_known_after_a_restart():
    finder = BehaviourDetector(max_keys=256)
    finder.find(flows(*scan()))
    saved = finder.save()
    assert saved is not None
    again = finder.restored([saved[0]])
    assert again.find(flows(contact(60.0)))["behaviour"].to_list() == ["contact_after_scan"]


def login(at_s: float, port: int, **more: object) -> dict[str, object]:
    sizes = {"state": "SF", "fwd_packets": 12, "bwd_packets": 12, "fwd_bytes": 2400, "bwd_bytes": 2900}
    return {"at_s": at_s, "src_ip": SCANNER, "src_port": port, "dst_ip": SERVER, "dst_port": 22, **sizes, **more}


def test_a_login_after_guessing_is_found_and_urgent():
    guesses = [login(2.0 * n, 40_000 + n, lasted_s=1.5) for n in range(20)]
    session = login(60.0, 50_000, lasted_s=300.0, fwd_packets=200, bwd_packets=200, fwd_bytes=30_000, bwd_bytes=90_000)
    raised = BehaviourDetector(max_keys=256).find(flows(*guesses, session))
    assert raised.filter(pl.col("behaviour") == "password_guessing")["severity"].unique().to_list() == [4]
    assert raised.filter(pl.col("behaviour") == "login_after_guessing")["severity"].to_list() == [2]
    assert "login_after_guessing" not in found(flows(session))
