"""Queries and transactions of each page, and of each GET of the API, over a store as it stands after weeks.

Requests that let somebody in are left out: they read a token or a session. Each page is loaded twice, and the second
load counted, since the first also loads what the server keeps.

Usage: python -m benchmarks.page_queries [--url sqlite:///filled.db] [--alerts 100000] [--incidents 2000]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import sqlalchemy as sa
from fastapi import FastAPI, Request

from benchmarks.filled_store import fill_store
from benchmarks.result_files import RESULTS, write_result
from deepidea.store import alerts, incidents
from deepidea.store.store import Store, open_store
from deepidea.web.access import Actor, admin, analyst, viewer
from deepidea.web.app import create_app

PAGES = (
    "/", "/incidents", "/incidents/INCIDENT", "/hosts", "/hosts/HOST", "/model", "/sources", "/rules",
    "/rules/new?src=192.0.2.7", "/audit", "/tokens",
)  # fmt: skip
CALLS = tuple(
    f"/api/v1/{path}"
    for path in (
        "overview", "series/alerts", "series/flows", "incidents", "incidents/INCIDENT", "alerts", "alerts/ALERT",
        "alerts/ALERT/why", "alerts/ALERT/eve", "verdicts", "rules", "hosts", "hosts/HOST", "sources", "drift",
        "models", "audit", "tokens",
    )
)  # fmt: skip
_SETTINGS = ("BEGIN", "PRAGMA", "SET TRANSACTION")


@dataclass(slots=True)
class Read:
    """What one request did: its transactions, ``read`` or ``write``, its statements, and its milliseconds."""

    transactions: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    ms: float = 0.0


class Reads:
    """Counts what requests to an application do with its store."""

    def __init__(self, store: Store, app: FastAPI, names: dict[str, str]) -> None:
        self._app, self._names, self._now = app, names, Read()
        sa.event.listen(store._engine, "begin", self._begin)
        sa.event.listen(store._engine, "before_cursor_execute", self._execute)

    def _begin(self, connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        self._now.transactions.append("write" if writes else "read")

    def _execute(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(_SETTINGS):
            self._now.statements.append(statement)

    async def _get(self, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path)

    def of(self, path: str) -> Read:
        """Return what the second of two requests does."""
        for name, value in self._names.items():
            path = path.replace(name, value)
        for _ in range(2):
            self._now = Read()
            began = time.perf_counter()
            answer = asyncio.run(self._get(path))
            self._now.ms = 1e3 * (time.perf_counter() - began)
            if answer.status_code != 200:
                raise RuntimeError(f"{path}: {answer.status_code}: {answer.text[:200]}")
        return self._now


def reading(store: Store) -> Reads:
    """Return a counter over an application in which everyone is an admin."""

    def let_in(request: Request) -> Actor:
        request.state.actor = Actor("local", "admin", "127.0.0.1", "local")
        return request.state.actor  # type: ignore[no-any-return]

    app = create_app(store)
    app.dependency_overrides.update(dict.fromkeys((viewer, analyst, admin), let_in))
    largest = store.query(incidents.find, order="alerts", limit=1).items[0]
    names = {"INCIDENT": largest.incident_id, "HOST": largest.host}
    names["ALERT"] = store.query(alerts.find, incident=largest.incident_id, limit=1).items[0].alert_id
    return Reads(store, app, names)


def main() -> None:
    """Count, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="")
    parser.add_argument("--alerts", type=int, default=100_000)
    parser.add_argument("--incidents", type=int, default=2_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.url or f"sqlite:///{folder}/filled.db"
        if not options.url:
            fill_store(url, n_alerts=options.alerts, n_incidents=options.incidents)
        figures = {}
        with open_store(url) as store:
            reads = reading(store)
            for path in (*PAGES, *CALLS):
                of = reads.of(path)
                figures[path] = {"queries": len(of.statements), "transactions": len(of.transactions)}
                print(f"{path:32s} {len(of.statements):3d} queries {len(of.transactions):3d} transactions", flush=True)
    sizes = {"alerts": options.alerts, "incidents": options.incidents}
    write_result(RESULTS / "page_queries.json", {**sizes, "pages": figures})


if __name__ == "__main__":
    main()
