"""Encoded training rows on disk, beside their shards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepidea.flows.shards import ShardedTable, disk_errors
from deepidea.model.batches import RowsInMemory, RowsOnDisk
from deepidea.model.features import FlowEncoder


def encode_shards(
    table: ShardedTable, encoder: FlowEncoder, target: NDArray[np.int64], weight: NDArray[np.float64]
) -> RowsOnDisk:
    """Write the encoded rows of each shard to a file and return them as training rows.

    A row whose weight is at least the number of shards becomes common to all shards, so that at least one flow of it is
    drawn in each. Common rows are at most as many as a shard's rows, since all weights sum to the number of flows.

    Parameters
    ----------
    table : ShardedTable
    encoder : FlowEncoder
        Fitted.
    target : array, int64, (n_rows,)
    weight : array, float64, (n_rows,)

    Returns
    -------
    RowsOnDisk
        Its files are beside those of the table.

    Raises
    ------
    StorageError
        The disk is full.
    """
    heavy = weight >= len(table.paths)  # at least one flow of it in each shard
    common = RowsInMemory(encoder.transform(table.filter(heavy).read()), target[heavy], weight[heavy])
    own = table.filter(~heavy)
    paths = [path.with_suffix(".npy") for path in table.paths]
    for path, rows in zip(paths, own.shards(), strict=True):
        with disk_errors(path.parent):
            np.save(path, encoder.transform(rows), allow_pickle=False)
    bounds = np.cumsum(own.sizes)[:-1]
    return RowsOnDisk(paths, np.split(target[~heavy], bounds), np.split(weight[~heavy], bounds), common)
