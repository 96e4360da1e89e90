"""Publish flows of any source to a stream that several processes read, each flow with the context of its hosts.

Context is counted here, before the stream is partitioned: a flow's windows are those of its source and of its
destination, and no partitioning keeps all flows of every host together.

The stream keeps the position of the source. The memory of the source and of the windows is in a store of this machine,
with the batch itself (the outbox). Both are written before the batch is sent, so a restart sends the missing batch or
resumes behind it: no flow is sent twice or counted in a window twice.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import polars as pl

from deepidea.detection.flow_adapter import FlowAdapter
from deepidea.detection.publishers import Publisher
from deepidea.detection.sources.partitions import PartitionedSource
from deepidea.detection.sources.source import FlowBatch, Position, RememberingSource, Source
from deepidea.errors import DataError, SourceError
from deepidea.flows.context import HostContext
from deepidea.flows.datasets.installed import data_home
from deepidea.flows.flow_lines import flow_lines, pair_keys
from deepidea.store import batches, sources
from deepidea.store.alert_columns import ALERT_COLUMNS
from deepidea.store.memory import MemoryChange
from deepidea.store.store import Store, open_store

__all__ = ["Published", "position_from", "publish"]

log = logging.getLogger("deepidea.detection")

PATIENCE_S = 300.0  # for a server that does not take flows
_OUTBOX = "outbox"  # part of the memory: the batch that was sent last
_NO_ALERTS = pl.DataFrame(schema=ALERT_COLUMNS)
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
    memory: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Published:
    """Publish a source until it ends or ``stop`` is set; resume behind the position that the stream keeps of it.

    Parameters
    ----------
    source : Source
        Of schema ``conn``; or ``cicflow``, whose flows are projected to ``conn``.
    publisher : Publisher
    stop : threading.Event
    context : bool
        Whether each flow carries the context of its hosts, for detectors of ``conn+context``.
    memory : str, optional
        URL of the store that keeps positions, memory and outbox; in the user's data folder where absent.
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
        raise DataError(f"cannot publish {source.name}: its flows are of schema {source.schema}, not conn or cicflow")
    if isinstance(source, PartitionedSource):
        raise DataError(f"cannot publish {source.name}: processes share it; publish the source that fills it")
    done = Published()
    with open_store(memory or _default_memory()) as store:
        work = _Work(
            source, publisher, store, FlowAdapter(project=True, context=HostContext() if context else None), done
        )
        try:
            after = work.resume(publisher.open(source.name), stop)
            for batch in source.batches(after, stop):
                work.send(batch, stop)
                if progress is not None:
                    progress(done.n_flows)
        finally:
            publisher.close()
    return done


def _default_memory() -> str:
    folder = data_home()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'publish.db'}"


@dataclass(slots=True)
class _Work:
    """A publication: what is read, where it goes, and where what must be remembered is kept."""

    source: Source
    publisher: Publisher
    store: Store
    adapter: FlowAdapter
    done: Published
    before: Position | None = None  # what the stream has of the source

    @property
    def _name(self) -> str:
        return f"{self.publisher.name} from {self.source.name}"

    def resume(self, left: Position | None, stop: threading.Event) -> Position | None:
        """Return where to go on with the source, what must be remembered restored and a batch that is missing sent."""
        kept, memory = self.store.query(sources.resume, self._name)
        outbox = unpack_outbox(memory.get(_OUTBOX, []))
        # The store is one batch ahead of the stream: the process died between committing it and sending it, or the
        # sending failed. It is sent now. Any other difference means that the stream has a position that this store
        # never wrote.
        if kept != left and outbox is not None and outbox.before == left:
            self._put(outbox, stop)
            left = kept
        self.before = left
        if left is None:
            return None
        # Memory of another position would count flows that are published again, or miss some: better begin empty.
        failed = self.adapter.restore(memory) if kept == left else self.adapter.start_empty("it is of another position")
        for what, reason in failed.items():
            log.warning("cannot restore %s of %s: %s; it starts empty", what, self.source.name, reason)
        if isinstance(self.source, RememberingSource):
            self.source.restore(memory if kept == left else {})
        return cast("Position", left["at"])

    def send(self, batch: FlowBatch, stop: threading.Event) -> None:
        """Publish a batch, and remember what belongs to the position behind it."""
        flows = self.adapter(batch.flows) if batch.flows.height else batch.flows
        if not flows.height and batch.position is None:
            return
        position = None if batch.position is None else {"at": dict(batch.position)}
        # Memory and outbox are committed before the lines are sent. In the other order a crash in between would count
        # the flows twice in the windows of their hosts; in this order they are sent from the outbox.
        outbox = Outbox(self.before, position, pair_keys(flows).to_list(), flow_lines(flows))
        if position is not None:
            changes = (*batch.memory, *self.adapter.save(), MemoryChange(_OUTBOX, outbox.pack()))
            self.store.execute(batches.commit, self._name, position, _NO_ALERTS, n_flows=flows.height, memory=changes)
        self._put(outbox, stop)
        self.before = position or self.before
        self.done.n_flows += flows.height
        self.done.skipped.update(batch.skipped)
        self.done.dropped.update(batch.dropped)

    def _put(self, outbox: Outbox, stop: threading.Event) -> None:
        """Publish lines; where the server is away, try again, and first look whether the last try had reached it."""
        name, text = self.source.name, None if outbox.position is None else json.dumps(outbox.position, sort_keys=True)
        began, pause, reached = time.monotonic(), _FIRST_PAUSE_S, False
        while not reached:
            try:
                # A request that timed out may have reached the server: its position tells. Only then is the batch sent
                # again.
                if pause > _FIRST_PAUSE_S:
                    reached = outbox.position is not None and self.publisher.open(name) == outbox.position
                if not reached:
                    self.publisher.publish(name, outbox.keys, outbox.lines, text)
                reached = True
            except SourceError:
                self.done.n_retries += 1
                if stop.is_set() or time.monotonic() - began > PATIENCE_S:
                    raise
                stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)


@dataclass(frozen=True, slots=True)
class Outbox:
    """A batch that is about to be published: the positions before and behind it, and its lines with their keys."""

    before: Position | None
    position: Position | None
    keys: Sequence[str]
    lines: Sequence[bytes]

    def pack(self) -> bytes:
        """Return it as bytes, for `unpack_outbox`."""
        head = json.dumps([self.before, self.position, list(self.keys)]).encode()
        return zlib.compress(b"\n".join([head, *self.lines]), 1)


def unpack_outbox(entries: Sequence[bytes]) -> Outbox | None:
    """Return what was packed last, None where nothing was."""
    if not entries:
        return None
    head, *lines = zlib.decompress(entries[-1]).split(b"\n")
    before, position, keys = json.loads(head)
    return Outbox(before, position, keys, lines[: len(keys)])
