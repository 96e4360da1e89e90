"""Export labelled alerts as a table of labelled flows, which trains a detector."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from deepidea.errors import DataError
from deepidea.flows.feedback_columns import FEEDBACK_COLUMNS, feedback_column, guard_cells
from deepidea.flows.identity import IDENTITY
from deepidea.flows.writing import Format, format_of, write_flows
from deepidea.store.labelled_alerts import LabelledCounts, labelled_pages
from deepidea.store.store import Store

_ODD = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_OWN = {"label": "truth", "prediction": "class", "prediction_label": "label"}  # their names in a table of alerts
_ID = ("start", "end", "src_ip", "src_port", "dst_ip", "dst_port", "protocol", "community_id")


def export_feedback(
    store: Store, output: str | Path, *, format: Format | None = None, per_incident: int | None = None
) -> LabelledCounts:
    """Write the flows that analysts labelled, and return what was written and left out.

    A row is a flow: identity (:data:`deepidea.flows.identity.IDENTITY`), the stored features under canonical names,
    and :data:`deepidea.flows.feedback_columns.FEEDBACK_COLUMNS`. A feature and an identity of one name are one column,
    with the feature's values. ``label`` is ``benign`` for a false positive; for a true positive the class, or the one
    that the analyst named. Flows with verdict unsure are left out.

    Parameters
    ----------
    store : Store
    output : path
        ``.parquet``, ``.csv`` or ``.jsonl``; ``-`` for the standard output. It appears when it is complete.
    format : {"parquet", "csv", "jsonl"}, optional
        Needed where the name of the output has no known ending.
    per_incident : int, optional
        Most flows of an incident, the same ones every time; individually labelled flows are always written.

    Raises
    ------
    DataError
        No alert is labelled true or false positive, or ``per_incident`` is under 1.
    StorageError
        The output cannot be written.

    Notes
    -----
    Memory holds one page of alerts. Pages wait in the system's folder for temporary files, as the columns are known
    only at the end. In CSV, text that a spreadsheet would run as a formula is prefixed with an apostrophe, which
    `deepidea train --extra` removes.
    """
    if per_incident is not None and per_incident < 1:
        raise DataError(f"per_incident must be at least 1, got {per_incident}")
    chosen, _ = format_of(str(output), format)
    counts = LabelledCounts()
    with tempfile.TemporaryDirectory(prefix="deepidea-feedback-") as folder:
        pages = _Pages(Path(folder))
        for page in labelled_pages(store, per_incident=per_incident, counts=counts):
            pages.add(page)
        if not counts.n_flows:
            raise DataError(_nothing(counts))
        schema = pages.schema
        rows = (guard_cells(page) if chosen == "csv" else page for page in pages.fitted(schema))
        write_flows(rows, output, format=format, schema=schema)
    return counts


def _nothing(counts: LabelledCounts) -> str:
    return (
        "nothing to export: no stored alert is labelled true or false positive "
        f"({counts.n_unsure:,} unsure, {counts.n_purged:,} labelled and deleted, {counts.n_purged_incidents:,} "
        f"labelled incidents deleted, {counts.n_without_features:,} without features); "
        "label some: deepidea feedback add"
    )


class _Pages:
    """Pages of a table on disk, whose columns are known after the last page."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._n = folder, 0
        self._kinds: dict[str, pl.DataType] = {}

    def add(self, page: pl.DataFrame) -> None:
        features = unpack_features(page["features"])
        for name, dtype in features.schema.items():
            # A feature that is a word on any page is a column of words: no number could hold it.
            if self._kinds.get(name) != pl.String():
                self._kinds[name] = dtype
        pl.concat(
            [page.drop("features").select(pl.all().name.prefix("own:")), features], how="horizontal"
        ).write_parquet(self._folder / f"{self._n}.parquet")
        self._n += 1

    @property
    def schema(self) -> pl.Schema:
        """Columns and types of the whole table."""
        identity = {name: dtype for name, dtype in IDENTITY.items() if name not in self._kinds}
        beside = {feedback_column(name, self._kinds): dtype for name, dtype in FEEDBACK_COLUMNS.items()}
        return pl.Schema({**identity, **self._kinds, **beside})

    def fitted(self, schema: pl.Schema) -> Iterator[pl.DataFrame]:
        """Yield the pages in the columns of the whole table."""
        own = [f"own:{name}" for name in _ID if name not in self._kinds]
        beside = [
            pl.col(f"own:{_OWN.get(name, name)}").alias(feedback_column(name, self._kinds)) for name in FEEDBACK_COLUMNS
        ]
        for number in range(self._n):
            page = pl.read_parquet(self._folder / f"{number}.parquet")
            features = [_feature(page, name, dtype) for name, dtype in self._kinds.items()]
            identity = [pl.col(name).alias(name.removeprefix("own:")) for name in own]
            yield page.select(*identity, *features, *beside).cast(schema)


def _feature(page: pl.DataFrame, name: str, dtype: pl.DataType) -> pl.Expr:
    if name not in page.columns:
        return pl.lit(None, dtype).alias(name)
    if dtype == pl.String() and page.schema[name] != pl.String():
        return pl.col(name).cast(pl.Int64, strict=False).cast(pl.String)  # text on another page
    return pl.col(name)


def unpack_features(texts: pl.Series) -> pl.DataFrame:
    """Return the features of alerts as a table: Float64, or String for columns with text.

    Examples
    --------
    >>> unpack_features(pl.Series(['{"bytes":3,"service":"dns"}', '{"bytes":"inf","state":"S0"}'])).rows()
    [(3.0, 'dns', None), (inf, None, 'S0')]
    """
    rows: list[dict[str, Any]] = [json.loads(text) for text in texts]
    names = dict.fromkeys(name for row in rows for name in row)
    return pl.DataFrame([_values(name, [row.get(name) for row in rows]) for name in names])


def _values(name: str, values: list[Any]) -> pl.Series:
    if any(isinstance(value, str) and value not in _ODD for value in values):
        words = [None if value is None else value if isinstance(value, str) else f"{value:.16g}" for value in values]
        return pl.Series(name, words, pl.String)
    if any(isinstance(value, str) for value in values):
        values = [_ODD[value] if isinstance(value, str) else value for value in values]
    return pl.Series(name, values, pl.Float64, strict=False)
