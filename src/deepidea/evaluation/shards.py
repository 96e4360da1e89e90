"""Which flows train where a table does not fit into memory: all of it, read twice.

The first reading looks: it counts labels, and infers the schema from rows drawn at random and from those that come
first. The second one deals the flows to shards on the disk. Nothing is held out for a test: name other files there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from deepidea.errors import LabelError, LeakError, SchemaError
from deepidea.evaluation.evaluate import Baselines
from deepidea.flows.column import Column
from deepidea.flows.custom import infer_schema
from deepidea.flows.labelled import label_column, labelled_flows_from_table, refuse_label_counts
from deepidea.flows.registry import file_sha256
from deepidea.flows.schema import Schema, get_schema
from deepidea.flows.shards import ShardedFlows, ShardWriter
from deepidea.flows.tables import STDIN, FlowChunk, column_names, expand_inputs, iter_chunks, read_table
from deepidea.flows.taxonomy import BENIGN

DRAWN_ROWS = 100_000  # that the schema is inferred from, besides as many that come first
CELLS_A_WORD = 10  # at least: a column of fewer words is one of numbers with faults
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ShardsToTrain:
    """Flows to train on, and what a detector file must keep of where they come from.

    ``refused`` names the columns that are no features, each with the reason.
    """

    flows: ShardedFlows
    contract: dict[str, Any]
    baselines: Baselines
    refused: dict[str, str] = field(default_factory=dict)

    def card(self) -> dict[str, Any]:
        """Return what goes into the detector file."""
        return {"data": self.contract, "baselines": self.baselines.to_contract()}


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
    """Deal a user's table to shards.

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
        Of the rows that are drawn to look at.
    progress : callable, optional
        Called with the number of flows read so far, of both readings.

    Raises
    ------
    DataError
        The table cannot be read, its labels cannot train, or the number of shards is out of bounds.
    LeakError
        A column to keep would give the label away.
    """
    paths = expand_inputs(data)
    _refuse_stdin(paths)
    _refuse_columns(paths, label)
    survey = _Survey(label, seed)
    for chunk in _labelled(paths, label, progress, keep_original=True):
        survey.add(chunk)
    refuse_label_counts(label, benign, survey.counts)
    refused: dict[str, str] = {}
    if schema is None:
        concrete, refused = survey.infer(keep, folder)
    else:
        known = get_schema(schema)
        concrete = known.restrict(list(known.canonical_names(column_names(paths[0])).values()))
    order = (BENIGN, *sorted(set(survey.counts) - {benign}))
    flows = _deal(paths, concrete, label, benign, order, ShardWriter(folder, concrete, n_shards), progress)
    contract = {
        "source": _source(paths),
        "label": label,
        "benign": benign,
        "files": [{"name": path.name, "sha256": file_sha256(path)} for path in paths],
        "rows": survey.counts.total(),
        "class_rows": {name: survey.counts[benign if name == BENIGN else name] for name in order},
        "split": {"kind": "none"},
        "shards": n_shards,
    }
    return ShardsToTrain(flows, contract, _baselines(flows, seed), refused)


def _refuse_stdin(paths: Sequence[Path]) -> None:
    if any(str(path) == STDIN for path in paths):
        raise SchemaError("a table in shards must be read twice, however: the input is the standard input; name files")


def _refuse_columns(paths: Sequence[Path], label: str) -> None:
    first = column_names(paths[0])
    label_column(pl.DataFrame(schema=dict.fromkeys(first, pl.String)), label)
    for path in paths[1:]:
        uneven = sorted(set(column_names(path)) ^ set(first))
        if uneven:
            raise SchemaError(
                f"files of one table must have the same columns, however: {path} and {paths[0]} differ in "
                f"{', '.join(uneven[:8])}; name files of one kind"
            )


def _source(paths: Sequence[Path]) -> str:
    return paths[0].name if len(paths) == 1 else f"{paths[0].name} and {len(paths) - 1} more"


def _labelled(paths: Sequence[Path], label: str, progress: Progress | None, *, keep_original: bool) -> Any:
    done = 0
    alone = Schema("labels", (Column(label, "identity"),))
    for chunk in iter_chunks(paths, alone, keep_original=keep_original):
        yield chunk
        done += len(chunk)
        if progress is not None:
            progress(done)


class _Survey:
    """What a first reading of a table tells: how often each label is there, rows drawn from it, and its first rows."""

    def __init__(self, label: str, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._label, self._rng = label, np.random.default_rng(seed)
        self._drawn: list[pl.DataFrame] = []
        self._first: list[pl.DataFrame] = []
        self._is_text = False

    def add(self, chunk: FlowChunk) -> None:
        assert chunk.original is not None  # it is asked for
        labels = label_column(chunk.original, self._label)
        if labels.null_count():
            row = int(labels.is_null().arg_true()[0])
            raise LabelError(
                f"every flow must have a label, however: {self._label} is empty ({chunk.where(row)}); drop such rows"
            )
        self.counts.update(dict(labels.value_counts().iter_rows()))
        self._is_text |= chunk.unit == "line"
        if sum(map(len, self._first)) < DRAWN_ROWS:
            self._first.append(chunk.original.head(DRAWN_ROWS))
        self._draw(chunk.original)

    def _draw(self, rows: pl.DataFrame) -> None:
        """Keep the rows of the lowest random numbers so far: any row of the table is as likely as any other."""
        keyed = rows.with_columns(_key=pl.Series(self._rng.random(len(rows))))
        self._drawn.append(keyed.sort("_key").head(DRAWN_ROWS))
        if sum(map(len, self._drawn)) > 2 * DRAWN_ROWS:
            self._drawn = [_joined(self._drawn).sort("_key").head(DRAWN_ROWS)]

    def infer(self, keep: Collection[str], folder: Path) -> tuple[Schema, dict[str, str]]:
        """Return the schema of the table, and why the other columns are refused.

        Rows at random tell what goes with the label. What numbers the rows, or names them one after the other, shows
        in those that come first.
        """
        drawn = self._typed(_joined(self._drawn).sort("_key").head(DRAWN_ROWS).drop("_key"), folder)
        first = self._typed(_joined(self._first).head(DRAWN_ROWS), folder)
        schema, refused = infer_schema(drawn, label=self._label, keep=keep)
        names = [self._label, *(column.name for column in schema.columns)]
        try:
            _, more = infer_schema(first.select(names), label=self._label, keep=keep)
        except LeakError:
            raise
        except SchemaError:  # all are refused, which is no more than a suspicion in rows that come in some order
            more = {}
        more = {name: why for name, why in more.items() if not why.startswith("it spells the label")}
        columns = tuple(column for column in schema.columns if column.name not in more)
        return Schema(schema.name, columns, use_port=schema.use_port), {**refused, **more}

    def _typed(self, rows: pl.DataFrame, folder: Path) -> pl.DataFrame:
        """Give the cells of CSV files, which are text so far, the types that a whole table would have.

        A column of numbers with a few words in it stays one of numbers: the second reading tells where the words are.
        """
        if self._is_text:
            path = folder / "drawn.csv"
            rows.write_csv(path)
            rows = read_table(path)
            path.unlink()
        return rows.with_columns(
            column.cast(pl.Float64, strict=False)
            for column in rows.select(pl.col(pl.String).exclude(self._label)).iter_columns()
            if _is_nearly_numbers(column)
        )


def _is_nearly_numbers(column: pl.Series) -> bool:
    text = column.str.strip_chars().replace("", None)
    words = int((text.is_not_null() & text.cast(pl.Float64, strict=False).is_null()).sum())
    return 0 < CELLS_A_WORD * words <= text.count()


def _joined(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat((part.select(parts[0].columns) for part in parts), how="vertical_relaxed")


def _deal(
    paths: Sequence[Path],
    schema: Schema,
    label: str,
    benign: str,
    order: tuple[str, ...],
    writer: ShardWriter,
    progress: Progress | None,
) -> ShardedFlows:
    codes = pl.Series(
        [order.index(BENIGN if name == benign else name) for name in (benign, *order[1:])], dtype=pl.UInt16
    )
    names, done = pl.Series([benign, *order[1:]]), 0
    with_label = Schema(schema.name, (*schema.columns, Column(label, "identity")), use_port=schema.use_port)
    for chunk in iter_chunks(paths, with_label, keep_original=False):
        labels = label_column(chunk.flows, label)
        writer.add(chunk.flows, labels.replace_strict(names, codes).to_numpy())
        done += len(chunk)
        if progress is not None:
            progress(done)
    return writer.finish(order, _source(paths))


def _baselines(flows: ShardedFlows, seed: int) -> Baselines:
    """Fit the references of honest evaluation on flows drawn from the shards, and two of each class at least."""
    share = flows.copies / flows.copies.sum()
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(flows), size=min(DRAWN_ROWS, len(flows)), p=share)
    few = [np.flatnonzero(flows.codes == code)[:2] for code in range(len(flows.class_order))]
    rows = np.concatenate([drawn, *few])
    table = flows.table[rows].with_columns(pl.Series("_class", flows.class_order).gather(flows.codes[rows]))
    sample, _ = labelled_flows_from_table(table, "_class", BENIGN, schema=flows.schema)
    return Baselines.fit(sample)
