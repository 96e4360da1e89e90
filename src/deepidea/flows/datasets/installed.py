"""Registered data sets on this machine: typed Parquet parts and one JSON record each, replaced whole or not at all.

``<home>/datasets/<name>.json`` names the folder of parts that is current. Parts are written into a folder of their
own first, so two processes that register at once each leave a whole one, and the record tells which counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs

from deepidea.errors import DatasetError, StorageError
from deepidea.flows.atomic import replacing

FORMAT = 1
_ABANDONED_S = 86_400.0


@dataclass(frozen=True, slots=True)
class FileRecord:
    """An official file that a data set was registered from.

    Parameters
    ----------
    name
        File name.
    role
        ``train``, ``test`` or ``extra``.
    rows
        Flows in it.
    sha256, content_sha256
        Hash of the file and of what it unpacks to.
    official
        True where a hash is the publisher's, False where it is not, None where the publisher's is not known.
    """

    name: str
    role: str
    rows: int
    sha256: str
    content_sha256: str
    official: bool | None


@dataclass(frozen=True, slots=True)
class Part:
    """A Parquet part: the file it came from and the hash of the part."""

    path: str
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class InstalledDataset:
    """A data set as registered on this machine.

    Parameters
    ----------
    name
        Name of the data set.
    source
        Folder of the official files.
    files
        The files, in order.
    parts
        Parquet parts, in order of rows, relative to `folder`.
    folder
        Folder of the parts, relative to the folder of data sets.
    whole_numbers
        Columns that hold whole numbers alone, and the type that holds them: ``Int32`` or ``Int64``.
    quirks
        Peculiarities of the raw files and how many cells, rows or columns each touched.
    training
        Which training file was taken where there are several: ``full`` or ``10-percent``.
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

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return asdict(self)


def data_home() -> Path:
    """Return the folder of everything kept on this machine: ``$DEEPIDEA_HOME``, else the user's data folder."""
    return Path(os.environ.get("DEEPIDEA_HOME") or platformdirs.user_data_dir("deepidea"))


def datasets_folder() -> Path:
    """Return the folder of installed data sets."""
    return data_home() / "datasets"


@contextmanager
def new_parts_folder() -> Iterator[Path]:
    """Yield a new folder for parts; it goes when the block raises.

    Raises
    ------
    StorageError
        The disk is full or may not be written.
    """
    folder = datasets_folder() / uuid.uuid4().hex
    try:
        folder.mkdir(parents=True)
        yield folder
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise StorageError(
                f"{folder.parent} must be writable, however: {error}; free space or set DEEPIDEA_HOME"
            ) from error
        raise


def save(registration: InstalledDataset) -> None:
    """Make a registration the current one, and remove the parts of the one before."""
    record = datasets_folder() / f"{registration.name}.json"
    before = _folder_of(record)
    with replacing(record) as partial:
        partial.write_text(json.dumps(registration.to_dict(), indent=1), encoding="utf-8")
    if before is not None and before != registration.folder:
        shutil.rmtree(datasets_folder() / before, ignore_errors=True)
    _sweep()


def _sweep() -> None:
    """Remove folders that no record names and that no one can still be writing: leftovers of killed processes."""
    named = {_folder_of(record) for record in datasets_folder().glob("*.json")}
    for folder in datasets_folder().iterdir():
        if _is_token(folder.name) and folder.name not in named and _age_s(folder) > _ABANDONED_S:
            shutil.rmtree(folder, ignore_errors=True)


def _age_s(folder: Path) -> float:
    """Return the seconds since something was written into a folder, 0 where another process has removed it."""
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _folder_of(record: Path) -> str | None:
    """Return the folder that a record names, None where it says nothing that we would remove."""
    try:
        folder = json.loads(record.read_text(encoding="utf-8"))["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder if isinstance(folder, str) and _is_token(folder) else None


def _is_token(folder: str) -> bool:
    return len(folder) == 32 and folder.isalnum()


def find(name: str) -> InstalledDataset | None:
    """Return the registration of a data set, None where there is none.

    Raises
    ------
    DatasetError
        The record is damaged or of another format.
    """
    record = datasets_folder() / f"{name}.json"
    if not record.exists():
        return None
    try:
        return _read(json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(name, f"{record} cannot be read ({error})") from error


def _read(data: dict[str, Any]) -> InstalledDataset:
    if data["format"] != FORMAT or not _is_token(data["folder"]):
        raise ValueError(f"format {data['format']} is not {FORMAT}")
    files = tuple(FileRecord(**entry) for entry in data.pop("files"))
    parts = tuple(Part(**entry) for entry in data.pop("parts"))
    return InstalledDataset(files=files, parts=parts, **data)


def check_parts(registration: InstalledDataset) -> list[Path]:
    """Return the paths of the parts, each proved to be what was written.

    Raises
    ------
    DatasetError
        A part is missing or its bytes have changed.
    """
    folder = datasets_folder() / registration.folder
    for part in registration.parts:
        path = folder / part.path
        if not path.is_file():
            raise _damaged(registration.name, f"{path} is missing")
        if file_sha256(path) != part.sha256:
            raise _damaged(registration.name, f"{path} has changed since")
    return [folder / part.path for part in registration.parts]


def _damaged(name: str, fact: str) -> DatasetError:
    return DatasetError(
        f"the registered copy of {name} must be whole, however: {fact}; register it again: deepidea data add {name} DIR"
    )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
