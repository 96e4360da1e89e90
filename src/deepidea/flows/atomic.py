"""Writing a file whole or not at all."""

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
except ImportError:  # not POSIX: what a kill leaves has to be removed by hand
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block ends well.

    The new file is flushed to the disk before it is renamed, so that a crash leaves the old file or the new one. When
    the block raises, the temporary file goes and what stood at ``path`` stays. What a killed process left of the same
    path goes, too: its lock went with the process.

    Raises
    ------
    StorageError
        When the system refuses: a full disk, a folder that is not there or not writable.

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
        _flush_to_disk(partial)
        os.replace(partial, path)
    except OSError as error:
        if isinstance(error, DeepIDEAError):  # of ours, or of a source that the rows came from
            raise
        raise StorageError(
            f"the output file must be writable, however: {path}: {error.strerror or error}; "
            "what stood there before still stands; free space or choose another place"
        ) from error
    finally:
        if handle is not None:
            partial.unlink(missing_ok=True)
            os.close(handle)


def _partial_beside(path: Path) -> tuple[int, Path]:
    """Return a new file, locked while its handle is open, and its path."""
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
    """Lock a new file, and return whether it is ours: another process may have taken it for abandoned before."""
    try:
        _lock(handle)
    except BlockingIOError:
        return False
    except OSError:  # no locks here, so nobody takes it for abandoned
        return True
    return os.fstat(handle).st_nlink > 0


def _lock(handle: int) -> None:
    if fcntl is None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_abandoned(path: Path) -> None:
    prefix, suffix = map(re.escape, _around(path))
    partial = re.compile(f"{prefix}[a-z0-9_]{{8}}{suffix}")
    names: list[str] = []
    with contextlib.suppress(PermissionError):  # a folder may be written to, and not read
        names = os.listdir(path.parent)
    for name in filter(partial.fullmatch, names):
        with contextlib.suppress(OSError):  # still written, or another user's: it stays
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
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
