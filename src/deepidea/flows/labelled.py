"""Flows with their labels: the form in which data reaches training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from deepidea.errors import LabelError
from deepidea.flows.custom import infer_schema
from deepidea.flows.schema import Schema, suggest
from deepidea.flows.taxonomy import BENIGN, Taxonomy, format_counts

FILE_COLUMN = "file"


@dataclass(frozen=True, slots=True)
class LabelledFlows:
    """A flow table with labels and classes.

    Parameters
    ----------
    table
        Canonical columns: features, and ports, identities and the name of the file where present.
    labels
        Native labels in one spelling, String, shape ``(n_flows,)``.
    classes
        Class of each flow, String, shape ``(n_flows,)``, no nulls.
    schema
        Schema of the table.
    class_order
        Classes that occur, benign first.
    source
        Where the flows come from: ``kdd99/train``.
    """

    table: pl.DataFrame
    labels: pl.Series
    classes: pl.Series
    schema: Schema
    class_order: tuple[str, ...]
    source: str = ""

    @property
    def features(self) -> pl.DataFrame:
        """The columns that a model may see, in schema order."""
        return self.table.select(self.schema.features)

    def take(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> LabelledFlows:
        """Return the flows of some rows, by index (in that order) or by mask; the class order stays."""
        chosen = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return replace(self, table=self.table[chosen], labels=self.labels[chosen], classes=self.classes[chosen])

    def __len__(self) -> int:
        return self.table.height


def label_flows(
    table: pl.DataFrame, labels: pl.Series, schema: Schema, taxonomy: Taxonomy, source: str
) -> LabelledFlows:
    """Return conformed flows with their classes; flows whose label the taxonomy drops are left out.

    Parameters
    ----------
    table
        Flows; columns that the schema does not know are dropped, but the name of the file is kept.
    labels
        Normalised native labels, shape ``(n_flows,)``.
    """
    classes = taxonomy.apply(labels)
    # Which optional columns a model reads is settled here, once, by what the table has.
    concrete = schema.restrict(list(schema.canonical_names(table.columns).values()))
    flows = concrete.conform(table)
    if FILE_COLUMN in table.columns:
        flows = flows.with_columns(table[FILE_COLUMN])
    kept = classes.is_not_null()
    if not kept.all():
        flows, labels, classes = flows.filter(kept), labels.filter(kept), classes.filter(kept)
    present = set(classes.unique())
    order = tuple(name for name in taxonomy.classes if name in present)
    return LabelledFlows(flows, labels.alias("label"), classes, concrete, order, source)


def labelled_flows_from_table(
    table: pl.DataFrame,
    label: str,
    benign: str,
    keep: Collection[str] = (),
    *,
    choose_rows: Callable[[pl.Series], npt.NDArray[np.int64]] | None = None,
    schema: Schema | None = None,
) -> tuple[LabelledFlows, dict[str, str]]:
    """Return labelled flows from a table of any origin, and which columns were refused and why.

    Parameters
    ----------
    table
        Flows with a label column.
    label
        Name of the label column.
    benign
        Its value for benign flows; every other value is an attack class of its own.
    keep
        Columns that must be features: see `deepidea.flows.custom.infer_schema`.
    choose_rows
        Called with the labels; returns the rows from which the schema is inferred, those that will train. Without it
        all rows.
    schema
        Schema of the table where it is known; then nothing is inferred and nothing refused.

    Raises
    ------
    LabelError
        The label column or the benign value is absent, a label is missing, there is a single class, or a class has
        one row.

    Examples
    --------
    >>> table = pl.DataFrame({"bytes": [1, 2, 3, 3], "verdict": ["ok", "scan", "ok", "scan"]})
    >>> flows, refused = labelled_flows_from_table(table, "verdict", "ok")
    >>> flows.class_order, flows.features.columns, refused
    (('benign', 'scan'), ['bytes'], {})
    """
    labels = label_column(table, label)
    if labels.null_count():
        row = int(labels.is_null().arg_true()[0]) + 1
        raise LabelError(
            f"{labels.null_count():,} flows have no label (first: row {row}, column {label}); drop those rows"
        )
    check_label_counts(label, benign, dict(labels.value_counts().iter_rows()))
    refused: dict[str, str] = {}
    if schema is None:
        # The schema is inferred from training rows alone: whether a column leaks must not be learnt from the test.
        rows = table if choose_rows is None else table[choose_rows(labels)]
        schema, refused = infer_schema(rows, label=label, keep=keep)
    attacks = sorted(set(labels.unique()) - {benign})
    taxonomy = Taxonomy("custom", {benign: BENIGN, **{attack: attack for attack in attacks}})
    return label_flows(table, labels, schema, taxonomy, "table"), refused


def label_column(table: pl.DataFrame, label: str) -> pl.Series:
    """Return the labels of a table as text, stripped; an empty one is null.

    Raises
    ------
    LabelError
        The table has no such column.
    """
    if label not in table.columns:
        columns = ", ".join(table.columns[:20]) + (", ..." if table.width > 20 else "")
        raise LabelError(
            f"the table has no label column {label!r}{suggest(label, table.columns)}; its columns: {columns}"
        )
    return table[label].cast(pl.String).str.strip_chars().replace("", None)


def check_label_counts(label: str, benign: str, counts: Mapping[str, int]) -> None:
    """Check that labels can train a detector, by how many flows have each.

    Raises
    ------
    LabelError
        There is no benign flow, no attack, two names of what is benign, or a class of one flow.
    """
    if benign not in counts:
        raise LabelError(
            f"column {label} has no benign value {benign!r}{suggest(benign, counts)}; "
            f"its values: {format_counts(counts)}"
        )
    if len(counts) < 2:
        raise LabelError(f"column {label} has no value but {benign!r}; add flows of an attack")
    # The value named as benign is renamed to BENIGN: rows that have that name already would be merged into it unseen.
    if BENIGN in counts and benign != BENIGN:
        raise LabelError(f"column {label} has {benign!r} and {BENIGN!r}, both of which mean benign; rename one")
    single = sorted(name for name, n in counts.items() if n == 1)
    if single:
        raise LabelError(
            f"column {label} has one flow each of {', '.join(single[:8])}, and a class needs two, one to train and one "
            "to test; drop those rows, merge the class into another, or add flows"
        )
