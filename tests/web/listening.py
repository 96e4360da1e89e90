"""A reader of server-sent events, as a browser is one."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx


class Reader:
    """The events of a stream: kind, data, and the id of the last one."""

    def __init__(self, response: httpx.Response) -> None:
        self.response, self._lines = response, response.iter_lines()
        self.last_id = ""

    def next(self) -> tuple[str, Any]:
        """Return the next event; StopIteration where the stream has ended."""
        kind = data = None
        while True:
            line = next(self._lines)
            if line.startswith("id: "):
                self.last_id = line[4:]
            elif line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                data = json.loads(line[6:])
            elif not line and kind is not None:
                return kind, data

    def until(self, wanted: str, *, within_s: float = 60.0) -> Any:
        """Return the data of the next event of a kind."""
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            kind, data = self.next()
            if kind == wanted:
                return data
        raise AssertionError(f"no {wanted} within {within_s} s")


@contextlib.contextmanager
def listening(address: str, **headers: str) -> Iterator[Reader]:
    """Yield a reader that has got the first event of its stream."""
    with (
        httpx.Client(timeout=60) as client,
        client.stream("GET", f"{address}/api/v1/events", headers=headers) as response,
    ):
        assert response.status_code == 200, response.read()
        reader = Reader(response)
        assert reader.next()[0] == "hello"
        yield reader
