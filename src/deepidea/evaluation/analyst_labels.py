"""Flows that analysts judged, read for training and for comparison: each must be what some detector can read."""

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
from deepidea.flows.tables import expand_inputs, read_table
from deepidea.flows.taxonomy import BENIGN, format_counts

_HINTS = ("prediction", "prediction_label")
_FITS = 0.5  # least share of a schema's features that flows of another origin must have to be told in it


@dataclass(frozen=True, slots=True)
class AnalystFlows:
    """Judged flows under a schema, and what must be kept of where they come from.

    Parameters
    ----------
    flows
        Their features, and classes; labels are null where a class has several and none is named.
    files
        Name and SHA-256 of each file.
    left_out
        Flows that the schema cannot tell, by origin and reason.
    """

    flows: LabelledFlows
    files: list[dict[str, Any]]
    left_out: dict[str, int] = field(default_factory=dict)

    def contract(self) -> dict[str, Any]:
        """Return what goes into a detector file, as JSON values."""
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
    """Read flows that analysts judged, as `deepidea feedback export` writes them, or any table like it.

    Parameters
    ----------
    paths : sequence of paths
        CSV or Parquet; the column ``label`` holds a class or a label, ``benign`` for none.
    schema : Schema
        What the flows are to be read as; those of ``cicflow`` are projected onto ``conn``.
    labels : mapping of label to class
        What is known.
    only_known : bool
        Whether any other label is refused; else it is a class of its own.

    Raises
    ------
    LabelError
        There is no column ``label``, a cell of it is empty, or it names what is not known and must be.
    SchemaError
        No flow can be told in the schema.
    """
    files = expand_inputs(paths)
    parts = [(path, unguard_cells(read_table(path))) for path in files]
    left_out: dict[str, int] = {}
    tables = [part for path, table in parts for part in _fitted(path, table, schema, left_out)]
    if not tables:
        told = "; ".join(f"{origin} ({n:,} flows)" for origin, n in left_out.items()) or "there are no flows"
        raise SchemaError(f"judged flows must be of schema {schema.name}, however: {told}")
    table = pl.concat(tables, how="vertical_relaxed")
    named = _names(table, labels, only_known)
    source = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
    present = set(named["class"].unique())
    order = tuple(name for name in dict.fromkeys((BENIGN, *sorted(present))) if name in present)
    flows = LabelledFlows(table.select(schema.features), named["label"], named["class"], schema, order, source)
    hashes = [{"name": path.name, "sha256": file_sha256(path)} for path in files]
    return AnalystFlows(flows, hashes, left_out)


def _fitted(path: Path, table: pl.DataFrame, schema: Schema, left_out: dict[str, int]) -> Iterator[pl.DataFrame]:
    """Yield the flows of each origin in a file that the schema can tell, with their labels."""
    beside = {
        name: next((n for n in (f"feedback_{name}", name) if n in table.columns), None) for name in FEEDBACK_COLUMNS
    }
    if beside["label"] is None:
        raise LabelError(
            f"judged flows must have a column label, however: {path.name} has none{suggest('label', table.columns)}; "
            "write them with: deepidea feedback export"
        )
    told = table.select(_own(name, beside[name]) for name in ("label", *_HINTS, "model", "source"))
    bare = table.drop(name for name in beside.values() if name is not None and name not in schema.features)
    whole = pl.concat([bare, told], how="horizontal")
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
    """Return the features of flows of one origin, or why they cannot be told.

    A column without any value may be of flows of another schema, or one that this origin never tells: which of the two
    is seen from how many there are.
    """
    if schema.name.endswith("+context") and not {column.name for column in CONTEXT_COLUMNS} <= set(table.columns):
        return "they lack what their hosts did just before, which single flows cannot tell", None
    full = table.select(column for column in table.iter_columns() if column.null_count() < len(column))
    fitting = as_schema(full, schema)
    have = set(schema.canonical_names(fitting.columns).values())
    empty = set(schema.canonical_names(table.columns).values()) - have
    lacking = [name for name in schema.features if name not in have]
    if len(lacking) > _FITS * len(schema.features) or not set(lacking) <= empty:
        return f"they lack {', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}", None
    whole = fitting.with_columns(pl.lit(None, pl.Float64).alias(name) for name in lacking)
    return "", schema.conform(whole).select(schema.features)


def _names(table: pl.DataFrame, labels: Mapping[str, str], only_known: bool) -> pl.DataFrame:
    """Return class and label of each flow."""
    said = table["own:label"].str.strip_chars()
    if said.null_count() or (said == "").any():
        raise LabelError(
            f"every judged flow must have a label, however: {said.null_count() + (said == '').sum():,} have none; "
            "drop those rows"
        )
    classes = {**labels, **{name: name for name in labels.values()}, BENIGN: BENIGN}
    unknown = said.filter(~said.is_in(list(classes)))
    if only_known and len(unknown):
        raise LabelError(
            f"a detector that goes on must know every class ({', '.join(dict.fromkeys(labels.values()))}), however: it "
            f"does not know {format_counts(unknown)}; train anew with --extra and without --continue, correct the "
            "verdicts, or drop those rows"
        )
    class_of = said.replace(classes)
    rows = zip(said, class_of, table["own:prediction"], table["own:prediction_label"], strict=True)
    finer = [_finer(one, of, class_, label, labels) for one, of, class_, label in rows]
    return pl.DataFrame({"class": class_of, "label": pl.Series(finer, dtype=pl.String)})


def _finer(
    said: str, of: str, predicted: str | None, predicted_label: str | None, labels: Mapping[str, str]
) -> str | None:
    """Return the label of a flow: what was said, else what was predicted, else the only one of its class."""
    if said in labels or of == BENIGN:
        return said
    if predicted == of and labels.get(predicted_label or "") == of:
        return predicted_label
    own = [label for label, name in labels.items() if name == of]
    return own[0] if len(own) == 1 else None if own else said
