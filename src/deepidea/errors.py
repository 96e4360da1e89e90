"""Every error the library raises on purpose, in one tree.

::

    DeepIDEAError                 exit code 1
    ├── DataError (ValueError)    exit code 3   a file, table or cell breaks a rule
    │   ├── FileFormatError                     not what its name says: empty, truncated, not CSV or Parquet
    │   ├── SchemaError                         columns missing, doubled, or of another kind
    │   ├── CellError                           a value that its column cannot hold
    │   ├── LabelError                          unknown label, single class, a class too small
    │   └── LeakError                           a column that must never reach a model
    ├── DatasetError (LookupError) exit code 3  a data set that is not known or not registered
    ├── ArtifactError (ValueError) exit code 4  a detector file that is damaged, tampered with or of another format
    ├── StorageError (OSError)    exit code 5   a file that could not be written; the old one stays
    ├── DownloadError (OSError)   exit code 5   a download that did not finish; what came is kept for resuming
    ├── SourceError (OSError)     exit code 5   a source of flows that the system refuses, or that went away
    ├── SinkError (OSError)       exit code 5   a place for alerts that does not take them
    ├── StoreError (OSError)      exit code 5   a store that cannot be opened or is of a newer version
    │   └── StalePositionError                  another process has gone on from where a batch begins
    └── MissingExtraError (ImportError) exit code 6   an optional dependency is not installed

Messages state the rule, then the fact, then what to do. Exit code 2 is a wrong command line, 130 an interruption.
"""

from __future__ import annotations


class DeepIDEAError(Exception):
    """Base of all errors of the library."""

    exit_code = 1


class DataError(DeepIDEAError, ValueError):
    """A file, table or cell breaks a rule."""

    exit_code = 3


class FileFormatError(DataError):
    """A file is not what its name says."""


class SchemaError(DataError):
    """Columns are missing, doubled or of another kind."""


class CellError(DataError):
    """A cell holds what its column cannot."""


class LabelError(DataError):
    """A label is unknown, or the labels cannot train or test anything."""


class LeakError(DataError):
    """A column that must never reach a model was asked for as a feature."""


class DatasetError(DeepIDEAError, LookupError):
    """A data set is not known, or known and not registered on this machine."""

    exit_code = 3

    def __str__(self) -> str:  # LookupError's descendants may quote their message; this one never does
        return str(self.args[0]) if self.args else ""


class ArtifactError(DeepIDEAError, ValueError):
    """A detector file is damaged, tampered with, or of another format."""

    exit_code = 4


class StorageError(DeepIDEAError, OSError):
    """A file could not be written; what stood there before still stands."""

    exit_code = 5


class SourceError(DeepIDEAError, OSError):
    """A source of flows cannot be opened, or went away."""

    exit_code = 5


class SinkError(DeepIDEAError, OSError):
    """A sink did not take alerts; they are kept and sent again."""

    exit_code = 5


class StoreError(DeepIDEAError, OSError):
    """A store cannot be opened, is not one, or was written by a newer version."""

    exit_code = 5


class StalePositionError(StoreError):
    """A batch begins where the store no longer stands: another process has read on; nothing of it was stored."""


class DownloadError(DeepIDEAError, OSError):
    """A download did not finish; the part that came is kept for resuming."""

    exit_code = 5


class MissingExtraError(DeepIDEAError, ImportError):
    """An optional dependency is not installed."""

    exit_code = 6
