"""Sources of packets: captures, folders of them, pipes and live interfaces, metered into flows as they come."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from deepidea.detection.sources.source import BATCH_FLOWS, LINGER_S, FlowBatch, Position
from deepidea.errors import DataError, SourceError
from deepidea.packets.capture import PacketBlock, iter_capture
from deepidea.packets.flow_table import COUNTERS
from deepidea.packets.live import LiveCapture
from deepidea.packets.meter import FlowMeter

_CAPTURES = (".pcap", ".pcapng", ".cap", ".pcap.gz", ".pcapng.gz", ".cap.gz")
_NO_LOSS = ("metered", "out of order")  # of what a meter counts: neither skipped nor lost
_DROPPED = ("flow evicted",)  # told of early, because the table was full
_SLACK_US = 1_000_000  # by which the clock of a live meter runs behind, for packets that wait in the ring
_POLL_S = 0.1


def is_capture(name: str) -> bool:
    """Whether a file's name is that of a capture.

    Examples
    --------
    >>> is_capture("lab.pcap.gz"), is_capture("conn.log")
    (True, False)
    """
    return name.lower().endswith(_CAPTURES)


class PacketSource:
    """A capture, a folder of captures, ``-`` for one on the standard input, or ``interface:NAME``.

    Parameters
    ----------
    address : str
    follow : bool
        Whether to wait for more at the end of a capture that is being written, and for more files of a folder.
    **options
        Of :class:`deepidea.packets.meter.FlowMeter`.

    Notes
    -----
    A capture can be gone back to: its flows are metered anew, which gives the same ones, and those that were told of
    are passed over. So a restart costs the time of metering what came before.
    """

    schema = "cicflow"

    def __init__(self, address: str, *, follow: bool = False, **options: Any) -> None:
        self.name, self.follow = address, follow
        self.interface = address.removeprefix("interface:") if address.startswith("interface:") else None
        self.replayable = self.interface is None and address != "-"
        FlowMeter(**{**options, "max_flows": 1})  # options that it refuses are told now
        self._options = options

    def batches(self, after: Position | None, stop: threading.Event) -> Iterator[FlowBatch]:
        """Yield flows as they end: see :class:`deepidea.detection.sources.source.Source`."""
        meter = FlowMeter(**self._options)
        if self.interface is not None:
            yield from self._live(meter, stop)
            return
        passed = int(after["flows"]) if after is not None else 0
        before = {what: Counter[str]((after or {}).get(what, {})) for what in ("skipped", "dropped")}
        counted = {what: Counter[str]() for what in before}
        told, skipped = 0, Counter[str]()
        for batch in _batched(self._tables(meter, skipped, stop)):
            told += len(batch)
            new = batch.tail(max(0, told - passed)) if told - len(batch) < passed else batch
            for what, counts in zip(before, _since(meter, skipped), strict=True):
                counted[what].update(counts)
            news = {what: dict(counted[what] - before[what]) for what in before}  # what was told before is not again
            for what, counter in counted.items():
                before[what] |= counter
            position = {"flows": max(told, passed), **{what: dict(of) for what, of in before.items()}}
            yield FlowBatch(new, position if self.replayable else None, news["skipped"], news["dropped"])

    def _tables(self, meter: FlowMeter, skipped: Counter[str], stop: threading.Event) -> Iterator[pl.DataFrame]:
        for source in self._captures(stop):
            told = last = time.monotonic()
            for block in iter_capture(source, skipped):
                meter.feed(block)
                now = time.monotonic()
                if len(block):
                    last = now
                elif not self.replayable:  # a pipe that is quiet: its clock goes on as ours does
                    meter.advance(round(1e6 * (now - last)) - _SLACK_US)
                if not len(block) or now - told >= LINGER_S / 2 or meter.n_waiting >= BATCH_FLOWS // 2:
                    yield meter.take()
                    told = now
                if stop.is_set():
                    break
        # What is under way when a replayable source is stopped is not told: the next run meters it whole.
        if not (stop.is_set() and self.replayable):
            yield meter.finish()

    def _captures(self, stop: threading.Event) -> Iterator[str | Path | BinaryIO]:
        path = Path(self.name)
        if self.name == "-":
            yield _Pipe(sys.stdin.buffer)  # type: ignore[misc]  # all that is asked of it is read1
        elif path.is_dir():
            yield from self._folder(path, stop)
        elif self.follow:
            with _Growing(path, stop) as stream:
                yield stream
        else:
            yield path

    def _folder(self, folder: Path, stop: threading.Event) -> Iterator[str | Path | BinaryIO]:
        """Yield the captures of a folder by name; when it is followed, the newest once there is one after it."""
        done: set[Path] = set()
        while not stop.is_set():
            found = sorted(path for path in folder.iterdir() if is_capture(path.name))
            if not found and not self.follow:
                raise DataError(f"a folder must hold captures ({', '.join(_CAPTURES)}), however: {folder} holds none")
            ready = [path for path in (found[:-1] if self.follow else found) if path not in done]
            for path in ready:
                done.add(path)
                yield path
            if not self.follow:
                return
            stop.wait(_POLL_S)

    def _live(self, meter: FlowMeter, stop: threading.Event) -> Iterator[FlowBatch]:
        assert self.interface is not None
        with LiveCapture(self.interface) as capture:
            tables: list[pl.DataFrame] = []
            began = time.monotonic()
            try:
                for block in _blocks(capture, stop):
                    tables.append(_meter_live(meter, block))
                    if time.monotonic() - began >= LINGER_S or sum(map(len, tables)) >= BATCH_FLOWS:
                        yield self._live_batch(meter, capture, tables)
                        tables, began = [], time.monotonic()
            except SourceError:  # the interface is gone: what was seen of it is told before that is
                yield self._live_batch(meter, capture, [*tables, meter.finish()])
                raise
            yield self._live_batch(meter, capture, [*tables, meter.finish()])

    def _live_batch(self, meter: FlowMeter, capture: LiveCapture, tables: list[pl.DataFrame]) -> FlowBatch:
        skipped, dropped = _since(meter, Counter())
        lost = capture.count_drops()
        return FlowBatch(
            pl.concat(tables), None, skipped, dropped | ({"packets dropped by the kernel": lost} if lost else {})
        )


class InterfaceSource(PacketSource):
    """A live interface, by its name alone.

    Examples
    --------
    >>> InterfaceSource("eth0").replayable
    False
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(f"interface:{name}", **options)


def _blocks(capture: LiveCapture, stop: threading.Event) -> Iterator[PacketBlock | None]:
    """Yield blocks of packets, None where none comes for a while; when told to stop, what came until then."""
    while not stop.is_set():
        yield capture.read(LINGER_S / 2)
    yield from capture.drain()


def _meter_live(meter: FlowMeter, block: PacketBlock | None) -> pl.DataFrame:
    """Meter a block, or where none came, let the clock tell which flows have ended."""
    return meter.tick(time.time_ns() // 1000 - _SLACK_US) if block is None else meter.add(block)


def _batched(tables: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield tables of at most BATCH_FLOWS; those that come without flows tell that time goes on."""
    for table in tables:
        yield from table.iter_slices(BATCH_FLOWS) if len(table) else [table]


def _since(meter: FlowMeter, skipped: Counter[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Return what was skipped and what was dropped since the last call, and begin to count anew."""
    counts = meter.take_counters()
    told = {reason: n for reason, n in counts.items() if n and reason not in (*_NO_LOSS, *_DROPPED)}
    told |= dict(skipped)
    skipped.clear()
    return told, {reason: counts[reason] for reason in _DROPPED if counts[reason]}


class _Growing:
    """A file that is being written: its end is that of the reading only once it is told to stop."""

    def __init__(self, path: Path, stop: threading.Event) -> None:
        self.stop = stop
        try:
            self.file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed by the context that this is
        except OSError as error:
            raise SourceError(
                f"a capture must be a file that can be read, however: {path}: {error.strerror}"
            ) from error

    def read1(self, n: int) -> bytes | None:
        """Return what has been written since; None where nothing was for a while."""
        return self.file.read(n) or (b"" if self.stop.wait(_POLL_S) else None)

    def __enter__(self) -> BinaryIO:
        return self  # type: ignore[return-value]  # all that is asked of it is read1

    def __exit__(self, *_: object) -> None:
        self.file.close()


class _Pipe:
    """A pipe that says so when nothing comes."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def read1(self, n: int) -> bytes | None:
        """Return what has arrived; None where nothing has for a while."""
        ready, _, _ = select.select([self.stream], [], [], _POLL_S)
        return os.read(self.stream.fileno(), n) if ready else None


assert set(_NO_LOSS) | set(_DROPPED) <= set(COUNTERS)
