"""Meter a source of packets into a file of flows."""

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
    """Number of flows written; packets skipped and dropped, by reason."""

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
    """Write the flows of a source of packets until it ends or ``stop`` is set; the file is complete either way.

    Parameters
    ----------
    source : PacketSource
    output : path
        As :func:`deepidea.flows.writing.write_flows` takes it.
    stop : threading.Event
        Ends a live source.
    format : str, optional
        Of the file; by default that of its suffix.
    progress : callable, optional
        Called with the number of flows so far.
    """
    done = Metered()

    def tables() -> Iterator[pl.DataFrame]:
        for batch in source.batches(None, stop):
            done.n_flows += batch.flows.height
            done.skipped.update(batch.skipped)
            done.dropped.update(batch.dropped)
            if progress is not None:
                progress(done.n_flows)
            yield batch.flows

    # The schema is that of an empty meter: a capture without flows still gives a file with its columns.
    write_flows(tables(), output, format=format, schema=FlowMeter(max_flows=1).finish().schema)
    return done
