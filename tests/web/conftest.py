"""A server over a store with a few alerts, and clients of each role."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from deepidea.detection.store import Store, open_store
from deepidea.detection.store_access import Role
from tests.detection.making import sweep
from tests.web.running import Served, running


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
