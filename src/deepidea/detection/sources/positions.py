"""How far files have been read: each is known by how it begins, not by its name.

A file that is renamed, copied, packed with gzip or grown is the file that was read before; one of the same name that
begins otherwise is another one. What a restart must know stands in the source's position and memory.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Self, cast

from deepidea.errors import DataError, SourceError

__all__ = ["EARLIER_RELEASE", "ReadFile", "ReadFiles", "beginning_of_file", "file_of", "path_name", "warn_of_copies"]

log = logging.getLogger("deepidea.detection")

BEGINNING_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A file that is being read, or has been.

    Parameters
    ----------
    n_bytes, sha256
        How many bytes of its unpacked beginning name it, and their hash.
    place : mapping
        How far it has been read, as its reader counts.
    size : int, optional
        Of the file as it lay there when it was read to its end; None before.
    """

    n_bytes: int
    sha256: str
    place: Mapping[str, Any]
    size: int | None = None

    @classmethod
    def of(cls, beginning: bytes, place: Mapping[str, Any]) -> Self:
        """Return a file that begins so."""
        return cls(len(beginning), hashlib.sha256(beginning).hexdigest(), place)

    def is_beginning(self, beginning: bytes) -> bool:
        """Whether a file that begins so is this one."""
        # A file that has grown since still begins with the bytes that were hashed: the prefix of that length is
        # compared.
        return len(beginning) >= self.n_bytes and hashlib.sha256(beginning[: self.n_bytes]).hexdigest() == self.sha256

    def is_same(self, other: ReadFile) -> bool:
        """Whether both name the same beginning."""
        return (self.n_bytes, self.sha256) == (other.n_bytes, other.sha256)

    def at(self, place: Mapping[str, Any], size: int | None = None) -> ReadFile:
        """Return the file read so far."""
        return replace(self, place=place, size=size)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"n_bytes": self.n_bytes, "sha256": self.sha256, "place": dict(self.place), "size": self.size}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_json` was called of."""
        return cls(int(values["n_bytes"]), str(values["sha256"]), dict(values["place"]), values["size"])


class ReadFiles:
    """The files of a folder that were read to their ends.

    Parameters
    ----------
    files : iterable of ReadFile
        The files.

    Examples
    --------
    >>> first = ReadFile.of(b"first packet", {"offset": 900})
    >>> files = ReadFiles([first])
    >>> files.find(b"first packet, and more") == first, files.find(b"another")
    (True, None)
    >>> ReadFiles.unpack([files.pack()]).find(b"first packet") == first
    True
    """

    def __init__(self, files: Iterable[ReadFile] = ()) -> None:
        self._files = list(files)

    def find(self, beginning: bytes) -> ReadFile | None:
        """Return the file that begins so, None where none was read."""
        # Several fit where a short file was read and another one begins with all of it: the longest beginning says
        # most.
        found = [file for file in self._files if file.is_beginning(beginning)]
        return max(found, key=lambda file: file.n_bytes, default=None)

    def put(self, file: ReadFile) -> None:
        """Take note of a file, in place of what was known of it."""
        self._files = [*(known for known in self._files if not known.is_same(file)), file]

    def keep(self, beginnings: Sequence[bytes]) -> None:
        """Forget the files that are not there any more: the folder bounds what is remembered."""
        self._files = [file for file in self._files if any(map(file.is_beginning, beginnings))]

    def pack(self) -> bytes:
        """Return them as bytes, for `unpack`."""
        return zlib.compress(json.dumps([file.to_json() for file in self._files]).encode(), 1)

    @classmethod
    def unpack(cls, entries: Sequence[bytes]) -> Self:
        """Return what was packed; no files where nothing was."""
        return cls(ReadFile.from_json(values) for data in entries[-1:] for values in json.loads(zlib.decompress(data)))


def file_of(position: Mapping[str, Any], earlier: set[str], name: str) -> ReadFile | None:
    """Return the file of a position; None where the position is of an earlier release, which had other keys.

    Raises
    ------
    DataError
        The position is of another kind of source.
    """
    if set(position) >= earlier:
        return None
    try:
        return ReadFile.from_json(position["file"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"cannot go on in {name}: {dict(position)} is a position of another kind of source") from error


EARLIER_RELEASE = (
    "cannot go on in %s: the position is of an earlier release; reading from the beginning, alerts in the store are "
    "not repeated"
)


def warn_of_copies(beginnings: Mapping[Path, bytes], known: Set[Path] = frozenset()) -> set[Path]:
    """Warn of files that begin as one before them does, and are taken for the same; return them.

    Parameters
    ----------
    beginnings
        Of each file, in the order in which they are read.
    known
        Files that were warned of before.

    Examples
    --------
    >>> warn_of_copies({Path("a.pcap"): b"first packet", Path("b.pcap"): b"other", Path("c.pcap"): b"first packet"})
    {PosixPath('c.pcap')}
    """
    first: dict[bytes, Path] = {}
    copies = {path: first[of] for path, of in beginnings.items() if first.setdefault(of, path) != path}
    for path in copies.keys() - known:
        log.warning("%s begins as %s does: it is taken for the same file", path, copies[path])
    return set(copies)


def beginning_of_file(path: Path, n_bytes: int = BEGINNING_BYTES) -> bytes:
    """Return the first bytes of a file, unpacked where it is in gzip; none where it is not there.

    Raises
    ------
    SourceError
        The system does not let it be read.
    """
    try:
        with path.open("rb") as file:
            # Unpacked, so that a file that is packed after it was read is still known.
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if packed else file
            return _read_up_to(stream, n_bytes)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error


def _read_up_to(stream: IO[bytes], n: int) -> bytes:
    data = b""
    with contextlib.suppress(EOFError, zlib.error, gzip.BadGzipFile):  # its reader counts the damage
        while len(data) < n and (part := stream.read(min(n - len(data), 1 << 12))):
            data += part
    return data


def path_name(address: str | Path) -> str:
    """Return the one spelling of a path that names it as a source: absolute, folders without links.

    The last part may be a link: a log that is rotated by changing a link keeps its name.

    Examples
    --------
    >>> path_name("/var/log/../log//conn.log") == path_name("/var/log/conn.log")
    True
    """
    # abspath leaves links alone, where resolve would follow the last one too.
    path = Path(os.path.abspath(address))
    return str(path.parent.resolve() / path.name)
