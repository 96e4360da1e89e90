"""A detection that is interrupted and started again stores what one that was never disturbed stores.

Every kind of file source, with and without host context, by every way in which it may be interrupted and its files may
change meanwhile. Redis and Kafka are in tests/adapters.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from deepidea.detection.alerting import Thresholds
from deepidea.detection.behaviour.findings import BehaviourDetector
from deepidea.detection.engine import Engine, Progress
from deepidea.detection.runner import open_source_for
from deepidea.flows.context import add_context
from deepidea.flows.schema import get_schema
from deepidea.flows.sensors.projection import to_conn
from deepidea.model.detector import Detector
from deepidea.model.estimators import DeepIDEAClassifier
from deepidea.packets.meter import meter_capture
from tests.detection.servers import eventually
from tests.flows.sensor_lines import eve_flow, zeek_record
from tests.packets.forging import A, conversation, pcap, udp
from tests.stores import Store, open_store

N = 240  # records of a source in all
ALERT_ABOVE = Thresholds({"score": 0.0}, 0.01, 100, "test")  # every flow is an alert, with its score


# --- what is read: N records in parts, and files that hold them -------------------------------------------------------


def _is_scan(n: int) -> bool:
    """Every third record is an attempt of a scan that goes on from the first record to the last."""
    return n % 3 == 1


SCAN = {"src": "10.0.0.66", "dst": "10.1.0.99"}


def _frames() -> list[tuple[float, bytes]]:
    """Packets of flows that overlap: each lasts 21 s, and none is answered."""
    ends = [(SCAN["src"], SCAN["dst"], n) if _is_scan(n) else (A, f"10.0.1.{n % 5}", 53 + n % 7) for n in range(N)]
    made = [
        (1000.0 + n + gap, udp(src, 2000 + n, dst, port, b"q" * (1 + n % 50)))
        for n, (src, dst, port) in enumerate(ends)
        for gap in (0.0, 8.0, 21.0)
    ]
    return sorted([*made, *conversation(start=1100.0), (1150.5, bytes(60))], key=lambda one: one[0])


FRAMES = _frames()


def capture(first: int, last: int) -> bytes:
    return pcap(FRAMES[len(FRAMES) * first // N : len(FRAMES) * last // N])


def zeek(first: int, last: int) -> bytes:
    attempt = {
        "id.orig_h": SCAN["src"],
        "id.resp_h": SCAN["dst"],
        "conn_state": "S0",
        "resp_pkts": 0,
        "resp_ip_bytes": 0,
    }
    records = (
        zeek_record(n) | ({**attempt, "id.resp_p": n, "orig_pkts": 1} if _is_scan(n) else {})
        for n in range(first, last)
    )
    return b"".join(json.dumps(record).encode() + b"\n" for record in records) + b"broken record\n"


def _eve_record(n: int) -> bytes:
    event = json.loads(eve_flow(n))
    if _is_scan(n):
        event |= {"src_ip": SCAN["src"], "dest_ip": SCAN["dst"], "dest_port": n}
        event["flow"] |= {"pkts_toserver": 1, "pkts_toclient": 0, "bytes_toclient": 0}
    return json.dumps(event).encode() + b"\n"


def eve(first: int, last: int) -> bytes:
    return b"".join(_eve_record(n) for n in range(first, last)) + b"broken record\n"


def table(first: int, last: int, *, header: bool = True) -> bytes:
    rows = [
        f"2026-01-01 00:{n // 60:02}:{n % 60:02},"
        + (f"{SCAN['src']},{2000 + n},{SCAN['dst']},{n},udp,0.5,1,0,40,0" if _is_scan(n) else
           f"10.0.{n % 9}.1,{2000 + n},10.1.0.{n % 5},{n % 90},udp,0.5,{n % 4},1,40,40")
        for n in range(first, last)
    ]  # fmt: skip
    names = "start,src_ip,src_port,dst_ip,dst_port,protocol,duration_s,fwd_packets,bwd_packets,fwd_bytes,bwd_bytes"
    bad = rows[-1].replace(",udp,0.5,", ",udp,fast,")
    return "\n".join([*([names] if header else []), *rows, bad, ""]).encode()


@dataclass(frozen=True)
class Kind:
    """How parts of a source are written."""

    data: Callable[[int, int], bytes]
    name: str
    schema: str
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path, first: int, last: int) -> Path:
        """Write records into a file of their own."""
        path.write_bytes(self.data(first, last))
        return path


KINDS = {
    "zeek": Kind(zeek, "conn.log", "conn", {"batch_flows": 20}),
    "eve": Kind(eve, "eve.json", "conn", {"batch_flows": 20}),
    "table": Kind(table, "flows.csv", "conn", {"batch_flows": 20}),
    "capture": Kind(capture, "lab.pcap", "cicflow", {"flow_timeout_s": 10.0}),
}


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Detector]:
    """A detector of each schema, trained a little on flows like those of the sources."""
    path = tmp_path_factory.mktemp("train") / "train.pcap"
    path.write_bytes(capture(0, N))
    metered = pl.concat(meter_capture(path))
    made = {}
    for name in ("conn", "conn+context", "cicflow", "cicflow+context"):
        flows = to_conn(metered) if name.startswith("conn") else metered
        flows = add_context(flows) if name.endswith("context") else flows
        columns = [column.name for column in get_schema(name).columns if column.name in flows.columns]
        schema = get_schema(name).restrict([column for column in columns if flows[column].null_count() == 0])
        classes = np.where(flows["dst_port"].fill_null(0).to_numpy() % 3 == 0, "attack", "benign")
        options = {"schema": schema, "n_epochs": 2, "min_steps": 20, "random_state": 0}
        made[name] = DeepIDEAClassifier(**options).fit(schema.conform(flows), classes).to_detector()
    return made


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks and batches of a small capture."""
    monkeypatch.setattr("deepidea.packets.capture.BLOCK_BYTES", 4_000)
    monkeypatch.setattr("deepidea.detection.sources.packets.BATCH_FLOWS", 20)


# --- running and comparing -------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a run as if the process had been killed: nothing is tidied up."""


@dataclass
class Site:
    """A store, a detector and a source that is read by one run after another."""

    store: Store
    detector: Detector
    kind: Kind
    context: bool
    log: pytest.LogCaptureFixture

    def run(
        self, where: Path, *, stop_at: int | None = None, kill_at: int | None = None, follow: bool = False
    ) -> Progress:
        """Detect until the end, or stop or die once so many flows were stored in this run."""
        stop = threading.Event()

        def watch(at: Progress) -> None:
            if kill_at is not None and at.n_flows >= kill_at:
                raise Killed
            if stop_at is not None and at.n_flows >= stop_at:
                stop.set()

        source = open_source_for(self.detector, str(where), follow=follow, **self.kind.options)
        engine = Engine(
            source, self.detector, self.store, thresholds=ALERT_ABOVE, on_batch=watch, behaviours=BehaviourDetector
        )
        try:
            return engine.run(stop)
        except Killed:
            return engine.progress

    @property
    def notices(self) -> list[str]:
        """Warnings of all runs."""
        return [record.getMessage() for record in self.log.records if record.name == "deepidea.detection"]

    def contents(self) -> dict[str, Any]:
        """What was stored of all runs: flows, alerts with their scores, findings with their evidence, losses."""
        counters = self.store.counters()
        alerts = self.store.alerts(limit=10_000, suppressed=None).rows.sort("alert_id")
        return {
            "flows": sum(one.n_flows for one in counters),
            "alerts": alerts.filter(pl.col("behaviour").is_null()).select("alert_id", "class", "score").rows(),
            "findings": alerts.drop_nulls("behaviour").select("alert_id", "behaviour", "score", "finding").rows(),
            "skipped": sum((Counter(one.skipped) for one in counters), Counter()),
            "dropped": sum((Counter(one.dropped) for one in counters), Counter()),
            "duplicates": sum(one.n_duplicates for one in counters),
        }


@pytest.fixture(params=[False, True], ids=["no context", "context"])
def context(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def make_site(
    tmp_path: Path, detectors: dict[str, Detector], context: bool, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[[str], Site]]:
    opened: list[Store] = []

    def make(kind: str) -> Site:
        store = open_store(f"sqlite:///{tmp_path}/{len(opened)}.db")
        opened.append(store)
        schema = KINDS[kind].schema + ("+context" if context else "")
        return Site(store, detectors[schema], KINDS[kind], context, caplog)

    yield make
    for store in opened:
        store.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kind of source; flows under way of a capture are saved with every batch, or only where they must be."""
    name, _, often = str(request.param).partition(", ")
    monkeypatch.setattr("deepidea.detection.sources.packets._SAVE_EVERY_S", 0.0 if often else 60.0)
    return name


def whole(site: Site, tmp_path: Path, *parts: tuple[int, int]) -> dict[str, Any]:
    """What one undisturbed run stores of parts in files of their own, or of one in a file."""
    where = tmp_path / "undisturbed"
    where.mkdir()
    paths = [site.kind.write(where / f"{n}-{site.kind.name}", *part) for n, part in enumerate(parts)]
    site.run(where if len(parts) > 1 else paths[0])
    contents = site.contents()
    assert contents["flows"] > 0
    assert contents["alerts"]
    assert len(contents["findings"]) > 5  # on either side of every restart
    return contents


@pytest.mark.parametrize("kind", [*KINDS, "capture, saved often"], indirect=True)
def test_restarts_and_kills_change_nothing(kind: str, make_site: Callable[[str], Site], tmp_path: Path) -> None:
    site, path = make_site(kind), tmp_path / KINDS[kind].name
    KINDS[kind].write(path, 0, N)
    site.run(path, stop_at=30)
    site.run(path, kill_at=45)
    site.run(path, kill_at=1)
    for _ in range(3):  # the last ones find nothing new
        site.run(path)
    assert site.contents() == whole(make_site(kind), tmp_path, (0, N))
    assert not site.notices


@pytest.mark.parametrize("kind", [*KINDS, "capture, saved often"], indirect=True)
@pytest.mark.parametrize("before", ["all", "some"])
def test_a_rotated_file_is_read_to_its_end_and_then_the_new_one(
    kind: str, before: str, make_site: Callable[[str], Site], tmp_path: Path
) -> None:
    """Of captures and tables this is so in a folder; a log is followed under its own name."""
    site, name = make_site(kind), KINDS[kind].name
    folder = tmp_path / "logs"
    folder.mkdir()
    where = folder / name if "batch_flows" in KINDS[kind].options and kind != "table" else folder
    KINDS[kind].write(folder / name, 0, N // 2)
    site.run(where, stop_at=None if before == "all" else 30)
    (folder / name).rename(folder / f"{name}.1" if where != folder else folder / f"0-{name}")
    KINDS[kind].write(folder / name, N // 2, N)
    site.run(where)
    if before == "some" or kind not in ("capture",):  # at the end of a capture, flows under way end with it
        assert site.contents() == whole(make_site(kind), tmp_path, (0, N // 2), (N // 2, N))
    assert not site.notices


def test_a_file_that_was_replaced_is_read_as_new(kind: str, make_site: Callable[[str], Site], tmp_path: Path) -> None:
    site, path = make_site(kind), tmp_path / KINDS[kind].name
    KINDS[kind].write(path, 0, N // 2)
    site.run(path)
    first = site.contents()
    KINDS[kind].write(path, N // 2, N)
    site.run(path)
    both = site.contents()
    alone = make_site(kind)
    alone.run(path)
    assert both["flows"] == first["flows"] + alone.contents()["flows"]
    assert both["skipped"] == first["skipped"] + alone.contents()["skipped"]


@pytest.mark.parametrize("kind", [*KINDS, "capture, saved often"], indirect=True)
def test_the_oldest_file_of_a_folder_may_go(kind: str, make_site: Callable[[str], Site], tmp_path: Path) -> None:
    """As tcpdump -W and logrotate do: files are deleted and written anew under names that were used before."""
    site, folder = make_site(kind), tmp_path / "ring"
    folder.mkdir()
    name = KINDS[kind].name
    parts = [(0, 80), (80, 160), (160, N)]
    for n, part in enumerate(parts[:2]):
        KINDS[kind].write(folder / f"{n}-{name}", *part)
    per_record = 2 if kind == "capture" else 1
    site.run(folder, kill_at=70 * per_record)
    site.run(folder, kill_at=35 * per_record)
    assert 80 * per_record < site.contents()["flows"] < 160 * per_record  # the second file is being read
    (folder / f"0-{name}").unlink()
    KINDS[kind].write(folder / f"0-{name}", *parts[2])
    site.run(folder)
    site.run(folder)
    assert site.contents() == whole(make_site(kind), tmp_path, *parts)
    assert not site.notices


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_capture_that_grows_goes_on_with_the_flows_under_way(
    suffix: str, make_site: Callable[[str], Site], tmp_path: Path
) -> None:
    """Stopped while it is followed, nothing is cut: flows under way go on; packed meanwhile, it is the same capture."""
    site, path = make_site("capture"), tmp_path / "grows.pcap"
    data = capture(0, N)
    path.write_bytes(data[: len(data) // 3])
    site.run(path, stop_at=1, follow=True)
    path.write_bytes(data[: len(data) // 2])
    site.run(path, kill_at=1, follow=True)
    path.write_bytes(data)
    if suffix:
        path = tmp_path / "grows.pcap"
        path.write_bytes(gzip.compress(data))
    site.run(path)
    assert site.contents() == whole(make_site("capture"), tmp_path, (0, N))
    assert not site.notices


def test_a_clock_that_went_back_is_no_restart(kind: str, make_site: Callable[[str], Site], tmp_path: Path) -> None:
    """Later files with earlier times: what is read depends on content, not on times."""
    site, folder = make_site(kind), tmp_path / "back"
    folder.mkdir()
    KINDS[kind].write(folder / f"a-{KINDS[kind].name}", 120, N)
    site.run(folder)
    first = site.contents()["flows"]
    KINDS[kind].write(folder / f"b-{KINDS[kind].name}", 0, 120)
    site.run(folder)
    site.run(folder)
    undisturbed = whole(make_site(kind), tmp_path, (120, N), (0, 120))
    assert site.contents()["flows"] > first
    if kind == "capture":  # the end of the first run ends flows that go on in the second capture
        assert site.contents()["flows"] >= undisturbed["flows"]
    else:
        assert site.contents()["flows"] == undisturbed["flows"]


def test_a_truncated_file_loses_nothing_that_follows(
    kind: str, make_site: Callable[[str], Site], tmp_path: Path
) -> None:
    """As logrotate's copytruncate: cut to nothing, and written on from there."""
    site, path = make_site(kind), tmp_path / KINDS[kind].name
    KINDS[kind].write(path, 0, N // 2)
    site.run(path)
    first = site.contents()["flows"]
    os.truncate(path, 0)
    KINDS[kind].write(path, N // 2, N // 2 + 40)
    site.run(path)
    assert site.contents()["flows"] > first
    alone = make_site(kind)
    alone.run(path)
    assert site.contents()["flows"] == first + alone.contents()["flows"]


def test_two_spellings_of_a_path_are_one_source(kind: str, make_site: Callable[[str], Site], tmp_path: Path) -> None:
    site, path = make_site(kind), tmp_path / KINDS[kind].name
    KINDS[kind].write(path, 0, N)
    site.run(path, stop_at=30)
    link = tmp_path / "link"
    link.symlink_to(tmp_path, target_is_directory=True)
    site.run(Path(os.path.relpath(path)))
    site.run(link / "." / path.name)
    assert [one.name for one in site.store.counters()] == [str(path)]
    assert site.contents() == whole(make_site(kind), tmp_path, (0, N))


def test_state_that_cannot_be_restored_is_reported_and_no_flow_is_lost(
    kind: str, context: bool, make_site: Callable[[str], Site], tmp_path: Path
) -> None:
    import sqlalchemy as sa

    site, path = make_site(kind), tmp_path / KINDS[kind].name
    KINDS[kind].write(path, 0, N)
    site.run(path, stop_at=30)
    with sa.create_engine(site.store.url).begin() as connection:
        connection.execute(
            sa.text("UPDATE source_memory SET data = x'00' WHERE part IN ('behaviours', 'hosts', 'meter')")
        )
    site.run(path)
    undisturbed = whole(make_site(kind), tmp_path, (0, N))
    assert site.contents()["flows"] == undisturbed["flows"]
    assert sorted(notice.partition(" of ")[0] for notice in site.notices) == [
        "cannot restore behaviour windows",
        *(["cannot restore host context"] if context else []),
        *(["cannot restore the flows under way"] if kind == "capture" else []),
    ]


def test_positions_of_an_earlier_release_lose_no_flow(
    kind: str, make_site: Callable[[str], Site], tmp_path: Path
) -> None:
    """Those of captures and tables counted flows and rows of any content; those of logs are the same as today."""
    import sqlalchemy as sa

    site, path = make_site(kind), tmp_path / KINDS[kind].name
    KINDS[kind].write(path, 0, N)
    site.run(path, stop_at=30)
    old = {"capture": {"flows": 40, "skipped": {}, "dropped": {}}, "table": {"file": str(path), "at": 41}}
    with sa.create_engine(site.store.url).begin() as connection:
        connection.execute(sa.text("DELETE FROM source_memory"))
        if kind in old:
            connection.execute(sa.text("UPDATE sources SET position = :p"), {"p": json.dumps(old[kind])})
    site.run(path)
    undisturbed = whole(make_site(kind), tmp_path, (0, N))
    assert site.contents()["flows"] >= undisturbed["flows"]
    assert {row[0] for row in undisturbed["alerts"]} <= {row[0] for row in site.contents()["alerts"]} or site.context
    assert bool(site.notices) == (kind in old or site.context)


@pytest.mark.parametrize("kind", ["table", "capture"], indirect=True)
def test_copies_in_a_folder_are_read_once_and_reported(
    kind: str, make_site: Callable[[str], Site], tmp_path: Path
) -> None:
    site, folder = make_site(kind), tmp_path / "copies"
    folder.mkdir()
    for name in ("a", "b"):
        KINDS[kind].write(folder / f"{name}-{KINDS[kind].name}", 0, N)
    site.run(folder)
    assert site.contents() == whole(make_site(kind), tmp_path, (0, N))
    [notice] = site.notices
    assert notice.startswith(str(folder / f"b-{KINDS[kind].name}"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zeek", "capture"])
@pytest.mark.parametrize("context", [True], indirect=True)
def test_a_process_that_is_killed_goes_on(kind: str, make_site: Callable[[str], Site], tmp_path: Path) -> None:
    """SIGKILL of the real command, at whatever it is doing."""
    site, path, model = make_site(kind), tmp_path / KINDS[kind].name, tmp_path / "m.idea"
    KINDS[kind].write(path, 0, N - 20)
    site.detector.save(model)
    url = f"sqlite:///{tmp_path}/killed.db"
    line = [sys.executable, "-m", "deepidea.cli.app", "detect", str(path), "--flow-alerts", "--model", str(model)]
    line += ["--store", url]
    process = subprocess.Popen([*line, "--follow"], stderr=subprocess.PIPE)
    with open_store(url) as store:
        eventually(lambda: sum(one.n_flows for one in store.counters()) > 20)
        process.kill()
        process.communicate()
        data = KINDS[kind].data(0, N) if kind == "capture" else path.read_bytes() + zeek(N - 20, N)
        path.write_bytes(data)
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "cannot restore" not in done.stderr
        other = tmp_path / "again"
        other.mkdir()
        shutil.copy(path, other / path.name)
        expected = f"sqlite:///{tmp_path}/expected.db"
        again = [*line[:4], str(other / path.name), *line[5:-1], expected]
        assert subprocess.run(again, capture_output=True, check=False, timeout=120).returncode == 0
        with open_store(expected) as whole_store:
            assert stored(store) == stored(whole_store)


def stored(store: Store) -> Any:
    counters = store.counters()
    ids = store.alerts(limit=10_000, suppressed=None).rows["alert_id"].sort().to_list()
    return sum(one.n_flows for one in counters), sum((Counter(one.skipped) for one in counters), Counter()), ids


def test_time_is_not_wasted_on_what_was_read(make_site: Callable[[str], Site], tmp_path: Path) -> None:
    """A restart at the end of a log opens no more than the end of it: the old way replayed it from its start."""
    site, path = make_site("zeek"), tmp_path / "conn.log"
    KINDS["zeek"].write(path, 0, N)
    site.run(path)
    read: list[int] = []
    add = site.detector.score_conformed
    site.detector.score_conformed = lambda flows: (read.append(flows.height), add(flows))[1]  # type: ignore[method-assign]
    try:
        began = time.monotonic()
        assert site.run(path).n_flows == 0
        assert time.monotonic() - began < 60
        assert sum(read) == 0
    finally:
        del site.detector.score_conformed
