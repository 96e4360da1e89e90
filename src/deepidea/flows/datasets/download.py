"""Downloads that resume where they stopped, are checked, and replace their target whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from deepidea.errors import DownloadError

Progress = Callable[[int, int | None], None]

_BLOCK_BYTES = 1 << 18
_ATTEMPTS = 5
_FIRST_WAIT_S = 0.5
_BROKEN = (OSError, http.client.HTTPException)  # urllib's errors are OSErrors
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


def download(
    url: str,
    target: str | Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    timeout_s: float = 60.0,
    attempts: int = _ATTEMPTS,
    wait_s: float = _FIRST_WAIT_S,
) -> Path:
    """Download a file; call again to resume an interrupted download.

    The bytes so far are in ``<target>.part``, with a note of the file's version (ETag or Last-Modified) beside it. A
    range is requested with ``If-Range`` of that version (RFC 9110, section 13.1.5), so that pieces of two versions are
    never joined.

    Parameters
    ----------
    url
        http or https address.
    target
        Path of the file; it appears whole and checked, or not at all.
    sha256
        Hash to check, in hexadecimal; not checked if None.
    progress
        Called with bytes done and bytes in all, None where unknown.
    timeout_s
        Seconds without an answer after which an attempt counts as failed.
    attempts
        Attempts without new bytes after which to give up.
    wait_s
        Seconds to wait before the second attempt; doubled each time.

    Returns
    -------
    pathlib.Path
        `target`.

    Raises
    ------
    DownloadError
        The download failed, or the file has another hash.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"cannot create the folder {target.parent}: {error}; choose another place") from error
    _Transfer(url, target, timeout_s, progress).run(attempts, wait_s)
    part = _part_of(target)
    if sha256 is not None:
        _check_hash(part, url, sha256)
    os.replace(part, target)
    _note_of(target).unlink(missing_ok=True)
    return target


def _part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _note_of(target: Path) -> Path:
    return target.with_name(target.name + ".part.json")


def _check_hash(part: Path, url: str, sha256: str) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        part.unlink()
        raise DownloadError(
            f"{url} has sha256 {found} instead of {sha256}; the download was removed: run the same command again; if "
            "that does not help, the publisher's file has changed"
        )


class _Transfer:
    """One download, over as many attempts as it takes."""

    def __init__(self, url: str, target: Path, timeout_s: float, progress: Progress | None) -> None:
        if not url.lower().startswith(("http://", "https://")):
            raise DownloadError(f"the address {url} must begin with http:// or https://")
        self.url, self.timeout_s, self.progress = url, timeout_s, progress
        self.part, self.note = _part_of(target), _note_of(target)

    def run(self, attempts: int, wait_s: float) -> None:
        """Attempt until the file is whole; attempts that bring new bytes do not count."""
        failed, most = 0, self.have
        while True:
            try:
                self._attempt()
                return
            except _BROKEN as error:
                # Progress resets the count: a link that breaks every few minutes still gets a file of gigabytes.
                failed, most = (1, self.have) if self.have > most else (failed + 1, most)
                if failed >= attempts or not _is_passing(error):
                    raise self._gave_up(error) from error
            time.sleep(wait_s * 2 ** (failed - 1))

    @property
    def have(self) -> int:
        """Bytes received so far."""
        return self.part.stat().st_size if self.part.exists() else 0

    def _attempt(self) -> None:
        request = urllib.request.Request(self.url, headers=self._headers())
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                self._receive(response)
        except urllib.error.HTTPError as error:
            with error:
                # 416: the range begins behind the end. Either all bytes are here already, or the file has become
                # shorter.
                if error.code != 416:
                    raise
                if self.have and error.headers.get("Content-Range") == f"bytes */{self.have}":
                    return  # nothing follows the bytes at hand: the file is whole
            self._start_over()
            raise ConnectionError("the server has no such part of the file") from error

    def _headers(self) -> dict[str, str]:
        """Return the request's headers, with a range only where the version of the bytes at hand is known."""
        headers = {"User-Agent": "deepidea", "Accept-Encoding": "identity"}
        version = self._version()
        if self.have and version:
            # If-Range: should the file have changed since, the server sends it whole (200) instead of a part that does
            # not fit.
            headers |= {"Range": f"bytes={self.have}-", "If-Range": version}
        elif self.have:
            self._start_over()
        return headers

    def _version(self) -> str | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self.note.read_text(encoding="utf-8"))
            return str(note["version"]) if note["url"] == self.url else None
        return None

    def _start_over(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _receive(self, response: http.client.HTTPResponse) -> None:
        start = self._start_of(response)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None and length.isdigit() else None
        with self.part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            self._copy(response, file, start, total)
            file.flush()
            # Progress on the disk is what the next attempt asks to continue from.
            os.fsync(file.fileno())
        if total is not None and self.have < total:
            raise ConnectionError(f"the connection ended after {self.have:,} of {total:,} bytes")

    def _start_of(self, response: http.client.HTTPResponse) -> int:
        """Return the byte at which the response begins, and note the version of the file."""
        if response.status == 206:
            stated = response.headers.get("Content-Range", "")
            if not stated.startswith(f"bytes {self.have}-"):
                self._start_over()
                raise ConnectionError(f"the server sent another range than requested: {stated!r}")
            return self.have
        # Written down before the first byte: without it the bytes at hand could not be told from those of another
        # version.
        version = _strong(response.headers.get("ETag")) or response.headers.get("Last-Modified")
        self.note.write_text(json.dumps({"url": self.url, "version": version or ""}), encoding="utf-8")
        return 0

    def _copy(self, response: http.client.HTTPResponse, file: BinaryIO, done: int, total: int | None) -> None:
        while block := response.read1(_BLOCK_BYTES):
            file.write(block)
            done += len(block)
            if self.progress is not None:
                self.progress(done, total)

    def _gave_up(self, error: BaseException) -> DownloadError:
        kept = f"{self.have:,} bytes are kept in {self.part}: run the same command again to resume" if self.have else ""
        return DownloadError(f"cannot download {self.url}: {error}; {kept or 'check the address and the network'}")


def _strong(etag: str | None) -> str | None:
    """Return a strong entity tag; weak ones do not identify every byte (RFC 9110, section 8.8.1)."""
    return None if etag is None or etag.startswith("W/") else etag


def _is_passing(error: BaseException) -> bool:
    """Whether a retry may help: not for an absent file, nor for a full disk."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _TRY_AGAIN
    if isinstance(error, urllib.error.URLError | ConnectionError | TimeoutError | http.client.HTTPException):
        return True
    return isinstance(error, OSError) and error.errno is None
