"""Score files of flows into files of verdicts, in bounded memory."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

import polars as pl

from deepidea.flows.skipping import OnError, SkipCount
from deepidea.flows.tables import STDIN, FlowChunk, iter_chunks
from deepidea.flows.writing import Format, write_flows
from deepidea.model.detector import Detector

CHUNK_ROWS = 65_536
_HEAD_BYTES = 65_536  # longer than any first line
T = TypeVar("T")


def score_files(
    detector: Detector,
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    format: Format | None = None,
    keep_original: bool = False,
    on_error: OnError = "raise",
    skipped: SkipCount | None = None,
    header: Sequence[str] | None = None,
    chunk_rows: int = CHUNK_ROWS,
    progress: Callable[[int], None] | None = None,
    rows: range | None = None,
) -> int:
    """Score files of flows and write one verdict a flow, in input order; return how many.

    Parameters
    ----------
    detector : Detector
    inputs : sequence of paths
        CSV, gzipped CSV, Parquet; files, folders, globs, ``-`` for the standard input.
    output : path
        ``.parquet``, ``.csv`` or ``.jsonl``; ``-`` for the standard output. A file appears only when it is whole.
    keep_original : bool
        Whether the columns of each flow, under their own names, precede those of its verdict.
    on_error : {"raise", "skip"}
        How to treat an invalid row; skipped rows are counted in ``skipped``.
    header : sequence of str, optional
        Column names of CSV files that have no header line.
    chunk_rows : int
        Flows in memory at a time.
    progress : callable, optional
        Called with the number of flows scored so far.
    rows : range, optional
        Rows to score, from 0, where the input is one Parquet file.

    Raises
    ------
    DataError
        An input cannot be read or lacks a feature.
    StorageError
        The output cannot be written; an existing file stays as it is.
    """
    chunks = iter_chunks(
        inputs,
        detector.schema,
        chunk_rows=chunk_rows,
        on_error=on_error,
        skipped=skipped,
        header=header,
        keep_original=keep_original,
        rows=rows,
    )
    verdicts = _score_chunks(detector, read_ahead(chunks), progress or (lambda _: None))
    return write_flows(verdicts, output, format=format)


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items of an iterator while another thread computes the next one; errors are raised in their place.

    Examples
    --------
    >>> list(read_ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    end = object()  # StopIteration cannot be raised through a future
    with ThreadPoolExecutor(1, thread_name_prefix="deepidea-read") as reader:
        # One item ahead, no more: memory holds the chunk that is scored and the one that is read.
        upcoming = reader.submit(next, items, end)
        while (item := upcoming.result()) is not end:
            upcoming = reader.submit(next, items, end)
            yield cast(T, item)


def _score_chunks(
    detector: Detector, chunks: Iterator[FlowChunk], progress: Callable[[int], None]
) -> Iterator[pl.DataFrame]:
    n_scored, empty = 0, True
    for chunk in chunks:
        empty = False
        verdicts = detector.score_conformed(chunk.flows)
        n_scored += len(verdicts)
        progress(n_scored)
        yield verdicts if chunk.original is None else join_verdicts(chunk.original, verdicts)
    if empty:  # the output still gets its columns
        yield detector.no_verdicts()


def join_verdicts(original: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of the flows, then those of their verdicts, which win where names collide.

    Examples
    --------
    >>> flows = pl.DataFrame({"bytes": [1], "class": ["?"]})
    >>> join_verdicts(flows, pl.DataFrame({"class": ["dos"], "score": [0.9]})).rows(named=True)
    [{'bytes': 1, 'class': 'dos', 'score': 0.9}]
    """
    return pl.concat([original.drop(verdicts.columns, strict=False), verdicts], how="horizontal")


def headerless_names(detector: Detector, path: str | Path) -> list[str]:
    """Return column names for a CSV file without a header line: the schema's features, then ``extra_1``...

    The KDD Cup and NSL-KDD files are of this kind: 41 features, then the label. The standard input, ``-``, is peeked
    into and not consumed.
    """
    first_line = _unpacked_head(path).lstrip(b"\r\n").partition(b"\n")[0].decode("latin-1")
    n_columns = len(next(csv.reader([first_line.replace("\r", "")]), []))
    features = list(detector.schema.features)
    return features + [f"extra_{j + 1}" for j in range(n_columns - len(features))]


def _unpacked_head(path: str | Path) -> bytes:
    """Return the first bytes; none where they cannot be read, an error that reading the table reports."""
    with contextlib.suppress(OSError, zlib.error):
        head = _head(path)
        # 31: a gzip header, window bits 15. A prefix of a member unpacks to a prefix.
        return zlib.decompressobj(31).decompress(head, _HEAD_BYTES) if head.startswith(b"\x1f\x8b") else head
    return b""


def _head(path: str | Path) -> bytes:
    if str(path) == STDIN:
        return cast("io.BufferedReader", sys.stdin.buffer).peek(_HEAD_BYTES)
    with open(path, "rb") as file:
        return file.read(_HEAD_BYTES)
