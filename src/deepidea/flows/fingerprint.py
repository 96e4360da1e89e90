"""A 64-bit fingerprint of each flow's features: equal vectors have equal fingerprints, on every machine and version.

The hash is part of the detector file format and must not change (a test checks a golden value). A row starts from a
constant; each 32-bit word ``w`` of its features, in schema order, is mixed in by ``h = (h ^ w) * M mod 2^64;
h ^= h >> 32``, and two further rounds with other constants finalise it. The word of a number is its float32 bits, with
-0.0 as 0.0, null and every NaN as one NaN; a category is two words, low first, of the 8-byte BLAKE2b of its UTF-8 text.
It is not collision-resistant against an attacker; two among a million different flows collide by chance with a
probability below one in ten million.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from deepidea.flows.schema import Schema

Words = npt.NDArray[np.uint64]

_START = np.uint64(0x243F6A8885A308D3)  # the fractional bits of pi
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio, odd
_FINAL = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # the finaliser of splitmix64
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_ONE_NAN = np.uint32(0x7FC00000)
_BLOCK_ROWS = 16_384  # a block of state stays in the second cache


def _take_up(state: Words, words: npt.NDArray[np.generic], scratch: Words) -> None:
    """Mix one 32-bit word into each row's state, in place."""
    # As in murmur: xor, multiply, fold the upper half into the lower. In place, since these arrays are as long as the
    # table.
    np.bitwise_xor(state, words, out=state)
    np.multiply(state, _MULTIPLIER, out=state)
    np.right_shift(state, _HALF, out=scratch)
    np.bitwise_xor(state, scratch, out=state)


def spread_bits(state: Words) -> Words:
    """Spread every bit over its whole word, by the finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    for shift, multiplier in zip((30, 27), _FINAL, strict=True):
        state = (state ^ (state >> np.uint64(shift))) * multiplier
    return state ^ (state >> np.uint64(31))


def _number_words(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Return float32 bits with one zero and one NaN."""
    words = (values + np.float32(0.0)).view(np.uint32)  # adding zero turns -0.0 into 0.0
    missing = np.isnan(values)
    if missing.any():
        words[missing] = _ONE_NAN
    return words


def _digest(word: str | None) -> int:
    text, tag = (b"", b"null") if word is None else (word.encode(), b"category")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=tag).digest(), "little")


def _category_words(values: pl.Series) -> Words:
    """Return the 64-bit digest of each category; null has its own."""
    # A digest for each distinct word, not for each row.
    distinct = values.cast(pl.String).unique()
    digests = pl.Series([_digest(word) for word in distinct], dtype=pl.UInt64)
    return values.cast(pl.String).replace_strict(distinct, digests, return_dtype=pl.UInt64).to_numpy()


def _mix_blocks(n_rows: int, columns: list[npt.NDArray[np.generic]]) -> Words:
    """Mix word columns (uint32 or uint64 below 2^32), block by block."""
    out = np.full(n_rows, _START, dtype=np.uint64)
    scratch = np.empty(min(n_rows, _BLOCK_ROWS), dtype=np.uint64)
    for begin in range(0, n_rows, _BLOCK_ROWS):
        # All columns of a block before the next block: its state stays in the cache, where a pass over the table for
        # each column would fetch it from memory each time.
        state = out[begin : begin + _BLOCK_ROWS]
        for words in columns:
            _take_up(state, words[begin : begin + _BLOCK_ROWS], scratch[: len(state)])
        out[begin : begin + _BLOCK_ROWS] = spread_bits(state)
    return out


def _column_words(values: pl.Series, is_category: bool) -> list[npt.NDArray[np.generic]]:
    if is_category:
        digests = _category_words(values)
        # 64 bits of a digest go in as two words, so that every round takes 32 bits.
        return [digests & _LOW, digests >> _HALF]
    numbers = values.cast(pl.Float32).fill_null(float("nan")).to_numpy()
    return [_number_words(numbers)]


def row_fingerprints(table: pl.DataFrame, schema: Schema) -> npt.NDArray[np.uint64]:
    """Return one fingerprint a row over the schema's features; identities and unused ports do not count.

    Parameters
    ----------
    table
        Conformed table, at least the features of `schema`.
    schema
        Its features, in its order, are what is mixed.

    Returns
    -------
    numpy.ndarray
        uint64, shape ``(n_flows,)``. A row's fingerprint does not depend on other rows.

    Examples
    --------
    >>> from deepidea.flows.schema import Column
    >>> schema = Schema("custom", (Column("x", "number"), Column("proto", "category")))
    >>> table = pl.DataFrame({"x": [0.0, -0.0, 1.0], "proto": ["tcp", "tcp", "tcp"]})
    >>> prints = row_fingerprints(table, schema)
    >>> bool(prints[0] == prints[1]), bool(prints[0] == prints[2])
    (True, False)
    """
    categories = set(schema.categories)
    return _mix_table(table, schema.features, lambda name: name in categories)


def _mix_table(table: pl.DataFrame, names: tuple[str, ...], is_category: Callable[[str], bool]) -> Words:
    columns = [words for name in names for words in _column_words(table[name], is_category(name))]
    return _mix_blocks(table.height, columns)


def mix_array(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """Return one fingerprint a row of a plain matrix.

    Parameters
    ----------
    matrix
        float32, shape ``(n_flows, n_features)``. A table of numbers alone has the fingerprints of its matrix.

    Returns
    -------
    numpy.ndarray
        uint64, shape ``(n_flows,)``.

    Examples
    --------
    >>> [hex(print_) for print_ in mix_array(np.array([[1, 2], [2, 1]], dtype=np.float32)).tolist()]
    ['0x57441345a02794bf', '0x9ad964abb1cc14bd']
    """
    columns = [_number_words(np.ascontiguousarray(column)) for column in matrix.astype(np.float32, copy=False).T]
    return _mix_blocks(len(matrix), list(columns))


def collapse_duplicates(
    fingerprints: npt.NDArray[np.uint64], target: npt.NDArray[np.int64], weight: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return one row for each distinct pair of vector and class, and the summed weight of its copies.

    The order is by fingerprint, so it does not depend on the order of the rows; rows of weight 0 are left out.

    Examples
    --------
    >>> import numpy as np
    >>> prints = np.array([7, 3, 7, 7], dtype=np.uint64)
    >>> collapse_duplicates(prints, np.array([0, 0, 0, 1]), np.array([1.0, 1.0, 2.0, 0.0]))
    (array([1, 0]), array([1., 3.]))
    """
    kept = np.flatnonzero(weight > 0)
    # The sort is stable, so that of equal rows the first one of the table is kept.
    order = kept[np.lexsort((target[kept], fingerprints[kept]))]
    changes = (np.diff(fingerprints[order]) != 0) | (np.diff(target[order]) != 0)
    starts = np.flatnonzero(np.concatenate([[True], changes])[: len(order)])
    return order[starts], np.add.reduceat(weight[order], starts)
