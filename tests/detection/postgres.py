"""A PostgreSQL server of the tests' own: a fresh cluster on a Unix socket, gone when the session ends."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")

FAST = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off", "-c", "max_connections=30")
DURABLE = ("-c", "max_connections=30")
"""As PostgreSQL comes: a transaction that is confirmed is on the disk."""


def find_binaries() -> Path | None:
    """Return the folder of the newest server that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    on_path = shutil.which("postgres")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def _unprivileged() -> tuple[int, int] | None:
    """Return user and group to run the server as where we are root, which it refuses."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names.get("nobody")
    return None if entry is None else (entry.pw_uid, entry.pw_gid)


@contextmanager
def running_server(settings: Sequence[str] = FAST) -> Iterator[str]:
    """Yield the folder of the socket of a server of our own; what is no test sets it to last: `DURABLE`."""
    binaries, user = find_binaries(), _unprivileged()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    as_user = {} if user is None else {"user": user[0], "group": user[1], "extra_groups": ()}
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: the path of a socket has 107 bytes at most
    try:
        if user is not None:
            os.chown(folder, *user)
        options = {**as_user, "cwd": folder, "capture_output": True, "timeout": 60, "check": True}
        initdb = [binaries / "initdb", "-D", folder / "data", "-U", "test", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run([*initdb, "--locale=C"], **options)
        with _started(binaries / "postgres", folder, as_user, settings):
            yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _started(postgres: Path, folder: Path, as_user: dict[str, object], settings: Sequence[str]) -> Iterator[None]:
    command = [postgres, "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", *settings]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **as_user)
    try:
        _await(folder, server)
        yield
    finally:
        server.terminate()
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(5)


def _await(folder: Path, server: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        try:
            psycopg.connect(host=str(folder), user="test", dbname="postgres").close()
        except psycopg.OperationalError:
            if server.poll() is not None:
                break
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"PostgreSQL did not start: {(folder / 'log').read_text()[-2000:]}")


@contextmanager
def fresh_database(socket_folder: str) -> Iterator[str]:
    """Yield the URL of an empty database: a schema of its own, which is made in no time."""
    name = f"t{uuid4().hex}"
    with psycopg.connect(host=socket_folder, user="test", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        yield f"postgresql://test@/postgres?host={socket_folder}&options=-csearch_path%3D{name}"
        connection.execute(f"DROP SCHEMA {name} CASCADE")
