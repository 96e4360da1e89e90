"""Data sets installed on this machine: typed Parquet parts and one JSON record each, replaced whole or not at all.

``<home>/datasets/<name>.json`` names the current folder of parts. Parts are written into a new folder first, so that
of two processes that register at once each writes a whole one, and the record decides which is current.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import platformdirs

from deepidea.errors import DatasetError, StorageError
from deepidea.flows.atomic import replacing

FORMAT = 1
_ABANDONED_S = 86_400.0


@dataclass(frozen=True, slots=True)
class FileRecord:
    """An official file of an installed data set.

    Parameters
    ----------
    name, role, rows
        File name; ``train``, ``test`` or ``extra``; number of flows.
    sha256, content_sha256
        Hash of the file and of its unpacked content.
    official
        Whether a hash is the publisher's; None where the publisher's is unknown.
    """

    name: str
    role: str
    rows: int
    sha256: str
    content_sha256: str
    official: bool | None


@dataclass(frozen=True, slots=True)
class Part:
    """A Parquet part: its path, the file it came from and its hash."""

    path: str
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class InstalledDataset:
    """A data set as installed on this machine.

    Parameters
    ----------
    name, source
        Name of the data set, and folder of its official files.
    files
        The files, in order.
    parts
        Parquet parts, in order of rows, relative to `folder`.
    folder
        Folder of the parts, relative to the folder of data sets.
    whole_numbers
        Columns of whole numbers alone, and their type: ``Int32`` or ``Int64``.
    quirks
        Peculiarities of the raw files, with the number of cells, rows or columns affected.
    training
        Which of several training files was used: ``full`` or ``10-percent``.
    """

    name: str
    source: str
    files: tuple[FileRecord, ...]
    parts: tuple[Part, ...]
    folder: str
    whole_numbers: dict[str, str]
    quirks: dict[str, int]
    training: str = ""
    format: int = FORMAT

    @property
    def rows(self) -> int:
        """Flows in all files."""
        return sum(file.rows for file in self.files)


def data_home() -> Path:
    """Return the folder of everything kept on this machine: ``$DEEPIDEA_HOME``, else the user's data folder."""
    return Path(os.environ.get("DEEPIDEA_HOME") or platformdirs.user_data_dir("deepidea"))


def datasets_folder() -> Path:
    """Return the folder of installed data sets."""
    return data_home() / "datasets"


@contextmanager
def new_parts_folder() -> Iterator[Path]:
    """Yield a new folder for parts; it is removed when the block raises.

    Raises
    ------
    StorageError
        The disk is full or may not be written.
    """
    # A new folder each time: parts are never changed in place, so a reader sees all old ones or all new ones.
    folder = datasets_folder() / uuid.uuid4().hex
    try:
        folder.mkdir(parents=True)
        yield folder
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise StorageError(f"cannot write to {folder.parent}: {error}; free space or set DEEPIDEA_HOME") from error
        raise


def save(dataset: InstalledDataset) -> None:
    """Make a record the current one, and remove the parts of the one before."""
    record = datasets_folder() / f"{dataset.name}.json"
    before = _folder_of(record)
    with replacing(record) as partial:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(dataset), indent=1))
    # Only now does no record name the old parts; a reader that has opened them keeps them until it closes them.
    if before is not None and before != dataset.folder:
        shutil.rmtree(datasets_folder() / before, ignore_errors=True)
    _sweep()


def _sweep() -> None:
    """Remove folders of killed processes: no record names them, and nothing was written to them for a day."""
    named = {_folder_of(record) for record in datasets_folder().glob("*.json")}
    for folder in datasets_folder().iterdir():
        with suppress(FileNotFoundError):  # another process has removed it
            abandoned = _is_token(folder.name) and time.time() - folder.stat().st_mtime > _ABANDONED_S
            if abandoned and folder.name not in named:
                shutil.rmtree(folder, ignore_errors=True)


def _folder_of(record: Path) -> str | None:
    """Return the folder that a record names, None where it names none that may be removed."""
    try:
        folder = msgspec.json.decode(record.read_bytes(), type=dict[str, object]).get("folder")
    except (OSError, ValueError):
        return None
    return folder if isinstance(folder, str) and _is_token(folder) else None


def _is_token(folder: str) -> bool:
    return len(folder) == 32 and folder.isalnum()


def find(name: str) -> InstalledDataset | None:
    """Return the record of an installed data set, None where there is none.

    Raises
    ------
    DatasetError
        The record is damaged or of another format.
    """
    record = datasets_folder() / f"{name}.json"
    if not record.exists():
        return None
    try:
        found = msgspec.json.decode(record.read_bytes(), type=InstalledDataset)
    except ValueError as error:
        raise _damaged(name, f"{record} cannot be read ({error})") from error
    if found.format != FORMAT or not _is_token(found.folder):
        raise _damaged(name, f"{record} is of format {found.format}, not {FORMAT}")
    return found


def check_parts(dataset: InstalledDataset) -> list[Path]:
    """Return the paths of the parts, after checking their hashes.

    Raises
    ------
    DatasetError
        A part is missing or its bytes have changed.
    """
    folder = datasets_folder() / dataset.folder
    for part in dataset.parts:
        path = folder / part.path
        if not path.is_file():
            raise _damaged(dataset.name, f"{path} is missing")
        if file_sha256(path) != part.sha256:
            raise _damaged(dataset.name, f"{path} has changed")
    return [folder / part.path for part in dataset.parts]


def _damaged(name: str, fact: str) -> DatasetError:
    return DatasetError(f"the installed copy of {name} is damaged: {fact}; add it again: deepidea data add {name} DIR")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
