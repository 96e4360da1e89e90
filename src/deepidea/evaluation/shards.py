"""Training flows of a table that does not fit into memory: all of it, read twice.

The first reading counts labels and infers the schema, from rows drawn at random and from the first ones. The second one
writes the flows to shards on the disk. Nothing is held out for a test: evaluate on other files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deepidea.errors import DataError, LabelError, LeakError, SchemaError
from deepidea.evaluation.contracts import to_json_values
from deepidea.evaluation.protocol import table_contract
from deepidea.evaluation.references import Baselines
from deepidea.flows.custom import DETERMINES_LABEL, infer_schema, words_among_numbers
from deepidea.flows.labelled import LabelledFlows, check_label_counts, label_column
from deepidea.flows.schema import Schema, get_schema
from deepidea.flows.shards import ShardedFlows, ShardWriter, check_n_shards, disk_errors
from deepidea.flows.tables import (
    STDIN,
    FlowChunk,
    check_same_columns,
    column_names,
    expand_inputs,
    iter_chunks,
    name_inputs,
    read_table,
)
from deepidea.flows.taxonomy import BENIGN

DRAWN_ROWS = 100_000  # that the schema is inferred from, besides as many that come first
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ShardsToTrain:
    """Flows to train on, and the contract that a detector file must keep of them.

    ``refused`` names the columns that are no features, each with the reason.
    """

    flows: ShardedFlows
    contract: dict[str, Any]
    baselines: Baselines
    refused: dict[str, str] = field(default_factory=dict)

    def card(self) -> dict[str, Any]:
        """Return the entries of the detector file."""
        return {"data": self.contract, "baselines": to_json_values(self.baselines)}


def shards_to_train(
    data: Sequence[str | Path],
    folder: Path,
    *,
    n_shards: int,
    label: str,
    benign: str,
    keep: Collection[str] = (),
    schema: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ShardsToTrain:
    """Write a user's table to shards.

    Parameters
    ----------
    data : sequence of paths
        Files, folders and globs of labelled flows; not the standard input, which can be read once only.
    folder : path
        Where the shards go. It must have room for the table, packed, and for its encoded rows.
    n_shards : int
        Parts of which one at a time is in memory.
    label, benign, keep
        As for :func:`deepidea.evaluation.protocol.flows_to_train`.
    schema : str, optional
        Name of a registered schema whose columns the table has; inferred where absent.
    seed : int
        Of the rows that are drawn for the schema.
    progress : callable, optional
        Called with the number of flows read so far; each of the two readings counts from the first one.

    Raises
    ------
    DataError
        The table cannot be read or is not the same when it is read again, its labels cannot train, or the number of
        shards is out of bounds.
    StorageError
        The disk is full.
    LeakError
        A column to keep would give the label away.
    """
    check_n_shards(n_shards)
    if schema is not None and keep:
        raise DataError(f"--keep is for a schema that is inferred, and the schema is {schema}; leave it out")
    paths = expand_inputs(data)
    _refuse_stdin(paths)
    _refuse_columns(paths, label)
    # Two readings: which labels there are and what the schema is must be known before the first row can be written.
    labels, concrete, refused = _survey(paths, folder, label, benign, keep, schema, seed, progress)
    order = (BENIGN, *sorted(set(labels.counts) - {benign}))
    flows = _write_shards(paths, labels, order, ShardWriter(folder, concrete, n_shards), progress)
    contract = {
        **table_contract(paths, label, benign),
        "rows": labels.counts.total(),
        "class_rows": {name: labels.counts[benign if name == BENIGN else name] for name in order},
        "split": {"kind": "none"},
        "shards": n_shards,
    }
    return ShardsToTrain(flows, contract, _baselines(flows, seed), refused)


def _refuse_stdin(paths: Sequence[Path]) -> None:
    if any(str(path) == STDIN for path in paths):
        raise SchemaError("cannot read the standard input twice, and shards need two readings; name files")


def _refuse_columns(paths: Sequence[Path], label: str) -> None:
    columns = [column_names(path) for path in paths]
    label_column(pl.DataFrame(schema=dict.fromkeys(columns[0], pl.String)), label)
    check_same_columns(paths, columns)


@dataclass(frozen=True, slots=True)
class _Labels:
    """The labels of a table: their column, the benign one, the label of each spelling, and the count of each label.

    Cells of CSV files are text, and a whole table's may be read as another type: ``True`` becomes ``true`` then.
    """

    column: str
    benign: str
    spellings: dict[str, str]
    counts: Counter[str]

    def codes(self, labels: pl.Series, order: tuple[str, ...]) -> NDArray[np.uint16] | None:
        """Return the place of each label's class in an order; None where a label is new."""
        places = {self.benign if name == BENIGN else name: place for place, name in enumerate(order)}
        spelt = {spelling: places[name] for spelling, name in self.spellings.items()}
        codes = labels.replace_strict(spelt, default=None, return_dtype=pl.UInt16)
        return None if codes.null_count() else codes.to_numpy()


def _survey(
    paths: Sequence[Path],
    folder: Path,
    label: str,
    benign: str,
    keep: Collection[str],
    schema: str | None,
    seed: int,
    progress: Progress | None,
) -> tuple[_Labels, Schema, dict[str, str]]:
    """Read a table for the first time; return its labels, its schema, and the reason for each refused column."""
    known = None if schema is None else _registered(schema, paths[0])
    survey = _Survey(label, seed, samples=known is None)
    for chunk in _read(paths, Schema("labels", ()), progress, keep_original=known is None or [label]):
        survey.add(chunk)
    labels = survey.labels(benign, folder)
    check_label_counts(label, benign, labels.counts)
    return (labels, *survey.infer(keep, folder)) if known is None else (labels, known, {})


def _registered(name: str, path: Path) -> Schema:
    """Return a registered schema with the columns that a table has."""
    if name.endswith("+context"):
        raise SchemaError(
            f"cannot compute the context of schema {name} in shards, which do not keep the order of flows; train in "
            f"{name.removesuffix('+context')}, or in memory"
        )
    schema, columns = get_schema(name), column_names(path)
    try:
        schema.conform(pl.DataFrame(schema=dict.fromkeys(columns, pl.String)))
    except SchemaError as error:
        raise SchemaError(f"{path}: {error}") from error
    return schema.restrict(list(schema.canonical_names(columns).values()))


def _read(
    paths: Sequence[Path], schema: Schema, progress: Progress | None, *, keep_original: bool | Sequence[str]
) -> Iterator[FlowChunk]:
    done = 0
    for chunk in iter_chunks(paths, schema, keep_original=keep_original):
        yield chunk
        done += len(chunk)
        if progress is not None:
            progress(done)


class _Survey:
    """The result of a first reading of a table: counts of labels, rows drawn at random, and its first rows."""

    def __init__(self, label: str, seed: int, *, samples: bool) -> None:
        self._counts: Counter[str] = Counter()
        self._label, self._samples = label, samples
        self._first: list[pl.DataFrame] = []
        self._sample = _RowSample(np.random.default_rng(seed))
        self._is_text = False

    def add(self, chunk: FlowChunk) -> None:
        assert chunk.original is not None  # keep_original is set
        labels = label_column(chunk.original, self._label)
        if labels.null_count():
            row = int(labels.is_null().arg_true()[0])
            raise LabelError(f"{chunk.where(row)}: the label column {self._label} is empty; drop such rows")
        self._counts.update(dict(labels.value_counts().iter_rows()))
        self._is_text |= chunk.unit == "line"
        if self._samples:
            self._first.append(chunk.original.head(DRAWN_ROWS - sum(map(len, self._first))))
            self._sample.offer(chunk.original)

    def labels(self, benign: str, folder: Path) -> _Labels:
        """Return the labels, typed as in a whole table."""
        # Through the reader of whole tables, so that a label gets the spelling that it would have in one.
        spelt = sorted(self._counts)
        column = label_column(self._typed(pl.DataFrame({self._label: spelt}), folder), self._label)
        spellings = dict(zip(spelt, column.to_list(), strict=True))
        counts: Counter[str] = Counter()
        for spelling, name in spellings.items():
            counts[name] += self._counts[spelling]
        return _Labels(self._label, benign, spellings, counts)

    def infer(self, keep: Collection[str], folder: Path) -> tuple[Schema, dict[str, str]]:
        """Return the schema of the table, and the reason for each refused column.

        Rows at random show columns that give the label away; the first rows show columns that number them.
        """
        first = self._typed(_joined(self._first), folder)
        self._first.clear()  # text takes several times the room of what it spells
        drawn = self._typed(self._sample.rows(), folder)
        self._sample.clear()
        schema, refused = infer_schema(drawn, label=self._label, keep=keep)
        # The first rows once more, with the columns that are left: a running number looks harmless in rows drawn at
        # random.
        names = [self._label, *(column.name for column in schema.columns)]
        try:
            _, more = infer_schema(first.select(names), label=self._label, keep=keep)
        except LeakError:
            raise
        except SchemaError:  # all are refused, which is no more than a suspicion in rows that come in some order
            more = {}
        more = {name: why for name, why in more.items() if why != DETERMINES_LABEL}
        columns = tuple(column for column in schema.columns if column.name not in more)
        return Schema(schema.name, columns, use_port=schema.use_port), {**refused, **more}

    def _typed(self, rows: pl.DataFrame, folder: Path) -> pl.DataFrame:
        """Give the cells of CSV files, which are text so far, the types that a whole table would have.

        A column of numbers with a few words in it stays one of numbers: the second reading reports the words.
        """
        if self._is_text:
            path = folder / "drawn.csv"
            with disk_errors(folder):
                rows.write_csv(path)
            rows = read_table(path)
            path.unlink()
        return rows.with_columns(
            column.cast(pl.Float64, strict=False)
            for column in rows.select(pl.col(pl.String).exclude(self._label)).iter_columns()
            if words_among_numbers(column) is not None
        )


class _RowSample:
    """Rows of the lowest random numbers so far: any row of the table is as likely as any other."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._parts: list[pl.DataFrame] = []
        self._keys = np.zeros(0)
        self._bound = 1.0  # no row above it is among the lowest

    # A uniform sample without knowing the length: each row draws a key, and the lowest keys stay. Trimming at a quarter
    # over the size keeps the cost of sorting low; keys above the bound can never come in again.
    def offer(self, rows: pl.DataFrame) -> None:
        keys = self._rng.random(len(rows))
        low = np.flatnonzero(keys < self._bound)
        self._parts.append(rows[low])
        self._keys = np.append(self._keys, keys[low])
        if len(self._keys) > 1.25 * DRAWN_ROWS:
            self._parts = [self.rows()]
            self._keys = np.sort(self._keys)[:DRAWN_ROWS]
            self._bound = self._keys[-1]

    def clear(self) -> None:
        self._parts, self._keys = [], np.zeros(0)

    def rows(self) -> pl.DataFrame:
        """Return the rows, in the order of their numbers."""
        return _joined(self._parts)[np.argsort(self._keys)[:DRAWN_ROWS]]


def _joined(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat((part.select(parts[0].columns) for part in parts), how="vertical_relaxed")


def _write_shards(
    paths: Sequence[Path], labels: _Labels, order: tuple[str, ...], writer: ShardWriter, progress: Progress | None
) -> ShardedFlows:
    n_flows = 0
    for chunk in _read(paths, writer.schema, progress, keep_original=[labels.column]):
        assert chunk.original is not None  # keep_original is set
        # A file that grows between the readings would train on rows that no count and no hash knows.
        codes = labels.codes(label_column(chunk.original, labels.column), order)
        if codes is None:
            _refuse_changed(paths, "a new label")
        writer.add(chunk.flows, codes)
        n_flows += len(chunk)
    if n_flows != labels.counts.total():
        _refuse_changed(paths, f"{n_flows:,} flows, the first {labels.counts.total():,}")
    return writer.finish(order, name_inputs(paths))


def _refuse_changed(paths: Sequence[Path], fact: str) -> NoReturn:
    raise DataError(f"{name_inputs(paths)} changed between two readings: the second has {fact}; train on a copy")


def _baselines(flows: ShardedFlows, seed: int) -> Baselines:
    """Fit the references on flows drawn from the shards, and two of each class at least."""
    share = flows.copies / flows.copies.sum()
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(flows), size=min(DRAWN_ROWS, len(flows)), p=share)
    # A rare class may not be drawn at all, and the references need each of them.
    few = [np.flatnonzero(flows.codes == code)[:2] for code in range(len(flows.class_order))]
    rows = np.concatenate([drawn, *few])
    classes = pl.Series(flows.class_order).gather(flows.codes[rows])
    return Baselines.fit(LabelledFlows(flows.table[rows], classes, classes, flows.schema, flows.class_order))
