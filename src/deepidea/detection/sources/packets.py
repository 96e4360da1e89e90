"""Sources of packets: captures, folders of them, pipes and live interfaces, metered into flows as they come."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import select
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import polars as pl

from deepidea.detection.sources.positions import (
    EARLIER_RELEASE,
    ReadFile,
    ReadFiles,
    beginning_of_file,
    file_of,
    path_name,
    warn_of_copies,
)
from deepidea.detection.sources.registry import PCAP_MARKS
from deepidea.detection.sources.source import BATCH_FLOWS, LINGER_S, FlowBatch, Position
from deepidea.errors import DataError, FileFormatError, SourceError
from deepidea.packets.capture import PacketBlock, Place, iter_capture
from deepidea.packets.flow_table import COUNTERS
from deepidea.packets.live import LiveCapture
from deepidea.packets.meter import FlowMeter
from deepidea.store.memory import MemoryChange

log = logging.getLogger("deepidea.detection")

_NO_LOSS = ("metered", "out of order")  # of what a meter counts: neither skipped nor lost
_DROPPED = ("flow evicted",)  # because the table was full
_SLACK_US = 1_000_000  # by which the clock of a live meter runs behind, for packets that wait in the ring
_POLL_S = 0.1
_SAVE_EVERY_S = 2.0  # at most so often flows under way are saved, but for the ends of captures
_BEGINNING_BYTES = 1 << 12  # that name a capture: its header and first packets
_LONGEST_BEGINNING_BYTES = 1 << 19  # where the first packet is longer
_METER, _CHECKPOINT, _CAPTURES = "meter", "checkpoint", "captures"  # parts of the memory


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
    A restart goes on where the position stands. The flows under way are saved with it from time to time, and at the end
    of each capture: packets between there and the position are metered again, and what comes of them is not repeated.
    """

    schema = "cicflow"

    def __init__(self, address: str, *, follow: bool = False, **options: Any) -> None:
        self.follow = follow
        self.interface = address.removeprefix("interface:") if address.startswith("interface:") else None
        self.replayable = self.interface is None and address != "-"
        self.name = path_name(address) if self.replayable else address
        # A real table takes hundreds of megabytes; for a check of the options one flow will do.
        FlowMeter(**{**options, "max_flows": 1})  # refuses wrong options now
        self._options = options
        self._memory: Mapping[str, Sequence[bytes]] = {}

    def restore(self, memory: Mapping[str, Sequence[bytes]]) -> None:
        """Take what was remembered with the position that `batches` is called with next."""
        self._memory = memory

    def batches(self, after: Position | None, stop: threading.Event) -> Iterator[FlowBatch]:
        """Yield flows as they end: see :class:`deepidea.detection.sources.source.Source`."""
        meter = FlowMeter(**self._options)
        if self.interface is not None:
            yield from self._live(meter, stop)
        elif self.replayable:
            make_meter = partial(FlowMeter, **self._options)
            replay = _Replay(Path(self.name), make_meter, stop, follow=self.follow)
            yield from replay.batches(after, self._memory)
        else:
            yield from _pipe_batches(meter, stop)

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
            except SourceError:  # the interface is gone: its last flows come before the error
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
    """Yield blocks of packets, None where none comes for a while; once `stop` is set, what the kernel still holds."""
    while not stop.is_set():
        yield capture.read(LINGER_S / 2)
    yield from capture.drain()


def _meter_live(meter: FlowMeter, block: PacketBlock | None) -> pl.DataFrame:
    """Meter a block, or where none came, end the flows that have timed out by the clock."""
    return meter.tick(time.time_ns() // 1000 - _SLACK_US) if block is None else meter.add(block)


def _batched(tables: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield tables of at most BATCH_FLOWS; empty ones are a sign of life."""
    for table in tables:
        yield from table.iter_slices(BATCH_FLOWS) if len(table) else [table]


def _since(meter: FlowMeter, skipped: Counter[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Return what was skipped and what was dropped since the last call, and begin to count anew."""
    counts = meter.take_counters()
    skips = {reason: n for reason, n in counts.items() if n and reason not in (*_NO_LOSS, *_DROPPED)}
    skips |= dict(skipped)
    skipped.clear()
    return skips, {reason: counts[reason] for reason in _DROPPED if counts[reason]}


def _pipe_batches(meter: FlowMeter, stop: threading.Event) -> Iterator[FlowBatch]:
    """Yield the flows of a capture on the standard input."""
    skipped = Counter[str]()
    for table in _batched(_pipe_tables(meter, skipped, stop)):
        yield FlowBatch(table, None, *_since(meter, skipped))


def _pipe_tables(meter: FlowMeter, skipped: Counter[str], stop: threading.Event) -> Iterator[pl.DataFrame]:
    taken = last = time.monotonic()
    for block in iter_capture(_Pipe(sys.stdin.buffer), skipped):  # type: ignore[arg-type]  # only read1 is called
        meter.feed(block)
        now = time.monotonic()
        last = now if len(block) else last
        # Without it the last flows before a pause would wait for the first packet after it. The clock lags a second,
        # for packets that are already captured and on their way here.
        meter.advance(round(1e6 * (now - last)) - _SLACK_US)  # the clock of a quiet pipe goes on as ours does
        if _is_due(block, meter, now - taken):
            yield meter.take()
            taken = now
        if stop.is_set():
            break
    yield meter.finish()


def _is_due(block: PacketBlock, meter: FlowMeter, since_s: float) -> bool:
    return not len(block) or since_s >= LINGER_S / 2 or meter.n_waiting >= BATCH_FLOWS // 2


class _Replay:
    """Reads captures on from a position, and adds to each batch where to go on and what to remember.

    The position names a capture and the place in it up to which packets were metered and all flows handed over that had
    ended by then. Where one table of flows makes several batches, the position of the earlier ones stays at the place
    before and has in ``record`` how many flows behind it were handed over: flows end in one order however packets are
    cut into blocks, so leaving out the first ``record`` flows behind the place repeats none and loses none.

    The flows under way are saved as a checkpoint now and then, and at the end of each capture. To go on, the packets
    between checkpoint and place are metered once more.
    """

    def __init__(
        self,
        root: Path,
        make_meter: Callable[[], FlowMeter],
        stop: threading.Event,
        *,
        follow: bool,
    ) -> None:
        self._root, self._is_folder, self._make_meter, self._meter = root, root.is_dir(), make_meter, make_meter()
        self._stop, self._follow = stop, follow
        self._beginnings: dict[Path, tuple[tuple[int, int, int], bytes]] = {}
        self._skipped = Counter[str]()
        self._done = ReadFiles()
        self._copies: set[Path] = set()  # that were warned of
        self._file: ReadFile | None = None  # the one that is being read, or was read last
        self._repeated = self._record = 0  # flows that come next and were handed over before the restart
        self._save_at = 0.0

    def batches(self, after: Position | None, memory: Mapping[str, Sequence[bytes]]) -> Iterator[FlowBatch]:
        """Yield batches from behind a position."""
        if after is not None:
            self._resume(after, memory)
        # The process before had read all and was handing over the flows under way: they come in the same order again.
        if self._repeated and self._file is not None and self._file.size is not None:  # it had begun to finish
            yield from self._finish()
        for path in self._captures():
            yield from self._read(path)
        if not self._stop.is_set():  # else the next run goes on with the flows under way
            yield from self._finish()

    def _finish(self) -> Iterator[FlowBatch]:
        """Yield the flows under way at the end of what there is."""
        place, size = (_START, None) if self._file is None else (self._file.place, self._file.size)
        yield from self._hand_over(self._meter.finish(), place, size, save=True)

    # --- going on ----------------------------------------------------------------------------------------------------

    def _resume(self, after: Position, memory: Mapping[str, Sequence[bytes]]) -> None:
        self._file = file_of(after, {"flows", "skipped"}, str(self._root))
        if self._file is None:
            log.warning(EARLIER_RELEASE, self._root)
            return
        self._done = ReadFiles.unpack(memory.get(_CAPTURES, []))
        self._repeated = self._record = int(after["record"])
        try:
            self._remeter(self._file, self._restore_meter(self._file, memory))
        except (ValueError, LookupError) as error:
            self._start_anew(self._file, error)

    def _restore_meter(self, file: ReadFile, memory: Mapping[str, Sequence[bytes]]) -> Mapping[str, Any]:
        """Restore the meter from its checkpoint, and return the place in a file that it is of."""
        if not memory.get(_METER):
            if file.place == _START:
                return _START
            raise ValueError("none were saved")
        self._meter.restore(memory[_METER][-1])
        checkpoint = ReadFile.from_json(json.loads(memory[_CHECKPOINT][-1]))
        # A checkpoint at the end of the file before is as good: from there to the place all packets are of this file.
        return checkpoint.place if checkpoint.is_same(file) else _START  # else it is the end of the file before

    def _remeter(self, file: ReadFile, begin: Mapping[str, Any]) -> None:
        """Meter the packets of a file from a place to where it was left; what comes of them was handed over."""
        if begin["offset"] < file.place["offset"]:
            path = next((path for path in self._paths() if file.is_beginning(self._beginning(path))), None)
            if path is None or _is_shorter(path, file):
                raise ValueError("their capture is gone or was replaced")
            # What ends on the way was handed over and stored before the restart: it is taken out and dropped.
            # Afterwards the meter is as it was at the place.
            for block in iter_capture(path, after=_behind(begin), until=file.place["offset"]):
                self._meter.feed(block)
                self._meter.take()
        self._meter.take_counters()

    def _start_anew(self, file: ReadFile, reason: Exception) -> None:
        """Go on without a checkpoint: meter the file again from its beginning, or start with an empty meter."""
        self._meter = self._make_meter()
        done = "its packets are metered again"
        try:
            self._remeter(file, _START)
        except (ValueError, FileFormatError):
            # Nothing can be rebuilt: the packets behind the place are metered as if nothing had come before. Their
            # flows may begin later than they did, but none is reported twice.
            self._meter, self._repeated, self._record = self._make_meter(), 0, 0
            done = "the meter starts empty"
        log.warning("cannot restore the flows under way of %s: %s; %s", self._root, reason, done)

    # --- which captures ----------------------------------------------------------------------------------------------

    def _captures(self) -> Iterator[Path]:
        """Yield captures to read: the one that was being read, then others in the order of their first packets."""
        if not self._is_folder:
            yield self._root
            return
        # It was being read when the process ended, so it goes first, whatever has come into the folder meanwhile.
        if self._file is not None and self._file.size is None:
            yield from (path for path in self._paths() if self._file.is_beginning(self._beginning(path)))
        while not self._stop.is_set():
            found = self._in_order()
            yield from found[:-1] if self._follow else found  # of a folder that grows, the newest is being written
            if not self._follow:
                return
            self._stop.wait(_POLL_S)

    def _in_order(self) -> list[Path]:
        """Return the captures of the folder in the order of their first packets; those without packets hold nothing."""
        paths = self._paths()
        if not paths and not self._follow:
            raise DataError(f"cannot read captures from folder {self._root}: it holds none; name another one")
        times = {path: _first_packet_us(self._beginning(path)) for path in paths}
        ordered = [path for _, path in sorted((first, path) for path, first in times.items() if first is not None)]
        beginnings = {path: self._beginning(path) for path in ordered}
        self._done.keep(list(beginnings.values()))
        self._copies = warn_of_copies(beginnings, self._copies)
        return ordered

    def _paths(self) -> list[Path]:
        if not self._is_folder:
            return [self._root]
        files = [path for path in self._root.iterdir() if path.is_file()]
        self._beginnings = {path: self._beginnings[path] for path in files if path in self._beginnings}
        return [path for path in sorted(files) if self._beginning(path).startswith(PCAP_MARKS)]

    def _beginning(self, path: Path) -> bytes:
        """Return the first bytes of a file, its first packet among them; read again when the file has changed."""
        try:
            stat = path.stat()
        except FileNotFoundError:
            return b""
        # A folder is looked at ten times a second: only files that have changed are opened.
        signature = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if self._beginnings.get(path, (None,))[0] != signature:
            beginning = beginning_of_file(path, _BEGINNING_BYTES)
            if _first_packet_us(beginning) is None:
                beginning = beginning_of_file(path, _LONGEST_BEGINNING_BYTES)
            self._beginnings[path] = signature, beginning
        return self._beginnings[path][1]

    # --- reading -----------------------------------------------------------------------------------------------------

    def _read(self, path: Path) -> Iterator[FlowBatch]:
        size = path.stat().st_size if path.exists() else 0
        file = known = self._known(path)
        # Read to its end, and not grown since. A lone capture that is followed is opened all the same, to wait for
        # more.
        if file is not None and file.size == size and not (self._follow and not self._is_folder):
            return
        if file is None:
            beginning = self._beginning(path)
            file = ReadFile.of(beginning, _START) if _first_packet_us(beginning) is not None else None
        if file is not None and (known is None or file is not self._file):
            self._begin(file)
        place: Mapping[str, Any] = _START if file is None else file.place
        taken = time.monotonic()
        with self._opened(path) as source:
            for block in iter_capture(source, self._skipped, after=_behind(place)):
                # A file without a whole packet has no beginning that would name it; now it has.
                if file is None and len(block):
                    file = self._begin(ReadFile.of(self._beginning(path), _START))
                self._meter.feed(block)
                place, now = block.place or place, time.monotonic()
                if _is_due(block, self._meter, now - taken):
                    yield from self._hand_over(self._meter.take(), place)
                    taken = now
                if self._stop.is_set():
                    break
        if file is not None:
            yield from self._hand_over(self._meter.take(), place, None if self._stop.is_set() else size, save=True)

    def _begin(self, file: ReadFile) -> ReadFile:
        """Take up another file: flows that were handed over behind the place in the one before are not its own."""
        self._file, self._repeated, self._record = file, 0, 0
        return file

    def _known(self, path: Path) -> ReadFile | None:
        """Return what is known of the file at a path; None where it is new, or was written anew and is shorter."""
        beginning = self._beginning(path)
        file = self._file if self._file and self._file.is_beginning(beginning) else self._done.find(beginning)
        return None if file is None or _is_shorter(path, file) else file

    def _opened(self, path: Path) -> contextlib.AbstractContextManager[Any]:
        """Return what to read a capture from: one that may grow ends once `stop` is set."""
        is_growing = self._follow and not self._is_folder
        return _Growing(path, self._stop) if is_growing else contextlib.nullcontext(path)

    # --- handing over ------------------------------------------------------------------------------------------------

    def _hand_over(
        self, table: pl.DataFrame, place: Mapping[str, Any], size: int | None = None, *, save: bool = False
    ) -> Iterator[FlowBatch]:
        """Yield flows that have ended by a place in the present file; `size` where that is its end."""
        n_repeated = min(self._repeated, len(table))
        self._repeated -= n_repeated
        # Only the last batch of a table may move the place on: a crash between two batches resumes at the place before,
        # and leaves out as many flows as the stored `record` says.
        *earlier, last = [*table[n_repeated:].iter_slices(BATCH_FLOWS)] or [table[n_repeated:]]
        for part in earlier:
            self._record += len(part)
            yield FlowBatch(part, self._position())
        self._record = self._repeated
        if self._file is not None:
            self._file = self._file.at(place, size)
            if size is not None:
                self._done.put(self._file)
        yield FlowBatch(last, self._position(), *_since(self._meter, self._skipped), memory=self._checkpoint(save))

    def _position(self) -> Position | None:
        if self._file is None:
            return None
        return {"file": self._file.to_json(), "record": self._record}

    def _checkpoint(self, save: bool) -> tuple[MemoryChange, ...]:
        """Return the flows under way to be remembered, not more often than takes a tenth of the time."""
        began = time.monotonic()
        # Nine times as long as the last save took, at least, so that saving stays below a tenth of the time however
        # large the table is. The fewer checkpoints, the more packets are metered again after a crash.
        if self._file is None or not (save or began >= self._save_at):
            return ()
        changes = [MemoryChange(_METER, self._meter.save())]
        changes.append(MemoryChange(_CHECKPOINT, json.dumps(self._file.to_json()).encode()))
        if self._is_folder:
            changes.append(MemoryChange(_CAPTURES, self._done.pack()))
        self._save_at = time.monotonic() + max(_SAVE_EVERY_S, 9 * (time.monotonic() - began))
        return tuple(changes)


_START: Mapping[str, Any] = MappingProxyType({"offset": 0})


def _behind(place: Mapping[str, Any]) -> Place | None:
    return place if place["offset"] else None


def _first_packet_us(beginning: bytes) -> int | None:
    """Return the time of the first packet of a capture, by its first bytes; None where no whole packet is there."""
    try:
        blocks = iter_capture(io.BytesIO(beginning), Counter())
        return next((int(block.times_us[0]) for block in blocks if len(block)), None)
    except FileFormatError:
        return None


def _is_shorter(path: Path, file: ReadFile) -> bool:
    """Whether a file has less in it than was read of it; of a packed one, than when it was read to its end."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        is_packed = stream.read(2) == b"\x1f\x8b"
    return size < (file.size or 0) if is_packed else size < file.place["offset"]


class _Growing:
    """A file that is being written: at its end it waits for more until `stop` is set."""

    def __init__(self, path: Path, stop: threading.Event) -> None:
        self.stop = stop
        try:
            self.file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed by the context that this is
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}") from error

    def seekable(self) -> bool:
        """Whether reading can go on at an offset: always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go on at an offset."""
        return self.file.seek(offset, whence)

    def read1(self, n: int) -> bytes | None:
        """Return what has been written since; None where nothing was for a while."""
        # An empty answer is the end of the capture: only once `stop` is set. None means that nothing has come yet.
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
