"""Stores, a service over one, servers, and clients of each role."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from deepidea.store.access import Role
from deepidea.store.engines import EngineState
from deepidea.web.service import AnalystService
from tests.detection.making import NOON, alerts_of, sweep
from tests.stores import Store, open_store
from tests.web.running import Served, running

XSS = "<img src=x onerror=alert(1)>\"';--"


@dataclass(frozen=True, slots=True)
class Someone:
    """Who makes changes in tests."""

    name: str = "ann"
    role: str = "admin"
    address: str = "127.0.0.1"


def fill(store: Store) -> None:
    """Put a scan, a flood, guessing, odd texts and a live engine into a store."""
    fill_alerts(store)
    show_engine(store)


def show_engine(store: Store) -> None:
    now = datetime.now(UTC)
    store.tell_engine(EngineState("eth0", now, now - timedelta(hours=1), "live", n_flows=6250, flows_per_s=120.0))


def fill_alerts(store: Store) -> None:
    minute = 60_000_000
    noon_us = round(NOON.timestamp() * 1e6)
    flows = {noon_us + k * minute: 100 for k in range(60)}
    store.commit_batch("eth0", {"byte": 1}, sweep(300), n_flows=6000, skipped={"odd": 2}, flow_minutes=flows)
    floods = [{"at_s": 0.1 * k, "src_ip": f"203.0.113.{k % 200 + 1}", "src_port": 1024 + k} for k in range(250)]
    store.commit_batch("eth0", None, alerts_of(floods, **{"class": "DDoS", "dst_port": 80}), n_flows=250)
    guesses = [{"at_s": 3.0 * k, "src_ip": "192.0.2.9", "src_port": 2000 + k} for k in range(40)]
    store.commit_batch("conn.log", None, alerts_of(guesses, **{"class": "brute_force"}), n_flows=40)
    bots = [{"at_s": 5.0 * k, "src_ip": f"192.0.2.{k}", "src_port": 3000 + k} for k in range(30, 60)]
    store.commit_batch("conn.log", None, alerts_of(bots, **{"class": "botnet", "dst_port": 4444}), n_flows=30)
    odd = alerts_of([{"at_s": 7.0, "src_ip": XSS, "class": XSS, "dst_port": None}])
    store.commit_batch(XSS, None, odd, n_flows=1, skipped={XSS: 1})


@pytest.fixture(scope="session")
def filled_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a store that `fill_alerts` filled; to be copied."""
    path = tmp_path_factory.mktemp("filled") / "filled.db"
    with open_store(f"sqlite:///{path}") as opened:
        fill_alerts(opened)
    return path


@pytest.fixture
def filled(filled_file: Path, tmp_path: Path) -> Iterator[Store]:
    """Store as `fill` fills it."""
    path = shutil.copy(filled_file, tmp_path / "desk.db")
    with open_store(f"sqlite:///{path}") as opened:
        show_engine(opened)
        yield opened


@pytest.fixture
def service(filled: Store) -> AnalystService:
    return AnalystService(filled)


@pytest.fixture
def ann() -> Someone:
    return Someone()


@pytest.fixture
def server(filled: Store) -> Iterator[str]:
    """Address of a server over the filled store, whose admin is whoever asks."""
    with running(filled) as made:
        yield made.url


@pytest.fixture
def client(server: str) -> Iterator[httpx.Client]:
    """An admin, who tells the page's secret as a browser does."""
    with httpx.Client(base_url=f"{server}/api/v1", timeout=60) as made:
        yield made


@contextlib.contextmanager
def stock(folder: Path) -> Iterator[Store]:
    """Yield a store with the alerts of a scan."""
    with open_store(f"sqlite:///{folder / 'page.db'}") as opened:
        opened.commit_batch("eth0", None, sweep(30), n_flows=500, skipped={"odd": 2}, dropped={"kernel": 1})
        yield opened


@pytest.fixture
def stocked(tmp_path: Path) -> Iterator[Store]:
    """Store with the alerts of a scan."""
    with stock(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Server without a token for the tests of a module that change nothing, with the module's own `ROUTERS`."""
    routers = getattr(request.module, "ROUTERS", ())
    with stock(tmp_path_factory.mktemp("shared")) as store, running(store, routers=routers) as server:
        yield server


@pytest.fixture
def served(stocked: Store) -> Iterator[Served]:
    """Server over `stocked`, which has no token yet."""
    with running(stocked) as server:
        yield server


@pytest.fixture
def client_of(served: Served) -> Iterator[Callable[[Role], httpx.Client]]:
    """Make clients that send a token of a role; from the first one on nobody gets in without."""
    made: list[httpx.Client] = []

    def make(role: Role) -> httpx.Client:
        made.append(served.program(role))
        return made[-1]

    yield make
    for client in made:
        client.close()
