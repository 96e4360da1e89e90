"""Tables of flows that somebody has judged: what stands beside their features, and cells that a spreadsheet would run.

`deepidea feedback export` writes them, and `deepidea train --extra` reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import polars as pl

FEEDBACK_COLUMNS: Mapping[str, pl.DataType] = {
    "label": pl.String(),
    "prediction": pl.String(),
    "prediction_label": pl.String(),
    "score": pl.Float64(),
    "model": pl.String(),
    "source": pl.String(),
    "verdict": pl.String(),
    "analyst": pl.String(),
    "judged_at": pl.Datetime("us", "UTC"),
    "note": pl.String(),
    "incident_id": pl.String(),
    "alert_id": pl.String(),
}
"""Columns of judged flows beside identity and features.

``label``
    What the flow is: ``benign``, or the name of a class.
``prediction``, ``prediction_label``, ``score``, ``model``
    What the detector said of it, and its fingerprint; ``prediction_label`` where it tells labels finer than classes.
``source``
    Name of the source that told of it.
``verdict``, ``analyst``, ``judged_at``, ``note``
    What the analyst said.
``incident_id``, ``alert_id``
    Where the flow stands in the store.
"""

_RUN = r"^[=+\-@\t\r']"  # begins what spreadsheets run as a formula; the apostrophe itself, so that it can be undone
_GUARDED = r"^'[=+\-@\t\r']"


def feedback_column(name: str, features: Collection[str]) -> str:
    """Return what a column of :data:`FEEDBACK_COLUMNS` is called beside features, one of which may have its name.

    Examples
    --------
    >>> feedback_column("score", ["bytes"]), feedback_column("score", ["bytes", "score"])
    ('score', 'feedback_score')
    """
    return f"feedback_{name}" if name in features else name


def guard_cells(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table with an apostrophe before text that a spreadsheet would run as a formula.

    Host names and notes come from outside: a cell ``=HYPERLINK(...)`` would act for whoever opens the file. See OWASP,
    *CSV Injection*.

    Examples
    --------
    >>> guard_cells(pl.DataFrame({"note": ["=1+1", "fine"]}))["note"].to_list()
    ["'=1+1", 'fine']
    """
    text = pl.col(pl.String)
    return table.with_columns(pl.when(text.str.contains(_RUN)).then("'" + text).otherwise(text).name.keep())


def unguard_cells(table: pl.DataFrame) -> pl.DataFrame:
    """Return what :func:`guard_cells` was given.

    Examples
    --------
    >>> table = pl.DataFrame({"note": ["=1+1", "'quoted'", "fine", None]})
    >>> unguard_cells(guard_cells(table)).equals(table)
    True
    """
    text = pl.col(pl.String)
    bare = text.str.slice(1)
    return table.with_columns(pl.when(text.str.contains(_GUARDED)).then(bare).otherwise(text).name.keep())
