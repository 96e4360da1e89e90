from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deepidea.errors import DatasetError, DownloadError
from deepidea.flows.datasets.download import download
from deepidea.flows.datasets.loading import get_dataset, load_dataset
from deepidea.flows.datasets.specs import get_dataset_spec
from tests.flows.datasets.test_loading import REQUIRED, kdd_lines

BODY = bytes(range(256)) * 4_000
SHA256 = hashlib.sha256(BODY).hexdigest()


class Publisher(ThreadingHTTPServer):
    """A server that can break in the ways that servers do."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {"/file": BODY}
        self.etag = '"one"'
        self.ranges = True
        self.drop_after: list[int] = []
        self.errors: list[int] = []
        self.asked: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Publisher

    def log_message(self, format: str, *args: object) -> None: ...

    def do_GET(self) -> None:
        publisher, asked = self.server, self.headers.get("Range")
        publisher.asked.append(asked)
        body = publisher.files.get(self.path)
        if publisher.errors or body is None:
            self.send_error(publisher.errors.pop(0) if publisher.errors else 404)
        elif asked and self._start(asked) >= len(body):
            self._answer(416, 0, f"bytes */{len(body)}")
        else:
            self._send(body, self._start(asked))

    def _answer(self, status: int, length: int, content_range: str) -> None:
        self.send_response(status)
        if content_range:
            self.send_header("Content-Range", content_range)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", self.server.etag)
        self.end_headers()

    def _send(self, body: bytes, start: int) -> None:
        part = f"bytes {start}-{len(body) - 1}/{len(body)}" if start else ""
        self._answer(206 if start else 200, len(body) - start, part)
        drops = self.server.drop_after
        self.wfile.write(body[start : start + drops.pop(0)] if drops else body[start:])

    def _start(self, asked: str | None) -> int:
        if not asked or not self.server.ranges or self.headers.get("If-Range") != self.server.etag:
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _fetch(publisher: Publisher, target: Path, **more: object) -> Path:
    return download(f"{publisher.address}/file", target, timeout_s=5, wait_s=0.001, **more)  # type: ignore[arg-type]


def test_a_file_comes_whole_with_progress(publisher: Publisher, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = _fetch(publisher, tmp_path / "new" / "f", sha256=SHA256, progress=lambda *done: seen.append(done))
    assert path.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert [p.name for p in path.parent.iterdir()] == ["f"]


def test_dropped_connections_are_resumed(publisher: Publisher, tmp_path: Path) -> None:
    publisher.drop_after = [300_000] * 3
    path = _fetch(publisher, tmp_path / "f", sha256=SHA256, attempts=2)
    assert path.read_bytes() == BODY
    assert publisher.asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_what_came_is_kept_and_resumed_by_the_next_call(publisher: Publisher, tmp_path: Path) -> None:
    publisher.drop_after, publisher.errors = [300_000], []
    with pytest.raises(DownloadError, match=r"300,000 bytes are kept in .*f.part: run the same command again"):
        _fetch(publisher, tmp_path / "f", attempts=1)
    assert not (tmp_path / "f").exists()
    assert _fetch(publisher, tmp_path / "f", sha256=SHA256).read_bytes() == BODY
    assert publisher.asked[-1] == "bytes=300000-"


def test_a_changed_file_is_not_glued_together(publisher: Publisher, tmp_path: Path) -> None:
    publisher.drop_after = [300_000]
    with pytest.raises(DownloadError):
        _fetch(publisher, tmp_path / "f", attempts=1)
    publisher.files["/file"], publisher.etag = BODY[::-1], '"two"'
    assert _fetch(publisher, tmp_path / "f").read_bytes() == BODY[::-1]


def test_a_server_without_ranges_starts_cleanly_again(publisher: Publisher, tmp_path: Path) -> None:
    publisher.ranges, publisher.drop_after = False, [300_000, 10]
    assert _fetch(publisher, tmp_path / "f", sha256=SHA256).read_bytes() == BODY


def test_a_whole_part_is_only_put_in_place(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="has sha256"):
        _fetch(publisher, tmp_path / "f", sha256="0" * 64)
    publisher.drop_after = [len(BODY) - 1]
    with pytest.raises(DownloadError):
        _fetch(publisher, tmp_path / "f", attempts=1)
    with (tmp_path / "f.part").open("ab") as part:
        part.write(BODY[-1:])
    assert _fetch(publisher, tmp_path / "f", sha256=SHA256).read_bytes() == BODY


def test_a_wrong_hash_leaves_nothing(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"has sha256 {SHA256} instead of {'0' * 64}"):
        _fetch(publisher, tmp_path / "f", sha256="0" * 64)
    assert not (tmp_path / "f").exists()
    assert not (tmp_path / "f.part").exists()


def test_passing_errors_are_tried_again_and_lasting_ones_are_not(publisher: Publisher, tmp_path: Path) -> None:
    publisher.errors = [503, 500]
    assert _fetch(publisher, tmp_path / "f").read_bytes() == BODY
    asked = len(publisher.asked)
    with pytest.raises(DownloadError, match="404"):
        download(f"{publisher.address}/absent", tmp_path / "g", wait_s=0.001)
    assert len(publisher.asked) == asked + 1


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="check the address and the network"):
        download("http://127.0.0.1:9/file", tmp_path / "f", attempts=2, wait_s=0.001)
    with pytest.raises(DownloadError, match="must begin with http"):
        download("file:///etc/hostname", tmp_path / "f")


def test_a_data_set_is_fetched_and_registered(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPIDEA_HOME", str(tmp_path))
    columns = "dst_port,timestamp," + ",".join(REQUIRED)
    day = columns + ",Label\n" + ("80,14/02/2018 10:00:00" + ",1" * len(REQUIRED) + ",Benign\n") * 2
    for name in get_dataset_spec("cicids18").downloads:
        publisher.files[f"/{name}"] = day.encode()
    publisher.drop_after = [100]
    registration = get_dataset("cicids18", base=publisher.address)
    assert registration.rows == 20
    assert len(load_dataset("cicids18").train) == 20


def test_a_changed_official_file_is_refused(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPIDEA_HOME", str(tmp_path))
    publisher.files["/kddcup.data_10_percent.gz"] = gzip.compress("".join(kdd_lines("normal.", "smurf.")).encode())
    with pytest.raises(DownloadError, match="the publisher's file has changed"):
        get_dataset("kdd99", base=publisher.address)


@pytest.mark.parametrize("name", ["nsl-kdd", "cicids17", "cicids17-improved"])
def test_where_the_publisher_has_a_page_alone_it_is_named(name: str) -> None:
    with pytest.raises(DatasetError, match=rf"on a page or by a form alone: https://.*deepidea data add {name} DIR"):
        get_dataset(name)
