"""The server as it is started: its options, what it refuses, how it ends."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import polars as pl
import pytest

from deepidea.errors import DataError, DeepIDEAError, MissingExtraError, SourceError, StoreError
from deepidea.web import serving as module
from deepidea.web.serving import serve_until
from deepidea.web.settings import ServeConfig
from tests.conftest import Command
from tests.stores import open_store


@contextlib.contextmanager
def serving(what: ServeConfig) -> Iterator[str]:
    """Yield the address of a server that is started by its options; it is stopped at the end."""
    stop, begun, told = threading.Event(), threading.Event(), []

    def note(url: str, *_: object, **__: object) -> None:
        told.append(url)
        begun.set()

    thread = threading.Thread(target=lambda: serve_until(stop, what, on_start=note))
    thread.start()
    try:
        assert begun.wait(30)
        yield told[0].rstrip("/")
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def plain(tmp_path: Path) -> ServeConfig:
    return ServeConfig(store=f"sqlite:///{tmp_path / 'page.db'}", port=0)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate for localhost that signed itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


# --- what it does ----------------------------------------------------------------------------------------------------


def test_a_store_that_is_not_there_is_made(plain: ServeConfig) -> None:
    with serving(plain) as url:
        assert httpx.get(f"{url}/readyz").json()["ready"]
        assert httpx.get(f"{url}/").status_code == 200


def test_it_speaks_https_with_cookies_for_https(plain: ServeConfig, certificate: tuple[Path, Path]) -> None:
    with open_store(plain.store) as store:
        secret = store.add_token("ann", "viewer")[1]
    trust = ssl.create_default_context(cafile=certificate[0])
    what = replace(plain, tls_cert=certificate[0], tls_key=certificate[1])
    with serving(what) as url, httpx.Client(base_url=url, verify=trust, headers={"Origin": url}) as client:
        assert url.startswith("https://localhost:")
        answer = client.post("/login", data={"token": secret})
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        assert answer.headers["set-cookie"].startswith("__Host-deepidea=")
        assert client.get("/api/v1/me").json()["way"] == "session"


def test_only_a_trusted_proxy_tells_who_asks(plain: ServeConfig) -> None:
    with open_store(plain.store) as store:
        store.add_token("ann", "viewer")
    forged = {"X-Forwarded-For": "192.0.2.99", "Authorization": "Bearer wrong"}
    for trusted, address in (("192.0.2.1", "127.0.0.1"), ("127.0.0.1", "192.0.2.99")):
        with serving(replace(plain, forwarded_allow_ips=trusted)) as url:
            assert httpx.get(f"{url}/api/v1/me", headers=forged).status_code == 401
        with open_store(plain.store) as store:
            assert store.audit_log(limit=1)[0][0].address == address


def test_sources_are_watched_and_each_alert_is_delivered_once(
    plain: ServeConfig, model_file: Path, flow_file: Path, tmp_path: Path
) -> None:
    first, second, told = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "alerts.json"
    flows = pl.read_csv(flow_file).drop("label")
    flows.head(700).write_csv(first)
    flows.tail(800).write_csv(second)
    what = replace(plain, model=model_file, sources=(str(first), str(second)), sinks=(f"file://{told}",))
    with serving(what) as url:
        deadline = time.monotonic() + 60
        while not _has_read(url, 1500) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert httpx.get(f"{url}/readyz").json()["ready"]  # that a file has come to its end is no fault
    with open_store(plain.store) as store:
        assert {row.n_flows for row in store.counters()} == {700, 800}
        stored = store.alerts(limit=10_000).rows["alert_id"]
    lines = [json.loads(line)["deepidea"]["alert_id"] for line in told.read_text().splitlines()]
    assert sorted(lines) == sorted(stored)
    assert len(lines) > 10


def test_a_sink_that_rejects_alerts_degrades_the_health(plain: ServeConfig, model_file: Path, flow_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        sink = f"syslog+tcp://127.0.0.1:{closed.getsockname()[1]}"
    with serving(replace(plain, model=model_file, sources=(str(flow_file),), sinks=(sink,))) as url:
        deadline = time.monotonic() + 60
        while (health := httpx.get(f"{url}/api/v1/sources", timeout=60).json())["health"] != "degraded":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        ready = httpx.get(f"{url}/readyz", timeout=60)
    assert [row["health"] for row in health["sinks"]] == ["degraded"]
    assert health["sinks"][0]["name"] in health["message"]
    assert "refused" in health["message"]
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["reasons"] == ["sinks that reject alerts: 1"]
    assert "127.0.0.1" not in ready.text


def _has_read(url: str, n_flows: int) -> bool:
    text = httpx.get(f"{url}/metrics").text
    told = [line.split()[1] for line in text.splitlines() if line.startswith("deepidea_flows_total{")]
    return sum(map(float, told)) == n_flows


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_all_that_was_read_stored(
    plain: ServeConfig, model_file: Path, flow_file: Path, tmp_path: Path, number: int
) -> None:
    log_file, source = tmp_path / "log", tmp_path / "flows.csv"
    pl.read_csv(flow_file).drop("label").write_csv(source)
    command = [sys.executable, "-m", "deepidea.cli.app", "serve", "--port", "0", "--store", plain.store, "--model",
               str(model_file), "--source", str(source)]  # fmt: skip
    with log_file.open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            url = _await_url(log_file, process)
            while not _has_read(url, 1500):
                time.sleep(0.05)
            with httpx.stream("GET", f"{url}/healthz"):  # a connection that stays open does not hold it up
                process.send_signal(number)
                assert process.wait(60) == 0
        finally:
            process.kill()
    assert log_file.read_text().endswith("stopped\n")


def _await_url(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 60
    while "the page: " not in log.read_text() and time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    return log.read_text().partition("the page: ")[2].split()[0].rstrip("/")


# --- what it refuses -------------------------------------------------------------------------------------------------


def refused(what: ServeConfig) -> str:
    """Return why a server does not start."""
    with pytest.raises(DeepIDEAError) as error:
        serve_until(threading.Event(), what, on_start=lambda *_, **__: pytest.fail("it started"))
    return f"{type(error.value).__name__}: {error.value}"


def test_a_port_that_is_taken_is_reported(plain: ServeConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        told = refused(replace(plain, port=other.getsockname()[1]))
    assert told.startswith(SourceError.__name__)
    assert "Address already in use; choose another --port" in told


def test_an_address_of_no_interface_is_reported(plain: ServeConfig) -> None:
    assert "choose another --port or --host" in refused(replace(plain, host="192.0.2.1"))


def test_without_a_token_it_lets_nobody_else_in(plain: ServeConfig) -> None:
    for options in (
        {"host": "0.0.0.0"},
        {"host": "::"},
        {"forwarded_allow_ips": "127.0.0.1"},
        {"secure_cookies": True},
    ):
        told = refused(replace(plain, **options))  # type: ignore[arg-type]
        assert "has no token" in told
        assert "deepidea tokens add NAME --role admin" in told
    with open_store(plain.store) as store:
        store.add_token("ann", "admin")
    with serving(replace(plain, host="0.0.0.0")) as url:
        assert httpx.get(f"{url}/").status_code == 303


def test_a_certificate_that_is_none_is_reported(
    plain: ServeConfig, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = certificate
    locked = tmp_path / "locked.pem"
    subprocess.run(["openssl", "ec", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked],
                   check=True, capture_output=True)  # fmt: skip
    for pair in ((cert, None), (None, key), (cert, cert), (tmp_path / "none", key), (cert, locked)):
        assert refused(replace(plain, tls_cert=pair[0], tls_key=pair[1])).startswith(DataError.__name__)


def test_a_source_that_cannot_be_used_is_reported_before_anything_is_served(
    plain: ServeConfig, model_file: Path, flow_file: Path, tmp_path: Path
) -> None:
    with_model = replace(plain, model=model_file)
    assert "'nothing.here'" in refused(replace(with_model, sources=("nothing.here",)))
    assert "sources must differ" in refused(replace(with_model, sources=(str(flow_file), str(flow_file))))
    with_source = replace(with_model, sources=(str(flow_file),))
    assert "'10.0.0.0/40'" in refused(replace(with_source, home=("10.0.0.0/40",)))
    assert "none.toml" in refused(replace(with_source, thresholds=tmp_path / "none.toml"))
    assert threading.active_count() == 1 + sum(t.daemon for t in threading.enumerate())


def test_a_store_that_cannot_be_opened_is_reported(plain: ServeConfig, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database" * 1000)
    for url in (f"sqlite:///{tmp_path}/none/page.db", f"sqlite:///{tmp_path}/text.db", "http://localhost"):
        assert refused(replace(plain, store=url)).startswith(StoreError.__name__)


def test_an_extra_that_is_not_installed_is_reported(plain: ServeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert refused(plain).startswith(MissingExtraError.__name__)
    assert "pip install 'deepidea[serve]'" in refused(plain)
    assert module.MissingExtraError.exit_code == 6


# --- commands --------------------------------------------------------------------------------------------------------


def test_tokens_are_made_listed_and_revoked(plain: ServeConfig, command: Command) -> None:
    made = command("tokens", "add", "ann", "--role", "analyst", "--store", plain.store)
    secret = made.out.strip()
    with open_store(plain.store) as store:
        token = store.find_token(secret)
    assert token is not None
    assert (made.code, token.name, token.role, secret in made.err) == (0, "ann", "analyst", False)
    listed = command("tokens", "list", "--store", plain.store)
    assert (token.token_id in listed.out, secret in listed.out) == (True, False)
    assert command("tokens", "revoke", token.token_id, "--store", plain.store).code == 0
    assert "revoked" in command("tokens", "list", "--store", plain.store).out
    again = command("tokens", "revoke", token.token_id, "--store", plain.store)
    assert (again.code, "list the tokens" in again.err) == (3, True)


def test_the_audit_log_can_be_read(plain: ServeConfig, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert command("tokens", "add", "ann", "--role", "admin", "--store", plain.store).code == 0
    with open_store(plain.store) as store:
        store.audit("eve\x1b[31m", "access.refused", "/models", address="192.0.2.7")
    told = command("audit", "--store", plain.store)
    assert (told.code, "\x1b[31m" in told.out) == (0, False)
    assert [word in told.out for word in ("token.add", "command line", "192.0.2.7", "/models")] == [True] * 4


def test_a_token_that_ends_in_the_past_is_not_made(plain: ServeConfig, command: Command) -> None:
    ran = command("tokens", "add", "ann", "--role", "admin", "--expires", "2020-01-01", "--store", plain.store)
    assert (ran.code, "must end in the future" in ran.err) == (3, True)
