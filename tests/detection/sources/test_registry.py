"""What every source of files must keep to, and which source an address is of."""

from __future__ import annotations

import gzip
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from deepidea.detection.sources.lines import StdinSource, UnixSource
from deepidea.detection.sources.partitions import PartitionedSource
from deepidea.detection.sources.registry import PCAP_MARKS, SOURCES, open_source, source_of
from deepidea.detection.sources.source import FlowBatch, Position, RememberingSource, Source
from deepidea.detection.sources.tables import TableSource
from deepidea.errors import DataError, SourceError
from deepidea.flows.identity import IDENTITY
from deepidea.flows.schema import get_schema
from deepidea.flows.simulate import simulate_flows
from tests.detection.sources.remembering import memory_of
from tests.flows.sensor_lines import eve_dns, eve_flow, zeek_header, zeek_json, zeek_row

N = 30


def zeek_text(folder: Path) -> Path:
    again = b"#close\n" + zeek_header(fields=["ts", "id.orig_h", "id.resp_h", "proto"])
    rows = b"".join(map(zeek_row, range(20))) + b"broken\n" + again
    rows += b"".join(zeek_row(n, fields=["ts", "id.orig_h", "id.resp_h", "proto"]) for n in range(20, N))
    (folder / "conn.log").write_bytes(zeek_header() + rows)
    return folder / "conn.log"


def zeek_lines(folder: Path) -> Path:
    (folder / "conn.log.gz").write_bytes(gzip.compress(b"".join(map(zeek_json, range(N))) + b"{\n"))
    return folder / "conn.log.gz"


def zeek_folder(folder: Path) -> Path:
    for day in range(3):
        (folder / "logs" / f"2026-01-0{day}").mkdir(parents=True)
        rows = b"".join(map(zeek_row, range(10 * day, 10 * day + 10)))
        (folder / "logs" / f"2026-01-0{day}" / "conn.log.gz").write_bytes(
            gzip.compress(zeek_header() + rows + b"#\nx\n")
        )
    (folder / "logs" / "dns.log").write_bytes(zeek_header(path="dns") + zeek_row(1))
    return folder / "logs"


def eve_file(folder: Path) -> Path:
    (folder / "eve.json").write_bytes(b"".join(eve_flow(n) + eve_dns(n) for n in range(N)) + b"{}\n")
    return folder / "eve.json"


def csv_table(folder: Path) -> Path:
    simulate_flows(n_flows=N).write_csv(folder / "flows.csv")
    with (folder / "flows.csv").open("a") as file:
        file.write("1,2\n")
    return folder / "flows.csv"


def parquet_folder(folder: Path) -> Path:
    (folder / "tables").mkdir()
    for part in range(3):
        flows = simulate_flows(n_flows=10, seed=part).with_columns(pl.col("fwd_bytes").cast(pl.String))
        flows = pl.concat([flows, flows[:1].with_columns(fwd_bytes=pl.lit("many"))]) if part == 1 else flows
        flows.write_parquet(folder / "tables" / f"{part}.parquet")
    return folder / "tables"


FILES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "zeek text": ("zeek", zeek_text),
    "zeek json gz": ("zeek", zeek_lines),
    "zeek folder": ("zeek", zeek_folder),
    "eve": ("eve", eve_file),
    "csv": ("table", csv_table),
    "parquet folder": ("table", parquet_folder),
}
SKIPPED = {"zeek folder": 3}  # records that break a rule; one in the others


@pytest.fixture(params=FILES)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Return the case and its address."""
    return request.param, str(FILES[request.param][1](tmp_path))


def batches(
    address: str, after: Position | None = None, seen: Sequence[FlowBatch] = (), **options: object
) -> list[FlowBatch]:
    """All batches behind a position, or behind those that were seen."""
    source = open_source(address, **options)
    if seen and isinstance(source, RememberingSource):
        source.restore(memory_of(seen))
    return list(source.batches(after, threading.Event()))


def joined(parts: list[FlowBatch]) -> pl.DataFrame:
    return pl.concat([part.flows for part in parts])


def counted(parts: list[FlowBatch]) -> tuple[Counter[str], Counter[str]]:
    skipped, others = Counter[str](), Counter[str]()
    for part in parts:
        skipped.update(part.skipped)
        others.update(part.not_flows)
    return skipped, others


# --- contract --------------------------------------------------------------------------------------------------------


def test_every_flow_has_its_identity_and_the_features_of_its_schema(address: tuple[str, str]) -> None:
    case, where = address
    source = open_source(where)
    assert (source_of(where).name, source.name) == (FILES[case][0], where)
    assert (source.schema, source.replayable) == (source_of(where).schema, source_of(where).replayable)
    flows = joined(batches(where))
    assert flows.height == N
    assert {name: flows.schema[name] for name in IDENTITY} == IDENTITY
    schema = get_schema("conn").restrict(flows.columns)
    assert schema.conform(flows.drop("community_id")).height == N


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_the_size_of_batches_changes_nothing(address: tuple[str, str], size: int) -> None:
    whole, parts = batches(address[1]), batches(address[1], batch_flows=size)
    assert max(part.flows.height for part in parts) <= size
    assert_frame_equal(joined(parts), joined(whole))
    assert counted(parts) == counted(whole)
    assert counted(parts)[0].total() == SKIPPED.get(address[0], 1)


def test_from_every_position_exactly_the_rest_comes(address: tuple[str, str]) -> None:
    parts = batches(address[1], batch_flows=4)
    for n, part in enumerate(parts):
        rest = batches(address[1], json.loads(json.dumps(part.position)), parts[: n + 1], batch_flows=3)
        if sum(other.flows.height for other in parts[n + 1 :]):
            assert_frame_equal(joined(rest), joined(parts[n + 1 :]))
        else:
            assert not sum(other.flows.height for other in rest)
        if "table" not in FILES[address[0]][0]:
            assert counted(rest) == counted(parts[n + 1 :])


def test_stop_ends_it(address: tuple[str, str]) -> None:
    for follow in {False, source_of(address[1]).waits}:
        stop, seen = threading.Event(), 0
        for batch in open_source(address[1], follow=follow, batch_flows=2).batches(None, stop):
            stop.set()
            seen += batch.flows.height
        assert seen <= 2


def test_no_position_of_another_source_is_taken(address: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="elsewhere"):
        batches(address[1], {"elsewhere": 1})


@pytest.mark.parametrize("case", ["zeek text", "zeek folder", "eve"])
def test_a_source_that_waits_gives_what_comes_later(case: str, tmp_path: Path) -> None:
    where = FILES[case][1](tmp_path)
    more = (eve_flow if case == "eve" else zeek_json)(500)
    stop, seen = threading.Event(), 0
    for batch in open_source(str(where), follow=True).batches(None, stop):
        seen += batch.flows.height
        if seen == N and not batch.flows.height:
            with (where / "new.log" if where.is_dir() else where).open("ab") as log:
                log.write(more)
        elif seen > N:
            stop.set()
    assert seen == N + 1


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_every_entry_loads_its_class(name: str) -> None:
    info = SOURCES[name]
    pytest.importorskip("redis") if name == "redis" else None
    made = info.load()
    reads = "batches_of_partitions" if getattr(made, "is_partitioned", False) else "batches"
    assert all(hasattr(made, attribute) for attribute in (reads, "schema" if info.schema != "any" else reads))


def test_every_source_is_on_its_page() -> None:
    page = (Path(__file__).parents[3] / "docs" / "sources.md").read_text()
    assert all(f"`{info.name}`" in page for info in SOURCES.values())
    assert all(f"`{info.example}`" in page or info.name == "unix" for info in SOURCES.values())


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("-", "stdin"),
        ("unix:///run/x.sock", "unix"),
        ("redis://:secret@localhost:6379/0?list=suricata", "redis"),
        ("rediss://localhost?stream=eve", "redis"),
        ("redis://localhost/0?stream=flows&partitions=8&group=site", "redis-group"),
        ("kafka://localhost:9092,other:9092/flows?group=site", "kafka"),
        ("kafkas://localhost:9093/flows?group=site", "kafka"),
        ("netflow://0.0.0.0:2055", "netflow"),
        ("zeek:any.txt", "zeek"),
        ("lo", "interface"),
    ],
)
def test_addresses_are_recognised_by_how_they_begin(address: str, name: str) -> None:
    assert source_of(address).name == name


def test_captures_are_recognised_by_content(tmp_path: Path) -> None:
    for n, mark in enumerate((b"\xd4\xc3\xb2\xa1", b"\x0a\x0d\x0d\x0a")):
        (tmp_path / f"{n}.bin").write_bytes(mark + bytes(20))
        assert source_of(str(tmp_path / f"{n}.bin")).name == "pcap"


def test_a_log_that_is_not_there_yet_is_recognised_by_name(tmp_path: Path) -> None:
    assert source_of(str(tmp_path / "conn.log"), follow=True).name == "zeek"
    assert source_of(str(tmp_path / "eve.json"), follow=True).name == "eve"
    with pytest.raises(DataError, match="there is no file"):
        source_of(str(tmp_path / "conn.log"))


@pytest.mark.parametrize(
    ("address", "fact"),
    [
        ("con.log", r"there is no file, folder or interface '.*con.log'; nearest: .*conn.log"),
        ("notes.txt", "is neither a table, a conn.log, EVE nor a capture"),
        ("empty", "folder .*/empty' holds no flows"),
    ],
)
def test_what_is_of_no_kind_is_reported_with_what_comes_near(tmp_path: Path, address: str, fact: str) -> None:
    zeek_text(tmp_path)
    (tmp_path / "notes.txt").write_text("hello\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=fact):
        source_of(str(tmp_path / address))


def test_an_unknown_url_names_those_near_it() -> None:
    with pytest.raises(DataError, match=r"'netfow' .*; nearest: netflow://:2055"):
        source_of("netfow://:2055")


def test_what_a_source_cannot_do_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot follow .*flows.csv: it is a table"):
        open_source(str(csv_table(tmp_path)), follow=True)
    with pytest.raises(ValueError, match=r"conn.log, Zeek's conn.log: .*speed"):
        open_source(str(zeek_text(tmp_path)), speed=3)


@pytest.mark.data
def test_real_files_are_recognised_by_content(data_root: Path) -> None:
    real = {"zeek/mixed": "zeek", "zeek/port-scan-vertical/conn.log": "zeek", "zeek/labeled/conn.log.labeled": "zeek"}
    real |= {"suricata/eve.json": "eve", "cicids17-improved": "table", "pcap": "pcap"}
    assert {name: source_of(str(data_root / name)).name for name in real} == real
    assert joined(batches(str(data_root / "zeek" / "mixed"))).height == 141


SHARED = ("redis://me:secret@127.0.0.1:1/0?stream=flows&group=site", "kafka://me:secret@127.0.0.1:1/flows?group=site")


@pytest.mark.parametrize("address", SHARED)
def test_a_shared_source_can_be_gone_on_with_and_shows_no_password(address: str) -> None:
    source, info = open_source(address), source_of(address)
    assert isinstance(source, PartitionedSource)
    assert (source.schema, source.replayable) == (info.schema, info.replayable) == ("conn", True)
    assert "secret" not in source.name
    assert open_source(f"{address}&session_s=3").name == source.name


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "start"),
    [
        ("2017-07-06 12:00:43.270053", "2017-07-06T12:00:43.270053+00:00"),
        ("14/02/2018 10:44:50", "2018-02-14T10:44:50+00:00"),
        ("7/7/2017 3:30", "2017-07-07T03:30:00+00:00"),
        ("1700000000.25", "2023-11-14T22:13:20.250000+00:00"),
        ("some day", None),
    ],
)
def test_times_of_tables_are_read(tmp_path: Path, told: str, start: str | None) -> None:
    table = simulate_flows(n_flows=3).with_columns(timestamp=pl.lit(told), src_ip=pl.lit("10.0.0.1"))
    table.write_csv(tmp_path / "flows.csv")
    flows = joined(batches(str(tmp_path / "flows.csv")))
    assert [time and time.isoformat() for time in flows["start"]] == [start] * 3
    assert flows["src_ip"].to_list() == ["10.0.0.1"] * 3
    lengths = (flows["end"] - flows["start"]).dt.total_microseconds()
    assert start is None or lengths.to_list() == (flows["duration_s"] * 1e6).round().to_list()


def test_a_table_of_no_registered_schema_needs_to_be_given_its_own(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"no registered schema .*conn"):
        batches(str(tmp_path / "own.csv"))
    assert TableSource(tmp_path / "own.csv", schema="conn").schema == "conn"


# --- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [zeek_header() + zeek_row(1), zeek_json(1), eve_flow(1)])
def test_the_standard_input_tells_itself_whose_records_it_holds(lines: bytes) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as stream, open(writing, "wb") as feed:
        feed.write(lines + lines.splitlines(keepends=True)[-1].rstrip(b"\n"))
        feed.close()
        parts = list(StdinSource(stream=stream).batches(None, threading.Event()))
    assert joined(parts).height == 2
    assert {part.position for part in parts} == {None}


def test_the_standard_input_is_handed_over_as_it_comes_and_can_be_stopped() -> None:
    reading, writing = os.pipe()
    stop, seen = threading.Event(), 0
    with open(reading, "rb") as stream, open(writing, "wb", buffering=0) as feed:
        for batch in StdinSource(stream=stream).batches(None, stop):
            seen += batch.flows.height
            if seen < 3:
                feed.write(eve_flow(seen))
            elif not batch.flows.height:
                stop.set()
                feed.write(b"half a li")
    assert seen == 3


@pytest.mark.parametrize(
    ("data", "fact"), [(b"a,b\n1,2\n", "neither"), *((mark + bytes(2000) + b"\n", "pcap:-") for mark in PCAP_MARKS)]
)
def test_the_standard_input_refuses_what_is_neither(data: bytes, fact: str) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as stream, open(writing, "wb") as feed:
        feed.write(data)
        feed.close()
        with pytest.raises(DataError, match=f"the standard input is .*{fact}"):
            list(StdinSource(stream=stream).batches(None, threading.Event()))


def test_suricata_may_come_and_go_at_a_socket(tmp_path: Path) -> None:
    source, stop, seen, n = UnixSource(f"unix://{tmp_path}/eve.sock"), threading.Event(), Counter[str](), 0
    for batch in source.batches(None, stop):
        seen["flows"] += batch.flows.height
        seen.update(batch.skipped)
        seen.update(batch.not_flows)
        if n < 3:
            with socket.socket(socket.AF_UNIX) as suricata:
                suricata.connect(str(source.path))
                suricata.sendall(eve_flow(n) + eve_dns(n) + eve_flow(n + 1) + b'{"half')
            n += 1
        elif seen["flows"] == 6:
            stop.set()
    assert seen == {"flows": 6, "dns": 3, "not JSON": 3}
    assert not source.path.exists()


def test_a_socket_is_taken_over_from_the_dead_alone(tmp_path: Path) -> None:
    source, stop = UnixSource(f"unix://{tmp_path}/eve.sock"), threading.Event()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(source.path))
    for _ in source.batches(None, stop):
        with pytest.raises(SourceError, match=r"eve.sock: another process"):
            next(UnixSource(source.name).batches(None, stop))
        stop.set()
    source.path.write_text("a file")
    with pytest.raises(SourceError, match="it exists and is no socket"):
        next(source.batches(None, threading.Event()))
    with pytest.raises(SourceError, match="No such file"):
        next(UnixSource(f"unix://{tmp_path}/none/eve.sock").batches(None, threading.Event()))


def test_live_sources_say_that_they_are_there(tmp_path: Path) -> None:
    sources: list[Source] = [UnixSource(f"unix://{tmp_path}/eve.sock")]
    for source in sources:
        stop = threading.Event()
        for n, batch in enumerate(source.batches(None, stop)):
            assert batch.flows.is_empty()
            if n == 3:
                stop.set()
