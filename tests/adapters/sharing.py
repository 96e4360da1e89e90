"""A process's part in a shared stream, in this process: it reads, and stores positions in a common dict."""

from __future__ import annotations

import threading
import time

import polars as pl

from deepidea.detection.sources.partitions import HeldPartitions, PartitionedSource
from deepidea.detection.sources.source import FlowBatch, Position


class Reading:
    """Reads a source in a thread of its own for the length of a block."""

    def __init__(self, source: PartitionedSource, stored: dict[str, Position]) -> None:
        self.source, self.stored, self.stop = source, stored, threading.Event()
        self.held = HeldPartitions(source.name, stored.get)
        self.flows: list[pl.DataFrame] = []
        self.batches: list[FlowBatch] = []
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            for batch in self.source.batches_of_partitions(self.held, self.stop):
                if batch.partition is not None and self.held.is_current(batch.partition):
                    self._take(batch)
        except Exception as error:  # noqa: BLE001  # the test looks at it
            self.error = error

    def _take(self, batch: FlowBatch) -> None:
        partition = batch.partition
        assert partition is not None
        if self.stored.get(partition.name) != partition.after:
            self.held.mark_refused(partition, batch.flows.height)
        else:
            assert batch.position is not None
            self.stored[partition.name] = batch.position
            self.flows.append(batch.flows)
            self.batches.append(batch)
            self.held.mark_stored(partition, batch.position)

    def __enter__(self) -> Reading:
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop.set()
        self.thread.join(30)

    @property
    def n_flows(self) -> int:
        return sum(table.height for table in self.flows)

    @property
    def n_dropped(self) -> int:
        return sum(sum(batch.dropped.values()) for batch in self.batches)


def wait_for(*readings: Reading, n: int, within_s: float = 60.0) -> None:
    """Wait until so many flows were read by all together."""
    deadline = time.monotonic() + within_s
    while sum(reading.n_flows for reading in readings) < n and time.monotonic() < deadline:
        time.sleep(0.02)
