"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deepidea.errors import DeepIDEAError, StorageError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block ends well.

    The new file is flushed to the disk before it is renamed, so that a crash leaves the old file or the new one. When
    the block raises, the temporary file goes and what stood at ``path`` stays.

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
    partial: Path | None = None
    try:
        partial = _partial_beside(path)
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
        if partial is not None:
            partial.unlink(missing_ok=True)


def _partial_beside(path: Path) -> Path:
    # the target's suffix last: writers choose their format by it
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=f".partial{path.suffix}", dir=path.parent)
    os.close(handle)
    os.chmod(name, _mode_of(path))
    return Path(name)


def _mode_of(path: Path) -> int:
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
