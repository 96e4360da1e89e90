"""Packets in, a file of flows out."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from deepidea.detection.sources.packets import PacketSource
from deepidea.flows.writing import Format, write_flows
from deepidea.packets.meter import FlowMeter


@dataclass(slots=True)
class Metered:
    """How many flows were written, and what was skipped or dropped, by reason."""

    n_flows: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


def meter_to_file(
    source: PacketSource,
    output: str | Path,
    stop: threading.Event,
    *,
    format: Format | None = None,
    progress: Callable[[int], None] | None = None,
) -> Metered:
    """Meter a source of packets until it ends or is stopped, and write its flows.

    Parameters
    ----------
    source : PacketSource
    output : path
        As :func:`deepidea.flows.writing.write_flows` takes it.
    stop : threading.Event
        Set by whoever wants a live source to end; the file is then whole.
    format : str, optional
        Where the name does not tell it.
    progress : callable, optional
        Called with the number of flows so far.
    """
    told = Metered()

    def tables() -> Iterator[pl.DataFrame]:
        for batch in source.batches(None, stop):
            told.n_flows += batch.flows.height
            told.skipped.update(batch.skipped)
            told.dropped.update(batch.dropped)
            if progress is not None:
                progress(told.n_flows)
            yield batch.flows

    write_flows(tables(), output, format=format, schema=FlowMeter(max_flows=1).finish().schema)
    return told
