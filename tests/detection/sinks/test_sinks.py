"""Sinks, with real files and servers that go down and come up."""

from __future__ import annotations

import io
import re
import shutil
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.detection.sinks.file import FileSink
from deepidea.detection.sinks.formats.rendering import FORMATS
from deepidea.detection.sinks.registry import SINKS, open_sink, open_sinks
from deepidea.detection.sinks.sink import Sink
from deepidea.detection.sinks.stdout import StdoutSink
from deepidea.errors import DataError, SinkError
from tests.detection.servers import Receiver, Webhook, certificate, eventually, receiving

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
RFC5424 = re.compile(rb"<84>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [!-~]{1,255} deepidea \d+ alert - (.*)", re.S)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    return certificate(tmp_path_factory.mktemp("tls"))


# --- files -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(st.lists(st.text("ab", max_size=40), max_size=8), max_size=10), st.integers(20, 90))
def test_turned_over_files_hold_every_line_once_in_order(tmp_path_factory, batches, most_bytes) -> None:
    path = tmp_path_factory.mktemp("out") / "alerts.json"
    sink = FileSink(path, rotate_mb=most_bytes / 1e6, keep=1000)
    for lines in batches:
        sink.send(lines)
    sink.close()
    files = sorted(path.parent.iterdir(), key=lambda file: -int(file.suffix[1:]) if file.suffix[1:].isdigit() else 0)
    assert "".join(file.read_text() for file in files) == "".join(f"{line}\n" for lines in batches for line in lines)
    assert all(file.stat().st_size <= max(most_bytes, 41) for file in files)


def test_only_so_many_older_files_are_kept(tmp_path: Path) -> None:
    for keep in (0, 2):
        sink = FileSink(tmp_path / f"{keep}.json", rotate_mb=10 / 1e6, keep=keep)
        sink.send([f"line {k:04}" for k in range(9)])
        sink.close()
        assert len(list(tmp_path.glob(f"{keep}.json*"))) == keep + 1
        assert (tmp_path / f"{keep}.json").read_text() == "line 0008\n"


@pytest.mark.parametrize("last", ["hello", '{"whole":2}', "x" * 200_000, "]", "CEF:0|a"])
def test_a_last_line_of_others_without_a_break_is_kept_and_ended(tmp_path: Path, last: str) -> None:
    path = tmp_path / "alerts.json"
    path.write_text(f"first\n{last}")
    sink = FileSink(path)
    sink.send(["one"])
    with path.open("a") as file:
        file.write(last)
    sink.send(["two"])
    sink.close()
    assert path.read_text().splitlines() == ["first", last, "one", last, "two"]


def test_a_line_that_a_crash_tore_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "alerts.json"
    path.write_bytes(b'{"whole":1}\n{"torn"' + b"x" * 200_000)
    sink = FileSink(path)
    sink.send(["after"])
    sink.close()
    assert path.read_text() == '{"whole":1}\nafter\n'


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "a.json")
    sink.send(["one"])
    (tmp_path / "a.json").rename(tmp_path / "b.json")
    sink.send(["two"])
    sink.close()
    assert ((tmp_path / "b.json").read_text(), (tmp_path / "a.json").read_text()) == ("one\n", "two\n")


def test_a_file_that_cannot_be_written_is_an_error_and_nothing_of_it_stays(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "absent" / "a.json")
    with pytest.raises(SinkError, match=r"a.json: No such file"):
        sink.send(["x"])
    full = FileSink("/dev/full")
    with pytest.raises(SinkError, match=r"No space left|Invalid argument|Illegal seek"):
        full.send(["x"])
    full.close()


def test_standard_output_gets_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    open_sink("stdout").send(["a", "b"])
    assert capsys.readouterr().out == "a\nb\n"
    closed = io.StringIO()
    closed.close()
    with pytest.raises(SinkError, match="closed file"):
        StdoutSink(stream=closed).send(["a"])


# --- syslog ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["udp", "tcp", pytest.param("tls", marks=needs_openssl)])
def syslog(request: pytest.FixtureRequest) -> Iterator[tuple[Receiver, str]]:
    ca, context = request.getfixturevalue("tls") if request.param == "tls" else (None, None)
    with receiving(Receiver(request.param, context=context)) as server:
        yield server, f"syslog+{request.param}://127.0.0.1:{server.port}" + (f"?ca={ca}" if ca else "")


LINES = ["CEF:0|a|b|c|1|n|5|msg=ünï", "x" * 3000, "0 12 looks like a count", ""]


def test_syslog_messages_are_rfc_5424(syslog: tuple[Receiver, str]) -> None:
    server, address = syslog
    sink = open_sink(address)
    sink.send(LINES)
    eventually(lambda: len(server.messages) == len(LINES))
    sink.close()
    found = [RFC5424.fullmatch(message) for message in server.messages]
    assert [match and match[1].decode() for match in found] == LINES


def send_often(sink: Sink) -> None:
    """Send a few times: the send after one to a closed port raises."""
    for _ in range(5):
        sink.send(["lost"])
        time.sleep(0.01)


def test_a_syslog_server_that_goes_down_is_an_error_and_comes_back(syslog: tuple[Receiver, str]) -> None:
    server, address = syslog
    sink = open_sink(address)
    sink.send(["before"])
    eventually(lambda: len(server.messages) == 1)
    server.down()
    with pytest.raises(SinkError, match=r"syslog\+\w+://127.0.0.1"):
        send_often(sink)
    server.up()
    sink.send(["after"])
    eventually(lambda: any(message.endswith(b"after") for message in server.messages))
    sink.close()


@needs_openssl
def test_tls_checks_the_certificate(tls: tuple[Path, ssl.SSLContext]) -> None:
    with receiving(Receiver("tls", context=tls[1])) as server:
        with pytest.raises(SinkError, match="certificate"):
            open_sink(f"syslog+tls://127.0.0.1:{server.port}").send(["x"])
        assert server.messages == []


# --- webhooks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", pytest.param("https", marks=needs_openssl)])
def test_a_webhook_gets_a_batch_as_an_array(scheme: str, request: pytest.FixtureRequest) -> None:
    ca, context = request.getfixturevalue("tls") if scheme == "https" else (None, None)
    with receiving(Webhook(context=context)) as server:
        address = f"{scheme}://user:p%40ss@127.0.0.1:{server.port}/in?key=7" + (f"&ca={ca}" if ca else "")
        sink = open_sink(address)
        assert "p%40ss" not in sink.name
        sink.send(['{"a":1}', '{"b":"ü"}'])
        sink.send(['{"c":3}'])
        sink.send([])
        sink.close()
    assert server.alerts == [{"a": 1}, {"b": "ü"}, {"c": 3}]
    assert {request["path"] for request in server.requests} == {"/in?key=7"}
    assert {request["Authorization"] for request in server.requests} == {"Basic dXNlcjpwQHNz"}


def test_a_webhook_that_refuses_or_goes_down_is_an_error_and_comes_back() -> None:
    with receiving(Webhook()) as server:
        sink = open_sink(f"http://127.0.0.1:{server.port}/", format="cef")
        server.status = 503
        with pytest.raises(SinkError, match=r"http://127.0.0.1:\d+/ answered 503"):
            sink.send(["CEF:0|"])
        server.status = 200
        sink.send(["CEF:0|"])
        server.down()
        with pytest.raises(SinkError, match=r"http://127.0.0.1:\d+/: "):
            sink.send(["x"])
        server.up()
        sink.send(["y"])
        sink.close()
    assert server.alerts == ["CEF:0|", "y"]


# --- addresses -------------------------------------------------------------------------------------------------------

ADDRESSES = {
    "stdout": "stdout",
    "file": "file:///tmp/alerts.json?rotate_mb=1&keep=2",
    "syslog+udp": "syslog+udp://127.0.0.1",
    "syslog+tcp": "syslog+tcp://[::1]:601",
    "syslog+tls": "syslog+tls://127.0.0.1?ca=/tmp/ca.pem",
    "http": "http://127.0.0.1/",
    "https": "https://127.0.0.1/hook?timeout_s=3",
    "kafka": "kafka://127.0.0.1:9092/alerts",
    "kafkas": "kafkas://me:secret@127.0.0.1:9093/alerts?ca=/tmp/ca.pem",
    "redis": "redis://127.0.0.1:6379/0?stream=alerts",
    "rediss": "rediss://127.0.0.1:6379/0?stream=alerts&maxlen=1000",
}


@pytest.mark.parametrize("scheme", SINKS)
def test_every_sink_is_opened_by_its_address_and_names_itself(scheme: str) -> None:
    sink = open_sink(ADDRESSES[scheme])
    assert sink.name.startswith(scheme)
    assert sink.format == ("cef" if scheme.startswith("syslog") else "eve")
    assert {open_sink(ADDRESSES[scheme], format=name).format for name in FORMATS} == set(FORMATS)
    sink.close()


@pytest.mark.parametrize(
    ("address", "fact"),
    [
        ("ftp://host", "unknown sink 'ftp://host'; .* stdout, file"),
        ("stdout://", "unknown sink"),
        ("file", "unknown sink"),
        ("file://host/path", "file:///path, got 'file://host/path'"),
        ("file:///a?rotate=1", "unknown option rotate .* rotate_mb, keep"),
        ("file:///a?rotate_mb=big", "could not convert"),
        ("file:///a?rotate_mb=-1", "above 0"),
        ("syslog+udp://", "must name a host"),
        ("syslog+tcp://h:99999", "Port out of range"),
        ("http:///path", "must name a host"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, fact: str) -> None:
    with pytest.raises(DataError, match=fact):
        open_sink(address)


SPELLINGS = [
    ("file:///tmp/a.json", "FILE://localhost/tmp/./b/../a.json?keep=2"),
    ("syslog+udp://127.0.0.1", "syslog+udp://127.0.0.1:514?timeout_s=3"),
    ("syslog+tcp://[::1]:601", "SYSLOG+TCP://[0:0::1]"),
    ("http://host", "http://HOST:80/?timeout_s=3"),
    ("https://me:old@host/a?k=1", "https://me:new@host:443/a?k=1&ca=/ca.pem"),
    ("redis://localhost/0?stream=a", "redis://me:secret@LOCALHOST:6379?maxlen=5&stream=a"),
    ("kafka://a,b:9092/t", "kafka://B,a:9092/t?timeout_s=3"),
]


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_two_spellings_of_an_address_are_one_sink(one: str, other: str) -> None:
    assert [sink.name for sink in open_sinks([one, other])] == [open_sink(other).name]


@pytest.mark.parametrize("other", ["http://host:81/", "http://host/a", "https://host/", "http://host/?k=1"])
def test_other_addresses_are_other_sinks(other: str) -> None:
    assert len(open_sinks(["http://host/", other])) == 2


@pytest.mark.parametrize("address", ["ftp://me:secret@host", "http://me:secret@host:99999/", "file://me:secret@x/a"])
def test_no_error_shows_a_password(address: str) -> None:
    with pytest.raises(DataError) as raised:
        open_sink(address)
    assert "secret" not in str(raised.value)


def test_a_format_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match="eve, ecs, ocsf, cef, got 'leef'"):
        open_sink("stdout", format="leef")
