"""What is in a data set: classes, duplicates, twins across the split, contradictions, odd cells, files.

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
    """What is in one table of flows.

    Parameters
    ----------
    source
        Where it comes from: ``kdd99/train``.
    rows
        Flows.
    classes, labels
        Flows per class, in class order, and per native label, the most frequent first.
    imbalance
        ``sum_i (n_max - n_i) / n`` over the classes (the paper's eq. 13).
    distinct_vectors, distinct_rows
        Different feature vectors, and different vectors with their native label.
    duplicate_rows
        Flows whose vector and label stood before in the table.
    contradictory_rows, contradictory_vectors
        Flows, and vectors, that occur with more than one class.
    benign_or_attack_rows, benign_or_attack_vectors
        Those of them that occur both as benign and as an attack.
    missing_cells, infinite_cells
        Per column, columns without any left out. Missing is null or NaN.
    minus_one_windows
        Cells of -1 in the first TCP windows, which stand for none.
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
    """What a test table shares with the training table.

    Parameters
    ----------
    seen_rows
        Test flows whose vector is in training.
    seen_share
        The same, as a share of the test flows.
    contradicting_rows
        Test flows whose vector is in training with the opposite verdict alone, benign against attack.
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
    """What is in a data set; `to_dict` gives it as plain data."""

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
        return {**asdict(self), "files": [asdict(file) for file in self.files]}


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
    """Return what is in a data set. Cost: one fingerprint and one sort of each table.

    Parameters
    ----------
    dataset
        Loaded data set.

    Returns
    -------
    Description
        Training, test and extra tables, what training and test share, files, and quirks of the raw files.
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
    """Return what is in one table of labelled flows."""
    return _describe_table(flows, _marked(flows))


def _marked(flows: LabelledFlows) -> pl.DataFrame:
    """Return vector, label, class and whether it is an attack, of each flow."""
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


def _contradictions(marked: pl.DataFrame, verdict: str) -> tuple[int, int]:
    """Return flows and vectors that occur with more than one verdict."""
    per_vector = marked.group_by("vector").agg(pl.len(), pl.col(verdict).n_unique().alias("verdicts"))
    split = per_vector.filter(pl.col("verdicts") > 1)
    return int(split["len"].sum()), split.height


def _odd_cells(flows: LabelledFlows) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Return missing cells, infinite cells and -1 windows, per column."""
    present = flows.table.columns
    numbers = list(flows.schema.numbers)
    floats = [name for name in numbers if flows.table.schema[name].is_float()]
    windows = [name for name in ("fwd_init_window_bytes", "bwd_init_window_bytes") if name in present]
    missing = flows.features.select(pl.all().is_null().sum())
    nan = flows.table.select(pl.col(floats).is_nan().sum())
    with_nan = {name: count + (nan[name][0] if name in floats else 0) for name, count in _one_row(missing).items()}
    return (
        {name: count for name, count in with_nan.items() if count},
        _positive(flows.table.select(pl.col(floats).is_infinite().sum())),
        _positive(flows.table.select((pl.col(windows) == -1).sum())),
    )


def _one_row(table: pl.DataFrame) -> dict[str, int]:
    return table.row(0, named=True) if table.width else {}


def _positive(table: pl.DataFrame) -> dict[str, int]:
    return {name: count for name, count in _one_row(table).items() if count}


def _describe_split(train: pl.DataFrame, test: pl.DataFrame) -> SplitDescription:
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
