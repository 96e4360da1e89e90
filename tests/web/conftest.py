"""A store as an analyst finds it, and a desk over it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deepidea.detection.health import EngineState
from deepidea.detection.store import Store, open_store
from deepidea.web.desk import Desk
from tests.detection.making import NOON, alerts_of, sweep

XSS = "<img src=x onerror=alert(1)>\"';--"


@dataclass(frozen=True, slots=True)
class Someone:
    """Who makes changes in tests."""

    name: str = "ann"
    role: str = "admin"
    address: str = "127.0.0.1"


def fill(store: Store) -> None:
    """Put a scan, a flood, guessing, odd texts and a live engine into a store."""
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
    now = datetime.now(UTC)
    store.tell_engine(EngineState("eth0", now, now - timedelta(hours=1), "live", n_flows=6250, flows_per_s=120.0))


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'desk.db'}") as opened:
        fill(opened)
        yield opened


@pytest.fixture
def desk(filled: Store) -> Desk:
    return Desk(filled)


@pytest.fixture
def ann() -> Someone:
    return Someone()
