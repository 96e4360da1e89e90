"""Whatever is done to a log while it is read or while nobody reads: every line comes once, the older log first."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.detection.sources.follow import LogBlock, follow_logs, split_lines
from deepidea.detection.sources.source import Position
from deepidea.errors import DataError, FileFormatError


def begins(beginning: bytes) -> float | None:
    """Lines are numbers, which are times."""
    last = beginning.strip().rsplit(b"\n", 1)[-1]
    return float(last) if last.isdigit() else None


def numbers(*bounds: int) -> bytes:
    return b"".join(b"%06d\n" % n for n in range(*bounds))


class Reader:
    """Follows a log a step at a time, as a detector does, and can be started anew from its last position."""

    def __init__(self, root: Path) -> None:
        self.root, self.data, self.dropped = root, b"", dict[str, int]()
        self.position: Position | None = None
        self.restart()

    def restart(self) -> None:
        self.stop = threading.Event()
        after = json.loads(json.dumps(self.position)) if self.position else None
        self.blocks: Iterator[LogBlock] = follow_logs(self.root, begins, after, self.stop, follow=True)

    def read(self, rounds: int = 2) -> bytes:
        """Return everything read so far, after so many rounds in which nothing was new."""
        while rounds:
            block = next(self.blocks)
            self.data += block.data
            self.position = block.position
            self.dropped |= block.dropped
            rounds -= not block.data
        return self.data


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepidea.detection.sources.follow.LINGER_S", 0.01)
    monkeypatch.setattr("deepidea.detection.sources.follow.SETTLED_S", 0.03)
    monkeypatch.setattr("deepidea.detection.sources.follow.HALF_LINE_S", 0.03)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "conn.log"
    path.write_bytes(numbers(0, 10))
    return path


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


MOST_ROTATED = 60  # more than there are rotations: a test loses no log by itself


def rename(log: Path) -> None:
    for n in range(MOST_ROTATED, 0, -1):
        if (older := log.with_name(f"conn.log.{n}")).exists():
            older.rename(log.with_name(f"conn.log.{n + 1}"))
    log.rename(log.with_name("conn.log.1"))


def copytruncate(log: Path) -> None:
    for n in range(MOST_ROTATED, 0, -1):
        if (older := log.with_name(f"conn.log.{n}")).exists():
            older.rename(log.with_name(f"conn.log.{n + 1}"))
    shutil.copy(log, log.with_name("conn.log.1"))
    with log.open("r+b") as file:
        file.truncate()


def pack(log: Path) -> None:
    rename(log)
    packed = log.with_name(f"conn.log-{time.time_ns()}.gz")
    packed.write_bytes(gzip.compress(log.with_name("conn.log.1").read_bytes()))
    log.with_name("conn.log.1").unlink()
    time.sleep(0.05)


ROTATIONS = {"rename": rename, "copytruncate": copytruncate, "pack": pack}


def test_what_is_appended_comes_and_half_a_line_waits(log: Path) -> None:
    reader = Reader(log)
    assert reader.read() == numbers(0, 10)
    append(log, b"0000")
    assert reader.read() == numbers(0, 10)
    append(log, b"10\n000011\n")
    assert reader.read() == numbers(0, 12)


@pytest.mark.parametrize("rotate", ROTATIONS)
@pytest.mark.parametrize("restarts", [False, True])
def test_rotation_loses_and_doubles_nothing(log: Path, rotate: str, restarts: bool) -> None:
    reader, n = Reader(log), 10
    reader.read(1)
    for step in range(4):
        if step % 2:
            reader.read()
        append(log, numbers(n, n + 7))
        ROTATIONS[rotate](log)
        append(log, numbers(n + 7, n + 20))
        n += 20
        if restarts:
            reader.restart()
    assert reader.read(4).split() == numbers(0, n).split()


@settings(max_examples=25)
@given(steps=st.lists(st.sampled_from(["append", "rename", "copytruncate", "read", "restart", "half"]), max_size=14))
def test_any_course_of_events(steps: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    log, n = tmp_path_factory.mktemp("logs") / "conn.log", 3
    log.write_bytes(numbers(0, 3))
    reader = Reader(log)
    reader.read(1)
    for step in steps:
        if step in ("rename", "copytruncate"):
            ROTATIONS[step](log)
            append(log, numbers(n, n + 1))
        elif step == "half":
            append(log, b"%06d" % n)
            reader.read(1)
            append(log, b"\n")
        elif step == "append":
            append(log, numbers(n, n + 1))
        elif step == "read":
            reader.read(1)
        else:
            reader.restart()
        n += step not in ("read", "restart")
    assert reader.read(3) == numbers(0, n)


@pytest.mark.parametrize("rotate", ["rename", "pack"])
def test_a_busy_sensor_and_its_rotations_lose_nothing(log: Path, rotate: str) -> None:
    last, reader = 10 + 40 * 50, Reader(log)
    reader.read(1)

    def write() -> None:
        for n in range(10, last, 50):
            with log.open("ab", buffering=0) as file:
                for line in range(n, n + 50):
                    file.write(b"%03d" % (line // 1000))
                    file.write(b"%03d\n" % (line % 1000))
            ROTATIONS[rotate](log)

    sensor = threading.Thread(target=write)
    sensor.start()
    for _ in range(400):
        if reader.read(1).count(b"\n") == last:
            break
        if len(reader.data) % 5 == 0:
            reader.restart()
    sensor.join()
    assert sorted(reader.read(20).split()) == numbers(0, last).split()


def test_a_log_cut_off_to_nothing_is_begun_again(log: Path) -> None:
    reader = Reader(log)
    reader.read()
    log.write_bytes(b"")
    reader.read()
    append(log, numbers(10, 12))
    assert reader.read() == numbers(0, 12)
    log.write_bytes(numbers(10, 11))
    assert reader.read() == numbers(0, 12) + numbers(10, 11)


def test_a_log_moved_out_of_sight_is_read_to_its_end(log: Path, tmp_path: Path) -> None:
    reader = Reader(log)
    reader.read()
    append(log, numbers(10, 20))
    (tmp_path / "archive").mkdir()
    log.rename(tmp_path / "archive" / "old.log")
    log.write_bytes(numbers(20, 25))
    assert reader.read() == numbers(0, 25)


def test_a_folder_is_read_in_order_of_time_and_nothing_else_in_it(tmp_path: Path) -> None:
    parts = [numbers(n, n + 10) for n in range(0, 50, 10)]
    for n, name in enumerate(("d.log", "b/c.log.gz", "a.log", "b/a.log.gz", "e.log")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(parts[n]) if name.endswith("gz") else parts[n])
    (tmp_path / "notes.txt").write_text("no log\n")
    (tmp_path / ".hidden").write_bytes(numbers(99, 100))
    (tmp_path / "broken.gz").write_bytes(gzip.compress(numbers(60, 70))[:12])
    blocks = list(follow_logs(tmp_path, begins, None, threading.Event(), most_lines=4))
    assert b"".join(block.data for block in blocks) == numbers(0, 50)
    for n, block in enumerate(blocks):
        rest = follow_logs(tmp_path, begins, json.loads(json.dumps(block.position)), threading.Event())
        assert b"".join(b.data for b in rest) == b"".join(b.data for b in blocks[n + 1 :])


def test_logs_that_grow_beside_each_other_are_all_followed(tmp_path: Path) -> None:
    for n in range(3):
        append(tmp_path / f"eve.{n}.json", numbers(1000 * n, 1000 * n + 2))
    reader = Reader(tmp_path)
    for step in range(2, 8):
        for n in range(3):
            append(tmp_path / f"eve.{n}.json", numbers(1000 * n + step, 1000 * n + step + 1))
        reader.read(1)
        if step == 5:
            reader.restart()
    assert sorted(reader.read().split()) == [b"%06d" % (1000 * n + step) for n in range(3) for step in range(8)]


def test_half_a_line_that_a_crash_left_comes_at_last(log: Path) -> None:
    append(log, b"000010\nhalf")
    reader = Reader(log)
    assert reader.read() == numbers(0, 11)
    rename(log)
    append(log, numbers(11, 12))
    time.sleep(0.05)
    assert sorted(reader.read(3).split()) == sorted(numbers(0, 12).split() + [b"half"])


def test_a_packed_file_is_read_when_it_is_whole_and_damage_is_reported(tmp_path: Path, log: Path) -> None:
    reader = Reader(tmp_path)
    reader.read()
    packed = gzip.compress(numbers(20_000, 60_000))
    append(tmp_path / "conn.log.9.gz", packed[:-100])
    reader.read(1)
    append(tmp_path / "conn.log.9.gz", packed[-100:])
    time.sleep(0.05)
    assert reader.read(3) == numbers(0, 10) + numbers(20_000, 60_000)
    append(tmp_path / "conn.log.8.gz", gzip.compress(numbers(100_000, 140_000))[:-100])
    time.sleep(0.05)
    reader.read(3)
    assert reader.dropped == {"rest of a damaged gzip file": 1}


def test_a_folder_of_many_logs_needs_a_short_position(tmp_path: Path) -> None:
    for n in range(60):
        (tmp_path / f"conn.{n}.log").write_bytes(numbers(10 * n, 10 * n + 3))
    reader = Reader(tmp_path)
    whole = reader.read()
    assert len(json.dumps(reader.position)) < 2_000
    reader.restart()
    (tmp_path / "conn.60.log").write_bytes(numbers(700, 703))
    assert reader.read() == whole + numbers(700, 703)


def test_older_logs_beside_the_one_named_are_left_alone(log: Path) -> None:
    log.write_bytes(numbers(20, 22))
    log.with_name("conn.log.1").write_bytes(numbers(0, 20))
    log.with_name("conn-summary.log").write_bytes(numbers(30, 40))
    assert Reader(log).read() == numbers(20, 22)


def test_comments_come_again_where_a_log_is_gone_on_with(log: Path) -> None:
    log.write_bytes(b"#a\n" + numbers(0, 2) + b"#b\n" + numbers(2, 5))
    blocks = list(follow_logs(log, begins, None, threading.Event(), most_lines=4))
    rest = list(follow_logs(log, begins, blocks[0].position, threading.Event()))
    assert [block.data for block in rest] == [b"#a\n#b\n", numbers(2, 5)]


def test_a_log_that_is_not_there_yet_is_waited_for(log: Path) -> None:
    log.unlink()
    reader = Reader(log)
    assert reader.read() == b""
    log.write_bytes(numbers(0, 3))
    assert reader.read() == numbers(0, 3)


def test_what_cannot_be_a_log_is_refused(log: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(follow_logs(log.with_name("none"), begins, None, threading.Event()))
    with pytest.raises(DataError, match="another kind of source"):
        list(follow_logs(log, begins, {"rows": 3}, threading.Event()))
    log.write_bytes(b"a,b\n")
    with pytest.raises(FileFormatError, match="a,b"):
        list(follow_logs(log, begins, None, threading.Event()))
    log.write_bytes(gzip.compress(numbers(0, 90_000))[:-200])
    with pytest.raises(FileFormatError, match="damaged or cut off"):
        list(follow_logs(log, begins, None, threading.Event()))


def test_stop_ends_what_is_followed(log: Path) -> None:
    stop, n_blocks = threading.Event(), 0
    for block in follow_logs(log, begins, None, stop, follow=True):
        n_blocks += bool(block.data)
        stop.set()
    assert n_blocks == 1


@given(st.binary(max_size=80).map(lambda data: data.replace(b"\0", b"\n")), st.integers(1, 9))
def test_lines_are_split_without_loss(data: bytes, most: int) -> None:
    blocks = list(split_lines(data, most))
    assert b"".join(blocks) == data
    assert all(block.count(b"\n") <= most for block in blocks)
