"""Errors that the library raises on purpose, in one tree.

::

    DeepIDEAError                 exit code 1
    ├── DataError (ValueError)    exit code 3
    │   ├── FileFormatError
    │   ├── SchemaError
    │   ├── CellError
    │   ├── LabelError
    │   └── LeakError
    ├── DatasetError (LookupError) exit code 3
    ├── ArtifactError (ValueError) exit code 4
    ├── StorageError (OSError)    exit code 5
    ├── DownloadError (OSError)   exit code 5
    ├── SourceError (OSError)     exit code 5
    ├── SinkError (OSError)       exit code 5
    ├── StoreError (OSError)      exit code 5
    │   └── StalePositionError
    └── MissingExtraError (ImportError) exit code 6

A message has what failed, the fact, and what to do. Exit code 2 is a wrong command line, 130 an interruption.
"""

from __future__ import annotations


class DeepIDEAError(Exception):
    """Base of all errors of the library."""

    exit_code = 1


class DataError(DeepIDEAError, ValueError):
    """A file, table or cell breaks a rule."""

    exit_code = 3


class FileFormatError(DataError):
    """A file is empty, truncated, damaged, or of another format than its name."""


class SchemaError(DataError):
    """Columns are missing, doubled or of another kind."""


class CellError(DataError):
    """A cell has a value that its column cannot hold, or a row another number of cells."""


class LabelError(DataError):
    """A label is unknown, or the labels cannot train or test a detector."""


class LeakError(DataError):
    """A column that must never reach a model was requested as a feature."""


class DatasetError(DeepIDEAError, LookupError):
    """A data set is unknown, or not installed on this machine."""

    exit_code = 3

    def __str__(self) -> str:  # subclasses of LookupError may quote their message
        return str(self.args[0]) if self.args else ""


class ArtifactError(DeepIDEAError, ValueError):
    """A detector file is damaged, manipulated, or of another format."""

    exit_code = 4


class StorageError(DeepIDEAError, OSError):
    """A file could not be written; an older file of its name is unchanged."""

    exit_code = 5


class DownloadError(DeepIDEAError, OSError):
    """A download did not finish; the bytes so far are kept for resuming."""

    exit_code = 5


class SourceError(DeepIDEAError, OSError):
    """A source of flows cannot be opened, or failed while it was read."""

    exit_code = 5


class SinkError(DeepIDEAError, OSError):
    """A sink did not accept alerts; they are kept and sent again."""

    exit_code = 5


class StoreError(DeepIDEAError, OSError):
    """A store cannot be opened, is of something else, or was written by a newer version."""

    exit_code = 5


class StalePositionError(StoreError):
    """Another process has advanced the position at which a batch begins; nothing of the batch was stored."""


class MissingExtraError(DeepIDEAError, ImportError):
    """An optional dependency is not installed."""

    exit_code = 6
