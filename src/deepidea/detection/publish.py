"""Flows of any source into a stream that several processes read, each with what its hosts did lately.

What hosts did is counted here, before the stream is cut: a flow's windows are those of its source and of its
destination, and no way of cutting a stream keeps all flows of every host in one share.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import polars as pl

from deepidea.detection.publishers import Publisher
from deepidea.detection.sources.partitions import SharedSource
from deepidea.detection.sources.source import FlowBatch, Position, Source
from deepidea.errors import DataError, SourceError
from deepidea.flows.context import HostContext
from deepidea.flows.flow_lines import flow_lines, pair_keys
from deepidea.flows.sensors.projection import to_conn

__all__ = ["Published", "position_from", "publish"]

PATIENCE_S = 300.0  # for a server that does not take flows
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


@dataclass(slots=True)
class Published:
    """What was published so far: flows, losses by reason, and how often the server did not answer."""

    n_flows: int = 0
    n_retries: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


def position_from(text: bytes | str | None) -> Position | None:
    """Return the position that a stream keeps of a source."""
    return None if not text else cast("Position", json.loads(text))


def publish(
    source: Source,
    publisher: Publisher,
    stop: threading.Event,
    *,
    context: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Published:
    """Publish a source until it ends or ``stop`` is set; go on behind what the stream has of it.

    Parameters
    ----------
    source : Source
        Of schema ``conn``; or ``cicflow``, whose flows are told as ``conn``.
    publisher : Publisher
    stop : threading.Event
    context : bool
        Whether each flow carries what its hosts did lately, for detectors of ``conn+context``.
    progress : callable, optional
        Called with the flows so far, after each batch.

    Raises
    ------
    DataError
        The source gives other flows.
    SourceError
        The source fails, or the server takes nothing for :data:`PATIENCE_S`.
    """
    if source.schema not in ("conn", "cicflow", "any"):
        raise DataError(f"published flows must be of schema conn or cicflow, however: {source.name} is {source.schema}")
    if isinstance(source, SharedSource):
        raise DataError(
            f"a source to publish must be read by one process, however: {source.name} is shared; publish what fills it"
        )
    done, work = Published(), _Work(source, publisher, HostContext() if context else None)
    try:
        left = publisher.open(source.name)
        if left is not None and not context:
            work.n_flows = int(left["n_flows"])
        for batch, is_past in _from(source, left, stop, looks_back=context):
            flows = work.prepared(batch.flows)
            if not is_past:
                _send(work, flows, batch, done, stop)
                (progress or _ignore)(done.n_flows)
    finally:
        publisher.close()
    return done


def _ignore(_: int) -> None:
    """Take no note."""


@dataclass(slots=True)
class _Work:
    """What a publication works with, and how many flows of the source there were."""

    source: Source
    publisher: Publisher
    context: HostContext | None
    n_flows: int = 0

    def prepared(self, flows: pl.DataFrame) -> pl.DataFrame:
        """Return flows as `conn`, with what their hosts did."""
        self.n_flows += flows.height
        table = to_conn(flows) if self.source.schema == "cicflow" or "duration_us" in flows.columns else flows
        return table if self.context is None or not table.height else self.context.add(table)


def _from(
    source: Source, left: Position | None, stop: threading.Event, *, looks_back: bool
) -> Iterator[tuple[FlowBatch, bool]]:
    """Yield batches from where the source was left; where hosts are looked at, all before it again, as past ones."""
    if left is None or not looks_back:
        after = None if left is None else left["at"]
        yield from ((batch, False) for batch in source.batches(after, stop))
        return
    passed = int(left["n_flows"])
    for batch in source.batches(None, stop):
        old = min(passed, batch.flows.height)
        passed -= old
        if old:
            yield FlowBatch(batch.flows.head(old)), True
        if old < batch.flows.height or passed <= 0:
            yield FlowBatch(batch.flows.slice(old), batch.position, batch.skipped, batch.dropped), False


def _send(work: _Work, flows: pl.DataFrame, batch: FlowBatch, done: Published, stop: threading.Event) -> None:
    """Publish a batch; where the server is away, try again, and ask first whether the last try had reached it."""
    name, position = work.source.name, _told(batch, work)
    if not flows.height and position is None:
        return
    keys, lines = pair_keys(flows).to_list(), flow_lines(flows)
    began, pause, reached = time.monotonic(), _FIRST_PAUSE_S, False
    while not reached:
        try:
            if pause > _FIRST_PAUSE_S:
                left = work.publisher.open(name)
                reached = position is not None and left == json.loads(position)
            if not reached:
                work.publisher.publish(name, keys, lines, position)
            reached = True
        except SourceError:
            done.n_retries += 1
            if stop.is_set() or time.monotonic() - began > PATIENCE_S:
                raise
            stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
    done.n_flows += flows.height
    done.skipped.update(batch.skipped)
    done.dropped.update(batch.dropped)


def _told(batch: FlowBatch, work: _Work) -> str | None:
    """Return what the stream keeps of where the source stands."""
    if batch.position is None:
        return None
    kept: dict[str, Any] = {"at": dict(batch.position), "n_flows": work.n_flows}
    return json.dumps(kept, sort_keys=True)
