"""Tables larger than memory: distinct rows in files, the shards.

Rows are assigned to shards by their fingerprint, a hash: every shard is a random sample of the table, whatever the
order of its files, and all copies of a row are in one shard, where they can be counted. In memory are one shard at a
time, and of all rows the fingerprint, class and number of copies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.exceptions import PolarsError

from deepidea.errors import DataError, StorageError
from deepidea.flows.fingerprint import collapse_duplicates, row_fingerprints
from deepidea.flows.schema import Schema

MOST_SHARDS = 4096
WRITTEN_BYTES = 256 << 20  # that wait in memory for their shard's file, of all shards together
READ_COLUMNS = 16  # of a shard at a time
_PRINT, _CODE, _COPIES = "\x1fprint", "\x1fcode", "\x1fcopies"  # columns whose names no flow's column has
_LITERALLY: dict[str, Any] = {"glob": False, "hive_partitioning": False}  # a path is taken literally


@dataclass(frozen=True, slots=True, eq=False)
class ShardedTable:
    """Rows of a table in Parquet files, in their order, with the part of polars' interface that training uses.

    Parameters
    ----------
    paths : tuple of path
    kept : tuple of arrays, bool
        Which rows of each file are in the table.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for j in range(2):
    ...     pl.DataFrame({"x": [2 * j, 2 * j + 1]}).write_parquet(folder / f"{j}.parquet")
    >>> table = ShardedTable.of([folder / "0.parquet", folder / "1.parquet"])
    >>> odd = table.filter(np.array([False, True, False, True]))
    >>> len(odd), odd["x"].to_list(), odd[np.array([1, 0])].rows()
    (2, [1, 3], [(3,), (1,)])
    """

    paths: tuple[Path, ...]
    kept: tuple[NDArray[np.bool_], ...]

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Self:
        """Return all rows of some files."""
        heights = [pl.scan_parquet(path, **_LITERALLY).select(pl.len()).collect().item() for path in paths]
        return cls(tuple(paths), tuple(np.ones(height, np.bool_) for height in heights))

    @property
    def sizes(self) -> list[int]:
        """Rows of each shard."""
        return [int(kept.sum()) for kept in self.kept]

    def __len__(self) -> int:
        return sum(self.sizes)

    def is_empty(self) -> bool:
        """Whether there is no row."""
        return len(self) == 0

    def filter(self, mask: NDArray[np.bool_]) -> ShardedTable:
        """Return the rows of a mask; nothing is read."""
        masks = np.split(mask, np.cumsum(self.sizes)[:-1])
        kept = [_narrowed(rows, chosen) for rows, chosen in zip(self.kept, masks, strict=True)]
        return ShardedTable(self.paths, tuple(kept))

    @overload
    def __getitem__(self, wanted: str) -> pl.Series: ...
    @overload
    def __getitem__(self, wanted: NDArray[np.int64]) -> pl.DataFrame: ...
    def __getitem__(self, wanted: str | NDArray[np.int64]) -> pl.Series | pl.DataFrame:
        """Return one column, or some rows in the given order."""
        if isinstance(wanted, str):
            return pl.concat([shard[wanted] for shard in self._shards([wanted])], rechunk=True)
        return self._gather(wanted)

    def shards(self) -> Iterator[pl.DataFrame]:
        """Yield the rows of one file after the other."""
        return self._shards(pl.scan_parquet(self.paths[0], **_LITERALLY).collect_schema().names())

    def read(self) -> pl.DataFrame:
        """Return all rows in memory."""
        return pl.concat(self.shards())

    def _shards(self, columns: list[str]) -> Iterator[pl.DataFrame]:
        for path, kept in zip(self.paths, self.kept, strict=True):
            yield _read_rows(path, columns, np.flatnonzero(kept))

    def _gather(self, rows: NDArray[np.int64]) -> pl.DataFrame:
        # Each row is read once, in the order of the files, and then put where it was asked for.
        distinct, places = np.unique(rows, return_inverse=True)
        mask = np.zeros(len(self), np.bool_)
        mask[distinct] = True
        return self.filter(mask).read()[places]


def _read_rows(path: Path, columns: list[str], rows: NDArray[np.int64]) -> pl.DataFrame:
    """Read some rows, some columns at a time: a whole shard beside the wanted rows would take far more memory."""
    blocks = [columns[k : k + READ_COLUMNS] for k in range(0, len(columns), READ_COLUMNS)]
    # by index, not by mask: the result of a mask may be a view, which keeps the whole in memory
    parts = (pl.read_parquet(path, columns=block, **_LITERALLY)[rows] for block in blocks)
    return pl.concat(parts, how="horizontal")


FlowTable = pl.DataFrame | ShardedTable


def in_memory(table: FlowTable) -> pl.DataFrame:
    """Return a table's rows in memory."""
    return table.read() if isinstance(table, ShardedTable) else table


def _narrowed(kept: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    narrowed = np.zeros_like(kept)
    narrowed[np.flatnonzero(kept)[chosen]] = True
    return narrowed


@dataclass(frozen=True, slots=True, eq=False)
class ShardedFlows:
    """Distinct labelled flows on the disk.

    Parameters
    ----------
    table : ShardedTable
        Features, in the order of fingerprints.
    codes : array, uint16, (n_rows,)
        Index of each row's class in ``class_order``.
    copies : array, float64, (n_rows,)
        Number of flows that each row represents.
    fingerprints : array, uint64, (n_rows,)
    schema : Schema
    class_order : tuple of str
        Benign first.
    source : str
        Where the flows come from.
    """

    table: ShardedTable
    codes: NDArray[np.uint16]
    copies: NDArray[np.float64]
    fingerprints: NDArray[np.uint64]
    schema: Schema
    class_order: tuple[str, ...]
    source: str = ""

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def folder(self) -> Path:
        """Folder of the shards and of files derived from them."""
        return self.table.paths[0].parent


def check_n_shards(n_shards: int) -> None:
    """Check a number of shards."""
    if not 2 <= n_shards <= MOST_SHARDS:
        raise DataError(f"the number of shards must be in 2..{MOST_SHARDS}, got {n_shards}")


class ShardWriter:
    """Assigns flows to shards and writes them.

    Parameters
    ----------
    folder : path
        An empty one.
    schema : Schema
        Of the flows.
    n_shards : int
        A shard must fit into memory, with room around it.

    Raises
    ------
    DataError
        The number of shards is out of bounds.
    """

    def __init__(self, folder: Path, schema: Schema, n_shards: int) -> None:
        check_n_shards(n_shards)
        self.schema = schema
        self._folder, self._n = folder, n_shards
        self._waiting: list[list[pl.DataFrame]] = [[] for _ in range(n_shards)]
        self._written = [0] * n_shards

    def add(self, flows: pl.DataFrame, codes: NDArray[np.uint16]) -> None:
        """Assign flows in the schema's columns, with their classes, to the shards.

        Raises
        ------
        StorageError
            The disk is full.
        """
        prints = row_fingerprints(flows, self.schema)
        own = [pl.Series(_PRINT, prints), pl.Series(_CODE, codes), pl.Series(_COPIES, np.ones(len(codes)))]
        rows = flows.select(self.schema.features).with_columns(own)
        # the upper 32 bits scaled to 0..n: shards ascend with the fingerprint, so all their rows in order are sorted
        shard = ((prints >> np.uint64(32)) * np.uint64(self._n)) >> np.uint64(32)
        order = np.argsort(shard, kind="stable")
        bounds = np.searchsorted(shard[order], np.arange(self._n + 1))
        for j, (start, end) in enumerate(pairwise(bounds.tolist())):
            if start < end:
                self._buffer(j, rows[order[start:end]])  # a copy: a view would keep all flows of the call

    def _buffer(self, j: int, rows: pl.DataFrame) -> None:
        self._waiting[j].append(rows)
        # Each shard has its share of the memory for waiting rows, so that the sum is bounded whatever shard the flows
        # fall into.
        if sum(part.estimated_size() for part in self._waiting[j]) > WRITTEN_BYTES / self._n:
            self._flush(j)

    def _flush(self, j: int) -> None:
        with disk_errors(self._folder):
            # Equal rows are merged before they are written: in a flood that is nearly all of them.
            _collapsed(self._waiting[j]).write_ipc(self._piece(j, self._written[j]), compression="lz4")
        self._waiting[j] = []
        self._written[j] += 1

    def _piece(self, j: int, number: int) -> Path:
        return self._folder / f"piece-{j:04d}-{number:06d}.arrow"

    def finish(self, class_order: Sequence[str], source: str) -> ShardedFlows:
        """Return the distinct flows, after the last `add`.

        Raises
        ------
        DataError
            There are no flows.
        StorageError
            The disk is full.
        """
        parts = [part for j in range(self._n) if (part := self._finish(j)) is not None]
        if not parts:
            raise DataError("the table has no flows")
        paths, codes, copies, prints = zip(*parts, strict=True)
        arrays = (np.concatenate(codes), np.concatenate(copies), np.concatenate(prints))
        return ShardedFlows(ShardedTable.of(paths), *arrays, self.schema, tuple(class_order), source)

    def _finish(self, j: int) -> tuple[Path, NDArray[np.uint16], NDArray[np.float64], NDArray[np.uint64]] | None:
        """Write the distinct rows of a shard; return what stays of them in memory."""
        # One shard at a time is in memory, here alone: its pieces and what still waits.
        pieces = [self._piece(j, number) for number in range(self._written[j])]
        waiting, self._waiting[j] = self._waiting[j], []
        read = [*(pl.read_ipc(piece) for piece in pieces), *waiting]
        if not read:
            return None
        del waiting
        rows = _collapsed(read)
        path = self._folder / f"shard-{j:04d}.parquet"
        with disk_errors(self._folder):
            rows.drop(_PRINT, _CODE, _COPIES).write_parquet(path, compression="lz4")
        for piece in pieces:
            piece.unlink()
        return path, rows[_CODE].to_numpy(), rows[_COPIES].to_numpy(), rows[_PRINT].to_numpy()


def _collapsed(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """Return the distinct rows of some parts, the first of equal ones, each with the sum of its copies."""
    rows = pl.concat(parts)
    # The caller's list as well, or the parts would stay beside their concatenation.
    parts.clear()
    codes = rows[_CODE].to_numpy().astype(np.int64)
    chosen, copies = collapse_duplicates(rows[_PRINT].to_numpy(), codes, rows[_COPIES].to_numpy())
    return rows[chosen].with_columns(pl.Series(_COPIES, copies))


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Raise errors of the disk while shards are written as `StorageError`."""
    try:
        yield
    except (OSError, PolarsError) as error:
        raise StorageError(
            f"cannot write shards to {folder}: {error}; set TMPDIR to a folder with more room"
        ) from error
