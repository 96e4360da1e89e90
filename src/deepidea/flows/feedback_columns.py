"""Columns of tables of flows with analyst labels, and protection of their text against spreadsheet formulas.

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
    "labelled_at": pl.Datetime("us", "UTC"),
    "note": pl.String(),
    "incident_id": pl.String(),
    "alert_id": pl.String(),
}
"""Columns of labelled flows beside identity and features.

``label``
    Class of the flow: ``benign``, or the name of an attack class.
``prediction``, ``prediction_label``, ``score``, ``model``
    Verdict and fingerprint of the detector; ``prediction_label`` where it has labels finer than classes.
``source``
    Name of the source of the flow.
``verdict``, ``analyst``, ``labelled_at``, ``note``
    Label and note of the analyst.
``incident_id``, ``alert_id``
    Incident and alert of the flow in the store.
"""

_RUN = r"^[=+\-@\t\r']"  # begins what spreadsheets run as a formula; the apostrophe itself, so that it can be undone
_GUARDED = r"^'[=+\-@\t\r']"


def feedback_column(name: str, features: Collection[str]) -> str:
    """Return the name of a column of :data:`FEEDBACK_COLUMNS` beside features, one of which may have the same name.

    Examples
    --------
    >>> feedback_column("score", ["bytes"]), feedback_column("score", ["bytes", "score"])
    ('score', 'feedback_score')
    """
    return f"feedback_{name}" if name in features else name


def guard_cells(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table with an apostrophe before text that a spreadsheet would run as a formula.

    Host names and notes are untrusted: a cell ``=HYPERLINK(...)`` would run for whoever opens the file. See OWASP,
    *CSV Injection*.

    Examples
    --------
    >>> guard_cells(pl.DataFrame({"note": ["=1+1", "fine"]}))["note"].to_list()
    ["'=1+1", 'fine']
    """
    text = pl.col(pl.String)
    return table.with_columns(pl.when(text.str.contains(_RUN)).then("'" + text).otherwise(text).name.keep())


def unguard_cells(table: pl.DataFrame) -> pl.DataFrame:
    """Return the table that :func:`guard_cells` received.

    Examples
    --------
    >>> table = pl.DataFrame({"note": ["=1+1", "'quoted'", "fine", None]})
    >>> unguard_cells(guard_cells(table)).equals(table)
    True
    """
    text = pl.col(pl.String)
    bare = text.str.slice(1)
    return table.with_columns(pl.when(text.str.contains(_GUARDED)).then(bare).otherwise(text).name.keep())
