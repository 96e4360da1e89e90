"""Contents of a data set: classes, duplicates, twins across the split, contradictions, odd cells, files.

Two flows are the same vector where all features are equal (as 32-bit floats and words); see `fingerprint`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from deepidea.flows.datasets.installed import FileRecord
from deepidea.flows.datasets.loading import Dataset
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.flows.labelled import LabelledFlows
from deepidea.flows.taxonomy import BENIGN


@dataclass(frozen=True, slots=True)
class TableDescription:
    """Contents of one table of flows.

    Parameters
    ----------
    source, rows
        Where it comes from, such as ``kdd99/train``, and its number of flows.
    classes, labels
        Flows per class, in class order, and per native label, the most frequent first.
    imbalance
        ``sum_i (n_max - n_i) / n`` over the classes (the paper's eq. 13).
    distinct_vectors, distinct_rows
        Different feature vectors, and different vectors with their native label.
    duplicate_rows
        Flows whose vector and label occur earlier in the table.
    contradictory_rows, contradictory_vectors
        Flows, and vectors, that occur with more than one class.
    benign_or_attack_rows, benign_or_attack_vectors
        Those of them that occur both as benign and as an attack.
    missing_cells, infinite_cells
        Per column, columns without any left out. Missing is null or NaN.
    minus_one_windows
        Cells of -1, for none, in the first TCP windows, per column.
    """

    source: str
    rows: int
    classes: dict[str, int]
    labels: dict[str, int]
    imbalance: float
    distinct_vectors: int
    distinct_rows: int
    duplicate_rows: int
    contradictory_rows: int
    contradictory_vectors: int
    benign_or_attack_rows: int
    benign_or_attack_vectors: int
    missing_cells: dict[str, int]
    infinite_cells: dict[str, int]
    minus_one_windows: dict[str, int]


@dataclass(frozen=True, slots=True)
class SplitDescription:
    """Overlap of a test table with the training table.

    Parameters
    ----------
    seen_rows
        Test flows whose vector is in training.
    seen_share
        The same, as a share of the test flows.
    contradicting_rows
        Test flows whose vector is in training as the opposite alone, benign against attack.
    other_class_rows
        Test flows whose vector is in training, but never with their class.
    new_labels
        Native labels that training lacks, with their test flows.
    """

    seen_rows: int
    seen_share: float
    contradicting_rows: int
    other_class_rows: int
    new_labels: dict[str, int]


@dataclass(frozen=True, slots=True)
class Description:
    """Contents of a data set."""

    name: str
    title: str
    taxonomy: str
    schema: str
    n_features: int
    training: str
    train: TableDescription
    test: TableDescription | None
    split: SplitDescription | None
    extras: dict[str, TableDescription]
    files: tuple[FileRecord, ...]
    quirks: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain data for a JSON document."""
        return asdict(self)


def imbalance(counts: Sequence[int]) -> float:
    """Return ``sum_i (n_max - n_i) / n`` of class counts (the paper's eq. 13).

    Examples
    --------
    >>> imbalance([4, 4]), imbalance([9, 1])
    (0.0, 0.8)
    """
    total = sum(counts)
    return (max(counts) * len(counts) - total) / total if total else 0.0


def describe(dataset: Dataset) -> Description:
    """Describe a data set: its tables, their overlap, files, and quirks of the raw files.

    Cost: one fingerprint and one sort of each table.
    """
    train = _marked(dataset.train)
    test = None if dataset.test is None else _marked(dataset.test)
    return Description(
        dataset.name,
        dataset.title,
        dataset.taxonomy.name,
        dataset.schema.name,
        len(dataset.schema.features),
        dataset.training,
        _describe_table(dataset.train, train),
        _describe_table(dataset.test, test) if dataset.test is not None and test is not None else None,
        _describe_split(train, test) if test is not None else None,
        {name: describe_flows(flows) for name, flows in dataset.extras.items()},
        dataset.files,
        dict(dataset.quirks),
    )


def describe_flows(flows: LabelledFlows) -> TableDescription:
    """Describe one table of labelled flows."""
    return _describe_table(flows, _marked(flows))


def _marked(flows: LabelledFlows) -> pl.DataFrame:
    """Return fingerprint, label and class of each flow, and whether it is an attack."""
    prints: npt.NDArray[np.uint64] = row_fingerprints(flows.table, flows.schema)
    return pl.DataFrame({"vector": prints, "label": flows.labels, "class": flows.classes}).with_columns(
        attack=pl.col("class") != BENIGN
    )


def _describe_table(flows: LabelledFlows, marked: pl.DataFrame) -> TableDescription:
    by_class = {name: int((flows.classes == name).sum()) for name in flows.class_order}
    n_rows = marked.select("vector", "label").n_unique()
    return TableDescription(
        flows.source,
        len(flows),
        by_class,
        _counts(marked["label"]),
        imbalance(list(by_class.values())),
        marked["vector"].n_unique(),
        n_rows,
        len(flows) - n_rows,
        *_contradictions(marked, "class"),
        *_contradictions(marked, "attack"),
        *_odd_cells(flows),
    )


def _counts(labels: pl.Series) -> dict[str, int]:
    counts = labels.value_counts().sort(["count", labels.name], descending=[True, False])
    return dict(counts.iter_rows())


def _contradictions(marked: pl.DataFrame, column: str) -> tuple[int, int]:
    """Return flows and vectors that occur with more than one value of a column."""
    per_vector = marked.group_by("vector").agg(pl.len(), pl.col(column).n_unique().alias("values"))
    split = per_vector.filter(pl.col("values") > 1)
    return int(split["len"].sum()), split.height


def _odd_cells(flows: LabelledFlows) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Return missing cells, infinite cells and -1 windows, per column."""
    table = flows.features
    floats = [name for name, dtype in table.schema.items() if dtype.is_float()]
    windows = [name for name in ("fwd_init_window_bytes", "bwd_init_window_bytes") if name in table.columns]
    missing = table.with_columns(pl.col(floats).fill_nan(None)).null_count()
    infinite = table.select(pl.col(floats).is_infinite().sum())
    minus_one = table.select((pl.col(windows) == -1).sum())
    return _positive(missing), _positive(infinite), _positive(minus_one)


def _positive(counts: pl.DataFrame) -> dict[str, int]:
    return {name: count for name, count in counts.row(0, named=True).items() if count} if counts.width else {}


def _describe_split(train: pl.DataFrame, test: pl.DataFrame) -> SplitDescription:
    # For each vector: whether any, and whether all of its training rows are attacks.
    by_vector = train.group_by("vector").agg(pl.col("attack").min().alias("all_attack"), pl.col("attack").max())
    by_vector = by_vector.rename({"attack": "any_attack"})
    seen = test.join(by_vector, on="vector", how="inner")
    opposite = pl.when("attack").then(~pl.col("any_attack")).otherwise("all_attack")
    same_class = seen.join(train.select("vector", "class").unique(), on=["vector", "class"], how="semi").height
    new = test.filter(~test["label"].is_in(train["label"].unique().to_list()))
    return SplitDescription(
        seen.height,
        seen.height / test.height,
        int(seen.select(opposite.sum()).item()),
        seen.height - same_class,
        _counts(new["label"]),
    )
