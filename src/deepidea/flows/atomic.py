"""Write a file whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deepidea.errors import DeepIDEAError, StorageError

try:
    import fcntl
except ImportError:  # not POSIX: partial files of killed processes stay
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block succeeds.

    The new file is flushed to the disk before it is renamed, so that a crash leaves the old file or the new one. When
    the block raises, the temporary file is removed and ``path`` is unchanged. Partial files of killed processes are
    removed, too: a living process holds a lock on its own.

    Raises
    ------
    StorageError
        The system refuses: a full disk, a folder that is missing or not writable.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "out.txt"
    >>> with replacing(target) as partial:
    ...     _ = partial.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    path = Path(path)
    handle: int | None = None
    try:
        _remove_abandoned(path)
        handle, partial = _partial_beside(path)
        yield partial
        # Before the rename: after a power cut a file system may have kept the new name and lost the data.
        _flush_to_disk(partial)
        os.replace(partial, path)
    except OSError as error:
        if isinstance(error, DeepIDEAError):  # a SourceError of the rows, for one
            raise
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; an older file there is unchanged; free space or choose "
            "another place"
        ) from error
    finally:
        if handle is not None:
            partial.unlink(missing_ok=True)
            os.close(handle)


def _partial_beside(path: Path) -> tuple[int, Path]:
    """Return a new file, locked while its handle is open, and its path."""
    # a lock ends with its process, so that an unlocked partial file is one of a killed process
    prefix, suffix = _around(path)
    while True:
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
        if _is_held(handle):
            os.chmod(name, _mode_of(path))
            return handle, Path(name)
        os.close(handle)


def _around(path: Path) -> tuple[str, str]:
    # the target's suffix last: writers choose their format by it
    return f".{path.stem}.", f".partial{path.suffix}"


def _is_held(handle: int) -> bool:
    """Lock a new file; return False where another process took it for abandoned before it was locked."""
    try:
        _lock(handle)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system, so none is taken for abandoned
        return True
    # Another process may have removed it between its creation and the lock: then it has no name any more.
    return os.fstat(handle).st_nlink > 0


def _lock(handle: int) -> None:
    if fcntl is None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_abandoned(path: Path) -> None:
    prefix, suffix = map(re.escape, _around(path))
    partial = re.compile(f"{prefix}[a-z0-9_]{{8}}{suffix}")
    names: list[str] = []
    with contextlib.suppress(PermissionError):  # a folder may be writable and not readable
        names = os.listdir(path.parent)
    for name in filter(partial.fullmatch, names):
        with contextlib.suppress(OSError):  # locked by its writer, or another user's
            _remove_unless_held(path.parent / name)


def _remove_unless_held(partial: Path) -> None:
    handle = os.open(partial, os.O_RDWR)
    try:
        _lock(handle)
        partial.unlink()
    finally:
        os.close(handle)


def _mode_of(path: Path) -> int:
    if path.exists():
        return path.stat().st_mode & 0o777
    # The mask can be read only by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
