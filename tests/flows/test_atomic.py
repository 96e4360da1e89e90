"""Files written whole or not at all, and what kills leave beside them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deepidea.errors import StorageError
from deepidea.flows import atomic
from deepidea.flows.atomic import replacing

WRITING = """
import sys
from deepidea.flows.atomic import replacing
with replacing(sys.argv[1]) as partial:
    partial.write_text("half")
    print("written", flush=True)
    sys.stdin.read()
"""


def writing(path: Path) -> subprocess.Popen[bytes]:
    """Start a process that is in the midst of writing a file."""
    process = subprocess.Popen([sys.executable, "-c", WRITING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    return process


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_kill_left_goes_with_the_next_write_and_what_is_still_written_stays(tmp_path: Path) -> None:
    target = tmp_path / "a.idea.checkpoint"
    target.write_text("old")
    killed, alive = writing(target), writing(target)
    other = [tmp_path / name for name in (".a.idea.partial.checkpoint", ".a.abcdefgh.partial.checkpoint")]
    for path in other:
        path.touch()
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert len(names(tmp_path)) == 5
    with replacing(target) as partial:
        partial.write_text("new")
    assert target.read_text() == "new"
    assert len(names(tmp_path)) == 4
    alive.communicate()
    assert (alive.returncode, target.read_text()) == (0, "half")
    assert names(tmp_path) == sorted(path.name for path in (target, *other))


def test_what_is_taken_for_abandoned_before_its_lock_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, calls = atomic._lock, []

    def late(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 1:
            monkeypatch.setattr(atomic, "_lock", lock)
            atomic._remove_abandoned(tmp_path / "a.txt")
            monkeypatch.setattr(atomic, "_lock", late)
        lock(handle)

    monkeypatch.setattr(atomic, "_lock", late)
    with replacing(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    assert (len(calls), names(tmp_path)) == (2, ["a.txt"])


def test_writers_of_one_path_at_once_leave_one_of_theirs(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for _ in range(50):
            with replacing(tmp_path / "a.txt") as partial:
                partial.write_text(str(number) * 1000)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.txt").read_text() in [str(number) * 1000 for number in range(4)]
    assert names(tmp_path) == ["a.txt"]


def test_where_there_are_no_locks_nothing_is_taken_for_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "fcntl", None)
    (tmp_path / ".a.abcdefgh.partial.txt").touch()
    with replacing(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    assert names(tmp_path) == [".a.abcdefgh.partial.txt", "a.txt"]


def test_an_error_leaves_what_stood_there(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing(tmp_path / "a.txt") as partial:
            partial.write_text("new")
            raise RuntimeError

    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError):
        fail()
    assert (names(tmp_path), (tmp_path / "a.txt").read_text()) == (["a.txt"], "old")
    absent = replacing(tmp_path / "absent" / "a.txt")
    with pytest.raises(StorageError, match=r"cannot write .*absent"), absent:
        pass
