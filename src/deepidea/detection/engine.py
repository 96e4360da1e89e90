"""The detection loop, for replay and live alike: read flows, score them, store alerts and the position to go on from.

A thread reads the source into a queue of few batches; the loop scores each and stores what it led to in one
transaction, the source's new position with it. Where the loop falls behind, the queue is full, the reader waits, and a
live source's own buffer fills until the system drops and counts. So memory is bounded, and nothing is lost uncounted.
After a crash a replayable source goes on from the stored position: what had been stored is not read again, what had not
is, and an alert's id depends on its flow alone, so no alert is stored twice.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl

from deepidea.detection.alerting import DEFAULT_THRESHOLDS, Thresholds, name_attacks
from deepidea.detection.alerts import make_alerts
from deepidea.detection.behaviour.findings import BehaviourDetector
from deepidea.detection.drift import DriftMonitor
from deepidea.detection.flow_adapter import FlowAdapter, FoundBehaviours, flow_adapter
from deepidea.detection.health import Heartbeat, json_bounds
from deepidea.detection.rates import flows_by_minute
from deepidea.detection.sources.partitions import HeldPartitions, PartitionedSource
from deepidea.detection.sources.source import FlowBatch, Partition, Position, RememberingSource, Source
from deepidea.errors import StalePositionError, StoreError
from deepidea.flows.context import CONTEXT_COLUMNS
from deepidea.flows.flow_lines import has_context
from deepidea.model.detector import Detector
from deepidea.store import batches, engines, sources
from deepidea.store.batches import Committed
from deepidea.store.drift import BinnedFlows
from deepidea.store.engines import EngineStatus
from deepidea.store.memory import MAX_MEMORY_BYTES, MemoryChange
from deepidea.store.store import Store

log = logging.getLogger("deepidea.detection")

QUEUED_BATCHES = 4
STORE_PATIENCE_S = 300.0  # how long a store may be away before detection gives up
_FIRST_PAUSE_S = 0.1
_LATENCIES = 100_000  # of the newest flows
_CONTEXT = [column.name for column in CONTEXT_COLUMNS]


@dataclass(slots=True)
class Progress:
    """What the engine has done since it began; read by a status line, at any time.

    ``latencies_s`` are the seconds from when a flow's end was known to when its batch was stored, one a batch, and
    ``batch_flows`` the flows of each. ``partitions`` is of a source that several processes read, None of any other.
    """

    n_flows: int = 0
    n_alerts: int = 0
    n_suppressed: int = 0
    n_duplicates: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    n_queued: int = 0
    n_store_retries: int = 0
    n_forgotten: int = 0
    began_s: float = field(default_factory=time.monotonic)
    latencies_s: list[float] = field(default_factory=list)
    batch_flows: list[int] = field(default_factory=list)
    held: HeldPartitions | None = None

    @property
    def flows_per_s(self) -> float:
        """Mean rate since the beginning."""
        return self.n_flows / max(time.monotonic() - self.began_s, 1e-9)

    def latency_s(self, fraction: float, *, newest: int | None = None) -> float:
        """Return the latency that this fraction of the flows did not exceed, in seconds; 0 where there were none.

        Of all batches, or of so many of the newest.
        """
        first = 0 if newest is None else max(len(self.batch_flows) - newest, 0)
        rows = sorted(zip(self.latencies_s[first:], self.batch_flows[first:], strict=True))
        wanted, seen = fraction * sum(n for _, n in rows), 0
        for latency, n in rows:
            seen += n
            if seen >= wanted:
                return latency
        return 0.0


class _ScoredBatch(NamedTuple):
    """A batch's flows with the columns that the detector wants, as its schema types them, and its verdicts."""

    prepared: pl.DataFrame
    conformed: pl.DataFrame
    verdicts: pl.DataFrame


def fingerprint(detector: Detector) -> str:
    """Return what names a detector in its alerts: a hash of its network, the same after calibration."""
    return detector.fingerprint


class Engine:
    """Runs a detector over a source and stores its alerts.

    Parameters
    ----------
    source : Source or PartitionedSource
    detector : Detector
    store : Store
    thresholds : Thresholds, optional
        Flows above them become alerts. Where absent, flows more likely an attack than benign; the class of a verdict
        would raise too many, since it corrects for the rarity of attacks in training.
    on_batch : callable, optional
        Called with the :class:`Progress` after each batch.
    name : str
        Of the detector, for people: what its file is called.
    sink_errors : callable, optional
        Returns the last errors of sinks that reject alerts, by sink; they are part of the engine's state.
    newest : callable, optional
        Called before each batch; returns a detector of the same schema that is to take over, with its thresholds, or
        None where the present one goes on.
    behaviours : callable, optional
        Makes what finds behaviours in flows; without it, alerts come from single flows alone.
    flow_alerts : bool
        Whether single flows above the thresholds raise alerts beside findings. Each flow without an address or a time,
        in which no behaviour can be found, does in any case.

    Raises
    ------
    DataError
        The detector reads flows of another schema than the source gives, and there is no way from one to the other.
    """

    def __init__(
        self,
        source: Source | PartitionedSource,
        detector: Detector,
        store: Store,
        *,
        thresholds: Thresholds | None = None,
        on_batch: Callable[[Progress], None] | None = None,
        name: str = "",
        sink_errors: Callable[[], Mapping[str, str]] = dict,
        newest: Callable[[], tuple[Detector, Thresholds | None] | None] | None = None,
        behaviours: Callable[[], BehaviourDetector] | None = None,
        flow_alerts: bool = True,
    ) -> None:
        self.source, self.detector, self.store, self.thresholds = source, detector, store, thresholds
        self.progress = Progress()
        self._behaviours, self._flow_alerts = behaviours, flow_alerts
        self._on_batch = on_batch or (lambda _: None)
        self._newest = newest or (lambda: None)
        self._prepare = self._new_adapter()
        self._model = fingerprint(detector)
        self._drift = DriftMonitor(detector, self._model)
        self._sink_errors = sink_errors
        self._health = Heartbeat(source.name, self._about(name))
        self._halt = threading.Event()
        self._adapters: dict[str, tuple[int, FlowAdapter]] = {}  # by partition: its generation, and the adapter
        if isinstance(source, PartitionedSource):
            self.progress.held = HeldPartitions(source.name, lambda name: self._resume(name)[0])

    def _new_adapter(self) -> FlowAdapter:
        """Return a way from the source's flows to the detector's, without memory."""
        made = flow_adapter(self.source.schema, self.detector)
        made.behaviours = self._behaviours() if self._behaviours is not None else None
        return made

    def _about(self, name: str) -> dict[str, Any]:
        """Return the part of the engine's state that describes its detector."""
        thresholds = self.thresholds
        limits = {} if thresholds is None else {"bounds": json_bounds(thresholds.bounds), "fpr": thresholds.fpr}
        known = {"has_reference": self.detector.reference is not None}
        return {"model": self._model, "detector": name, "schema": self.detector.schema.name, **known, **limits}

    def run(self, stop: threading.Event) -> Progress:
        """Work until the source ends or ``stop`` is set and what was read is stored; return what was done.

        Raises
        ------
        DeepIDEAError
            What the source raised, or :class:`~deepidea.errors.StoreError` where the store stayed away. What was
            committed before stands, and the next run goes on behind it.
        """
        halt = self._halt = _Either(stop)
        try:
            for batch in self._read(halt):
                self._process(batch, stop)
        except BaseException as error:
            halt.set()  # the reader must not wait for a loop that is gone
            if self.progress.held is not None:
                self.progress.held.end()
            self._report("failed", str(error) or type(error).__name__)
            raise
        self._report("ended")
        return self.progress

    def _report(self, status: EngineStatus = "live", error: str | None = None) -> None:
        """Store the engine's state; failures are counted, not raised."""
        try:
            self.store.execute(
                engines.put, self._health.state(self.progress, status, error=error, sink_errors=self._sink_errors())
            )
        except StoreError:
            self.progress.n_store_retries += 1  # counted in the next state

    def _read(self, halt: _Either) -> Iterator[FlowBatch]:
        """Yield the batches of the source, read by a thread of its own."""
        queued: queue.Queue[FlowBatch | BaseException | None] = queue.Queue(QUEUED_BATCHES)
        reader = threading.Thread(target=self._fill, args=(queued, halt), name="deepidea-source", daemon=True)
        reader.start()
        try:
            while (item := queued.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                self.progress.n_queued = queued.qsize()
                yield item
        finally:
            halt.set()
            while reader.is_alive():  # it may be waiting to put one more
                _drop_one(queued)
                reader.join(0.05)

    def _fill(self, queued: queue.Queue[FlowBatch | BaseException | None], halt: _Either) -> None:
        try:
            for batch in self._batches(halt):
                queued.put(batch)
            queued.put(None)
        except BaseException as error:  # noqa: BLE001  # raised again where the batches are taken from
            queued.put(error)

    def _batches(self, halt: _Either) -> Iterator[FlowBatch]:
        """Yield what is new since the store's position, with the memory that belongs to it."""
        if isinstance(self.source, PartitionedSource):
            assert self.progress.held is not None  # made with the source
            yield from self.source.batches_of_partitions(self.progress.held, halt)
            return
        after, memory = self._resume(self.source.name) if self.source.replayable else (None, {})
        self._restore(self._prepare, after, memory)
        if isinstance(self.source, RememberingSource):
            self.source.restore(memory)
        yield from self.source.batches(after, halt)

    def _restore(self, adapter: FlowAdapter, after: Position | None, memory: Mapping[str, list[bytes]]) -> None:
        """Give an adapter back what it knew at a position."""
        if after is None:
            return
        for what, reason in adapter.restore(memory).items():
            log.warning("cannot restore %s of %s: %s; it starts empty", what, self.source.name, reason)

    def _take_newest(self) -> None:
        """Let another detector take over where one is to: between batches, so that each flow is scored by one alone."""
        found = self._newest()
        if found is not None:
            self.detector, self.thresholds = found
            self._model = fingerprint(self.detector)
            self._drift = DriftMonitor(self.detector, self._model)
            self._health.about = self._about(self._health.about["detector"])

    def _process(self, batch: FlowBatch, stop: threading.Event) -> None:
        self._take_newest()
        at = self.progress
        if at.held is None:
            done = self._persist(batch, batch.flows, self._score(self._prepare(batch.flows)), self._prepare, stop)
        else:
            shared = self._process_partition(batch, at.held, stop)
            if shared is None:
                self._on_batch(at)
                return
            done = shared
        at.n_flows += batch.flows.height
        at.n_alerts += done.n_alerts
        at.n_suppressed += done.n_suppressed
        at.n_duplicates += done.n_duplicates
        at.skipped.update(batch.skipped)
        at.dropped.update(batch.dropped)
        if batch.flows.height:
            at.latencies_s.append(time.time() - batch.received_s)
            at.batch_flows.append(batch.flows.height)
            del at.latencies_s[:-_LATENCIES], at.batch_flows[:-_LATENCIES]
        if self._health.is_due:
            self._report()
        self._on_batch(at)

    def _process_partition(self, batch: FlowBatch, held: HeldPartitions, stop: threading.Event) -> Committed | None:
        """Store what a batch of a partition leads to; None where there is nothing to store, or another process did."""
        partition = batch.partition
        if partition is None or not held.is_current(partition):
            return None
        adapter = self._adapter_of(partition, held)
        scored = self._score(batch.flows if has_context(batch.flows) else adapter(batch.flows))
        try:
            done = self._persist(batch, batch.flows.drop(_CONTEXT, strict=False), scored, adapter, stop)
        except StalePositionError:
            held.mark_refused(partition, batch.flows.height)
            return None
        held.mark_stored(partition, batch.position)
        return done

    def _adapter_of(self, partition: Partition, held: HeldPartitions) -> FlowAdapter:
        """Return what remembers the hosts of a partition, anew where its generation is new."""
        generation, adapter = self._adapters.get(partition.name, (0, self._prepare))
        if generation != partition.generation:
            names = set(map(held.name_of, held.numbers))
            self._adapters = {name: known for name, known in self._adapters.items() if name in names}
            adapter = self._new_adapter()
            self._adapters[partition.name] = (partition.generation, adapter)
            position, memory = self._resume(partition.name)
            if position == partition.after:  # else another process has stored this batch, and ours is refused
                self._restore(adapter, position, memory)
        return adapter

    def alerts_of(self, flows: pl.DataFrame) -> pl.DataFrame:
        """Return the alerts that a table of flows gives rise to."""
        return self._alerts(flows, self._score(self._prepare(flows)), self._prepare.find(flows))

    def _persist(
        self,
        batch: FlowBatch,
        flows: pl.DataFrame,
        scored: _ScoredBatch,
        adapter: FlowAdapter,
        stop: threading.Event,
    ) -> Committed:
        binned = self._drift.count(scored.conformed, scored.verdicts["score"], flows)
        found = adapter.find(flows)  # before its memory is saved
        self.progress.n_forgotten = adapter.n_forgotten
        saved = adapter.save() if batch.position is not None else ()
        alerts = self._alerts(flows, scored, found)
        return self._commit(batch, alerts, binned, tuple(map(self._bounded, (*batch.memory, *saved))), stop)

    def _bounded(self, change: MemoryChange) -> MemoryChange:
        """Return a change, or where it is too large for the store, one that empties its part."""
        if change.data is None or len(change.data) <= MAX_MEMORY_BYTES:
            return change
        log.warning(
            "cannot save %s of %s: %s bytes exceed the limit; a restart begins without them",
            change.part,
            self.source.name,
            f"{len(change.data):,}",
        )
        return MemoryChange(change.part, None)

    def _score(self, prepared: pl.DataFrame) -> _ScoredBatch:
        conformed = self.detector.schema.conform(prepared)
        return _ScoredBatch(prepared, conformed, self.detector.score_conformed(conformed))

    def _alerts(self, flows: pl.DataFrame, scored: _ScoredBatch, found: FoundBehaviours) -> pl.DataFrame:
        """Return the alerts of findings, and of single flows where they are wanted or all that can be had."""
        prepared, _, verdicts = scored
        # a projection and the context of hosts are not to be had again from the flow alone
        seen = prepared.select(self.detector.schema.features) if self._prepare.changes else None
        named = name_attacks(verdicts, self.detector.benign)
        chosen = (self.thresholds or DEFAULT_THRESHOLDS).above_threshold(verdicts) & (self._flow_alerts | found.unseen)
        of_flows = make_alerts(flows, named, chosen, model=self._model, features=seen)
        return pl.concat([_finding_alerts(flows, named, found.findings, self._model, seen), of_flows])

    def _commit(
        self,
        batch: FlowBatch,
        alerts: pl.DataFrame,
        binned: Sequence[BinnedFlows],
        memory: Sequence[MemoryChange],
        stop: threading.Event,
    ) -> Committed:
        """Store a batch; where the store is away, try again, and ask first whether the last try had reached it."""
        deadline, pause = time.monotonic() + STORE_PATIENCE_S, _FIRST_PAUSE_S
        minutes = flows_by_minute(batch.flows)
        while True:
            try:
                if pause > _FIRST_PAUSE_S and self._is_stored(batch):
                    return Committed(alerts.height, 0, 0)
                return self.store.execute(
                    batches.commit,
                    self.source.name,
                    batch.position,
                    alerts,
                    n_flows=batch.flows.height,
                    skipped=batch.skipped,
                    dropped=batch.dropped,
                    flow_minutes=minutes,
                    binned=binned,
                    partition=batch.partition,
                    memory=memory,
                )
            except StalePositionError:
                raise
            except StoreError:
                self.progress.n_store_retries += 1
                if stop.is_set() or time.monotonic() + pause > deadline:
                    raise
            stop.wait(pause)
            pause = min(2 * pause, 10.0)

    def _resume(self, name: str) -> tuple[Position | None, Mapping[str, list[bytes]]]:
        """Return position and memory of a source or partition; where the store is away, try again."""
        deadline, pause = time.monotonic() + STORE_PATIENCE_S, _FIRST_PAUSE_S
        while True:
            try:
                return self.store.query(sources.resume, name)
            except StoreError:
                self.progress.n_store_retries += 1
                if self._halt.is_set() or time.monotonic() + pause > deadline:
                    raise
            self._halt.wait(pause)
            pause = min(2 * pause, 10.0)

    def _is_stored(self, batch: FlowBatch) -> bool:
        name = batch.partition.name if batch.partition else self.source.name
        return batch.position is not None and self.store.query(sources.position, name) == batch.position


class _Either(threading.Event):
    """An event that is set when it is, or when another one is."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or self._other.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait in short steps, so that either is seen."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = 0.05 if deadline is None else min(0.05, deadline - time.monotonic())
            if left <= 0:
                break
            super().wait(left)
        return self.is_set()


def _finding_alerts(
    flows: pl.DataFrame, verdicts: pl.DataFrame, found: pl.DataFrame, model: str, features: pl.DataFrame | None
) -> pl.DataFrame:
    """Return an alert for each finding, with the flow that completed its evidence; one flow may complete several."""
    rows = found["row"]
    return make_alerts(
        flows[rows],
        verdicts[rows],
        pl.repeat(True, found.height, eager=True),
        model=model,
        features=None if features is None else features[rows],
        findings=found.drop("row"),
    )


def _drop_one(queued: queue.Queue[FlowBatch | BaseException | None]) -> None:
    try:
        queued.get_nowait()
    except queue.Empty:
        return
