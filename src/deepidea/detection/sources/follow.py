"""Text logs that grow, are rotated, packed and gone back to: whole lines in order, each once.

A log is known by how it begins, to the end of its first record, and not by its name or its inode: names go round when
logs are rotated, inodes are given again, a packed or copied log is another file. How many bytes of which beginning have
been read is all that a restart has to know. So it comes to the same whether a log was renamed, copied and cut off, or
packed meanwhile, and however often: what is left of it is read wherever it lies now, before a newer one is begun.

Limit: two logs whose first records are the same are taken for one.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import numpy as np

from deepidea.detection.sources.source import BATCH_FLOWS, LINGER_S, Position
from deepidea.errors import DataError, FileFormatError, SourceError

__all__ = ["LogBlock", "beginning_of", "find_logs", "follow_logs", "split_lines"]

BLOCK_BYTES = 1 << 22
LONGEST_LINE = 1 << 22
LONGEST_BEGINNING = 1 << 20
SETTLED_S = 2.0  # a packed file that nobody has written to for so long is whole
HALF_LINE_S = 60.0  # half a line at the end of an older log that stood there for so long will not be finished
SCANS_SHARE = 0.1  # of the time at most goes into looking through a folder
KEPT_LOGS = 32  # whose place is remembered; older ones have been read

_COMMENT = re.compile(rb"^[ \t]*#.*\n", re.MULTILINE)
_GZIP = b"\x1f\x8b"
_DAMAGES = (EOFError, zlib.error, gzip.BadGzipFile)
_PACKED_TO_THE_END, _OUT_OF_SIGHT = -1, -1

Begins = Callable[[bytes], "float | None"]
"""Tells from how a file begins the time of its first record (seconds since 1970), None where it is not such a log."""


@dataclass(frozen=True, slots=True)
class LogBlock:
    """Whole lines that follow each other in one log.

    Parameters
    ----------
    log : str
        What names the log, whatever its file is called by now.
    data : bytes
        The lines. Where a log is gone on with, its comment lines (``#``) come once more first, alone.
    position : mapping
        Go on behind these lines from here.
    dropped : mapping
        What was lost before these lines, by reason.
    """

    log: str
    data: bytes
    position: Position
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it was last looked at."""

    path: Path
    signature: tuple[int, int, int]  # inode, size, time of the last change in ns
    packed: bool
    log: str
    began: float

    @property
    def size(self) -> int:
        return self.signature[1]

    def rests_since(self, seconds: float) -> bool:
        """Whether nobody has written to it for so long."""
        return time.time() - self.signature[2] / 1e9 > seconds


def follow_logs(
    root: str | Path,
    begins: Begins,
    after: Position | None,
    stop: threading.Event,
    *,
    follow: bool = False,
    most_lines: int = BATCH_FLOWS,
) -> Iterator[LogBlock]:
    r"""Yield the lines of a log, or of all logs in a folder in the order of their first records.

    Parameters
    ----------
    root
        A file, plain or in gzip, with whatever it is renamed to by and by; or a folder, with all that is below it.
    begins
        Tells the logs of this kind from other files.
    after
        Position of the last block that was dealt with.
    stop
        Ends it after the block at hand.
    follow
        Wait for more at the end. Then a block comes at least every `LINGER_S`, empty where nothing is new, and a last
        line without its newline is held back. Without, it is taken for whole.
    most_lines
        Most lines of a block.

    Raises
    ------
    DataError
        The file is not there, or not such a log.
    FileFormatError
        A packed file is damaged, and `follow` is not set; with it, that is counted in ``dropped``.
    SourceError
        The system does not let it be read.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.log"
    >>> _ = path.write_bytes(b"one\ntwo\nthree\n")
    >>> blocks = list(follow_logs(path, lambda _: 0.0, None, threading.Event(), most_lines=2))
    >>> [block.data for block in blocks]
    [b'one\ntwo\n', b'three\n']
    >>> [b.data for b in follow_logs(path, lambda _: 0.0, blocks[0].position, threading.Event())]
    [b'three\n']
    """
    logs = _Logs(Path(root), begins, after, follow=follow)
    with contextlib.closing(logs):
        while True:
            for block in logs.read_round(most_lines):
                yield block
                if stop.is_set():
                    return
            if not follow:
                return
            yield LogBlock("", b"", logs.position(), logs.take_dropped())
            if stop.wait(LINGER_S):
                return


def find_logs(root: Path) -> list[Path]:
    """Return the files that may be logs: those below a folder, or a file and what it may have been rotated to.

    Rotated are ``conn.log.1``, ``conn.log-20260101.gz``, ``conn.log.gz``, ``conn-20260101.log``, ``conn.10:00.log.gz``.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("conn.log", "conn.log.1.gz", "conn-2026.log", "conn-summary.log", ".conn.log.swp"):
    ...     _ = (folder / name).write_text("x")
    >>> [path.name for path in find_logs(folder / "conn.log")]
    ['conn-2026.log', 'conn.log', 'conn.log.1.gz']
    >>> len(find_logs(folder))
    4
    """
    if root.is_dir():
        return sorted(path for path in _below(root) if path.is_file())
    name, stem, suffix = (re.escape(text) for text in (root.name, root.stem, root.suffix))
    rotated = re.compile(rf"{name}|{name}\.gz|{name}[.\-_]\d.*|{stem}[.\-_]\d.*{suffix}(\.gz)?")
    with contextlib.suppress(FileNotFoundError):
        return sorted(path for path in root.parent.iterdir() if rotated.fullmatch(path.name) and path.is_file())
    return []


def _below(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def beginning_of(data: bytes, *, whole: bool) -> bytes | None:
    r"""Return how a log begins, to the end of its first line that is neither blank nor a comment; None before that.

    Parameters
    ----------
    data
        The first bytes of the log.
    whole
        Whether there are no more, so that a last line counts without its newline.

    Examples
    --------
    >>> beginning_of(b"#fields a\n1\n2\n", whole=True), beginning_of(b"#fields a\n1", whole=False)
    (b'#fields a\n1\n', None)
    """
    at = 0
    while (end := data.find(b"\n", at) + 1) or whole or len(data) >= LONGEST_BEGINNING:
        line = data[at : end or len(data)].strip()
        if line and not line.startswith(b"#"):
            return data[: end or len(data)]
        if not end:
            return None
        at = end
    return None


def split_lines(data: bytes, most_lines: int) -> Iterator[bytes]:
    r"""Yield blocks of whole lines, at most so many in each; what stands behind the last newline comes last, alone.

    Examples
    --------
    >>> list(split_lines(b"a\nb\nc\nd", 2))
    [b'a\nb\n', b'c\n', b'd']
    """
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    cuts = [*ends[most_lines - 1 :: most_lines].tolist(), *ends[-1:].tolist(), len(data)]
    at = 0
    for cut in cuts:
        if cut > at:
            yield data[at:cut]
            at = cut


# What is known of each log, by the hash of its beginning (`_name_of`):
#   _read[log]    bytes that were read, unpacked; -1 where a packed file was read to its end
#   _began[log]   time of its first record, by which logs are ordered
# Logs that are in neither were never seen, or were read and forgotten: `_before` tells which. A name in the folder
# plays no part in this; it only leads to a file whose beginning is then looked at.
class _Logs:
    """The logs under one root and how far each has been read."""

    def __init__(self, root: Path, begins: Begins, after: Position | None, *, follow: bool) -> None:
        self._root, self._begins, self._follow = root, begins, follow
        self._looks: dict[Path, _File | tuple[int, int, int]] = {}
        self._read: dict[str, int] = {}  # bytes read of each log
        self._began: dict[str, float] = {}
        self._before: float | None = None  # logs that began by then have been read, but for those in _read
        self._opened: set[str] = set()  # whose comments have been given
        self._held: tuple[_File, IO[bytes]] | None = None  # the file last read: open, should it be moved away
        self._dropped: dict[str, int] = {}
        self._scan_at = 0.0
        if after is None:
            self._check_root()
            files = self._files()
            if root.is_dir() and not (files or follow):
                raise DataError(f"cannot read logs from folder {root}: it holds none of this kind; name another")
            if not root.is_dir():
                # A log that is named is read from its first line on; what it was rotated to before is history, and is
                # not read.
                self._before = max((file.began for file in files if file.path != root), default=None)
        else:
            self._go_on_from(after)

    def _check_root(self) -> None:
        """Refuse what never was a log; one that is not there yet is waited for."""
        if self._root.is_dir() or (self._follow and not self._root.exists() and self._root.parent.is_dir()):
            return
        if not self._root.exists():
            raise DataError(f"cannot read {self._root}: there is no such file or folder; check the path")
        with _open(self._root) as (stream, _):
            begins = beginning_of(_first(stream, str(self._root)), whole=not self._follow)
        if begins is not None and self._begins(begins) is None:
            raise FileFormatError(
                f"cannot read {self._root} as a log of this kind: it begins with {begins[:60]!r}; "
                "name another file or another kind of source"
            )

    def _go_on_from(self, after: Position) -> None:
        try:
            self._before = after["before"]
            for log, (read, began) in after["logs"].items():
                self._read[log], self._began[log] = int(read), float(began)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"cannot go on from {after!r}: it is a position of another kind of source") from error

    def position(self) -> Position:
        """Return how far each log has been read, as JSON values."""
        return {"before": self._before, "logs": {log: [read, self._began[log]] for log, read in self._read.items()}}

    def read_round(self, most_lines: int) -> Iterator[LogBlock]:
        """Yield what is unread in every log, the older first."""
        for file in self._unread():
            # Half a line at the end of a log is being written, unless a newer log has begun and nobody has finished the
            # line for a minute: then its writer was killed.
            is_past = file.rests_since(HALF_LINE_S) and file.began < max(self._began.values(), default=file.began)
            yield from self._read_file(file, most_lines, whole=not self._follow or file.packed or is_past)

    def take_dropped(self) -> Mapping[str, int]:
        """Return what was lost since this was last asked for."""
        dropped, self._dropped = self._dropped, {}
        return dropped

    def close(self) -> None:
        """Close the file that was held open."""
        if self._held is not None:
            self._held[1].close()
            self._held = None

    def _files(self) -> list[_File]:
        """Return the files that are such logs, as they are now."""
        started = time.monotonic()
        # A folder of thousands of logs is not looked through for every line: while the log last read still is where it
        # was, only that one is looked at, until the time for the next scan has come.
        if self._held is not None and started < self._scan_at:
            file = self._look(self._held[0].path)
            if file is not None and file.log == self._held[0].log:  # else it was rotated: look for the others first
                return [file]
        paths = find_logs(self._root)
        self._looks = {path: self._looks[path] for path in paths if path in self._looks}
        files = [file for path in paths if (file := self._look(path)) is not None]
        self._scan_at = time.monotonic() + (time.monotonic() - started) / SCANS_SHARE
        return files

    def _look(self, path: Path) -> _File | None:
        try:
            stat = path.stat()
        except FileNotFoundError:  # rotated away since it was listed
            return None
        signature, known = (stat.st_ino, stat.st_size, stat.st_mtime_ns), self._looks.get(path)
        # Inode, size and time are unchanged: what the file begins with need not be read again. Of a file that is no
        # such log the bare signature is kept, so that it is looked into again once it has changed.
        if isinstance(known, _File) and known.signature == signature:
            return known
        if known != signature:
            self._looks[path] = self._look_into(path, signature) or signature
        found = self._looks[path]
        return found if isinstance(found, _File) else None

    def _look_into(self, path: Path, signature: tuple[int, int, int]) -> _File | None:
        try:
            with _open(path) as (stream, packed):
                # A record whose newline has not come yet may still grow; a name made of it would change. Packed files
                # are whole.
                begins = beginning_of(_first(stream, str(path)), whole=packed or not self._follow)
        except (FileFormatError, FileNotFoundError):  # a packed file that is being written, or no such log
            return None
        began = None if begins is None else self._begins(begins)
        if begins is None or began is None:
            return None
        return _File(path, signature, packed, _name_of(begins), began)

    def _unread(self) -> list[_File]:
        """Return the files to read, one for each log that is not read to its end, in the order of their beginnings."""
        files: dict[str, _File] = {}
        for file in self._files():
            other = files.get(file.log)
            if file.packed and self._follow and not file.rests_since(SETTLED_S):
                continue  # it is being written
            # One log may lie in two files while it is copied or packed. The plain one is read, since it can be gone
            # back into at an offset; of two, the longer.
            if other is None or (other.packed, -other.size) > (file.packed, -file.size):
                files[file.log] = file
        self._settle_held(files)
        unread = [file for file in files.values() if not self._is_read(file)]
        return sorted(unread, key=lambda file: (file.began, str(file.path)))

    def _settle_held(self, files: dict[str, _File]) -> None:
        """Read on in a file that was moved out of sight, if it still is the same log."""
        if self._held is None or self._held[0].log in files:
            return
        file, stream = self._held
        # Moved to where no scan finds it, or deleted: the open file still leads to the bytes. Copied and cut off
        # (copytruncate), the same file begins otherwise now, and its old lines are found in the copy.
        stream.seek(0)
        begins = beginning_of(stream.read(LONGEST_BEGINNING), whole=False)
        if begins is not None and _name_of(begins) == file.log:
            size = os.fstat(stream.fileno()).st_size
            files[file.log] = _File(file.path, (_OUT_OF_SIGHT, size, 0), False, file.log, file.began)
        else:
            self.close()

    def _is_read(self, file: _File) -> bool:
        read = self._read.get(file.log)
        if read is None:
            is_old = self._before is not None and file.began <= self._before
            return is_old and file.path != self._root
        if file.packed:
            return read == _PACKED_TO_THE_END
        # The same beginning and yet shorter: cut off and written again. That is the only case in which a log is read
        # twice.
        if read > file.size:  # written anew, with the same first record
            self._read[file.log] = 0
            return False
        return read in (_PACKED_TO_THE_END, file.size)

    def _read_file(self, file: _File, most_lines: int, *, whole: bool) -> Iterator[LogBlock]:
        self._began[file.log] = file.began
        at = self._read.setdefault(file.log, 0)
        self._forget_old()
        try:
            # Between the look and this reading it may have been rotated; `_check_same` reads its beginning once more.
            with self._stream_of(file) as stream:
                self._check_same(file, stream)
                yield from self._comments(file, stream, at)
                stream.seek(at)
                for data in _whole_lines(stream, most_lines, whole=whole):
                    # Counted before the lines are handed out: the position of a block is the place behind it.
                    self._read[file.log] += len(data)
                    yield LogBlock(file.log, data, self.position(), self.take_dropped())
        except FileNotFoundError as error:  # rotated away since it was looked at: it is found again where it is now
            self._looks.pop(file.path, None)
            if not self._follow:
                raise SourceError(f"cannot read on in a log that went away: {error}; read it again") from error
            return
        # What was read before the damage counts; the rest cannot be read ever, and is counted as one loss.
        except _DAMAGES as error:
            self._count_damage(file, error)
        if file.packed:
            self._read[file.log] = _PACKED_TO_THE_END

    @contextlib.contextmanager
    def _stream_of(self, file: _File) -> Iterator[IO[bytes]]:
        """Yield the open file; a plain one stays open until another one is read."""
        if file.packed:
            with _open(file.path) as (stream, _):
                yield stream
            return
        with _system_errors(str(file.path)):
            yield self._hold(file)

    def _check_same(self, file: _File, stream: IO[bytes]) -> None:
        """Refuse a file that has become another one since it was looked at."""
        stream.seek(0)
        begins = beginning_of(_first(stream, str(file.path)), whole=file.packed or not self._follow)
        if begins is None or _name_of(begins) != file.log:
            raise FileNotFoundError(f"{file.path} is another log now")

    def _hold(self, file: _File) -> IO[bytes]:
        if self._held is not None:
            held, stream = self._held
            # By inode as well: a file that was rotated and made anew under the same name is not the one that is open.
            if held.path == file.path and file.signature[0] in (_OUT_OF_SIGHT, held.signature[0]):
                return stream
        self.close()
        self._held = file, file.path.open("rb")
        return self._held[1]

    def _comments(self, file: _File, stream: IO[bytes], end: int) -> Iterator[LogBlock]:
        """Yield the comment lines of what has been read before this process began to."""
        # Zeek's #fields stand at the top of a log: a parser that begins in the middle needs them first, without the
        # flows in between.
        if file.log in self._opened or end <= 0:
            self._opened.add(file.log)
            return
        self._opened.add(file.log)
        stream.seek(0)
        found, rest = list[bytes](), b""
        while end > 0 and (data := stream.read(min(BLOCK_BYTES, end))):
            end -= len(data)
            lines, newline, rest = (rest + data).rpartition(b"\n")
            found += _COMMENT.findall(lines + newline)
        if found:
            yield LogBlock(file.log, b"".join(found), self.position())

    def _count_damage(self, file: _File, error: Exception) -> None:
        if not self._follow:
            raise FileFormatError(
                f"cannot read {file.path} to its end: it is damaged or cut off ({error}); fetch it again"
            ) from error
        self._dropped = {"rest of a damaged gzip file": 1}

    def _forget_old(self) -> None:
        """Remember the place in the latest logs alone; all that began before them has been read."""
        # Positions must not grow with the age of a site. What falls out of the 32 latest logs is covered by `_before`:
        # a log that began by then counts as read.
        for log in sorted(self._read, key=self._began.__getitem__)[:-KEPT_LOGS]:
            self._before = max(self._began.pop(log), self._before or 0.0)
            del self._read[log]


def _name_of(begins: bytes) -> str:
    return hashlib.sha256(begins).hexdigest()[:16]


def _whole_lines(stream: IO[bytes], most_lines: int, *, whole: bool) -> Iterator[bytes]:
    """Yield whole lines to the end; with `whole`, the last one counts without its newline."""
    rest = b""
    while data := stream.read(BLOCK_BYTES):
        # The rest of a line is put in front of the next block; it is shorter than LONGEST_LINE, so this copies little.
        blocks, rest = list(split_lines(rest + data, most_lines)), b""
        if not blocks[-1].endswith(b"\n") and len(blocks[-1]) < LONGEST_LINE:
            rest = blocks.pop()
        yield from blocks
    if rest and whole:
        yield rest


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[IO[bytes], bool]]:
    """Yield a file, unpacked where it is in gzip, and whether it is."""
    with _system_errors(str(path)), path.open("rb") as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        if not packed:
            yield file, False
            return
        with gzip.GzipFile(fileobj=file) as stream:
            yield cast("IO[bytes]", stream), True


def _first(stream: IO[bytes], name: str) -> bytes:
    """Return as many bytes as a beginning can have."""
    try:
        data = stream.read(1 << 14)
        while beginning_of(data, whole=False) is None and (more := stream.read(1 << 16)):
            data += more
    except _DAMAGES as error:
        raise FileFormatError(
            f"cannot unpack {name}: the gzip data are damaged or cut off ({error}); fetch it again"
        ) from error
    return data


@contextlib.contextmanager
def _system_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, *_DAMAGES):
        raise
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"cannot read {name}: {error.strerror or error}; check its permissions") from error
