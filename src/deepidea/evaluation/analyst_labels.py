"""Flows that analysts labelled, read for training and for comparison under the schema of a detector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from deepidea.errors import LabelError, SchemaError
from deepidea.flows.context import CONTEXT_COLUMNS
from deepidea.flows.datasets.installed import file_sha256
from deepidea.flows.feedback_columns import FEEDBACK_COLUMNS, unguard_cells
from deepidea.flows.labelled import LabelledFlows
from deepidea.flows.schema import Schema, suggest
from deepidea.flows.sensors.projection import as_schema
from deepidea.flows.tables import expand_inputs, name_inputs, read_table
from deepidea.flows.taxonomy import BENIGN, format_counts

_HINTS = ("prediction", "prediction_label")
_FITS = 0.5  # least share of a schema's features that flows of another origin must have to be read under it


@dataclass(frozen=True, slots=True)
class AnalystFlows:
    """Flows with analyst labels under a schema, and where they come from.

    Parameters
    ----------
    flows
        Their features, and classes; labels are null where a class has several and none is named.
    files
        Name and SHA-256 of each file.
    left_out
        Flows that cannot be read under the schema, by origin and reason.
    """

    flows: LabelledFlows
    files: list[dict[str, Any]]
    left_out: dict[str, int] = field(default_factory=dict)

    def contract(self) -> dict[str, Any]:
        """Return the entry of a detector file, as JSON values."""
        counts = dict(self.flows.classes.value_counts().sort("class").iter_rows())
        return {"files": self.files, "rows": len(self.flows), "class_rows": counts, "left_out": self.left_out}


def label_map(flows: LabelledFlows) -> dict[str, str]:
    """Return the class of each label of labelled flows."""
    pairs = pl.DataFrame({"label": flows.labels, "class": flows.classes}).unique().sort("class", "label")
    return dict(pairs.iter_rows())


def read_analyst_labels(
    paths: Sequence[str | Path],
    schema: Schema,
    labels: Mapping[str, str],
    *,
    only_known: bool = False,
) -> AnalystFlows:
    """Read flows with analyst labels, as `deepidea feedback export` writes them, or any table like it.

    Parameters
    ----------
    paths : sequence of paths
        CSV or Parquet; the column ``label`` holds a class or a label, ``benign`` for none.
    schema : Schema
        To read the flows under; those of ``cicflow`` are projected onto ``conn``.
    labels : mapping of label to class
        Known labels.
    only_known : bool
        Whether any other label is refused; else it is a class of its own.

    Raises
    ------
    LabelError
        There is no column ``label``, a cell of it is empty, or it names an unknown label and `only_known` is set.
    SchemaError
        No flow can be read under the schema.
    """
    files = expand_inputs(paths)
    parts = [(path, unguard_cells(read_table(path))) for path in files]
    left_out: dict[str, int] = {}
    tables = [part for path, table in parts for part in _fitting(path, table, schema, left_out)]
    if not tables:
        reasons = "; ".join(f"{origin} ({n:,} flows)" for origin, n in left_out.items()) or "there are no flows"
        raise SchemaError(f"cannot read analyst labels under schema {schema.name}: {reasons}")
    table = pl.concat(tables, how="vertical_relaxed")
    named = _classes_and_labels(table, labels, only_known)
    present = set(named["class"].unique())
    order = tuple(name for name in (BENIGN, *sorted(present - {BENIGN})) if name in present)
    features = table.select(schema.features)
    flows = LabelledFlows(features, named["label"], named["class"], schema, order, name_inputs(files))
    return AnalystFlows(flows, [{"name": path.name, "sha256": file_sha256(path)} for path in files], left_out)


def _fitting(path: Path, table: pl.DataFrame, schema: Schema, left_out: dict[str, int]) -> Iterator[pl.DataFrame]:
    """Yield the flows of each origin in a file that can be read under the schema, with their labels.

    Columns that describe a flow rather than measure it are renamed to ``own:NAME``, so that they are no features.
    """
    columns = {
        name: next((n for n in (f"feedback_{name}", name) if n in table.columns), None) for name in FEEDBACK_COLUMNS
    }
    if columns["label"] is None:
        raise LabelError(
            f"{path.name} has no column label{suggest('label', table.columns)}; write it with: deepidea feedback export"
        )
    described = table.select(_own(name, columns[name]) for name in ("label", *_HINTS, "model", "source"))
    bare = table.drop(name for name in columns.values() if name is not None and name not in schema.features)
    whole = pl.concat([bare, described], how="horizontal")
    # flows of several sensors and detectors may share a file; each origin has columns of its own
    for (model, source), group in whole.group_by("own:model", "own:source", maintain_order=True):
        own = group.select(r"^own:.*$")
        fault, conformed = _conformed(group.drop(own.columns), schema)
        if conformed is None:
            origin = f"{path.name}, detector {model}, source {source}: {fault}"
            left_out[origin] = left_out.get(origin, 0) + group.height
        else:
            yield pl.concat([conformed, own], how="horizontal")


def _own(name: str, column: str | None) -> pl.Expr:
    values = pl.lit(None, pl.String) if column is None else pl.col(column).cast(pl.String)
    return values.alias(f"own:{name}")


def _conformed(table: pl.DataFrame, schema: Schema) -> tuple[str, pl.DataFrame | None]:
    """Return the features of flows of one origin, or why the schema does not fit them.

    A column without any value may be of flows of another schema, or one that this origin never fills: how many there
    are decides between the two.
    """
    if schema.name.endswith("+context") and not {column.name for column in CONTEXT_COLUMNS} <= set(table.columns):
        return "they lack the recent activity of their hosts, which single flows do not have", None
    # Files of several origins have each other's columns, empty: what is null in all rows of an origin is not of it.
    full = table.select(column for column in table.iter_columns() if column.null_count() < len(column))
    # columns of cicflow become those of conn here, where the schema is conn
    fitting = as_schema(full, schema)
    have = set(schema.canonical_names(fitting.columns).values())
    empty = set(schema.canonical_names(table.columns).values()) - have
    lacking = [name for name in schema.features if name not in have]
    if len(lacking) > _FITS * len(schema.features) or not set(lacking) <= empty:
        return f"they lack {', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}", None
    whole = fitting.with_columns(pl.lit(None, pl.Float64).alias(name) for name in lacking)
    return "", schema.conform(whole).select(schema.features)


def _classes_and_labels(table: pl.DataFrame, labels: Mapping[str, str], only_known: bool) -> pl.DataFrame:
    given = table["own:label"].str.strip_chars()
    n_empty = given.null_count() + (given == "").sum()
    if n_empty:
        raise LabelError(f"{n_empty:,} flows have no analyst label; drop those rows")
    # A label, a class, or benign: analysts may name either.
    classes = {**labels, **{name: name for name in labels.values()}, BENIGN: BENIGN}
    unknown = given.filter(~given.is_in(list(classes)))
    if only_known and len(unknown):
        raise LabelError(
            f"the detector to continue from does not know {format_counts(unknown)}, only "
            f"{', '.join(dict.fromkeys(labels.values()))}; train anew with --extra and without --continue, correct the "
            "labels, or drop those rows"
        )
    class_of = given.replace(classes)
    rows = zip(given, class_of, table["own:prediction"], table["own:prediction_label"], strict=True)
    finer = [_native_label(*row, labels) for row in rows]
    return pl.DataFrame({"class": class_of, "label": pl.Series(finer, dtype=pl.String)})


def _native_label(
    given: str, class_: str, predicted: str | None, predicted_label: str | None, labels: Mapping[str, str]
) -> str | None:
    """Return the analyst label, else the prediction, else the class's only label."""
    if given in labels or class_ == BENIGN:
        return given
    if predicted == class_ and labels.get(predicted_label or "") == class_:
        return predicted_label
    own = [label for label, name in labels.items() if name == class_]
    return own[0] if len(own) == 1 else None if own else given
