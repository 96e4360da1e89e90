"""A file that alerts are appended to."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from deepidea.detection.addresses import public
from deepidea.detection.sinks.sink import sink_errors, sink_options
from deepidea.errors import DataError

_BLOCK_BYTES = 65_536


class FileSink:
    """A file that lines are appended to, rotated when it is full.

    Parameters
    ----------
    path
        The file. Older ones lie beside it: ``path.1`` is the one before, and so on.
    rotate_mb
        Size in 10^6 bytes past which no line is added; one long line may be more. Never rotated where absent.
    keep
        How many older files are kept.

    Notes
    -----
    Each alert has a line for itself. A write that fails leaves no part of a line. A last line without a line break,
    which another program wrote, is kept and ended; only a JSON object that breaks off, as a crash leaves it, is
    removed: that alert is delivered again. A file that was moved away is made anew.

    Examples
    --------
    >>> import tempfile
    >>> sink = FileSink(Path(tempfile.mkdtemp()) / "alerts.json", rotate_mb=100)
    >>> sink.send(["{}", "{}"])
    >>> sink.close()
    >>> sink.path.read_text().splitlines()
    ['{}', '{}']
    """

    def __init__(self, path: str | Path, *, rotate_mb: float | None = None, keep: int = 5, format: str = "eve") -> None:
        if keep < 0 or (rotate_mb is not None and rotate_mb <= 0):
            raise DataError(f"rotate_mb must be above 0 and keep at least 0, got {rotate_mb} and {keep}")
        self.path, self.format = Path(path), format
        self.name = f"file://{os.path.abspath(path)}"
        self._most_bytes = None if rotate_mb is None else round(rotate_mb * 1e6)
        self._keep = keep
        self._file: IO[bytes] | None = None

    def send(self, lines: Sequence[str]) -> None:
        """Append lines, rotating the file before one that would not fit."""
        with sink_errors(self.name):
            pending = bytearray()
            size = self._open().tell()
            for line in lines:
                data = line.encode() + b"\n"
                # A line longer than the limit gets a file of its own rather than none.
                if self._most_bytes is not None and size and size + len(data) > self._most_bytes:
                    self._append(bytes(pending))
                    self._rotate()
                    pending, size = bytearray(), 0
                pending += data
                size += len(data)
            self._append(bytes(pending))

    def _open(self) -> IO[bytes]:
        """Return the file, at its end, behind a whole line."""
        # logrotate has moved the file away: what is written now belongs into the new one.
        if self._file is not None and not self._is_at_path(self._file):
            self.close()
        if self._file is None:
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        end_last_line(self._file)
        return self._file

    def _is_at_path(self, file: IO[bytes]) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def _append(self, data: bytes) -> None:
        if data:
            append_all(self._open(), data)

    def _rotate(self) -> None:
        self.close()
        for number in range(self._keep, 0, -1):
            older = self.path if number == 1 else self._numbered(number - 1)
            if older.exists():
                os.replace(older, self._numbered(number))
        if not self._keep:
            self.path.unlink(missing_ok=True)

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def append_all(file: IO[bytes], data: bytes) -> None:
    """Write all of data at the end of an unbuffered file, or none of it."""
    # Unbuffered, so that an error is raised here and not at close; a partial write is taken back, or the retry repeats
    # it.
    before, view = file.seek(0, os.SEEK_END), memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(before)
        raise


def end_last_line(file: IO[bytes]) -> None:
    """Go to the end of a file, and see to it that what is written next begins a line.

    A last line without a line break is ended; a JSON object that breaks off is cut: a process died while it wrote.
    """
    # A process that was killed may have left half a line. Joined with the next one, both would be lost to the reader.
    end = file.seek(0, os.SEEK_END)
    if not end:
        return
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return
    start = _start_of_last_line(file, end)
    file.seek(start)
    if _breaks_off(file.read()):
        file.truncate(start)
    else:
        append_all(file, b"\n")
    file.seek(0, os.SEEK_END)


def _start_of_last_line(file: IO[bytes], end: int) -> int:
    while end > 0:
        start = max(end - _BLOCK_BYTES, 0)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _breaks_off(line: bytes) -> bool:
    """Return whether a line is the beginning of a JSON object.

    Examples
    --------
    >>> _breaks_off(b'{"a":1'), _breaks_off(b'{"a":1}'), _breaks_off(b"CEF:0|a")
    (True, False, False)
    """
    try:
        json.loads(line)
    except ValueError:
        return line.startswith(b"{")
    return False


def file_sink(address: str, *, format: str = "eve") -> FileSink:
    """Return the sink of ``file:///path?rotate_mb=100&keep=5``."""
    parts = urlsplit(address)
    options = sink_options(parts, "rotate_mb", "keep")
    if parts.netloc.lower() not in ("", "localhost") or not parts.path:
        raise DataError(f"a file sink must be file:///path, got {public(address)!r}")
    rotate_mb = float(options["rotate_mb"]) if "rotate_mb" in options else None
    return FileSink(unquote(parts.path), rotate_mb=rotate_mb, keep=int(options.get("keep", 5)), format=format)
